"""Synthetic people: posed 3-D bodies drawn with clothes, clutter and other things in front, every
label exact.

A body is 13 rigid frames in a kinematic tree; 24 tapered capsules hang on them. A capsule's surface
is found in closed form at each pixel of its box, for all capsules of all people at once, and the
nearest one wins: so which surface lies in front of a joint is known. Background and occluders are
flat shapes and stray capsules, coloured from the same textures as the clothes and placed by
`_scene` before any joint exists: what covers a joint says nothing about which joint it is.

Axes of a body: x to the person's left, y up, z forward, lengths in standing heights. Axes of a
scene: x right, y down, z towards the viewer, the image is [-0.5, 0.5]². All angles in degrees
unless a name says otherwise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from hpe_lib.skeleton import ABSENT, MPII, OCCLUDED, VISIBLE

VERSION = 1  # raised when drawing changes its numbers: what was drawn before is then drawn anew

# What is known of a joint. The flesh it lies in is seen / another part of the same body is in front
# / another person
# or thing is in front / it lies outside the image.
OUTSIDE, OTHER_OCCLUDED, SELF_OCCLUDED, IN_SIGHT = 0, 1, 2, 3
_VISIBILITY = np.array([ABSENT, OCCLUDED, OCCLUDED, VISIBLE], np.int8)


@dataclass(frozen=True)
class Difficulty:
    """How much there is beside the person, and how much it looks like the person.

    clutter, occluders: least and most flat shapes behind everybody, in front of everybody. The
        first one behind is of the colour of the background, so there is one at least.
    strays: most loose limb-like pieces.  others: chances of a second and of a third person.
    camouflage: how far the colours of things lie from one grey. At 1 they are as those of clothes.
    facing: concentration of the body's heading towards the viewer (von Mises). Left and right are
        told by face and feet. At 0.7 29 % look away, as on MPII and LSPET; at 3 2 %.
    """

    clutter: tuple[int, int]
    occluders: tuple[int, int]
    strays: int
    others: tuple[float, float]
    camouflage: float
    facing: float


DIFFICULTIES = {
    "easy": Difficulty((1, 3), (0, 2), 0, (0.1, 0.0), 0.2, 8.0),
    "medium": Difficulty((1, 6), (0, 3), 1, (0.25, 0.0), 0.4, 3.0),
    "hard": Difficulty((3, 12), (1, 5), 4, (0.55, 0.3), 1.0, 0.7),
}


@dataclass(frozen=True)
class Drawing:
    """One drawn person.

    image: (size, size, 3) uint8 RGB.  joints: (16, 2) float64 (x, y) image px, (0, 0) = centre of
    the first pixel; they may lie outside.  state: (16,) int8 OUTSIDE | OTHER_OCCLUDED |
    SELF_OCCLUDED | IN_SIGHT.
    head_box: (4,) x1 y1 x2 y2 image px, 0.6 * its diagonal is the head size (as on MPII, about body
    / 8).
    center: (2,) image px.  body: height of the person standing upright, image px.
    """

    image: np.ndarray
    joints: np.ndarray
    state: np.ndarray
    head_box: np.ndarray
    center: np.ndarray
    body: float

    @property
    def visibility(self) -> np.ndarray:
        """(16,) int8 skeleton.ABSENT (outside the image) | OCCLUDED | VISIBLE."""
        return _VISIBILITY[self.state]


def draw(seed: int, index: int, size: int = 128, difficulty: str = "medium") -> Drawing:
    """Person `index` of the endless set `seed`: the same in any order, process and (but for pixels)
    at any size.

    difficulty: a key of DIFFICULTIES.
    """
    scene = _scene(np.random.default_rng((seed, index)), DIFFICULTIES[difficulty])
    return _draw(scene, size)


def draw_many(
    seed: int, indices: Sequence[int], size: int = 128, difficulty: str = "medium"
) -> tuple[np.ndarray, ...]:
    """(N,) indices -> images (N, size, size, 3), joints (N, 16, 2), state (N, 16), head_box (N, 4),
    center (N, 2), body (N,), as in Drawing.
    """
    people = [draw(seed, int(index), size, difficulty) for index in indices]
    return tuple(
        np.array([getattr(person, name) for person in people])
        for name in Drawing.__dataclass_fields__
    )


# ---- the body: frames, joints, parts
# ---------------------------------------------------------------------------

FRAMES = (
    "pelvis",
    "chest",
    "left_thigh",
    "right_thigh",
    "head",
    "left_arm",
    "right_arm",
    "left_shin",
    "right_shin",
    "left_forearm",
    "right_forearm",
    "left_foot",
    "right_foot",
)  # level by level
# frame -> (parent, origin in the parent's axes), for a standing height of about 1
_TREE = {
    "chest": ("pelvis", (0, 0.10, 0)),
    "head": ("chest", (0, 0.205, -0.005)),
    "left_arm": ("chest", (0.105, 0.185, 0)),
    "left_forearm": ("left_arm", (0, -0.17, 0)),
    "left_thigh": ("pelvis", (0.052, 0, 0)),
    "left_shin": ("left_thigh", (0, -0.24, 0)),
    "left_foot": ("left_shin", (0, -0.235, 0)),
}
_SOLE, _CROWN = 0.045, 0.185
# joint -> (frame, place); the other joints are frames' origins
_JOINTS = {
    "thorax": ("chest", (0, 0.195, 0)),
    "upper_neck": ("head", (0, 0.045, 0.005)),
    "head_top": ("head", (0, _CROWN, 0.005)),
    "left_wrist": ("left_forearm", (0, -0.145, 0)),
    "left_shoulder": ("left_arm", (0, 0, 0)),
    "left_elbow": ("left_forearm", (0, 0, 0)),
    "pelvis": ("pelvis", (0, 0, 0)),
    "left_hip": ("left_thigh", (0, 0, 0)),
    "left_knee": ("left_shin", (0, 0, 0)),
    "left_ankle": ("left_foot", (0, 0, 0)),
}
SKIN, HAIR, DARK, SHIRT, TROUSERS, SHOE = range(6)  # the first three are plain
# part -> frame, ends a and b, radii there, stretch along x and z, material, bare skin beyond which
# sleeve (or None)
_PARTS = {
    "hips": ("pelvis", (-0.03, 0, 0), (0.03, 0, 0), 0.066, 0.066, 1.0, 0.95, TROUSERS, None),
    "waist": ("pelvis", (0, 0.01, 0), (0, 0.10, 0), 0.060, 0.053, 1.5, 1.0, SHIRT, None),
    "trunk": ("chest", (0, 0, 0), (0, 0.125, 0.005), 0.054, 0.060, 1.5, 1.0, SHIRT, None),
    "girdle": ("chest", (-0.075, 0.172, 0), (0.075, 0.172, 0), 0.044, 0.044, 1.0, 1.0, SHIRT, None),
    "neck": ("head", (0, -0.01, 0), (0, 0.07, 0.005), 0.029, 0.026, 1.0, 1.0, SKIN, None),
    "skull": ("head", (0, 0.078, 0.020), (0, 0.127, 0.004), 0.035, 0.050, 0.9, 1.0, SKIN, None),
    "hair": ("head", (0, 0.110, -0.014), (0, 0.136, -0.007), 0.050, 0.053, 0.95, 1.0, HAIR, None),
    "locks": ("head", (0, 0.125, -0.030), (0, 0.010, -0.040), 0.040, 0.030, 1.2, 0.8, HAIR, None),
    "nose": ("head", (0, 0.108, 0.052), (0, 0.090, 0.064), 0.006, 0.010, 1.0, 1.0, SKIN, None),
    "left_eye": (
        "head",
        (0.018, 0.115, 0.041),
        (0.020, 0.115, 0.041),
        0.009,
        0.009,
        1.0,
        1.0,
        DARK,
        None,
    ),
    "mouth": (
        "head",
        (-0.012, 0.068, 0.051),
        (0.012, 0.068, 0.051),
        0.006,
        0.006,
        1.0,
        1.0,
        DARK,
        None,
    ),
    "left_upper_arm": (
        "left_arm",
        (0, 0, 0),
        (0, -0.17, 0),
        0.034,
        0.025,
        1.0,
        1.0,
        SHIRT,
        "sleeve",
    ),
    "left_lower_arm": (
        "left_forearm",
        (0, 0, 0),
        (0, -0.145, 0),
        0.025,
        0.018,
        1.0,
        1.0,
        SHIRT,
        "cuff",
    ),
    "left_hand": (
        "left_forearm",
        (0, -0.155, 0),
        (0, -0.205, 0.006),
        0.019,
        0.015,
        0.8,
        1.2,
        SKIN,
        None,
    ),
    "left_upper_leg": (
        "left_thigh",
        (0, 0, 0),
        (0, -0.24, 0),
        0.058,
        0.037,
        1.0,
        1.0,
        TROUSERS,
        "leg",
    ),
    "left_lower_leg": (
        "left_shin",
        (0, 0, -0.004),
        (0, -0.235, 0),
        0.038,
        0.023,
        1.0,
        1.0,
        TROUSERS,
        "ankle",
    ),
    "left_shoe": (
        "left_foot",
        (0, -0.020, -0.018),
        (0, -0.030, 0.105),
        0.024,
        0.017,
        1.1,
        1.0,
        SHOE,
        None,
    ),
}
# joint -> the parts whose flesh holds it, and how deep in it the joint may lie behind the surface
_FLESH = {
    "pelvis": (("hips", "waist", "left_upper_leg", "right_upper_leg"), 0.14),
    "thorax": (("trunk", "girdle", "neck"), 0.14),
    "upper_neck": (("neck", "skull", "locks"), 0.07),
    "head_top": (("skull", "hair"), 0.08),
    "left_shoulder": (("left_upper_arm", "girdle", "trunk"), 0.055),
    "left_elbow": (("left_upper_arm", "left_lower_arm"), 0.045),
    "left_wrist": (("left_lower_arm", "left_hand"), 0.045),
    "left_hip": (("hips", "left_upper_leg"), 0.09),
    "left_knee": (("left_upper_leg", "left_lower_leg"), 0.065),
    "left_ankle": (("left_lower_leg", "left_shoe"), 0.065),
}


def _other(name):
    return name.replace("left_", "right_")


def _both_sides(table, twin):
    """`table` with a right-hand twin of every left-hand entry."""
    return table | {
        _other(name): twin(value) for name, value in table.items() if name.startswith("left_")
    }


def _flip(point):
    return (-point[0], *point[1:])


TREE = _both_sides(_TREE, lambda v: (_other(v[0]), _flip(v[1])))
PARTS = _both_sides(_PARTS, lambda v: (_other(v[0]), _flip(v[1]), _flip(v[2]), *v[3:]))
JOINTS = _both_sides(_JOINTS, lambda v: (_other(v[0]), _flip(v[1])))
FLESH = _both_sides(_FLESH, lambda v: (tuple(map(_other, v[0])), v[1]))
_LEVELS = slice(1, 4), slice(4, 9), slice(9, 13)
_PARENT = np.array([0] + [FRAMES.index(TREE[f][0]) for f in FRAMES[1:]])
_ORIGIN = np.array([(0, 0, 0)] + [TREE[f][1] for f in FRAMES[1:]])
_PART_FRAME = np.array([FRAMES.index(p[0]) for p in PARTS.values()])
_PART_ENDS = np.array([p[1:3] for p in PARTS.values()])
_PART_RADII = np.array([p[3:5] for p in PARTS.values()])
_PART_STRETCH = np.array([(p[5], 1, p[6]) for p in PARTS.values()])
_PART_MATERIAL = np.array([p[7] for p in PARTS.values()])
_PART_COVER = np.array(
    [(None, "sleeve", "cuff", "leg", "ankle").index(p[8]) for p in PARTS.values()]
)
# every point that is placed on a body: the 16 joints, then ends a and b of every part
_POINT_FRAME = np.array(
    [FRAMES.index(JOINTS[name][0]) for name in MPII.names] + np.repeat(_PART_FRAME, 2).tolist()
)
_POINT_PLACE = np.concatenate([[JOINTS[name][1] for name in MPII.names], _PART_ENDS.reshape(-1, 3)])
_HOLDS = np.array([[part in FLESH[name][0] for part in PARTS] for name in MPII.names])
_DEPTH = np.array([FLESH[name][1] for name in MPII.names])
_HEAD, _CORE, _FOREARMS = (
    FRAMES.index("head"),
    [FRAMES.index("chest"), FRAMES.index("head")],
    slice(9, 11),
)
# what normal numbers (legs as a whole, breadth, girth, trunk, head, arms, thighs, shins) add to the
# logarithms of the
# lengths of the frames' axes
_VARIES = np.zeros((8, len(FRAMES), 3))
_VARIES[[3, 3, 6, 6, 4, 5, 5, 7, 7, 5, 5, 7, 7], np.arange(len(FRAMES))] = 0.05
_VARIES[0, [2, 3, 7, 8, 11, 12]] = 0.05
_VARIES[1, :2, 0] = 0.09
_HEIGHTS = np.array(
    [
        {"pelvis": 0.305, "head": _CROWN, "left_thigh": 0.24, "left_shin": 0.235 + _SOLE}.get(
            name, 0
        )
        for name in FRAMES
    ]
)  # what the frames' y axes add to the standing height
# box around the skull -> MPII's, whose 0.6 * diagonal is an eighth of the body, on average
_HEAD_MARGIN = 1.27
_TO_SCENE, _PELVIS = np.array([1, -1, 1]), MPII.index("pelvis")
_SKULL, _LOCKS = list(PARTS).index("skull"), list(PARTS).index("locks")


# ---- poses ---------------------------------------------------------------------------------------
# ---------------

# Every angle is drawn between the two ends that its family gives; "a" and "b" are the two sides, in
# random order.
# root: tilt to the viewer, roll.  spine: bend forward, sideways, twist.  arm: flex forward, lift
# sideways, turn
# inwards, elbow.  leg: the same, knee. Elbow and knee are hinges: one angle, one way.
HINGE_LIMITS = (0, 150)
_NECK = ((-18, 28), (-14, 14), (-55, 55))
_FOOT = (-25, 20)
_EASY_SPINE = ((-8, 14), (-8, 8), (-15, 15))
_FREE_SPINE = ((-20, 50), (-22, 22), (-35, 35))
_HANGING = ((-25, 30), (4, 25), (-20, 50), (0, 70))
_STANDING = ((-8, 14), (0, 12), (-25, 10), (0, 16))
_LOOSE_ARM = ((-45, 170), (0, 100), (-30, 80), (0, 125))
_LOOSE_LEG = ((-30, 95), (0, 50), (-35, 15), (0, 115))
# family: weight, root, spine, arm a, arm b, leg a, leg b
FAMILIES = {
    "stand": (0.18, ((-8, 20), (-6, 6)), _EASY_SPINE, _HANGING, _HANGING, _STANDING, _STANDING),
    "walk": (
        0.18,
        ((-8, 20), (-6, 6)),
        _EASY_SPINE,
        ((-45, -5), (3, 18), (0, 40), (0, 70)),
        ((5, 55), (3, 18), (0, 40), (5, 90)),
        ((10, 50), (0, 8), (-15, 8), (0, 40)),
        ((-32, 0), (0, 8), (-15, 8), (0, 65)),
    ),
    "run": (
        0.10,
        ((-8, 20), (-12, 12)),
        ((0, 32), (-10, 10), (-25, 25)),
        ((-65, -15), (5, 30), (0, 40), (50, 130)),
        ((10, 80), (5, 30), (0, 50), (50, 130)),
        ((35, 105), (0, 12), (-15, 8), (25, 115)),
        ((-35, 5), (0, 12), (-15, 8), (0, 115)),
    ),
    "sit": (
        0.13,
        ((-5, 30), (-8, 8)),
        ((-22, 30), (-10, 10), (-20, 20)),
        ((-10, 80), (0, 40), (-10, 70), (5, 125)),
        ((-10, 80), (0, 40), (-10, 70), (5, 125)),
        ((65, 105), (0, 32), (-20, 10), (25, 115)),
        ((65, 105), (0, 32), (-20, 10), (25, 115)),
    ),
    "crouch": (
        0.07,
        ((-8, 25), (-10, 10)),
        ((5, 50), (-12, 12), (-20, 20)),
        _LOOSE_ARM,
        _LOOSE_ARM,
        ((40, 120), (0, 45), (-30, 10), (60, 145)),
        ((30, 120), (0, 45), (-30, 10), (60, 145)),
    ),
    "arms bent": (
        0.12,
        ((-8, 20), (-8, 8)),
        _EASY_SPINE,
        ((-25, 75), (0, 50), (10, 90), (55, 145)),
        ((-25, 75), (0, 50), (-10, 90), (20, 145)),
        _STANDING,
        ((-15, 35), (0, 20), (-25, 10), (0, 50)),
    ),
    "reach": (
        0.10,
        ((-8, 20), (-10, 10)),
        ((-15, 22), (-15, 15), (-25, 25)),
        ((80, 178), (-10, 45), (-20, 50), (0, 60)),
        _LOOSE_ARM,
        _STANDING,
        ((-20, 40), (0, 25), (-25, 10), (0, 60)),
    ),
    "sport": (
        0.09,
        ((-15, 25), (-28, 28)),
        _FREE_SPINE,
        _LOOSE_ARM,
        _LOOSE_ARM,
        _LOOSE_LEG,
        _LOOSE_LEG,
    ),
    "tumble": (
        0.03,
        ((-60, 60), (-180, 180)),
        _FREE_SPINE,
        _LOOSE_ARM,
        _LOOSE_ARM,
        _LOOSE_LEG,
        _LOOSE_LEG,
    ),
}
_CHANCES = np.cumsum([f[0] for f in FAMILIES.values()])[:-1]


def _turns(root, spine, *limbs):
    """(2, 13, 3) lowest turns of the frames against their parents and their widths; about x, z, y,
    radians.
    """
    turns = np.zeros((len(FRAMES), 3, 2))
    for frame, ranges in (("pelvis", root), ("chest", spine), ("head", _NECK)):
        turns[FRAMES.index(frame), : len(ranges)] = ranges
    limbs = zip(
        ("left_arm", "right_arm", "left_thigh", "right_thigh"),
        (1, -1, 1, -1),
        np.array(limbs, float),
    )
    for frame, side, (
        flex,
        lift,
        inwards,
        hinge,
    ) in limbs:  # the left ones lift to +x and turn inwards to -x
        lower = FRAMES.index(frame.replace("arm", "forearm").replace("thigh", "shin"))
        turns[FRAMES.index(frame)] = -flex, side * lift, -side * inwards
        turns[lower, 0] = -hinge if "arm" in frame else hinge
    turns[FRAMES.index("left_foot") :, 0] = _FOOT
    return np.deg2rad([turns[..., 0], turns[..., 1] - turns[..., 0]])


# (2 * families, 2, 13, 3): of every family, a on the left and then a on the right
_TURNS = np.array(
    [
        _turns(*f[1:3], *limbs)
        for f in FAMILIES.values()
        for limbs in (f[3:], (f[4], f[3], f[6], f[5]))
    ]
)
_TRIES = 3  # poses thrown per person; the one with the fewest limbs inside the trunk is taken


def _angles(rng, people, facing):
    """(people * _TRIES, 13, 3) turns of every frame against its parent about x, z, y, radians."""
    family = _CHANCES.searchsorted(rng.random(people)).repeat(_TRIES)
    ranges = _TURNS.take(2 * family + (rng.random(len(family)) < 0.5), axis=0)
    turns = ranges[:, 0] + ranges[:, 1] * rng.random((len(family), len(FRAMES), 3))
    turns[:, 0, 2] = rng.vonmises(0, facing, people).repeat(_TRIES)
    return turns


def _proportions(rng, people):
    """(people, 13, 3) lengths of every frame's axes, (people, 24) girths of the parts; standing
    height is 1.
    """
    normal = rng.standard_normal((people, 8))
    axes = np.exp(normal @ _VARIES.reshape(8, -1)).reshape(people, -1, 3)
    broad, girth, head = np.exp(normal[:, [1, 2, 4]] * (0.09, 0.13, 0.05)).T[:, :, None]
    girths = np.where(
        _PART_FRAME == _HEAD, head, girth * np.where(_PART_FRAME < 2, 0.5 + broad / 2, 1)
    )
    tall = axes[:, :, 1] @ _HEIGHTS
    return axes / tall[:, None, None], girths / tall[:, None]


def _forward(turns, axes):
    """Forward kinematics: (B, 13, 3, 3) orientations and (B, 13, 3) origins of the frames, the
    pelvis at 0.

    A frame's turn against its parent is Rx Rz Ry; its place in it is the fourth column.
    """
    (sx, sz, sy), (cx, cz, cy) = np.sin(turns).transpose(2, 0, 1), np.cos(turns).transpose(2, 0, 1)
    x, y, z = (_ORIGIN * axes[:, _PARENT]).transpose(2, 0, 1)
    frames = np.array(
        [
            cz * cy,
            -sz,
            cz * sy,
            x,
            cx * sz * cy + sx * sy,
            cx * cz,
            cx * sz * sy - sx * cy,
            y,
            sx * sz * cy - cx * sy,
            sx * cz,
            sx * sz * sy + cx * cy,
            z,
        ]
    )
    frames = frames.transpose(1, 2, 0).reshape(*turns.shape[:2], 3, 4)
    for level in _LEVELS:
        parent = frames[:, _PARENT[level]]
        frames[:, level] = parent[..., :3] @ frames[:, level]
        frames[:, level, :, 3] += parent[..., 3]
    return frames[..., :3], frames[..., 3]


def _clashes(turned, origins):
    """(B,) how far elbows, wrists and hands sink into trunk and head."""
    along = turned[..., 1]
    points = origins[:, None, _FOREARMS] - along[:, None, _FOREARMS] * np.array([[[0]], [[0.145]]])
    points = (
        points.reshape(-1, 4, 1, 3)
        - (origins[:, _CORE] + along[:, _CORE] * ((0.05,), (0.11,)))[:, None]
    )
    inside = points @ turned[:, None, 1] / ((0.10, 0.19, 0.075), (0.085, 0.085, 0.085))
    return np.maximum(0, 1 - (inside * inside).sum(3)).sum((1, 2))


def _bodies(rng, people, facing):
    """Posed people in body axes with y up: joints and ends of the parts (P, 64, 3) as in
    _POINT_FRAME, radii (P, 24, 2), orientation of the parts (P, 24, 3, 3).
    """
    axes, girths = _proportions(rng, people)
    turned, origins = _forward(_angles(rng, people, facing), axes.repeat(_TRIES, axis=0))
    best = _clashes(turned, origins).reshape(people, _TRIES).argmin(1) + np.arange(people) * _TRIES
    turned, origins = turned[best], origins[best]
    spot = (_POINT_PLACE * axes[:, _POINT_FRAME])[..., None]
    points = origins[:, _POINT_FRAME] + (turned[:, _POINT_FRAME] @ spot)[..., 0]
    radii = _PART_RADII * girths[..., None]
    radii[:, _LOCKS] *= rng.random((people, 1)) < 0.4  # long hair, or none
    return points, radii, turned[:, _PART_FRAME]


# ---- the scene: everything that is drawn, in units of the image
# ---------------------------------------------------

_PLAIN, _TEXTURES, _SHADES = 0, 34, 32
_TILE = 128  # texels a side of a texture; a texture covers 1 / zoom of the image's side
_SKINS = np.array(
    [(255, 224, 196), (241, 194, 155), (214, 160, 118), (172, 117, 78), (120, 78, 50), (72, 46, 32)]
)
_DARKER, _FADE = np.diff(_SKINS, axis=0), np.array([[[-0.14]], [[-0.18]], [[-0.20]]])
_HAIRS = np.array(
    [(25, 20, 18), (58, 38, 26), (105, 70, 40), (190, 150, 90), (150, 75, 40), (170, 168, 165)]
)
_GREY = 140.0  # of things without camouflage


@dataclass(frozen=True)
class _Scene:
    """Parts are tapered capsules of P people, the drawn one first, then stray ones. Materials: rows
    of `looks`.
    """

    joints: np.ndarray  # (16, 3) of the first person
    scales: tuple  # centre x, y and body height of the first person
    ends: np.ndarray  # (n, 2, 3)
    radii: np.ndarray  # (n, 2)
    turned: np.ndarray  # (n, 3, 3) the part's axes as columns
    stretch: np.ndarray  # (n, 3)
    skins: (
        np.ndarray
    )  # (n, 3) material up to the cover's end, material beyond, where it ends (share of the length)
    back: np.ndarray  # (k, 20, 2) polygons behind everybody; materials 0 .. k - 1
    front: np.ndarray  # (l, 20, 2) polygons in front of everybody; materials k .. k + l - 1
    looks: dict  # of materials: texture, its turn (and zoom) and shift as complex numbers, colours
    light: tuple  # direction (3,), ambient share, field of light (4, 4), tint (3,)
    finish: tuple  # blur, noise, places in the noise


def _colours(rng, count):
    """(3, count) 0 .. 255, of things and clothes; a fifth near skin, so that the colour of skin
    proves nothing.
    """
    roll = rng.random((7, count))
    value, (bright, vivid, kind, dim) = roll[:3], roll[3:]
    value *= 0.35 + 0.65 * bright
    grey = value.sum(0) / 3
    value = 255 * (grey + (value - grey) * (0.1 + 1.2 * vivid))
    tone = _SKINS.T[:, (kind * 5 * len(_SKINS)).astype(int) % len(_SKINS)] * (0.7 + 0.4 * dim)
    return np.where(kind < 0.2, tone, value)


def _looks(rng, count, people, camouflage):
    """Materials: `count` of things, then six of every person (SKIN ... SHOE)."""
    total = count + 6 * people
    first, other = _colours(rng, 2 * total).reshape(3, 2, total).swapaxes(0, 1)
    for colours in (first, other):
        colours[:, :count] += (1 - camouflage) * (_GREY - colours[:, :count])
    texture, faint, angle, zoom, across, down = rng.random((6, total))
    texture = (texture * _TEXTURES).astype(int)
    step = (other - first) * (0.1 + 0.9 * faint) ** 1.5  # mostly faint patterns
    own = first[:, count:].reshape(3, people, 6)
    tone, dye = rng.random((2, people)) * ((len(_SKINS) - 1.001,), (len(_HAIRS),))
    low = tone.astype(int)
    own[..., SKIN] = (_SKINS[low] + (tone - low)[:, None] * _DARKER[low]).T
    own[..., HAIR] = _HAIRS[dye.astype(int)].T
    own[..., DARK] = own[..., SKIN] * 0.25
    step[:, count:].reshape(own.shape)[..., :SHIRT] = own[..., :SHIRT] * _FADE
    texture[count:].reshape(-1, 6)[:, :SHIRT] = _PLAIN
    angle[count:] *= 0.1  # clothes: nearly upright
    turn = np.exp(1.4 * zoom - 0.5 - 1j * np.pi * angle) * _TILE
    shift = 1e3 * (1 + across + 1j * (1 + down))
    return {
        "texture": texture * _TILE**2,
        "turn": turn.astype(np.complex64),
        "shift": shift.astype(np.complex64),
        "first": first.astype(np.float32),
        "step": step.astype(np.float32),
    }


def _outline(power):
    around = np.linspace(0, 2 * np.pi, 20, endpoint=False) + np.pi / 20
    ring = np.stack([np.cos(around), np.sin(around)], -1)
    return np.sign(ring) * np.abs(ring) ** power


_OUTLINES = np.stack([_outline(0.12), _outline(1.0)]).transpose(
    0, 2, 1
)  # (2, 2, 20) x and y of box and ellipse


def _shapes(rng, difficulty):
    """Polygons (k, 20, 2) behind everybody and (l, 20, 2) in front, from bars to discs, uniformly
    over the image.
    """
    behind = rng.integers(*difficulty.clutter, endpoint=True)
    before = rng.integers(*difficulty.occluders, endpoint=True)
    kind, turn, size, slim, x, y = rng.random((6, behind + before, 1))
    size[:behind], size[behind:] = (
        0.04 * np.exp(2.4 * size[:behind]),
        0.045 * np.exp(1.5 * size[behind:]),
    )
    across, along = _OUTLINES[(kind[:, 0] * 2).astype(int)].swapaxes(0, 1)
    slim = np.exp(0.95 * slim)  # sides up to 1 : 6.7
    shapes = (across / slim + 1j * slim * along) * (size * np.exp(1j * np.pi * turn))  # x + iy
    shapes += (x + 1j * y) * 1.1 - (0.55 + 0.55j)
    shapes = shapes.view(float).reshape(-1, 20, 2)
    return shapes[:behind], shapes[behind:]


def _strays(rng, most):
    """Loose limb-like capsules, behind or in front: ends (n, 2, 3), radii (n, 2). They know of
    nobody.
    """
    roll = rng.random((rng.integers(most, endpoint=True), 7))
    middle = 1.1 * roll[:, :3] - 0.55
    middle[:, 2] += np.where(roll[:, 3] < 0.3, 3.0, -3.0)
    half = 0.055 * rng.standard_normal((len(roll), 3))
    thick = 0.012 * np.exp(1.3 * roll[:, 4:5])
    return np.array([middle - half, middle + half]).swapaxes(0, 1), thick * (
        0.55 + 0.45 * roll[:, 5:]
    )


def _places(rng, people):
    """Body height (P,) and place (P, 3) of every person. The others stand beside the middle, never
    on it.
    """
    normal, roll = rng.standard_normal((people, 3)), rng.random((people, 5))
    body = 0.8 * np.exp((0.08 * normal[:, 0]).clip(-0.2, 0.2))
    body[1:] *= np.exp(0.75 * roll[1:, 0] - 0.5)
    loose = roll[:, 1:2] < 0.4  # badly framed: heads and feet leave the image
    place = np.zeros((people, 3))
    place[:, :2] = (normal[:, 1:] * np.where(loose, (0.09, 0.20), 0.03)).clip(-0.4, 0.4)
    side, up, near = roll[1:, 2:].T
    place[1:, 0] = np.where(side < 0.5, 0.24 + 0.76 * side, -0.24 - 0.76 * (side - 0.5))
    place[1:, 1], place[1:, 2] = 0.7 * up - 0.35, np.where(near < 0.4, 1.5, -1.5)
    return body, place


def _projected(rng, body, place, points, radii):
    """Bodies brought to the scene's axes: middle of the pose at their place, mild perspective about
    it.
    """
    joints = points[:, :16]
    middle = (joints.min(1) + joints.max(1)) * 0.35 + 0.3 * joints[:, _PELVIS]
    points = (points - middle[:, None]) * _TO_SCENE
    distance = 3 + 6 * rng.random((len(body), 1))
    grown = (
        body[:, None] * distance / (distance - points[..., 2])
    )  # points nearer to the viewer look larger
    return points * grown[..., None] + place[:, None], radii * grown[:, 16:].reshape(radii.shape)


def _scene(rng, difficulty):
    """Everything of one drawing, from one random stream. Occluders are thrown first: they cannot
    know the joints.
    """
    back, front = _shapes(rng, difficulty)
    loose, thick = _strays(rng, difficulty.strays)
    second, third = difficulty.others
    people = 1 + (rng.random() < second) + (rng.random() < third)
    body, place = _places(rng, people)
    things = len(back) + len(front) + len(loose)
    looks = _looks(rng, things, people, difficulty.camouflage)
    points, radii, turned = _bodies(rng, people, difficulty.facing)
    points, radii = _projected(rng, body, place, points, radii)
    turned = np.concatenate(
        [(turned * _TO_SCENE[:, None]).reshape(-1, 3, 3), np.tile(np.eye(3), (len(loose), 1, 1))]
    )
    own = _PART_MATERIAL + 6 * np.arange(people)[:, None] + things
    skins = np.array(
        [own, own + SKIN - _PART_MATERIAL, _covers(rng, people)[_PART_COVER].T]
    ).reshape(3, -1)
    stray = np.arange(things - len(loose), things) * _SAME + _ALL
    blur, noise, x, y = rng.random(4)
    return _Scene(
        points[0, :16],
        (*place[0, :2], body[0]),
        np.concatenate([points[:, 16:].reshape(-1, 2, 3), loose]),
        np.concatenate([radii.reshape(-1, 2), thick]),
        turned,
        np.concatenate([*[_PART_STRETCH] * people, np.ones((len(loose), 3))]),
        np.concatenate([skins, stray], 1).T,
        back,
        front,
        looks,
        _light(rng),
        (0.3 + 0.5 * blur, 1 + 11 * noise, int(x * _TILE), int(y * _TILE)),
    )


_SAME, _ALL = (
    np.array([[1], [1], [0]]),
    np.array([[0], [0], [2]]),
)  # of a stray one: one material, up to any share
_LENGTHS = np.array(
    [(0.0, 0.4), (0.35, 0.75), (0.55, 2.0), (2.0, 2.0), (2.0, 2.0)]
)  # of sleeves, of trousers


def _covers(rng, people):
    """(5, people) share under clothes: of all else, upper arm, forearm, thigh and shin."""
    kind, more = rng.random((2, 2, people))
    sleeve, leg = _LENGTHS[(5 * kind).astype(int), [[0], [1]]] + 0.17 * more
    return np.array([0 * leg + 2, sleeve, sleeve - 1, leg, leg - 1])


def _light(rng):
    """Direction (3,), ambient share, brightness of a field (4, 4), tint (3,)."""
    (even, ambient), normal = rng.random(2), rng.standard_normal(22)
    x, y, z = normal[:3]
    direction = np.array([x, y - 0.7, abs(z + 1) + 0.2])
    field = (0.8 + 0.45 * even) * (1 + 0.09 * normal[3:19].reshape(4, 4))
    return (
        direction / np.sqrt(direction @ direction),
        0.4 + 0.3 * ambient,
        field,
        1 + 0.04 * normal[19:],
    )


# ---- drawing -------------------------------------------------------------------------------------
# -----------------


@lru_cache(maxsize=1)
def _textures():
    """(_TEXTURES * 128 * 128,) uint8 shades of periodic patterns, the same for clothes, things and
    background.
    """
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:_TILE, :_TILE] / _TILE
    bank = [0.15 * rng.random((_TILE, _TILE))] * 4
    for waves in (6, 10, 16):
        stripe, other = np.sin(2 * np.pi * waves * y), np.sin(2 * np.pi * waves * x)
        bank += [
            stripe > 0,
            other > 0,
            (stripe > 0) ^ (other > 0),
            (stripe * other > 0.35),
            stripe * 0.5 + 0.5,
            (stripe > 0.6) * 0.5 + (other > 0.6) * 0.5,
        ]
    for scale in (1.5, 3, 6, 12):
        noise = np.fft.ifft2(np.fft.fft2(rng.normal(size=(_TILE, _TILE))) * _low_pass(scale)).real
        noise = 0.5 + 0.22 * noise / noise.std()
        bank += [noise, noise, noise > 0.5]
    return np.rint(np.clip(np.stack(bank), 0, 1) * (_SHADES - 1)).astype(np.uint8).ravel()


def _low_pass(scale):
    frequency = np.fft.fftfreq(_TILE)
    return np.exp(-2 * (np.pi * scale) ** 2 * (frequency[:, None] ** 2 + frequency**2))


@lru_cache(maxsize=4)
def _grain(size):
    """(size + 128, size + 128, 3) float32 standard noise; a drawing cuts its window from it."""
    return np.random.default_rng(1).standard_normal((size + _TILE, size + _TILE, 3), np.float32)


@lru_cache(maxsize=4)
def _grid(size):
    """(size * size,) complex64 x + iy of the pixels' places in the scene."""
    place = ((np.arange(size) + 0.5) / size - 0.5).astype(np.float32)
    return (place + 1j * place[:, None]).ravel()


