"""Paired differences that the pages cite and no study's table has (comparisons.yaml).

python -m benchmarks.compare DATA

DATA holds lsp/ and lspet/. What is found comes to results/comparisons.
"""

from pathlib import Path

import numpy as np
import yaml

from benchmarks import commands
from benchmarks.study import scores_again
from hpe_lib import evaluation
from hpe_lib.data.datasets import load_people
from hpe_lib.data.people import People
from hpe_lib.workbook import results
from hpe_lib.workbook.artifacts import BadInput

PATH = Path(__file__).with_name("comparisons.yaml")
COMPARISONS = yaml.safe_load(PATH.read_text(encoding="utf-8"))
SYNTHETIC = {"dataset": "synthetic", "people": "200001-201000", "image_size": 96}  # 03 to 06 score


def main(data: Path) -> None:
    """Write results/comparisons."""
    scored = {
        "LSP": load_people("lsp", data / "lsp", "test", only_present=None),
        "validation": load_people("leeds", data, "val", only_present=None),
        "synthetic": load_people(**SYNTHETIC),
    }
    leads = {}
    for split, comparisons in COMPARISONS.items():
        people = scored[split]
        leads[split] = {label: lead(networks, people) for label, networks in comparisons.items()}
    results.write("comparisons", {"leads": leads}, "python -m benchmarks.compare DATA")


def lead(networks: dict[str, list[str]], people: People) -> dict:
    """`evaluation.paired` of the networks named in "plus" and in "minus" (`network_joints`)."""
    plus, minus = (
        [network_joints(name, people) for name in networks[side]] for side in ("plus", "minus")
    )
    return evaluation.paired(plus, minus, people)


def network_joints(name: str, people: People) -> np.ndarray:
    """The joints (N, 16, 2), image px, of a network: "ROW", the last one of results/ROW, or
    "ROW:detector", its first. BadInput if they are not of these people, as they are labelled now.
    """
    row, _, network = name.partition(":")
    if not scores_again(row, people):
        raise BadInput(results.RESULTS / row, "joints of other people", "those that were scored")
    joints = results.joints_of(row)
    return joints[network] if network else results.of_last_network(joints)


if __name__ == "__main__":
    commands.run(main)
