"""What annotation and prediction files say: MPII and LSP in every layout that people have.

Coordinates stay in the file's own frame: MPII's and LSP's files come from MATLAB, where the first pixel is 1. Joints
stand in MPII's rows (skeleton.MPII), NaN where not annotated.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from itertools import permutations
from pathlib import Path

import h5py
import numpy as np

from hpe_lib.artifacts import BadInput
from hpe_lib.skeleton import ABSENT, LSP_NAMES, LSP_ROWS, MPII, OCCLUDED, VISIBLE

J = len(MPII.names)
HEAD = 0.6  # the official evaluator's SC_BIAS: head size = 0.6 · diagonal of the head box
HEAD_PER_SCALE = (
    25  # MPII's scale is the head size in disguise, 200 · scale = 8 · head size, for every person
)
EMPTY = np.array([])


@dataclass(frozen=True)
class Annotations:
    """N annotated people in the order of their file; rows belong together.

    image: (N,) str, file name, "" unknown.  person: (N,) int, number of the rectangle within its image, from 1; 0
    unknown.  joints: (N, 16, 2) float64, file px, (x, y), NaN where not annotated.  visibility: (N, 16) int8.
    head_size: (N,) px, 0.6 · diagonal of the head box.  center, scale: (N, 2), (N,), objpos and scale as the file gives
    them, which Newell's has already adjusted.  NaN: the file cannot say.
    train: (N,) bool, img_train.  activity: (N,) str, act_name, "" unknown.
    occlusion_labels: does the file tell occluded from visible?  skipped: reason -> count of what was left out.
    """

    image: np.ndarray
    person: np.ndarray
    joints: np.ndarray
    visibility: np.ndarray
    head_size: np.ndarray
    center: np.ndarray
    scale: np.ndarray
    train: np.ndarray
    activity: np.ndarray
    occlusion_labels: bool = True
    skipped: dict = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.joints)

    def __getitem__(self, rows) -> "Annotations":
        """The people of these rows: a slice, a boolean mask or an index array."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(
            self, **{name: v[rows] for name, v in values.items() if isinstance(v, np.ndarray)}
        )


def _annotations(joints, visibility, **known) -> Annotations:
    """Annotations of a file that says no more than `known`; coordinates of ABSENT joints mean nothing."""
    count = len(joints)
    if joints.shape != (count, J, 2) or visibility.shape != (count, J):
        raise ValueError(f"joints of shape {joints.shape}, visibility {visibility.shape}")
    unknown = {
        "image": np.full(count, ""),
        "person": np.zeros(count, int),
        "head_size": np.full(count, np.nan),
        "center": np.full((count, 2), np.nan),
        "scale": np.full(count, np.nan),
        "train": np.zeros(count, bool),
        "activity": np.full(count, ""),
    }
    joints = np.where((visibility == ABSENT)[..., None], np.nan, joints)
    return Annotations(joints=joints, visibility=visibility.astype(np.int8), **unknown | known)


@contextmanager
def _reading(path, expected):
    """Whatever reading an absent, broken or different file raises becomes a BadInput that says what was expected."""
    if not Path(path).is_file():
        raise BadInput(path, "no such file", expected)
    try:
        yield
    except BadInput:
        raise
    except Exception as error:  # scipy and h5py raise many kinds
        raise BadInput(path, f"{type(error).__name__}: {error}"[:200], expected) from None


def _mat_file(path) -> dict:
    """The variables of a .mat file, version 4 to 7."""
    from scipy.io import (
        loadmat,
    )  # here: importing it takes half a second, and photographs need none

    return loadmat(path)


# ---- MPII, the official layout


