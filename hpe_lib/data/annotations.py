"""What annotation and prediction files say: MPII and LSP in every layout that people have.

Coordinates stay in the file's own frame: MPII's and LSP's files come from MATLAB, where the first
pixel is 1. Joints stand in MPII's rows (skeleton.MPII), NaN where not annotated.
"""

from dataclasses import dataclass, field, replace
from itertools import permutations
from pathlib import Path
from typing import Annotated, BinaryIO

import h5py
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from hpe_lib.data.reading import (
    arrays_in,
    hdf5_arrays,
    in_child_process,
    is_hdf5,
    mat_file,
    starts_json,
)
from hpe_lib.skeleton import ABSENT, LSP_NAMES, LSP_ROWS, MPII, OCCLUDED, VISIBLE
from hpe_lib.workbook import schemas
from hpe_lib.workbook.artifacts import BadInput, parse_json

J = len(MPII.names)
HEAD = 0.6  # the official evaluator's SC_BIAS: head size = 0.6 · diagonal of the head box
HEAD_PER_SCALE = 25  # in MPII 200 · scale = 8 · head size, for every person
EMPTY = np.array([])


@dataclass(frozen=True)
class Annotations:
    """N annotated people in the order of their file; rows belong together.

    image: (N,) str, file name, "" unknown.  person: (N,) int, number of the rectangle within its
    image, from 1; 0 unknown.
    joints: (N, 16, 2) float64, file px, (x, y), NaN where not annotated.
    visibility: (N, 16) int8.
    head_size: (N,) px, 0.6 · diagonal of the head box; NaN: the file cannot say.
    center, scale: (N, 2), (N,), objpos and scale as the file gives them, which Newell's has already
    adjusted. NaN: the file cannot say.
    train: (N,) bool, img_train.
    occlusion_labels: does the file tell occluded from visible?
    skipped: reason -> count of what was left out.
    """

    image: np.ndarray
    person: np.ndarray
    joints: np.ndarray
    visibility: np.ndarray
    head_size: np.ndarray
    center: np.ndarray
    scale: np.ndarray
    train: np.ndarray
    occlusion_labels: bool = True
    skipped: dict = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.joints)

    def __getitem__(self, rows) -> "Annotations":
        """The people of these rows: a slice, a boolean mask or an index array."""
        arrays = {name: v[rows] for name, v in vars(self).items() if isinstance(v, np.ndarray)}
        return replace(self, **arrays)


def _annotations(joints, visibility, **known) -> Annotations:
    """Annotations of a file that says no more than `known`; coordinates of ABSENT joints are NaN.

    In every layout a joint at (-1, -1), or at no finite place, is not annotated: y alone may well
    be negative, where a head-top lies above its image. ValueError if shapes do not fit together.
    """
    count = len(joints)
    given = {
        "joints": joints,
        "visibility": visibility,
        "image": np.full(count, ""),
        "person": np.zeros(count, int),
        "head_size": np.full(count, np.nan),
        "center": np.full((count, 2), np.nan),
        "scale": np.full(count, np.nan),
        "train": np.zeros(count, bool),
    } | known
    shapes = {"joints": (count, J, 2), "visibility": (count, J), "center": (count, 2)}
    for name, value in given.items():
        wanted = shapes.get(name, (count,))
        if isinstance(value, np.ndarray) and value.shape != wanted:
            raise ValueError(f"{name} of shape {value.shape} where {wanted} is needed")
    nowhere = (joints == -1).all(-1) | ~np.isfinite(joints).all(-1)
    visibility = np.where(nowhere, ABSENT, visibility).astype(np.int8)
    joints = np.where((visibility == ABSENT)[..., None], np.nan, joints)
    return Annotations(**given | {"joints": joints, "visibility": visibility})


def repeated(image: np.ndarray, person: np.ndarray) -> str:
    """Which person (N,) of an image (N,) is there several times, in words; "" if nobody is."""
    keys, counts = np.unique(np.rec.fromarrays([image, person]), return_counts=True)
    if not (counts > 1).any():
        return ""
    first = np.argmax(counts > 1)
    name, number = keys[first]
    return f"person {number} of {name} {counts[first]} times"


def is_positive(lengths: np.ndarray) -> np.ndarray:
    """Which of these (N,) are lengths that an error can be divided by: finite and above 0."""
    return np.isfinite(lengths) & (lengths > 0)


