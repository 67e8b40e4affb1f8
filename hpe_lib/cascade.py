"""The cascade (Fig. 1): detector, its heatmaps stacked with the image, regressor."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from hpe_lib.detector import FCN8, Detector, enlarge
from hpe_lib.paper import N_JOINTS
from hpe_lib.regressor import Convolutions, Hourglass
from hpe_lib.trunks import VGGS, Trunk, imported_trunk
from hpe_lib.workbook import artifacts
from hpe_lib.workbook.artifacts import BadInput

# Raise it when a network begins or computes differently: trained stages are then made anew.
VERSION = 1
FIRST = ("detection", "regression")  # what the first network learns (F15)
REGRESSORS = {
    "hourglass": (
        Hourglass,
        ("channels", "levels", "bottlenecks", "stem"),
    ),  # class, what makes one
    "convolutions": (Convolutions, ("channels", "kernels", "std")),
}
STACKED = {
    "both": N_JOINTS + 3,
    "image": 3,
    "heatmaps": N_JOINTS,
}  # what the regressor reads, and its channels


class Maps(NamedTuple):
    """detector: logits (B, 16, h, w) of a first network that detects, confidence maps of one that regresses.
    regressor: confidence maps (B, 16, h, w), None where there is no regressor."""

    detector: torch.Tensor
    regressor: torch.Tensor | None


class Cascade(nn.Module):
    """uint8 RGB crops (B, S, S, 3) -> Maps.

    network: what makes it, as kept in the manifest of its weights: trunk, map_stride, prior (Detector, FCN8); first:
    "detection" or "regression" (F15); and, with a regressor, regressor: "hourglass" or "convolutions", the numbers of
    its class, and stacked: what it reads, "both", "image" or "heatmaps". What is absent is the first of its choices or
    the printed number; with nothing said of a regressor there is none. BadInput on another value, before anything is
    built.
    trunk: one to use in place of that which network names.
    frozen: the detector learns nothing, its batch-norm statistics included (F9).
    """

    def __init__(self, network: dict, pretrained: bool = False, trunk: Trunk | None = None):
        super().__init__()
        artifacts.check(artifacts.plain(network), "network")
        self.network = network
        self.map_stride = network["map_stride"]
        self.first = network.get("first", "detection")
        prior = (
            network.get("prior", 0.5) if self.first == "detection" else 0.5
        )  # a regression network starts at 0
        if pretrained and network["trunk"].startswith("slim"):
            raise BadInput(
                "pretrained",
                f"true with trunk {network['trunk']!r}",
                "a trunk that has ImageNet weights",
            )
        first_network = FCN8 if trunk is None and network["trunk"] in VGGS else Detector
        self.detector = first_network(trunk or network["trunk"], self.map_stride, pretrained, prior)
        self.stacked = network.get("stacked", "both")
        self.regressor = make_regressor(network)
        self.frozen, self.frozen_blocks = False, 0
        for name, value in (("mean", self.detector.mean), ("deviation", self.detector.std)):
            self.register_buffer(name, 255 * torch.tensor(value).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> Maps:
        images = self.normalise(images)
        maps = self.detector(images)
        return Maps(
            maps, None if self.regressor is None else self.regressor(self.stack(maps, images))
        )

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """(B, S, S, 3) uint8 -> (B, 3, S, S) float, channels last in memory, by the trunk's mean and deviation."""
        return (images.permute(0, 3, 1, 2) - self.mean) / self.deviation

    def confidence(self, maps: torch.Tensor) -> torch.Tensor:
        """What the first network claims: `confidence` of its maps (B, 16, h, w)."""
        return confidence(maps, self.first)

    def stack(self, maps: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """The regressor's input (B, 19, S, S): 16 confidence maps beside RGB, at the input's resolution (F8).

        stacked "image" leaves RGB (3 channels), "heatmaps" the maps (16).
        """
        if self.stacked == "image":
            return images
        heatmaps = enlarge(self.confidence(maps), self.map_stride)
        return heatmaps if self.stacked == "heatmaps" else torch.cat([heatmaps, images], dim=1)

    def laid_out(self) -> "Cascade":
        """Itself, channels last in memory, the fastest for all but the convolutions of Table 2: with those, oneDNN
        needs minutes for one weight gradient of C4 (seconds otherwise)."""
        self.to(memory_format=torch.channels_last)
        if isinstance(self.regressor, Convolutions):
            self.regressor.to(memory_format=torch.contiguous_format)
        return self

    def freeze_detector(self, frozen: bool = True) -> "Cascade":
        """Stop (or resume) the detector's learning: neither its weights nor its norms' statistics move."""
        self.frozen = frozen
        return self.frozen_anew()

    def freeze_blocks(self, count: int) -> "Cascade":
        """Let the trunk's first `count` blocks, B1 … B5 or A1 … A7, learn nothing, their norms'
        statistics included; 0: all learn. BadInput on more blocks than there are."""
        if count not in range(1 + len(self.trunk)):
            raise BadInput("frozen_blocks", count, f"0 to {len(self.trunk)}, this trunk's blocks")
        self.frozen_blocks = count
        return self.frozen_anew()

    def frozen_anew(self) -> "Cascade":
        """Itself, learning what is frozen neither as the detector nor as one of its blocks."""
        self.detector.requires_grad_(not self.frozen)
        for block in self.trunk[: self.frozen_blocks]:
            block.requires_grad_(False)
        return self.train(self.training)

    @property
    def trunk(self) -> list[nn.Module]:
        """The blocks of the detector's trunk, B1 … B5 or A1 … A7."""
        return [getattr(self.detector, name) for name in self.detector.TRUNK]

    def train(self, mode: bool = True) -> "Cascade":
        super().train(mode)
        for still in [self.detector] if self.frozen else self.trunk[: self.frozen_blocks]:
            still.eval()
        return self

    def parameter_groups(self, lr: float, trunk_lr: float = 0.0) -> list[dict]:
        """What learns, for an optimizer: [{"params", "lr"}, …], the trunk's weights last, at trunk_lr.

        One group, in the order of `parameters`, if that is lr, or 0. Frozen weights are left out.
        """
        trunk = {id(weight) for block in self.trunk for weight in block.parameters()}
        learning = [weight for weight in self.parameters() if weight.requires_grad]
        if trunk_lr in (0, lr):
            return [{"params": learning, "lr": lr}]
        rates = ((lr, False), (trunk_lr, True))
        groups = [
            {"params": [w for w in learning if (id(w) in trunk) == inside], "lr": rate}
            for rate, inside in rates
        ]
        return [group for group in groups if group["params"]]


def confidence(maps: torch.Tensor, first: str) -> torch.Tensor:
    """Sigmoid of a detection network's logits; the maps themselves of a regression network (F8)."""
    return torch.sigmoid(maps) if first == "detection" else maps


def choice(network: dict, name: str, allowed) -> str:
    """The network's value of a name, the first of those allowed if absent. BadInput on another."""
    value = network.get(name, next(iter(allowed)))
    if value not in allowed:
        raise BadInput(name, repr(value), " or ".join(allowed))
    return value


def make_regressor(network: dict) -> nn.Module | None:
    """The regression network that `network` describes; None if it describes none."""
    make, names = REGRESSORS[network.get("regressor", "hourglass")]
    numbers = {name: network[name] for name in names if name in network}
    if not numbers and "regressor" not in network:
        return None
    inputs = STACKED[network.get("stacked", "both")]
    return make(map_stride=network["map_stride"], inputs=inputs, **numbers)


STAGES = {
    "joint": "cascade",
    "regressor": "regressor",
    "detector": "detector",
}  # stage -> its folder, latest first


def stage_folder(folder: str | Path) -> Path:
    """The folder of weights that is meant: itself, or of a run folder its latest stage.

    BadInput if there is none, or if the latest stage was made from another earlier one than stands beside it now.
    """
    folder = Path(folder)
    if (folder / artifacts.WEIGHTS).is_file():
        return folder
    for name in STAGES.values():
        if (folder / name / artifacts.WEIGHTS).is_file():
            check_origin(folder, name, name)
            return folder / name
    raise BadInput(
        folder,
        "no weights.safetensors",
        "a folder of weights, or a run folder with detector/, … in it",
    )


@torch.no_grad()
def block_table(network: nn.Module, inputs: torch.Tensor) -> "pandas.DataFrame":  # noqa: F821
    """Return a network's blocks, by the labels of their table: parameters, channels, map sides.

    inputs: (B, C, S, S), for one pass. A list of modules has a map side for each of them.
    """
    import pandas as pd  # here: hpe --help does not wait for it

    rows, hooks = {}, []
    for name, block in network.named_children():
        weights = sum(weight.numel() for weight in block.parameters())
        row = rows[name] = {"parameters": weights, "channels": 0, "map, cells": []}

        def record(module, given, maps, row=row):
            row["channels"] = row["channels"] or maps.shape[1]
            row["map, cells"].append(str(maps.shape[-1]))

        parts = block if isinstance(block, nn.ModuleList) else [block]
        hooks += [part.register_forward_hook(record) for part in parts]
    network(inputs)
    for hook in hooks:
        hook.remove()
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table.assign(**{"map, cells": table["map, cells"].str.join(", ")})


def check_origin(run: Path, stage: str, wanted: str) -> None:
    """BadInput unless a run's stage was made from the earlier stages that lie beside it now.

    wanted: the stage that it is asked for. An earlier stage that is absent was left out on purpose.
    """
    names = list(STAGES.values())
    made_from = artifacts.manifest(run / stage).get("upstream", {})
    for earlier in names[names.index(stage) + 1 :]:
        if earlier not in made_from or not (run / earlier).is_dir():
            continue
        finished = (run / earlier / artifacts.MANIFEST).is_file()
        if not finished or hash_of(run / earlier) != made_from[earlier]:
            raise BadInput(
                run,
                f"{wanted}/, made from another {earlier}/ than the one there now",
                f"{wanted}/ trained anew, or the folder that is meant: {run / earlier} or "
                f"{run / wanted}",
            )
        check_origin(run, earlier, wanted)


def hash_of(folder: Path) -> str:
    """The hash of a stage's weights, as its manifest says. BadInput if it says none."""
    return artifacts.manifest(folder, "weights_sha256")["weights_sha256"]


def least_numbers(network: dict) -> float:
    """How many numbers the regressor that `network` describes holds at least; 0 without channels."""
    if network.get("regressor") == "convolutions":
        _, second, third, fourth = network.get("kernels", (1, 1, 1, 1))
        inner = second**2 + 2 * third**2 + 8 * fourth**2
    else:  # D3, D4 and the merges: bottlenecks of 3.25 channels² each
        inner = 3.25 * 3 * network.get("levels", 1) * network.get("bottlenecks", 1)
    return inner * network.get("channels", 0) ** 2


def load(folder: str | Path, trunk: Callable[[bool], Trunk] | str | None = None) -> Cascade:
    """A trained cascade, in eval mode, from a run's folder or one stage's.

    trunk: the function, or "module:function", of weights with a trunk of one's own; what only a
    manifest names is not imported. BadInput on weights and manifests that do not fit each other.
    """
    folder = stage_folder(folder)
    network = artifacts.manifest(folder, "network", "weights_sha256")["network"]
    tensors, file = artifacts.load_weights(folder), folder / artifacts.WEIGHTS
    held = sum(tensor.numel() for tensor in tensors.values())
    if held < least_numbers(network):  # asked first: what does not fit could fill the memory
        raise BadInput(file, f"{held} numbers", f"{least_numbers(network):.0f} at least")
    make = imported_trunk(trunk) if isinstance(trunk, str) else trunk
    try:
        cascade = Cascade(network, trunk=make and make(False))
    except BadInput as error:
        name, found, expected = error.args
        raise BadInput(folder / artifacts.MANIFEST, f"{name} {found}", expected) from None
    cascade.load_state_dict(artifacts.fitting(tensors, cascade, file))
    return cascade.laid_out().eval()