def _reach(scene):
    """(2, 2, n) half widths of the parts' ends (a and b; in x and y), share of the image's side."""
    spread = scene.turned[:, :2] * scene.stretch[:, None]
    return np.sqrt((spread * spread).sum(2)).T * scene.radii.T[:, None]


def _boxes(flat, reach, size):
    """Pixels near every part, part by part and row by row: how many (n,), then flat pixel, dx and
    dy from the part's end a, all (T,). flat, reach: (2, 2, n) x and y of ends a and b and half
    widths there, px.
    """
    (ax, ay), (_, by) = flat
    (left, top), (left_b, top_b) = flat - reach
    (right, bottom), (right_b, bottom_b) = flat + reach
    top = np.maximum(np.ceil(np.minimum(top, top_b)), 0)
    bottom = np.minimum(np.floor(np.maximum(bottom, bottom_b)), size - 1)
    rows = np.maximum(bottom - top + 1, 0).astype(int)
    tall = np.where(np.abs(by - ay) < 1e-6, 1e-6, by - ay)
    high = np.maximum(*reach[:, 1])
    table = np.array(
        [
            top + _starts(rows),
            ax,
            ay,
            (ay + high) / tall,
            (ay - high) / tall,
            1 / tall,
            left,
            left_b - left,
            right,
            right_b - right,
        ]
    )
    y, ax, ay, *ends, pace, left, left_lean, right, right_lean = table.repeat(rows, axis=1)
    y += np.arange(len(y))
    share = (y * pace - ends).clip(0, 1)  # the axis crosses the row between these
    left = np.maximum(np.ceil(np.minimum(*(left + share * left_lean))), 0)
    right = np.minimum(np.floor(np.maximum(*(right + share * right_lean))), size - 1)
    width = np.maximum(right - left + 1, 0).astype(int)
    count = np.bincount(np.arange(len(rows)).repeat(rows), width, len(rows)).astype(int)
    pixel, start, dy = np.array([y * size + left + _starts(width), y * size + ax, y - ay]).repeat(
        width, axis=1
    )
    pixel += np.arange(len(pixel))
    return count, pixel.astype(int), (pixel - start).astype(np.float32), dy.astype(np.float32)


