import re
import sys
import urllib.request
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import nn

from hpe_lib import cascade, detector, trunks
from hpe_lib.cascade import Cascade
from hpe_lib.detector import FCN8, Detector
from hpe_lib.regressor import Bottleneck, Convolutions, Hourglass
from hpe_lib.workbook import artifacts
from hpe_lib.workbook.artifacts import BadInput

VGG = {
    "trunk": "slim_vgg",
    "map_stride": 4,
    "regressor": "convolutions",
    "channels": 8,
    "kernels": [5, 5, 5, 7],
}
SMALL = {
    "trunk": "slim",
    "map_stride": 4,
    "channels": 16,
    "levels": 2,
    "bottlenecks": 1,
    "stem": "patch",
}


def count(module):
    return sum(weight.numel() for weight in module.parameters())


def test_parameters_of_resnet_152_are_the_ones_of_table_3():
    with torch.device("meta"):
        net = Detector("resnet152")
    assert sum(count(block) for block in (net.B1, net.B2, net.B3, net.B4, net.B5)) == 58_143_808
    assert (count(net.B6), count(net.B7)) == (32_784, 4_112) and len(net.B4) == 36
    assert [len(block) for block in (net.B2, net.B3, net.B5)] == [3, 8, 3]


def test_parameters_of_the_hourglass_by_block():
    """Worked by hand for Table 4's blocks at 256 channels.

    D1 has 7·7·19·64 + norm, D5 four of 2·2·256·256, …
    """
    with torch.device("meta"):
        net = Hourglass()
    module = 2 * 256 + 256 * 128 + 2 * 128 + 9 * 128 * 128 + 2 * 128 + 128 * 256
    assert count(Bottleneck(256, 256)) == module
    assert count(net.D1) == 7 * 7 * 19 * 64 + 2 * 64
    assert (
        count(net.D3) == count(net.D4) == count(net.merged) == 4 * 3 * module
        and count(net.bottom) == 3 * module
    )
    assert count(net.D5) == 4 * 2 * 2 * 256 * 256
    assert count(net.D6) == 256 * 512 + 2 * 512 and count(net.D7) == 512 * 16 + 16
    assert count(net.to_input) == 4 * 4 * 16 * 16 + 16


def test_parameters_of_vgg_16_are_the_ones_of_table_1():
    """A1–A5 as torchvision's features (F7).

    A6 has 7·7·512·4096 + 4096, A7 4096·4096 + 4096, A8 4096·16 + 16.
    """
    with torch.device("meta"):
        net = FCN8()
        features = torchvision.models.vgg16().features
    blocks = [net.A1, net.A2, net.A3, net.A4, net.A5]
    assert sum(map(count, blocks)) == count(features) == 14_714_688
    assert [sum(isinstance(layer, nn.Conv2d) for layer in block) for block in blocks] == [
        2,
        2,
        3,
        3,
        3,
    ]
    assert (count(net.A6), count(net.A7), count(net.A8)) == (102_764_544, 16_781_312, 65_552)
    assert net.A6[0].kernel_size == (7, 7) and count(net.A9) == 2 * 4 * 4 * 16 * 16


def test_parameters_of_the_convolutions_are_the_ones_of_table_2():
    with torch.device("meta"):
        net = Convolutions()
    assert [count(block) for block in net.children()] == [
        98_560,
        692_288,
        1_384_576,
        7_373_056,
        131_584,
        262_656,
        8_208,
        16_400,
    ]
    assert [name for name, _ in net.named_children()] == [f"C{n}" for n in range(1, 9)]
    assert (net.C8.kernel_size, net.C8.stride) == ((8, 8), (4, 4))


