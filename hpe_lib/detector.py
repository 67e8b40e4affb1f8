"""The part detection networks: image in, one map of part evidence for each joint out.

Blocks carry the names of their table. Detector (§3.2, Fig. 5, Table 3): B1–B5 are a ResNet of torchvision whose last
stage keeps its resolution, or any other trunk; B6 scores, B7 brings the scores from the trunk's stride towards the
input's. FCN8 (§3.1, Fig. 3, Table 1): a VGG-16 made convolutional, whose scores meet those of earlier layers [13].
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
from hpe_lib.workbook.artifacts import BadInput


class Detector(nn.Module):
    """Images (B, 3, S, S), normalised, -> logits (B, 16, S / map_stride, S / map_stride).

    trunk: a name that trunks.named_trunk knows, or a Trunk (docs/backbones.md). Images are normalised by its mean, std.
    map_stride: crop px per map cell. 1 is the paper: B7 brings a ResNet's stride 16 to 4, a fixed bilinear to 1 (F4).
    BadInput on another trunk or a map_stride other than 1, 2, 4.
    pretrained: begin from ImageNet weights; BadInput where they cannot be had.
    prior: probability that the untrained detector claims everywhere. 0.5 is the paper's zero; discs cover about 0.01 of
    a map, and a short training that starts there need not unlearn the other half first.
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
        check_stride(map_stride)
        trunk = named_trunk(trunk, pretrained) if isinstance(trunk, str) else Trunk(*trunk)
        self.B1, self.B2, self.B3, self.B4, self.B5 = trunk.blocks
        self.mean, self.std, stride = trunk.mean, trunk.std, trunk.stride
        up = max(1, stride // max(4, map_stride))  # 4 for a ResNet at any map_stride up to 4
        self.B6 = nn.Conv2d(trunk.channels, J, 1)
        self.B7 = nn.ConvTranspose2d(J, J, up, stride=up)
        self.map_stride = map_stride
        self.rest = stride // up // map_stride  # B7 leaves it to the fixed bilinear
        zero_score(self.B6)
        nearest_deconvolution(self.B7)
        nn.init.constant_(self.B7.bias, math.log(prior / (1 - prior)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.B5(self.B4(self.B3(self.B2(self.B1(images)))))
        return cut(
            enlarge(self.B7(self.B6(features)), self.rest), images.shape[-1] // self.map_stride
        )


class FCN8(nn.Module):
    """Images (B, 3, S, S), normalised, -> logits (B, 16, S / map_stride, S / map_stride). Table 1 by its blocks.

    trunk: "vgg16", or "slim_vgg", narrower, with batch norm, made for small images on a CPU.
    A8's scores at stride 32 are enlarged twice by learned 4×4/2 deconvolutions, which begin bilinear, and meet the
    scores of the 4th and 3rd pooling, as in [13]; the rest of A9 is a fixed bilinear from stride 8 to map_stride.
    Poolings round up and enlarged maps are cut to size, so S need be no multiple of 32 (380 is none).
    Other arguments and BadInput as for Detector.
    """

    TRUNK = ("A1", "A2", "A3", "A4", "A5", "A6", "A7")
    mean, std = IMAGENET_MEAN, IMAGENET_STD

    def __init__(
        self,
        trunk: str = "vgg16",
        map_stride: int = 1,
        pretrained: bool = False,
        prior: float = 0.5,
    ):
        super().__init__()
        check_stride(map_stride)
        features, self.A6, self.A7 = slim_vgg() if trunk == "slim_vgg" else vgg16(pretrained)
        self.A1, self.A2, self.A3, self.A4, self.A5 = pooled_blocks(features)
        self.A8 = nn.Conv2d(width(self.A7), J, 1)
        self.score4, self.score3 = nn.Conv2d(width(self.A4), J, 1), nn.Conv2d(width(self.A3), J, 1)
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
        pool3 = self.A3(self.A2(self.A1(images)))
        pool4 = self.A4(pool3)
        scores = self.A8(self.A7(self.A6(self.A5(pool4))))
        scores = self.score4(pool4) + cut(self.A9[0](scores), pool4.shape[-1])
        scores = self.score3(pool3) + cut(self.A9[1](scores), pool3.shape[-1])
        return cut(enlarge(scores, 8 // self.map_stride), images.shape[-1] // self.map_stride)


def check_stride(map_stride: int) -> None:
    """BadInput unless a network can make maps of this many px a cell."""
    if map_stride not in (1, 2, 4):
        raise BadInput("map_stride", map_stride, "1, 2 or 4")


def zero_score(layer: nn.Conv2d) -> None:
    """A score layer starts at 0 (§3.2): nothing is claimed anywhere, and its own weights get a gradient."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def nearest_deconvolution(layer: nn.ConvTranspose2d) -> None:
    """A deconvolution whose kernel is its stride starts as nearest-neighbour enlargement: channel to itself, 1 (F5)."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    with torch.no_grad():
        layer.weight[range(len(layer.weight)), range(len(layer.weight))] = 1


def bilinear_deconvolution(layer: nn.ConvTranspose2d) -> None:
    """A deconvolution of kernel 2 × stride starts as bilinear enlargement, each channel by itself [13].

    With padding stride / 2 it keeps to the pixel-centre rule, as `enlarge` does.
    """
    kernel, stride = layer.kernel_size[0], layer.stride[0]
    ramp = 1 - (torch.arange(kernel) - (kernel - 1) / 2).abs() / stride
    nearest_deconvolution(layer)
    with torch.no_grad():
        layer.weight *= (ramp[:, None] * ramp).to(layer.weight)


def cut(maps: torch.Tensor, size: int) -> torch.Tensor:
    """The first size × size cells: strides that round up leave more at the right and the bottom."""
    return maps[..., :size, :size]


def enlarge(maps: torch.Tensor, factor: int) -> torch.Tensor:
    """Fixed bilinear enlargement by the pixel-centre rule; 1 leaves the maps as they are."""
    if factor == 1:
        return maps
    return nn.functional.interpolate(
        maps, scale_factor=factor, mode="bilinear", align_corners=False
    )
