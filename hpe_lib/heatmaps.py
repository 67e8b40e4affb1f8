"""Discs and Gaussians, drawn for a whole batch on its device, and the way back to points.

B people, J joints, H = W = `size` map cells. Points are (x, y) in map px; (0, 0) is the centre of
the first cell.
"""

import torch
import torch.nn.functional as F

from hpe_lib.geometry import Points, rescale
from hpe_lib.skeleton import MPII

VERSION = 1  # of this file and targets.py: raise it when targets change, to retrain all stages


def discs(
    points: torch.Tensor, present: torch.Tensor, size: int, radius: torch.Tensor
) -> torch.Tensor:
    """The detector's labels (§3, "Part detection subnetwork"): 1 within `radius` of a joint.

    points: (B, J, 2) map px. radius: (B,) map px; one below 0.71 counts as 0.71, so that a disc
    covers at least one cell. present: (B, J) bool; an absent joint gets an empty map.
    Returns (B, J, size, size) float32.
    """
    squared_radius = radius.clamp_min(0.71)[:, None] ** 2
    squared_radius = torch.where(present, squared_radius, -1)  # nothing lies within -1
    across, down = _squared_offsets(points, size)
    left_over = squared_radius[..., None] - down
    inside = left_over[..., :, None] - across[..., None, :]
    return inside.ge_(0)  # in place: no second tensor of this size


def gaussians(
    points: torch.Tensor, present: torch.Tensor, size: int, sigma: torch.Tensor
) -> torch.Tensor:
    """The regressor's maps (§3, "Regression subnetwork"): exp(-d² / 2 sigma²), 1 at a joint.

    points: (B, J, 2) map px. sigma: (B,) map px. present: (B, J) bool; an absent joint gets an
    empty map. Returns (B, J, size, size) float32.
    A Gaussian is separable: it is the outer product of two rows of exponentials. Values below 1e-18
    along either axis are 0, because their products would be denormal numbers, which are slow.
    """
    rows = []
    for squared in _squared_offsets(points, size):  # along x, then along y
        exponents = -squared / (2 * sigma[:, None, None] ** 2)
        rows.append(F.threshold(torch.exp(exponents.clamp_min(-42)), 1e-18, 0))
    across, down = rows
    down = down * present[..., None]
    return across[..., None, :] * down[..., :, None]


def _squared_offsets(points, size):
    """Squared distances along x (B, J, W) and y (B, J, H). NaN points are moved far away."""
    cells = torch.arange(size, device=points.device, dtype=torch.float32)
    offsets = cells - torch.nan_to_num(points, nan=1e6)[..., None]
    return offsets.square().unbind(dim=2)


def to_map(points: Points, stride: float) -> Points:
    """Crop px -> map px, (..., 2) each. stride: crop px per map cell."""
    return rescale(points, 1 / stride)


def from_map(points: Points, stride: float) -> Points:
    """Map px -> crop px, (..., 2) each. stride: crop px per map cell."""
    return rescale(points, stride)


def decode(maps: torch.Tensor, decoder: str = "parabola") -> tuple[torch.Tensor, torch.Tensor]:
    """The point (B, J, 2), map px, and the peak value (B, J) of each map (B, J, H, W) (F13).

    decoder:
    - "argmax": the cell of the peak (the authors' demo).
    - "quarter": a quarter cell from there towards the higher neighbour ([19]).
    - "parabola": the vertex of a parabola through the peak and its neighbours. Where the map is
      positive it is fitted to logarithms, which is exact for a Gaussian.
    - "centroid": the mean of the cells above half the peak, for discs, whose sigmoids saturate.
    KeyError on another name.
    """
    width = maps.shape[-1]
    confidence, flat = maps.flatten(2).max(dim=-1)
    peaks = torch.stack([flat % width, flat.div(width, rounding_mode="floor")], dim=-1)
    return DECODERS[decoder](maps, peaks), confidence


def _argmax(maps, peaks):
    return peaks.float()


def _neighbours(maps, cells):
    """(B, J, 2, 3) values before, at and after a cell along x and y, reflected at the border."""
    padded = F.pad(maps, (1, 1, 1, 1), mode="reflect").flatten(2)
    width = maps.shape[-1] + 2
    middle = (cells[..., 1] + 1) * width + cells[..., 0] + 1
    steps = torch.tensor([[-1, 0, 1], [-width, 0, width]], device=maps.device)
    return padded.gather(2, (middle[..., None, None] + steps).flatten(2)).unflatten(2, (2, 3))


def _quarter(maps, peaks):
    before, _, after = _neighbours(maps, peaks).unbind(-1)
    return peaks + 0.25 * torch.sign(after - before)


def _parabola(maps, peaks):
    # For a peak on the border, the three cells nearest to it.
    middle = peaks.clamp(1, maps.shape[-1] - 2)
    values = _neighbours(maps, middle)
    logs = values.clamp_min(1e-10).log()
    before, at, after = torch.where((values > 0).all(-1, keepdim=True), logs, values).unbind(-1)
    bend = 2 * at - before - after
    vertex = torch.where(
        bend > 1e-12, middle + (after - before) / (2 * bend.clamp_min(1e-12)), peaks
    )
    return vertex.clamp(peaks - 0.5, peaks + 0.5)


def _centroid(maps, peaks):
    top = maps.flatten(2).amax(-1)[..., None, None]
    weights = torch.where(maps >= 0.5 * top, maps.clamp_min(0), 0)
    total = weights.sum((-2, -1)).clamp_min(1e-12)
    cells = torch.arange(maps.shape[-1], device=maps.device, dtype=maps.dtype)
    x = (weights.sum(-2) * cells).sum(-1) / total
    y = (weights.sum(-1) * cells).sum(-1) / total
    return torch.where(top[..., 0] > 0, torch.stack([x, y], dim=-1), peaks.float())


DECODERS = {"argmax": _argmax, "quarter": _quarter, "parabola": _parabola, "centroid": _centroid}


def mirror(maps: torch.Tensor) -> torch.Tensor:
    """Maps (B, J, H, W) of a mirrored image, mirrored back: x reversed, left and right exchanged.

    This is its own inverse. It needs no shift: with pixel centres at integers, W - 1 - x is exact.
    """
    return maps.flip(-1)[:, MPII.mirror]
