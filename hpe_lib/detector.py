"""The part detection networks: image in, one map of part evidence for each joint out.

Blocks carry the names of their table. Detector (§3.2, Fig. 5, Table 3): B1–B5 are a ResNet of torchvision whose last
stage keeps its resolution, or any other trunk; B6 scores, B7 brings the scores from the trunk's stride towards the
input's. FCN8 (§3.1, Fig. 3, Table 1): a VGG-16 made convolutional, whose scores meet those of earlier layers [13].
"""

import importlib
import math
import os
from collections.abc import Callable

import torch
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock
from torchvision.models.vgg import make_layers

from hpe_lib.artifacts import BadInput
from hpe_lib.paper import N_JOINTS as J

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
VGGS = ("vgg16", "slim_vgg")
Trunk = tuple[
    list[nn.Module], int, int
]  # five blocks B1 … B5 in a row, channels of the last, its stride in px


class Detector(nn.Module):
    """Images (B, 3, S, S), normalised, -> logits (B, 16, S / map_stride, S / map_stride).

    trunk: a name of RESNETS; "slim", made for small images on a CPU; a Trunk; or "module:function" for a function
    that makes one, once `register_trunk` knows it (docs/backbones.md).
    map_stride: crop px per map cell. 1 is the paper: B7 brings a ResNet's stride 16 to 4, a fixed bilinear to 1 (F4).
    BadInput on another trunk or a map_stride other than 1, 2, 4.
    pretrained: begin from torchvision's ImageNet weights; BadInput where they cannot be had.
    prior: probability that the untrained detector claims everywhere. 0.5 is the paper's zero; discs cover about 0.01 of
    a map, and a short training that starts there need not unlearn the other half first.
    """

    def __init__(
        self,
        trunk: str | Trunk = "resnet152",
        map_stride: int = 1,
        pretrained: bool = False,
        prior: float = 0.5,
    ):
        super().__init__()
        check_stride(map_stride)
        blocks, channels, stride = (
            named_trunk(trunk, pretrained) if isinstance(trunk, str) else trunk
        )
        self.B1, self.B2, self.B3, self.B4, self.B5 = blocks
        up = max(1, stride // max(4, map_stride))  # 4 for a ResNet at any map_stride up to 4
        self.B6 = nn.Conv2d(channels, J, 1)
        self.B7 = nn.ConvTranspose2d(J, J, up, stride=up)
        self.map_stride, self.rest = (
            map_stride,
            stride // up // map_stride,
        )  # rest: B7 leaves it to the fixed bilinear
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


def torchvision_net(name: str, pretrained: bool) -> nn.Module:
    """A classifier of torchvision's. BadInput where its ImageNet weights cannot be had."""
    try:
        return torchvision.models.get_model(name, weights="IMAGENET1K_V1" if pretrained else None)
    except OSError as error:
        raise BadInput(
            f"ImageNet weights of {name}",
            str(error).splitlines()[0],
            "torchvision's weights to be reachable, or the file in torch's hub cache",
        ) from None


# A person's own trunks, by the name that manifests keep.
TRUNKS: dict[str, Callable[[bool], Trunk]] = {}


def register_trunk(name: str, make: Callable[[bool], Trunk] | None = None) -> None:
    """Let a name stand for a trunk of one's own: make(pretrained).

    Without make the name is "module:function", which is imported. Nothing else is called by a name,
    except what the environment variable HPE_TRUNK says: a manifest may come from anybody.
    BadInput where there is no such function.
    """
    TRUNKS[name] = make or imported_trunk(name)


def imported_trunk(name: str) -> Callable[[bool], Trunk]:
    """The function of "module:function". BadInput if there is none, or its name does not end in _trunk."""
    module, _, function = name.partition(":")
    try:
        return getattr(
            importlib.import_module(module), function if function.endswith("_trunk") else ""
        )
    except (ImportError, AttributeError, ValueError) as error:
        raise BadInput(
            "trunk", f"{name!r}: {error}", "module:function, importable and named …_trunk"
        ) from None


def named_trunk(name: str, pretrained: bool = False) -> Trunk:
    """The trunk of a name: "slim", a ResNet, or a person's own (`register_trunk`). BadInput on others."""
    if name not in TRUNKS and name in os.environ.get("HPE_TRUNK", "").split(","):
        register_trunk(name)
    if name in TRUNKS:
        return TRUNKS[name](pretrained)
    if ":" in name:
        raise BadInput(
            "trunk", repr(name), f"a trunk of this library, or --trunk {name} to let this code run"
        )
    return slim_trunk() if name == "slim" else resnet_trunk(name, pretrained)


def resnet_trunk(name: str, pretrained: bool = False) -> Trunk:
    """(B1 … B5, channels, stride 16): a ResNet without its head, stride of B5 1 instead of 2 and no dilation (F4).

    Weights keep torchvision's layout. BadInput on an unknown name or unreachable weights.
    """
    if name not in RESNETS:
        raise BadInput(
            "trunk", repr(name), f"one of slim, {', '.join((*RESNETS, *VGGS))}, or module:function"
        )
    net = torchvision_net(name, pretrained)
    for layer in net.layer4.modules():
        if isinstance(layer, nn.Conv2d):
            layer.stride = (1, 1)
    stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
    return [stem, net.layer1, net.layer2, net.layer3, net.layer4], net.fc.in_features, 16


def slim_trunk(widths: tuple[int, ...] = (24, 48, 96, 96)) -> Trunk:
    """(B1 … B5, channels, stride 8): basic residual blocks for small images: at 128 px the same 16×16 grid of
    features that a ResNet has at 256 px."""
    stem = nn.Sequential(
        nn.Conv2d(3, widths[0], 5, stride=2, padding=2, bias=False),
        nn.BatchNorm2d(widths[0]),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2, padding=1),
    )
    b2, b3 = basic_stage(widths[0], widths[0], 1), basic_stage(widths[0], widths[1], 2)
    b4, b5 = (
        basic_stage(widths[1], widths[2], 1, blocks=1),
        basic_stage(widths[2], widths[3], 1, blocks=1),
    )
    return [stem, b2, b3, b4, b5], widths[3], 8