def _starts(counts):
    """What is to be added to 0, 1, 2 ... in runs of these lengths for every run to begin with 0."""
    return counts - counts.cumsum()


def _surfaces(scene, size, hidden=slice(0)):
    """The nearest part at every pixel that a part covers, but for the `hidden` ones (mask): flat
    pixel, part, z (px), share of its length, light, and place on the part (2 numbers, share of the
    image's side); all (T,).

    A part is a sphere swept from end a to end b while its radius changes, squeezed by its stretch:
    in the axes of the part, divided by the stretch, the line of sight meets it where a quadratic
    has a root (cone and two spheres). A line starts where it passes end a most closely: at dx *
    across[0] + dy * across[1] from it.
    """
    squeezed = scene.turned / scene.stretch[:, None]
    flat = scene.ends.T[:2].swapaxes(0, 1) * size + (size - 1) / 2
    count, pixel, dx, dy = _boxes(flat, _reach(scene) * size, size)
    pace = np.sqrt((squeezed[:, 2] ** 2).sum(1))[:, None]
    sight = -squeezed[:, 2] / pace
    lean = squeezed[:, :2] @ sight[..., None]
    axis = (scene.ends[:, 1] - scene.ends[:, 0])[:, None] * size @ squeezed
    basis = np.concatenate(
        [squeezed[:, :2] - lean * sight[:, None], sight[:, None], axis], 1
    )  # across, sight, axis
    height = (scene.ends[:, 0, 2] * size, *(lean[..., 0] / pace).T, -1 / pace[:, 0])
    travel, share, z = _meet(dx, dy, basis, scene.radii.T * size, height, count)
    hit = np.flatnonzero(z == z)  # NaN: missed
    won = hit[_foremost(pixel[hit], z[hit], size, hidden)]
    part = np.arange(len(count)).repeat(count)[won]
    share = share[won].clip(0, 1)
    normal, spot = _looked_at(
        scene, squeezed, basis, part, np.array([dx[won], dy[won], travel[won], share])
    )
    return pixel[won], part, z[won], share, _shade(normal, scene.light), spot / size


