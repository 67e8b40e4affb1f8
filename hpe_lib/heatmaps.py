"""Both kinds of target, drawn for a whole batch on its device, and the way back from maps to points.

Legend: B people, J joints, H = W = `size` map cells. Points are (x, y) in map px, (0, 0) the centre of the first cell.
"""

import torch
import torch.nn.functional as F

from hpe_lib.geometry import rescale
from hpe_lib.paper import BODY
from hpe_lib.skeleton import ABSENT, MPII, OCCLUDED, VISIBLE

VERSION = 1  # raise it when targets are drawn to other numbers: trained stages are then made anew


def discs(
    points: torch.Tensor, present: torch.Tensor, size: int, radius: torch.Tensor
) -> torch.Tensor:
    """Part labels of the detector: 1 within `radius` of the joint, else 0 (§3, "Part detection subnetwork").

    points (B, J, 2) map px; present (B, J) bool, an absent joint gets an empty map; radius (B,) map px.
    Returns (B, J, size, size) float32. No disc is smaller than 0.71 cells, or a part could fall between the cells.
    """
    across, down = _squared_offsets(points, size)
    reach = torch.where(present, radius.clamp_min(0.71)[:, None] ** 2, -1)[..., None] - down
    return (reach[..., :, None] - across[..., None, :]).ge_(
        0
    )  # in place: no second tensor of this size


def gaussians(
    points: torch.Tensor, present: torch.Tensor, size: int, sigma: torch.Tensor
) -> torch.Tensor:
    """Confidence maps of the regressor: exp(-d² / 2 sigma²), 1 exactly at the joint (§3, "Regression subnetwork").

    points (B, J, 2) map px; present (B, J) bool, an absent joint gets an empty map; sigma (B,) map px.
    Returns (B, J, size, size) float32. A Gaussian is separable: two rows of exponentials, one outer product; what lies
    below 1e-18 along either axis is 0: denormal numbers, which processors handle slowly, would come of it.
    """
    exponents = (-d / (2 * sigma[:, None, None] ** 2) for d in _squared_offsets(points, size))
    across, down = (
        F.threshold(torch.exp(exponent.clamp_min(-42)), 1e-18, 0) for exponent in exponents
    )
    return across[..., None, :] * (down * present[..., None])[..., :, None]


def _squared_offsets(points, size):
    """((B, J, W), (B, J, H)) squared distances along x and along y; NaN points are moved far away."""
    cells = torch.arange(size, device=points.device, dtype=torch.float32)
    offsets = cells - torch.nan_to_num(points, nan=1e6)[..., None]
    return offsets.square().unbind(dim=2)


def to_map(points, stride: float):
    """Crop px -> map px of a map whose cells are `stride` crop px wide."""
    return rescale(points, 1 / stride)


def from_map(points, stride: float):
    """Map px -> crop px."""
    return rescale(points, stride)


def decode(maps: torch.Tensor, decoder: str = "parabola") -> tuple[torch.Tensor, torch.Tensor]:
    """Where each map points (F13): ((B, J, 2) map px, (B, J) the map's peak value).

    decoder: "argmax", the cell of the peak (the authors' demo); "quarter", a quarter cell towards the higher
    neighbour ([19]); "parabola", the vertex of a parabola through the peak and its neighbours, taken on logarithms
    where the map is positive, so exact for a Gaussian; "centroid", the mean cell of what exceeds half the peak:
    for discs, whose saturated sigmoids tie. ValueError on another name.
    """
    if decoder not in DECODERS:
        raise ValueError(f"decoder {decoder!r}: expected one of {', '.join(DECODERS)}")
    width = maps.shape[-1]
    confidence, flat = maps.flatten(2).max(dim=-1)
    peaks = torch.stack([flat % width, flat.div(width, rounding_mode="floor")], dim=-1)
    return DECODERS[decoder](maps, peaks), confidence


def _argmax(maps, peaks):
    return peaks.float()


def _neighbours(maps, cells):
    """(B, J, 2, 3) values before, at and after a cell along x and along y; beyond the border they are reflected."""
    padded = F.pad(maps, (1, 1, 1, 1), mode="reflect").flatten(2)
    width = maps.shape[-1] + 2
    middle = (cells[..., 1] + 1) * width + cells[..., 0] + 1
    steps = torch.tensor([[-1, 0, 1], [-width, 0, width]], device=maps.device)
    return padded.gather(2, (middle[..., None, None] + steps).flatten(2)).unflatten(2, (2, 3))


def _quarter(maps, peaks):
    before, _, after = _neighbours(maps, peaks).unbind(-1)
    return peaks + 0.25 * torch.sign(after - before)


def _parabola(maps, peaks):
    middle = peaks.clamp(
        1, maps.shape[-1] - 2
    )  # of a peak on the border, the three cells nearest to it
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
    x, y = (weights.sum(-2) * cells).sum(-1) / total, (weights.sum(-1) * cells).sum(-1) / total
    return torch.where(top[..., 0] > 0, torch.stack([x, y], dim=-1), peaks.float())


DECODERS = {"argmax": _argmax, "quarter": _quarter, "parabola": _parabola, "centroid": _centroid}


def mirror(maps: torch.Tensor) -> torch.Tensor:
    """Maps (B, J, H, W) of the mirrored image, said of the image itself: x reversed, left and right exchanged.

    Its own inverse. No shift: with pixel centres at integers, W - 1 - x is exact.
    """
    return maps.flip(-1)[:, MPII.mirror]


def disc_peaks(
    maps: torch.Tensor, batch: dict, map_stride: int, radius: float = 10.0
) -> dict[str, torch.Tensor]:
    """Return the highest value of each joint's map (B, J, h, w) within a disc, by what lies there.

    "visible" and "occluded": the disc lies around the joint. "background": it lies where the next
    person of the batch has that joint, if that is at least two radii away (Fig. 2 compares these).
    batch: of PoseDataset's items.  radius: px at a body of 200 px.  Values (n,) of each kind.
    """
    maps, points = maps.float().cpu(), to_map(batch["joints"], map_stride)
    visibility, reach = batch["visibility"], radius * batch["body"] / BODY / map_stride
    elsewhere, labelled = points.roll(1, dims=0), visibility != ABSENT
    far = (points - elsewhere).norm(dim=-1) >= 2 * reach[:, None]
    kinds = {
        "visible": (points, visibility == VISIBLE),
        "occluded": (points, visibility == OCCLUDED),
        "background": (elsewhere, labelled & labelled.roll(1, dims=0) & far),
    }
    found = {}
    for kind, (centers, mask) in kinds.items():
        inside = discs(centers, mask, maps.shape[-1], reach.clamp_min(0.75)) > 0
        found[kind] = maps.masked_fill(~inside, -torch.inf).amax((-2, -1))[mask]
    return found
