"""Leeds Sports Pose (LSP), its extension (LSPET), and both as one set (leeds)."""

import csv
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from hpe_lib.data import annotations
from hpe_lib.data.annotations import Annotations
from hpe_lib.data.images import ImageFiles
from hpe_lib.data.people import People, concatenate, parse_people, select_range
from hpe_lib.skeleton import ABSENT, MPII
from hpe_lib.workbook.artifacts import BadInput

LSP_BODY = 142.4  # image px: with MARGIN, the side of 178 px of the authors' demo
LSPET_BODY = 150.0  # image px: "roughly 150 px in length"
ENOUGH = 100  # people; of fewer too many may show their backs
LSP_SPLITS = {"train": slice(1000), "val": slice(1000, 2000), "test": slice(1000, 2000)}
LEEDS = {  # split -> who of LSP and of LSPET
    "train": {"lsp": "train", "lspet": "1-8000"},
    "val": {"lspet": "8001-8500"},
    "test": {"lsp": "test"},
}
# Near-duplicate image pairs, one of each pair scored. Correlation above 0.97: all that `hpe
# check-data` finds. Below: other crops of one photograph, found by matching network and local
# features, then checked by eye. Another moment of a scene, with another pose, is no duplicate.
COPIES = Path(__file__).with_name("leeds_copies.csv")


def load_lsp(root: Path, people: str = "all") -> People:
    """People of Leeds Sports Pose, their images not looked for.

    root: holds joints.mat, (3, 14, 2000), and images/im%04d.jpg. Without joints.mat,
        lsp-joints-PC.mat is read.
    people: "train", 1-1000; "test" and "val", both 1001-2000; "all"; or a range of these.

    A third value of 1 is occluded. Left may be the person's (PC, as in the literature) or the
    viewer's (OC, as in the original joints.mat): it stays as the file has it, and `source` says
    which. The frame belongs in the middle of the image (F1), so its centre is NaN until the image
    is read. Raises BadInput on a wrong file.
    """
    path = root / "joints.mat"
    if not path.exists() and (root / "lsp-joints-PC.mat").exists():
        path = root / "lsp-joints-PC.mat"
    split = parse_people(people)[0]
    everyone = _read_joints(path, "lsp")
    if split != "all" and len(everyone) != 2000:
        raise BadInput(path, f"{len(everyone)} people", f"LSP's 2000, to know which are {split}")
    found = select_range(path, people, everyone[LSP_SPLITS.get(split, slice(None))])
    found = _to_people("lsp", root, found, LSP_BODY)
    return replace(
        found,
        source=f"{_convention_known(everyone)}labels of {path.name}",
        center=np.full_like(found.center, np.nan),
        center_from_joints=False,
    )


def load_lspet(root: Path, people: str = "all") -> People:
    """People of Leeds Sports Pose Extended, their images not looked for.

    root: holds joints.mat, (14, 3, N), and images/im%05d.jpg.
    people: "all" or a range, "1-8000".

    A flag of 1 is annotated, of 0 not (the coordinates mean nothing then). There are no occlusion
    labels: annotated counts as visible. The frame's centre is the middle of the annotated joints'
    box, a hint from the truth, as objpos is on MPII. People without a usable joint are skipped
    and counted. Raises BadInput on a wrong file.
    """
    if parse_people(people)[0] != "all":
        raise BadInput("people", repr(people), "FIRST-LAST or all: LSPET has no published split")
    path = root / "joints.mat"
    found = select_range(path, people, _read_joints(path, "lspet"))
    return _to_people("lspet", root, found, LSPET_BODY)


def load_leeds(root: Path, people: str = "train") -> People:
    """People of LSP and LSPET as one set, their images not looked for.

    root: holds lsp/ and lspet/, each as its own loader reads it.
    people: "train", LSP 1-1000 and LSPET 1-8000 without near-duplicates (COPIES) of people who
        are scored, LSP's test people and LSPET 8001-9000; "val", LSPET 8001-8500, for model
        selection; "test", LSP 1001-2000, for final scores only; or a range of these.

    Frames and visibility are each set's own. An LSP joint may be occluded, LSPET's are visible or
    absent, so only "test" has occlusion labels; only LSPET's frames are a hint from the truth.
    Raises BadInput on observer-centric labels, which would contradict LSPET's, and as load_lsp
    and load_lspet.
    """
    split = parse_people(people)[0]
    if split not in LEEDS:
        raise BadInput("people", repr(people), f"{', '.join(LEEDS)}, or a range, such as train 1-9")
    loaders = {"lsp": load_lsp, "lspet": load_lspet}
    parts = [loaders[part](root / part, who) for part, who in LEEDS[split].items()]
    if parts[0].source.startswith("observer"):
        raise BadInput(root / "lsp", parts[0].source, "person-centric ones, as LSPET's are")
    found = concatenate("leeds", parts)
    if split == "train":
        found = drop_copies(found)
    return select_range(root, people, found)


