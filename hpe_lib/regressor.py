"""The regression networks: heatmaps and image in, one confidence map per joint out.

Hourglass (§3.2, Fig. 6, Table 4): that of [19], with deconvolutions D5 instead of nearest-neighbour
enlargement. Convolutions (§3.1, Fig. 4, Table 2): seven in a row, the first four with large
kernels.
"""

import math
from collections.abc import Sequence

import torch
from torch import nn

from hpe_lib.detector import bilinear_deconvolution, nearest_deconvolution, zero_score
from hpe_lib.paper import N_JOINTS as J
from hpe_lib.trunks import normed_convolution


class Bottleneck(nn.Module):
    """Pre-activation bottleneck [36]: 1×1, 3×3, 1×1, each after norm and ReLU, beside a skip.

    In `Hourglass` the branch's last convolution starts at zero, so the module starts as its skip
    (F5). The convolutions have no bias, because the next norm would remove it.
    """

    def __init__(self, before: int, after: int):
        super().__init__()
        middle = after // 2
        self.branch = nn.Sequential(
            nn.BatchNorm2d(before),
            nn.ReLU(),
            *normed_convolution(before, middle, 1),
            *normed_convolution(middle, middle, 3),
            nn.Conv2d(middle, after, 1, bias=False),
        )
        self.skip = nn.Identity() if before == after else nn.Conv2d(before, after, 1, bias=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features (B, before, H, W) -> (B, after, H, W)."""
        return self.skip(features) + self.branch(features)


def bottleneck_row(before: int, after: int, count: int) -> nn.Sequential:
    """`count` bottlenecks in a row; the first changes the channels."""
    return nn.Sequential(
        Bottleneck(before, after), *(Bottleneck(after, after) for _ in range(count - 1))
    )


class Hourglass(nn.Module):
    """A stack (B, 19, S, S) -> confidence maps (B, 16, S / map_stride, S / map_stride) (Table 4).

    channels: width (256 in the paper). levels: halvings below stride 4 (4, F6).
    bottlenecks: modules in a row (3).
    stem: "conv7", D1 as printed (7×7/2, then pooling), or "patch", one 4×4/4 convolution, for CPUs.
    inputs: channels of the stack.
    """

    def __init__(
        self,
        channels: int = 256,
        levels: int = 4,
        bottlenecks: int = 3,
        map_stride: int = 1,
        stem: str = "conv7",
        inputs: int = J + 3,
    ):
        super().__init__()
        if stem == "conv7":  # as printed
            width = 64
            layers = (*normed_convolution(inputs, width, 7, stride=2), nn.MaxPool2d(2))
        else:  # a twentieth of the printed stem's work
            width = channels
            norm = nn.BatchNorm2d(channels)
            patches = nn.Conv2d(inputs, width, 4, stride=4, bias=False)
            layers = patches, norm, nn.ReLU(inplace=True)
        row = (channels, channels, bottlenecks)
        self.D1 = nn.Sequential(*layers)
        self.D2 = bottleneck_row(width, channels, bottlenecks)
        self.D3 = nn.ModuleList(
            nn.Sequential(nn.MaxPool2d(2), *bottleneck_row(*row)) for _ in range(levels)
        )  # way down
        self.D4 = nn.ModuleList(bottleneck_row(*row) for _ in range(levels))  # skips
        self.bottom = bottleneck_row(*row)
        self.D5 = nn.ModuleList(
            nn.ConvTranspose2d(channels, channels, 2, stride=2, bias=False) for _ in range(levels)
        )
        self.merged = nn.ModuleList(bottleneck_row(*row) for _ in range(levels))
        self.D6 = nn.Sequential(*normed_convolution(channels, 2 * channels, 1))
        self.D7 = nn.Conv2d(2 * channels, J, 1)
        up = 4 // map_stride
        self.to_input = nn.Identity() if up == 1 else nn.ConvTranspose2d(J, J, up, stride=up)
        initialise(self)

    def forward(self, stack: torch.Tensor) -> torch.Tensor:
        """Confidence maps of the stacked heatmaps and images."""
        features = self.pyramid(self.D2(self.D1(stack)), level=0)
        return self.to_input(self.D7(self.D6(features)))

    def pyramid(self, features: torch.Tensor, level: int) -> torch.Tensor:
        """One level: the skip, plus the halved features after all levels below."""
        if level == len(self.D3):
            return self.bottom(features)
        below = self.pyramid(self.D3[level](features), level + 1)
        return self.merged[level](self.D4[level](features) + self.D5[level](below))


class Convolutions(nn.Module):
    """A stack (B, 19, S, S) -> confidence maps (B, 16, S / map_stride, S / map_stride) (Table 2).

    It works on 4×4 means of the stack, at a quarter of the resolution. C8 enlarges from there (F7).
    channels: width of C1 and C2 (64). C3 has 2, C4 4, C5 and C6 8 times as many.
    kernels: of C1 to C4.
    std: of the Gaussian for the initial weights (0.01, F10). 0: He initialisation and a zero score
    layer, because in narrow layers the signal would vanish otherwise.
    inputs: channels of the stack.
    """

    def __init__(
        self,
        channels: int = 64,
        kernels: Sequence[int] = (9, 13, 13, 15),
        map_stride: int = 1,
        std: float = 0.01,
        inputs: int = J + 3,
    ):
        super().__init__()
        self.C1 = convolution(inputs, channels, kernels[0], std)
        self.C2 = convolution(channels, channels, kernels[1], std)
        self.C3 = convolution(channels, 2 * channels, kernels[2], std)
        self.C4 = convolution(2 * channels, 4 * channels, kernels[3], std)
        self.C5 = convolution(4 * channels, 8 * channels, 1, std)
        self.C6 = convolution(8 * channels, 8 * channels, 1, std)
        self.C7 = nn.Conv2d(8 * channels, J, 1)
        self.C8 = nn.Identity()
        up = 4 // map_stride
        if up > 1:
            self.C8 = nn.ConvTranspose2d(J, J, 2 * up, stride=up, padding=up // 2)
            bilinear_deconvolution(self.C8)
        zero_score(self.C7)
        nn.init.normal_(self.C7.weight, std=std)

    def forward(self, stack: torch.Tensor) -> torch.Tensor:
        """Confidence maps of the stacked heatmaps and images."""
        quarter = nn.functional.avg_pool2d(stack, 4).contiguous()  # see Cascade.set_memory_format
        features = self.C4(self.C3(self.C2(self.C1(quarter))))
        return self.C8(self.C7(self.C6(self.C5(features))))


def convolution(before: int, after: int, kernel: int, std: float) -> nn.Sequential:
    """A convolution that keeps the resolution, and its ReLU.

    Weights are drawn from N(0, std), by He's rule if std is 0. Biases are 0.
    """
    layer = nn.Conv2d(before, after, kernel, padding=kernel // 2)
    nn.init.normal_(layer.weight, std=std or math.sqrt(2 / layer.weight[0].numel()))
    nn.init.zeros_(layer.bias)
    return nn.Sequential(layer, nn.ReLU(inplace=True))


def initialise(net: nn.Module) -> None:
    """Zero-initialise, as the paper does, only residual branches and the score layer (F5).

    Other convolutions follow He's rule; deconvolutions start as nearest-neighbour enlargement.
    """
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if isinstance(layer, nn.ConvTranspose2d):
            nearest_deconvolution(layer)
    for layer in net.modules():
        if isinstance(layer, Bottleneck):
            nn.init.zeros_(layer.branch[-1].weight)
    zero_score(net.D7)