# ---- MPII, the official layout


OFFICIAL = "a .mat file in MPII's official layout, with RELEASE"


@in_child_process(OFFICIAL)
def mpii_official(stream: BinaryIO) -> Annotations:
    """Every rectangle with points of a .mat in MPII's official layout (RELEASE), in file order.

    Numbers of any type, is_visible a number, a text, empty or not there (as for head-top and upper
    neck: visible), points in any order, annorect and its fields empty or absent. Rectangles without
    points are counted in `skipped`. BadInput if the file cannot be read or is of another layout.
    """
    return _official(mat_file(stream)["RELEASE"].ravel()[0])


@in_child_process(OFFICIAL)
def has_release(stream: BinaryIO) -> bool:
    """Does a .mat file of any version hold MPII's official struct? BadInput if it is no .mat."""
    if is_hdf5(stream):
        with h5py.File(stream) as file:
            return "RELEASE" in file
    return "RELEASE" in [name for name, *_ in mat_file(stream, "whosmat")]


def _official(release) -> Annotations:
    found, rows = _rectangles(release["annolist"].ravel())
    if twice := repeated(found.image, found.person):
        raise ValueError(twice)
    return replace(found, train=release["img_train"].ravel()[rows] == 1)


def _rectangles(images) -> tuple[Annotations, list[int]]:
    """Who is annotated in an annolist (n,), and the row of everybody's image in it."""
    found = []
    skipped = 0
    for row, image in enumerate(images):
        for number, rectangle in enumerate(_inside(image, "annorect"), start=1):
            joints, visibility = _points(_inside(rectangle, "annopoints", "point"))
            if (visibility == ABSENT).all():
                skipped += 1
            else:
                found.append((row, number, rectangle, joints, visibility))
    if not found:
        raise ValueError(f"{skipped} rectangles, none with points")
    rows, numbers, rectangles, joints, visibility = map(list, zip(*found, strict=True))
    people = _annotations(
        np.stack(joints),
        np.stack(visibility),
        image=np.array([_text(images[row], "image", "name") for row in rows]),
        person=np.array(numbers),
        **_heads(rectangles),
        skipped={"rectangles without points": skipped},
    )
    return people, rows


def _inside(value, *names):
    """(n,) what nested MATLAB structs hold under these names; empty where a struct is empty or
    lacks the field.
    """
    for name in names:
        value = value.ravel()[0] if isinstance(value, np.ndarray) and value.size else value
        if name not in (value.dtype.names or ()):
            return EMPTY
        value = value[name]
    return value.ravel()


def _number(*place) -> float:
    values = _inside(*place)
    return float(values[0]) if len(values) else np.nan


def _points(points) -> tuple[np.ndarray, np.ndarray]:
    """(16, 2) file px and (16,) visibility of one rectangle's points, which name their joint by id
    0 … 15.
    """
    joints = np.full((J, 2), np.nan)
    visibility = np.full(J, ABSENT)
    ids = []
    for point in points:
        x, y, row, visible = (_number(point, name) for name in ("x", "y", "id", "is_visible"))
        if row not in range(J):
            raise ValueError(f"joint id {row}")
        if row in ids:
            raise ValueError(f"joint id {int(row)} twice in one rectangle")
        ids.append(row)
        if np.isfinite(x + y) and not x == y == -1 and not visible < 0:
            joints[int(row)] = (x, y)
            visibility[int(row)] = OCCLUDED if visible == 0 else VISIBLE
    return joints, visibility


def _heads(rectangles) -> dict:
    """Head size, objpos and scale of rectangles, px of the file."""
    x1, y1, x2, y2, scale = (
        np.array([_number(r, name) for r in rectangles])
        for name in ("x1", "y1", "x2", "y2", "scale")
    )
    center = np.array([[_number(r, "objpos", axis) for axis in "xy"] for r in rectangles])
    return {"head_size": HEAD * np.hypot(x2 - x1, y2 - y1), "center": center, "scale": scale}


def _text(*place) -> str:
    values = _inside(*place)
    return str(values[0]) if len(values) else ""


# ---- MPII, other people's copies of it


