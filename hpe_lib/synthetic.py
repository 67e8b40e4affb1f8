"""Synthetic people: posed 3-D bodies drawn with clothes, clutter and other things in front, every label exact.

A body is 13 rigid frames in a kinematic tree; 24 tapered capsules hang on them. A capsule's surface is found in
closed form at each pixel of its box, for all capsules of all people at once, and the nearest one wins: so which
surface lies in front of a joint is known. Background and occluders are flat shapes and stray capsules, coloured
from the same textures as the clothes and placed by `_scene` before any joint exists: what covers a joint says
nothing about which joint it is.

Axes of a body: x to the person's left, y up, z forward, lengths in standing heights. Axes of a scene: x right,
y down, z towards the viewer, the image is [-0.5, 0.5]². All angles in degrees unless a name says otherwise.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from hpe_lib.skeleton import ABSENT, MPII, OCCLUDED, VISIBLE

# What is known of a joint. The flesh it lies in is seen / another part of the same body is in front / another person
# or thing is in front / it lies outside the image.
OUTSIDE, OTHER_OCCLUDED, SELF_OCCLUDED, IN_SIGHT = 0, 1, 2, 3
_VISIBILITY = np.array([ABSENT, OCCLUDED, OCCLUDED, VISIBLE], np.int8)


@dataclass(frozen=True)
class Drawing:
    """One drawn person.

    image: (size, size, 3) uint8 RGB.  joints: (16, 2) float64 (x, y) image px, (0, 0) = centre of the first pixel;
    they may lie outside.  state: (16,) int8 OUTSIDE | OTHER_OCCLUDED | SELF_OCCLUDED | IN_SIGHT.
    head_box: (4,) x1 y1 x2 y2 image px, 0.6 * its diagonal is the head size (as on MPII, about body / 8).
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


def draw(seed: int, index: int, size: int = 128) -> Drawing:
    """Person `index` of the endless set `seed`: the same in any order, process and (but for pixels) at any size."""
    scene = _scene(np.random.default_rng((seed, index)))
    return _draw(scene, size)


def draw_many(seed: int, indices, size: int = 128) -> tuple[np.ndarray, ...]:
    """(N,) indices -> images (N, size, size, 3), joints (N, 16, 2), state (N, 16), head_box (N, 4), center (N, 2),
    body (N,), as in Drawing."""
    people = [draw(seed, int(index), size) for index in indices]
    return tuple(np.array([getattr(person, name) for person in people]) for name in Drawing.__dataclass_fields__)


# ---- the body: frames, joints, parts ---------------------------------------------------------------------------

FRAMES = ("pelvis", "chest", "head", "left_arm", "left_forearm", "right_arm", "right_forearm",
          "left_thigh", "left_shin", "left_foot", "right_thigh", "right_shin", "right_foot")
# frame -> (parent, origin in the parent's axes), for a standing height of about 1
_TREE = {"chest": ("pelvis", (0, 0.10, 0)), "head": ("chest", (0, 0.205, -0.005)),
         "left_arm": ("chest", (0.105, 0.185, 0)), "left_forearm": ("left_arm", (0, -0.17, 0)),
         "left_thigh": ("pelvis", (0.052, 0, 0)), "left_shin": ("left_thigh", (0, -0.24, 0)),
         "left_foot": ("left_shin", (0, -0.235, 0))}
_SOLE, _CROWN = 0.045, 0.185
# joint -> (frame, place); the other joints are frames' origins
_JOINTS = {"thorax": ("chest", (0, 0.195, 0)), "upper_neck": ("head", (0, 0.045, 0.005)),
           "head_top": ("head", (0, _CROWN, 0.005)), "left_wrist": ("left_forearm", (0, -0.145, 0)),
           "left_shoulder": ("left_arm", (0, 0, 0)), "left_elbow": ("left_forearm", (0, 0, 0)),
           "pelvis": ("pelvis", (0, 0, 0)), "left_hip": ("left_thigh", (0, 0, 0)),
           "left_knee": ("left_shin", (0, 0, 0)), "left_ankle": ("left_foot", (0, 0, 0))}