def mpii_official(path: Path) -> Annotations:
    """Every rectangle with points of a .mat in MPII's official layout (struct RELEASE), in file order.

    Numbers of any type, is_visible a number, a text, empty or not there (as for head-top and upper neck: visible),
    points in any order, annorect and its fields empty or absent. Rectangles without points are counted in `skipped`.
    BadInput if the file cannot be read or is of another layout.
    """
    with _reading(path, "a .mat file in MPII's official layout, with RELEASE"):
        return _official(_mat_file(path)["RELEASE"].ravel()[0])


def _official(release) -> Annotations:
    found, rows = _rectangles(images := release["annolist"].ravel())
    names = [_text(image, "image", "name") for image in images]
    acts = [_text(act, "act_name") for act in _inside(release, "act")] or [""] * len(images)
    return replace(
        found,
        image=np.array(names)[rows],
        activity=np.array(acts)[rows],
        train=release["img_train"].ravel()[rows] == 1,
    )


def _rectangles(images) -> tuple[Annotations, list[int]]:
    """Who is annotated in an annolist (n,), and the row of everybody's image in it."""
    found, skipped = [], 0
    for row, image in enumerate(images):
        for number, rectangle in enumerate(_inside(image, "annorect"), start=1):
            points = _inside(rectangle, "annopoints", "point")
            found += [(row, number, rectangle, *_points(points))] if len(points) else []
            skipped += not len(points)
    if not found:
        raise ValueError(f"{skipped} rectangles, none with points")
    rows, numbers, rectangles, joints, visibility = map(list, zip(*found, strict=True))
    people = _annotations(
        np.stack(joints),
        np.stack(visibility),
        person=np.array(numbers),
        **_heads(rectangles),
        skipped={"rectangles without points": skipped},
    )
    return people, rows


def _inside(value, *names):
    """(n,) what nested MATLAB structs hold under these names; empty where a struct is empty or lacks the field."""
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
    """(16, 2) file px and (16,) visibility of one rectangle's points, which name their joint by id 0 … 15."""
    joints, visibility = np.full((J, 2), np.nan), np.full(J, ABSENT)
    for point in points:
        x, y, row, visible = (_number(point, name) for name in ("x", "y", "id", "is_visible"))
        if not 0 <= row < J:
            raise ValueError(f"joint id {row}")
        if np.isfinite(x + y):
            joints[int(row)], visibility[int(row)] = (x, y), OCCLUDED if visible == 0 else VISIBLE
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
    """MPII's annotations from any of: the official .mat, Newell's .h5, Tompson's .mat, HRNet/MMPose JSON.

    rows: Newell's valid.h5: its people, in its order. BadInput if the file is none of these, or lacks one of the rows.
    """
    with _reading(path, "MPII's official .mat, Newell's .h5, Tompson's .mat or HRNet/MMPose JSON"):
        if h5py.is_hdf5(path):
            found = _newell(path)
        elif Path(path).read_bytes()[:1] == b"[":
            found = _json(json.loads(Path(path).read_text()))
        else:
            found = _mat(_mat_file(path))
    return found if rows is None else in_order_of(path, found, rows)


def _newell(path) -> Annotations:
    """Newell's flat HDF5: centre and scale are adjusted already (y + 15 · scale, then scale · 1.25); not annotated is
    (0, 0)."""
    image, person = mpii_rows(path)
    with h5py.File(path) as file:
        joints, visible, head, center, scale = (
            file[name][:].astype(float)
            for name in ("part", "visible", "normalize", "center", "scale")
        )
    visibility = np.where((joints == 0).all(-1), ABSENT, np.where(visible > 0, VISIBLE, OCCLUDED))
    return _annotations(
        joints, visibility, image=image, person=person, head_size=head, center=center, scale=scale
    )