def mpii_truth(path: Path, rows: Path | None = None) -> Annotations:
    """MPII's annotations from any of: the official .mat, Newell's .h5, Tompson's .mat, HRNet/MMPose
    JSON.

    rows: Newell's valid.h5: its people, in its order. BadInput if the file is none of these, or
    lacks one of the rows.
    """
    found = _mpii_truth(path)
    return found if rows is None else reorder(path, found, rows)


@in_child_process("MPII's official .mat, Newell's .h5, Tompson's .mat or HRNet/MMPose JSON")
def _mpii_truth(stream: BinaryIO) -> Annotations:
    if is_hdf5(stream):
        with h5py.File(stream) as file:
            if "imgname" in file:
                return _newell(file)
            if "pos_gt_src" in file:
                return _tompson(dict(hdf5_arrays(file)))
            if not {"RELEASE", "annolist"} & set(file):
                raise ValueError(f"an HDF5 file with {', '.join(file) or 'nothing'}"[:200])
    elif starts_json(stream):
        return _json(parse_json(stream.read()))
    content = mat_file(stream)
    if "pos_gt_src" in content:
        return _tompson(content)
    if "RELEASE" in content:
        return _official(content["RELEASE"].ravel()[0])
    if "annolist" not in content:
        names = [name for name in content if not name.startswith("__")]
        raise ValueError(f"a .mat with {', '.join(names) or 'nothing'}"[:200])
    return _rectangles(content["annolist"].ravel())[0]


def _newell(file) -> Annotations:
    """Newell's flat HDF5: centre and scale are adjusted already (y + 15 · scale, then scale ·
    1.25); not annotated is (0, 0), and visible -1.
    """
    names = ("part", "visible", "normalize", "center", "scale")
    _need("Newell's layout", file, *names)
    image, person = _rows(file)
    joints, visible, head, center, scale = (file[name][:].astype(float) for name in names)
    if visible.shape != joints.shape[:2]:
        raise ValueError(f"visible of shape {visible.shape} where {joints.shape[:2]} is needed")
    if np.isnan(visible).any():
        raise ValueError("NaN in visible")
    absent = (joints == 0).all(-1) | (visible < 0)
    visibility = np.where(absent, ABSENT, np.where(visible > 0, VISIBLE, OCCLUDED))
    return _annotations(
        joints, visibility, image=image, person=person, head_size=head, center=center, scale=scale
    )


def _need(layout: str, found, *names: str) -> None:
    """ValueError if a file of this layout lacks one of the names."""
    if absent := [name for name in names if name not in found]:
        raise ValueError(f"{layout} without {', '.join(absent)}")


def _tompson(arrays) -> Annotations:
    """Tompson's arrays, which do not say who is occluded."""
    _need("Tompson's layout", arrays, "headboxes_src", "jnt_missing")
    (x1, y1), (x2, y2) = arrays["headboxes_src"].astype(float)
    return _annotations(
        arrays["pos_gt_src"].transpose(2, 0, 1).astype(float),
        np.where(arrays["jnt_missing"].T != 0, ABSENT, VISIBLE),
        occlusion_labels=False,
        head_size=HEAD * np.hypot(x2 - x1, y2 - y1),
    )


Pair = Annotated[list[float], Field(min_length=2, max_length=2)]


class Person(BaseModel):
    """Somebody in HRNet's and MMPose's JSON.

    scale is one number: of two, as HRNet holds it in memory, each has been enlarged by 1.25.
    """

    model_config = ConfigDict(strict=True)
    image: str
    joints: Annotated[list[Pair], Field(min_length=J, max_length=J)]
    joints_vis: Annotated[list[float | bool], Field(min_length=J, max_length=J)]
    center: Pair
    scale: float


def _json(people) -> Annotations:
    """HRNet's and MMPose's list: joints_vis 0 or -1 is not annotated, 1 says nothing of occlusion.
    Centre and scale are as in the official file; there are no head boxes, head size follows from
    scale.
    """
    if not isinstance(people, list) or not people:
        raise ValueError(f"JSON: {str(people)[:40]} where a list of people is needed")
    for number, person in enumerate(people, start=1):
        if fault := schemas.first_fault(person, Person):
            where, found, expected = fault
            raise ValueError(f"{where} of person {number}: {found[:60]} where {expected} is needed")
    joints, visible, center, scale = (
        np.array([person[name] for person in people], float)
        for name in ("joints", "joints_vis", "center", "scale")
    )
    if np.isnan(visible).any():
        raise ValueError("NaN in joints_vis")
    annotated = visible > 0
    if not np.isfinite(joints[annotated]).all():
        raise ValueError("annotated joints that are not finite")
    return _annotations(
        joints,
        np.where(annotated, VISIBLE, ABSENT),
        occlusion_labels=False,
        center=center,
        image=np.array([person["image"] for person in people]),
        scale=scale,
        head_size=HEAD_PER_SCALE * scale,
    )


