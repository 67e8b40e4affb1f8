"""The cascade (Fig. 1): detector, its heatmaps stacked with the image, regressor."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from hpe_lib import artifacts
from hpe_lib.artifacts import BadInput
from hpe_lib.detector import Detector, enlarge
from hpe_lib.regressor import Hourglass

IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # RGB in [0, 1]


class Maps(NamedTuple):
    """detector: logits (B, 16, h, w).  regressor: confidence maps (B, 16, h, w), None where there is no regressor."""

    detector: torch.Tensor
    regressor: torch.Tensor | None


class Cascade(nn.Module):
    """uint8 RGB crops (B, S, S, 3) -> Maps.

    network: the numbers that make it, as kept in the manifest of its weights: trunk, map_stride, prior (Detector)
    and, with a regressor, channels, levels, bottlenecks, stem (Hourglass).
    frozen: the detector learns nothing, its batch-norm statistics included (F9).
    """

    def __init__(self, network: dict, pretrained: bool = False):
        super().__init__()
        self.network = network
        self.map_stride = network["map_stride"]
        self.detector = Detector(network["trunk"], self.map_stride, pretrained, network.get("prior", 0.5))
        hourglass = {name: network[name] for name in ("channels", "levels", "bottlenecks", "stem") if name in network}
        self.regressor = Hourglass(map_stride=self.map_stride, **hourglass) if hourglass else None
        self.frozen = False
        for name, value in (("mean", IMAGENET_MEAN), ("deviation", IMAGENET_DEVIATION)):
            self.register_buffer(name, 255 * torch.tensor(value).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> Maps:
        images = self.normalise(images)
        logits = self.detector(images)
        if self.regressor is None:
            return Maps(logits, None)
        return Maps(logits, self.regressor(self.stack(logits, images)))

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """(B, S, S, 3) uint8 -> (B, 3, S, S) float, channels last in memory, ImageNet mean and deviation."""
        return (images.permute(0, 3, 1, 2) - self.mean) / self.deviation

    def stack(self, logits: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """The regressor's input (B, 19, S, S): 16 sigmoid maps beside RGB, at the input's resolution (F8)."""
        return torch.cat([enlarge(torch.sigmoid(logits), self.map_stride), images], dim=1)

    def freeze_detector(self, frozen: bool = True) -> "Cascade":
        """Stop (or resume) the detector's learning: neither its weights nor its norms' statistics move."""
        self.frozen = frozen
        self.detector.requires_grad_(not frozen)
        return self.train(self.training)

    def train(self, mode: bool = True) -> "Cascade":
        super().train(mode)
        if self.frozen:
            self.detector.eval()
        return self


STAGES = {"joint": "cascade", "regressor": "regressor", "detector": "detector"}  # stage -> its folder, latest first


def stage_folder(folder: str | Path) -> Path:
    """The folder of weights that is meant: itself, or of a run folder its latest stage. BadInput if there is none."""
    folder = Path(folder)
    for candidate in (folder, *(folder / name for name in STAGES.values())):
        if (candidate / "weights.safetensors").is_file():
            return candidate
    raise BadInput(folder, "no weights.safetensors", "a folder of weights, or a run folder with detector/, … in it")


def load(folder: str | Path) -> Cascade:
    """A trained cascade, in eval mode, from a run's folder or one stage's. BadInput on weights that do not fit."""
    folder = stage_folder(folder)
    cascade = Cascade(artifacts.manifest(folder, "network", "weights_sha256")["network"])
    artifacts.load_into(cascade, folder)
    return cascade.to(memory_format=torch.channels_last).eval()