def _foremost(pixel, z, size, hidden):
    """Which of the points (T,) are the nearest of their pixel, where it is not hidden."""
    nearest = np.full(size * size, -np.inf, np.float32)
    nearest[hidden] = np.inf
    np.maximum.at(nearest, pixel, z)
    return np.flatnonzero(z >= nearest[pixel])


def _meet(dx, dy, basis, radii, height, count):
    """Ways along the lines of sight to the parts' surfaces, the shares of the length met there and
    z, all (T,), NaN where missed. height: z of end a, what dx, dy and the way add to it.

    With a at 0, the line o + t v (o.v = 0) and the axis m, all that is needed are dot products of
    o, v and m: the sphere around the share s of the length is met at t = s m.v - sqrt(ra² - o.o + 2
    s room level - s² k2). The cone is met where that is least.
    """
    (xx, xy, _, ux), (_, yy, _, uy), (_, _, _, mv), (*_, mm) = (
        basis @ basis.swapaxes(1, 2)
    ).transpose(1, 2, 0)
    ra, rb = radii
    taper = ra - rb
    room = np.maximum(
        mm - taper * taper, 1e-3
    )  # below 0 one sphere lies in the other, and there is no cone
    k2 = mm - taper * taper - mv * mv
    k = np.where(k2 > 0, k2, np.nan)  # at 0 one sphere's outline lies in the other's
    table = np.array(
        [
            ux / room,
            uy / room,
            taper * ra / room,
            xx,
            2 * xy,
            yy,
            ra * ra,
            mv * room / k,
            room**3 / k**2,
            room / k,
            mv / room,
            mv,
            2 * room,
            k2,
            *height,
        ],
        np.float32,
    )
    ux, uy, u, xx, xy, yy, rr, p, q, r, pace, mv, d, k2, za, zx, zy, zt = table.repeat(
        count, axis=1
    )
    level = ux * dx + uy * dy - u
    inside = rr - (xx * dx + xy * dy) * dx - yy * dy * dy  # ra² - o.o
    with np.errstate(invalid="ignore"):
        cone = p * level - np.sqrt(q * level * level + r * inside)
        share = level + pace * cone
        cone = np.where((share > 0) & (share < 1), cone, np.nan)
        second = mv - np.sqrt(inside + d * level - k2)
        travel = np.fmin(np.fmin(cone, -np.sqrt(inside)), second)
    return travel, level + pace * travel, za + zx * dx + zy * dy + zt * travel


