"""What results are compared with: other networks on the same people, the mean pose, and the printed
rows of Tables 5, 6 and 7.

The networks take the detector's place in a `Cascade` and learn by eq. 2 (first: "regression"). So
they share people, augmentation, `fit` and scorer with the paper's.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from hpe_lib.detector import cut_to
from hpe_lib.paper import N_JOINTS as J
from hpe_lib.regressor import Bottleneck
from hpe_lib.trunks import IMAGENET_MEAN, IMAGENET_STD, Trunk, named_trunk, normed_convolution
from hpe_lib.workbook.artifacts import BadInput

MAP_STRIDE = 4  # crop px per map cell, of both networks
LEVELS = 4  # halvings of a stacked hourglass below that stride, as printed


class Deconvolutions(nn.Module):
    """Normalised images (B, 3, S, S) -> confidence maps (B, 16, S / 4, S / 4).

    The baseline of Xiao, Wu and Wei, "Simple Baselines for Human Pose Estimation and Tracking",
    ECCV 2018: a trunk that keeps its stride of 32, three 4×4/2 deconvolutions, a 1×1 score.
    trunk, pretrained: as for Detector. channels: of the deconvolutions, 256 as printed.
    BadInput if the trunk's stride is not 32.
    """

    TRUNK = ("B1", "B2", "B3", "B4", "B5")

    def __init__(
        self, trunk: str | Trunk = "resnet50", channels: int = 256, pretrained: bool = False
    ):
        super().__init__()
        backbone = trunk
        if isinstance(trunk, str):
            backbone = named_trunk(trunk, pretrained, keep_stride=True)
        if backbone.stride != 8 * MAP_STRIDE:
            expected = f"one of stride {8 * MAP_STRIDE}, for three deconvolutions"
            raise BadInput("trunk", f"{trunk!r} of stride {backbone.stride}", expected)
        self.B1, self.B2, self.B3, self.B4, self.B5 = backbone.blocks
        self.mean = backbone.mean
        self.std = backbone.std
        self.deconvolutions = nn.Sequential(
            deconvolution(backbone.channels, channels),
            deconvolution(channels, channels),
            deconvolution(channels, channels),
        )
        self.score = nn.Conv2d(channels, J, 1)
        nn.init.normal_(self.score.weight, std=0.001)
        nn.init.zeros_(self.score.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Confidence maps of normalised images."""
        features = self.B5(self.B4(self.B3(self.B2(self.B1(images)))))
        maps = self.score(self.deconvolutions(features))
        return cut_to(maps, images.shape[-1] // MAP_STRIDE)


def deconvolution(before: int, after: int) -> nn.Sequential:
    """A 4×4/2 deconvolution, drawn from N(0, 0.001) as printed, its norm and ReLU."""
    layer = nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=False)
    nn.init.normal_(layer.weight, std=0.001)
    return nn.Sequential(layer, nn.BatchNorm2d(after), nn.ReLU(inplace=True))


class StackedHourglass(nn.Module):
    """Normalised images (B, 3, S, S) -> confidence maps of two hourglasses, (B, 16, S / 4, S / 4).

    Two of the eight hourglasses of Newell et al. [19]. The second reads what the first read, its
    features and its maps, and both learn. There are no ImageNet weights for it.
    channels: 256 as printed.
    """

    TRUNK = ()
    mean = IMAGENET_MEAN
    std = IMAGENET_STD

    def __init__(self, channels: int = 256):
        super().__init__()
        quarter = channels // 4
        half = channels // 2
        self.stem = nn.Sequential(
            *normed_convolution(3, quarter, 7, stride=2),
            Bottleneck(quarter, half),
            nn.MaxPool2d(2),
            Bottleneck(half, half),
            Bottleneck(half, channels),
        )
        self.first = hourglass(channels)
        self.first_score = nn.Conv2d(channels, J, 1)
        self.features_back = nn.Conv2d(channels, channels, 1)
        self.maps_back = nn.Conv2d(J, channels, 1)
        self.second = hourglass(channels)
        self.second_score = nn.Conv2d(channels, J, 1)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Confidence maps of normalised images, of the first and of the second hourglass."""
        read = self.stem(images)
        features = self.first(read)
        maps = self.first_score(features)
        read = read + self.features_back(features) + self.maps_back(maps)
        return maps, self.second_score(self.second(read))


def hourglass(channels: int) -> nn.Sequential:
    """An hourglass of [19] with the two layers behind it: a bottleneck, and a 1×1 convolution."""
    return nn.Sequential(
        Levels(channels, LEVELS),
        Bottleneck(channels, channels),
        *normed_convolution(channels, channels, 1),
    )


class Levels(nn.Module):
    """Features (B, C, H, W) -> the same shape: an hourglass's levels, each around the next."""

    def __init__(self, channels: int, levels: int):
        super().__init__()
        self.skip, self.down, self.up = (Bottleneck(channels, channels) for _ in range(3))
        if levels > 1:
            self.inner = Levels(channels, levels - 1)
        else:
            self.inner = Bottleneck(channels, channels)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """The skip, plus what the levels below make of the halved features."""
        halved = nn.functional.max_pool2d(features, 2)
        below = self.up(self.inner(self.down(halved)))
        return self.skip(features) + nn.functional.interpolate(below, scale_factor=2)


def mean_pose(joints: np.ndarray) -> np.ndarray:
    """The mean pose (16, 2), crop px, of joints (N, 16, 2), crop px, NaN where absent.

    A joint that nobody has (pelvis and thorax of LSP) is NaN.
    """
    annotated = (~np.isnan(joints[..., 0])).sum(0)
    return np.nansum(joints, axis=0) / np.where(annotated, annotated, np.nan)[:, None]


SOURCES = {
    5: "MPII validation, PCKh@0.5",
    6: "MPII test, PCKh@0.5",
    7: "LSP test, person-centric, PCK@0.2",
}
COLUMNS = ["head", "shoulder", "elbow", "wrist", "hip", "knee", "ankle"]


def published(table: int) -> "pandas.DataFrame":  # noqa: F821
    """Table 5, 6 or 7 as printed, in percent: index row, columns COLUMNS and total.

    SOURCES has the people and the metric. Numbers in brackets are the paper's references.
    KeyError on another table.
    """
    return _printed().loc[table]


def audit() -> "pandas.DataFrame":  # noqa: F821
    """Each printed total beside the mean of its seven columns, and their difference (F17)."""
    rows = _printed()
    rows["mean of columns"] = rows[COLUMNS].mean(axis=1)
    rows["difference"] = rows["total"] - rows["mean of columns"]
    return rows.drop(columns=COLUMNS)


def _printed():
    """All three tables: index table and row."""
    import pandas as pd  # here: networks that are only loaded do not wait for it

    return pd.read_csv(Path(__file__).with_name("published.csv"), index_col=["table", "row"])
