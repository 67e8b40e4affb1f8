"""Draws skeletons, marks and heatmaps on the pixels of an image.

Images are (H, W, 3) uint8 RGB. Points are (x, y) in px, and (0, 0) is the centre of the first
pixel. Everything is drawn by OpenCV: torchvision's drawing rounds to whole pixels and gives all
joints one colour.

The colours are Okabe and Ito's, which colour-blind readers can tell apart. Colour is never the only
sign: right joints are orange circles, left ones blue squares, the middle line green diamonds.
"""

import io
import textwrap

import cv2
import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont, PngImagePlugin

from hpe_lib.geometry import rescale
from hpe_lib.skeleton import ABSENT, MPII, TORSO, VISIBLE, fill_torso

SKY, GREEN, YELLOW, BLUE = "#56B4E9", "#009E73", "#F0E442", "#0072B2"
VERMILION, PURPLE, BLACK, WHITE = "#D55E00", "#CC79A7", "#000000", "#FFFFFF"
MORE, LESS = "#E66101", "#5E3C99"  # of a difference: above 0, below 0
LEGEND = "Right: orange circles. Left: blue squares. Middle: green diamonds. "
SIDE_COLOURS = {"right": VERMILION, "left": BLUE, "middle": GREEN}
CONFIDENT = 0.3  # confidence from which a joint is drawn as found
FAINT = 0.01  # confidence below which a joint is left out
TITLE_HEIGHT = 18  # px above each tile
TILE_GAP = 6  # px between tiles
# Inferno without its darkest part, which would hide the image. (256, 3) uint8 RGB.
_LEVELS = np.linspace(76, 255, 256).astype(np.uint8)[:, None]
HEAT = cv2.applyColorMap(_LEVELS, cv2.COLORMAP_INFERNO)[:, 0, ::-1]


def side_of(joint: int) -> str:
    """Return "right", "left" or "middle" for a row of the skeleton."""
    side = MPII.names[joint].partition("_")[0]
    return side if side in SIDE_COLOURS else "middle"


