"""The cascade (Fig. 1): detector, its heatmaps stacked with the image, regressor."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from hpe_lib.detector import FCN8, Detector, enlarge
from hpe_lib.paper import N_JOINTS
from hpe_lib.regressor import Convolutions, Hourglass
from hpe_lib.rivals import MAP_STRIDE, Deconvolutions, StackedHourglass
from hpe_lib.trunks import VGGS, Trunk, code_hash, imported_trunk, own_trunk
from hpe_lib.workbook import artifacts
from hpe_lib.workbook.artifacts import STAGES, BadInput

VERSION = 1  # raise it when an initialisation or a forward pass changes: stages are retrained
DETECTOR_PARAMETERS = ("trunk", "map_stride", "prior", "first", "rival", "rival_channels")
REGRESSOR_PARAMETERS = (
    "regressor",
    "channels",
    "levels",
    "bottlenecks",
    "stem",
    "kernels",
    "std",
    "stacked",
)
REGRESSORS = {  # class, and the parameters that make one
    "hourglass": (Hourglass, ("channels", "levels", "bottlenecks", "stem")),
    "convolutions": (Convolutions, ("channels", "kernels", "std")),
}
STACKED = {"both": N_JOINTS + 3, "image": 3, "heatmaps": N_JOINTS}  # the regressor's input channels


def network_parameters(parameters: dict, regressor: bool = True) -> dict:
    """The parameters that define a `Cascade`, without the regressor's if `regressor` is False."""
    names = DETECTOR_PARAMETERS + (REGRESSOR_PARAMETERS if regressor else ())
    return {name: parameters[name] for name in names if name in parameters}


class Maps(NamedTuple):
    """What a cascade computes, (B, 16, h, w) each.

    detector: logits of a first network that detects, confidence maps of one that regresses (F15).
    regressor: confidence maps; None without a regressor.
    """

    detector: torch.Tensor
    regressor: torch.Tensor | None


class BadMaps(BadInput):
    """Maps with NaN or absurdly large values: the weights are damaged or diverged."""


