"""Posed bodies in 3-D: proportions, poses and the places of joints and parts.

A body is 13 rigid frames in a kinematic tree; 24 tapered capsules, its parts, hang on them
(body.yaml). Poses come from families of ranges of angles (poses.yaml).

Axes of a body: x to the person's left, y up, z forward; lengths in standing heights. Angles are in
radians unless a name says otherwise.
"""

from pathlib import Path

import numpy as np
import yaml

from hpe_lib.skeleton import MPII


def _read(name: str) -> dict:
    return yaml.safe_load(Path(__file__).with_name(name).read_text(encoding="utf-8"))


def _right(name):
    return name.replace("left_", "right_")


def _twin(entry):
    """The right-hand twin of a left-hand entry: names of the other side, points mirrored in x."""
    twin = dict(entry)
    for key in {"parent", "frame"} & entry.keys():
        twin[key] = _right(entry[key])
    for key in {"origin", "place", "ends"} & entry.keys():
        twin[key] = np.multiply(entry[key], (-1, 1, 1)).tolist()
    if "parts" in entry:
        twin["parts"] = [_right(name) for name in entry["parts"]]
    return twin


def _both_sides(entries):
    """Entries, then a right-hand twin of every left-hand one."""
    left = [name for name in entries if name.startswith("left_")]
    return entries | {_right(name): _twin(entries[name]) for name in left}


BODY = {table: _both_sides(entries) for table, entries in _read("body.yaml").items()}
_LEFT = [name for name in BODY["frames"] if not name.startswith("right_")]
_SIDES = [side for name in _LEFT for side in (name, _right(name))]
FRAMES = ("pelvis", *dict.fromkeys(_SIDES))  # level by level, left before right
PARTS = BODY["parts"]
MATERIALS = ("skin", "hair", "dark", "shirt", "trousers", "shoe")  # the first three are plain
SKIN, HAIR, DARK, SHIRT = range(4)
COVERS = (None, "sleeve", "cuff", "leg", "ankle")  # what of a part is under clothes

_LEVELS = slice(1, 4), slice(4, 9), slice(9, 13)
_TREE = [BODY["frames"][name] for name in FRAMES[1:]]
_PARENT = np.array([0, *(FRAMES.index(frame["parent"]) for frame in _TREE)])
_ORIGIN = np.array([(0, 0, 0), *(frame["origin"] for frame in _TREE)])
_HEAD, _FOREARMS = FRAMES.index("head"), slice(9, 11)
_CORE = [FRAMES.index("chest"), _HEAD]
_SOLE = 0.045  # of the foot's frame above the ground
_CROWN = BODY["joints"]["head_top"]["place"][1]

PART_FRAME = np.array([FRAMES.index(part["frame"]) for part in PARTS.values()])
PART_STRETCH = np.array([np.insert(part["stretch"], 1, 1.0) for part in PARTS.values()])
PART_MATERIAL = np.array([MATERIALS.index(part["material"]) for part in PARTS.values()])
PART_COVER = np.array([COVERS.index(part.get("cover")) for part in PARTS.values()])
_PART_RADII = np.array([part["radii"] for part in PARTS.values()])
_LOCKS = list(PARTS).index("locks")

# every point that is placed on a body: the 16 joints, then ends a and b of every part
_JOINTS = [BODY["joints"][name] for name in MPII.names]
_JOINT_FRAME = [FRAMES.index(joint["frame"]) for joint in _JOINTS]
_POINT_FRAME = np.concatenate([_JOINT_FRAME, PART_FRAME.repeat(2)])
_POINT_PLACE = np.concatenate(
    [[joint["place"] for joint in _JOINTS], *(part["ends"] for part in PARTS.values())]
)

# joint -> the parts whose flesh holds it (16, 24), and how deep behind their surface it may lie
_FLESH = [BODY["flesh"][name] for name in MPII.names]
FLESH_HOLDS = np.array([[part in flesh["parts"] for part in PARTS] for flesh in _FLESH])
FLESH_DEPTH = np.array([flesh["depth"] for flesh in _FLESH])

# What standard normal numbers add to the logarithms of the lengths of the frames' axes. They stand
# for: legs as a whole, breadth, girth, trunk, head, arms, thighs, shins.
_VARIES = np.zeros((8, len(FRAMES), 3))
_VARIES[[3, 3, 6, 6, 4, 5, 5, 7, 7, 5, 5, 7, 7], np.arange(len(FRAMES))] = 0.05
_VARIES[0, [2, 3, 7, 8, 11, 12]] = 0.05
_VARIES[1, :2, 0] = 0.09

# what the frames' y axes add to the standing height
_TALL = {"pelvis": 0.305, "head": _CROWN, "left_thigh": 0.24, "left_shin": 0.235 + _SOLE}
_HEIGHTS = np.array([_TALL.get(name, 0) for name in FRAMES])


# ---- poses

_NECK = ((-18, 28), (-14, 14), (-55, 55))  # forward, sideways, twist, degrees
_FOOT = (-25, 20)
_FAMILIES = list(_read("poses.yaml").values())
_CHANCES = np.cumsum([family["chance"] for family in _FAMILIES])[:-1]
_TRIES = 3  # poses drawn per person; the one with the fewest limbs inside the trunk is taken


