"""The maps of a few held-out people, kept after every epoch of a stage: how they become sharp."""

import io
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from hpe_lib.cascade import Cascade
from hpe_lib.data.people import People
from hpe_lib.skeleton import ABSENT
from hpe_lib.workbook import artifacts
from hpe_lib.workbook.artifacts import STAGES

COUNT = 4  # people
CELLS = 64  # largest side of the maps that are kept
LARGEST = 64 * 2**20  # bytes of one epoch's crops and maps, unpacked


def remove(folder: Path) -> None:
    """Remove the maps that an earlier training kept in a stage's folder, and nothing else."""
    for path in folder.glob(artifacts.WATCHED_FILES):
        path.unlink()


def path(folder: Path, epoch: int) -> Path:
    """The file for the maps after an epoch, counted from 1."""
    return folder / "watched" / f"{epoch:04d}.npz"


def has(folder: Path, epoch: int) -> bool:
    """Are there maps that were kept after an epoch?"""
    return path(folder, epoch).is_file()


@torch.no_grad()
def write(folder: Path, epoch: int, model: Cascade, people: People, image_size: int) -> None:
    """Keep the last network's maps of the first people in a stage's folder.

    A joint that nobody has labelled is left empty: no network has learned it.
    """
    crops = people[:COUNT].crops(image_size)
    found = model.eval()(torch.from_numpy(crops).to(model.mean.device))
    maps = model.confidence(found.detector) if found.regressor is None else found.regressor
    maps = F.adaptive_max_pool2d(maps.float(), min(CELLS, maps.shape[-1])).cpu().numpy()
    maps[:, (people.visibility == ABSENT).all(0)] = 0
    buffer = io.BytesIO()
    np.savez_compressed(buffer, crops=crops, maps=maps.astype(np.float16))
    artifacts.write_bytes(path(folder, epoch), buffer.getvalue())


def read(folder: str | Path) -> list[dict]:
    """The maps that were kept in a stage's folder, one entry per epoch; empty if there are none.

    Each has stage, epoch, crops (4, S, S, 3) uint8 and maps (4, 16, h, w) float32. A file that
    cannot be read is left out, and a line says so.
    """
    stage = {name: stage for stage, name in STAGES.items()}.get(Path(folder).name, "")
    found = []
    for kept in sorted(Path(folder).glob(artifacts.WATCHED_FILES)):
        try:
            found.append({"stage": stage, "epoch": int(kept.stem), **read_epoch(kept)})
        except FileNotFoundError:  # removed by a training that starts over
            continue
        except Exception as error:  # zipfile and numpy raise many kinds
            print(f"{kept}: left out, as no maps can be read from it: {artifacts.one_line(error)}")
    return found


def read_epoch(kept: Path) -> dict[str, np.ndarray]:
    """The crops and maps in a file. ValueError if they are far too large."""
    with artifacts.open_file(kept) as stream, np.load(stream) as file:
        if sum(part.file_size for part in file.zip.infolist()) > LARGEST:
            raise ValueError(f"over {LARGEST // 2**20} MiB")
        return {"crops": file["crops"], "maps": file["maps"].astype(np.float32)}
