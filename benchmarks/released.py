"""Score released predictions, for the tables of docs/scoring.md and docs/results.md.

python -m benchmarks.released DATA

DATA holds mpii/ and lsp/ with the annotations that docs/scoring.md names, and MPII photographs. The
scores are written to results/released.
"""

from pathlib import Path

import numpy as np

from benchmarks import commands
from hpe_lib import evaluation
from hpe_lib.data import annotations
from hpe_lib.data.datasets import load_people
from hpe_lib.data.people import image_of
from hpe_lib.skeleton import MPII
from hpe_lib.workbook import results

NETWORKS = {"Newell et al. (1)": "newell.h5", "two stacks (2)": "bearpaw-hg_s2_b1.mat"}
TRUTHS = {
    "official": ("mpii_human_pose_v1_u12_1.val.mat", "valid.h5"),
    "Newell's": ("valid.h5", None),
    "Tompson's": ("evaluation_data_detections_our_format.mat", None),
}
SIDES = {"PC": "pc", "OC": "oc"}


def main(data: Path) -> None:
    """Write results/released."""
    metrics = {"mpii": mpii(data / "mpii"), "lsp": lsp(data / "lsp")}
    metrics["mpii, photographs at hand"] = photographs_at_hand(data / "mpii")
    metrics["conventions"] = conventions(data)
    metrics["Tompson's truth"] = differing_joints(data / "mpii")
    results.write("released", metrics, "python -m benchmarks.released DATA")


def mpii(folder: Path) -> dict:
    """Both stacked hourglasses on MPII's validation people, against each truth."""
    scores = {}
    for network, file in NETWORKS.items():
        predictions = folder / "predictions" / file
        for name, (truth, order) in TRUTHS.items():
            rows = folder / order if order else None
            scores[f"{network}, {name} truth"] = score("mpii", folder / truth, predictions, rows)
    return scores


def lsp(folder: Path) -> dict:
    """Yang's predictions on LSP's test people: whose left, in the predictions and the labels."""
    return {
        f"{predicted} file, {labelled} labels": score(
            "lsp", folder / f"lsp-joints-{labelled}.mat", folder / f"pred_keypoints_lsp_{word}.mat"
        )
        for predicted, word in SIDES.items()
        for labelled in SIDES
    }


def conventions(data: Path) -> dict:
    """Totals of the released predictions under each convention of published numbers."""
    mpii = data / "mpii"
    truth, rows = (mpii / name for name in TRUTHS["official"])
    newell, two_stacks = (mpii / "predictions" / file for file in NETWORKS.values())
    lsp = data / "lsp"
    files = {
        "Newell et al., MPII": ("mpii", truth, newell, rows),
        "hourglass of two stacks, MPII": ("mpii", truth, two_stacks, rows),
        "Yang et al., LSP": (
            "lsp",
            lsp / "lsp-joints-PC.mat",
            lsp / "pred_keypoints_lsp_pc.mat",
            None,
        ),
    }
    return {
        name: evaluation.conventions(*evaluation.read_files(*paths)).to_dict()
        for name, paths in files.items()
    }


def photographs_at_hand(folder: Path) -> dict:
    """A stacked hourglass on the MPII people whose photographs the folder has."""
    everybody, present = (load_people("mpii", folder, "val", only_present=p) for p in (None, True))
    truth, rows = (folder / name for name in TRUTHS["official"])
    joints, people = evaluation.read_files("mpii", truth, folder / "predictions/newell.h5", rows)
    images = list(map(image_of, everybody.keys))
    assert images == people.keys.tolist(), "the predictions' order"
    known = np.isin(everybody.keys, present.keys)
    return {"Newell et al. [19]": evaluation.score(joints[known], people[known])}


def differing_joints(folder: Path) -> list[dict]:
    """The joints that Tompson's truth has elsewhere than the official file.

    People count from 1, in Newell's order.
    """
    official, order = (folder / name for name in TRUTHS["official"])
    ours = annotations.mpii_truth(official, order)
    theirs = annotations.mpii_truth(folder / TRUTHS["Tompson's"][0])
    apart = np.abs(ours.joints - theirs.joints) > 1e-3
    return [
        {
            "person": int(person) + 1,
            "image": str(ours.image[person]),
            "joint": MPII.names[joint].replace("_", " "),
            "official": coordinates(ours.joints[person, joint]),
            "Tompson's": coordinates(theirs.joints[person, joint]),
        }
        for person, joint in np.argwhere(apart.any(-1))
    ]


def coordinates(point: np.ndarray) -> str:
    """A point as "x, y", to two decimals, a zero in bold."""
    return ", ".join(f"{value:.2f}" if value else "**0**" for value in point)


def score(dataset: str, truth: Path, predictions: Path, rows: Path | None = None) -> dict:
    """The Score JSON of one file of predictions."""
    return evaluation.score(*evaluation.read_files(dataset, truth, predictions, rows))


if __name__ == "__main__":
    commands.run(main)