@pytest.mark.parametrize(
    "network, side, channels",
    [
        ({"trunk": "vgg16", "regressor": "convolutions"}, 380, 19),
        ({"trunk": "resnet152", "channels": 256}, 256, 19),
        ({"trunk": "vgg16", "regressor": "convolutions", "stacked": "image"}, 256, 3),
        ({"trunk": "resnet152", "regressor": "hourglass", "stacked": "heatmaps"}, 256, 16),
    ],
)
def test_the_printed_cascades_at_their_printed_sizes(network, side, channels):
    """380 is no multiple of 32: maps still have the crop's size, at every map_stride."""
    for stride in (1, 2, 4):
        with torch.device("meta"):
            net = Cascade({**network, "map_stride": stride})
            maps = net(torch.empty(1, side, side, 3, dtype=torch.uint8))
        assert (
            maps.detector.shape == maps.regressor.shape == (1, 16, side // stride, side // stride)
        )
        first = net.regressor.C1[0] if hasattr(net.regressor, "C1") else net.regressor.D1[0]
        assert first.in_channels == channels and first.weight.device.type == "meta"


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("side", [64, 76, 96, 100])
def test_a_slim_vgg_pair_s_maps_have_their_stride(side, stride):
    with torch.device("meta"):
        maps = Cascade({**VGG, "map_stride": stride})(
            torch.empty(2, side, side, 3, dtype=torch.uint8)
        )
    assert maps.detector.shape == maps.regressor.shape == (2, 16, side // stride, side // stride)


@pytest.mark.parametrize(
    "trunk, stride, side",
    [
        ("slim", 4, 64),
        ("slim", 2, 64),
        ("slim", 1, 64),
        ("resnet18", 1, 64),
        ("resnet18", 4, 64),
        ("resnet50", 4, 64),
    ],
)
def test_detector_s_maps_have_their_stride(trunk, stride, side):
    with torch.device("meta"):
        assert Detector(trunk, stride)(torch.empty(2, 3, side, side)).shape == (
            2,
            16,
            side // stride,
            side // stride,
        )


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
    """conv1 and bn1 are B1's first layers; layer1 … layer4 are B2 … B5, by name and by shape."""
    with torch.device("meta"):
        wanted = torchvision.models.get_model(trunk).state_dict()
        found = Detector(trunk).state_dict()
    blocks = {
        "conv1": "B1.0",
        "bn1": "B1.1",
        "layer1": "B2",
        "layer2": "B3",
        "layer3": "B4",
        "layer4": "B5",
    }
    renamed = {}
    for name, tensor in wanted.items():
        block, _, rest = name.partition(".")
        if block != "fc":
            renamed[f"{blocks[block]}.{rest}"] = tensor.shape
    assert renamed == {
        name: tensor.shape for name, tensor in found.items() if name[:2] not in ("B6", "B7")
    }


def test_unknown_trunks():
    with pytest.raises(BadInput, match="expected one of vgg16"):
        Detector("vgg19")
    with pytest.raises(BadInput, match="resnet152"):
        Detector("no such trunk")


@pytest.mark.parametrize(
    "name, value",
    [
        ("map_stride", 3),  # no block can make it
        ("stem", "pach"),
        ("first", "classification"),
        ("regressor", "transformer"),
        ("stacked", "rgb"),
        ("kernels", [5, 5, 5]),
        ("kernels", [5, 5, 5, 8]),
    ],
)
def test_unknown_choices_of_a_cascade(name, value):
    with pytest.raises(BadInput, match=f"{name}: found"):
        Cascade({**VGG, name: value})


# ---- ImageNet's weights


@pytest.mark.parametrize("trunk", ["resnet18", "vgg16"])
def test_unreachable_imagenet_weights(trunk, monkeypatch, tmp_path):
    def unreachable(*_, **__):
        raise URLError("no route\nto host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    monkeypatch.setattr(torch.hub, "urlopen", unreachable)
    with (
        torch.device("meta"),
        pytest.raises(BadInput, match=f"ImageNet weights of {trunk}: found .*no route") as error,
    ):
        Cascade({"trunk": trunk, "map_stride": 4}, pretrained=True)
    assert "\n" not in str(error.value) and "hub cache" in str(error.value)


def in_the_hub_s_cache(trunk, folder, monkeypatch):
    """A state dict of torchvision's own layout under the name it downloads to, whatever its hash.

    Each tensor is one number, so the file is small, but fc6's rows count their inputs.
    Returns {name: number}.
    """
    with torch.device("meta"):
        layout = torchvision.models.get_model(trunk).state_dict()
    numbers = {name: 1.0 + place for place, name in enumerate(layout)}
    made = {
        name: torch.tensor(numbers[name], dtype=like.dtype).expand(like.shape)
        for name, like in layout.items()
    }
    if trunk == "vgg16":
        made["classifier.0.weight"] = torch.arange(25088.0).expand(4096, 25088)
    monkeypatch.setattr(trunks, "check_named_hash", lambda url: None)
    url = torchvision.models.get_model_weights(trunk)["IMAGENET1K_V1"].url
    (folder / "checkpoints").mkdir()
    torch.save(made, folder / "checkpoints" / url.rpartition("/")[2])
    return numbers


def test_weights_of_another_hash_than_their_name_tells_are_refused(monkeypatch, tmp_path):
    """A stage is reused if its trunk's name is the same, so the name has to say which weights."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    made = torchvision.models.get_model("resnet18").state_dict()
    path = tmp_path / "checkpoints" / "resnet18-f37072fd.pth"
    path.parent.mkdir()
    torch.save(made, path)
    with pytest.raises(BadInput, match=r"resnet18-f37072fd.pth: found sha256 \w{8}…, expected the"):
        Cascade({"trunk": "resnet18", "map_stride": 4}, pretrained=True)
    path.rename(path.with_name(f"resnet18-{artifacts.file_hash(path)[:8]}.pth"))
    trunks.check_named_hash(f"https://somewhere/{next(path.parent.iterdir()).name}")


def test_imagenet_weights_of_a_resnet_arrive_in_the_trunk(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    numbers = in_the_hub_s_cache("resnet50", tmp_path, monkeypatch)
    net = Cascade({"trunk": "resnet50", "map_stride": 4}, pretrained=True).detector
    blocks = {
        "conv1": net.B1[0],
        "bn1": net.B1[1],
        "layer1": net.B2,
        "layer2": net.B3,
        "layer3": net.B4,
        "layer4": net.B5,
    }
    found = {
        f"{name}.{rest}": value
        for name, block in blocks.items()
        for rest, value in block.state_dict().items()
    }
    assert set(found) == {name for name in numbers if not name.startswith("fc.")}
    assert all((value == numbers[name]).all() for name, value in found.items())
    assert (net.B6.weight == 0).all()


def test_imagenet_weights_of_vgg_16_arrive_in_the_trunk_and_in_a6_and_a7(monkeypatch, tmp_path):
    """fc6 saw 512 × 7 × 7 features, flattened: channel, row, column."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    numbers = in_the_hub_s_cache("vgg16", tmp_path, monkeypatch)
    net = Cascade({"trunk": "vgg16", "map_stride": 4}, pretrained=True).detector
    layers = [layer for block in (net.A1, net.A2, net.A3, net.A4, net.A5) for layer in block]
    found = {
        f"features.{n}.{kind}": value
        for n, layer in enumerate(layers)
        for kind, value in layer.state_dict().items()
    }
    assert set(found) == {name for name in numbers if name.startswith("features.")}
    assert all((value == numbers[name]).all() for name, value in found.items())
    assert all(net.A6[0].weight[unit, 3, 2, 5] == 3 * 49 + 2 * 7 + 5 for unit in (0, 4095))
    assert (net.A7[0].weight == numbers["classifier.3.weight"]).all()
    assert (net.A6[0].bias == numbers["classifier.0.bias"]).all() and (net.A8.weight == 0).all()


def test_a6_is_fc6_at_the_size_it_was_trained_for():
    """A fully connected layer over 3 × 3 features of 2 channels agrees with the middle of the
    convolution made of it.
    """
    layer = nn.Linear(18, 4)
    features = torch.randn(5, 2, 3, 3)
    made = trunks.to_convolution(layer, 3).eval()
    assert torch.allclose(made(features)[:, :, 1, 1], layer(features.flatten(1)).relu(), atol=1e-6)


# ---- shapes and starts of the blocks


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
    assert (
        seen == [(2, 8, 2, 2)] and len(net.D3) == len(net.D4) == len(net.D5) == len(net.merged) == 3
    )


def test_untrained_networks_claim_nothing():
    """Score layers start at zero: probability 1/2 or `prior`, confidence 0, for any image."""
    images = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    maps = Cascade(SMALL).eval()(images)
    assert (torch.sigmoid(maps.detector) == 0.5).all() and (maps.regressor == 0).all()
    for network in ({**SMALL, "prior": 0.01}, {**VGG, "prior": 0.01}):
        claimed = torch.sigmoid(Cascade(network).eval()(images).detector)
        assert claimed.min().item() == pytest.approx(0.01) == claimed.max().item()
    assert (
        Cascade({**VGG, "prior": 0.01, "first": "regression"}).eval()(images).detector == 0
    ).all()


def test_nearest_deconvolution_enlarges_each_channel_by_itself():
    layer = nn.ConvTranspose2d(3, 3, 4, stride=4)
    detector.nearest_deconvolution(layer)
    maps = torch.randn(2, 3, 5, 5)
    assert torch.equal(layer(maps), nn.functional.interpolate(maps, scale_factor=4, mode="nearest"))


def test_fixed_enlargement_follows_the_pixel_rule():
    """A ramp x, on a grid 4 times finer, is (x + 0.5) / 4 - 0.5 away from the borders."""
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    fine = detector.enlarge(ramp, 4)[0, 0, 16]
    assert (
        torch.allclose(fine[2:-2], ((torch.arange(32) + 0.5) / 4 - 0.5)[2:-2])
        and detector.enlarge(ramp, 1) is ramp
    )


@pytest.mark.parametrize("factor", [2, 4])
def test_bilinear_deconvolutions_begin_as_the_fixed_enlargement(factor):
    """Neither moves anything; they differ only at the border, where a deconvolution reads zeros."""
    layer = nn.ConvTranspose2d(3, 3, 2 * factor, stride=factor, padding=factor // 2)
    detector.bilinear_deconvolution(layer)
    maps = torch.randn(2, 3, 7, 7)
    inside = slice(factor, -factor)
    assert torch.allclose(
        layer(maps)[..., inside, inside],
        detector.enlarge(maps, factor)[..., inside, inside],
        atol=1e-6,
    )


def test_the_convolutions_begin_as_printed():
    """N(0, 0.01), F10; C8 bilinear, so a ramp of C7's passes through it by the pixel rule."""
    net = Convolutions(16, (5, 5, 5, 7))
    for block in (net.C1, net.C2, net.C3, net.C4, net.C5, net.C6):
        assert (
            block[0].weight.std().item() == pytest.approx(0.01, rel=0.05)
            and (block[0].bias == 0).all()
        )
    ramp = net.C8(torch.arange(8.0).expand(1, 16, 8, 8))[0, 3, 16, 6:-6]
    assert torch.allclose(ramp, (torch.arange(6, 26) + 0.5) / 4 - 0.5, atol=1e-5)
    he = Convolutions(16, (5, 5, 5, 7), std=0.0)
    assert (
        he.C2[0].weight.std().item() == pytest.approx((2 / 400) ** 0.5, rel=0.05)
        and (he.C7.weight == 0).all()
    )


@pytest.mark.parametrize("side", [96, 76])
def test_scores_of_every_pooling_come_out_where_they_belong(side):
    """FCN8's way up, fed a ramp at each of its three strides: x of a map cell is x of the crop,
    also where 76 px leave 2.4 cells of 32."""
    net = FCN8("slim_vgg", 1).eval()
    for score, stride in ((net.A8, 32), (net.score4, 16), (net.score3, 8)):

        def ramp(_, __, given, stride=stride):
            return ((torch.arange(given.shape[-1]) + 0.5) * stride - 0.5).expand_as(given)

        hook = score.register_forward_hook(ramp)
        with torch.no_grad():
            maps = net(torch.zeros(1, 3, side, side))
        hook.remove()
        middle = slice(stride, side // stride * stride - stride)
        if stride == 32:
            middle = slice(32, 44)  # of 3 cells; outside a deconvolution reads zeros
        assert torch.allclose(
            maps[0, 0, side // 2, middle], torch.arange(float(side))[middle], atol=1e-3
        )


@pytest.mark.parametrize("network", [SMALL, VGG, {**VGG, "map_stride": 1}])
def test_maps_follow_the_image(network):
    """An image moved by 32 px moves the maps of both networks by as much, away from the borders:
    nothing is cut on the wrong side. Norms' statistics are fixed and the networks woken, or there
    would be nothing to see."""
    net = woken(network).eval()
    stride = network["map_stride"]
    images = torch.full((1, 288, 288, 3), 124, dtype=torch.uint8)
    images[:, 112:144, 112:144] = torch.randint(0, 256, (1, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        for one, other in zip(net(images), net(images.roll((32, 32), (1, 2)))):
            moved = one.roll((32 // stride, 32 // stride), (2, 3))
            part = slice(112 // stride, 208 // stride)
            one = moved[..., part, part]
            other = other[..., part, part]
            assert one.std() > 0 and torch.allclose(one, other, atol=0.02 * one.std().item())


def test_modules_start_as_their_skip():
    net = Hourglass(8, 1, 1)
    features = torch.randn(2, 8, 6, 6)
    assert torch.equal(net.bottom(features), features)


# ---- F5: what learns, and when


def gradients_within_two_steps(net, images, target):
    """{parameter: its largest gradient over the first three backwards}.

    Each is a share of the largest of the same step.
    """
    optimizer = torch.optim.SGD(net.parameters(), 1e-4)
    found = {}
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
    images = torch.randn(2, 3, 32, 32, dtype=torch.double)
    target = torch.rand(2, 16, 8, 8, dtype=torch.double)
    found = gradients_within_two_steps(Detector(trunk, 4).double(), images, target)
    assert min(found.values()) > 1e-7, min(found, key=found.get)


@pytest.mark.parametrize("stem", ["conv7", "patch"])
def test_every_parameter_of_the_regressor_has_a_gradient_within_two_steps(stem):
    torch.manual_seed(0)
    images = torch.randn(4, 19, 64, 64, dtype=torch.double)
    target = torch.rand(4, 16, 32, 32, dtype=torch.double)
    found = gradients_within_two_steps(Hourglass(8, 2, 2, 2, stem).double(), images, target)
    assert min(found.values()) > 1e-9, min(found, key=found.get)


@pytest.mark.parametrize("stride", [1, 4])
def test_every_parameter_of_a_slim_vgg_pair_has_a_gradient_within_two_steps(stride):
    torch.manual_seed(0)
    target = torch.rand(2, 16, 64 // stride, 64 // stride, dtype=torch.double)
    for net, inputs in (
        (FCN8("slim_vgg", stride), 3),
        (Convolutions(8, (5, 5, 5, 7), stride), 19),
        (Convolutions(8, (5, 5, 5, 7), stride, std=0.0), 19),
    ):
        images = torch.randn(2, inputs, 64, 64, dtype=torch.double)
        found = gradients_within_two_steps(net.double(), images, target)
        assert min(found.values()) > 1e-9, min(found, key=found.get)


def test_literal_zeros_pass_no_gradient_to_any_weight():
    """F5: "all layers zero-initialised except the deconvolutions".

    Nothing but the last biases would ever learn.
    """
    torch.manual_seed(0)
    net = Hourglass(8, 2, 2, 2)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            layer.load_state_dict(
                {name: torch.zeros_like(value) for name, value in layer.state_dict().items()}
            )
    for _ in range(3):
        net.zero_grad()
        (net(torch.randn(4, 19, 64, 64)) - torch.rand(4, 16, 32, 32)).square().sum().backward()
        passed = {name for name, weight in net.named_parameters() if weight.grad.abs().max() > 0}
        assert "D7.bias" in passed and {name.rpartition(".")[0] for name in passed} <= {
            "D7",
            "to_input",
        }
        assert not {
            name for name in passed if name.endswith("weight") and not name.startswith("to_input")
        }
        torch.optim.SGD([net.D7.bias, net.to_input.bias], 1e-3).step()


# ---- the cascade


def woken(network=SMALL):
    """A cascade whose score layers are not zero, so that everything flows."""
    torch.manual_seed(0)
    net = Cascade(network)
    scores = (
        [net.detector.A8, net.detector.score4, net.detector.score3]
        if network["trunk"] == "slim_vgg"
        else [net.detector.B6]
    )
    for layer in (*scores, net.regressor.D7 if hasattr(net.regressor, "D7") else net.regressor.C7):
        nn.init.normal_(layer.weight, std=0.1)
    return net


def crops():
    return torch.randint(
        0, 256, (2, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def test_the_stack_is_16_probabilities_and_the_image_at_the_input_s_resolution():
    net = woken()
    images = crops()
    normal = net.normalise(images)
    stack = net.stack(logits := net.detector(normal), normal)
    assert stack.shape == (2, 19, 64, 64) and torch.equal(stack[:, 16:], normal)
    assert stack[:, :16].min() >= 0 and stack[:, :16].max() <= 1
    assert torch.allclose(stack[:, :16].mean((2, 3)), torch.sigmoid(logits).mean((2, 3)), atol=0.02)


def test_a_regression_network_s_maps_are_stacked_as_they_are():
    net = woken({**SMALL, "first": "regression", "map_stride": 1})
    images = crops()
    normal = net.normalise(images)
    maps = net.detector(normal)
    assert torch.equal(net.stack(maps, normal)[:, :16], maps) and torch.equal(
        net.confidence(maps), maps
    )
    assert maps.min() < 0 and torch.equal(woken().confidence(maps), torch.sigmoid(maps))


def test_maps_are_erased_in_training_only():
    net = woken()
    images = crops()
    normal = net.normalise(images)
    logits = net.detector(normal)
    whole = net.eval().stack(logits, normal)
    net.map_dropout = 0.5
    assert torch.equal(net.stack(logits, normal), whole), "not at test time"
    torch.manual_seed(0)
    found = net.train().stack(logits, normal)
    kept = (found[:, :16] == whole[:, :16]).all((2, 3))
    erased = (found[:, :16] == 0).all((2, 3))
    assert (kept ^ erased).all() and 0.25 < erased.float().mean() < 0.75
    assert (erased[0] != erased[1]).any(), "other maps of everybody"
    assert torch.equal(found[:, 16:], normal), "the image stays"


def test_noise_lies_on_the_maps_in_training_only():
    net = woken()
    normal = net.normalise(crops())
    logits = net.detector(normal)
    whole = net.eval().stack(logits, normal)
    net.map_noise = 0.1
    assert torch.equal(net.stack(logits, normal), whole), "not at test time"
    torch.manual_seed(0)
    noise = net.train().stack(logits, normal) - whole
    assert 0.03 < noise[:, :16].std() <= 0.11, "less than 0.1: enlarged bilinearly"
    assert abs(noise[:, :16].mean()) < 0.01 and not noise[:, 16:].any(), "the image stays"


def test_without_erasing_no_random_number_is_drawn():
    net = woken().train()
    images = crops()
    before = torch.get_rng_state()
    net(images)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("network", [SMALL, VGG])
@pytest.mark.parametrize(
    "stacked, part", [("both", slice(0, 19)), ("image", slice(16, 19)), ("heatmaps", slice(0, 16))]
)
def test_what_the_regressor_reads(network, stacked, part):
    net = woken({**network, "stacked": stacked})
    images = crops()
    normal = net.normalise(images)
    maps = net.detector(normal)
    assert torch.equal(net.stack(maps, normal), woken(network).stack(maps, normal)[:, part])
    net(images).regressor.sum().backward()
    reached = net.detector.B6 if network is SMALL else net.detector.A8
    assert (reached.weight.grad is None) == (stacked == "image")


def test_what_older_manifests_leave_out_means_what_it_meant():
    """No word of first, regressor and stacked: a detector, an hourglass, both.

    There is no regressor without its numbers.
    """
    net = Cascade(SMALL)
    assert (net.first, net.stacked, type(net.regressor)) == ("detection", "both", Hourglass)
    assert (
        Cascade(
            {"trunk": "slim", "map_stride": 4, "first": "regression", "stacked": "both"}
        ).regressor
        is None
    )
    assert (
        type(Cascade({"trunk": "slim", "map_stride": 4, "regressor": "convolutions"}).regressor)
        is Convolutions
    )


def test_images_are_normalised_as_torchvision_does():
    """Trap T33: RGB, ImageNet's mean and deviation."""
    images = crops()
    wanted = torchvision.transforms.functional.normalize(
        images.permute(0, 3, 1, 2).float() / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    )
    assert torch.allclose(
        Cascade({"trunk": "slim", "map_stride": 4}).normalise(images), wanted, atol=1e-5
    )


def test_the_regressor_s_error_reaches_the_detector_unless_frozen():
    net = woken()
    net(crops()).regressor.square().sum().backward()
    assert all(
        weight.grad is not None and weight.grad.abs().max() > 0
        for weight in net.detector.B6.parameters()
    )
    assert net.detector.B1[0].weight.grad.abs().max() > 0
    frozen = woken().freeze_detector()
    frozen(crops()).regressor.square().sum().backward()
    assert all(weight.grad is None for weight in frozen.detector.parameters())
    assert frozen.regressor.D1[0].weight.grad.abs().max() > 0


def test_frozen_stays_frozen_in_train_mode_and_can_be_undone():
    net = woken().freeze_detector().train()
    assert (
        net.training
        and net.regressor.training
        and not any(layer.training for layer in net.detector.modules())
    )
    before = {name: tensor.clone() for name, tensor in net.detector.state_dict().items()}
    net(crops())
    assert all(
        torch.equal(before[name], tensor) for name, tensor in net.detector.state_dict().items()
    )
    net.freeze_detector(False)
    assert net.detector.training and all(
        weight.requires_grad for weight in net.detector.parameters()
    )


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


def test_the_convolutions_stay_out_of_channels_last():
    """There a weight gradient of the printed C4 takes minutes on a CPU instead of seconds."""
    net = woken(VGG).eval().set_memory_format()
    assert net.detector.A2[0].weight.is_contiguous(memory_format=torch.channels_last)
    seen = []
    net.regressor.C4.register_forward_hook(lambda _, given, made: seen.extend([given[0], made]))
    for one, other in zip(net(crops()), woken(VGG).eval()(crops()), strict=True):
        assert torch.allclose(one, other, atol=1e-3)
    assert all(maps.is_contiguous() for maps in (*seen, net.regressor.C4[0].weight))


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
    assert (
        cascade.load(tmp_path).regressor is not None
        and cascade.stage_folder(tmp_path).name == "regressor"
    )
    assert cascade.load(tmp_path / "detector").regressor is None
    (tmp_path / "regressor" / artifacts.WEIGHTS).unlink()
    lost = f"{tmp_path / 'regressor'}: found no weights.safetensors, expected those that its"
    with pytest.raises(BadInput, match=re.escape(lost)):
        cascade.load(tmp_path)
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


# ---- a trunk the library does not know: what docs/backbones.md says


@pytest.fixture
def my_trunks(tmp_path, monkeypatch):
    """The page's file beside the notebooks, so to speak."""
    page = (Path(__file__).parent.parent / "docs" / "backbones.md").read_text(encoding="utf-8")
    first, second = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "my_trunks.py").write_text(first, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield second
    sys.modules.pop("my_trunks", None)


def test_a_trunk_of_one_s_own_in_python(my_trunks):
    found = {}
    exec(my_trunks, found)
    net = found["net"].eval()
    assert net(torch.zeros(1, 3, 64, 64)).shape == (1, 16, 16, 16) and net.B7.stride == (8, 8)
    assert net(torch.zeros(1, 3, 76, 76)).shape == (1, 16, 19, 19)


def test_a_trunk_of_one_s_own_is_saved_and_loaded_by_its_place(my_trunks, tmp_path, monkeypatch):
    network = {**SMALL, "trunk": "my_trunks:mobilenet_trunk"}
    with pytest.raises(BadInput, match="trunk: found 'my_trunks:mobilenet_trunk'"):
        Cascade(network)
    monkeypatch.setenv("HPE_TRUNK", network["trunk"])
    net = woken(network).eval()
    saved(tmp_path / "run" / "cascade", net)
    again = cascade.load(tmp_path / "run")
    assert (
        isinstance(again.detector.B1[0][0], nn.Conv2d)
        and again.network["trunk"] == network["trunk"]
    )
    for one, other in zip(net(crops()), again(crops()), strict=True):
        assert torch.allclose(one, other, atol=1e-3)
    assert "detector.B5.9.block.0.0.weight" in artifacts.load_weights(tmp_path / "run" / "cascade")
    trunks.TRUNKS.clear()
    monkeypatch.setattr(sys, "path", [])
    sys.modules.pop("my_trunks")
    with pytest.raises(BadInput, match="my_trunks:mobilenet_trunk.*No module named") as error:
        cascade.load(tmp_path / "run")
    assert "\n" not in str(error.value)


def test_no_function_is_called_that_is_no_trunk(monkeypatch):
    for name in ("os:system", "my_trunks:", "os:no_trunk", ":x_trunk"):
        for said in ("", name):
            monkeypatch.setenv("HPE_TRUNK", said)
            with pytest.raises(BadInput, match="trunk: found"):
                Detector(name)


def test_blocks_are_told_by_their_table_s_labels():
    class Small(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.A1 = torch.nn.Conv2d(3, 4, 3, stride=2, padding=1)
            self.A2 = torch.nn.ModuleList(
                [torch.nn.MaxPool2d(2), torch.nn.Conv2d(4, 6, 1, bias=False)]
            )

        def forward(self, images):
            maps = self.A1(images)
            for part in self.A2:
                maps = part(maps)
            return maps

    network = Small()
    found = cascade.block_table(network, torch.zeros(2, 3, 16, 16))
    assert found.to_dict("index") == {
        "A1": {"parameters": 3 * 4 * 9 + 4, "channels": 4, "map, cells": "8"},
        "A2": {"parameters": 24, "channels": 4, "map, cells": "4, 4"},
    }
    assert not [
        part for part in network.modules() if part._forward_hooks
    ]  # nothing is left on the network
