"""Synthetic people: posed 3-D bodies in clothes, amid other things, with exact labels.

A body is a set of tapered capsules (bodies.py) in a scene (scenes.py). A capsule's surface is found
in closed form at each pixel of its box, for all capsules of all people at once, and the nearest
one wins: so which surface lies in front of a joint is known.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from hpe_lib.data.bodies import FLESH_DEPTH, FLESH_HOLDS, PARTS
from hpe_lib.data.scenes import DIFFICULTIES, SHADES, TILE, make_scene
from hpe_lib.skeleton import ABSENT, OCCLUDED, VISIBLE

VERSION = 1  # raised when drawing changes its numbers: what was drawn before is then drawn again

# What is known of a joint: it lies outside the image; another person or thing is in front of it;
# another part of the same body is; or the flesh that it lies in is seen.
OUTSIDE, OTHER_OCCLUDED, SELF_OCCLUDED, IN_SIGHT = 0, 1, 2, 3
_VISIBILITY = np.array([ABSENT, OCCLUDED, OCCLUDED, VISIBLE], np.int8)
_SKULL = list(PARTS).index("skull")
# box around the skull -> MPII's, whose 0.6 * diagonal is an eighth of the body, on average
_HEAD_MARGIN = 1.27


@dataclass(frozen=True)
class Drawing:
    """One drawn person.

    image: (size, size, 3) uint8 RGB.  joints: (16, 2) float64 (x, y) image px, (0, 0) = centre of
    the first pixel; they may lie outside.  state: (16,) int8 OUTSIDE | OTHER_OCCLUDED |
    SELF_OCCLUDED | IN_SIGHT.
    head_box: (4,) x1 y1 x2 y2 image px; 0.6 * its diagonal is the head size, as on MPII about an
    eighth of the body.
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
    """Draw person `index` of the endless set `seed`.

    The person is the same in any order, in any process and, but for its pixels, at any size.
    difficulty: a key of DIFFICULTIES.
    """
    scene = make_scene(np.random.default_rng((seed, index)), DIFFICULTIES[difficulty])
    return _draw(scene, size)


# ---- drawing


@lru_cache(maxsize=1)
def _textures():
    """Shades of periodic patterns, for clothes, things and background: (TEXTURES * 128²,) uint8."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:TILE, :TILE] / TILE
    bank = [0.15 * rng.random((TILE, TILE))] * 4
    for waves in (6, 10, 16):
        stripe = np.sin(2 * np.pi * waves * y)
        other = np.sin(2 * np.pi * waves * x)
        bank += [
            stripe > 0,
            other > 0,
            (stripe > 0) ^ (other > 0),
            (stripe * other > 0.35),
            stripe * 0.5 + 0.5,
            (stripe > 0.6) * 0.5 + (other > 0.6) * 0.5,
        ]
    for scale in (1.5, 3, 6, 12):
        noise = np.fft.ifft2(np.fft.fft2(rng.normal(size=(TILE, TILE))) * _low_pass(scale)).real
        noise = 0.5 + 0.22 * noise / noise.std()
        bank += [noise, noise, noise > 0.5]
    return np.rint(np.clip(np.stack(bank), 0, 1) * (SHADES - 1)).astype(np.uint8).ravel()


def _low_pass(scale):
    frequency = np.fft.fftfreq(TILE)
    return np.exp(-2 * (np.pi * scale) ** 2 * (frequency[:, None] ** 2 + frequency**2))


@lru_cache(maxsize=4)
def _grain(size):
    """(size + 128, size + 128, 3) float32 standard noise; a drawing cuts its window from it."""
    return np.random.default_rng(1).standard_normal((size + TILE, size + TILE, 3), np.float32)


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
    """Pixels near every part, part by part and row by row.

    flat, reach: (2, 2, n) x and y of ends a and b, and half widths there, px.
    Returns how many they are (n,), then the flat pixel, dx and dy from the part's end a, all (T,).
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
    """What to add to 0, 1, 2, … so that every run of these lengths begins with 0."""
    return counts - counts.cumsum()


