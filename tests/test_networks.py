import pytest
import torch
import torchvision
from torch import nn

from hpe_lib import artifacts, cascade, detector
from hpe_lib.artifacts import BadInput
from hpe_lib.cascade import Cascade
from hpe_lib.detector import Detector
from hpe_lib.regressor import Bottleneck, Hourglass

SMALL = {"trunk": "slim", "map_stride": 4, "channels": 16, "levels": 2, "bottlenecks": 1, "stem": "patch"}


def count(module):
    return sum(weight.numel() for weight in module.parameters())


def test_parameters_of_resnet_152_are_the_ones_of_table_3():
    with torch.device("meta"):
        net = Detector("resnet152")
    assert sum(count(block) for block in (net.B1, net.B2, net.B3, net.B4, net.B5)) == 58_143_808
    assert (count(net.B6), count(net.B7)) == (32_784, 4_112) and len(net.B4) == 36
    assert [len(block) for block in (net.B2, net.B3, net.B5)] == [3, 8, 3]


def test_parameters_of_the_hourglass_by_block():
    """Worked by hand for Table 4's blocks at 256 channels: D1 7·7·19·64 + norm; D5 four of 2·2·256·256; …"""
    with torch.device("meta"):
        net = Hourglass()
    module = 2 * 256 + 256 * 128 + 2 * 128 + 9 * 128 * 128 + 2 * 128 + 128 * 256
    assert count(Bottleneck(256, 256)) == module
    assert count(net.D1) == 7 * 7 * 19 * 64 + 2 * 64
    assert count(net.D3) == count(net.D4) == count(net.merged) == 4 * 3 * module and count(net.bottom) == 3 * module
    assert count(net.D5) == 4 * 2 * 2 * 256 * 256
    assert count(net.D6) == 256 * 512 + 2 * 512 and count(net.D7) == 512 * 16 + 16
    assert count(net.to_input) == 4 * 4 * 16 * 16 + 16


@pytest.mark.parametrize("trunk, stride, side", [("slim", 4, 64), ("slim", 2, 64), ("slim", 1, 64),
                                                 ("resnet18", 1, 64), ("resnet18", 4, 64), ("resnet50", 4, 64)])
