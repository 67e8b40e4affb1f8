"""Test time: crops through the cascade, with the flipped image, back to points of the image (F13)."""

import hashlib
import importlib.util
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

import cv2
import numpy as np
import torch
import torchvision
from PIL import Image, PngImagePlugin
from torch import nn
from torch.utils.data import DataLoader

from hpe_lib import artifacts, heatmaps
from hpe_lib import cascade as networks
from hpe_lib.artifacts import BadInput
from hpe_lib.cascade import Cascade, Maps, confidence
from hpe_lib.datasets import People, PoseDataset, read_image, single_threaded_worker
from hpe_lib.geometry import Frame
from hpe_lib.paper import MARGIN, RELEASED
from hpe_lib.skeleton import MPII

SURE = 0.3  # a confidence from which on a joint is drawn as found
PERSON_DETECTOR = "fasterrcnn_mobilenet_v3_large_fpn"  # torchvision's
SMALLEST = 16  # px, a square's side: fractions of the image and MPII's scale are below
LARGEST_MAP = 1e6  # targets lie between 0 and 1, logits within some tens
BATCH = 16  # people of photographs that go through the network together
PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}
WRITTEN = "hpe predict"  # the entry of an overlay's PNG that tells it from a person's own file
WHITE, SIDES = (
    (255, 255, 255),
    {"right": ((213, 94, 0), 12), "left": ((0, 114, 178), 4)},
)  # RGB, as figures has them


@dataclass(frozen=True)
class Predictions:
    """N people: joints (N, 16, 2) image px of the cascade's last network, confidence (N, 16) its peaks;
    detector_joints (N, 16, 2) image px from the detector's logits and detector_centroids from its discs;
    detector_peak (N, 16), the detector's highest probability."""

    joints: np.ndarray
    confidence: np.ndarray
    detector_joints: np.ndarray
    detector_centroids: np.ndarray
    detector_peak: np.ndarray


@torch.no_grad()
def forward(
    cascade: Cascade, images: torch.Tensor, flip_test: bool = True, precision: str = "no"
) -> Maps:
    """Maps of uint8 crops (B, S, S, 3); with flip_test the mean with the mirrored crop's maps, mirrored back.

    Both are computed in one pass. The detector's logits are averaged, not its probabilities.
    precision: "bf16" or "fp16" on a GPU, as in training; maps are float32 always.
    """
    chosen = PRECISIONS.get(precision) if images.is_cuda else None
    with torch.autocast("cuda", chosen) if chosen else nullcontext():
        both = cascade(torch.cat([images, images.flip(2)]) if flip_test else images)
    average = _with_mirrored if flip_test else torch.Tensor.float
    return Maps(*(None if maps is None else average(maps) for maps in both))


def _with_mirrored(maps):
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
    """Poses of people in their frames. Without a regressor the cascade's answer is the detector's.

    workers: processes that cut crops; 0: a thread.  precision: as `forward`.
    Several processes (training.world) each look at a share of the people, and all return the
    answers for everybody.
    """
    from accelerate import PartialState  # here: slow to import, and a photograph needs none of it
    from accelerate.utils import gather_object

    rank, count = PartialState().process_index, PartialState().num_processes
    rows = np.arange(rank, max(len(people), count), count) % len(
        people
    )  # of fewer people than processes some twice
    loader = DataLoader(
        PoseDataset(people[rows], image_size),
        batch_size,
        num_workers=workers,
        worker_init_fn=single_threaded_worker,
        pin_memory=torch.cuda.is_available(),
    )
    batches, frames = (batch["image"] for batch in loader), people[rows].frames(image_size)
    found = locate(cascade, batches, frames, flip_test, decoder, precision)
    shares = gather_object([(rows, *vars(found).values())])
    rows, *answers = (np.concatenate(part) for part in zip(*shares))
    _, once = np.unique(rows, return_index=True)  # everybody once, in the people's order
    return Predictions(*(answer[once] for answer in answers))


def ahead(items: Iterable) -> Iterator:
    """The items, each made in a thread while the one before it is used: OpenCV and files do not hold Python up."""
    items, end = iter(items), object()
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, items, end)
            yield item