def mpii_rows(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(image (N,) str, person (N,) int from 1) of Newell's valid.h5, the published list of the 2,958 validation people.

    Persons count rectangles, those without points too; the file counts them from 0. BadInput if it is another file.
    """
    with (
        _reading(path, "an HDF5 file with imgname and person, such as valid.h5"),
        h5py.File(path) as file,
    ):
        return np.array(file["imgname"].asstr()[:], str), file["person"][:].astype(int) + 1


def in_order_of(path: Path, found: Annotations, rows: Path) -> Annotations:
    """The people whom Newell's .h5 `rows` lists, in its order. path: that of `found`. BadInput if one is not there."""
    place = {key: row for row, key in enumerate(zip(found.image, found.person, strict=True))}
    wanted = list(zip(*mpii_rows(rows), strict=True))
    absent = [key for key in wanted if key not in place]
    if absent:
        raise BadInput(
            path,
            f"{len(absent)} of the {len(wanted)} people of {rows} absent, first person {absent[0][1]} "
            f"of {absent[0][0]}",
            "a truth that names its images and holds these people",
        )
    return found[np.array([place[key] for key in wanted])]


def _mat(content) -> Annotations:
    """The official file; Tompson's copy of its annolist; or his arrays, which do not say who is occluded."""
    if "pos_gt_src" not in content:
        return (
            _official(content["RELEASE"].ravel()[0])
            if "RELEASE" in content
            else _rectangles(content["annolist"].ravel())[0]
        )
    (x1, y1), (x2, y2) = content["headboxes_src"].astype(float)
    return _annotations(
        content["pos_gt_src"].transpose(2, 0, 1).astype(float),
        np.where(content["jnt_missing"].T != 0, ABSENT, VISIBLE),
        occlusion_labels=False,
        head_size=HEAD * np.hypot(x2 - x1, y2 - y1),
    )


def _json(people) -> Annotations:
    """HRNet's and MMPose's list: joints_vis 0 is not annotated, 1 says nothing of occlusion. Centre and scale are as in
    the official file; there are no head boxes, head size follows from scale."""
    joints, visible, center, scale = (
        np.array([person[name] for person in people], float)
        for name in ("joints", "joints_vis", "center", "scale")
    )
    return _annotations(
        joints,
        np.where(visible == 0, ABSENT, VISIBLE),
        occlusion_labels=False,
        center=center,
        image=np.array([person["image"] for person in people]),
        scale=scale,
        head_size=HEAD_PER_SCALE * scale,
    )


# ---- Leeds Sports Pose


def lsp(path: Path) -> Annotations:
    """Everybody in a joints.mat of LSP or LSPET, in MPII's rows; LSP's 1001–2000 are its test half, the rest train.

    Their third values have opposite senses, so they are told apart by shape: LSP is (3, 14, N) and 1 is occluded,
    LSPET is (14, 3, N) and 1 is annotated, while coordinates with 0 mean nothing. BadInput if the file cannot be read
    or has another shape, NaN among its coordinates, or third values other than 0 and 1.
    """
    expected = "a .mat file whose `joints` is (14, 3, N) or (3, 14, N)"
    with _reading(path, expected):
        joints = _mat_file(path)["joints"]
    if (
        joints.dtype.kind not in "iuf"
        or joints.ndim != 3
        or joints.shape[:2] not in ((14, 3), (3, 14))
    ):
        raise BadInput(path, f"joints of shape {joints.shape}, {joints.dtype}", expected)
    original = joints.shape[0] == 3
    joints = joints.astype(float).transpose((2, 1, 0) if original else (2, 0, 1))
    _check_joints(path, joints[..., :2], joints[..., 2], original)
    count, senses = len(joints), np.array((VISIBLE, OCCLUDED) if original else (ABSENT, VISIBLE))
    placed, visibility = np.full((count, J, 2), np.nan), np.full((count, J), ABSENT)
    placed[:, LSP_ROWS], visibility[:, LSP_ROWS] = (
        joints[..., :2],
        senses[joints[..., 2].astype(int)],
    )
    names = np.array(
        [f"im{number:0{4 if original else 5}d}.jpg" for number in range(1, count + 1)], str
    )
    return _annotations(
        placed,
        visibility,
        image=names,
        person=np.ones(count, int),
        occlusion_labels=original,
        train=np.arange(count) < (1000 if original else count),
    )


def _check_joints(path, joints, flags, all_annotated):
    wrong = ~np.isfinite(joints).all(-1) & (all_annotated | (flags != 0))
    broken = np.flatnonzero(wrong.any(1))
    if len(broken):
        name = LSP_NAMES[np.flatnonzero(wrong[broken[0]])[0]]
        raise BadInput(
            path,
            f"NaN or infinity in {len(broken)} people, first person {broken[0] + 1}, {name}",
            "finite coordinates",
        )
    if not np.isin(flags, (0, 1)).all():
        raise BadInput(path, f"flags {np.unique(flags)[:5]}", "flags 0 and 1")


# ---- predictions


def predictions(
    path: Path, count: int | tuple, joints: int | tuple = J, whose: str = "the truth"
) -> np.ndarray:
    """(N, 16, 2) float64, file px: the one numeric array of people × joints × (x, y) in a .mat (v7.3 too) or .h5 file.

    Its name does not matter, nor the order of its axes, nor the type of its numbers; cells or structs of one array a
    person are stacked. count, joints: how many people and joints may be predicted; 14 joints are LSP's, the others of
    the 16 are NaN then. BadInput, naming the arrays there are, if none fits, several do, or one in several ways.
    """
    counts, sizes = np.atleast_1d(count).tolist(), np.atleast_1d(joints).tolist()
    layouts = " or ".join(f"({n}, {j}, 2)" for n in counts for j in sizes)
    expected = f"one numeric array {layouts} in any order of axes, the people those of {whose}"
    with _reading(path, expected):
        arrays = _arrays(path)
    ways = [
        (name, array, order)
        for name, array in arrays
        for order in permutations(range(3))
        if array.ndim == 3
        and array.shape[order[0]] in counts
        and array.shape[order[1]] in sizes
        and array.shape[order[2]] == 2
    ]
    if len(ways) != 1:
        names = {name: array.shape for name, array in [way[:2] for way in ways] or arrays}
        found = (
            ", ".join(f"{name} {shape}" for name, shape in names.items())[:300]
            or "no numeric array"
        )
        raise BadInput(
            path, found + (f", which can be read in {len(ways)} ways" if ways else ""), expected
        )
    array = ways[0][1].transpose(ways[0][2]).astype(float)
    placed = np.full((len(array), J, 2), np.nan)
    placed[:, LSP_ROWS if array.shape[1] == len(LSP_NAMES) else slice(None)] = array
    return placed


def _arrays(path) -> list[tuple[str, np.ndarray]]:
    """Names and values of a file's numeric arrays; v7.3 keeps axes in reverse, they are put back."""
    if not h5py.is_hdf5(path):
        return [
            found
            for name, value in _mat_file(path).items()
            if not name.startswith("__")
            for found in _numeric(name, value)
        ]
    names = []
    with h5py.File(path) as file:
        file.visit(names.append)
        sets = {
            name: file[name]
            for name in names
            if getattr(file[name], "dtype", np.dtype(object)).kind in "iuf"
        }
        return [
            (name, item[()].T if "MATLAB_class" in item.attrs else item[()])
            for name, item in sets.items()
        ]


def _numeric(name, value) -> Iterator[tuple[str, np.ndarray]]:
    """The numeric arrays in a variable; a struct's under their own names, those of cells stacked."""
    if value.dtype.names:
        for inner in value.dtype.names:
            yield from _numeric(f"{name}.{inner}", value[inner])
    elif value.dtype == object and value.size:
        if len({(np.shape(cell), getattr(cell, "dtype", None)) for cell in value.ravel()}) == 1:
            yield from _numeric(
                name, np.stack(value.ravel()) if value.size > 1 else value.ravel()[0]
            )
    elif value.dtype.kind in "iuf":
        yield name, value
