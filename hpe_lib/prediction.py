"""Inference: crops through the cascade, flip test, decoding to image points (F13)."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader

from hpe_lib import heatmaps
from hpe_lib.cascade import BadMaps, Cascade, Maps, confidence
from hpe_lib.data.augment import PoseDataset, limit_opencv_threads
from hpe_lib.data.people import People
from hpe_lib.geometry import Frame

LARGEST_MAP = 1e6  # targets lie between 0 and 1, logits within some tens
PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Predictions:
    """Poses of N people.

    joints: (N, 16, 2) image px, from the cascade's last network.
    confidence: (N, 16), the peaks of its maps.
    detector_joints: (N, 16, 2) image px, from the detector's logits.
    detector_centroids: (N, 16, 2) image px, the centres of the detector's discs.
    detector_peak: (N, 16), the detector's highest probability.
    """

    joints: np.ndarray
    confidence: np.ndarray
    detector_joints: np.ndarray
    detector_centroids: np.ndarray
    detector_peak: np.ndarray


@torch.no_grad()
def forward(
    cascade: Cascade, images: torch.Tensor, flip_test: bool = True, precision: str = "no"
) -> Maps:
    """Maps, float32, of uint8 crops (B, S, S, 3).

    flip_test: average with the maps of the mirrored crops, mirrored back. Both are computed in
    one pass. The detector's logits are averaged, not its probabilities.
    precision: "bf16" or "fp16" on a GPU, as in training.
    """
    chosen = PRECISIONS.get(precision) if images.is_cuda else None
    with torch.autocast("cuda", chosen) if chosen else nullcontext():
        both = cascade(torch.cat([images, images.flip(2)]) if flip_test else images)
    convert = _average_mirrored if flip_test else torch.Tensor.float
    regressor = None if both.regressor is None else convert(both.regressor)
    return Maps(convert(both.detector), regressor)


def _average_mirrored(maps):
    plain, mirrored = maps.float().chunk(2)
    return (plain + heatmaps.mirror(mirrored)) / 2


def predict(
    cascade: Cascade,
    people: People,
    image_size: int,
    batch_size: int = 64,
    flip_test: bool = True,
    decoder: str = "parabola",
    workers: int = 0,
    precision: str = "no",
) -> Predictions:
    """Poses of people in their frames. Without a regressor they are the detector's.

    workers: processes that cut crops; 0: a thread. decoder: as for `heatmaps.decode`.
    Several processes (training.world) share the people, and all return everybody's poses.
    """
    from accelerate import PartialState  # here: slow to import, and a photograph needs none of it
    from accelerate.utils import gather_object

    rank = PartialState().process_index
    count = PartialState().num_processes
    # Where there are fewer people than processes, some are predicted twice.
    rows = np.arange(rank, max(len(people), count), count) % len(people)
    loader = DataLoader(
        PoseDataset(people[rows], image_size),
        batch_size,
        num_workers=workers,
        worker_init_fn=limit_opencv_threads,
        pin_memory=torch.cuda.is_available(),
    )
    batches = (batch["image"] for batch in loader)
    frames = people[rows].frames(image_size)
    found = predict_crops(cascade, batches, frames, flip_test, decoder, precision)
    shares = gather_object([(rows, *vars(found).values())])
    rows, *answers = (np.concatenate(part) for part in zip(*shares))
    _, once = np.unique(rows, return_index=True)  # everybody once, in the people's order
    return Predictions(*(answer[once] for answer in answers))


def prefetch(items: Iterable) -> Iterator:
    """The items, each made in a thread while the one before it is used.

    OpenCV and files release Python's lock, so both go on at once.
    """
    items = iter(items)
    end = object()
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, items, end)
            yield item


@torch.no_grad()
def predict_crops(
    cascade: Cascade,
    batches: Iterable[torch.Tensor],
    frames: list[Frame],
    flip_test: bool,
    decoder: str,
    precision: str = "no",
) -> Predictions:
    """Poses in N crops, in px of the images that they were cut from.

    batches: of crops (B, S, S, 3) uint8. The next is made while the network works on one. A batch
    that does not fit into a GPU's memory is halved.
    frames: the N frames that cut the crops.
    BadInput on NaN or absurdly large maps (damaged or diverged weights).
    """
    cascade.eval()

    def predict_batch(images: torch.Tensor) -> list[tuple]:
        """What `decode` returns, for the batch or its parts."""
        try:
            found = forward(cascade, images, flip_test, precision)
            _check_maps(found)
            return [decode(found, cascade.map_stride, decoder, cascade.first)]
        except torch.OutOfMemoryError:
            if len(images) == 1:
                raise
        return [answer for half in images.chunk(2) for answer in predict_batch(half)]

    answers = []
    for images in prefetch(batches):
        answers += predict_batch(images.to(cascade.mean.device, non_blocking=True))
    joints, peaks, from_logits, centroids, top = map(np.concatenate, zip(*answers))
    joints, from_logits, centroids = (
        np.stack([frame.to_image(points) for frame, points in zip(frames, part)])
        for part in (joints, from_logits, centroids)
    )
    return Predictions(joints, peaks, from_logits, centroids, top)


def _check_maps(found: Maps) -> None:
    for name, part in zip(Maps._fields, found):
        if part is not None and not (largest := float(part.abs().amax())) <= LARGEST_MAP:
            value = f"{name}'s maps that reach {largest:.3g}"
            raise BadMaps("the weights", value, "weights that are trained, with finite maps")


def decode(
    maps: Maps, map_stride: int, decoder: str, first: str = "detection"
) -> tuple[np.ndarray, ...]:
    """Points (B, 16, 2) crop px and peaks (B, 16) of both networks' maps (F13).

    Returns the joints, their peaks, then the detector's joints, centroids and peak probability. The
    detector's joints are read from its logits: by parabola where the decoder is the centroid, as
    logits have no centre of mass.
    first: what the detector has learned. If that is "regression", its maps are decoded as the
    regressor's are (F15).
    """
    readable = maps.detector
    if first == "detection":  # logits ≤ 0, so that the parabola takes no logarithm of them
        readable = maps.detector - maps.detector.amax((-2, -1), keepdim=True)
    centroids, top = heatmaps.decode(confidence(maps.detector, first), "centroid")
    from_logits, _ = heatmaps.decode(readable, "parabola" if decoder == "centroid" else decoder)
    joints = centroids if decoder == "centroid" else from_logits
    peaks = top
    if maps.regressor is not None:
        joints, peaks = heatmaps.decode(maps.regressor, decoder)
    points = (heatmaps.from_map(part, map_stride) for part in (joints, from_logits, centroids))
    joints, from_logits, centroids = (part.cpu().numpy() for part in points)
    return joints, peaks.cpu().numpy(), from_logits, centroids, top.cpu().numpy()


@torch.no_grad()
def predict_crop(
    cascade: Cascade, crop: np.ndarray, decoder: str = "parabola"
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return each network's maps (16, h, w) of a crop (S, S, 3), and its joints (16, 2) crop px.

    Keys: "detector" (its confidences) and, if there is one, "regressor". Without flip test.
    """
    found = cascade.eval()(torch.from_numpy(crop)[None].to(cascade.mean.device))
    joints, _, detector_joints, *_ = decode(found, cascade.map_stride, decoder, cascade.first)
    maps = {"detector": confidence(found.detector, cascade.first)}
    points = {"detector": detector_joints[0]}
    if found.regressor is not None:
        maps["regressor"] = found.regressor
        points["regressor"] = joints[0]
    return {name: part[0].float().cpu().numpy() for name, part in maps.items()}, points


def cover(crops: np.ndarray, points: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Copies of crops (N, S, S, 3), each with a square in its mean colour around a point.

    points: (N, 2) crop px. sides: (N,), of the squares, crop px.
    """
    corners = [
        np.rint(np.concatenate([point + 0.5 - side / 2, point + 0.5 + side / 2]))
        for point, side in zip(points, sides)
    ]
    return np.stack([cover_box(crop, box) for crop, box in zip(crops, corners)])


def cover_box(crop: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """A copy of a crop (S, S, 3) with crop[y1:y2, x1:x2] in the crop's mean colour.

    box: [x1, y1, x2, y2], crop px.
    """
    left, top, right, bottom = np.clip(box, 0, len(crop)).astype(int)
    crop = crop.copy()
    crop[top:bottom, left:right] = crop.mean((0, 1))
    return crop
