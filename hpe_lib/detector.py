"""The part detection network (§3.2, Fig. 5): image in, one map of part evidence for each joint out.

Blocks carry the names of Table 3. B1–B5 are a ResNet of torchvision whose last stage keeps its resolution; B6 scores,
B7 brings the scores from the trunk's stride towards the input's.
"""

import math

import torch
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock

from hpe_lib.artifacts import BadInput
from hpe_lib.paper import N_JOINTS as J

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


class Detector(nn.Module):
    """Images (B, 3, S, S), normalised, -> logits (B, 16, S / map_stride, S / map_stride).

    trunk: a name of RESNETS, or "slim", made for small images on a CPU.
    map_stride: crop px per map cell. 1 is the paper: B7 brings a ResNet's stride 16 to 4, a fixed bilinear to 1 (F4).
    BadInput on another trunk or a map_stride other than 1, 2, 4.
    pretrained: begin from torchvision's ImageNet weights; BadInput where they cannot be had.
    prior: probability that the untrained detector claims everywhere. 0.5 is the paper's zero; discs cover about 0.01 of
    a map, and a short training that starts there need not unlearn the other half first.
    """

    def __init__(self, trunk: str = "resnet152", map_stride: int = 1, pretrained: bool = False, prior: float = 0.5):
        super().__init__()
        if map_stride not in (1, 2, 4):
            raise BadInput("map_stride", map_stride, "1, 2 or 4")
        blocks, channels, stride = slim_trunk() if trunk == "slim" else resnet_trunk(trunk, pretrained)
        self.B1, self.B2, self.B3, self.B4, self.B5 = blocks
        up = max(1, stride // max(4, map_stride))  # 4 for a ResNet at any map_stride up to 4
        self.B6 = nn.Conv2d(channels, J, 1)
        self.B7 = nn.ConvTranspose2d(J, J, up, stride=up)
        self.rest = stride // up // map_stride  # what B7 leaves to the fixed bilinear
        zero_score(self.B6)
        nearest_deconvolution(self.B7)
        nn.init.constant_(self.B7.bias, math.log(prior / (1 - prior)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.B5(self.B4(self.B3(self.B2(self.B1(images)))))
        return enlarge(self.B7(self.B6(features)), self.rest)


def resnet_trunk(name: str, pretrained: bool = False) -> tuple[list[nn.Module], int, int]:
    """(B1 … B5, channels, stride 16): a ResNet without its head, stride of B5 1 instead of 2 and no dilation (F4).

    Weights keep torchvision's layout. BadInput on an unknown name or unreachable weights.
    """
    if name not in RESNETS:
        raise BadInput("trunk", repr(name), f"slim or one of {', '.join(RESNETS)}")
    try:
        net = torchvision.models.get_model(name, weights="IMAGENET1K_V1" if pretrained else None)
    except OSError as error:
        raise BadInput(f"ImageNet weights of {name}", str(error).splitlines()[0],
                       "torchvision's weights to be reachable, or the file in torch's hub cache") from None
    for layer in net.layer4.modules():
        if isinstance(layer, nn.Conv2d):
            layer.stride = (1, 1)
    stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
    return [stem, net.layer1, net.layer2, net.layer3, net.layer4], net.fc.in_features, 16


def slim_trunk(widths: tuple[int, ...] = (24, 48, 96, 96)) -> tuple[list[nn.Module], int, int]:
    """(B1 … B5, channels, stride 8): basic residual blocks for small images: at 128 px the same 16×16 grid of
    features that a ResNet has at 256 px."""
    stem = nn.Sequential(nn.Conv2d(3, widths[0], 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(widths[0]),
                         nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=2, padding=1))
    b2, b3 = basic_stage(widths[0], widths[0], 1), basic_stage(widths[0], widths[1], 2)
    b4, b5 = basic_stage(widths[1], widths[2], 1, blocks=1), basic_stage(widths[2], widths[3], 1, blocks=1)
    return [stem, b2, b3, b4, b5], widths[3], 8


def basic_stage(before: int, after: int, stride: int, blocks: int = 2) -> nn.Sequential:
    """`blocks` of torchvision's basic blocks, the first of which changes channels and resolution."""
    project = None
    if before != after or stride != 1:
        project = nn.Sequential(nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after))
    first = BasicBlock(before, after, stride, project)
    return nn.Sequential(first, *(BasicBlock(after, after) for _ in range(blocks - 1)))


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


def enlarge(maps: torch.Tensor, factor: int) -> torch.Tensor:
    """Fixed bilinear enlargement by the pixel-centre rule; 1 leaves the maps as they are."""
    if factor == 1:
        return maps
    return nn.functional.interpolate(maps, scale_factor=factor, mode="bilinear", align_corners=False)
