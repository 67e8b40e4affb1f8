"""People: who is annotated where, and the crops of them. Datasets give joints; targets are drawn later, per batch."""

import hashlib
import os
import zipfile
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import cv2
import numpy as np
import scipy.io
import torch
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from hpe_lib import artifacts, presets, synthetic
from hpe_lib.artifacts import BadInput
from hpe_lib.geometry import Frame
from hpe_lib.skeleton import ABSENT, LSP_NAMES, LSP_ROWS, MPII, VISIBLE

J = len(MPII.names)


@dataclass(frozen=True)
class People:
    """N annotated people and their images: one value for training and for scoring. Rows belong together.

    keys: (N,) who, e.g. "im00001.jpg".  images: images[i] is person i's (H, W, 3) uint8 RGB.
    joints: (N, 16, 2) float64, image px, (x, y), NaN where not annotated.  visibility: (N, 16) int8.
    center, side, body: (N, 2), (N,), (N,) the frame (geometry.Frame), image px.
    normaliser: (N,) image px, what errors are divided by (head size or torso), NaN where the truth cannot say.
    box: (N,) image px, the longer side of the annotated joints' box: another normaliser, there for everyone.
    metric: "PCKh@0.5" or "PCK@0.2".  occlusion_labels: does the data set say which joints are occluded?
    center_from_joints: is the frame a hint from the truth?  skipped: reason -> people left out on reading.
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

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, rows) -> "People":
        """The people of these rows: a slice, a boolean mask or an index array."""
        rows = np.arange(len(self))[rows]
        arrays = {f.name: getattr(self, f.name)[rows] for f in fields(self)
                  if isinstance(getattr(self, f.name), np.ndarray) and f.name != "images"}
        return replace(self, images=Rows(self.images, rows), **arrays)

    def frame(self, row: int, image_size: int) -> Frame:
        """The window on person `row` for a crop of image_size px."""
        return Frame(tuple(self.center[row]), float(self.side[row]), image_size, float(self.body[row]))

    def frames(self, image_size: int) -> list[Frame]:
        """(N,) windows on everybody."""
        return [self.frame(row, image_size) for row in range(len(self))]

    def crops(self, image_size: int) -> np.ndarray:
        """(N, S, S, 3) uint8 RGB, everybody as the network sees them."""
        return np.stack([frame.cut(self.images[row]) for row, frame in enumerate(self.frames(image_size))])

    def fingerprint(self) -> str:
        """sha256 over who they are, what is annotated and how images are framed; pixels enter through their names."""
        digest = hashlib.sha256(repr((self.dataset, self.metric, list(self.keys), self.images.source)).encode())
        for name in ("joints", "visibility", "center", "side", "body", "normaliser"):
            digest.update(np.ascontiguousarray(getattr(self, name)))
        return digest.hexdigest()


class Rows:
    """Some rows of an image source, in an order of their own."""

    def __init__(self, images, rows):
        self.images, self.rows, self.source = images, rows, images.source

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, row):
        return self.images[self.rows[row]]


class ImageFiles:
    """Images on disk, read when asked for. source: what they are, said without where they lie."""

    def __init__(self, paths: list[Path], source: str):
        self.paths, self.source = paths, source

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, row: int) -> np.ndarray:
        return read_image(self.paths[row])


class Pixels:
    """Images in one array (N, H, W, 3) uint8, usually mapped from a file."""

    def __init__(self, array: np.ndarray, source: str):
        self.array, self.source = array, source

    def __len__(self):
        return len(self.array)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.array[row]


ENDINGS = {b"\xff\xd8": b"\xff\xd9", b"\x89P": b"IEND"}  # how a complete JPEG or PNG ends


def read_image(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB, EXIF orientation honoured. BadInput if absent, not an image, or cut off.

    OpenCV fills what a truncated JPEG lacks with grey and says nothing, so the end marker is asked for first.
    """
    if not path.is_file():
        raise BadInput(path, "no such file", "an image")
    data = path.read_bytes()
    ending = ENDINGS.get(data[:2], b"")
    if ending not in data[-4096:]:
        raise BadInput(path, f"{len(data)} bytes without the image's end", "a complete image file")
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if image is None:
        raise BadInput(path, f"{len(data)} bytes that are no readable image", "a JPEG or PNG image")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def person_range(people: str) -> slice:
    """"1-8000" (people, counted from 1, both ends included) as a slice. BadInput on anything else."""
    found = presets.person_range(people)
    if found is None:
        raise BadInput("people", repr(people), "FIRST-LAST counted from 1, such as 1-8000")
    return found