@torch.no_grad()
def locate(
    cascade: Cascade,
    batches: Iterable[torch.Tensor],
    frames: list[Frame],
    flip_test: bool,
    decoder: str,
    precision: str = "no",
) -> Predictions:
    """Poses in N crops, given as batches (B, S, S, 3) uint8, said in the images that their N frames cut them from.

    The next batch is made while the network works on one. A batch that a GPU's memory does not
    hold is halved. BadInput on maps beyond all reason: of weights that are damaged or diverged.
    """
    cascade.eval()

    def answers(images):
        try:
            found = forward(cascade, images, flip_test, precision)
            _check_maps(found)
            return [decode(found, cascade.map_stride, decoder, cascade.first)]
        except torch.OutOfMemoryError:
            if len(images) == 1:
                raise
        return [answer for half in images.chunk(2) for answer in answers(half)]

    rows = []
    for images in ahead(batches):
        rows += answers(images.to(cascade.mean.device, non_blocking=True))
    joints, peaks, *detector = (np.concatenate(part) for part in zip(*rows))
    points = [
        np.stack([frame.to_image(crop) for frame, crop in zip(frames, part)])
        for part in (joints, detector[0], detector[1])
    ]
    return Predictions(points[0], peaks, points[1], points[2], detector[2])


def _check_maps(found: Maps) -> None:
    for name, part in zip(Maps._fields, found):
        if part is not None and not (largest := float(part.abs().amax())) <= LARGEST_MAP:
            value = f"{name}'s maps that reach {largest:.3g}"
            raise BadInput("the weights", value, "weights that are trained, with finite maps")


def decode(
    maps: Maps, map_stride: int, decoder: str, first: str = "detection"
) -> tuple[np.ndarray, ...]:
    """(joints (B, 16, 2) crop px, their peaks (B, 16), detector's joints, its centroids, its peak probability).

    first: what the detector has learned; "regression": its maps are read as the regressor's are (F15).
    """
    readable = maps.detector
    if first == "detection":  # made never positive: they are logarithms already
        readable = maps.detector - maps.detector.amax((-2, -1), keepdim=True)
    from_logits, _ = heatmaps.decode(readable, decoder)
    centroids, top = heatmaps.decode(confidence(maps.detector, first), "centroid")
    joints, peaks = (
        (from_logits, top) if maps.regressor is None else heatmaps.decode(maps.regressor, decoder)
    )
    points = (heatmaps.from_map(part, map_stride) for part in (joints, from_logits, centroids))
    joints, from_logits, centroids = (part.cpu().numpy() for part in points)
    return joints, peaks.cpu().numpy(), from_logits, centroids, top.cpu().numpy()


@torch.no_grad()
def maps(
    cascade: Cascade, people: People, image_size: int, flip_test: bool = False
) -> tuple[np.ndarray, ...]:
    """For pictures: (crops (N, S, S, 3) uint8, detector's probabilities (N, 16, h, w), regressor's maps or None)."""
    crops = people.crops(image_size)
    found = forward(cascade.eval(), torch.from_numpy(crops).to(cascade.mean.device), flip_test)
    regressed = None if found.regressor is None else found.regressor.cpu().numpy()
    return crops, confidence(found.detector, cascade.first).cpu().numpy(), regressed


