"""MPII Human Pose as People: its official file, its images and its published split."""

import functools
from pathlib import Path

import numpy as np

from hpe_lib.data import annotations
from hpe_lib.data.annotations import Annotations
from hpe_lib.data.images import ImageFiles
from hpe_lib.data.people import SPLIT_SIZES, People, parse_people, select_range
from hpe_lib.workbook.artifacts import BadInput

WHOLE = 20_000  # a file with more people is the complete official one (40,000), not a subset


def load_mpii(root: Path, people: str = "all") -> People:
    """People of MPII Human Pose, their images not looked for.

    root: holds one .mat in the official layout, images/ and, for train and val, valid.h5.
    people: "val", the 2,958 of valid.h5 in its order, which is that of published predictions;
        "train", everyone with points in an img_train image without anybody of val (22,246);
        "test", everyone with points in the other images; "all", in the file's order; or a range
        of these, "val 1-100" or "1-100".

    The annotators made the frame (F1): centre objpos + (0, 15 · scale), side 1.25 · 200 · scale,
    body 200 · scale. The file counts pixels from 1 and People from 0, so all points are moved by
    -1. The normaliser is the head size. Raises BadInput on a wrong file, or a split that is not
    as published.
    """
    path = find_annotations(root)
    split = _select_split(root, path, parse_people(people)[0])
    found = select_range(path, people, split)
    placed = (found.scale > 0) & ~np.isnan(found.center).any(1)
    if not placed.any():
        nobody = f"no position or scale for any of {len(found)} people"
        raise BadInput(path, nobody, "objpos and scale, which say where people are")
    skipped = {**found.skipped, "no position or scale": int((~placed).sum())}
    return _to_people(root, found[placed], skipped)


def find_annotations(root: Path) -> Path:
    """The file in MPII's official layout in a folder. BadInput if there is none, or another one."""
    if not root.is_dir():
        raise BadInput(root, "no such folder", "that of MPII's annotation and images/")
    found = []
    faults = []
    for path in sorted(root.glob("*.mat")):
        try:
            if annotations.has_release(path):
                found.append(path)
        except BadInput as fault:
            faults.append(fault)
    if faults and not found:
        raise faults[0]
    if len(found) != 1:
        names = ", ".join(path.name for path in found)
        count = f"{len(found)} .mat files in MPII's official layout {names}"
        raise BadInput(root, count.strip(), "one, with RELEASE")
    return found[0]


@functools.lru_cache(maxsize=1)
def _read_official(path: Path, changed: int) -> Annotations:
    """The official file, which takes seconds, read once for train and val.

    changed: its st_mtime_ns.
    """
    return annotations.mpii_official(path)


def _select_split(root: Path, path: Path, split: str) -> Annotations:
    everyone = _read_official(path, path.stat().st_mtime_ns)
    if split == "all":
        return everyone
    if split == "test":
        found = everyone[~everyone.train]
    elif split == "val":
        found = annotations.reorder(path, everyone, root / "valid.h5")
    else:
        val_images = annotations.mpii_rows(root / "valid.h5")[0]
        found = everyone[everyone.train & ~np.isin(everyone.image, val_images)]
    if not len(found):
        nobody = f"nobody of {split} among its {len(everyone)} people"
        raise BadInput(path, nobody, f"a file that holds {split}")
    size = SPLIT_SIZES.get(("mpii", split), len(found))
    if len(everyone) > WHOLE and len(found) != size:
        count = f"{len(found)} people of {split}"
        raise BadInput(path, count, f"the {size} of the published split")
    return found


def _to_people(root: Path, found: Annotations, skipped: dict[str, int]) -> People:
    names = zip(found.image, found.person)
    return People(
        dataset="mpii",
        keys=np.array([f"{image} {person}" for image, person in names]),
        joints=found.joints - 1,
        visibility=found.visibility,
        normaliser=found.head_size,
        metric="PCKh@0.5",
        occlusion_labels=True,
        skipped=skipped,
        images=ImageFiles([root / "images" / name for name in found.image], "mpii images"),
        center=found.center + np.outer(found.scale, (0, 15)) - 1,
        body=200 * found.scale,
        center_from_joints=True,
    )