def label_convention(joints: np.ndarray) -> str:
    """Whose left it is, "person-centric" or "observer-centric", of joints (N, 16, 2).

    Right limbs lie left of left ones in 63 % of LSP's PC labels, as some people show their back,
    and in 87 % of its OC labels.
    """
    right = np.array([name.startswith("right_") for name in MPII.names])
    right_x = joints[:, right, 0]
    left_x = joints[:, MPII.mirror][:, right, 0]
    known = ~np.isnan(left_x + right_x)
    share = (right_x < left_x)[known].mean() if known.any() else 0
    return "person-centric" if share < 0.75 else "observer-centric"


def _convention_known(everyone: Annotations) -> str:
    """Whose left it is, to be put before "labels"; "" of too few people to tell."""
    return f"{label_convention(everyone.joints)} " if len(everyone) >= ENOUGH else ""


def leeds_training_keys() -> list[str]:
    """The keys of the people whom the split "train" of `leeds` holds."""
    lsp = [f"im{number:04d}.jpg" for number in range(1, 1001)]
    lspet = [f"im{number:05d}.jpg" for number in range(1, 8001)]
    return sorted({*lsp, *lspet} - {*copies_of_scored_people()})


def copies_of_scored_people(held_out: Iterable[str] = ()) -> list[str]:
    """The keys of training people who are near-duplicates of people who are scored.

    These are scored as published, or are among the keys held_out.
    """
    with open(COPIES, encoding="utf-8") as file:
        pairs = [(row["left_out"], row["scored"]) for row in csv.DictReader(file)]
    held_out = set(held_out)
    return [usual for usual, _ in pairs] + [twin for usual, twin in pairs if usual in held_out]


def drop_copies(people: People, held_out: Iterable[str] = ()) -> People:
    """The people without `copies_of_scored_people`: counted and named in `skipped`."""
    copies = np.isin(people.keys, copies_of_scored_people(held_out))
    if not copies.any():
        return people
    reason = f"near-duplicates of people who are scored: {', '.join(people.keys[copies])}"
    return replace(people[~copies], skipped={**people.skipped, reason: int(copies.sum())})


def _read_joints(path: Path, dataset: str) -> Annotations:
    """What joints.mat says. Raises BadInput if it is the other data set's, as its shape tells."""
    found = annotations.lsp(path)
    shapes = {"lsp": "(3, 14, {})", "lspet": "(14, 3, {})"}
    layout = "lsp" if found.occlusion_labels else "lspet"
    if layout != dataset:
        shape = shapes[layout].format(len(found))
        needed = f"{shapes[dataset].format('N')}, that of {dataset}"
        raise BadInput(path, f"joints of shape {shape}, the layout of {layout}", needed)
    return found


def _to_people(dataset: str, root: Path, found: Annotations, body: float) -> People:
    usable = (found.visibility != ABSENT).any(1)
    if not usable.any():
        nobody = f"no annotated joint of {len(found)} people"
        raise BadInput(root / "joints.mat", nobody, "annotated people")
    found = found[usable]
    low = np.nanmin(found.joints, axis=1)
    high = np.nanmax(found.joints, axis=1)
    return People(
        dataset=dataset,
        keys=found.image,
        joints=found.joints,
        visibility=found.visibility,
        normaliser=annotations.torso(found),
        metric="PCK@0.2",
        occlusion_labels=found.occlusion_labels,
        skipped={"no annotated joint": int((~usable).sum())},
        images=ImageFiles([root / "images" / name for name in found.image], f"{dataset} images"),
        center=(low + high) / 2,
        body=np.full(len(found), body),
        center_from_joints=True,
    )
