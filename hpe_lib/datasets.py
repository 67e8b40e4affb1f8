"""People: who is annotated where, and the crops of them. Datasets give joints; targets are drawn later, per batch."""

import contextlib
import csv
import functools
import hashlib
import io
import os
import shutil
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from hpe_lib import annotations, artifacts, presets, synthetic
from hpe_lib.annotations import Annotations
from hpe_lib.artifacts import BadInput
from hpe_lib.geometry import Frame
from hpe_lib.paper import MARGIN
from hpe_lib.skeleton import ABSENT, MPII

try:
    import simplejpeg
except ImportError:  # on a bare GPU box: Pillow reads JPEGs then, and some damage goes unnoticed
    simplejpeg = None


@dataclass(frozen=True)
class People:
    """N annotated people and their images: one value for training and for scoring. Rows belong together.

    keys: (N,) who, e.g. "im00001.jpg" or, where images hold several, "005808361.jpg 2".
    images: images[i] is person i's (H, W, 3) uint8 RGB; images.cut(i, frame) the (S, S, 3) that a frame shows of it.
    joints: (N, 16, 2) float64, image px, (x, y), NaN where not annotated.  visibility: (N, 16) int8.
    center, side, body: (N, 2), (N,), (N,) the frame (geometry.Frame), image px.
    normaliser: (N,) image px, what errors are divided by (head size or torso), NaN where the truth cannot say.
    box: (N,) image px, the longer side of the annotated joints' box: another normaliser, there for everyone.
    metric: "PCKh@0.5" or "PCK@0.2".  occlusion_labels: does the data set say which joints are occluded?
    center_from_joints: does the frame come from the annotation, so that it is a hint from the truth?
    skipped: reason -> people left out on reading.  source: which labels were read, "" where there is no choice.
    """

    dataset: str
    keys: np.ndarray
    images: object
    joints: np.ndarray
    visibility: np.ndarray
    center: np.ndarray
    side: np.ndarray
    body: np.ndarray
    normaliser: np.ndarray
    box: np.ndarray
    metric: str
    occlusion_labels: bool
    center_from_joints: bool
    skipped: dict = field(default_factory=dict)
    source: str = ""

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, rows) -> "People":
        """The people of these rows: a slice, a boolean mask or an index array."""
        rows = np.arange(len(self))[rows]
        arrays = {
            f.name: getattr(self, f.name)[rows]
            for f in fields(self)
            if isinstance(getattr(self, f.name), np.ndarray) and f.name != "images"
        }
        return replace(self, images=Rows(self.images, rows), **arrays)

    def frame(self, row: int, image_size: int) -> Frame:
        """The window on person `row` for a crop of image_size px."""
        return Frame(
            tuple(self.center[row].tolist()),
            float(self.side[row]),
            image_size,
            float(self.body[row]),
        )

    def frames(self, image_size: int) -> list[Frame]:
        """(N,) windows on everybody."""
        return [self.frame(row, image_size) for row in range(len(self))]

    def crops(self, image_size: int) -> np.ndarray:
        """(N, S, S, 3) uint8 RGB, everybody as the network sees them."""
        return np.stack(
            [self.images.cut(row, frame) for row, frame in enumerate(self.frames(image_size))]
        )

    def fingerprint(self) -> str:
        """sha256 over who they are, what is annotated and how images are framed; pixels enter through their names."""
        digest = hashlib.sha256(
            repr((self.dataset, self.metric, list(self.keys), self.images.source)).encode()
        )
        for name in ("joints", "visibility", "center", "side", "body", "normaliser"):
            digest.update(np.ascontiguousarray(getattr(self, name)))
        return digest.hexdigest()


class Rows:
    """Some rows of an image source, in an order of their own."""

    def __init__(self, images, rows):
        self.images, self.rows, self.source = images, rows, images.source

    @property
    def paths(self):
        paths = self.images.paths  # once: it may be rows of rows
        return [paths[row] for row in self.rows]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, row):
        return self.images[self.rows[row]]

    def cut(self, row, frame):
        return self.images.cut(self.rows[row], frame)

    def changed(self, row):
        return self.images.changed(self.rows[row])


class ImageFiles:
    """Images on disk, read when asked for. source: what they are, said without where they lie."""

    def __init__(self, paths: list[Path], source: str):
        self.paths, self.source = paths, source

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, row: int) -> np.ndarray:
        return read_image(self.paths[row])

    def cut(self, row: int, frame: Frame) -> np.ndarray:
        """The frame's crop. Of a JPEG that is 2, 4 or 8 times finer than the crop no more is decoded than it needs: its
        blocks give means of as many pixels, which costs less and aliases less than every second pixel."""
        path, step = self.paths[row], 1
        while (
            step < 8
            and frame.side >= 2 * step * frame.image_size
            and path.suffix.lower() in (".jpg", ".jpeg")
        ):
            step *= 2
        return (
            frame.on(step).cut(read_image(path, step)) if step > 1 else frame.cut(read_image(path))
        )

    def changed(self, row: int) -> tuple[int, int]:
        """(bytes, time of the last change) of an image's file."""
        found = self.paths[row].stat()
        return found.st_size, found.st_mtime_ns