def draw_people(image: np.ndarray, people: list[dict], zoom: float = 1.0) -> np.ndarray:
    """Return a copy of the image with people, as `PoseEstimator.predict` returns them, on it.

    A white frame shows the square that the network saw. Joints below the confidence CONFIDENT are
    hollow and their limbs are thin; joints below FAINT are left out.
    zoom: how much finer the image is than the one that the people were found in.
    """
    image = image.copy()
    for person in people:
        x, y, side = person["box"]
        width = max(1, round(min(zoom * side, *image.shape[:2]) / 110))
        square = np.array([x, y]) - 0.5 + side * np.array([(0, 0), (0, 1), (1, 1), (1, 0)])
        draw_polygon(image, rescale(square, zoom), WHITE, max(1, width // 3))
        values = [(j["x"], j["y"], j["confidence"]) for j in person["joints"].values()]
        joints, confidence = np.split(np.array(values), [2], axis=1)
        joints = np.where(confidence >= FAINT, rescale(joints, zoom), np.nan)
        draw_pose(image, joints, confidence[:, 0] >= CONFIDENT, width)
    return image


def draw_pose(
    image: np.ndarray, joints: np.ndarray, solid: np.ndarray, width: int, limbs: bool = True
) -> None:
    """Draw one person on the image itself.

    joints: (16, 2) px; NaN is left out.  solid: (16,) bool; other joints are hollow, their limbs
    thin.  width: of a limb, px.  limbs: False draws joints alone.
    """
    if limbs:
        draw_limbs(image, joints, solid, width)
    for joint in np.flatnonzero(np.isfinite(joints).all(1)):
        colour = SIDE_COLOURS[side_of(joint)]
        fill, edge = (colour, WHITE) if solid[joint] else (WHITE, colour)
        corners = joints[joint] + 1.3 * (width + 1) * marker_corners(side_of(joint))
        draw_polygon(image, corners, edge, max(1, width // 3 if solid[joint] else width // 2), fill)


def draw_limbs(
    image: np.ndarray, joints: np.ndarray, solid: np.ndarray, width: int, colour: str = ""
) -> None:
    """Draw the limbs of joints (16, 2) px on the image itself; arguments as `draw_pose`.

    colour: of all limbs; without it each has the colour of its side.
    """
    ends = fill_torso(joints)
    solid = np.array(solid)
    for middle, pair in TORSO.items():
        if np.isnan(joints[middle]).any():
            solid[middle] = solid[pair].all()
    thin = max(1, width // 3)
    limbs = [limb for limb in MPII.limbs if np.isfinite(ends[list(limb)]).all()]
    for edge in (2 * thin, 0):  # first white edges below all limbs, for any background
        for child, parent in limbs:
            thickness = (width if solid[child] and solid[parent] else thin) + edge
            shade = WHITE if edge else colour or SIDE_COLOURS[side_of(child)]
            draw_polygon(image, ends[[child, parent]], shade, thickness)


def marker_corners(side: str) -> np.ndarray:
    """Return the corners (n, 2) of a side's marker, 1 px from its centre."""
    count, turn = {"right": (12, 0), "left": (4, 0.5), "middle": (4, 0)}[side]
    angles = 2 * np.pi * (np.arange(count) + turn) / count
    return np.column_stack([np.cos(angles), np.sin(angles)])


def draw_polygon(
    image: np.ndarray, corners: np.ndarray, colour: str, thickness: int, fill: str = ""
) -> None:
    """Draw a closed polygon, corners (n, 2) px, on the image itself; two corners are a line."""
    corners = _subpixels(corners)[:, None]
    if fill:
        cv2.fillPoly(image, [corners], ImageColor.getrgb(fill), cv2.LINE_AA, shift=4)
    cv2.polylines(image, [corners], True, ImageColor.getrgb(colour), thickness, cv2.LINE_AA, 4)


def _subpixels(points):
    """Points in sixteenths of a pixel: OpenCV's integers with shift=4."""
    return np.rint(16 * np.asarray(points)).astype(np.int32)


def draw_map(
    image: np.ndarray,
    heat: np.ndarray,
    top: float = 1.0,
    opacity: float = 0.85,
    signed: bool = False,
) -> np.ndarray:
    """Return the image (S, S, 3) in light grey with a map (h, w) on it, enlarged smoothly.

    The map is invisible at 0 and yellow from `top` on. signed: purple below 0, orange above.
    """
    level = resize(np.float32(heat / top), *image.shape[1::-1])
    level = np.clip(level, -1 if signed else 0, 1)
    if signed:
        more = ImageColor.getrgb(MORE)
        less = ImageColor.getrgb(LESS)
        colour = np.where(level[..., None] < 0, less, more)
    else:
        colour = HEAT[(255 * level).astype(int)]
    alpha = opacity * np.sqrt(np.abs(level))[..., None]
    grey = 90 + 0.6 * image.mean(-1, keepdims=True, dtype=np.float32)
    return np.rint(grey * (1 - alpha) + colour * alpha).astype(np.uint8)


def resize(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return an image or a map at another size: enlarged smoothly, or averaged where it shrinks."""
    shrink = width < image.shape[1]
    how = cv2.INTER_AREA if shrink else cv2.INTER_CUBIC
    return cv2.resize(image, (width, height), interpolation=how)


def mark_joint(
    image: np.ndarray,
    side: int,
    truth: np.ndarray,
    visibility: int,
    predicted: np.ndarray | None = None,
) -> np.ndarray:
    """Return the image (S, S, 3) as (side, side, 3) with one joint's true and predicted place.

    The truth is a ring, dashed if the joint is occluded and left out if it is ABSENT. The
    prediction is a cross. truth, predicted: (2,) px of the image; predicted None or NaN: no cross.
    """
    zoom = side / len(image)
    thickness = max(1, round(side / 250))
    image = resize(image, side, side)
    radius = max(6.0, 0.05 * side)
    if visibility != ABSENT:
        center = _subpixels(rescale(truth, zoom)).tolist()
        axes = [round(16 * radius)] * 2
        sky = ImageColor.getrgb(SKY)
        sweep = 60 if visibility == VISIBLE else 20  # degrees
        for start in range(0, 360, 60):
            arc = (0, start, start + sweep)
            cv2.ellipse(image, center, axes, *arc, sky, thickness + 1, cv2.LINE_AA, 4)
    if predicted is not None and np.isfinite(predicted).all():
        center = np.rint(rescale(predicted, zoom)).astype(int).tolist()
        # A white cross with a black edge; on a small tile a thin black one, which hides less.
        for shade, extra in ((0, 2), (255, 0)) if side >= 250 else ((0, 0),):
            kind = (cv2.MARKER_TILTED_CROSS, round(radius), thickness + extra, cv2.LINE_AA)
            cv2.drawMarker(image, center, [shade] * 3, *kind)
    return image


def pose_tile(
    image: np.ndarray,
    joints: np.ndarray,
    visibility: np.ndarray,
    side: int,
    limbs: bool = True,
    truth: np.ndarray | None = None,
) -> np.ndarray:
    """Return a square image, resized to side px, with one person on it.

    joints: (16, 2) px of the image; visibility: (16,).  limbs: False draws joints alone, small.
    truth: (16, 2) px, drawn below as black limbs.
    """
    zoom = side / len(image)
    width = min(max(2, round(side / 80)), 4) if limbs else 1
    tile = resize(image, side, side)
    if truth is not None:
        draw_limbs(tile, rescale(truth, zoom), np.full(len(truth), True), width, BLACK)
    points = np.where(visibility[:, None] != ABSENT, rescale(joints, zoom), np.nan)
    draw_pose(tile, points, visibility == VISIBLE, width, limbs)
    return tile


def tile_images(
    tiles: list[np.ndarray],
    titles: list[str],
    columns: int,
    font_size: int = 12,
    caption: str = "",
) -> Image.Image:
    """Return tiles (h, w, 3) of one size in rows of `columns`, each with its title above, on white.

    A line of a title is TITLE_HEIGHT px high, all titles have as many lines as the first, and
    TILE_GAP px lie between tiles.  caption: words below all tiles, in as many lines as they need.
    """
    from matplotlib import get_data_path  # here: `hpe predict` writes no words and starts faster

    height, width = tiles[0].shape[:2]
    head = TITLE_HEIGHT * len(titles[0].split("\n"))
    step_x = width + TILE_GAP
    step_y = height + head + TILE_GAP
    bottom = -(-len(tiles) // columns) * step_y - TILE_GAP
    across = columns * step_x - TILE_GAP
    lines = textwrap.wrap(caption, max(1, round(across / (0.62 * font_size))))  # a letter's width
    sheet = Image.new("RGB", (across, bottom + TITLE_HEIGHT * len(lines)), "white")
    font = ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", font_size)
    pen = ImageDraw.Draw(sheet)
    for number, (tile, title) in enumerate(zip(tiles, titles)):
        x = number % columns * step_x
        y = number // columns * step_y
        pen.text((x + 2, y), title, "black", font)
        sheet.paste(Image.fromarray(tile), (x, y + head))
    for number, line in enumerate(lines):
        pen.text((2, bottom + TITLE_HEIGHT * number), line, "black", font)
    return sheet


def encode_png(image: np.ndarray, text: dict[str, str] | None = None) -> bytes:
    """An image (H, W, 3) uint8 RGB as a PNG file's bytes, with entries of text."""
    entries = PngImagePlugin.PngInfo()
    file = io.BytesIO()
    for name, value in (text or {}).items():
        entries.add_text(name, value)
    Image.fromarray(image).save(file, "PNG", compress_level=1, pnginfo=entries)
    return file.getvalue()
