"""Experiments on a trained cascade, and people to look at."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader

from hpe_lib import heatmaps
from hpe_lib.cascade import Cascade
from hpe_lib.data.augment import Augmentation, PoseDataset
from hpe_lib.data.people import People
from hpe_lib.evaluation import (
    annotated_mask,
    errors,
    has_normaliser,
    mean_error,
    score,
    threshold,
    within_threshold,
)
from hpe_lib.geometry import Frame
from hpe_lib.paper import BODY
from hpe_lib.prediction import Predictions, cover, decode, forward, predict_crops
from hpe_lib.skeleton import ABSENT, MPII, OCCLUDED, VISIBLE, fill_torso
from hpe_lib.targets import Targets

PATCHES = (0.0, 0.03, 0.06, 0.09, 0.12, 0.16, 0.2, 0.25)  # body heights, sides of covers


def decoding_errors(people: People, grids: list[tuple[int, int]], drawn: dict) -> pd.DataFrame:
    """What each decoder loses on perfect maps of people who are turned, scaled and mirrored.

    grids: (crop px, crop px a map cell).  drawn: how targets are drawn (`read_targets`).
    A row is a joint on a grid, read by a decoder. Columns crop, stride, decoder, the error's x, y
    and px (crop px), and share (of the normaliser; NaN where that is unknown).
    """
    rows = []
    for size, stride in grids:
        for batch in DataLoader(PoseDataset(people, size, Augmentation()), 16):
            maps, present = Targets(stride, **drawn).regressor(batch)
            unit = torch.from_numpy(people.normaliser / people.body)[batch["row"]] * batch["body"]
            for name in heatmaps.DECODERS:
                found = heatmaps.from_map(heatmaps.decode(maps, name)[0], stride)
                error = found - batch["joints"]
                px = error.norm(dim=-1)
                columns = {"x": error[..., 0], "y": error[..., 1], "px": px}
                columns["share"] = px / unit[:, None]
                kept = {key: value[present] for key, value in columns.items()}
                rows.append(pd.DataFrame({"crop": size, "stride": stride, "decoder": name, **kept}))
    return pd.concat(rows, ignore_index=True)


@torch.no_grad()
def disc_peaks(
    cascade: Cascade, people: People, image_size: int, radius: float
) -> dict[str, dict[str, np.ndarray]]:
    """Return {network: {kind: (N, 16) values}} of `peaks_in_discs` over all people (Fig. 2).

    radius: px at a body of 200 px.
    """
    found = defaultdict(list)
    for batch in DataLoader(PoseDataset(people, image_size), 64):
        maps = forward(cascade.eval(), batch["image"].to(cascade.mean.device), flip_test=False)
        networks = {"detector": cascade.confidence(maps.detector), "regressor": maps.regressor}
        for name, part in networks.items():
            if part is not None:
                found[name].append(peaks_in_discs(part, batch, cascade.map_stride, radius))
    return {
        name: {kind: torch.cat([part[kind] for part in parts]).numpy() for kind in parts[0]}
        for name, parts in found.items()
    }


def peaks_in_discs(
    maps: torch.Tensor, batch: dict, map_stride: int, radius: float
) -> dict[str, torch.Tensor]:
    """Highest value within a disc of each joint's map (B, J, h, w), by visibility.

    "visible" and "occluded": the disc lies around the joint. "background": it lies where
    another person of the batch has that joint, if that is at least two radii away (Fig. 2 compares
    these).
    batch: collated items of PoseDataset. radius: px at a body of 200 px. Returns {kind: (B, J)},
    NaN where a joint is of another kind.
    """
    maps = maps.float().cpu()
    points = heatmaps.to_map(batch["joints"], map_stride)
    visibility = batch["visibility"]
    reach = radius * batch["body"] / BODY / map_stride
    elsewhere = points.roll(1, dims=0)
    labelled = visibility != ABSENT
    far = (points - elsewhere).norm(dim=-1) >= 2 * reach[:, None]
    kinds = {
        "visible": (points, visibility == VISIBLE),
        "occluded": (points, visibility == OCCLUDED),
        "background": (elsewhere, labelled & labelled.roll(1, dims=0) & far),
    }
    found = {}
    for kind, (centers, mask) in kinds.items():
        inside = heatmaps.discs(centers, mask, maps.shape[-1], reach.clamp_min(0.75)) > 0
        peaks = maps.masked_fill(~inside, -torch.inf).amax((-2, -1))
        found[kind] = peaks.masked_fill(~mask, torch.nan)
    return found


def in_images(
    found: dict[str, list[np.ndarray]], people: People, image_size: int
) -> dict[str, np.ndarray]:
    """Joints (N, 16, 2) image px, by name, of points in crops: batches (B, 16, 2) crop px in the
    people's order.
    """
    joints = {}
    frames = people.frames(image_size)
    for name, parts in found.items():
        pairs = zip(frames, np.concatenate(parts))
        joints[name] = np.stack([frame.to_image(points) for frame, points in pairs])
    return joints


def decoders(cascade: Cascade, people: People, image_size: int) -> dict[str, dict]:
    """Scores of each decoder with and without flip test, keyed "NAME, with flip test" (F13)."""
    found = defaultdict(list)
    for batch in DataLoader(PoseDataset(people, image_size), 64):
        for flip in ("with", "without"):
            images = batch["image"].to(cascade.mean.device)
            maps = forward(cascade.eval(), images, flip_test=flip == "with")
            for name in heatmaps.DECODERS:
                points = decode(maps, cascade.map_stride, name, cascade.first)[0]
                found[f"{name}, {flip} flip test"].append(points)
    joints = in_images(found, people, image_size)
    return {name: score(points, people) for name, points in joints.items()}


def select_rows(
    predicted: np.ndarray,
    people: People,
    joint: int | None = None,
    keep: str = "everyone",
    order: str = "as they come",
) -> np.ndarray:
    """Rows of the people to look at, by a joint or (None) by any of theirs and their mean error.

    predicted: (N, 16, 2) image px.  keep: those whose joint is visible, occluded, right or wrong by
    the metric, or everyone.  order: by error; whose error is unknown comes last. KeyError on
    another keep or order.
    """
    ratio, mask = errors(predicted, people)
    right = ratio <= threshold(people)
    kinds = {
        "everyone": np.ones_like(mask),
        "visible": people.visibility == VISIBLE,
        "occluded": people.visibility == OCCLUDED,
        "right": right,
        "wrong": mask & ~right,
    }
    columns = slice(None) if joint is None else [joint]
    rows = np.flatnonzero(kinds[keep][:, columns].any(1))
    if order == "as they come":
        return rows
    error = mean_error(ratio[:, columns], mask[:, columns])[rows]
    sign = {"largest error": -1, "smallest error": 1}[order]
    return rows[np.argsort(sign * error, kind="stable")]


def examples(predicted: np.ndarray, people: People) -> dict[str, int]:
    """Rows of people to look at, by what they show: who is found best, a typical one, a failure.

    People with 3 to 5 occluded joints, if there are any.  predicted: (N, 16, 2) image px.
    """
    rows, error = ranked(predicted, people)
    chosen = rows[partly_hidden(people)[rows]]
    rows = chosen if len(chosen) else rows
    if not len(rows):
        return {}
    unit = "head sizes" if people.metric.startswith("PCKh") else "torsos"
    shown = {"found best": rows[0], "typical": rows[len(rows) // 2], "a failure": rows[-1]}
    return {f"{kind}: mean error {error[row]:.2f} {unit}": int(row) for kind, row in shown.items()}


def ranked(predicted: np.ndarray, people: People) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the people whose error is known, the smallest first; and the `mean_error` of all."""
    error = mean_error(*errors(predicted, people))
    order = np.argsort(error, kind="stable")
    return order[np.isfinite(error[order])], error