SKIN, HAIR, SHIRT, TROUSERS, SHOE, DARK = range(6)
# part -> frame, ends a and b, radii there, stretch along x and z, material, bare skin beyond which sleeve (or None)
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
    "left_eye": ("head", (0.018, 0.115, 0.041), (0.020, 0.115, 0.041), 0.009, 0.009, 1.0, 1.0, DARK, None),
    "mouth": ("head", (-0.012, 0.068, 0.051), (0.012, 0.068, 0.051), 0.006, 0.006, 1.0, 1.0, DARK, None),
    "left_upper_arm": ("left_arm", (0, 0, 0), (0, -0.17, 0), 0.034, 0.025, 1.0, 1.0, SHIRT, "sleeve"),
    "left_lower_arm": ("left_forearm", (0, 0, 0), (0, -0.145, 0), 0.025, 0.018, 1.0, 1.0, SHIRT, "cuff"),
    "left_hand": ("left_forearm", (0, -0.155, 0), (0, -0.205, 0.006), 0.019, 0.015, 0.8, 1.2, SKIN, None),
    "left_upper_leg": ("left_thigh", (0, 0, 0), (0, -0.24, 0), 0.058, 0.037, 1.0, 1.0, TROUSERS, "leg"),
    "left_lower_leg": ("left_shin", (0, 0, -0.004), (0, -0.235, 0), 0.038, 0.023, 1.0, 1.0, TROUSERS, "ankle"),
    "left_shoe": ("left_foot", (0, -0.020, -0.018), (0, -0.030, 0.105), 0.024, 0.017, 1.1, 1.0, SHOE, None),
}
# joint -> the parts whose flesh holds it, and how deep in it the joint may lie behind the surface
_FLESH = {"pelvis": (("hips", "waist", "left_upper_leg", "right_upper_leg"), 0.14),
          "thorax": (("trunk", "girdle", "neck"), 0.14), "upper_neck": (("neck", "skull", "locks"), 0.07),
          "head_top": (("skull", "hair"), 0.08), "left_shoulder": (("left_upper_arm", "girdle", "trunk"), 0.055),
          "left_elbow": (("left_upper_arm", "left_lower_arm"), 0.045),
          "left_wrist": (("left_lower_arm", "left_hand"), 0.045), "left_hip": (("hips", "left_upper_leg"), 0.09),
          "left_knee": (("left_upper_leg", "left_lower_leg"), 0.065),
          "left_ankle": (("left_lower_leg", "left_shoe"), 0.065)}


def _other(name):
    return name.replace("left_", "right_")


def _both_sides(table, twin):
    """`table` with a right-hand twin of every left-hand entry."""
    return table | {_other(name): twin(value) for name, value in table.items() if name.startswith("left_")}


def _flip(point):
    return (-point[0], *point[1:])


TREE = _both_sides(_TREE, lambda v: (_other(v[0]), _flip(v[1])))
PARTS = _both_sides(_PARTS, lambda v: (_other(v[0]), _flip(v[1]), _flip(v[2]), *v[3:]))
JOINTS = _both_sides(_JOINTS, lambda v: (_other(v[0]), _flip(v[1])))
FLESH = _both_sides(_FLESH, lambda v: (tuple(map(_other, v[0])), v[1]))
_LEVELS = [[FRAMES.index(f) for f in level] for level in (
    ("chest", "left_thigh", "right_thigh"), ("head", "left_arm", "right_arm", "left_shin", "right_shin"),
    ("left_forearm", "right_forearm", "left_foot", "right_foot"))]
_PARENT = np.array([0] + [FRAMES.index(TREE[f][0]) for f in FRAMES[1:]])
_ORIGIN = np.array([(0, 0, 0)] + [TREE[f][1] for f in FRAMES[1:]])
_PART_FRAME = np.array([FRAMES.index(p[0]) for p in PARTS.values()])
_PART_ENDS = np.array([p[1:3] for p in PARTS.values()])
_PART_RADII = np.array([p[3:5] for p in PARTS.values()])
_PART_STRETCH = np.array([(p[5], 1, p[6]) for p in PARTS.values()])
_PART_MATERIAL = np.array([p[7] for p in PARTS.values()])
_PART_COVER = np.array([(None, "sleeve", "cuff", "leg", "ankle").index(p[8]) for p in PARTS.values()])
_JOINT_FRAME = np.array([FRAMES.index(JOINTS[name][0]) for name in MPII.names])
_JOINT_PLACE = np.array([JOINTS[name][1] for name in MPII.names])
_HOLDS = np.array([[part in FLESH[name][0] for part in PARTS] for name in MPII.names])
_DEPTH = np.array([FLESH[name][1] for name in MPII.names])
_HEAD_MARGIN = 1.27  # box around the skull -> MPII's, whose 0.6 * diagonal is an eighth of the body, on average
_SKULL, _LOCKS = list(PARTS).index("skull"), list(PARTS).index("locks")


# ---- poses ------------------------------------------------------------------------------------------------------