def _surfaces(scene, size, hidden=slice(0)):
    """The nearest part at every pixel that a part covers, except the `hidden` ones (mask).

    Returns flat pixel, part, z (px), share of its length, light, and place on the part (2 numbers,
    share of the image's side); all (T,).

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
    across = squeezed[:, :2] - lean * sight[:, None]
    basis = np.concatenate([across, sight[:, None], axis], 1)
    height = (scene.ends[:, 0, 2] * size, *(lean[..., 0] / pace).T, -1 / pace[:, 0])
    travel, share, z = _meet(dx, dy, basis, scene.radii.T * size, height, count)
    hit = np.flatnonzero(z == z)  # NaN: missed
    won = hit[_foremost(pixel[hit], z[hit], size, hidden)]
    part = np.arange(len(count)).repeat(count)[won]
    share = share[won].clip(0, 1)
    along = np.array([dx[won], dy[won], travel[won], share])
    normal, spot = _looked_at(scene, squeezed, basis, part, along)
    return pixel[won], part, z[won], share, _shade(normal, scene.light), spot / size


def _foremost(pixel, z, size, hidden):
    """Which of the points (T,) are the nearest of their pixel, where it is not hidden."""
    nearest = np.full(size * size, -np.inf, np.float32)
    nearest[hidden] = np.inf
    np.maximum.at(nearest, pixel, z)
    return np.flatnonzero(z >= nearest[pixel])


def _meet(dx, dy, basis, radii, height, count):
    """Where lines of sight meet the parts: way to the surface, share of the length, z; (T,) each.

    They are NaN where a line misses. height: z of end a, and what dx, dy and the way add to it.

    With a at 0, the line o + t v (o.v = 0) and the axis m, all that is needed are dot products of
    o, v and m: the sphere around the share s of the length is met at t = s m.v - sqrt(ra² - o.o + 2
    s room level - s² k2). The cone is met where that is least.
    """
    products = (basis @ basis.swapaxes(1, 2)).transpose(1, 2, 0)
    (xx, xy, _, ux), (_, yy, _, uy), (_, _, _, mv), (*_, mm) = products
    ra, rb = radii
    taper = ra - rb
    # below 0 one sphere lies in the other, and there is no cone
    room = np.maximum(mm - taper * taper, 1e-3)
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
    """Normals (3, T) in the scene's axes, of any length, and places on the parts (2, T), px.

    along: (4, T) ways from end a in the directions of the basis, the axis last. A normal points
    away from the axis.
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
    direction, ambient, *_ = light
    length = np.sqrt((normal * normal).sum(0)) + 1e-6
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
    """The drawing of a scene: flat things behind, surfaces, flat things in front."""
    flat = _flat(np.concatenate([scene.back, scene.front]), 0, np.zeros((size, size), np.int16))
    front = flat >= len(scene.back)
    pixel, part, z, *look = _surfaces(scene, size, front)
    owner = np.full(size * size, -1, np.int16)
    depth = np.full(size * size, -np.inf, np.float32)
    owner[pixel] = part
    depth[pixel] = z
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
    """The image (size, size, 3), uint8 RGB, from the materials of flat things and surfaces."""
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
    texel += (place.imag.astype(np.intp) & (TILE - 1)) * TILE
    texel += place.real.astype(np.intp) & (TILE - 1)
    shade = _textures().take(texel)
    # four columns: rows of 16 bytes are taken fast
    palette = np.zeros((len(looks["turn"]) * SHADES, 4), np.float32)
    shades = looks["first"][..., None] + looks["step"][..., None] * _STEPS
    palette[:, :3] = shades.reshape(3, -1).T * tint
    return palette.take(material * SHADES + shade, axis=0)


_STEPS = np.arange(SHADES, dtype=np.float32) / (SHADES - 1)


def _finished(scene, colour, bright):
    """Light, noise of the sensor and blur of the lens."""
    size = len(colour)
    colour *= cv2.cvtColor(bright, cv2.COLOR_GRAY2RGB)
    blur, noise, x, y = scene.finish
    grain = _grain(size)[y : y + size, x : x + size]
    colour = cv2.addWeighted(colour, 1, grain, noise, 0, dtype=cv2.CV_8U)
    return cv2.GaussianBlur(colour, (0, 0), blur * size / TILE)


def _states(scene, joints, owner, depth, size):
    """States (16,) int8: whose surface is nearest at a joint's pixel, and how far before it."""
    column, row = np.rint(joints).astype(int).T
    inside = (np.abs(joints - (size - 1) / 2) < size / 2).all(1)
    pixel = np.where(inside, row * size + column, 0)
    part = owner[pixel]
    parts = len(PARTS)
    # in body heights; -inf where there is nothing
    lead = (depth[pixel] - scene.joints[:, 2] * size) / (scene.scales[2] * size)
    held = FLESH_HOLDS[np.arange(16), part % parts]
    own = np.where(lead <= np.where(held, FLESH_DEPTH, 0.6 * FLESH_DEPTH), IN_SIGHT, SELF_OCCLUDED)
    state = np.where(part < parts, own, np.where(lead > 0, OTHER_OCCLUDED, IN_SIGHT))
    state[part == len(scene.ends)] = OTHER_OCCLUDED
    return np.where(inside, state, OUTSIDE).astype(np.int8)


def _head_box(scene, size):
    """(4,) box around the skull's outline, widened to MPII's proportion of head size and body."""
    spread = scene.turned[_SKULL, :2] * scene.stretch[_SKULL]
    reach = np.sqrt((spread * spread).sum(1)) * scene.radii[_SKULL][:, None]
    ends = scene.ends[_SKULL, :, :2]
    low = np.minimum(*(ends - reach))
    high = np.maximum(*(ends + reach))
    middle = (low + high) / 2
    half = (high - low) / 2 * _HEAD_MARGIN
    return (np.concatenate([middle - half, middle + half]) + 0.5) * size - 0.5