def basic_stage(before: int, after: int, stride: int, blocks: int = 2) -> nn.Sequential:
    """`blocks` of torchvision's basic blocks, the first of which changes channels and resolution."""
    project = None
    if before != after or stride != 1:
        project = nn.Sequential(
            nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after)
        )
    first = BasicBlock(before, after, stride, project)
    return nn.Sequential(first, *(BasicBlock(after, after) for _ in range(blocks - 1)))


def vgg16(pretrained: bool = False) -> tuple[nn.Sequential, nn.Sequential, nn.Sequential]:
    """(features with five poolings, A6, A7) of torchvision's VGG-16: fc6 and fc7 made convolutions, as in [13]."""
    net = torchvision_net("vgg16", pretrained)
    return net.features, as_convolution(net.classifier[0], 7), as_convolution(net.classifier[3], 1)


def as_convolution(layer: nn.Linear, kernel: int) -> nn.Sequential:
    """A fully connected layer over kernel × kernel features as the convolution it is, with its ReLU and dropout."""
    made = nn.Conv2d(
        layer.in_features // kernel**2, layer.out_features, kernel, padding=kernel // 2
    )
    made.load_state_dict({"weight": layer.weight.view_as(made.weight), "bias": layer.bias})
    return nn.Sequential(made, nn.ReLU(inplace=True), nn.Dropout())


def slim_vgg(
    widths: tuple[int, ...] = (12, 24, 48, 64, 64),
) -> tuple[nn.Sequential, nn.Sequential, nn.Sequential]:
    """(features, A6, A7) for small images: one convolution before the first pooling, two before each other."""
    features = make_layers(
        [widths[0], "M", *(layer for w in widths[1:] for layer in (w, w, "M"))], batch_norm=True
    )
    A6, A7 = (make_layers([2 * widths[-1]], batch_norm=True) for _ in range(2))
    A6[0], A7[0] = (
        nn.Conv2d(widths[-1], 2 * widths[-1], 3, padding=1),
        nn.Conv2d(2 * widths[-1], 2 * widths[-1], 1),
    )
    for layer in (*(layer for layer in features if isinstance(layer, nn.Conv2d)), A6[0], A7[0]):
        layer.bias = None  # the norm behind it would take it away again
    return features, A6, A7


def pooled_blocks(features: nn.Sequential) -> list[nn.Sequential]:
    """VGG's features cut behind each pooling. Poolings round up: the last cell of an odd row pools what is there."""
    ends = [place + 1 for place, layer in enumerate(features) if isinstance(layer, nn.MaxPool2d)]
    for end in ends:
        features[end - 1].ceil_mode = True
    return [features[start:end] for start, end in zip([0, *ends], ends)]


def width(block: nn.Sequential) -> int:
    """Channels that a block gives."""
    return [layer for layer in block if isinstance(layer, nn.Conv2d)][-1].out_channels


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