def _looked_at(scene, squeezed, basis, part, along):
    """Normals (3, T) in the scene's axes, of any length, and places on the parts (2, T), px, of
    points of parts.

    along (4, T): what is gone from end a in the directions of the basis, the axis last; a normal
    points away from it.
    """
    to = np.concatenate([squeezed.swapaxes(1, 2), scene.stretch[..., None] * _UNROLL], 2)
    table = (basis @ to * _AXIS_BACK).reshape(-1, 20).T.astype(np.float32)
    table = table.repeat(np.bincount(part, minlength=len(basis)), axis=1).reshape(4, 5, -1)
    table *= along[:, None]
    table = table.sum(0)
    return table[:3], table[3:]


_UNROLL = np.array([(1, 0), (0, 1), (0.6, 0)])  # x, y and z on a part -> u and v of its texture
_AXIS_BACK = np.array([(1, 1, 1, 1, 1)] * 3 + [(-1, -1, -1, 0, 0)])


def _shade(normal, light):
    """(T,) Lambert's light, darker towards the outline, of normals (3, T)."""
    (direction, ambient, *_), length = light, np.sqrt((normal * normal).sum(0)) + 1e-6
    lambert = direction.astype(np.float32) @ normal / length
    return (ambient + (1.1 - ambient) * np.maximum(lambert, 0)) * (0.72 + 0.28 * normal[2] / length)