@in_child_process("an HDF5 file with imgname and person, such as valid.h5")
def mpii_rows(stream: BinaryIO) -> tuple[np.ndarray, np.ndarray]:
    """(image (N,) str, person (N,) int from 1) of Newell's valid.h5, the published list of the
    2,958 validation people.

    Persons count rectangles, those without points too; the file counts them from 0. BadInput if it
    is another file, or lists somebody twice.
    """
    with h5py.File(stream) as file:
        image, person = _rows(file)
    if not len(image):
        raise ValueError("it lists nobody")
    if twice := repeated(image, person):
        raise ValueError(twice)
    return image, person


def _rows(file) -> tuple[np.ndarray, np.ndarray]:
    _need("a list of people", file, "imgname", "person")
    if h5py.check_string_dtype(file["imgname"].dtype) is None:
        raise ValueError("imgname holds no names of images")
    image = np.array(file["imgname"].asstr()[:], str)
    person = file["person"][:]
    if image.shape != person.shape:
        raise ValueError(f"imgname of shape {image.shape}, person of shape {person.shape}")
    if not np.isin(person, np.arange(1000)).all():
        raise ValueError("person holds others than whole numbers from 0")
    return image, person.astype(int) + 1


def reorder(path: Path, found: Annotations, rows: Path) -> Annotations:
    """The people whom Newell's .h5 `rows` lists, in its order. path: that of `found`. BadInput if
    one is not there, or there twice.
    """
    wanted = list(zip(*mpii_rows(rows), strict=True))
    expected = "a truth that names its images and holds these people, such as MPII's own"
    if not found.person.all():
        raise BadInput(path, "people without a number in their image", expected)
    if twice := repeated(found.image, found.person):
        raise BadInput(path, twice, "a truth that holds everybody once")
    place = {key: row for row, key in enumerate(zip(found.image, found.person, strict=True))}
    absent = [key for key in wanted if key not in place]
    if absent:
        raise BadInput(
            path,
            f"{len(absent)} of the {len(wanted)} people of {rows} absent, first person "
            f"{absent[0][1]} of {absent[0][0]}",
            expected,
        )
    return found[np.array([place[key] for key in wanted])]


# ---- Leeds Sports Pose


LSP = "a .mat file whose `joints` is (14, 3, N) or (3, 14, N)"


@in_child_process(LSP)
def lsp(stream: BinaryIO) -> Annotations:
    """Everybody in a joints.mat of LSP or LSPET, in MPII's rows; LSP's 1001–2000 are its test half,
    the rest train.

    Their third values have opposite senses, so they are told apart by shape: LSP is (3, 14, N) and
    1 is occluded, LSPET is (14, 3, N) and 1 is annotated, while coordinates with 0 mean nothing; -1
    is not annotated in both. BadInput if the file cannot be read or has another shape, NaN among
    its coordinates, or other third values.
    """
    arrays = dict(arrays_in(stream))
    if "joints" not in arrays:
        raise ValueError(f"no array joints but {', '.join(arrays) or 'none'}"[:200])
    joints = arrays["joints"]
    if joints.shape in ((14, 3), (3, 14)):  # of one person: MATLAB drops a last axis of 1
        joints = joints[..., None]
    if joints.ndim != 3 or joints.shape[:2] not in ((14, 3), (3, 14)):
        raise ValueError(f"joints of shape {joints.shape}, {joints.dtype}")
    original = joints.shape[0] == 3
    joints = joints.astype(float).transpose((2, 1, 0) if original else (2, 0, 1))
    _check_joints(joints[..., :2], joints[..., 2], original)
    count = len(joints)
    senses = np.array((VISIBLE, OCCLUDED, ABSENT) if original else (ABSENT, VISIBLE, ABSENT))
    placed = np.full((count, J, 2), np.nan)
    visibility = np.full((count, J), ABSENT)
    placed[:, LSP_ROWS] = joints[..., :2]
    visibility[:, LSP_ROWS] = senses[joints[..., 2].astype(int)]
    digits = 4 if original else 5
    names = np.array([f"im{number:0{digits}d}.jpg" for number in range(1, count + 1)], str)
    return _annotations(
        placed,
        visibility,
        image=names,
        person=np.ones(count, int),
        occlusion_labels=original,
        train=np.arange(count) < (1000 if original else count),
    )


