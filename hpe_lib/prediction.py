"""Test time: crops through the cascade, with the flipped image, back to points of the image (F13)."""

from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader

from hpe_lib import heatmaps
from hpe_lib.cascade import Cascade, Maps
from hpe_lib.datasets import People, PoseDataset


@dataclass(frozen=True)
class Predictions:
    """N people: joints (N, 16, 2) image px of the cascade's last network, confidence (N, 16) its peaks;
    detector_joints (N, 16, 2) image px from the detector's logits and detector_centroids from its discs;
    detector_peak (N, 16), the detector's highest probability."""

    joints: np.ndarray
    confidence: np.ndarray
    detector_joints: np.ndarray
    detector_centroids: np.ndarray
    detector_peak: np.ndarray


@torch.no_grad()
def forward(cascade: Cascade, images: torch.Tensor, flip_test: bool = True) -> Maps:
    """Maps of uint8 crops (B, S, S, 3); with flip_test the mean with the mirrored crop's maps, mirrored back.

    Both are computed in one pass. The detector's logits are averaged, not its probabilities.
    """
    if not flip_test:
        return cascade(images)
    both = cascade(torch.cat([images, images.flip(2)]))
    return Maps(*(None if maps is None else _with_mirrored(*maps.chunk(2)) for maps in both))


def _with_mirrored(maps, mirrored):
    return (maps + heatmaps.mirror(mirrored)) / 2


@torch.no_grad()
def predict(cascade: Cascade, people: People, image_size: int, batch_size: int = 64, flip_test: bool = True,
            decoder: str = "parabola", workers: int = 0) -> Predictions:
    """Poses of people in their frames. Without a regressor the cascade's answer is the detector's."""
    cascade.eval()
    device = cascade.mean.device
    rows = []
    for batch in DataLoader(PoseDataset(people, image_size), batch_size, num_workers=workers):
        rows.append(decode(forward(cascade, batch["image"].to(device), flip_test), cascade.map_stride, decoder))
    joints, confidence, *detector = (np.concatenate(part) for part in zip(*rows))
    frames = people.frames(image_size)
    points = [np.stack([frame.to_image(crop) for frame, crop in zip(frames, part)])
              for part in (joints, detector[0], detector[1])]
    return Predictions(points[0], confidence, points[1], points[2], detector[2])


def decode(maps: Maps, map_stride: int, decoder: str) -> tuple[np.ndarray, ...]:
    """(joints (B, 16, 2) crop px, confidence (B, 16), detector's joints, its centroids, its peak probability)."""
    probability = torch.sigmoid(maps.detector)
    below = maps.detector - maps.detector.amax((-2, -1), keepdim=True)  # never positive: they are logarithms already
    from_logits, _ = heatmaps.decode(below, decoder)
    centroids, top = heatmaps.decode(probability, "centroid")
    joints, confidence = (from_logits, top) if maps.regressor is None else heatmaps.decode(maps.regressor, decoder)
    points = (heatmaps.from_map(part, map_stride) for part in (joints, from_logits, centroids))
    joints, from_logits, centroids = (part.cpu().numpy() for part in points)
    return joints, confidence.cpu().numpy(), from_logits, centroids, top.cpu().numpy()


@torch.no_grad()
def maps(cascade: Cascade, people: People, image_size: int, flip_test: bool = False) -> tuple[np.ndarray, ...]:
    """For pictures: (crops (N, S, S, 3) uint8, detector's probabilities (N, 16, h, w), regressor's maps or None)."""
    crops = people.crops(image_size)
    found = forward(cascade.eval(), torch.from_numpy(crops).to(cascade.mean.device), flip_test)
    regressed = None if found.regressor is None else found.regressor.cpu().numpy()
    return crops, torch.sigmoid(found.detector).cpu().numpy(), regressed
