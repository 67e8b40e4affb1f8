"""Keep what a finished `hpe reproduce` took, and what its networks score.

python -m benchmarks.default_run RUN NAME

Writes results/NAME: seconds of each notebook, the scores of the detector and the cascade, their
mean peaks (Fig. 2), and the verdicts of notebook 06.
"""

from pathlib import Path

from benchmarks import commands
from hpe_lib.workbook import artifacts, environment, measurements, results

KEPT = ("command", "machine", "versions", "commit", "started", "finished")


def main(run: Path, name: str) -> None:
    """Keep a finished run's times and scores in results/NAME."""
    made = artifacts.manifest(run, *KEPT, "notebooks")
    scores = measurements.read(run)
    metrics = {
        "notebook seconds": {
            number: notebook["wall_seconds"] for number, notebook in made["notebooks"].items()
        },
        "scores": {
            "mean pose": scores["floors"]["mean_pose"],
            "untrained": scores["floors"]["untrained"],
            "detector": scores["detector"]["logits"],
            "detector, centroid": scores["detector"]["centroid"],
            "regressor": scores["regressor"],
            "cascade": scores["cascade"],
        },
        "criterion": scores["ablation"]["criterion"],
        "mean peak": scores["mean_peak"],
    }
    manifest = {entry: made[entry] for entry in KEPT} | {"scored_by": environment.command()}
    files = {"metrics.json": artifacts.json_bytes(metrics)}
    results.write_evidence(results.RESULTS / name, files, manifest)


if __name__ == "__main__":
    commands.run(main)
