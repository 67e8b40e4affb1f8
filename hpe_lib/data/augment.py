"""Augmentation, and the data set of crops that the networks are trained on.

Items hold joints, not heatmaps: targets are drawn later, per batch.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from hpe_lib.data.people import People
from hpe_lib.geometry import Frame
from hpe_lib.skeleton import ABSENT, MPII
from hpe_lib.workbook.presets import check_augmentation


@dataclass(frozen=True)
class Augmentation:
    """Random rotation, scaling and flip of a frame, so of image and joints by one matrix (F12).

    The ranges are those of §3.1 and §3.2. `colour` is applied to the crop, by `PoseDataset`.

    rotation: degrees, drawn from ±rotation.
    scale_low, scale_high: the person's size, drawn between these.
    flip: exchange left and right, half of the time.
    rotation_step, scale_step: step between the "predefined" values (§3.1), counted from 0 degrees
        and from size 1; 0: uniform sampling (§3.2).
    colour: each channel is multiplied by a factor from 1 ± colour; ours, the paper has none.

    BadInput if scale_low is above scale_high, or a step rounds beyond the range.
    """

    rotation: float = 40.0
    scale_low: float = 0.7
    scale_high: float = 1.3
    flip: bool = True
    rotation_step: float = 0.0
    scale_step: float = 0.0
    colour: float = 0.0

    def __post_init__(self):
        check_augmentation(vars(self))

    def __call__(self, frame: Frame, random: np.random.Generator) -> Frame:
        """The frame, changed at random."""
        angle = random.uniform(-self.rotation, self.rotation)
        scale = random.uniform(self.scale_low, self.scale_high)
        angle = round_to_step(angle, 0, self.rotation_step)
        scale = round_to_step(scale, 1, self.scale_step)
        return frame.augmented(scale, angle, self.flip and random.random() < 0.5)


def round_to_step(value: float, origin: float, step: float) -> float:
    """The nearest of origin, origin ± step, origin ± 2 · step, …; the value if step is 0."""
    return origin + step * round((value - origin) / step) if step else value


@dataclass(frozen=True, eq=False)
class PoseDataset(Dataset):
    """Crops of people with their joints.

    Index it by row, or by (row, epoch) for another augmentation. The same seed, epoch and row give
    the same crop, in any worker.

    An item holds
    image: (S, S, 3) uint8 RGB.
    joints: (16, 2) float32, crop px, (x, y), 0 where absent.
    visibility: (16,) int64, ABSENT also where the joint falls outside the crop.
    body: () float32, crop px, height of the upright body.
    row: () int, the person's row in `people`.
    """

    people: People
    image_size: int
    augmentation: Augmentation | None = None
    seed: int = 0

    def __len__(self) -> int:
        return len(self.people)

    def __getitem__(self, item: int | tuple[int, int]) -> dict:
        row, epoch = item if isinstance(item, tuple) else (item, 0)
        frame = self.people.frame(row, self.image_size)
        if self.augmentation is None:
            return cut(self.people, row, frame)
        random = np.random.default_rng((self.seed, epoch, row))
        sample = cut(self.people, row, self.augmentation(frame, random))
        if self.augmentation.colour:
            image = jitter_colour(sample["image"].numpy(), self.augmentation.colour, random)
            sample["image"] = torch.from_numpy(image)
        return sample


def cut(people: People, row: int, frame: Frame) -> dict:
    """What a frame shows of person `row`: an item of `PoseDataset`."""
    joints, visibility = joints_in_crop(frame, people.joints[row], people.visibility[row])
    return {
        "image": torch.from_numpy(people.images.crop(row, frame)),
        "joints": torch.from_numpy(joints),
        "visibility": torch.from_numpy(visibility),
        "body": np.float32(frame.body_in_crop),
        "row": row,
    }


def jitter_colour(image: np.ndarray, colour: float, random: np.random.Generator) -> np.ndarray:
    """An image (H, W, 3) uint8 with each channel multiplied by a factor from 1 ± colour."""
    factors = random.uniform(1 - colour, 1 + colour, 3).astype(np.float32)
    return np.clip(image * factors, 0, 255).astype(np.uint8)


def joints_in_crop(
    frame: Frame, joints: np.ndarray, visibility: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Joints (16, 2) image px and visibility (16,) as they are in the crop.

    Returns (16, 2) float32 crop px, (x, y), and (16,) int64. In a mirrored crop the left wrist is
    what was the right one. Outside the crop, or not annotated, a joint is ABSENT and lies at 0.
    """
    joints = frame.to_crop(joints)
    if frame.mirrored:
        joints = joints[MPII.mirror]
        visibility = visibility[MPII.mirror]
    inside = ((joints >= -0.5) & (joints < frame.image_size - 0.5)).all(1)
    present = inside & (visibility != ABSENT)
    joints = np.where(present[:, None], joints, 0).astype(np.float32)
    return joints, np.where(present, visibility, ABSENT).astype(np.int64)


def limit_opencv_threads(worker: int) -> None:
    """For a DataLoader's worker_init_fn: workers share the cores, so OpenCV gets one in each."""
    cv2.setNumThreads(0)