def lsp_joints(path: Path) -> np.ndarray:
    """(N, 14, 3) float64 (x, y, flag) of an LSPET joints.mat, whose `joints` is (14, 3, N).

    BadInput if it cannot be read or has another shape, NaN among its coordinates, or flags other than 0 and 1.
    """
    expected = "a .mat file whose `joints` is (14, 3, N)"
    if not path.is_file():
        raise BadInput(path, "no such file", expected)
    try:
        joints = np.asarray(scipy.io.loadmat(path)["joints"])
        joints = joints if joints.dtype == object else joints.astype(float)
    except Exception as error:  # scipy raises many kinds on a broken file
        raise BadInput(path, f"{type(error).__name__}: {error}".splitlines()[0], expected) from None
    if joints.dtype == object or joints.ndim != 3 or joints.shape[:2] != (14, 3):
        raise BadInput(path, f"joints of shape {joints.shape}, {joints.dtype}", expected)
    joints = joints.transpose(2, 0, 1)
    _check_joints(path, joints)
    return joints


def _check_joints(path, joints):
    wrong = ~np.isfinite(joints[..., :2]).all(-1) & (joints[..., 2] != 0)  # unannotated coordinates mean nothing
    broken = np.flatnonzero(wrong.any(1))
    if len(broken):
        name = LSP_NAMES[np.flatnonzero(wrong[broken[0]])[0]]
        raise BadInput(path, f"NaN or infinity in {len(broken)} people, first person {broken[0] + 1}, {name}",
                       "finite coordinates")
    flags = np.unique(joints[..., 2])
    if not np.isin(flags, (0, 1)).all():
        raise BadInput(path, f"flags {flags[:5]}", "flags 0 and 1")


LSPET_SIDE, LSPET_BODY = 187.5, 150.0  # image px: "roughly 150 px in length"; the side is 1.25 of it, as on MPII


def load_lspet(root: Path, people: str, only_present: bool = False) -> People:
    """People of Leeds Sports Pose Extended: ROOT/joints.mat and ROOT/images/im%05d.jpg.

    Flag 1 is annotated, 0 not (the coordinates are garbage then). No occlusion labels: annotated counts as visible.
    The frame's centre is the middle of the annotated joints' box, a hint from the truth, as objpos is on MPII.
    People without a usable joint are skipped and counted. BadInput on a wrong file or absent images.
    """
    table = lsp_joints(root / "joints.mat")
    rows = np.arange(len(table))[person_range(people)]
    if len(rows) < (asked := person_range(people)).stop - asked.start:
        raise BadInput(root / "joints.mat", f"{len(table)} people", f"at least the {asked.stop} of people {people}")
    annotated = table[rows, :, 2] == 1
    usable = annotated.any(1)
    if not usable.any():
        raise BadInput(root / "joints.mat", f"no annotated joint of people {people}", "people with annotated joints")
    paths = [root / "images" / f"im{row + 1:05d}.jpg" for row in rows[usable]]
    joints = np.full((usable.sum(), J, 2), np.nan)
    joints[:, LSP_ROWS] = np.where(annotated, 1, np.nan)[usable, :, None] * table[rows[usable], :, :2]
    skipped = {"no annotated joint": int((~usable).sum())}
    return _present(_lspet_people(paths, joints, skipped), only_present)


def _lspet_people(paths, joints, skipped) -> People:
    low, high = np.nanmin(joints, axis=1), np.nanmax(joints, axis=1)
    torso = joints[:, MPII.index("left_shoulder")] - joints[:, MPII.index("right_hip")]
    count = len(joints)
    return People("lspet", np.array([path.name for path in paths]), ImageFiles(paths, "lspet images"), joints,
                  np.where(np.isnan(joints[..., 0]), ABSENT, VISIBLE).astype(np.int8), (low + high) / 2,
                  np.full(count, LSPET_SIDE), np.full(count, LSPET_BODY), np.linalg.norm(torso, axis=1),
                  (high - low).max(1), "PCK@0.2", occlusion_labels=False, center_from_joints=True, skipped=skipped)


