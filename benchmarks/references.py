"""What the library is compared with: the same work as it is commonly done."""

from collections.abc import Callable

import cv2
import numpy as np
import torch

from hpe_lib.cascade import Cascade
from hpe_lib.geometry import Frame
from hpe_lib.trunks import IMAGENET_MEAN, IMAGENET_STD


def decode_and_warp(path: str, frame: Frame) -> np.ndarray:
    """The least that any sample needs: decode the JPEG, and one warp."""
    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    return cv2.warpAffine(image, frame.matrix, (frame.image_size, frame.image_size))


def common_sample(path: str, frame: Frame, joints: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """A sample as dataset classes commonly make it: floats, and targets of 64 cells, on the CPU.

    joints: (16, 2) crop px of a 256 px crop.
    """
    image = cv2.cvtColor(decode_and_warp(path, frame), cv2.COLOR_BGR2RGB)
    image = torch.from_numpy(image).permute(2, 0, 1).contiguous().float().div(255)
    mean, std = (torch.tensor(value)[:, None, None] for value in (IMAGENET_MEAN, IMAGENET_STD))
    return image.sub(mean).div(std), torch.from_numpy(pasted_targets(joints / 4, 64, 2.0))


def pasted_targets(points: np.ndarray, size: int, sigma: float, disc: bool = False) -> np.ndarray:
    """Targets (J, size, size), joint by joint: a patch of 6 sigma pasted at the nearest cell.

    points: (J, 2) map px. disc: a disc of radius 2 sigma instead of a Gaussian.
    """
    maps = np.zeros((len(points), size, size), np.float32)
    reach = int(3 * sigma)
    cells = np.arange(2 * reach + 1, dtype=np.float32) - reach
    squares = cells**2 + cells[:, None] ** 2
    for joint, (x, y) in enumerate((points + 0.5).astype(int)):
        left = x - reach
        top = y - reach
        right = x + reach + 1
        bottom = y + reach + 1
        if left >= size or top >= size or right <= 0 or bottom <= 0:
            continue
        patch = squares <= (2 * sigma) ** 2 if disc else np.exp(-squares / (2 * sigma**2))
        inside = patch[max(-top, 0) : size - top, max(-left, 0) : size - left]
        maps[joint, max(top, 0) : bottom, max(left, 0) : right] = inside
    return maps


def decode_by_map(maps: np.ndarray) -> np.ndarray:
    """Points (B, J, 2), map px, map by map: a quarter cell from the peak to the next highest."""
    found = np.zeros((*maps.shape[:2], 2))
    for person, joint in np.ndindex(maps.shape[:2]):
        heat = maps[person, joint]
        y, x = np.unravel_index(heat.argmax(), heat.shape)
        found[person, joint] = x, y
        if 0 < x < heat.shape[1] - 1 and 0 < y < heat.shape[0] - 1:
            steps = heat[y, x + 1] - heat[y, x - 1], heat[y + 1, x] - heat[y - 1, x]
            found[person, joint] += 0.25 * np.sign(steps)
    return found


def plain_steps(
    model: Cascade,
    objective: Callable,
    optimizer: torch.optim.Optimizer,
    batch: dict,
    steps: int,
    bf16: bool = False,
) -> None:
    """Forward, loss, backward and optimiser step of a batch on the device, again and again."""
    for _ in range(steps):
        with torch.autocast(batch["image"].device.type, torch.bfloat16, enabled=bf16):
            loss = objective(model(batch["image"]), batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    loss.item()  # waits for a GPU
