"""People drawn on a photograph with OpenCV. Matplotlib, slow to import, is not needed."""

import io

import cv2
import numpy as np
from PIL import Image, PngImagePlugin

from hpe_lib.skeleton import MPII

SURE = 0.3  # the confidence from which a joint is drawn as found
WHITE = (255, 255, 255)
# side -> RGB, as in figures, and the number of the marker's corners
SIDES = {"right": ((213, 94, 0), 12), "left": ((0, 114, 178), 4)}
MIDDLE = ((0, 158, 115), 4)


def overlay(
    image: np.ndarray, people: list[dict], sure: float = SURE, least: float = 0.01
) -> np.ndarray:
    """A copy of an image (H, W, 3) uint8 with people and their squares on it.

    people: as `photographs.PoseEstimator.predict` returns them.
    Right joints are orange circles, left ones blue squares, those in the middle green diamonds.
    A joint with a confidence below `sure` is hollow and its limbs are thin; below `least` it is
    left out.
    """
    drawn = image.copy()
    for person in people:
        x, y, side = person["box"]
        width = max(1, round(min(side, *image.shape[:2]) / 110))
        corners = np.array([x, y]) - 0.5 + side * np.array([(0, 0), (0, 1), (1, 1), (1, 0)])
        _polygon(drawn, corners, None, WHITE, max(1, width // 3))
        joints = person["joints"].values()
        rows = np.array([[joint["x"], joint["y"], joint["confidence"]] for joint in joints])
        points = np.where(rows[:, 2:] >= least, rows[:, :2], np.nan)
        _draw_limbs(drawn, points, rows[:, 2] >= sure, width)
        _draw_joints(drawn, points, rows[:, 2] >= sure, width)
    return drawn


def _draw_limbs(drawn, points, sure, width):
    """points: (16, 2) image px, NaN where absent. sure: (16,) bool."""
    thin = max(1, width // 3)
    ends = fill_midpoints(points)
    limbs = [list(limb) for limb in MPII.limbs if np.isfinite(ends[list(limb)]).all()]
    for limb in limbs:  # white edges under all limbs, for any background
        _polygon(drawn, ends[limb], None, WHITE, (width if sure[limb].all() else thin) + 2 * thin)
    for limb in limbs:
        colour, _ = _marker(limb[0])
        _polygon(drawn, ends[limb], None, colour, width if sure[limb].all() else thin)


def _draw_joints(drawn, points, sure, width):
    for joint in np.flatnonzero(np.isfinite(points).all(1)):
        colour, corners = _marker(joint)
        fill, edge = (colour, WHITE) if sure[joint] else (WHITE, colour)
        outline = points[joint] + 1.3 * (width + 1) * corners
        _polygon(drawn, outline, fill, edge, max(1, width // 2))


def fill_midpoints(joints: np.ndarray) -> np.ndarray:
    """A copy of joints (16, 2) with an absent (NaN) pelvis or thorax between hips or shoulders.

    LSP and LSPET have neither, and limbs should meet there.
    """
    joints = np.array(joints, dtype=float)
    for middle, group in (("pelvis", "hip"), ("thorax", "shoulder")):
        row = MPII.index(middle)
        if np.isnan(joints[row]).any():
            pair = [MPII.index(name) for name in MPII.groups[group]]
            joints[row] = np.mean(joints[pair], axis=0)
    return joints


def _marker(joint):
    """((R, G, B), (n, 2) corners around 0) of a joint's marker."""
    side = MPII.names[joint].partition("_")[0]
    colour, count = SIDES.get(side, MIDDLE)
    angles = 2 * np.pi * (np.arange(count) + (side == "left") / 2) / count
    return colour, np.column_stack([np.cos(angles), np.sin(angles)])


def _polygon(drawn, corners, fill, edge, thickness):
    """corners: (n, 2) px and fractions; (0, 0) is the centre of the first pixel, as in OpenCV."""
    corners = np.rint(16 * corners).astype(np.int32)[:, None]
    if fill is not None:
        cv2.fillPoly(drawn, [corners], fill, cv2.LINE_AA, shift=4)
    cv2.polylines(drawn, [corners], True, edge, thickness, cv2.LINE_AA, shift=4)


def encode_png(image: np.ndarray, text: dict[str, str] | None = None) -> bytes:
    """An image (H, W, 3) uint8 RGB as a PNG file's bytes, with entries of text."""
    entries, file = PngImagePlugin.PngInfo(), io.BytesIO()
    for name, value in (text or {}).items():
        entries.add_text(name, value)
    Image.fromarray(image).save(file, "PNG", compress_level=1, pnginfo=entries)
    return file.getvalue()
