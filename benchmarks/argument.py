"""Measure how the released regressor uses the detector's maps (tables given, confidence, by-peak).

python -m benchmarks.argument DATA

DATA holds lsp/. What is found comes to results/argument.
"""

from collections import defaultdict
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks import commands
from hpe_lib import evaluation, heatmaps, photographs, prediction, probes
from hpe_lib.cascade import Cascade
from hpe_lib.data.augment import PoseDataset
from hpe_lib.data.datasets import load_people
from hpe_lib.data.people import People
from hpe_lib.prediction import Predictions
from hpe_lib.skeleton import ABSENT
from hpe_lib.targets import Targets
from hpe_lib.workbook import results

PEAKS = (0, 0.1, 0.3, 0.5, 0.7, 1.01)  # ends of the ranges of the detector's highest probability
DRAWN = {"radius": Targets.radius, "sigma": Targets.sigma}  # as the released cascade has learned


def main(data: Path) -> None:
    """Write results/argument."""
    made = photographs.load()
    halves = {
        "has learned from": load_people("lsp", data / "lsp", "train"),
        "has never seen": load_people("lsp", data / "lsp", "test"),
    }
    confidence = {}
    for half, people in halves.items():
        peaks = probes.disc_peaks(made.cascade, people, made.image_size, DRAWN["radius"])
        for network, kinds in peaks.items():
            means = {kind: mean_over_people(values) for kind, values in kinds.items()}
            confidence[f"{network}, people it {half}"] = means
    given = scored_beside(given_maps(made.cascade, people, made.image_size, DRAWN), people)
    found = prediction.predict(people=people, **made.settings)
    metrics = {"confidence": confidence, "given": given, "by peak": by_peak(found, people)}
    results.write("argument", metrics, "python -m benchmarks.argument DATA")


def mean_over_people(values: np.ndarray) -> dict:
    """The mean of values (N, 16), NaN left out, as "mean", and "ci95": people are drawn anew."""
    counts = np.stack([np.nansum(values, axis=1), np.isfinite(values).sum(1)], axis=1)
    totals, numbers = evaluation.resampled_sums(counts, seed=0).T
    found = evaluation.difference(totals / numbers)
    return {"mean": found["difference"], "ci95": found["ci95"]}


def scored_beside(joints: dict[str, np.ndarray], people: People) -> dict[str, dict]:
    """Scores by name of joints (N, 16, 2) image px, each with its `paired` difference from the
    first.
    """
    first = next(iter(joints.values()))
    scores = {}
    for name, points in joints.items():
        scores[name] = evaluation.score(points, people)
        if points is not first:
            scores[name]["difference"] = evaluation.paired([points], [first], people)
    return scores


def by_peak(found: Predictions, people: People) -> dict[str, dict]:
    """How often detector and cascade are right, by how sure the detector is of the joint.

    Its surest place counts, wherever it lies. "difference": the cascade's lead, paired.
    """
    rows = {}
    for low, high in pairwise(PEAKS):
        within = (found.detector_peak >= low) & (found.detector_peak < high)
        some = replace(people, visibility=np.where(within, people.visibility, ABSENT))
        lead = evaluation.paired([found.joints], [found.detector_joints], some)
        scored = evaluation.errors(found.joints, some)[1]
        detected, right = (
            evaluation.within_threshold(joints, some)
            for joints in (found.detector_joints, found.joints)
        )
        for kind, of_kind in evaluation.kind_masks(some).items():
            mask = scored & of_kind
            rows[f"{kind}, {low} to {min(high, 1)}"] = {
                "joints": int(mask.sum()),
                "detector": evaluation.share(detected, mask),
                "cascade": evaluation.share(right, mask),
                "difference": lead[kind],
            }
    return dict(sorted(rows.items(), key=lambda row: row[0].startswith("visible")))


@torch.no_grad()
def given_maps(
    cascade: Cascade,
    people: People,
    image_size: int,
    drawn: dict,
    decoder: str = "parabola",
) -> dict[str, np.ndarray]:
    """The regressor's joints (N, 16, 2) image px by the heatmaps that it reads: its detector's, or
    ground-truth discs.

    Ground-truth discs stand for a perfect detector: of the visible parts (the detector's targets,
    §3), of all parts, or of all parts but the one being scored, so that only context and image
    remain. The same is done with the detector's own maps. No flip test.
    drawn: how targets are drawn (`read_targets`).
    """
    targets = Targets(cascade.map_stride, **drawn)
    seeing_all = Targets(cascade.map_stride, **drawn, first_sees="all")
    found = defaultdict(list)
    for batch in DataLoader(PoseDataset(people, image_size), 64):
        images = cascade.eval().normalise(batch["image"].to(cascade.mean.device))
        visible, every = (
            as_logits(way.detector(batch)[0]).to(images.device) for way in (targets, seeing_all)
        )
        own = cascade.detector(images)
        answers = {
            "its detector's": regress(cascade, own, images),
            "its detector's, of all other parts": regress_from_others(cascade, own, images),
            "true, of visible parts": regress(cascade, visible, images),
            "true, of all parts": regress(cascade, every, images),
            "true, of all other parts": regress_from_others(cascade, every, images),
        }
        for name, maps in answers.items():
            points = heatmaps.decode(maps, decoder)[0]
            found[name].append(heatmaps.from_map(points, cascade.map_stride).cpu().numpy())
    return probes.in_images(found, people, image_size)


def as_logits(discs: torch.Tensor) -> torch.Tensor:
    """Logits of a detector that is sure of these discs: their probability, or 1 - it, is 0.9997."""
    return (2 * discs - 1) * 8


def regress(cascade: Cascade, logits: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """The regressor's maps (B, 16, h, w) for the detector's logits and normalised images."""
    return cascade.regressor(cascade.stack(logits, images))


def regress_from_others(
    cascade: Cascade, logits: torch.Tensor, images: torch.Tensor
) -> torch.Tensor:
    """As `regress`, but each joint's map is regressed without the detector's map of that joint."""
    maps = torch.empty_like(logits)
    for joint in range(logits.shape[1]):
        others = logits.clone()
        others[:, joint] = logits.amin()
        maps[:, joint] = regress(cascade, others, images)[:, joint]
    return maps


if __name__ == "__main__":
    commands.run(main)