# Every angle is drawn between the two ends that its family gives; "a" and "b" are the two sides, in random order.
# root: tilt to the viewer, roll.  spine: bend forward, sideways, twist.  arm: flex forward, lift sideways, turn
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
    "walk": (0.18, ((-8, 20), (-6, 6)), _EASY_SPINE, ((-45, -5), (3, 18), (0, 40), (0, 70)),
             ((5, 55), (3, 18), (0, 40), (5, 90)), ((10, 50), (0, 8), (-15, 8), (0, 40)),
             ((-32, 0), (0, 8), (-15, 8), (0, 65))),
    "run": (0.10, ((-8, 20), (-12, 12)), ((0, 32), (-10, 10), (-25, 25)), ((-65, -15), (5, 30), (0, 40), (50, 130)),
            ((10, 80), (5, 30), (0, 50), (50, 130)), ((35, 105), (0, 12), (-15, 8), (25, 115)),
            ((-35, 5), (0, 12), (-15, 8), (0, 115))),
    "sit": (0.13, ((-5, 30), (-8, 8)), ((-22, 30), (-10, 10), (-20, 20)), ((-10, 80), (0, 40), (-10, 70), (5, 125)),
            ((-10, 80), (0, 40), (-10, 70), (5, 125)), ((65, 105), (0, 32), (-20, 10), (25, 115)),
            ((65, 105), (0, 32), (-20, 10), (25, 115))),
    "crouch": (0.07, ((-8, 25), (-10, 10)), ((5, 50), (-12, 12), (-20, 20)), _LOOSE_ARM, _LOOSE_ARM,
               ((40, 120), (0, 45), (-30, 10), (60, 145)), ((30, 120), (0, 45), (-30, 10), (60, 145))),
    "arms bent": (0.12, ((-8, 20), (-8, 8)), _EASY_SPINE, ((-25, 75), (0, 50), (10, 90), (55, 145)),
                  ((-25, 75), (0, 50), (-10, 90), (20, 145)), _STANDING, ((-15, 35), (0, 20), (-25, 10), (0, 50))),
    "reach": (0.10, ((-8, 20), (-10, 10)), ((-15, 22), (-15, 15), (-25, 25)),
              ((80, 178), (-10, 45), (-20, 50), (0, 60)), _LOOSE_ARM, _STANDING,
              ((-20, 40), (0, 25), (-25, 10), (0, 60))),
    "sport": (0.09, ((-15, 25), (-28, 28)), _FREE_SPINE, _LOOSE_ARM, _LOOSE_ARM, _LOOSE_LEG, _LOOSE_LEG),
    "tumble": (0.03, ((-60, 60), (-180, 180)), _FREE_SPINE, _LOOSE_ARM, _LOOSE_ARM, _LOOSE_LEG, _LOOSE_LEG),
}
_RANGES = np.array([[pair for block in (f[1], f[2], _NECK, *f[3:], (_FOOT, _FOOT)) for pair in block]
                    for f in FAMILIES.values()], float)  # (families, 26, low and high)
_CHANCES = np.cumsum([f[0] for f in FAMILIES.values()])
_TRIES = 3  # poses thrown per person; the one with the fewest limbs inside the trunk is taken

_FACING = 0.7  # concentration of the heading towards the viewer: 70 % face it more or less, as on MPII and LSPET


