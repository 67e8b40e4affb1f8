"""The networks that the cascade is compared with: sizes as printed, losses, training."""

import numpy as np
import pytest
import torch

from hpe_lib import rivals, stages
from hpe_lib.ablation import train_row
from hpe_lib.cascade import Cascade, load
from hpe_lib.data.datasets import prepare
from hpe_lib.detector import Detector
from hpe_lib.skeleton import VISIBLE
from hpe_lib.targets import Targets, write_targets
from hpe_lib.workbook import presets
from hpe_lib.workbook.artifacts import BadInput

HOURGLASS = {"trunk": "slim", "map_stride": 4, "first": "regression"}
HOURGLASS |= {"rival": "stacked_hourglass", "rival_channels": 16}
DECONVOLUTIONS = HOURGLASS | {"trunk": "lite0", "rival": "deconvolutions"}


def weights(network):
    return sum(weight.numel() for weight in network.parameters())


def test_deconvolutions_have_as_many_weights_as_printed():
    """34.0 million with ResNet-50, 68.6 with ResNet-152, both for 17 joints [HRNet, Table 1]."""
    seventeenth = 256 + 1
    for trunk, printed in (("resnet50", 34.0), ("resnet152", 68.6)):
        assert weights(rivals.Deconvolutions(trunk)) + seventeenth == pytest.approx(
            printed * 1e6, abs=5e4
        )


def test_eight_hourglasses_have_about_as_many_weights_as_printed():
    """25.1 million [HRNet, Table 1]."""
    made = rivals.StackedHourglass()
    once = weights(made.first) + weights(made.first_score)
    back = weights(made.maps_back)
    eight = weights(made.stem) + 8 * once + 7 * (back + weights(made.features_back))
    assert eight == pytest.approx(25.1e6, rel=0.03)


def test_a_crop_that_32_does_not_divide_has_a_quarter_as_many_cells():
    maps = Cascade(DECONVOLUTIONS)(torch.zeros(2, 100, 100, 3, dtype=torch.uint8))
    assert maps.detector.shape == (2, 16, 25, 25)


@pytest.mark.parametrize("network", [HOURGLASS, DECONVOLUTIONS])
def test_maps_are_a_quarter_of_the_crop(network):
    maps = Cascade(network)(torch.zeros(2, 64, 64, 3, dtype=torch.uint8))
    assert maps.detector.shape == (2, 16, 16, 16)
    two = network["rival"] == "stacked_hourglass"
    assert (maps.regressor is not None) == two
    assert not two or maps.regressor.shape == (2, 16, 16, 16)


def test_the_second_hourglass_reads_what_the_first_one_found():
    made = rivals.StackedHourglass(16).eval()
    images = torch.randn(1, 3, 64, 64)
    before = made(images)
    torch.nn.init.zeros_(made.maps_back.weight)
    first, second = made(images)
    assert torch.equal(first, before[0]) and not torch.equal(second, before[1])


def test_both_hourglasses_learn():
    targets = Targets(4, first="regression")
    batch = {
        "image": torch.zeros(2, 64, 64, 3, dtype=torch.uint8),
        "joints": torch.full((2, 16, 2), 30.0),
        "visibility": torch.full((2, 16), VISIBLE),
        "body": torch.tensor([60.0, 60.0]),
    }
    made = Cascade(HOURGLASS)
    maps = made(batch["image"])
    loss = stages.OBJECTIVES["detector"](maps, batch, targets)
    each = [stages.detector_loss(maps, batch, targets), stages.regressor_loss(maps, batch, targets)]
    assert loss.item() == pytest.approx(sum(part.item() for part in each))
    loss.backward()
    for score in (made.detector.first_score, made.detector.second_score):
        assert score.weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    "changes, expected",
    [({"trunk": "slim", "rival": "deconvolutions"}, "stride 32"), ({"map_stride": 2}, "4, as")],
)
def test_what_does_not_fit_is_refused(changes, expected):
    with pytest.raises(BadInput, match=expected):
        Cascade(HOURGLASS | changes)


def test_a_trunk_keeps_its_last_stride_for_deconvolutions_only():
    images = torch.zeros(1, 3, 64, 64)
    for trunk in ("lite0", "resnet18", "timm:mobilenetv3_small_100"):
        assert features(rivals.Deconvolutions(trunk), images).shape[-1] == 2
        assert features(Detector(trunk, map_stride=4), images).shape[-1] == 4


def features(network, images):
    return torch.nn.Sequential(*(getattr(network, name) for name in network.TRUNK))(images)


def test_rivals_are_rows_that_are_trained_scored_and_loaded_like_the_others(tmp_path):
    parameters = presets.resolve("smoke")
    prepare(tmp_path, **parameters["01"])
    write_targets(tmp_path, **parameters["02"])
    list(stages.train("detector", tmp_path, parameters["03"] | {"epochs": 0}))
    changes = {"rival": "stacked_hourglass", "rival_channels": 8, "first": "regression"}
    records = list(train_row(tmp_path, "hourglass", {**changes, "epochs": 1}, ("detector",)))
    assert len(records) == 1 and np.isfinite(records[0]["loss"])
    made = load(tmp_path / "rows" / "hourglass")
    assert isinstance(made.detector, rivals.StackedHourglass)
    crops = 40 * torch.ones(1, 64, 64, 3, dtype=torch.uint8)
    assert torch.isfinite(made(crops).regressor).all()