def _present(people: People, only_present: bool) -> People:
    """The people whose image is there. BadInput with a count and the first name unless only_present."""
    there = np.array([path.is_file() for path in people.images.paths])
    if there.all():
        return people
    absent = people.images.paths[int(np.flatnonzero(~there)[0])]
    if not only_present or not there.any():
        raise BadInput(absent, f"{(~there).sum()} of {len(there)} people's images absent, this one first",
                       "every annotated image (or only_present=true)")
    return replace(people[there], skipped={**people.skipped, "image absent": int((~there).sum())})


def load_synthetic(people: str, image_size: int, data_seed: int, cache: Path) -> People:
    """Drawn people (synthetic.draw), kept in CACHE so that they are drawn once. Everything about them is known."""
    rows = np.arange((asked := person_range(people)).start, asked.stop)
    code = hashlib.sha256(Path(synthetic.__file__).read_bytes()).hexdigest()[:12]
    source = f"synthetic-{code}-seed{data_seed}-{image_size}px-{people}"
    folder = cache / source
    try:
        truth, images = _drawn(folder)
    except (OSError, ValueError, zipfile.BadZipFile):  # not there yet, or damaged
        _draw_to(folder, rows, image_size, data_seed)
        truth, images = _drawn(folder)
    return _synthetic_people(rows, truth, Pixels(images, source))


def _drawn(folder):
    return dict(np.load(folder / "truth.npz")), np.load(folder / "images.npy", mmap_mode="r")


