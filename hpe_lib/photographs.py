"""Pose estimation on photographs with person boxes, and the output files of `hpe predict`."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from hpe_lib import cascade as networks
from hpe_lib.cascade import Cascade
from hpe_lib.data.images import MAX_JPEG_PIXELS, read_image
from hpe_lib.geometry import Frame
from hpe_lib.paper import MARGIN, RELEASED
from hpe_lib.prediction import predict_crops, prefetch
from hpe_lib.skeleton import MPII, TORSO, fill_torso
from hpe_lib.trunks import Trunk, torchvision_net
from hpe_lib.view.drawing import FAINT, draw_people, encode_png
from hpe_lib.workbook import artifacts
from hpe_lib.workbook.artifacts import BadInput

PERSON_DETECTOR = "fasterrcnn_mobilenet_v3_large_fpn"  # torchvision's
SMALLEST = 16  # px, least side of a square; a smaller number is a fraction or MPII's scale
BATCH = 16  # people of photographs that go through the network together
MAX_BOXES = 1000  # in an image; their crops are held in memory together
BATCH_BYTES = 250e6  # bytes of photographs that are held in memory together
MARK = "hpe predict"  # PNG text entry by which we recognise overlays that we wrote


@dataclass(frozen=True)
class PoseEstimator:
    """A trained cascade for photographs, with the settings of its run.

    image_size: the crop's side, px. precision: as in training.
    workers: processes that prepare crops in `prediction.predict`.
    unlabelled: joints of which no training person had a label.
    """

    cascade: Cascade
    image_size: int
    decoder: str = "parabola"
    flip_test: bool = True
    precision: str = "no"
    workers: int = 0
    unlabelled: Sequence[str] = ()

    @property
    def settings(self) -> dict:
        """The arguments of `prediction.predict` besides the people."""
        return {name: value for name, value in vars(self).items() if name != "unlabelled"}

    def predict(self, image: str | Path | np.ndarray, boxes: Sequence | None = None) -> list[dict]:
        """The people in an image, one for each box.

        image: a file, whose EXIF orientation is honoured, or (H, W, 3) uint8 RGB.
        boxes: as for `box_frame`. None: the whole image is one person's square.
        Returns {"box": [x, y, side], "joints": {name: {"x", "y", "confidence", "detector_peak"}}}
        for each person, in image px; (0, 0) is the centre of the first pixel. A pelvis or thorax
        that the weights have not learned has confidence 0 (`place_unlearned`).
        BadInput on an unreadable image, an array of another kind, or a bad box.
        """
        if not isinstance(image, (str, Path, np.ndarray)):
            raise BadInput("image", f"a {type(image).__name__}", "a path or (H, W, 3) uint8, RGB")
        if isinstance(image, np.ndarray):
            name = "image"
            pixels = image
        else:
            name = str(image)
            pixels = read_image(Path(image))
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
            raise BadInput(name, f"{pixels.dtype} of shape {pixels.shape}", "(H, W, 3) uint8, RGB")
        frames = box_frames(boxes, pixels.shape, self.image_size, name)
        return self.predict_people([frame.crop(pixels) for frame in frames], frames)

    def predict_people(self, crops: list[np.ndarray], frames: list[Frame]) -> list[dict]:
        """The people in crops (S, S, 3) uint8, which the frames cut from any images.

        Returns what `predict` does. BadInput on weights that predict NaN or infinity.
        """
        if not crops:
            return []
        batches = torch.from_numpy(np.stack(crops)).split(BATCH)
        found = predict_crops(
            self.cascade, batches, frames, self.flip_test, self.decoder, self.precision
        )
        numbers = np.dstack([found.joints, found.confidence, found.detector_peak])
        place_unlearned(numbers, self.unlabelled)
        keys = ("x", "y", "confidence", "detector_peak")
        return [
            {
                "box": [*(np.array(frame.center) - (frame.side - 1) / 2).tolist(), frame.side],
                "joints": {name: dict(zip(keys, row)) for name, row in zip(MPII.names, rows)},
            }
            for frame, rows in zip(frames, numbers.tolist())
        ]


def place_unlearned(numbers: np.ndarray, unlabelled: Sequence[str] = ()) -> None:
    """Put a pelvis or thorax that is unlabelled, or whose map is empty, between hips or shoulders,
    with confidence 0.

    numbers: (N, 16, 4), x, y, confidence and detector's peak; changed in place. LSP and LSPET label
    neither point. Weights that have learned from them alone answer with an empty map, a first
    network with a flat one or whatever else, and the place of its peak means nothing.
    """
    for person in numbers:
        empty = [row for row in TORSO if person[row, 2] < FAINT or MPII.names[row] in unlabelled]
        person[empty] = (np.nan, np.nan, 0, 0)
        person[:, :2] = fill_torso(person[:, :2])


def load(
    folder: str | Path | None = None, trunk: Callable[[bool], Trunk] | str | None = None
) -> PoseEstimator:
    """The estimator of a run's folder (its latest stage) or of one stage's, on the GPU if any.

    folder: without one, the released weights. trunk: as for cascade.load.
    BadInput on a folder without weights, or weights that do not fit.
    """
    folder = networks.stage_folder(folder or RELEASED)
    cascade = networks.load(folder, trunk)
    manifest = artifacts.manifest(folder)
    if "image_size" not in manifest["network"]:
        raise BadInput(folder / artifacts.MANIFEST, "no network.image_size", "the crop's side, px")
    settings = manifest.get("settings", {})
    names = ("decoder", "flip_test", "precision", "workers")
    chosen = {name: settings[name] for name in names if name in settings}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen["unlabelled"] = manifest.get("unlabelled", [])
    return PoseEstimator(cascade.to(device), cascade.network["image_size"], **chosen)


def parse_box(box: Sequence, name: str = "boxes") -> tuple[np.ndarray, np.ndarray, float]:
    """A box as `box_frame` takes it: (first corner, last corner exclusive, side of the square), px.

    BadInput, beginning with `name`, unless it is a list of three or four real numbers and large
    enough.
    """
    numbers = box if isinstance(box, (list, tuple, np.ndarray)) else []
    real = all(isinstance(n, Real) and not isinstance(n, bool) and abs(n) < 1e6 for n in numbers)
    if not real or len(numbers) not in (3, 4):
        raise _bad_box(box, name)
    numbers = np.array(numbers, float)
    first = numbers[:2]
    if len(numbers) == 3:
        side = numbers[2]
        beyond = first + side
    else:
        beyond = numbers[2:]
        side = (beyond - first).max() * MARGIN
    if side < SMALLEST or (beyond - first < 1).any():
        raise _bad_box(box, name)
    return first, beyond, float(side)


def _bad_box(box, name, where=""):
    wanted = f"[x, y, side] or [x1, y1, x2, y2], px, with a side of {SMALLEST} px or more"
    return BadInput(name, f"the box {repr(box)[:80]}", wanted + where)


def box_frame(box: Sequence, shape: tuple, image_size: int, name: str = "boxes") -> Frame:
    """The frame for a person's box on an image of a shape (H, W, …).

    box: [x, y, side] is the square that the network sees, image[y:y + side, x:x + side]; the
    person's upright height should be about 0.8 of its side, as in training (F1).
    [x1, y1, x2, y2] is tight around the person, image[y1:y2, x1:x2]; its longer side is taken for
    that height.
    BadInput, beginning with `name`, on anything else, and on a box that misses the image or is
    over ten times as large.
    """
    first, beyond, side = parse_box(box, name)
    missed = (beyond <= 0).any() or (first >= shape[1::-1]).any()
    if missed or side > 10 * max(shape[:2]):
        raise _bad_box(box, name, f", on the image of {shape[1]} × {shape[0]} px")
    return Frame(tuple((first + beyond - 1) / 2), side, image_size, side / MARGIN)


def box_frames(
    boxes: Sequence | None, shape: tuple, image_size: int, name: str = "boxes"
) -> list[Frame]:
    """The frames for all boxes. Without boxes, one for the square around the whole image."""
    if boxes is None:
        side = max(shape[:2])
        if side < SMALLEST:
            found = f"an image of {shape[1]} × {shape[0]} px"
            raise BadInput(name, found, f"one of {SMALLEST} px or more on its longer side")
        boxes = [[(shape[1] - side) / 2, (shape[0] - side) / 2, side]]
    if not isinstance(boxes, (list, tuple, np.ndarray)):
        raise BadInput(name, f"a {type(boxes).__name__}", "a list of boxes")
    if len(boxes) > MAX_BOXES:
        raise BadInput(name, f"{len(boxes)} boxes", f"{MAX_BOXES} at most in an image")
    return [box_frame(box, shape, image_size, name) for box in boxes]


def predict_photographs(
    estimator: PoseEstimator,
    images: Sequence[Path],
    boxes: Path | None = None,
    detect: bool = False,
) -> Iterator[tuple[Path, np.ndarray, list[dict]]]:
    """(file, its pixels (H, W, 3) uint8 RGB, its people) for each image, in order.

    The people are those of the boxes file (`read_boxes`) or those that torchvision's detector
    finds; without either, each image is one person. They are as `PoseEstimator.predict` returns
    them. Images are read while the cascade works on those before, and the people of several
    images go through it together. BadInput on an image that cannot be used, after the results for
    those before it.
    """
    if boxes and detect:
        raise BadInput("--boxes", "--people detect beside it", "one of the two")
    wanted = read_boxes(boxes, images) if boxes else [None] * len(images)
    device = estimator.cascade.mean.device
    finder = person_detector().to(device) if detect else None

    def read(path: Path, found: list | None) -> tuple:
        """(file, pixels, frames, crops) of an image with these boxes."""
        pixels = read_image(path)
        name = f"{boxes}: {path.name}" if boxes else str(path)
        found = detect_people(finder, pixels, device=device) if detect else found
        frames = box_frames(found, pixels.shape, estimator.image_size, name)
        return path, pixels, frames, [frame.crop(pixels) for frame in frames]

    for group in prefetch(group_photographs(map(read, images, wanted))):
        crops = [crop for *_, own_crops in group for crop in own_crops]
        frames = [frame for _, _, own_frames, _ in group for frame in own_frames]
        people = iter(estimator.predict_people(crops, frames))
        for path, pixels, own_frames, _ in group:
            yield path, pixels, [next(people) for _ in own_frames]


def group_photographs(photographs: Iterable[tuple]) -> Iterator[list[tuple]]:
    """Photographs (…, pixels, frames, …) in groups of a batch of people or BATCH_BYTES.

    Those that are read before a BadInput are yielded before it is raised.
    """
    group = []
    full = 0.0
    try:
        for photograph in photographs:
            group.append(photograph)
            full += max(len(photograph[2]) / BATCH, photograph[1].size / BATCH_BYTES)
            if full >= 1:
                yield group
                group = []
                full = 0.0
    except BadInput:
        if group:
            yield group
        raise
    if group:
        yield group


def read_boxes(path: Path, images: Sequence[Path]) -> list[list]:
    """Each image's boxes from a JSON file {image: [box, …]}.

    An image is named by its path, or by its file name if that is the only one of this name there.
    The file may name further images. BadInput if an image is absent, or anything is not a box.
    """
    table = artifacts.read_json(path)
    table = table if isinstance(table, dict) else {}
    for image, boxes in table.items():
        for box in boxes if isinstance(boxes, list) else [boxes]:
            parse_box(box, f"{path}: {image}")
    by_path = {os.path.abspath(image): boxes for image, boxes in table.items()}
    names = Counter(Path(image).name for image in table)
    by_name = {name: boxes for name, boxes in table.items() if names[name] == 1}
    found = []
    for image in images:
        otherwise = by_path.get(os.path.abspath(image), by_name.get(image.name))
        found.append(table.get(str(image), otherwise))  # the name as it is goes first
    for image, boxes in zip(images, found):
        if not isinstance(boxes, list):
            expected = f'{{"{image.name}": [[x, y, side], …], …}}'
            raise BadInput(path, f"no list of boxes for {image.name}", expected)
    return found


def person_detector() -> nn.Module:
    """torchvision's Faster R-CNN, trained on COCO. BadInput if its weights cannot be had."""
    instead = "the people's boxes in a file (--boxes)"
    return torchvision_net(PERSON_DETECTOR, "COCO_V1", instead).eval()