def _flat(polygons, first, canvas):
    """Polygons painted into a (size, size) int16 map of materials, in order."""
    size = len(canvas)
    corners = np.rint((polygons + 0.5) * (16 * size) - 8).astype(np.int32)
    for number, corner in enumerate(corners, first):
        cv2.fillConvexPoly(canvas, corner, number, cv2.LINE_8, 4)
    return canvas.reshape(-1)


def _draw(scene, size):
    """The drawing of a scene: flat things behind, surfaces, flat things in front; then who is
    nearest where.
    """
    flat = _flat(np.concatenate([scene.back, scene.front]), 0, np.zeros((size, size), np.int16))
    front = flat >= len(scene.back)
    pixel, part, z, *look = _surfaces(scene, size, front)
    owner, depth = np.full(size * size, -1, np.int16), np.full(size * size, -np.inf, np.float32)
    owner[pixel], depth[pixel] = part, z
    owner[front] = len(scene.ends)
    image = _coloured(scene, size, flat, pixel, part, *look)
    joints = scene.joints[:, :2] * size + (size - 1) / 2
    return Drawing(
        image,
        joints,
        _states(scene, joints, owner, depth, size),
        _head_box(scene, size),
        (np.array(scene.scales[:2]) + 0.5) * size - 0.5,
        float(scene.scales[2] * size),
    )