def _draw_to(folder, rows, image_size, data_seed):
    """images.npy, then truth.npz, each renamed into place: a folder with the second is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"images.{os.getpid()}.part"  # two runs may draw the same people at once
    images = np.lib.format.open_memmap(part, "w+", np.uint8, (len(rows), image_size, image_size, 3))
    names, truth = ("joints", "visibility", "head_box", "body"), []
    for place, index in enumerate(tqdm(rows, desc="drawing people", disable=None, mininterval=5)):
        drawing = synthetic.draw(data_seed, int(index), image_size)
        images[place] = drawing.image
        truth.append([getattr(drawing, name) for name in names])
    images.flush()
    part.replace(folder / "images.npy")
    part = folder / f"truth.{os.getpid()}.npz"
    np.savez(part, **{name: np.stack(column) for name, column in zip(names, zip(*truth))})
    part.replace(folder / "truth.npz")


def _synthetic_people(rows, truth, images) -> People:
    joints, count = truth["joints"], len(rows)
    corners, size = truth["head_box"].reshape(count, 2, 2), images.array.shape[1]
    return People("synthetic", np.array([f"{index + 1:08d}" for index in rows]), images, joints,
                  truth["visibility"], np.full((count, 2), (size - 1) / 2), np.full(count, float(size)), truth["body"],
                  0.6 * np.linalg.norm(corners[:, 1] - corners[:, 0], axis=1), np.ptp(joints, axis=1).max(1),
                  "PCKh@0.5", occlusion_labels=True, center_from_joints=False)


def load(dataset: str, data_root: str | Path = "", people: str = "1-1000", image_size: int = 128, data_seed: int = 0,
         only_present: bool = False, cache: Path = Path("runs/cache")) -> People:
    """People of a data set by name: "synthetic" (drawn into `cache`) or "lspet" (read from data_root)."""
    if dataset == "synthetic":
        return load_synthetic(people, image_size, data_seed, Path(cache))
    if dataset == "lspet":
        return load_lspet(Path(data_root), people, only_present)
    raise BadInput("dataset", repr(dataset), "synthetic or lspet")


@dataclass(frozen=True)
class Data:
    """What a run trains on (train), what it reports on (val), and how they are framed."""

    train: People
    val: People
    image_size: int
    manifest: dict


def prepare(out: str | Path, **parameters) -> Data:
    """Choose a run's people: reads every image once, then writes OUT/data/manifest.json (notebook 01's cell).

    parameters: dataset, data_root, train, val, image_size, data_seed, only_present. BadInput names the first file
    that cannot be read, before anything is written.
    """
    data = _load_both(out, parameters)
    overlap = set(data.train.keys) & set(data.val.keys)
    if overlap:
        raise BadInput("train and val", f"{len(overlap)} people in both, first {min(overlap)}", "no person in both")
    for people in (data.train, data.val):
        check_images(people)
    fingerprints = {name: getattr(data, name).fingerprint() for name in ("train", "val")}
    skipped = {name: getattr(data, name).skipped for name in ("train", "val")}
    manifest = {"kind": "data", "parameters": {**parameters, "data_root": _absolute(parameters["data_root"])},
                "fingerprints": fingerprints, "skipped": skipped}
    artifacts.write_json(Path(out) / "data" / "manifest.json", manifest)
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
    data = replace(_load_both(out, manifest["parameters"]), manifest=manifest)
    for name, fingerprint in manifest["fingerprints"].items():
        if getattr(data, name).fingerprint() != fingerprint:
            raise BadInput(path, f"{name} people that have changed since", "the same people: run notebook 01 again")
    return data


def _load_both(out, parameters) -> Data:
    p, cache = parameters, Path(out).parent / "cache"
    train, val = (load(p["dataset"], p["data_root"], p[part], p["image_size"], p["data_seed"], p["only_present"], cache)
                  for part in ("train", "val"))
    return Data(train, val, p["image_size"], {})


def check_images(people: People) -> None:
    """Decode every image once. BadInput on the first that cannot be read: now, not in the tenth epoch."""
    for row in tqdm(range(len(people)), desc=f"reading {people.dataset}", disable=None, leave=False, mininterval=5):
        people.images[row]


@dataclass(frozen=True)
class Augmentation:
    """Random change of the frame, image and joints by one matrix (F12: §3.1 and §3.2).

    rotation: degrees, drawn from ±rotation.  scale_low, scale_high: the person's size, drawn between.
    flip: exchange left and right, half of the time.
    """

    rotation: float = 40.0
    scale_low: float = 0.7
    scale_high: float = 1.3
    flip: bool = True

    def __call__(self, frame: Frame, random: np.random.Generator) -> Frame:
        angle = random.uniform(-self.rotation, self.rotation)
        scale = random.uniform(self.scale_low, self.scale_high)
        return frame.augmented(scale, angle, self.flip and random.random() < 0.5)


class PoseDataset(Dataset):
    """Crops of people with their joints, augmented anew each epoch; the same seed, epoch and row give the same crop.

    Item: image (S, S, 3) uint8 RGB · joints (16, 2) float32 crop px, (x, y), 0 where absent · visibility (16,) int64,
    ABSENT also where the joint falls outside the crop · body () float32, upright body in crop px · row () int.
    """

    def __init__(self, people: People, image_size: int, augmentation: Augmentation | None = None, seed: int = 0):
        self.people, self.image_size, self.augmentation, self.seed = people, image_size, augmentation, seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.people)

    def __getitem__(self, row: int) -> dict:
        frame = self.people.frame(row, self.image_size)
        if self.augmentation is not None:
            frame = self.augmentation(frame, np.random.default_rng((self.seed, self.epoch, row)))
        joints, visibility = framed(frame, self.people.joints[row], self.people.visibility[row])
        return {"image": torch.from_numpy(frame.cut(self.people.images[row])),
                "joints": torch.from_numpy(joints), "visibility": torch.from_numpy(visibility),
                "body": np.float32(frame.body_in_crop), "row": row}


def framed(frame: Frame, joints: np.ndarray, visibility: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Joints (16, 2) image px and visibility (16,) as they are in the crop: ((16, 2) float32, (16,) int64).

    In a mirrored crop the left wrist is what was the right one. Outside the crop, or not annotated: ABSENT, at 0.
    """
    joints = frame.to_crop(joints)
    if frame.mirrored:
        joints, visibility = joints[MPII.mirror], visibility[MPII.mirror]
    with np.errstate(invalid="ignore"):
        inside = ((joints >= -0.5) & (joints < frame.image_size - 0.5)).all(-1)
    visibility = np.where(inside, visibility, ABSENT).astype(np.int64)
    return np.where((visibility == ABSENT)[:, None], 0, joints).astype(np.float32), visibility
