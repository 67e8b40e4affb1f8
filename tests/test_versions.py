"""Code that decides trained weights is covered by a version: change its numbers, raise its version.

Finished stages are reused only under the versions they were made with. The golden numbers below
belong to the versions above them; where a change of numbers is meant, raise the room's VERSION and
put the new numbers here. Where it is not meant, the test has found a fault.
"""

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from hpe_lib import cascade, heatmaps, losses, stages, training
from hpe_lib.data.augment import Augmentation, PoseDataset
from hpe_lib.data.images import ImageArrays
from hpe_lib.data.people import People
from hpe_lib.skeleton import OCCLUDED, VISIBLE
from hpe_lib.targets import Targets

SLIM = {"trunk": "slim", "map_stride": 4, "prior": 0.01, "channels": 8, "levels": 2}
SLIM |= {"bottlenecks": 1, "stem": "patch"}
VGG = {"trunk": "slim_vgg", "map_stride": 4, "regressor": "convolutions", "channels": 4}
VGG |= {"kernels": [3, 3, 3, 3], "std": 0.0}


def batch():
    """Two people of made-up pixels and joints; the second has an occluded wrist."""
    random = np.random.default_rng(0)
    visibility = torch.full((2, 16), VISIBLE)
    visibility[1, 10] = OCCLUDED
    return {
        "image": torch.from_numpy(random.integers(0, 256, (2, 64, 64, 3), np.uint8)),
        "joints": torch.from_numpy(random.uniform(4, 60, (2, 16, 2)).astype(np.float32)),
        "visibility": visibility,
        "body": torch.tensor([50.0, 60.0]),
    }


def moments(values):
    """Mean, mean square and a weighted mean, which notices values that trade places."""
    flat = values.detach().double().flatten()
    weights = torch.linspace(0, 1, len(flat), dtype=torch.float64)
    return [flat.mean().item(), flat.square().mean().item(), (flat * weights).mean().item()]


def test_targets():
    targets = Targets(map_stride=4)
    found = [moments(targets.detector(batch())[0]), moments(targets.regressor(batch())[0])]
    assert heatmaps.VERSION == 1
    assert np.ravel(found).tolist() == pytest.approx(GOLDEN["targets"], rel=1e-5)


def test_losses():
    random = torch.Generator().manual_seed(0)
    maps, wanted = (torch.rand(2, 16, 8, 8, generator=random) for _ in range(2))
    found = [
        *moments(losses.detection_losses(4 * maps - 2, wanted.round())),
        *moments(losses.regression_losses(maps, wanted)),
        losses.masked_mean(
            losses.regression_losses(maps, wanted), wanted.amax((2, 3)) > 0.98
        ).item(),
    ]
    assert losses.VERSION == 1
    assert found == pytest.approx(GOLDEN["losses"], rel=1e-5)


@pytest.mark.parametrize("name, network", [("slim", SLIM), ("vgg", VGG)])
def test_networks(name, network):
    torch.manual_seed(0)
    net = cascade.Cascade(network)
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in net.parameters():  # a zero score would hide everything before it
            weight += 0.05 * torch.randn(weight.shape, generator=random)
    maps = net.eval()(batch()["image"])
    assert cascade.VERSION == 1
    found = [*moments(maps.detector), *moments(maps.regressor)]
    assert found == pytest.approx(GOLDEN[name], rel=1e-3)


class Made:
    """Eight people of made-up pixels, as `training.fit` sees them through a PoseDataset."""

    def __init__(self):
        random = np.random.default_rng(2)
        count = 8
        images = random.integers(0, 256, (count, 64, 64, 3), np.uint8)
        self.people = People(
            dataset="made",
            keys=np.arange(count).astype(str),
            joints=random.uniform(8, 56, (count, 16, 2)),
            visibility=np.full((count, 16), VISIBLE, np.int8),
            normaliser=np.ones(count),
            metric="PCKh@0.5",
            occlusion_labels=True,
            images=ImageArrays(images, "made"),
            center=np.full((count, 2), 31.5),
            side=np.full(count, 64.0),
            body=np.full(count, 50.0),
        )


def test_training():
    torch.manual_seed(0)
    net = cascade.Cascade(SLIM)
    augmentation = Augmentation(colour=0.2)
    loader = torch.utils.data.DataLoader(
        PoseDataset(Made().people, 64, augmentation, seed=3),
        batch_sampler=training.ShuffledBatches(8, 4, seed=3),
    )
    optimizer = training.make_optimizer("adamw", list(net.parameters()), 1e-3, 1e-4)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: training.rate_factor(step, 4, "cosine", 0.1, 0.25)
    )
    targets = Targets(map_stride=4)
    records = training.fit(
        net,
        lambda maps, batch: stages.joint_loss(maps, batch, targets),
        loader,
        optimizer,
        scheduler,
        2,
        Accelerator(cpu=True),
        average=training.average_of(net, 0.5),
    )
    found = [value for record in records for value in (record["loss"], record["lr"])]
    assert training.VERSION == 1
    assert found == pytest.approx(GOLDEN["training"], rel=1e-3)


GOLDEN = {
    "targets": [0.0065917969, 0.0065917969, 0.0033109952, 0.0028326422, 0.0013316556, 0.0015712721],
    "losses": [53.93086, 2940.3514, 26.830834, 10.392244, 111.78147, 5.1802391, 7.1285977],
    "slim": [-4.2265761, 21.691061, -2.0511906, -0.094380862, 0.095834289, -0.041145988],
    "vgg": [-0.044155944, 0.032570053, -0.0203951, -5.4436039e-05, 0.0039681113, 0.00096467034],
    "training": [10.346474, 0.000775, 9.9904718, 0.0001],
}
