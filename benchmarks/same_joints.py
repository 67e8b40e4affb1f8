"""Does a cascade gain more on hidden joints than on visible ones of the same names?

python -m benchmarks.same_joints DATA

DATA holds lsp/. Wrists are hidden more often than heads are, and a second network may simply help
wrists. What is found comes to results/same-joints.
"""

from pathlib import Path

import numpy as np

from benchmarks import commands
from benchmarks.compare import SYNTHETIC, network_joints
from hpe_lib import evaluation
from hpe_lib.data.datasets import load_people
from hpe_lib.data.people import People
from hpe_lib.workbook import results, table_5

ALONE = {  # a detector that learned alone for as many epochs
    "18 epochs, seed 0": "table-5-test/detection-0",
    "18 epochs, seed 1": "table-5-test/detection-1",
    "36 epochs, seed 0": "table-5-test/control-0",
    "36 epochs, seed 1": "table-5-36-test/detection-1",
}
OTHERS = {
    "36 epochs at 0.009, seed 0": "table-5-36-test/cascade-0.009-seed-0",
    "36 epochs at 0.009, seed 1": "table-5-36-test/cascade-0.009",
}


def main(data: Path) -> None:
    """Write results/same-joints."""
    lsp = load_people("lsp", data / "lsp", "test", only_present=None)
    leads = {}
    for budget, name in (table_5.cascades_by_epochs() | OTHERS).items():
        leads[f"LSP, {budget}, over its own detector"] = lead(name, f"{name}:detector", lsp)
        if budget in ALONE:
            leads[f"LSP, {budget}, over detection only"] = lead(name, ALONE[budget], lsp)
    drawn = load_people(**SYNTHETIC)
    leads["synthetic, medium, over its own detector"] = lead(
        "synthetic-val", "synthetic-val:detector", drawn
    )
    results.write("same-joints", {"leads": leads}, "python -m benchmarks.same_joints DATA")


def lead(leading: str, other: str, people: People) -> dict:
    """How much larger a lead is on occluded joints: than on all visible ones, and on the same.

    leading, other: networks by name (`network_joints`).
    """
    plus, minus = (network_joints(name, people) for name in (leading, other))
    return {
        "all joints": evaluation.paired([plus], [minus], people)["occluded_minus_visible"],
        "same joints": paired_on_same_joints(plus, minus, people),
    }


def paired_on_same_joints(
    plus: np.ndarray, minus: np.ndarray, people: People, seed: int = 0
) -> dict | None:
    """By how much more `plus` leads `minus` on occluded joints than on visible ones of the same
    names, in points: {"difference", "ci95"}; None without occlusion labels.

    Wrists are occluded more often than heads are. So the lead on each joint's visible places is
    weighted by how often that joint is occluded; joints that are never visible are left out.
    plus, minus: (N, 16, 2) image px.
    """
    kinds = evaluation.kind_masks(people)
    if not kinds:
        return None
    mask = evaluation.errors(plus, people)[1]
    right, of_minus = (evaluation.within_threshold(joints, people) for joints in (plus, minus))
    gained = right.astype(int) - of_minus
    occluded = mask & kinds["occluded"]
    visible = mask & kinds["visible"]
    counts = np.hstack([gained * occluded, occluded, gained * visible, visible])
    sums = evaluation.resampled_sums(counts, seed)
    hidden_lead, often, visible_lead, visible_often = np.split(sums, 4, axis=1)
    with np.errstate(invalid="ignore"):
        surplus = hidden_lead - often * visible_lead / visible_often
        weight = np.where(visible_often, often, 0).sum(1)
        points = 100 * np.where(visible_often, surplus, 0).sum(1) / weight
    return evaluation.difference(points)


if __name__ == "__main__":
    commands.run(main)