@torch.no_grad()
def detect_people(
    detector: nn.Module, image: np.ndarray, least: float = 0.7, device: torch.device | str = "cpu"
) -> list[list[float]]:
    """Boxes [x1, y1, x2, y2], image px, of the people in an image (H, W, 3) uint8 RGB.

    least: score from which a person counts. device: the detector's. People smaller than the
    smallest box are left out.
    """
    found = detector([torch.from_numpy(image).to(device).permute(2, 0, 1) / 255])[0]
    boxes = found["boxes"]
    sides = boxes[:, 2:] - boxes[:, :2]
    large = (sides.amin(1) >= 1) & (sides.amax(1) * MARGIN >= SMALLEST)
    person = found["labels"] == 1  # COCO's
    return boxes[large & person & (found["scores"] >= least)].tolist()


def output_stems(images: Sequence[Path], out: Path, boxes: Path | None = None) -> list[Path]:
    """OUT/STEM for each image, to which .json and .png are added.

    BadInput if two images share one, if it is a file to be read, or if it exists and
    `write_prediction` has not written it.
    """
    if out.exists() and not out.is_dir():
        raise BadInput(out, "a file", "a folder, or a name that is free")
    taken = {path.resolve(): path for path in images}
    if boxes:
        taken[boxes.resolve()] = boxes
    stems = [out / image.stem for image in images]
    for image, stem in zip(images, stems):
        for written in (Path(f"{stem}.json"), Path(f"{stem}.png")):
            if (place := written.resolve()) in taken:
                found = f"{written} taken by {taken[place]}"
                raise BadInput(image, found, "another --out, or other names")
            taken[place] = image
    for stem in stems:
        _refuse_foreign(stem)
    return stems