def _angles(rng, people):
    """(people * _TRIES, 13, 3) turns of every frame against its parent about x, z, y, radians."""
    family = np.repeat(np.searchsorted(_CHANCES[:-1], rng.random(people)), _TRIES)
    low, high = np.moveaxis(_RANGES[family], 2, 0)
    value = np.deg2rad(low + (high - low) * rng.random(low.shape))
    root, spine, neck, limbs, feet = np.split(value, [2, 5, 8, 24], axis=1)
    limbs = limbs.reshape(-1, 2, 2, 4)  # arms and legs, sides, angles
    swap = rng.random(len(limbs)) < 0.5
    limbs[swap] = limbs[swap][:, :, ::-1]
    turns = np.zeros((len(value), len(FRAMES), 3))
    turns[:, 0, :2] = root
    turns[:, 0, 2] = np.repeat(rng.vonmises(0, _FACING, people), _TRIES)
    turns[:, 1], turns[:, 2] = spine, neck
    for side, first in ((1, 0), (-1, 2)):  # the left limbs lift to +x and turn inwards to -x
        sided = limbs[:, :, first // 2] * (-1, side, -side, 1)
        turns[:, 3 + first], turns[:, 7 + first * 3 // 2] = sided[:, 0, :3], sided[:, 1, :3]
        turns[:, 4 + first, 0], turns[:, 8 + first * 3 // 2, 0] = -sided[:, 0, 3], sided[:, 1, 3]
        turns[:, 9 + first * 3 // 2, 0] = feet[:, first // 2]
    return turns


def _matrices(turns):
    """(..., 3) angles about x, z, y, radians -> (..., 3, 3) Rx Rz Ry."""
    (sx, sz, sy), (cx, cz, cy) = np.moveaxis(np.sin(turns), -1, 0), np.moveaxis(np.cos(turns), -1, 0)
    rows = (cz * cy, -sz, cz * sy, cx * sz * cy + sx * sy, cx * cz, cx * sz * sy - sx * cy,
            sx * sz * cy - cx * sy, sx * cz, sx * sz * sy + cx * cy)
    return np.stack(rows, -1).reshape(*turns.shape[:-1], 3, 3)


def _proportions(rng, people):
    """(people, 13, 3) lengths of every frame's axes, (people, 24) girths of the parts; standing height is 1."""
    length, broad, girth = np.exp(rng.standard_normal((people, 3)) * (0.05, 0.09, 0.13)).T[:, :, None]
    single = np.exp(rng.normal(0, 0.05, (people, 5)))  # trunk, head, arms, thighs, shins
    axes = np.repeat(single[:, [0, 0, 1, 2, 2, 2, 2, 3, 4, 4, 3, 4, 4], None], 3, axis=2)
    axes[:, 7:] *= length[:, :, None]
    axes[:, :2, 0] *= broad
    girths = np.where(_PART_FRAME == 2, single[:, 1:2], girth * np.where(_PART_FRAME < 2, 0.5 + broad / 2, 1))
    tall = axes[:, 0, 1] * 0.305 + axes[:, 2, 1] * _CROWN + axes[:, 7, 1] * 0.24 + axes[:, 8, 1] * (0.235 + _SOLE)
    return axes / tall[:, None, None], girths / tall[:, None]


def _forward(turns, axes):
    """Forward kinematics: (B, 13, 3, 3) orientations and (B, 13, 3) origins of the frames, the pelvis at 0."""
    turned, origins = _matrices(turns), np.zeros(turns.shape)
    for level in _LEVELS:
        parent = _PARENT[level]
        place = (_ORIGIN[level] * axes[:, parent])[..., None]
        origins[:, level] = origins[:, parent] + (turned[:, parent] @ place)[..., 0]
        turned[:, level] = turned[:, parent] @ turned[:, level]
    return turned, origins


def _clashes(turned, origins):
    """(B,) how far elbows, wrists and hands sink into trunk and head."""
    points = origins[:, [4, 6, 4, 6]] - turned[:, [4, 6, 4, 6]][..., 1] * np.array([[0], [0], [0.145], [0.145]])
    inside = ((points - origins[:, 1:2]) @ turned[:, 1] - (0, 0.05, 0)) / (0.10, 0.19, 0.075)
    skull = (points - origins[:, 2:3] - 0.11 * turned[:, 2:3, :, 1]) / 0.085
    return sum(np.maximum(0, 1 - (p**2).sum(2)).sum(1) for p in (inside, skull))


def _bodies(rng, people):
    """Joints (P, 16, 3) and parts of posed people in body axes with y up: ends (P, n, 2, 3), radii (P, n, 2),
    orientation (P, n, 3, 3)."""
    axes, girths = _proportions(rng, people)
    turned, origins = _forward(_angles(rng, people), np.repeat(axes, _TRIES, axis=0))
    best = np.argmin(_clashes(turned, origins).reshape(people, _TRIES), axis=1) + np.arange(people) * _TRIES
    turned, origins = turned[best], origins[best]
    place = _PART_ENDS * axes[:, _PART_FRAME, None]
    ends = origins[:, _PART_FRAME, None] + place @ turned[:, _PART_FRAME].swapaxes(2, 3)
    spot = (_JOINT_PLACE * axes[:, _JOINT_FRAME])[..., None]
    joints = origins[:, _JOINT_FRAME] + (turned[:, _JOINT_FRAME] @ spot)[..., 0]
    radii = _PART_RADII * girths[..., None]
    radii[:, _LOCKS] *= (rng.random((people, 1)) < 0.4)  # long hair, or none
    return joints, ends, radii, turned[:, _PART_FRAME]


# ---- the scene: everything that is drawn, in units of the image ---------------------------------------------------

_PLAIN, _TEXTURES, _SHADES = 0, 34, 32
_TILE = 128  # texels a side of a texture; a texture covers 1 / zoom of the image's side
_SKINS = np.array([(255, 224, 196), (241, 194, 155), (214, 160, 118), (172, 117, 78), (120, 78, 50), (72, 46, 32)])
_HAIRS = np.array([(25, 20, 18), (58, 38, 26), (105, 70, 40), (190, 150, 90), (150, 75, 40), (170, 168, 165)])
_BACK, _FRONT, _STRAYS = 12, 5, 4  # at most so many flat shapes behind, in front, and loose capsules


@dataclass(frozen=True)
class _Scene:
    """Parts are tapered capsules of P people, the drawn one first, then stray ones. Materials: rows of `looks`."""

    joints: np.ndarray  # (16, 3) of the first person
    scales: tuple  # centre x, y and body height of the first person
    ends: np.ndarray  # (n, 2, 3)
    radii: np.ndarray  # (n, 2)
    turned: np.ndarray  # (n, 3, 3) the part's axes as columns
    stretch: np.ndarray  # (n, 3)
    skins: np.ndarray  # (n, 3) material up to the cover's end, material beyond, where it ends (share of the length)
    back: np.ndarray  # (k, 20, 2) polygons behind everybody; materials 0 .. k - 1
    front: np.ndarray  # (l, 20, 2) polygons in front of everybody; materials k .. k + l - 1
    looks: dict  # material -> texture, mapping, colours
    light: np.ndarray  # direction (3,), ambient share, then the field of light (4, 4, 3)
    finish: tuple  # blur, noise, places in the noise


def _colours(rng, count):
    """(count, 3) 0 .. 255, of things and clothes; a fifth near skin, so that the colour of skin proves nothing."""
    red_green_blue, bright, vivid, kind, dim = np.split(rng.random((count, 7)), [3, 4, 5, 6], axis=1)
    value = red_green_blue * (0.35 + 0.65 * bright)
    grey = value.mean(1, keepdims=True)
    value = 255 * (grey + (value - grey) * (0.1 + 1.2 * vivid))
    tone = _SKINS[(kind[:, 0] * 5 * len(_SKINS)).astype(int) % len(_SKINS)] * (0.7 + 0.4 * dim)
    return np.where(kind < 0.2, tone, value)


def _looks(rng, count, people):
    """Materials: `count` of things, then six of every person (SKIN ... DARK)."""
    total = count + 6 * people
    first, other = _colours(rng, 2 * total).reshape(2, total, 3)
    texture = rng.integers(_TEXTURES, size=total)
    own = np.arange(people)[:, None] * 6 + count
    other = first + (other - first) * rng.uniform(0.1, 1, (total, 1)) ** 1.5  # mostly faint patterns
    tone = rng.random((people, 1)) * (len(_SKINS) - 1.001)
    low = tone.astype(int)
    first[own + SKIN] = _SKINS[low] + (tone - low)[..., None] * (_SKINS[low + 1] - _SKINS[low])
    first[own + HAIR] = _HAIRS[rng.integers(len(_HAIRS), size=(people, 1))]
    first[own + DARK] = first[own + SKIN] * 0.25
    plain = own + (SKIN, HAIR, DARK)
    other[plain] = first[plain] * (0.86, 0.82, 0.8)
    texture[plain] = _PLAIN
    angle, zoom = rng.uniform(0, np.pi, total), np.exp(rng.uniform(-0.5, 0.9, total)) * _TILE
    angle[count:] *= 0.1  # clothes: nearly upright
    mapping = np.stack([np.cos(angle) * zoom, np.sin(angle) * zoom, *rng.uniform(1e3, 2e3, (2, total))])
    return {"texture": texture * _TILE**2, "mapping": mapping.astype(np.float32),
            "first": first.T.astype(np.float32), "step": (other - first).T.astype(np.float32)}


def _outline(power):
    around = np.linspace(0, 2 * np.pi, 20, endpoint=False) + np.pi / 20
    ring = np.stack([np.cos(around), np.sin(around)], -1)
    return np.sign(ring) * np.abs(ring) ** power


_OUTLINES = np.stack([_outline(0.12), _outline(1.0)])  # box, ellipse


def _shapes(rng):
    """Polygons (k, 20, 2) behind everybody and (l, 20, 2) in front, from bars to discs, uniformly over the image."""
    behind, before = rng.integers(3, _BACK + 1), rng.integers(1, _FRONT + 1)
    total = behind + before
    kind, turn, size, slim, x, y = rng.random((6, total))
    size[:behind], size[behind:] = 0.04 * np.exp(2.4 * size[:behind]), 0.045 * np.exp(1.5 * size[behind:])
    outline = _OUTLINES[(kind * 2).astype(int)] * size[:, None, None]
    slim = np.exp(0.95 * slim)  # sides up to 1 : 6.7
    cosine, sine = np.cos(turn * np.pi), np.sin(turn * np.pi)
    frame = np.stack([cosine / slim, sine / slim, -sine * slim, cosine * slim], 1).reshape(total, 2, 2)
    shapes = outline @ frame + (np.stack([x, y], 1) * 1.1 - 0.55)[:, None]
    return shapes[:behind], shapes[behind:]


def _strays(rng):
    """Loose limb-like capsules, behind or in front: ends (n, 2, 3), radii (n, 2). They know of nobody."""
    count = rng.integers(_STRAYS + 1)
    middle = rng.uniform(-0.55, 0.55, (count, 3))
    middle[:, 2] += np.where(rng.random(count) < 0.3, 3.0, -3.0)
    half = rng.normal(0, 0.055, (count, 3))
    thick = 0.012 * np.exp(1.3 * rng.random((count, 1)))
    return np.stack([middle - half, middle + half], 1), thick * rng.uniform(0.55, 1, (count, 2))


def _places(rng, people):
    """Body height (P,) and place (P, 3) of every person. The others stand beside the middle, never on it."""
    body = 0.8 * np.exp(rng.normal(0, 0.08, people).clip(-0.2, 0.2))
    body[1:] *= np.exp(rng.uniform(-0.5, 0.25, people - 1))
    loose = rng.random((people, 1)) < 0.4  # badly framed: heads and feet leave the image
    centre = (rng.standard_normal((people, 2)) * np.where(loose, (0.09, 0.20), 0.03)).clip(-0.4, 0.4)
    side, up, near = rng.random((3, people - 1))
    place = np.concatenate([centre, np.zeros((people, 1))], 1)
    place[1:, 0] = np.where(side < 0.5, 0.24 + 0.76 * side, -0.24 - 0.76 * (side - 0.5))
    place[1:, 1], place[1:, 2] = 0.7 * up - 0.35, np.where(near < 0.4, 1.5, -1.5)
    return body, place


def _projected(rng, body, joints, ends, radii):
    """Bodies brought to the scene's axes: middle of the pose at 0, mild perspective about it."""
    low, high = joints.min(1), joints.max(1)
    middle = (0.5 * (low + high) * 0.7 + 0.3 * joints[:, MPII.index("pelvis")])[:, None]
    distance = rng.uniform(3, 9, (len(body), 1))
    flip = np.array([1, -1, 1])
    joints, ends = (joints - middle) * flip, (ends - middle[:, None]) * flip
    near, nearer = distance / (distance - joints[..., 2]), distance[..., None] / (distance[..., None] - ends[..., 2])
    tall = body[:, None, None]
    return joints * near[..., None] * tall, ends * nearer[..., None] * tall[..., None], radii * nearer * tall


def _scene(rng):
    """Everything of one drawing, from one random stream. Occluders are thrown first: they cannot know the joints."""
    back, front = _shapes(rng)
    loose, thick = _strays(rng)
    people = 1 + (rng.random(2) < (0.55, 0.3)).sum()
    body, place = _places(rng, people)
    things = len(back) + len(front) + len(loose)
    looks = _looks(rng, things, people)
    joints, ends, radii, turned = _bodies(rng, people)
    joints, ends, radii = _projected(rng, body, joints, ends, radii)
    offset = place[:, None]
    covers = _covers(rng, people)[:, _PART_COVER]
    own = np.arange(people)[:, None] * 6 + things
    skins = np.stack([_PART_MATERIAL + own, own + SKIN + 0 * _PART_MATERIAL, covers], -1).reshape(-1, 3)
    stray = np.arange(things - len(loose), things)[:, None] * (1, 1, 0) + (0, 0, 2)
    turned = (turned * np.array([1, -1, 1])[:, None]).reshape(-1, 3, 3)
    return _Scene(
        joints[0] + offset[0], (*place[0, :2], body[0]),
        np.concatenate([(ends + offset[:, None]).reshape(-1, 2, 3), loose]),
        np.concatenate([radii.reshape(-1, 2), thick]),
        np.concatenate([turned, np.broadcast_to(np.eye(3), (len(loose), 3, 3))]),
        np.concatenate([np.tile(_PART_STRETCH, (people, 1)), np.ones((len(loose), 3))]),
        np.concatenate([skins, stray]), back, front, looks, _light(rng),
        (rng.uniform(0.3, 0.8), rng.uniform(1, 12), *rng.integers(_TILE, size=2)))


_LENGTHS = np.array([(0.0, 0.4), (0.35, 0.75), (0.55, 2.0), (2.0, 2.0), (2.0, 2.0)])  # of sleeves, of trousers


def _covers(rng, people):
    """(people, 5) share under clothes: of anything else (all), upper arm, forearm, thigh and shin."""
    sleeve, leg = _LENGTHS[rng.integers(5, size=(2, people)), [[0], [1]]] + rng.uniform(0, 0.17, (2, people))
    return np.stack([0 * leg + 2, sleeve, sleeve - 1, leg, leg - 1], 1)


def _light(rng):
    """Direction (3), ambient share (1), brightness of a 4 x 4 field by channel (48)."""
    direction = rng.normal(0, 1, 3) + (0, -0.7, 1.0)
    direction[2] = abs(direction[2]) + 0.2
    field = rng.uniform(0.8, 1.25) * (1 + rng.normal(0, 0.09, (4, 4, 1))) * (1 + rng.normal(0, 0.04, (1, 1, 3)))
    return np.concatenate([direction / np.linalg.norm(direction), [rng.uniform(0.4, 0.7)], field.ravel()])


# ---- drawing ------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _textures():
    """(_TEXTURES * 128 * 128,) uint8 shades of periodic patterns, the same for clothes, things and background."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:_TILE, :_TILE] / _TILE
    bank = [0.15 * rng.random((_TILE, _TILE))] * 4
    for waves in (6, 10, 16):
        stripe, other = np.sin(2 * np.pi * waves * y), np.sin(2 * np.pi * waves * x)
        bank += [stripe > 0, other > 0, (stripe > 0) ^ (other > 0), (stripe * other > 0.35), stripe * 0.5 + 0.5,
                 (stripe > 0.6) * 0.5 + (other > 0.6) * 0.5]
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


def _boxes(flat, reach, size):
    """Pixels near every part, row by row: part, flat pixel, dx and dy from its end a, all (T,). flat, reach: (n, 2, 2)
    places and half widths of both ends, px."""
    low = np.floor((flat - reach)[..., 1].min(1)).clip(0, size).astype(np.int32)
    high = np.ceil((flat + reach)[..., 1].max(1) + 1).clip(0, size).astype(np.int32)
    part = np.repeat(np.arange(len(low)), high - low)
    y = _ranges(high - low) + low[part]
    ax, ay, lean, tall, wide = np.take(np.stack([*flat[:, 0].T, *(flat[:, 1] - flat[:, 0]).T, reach.max((1, 2))]), part,
                                       axis=1)
    tall[np.abs(tall) < 1e-6] = 1e-6
    one, two = (ax + lean * ((y - ay + w) / tall).clip(0, 1) for w in (-wide, wide))  # the axis crosses between these
    left = np.floor(np.minimum(one, two) - wide).clip(0, size)
    width = (np.ceil(np.maximum(one, two) + wide + 1).clip(left, size) - left).astype(np.int32)
    run = _ranges(width)
    start, dx, dy = y * size + left.astype(int), (left - ax).astype(np.float32), (y - ay).astype(np.float32)
    part, pixel, dx, dy = (np.repeat(row, width) for row in (part, start, dx, dy))
    return part, pixel + run, dx + run.astype(np.float32), dy


def _ranges(counts):
    """0 .. c - 1 for every c of counts, in one array."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def _dot(a, b):
    return (a * b).sum(-1)


def _surfaces(scene, size):
    """The nearest part at every pixel that a part covers: flat pixel, part, z (px), share of its length, light, and
    place on the part (2 numbers, share of the image's side); all (T,).

    A part is a sphere swept from end a to end b while its radius changes, squeezed by its stretch: in the axes of
    the part, divided by the stretch, the line of sight meets it where a quadratic has a root (cone and two spheres).
    """
    scaled = (scene.turned / scene.stretch[:, None]).swapaxes(1, 2).astype(np.float32)  # image axes -> the part's
    a, b = (scene.ends * size).swapaxes(0, 1)
    radii = scene.radii * size
    flat = (scene.ends[:, :, :2] + 0.5) * size - 0.5
    spread = np.sqrt(((scene.turned[:, :2] * scene.stretch[:, None]) ** 2).sum(2))
    part, pixel, dx, dy = _boxes(flat, spread[:, None] * radii[..., None], size)
    axis = (scaled @ (b - a).astype(np.float32)[..., None])[..., 0]
    mx, my, mz = np.moveaxis(scaled, 2, 0)
    pace = np.sqrt(_dot(mz, mz))
    sight = -mz / pace[:, None]
    table = np.stack([*radii.T, _dot(axis, mx), _dot(axis, my), _dot(sight, mx), _dot(sight, my),
                      _dot(mx, mx), 2 * _dot(mx, my), _dot(my, my), _dot(axis, axis), _dot(axis, sight)])
    table = np.take(table.astype(np.float32), part, axis=1)
    travel, share = _meet(dx, dy, *table)
    hit = np.flatnonzero(travel == travel)  # the others are NaN
    part, pixel = part[hit], pixel[hit]
    z = np.take(a[:, 2].astype(np.float32), part) - travel[hit] / np.take(pace, part)
    nearest = np.full(size * size, -np.inf, np.float32)
    np.maximum.at(nearest, pixel, z)
    won = np.flatnonzero(z >= nearest[pixel])
    part, pixel, z, hit = part[won], pixel[won], z[won], hit[won]
    light = scaled @ scene.light[:3].astype(np.float32)
    rows = np.concatenate([mx, my, sight, axis, scene.stretch, light, mz], axis=1, dtype=np.float32).T
    rows = np.take(rows, part, axis=1).reshape(7, 3, -1)
    spot = dx[hit] * rows[0] + dy[hit] * rows[1] + travel[hit] * rows[2]
    bright = _shade(spot - share[hit] * rows[3], scene.light[3], *rows[4:])
    return pixel, part, z, share[hit], bright, spot * rows[4] / size


def _meet(dx, dy, ra, rb, ux, uy, vx, vy, xx, xy, yy, m0, m2):
    """Way along the line of sight to a part's surface (NaN: missed) and the share of the length where it is met.

    The line starts at (dx, dy) from end a, beside it; the rest are the dot products of the part's axis, of the line
    of sight and of the image's axes. With a at 0 and the line o + t v: m1 = axis.o, m3 = v.o, m5 = o.o.
    """
    m1, m3, m5 = ux * dx + uy * dy, vx * dx + vy * dy, (xx * dx + xy * dy) * dx + yy * dy * dy
    taper = ra - rb
    d2 = m0 - taper * taper
    k2 = d2 - m2 * m2
    k1 = d2 * m3 - m1 * m2 + m2 * taper * ra
    k0 = d2 * m5 - m1 * m1 + 2 * taper * ra * m1 - m0 * ra * ra
    along = m1 - taper * ra
    with np.errstate(invalid="ignore", divide="ignore"):
        cone = -(np.sqrt(k1 * k1 - k0 * k2) + k1) / k2
        share = along + cone * m2
        cone[~((share > 0) & (share < d2) & (k2 > 0))] = np.nan
        first = -m3 - np.sqrt(m3 * m3 - m5 + ra * ra)
        second = m2 - m3 - np.sqrt((m3 - m2) ** 2 - m5 + 2 * m1 - m0 + rb * rb)
        travel = np.fmin(np.fmin(cone, first), second)
        return travel, ((along + travel * m2) / np.maximum(d2, 1e-3)).clip(0, 1)


def _shade(normal, ambient, stretch, light, sight):
    """(T,) Lambert's light, darker towards the outline, of normals (3, T) in the parts' axes."""
    length = np.sqrt(((normal / stretch) ** 2).sum(0)) + 1e-6
    lambert, facing = (normal * light).sum(0) / length, (normal * sight).sum(0) / length
    return (ambient + (1.1 - ambient) * lambert.clip(0)) * (0.72 + 0.28 * facing)


def _flat(polygons, first, canvas):
    """Polygons painted into a (size, size) int16 map of materials, in order."""
    size = len(canvas)
    corners = np.round(((polygons + 0.5) * size - 0.5) * 16).astype(np.int32)
    for number, corner in enumerate(corners, first):
        cv2.fillConvexPoly(canvas, corner, number, cv2.LINE_8, 4)
    return canvas.reshape(-1)


def _draw(scene, size):
    """The drawing of a scene: flat things behind, surfaces, flat things in front; then who is nearest where."""
    material = _flat(scene.back, 0, np.zeros((size, size), np.int16))
    front = _flat(scene.front, len(scene.back), np.full((size, size), -1, np.int16))
    pixel, part, z, *look = _surfaces(scene, size)
    owner, depth = np.full(size * size, -1), np.full(size * size, -np.inf)
    owner[pixel], depth[pixel] = part, z
    owner[front >= 0] = len(scene.ends)
    image = _coloured(scene, size, np.where(front < 0, material, front), front, pixel, part, *look)
    joints = (scene.joints[:, :2] + 0.5) * size - 0.5
    return Drawing(image, joints, _states(scene, joints, owner, depth, size), _head_box(scene, size),
                   (np.array(scene.scales[:2]) + 0.5) * size - 0.5, float(scene.scales[2] * size))


def _coloured(scene, size, material, front, pixel, part, share, light, spot):
    """(size, size, 3) uint8 RGB from the materials of the flat things and, where nothing is in front, the surfaces."""
    seen = np.flatnonzero(front[pixel] < 0)
    pixel, part = pixel[seen], part[seen]
    near, beyond, cover = (np.take(row, part) for row in scene.skins.T)
    material = material.astype(np.intp)
    material[pixel] = np.where(share[seen] > cover, beyond, near)
    bright = np.ones(size * size, np.float32)
    bright[pixel] = light[seen]
    grid = ((np.arange(size) + 0.5) / size - 0.5).astype(np.float32)
    u, v = np.tile(grid, size), np.repeat(grid, size)
    u[pixel], v[pixel] = (spot[0] + 0.6 * spot[2])[seen], spot[1][seen]
    colour = _textured(scene.looks, material, u, v)
    return _finished(scene, cv2.merge([(plane * bright).reshape(size, size) for plane in colour]))


def _textured(looks, material, u, v):
    """Three (T,) planes of colour of materials at places u, v of their textures, shares of the image's side."""
    cosine, sine, du, dv = (np.take(row, material) for row in looks["mapping"])
    texel_u = (cosine * u + sine * v + du).astype(np.int32) & (_TILE - 1)
    texel_v = (cosine * v - sine * u + dv).astype(np.int32) & (_TILE - 1)
    shade = np.take(_textures(), np.take(looks["texture"], material) + texel_v * _TILE + texel_u)
    steps = np.arange(_SHADES, dtype=np.float32) / (_SHADES - 1)
    palette = looks["first"][:, :, None] + looks["step"][:, :, None] * steps
    return [np.take(plane, material * _SHADES + shade) for plane in palette.reshape(3, -1)]


def _finished(scene, colour):
    """Field of light, blur of the lens and noise of the sensor."""
    size = len(colour)
    colour *= cv2.resize(scene.light[4:].reshape(4, 4, 3).astype(np.float32), (size, size))
    blur, noise, x, y = scene.finish
    colour = cv2.addWeighted(colour, 1, _grain(size)[y:y + size, x:x + size], noise, 0, dtype=cv2.CV_8U)
    return cv2.GaussianBlur(colour, (0, 0), blur * size / _TILE)


def _states(scene, joints, owner, depth, size):
    """(16,) int8 states: whose surface is nearest at the joint's pixel, and how far in front of the joint."""
    column, row = np.rint(joints).astype(int).T
    inside = (joints >= -0.5).all(1) & (joints < size - 0.5).all(1)
    pixel = np.where(inside, row * size + column, 0)
    part, parts = owner[pixel], len(PARTS)
    lead = (depth[pixel] - scene.joints[:, 2] * size) / (scene.scales[2] * size)  # in body heights
    held = (part < parts) & _HOLDS[np.arange(16), part.clip(0, parts - 1)]
    own = np.where(lead <= np.where(held, _DEPTH, 0.6 * _DEPTH), IN_SIGHT, SELF_OCCLUDED)
    state = np.where(part >= parts, np.where(lead > 0, OTHER_OCCLUDED, IN_SIGHT), own)
    state[(part == -1)] = IN_SIGHT
    state[part == len(scene.ends)] = OTHER_OCCLUDED
    return np.where(inside, state, OUTSIDE).astype(np.int8)


def _head_box(scene, size):
    """(4,) box around the skull's outline, widened to MPII's proportion of head size and body."""
    stretch, turned = scene.stretch[_SKULL], scene.turned[_SKULL]
    spread = np.sqrt(((turned[:2] * stretch) ** 2).sum(1))
    reach = scene.radii[_SKULL][:, None] * spread
    ends = scene.ends[_SKULL][:, :2]
    low, high = (ends - reach).min(0), (ends + reach).max(0)
    middle, half = (low + high) / 2, (high - low) / 2 * _HEAD_MARGIN
    return (np.concatenate([middle - half, middle + half]) + 0.5) * size - 0.5
