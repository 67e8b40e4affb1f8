"""Everything that a GPU computes, on fake CUDA tensors: no GPU is needed, no number is computed,
and a tensor that was left on another device is an error."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hpe_lib import heatmaps, prediction, stages
from hpe_lib.cascade import Cascade, Maps
from hpe_lib.skeleton import OCCLUDED, VISIBLE
from hpe_lib.targets import Targets

SIZE = 64
NETWORK = {"trunk": "resnet152", "map_stride": 4, "channels": 16, "levels": 2, "bottlenecks": 1}
GPU = torch.device("cuda")


class OneDevice(TorchDispatchMode):
    """No operation may read the CPU's tensors beside the GPU's, but for a copy from one to the
    other: PyTorch itself lets numbers of the CPU (tensors without dimensions) pass, and each of
    them is a wait for the GPU."""

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        answer = operation(*arguments, **(options or {}))
        made = [leaf for leaf in tree_leaves(arguments) if isinstance(leaf, torch.Tensor)]
        devices = {tensor.device.type for tensor in made}
        copies = (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default)
        if len(devices) > 1 and operation not in copies:
            raise RuntimeError(f"{operation} of tensors on {' and '.join(sorted(devices))}")
        return answer


@pytest.fixture(scope="module")
def cascade():
    """The ResNet-152 cascade, with all that Module.to moves on the GPU: that refuses fake
    tensors."""
    with FakeTensorMode() as mode:
        cascade = Cascade(NETWORK)
        for module in cascade.modules():
            for name, weights in module.named_parameters(recurse=False):
                module._parameters[name] = nn.Parameter(weights.detach().to(GPU))
            for name, values in module.named_buffers(recurse=False):
                module._buffers[name] = values.to(GPU)
    cascade.mode = mode
    return cascade


@pytest.fixture
def batch(cascade):
    """Two people on the GPU; the rest of the test is about fake tensors, too."""
    with cascade.mode, OneDevice():
        yield {
            "image": torch.zeros(2, SIZE, SIZE, 3, dtype=torch.uint8, device=GPU),
            "joints": torch.full((2, 16, 2), 20.0, device=GPU),
            "visibility": torch.full((2, 16), VISIBLE, device=GPU),
            "body": torch.full((2,), 50.0, device=GPU),
        }


def test_a_tensor_on_the_wrong_device_is_found(batch):
    for other in (torch.zeros(2), torch.tensor(2.0)):
        with pytest.raises(RuntimeError, match="cpu"):
            batch["body"] + other


@pytest.mark.parametrize("flip_test", [False, True])
def test_a_pass_and_its_flip_test(cascade, batch, flip_test):
    with torch.no_grad():
        found = prediction.forward(cascade.eval(), batch["image"], flip_test)
    for maps in found:
        assert maps.shape == (2, 16, SIZE // 4, SIZE // 4) and maps.dtype == torch.float32
        assert maps.device.type == "cuda"


@pytest.mark.parametrize(
    "first, occluded", [("detection", "empty"), ("detection", "ignored"), ("regression", "empty")]
)
def test_targets_and_losses(cascade, batch, first, occluded):
    targets = Targets(4, first=first, occluded=occluded)
    maps = cascade.train()(batch["image"])
    for objective in stages.OBJECTIVES.values():
        assert objective(maps, batch, targets).device.type == "cuda"
    batch["visibility"] = torch.full((2, 16), OCCLUDED, device=GPU)
    for drawn, counts in (targets.detector(batch), targets.regressor(batch)):
        assert drawn.device.type == counts.device.type == "cuda"


@pytest.mark.parametrize("first", ["detection", "regression"])
@pytest.mark.parametrize("decoder", heatmaps.DECODERS)
def test_decoders(batch, decoder, first, monkeypatch):
    """What comes back is on the CPU, to be an array, which a fake tensor cannot become."""
    monkeypatch.setattr(torch.Tensor, "numpy", lambda tensor: tensor)
    maps = Maps(*(torch.zeros(2, 16, 16, 16, device=GPU) for _ in Maps._fields))
    for found in prediction.decode(maps, 4, decoder, first):
        assert found.device.type == "cpu" and found.shape[:2] == (2, 16)
