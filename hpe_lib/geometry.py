"""Frames: the affine map between an image and a network's crop, for pixels and points alike.

The pixel-centre rule, written once: (0, 0) is the *centre* of the first pixel. So the point p lies
at  (p + 0.5) * s - 0.5  on a grid that is s times finer.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import cv2
import numpy as np

Points = TypeVar("Points")  # numbers, arrays or tensors, in px


def rescale(points: Points, factor: float) -> Points:
    """The same points on a grid `factor` times finer: (p + 0.5) * factor - 0.5. Any shape."""
    return (points + 0.5) * factor - 0.5


@dataclass(frozen=True)
class Frame:
    """The square part of an image that the network sees, around a person (F1).

    center: (x, y), image px. side: of the square, image px. image_size: side of the crop, crop px.
    body: height of the person standing upright, image px (MPII: 200 * scale).
    angle: degrees that the *content* is turned by, counter-clockwise as seen.
    mirrored: the crop is mirrored, so left and right are exchanged in it.
    """

    center: tuple[float, float]
    side: float
    image_size: int
    body: float
    angle: float = 0.0
    mirrored: bool = False

    @property
    def body_in_crop(self) -> float:
        """Height of the upright person, crop px. Disc radius and sigma are fractions of it."""
        return self.body * self.image_size / self.side

    @cached_property
    def matrix(self) -> np.ndarray:
        """(2, 3) float64, image px -> crop px, (x, y)."""
        turn = math.radians(self.angle)
        zoom = self.image_size / self.side
        sign = -1 if self.mirrored else 1
        across = zoom * math.cos(turn)
        along = zoom * math.sin(turn)
        x, y = self.center
        middle = (self.image_size - 1) / 2  # the crop's centre, by the pixel-centre rule
        return np.array(
            [
                [sign * across, sign * along, middle - sign * (across * x + along * y)],
                [-along, across, middle - (across * y - along * x)],
            ]
        )

    @property
    def inverse(self) -> np.ndarray:
        """(2, 3) float64, crop px -> image px, (x, y)."""
        return cv2.invertAffineTransform(self.matrix)

    def to_crop(self, points: np.ndarray) -> np.ndarray:
        """(..., 2) image px -> (..., 2) crop px. Mirroring does not change the rows' order."""
        return apply(self.matrix, points)

    def to_image(self, points: np.ndarray) -> np.ndarray:
        """(..., 2) crop px -> (..., 2) image px."""
        return apply(self.inverse, points)

    def crop(self, image: np.ndarray) -> np.ndarray:
        """The crop (image_size, image_size, 3) uint8 of an image (H, W, 3) uint8, black outside it.

        It is bilinear. A frame much larger than the crop is first shrunk by area averaging, to
        avoid aliasing.
        """
        shrink = int(self.side / self.image_size / 1.5)
        if shrink > 1:
            below, right = (-n % shrink for n in image.shape[:2])  # black, as the outside is
            image = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_CONSTANT)
            size = image.shape[1] // shrink, image.shape[0] // shrink
            return self.on(shrink).crop(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
        size = self.image_size, self.image_size
        if image.shape[0] * image.shape[1] > 4 * self.image_size**2:
            return cv2.warpAffine(image, self.matrix, size)
        # Four channels are warped to the same values as three, in half the time.
        four = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
        return cv2.cvtColor(cv2.warpAffine(four, self.matrix, size), cv2.COLOR_RGBA2RGB)

    def on(self, step: float) -> "Frame":
        """The same frame on the image when it is `step` times coarser."""
        x, y = self.center
        center = rescale(x, 1 / step), rescale(y, 1 / step)
        return replace(self, center=center, side=self.side / step, body=self.body / step)

    def augmented(self, scale: float = 1.0, angle: float = 0.0, mirrored: bool = False) -> "Frame":
        """The frame in which the person is `scale` times larger, turned and maybe mirrored (§3.1).

        angle: degrees, counter-clockwise as seen.
        """
        return replace(
            self,
            side=self.side / scale,
            angle=self.angle + angle,
            mirrored=self.mirrored != mirrored,
        )


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (..., 2), mapped by a (2, 3) affine matrix."""
    return np.asarray(points) @ matrix[:, :2].T + matrix[:, 2]