def cover(crops: np.ndarray, points: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Crops (N, S, S, 3) with a square of their own mean colour about the points (N, 2), of the sides (N,), crop px."""
    corners = [
        np.rint(np.concatenate([point + 0.5 - side / 2, point + 0.5 + side / 2]))
        for point, side in zip(points, sides)
    ]
    return np.stack([patched(crop, box) for crop, box in zip(crops, corners)])


def patched(crop: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """A crop (S, S, 3) with crop[y1:y2, x1:x2] of a box [x1, y1, x2, y2] painted in the crop's mean colour."""
    left, top, right, bottom = np.clip(box, 0, len(crop)).astype(int)
    crop = crop.copy()
    crop[top:bottom, left:right] = crop.mean((0, 1))
    return crop


@dataclass(frozen=True)
class PoseEstimator:
    """A trained cascade for photographs, with its run's own settings: the crop's side in px,
    decoder, flip test, the precision it was trained in, and how many processes prepared its
    crops."""

    cascade: Cascade
    image_size: int
    decoder: str = "parabola"
    flip_test: bool = True
    precision: str = "no"
    workers: int = 0

    def predict(self, image: str | Path | np.ndarray, boxes: Sequence | None = None) -> list[dict]:
        """The people of an image (a file, whose EXIF orientation is honoured, or (H, W, 3) uint8 RGB), one a box.

        boxes: what `window` takes; None: the whole image is one person's square. Returns, for each person, {"box":
        [x, y, side], "joints": {name: {"x", "y", "confidence", "detector_peak"}}}: image px, (0, 0) the centre of the
        first pixel. BadInput on an unreadable image, an array of another kind, or a box that is none.
        """
        name, pixels = (
            ("image", image)
            if isinstance(image, np.ndarray)
            else (str(image), read_image(Path(image)))
        )
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
            raise BadInput(name, f"{pixels.dtype} of shape {pixels.shape}", "(H, W, 3) uint8, RGB")
        frames = windows(boxes, pixels.shape, self.image_size, name)
        return self.people([frame.cut(pixels) for frame in frames], frames)

    def people(self, crops: list[np.ndarray], frames: list[Frame]) -> list[dict]:
        """The same of crops (S, S, 3) uint8 and the frames that cut them, of whatever images, in
        common batches. BadInput as `locate`."""
        if not crops:
            return []
        batches = torch.from_numpy(np.stack(crops)).split(BATCH)
        found = locate(self.cascade, batches, frames, self.flip_test, self.decoder, self.precision)
        numbers = np.dstack([found.joints, found.confidence, found.detector_peak])
        keys = ("x", "y", "confidence", "detector_peak")
        return [
            {
                "box": [*(np.array(frame.center) - (frame.side - 1) / 2).tolist(), frame.side],
                "joints": {name: dict(zip(keys, row)) for name, row in zip(MPII.names, rows)},
            }
            for frame, rows in zip(frames, numbers.tolist())
        ]


def load(folder: str | Path | None = None, trunk=None) -> PoseEstimator:
    """The estimator of a run's folder (its latest stage) or of one stage's, on the GPU if there is one.

    folder: without one, the released weights.
    trunk: as for cascade.load. BadInput on a folder without weights, or weights that do not fit.
    """
    folder = networks.stage_folder(folder or RELEASED)
    cascade, made = networks.load(folder, trunk), artifacts.manifest(folder)
    if "image_size" not in made["network"]:
        raise BadInput(folder / artifacts.MANIFEST, "no network.image_size", "the crop's side, px")
    settings = made.get("settings", {})
    kept = ("decoder", "flip_test", "precision", "workers")
    chosen = {name: settings[name] for name in kept if name in settings}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return PoseEstimator(cascade.to(device), cascade.network["image_size"], **chosen)


def square(box: Sequence, name: str = "boxes") -> tuple[np.ndarray, np.ndarray, float]:
    """((x, y) of the first corner, of the corner beyond, side of the network's square), px, of
    what `window` takes.

    BadInput, beginning with `name`, on what is no list of three or four real numbers, or is too
    small a box.
    """
    found = box if isinstance(box, (list, tuple, np.ndarray)) else []
    if all(isinstance(n, Real) and not isinstance(n, bool) and abs(n) < 1e6 for n in found):
        first, far = np.array(found[:2], float), np.array(found[2:], float)
        if len(found) == 3:
            return _large_enough(first, first + far, far[0], box, name)
        if len(found) == 4:
            return _large_enough(first, far, (far - first).max() * MARGIN, box, name)
    raise _no_box(box, name)


def _large_enough(first, beyond, side, box, name):
    if side < SMALLEST or (beyond - first < 1).any():
        raise _no_box(box, name)
    return first, beyond, float(side)


def _no_box(box, name, where=""):
    wanted = f"[x, y, side] or [x1, y1, x2, y2], px, with a side of {SMALLEST} px or more"
    return BadInput(name, f"the box {repr(box)[:80]}", wanted + where)


def window(box: Sequence, shape: tuple, image_size: int, name: str = "boxes") -> Frame:
    """The square that the network sees, of a box on an image (H, W, …).

    [x, y, side] is that square itself, image[y:y + side, x:x + side] in numpy's terms; the person's upright height
    should be about 0.8 of its side, as in training (F1). [x1, y1, x2, y2] is a box tight around the person,
    image[y1:y2, x1:x2], whose longer side is taken for that height. BadInput, beginning with `name`, on anything else
    and on a box that misses the image or is over ten times as large.
    """
    first, beyond, side = square(box, name)
    missed = (beyond <= 0).any() or (first >= shape[1::-1]).any()
    if missed or side > 10 * max(shape[:2]):
        raise _no_box(box, name, f", on the image of {shape[1]} × {shape[0]} px")
    return Frame(tuple((first + beyond - 1) / 2), side, image_size, side / MARGIN)


def windows(
    boxes: Sequence | None, shape: tuple, image_size: int, name: str = "boxes"
) -> list[Frame]:
    """The windows of all boxes; of None the square around the whole image."""
    if boxes is None:
        side = max(shape[:2])
        boxes = [[(shape[1] - side) / 2, (shape[0] - side) / 2, side]]
    return [window(box, shape, image_size, name) for box in boxes]


def photographs(
    estimator: PoseEstimator,
    images: Sequence[Path],
    boxes: Path | None = None,
    detect: bool = False,
) -> Iterator[tuple[Path, np.ndarray, list[dict]]]:
    """(file, its pixels (H, W, 3) uint8 RGB, its people as `PoseEstimator.predict` says them), one
    image at a time.

    Where people are says the boxes file (`read_boxes`) or torchvision's person detector, else each image is one person.
    Images are read, once, while the cascade works on those before; the people of some images go
    through together. BadInput on an image that cannot be used, after the answers for those before
    it.
    """
    if boxes and detect:
        raise BadInput("--boxes", "--people detect beside it", "one of the two")
    wanted = read_boxes(boxes, images) if boxes else [None] * len(images)
    device = estimator.cascade.mean.device
    finder = person_detector().to(device) if detect else None

    def photograph(path, found):
        pixels, name = read_image(path), f"{boxes or '--people'}: {path.name}"
        found = detect_people(finder, pixels, device=device) if detect else found
        frames = windows(found, pixels.shape, estimator.image_size, name)
        return path, pixels, frames, [frame.cut(pixels) for frame in frames]

    for group in ahead(grouped(map(photograph, images, wanted))):
        crops = [crop for *_, some in group for crop in some]
        frames = [frame for _, _, some, _ in group for frame in some]
        people = iter(estimator.people(crops, frames))
        for path, pixels, some, _ in group:
            yield path, pixels, [next(people) for _ in some]


def grouped(photos: Iterable[tuple]) -> Iterator[list[tuple]]:
    """Photographs (…, pixels, frames, …) in groups of a batch of people or of 250 MB of pixels.

    What is read before a BadInput is given before it is raised.
    """
    group, full = [], 0.0
    try:
        for photo in photos:
            group.append(photo)
            full += max(len(photo[2]) / BATCH, photo[1].size / 250e6)
            if full >= 1:
                yield group
                group, full = [], 0.0
    except BadInput:
        if group:
            yield group
        raise
    if group:
        yield group


def read_boxes(path: Path, images: Sequence[Path]) -> list[list]:
    """Each image's boxes from a JSON file {image: [box, …]}, where an image is its path as given or its file name.

    The file may speak of more images. BadInput if it does not of one that is given, or anything in
    it is no box.
    """
    table = artifacts.read_json(path)
    for image, boxes in table.items() if isinstance(table, dict) else ():
        for box in boxes if isinstance(boxes, list) else [boxes]:
            square(box, f"{path}: {image}")
    found = [
        table.get(str(image), table.get(image.name)) if isinstance(table, dict) else None
        for image in images
    ]
    for image, boxes in zip(images, found):
        if not isinstance(boxes, list):
            raise BadInput(
                path,
                f"no list of boxes for {image.name}",
                f'{{"{image.name}": [[x, y, side], …], …}}',
            )
    return found


def person_detector() -> nn.Module:
    """torchvision's Faster R-CNN, trained on COCO. BadInput where its weights can neither be found nor fetched."""
    try:
        return torchvision.models.get_model(PERSON_DETECTOR, weights="DEFAULT").eval()
    except (OSError, RuntimeError) as error:  # the latter: fetched, but not what its hash says
        raise BadInput(
            f"weights of {PERSON_DETECTOR}",
            str(error).splitlines()[0],
            "torchvision's weights to be reachable, or the people's boxes in a file (--boxes)",
        ) from None


@torch.no_grad()
def detect_people(
    detector: nn.Module, image: np.ndarray, least: float = 0.7, device: torch.device | str = "cpu"
) -> list[list[float]]:
    """Boxes [x1, y1, x2, y2], image px, of the people in an image (H, W, 3) uint8 that score at
    `least` so high.

    device: the detector's. A person smaller than a box may be is left out.
    """
    found = detector([torch.from_numpy(image).to(device).permute(2, 0, 1) / 255])[0]
    boxes, sides = found["boxes"], found["boxes"][:, 2:] - found["boxes"][:, :2]
    large = (sides.amin(1) >= 1) & (sides.amax(1) * MARGIN >= SMALLEST)
    person = found["labels"] == 1  # COCO's
    return boxes[large & person & (found["scores"] >= least)].tolist()


def output_stems(images: Sequence[Path], out: Path, boxes: Path | None = None) -> list[Path]:
    """OUT/STEM of each image, to which .json and .png belong.

    BadInput if two share one, or one is to be read, or one is there that `write_answer` has not
    written.
    """
    taken = {path.resolve(): path for path in (*images, *([boxes] if boxes else []))}
    stems = [out / image.stem for image in images]
    for image, stem in zip(images, stems):
        for written in (Path(f"{stem}.json"), Path(f"{stem}.png")):
            if (place := written.resolve()) in taken:
                raise BadInput(
                    image, f"{written} taken by {taken[place]}", "another --out, or other names"
                )
            taken[place] = image
    for stem in stems:
        _refuse_foreign(stem)
    return stems


def write_answer(stem: Path, image: Path, pixels: np.ndarray, people: list[dict]) -> None:
    """Write STEM.png, the overlay, and STEM.json, {"image", "people"}.

    The PNG keeps the sha256 of its own pixels and of the JSON, so that later calls know both for
    their own.
    """
    told = {"image": str(image), "people": people}
    text = (json.dumps(told, indent=2, ensure_ascii=False) + "\n").encode()
    drawn = overlay(pixels, people)
    mark = f"{_sha256(drawn)} {_sha256(text)}"
    artifacts.write_bytes(f"{stem}.png", encode_png(drawn, {WRITTEN: mark}))
    artifacts.write_bytes(f"{stem}.json", text)


def _refuse_foreign(stem):
    """BadInput if STEM.png or STEM.json is there, but not as `write_answer` has left it."""
    drawn, told = Path(f"{stem}.png"), Path(f"{stem}.json")
    pixels_sha, json_sha = _mark(drawn)
    same_pixels = pixels_sha and pixels_sha == _sha256(read_image(drawn))
    same_json = json_sha and told.is_file() and json_sha == artifacts.file_hash(told)
    for path, same in ((drawn, same_pixels), (told, same_json)):
        if os.path.lexists(path) and not same:
            raise BadInput(
                path, "a file that this command did not write", "another --out: it would be lost"
            )


def _mark(path):
    """What `write_answer` wrote into an overlay, (sha256 of its pixels, of the JSON); empty texts
    of any other file."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            drawn, told = image.info[WRITTEN].split()
    except Exception:  # absent, no PNG, a PNG of somebody else: Pillow has many words for it
        return "", ""
    return drawn, told


def _sha256(data):
    return hashlib.sha256(data).hexdigest()


def overlay(
    image: np.ndarray, people: list[dict], sure: float = SURE, nothing: float = 0.01
) -> np.ndarray:
    """A copy of the image (H, W, 3) with people (as `PoseEstimator.predict` gives them) and their squares on it.

    Right parts orange, circles; left blue, squares; the middle line green, diamonds. A joint whose confidence is below
    `sure` is hollow and its limbs are thin, below `nothing` it is left out. Without matplotlib, slow to import.
    """
    drawn = image.copy()
    for person in people:
        x, y, side = person["box"]
        width = max(1, round(min(side, *image.shape[:2]) / 110))
        thin = max(1, width // 3)
        square = np.array([x, y]) - 0.5 + side * np.array([(0, 0), (0, 1), (1, 1), (1, 0)])
        _polygon(drawn, square, None, WHITE, thin)
        rows = np.array(
            [[joint["x"], joint["y"], joint["confidence"]] for joint in person["joints"].values()]
        )
        points, firm = np.where(rows[:, 2:] >= nothing, rows[:, :2], np.nan), rows[:, 2] >= sure
        ends = middled(points)
        limbs = [limb for limb in MPII.limbs if np.isfinite(ends[list(limb)]).all()]
        for edge in (2 * thin, 0):  # white edges under all limbs, for any background
            for limb in limbs:
                thickness = width if firm[list(limb)].all() else thin
                _polygon(
                    drawn,
                    ends[list(limb)],
                    None,
                    WHITE if edge else _sign(limb[0])[0],
                    thickness + edge,
                )
        for joint in np.flatnonzero(np.isfinite(points).all(1)):
            colour, corners = _sign(joint)
            fill, edge = (colour, WHITE) if firm[joint] else (WHITE, colour)
            _polygon(
                drawn, points[joint] + 1.3 * (width + 1) * corners, fill, edge, max(1, width // 2)
            )
    return drawn


def middled(joints: np.ndarray) -> np.ndarray:
    """Joints (16, 2) with an absent (NaN) pelvis or thorax in the middle of hips or shoulders, for limbs to meet there:
    LSP and LSPET have neither."""
    joints = np.array(joints, dtype=float)
    for middle, group in (("pelvis", "hip"), ("thorax", "shoulder")):
        if np.isnan(joints[MPII.index(middle)]).any():
            joints[MPII.index(middle)] = np.mean(
                [joints[MPII.index(name)] for name in MPII.groups[group]], axis=0
            )
    return joints


def _sign(joint):
    """((R, G, B), (n, 2) the marker's corners around 0) of a joint, by its name."""
    side = MPII.names[joint].partition("_")[0]
    colour, count = SIDES.get(side, ((0, 158, 115), 4))
    angles = 2 * np.pi * (np.arange(count) + (side == "left") / 2) / count
    return colour, np.column_stack([np.cos(angles), np.sin(angles)])


def _polygon(drawn, corners, fill, edge, thickness):
    """Corners in px and fractions of them; (0, 0) is the centre of the first pixel, for OpenCV too."""
    corners = np.rint(16 * corners).astype(np.int32)[:, None]
    if fill is not None:
        cv2.fillPoly(drawn, [corners], fill, cv2.LINE_AA, shift=4)
    cv2.polylines(drawn, [corners], True, edge, thickness, cv2.LINE_AA, shift=4)


def encode_png(image: np.ndarray, text: dict[str, str] | None = None) -> bytes:
    """An image (H, W, 3) uint8 RGB as a PNG file's bytes, with entries of text."""
    entries, file = PngImagePlugin.PngInfo(), io.BytesIO()
    for name, value in (text or {}).items():
        entries.add_text(name, value)
    Image.fromarray(image).save(file, "PNG", compress_level=1, pnginfo=entries)
    return file.getvalue()


class _Confidences(nn.Module):
    """Crops in, tensors only out: the detector's confidences and, where there is one, the regressor's maps."""

    def __init__(self, cascade: Cascade):
        super().__init__()
        self.cascade = cascade

    def forward(self, images):
        maps = self.cascade(images)
        return tuple(
            part
            for part in (self.cascade.confidence(maps.detector), maps.regressor)
            if part is not None
        )


def export_onnx(cascade: Cascade, path: str | Path) -> None:
    """Write a cascade as ONNX, opset 18: uint8 RGB `images` (B, S, S, 3) in, B free and S as trained; `detector`
    (B, 16, h, w) confidences and, where there is one, `regressor` (B, 16, h, w) maps out. No flip test, no decoder.

    The file's metadata hold joints, map_stride and image_size. BadInput without the packages of hpe-lib[onnx].
    """
    if importlib.util.find_spec("onnxscript") is None:
        raise BadInput("ONNX export", "no onnxscript", "pip install 'hpe-lib[onnx]'")
    size, network = (
        cascade.network["image_size"],
        _Confidences(deepcopy(cascade).cpu().float()).eval(),
    )
    program = torch.onnx.export(
        network,
        (torch.zeros(2, size, size, 3, dtype=torch.uint8),),
        dynamo=True,
        opset_version=18,
        verbose=False,
        input_names=["images"],
        output_names=["detector", "regressor"][: 1 + (cascade.regressor is not None)],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    program.model.metadata_props.update(
        joints=",".join(MPII.names), map_stride=str(cascade.map_stride), image_size=str(size)
    )
    artifacts.write_bytes(path, program.model_proto.SerializeToString())
