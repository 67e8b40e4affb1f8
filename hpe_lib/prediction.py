"""Test time: crops through the cascade, with the flipped image, back to points of the image (F13)."""

import importlib.util
import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torchvision
from torch import nn
from torch.utils.data import DataLoader

from hpe_lib import artifacts, heatmaps
from hpe_lib import cascade as networks
from hpe_lib.artifacts import BadInput
from hpe_lib.cascade import Cascade, Maps, confidence
from hpe_lib.datasets import People, PoseDataset, read_image
from hpe_lib.geometry import Frame
from hpe_lib.paper import MARGIN
from hpe_lib.skeleton import MPII

SURE = 0.3  # a confidence from which on a joint is drawn as found
PERSON_DETECTOR = "fasterrcnn_mobilenet_v3_large_fpn"  # torchvision's
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
def forward(cascade: Cascade, images: torch.Tensor, flip_test: bool = True) -> Maps:
    """Maps of uint8 crops (B, S, S, 3); with flip_test the mean with the mirrored crop's maps, mirrored back.

    Both are computed in one pass. The detector's logits are averaged, not its probabilities.
    """
    if not flip_test:
        return cascade(images)
    both = cascade(torch.cat([images, images.flip(2)]))
    return Maps(*(None if maps is None else _with_mirrored(*maps.chunk(2)) for maps in both))


def _with_mirrored(maps, mirrored):
    return (maps + heatmaps.mirror(mirrored)) / 2


def predict(
    cascade: Cascade,
    people: People,
    image_size: int,
    batch_size: int = 64,
    flip_test: bool = True,
    decoder: str = "parabola",
    workers: int = 0,
) -> Predictions:
    """Poses of people in their frames. Without a regressor the cascade's answer is the detector's.

    Several processes (training.world) each look at a share of the people, and all return the answers for everybody.
    """
    from accelerate import PartialState  # here: slow to import, and a photograph needs none of it
    from accelerate.utils import gather_object

    rank, count = PartialState().process_index, PartialState().num_processes
    rows = np.arange(rank, max(len(people), count), count) % len(
        people
    )  # of fewer people than processes some twice
    loader = DataLoader(PoseDataset(people[rows], image_size), batch_size, num_workers=workers)
    frames = people[rows].frames(image_size)
    found = locate(cascade, (batch["image"] for batch in loader), frames, flip_test, decoder)
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
) -> Predictions:
    """Poses in N crops, given as batches (B, S, S, 3) uint8, said in the images that their N frames cut them from.

    The next batch is made while the network works on one; the frames may become known as the batches do.
    """
    cascade.eval()
    rows = []
    for images in ahead(batches):
        found = forward(cascade, images.to(cascade.mean.device), flip_test)
        rows.append(decode(found, cascade.map_stride, decoder, cascade.first))
    joints, peaks, *detector = (np.concatenate(part) for part in zip(*rows))
    points = [
        np.stack([frame.to_image(crop) for frame, crop in zip(frames, part)])
        for part in (joints, detector[0], detector[1])
    ]
    return Predictions(points[0], peaks, points[1], points[2], detector[2])


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
    """A trained cascade for photographs, with its run's own settings: the crop's side in px, decoder and flip test."""

    cascade: Cascade
    image_size: int
    decoder: str = "parabola"
    flip_test: bool = True

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

    def people(
        self, crops: Iterable[np.ndarray], frames: list[Frame], batch_size: int = 16
    ) -> list[dict]:
        """The same of crops (S, S, 3) uint8 and the frames that cut them, of whatever images, in common batches."""
        crops = iter(crops)
        batches = iter(lambda: list(itertools.islice(crops, batch_size)), [])
        if not (first := next(batches, [])):
            return []
        stacks = (torch.from_numpy(np.stack(batch)) for batch in itertools.chain([first], batches))
        found = locate(self.cascade, stacks, frames, self.flip_test, self.decoder)
        numbers = np.dstack([found.joints, found.confidence, found.detector_peak]).tolist()
        keys = ("x", "y", "confidence", "detector_peak")
        return [
            {
                "box": [*(np.array(frame.center) - (frame.side - 1) / 2).tolist(), frame.side],
                "joints": {name: dict(zip(keys, row)) for name, row in zip(MPII.names, rows)},
            }
            for frame, rows in zip(frames, numbers)
        ]