def partly_hidden(people: People) -> np.ndarray:
    """(N,) bool: three to five joints are occluded."""
    return abs((people.visibility == OCCLUDED).sum(1) - 4) <= 1


def person_with_hidden_joint(answer: Predictions, people: People, joint: int) -> int:
    """The row of a person whose joint is occluded, missed by the detector and found by the cascade.

    The one with the most joints right; of several the one whose joint has the highest confidence.
    Without such a person, among those whose joint is occluded, then among those whose joint is
    labelled, then anybody.
    """
    mask = errors(answer.joints, people)[1]
    right = within_threshold(answer.joints, people)
    known = mask[:, joint]
    hidden = known & (people.visibility[:, joint] == OCCLUDED)
    missed = hidden & ~within_threshold(answer.detector_joints, people)[:, joint]
    found = missed & right[:, joint]
    anybody = np.ones(len(people), bool)
    rows = next(np.flatnonzero(kind) for kind in (found, hidden, known, anybody) if kind.any())
    found_first = -(mask & right).sum(1)[rows]
    surest_first = -answer.confidence[rows, joint]
    return int(rows[np.lexsort((surest_first, found_first))[0]])


def clear_person(people: People) -> int:
    """The row of a clear example: of the first 100 with 3 to 5 occluded joints the most upright.

    Upright: the head is high above the pelvis, in body heights. Of the first 100 people, if nobody
    has so many occluded joints.
    """
    rows = np.flatnonzero(partly_hidden(people))[:100]
    if not len(rows):
        rows = np.arange(len(people))[:100]
    pelvis, head = (MPII.index(name) for name in ("pelvis", "head_top"))
    heights = fill_torso(people.joints[rows])[:, pelvis, 1] - people.joints[rows, head, 1]
    return int(rows[np.nan_to_num(heights / people.body[rows], nan=-np.inf).argmax()])