class Pixels:
    """Images in one array (N, H, W, 3) uint8, usually mapped from a file."""

    def __init__(self, array: np.ndarray, source: str):
        self.array, self.source = array, source

    def __len__(self):
        return len(self.array)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.array[row]

    def cut(self, row: int, frame: Frame) -> np.ndarray:
        return frame.cut(self.array[row])


MOST_PIXELS = 100_000_000  # pixels an image may declare; asked before any is decoded
FORMATS = (
    "PNG",
    "WEBP",
    "AVIF",
    "TIFF",
    "GIF",
    "BMP",
    "PPM",
    "JPEG2000",
)  # not EPS: it runs a program
# What libjpeg remarks on headers. The pixels are as they were written.
REMARKS = "Invalid SOS parameters", "unknown JFIF", "bad ICC marker", "Unknown Adobe color"
# A file that cannot be used is refused in one line; nobody has to read Pillow's warnings beside it.
warnings.filterwarnings("ignore", module=r"PIL\.")


def read_image(path: Path, step: int = 1) -> np.ndarray:
    """(H, W, 3) uint8 RGB of an image file, as `decode_image`. BadInput if absent, too."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except IsADirectoryError:
        raise BadInput(path, "a folder", "an image") from None
    except (FileNotFoundError, NotADirectoryError):
        raise BadInput(path, "no such file", "an image") from None
    except (OSError, ValueError) as error:  # no permission, a name too long or with a NUL
        raise BadInput(path, error, "an image") from None
    return decode_image(path, data, step)


def decode_image(name: str | Path, data: bytes, step: int = 1) -> np.ndarray:
    """(H, W, 3) uint8 RGB, upright as EXIF or an AVIF's own turn says. The first image of several.

    16-bit grey keeps its high byte, what is transparent lies on white, CMYK is multiplied out.
    step: 2, 4 or 8 gives an image as many times coarser, its sides rounded up.
    BadInput, with the file's name, if it is no image, is cut off or damaged, or is too large. What
    is zeroed or changed within BMP, PPM or TIFF cannot be told: to them it is a picture, too.
    """
    try:
        return _jpeg(data, step) if data[:2] == b"\xff\xd8" else _picture(data, step)
    except UnidentifiedImageError:
        fault = "no image that can be read"
    except Exception as error:  # Pillow raises whatever its formats stumble over
        fault = artifacts.one_line(error) or type(error).__name__
    raise BadInput(name, f"{len(data)} bytes: {fault}", f"a whole {EXPECTED}")


EXPECTED = f"JPEG, {', '.join(FORMATS)} image of at most {MOST_PIXELS / 1e6:.0f} million pixels"


def _jpeg(data, step):
    """A JPEG by libjpeg, any corruption an error: OpenCV fills what is lacking and goes on."""
    if simplejpeg is None:
        return _picture(data, step, ("JPEG",))
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:  # no header, or a sampling of colours that it does not know
        return _picture(data, step, ("JPEG",))
    _check_size(width, height)
    decode = functools.partial(
        simplejpeg.decode_jpeg,
        data,
        "CMYK" if colours in ("CMYK", "YCCK") else "RGB",
        min_height=-(-height // step),
        min_width=-(-width // step),
    )
    try:
        pixels = decode()
    except ValueError as error:
        if not any(remark in str(error) for remark in REMARKS):
            raise
        pixels = decode(strict=False)
    if pixels.shape[2] == 4:  # CMYK, inverted as Adobe writes it
        pixels = (pixels[..., :3] * (pixels[..., 3:] / 255)).astype(np.uint8)
    start = data.find(b"Exif\0\0", 0, 1 << 16)
    return pixels if start < 0 else _upright(pixels, data[start : start + (1 << 16)])


def _upright(pixels, block):
    """Pixels turned as a JPEG's EXIF block says; as they are if it is broken."""
    exif, image = Image.Exif(), Image.fromarray(pixels)
    with contextlib.suppress(Exception):  # as Pillow's formats, above
        exif.load(block)
        image.getexif()[ExifTags.Base.Orientation] = exif[ExifTags.Base.Orientation]
        return np.array(ImageOps.exif_transpose(image))
    return pixels


def _picture(data, step, formats=FORMATS):
    """An image of another format by Pillow."""
    Image.open(io.BytesIO(data), formats=formats).verify()  # PNG's checksums, which loading skips
    image = Image.open(io.BytesIO(data), formats=formats)
    _check_size(*image.size)
    _check_holes(image, data)
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("32-bit pixels")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.array(image.convert("RGB").reduce(step))


