"""Scenes of synthetic people: who stands where, in what clothes and light, amid which other things.

Background and occluders are flat shapes and stray capsules, coloured from the same textures as the
clothes. They are placed before any joint exists, so what covers a joint says nothing about which
joint it is.

Axes of a scene: x right, y down, z towards the viewer; the image is [-0.5, 0.5]².
"""

from dataclasses import dataclass

import numpy as np

from hpe_lib.data import bodies
from hpe_lib.data.bodies import DARK, HAIR, SHIRT, SKIN
from hpe_lib.skeleton import MPII

PLAIN, TEXTURES, SHADES = 0, 34, 32
TILE = 128  # texels a side of a texture; a texture covers 1 / zoom of the image's side
_SKINS = np.array(
    [(255, 224, 196), (241, 194, 155), (214, 160, 118), (172, 117, 78), (120, 78, 50), (72, 46, 32)]
)
_HAIRS = np.array(
    [(25, 20, 18), (58, 38, 26), (105, 70, 40), (190, 150, 90), (150, 75, 40), (170, 168, 165)]
)
_DARKER = np.diff(_SKINS, axis=0)
_FADE = np.array([[[-0.14]], [[-0.18]], [[-0.20]]])
_GREY = 140.0  # of things without camouflage
_TO_SCENE = np.array([1, -1, 1])  # y up -> y down
_PELVIS = MPII.index("pelvis")
# of sleeves and of trousers, in lengths of upper arm and thigh
_LENGTHS = np.array([(0.0, 0.4), (0.35, 0.75), (0.55, 2.0), (2.0, 2.0), (2.0, 2.0)])


@dataclass(frozen=True)
class Difficulty:
    """How much there is beside the person, and how much it looks like the person.

    clutter, occluders: least and most flat shapes behind everybody, in front of everybody. The
        first one behind is of the colour of the background, so there is one at least.
    strays: most loose limb-like pieces.  others: chances of a second and of a third person.
    camouflage: how far the colours of things lie from one grey. At 1 they are as those of clothes.
    facing: concentration of the body's heading towards the viewer (von Mises). Left and right are
        told by face and feet. At 0.7, 29 % look away, as on MPII and LSPET; at 3, 2 % do.
    """

    clutter: tuple[int, int]
    occluders: tuple[int, int]
    strays: int
    others: tuple[float, float]
    camouflage: float
    facing: float


# Chosen by a cascade's accuracy after one epoch, without a look at which row of Table 5 leads.
DIFFICULTIES = {
    "easy": Difficulty((1, 3), (0, 2), 0, (0.1, 0.0), 0.2, 8.0),
    "medium": Difficulty((1, 6), (0, 3), 1, (0.25, 0.0), 0.4, 3.0),
    "hard": Difficulty((3, 12), (1, 5), 4, (0.55, 0.3), 1.0, 0.7),
}


@dataclass(frozen=True)
class Scene:
    """Everything that is drawn, in units of the image.

    Parts are tapered capsules of all people, the drawn one first, then stray ones. A material is a
    row of `looks`.

    joints: (16, 3) of the first person.  scales: its centre x, y and body height.
    ends: (n, 2, 3) of the parts.  radii: (n, 2).  stretch: (n, 3).
    turned: (n, 3, 3), the part's axes as columns.
    skins: (n, 3) material up to the cover's end, material beyond, where it ends (share of the
        length).
    back: (k, 20, 2) polygons behind everybody, of materials 0 .. k - 1.
    front: (l, 20, 2) polygons in front of everybody, of materials k .. k + l - 1.
    looks: of the materials: texture, its turn (and zoom) and shift as complex numbers, colours.
    light: direction (3,), ambient share, field of light (4, 4), tint (3,).
    finish: blur, noise, places in the noise.
    """

    joints: np.ndarray
    scales: tuple
    ends: np.ndarray
    radii: np.ndarray
    turned: np.ndarray
    stretch: np.ndarray
    skins: np.ndarray
    back: np.ndarray
    front: np.ndarray
    looks: dict
    light: tuple
    finish: tuple


def _colours(rng, count):
    """Colours of things and clothes, 0 to 255: (3, count).

    A fifth are near skin, so that the colour of skin proves nothing.
    """
    roll = rng.random((7, count))
    value = roll[:3]
    bright, vivid, kind, dim = roll[3:]
    value *= 0.35 + 0.65 * bright
    grey = value.sum(0) / 3
    value = 255 * (grey + (value - grey) * (0.1 + 1.2 * vivid))
    tone = _SKINS.T[:, (kind * 5 * len(_SKINS)).astype(int) % len(_SKINS)] * (0.7 + 0.4 * dim)
    return np.where(kind < 0.2, tone, value)


