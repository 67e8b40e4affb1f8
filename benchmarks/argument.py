"""Measure how the released regressor uses the detector's maps (tables given, confidence).

python -m benchmarks.argument DATA

DATA holds lsp/. What is found comes to results/argument.
"""

import sys
from pathlib import Path

from hpe_lib import photographs, probes
from hpe_lib.data.datasets import load_people
from hpe_lib.targets import Targets
from hpe_lib.workbook import results

DRAWN = {"radius": Targets.radius, "sigma": Targets.sigma}  # as the released cascade has learned


def main(data: Path) -> None:
    """Write results/argument."""
    made = photographs.load()
    halves = {
        "has learned from": load_people("lsp", data / "lsp", "train"),
        "has never seen": load_people("lsp", data / "lsp", "test"),
    }
    confidence = {}
    for half, people in halves.items():
        peaks = probes.disc_peaks(made.cascade, people, made.image_size, DRAWN["radius"])
        for network, kinds in peaks.items():
            means = {kind: float(values.mean()) for kind, values in kinds.items()}
            confidence[f"{network}, people it {half}"] = means
    given = probes.given_maps(made.cascade, people, made.image_size, DRAWN)
    metrics = {"confidence": confidence, "given": given}
    results.write("argument", metrics, "python -m benchmarks.argument DATA")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