def _check_joints(joints, flags, all_annotated):
    if not np.isin(flags, (-1, 0, 1)).all():
        raise BadInput(None, f"flags {np.unique(flags)[:5]}", "flags 0 and 1, or -1")
    wrong = ~np.isfinite(joints).all(-1) & (flags >= (0 if all_annotated else 1))
    broken = np.flatnonzero(wrong.any(1))
    if len(broken):
        name = LSP_NAMES[np.flatnonzero(wrong[broken[0]])[0]]
        raise BadInput(
            None,
            f"NaN or infinity in {len(broken)} people, first person {broken[0] + 1}, {name}",
            "finite coordinates",
        )


def torso(found: Annotations) -> np.ndarray:
    """(N,) px from left shoulder to right hip; NaN where one of them is not annotated."""
    ends = (found.joints[:, MPII.index(name)] for name in ("left_shoulder", "right_hip"))
    return np.linalg.norm(np.subtract(*ends), axis=1)


# ---- predictions


def predictions(
    path: Path, count: int | tuple, joints: int | tuple = J, whose: str = "the truth"
) -> np.ndarray:
    """(N, 16, 2) float64, file px: the one numeric array of people × joints × (x, y) in a .mat
    (v7.3 too) or .h5 file.

    Its name does not matter, nor the order of its axes, nor the type of its numbers; cells or
    structs of one array a person are stacked. count, joints: how many people and joints may be
    predicted; 14 joints are LSP's, the others of the 16 are NaN then. BadInput, naming the arrays
    there are, if none fits, several do, or one in several ways.
    """
    array = _fitting(path, np.atleast_1d(count).tolist(), np.atleast_1d(joints).tolist(), whose)
    placed = np.full((len(array), J, 2), np.nan)
    placed[:, LSP_ROWS if array.shape[1] == len(LSP_NAMES) else slice(None)] = array
    return placed


@in_child_process("a .mat or .h5 file with one numeric array of people × joints × (x, y)")
def _fitting(stream: BinaryIO, counts: list[int], sizes: list[int], whose: str) -> np.ndarray:
    """(N, J, 2) the one array that fits."""
    layouts = " or ".join(f"({n}, {j}, 2)" for n in counts for j in sizes)
    expected = f"one numeric array {layouts} in any order of axes, the people those of {whose}"
    arrays = list(arrays_in(stream, 2 * max(counts) * max(sizes)))
    for name, array in arrays:
        if array.dtype == object and len(array) in counts:  # else the truth beside it might fit
            shapes = {str(np.shape(cell)) for cell in array}
            raise BadInput(None, f"{name}, cells of shapes {', '.join(sorted(shapes))}", expected)
    if 1 in counts:
        # MATLAB drops a last axis of 1, and a cell of one person is that person's array.
        arrays = [(name, array[None] if array.ndim == 2 else array) for name, array in arrays]
    ways = [
        (name, array, order)
        for name, array in arrays
        for order in permutations(range(3))
        if array.ndim == 3
        and array.shape[order[0]] in counts
        and array.shape[order[1]] in sizes
        and array.shape[order[2]] in (2, 3)  # 3: with a confidence, in which case nothing fits
    ]
    if len(ways) == 1:
        _, array, order = ways[0]
        if array.shape[order[2]] == 2:
            return array.transpose(order).astype(float)
    names = {name: array.shape for name, array, *_ in ways or arrays}
    found = ", ".join(f"{name} {shape}" for name, shape in names.items())[:300]
    many = f", which can be read in {len(ways)} ways" if len(ways) > 1 else ""
    raise BadInput(None, (found or "no numeric array") + many, expected)