def _coloured(scene, size, flat, pixel, part, share, light, spot):
    """(size, size, 3) uint8 RGB from the materials of the flat things and of the surfaces that are
    seen.
    """
    near, beyond, cover = scene.skins.T
    material = flat.astype(np.intp)
    material[pixel] = np.where(share > cover.take(part), beyond.take(part), near.take(part))
    bright = cv2.resize(scene.light[2].astype(np.float32), (size, size))
    bright.reshape(-1)[pixel] *= light
    place = _grid(size).copy()
    place[pixel] = spot[0] + 1j * spot[1]
    colour = _textured(scene.looks, scene.light[3], material, place).reshape(size, size, 4)
    return _finished(scene, cv2.cvtColor(colour, cv2.COLOR_RGBA2RGB), bright)


def _textured(looks, tint, material, place):
    """(T, 4) RGB0 of materials at places u + iv of their textures, shares of the image's side."""
    place = place * looks["turn"].take(material)
    place += looks["shift"].take(material)
    texel = looks["texture"].take(material)
    texel += (place.imag.astype(np.intp) & (_TILE - 1)) * _TILE
    texel += place.real.astype(np.intp) & (_TILE - 1)
    shade = _textures().take(texel)
    palette = np.zeros(
        (len(looks["turn"]) * _SHADES, 4), np.float32
    )  # four: rows of 16 bytes are taken fast
    shades = looks["first"][..., None] + looks["step"][..., None] * _STEPS
    palette[:, :3] = shades.reshape(3, -1).T * tint
    return palette.take(material * _SHADES + shade, axis=0)