def _check_holes(image, data):
    """ValueError on zeros in a row such as no encoder writes, but an unfinished download holds.

    These formats have no checksums. Flat images have the longest runs: AVIF 16 bytes, JPEG 2000
    under 200, WebP one for 10,000 pixels.
    """
    most = {"AVIF": 512, "JPEG2000": 512, "WEBP": 512 + image.width * image.height // 2000}
    zeros = bytes(most.get(image.format, len(data) + 1))
    for name in ("exif", "icc_profile", "xmp"):  # cameras leave room in theirs
        data = data.replace((image.info.get(name) or b"").removeprefix(b"Exif\0\0"), b"")
    if zeros in data:
        raise ValueError(f"a hole of {len(zeros)} bytes or more")


def _check_size(width, height):
    if width * height > MOST_PIXELS:
        raise ValueError(f"{width} × {height} pixels")


def single_threaded_worker(worker: int) -> None:
    """For a DataLoader's worker_init_fn: its workers share the cores, so OpenCV takes one in
    each."""
    cv2.setNumThreads(0)


# ---- people cut out of large photographs, once

WIDEST, LARGEST = (
    0.7,
    1.3,
)  # §3.1's sizes of a person; at any angle a cached crop is wide and fine enough for them
QUALITY = 95  # of cached JPEGs


class Crops:
    """Images whose people were cut out into one file, to be augmented without reading the photographs again.

    A frame that is wider or finer than the file was made for is cut from the photograph after all.
    """

    def __init__(self, images, folder: Path, kind: str):
        self.images, self.source, self.kind = images, f"{images.source}, {kind} crops", kind
        self.pixels, self.index = folder / "pixels", np.load(folder / "index.npy")

    def __len__(self):
        return len(self.images)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.images[row]

    def cut(self, row: int, frame: Frame) -> np.ndarray:
        start, size, height, width, left, top, step, widest = self.index[row].tolist()
        if frame.side > widest or frame.side < step * frame.image_size and step > 1:
            return self.images.cut(row, frame)
        pixels = np.fromfile(self.pixels, np.uint8, int(size), offset=int(start))
        pixels = (
            pixels.reshape(int(height), int(width), 3)
            if self.kind == "raw"
            else cv2.imdecode(pixels, cv2.IMREAD_COLOR_RGB)
        )
        return frame.on(step, left, top).cut(pixels)


def surroundings(image: np.ndarray, frame: Frame) -> tuple[np.ndarray, int, int, float]:
    """All that augmentation can show of an image (H, W, 3): (pixels, left, top, step), see Frame.on.

    The square that holds the frame of a person WIDEST as large at any angle, without what is outside the image, and no
    finer, in quarters of a pixel, than the frame of a person LARGEST as large needs.
    """
    quarters = max(4, int(4 * frame.side / (LARGEST * frame.image_size)))
    reach = frame.side / WIDEST / 2**0.5 + quarters
    size = image.shape[1::-1]
    left, top = np.clip(
        [int(middle - reach) for middle in frame.center], 0, np.subtract(size, 1)
    ).tolist()
    right, bottom = np.clip(
        [int(middle + reach) + 2 for middle in frame.center], (left + 1, top + 1), size
    ).tolist()
    pixels = image[top:bottom, left:right]
    if (
        quarters > 4
    ):  # sides of as many pixels as the step has quarters, so that it is the same across and down
        below, beside = (-n % quarters for n in pixels.shape[:2])
        pixels = cv2.copyMakeBorder(pixels, 0, below, 0, beside, cv2.BORDER_CONSTANT)
        size = [4 * n // quarters for n in pixels.shape[1::-1]]
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return pixels, left, top, quarters / 4


def with_crops(people: People, image_size: int, kind: str, cache: Path) -> People:
    """The people with their crops kept in CACHE, made now if they are not there; drawn people and kind "" as they are.

    kind: "jpeg", of QUALITY, or "raw", about seven times as large, which needs no decoding. `hpe bench` measures both.
    Photographs that have changed since are cut anew.
    """
    if not kind or isinstance(people.images, Pixels):
        return people
    changed = [people.images.changed(row) for row in range(len(people))]
    made_from = repr((people.fingerprint(), changed, image_size, WIDEST, LARGEST, QUALITY))
    folder = cache / f"crops-{kind}-{hashlib.sha256(made_from.encode()).hexdigest()[:16]}"
    if not _intact(folder):
        with _whole(folder) as part:
            _cut_to(part, people, image_size, kind)
    return replace(people, images=Crops(people.images, folder, kind))


def _cut_to(folder, people, image_size, kind):
    """pixels and index.npy."""
    index, start = [], 0
    rows = tqdm(range(len(people)), desc="cutting people out", disable=None, mininterval=5)
    with open(folder / "pixels", "wb") as file:
        for row in rows:
            pixels, *placed = surroundings(people.images[row], people.frame(row, image_size))
            data = pixels.tobytes() if kind == "raw" else encoded(pixels)
            file.write(data)
            widest = people.side[row] / WIDEST + 1e-6
            index.append((start, len(data), *pixels.shape[:2], *placed, widest))
            start += len(data)
    np.save(folder / "index.npy", np.array(index))


@contextlib.contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A folder to write to, which gets its name once all of it is on the disk and has a
    manifest."""
    part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    part.mkdir(parents=True, exist_ok=True)
    try:
        yield part
        for path in part.iterdir():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        artifacts.write_json(part / artifacts.MANIFEST, _hashes(part))
        if not _intact(folder):  # or else another run has been first
            if folder.exists():
                print(f"{folder}: not as it was written, made anew", file=sys.stderr, flush=True)
            shutil.rmtree(folder) if folder.is_dir() else folder.unlink(missing_ok=True)
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _intact(folder: Path) -> bool:
    """Does a folder hold what `_whole` put there?"""
    with contextlib.suppress(BadInput, NotADirectoryError):
        return artifacts.read_json(folder / artifacts.MANIFEST) == _hashes(folder)
    return False


def _hashes(folder):
    """{file's name: sha256} of a folder without its manifest; "" of what is no file."""
    paths = (path for path in folder.iterdir() if path.name != artifacts.MANIFEST)
    return {path.name: artifacts.file_hash(path) if path.is_file() else "" for path in paths}


def encoded(pixels: np.ndarray) -> bytes:
    """Pixels (H, W, 3) uint8 RGB as a JPEG of QUALITY."""
    return cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()


def person_range(people: str) -> tuple[str, slice]:
    """ "8-9", "val" or "val 8-9" as (split, slice), see presets.person_range. BadInput on anything else."""
    found = presets.person_range(people)
    if found is None:
        raise BadInput("people", repr(people), presets.PEOPLE)
    return found


def _within(path: Path, people: str, found: Annotations) -> Annotations:
    """Those of a split that `people` asks for. BadInput if there are none, or fewer than asked for."""
    asked = person_range(people)[1]
    if len(found) < (least := asked.stop or 1):
        raise BadInput(path, f"{len(found)} people", f"at least the {least} of people {people}")
    return found[asked]


# ---- MPII Human Pose

SPLIT_SIZES = {
    ("mpii", "train"): 22246,
    ("mpii", "val"): 2958,  # of the published split (Tompson et al., CVPR 2015)
    ("lsp", "train"): 1000,
    ("lsp", "val"): 1000,
    ("lsp", "test"): 1000,
}


def load_mpii(root: Path, people: str = "all", only_present: bool = False) -> People:
    """People of MPII Human Pose: one ROOT/*.mat in the official layout, ROOT/images; for train and val ROOT/valid.h5.

    people: "val", the 2,958 of valid.h5 in its order, which is that of published prediction files; "train", everyone
    with points in an img_train image that holds nobody of val (22,246); "test", everyone with points in the other
    images; "all", in the file's order; or a range of these, "val 1-100" or "1-100".
    Frame (F1): centre objpos + (0, 15 · scale), side 1.25 · 200 · scale, body 200 · scale: made by the annotators.
    The file counts pixels from 1 and People from 0, so all points are moved by -1. Normaliser: the head size.
    BadInput on a wrong file, a split that is not as published, absent images.
    """
    path = _official_file(root)
    truth = _within(path, people, _mpii_split(root, path, person_range(people)[0]))
    placed = (truth.scale > 0) & ~np.isnan(truth.center).any(1)
    skipped = {**truth.skipped, "no position or scale": int((~placed).sum())}
    return _present(_mpii_people(root, truth[placed], skipped), only_present)


def _official_file(root: Path) -> Path:
    found, faults = [], []
    for path in sorted(root.glob("*.mat")):
        try:
            found += [path] if annotations.has_release(path) else []
        except BadInput as fault:
            faults.append(fault)
    if faults and not found:
        raise faults[0]
    if len(found) != 1:
        names = ", ".join(path.name for path in found)
        raise BadInput(
            root,
            f"{len(found)} .mat files in MPII's official layout {names}".strip(),
            "one, with RELEASE",
        )
    return found[0]


@functools.lru_cache(maxsize=1)
def _official(path: Path, changed: int) -> Annotations:
    """The official file, which takes seconds to read, once for train and val. changed: its time of change."""
    return annotations.mpii_official(path)


def _mpii_split(root: Path, path: Path, split: str) -> Annotations:
    truth = _official(path, path.stat().st_mtime_ns)
    if split == "all":
        return truth
    if split == "test":
        found = truth[~truth.train]
    elif split == "val":
        found = annotations.in_order_of(path, truth, root / "valid.h5")
    else:
        found = truth[
            truth.train & ~np.isin(truth.image, annotations.mpii_rows(root / "valid.h5")[0])
        ]
    if not len(found):
        raise BadInput(
            path, f"nobody of {split} among its {len(truth)} people", f"a file that holds {split}"
        )
    size = SPLIT_SIZES.get(("mpii", split), len(found))
    if len(truth) > 20000 and len(found) != size:  # fewer are a part of the official file's 40,000
        raise BadInput(
            path, f"{len(found)} people of {split}", f"the {size} of the published split"
        )
    return found


def _mpii_people(root, truth, skipped) -> People:
    keys = np.array([f"{image} {person}" for image, person in zip(truth.image, truth.person)])
    images = ImageFiles([root / "images" / name for name in truth.image], "mpii images")
    body, box = 200 * truth.scale, np.nanmax(truth.joints, axis=1) - np.nanmin(truth.joints, axis=1)
    return People(
        "mpii",
        keys,
        images,
        truth.joints - 1,
        truth.visibility,
        truth.center + np.outer(truth.scale, (0, 15)) - 1,
        MARGIN * body,
        body,
        truth.head_size,
        box.max(1),
        "PCKh@0.5",
        occlusion_labels=True,
        center_from_joints=True,
        skipped=skipped,
    )


# ---- Leeds Sports Pose, and its extension

LSP_BODY = 142.4  # image px: with MARGIN the authors' demo's side of 178
LSPET_BODY = 150.0  # image px: "roughly 150 px in length"
LSP_SPLITS = {"train": slice(1000), "val": slice(1000, 2000), "test": slice(1000, 2000)}


def load_lsp(root: Path, people: str = "all", only_present: bool = False) -> People:
    """People of Leeds Sports Pose: ROOT/joints.mat, (3, 14, 2000), and ROOT/images/im%04d.jpg.

    people: "train", 1-1000; "test" and "val", both 1001-2000; "all"; or a range of these. Third value 1 is occluded.
    Without joints.mat, lsp-joints-PC.mat is read. Whether left is the person's (PC, as in the paper) or the viewer's
    (OC, as in the original joints.mat) is as the file has it, and `source` says which.
    The frame is about the image's centre (F1), so it owes nothing to the joints. BadInput as load_lspet.
    """
    path, split = root / "joints.mat", person_range(people)[0]
    if not path.exists() and (root / "lsp-joints-PC.mat").exists():
        path = root / "lsp-joints-PC.mat"
    truth = _lsp_truth(path, "lsp")
    if split != "all" and len(truth) != 2000:
        raise BadInput(path, f"{len(truth)} people", f"LSP's 2000, to know which are {split}")
    source = f"{whose_left(truth.joints)} labels of {path.name}"
    truth = _within(path, people, truth[LSP_SPLITS.get(split, slice(None))])
    found = _present(_lsp_people("lsp", root, truth, LSP_BODY), only_present)
    found = replace(found, source=source)
    return found if only_present is None else about_image_centers(found, np.full(len(found), True))


def whose_left(joints: np.ndarray) -> str:
    """ "person-centric" or "observer-centric", of joints (N, 16, 2).

    Right limbs are left of left ones in 63 % of LSP's PC labels, as some people show their back, in
    87 % of its OC labels.
    """
    right = np.array([name.startswith("right_") for name in MPII.names])
    left = joints[:, MPII.mirror][:, right, 0]
    known = ~np.isnan(left + joints[:, right, 0])
    crossed = (joints[:, right, 0] < left)[known].mean() if known.any() else 0
    return ("person" if crossed < 0.75 else "observer") + "-centric"


def about_image_centers(people: People, rows: np.ndarray) -> People:
    """People whose frames are, in these rows (N,) bool, about their image's centre and owe nothing to the joints."""
    center = people.center.copy()
    for row in np.flatnonzero(rows):
        center[row] = (np.array(people.images[row].shape[1::-1]) - 1) / 2
    return replace(people, center=center, center_from_joints=not rows.all())


def load_lspet(root: Path, people: str = "all", only_present: bool = False) -> People:
    """People of Leeds Sports Pose Extended: ROOT/joints.mat, (14, 3, N), and ROOT/images/im%05d.jpg.

    Flag 1 is annotated, 0 not (the coordinates are garbage then). No occlusion labels: annotated counts as visible.
    The frame's centre is the middle of the annotated joints' box, a hint from the truth, as objpos is on MPII.
    People without a usable joint are skipped and counted. BadInput on a wrong file or absent images.
    """
    if person_range(people)[0] != "all":
        raise BadInput("people", repr(people), "FIRST-LAST or all: LSPET has no published split")
    truth = _within(root / "joints.mat", people, _lsp_truth(root / "joints.mat", "lspet"))
    return _present(_lsp_people("lspet", root, truth, LSPET_BODY), only_present)


LEEDS = {  # split -> who of LSP and of LSPET
    "train": {"lsp": "train", "lspet": "1-8000"},
    "val": {"lspet": "8001-8500"},
    "test": {"lsp": "test"},
}
# Above 0.97, all that `hpe check-data` measures. Below, the same photograph cut differently: found by features of a
# network and local ones that agree, then looked at. Other moments of a scene, with another pose, stay.
COPIES = Path(__file__).parent / "data" / "leeds_copies.csv"


def load_leeds(root: Path, people: str = "train", only_present: bool = False) -> People:
    """People of LSP and LSPET as one set: ROOT/lsp and ROOT/lspet, each as its own loader reads it.

    people: "train", LSP 1-1000 and LSPET 1-8000, without near-duplicates (COPIES) of people who are scored: LSP's test
    people and LSPET 8001-9000; "val", LSPET 8001-8500, for every choice; "test", LSP 1001-2000, when choices are over;
    or a range of these. Frames and visibility are each set's own: an LSP joint may be occluded, LSPET's are visible or
    absent, so only "test" has occlusion labels; and only LSPET's frames are a hint from the truth.
    BadInput on observer-centric labels, which would contradict LSPET's, and as load_lsp and load_lspet.
    """
    split, asked = person_range(people)
    if split not in LEEDS:
        raise BadInput("people", repr(people), f"{', '.join(LEEDS)}, or a range, such as train 1-9")
    loaders = {"lsp": load_lsp, "lspet": load_lspet}
    parts = [loaders[part](root / part, who, None) for part, who in LEEDS[split].items()]
    if parts[0].source.startswith("observer"):
        raise BadInput(root / "lsp", parts[0].source, "person-centric ones, as LSPET's are")
    found = joined("leeds", parts)
    found = without_copies(found) if split == "train" else found
    if len(found) < (least := asked.stop or 1):
        raise BadInput(root, f"{len(found)} people of {split}", f"at least {least}")
    found = _present(found[asked], only_present)
    is_lsp = np.char.str_len(found.keys) == len("im0001.jpg")  # LSPET's names have a digit more
    return found if only_present is None else about_image_centers(found, is_lsp)


def joined(dataset: str, parts: list[People]) -> People:
    """People of several data sets with one metric and images in files, one after another."""
    names = [f.name for f in fields(People) if isinstance(getattr(parts[0], f.name), np.ndarray)]
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    skipped = Counter()
    for part in parts:
        skipped.update(part.skipped)
    paths = [path for part in parts for path in part.images.paths]
    return replace(
        parts[0],
        dataset=dataset,
        images=ImageFiles(paths, f"{dataset} images"),
        occlusion_labels=all(part.occlusion_labels for part in parts),
        center_from_joints=any(part.center_from_joints for part in parts),
        skipped=dict(skipped),
        **arrays,
    )


def without_copies(people: People) -> People:
    """Without those whom COPIES lists as near-duplicates of people who are scored, counted and named in `skipped`."""
    with open(COPIES, encoding="utf-8") as file:
        listed = [row["left_out"] for row in csv.DictReader(file)]
    copies = np.isin(people.keys, listed)
    reason = f"near-duplicates of scored people: {', '.join(people.keys[copies])}"
    return replace(people[~copies], skipped={**people.skipped, reason: int(copies.sum())})


def _lsp_truth(path: Path, dataset: str) -> Annotations:
    """What joints.mat says. BadInput if it is the other data set's, as its shape tells."""
    truth, shapes = annotations.lsp(path), {"lsp": "(3, 14, {})", "lspet": "(14, 3, {})"}
    found = "lsp" if truth.occlusion_labels else "lspet"
    if found != dataset:
        raise BadInput(
            path,
            f"joints of shape {shapes[found].format(len(truth))}, the layout of {found}",
            f"{shapes[dataset].format('N')}, that of {dataset}",
        )
    return truth


def _lsp_people(dataset, root, truth, body) -> People:
    usable = (truth.visibility != ABSENT).any(1)
    if not usable.any():
        raise BadInput(
            root / "joints.mat", f"no annotated joint of {len(truth)} people", "annotated people"
        )
    truth, skipped = truth[usable], {"no annotated joint": int((~usable).sum())}
    joints, count = truth.joints, len(truth)
    low, high = np.nanmin(joints, axis=1), np.nanmax(joints, axis=1)
    images = ImageFiles([root / "images" / name for name in truth.image], f"{dataset} images")
    return People(
        dataset,
        truth.image,
        images,
        joints,
        truth.visibility,
        (low + high) / 2,
        np.full(count, MARGIN * body),
        np.full(count, body),
        annotations.torso(truth),
        (high - low).max(1),
        "PCK@0.2",
        occlusion_labels=truth.occlusion_labels,
        center_from_joints=True,
        skipped=skipped,
    )


def with_middle_points(people: People, invented: bool) -> People:
    """The people without labels of pelvis and thorax, strategy (ii) of §3.1, or with invented ones, strategy (i).

    Invented (F3, F18): the pelvis lies between the hips, the thorax between the shoulders, each as visible as the less
    visible of its two and absent where one of them is. Neither is ever scored.
    """
    joints, visibility = people.joints.copy(), people.visibility.copy()
    for name, part in (("pelvis", "hip"), ("thorax", "shoulder")):
        pair = [MPII.index(f"{side}_{part}") for side in ("right", "left")]
        joints[:, MPII.index(name)] = joints[:, pair].mean(1) if invented else np.nan
        visibility[:, MPII.index(name)] = visibility[:, pair].min(1) if invented else ABSENT
    return replace(people, joints=joints, visibility=visibility)


def _present(people: People, only_present: bool | None) -> People:
    """The people whose image is there. BadInput with a count and the first name unless only_present; None: all."""
    if only_present is None:
        return people
    there = np.array([path.is_file() for path in people.images.paths])
    if there.all():
        return people
    absent = people.images.paths[int(np.flatnonzero(~there)[0])]
    if not only_present or not there.any():
        raise BadInput(
            absent,
            f"{(~there).sum()} of {len(there)} people's images absent, this one first",
            "every annotated image (or only_present=true)",
        )
    return replace(people[there], skipped={**people.skipped, "image absent": int((~there).sum())})


def load_synthetic(people: str, image_size: int, data_seed: int, cache: Path) -> People:
    """Drawn people (synthetic.draw), kept in CACHE so that they are drawn once. Everything about them is known."""
    split, asked = person_range(people)
    if split != "all" or asked.stop is None:
        raise BadInput("people", repr(people), "FIRST-LAST: drawn people have no splits and no end")
    rows = np.arange(asked.start, asked.stop)
    source = f"synthetic-{synthetic.VERSION}-seed{data_seed}-{image_size}px-{people}"
    folder = cache / source
    if not _intact(folder):
        with _whole(folder) as part:
            _draw_to(part, rows, image_size, data_seed)
    truth = dict(np.load(folder / "truth.npz"))
    images = np.load(folder / "images.npy", mmap_mode="r")
    return _synthetic_people(rows, truth, Pixels(images, source))


def _draw_to(folder, rows, image_size, data_seed):
    """images.npy and truth.npz."""
    shape = len(rows), image_size, image_size, 3
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, shape)
    names, truth = ("joints", "visibility", "head_box", "body"), []
    for place, index in enumerate(tqdm(rows, desc="drawing people", disable=None, mininterval=5)):
        drawing = synthetic.draw(data_seed, int(index), image_size)
        images[place] = drawing.image
        truth.append([getattr(drawing, name) for name in names])
    images.flush()
    columns = {name: np.stack(column) for name, column in zip(names, zip(*truth))}
    np.savez(folder / "truth.npz", **columns)


def _synthetic_people(rows, truth, images) -> People:
    joints, count = truth["joints"], len(rows)
    corners, size = truth["head_box"].reshape(count, 2, 2), images.array.shape[1]
    head_size = annotations.HEAD * np.linalg.norm(corners[:, 1] - corners[:, 0], axis=1)
    return People(
        "synthetic",
        np.array([f"{index + 1:08d}" for index in rows]),
        images,
        joints,
        truth["visibility"],
        np.full((count, 2), (size - 1) / 2),
        np.full(count, float(size)),
        truth["body"],
        head_size,
        np.ptp(joints, axis=1).max(1),
        "PCKh@0.5",
        occlusion_labels=True,
        center_from_joints=False,
    )


def load(
    dataset: str,
    data_root: str | Path = "",
    people: str = "1-1000",
    image_size: int = 128,
    data_seed: int = 0,
    only_present: bool = False,
    margin: float = MARGIN,
    missing_points: str = "as_labelled",
    cache: Path = Path("runs/cache"),
) -> People:
    """People of a data set by name: "synthetic" (drawn into `cache`), or one of LOADERS, read from data_root.

    only_present: leave out people whose image is absent, or else stop; None asks for no image, to look at annotations
    (LSP's frames, centred on images, are not to be used then).
    margin: side of the frame in body heights (F1); drawn people fill their frames as they are.
    missing_points: pelvis and thorax, which LSP and LSPET lack: "as_labelled", "withheld" or "invented".
    """
    if dataset == "synthetic":
        found = load_synthetic(people, image_size, data_seed, Path(cache))
    elif dataset in LOADERS:
        found = LOADERS[dataset](Path(data_root), people, only_present)
        found = replace(found, side=margin * found.body)
    else:
        raise BadInput("dataset", repr(dataset), f"synthetic, {', '.join(LOADERS)}")
    return (
        found
        if missing_points == "as_labelled"
        else with_middle_points(found, missing_points == "invented")
    )


LOADERS = {"mpii": load_mpii, "lsp": load_lsp, "lspet": load_lspet, "leeds": load_leeds}


@dataclass(frozen=True)
class Data:
    """What a run trains on (train), what it reports on (val), and how they are framed."""

    train: People
    val: People
    image_size: int
    manifest: dict


def prepare(out: str | Path, **parameters) -> Data:
    """Choose a run's people: reads every image once, then writes OUT/data/manifest.json (notebook 01's cell).

    parameters: dataset, data_root, train, val, image_size, data_seed, only_present, margin, missing_points, crop_cache
    ("", "jpeg" or "raw": how people to train on are cut out, see `with_crops`; the others are scored on photographs).
    BadInput names the first file that cannot be read, before anything is written; nor may train and val share a person
    or an image.
    """
    data = _load_both(out, parameters)
    train, val = (
        {key.partition(" ")[0] for key in people.keys} for people in (data.train, data.val)
    )
    if both := train & val:
        raise BadInput(
            "train and val",
            f"{len(both)} in both, first {min(both)}",
            "no person and no image in both",
        )
    if not annotations.positive(data.val.normaliser).any():
        found = f"nobody of {len(val)} with a positive normaliser for {data.val.metric}"
        raise BadInput("val", found, "people who can be scored")
    data = _with_crops(out, data, parameters)
    for people in (data.train, data.val):
        if not isinstance(people.images, Crops):  # read when they were cut out
            check_images(people)
    fingerprints = {name: getattr(data, name).fingerprint() for name in ("train", "val")}
    skipped = {name: getattr(data, name).skipped for name in ("train", "val")}
    sources = {name: getattr(data, name).source for name in ("train", "val")}
    manifest = {
        "kind": "data",
        "parameters": {**parameters, "data_root": _absolute(parameters["data_root"])},
        "fingerprints": fingerprints,
        "skipped": skipped,
        "sources": sources,
    }
    manifest = artifacts.write_manifest(Path(out) / "data", manifest)
    return replace(data, manifest=manifest)


def _absolute(root):
    """A data folder said from everywhere; none stays none."""
    return str(Path(root).resolve()) if root else ""


def opened(out: str | Path) -> Data:
    """The people that `prepare` chose for this run. BadInput if there are none yet or they are others now."""
    path = Path(out) / "data" / "manifest.json"
    if not path.is_file():
        raise BadInput(path, "no such file", "the people of this run: notebook 01 chooses them")
    manifest = artifacts.manifest(path.parent, "parameters", "fingerprints")
    data = _with_crops(out, _load_both(out, manifest["parameters"]), manifest["parameters"])
    for name, fingerprint in manifest["fingerprints"].items():
        if getattr(data, name).fingerprint() != fingerprint:
            raise BadInput(
                path,
                f"{name} people that have changed since",
                "the same people: run notebook 01 again",
            )
    return replace(data, manifest=manifest)


# What runs without these parameters were made with.
NEWER = {"margin": MARGIN, "missing_points": "as_labelled", "crop_cache": ""}


def cache_of(out: str | Path) -> Path:
    """Where drawn people and crops are kept, for all runs: $HPE_CACHE, or the user's cache folder.

    Where that cannot be written (no home), in the run itself, which an ablation's rows share.
    """
    if chosen := os.environ.get("HPE_CACHE"):
        return Path(chosen).expanduser().resolve()
    folder = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "hpe"
    if folder.is_absolute():
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    run = Path(out).resolve()
    return (run.parents[1] if run.parent.name == "rows" else run) / "cache"


def _load_both(out, parameters) -> Data:
    p = NEWER | parameters
    cache = cache_of(out)
    train, val = (
        load(
            p["dataset"],
            p["data_root"],
            p[part],
            p["image_size"],
            p["data_seed"],
            p["only_present"],
            p["margin"],
            p["missing_points"],
            cache,
        )
        for part in ("train", "val")
    )
    return Data(train, val, p["image_size"], {})


def _with_crops(out, data, parameters) -> Data:
    kind = (NEWER | parameters)["crop_cache"]
    return replace(data, train=with_crops(data.train, data.image_size, kind, cache_of(out)))


def check_images(people: People) -> None:
    """Decode every image once. BadInput on the first that cannot be read: now, not in the tenth epoch."""
    for row in tqdm(
        range(len(people)),
        desc=f"reading {people.dataset}",
        disable=None,
        leave=False,
        mininterval=5,
    ):
        people.images[row]


@dataclass(frozen=True)
class Augmentation:
    """Random change of the frame, image and joints by one matrix (F12: §3.1 and §3.2).

    rotation: degrees, drawn from ±rotation.  scale_low, scale_high: the person's size, drawn between.
    flip: exchange left and right, half of the time.
    rotation_step, scale_step: distance of the "predefined" values that are drawn (§3.1); 0: any value (§3.2).
    colour: each channel is multiplied by a factor from 1 ± colour; ours, the paper has none.
    """

    rotation: float = 40.0
    scale_low: float = 0.7
    scale_high: float = 1.3
    flip: bool = True
    rotation_step: float = 0.0
    scale_step: float = 0.0
    colour: float = 0.0

    def __call__(self, frame: Frame, random: np.random.Generator) -> Frame:
        angle = stepped(random.uniform(-self.rotation, self.rotation), 0, self.rotation_step)
        scale = stepped(random.uniform(self.scale_low, self.scale_high), 1, self.scale_step)
        return frame.augmented(scale, angle, self.flip and random.random() < 0.5)


def stepped(value: float, middle: float, step: float) -> float:
    """The nearest of middle, middle ± step, middle ± 2 · step, …; the value itself where step is 0."""
    return middle + step * round((value - middle) / step) if step else value


class PoseDataset(Dataset):
    """Crops of people with their joints. Index it by row, or by (row, epoch) for another augmentation.

    The same seed, epoch and row give the same crop.
    Item: image (S, S, 3) uint8 RGB · joints (16, 2) float32 crop px, (x, y), 0 where absent ·
    visibility (16,) int64, ABSENT also where the joint falls outside the crop · body () float32,
    upright body in crop px · row () int.
    """

    def __init__(
        self,
        people: People,
        image_size: int,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ):
        self.people, self.image_size = people, image_size
        self.augmentation, self.seed = augmentation, seed

    def __len__(self) -> int:
        return len(self.people)

    def __getitem__(self, item: int | tuple[int, int]) -> dict:
        row, epoch = item if isinstance(item, tuple) else (item, 0)
        frame = self.people.frame(row, self.image_size)
        random = np.random.default_rng((self.seed, epoch, row))
        if self.augmentation is not None:
            frame = self.augmentation(frame, random)
        image = self.people.images.cut(row, frame)
        if self.augmentation is not None and self.augmentation.colour:
            image = recoloured(image, self.augmentation.colour, random)
        joints, visibility = framed(frame, self.people.joints[row], self.people.visibility[row])
        return {
            "image": torch.from_numpy(image),
            "joints": torch.from_numpy(joints),
            "visibility": torch.from_numpy(visibility),
            "body": np.float32(frame.body_in_crop),
            "row": row,
        }


def recoloured(image: np.ndarray, colour: float, random: np.random.Generator) -> np.ndarray:
    """An image (H, W, 3) uint8 with each channel multiplied by a factor from 1 ± colour."""
    factors = random.uniform(1 - colour, 1 + colour, 3).astype(np.float32)
    return np.clip(image * factors, 0, 255).astype(np.uint8)


def framed(
    frame: Frame, joints: np.ndarray, visibility: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Joints (16, 2) image px and visibility (16,) as they are in the crop: ((16, 2) float32, (16,) int64).

    In a mirrored crop the left wrist is what was the right one. Outside the crop, or not annotated: ABSENT, at 0.
    """
    joints = frame.to_crop(joints)
    if frame.mirrored:
        joints, visibility = joints.take(MPII.mirror, 0), visibility.take(MPII.mirror)
    inside = (joints >= -0.5) & (joints < frame.image_size - 0.5)
    there = inside[:, 0] & inside[:, 1] & (visibility != ABSENT)
    return (
        np.where(there[:, None], joints, 0).astype(np.float32),
        np.where(there, visibility, ABSENT).astype(np.int64),
    )