def write_prediction(stem: Path, image: Path, pixels: np.ndarray, people: list[dict]) -> None:
    """Write STEM.png, the overlay, and STEM.json, {"image", "people"}.

    The PNG keeps the sha256 of its own pixels and of the JSON, so that later calls may replace
    both.
    """
    text = artifacts.json_bytes({"image": str(image), "people": people})
    drawn = draw_people(pixels, people)
    mark = f"{_sha256(drawn)} {_sha256(text)}"
    artifacts.write_files({f"{stem}.png": encode_png(drawn, {MARK: mark}), f"{stem}.json": text})


def _refuse_foreign(stem):
    """BadInput if STEM.png or STEM.json exists, but not as `write_prediction` has left it."""
    drawn = Path(f"{stem}.png")
    answer = Path(f"{stem}.json")
    same_pixels, json_sha = _read_mark(drawn)
    same_json = json_sha and answer.is_file() and json_sha == artifacts.file_hash(answer)
    for path, same in ((drawn, same_pixels), (answer, same_json)):
        if os.path.lexists(path) and not same:
            found = "a file that this command did not write"
            if not os.path.lexists(drawn):  # it tells which JSON is ours
                found += f", or whose {drawn.name} is gone"
            raise BadInput(path, found, "another --out: it would be lost")


def _read_mark(path):
    """Has an overlay its own pixels still, and its JSON's sha256; (False, "") for others."""
    try:
        with artifacts.open_file(path) as file, Image.open(file, formats=["PNG"]) as image:
            pixels_sha, json_sha = image.info[MARK].split()
            known_size = image.width * image.height <= MAX_JPEG_PIXELS  # as large as a photograph
            same_pixels = known_size and pixels_sha == _sha256(np.array(image))
    except Exception:  # absent, no PNG, somebody else's PNG: Pillow raises many kinds
        return False, ""
    return same_pixels, json_sha


def _sha256(data):
    return hashlib.sha256(data).hexdigest()
