"""Training targets of both networks for a batch: discs, Gaussians and loss masks (§3)."""

from dataclasses import dataclass
from pathlib import Path

import torch

from hpe_lib import heatmaps
from hpe_lib.paper import BODY
from hpe_lib.skeleton import ABSENT, VISIBLE
from hpe_lib.workbook import artifacts, locks
from hpe_lib.workbook.artifacts import BadInput


@dataclass(frozen=True)
class Targets:
    """How targets are drawn, for a whole batch on its device. Notebook 02 shows the results.

    map_stride: crop px per map cell.
    radius, sigma: of discs and Gaussians, px at a body of 200 px (F1).
    occluded: the detector's target for an occluded joint (F2): "empty", an all-zero map that
    counts in the loss, or "ignored", left out of the loss.
    first: what the first network learns, "detection" (discs) or "regression" (Gaussians, F15).
    first_sees: the joints in the first network's targets, "visible" or "all"; "" means visible
    for detection (§3) and all for regression, as in [16] (F15).
    first_maps: the first network's maps, "discs" or "gaussians"; "" means discs for detection and
    Gaussians for regression.
    first_sigma: sigma of the first network's Gaussians; 0: the same as sigma.
    BadInput on any other value.
    """

    map_stride: int
    radius: float = 10.0
    sigma: float = 5.0
    occluded: str = "empty"
    first: str = "detection"
    first_sees: str = ""
    first_maps: str = ""
    first_sigma: float = 0.0

    def __post_init__(self):
        artifacts.check(vars(self), "settings")

    def detector(self, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
        """The first network's targets (B, 16, h, w) and the mask (B, 16) of joints that count.

        By default these are discs at the visible joints (§3).
        """
        present = batch["visibility"] != ABSENT
        sees = self.first_sees or ("visible" if self.first == "detection" else "all")
        drawn = present if sees == "all" else batch["visibility"] == VISIBLE
        mask = drawn if self.occluded == "ignored" else present
        if draws_discs(vars(self)):
            return self._draw(heatmaps.discs, batch, drawn, self.radius), mask
        return self._draw(heatmaps.gaussians, batch, drawn, self.first_sigma or self.sigma), mask

    def regressor(self, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
        """Gaussians (B, 16, h, w) at all annotated joints, and the mask (B, 16) of these (§3)."""
        present = batch["visibility"] != ABSENT
        return self._draw(heatmaps.gaussians, batch, present, self.sigma), present

    def _draw(self, draw, batch, drawn, extent):
        """extent: a radius or sigma, px at a body of 200 px."""
        points = heatmaps.to_map(batch["joints"], self.map_stride)
        size = batch["image"].shape[1] // self.map_stride
        unit = batch["body"] / BODY / self.map_stride
        return draw(points, drawn, size, extent * unit)


def draws_discs(parameters: dict) -> bool:
    """Are the first network's maps discs, by the parameters `first` and `first_maps`?"""
    usual = "discs" if parameters.get("first", "detection") == "detection" else "gaussians"
    return (parameters.get("first_maps") or usual) == "discs"


def write_targets(out: str | Path, **parameters: float | str) -> None:
    """Save this run's target parameters, those of `Targets` but map_stride. BadInput as there."""
    Targets(map_stride=1, **parameters)  # checks them
    locks.check_idle(Path(out))
    artifacts.write_manifest(Path(out) / "targets", {"kind": "targets", "parameters": parameters})


def read_targets(out: str | Path) -> dict:
    """The parameters that `write_targets` fixed. BadInput if there are none."""
    path = Path(out) / "targets" / artifacts.MANIFEST
    if not path.is_file():
        expected = "how targets are drawn in this run: notebook 02 decides it"
        raise BadInput(path, "no such file", expected)
    return artifacts.manifest(path.parent)["parameters"]
