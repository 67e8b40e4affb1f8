"""One object for the way between an image and a network's crop: it maps pixels and points by the same matrix.

The pixel-centre rule, written once: (0, 0) is the *centre* of the first pixel, so a grid that is s times finer
holds the point p at  (p + 0.5) * s - 0.5.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property

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

    @cached_property
    def matrix(self) -> np.ndarray:
        """(2, 3) float64, image px -> crop px, (x, y)."""
        turn, zoom, way = (
            math.radians(self.angle),
            self.image_size / self.side,
            -1 if self.mirrored else 1,
        )
        across, along = zoom * math.cos(turn), zoom * math.sin(turn)
        (x, y), middle = (
            self.center,
            (self.image_size - 1) / 2,
        )  # the crop's centre, by the pixel-centre rule
        return np.array(
            [
                [way * across, way * along, middle - way * (across * x + along * y)],
                [-along, across, middle - (across * y - along * x)],
            ]
        )

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

    def crop(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 -> (image_size, image_size, 3) uint8; outside the image is black.

        Bilinear; a window much larger than the crop is first shrunk by area averaging, so nothing aliases.
        """
        shrink = int(self.side / self.image_size / 1.5)
        if shrink > 1:
            below, right = (-n % shrink for n in image.shape[:2])  # black, as all that is outside
            image = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_CONSTANT)
            size = image.shape[1] // shrink, image.shape[0] // shrink
            return self.on(shrink).crop(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
        size = self.image_size, self.image_size
        if image.shape[0] * image.shape[1] > 4 * self.image_size**2:
            return cv2.warpAffine(image, self.matrix, size)
        four = cv2.cvtColor(
            image, cv2.COLOR_RGB2RGBA
        )  # they are warped to the same numbers as three, in half the time
        return cv2.cvtColor(cv2.warpAffine(four, self.matrix, size), cv2.COLOR_RGBA2RGB)

    def on(self, step: float, left: int = 0, top: int = 0) -> "Frame":
        """The same window on the part of the image that begins with pixel (left, top), made `step` times coarser."""
        x, y = self.center
        center = rescale(x - left, 1 / step), rescale(y - top, 1 / step)
        return replace(self, center=center, side=self.side / step, body=self.body / step)

    def augmented(self, scale: float = 1.0, angle: float = 0.0, mirrored: bool = False) -> "Frame":
        """The frame in which the person appears `scale` times larger, turned and maybe mirrored (§3.1)."""
        return replace(
            self,
            side=self.side / scale,
            angle=self.angle + angle,
            mirrored=self.mirrored != mirrored,
        )


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(2, 3) affine matrix on (..., 2) points."""
    return np.asarray(points) @ matrix[:, :2].T + matrix[:, 2]