def predict_covered(
    cascade: Cascade,
    crops: np.ndarray,
    frames: list[Frame],
    points: np.ndarray,
    side: float,
    decoder: str = "parabola",
) -> Predictions:
    """Poses in N crops (N, S, S, 3) uint8, each with a square in its mean colour over a point.

    frames: the N frames that cut the crops.  points: (N, 2) crop px.  side: of the square, body
    heights. No flip test, which would mirror the patch.
    """
    sides = side * np.array([frame.body_in_crop for frame in frames])
    covered = torch.from_numpy(cover(crops, points, sides))
    return predict_crops(cascade, covered.split(64), frames, False, decoder)


def can_be_covered(people: People, image_size: int) -> np.ndarray:
    """(N, 16) bool: visible scored joints in the crop, of people whose errors can be measured."""
    points = people.joints_in_crops(image_size)
    in_crop = ((points >= -0.5) & (points < image_size - 0.5)).all(-1)
    seen = annotated_mask(people) & (people.visibility == VISIBLE)
    return seen & in_crop & has_normaliser(people)[:, None]


def covered_examples(
    cascade: Cascade,
    people: People,
    image_size: int,
    joint: int,
    side: float,
    decoder: str = "parabola",
) -> dict[str, int]:
    """Rows of people to look at, by what happens to their visible joint under a patch.

    First one where only the cascade still finds it, the one whose joint it finds best. Then one
    where neither network does, of median error. What is said of them counts their kind; kinds that
    nobody is of are left out.  side: as for `predict_covered`.
    """
    rows = np.flatnonzero(can_be_covered(people, image_size)[:, joint])
    if not len(rows):
        return {}
    chosen = people[rows]
    points = chosen.joints_in_crops(image_size)[:, joint]
    crops = chosen.crops(image_size)
    frames = chosen.frames(image_size)
    found = predict_covered(cascade, crops, frames, points, side, decoder)
    detected, right = (
        within_threshold(joints, chosen)[:, joint]
        for joints in (found.detector_joints, found.joints)
    )
    error = errors(found.joints, chosen)[0][:, joint]
    order = np.argsort(error, kind="stable")
    kinds = {
        "found by the cascade alone": right & ~detected,
        "found by neither": ~right & ~detected,
    }
    shown = {}
    for (name, of_kind), place in zip(kinds.items(), (0, 0.5)):
        places = order[of_kind[order]]
        if len(places):
            title = f"{name}, as in {len(places)} of {len(rows)} people"
            shown[title] = int(rows[places[int(place * len(places))]])
    return shown


def cover_one_joint(
    cascade: Cascade,
    people: People,
    image_size: int,
    sides: Sequence[float] = PATCHES,
    seed: int = 0,
    decoder: str = "parabola",
) -> pd.DataFrame:
    """Percentage of covered joints that are still correct, by the side of the patch over them.

    Each person has one joint covered of those that `can_be_covered`, drawn by seed. sides: in body
    heights, the index. Columns detector and cascade, then each one's mean peak in the covered
    joint's map. No flip test, which would mirror the patch.
    """
    choices = can_be_covered(people, image_size)
    people = people[choices.any(1)]
    random = np.random.default_rng(seed)
    person = np.arange(len(people))
    joint = [random.choice(np.flatnonzero(row)) for row in choices[choices.any(1)]]
    frames = people.frames(image_size)
    crops = people.crops(image_size)
    points = people.joints_in_crops(image_size)[person, joint]
    rows = []
    for side in sides:
        found = predict_covered(cascade, crops, frames, points, side, decoder)
        detected, right = (
            within_threshold(joints, people)[person, joint].mean() * 100
            for joints in (found.detector_joints, found.joints)
        )
        rows.append(
            {
                "detector": detected,
                "cascade": right,
                "detector's peak": found.detector_peak[person, joint].mean(),
                "cascade's peak": found.confidence[person, joint].mean(),
            }
        )
    return pd.DataFrame(rows, index=pd.Index(sides, name="side of the patch, body heights"))