def load(folder: str | Path, trunk=None) -> PoseEstimator:
    """The estimator of a run's folder (its latest stage) or of one stage's, on the GPU if there is one.

    trunk: as for cascade.load. BadInput on a folder without weights, or weights that do not fit.
    """
    folder = networks.stage_folder(folder)
    cascade, made = networks.load(folder, trunk), artifacts.manifest(folder)
    if "image_size" not in made["network"]:
        raise BadInput(folder / artifacts.MANIFEST, "no network.image_size", "the crop's side, px")
    settings = made.get("settings", {})
    chosen = {name: settings[name] for name in ("decoder", "flip_test") if name in settings}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return PoseEstimator(cascade.to(device), cascade.network["image_size"], **chosen)


def window(box: Sequence, shape: tuple, image_size: int, name: str = "boxes") -> Frame:
    """The square that the network sees, of a box on an image (H, W, …).

    [x, y, side] is that square itself, image[y:y + side, x:x + side] in numpy's terms; the person's upright height
    should be about 0.8 of its side, as in training (F1). [x1, y1, x2, y2] is a box tight around the person,
    image[y1:y2, x1:x2], whose longer side is taken for that height. BadInput, beginning with `name`, on anything else
    and on a box that misses the image or is over ten times as large.
    """
    try:
        x, y, *far = map(float, box)
        first, beyond = (
            np.array([x, y]),
            np.array(far if len(far) == 2 else [x + far[0], y + far[0]]),
        )
        side = (beyond - first).max() * (MARGIN if len(far) == 2 else 1)
        good = (
            len(far) < 3 and (beyond > np.maximum(first, 0)).all() and (first < shape[1::-1]).all()
        )
    except (TypeError, ValueError, IndexError):
        good = False
    if not good or not side <= 10 * max(shape[:2]):  # not: NaN too
        raise BadInput(
            name,
            f"the box {box}",
            f"[x, y, side > 0] or [x1, y1, x2 > x1, y2 > y1], px, on the image of "
            f"{shape[1]} × {shape[0]} px",
        )
    return Frame(tuple((first + beyond - 1) / 2), float(side), image_size, float(side / MARGIN))


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
) -> list[dict]:
    """Predict JSON {"image", "people"} of image files; the people of all images go through in common batches.

    Where people are says the boxes file (`read_boxes`) or torchvision's person detector, else each image is one person.
    Images are read while the cascade works on those before. BadInput leaves nothing behind: all are given at the end.
    """
    if boxes and detect:
        raise BadInput("--boxes", "--people detect beside it", "one of the two")
    wanted = read_boxes(boxes, images) if boxes else [None] * len(images)
    finder, frames, counts = person_detector() if detect else None, [], []

    def crops(path, found):
        pixels = read_image(path)
        found = detect_people(finder, pixels) if detect else found
        found = windows(
            found, pixels.shape, estimator.image_size, f"{boxes or '--people'}: {path.name}"
        )
        frames.extend(found)
        counts.append(len(found))
        return [frame.cut(pixels) for frame in found]

    people = iter(
        estimator.people(itertools.chain.from_iterable(map(crops, images, wanted)), frames)
    )
    return [
        {"image": str(path), "people": [next(people) for _ in range(count)]}
        for path, count in zip(images, counts)
    ]


def read_boxes(path: Path, images: Sequence[Path]) -> list[list]:
    """Each image's boxes from a JSON file {image: [box, …]}, where an image is its path as given or its file name.

    The file may speak of more images. BadInput if it does not of one that is given.
    """
    table = artifacts.read_json(path)
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
def detect_people(detector: nn.Module, image: np.ndarray, least: float = 0.7) -> list[list[float]]:
    """Boxes [x1, y1, x2, y2], image px, of the people in an image (H, W, 3) uint8 that score at `least` so high."""
    found = detector([torch.from_numpy(image).permute(2, 0, 1) / 255])[0]
    return found["boxes"][
        (found["labels"] == 1) & (found["scores"] >= least)
    ].tolist()  # COCO's 1 is a person


def output_stems(images: Sequence[Path], out: Path, boxes: Path | None = None) -> list[Path]:
    """OUT/STEM of each image, to which .json and .png belong. BadInput if two share one, or one is to be read."""
    taken = {path.resolve(): path for path in (*images, *([boxes] if boxes else []))}
    for image in images:
        for written in (out / f"{image.stem}.json", out / f"{image.stem}.png"):
            if (place := written.resolve()) in taken:
                raise BadInput(
                    image, f"{written} taken by {taken[place]}", "another --out, or other names"
                )
            taken[place] = image
    return [out / image.stem for image in images]


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


def encode_png(image: np.ndarray) -> bytes:
    """An image (H, W, 3) uint8 RGB as a PNG file's bytes."""
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


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