def _looks(rng, count, people, camouflage):
    """Materials: `count` of things, then six of every person, as in bodies.MATERIALS."""
    total = count + 6 * people
    first, other = _colours(rng, 2 * total).reshape(3, 2, total).swapaxes(0, 1)
    for colours in (first, other):
        colours[:, :count] += (1 - camouflage) * (_GREY - colours[:, :count])
    texture, faint, angle, zoom, across, down = rng.random((6, total))
    texture = (texture * TEXTURES).astype(int)
    step = (other - first) * (0.1 + 0.9 * faint) ** 1.5  # mostly faint patterns
    own = first[:, count:].reshape(3, people, 6)
    tone, dye = rng.random((2, people)) * ((len(_SKINS) - 1.001,), (len(_HAIRS),))
    low = tone.astype(int)
    own[..., SKIN] = (_SKINS[low] + (tone - low)[:, None] * _DARKER[low]).T
    own[..., HAIR] = _HAIRS[dye.astype(int)].T
    own[..., DARK] = own[..., SKIN] * 0.25
    step[:, count:].reshape(own.shape)[..., :SHIRT] = own[..., :SHIRT] * _FADE
    texture[count:].reshape(-1, 6)[:, :SHIRT] = PLAIN
    angle[count:] *= 0.1  # clothes: nearly upright
    turn = np.exp(1.4 * zoom - 0.5 - 1j * np.pi * angle) * TILE
    shift = 1e3 * (1 + across + 1j * (1 + down))
    return {
        "texture": texture * TILE**2,
        "turn": turn.astype(np.complex64),
        "shift": shift.astype(np.complex64),
        "first": first.astype(np.float32),
        "step": step.astype(np.float32),
    }


def _outline(power):
    around = np.linspace(0, 2 * np.pi, 20, endpoint=False) + np.pi / 20
    ring = np.stack([np.cos(around), np.sin(around)], -1)
    return np.sign(ring) * np.abs(ring) ** power


# (2, 2, 20) x and y of box and ellipse
_OUTLINES = np.stack([_outline(0.12), _outline(1.0)]).transpose(0, 2, 1)


def _shapes(rng, difficulty):
    """Polygons (k, 20, 2) behind everybody and (l, 20, 2) in front of everybody.

    From bars to discs, uniformly over the image.
    """
    behind = rng.integers(*difficulty.clutter, endpoint=True)
    before = rng.integers(*difficulty.occluders, endpoint=True)
    kind, turn, size, slim, x, y = rng.random((6, behind + before, 1))
    size[:behind] = 0.04 * np.exp(2.4 * size[:behind])
    size[behind:] = 0.045 * np.exp(1.5 * size[behind:])
    across, along = _OUTLINES[(kind[:, 0] * 2).astype(int)].swapaxes(0, 1)
    slim = np.exp(0.95 * slim)  # sides up to 1 : 6.7
    shapes = (across / slim + 1j * slim * along) * (size * np.exp(1j * np.pi * turn))  # x + iy
    shapes += (x + 1j * y) * 1.1 - (0.55 + 0.55j)
    shapes = shapes.view(float).reshape(-1, 20, 2)
    return shapes[:behind], shapes[behind:]


def _strays(rng, most):
    """Loose limb-like capsules, behind or in front of everybody: ends (n, 2, 3), radii (n, 2)."""
    roll = rng.random((rng.integers(most, endpoint=True), 7))
    middle = 1.1 * roll[:, :3] - 0.55
    middle[:, 2] += np.where(roll[:, 3] < 0.3, 3.0, -3.0)
    half = 0.055 * rng.standard_normal((len(roll), 3))
    thick = 0.012 * np.exp(1.3 * roll[:, 4:5])
    ends = np.array([middle - half, middle + half]).swapaxes(0, 1)
    return ends, thick * (0.55 + 0.45 * roll[:, 5:])