class Cascade(nn.Module):
    """Detector and regressor (Fig. 1): uint8 RGB crops (B, S, S, 3) -> Maps.

    network: its parameters, as the manifest of its weights keeps them.
    - trunk, map_stride, prior: of Detector or FCN8.
    - first: what the first network learns, "detection" or "regression" (F15).
    - rival: "deconvolutions" or "stacked_hourglass", in the detector's place (rivals.py), and
      rival_channels, its width. A stacked hourglass returns the maps of both its hourglasses.
    - regressor: "hourglass" or "convolutions", with the parameters of its class.
    - stacked: the regressor's input, "both" (heatmaps and image), "image" or "heatmaps".
    Missing parameters but trunk and map_stride take their class's defaults. If none of the
    regressor's parameters is given, there is no regressor. BadInput on an invalid value, before
    anything is built.
    pretrained: start the trunk from ImageNet weights.
    trunk: used in place of the one that `network` names.
    map_dropout, map_noise: attributes, in training only: the chance that a joint's map is erased
    before the regressor reads it, and the standard deviation of noise on all of them.
    """

    def __init__(self, network: dict, pretrained: bool = False, trunk: Trunk | None = None):
        super().__init__()
        artifacts.check(artifacts.plain(network), "network")
        self.network = network
        self.map_stride = network["map_stride"]
        self.first = network.get("first", "detection")
        self.stacked = network.get("stacked", "both")
        # A network that regresses starts with maps of 0, and so with a prior of 0.5.
        prior = network.get("prior", 0.5) if self.first == "detection" else 0.5
        check_pretrained(network["trunk"], pretrained)
        self.detector = make_first(network, trunk or network["trunk"], pretrained, prior)
        self.regressor = make_regressor(network)
        self.frozen = False
        self.frozen_blocks = 0
        self.map_dropout = 0.0
        self.map_noise = 0.0
        for name in ("mean", "std"):
            value = 255 * torch.tensor(getattr(self.detector, name)).view(1, 3, 1, 1)
            self.register_buffer(name, value, persistent=False)

    def forward(self, images: torch.Tensor) -> Maps:
        """Maps of uint8 RGB crops (B, S, S, 3)."""
        images = self.normalise(images)
        maps = self.detector(images)
        if isinstance(maps, tuple):
            return Maps(*maps)
        if self.regressor is None:
            return Maps(maps, None)
        return Maps(maps, self.regressor(self.stack(maps, images)))

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """(B, S, S, 3) uint8 -> (B, 3, S, S) float, by the trunk's mean and standard deviation."""
        return (images.permute(0, 3, 1, 2) - self.mean) / self.std

    def confidence(self, maps: torch.Tensor) -> torch.Tensor:
        """The first network's maps (B, 16, h, w) as confidence maps (sigmoid of logits)."""
        return confidence(maps, self.first)

    def stack(self, maps: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """The regressor's input (B, 19, S, S): 16 confidence maps and RGB at full resolution (F8).

        With stacked "image" it is RGB alone (3 channels), with "heatmaps" the maps alone (16).
        """
        if self.stacked == "image":
            return images
        maps = self.confidence(maps)
        if self.training and self.map_dropout:
            kept = torch.rand(maps.shape[:2], device=maps.device) >= self.map_dropout
            maps = maps * kept[..., None, None]
        if self.training and self.map_noise:
            maps = maps + self.map_noise * torch.randn_like(maps)
        heatmaps = enlarge(maps, self.map_stride)
        return heatmaps if self.stacked == "heatmaps" else torch.cat([heatmaps, images], dim=1)

    def set_memory_format(self) -> "Cascade":
        """Use channels-last memory, except for Table 2's large kernels, where oneDNN is slow.

        There, one weight gradient of C4 would take minutes instead of seconds. Returns itself.
        """
        self.to(memory_format=torch.channels_last)
        if isinstance(self.regressor, Convolutions):
            self.regressor.to(memory_format=torch.contiguous_format)
        return self

    def freeze_detector(self, frozen: bool = True) -> "Cascade":
        """Freeze (or unfreeze) the detector, batch-norm statistics included (F9)."""
        self.frozen = frozen
        return self._apply_freezing()

    def freeze_blocks(self, count: int) -> "Cascade":
        """Freeze the trunk's first `count` blocks, batch-norm statistics included.

        count: of blocks B1 … B5 or A1 … A7; 0: all learn. BadInput on more than there are.
        """
        if count not in range(1 + len(self.trunk)):
            raise BadInput("frozen_blocks", count, f"0 to {len(self.trunk)}, this trunk's blocks")
        self.frozen_blocks = count
        return self._apply_freezing()

    def _apply_freezing(self):
        self.detector.requires_grad_(not self.frozen)
        for block in self.trunk[: self.frozen_blocks]:
            block.requires_grad_(False)
        return self.train(self.training)

    @property
    def trunk(self) -> list[nn.Module]:
        """The blocks of the detector's trunk, B1 … B5 or A1 … A7."""
        return [getattr(self.detector, name) for name in self.detector.TRUNK]

    def train(self, mode: bool = True) -> "Cascade":
        """Set the training mode of all modules but the frozen ones. Returns itself."""
        super().train(mode)
        for still in [self.detector] if self.frozen else self.trunk[: self.frozen_blocks]:
            still.eval()
        return self

    def parameter_groups(self, lr: float, trunk_lr: float = 0.0) -> list[dict]:
        """The weights that learn, for an optimizer: [{"params", "lr"}, …], the trunk's last.

        trunk_lr: the trunk's learning rate. If it is lr, or 0, there is one group, in the order of
        `parameters`.
        """
        learning = [weight for weight in self.parameters() if weight.requires_grad]
        if trunk_lr in (0, lr):
            return [{"params": learning, "lr": lr}]
        trunk = {id(weight) for block in self.trunk for weight in block.parameters()}
        inside = [weight for weight in learning if id(weight) in trunk]
        outside = [weight for weight in learning if id(weight) not in trunk]
        groups = [{"params": outside, "lr": lr}, {"params": inside, "lr": trunk_lr}]
        return [group for group in groups if group["params"]]


def check_pretrained(trunk: str, pretrained: bool) -> None:
    """BadInput if ImageNet weights are wanted of a trunk that has none."""
    if pretrained and trunk in ("slim", "slim_vgg"):
        found = f"true with trunk {trunk!r}"
        raise BadInput("pretrained", found, "a trunk that has ImageNet weights")


def confidence(maps: torch.Tensor, first: str) -> torch.Tensor:
    """Confidence maps: sigmoids of a detection network's logits, a regression network's maps (F8).

    maps: (B, 16, h, w). first: "detection" or "regression".
    """
    return torch.sigmoid(maps) if first == "detection" else maps


def make_first(network: dict, trunk: str | Trunk, pretrained: bool, prior: float) -> nn.Module:
    """The first network of a cascade's parameters: detector, FCN8, or a rival.

    BadInput on a rival with maps of another stride than its own.
    """
    rival = network.get("rival", "")
    stride = network["map_stride"]
    if not rival:
        detector = FCN8 if trunk in VGGS else Detector
        return detector(trunk, stride, pretrained, prior)
    if stride != MAP_STRIDE:
        raise BadInput("map_stride", stride, f"{MAP_STRIDE}, as {rival} has")
    channels = network.get("rival_channels", 256)
    if rival == "stacked_hourglass":
        return StackedHourglass(channels)
    return Deconvolutions(trunk, channels, pretrained)


def make_regressor(network: dict) -> nn.Module | None:
    """The regressor of a cascade's parameters; None if none of them is a regressor's."""
    make, names = REGRESSORS[network.get("regressor", "hourglass")]
    numbers = {name: network[name] for name in names if name in network}
    if not numbers and "regressor" not in network:
        return None
    inputs = STACKED[network.get("stacked", "both")]
    return make(map_stride=network["map_stride"], inputs=inputs, **numbers)


def stage_folder(folder: str | Path) -> Path:
    """A folder of weights: the folder itself, or the latest stage in a run's folder.

    BadInput if there is none, if those of the latest stage are lost, or if an earlier stage was
    retrained after the latest one was made from it.
    """
    folder = Path(os.path.expanduser(folder))
    if folder.name in ("", ".."):  # its parent would be another than the run's folder
        folder = folder.resolve()
    if (folder / artifacts.WEIGHTS).is_file():
        return folder
    for name in STAGES.values():
        if (folder / name / artifacts.WEIGHTS).is_file():
            check_origin(folder, name, name)
            return folder / name
        if (folder / name / artifacts.MANIFEST).is_file():
            expected = "those that its manifest.json tells of, or the folder of another stage"
            raise BadInput(folder / name, "no weights.safetensors", expected)
    raise BadInput(
        folder,
        "no weights.safetensors",
        "a folder of weights, or a run folder with detector/, … in it",
    )


@torch.no_grad()
def block_table(network: nn.Module, inputs: torch.Tensor) -> "pandas.DataFrame":  # noqa: F821
    """Return a network's blocks, by the labels of their table: parameters, channels, map sides.

    inputs: (B, C, S, S), for one pass. A ModuleList gets one map side per module.
    """
    import pandas as pd  # here: hpe --help does not wait for it

    rows = {}
    hooks = []
    for name, block in network.named_children():
        weights = sum(weight.numel() for weight in block.parameters())
        row = rows[name] = {"parameters": weights, "channels": 0, "map, cells": []}

        def record(module: nn.Module, given: tuple, maps: torch.Tensor, row: dict = row) -> None:
            """Note the block's channels and map side."""
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
    """BadInput unless a run's stage was made from the earlier stages that are beside it now.

    wanted: the stage that was asked for. An absent earlier stage was left out on purpose.
    """
    names = list(STAGES.values())
    made_from = artifacts.manifest(run / stage).get("upstream", {})
    for earlier in names[names.index(stage) + 1 :]:
        if earlier not in made_from or not (run / earlier).is_dir():
            continue
        finished = (run / earlier / artifacts.MANIFEST).is_file()
        if not finished or weights_hash(run / earlier) != made_from[earlier]:
            raise BadInput(
                run,
                f"{wanted}/, made from another {earlier}/ than the one there now",
                f"{wanted}/ trained anew, or the folder that is meant: {run / earlier} or "
                f"{run / wanted}",
            )
        check_origin(run, earlier, wanted)


def weights_hash(folder: Path) -> str:
    """The hash of a stage's weights, from its manifest. BadInput if there is none."""
    return artifacts.manifest(folder, "weights_sha256")["weights_sha256"]


def load(folder: str | Path, trunk: Callable[[bool], Trunk] | str | None = None) -> Cascade:
    """A trained cascade, in eval mode, from the folder of a run or of one stage.

    trunk: the function, or "module:function", that makes your own trunk. A trunk
    named only in the manifest is not imported. BadInput if weights and manifest do not match.
    """
    folder = stage_folder(folder)
    made = artifacts.manifest(folder, "network", "weights_sha256")
    network = made["network"]
    tensors = artifacts.load_weights(folder)
    file = folder / artifacts.WEIGHTS
    held = sum(tensor.numel() for tensor in tensors.values())
    with torch.device("meta"):  # a network of that size could fill the memory
        regressor = make_regressor(network)
    needed = sum(weight.numel() for weight in regressor.parameters()) if regressor else 0
    if held < needed:
        raise BadInput(file, f"{held} numbers", f"{needed} at least")
    make = imported_trunk(trunk) if isinstance(trunk, str) else trunk
    own = make or own_trunk(network.get("trunk", ""))
    if own and made.get("versions_of", {}).get("trunk") not in (None, code_hash(own)):
        print(f"{folder}: the code of its trunk has changed since it was trained", file=sys.stderr)
    try:
        cascade = Cascade(network, trunk=make and make(False))
    except BadInput as error:
        name, found, expected = error.args
        raise BadInput(folder / artifacts.MANIFEST, f"{name} {found}", expected) from None
    cascade.load_state_dict(artifacts.tensors_for(tensors, cascade, file))
    return cascade.set_memory_format().eval()
