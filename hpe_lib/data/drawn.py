"""Synthetic people (rendered by synthetic.py) as `People`, cached on disk."""

import contextlib
import errno
import functools
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from hpe_lib.data import synthetic
from hpe_lib.data.annotations import HEAD
from hpe_lib.data.images import ImageArrays
from hpe_lib.data.people import People, parse_people
from hpe_lib.geometry import Frame
from hpe_lib.workbook import artifacts, locks
from hpe_lib.workbook.artifacts import BadInput

TRUTH = "joints", "visibility", "head_box", "body"  # what is kept of a drawing beside its image


@dataclass(frozen=True, eq=False)
class DrawnImages(ImageArrays):
    """Drawings, kept at one size. A crop of more px is drawn again, so that figures are sharp.

    numbers: (N,), who they are.  draw: (number, px) -> their drawing.
    """

    numbers: np.ndarray
    draw: Callable[[int, int], synthetic.Drawing]

    def select(self, rows: Iterable[int]) -> "DrawnImages":
        """As Images.select."""
        return replace(self, arrays=super().select(rows).arrays, numbers=self.numbers[list(rows)])

    def crop(self, row: int, frame: Frame) -> np.ndarray:
        """As Images.crop."""
        size = len(self[row])
        if frame.image_size <= size:
            return frame.crop(self[row])
        finer = self.draw(int(self.numbers[row]), frame.image_size).image
        return frame.on(size / frame.image_size).crop(finer)


def load_drawn(
    people: str, image_size: int, data_seed: int, difficulty: str, cache: Path
) -> People:
    """Synthetic people (synthetic.draw), with complete labels.

    people: "FIRST-LAST", counted from 1.  image_size: px, side of their images.
    data_seed: of the generator.  difficulty: a key of synthetic.DIFFICULTIES.
    cache: the folder that keeps them.
    Raises BadInput on a split, a range without an end, or an unknown difficulty.
    """
    if difficulty not in synthetic.DIFFICULTIES:
        raise BadInput("difficulty", repr(difficulty), ", ".join(synthetic.DIFFICULTIES))
    numbers = drawn_numbers(people)
    source = f"{difficulty}-{synthetic.VERSION}-seed{data_seed}-{image_size}px-{people}"
    draw = functools.partial(synthetic.draw, data_seed, difficulty=difficulty)
    folder = cache / source
    mix = artifacts.digest(vars(synthetic.DIFFICULTIES[difficulty]))  # what the name stood for then
    if not _is_intact(folder, mix):
        with _writing(folder, mix) as unfinished:
            _draw_into(unfinished, numbers, image_size, draw)
    truth = np.load(folder / "truth.npz")
    kept = np.load(folder / "images.npy", mmap_mode="r")
    images = DrawnImages(kept, source, numbers, draw)
    return _to_people(numbers, {name: truth[name] for name in TRUTH}, images, image_size)


def drawn_numbers(people: str) -> np.ndarray:
    """The numbers of synthetic people, "FIRST-LAST" counted from 1, as they are from 0."""
    split, rows = parse_people(people)
    if split != "all" or rows.stop is None:
        raise BadInput(
            "people", repr(people), "FIRST-LAST: synthetic people have no splits and no end"
        )
    return np.arange(rows.start, rows.stop)


def _draw_into(
    folder: Path, numbers: np.ndarray, image_size: int, draw: Callable[..., synthetic.Drawing]
) -> None:
    """Write images.npy and truth.npz."""
    shape = len(numbers), image_size, image_size, 3
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, shape)
    reserve(folder / "images.npy")
    truth = {name: [] for name in TRUTH}
    for row, number in enumerate(tqdm(numbers, "drawing people", disable=None, mininterval=5)):
        drawing = draw(int(number), image_size)
        images[row] = drawing.image
        for name, values in truth.items():
            values.append(getattr(drawing, name))
    images.flush()
    np.savez(folder / "truth.npz", **{name: np.stack(values) for name, values in truth.items()})


def reserve(path: Path) -> None:
    """Allocate a whole file on disk. OSError if the disk is full.

    Without this a full disk would kill the process (SIGBUS) when a mapped page is written.
    """
    with open(path, "r+b") as file:
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError as error:
                error.filename = str(path)
                raise


def drawn_key(number: int) -> str:
    """The key of a synthetic person; number: from 0."""
    return f"{number + 1:08d}"


def _to_people(
    numbers: np.ndarray, truth: dict[str, np.ndarray], images: ImageArrays, image_size: int
) -> People:
    count = len(numbers)
    corners = truth["head_box"].reshape(count, 2, 2)
    return People(
        dataset="synthetic",
        keys=np.array([drawn_key(number) for number in numbers]),
        joints=truth["joints"],
        visibility=truth["visibility"],
        normaliser=HEAD * np.linalg.norm(corners[:, 1] - corners[:, 0], axis=1),
        metric="PCKh@0.5",
        occlusion_labels=True,
        images=images,
        center=np.full((count, 2), (image_size - 1) / 2),
        side=np.full(count, float(image_size)),
        body=truth["body"],
    )


@contextlib.contextmanager
def _writing(folder: Path, mix: str) -> Iterator[Path]:
    """A folder to write to. It gets its name once all of it, and a manifest, is on the disk."""
    # Containers that share a cache may have one process number.
    unfinished = folder.with_name(f"{folder.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    locks.remove_leftovers(folder.parent.glob("*px-*.[0-9]*.part"))
    try:
        unfinished.mkdir(parents=True)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        expected = "a folder for drawn people: HPE_CACHE may name another"
        raise BadInput(folder.parent, error.strerror, expected) from None
    try:
        yield unfinished
        for path in unfinished.iterdir():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        manifest = {"difficulty": mix, **_hash_files(unfinished)}
        artifacts.write_json(unfinished / artifacts.MANIFEST, manifest)
        if not _is_intact(folder, mix):  # or else another run was faster
            if folder.exists():
                print(f"{folder}: not as it was written, made anew", file=sys.stderr, flush=True)
            shutil.rmtree(folder) if folder.is_dir() else folder.unlink(missing_ok=True)
            unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _is_intact(folder: Path, mix: str) -> bool:
    """Does a folder hold what `_writing` put there, drawn with this difficulty's numbers?"""
    with contextlib.suppress(BadInput, NotADirectoryError):
        manifest = artifacts.read_json(folder / artifacts.MANIFEST)
        return manifest == {"difficulty": mix, **_hash_files(folder)}
    return False


def _hash_files(folder: Path) -> dict[str, str]:
    """{file's name: sha256} of a folder without its manifest; "" for what is no file."""
    paths = (path for path in folder.iterdir() if path.name != artifacts.MANIFEST)
    return {path.name: _hash_file(path, path.stat()) if path.is_file() else "" for path in paths}


def _hash_file(path: Path, now: os.stat_result) -> str:
    """sha256 of a file, read once as long as it stays as it is: it may have gigabytes."""
    return _hash_once(path, now.st_ino, now.st_size, now.st_mtime_ns)


@functools.lru_cache(maxsize=1000)
def _hash_once(path: Path, *_: int) -> str:
    return artifacts.file_hash(path)
