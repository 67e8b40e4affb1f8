"""One object for the way between an image and a network's crop: it maps pixels and points by the same matrix.

The pixel-centre rule, written once: (0, 0) is the *centre* of the first pixel, so a grid that is s times finer
holds the point p at  (p + 0.5) * s - 0.5.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np


def rescale(points, factor):
    """Points of one grid on a grid `factor` times finer: (p + 0.5) * factor - 0.5. Arrays or tensors of any shape."""
    return (points + 0.5) * factor - 0.5


@dataclass(frozen=True)
class Frame:
    """A square window on a person (DESIGN F1): what part of the image the network sees.

    center: (x, y), image px.  side: the window's side, image px.  image_size: the crop's side, crop px.
    body: height of the person standing upright, image px (MPII: 200 * scale).
    angle: degrees the *content* turns, counter-clockwise as seen.  mirrored: left and right exchanged, in the crop.
    """

    center: tuple[float, float]
    side: float
    image_size: int
    body: float
    angle: float = 0.0
    mirrored: bool = False

    @property
    def body_in_crop(self) -> float:
        """Height of the upright person in the crop, crop px; disc radius and sigma are fractions of it."""
        return self.body * self.image_size / self.side

    @property
    def matrix(self) -> np.ndarray:
        """(2, 3) float64, image px -> crop px, (x, y)."""
        turn, zoom = np.deg2rad(self.angle), self.image_size / self.side
        linear = zoom * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        if self.mirrored:
            linear[0] = -linear[0]
        middle = (self.image_size - 1) / 2  # the crop's centre, by the pixel-centre rule
        return np.column_stack([linear, middle - linear @ np.asarray(self.center, dtype=float)])

    @property
    def inverse(self) -> np.ndarray:
        """(2, 3) float64, crop px -> image px, (x, y)."""
        return cv2.invertAffineTransform(self.matrix)

    def to_crop(self, points: np.ndarray) -> np.ndarray:
        """(..., 2) image px -> (..., 2) crop px; rows keep their order also where the frame is mirrored."""
        return apply(self.matrix, points)

    def to_image(self, points: np.ndarray) -> np.ndarray:
        """(..., 2) crop px -> (..., 2) image px."""
        return apply(self.inverse, points)

    def cut(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 -> (image_size, image_size, 3) uint8; outside the image is black.

        Bilinear; a window much larger than the crop is first shrunk by area averaging, so nothing aliases.
        """
        matrix, shrink = self.matrix, int(self.side / self.image_size / 1.5)
        if shrink > 1:
            below, right = (-n % shrink for n in image.shape[:2])  # black, as all that is outside
            image = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_CONSTANT)
            size = image.shape[1] // shrink, image.shape[0] // shrink
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            to_full = np.array([[shrink, 0, (shrink - 1) / 2], [0, shrink, (shrink - 1) / 2], [0, 0, 1]])
            matrix = matrix @ to_full
        return cv2.warpAffine(image, matrix, (self.image_size, self.image_size), flags=cv2.INTER_LINEAR)

    def augmented(self, scale: float = 1.0, angle: float = 0.0, mirrored: bool = False) -> "Frame":
        """The frame in which the person appears `scale` times larger, turned and maybe mirrored (§3.1)."""
        return replace(self, side=self.side / scale, angle=self.angle + angle, mirrored=self.mirrored != mirrored)


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(2, 3) affine matrix on (..., 2) points."""
    return np.asarray(points) @ matrix[:, :2].T + matrix[:, 2]