def test_detector_s_maps_have_their_stride(trunk, stride, side):
    with torch.device("meta"):
        assert Detector(trunk, stride)(torch.empty(2, 3, side, side)).shape == (2, 16, side // stride, side // stride)


def test_a_map_stride_that_no_block_can_make_is_refused():
    with pytest.raises(BadInput, match="map_stride: found 3, expected 1, 2 or 4"):
        Detector("slim", 3)


def test_b5_keeps_its_resolution_without_dilation():
    """Table 3: B4 and B5 both at stride 16."""
    for trunk in ("resnet18", "resnet50", "resnet152"):
        with torch.device("meta"):
            net = Detector(trunk)
            features = net.B4(net.B3(net.B2(net.B1(torch.empty(1, 3, 64, 64)))))
            assert features.shape[-1] == 4 == net.B5(features).shape[-1]
        convolutions = [layer for layer in net.B5.modules() if isinstance(layer, nn.Conv2d)]
        assert all(layer.stride == (1, 1) and layer.dilation == (1, 1) for layer in convolutions)


def test_b7_as_printed_brings_stride_16_to_4():
    """4×4 with stride 4; the fixed bilinear does the rest and has no parameters."""
    with torch.device("meta"):
        net = Detector("resnet18")
    assert net.B7.kernel_size == net.B7.stride == (4, 4) and net.rest == 4


@pytest.mark.parametrize("trunk", ["resnet18", "resnet50"])
def test_torchvision_s_weights_fit_the_trunk_by_block(trunk):
    """conv1, bn1 are the first layers of B1; layer1 … layer4 are B2 … B5, name for name and shape for shape."""
    with torch.device("meta"):
        wanted = torchvision.models.get_model(trunk).state_dict()
        found = Detector(trunk).state_dict()
    blocks = {"conv1": "B1.0", "bn1": "B1.1", "layer1": "B2", "layer2": "B3", "layer3": "B4", "layer4": "B5"}
    renamed = {}
    for name, tensor in wanted.items():
        block, _, rest = name.partition(".")
        if block != "fc":
            renamed[f"{blocks[block]}.{rest}"] = tensor.shape
    assert renamed == {name: tensor.shape for name, tensor in found.items() if name[:2] not in ("B6", "B7")}


def test_unknown_trunks_and_strides():
    with pytest.raises(BadInput, match="resnet152"):
        Detector("vgg19")
    with pytest.raises(ValueError, match="map_stride"):
        Hourglass(16, 1, 1, map_stride=3)


def test_unreachable_imagenet_weights(monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no route\nto host")
    monkeypatch.setattr(torchvision.models, "get_model", unreachable)
    with pytest.raises(BadInput, match="found no route, expected"):
        Detector("resnet18", pretrained=True)


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("stem", ["conv7", "patch"])
def test_hourglass_s_maps_have_their_stride(stem, stride):
    with torch.device("meta"):
        maps = Hourglass(16, 3, 1, stride, stem)(torch.empty(2, 19, 64, 64))
    assert maps.shape == (2, 16, 64 // stride, 64 // stride)


def test_hourglass_halves_as_often_as_it_has_levels():
    seen = []
    net = Hourglass(8, 3, 1, 4, "patch")
    net.bottom.register_forward_hook(lambda _, given, __: seen.append(given[0].shape))
    net(torch.zeros(2, 19, 64, 64))
    assert seen == [(2, 8, 2, 2)] and len(net.D3) == len(net.D4) == len(net.D5) == len(net.merged) == 3


def test_untrained_networks_claim_nothing():
    """Score layers start at zero: probability 1/2 or `prior`, confidence 0, everywhere, whatever the image."""
    images = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    maps = Cascade(SMALL).eval()(images)
    assert (torch.sigmoid(maps.detector) == 0.5).all() and (maps.regressor == 0).all()
    assert torch.sigmoid(Cascade({**SMALL, "prior": 0.01}).eval()(images).detector).mean().item() == pytest.approx(0.01)


def test_nearest_deconvolution_enlarges_each_channel_by_itself():
    layer = nn.ConvTranspose2d(3, 3, 4, stride=4)
    detector.nearest_deconvolution(layer)
    maps = torch.randn(2, 3, 5, 5)
    assert torch.equal(layer(maps), nn.functional.interpolate(maps, scale_factor=4, mode="nearest"))


def test_fixed_enlargement_follows_the_pixel_rule():
    """A ramp x, on a grid 4 times finer, is (x + 0.5) / 4 - 0.5 away from the borders."""
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    fine = detector.enlarge(ramp, 4)[0, 0, 16]
    assert torch.allclose(fine[2:-2], ((torch.arange(32) + 0.5) / 4 - 0.5)[2:-2]) and detector.enlarge(ramp, 1) is ramp


def test_modules_start_as_their_skip():
    net, features = Hourglass(8, 1, 1), torch.randn(2, 8, 6, 6)
    assert torch.equal(net.bottom(features), features)


# ---- F5: what learns, and when


def gradients_within_two_steps(net, images, target):
    """{parameter: its largest gradient, as a share of the largest of the same step}, over the first three backwards."""
    optimizer, found = torch.optim.SGD(net.parameters(), 1e-4), {}
    for _ in range(3):
        net.zero_grad()
        (net(images) - target).square().sum().backward()
        sizes = {name: weight.grad.abs().max().item() for name, weight in net.named_parameters()}
        top = max(sizes.values())
        found = {name: max(size / top, found.get(name, 0)) for name, size in sizes.items()}
        optimizer.step()
    return found


@pytest.mark.parametrize("trunk", ["slim", "resnet18"])
def test_every_parameter_of_the_detector_has_a_gradient_within_two_steps(trunk):
    torch.manual_seed(0)
    images, target = torch.randn(2, 3, 32, 32, dtype=torch.double), torch.rand(2, 16, 8, 8, dtype=torch.double)
    found = gradients_within_two_steps(Detector(trunk, 4).double(), images, target)
    assert min(found.values()) > 1e-7, min(found, key=found.get)


@pytest.mark.parametrize("stem", ["conv7", "patch"])
def test_every_parameter_of_the_regressor_has_a_gradient_within_two_steps(stem):
    torch.manual_seed(0)
    images, target = torch.randn(4, 19, 64, 64, dtype=torch.double), torch.rand(4, 16, 32, 32, dtype=torch.double)
    found = gradients_within_two_steps(Hourglass(8, 2, 2, 2, stem).double(), images, target)
    assert min(found.values()) > 1e-9, min(found, key=found.get)


def test_literal_zeros_pass_no_gradient_to_any_weight():
    """F5: "all layers zero-initialised except the deconvolutions": nothing but the last biases would ever learn."""
    torch.manual_seed(0)
    net = Hourglass(8, 2, 2, 2)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            layer.load_state_dict({name: torch.zeros_like(value) for name, value in layer.state_dict().items()})
    for _ in range(3):
        net.zero_grad()
        (net(torch.randn(4, 19, 64, 64)) - torch.rand(4, 16, 32, 32)).square().sum().backward()
        passed = {name for name, weight in net.named_parameters() if weight.grad.abs().max() > 0}
        assert "D7.bias" in passed and {name.rpartition(".")[0] for name in passed} <= {"D7", "to_input"}
        assert not {name for name in passed if name.endswith("weight") and not name.startswith("to_input")}
        torch.optim.SGD([net.D7.bias, net.to_input.bias], 1e-3).step()


# ---- the cascade


def woken(network=SMALL):
    """A cascade whose score layers are not zero, so that everything flows."""
    torch.manual_seed(0)
    net = Cascade(network)
    for layer in (net.detector.B6, net.regressor.D7):
        nn.init.normal_(layer.weight, std=0.1)
    return net


def crops():
    return torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_the_stack_is_16_probabilities_and_the_image_at_the_input_s_resolution():
    net, images = woken(), crops()
    normal = net.normalise(images)
    stack = net.stack(logits := net.detector(normal), normal)
    assert stack.shape == (2, 19, 64, 64) and torch.equal(stack[:, 16:], normal)
    assert stack[:, :16].min() >= 0 and stack[:, :16].max() <= 1
    assert torch.allclose(stack[:, :16].mean((2, 3)), torch.sigmoid(logits).mean((2, 3)), atol=0.02)


def test_images_are_normalised_as_torchvision_does():
    """Trap T33: RGB, ImageNet's mean and deviation."""
    images = crops()
    wanted = torchvision.transforms.functional.normalize(
        images.permute(0, 3, 1, 2).float() / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert torch.allclose(Cascade({"trunk": "slim", "map_stride": 4}).normalise(images), wanted, atol=1e-5)


def test_the_regressor_s_error_reaches_the_detector_unless_frozen():
    net = woken()
    net(crops()).regressor.square().sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight in net.detector.B6.parameters())
    assert net.detector.B1[0].weight.grad.abs().max() > 0
    frozen = woken().freeze_detector()
    frozen(crops()).regressor.square().sum().backward()
    assert all(weight.grad is None for weight in frozen.detector.parameters())
    assert frozen.regressor.D1[0].weight.grad.abs().max() > 0


def test_frozen_stays_frozen_in_train_mode_and_can_be_undone():
    net = woken().freeze_detector().train()
    assert net.training and net.regressor.training and not any(layer.training for layer in net.detector.modules())
    before = {name: tensor.clone() for name, tensor in net.detector.state_dict().items()}
    net(crops())
    assert all(torch.equal(before[name], tensor) for name, tensor in net.detector.state_dict().items())
    net.freeze_detector(False)
    assert net.detector.training and all(weight.requires_grad for weight in net.detector.parameters())


def test_without_a_regressor_there_are_no_regressor_s_maps():
    net = Cascade({"trunk": "slim", "map_stride": 4})
    assert net.regressor is None and net(crops()).regressor is None


def test_channels_last_changes_the_memory_and_not_the_answer():
    plain = woken().eval()
    fast = woken().eval().to(memory_format=torch.channels_last)
    assert fast.detector.B2[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert fast.normalise(crops()).is_contiguous(memory_format=torch.channels_last)
    for one, other in zip(plain(crops()), fast(crops()), strict=True):
        assert torch.allclose(one, other, atol=1e-3)


def saved(folder, net):
    artifacts.save(folder, net.state_dict(), {"network": net.network})


def test_saved_cascades_answer_the_same_when_loaded(tmp_path):
    net = woken().eval()
    saved(tmp_path / "cascade", net)
    for folder in (tmp_path, tmp_path / "cascade"):
        for one, other in zip(net(crops()), cascade.load(folder)(crops()), strict=True):
            assert torch.allclose(one, other, atol=1e-3)


def test_of_a_run_folder_the_latest_stage_is_loaded(tmp_path):
    saved(tmp_path / "detector", Cascade({"trunk": "slim", "map_stride": 4}))
    assert cascade.load(tmp_path).regressor is None
    saved(tmp_path / "regressor", woken())
    assert cascade.load(tmp_path).regressor is not None and cascade.stage_folder(tmp_path).name == "regressor"
    assert cascade.load(tmp_path / "detector").regressor is None


def test_weights_of_another_architecture(tmp_path):
    artifacts.save(tmp_path, woken().state_dict(), {"network": {**SMALL, "channels": 24}})
    with pytest.raises(BadInput) as error:
        cascade.load(tmp_path)
    line = str(error.value)
    assert "\n" not in line and "weights.safetensors" in line
    assert "regressor.D1.0.weight 16x19x4x4 instead of 24x19x4x4" in line


def test_no_weights_at_all(tmp_path):
    with pytest.raises(BadInput, match="no weights.safetensors"):
        cascade.load(tmp_path)