def _places(rng, people):
    """Body height (P,) and place (P, 3) of every person.

    The others stand beside the middle, never on it.
    """
    normal = rng.standard_normal((people, 3))
    roll = rng.random((people, 5))
    body = 0.8 * np.exp((0.08 * normal[:, 0]).clip(-0.2, 0.2))
    body[1:] *= np.exp(0.75 * roll[1:, 0] - 0.5)
    loose = roll[:, 1:2] < 0.4  # badly framed: heads and feet leave the image
    place = np.zeros((people, 3))
    place[:, :2] = (normal[:, 1:] * np.where(loose, (0.09, 0.20), 0.03)).clip(-0.4, 0.4)
    side, up, near = roll[1:, 2:].T
    place[1:, 0] = np.where(side < 0.5, 0.24 + 0.76 * side, -0.24 - 0.76 * (side - 0.5))
    place[1:, 1] = 0.7 * up - 0.35
    place[1:, 2] = np.where(near < 0.4, 1.5, -1.5)
    return body, place


def _projected(rng, body, place, points, radii):
    """Bring points and radii of bodies to the scene's axes.

    The middle of the pose comes to its place, with mild perspective about it.
    """
    joints = points[:, :16]
    middle = (joints.min(1) + joints.max(1)) * 0.35 + 0.3 * joints[:, _PELVIS]
    points = (points - middle[:, None]) * _TO_SCENE
    distance = 3 + 6 * rng.random((len(body), 1))
    # points nearer to the viewer look larger
    grown = body[:, None] * distance / (distance - points[..., 2])
    return points * grown[..., None] + place[:, None], radii * grown[:, 16:].reshape(radii.shape)


def make_scene(rng: np.random.Generator, difficulty: Difficulty) -> Scene:
    """Draw everything of one scene from one random stream.

    Occluders come first: they cannot know the joints.
    """
    back, front = _shapes(rng, difficulty)
    loose, thick = _strays(rng, difficulty.strays)
    second, third = difficulty.others
    people = 1 + (rng.random() < second) + (rng.random() < third)
    body, place = _places(rng, people)
    things = len(back) + len(front) + len(loose)
    looks = _looks(rng, things, people, difficulty.camouflage)
    points, radii, turned = bodies.pose_bodies(rng, people, difficulty.facing)
    points, radii = _projected(rng, body, place, points, radii)
    turned = (turned * _TO_SCENE[:, None]).reshape(-1, 3, 3)
    upright = np.tile(np.eye(3), (len(loose), 1, 1))
    own = bodies.PART_MATERIAL + 6 * np.arange(people)[:, None] + things
    bare = own + SKIN - bodies.PART_MATERIAL
    covered = _covers(rng, people)[bodies.PART_COVER].T
    skins = np.array([own, bare, covered]).reshape(3, -1)
    of_strays = np.arange(things - len(loose), things)
    one_material = np.array([of_strays, of_strays, np.full(len(loose), 2)])
    blur, noise, x, y = rng.random(4)
    return Scene(
        joints=points[0, :16],
        scales=(*place[0, :2], body[0]),
        ends=np.concatenate([points[:, 16:].reshape(-1, 2, 3), loose]),
        radii=np.concatenate([radii.reshape(-1, 2), thick]),
        turned=np.concatenate([turned, upright]),
        stretch=np.concatenate([*[bodies.PART_STRETCH] * people, np.ones((len(loose), 3))]),
        skins=np.concatenate([skins, one_material], 1).T,
        back=back,
        front=front,
        looks=looks,
        light=_light(rng),
        finish=(0.3 + 0.5 * blur, 1 + 11 * noise, int(x * TILE), int(y * TILE)),
    )


def _covers(rng, people):
    """Share under clothes: of all else, upper arm, forearm, thigh and shin, (5, people)."""
    kind, more = rng.random((2, 2, people))
    sleeve, leg = _LENGTHS[(5 * kind).astype(int), [[0], [1]]] + 0.17 * more
    return np.array([0 * leg + 2, sleeve, sleeve - 1, leg, leg - 1])


def _light(rng):
    """Direction (3,), ambient share, brightness of a field (4, 4), tint (3,)."""
    even, ambient = rng.random(2)
    normal = rng.standard_normal(22)
    x, y, z = normal[:3]
    direction = np.array([x, y - 0.7, abs(z + 1) + 0.2])
    field = (0.8 + 0.45 * even) * (1 + 0.09 * normal[3:19].reshape(4, 4))
    direction /= np.sqrt(direction @ direction)
    return direction, 0.4 + 0.3 * ambient, field, 1 + 0.04 * normal[19:]
