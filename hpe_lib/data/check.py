"""What lies in a data folder: people, joints, broken images, and copies between splits."""

from itertools import chain, combinations
from pathlib import Path

import cv2
import numpy as np
from tqdm.auto import tqdm

from hpe_lib.data import annotations
from hpe_lib.data.datasets import load_people
from hpe_lib.data.images import read_image
from hpe_lib.data.people import People, image_notes
from hpe_lib.skeleton import ABSENT, OCCLUDED, VISIBLE
from hpe_lib.workbook import presets
from hpe_lib.workbook.artifacts import BadInput

# Correlation of 16×16 grey thumbnails. On LSPET copies have 0.997, one scene taken twice 0.988,
# strangers at most 0.963.
COPY = 0.97
SPLITS = {"mpii": ("train", "val"), "lsp": ("train", "test"), "leeds": ("train", "val", "test")}
FIRST = 5  # names given of each kind of fault


def default_splits(dataset: str, root: str | Path) -> dict[str, str]:
    """{split: people} that presets train and score on.

    LSPET has no published splits: "train" and "val" are the preset's, "test" is everyone after.
    """
    if dataset != "lspet":
        return {name: name for name in SPLITS[dataset]}
    chosen = presets.resolve("lspet")["01"]
    splits = {"train": chosen["train"], "val": chosen["val"]}
    last = int(chosen["val"].partition("-")[2])
    count = len(annotations.lsp(Path(root) / "joints.mat"))
    if count > last:
        splits["test"] = f"{last + 1}-{count}"
    return splits


def check_data(dataset: str, root: str | Path, splits: dict[str, str] | None = None) -> dict:
    """What a data folder holds, every image of its people read.

    splits: {name: people}, as load_people takes them; else the default ones.

    Returns {"dataset", "problems": {name of a split that cannot be read: why},
    "splits": {name: counts, as count_joints}, "missing", "unreadable": {"count", "first"},
    "near_duplicates": as find_copies, "broken": is anything missing, unreadable or a problem?}.
    Raises BadInput if no split can be read.
    """
    splits = splits or default_splits(dataset, root)
    people = {}
    problems = {}
    for name, asked in splits.items():
        try:
            people[name] = load_people(dataset, root, asked, only_present=None)
        except BadInput as error:
            problems[name] = str(error)
    if not people:
        raise BadInput(next(iter(problems.values())))
    paths = {name: sorted(set(split.images.paths)) for name, split in people.items()}
    thumbnails, missing, unreadable = read_thumbnails(sorted(set(chain(*paths.values()))))
    copies = []
    for pair in combinations(people, 2):
        readable = {name: [path for path in paths[name] if path in thumbnails] for name in pair}
        copies += find_copies(readable, thumbnails)
    return {
        "dataset": dataset,
        "problems": problems,
        "splits": {
            name: {"asked": splits[name], **count_joints(split)} for name, split in people.items()
        },
        "missing": {"count": len(missing), "first": missing[:FIRST]},
        "unreadable": {"count": len(unreadable), "first": unreadable[:FIRST]},
        "near_duplicates": copies,
        "broken": bool(missing or unreadable or problems),
    }


def count_joints(people: People) -> dict:
    """Numbers of people, of images, of joints that the data set labels, and of people left out."""
    labelled = people.visibility[:, (people.visibility != ABSENT).any(0)]
    states = {"visible": VISIBLE, "occluded": OCCLUDED, "not annotated": ABSENT}
    return {
        "people": len(people),
        "images": len(set(people.images.paths)),
        "metric": people.metric,
        "without normaliser": int((~annotations.is_positive(people.normaliser)).sum()),
        "joints": {name: int((labelled == state).sum()) for name, state in states.items()},
        "notes": image_notes(people),
        "left out": {why: count for why, count in people.skipped.items() if count},
    }


def read_thumbnails(
    paths: list[Path],
) -> tuple[dict[Path, np.ndarray], list[str], list[str]]:
    """Read every image.

    Returns {path: thumbnail (16, 16) float32, grey, of mean 0 and length 1}, the names that are
    absent, and "NAME (fault)" of those that cannot be read.
    """
    thumbnails = {}
    missing = []
    unreadable = []
    for path in tqdm(paths, desc="reading images", disable=None, leave=False, mininterval=5):
        if not path.is_file():
            missing.append(path.name)
            continue
        try:
            grey = cv2.cvtColor(read_image(path), cv2.COLOR_RGB2GRAY)
        except BadInput as error:
            unreadable.append(f"{path.name} ({error.args[1]})")
            continue
        small = cv2.resize(grey, (16, 16), interpolation=cv2.INTER_AREA).astype(np.float32)
        small -= small.mean()
        thumbnails[path] = small / max(float(np.linalg.norm(small)), 1e-6)
    return thumbnails, missing, unreadable


def find_copies(paths: dict[str, list[Path]], thumbnails: dict[Path, np.ndarray]) -> list[dict]:
    """Pairs of images of two splits, also mirrored, whose thumbnails correlate above COPY.

    paths: {split: its images} of two splits.
    Returns [{"files", "splits", "correlation"}], the most alike first. Copies that were cut
    differently are not found: whole images are compared.
    """
    if not all(paths.values()):
        return []
    a, b = paths
    found = {}
    many, few = (np.stack([thumbnails[path] for path in paths[name]]) for name in (a, b))
    for small in (few, few[:, :, ::-1]):
        correlation = many.reshape(-1, 256) @ small.reshape(-1, 256).T  # MPII: 160 MB
        for i, j in np.argwhere(correlation > COPY):
            files = paths[a][i].name, paths[b][j].name
            found[files] = max(found.get(files, 0), round(float(correlation[i, j]), 4))
    pairs = sorted(found.items(), key=lambda pair: -pair[1])
    return [
        {"files": list(files), "splits": [a, b], "correlation": value} for files, value in pairs
    ]


def format_check(found: dict) -> str:
    """What `check_data` found, as text for a person."""
    lines = [f"{name}: {why}" for name, why in found["problems"].items()]
    for name, split in found["splits"].items():
        lines += _format_split(name, split)
    for kind in ("missing", "unreadable"):
        names = ", ".join(found[kind]["first"])
        lines.append(
            f"{found[kind]['count']:,} images {kind}" + (f", first {names}" if names else "")
        )
    pairs = found["near_duplicates"]
    lines.append(
        f"{len(pairs)} near-duplicates between splits (thumbnails that correlate above {COPY})"
    )
    for pair in pairs[: 4 * FIRST]:
        one, other = (f"{file} ({split})" for file, split in zip(pair["files"], pair["splits"]))
        lines.append(f"  {other} is like {one}: {pair['correlation']:.3f}")
    return "\n".join(lines)


def _format_split(name: str, split: dict) -> list[str]:
    people = split["people"]
    lost = split["without normaliser"]
    joints = ", ".join(f"{count:,} {kind}" for kind, count in split["joints"].items())
    lines = [
        f"{name} ({split['asked']}): {people:,} people in {split['images']:,} images; {joints}"
    ]
    if lost:
        share = f"{lost:,} ({lost / people:.0%})"
        lines.append(f"  {share} have no normaliser: left out of {split['metric']}")
    lines += [f"  note: {note}" for note in split["notes"]]
    return lines + [f"  {count:,} left out: {why}" for why, count in split["left out"].items()]