def _turns(family, left, right):
    """Lowest turns of the frames against their parents, and their widths: (2, 13, 3).

    left, right: which of a family's sides, "a" and "b", is on the left and on the right. The turns
    are about x, z and y.
    """
    turns = np.zeros((len(FRAMES), 3, 2))
    turns[0, :2] = family["root"]
    turns[FRAMES.index("chest")] = family["spine"]
    turns[_HEAD] = _NECK
    for side, sign, of in (("left", 1, left), ("right", -1, right)):
        for limb, upper, lower, bends in (
            ("arm", "arm", "forearm", -1),
            ("leg", "thigh", "shin", 1),
        ):
            flex, lift, inwards, hinge = np.array(family[f"{limb}_{of}"], float)
            # the left ones lift to +x and turn inwards to -x
            turns[FRAMES.index(f"{side}_{upper}")] = -flex, sign * lift, -sign * inwards
            turns[FRAMES.index(f"{side}_{lower}"), 0] = bends * hinge
    turns[FRAMES.index("left_foot") :, 0] = _FOOT
    return np.deg2rad([turns[..., 0], turns[..., 1] - turns[..., 0]])


# (2 * families, 2, 13, 3): of every family, a on the left and then a on the right
_TURNS = np.array(
    [_turns(family, *sides) for family in _FAMILIES for sides in (("a", "b"), ("b", "a"))]
)


def _angles(rng, people, facing):
    """Turns of every frame against its parent about x, z and y: (people * _TRIES, 13, 3)."""
    family = _CHANCES.searchsorted(rng.random(people)).repeat(_TRIES)
    ranges = _TURNS.take(2 * family + (rng.random(len(family)) < 0.5), axis=0)
    turns = ranges[:, 0] + ranges[:, 1] * rng.random((len(family), len(FRAMES), 3))
    turns[:, 0, 2] = rng.vonmises(0, facing, people).repeat(_TRIES)
    return turns


def _proportions(rng, people):
    """Lengths of every frame's axes (people, 13, 3), girths of the parts (people, 24).

    The standing height is 1.
    """
    normal = rng.standard_normal((people, 8))
    axes = np.exp(normal @ _VARIES.reshape(8, -1)).reshape(people, -1, 3)
    broad, girth, head = np.exp(normal[:, [1, 2, 4]] * (0.09, 0.13, 0.05)).T[:, :, None]
    girths = girth * np.where(PART_FRAME < 2, 0.5 + broad / 2, 1)
    girths = np.where(PART_FRAME == _HEAD, head, girths)
    tall = axes[:, :, 1] @ _HEIGHTS
    return axes / tall[:, None, None], girths / tall[:, None]


def _forward(turns, axes):
    """Forward kinematics: orientations (B, 13, 3, 3) and origins (B, 13, 3) of the frames.

    The pelvis is at 0. A frame's turn against its parent is Rx Rz Ry; its place in it is the fourth
    column.
    """
    sx, sz, sy = np.sin(turns).transpose(2, 0, 1)
    cx, cz, cy = np.cos(turns).transpose(2, 0, 1)
    x, y, z = (_ORIGIN * axes[:, _PARENT]).transpose(2, 0, 1)
    rows = [
        *(cz * cy, -sz, cz * sy, x),
        *(cx * sz * cy + sx * sy, cx * cz, cx * sz * sy - sx * cy, y),
        *(sx * sz * cy - cx * sy, sx * cz, sx * sz * sy + cx * cy, z),
    ]
    frames = np.array(rows).transpose(1, 2, 0).reshape(*turns.shape[:2], 3, 4)
    for level in _LEVELS:
        parent = frames[:, _PARENT[level]]
        frames[:, level] = parent[..., :3] @ frames[:, level]
        frames[:, level, :, 3] += parent[..., 3]
    return frames[..., :3], frames[..., 3]


def _clashes(turned, origins):
    """How far elbows, wrists and hands sink into trunk and head: (B,)."""
    along = turned[..., 1]
    points = origins[:, None, _FOREARMS] - along[:, None, _FOREARMS] * np.array([[[0]], [[0.145]]])
    middles = origins[:, _CORE] + along[:, _CORE] * ((0.05,), (0.11,))
    away = points.reshape(-1, 4, 1, 3) - middles[:, None]
    inside = away @ turned[:, None, 1] / ((0.10, 0.19, 0.075), (0.085, 0.085, 0.085))
    return np.maximum(0, 1 - (inside * inside).sum(3)).sum((1, 2))


def pose_bodies(
    rng: np.random.Generator, people: int, facing: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw posed bodies; returns points (P, 64, 3), radii (P, 24, 2), orientations (P, 24, 3, 3).

    facing: concentration of the heading towards the viewer (von Mises).
    The points are the 16 joints, then the ends a and b of every part, in a body's axes with the
    pelvis at 0. The orientations are those of the parts.
    """
    axes, girths = _proportions(rng, people)
    turned, origins = _forward(_angles(rng, people, facing), axes.repeat(_TRIES, axis=0))
    best = _clashes(turned, origins).reshape(people, _TRIES).argmin(1) + np.arange(people) * _TRIES
    turned = turned[best]
    origins = origins[best]
    place = (_POINT_PLACE * axes[:, _POINT_FRAME])[..., None]
    points = origins[:, _POINT_FRAME] + (turned[:, _POINT_FRAME] @ place)[..., 0]
    radii = _PART_RADII * girths[..., None]
    radii[:, _LOCKS] *= rng.random((people, 1)) < 0.4  # long hair, or none
    return points, radii, turned[:, PART_FRAME]