_STEPS = np.arange(_SHADES, dtype=np.float32) / (_SHADES - 1)


def _finished(scene, colour, bright):
    """Light, noise of the sensor and blur of the lens."""
    size = len(colour)
    colour *= cv2.cvtColor(bright, cv2.COLOR_GRAY2RGB)
    blur, noise, x, y = scene.finish
    colour = cv2.addWeighted(
        colour, 1, _grain(size)[y : y + size, x : x + size], noise, 0, dtype=cv2.CV_8U
    )
    return cv2.GaussianBlur(colour, (0, 0), blur * size / _TILE)


def _states(scene, joints, owner, depth, size):
    """(16,) int8 states: whose surface is nearest at the joint's pixel, and how far in front of the
    joint.
    """
    column, row = np.rint(joints).astype(int).T
    inside = (np.abs(joints - (size - 1) / 2) < size / 2).all(1)
    pixel = np.where(inside, row * size + column, 0)
    part, parts = owner[pixel], len(PARTS)
    lead = (depth[pixel] - scene.joints[:, 2] * size) / (
        scene.scales[2] * size
    )  # in body heights; nothing: -inf
    held = _HOLDS[np.arange(16), part % parts]
    own = np.where(lead <= np.where(held, _DEPTH, 0.6 * _DEPTH), IN_SIGHT, SELF_OCCLUDED)
    state = np.where(part < parts, own, np.where(lead > 0, OTHER_OCCLUDED, IN_SIGHT))
    state[part == len(scene.ends)] = OTHER_OCCLUDED
    return np.where(inside, state, OUTSIDE).astype(np.int8)


def _head_box(scene, size):
    """(4,) box around the skull's outline, widened to MPII's proportion of head size and body."""
    spread = scene.turned[_SKULL, :2] * scene.stretch[_SKULL]
    reach = np.sqrt((spread * spread).sum(1)) * scene.radii[_SKULL][:, None]
    ends = scene.ends[_SKULL, :, :2]
    low, high = np.minimum(*(ends - reach)), np.maximum(*(ends + reach))
    middle, half = (low + high) / 2, (high - low) / 2 * _HEAD_MARGIN
    return (np.concatenate([middle - half, middle + half]) + 0.5) * size - 0.5
