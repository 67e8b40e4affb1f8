"""The part detection networks: an image in, one map of part evidence per joint out.

Blocks have the names of their table. Detector (§3.2, Fig. 5, Table 3): B1–B5 are a ResNet whose
last stage keeps its resolution, or any other trunk. B6 scores, B7 enlarges the scores.
FCN8 (§3.1, Fig. 3, Table 1): a convolutional VGG-16, whose scores are added to those of earlier
layers [13].
"""

import math

import torch
from torch import nn

from hpe_lib.paper import N_JOINTS as J
from hpe_lib.trunks import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Trunk,
    named_trunk,
    pooled_blocks,
    slim_vgg,
    vgg16,
    width,
)


class Detector(nn.Module):
    """Normalised images (B, 3, S, S) -> logits (B, 16, S / map_stride, S / map_stride).

    trunk: a name for trunks.named_trunk, or a Trunk (docs/backbones.md). Its mean and std
    normalise the images.
    map_stride: crop px per map cell, 1, 2 or 4. The paper's is 1: B7 brings a ResNet's stride from
    16 to 4, a fixed bilinear enlargement to 1 (F4).
    pretrained: start from ImageNet weights.
    prior: the untrained detector's probability at every cell. The paper's zero initialisation means
    0.5 (F5). Discs cover about 0.01 of a map; starting there shortens training.
    BadInput on another trunk, and where the ImageNet weights cannot be had.
    """

    TRUNK = ("B1", "B2", "B3", "B4", "B5")

    def __init__(
        self,
        trunk: str | Trunk = "resnet152",
        map_stride: int = 1,
        pretrained: bool = False,
        prior: float = 0.5,
    ):
        super().__init__()
        trunk = named_trunk(trunk, pretrained) if isinstance(trunk, str) else Trunk(*trunk)
        self.B1, self.B2, self.B3, self.B4, self.B5 = trunk.blocks
        self.mean = trunk.mean
        self.std = trunk.std
        stride = trunk.stride
        up = max(1, stride // max(4, map_stride))  # 4 for a ResNet at any map_stride up to 4
        self.B6 = nn.Conv2d(trunk.channels, J, 1)
        self.B7 = nn.ConvTranspose2d(J, J, up, stride=up)
        self.map_stride = map_stride
        self.rest = stride // up // map_stride  # the factor of the fixed bilinear enlargement
        zero_score(self.B6)
        nearest_deconvolution(self.B7)
        nn.init.constant_(self.B7.bias, math.log(prior / (1 - prior)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of normalised images."""
        features = self.B5(self.B4(self.B3(self.B2(self.B1(images)))))
        logits = enlarge(self.B7(self.B6(features)), self.rest)
        return cut_to(logits, images.shape[-1] // self.map_stride)


class FCN8(nn.Module):
    """Normalised images (B, 3, S, S) -> logits (B, 16, S / map_stride, S / map_stride) (Table 1).

    trunk: "vgg16"; or "slim_vgg", narrower and with batch norm, for small images on a CPU.
    Two learned 4×4/2 deconvolutions, bilinear at first, enlarge the scores of A8 from stride 32.
    They are added to the scores of the 4th and the 3rd pooling, as in [13]. The rest of A9 is a
    fixed bilinear enlargement from stride 8.
    S need not be a multiple of 32 (380 is not): poolings round up and maps are cut to size.
    The other arguments, and BadInput, are as for Detector.
    """

    TRUNK = ("A1", "A2", "A3", "A4", "A5", "A6", "A7")
    mean = IMAGENET_MEAN
    std = IMAGENET_STD

    def __init__(
        self,
        trunk: str = "vgg16",
        map_stride: int = 1,
        pretrained: bool = False,
        prior: float = 0.5,
    ):
        super().__init__()
        features, self.A6, self.A7 = slim_vgg() if trunk == "slim_vgg" else vgg16(pretrained)
        self.A1, self.A2, self.A3, self.A4, self.A5 = pooled_blocks(features)
        self.A8 = nn.Conv2d(width(self.A7), J, 1)
        self.score4 = nn.Conv2d(width(self.A4), J, 1)
        self.score3 = nn.Conv2d(width(self.A3), J, 1)
        self.A9 = nn.ModuleList(
            nn.ConvTranspose2d(J, J, 4, stride=2, padding=1, bias=False) for _ in range(2)
        )
        self.map_stride = map_stride
        for layer in (self.A8, self.score4, self.score3):
            zero_score(layer)
        for layer in self.A9:
            bilinear_deconvolution(layer)
        nn.init.constant_(self.score3.bias, math.log(prior / (1 - prior)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of normalised images."""
        pool3 = self.A3(self.A2(self.A1(images)))
        pool4 = self.A4(pool3)
        scores = self.A8(self.A7(self.A6(self.A5(pool4))))
        scores = self.score4(pool4) + cut_to(self.A9[0](scores), pool4.shape[-1])
        scores = self.score3(pool3) + cut_to(self.A9[1](scores), pool3.shape[-1])
        logits = enlarge(scores, 8 // self.map_stride)
        return cut_to(logits, images.shape[-1] // self.map_stride)


def zero_score(layer: nn.Conv2d) -> None:
    """Start a score layer at 0 (§3.2). Its own weights still get a gradient."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def nearest_deconvolution(layer: nn.ConvTranspose2d) -> None:
    """Start a deconvolution, whose kernel is its stride, as nearest-neighbour enlargement (F5)."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    with torch.no_grad():
        layer.weight[range(len(layer.weight)), range(len(layer.weight))] = 1


def bilinear_deconvolution(layer: nn.ConvTranspose2d) -> None:
    """Start a deconvolution, whose kernel is 2 × its stride, as bilinear enlargement [13].

    With a padding of stride / 2 it keeps the pixel-centre rule, as `enlarge` does.
    """
    kernel = layer.kernel_size[0]
    stride = layer.stride[0]
    ramp = 1 - (torch.arange(kernel) - (kernel - 1) / 2).abs() / stride
    nearest_deconvolution(layer)
    with torch.no_grad():
        layer.weight *= (ramp[:, None] * ramp).to(layer.weight)


def cut_to(maps: torch.Tensor, size: int) -> torch.Tensor:
    """Crop maps (..., H, W) to size × size: rounded-up strides leave extra cells at the end."""
    return maps[..., :size, :size]


def enlarge(maps: torch.Tensor, factor: int) -> torch.Tensor:
    """Maps (B, J, H, W) enlarged bilinearly, by the pixel-centre rule."""
    if factor == 1:
        return maps
    return nn.functional.interpolate(
        maps, scale_factor=factor, mode="bilinear", align_corners=False
    )
