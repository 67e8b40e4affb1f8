"""PCKh and PCK (F14), with bootstrap intervals over people.

A prediction is right if its distance to the truth is at most threshold * normaliser. Truth that is
not annotated is ignored, a prediction that is not finite is wrong, and the total is pooled over all
annotated joints that are scored (14: MPII's without pelvis and thorax), as the official evaluator
does.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from hpe_lib import plausibility
from hpe_lib.cascade import Cascade
from hpe_lib.data import annotations
from hpe_lib.data.lsp import label_convention
from hpe_lib.data.people import People, image_of
from hpe_lib.prediction import predict
from hpe_lib.skeleton import ABSENT, LSP_NAMES, MPII, OCCLUDED, VISIBLE
from hpe_lib.workbook.artifacts import BadInput

RESAMPLES = 1000
SAMPLED_AT_ONCE = 8_000_000  # people in the resamples that are in memory together
AUC_THRESHOLDS = np.linspace(0, 0.5, 51)


def read_files(
    dataset: str, truth: Path, predictions: Path, rows: Path | None = None
) -> tuple[np.ndarray, People]:
    """(joints (N, 16, 2), what to score them against) of anyone's prediction file; all px are the
    files' own (F14).

    dataset: "mpii", 16 joints, people in the order of `rows` (Newell's valid.h5) or else of the
    truth; "lsp", 14 joints or 16, all people or, if there are as many, those of the test half.
    BadInput as the readers of annotations.
    """
    if dataset == "mpii":
        found = annotations.mpii_truth(truth, rows)
        order = f"the order of {rows.name}" if rows else "its own order (no --rows)"
        source = f"{truth.name}, in {order}"
        predicted = annotations.predictions(predictions, len(found), whose=source)
        return predicted, _truth(dataset, truth, found, found.head_size, "PCKh@0.5", source)
    if rows:
        raise BadInput("--rows", rows, "none: LSP's files are all in one order")
    found = annotations.lsp(truth)
    source = truth.name
    sizes = tuple({len(found), (~found.train).sum() or len(found)})
    predicted = annotations.predictions(
        predictions, sizes, (len(LSP_NAMES), len(MPII.names)), whose=source
    )
    if len(predicted) < len(found):
        found = found[~found.train]
        source = f"{source}, its test half from {found.image[0]} on"
    return predicted, _truth(dataset, truth, found, annotations.torso(found), "PCK@0.2", source)


def _truth(dataset, path, found, normaliser, metric, source):
    people = People(
        dataset=dataset,
        keys=found.image,
        joints=found.joints,
        visibility=found.visibility,
        normaliser=normaliser,
        metric=metric,
        occlusion_labels=found.occlusion_labels,
        source=source,
        skipped=found.skipped,
    )
    return scorable(people, path)


def scorable(people: People, file: str | Path) -> People:
    """The people. BadInput, naming the file, if nobody has annotated joints and a normaliser."""
    count = len(people.joints)
    if not annotated_mask(people).any():
        raise BadInput(file, f"no annotated joint of {count} people", "people with labels")
    if not errors(people.joints, people)[1].any():
        length = "head size" if people.metric.startswith("PCKh") else "torso"
        found = f"no positive {length} of {count} people, so nothing to divide errors by"
        raise BadInput(file, found, f"people with a {length}")
    return people


def conventions(predicted: np.ndarray, people: People) -> pd.Series:
    """The total, in percent, under each convention of published numbers; ours comes first (F14)."""
    ratio, mask = errors(predicted, people)
    limit = threshold(people)
    every = (people.visibility != ABSENT) & has_normaliser(people)[:, None]
    with np.errstate(invalid="ignore"):
        moved = errors(predicted + 1, people)[0] <= limit
        all_joints = distances(predicted, people) <= limit * people.normaliser[:, None]
    hits = ratio <= limit
    printed = {**MPII.groups, "head": ("head_top",)}
    columns = [macro(hits, joint_mask(mask, names)) for names in printed.values()]
    with_missing = np.isin(range(len(MPII.names)), MPII.scored) & has_normaliser(people)[:, None]
    visible = kind_masks(people).get("visible", np.zeros_like(mask))
    found = {
        "pooled over 14 joints": share(hits, mask),
        "mean over 14 joints": macro(hits, mask),
        "mean of 7 columns, head top only": pd.Series(columns, dtype=float).mean(),
        "head column: head top only": share(hits, joint_mask(mask, ("head_top",))),
        "head column: mean with upper neck": macro(hits, joint_mask(mask, MPII.groups["head"])),
        "pelvis and thorax pooled too": share(all_joints, every),
        "visible joints only": share(hits, mask & visible),
        "moved by one pixel": share(moved, mask),
        "threshold 0.1": share(ratio <= 0.1, mask),
        "missing truth counted as wrong": share(hits & mask, with_missing),
    }
    if people.metric.startswith("PCKh"):
        found["head size without its 0.6"] = share(ratio <= limit / annotations.HEAD, mask)
    else:
        found["longer side of the joints' box"] = box_normalised(predicted, people)
    return pd.Series(found, dtype=float)


def score(predicted: np.ndarray, people: People, seed: int = 0) -> dict:
    """Scores of predicted joints (N, 16, 2) image px against the ground truth, as a dict for JSON;
    percentages, None where undefined.

    total is pooled over joints, total_macro the mean over joints, a group's number the mean over
    its joints. People without a positive normaliser are left out and counted; box_normalised is
    the score of everybody with the longer side of the joints' box as the normaliser.
    not_finite: predictions among the joints that are NaN or infinite, thus wrong.
    notes: what looks unlikely about the number, as sentences (plausibility).
    """
    if predicted.shape != people.joints.shape:
        raise ValueError(f"predictions of shape {predicted.shape}, expected {people.joints.shape}")
    ratio, mask = errors(predicted, people)
    hits = ratio <= threshold(people)
    report = {
        "metric": people.metric,
        "total": share(hits, mask),
        "total_macro": macro(hits, mask),
    }
    report |= {group: macro(hits, joint_mask(mask, names)) for group, names in MPII.groups.items()}
    report["head_top"] = share(hits, joint_mask(mask, ("head_top",)))
    report |= {"visible": None, "occluded": None}
    report |= {kind: share(hits, mask & chosen) for kind, chosen in kind_masks(people).items()}
    report["at_0.1"] = share(ratio <= 0.1, mask)
    report["auc"] = auc(ratio, mask)
    report["box_normalised"] = (
        box_normalised(predicted, people) if people.metric.startswith("PCK@") else None
    )
    report["ci95"] = interval(hits, mask, seed)
    report["not_finite"] = int((mask & ~np.isfinite(predicted).all(-1)).sum())
    return report | {
        "persons": int(has_normaliser(people).sum()),
        "joints": int(mask.sum()),
        "left_out": int((~has_normaliser(people)).sum()),
        "notes": notes(predicted, people),
    }


def notes(predicted: np.ndarray, people: People) -> list[str]:
    """What looks unlikely about predictions (N, 16, 2) px and their truth; nothing if both are
    sound.
    """
    truth = np.where(errors(predicted, people)[1][..., None], people.joints, np.nan)
    tolerance = threshold(people) * people.normaliser
    found = plausibility.prediction_notes(predicted, truth, tolerance)
    with np.errstate(over="ignore", invalid="ignore"):  # predictions may be infinite
        sides = ("", "")
        if people.dataset == "lsp":
            sides = (label_convention(predicted), label_convention(people.joints))
        if people.dataset == "lsp" or not found:
            found += plausibility.convention_notes(predicted, truth, tolerance, sides)
    return [*truth_notes(people), *found]


def truth_notes(people: People) -> list[str]:
    """What looks unlikely about a truth, before anything is predicted."""
    usable = has_normaliser(people)
    annotated = (people.visibility != ABSENT)[..., None]
    joints = np.where(annotated, people.joints, np.nan)
    images = np.array([image_of(str(key)) for key in people.keys])
    return [
        *plausibility.repeated_people_notes(images, joints),
        *plausibility.normaliser_notes(people.normaliser, usable),
        *plausibility.scale_notes(people.normaliser, usable, joints),
        *(plausibility.head_notes(people.normaliser, joints) if people.dataset == "mpii" else []),
        *plausibility.truth_notes(
            people.visibility, annotated_mask(people), people.occlusion_labels
        ),
    ]


def has_normaliser(people: People) -> np.ndarray:
    """(N,) bool: people whose normaliser is known and positive."""
    return annotations.is_positive(people.normaliser)


def box_normalised(predicted: np.ndarray, people: People) -> float | None:
    """PCK@0.2 with the longer side of the annotated joints' box as normaliser: laxer, but defined
    for everybody with two joints.
    """
    mask = annotated_mask(people) & annotations.is_positive(people.box)[:, None]
    return share(distances(predicted, people) <= 0.2 * people.box[:, None], mask)


def distances(predicted: np.ndarray, people: People) -> np.ndarray:
    """(N, 16) image px from prediction to truth; infinite where the prediction is not finite."""
    with np.errstate(over="ignore"):
        distance = np.linalg.norm(predicted - people.joints, axis=-1)
    return np.where(np.isfinite(predicted).all(-1), distance, np.inf)


def annotated_mask(people: People) -> np.ndarray:
    """(N, 16) bool: annotated joints of the groups that the tables report."""
    rows = np.isin(np.arange(len(MPII.names)), MPII.scored)
    return (people.visibility != ABSENT) & ~np.isnan(people.joints).any(-1) & rows


def kind_masks(people: People) -> dict[str, np.ndarray]:
    """Visible and occluded joints, (N, 16) bool each; {} where the data set does not tell them."""
    if not people.occlusion_labels:
        return {}
    return {"visible": people.visibility == VISIBLE, "occluded": people.visibility == OCCLUDED}


def errors(predicted: np.ndarray, people: People) -> tuple[np.ndarray, np.ndarray]:
    """Distances (N, 16) in fractions of the normaliser, and the mask (N, 16) of what counts."""
    mask = annotated_mask(people) & has_normaliser(people)[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = distances(predicted, people) / people.normaliser[:, None]
    return np.where(mask, ratio, np.inf), mask


def threshold(people: People) -> float:
    """The metric's threshold as a fraction of the normaliser, e.g. 0.5 for PCKh@0.5."""
    return float(people.metric.partition("@")[2])


def within_threshold(predicted: np.ndarray, people: People) -> np.ndarray:
    """(N, 16) bool: is the joint within the metric's threshold? False where it does not count."""
    return errors(predicted, people)[0] <= threshold(people)


def mean_error(ratio: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(N,) the mean of each person's `errors` within the mask, NaN where there is none."""
    return np.where(mask, ratio, 0).sum(1) / np.where(mask.any(1), mask.sum(1), np.nan)


def joint_mask(mask: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """The mask, narrowed to the joints of these names."""
    return mask & np.isin(MPII.names, names)


def share(hits: np.ndarray, mask: np.ndarray) -> float | None:
    """Hits within the mask, in percent; None if the mask is empty."""
    return 100 * float((hits & mask).sum() / mask.sum()) if mask.any() else None


def macro(hits: np.ndarray, mask: np.ndarray) -> float | None:
    """Mean over joints of each joint's share; joints that nobody has are left out."""
    columns = [share(hits[:, row], mask[:, row]) for row in MPII.scored]
    found = [column for column in columns if column is not None]
    return float(np.mean(found)) if found else None


def auc(ratio: np.ndarray, mask: np.ndarray) -> float | None:
    """Area under the share of hits for thresholds 0 … 0.5, in percent of the best."""
    if not mask.any():
        return None
    curve = [share(ratio <= limit, mask) for limit in AUC_THRESHOLDS]
    return float(np.trapezoid(curve, AUC_THRESHOLDS) / AUC_THRESHOLDS[-1])


def resampled_sums(counts: np.ndarray, seed: int) -> np.ndarray:
    """(1 + RESAMPLES, K) sums of people's counts (N, K): first of everybody, then of as many people
    drawn with replacement, again and again.

    A few resamples at a time: those of 200,000 people would fill 1.6 GB.
    """
    people = len(counts)
    generator = np.random.default_rng(seed)
    shares = np.full(people, 1 / people)
    most = max(1, SAMPLED_AT_ONCE // people)
    sums = [counts.sum(0, keepdims=True)]
    for start in range(0, RESAMPLES, most):
        drawn = min(most, RESAMPLES - start)
        sums.append(generator.multinomial(people, shares, drawn) @ counts)
    return np.concatenate(sums)


def interval(hits: np.ndarray, mask: np.ndarray, seed: int = 0) -> list[float] | None:
    """[2.5 %, 97.5 %] of the pooled total when people are resampled with replacement, RESAMPLES
    times, seeded.
    """
    if not mask.any():
        return None
    counts = np.stack([(hits & mask).sum(1), mask.sum(1)], axis=1)
    right, joints = resampled_sums(counts, seed).T
    with np.errstate(invalid="ignore"):  # people without a joint can be drawn alone
        return difference(100 * right / joints)["ci95"]


def table(scores: dict[str, dict]) -> pd.DataFrame:
    """Scores by row name, one column a number, one decimal when shown; the interval as text."""
    parts = "total ci95 visible occluded at_0.1 auc total_macro head_top box_normalised".split()
    columns = [*MPII.groups, *parts, "persons", "left_out"]
    rows = {name: {column: report[column] for column in columns} for name, report in scores.items()}
    for row in rows.values():
        row["ci95"] = format_interval(row["ci95"])
    frame = pd.DataFrame.from_dict(rows, orient="index")
    return frame.dropna(axis="columns", how="all")


def format_interval(ci95: list[float] | None) -> str:
    """An interval as text, "78.8–81.3"; a dash where it is undefined."""
    return "–" if ci95 is None else "{:.1f}–{:.1f}".format(*ci95)


def by_joint(answers: dict[str, np.ndarray], people: People) -> pd.DataFrame:
    """The metric joint by joint, occluded apart from visible: answers {row name: joints (N, 16, 2)
    image px}.

    One row a scored joint, columns (row name, "visible" | "occluded") with the number of joints at
    the end; where the data set has no occlusion labels there is one column, "annotated".
    """
    kinds = kind_masks(people) or {"annotated": people.visibility != ABSENT}
    columns = {}
    for name, predicted in answers.items():
        ratio, mask = errors(predicted, people)
        for kind, of_kind in kinds.items():
            chosen = mask & of_kind
            columns[name, kind] = [
                share(ratio[:, j] <= threshold(people), chosen[:, j]) for j in MPII.scored
            ]
            columns["joints", kind] = chosen.sum(0)[MPII.scored]
    found = pd.DataFrame(columns, index=[MPII.names[j] for j in MPII.scored])
    return found[[*answers, "joints"]]


def monitor(people: People, image_size: int, count: int = 200) -> Callable[[Cascade], dict]:
    """A scorer for `stages.train`: the metric on the first `count` people, no flip test. For
    display only: it selects no weights.
    """
    people = people[:count]

    def scorer(cascade: Cascade) -> dict:
        """The metric, over all joints and over visible and occluded ones."""
        found = score(predict(cascade, people, image_size, flip_test=False).joints, people)
        parts = {
            f"{people.metric} {part}": found[part]
            for part in ("visible", "occluded")
            if found[part] is not None
        }
        return {people.metric: found["total"], **parts}

    return scorer


def paired(plus: list[np.ndarray], minus: list[np.ndarray], people: People, seed: int = 0) -> dict:
    """Score difference in points, sum of `plus` minus sum of `minus`, on the same people; each
    prediction is (N, 16, 2) image px.

    [a], [b] is a's lead over b; [a, d], [b, c] how much larger a's lead over b is than c's over d.
    Keys total, visible, occluded and occluded_minus_visible, each {"difference", "ci95"}, None
    where undefined. The interval resamples people jointly for all predictions, so a person's
    difficulty cancels.
    """
    mask = errors(plus[0], people)[1]
    gained = sum(within_threshold(answer, people).astype(int) for answer in plus)
    gained = gained - sum(within_threshold(answer, people).astype(int) for answer in minus)
    parts = {"total": mask}
    for kind, of_kind in kind_masks(people).items():
        parts[kind] = mask & of_kind
    leads = [(gained * part).sum(1) for part in parts.values()]
    joints = [part.sum(1) for part in parts.values()]
    counts = np.stack([*leads, *joints], axis=1)
    leads, joints = np.split(resampled_sums(counts, seed), 2, axis=1)
    with np.errstate(invalid="ignore"):
        shares = 100 * leads / joints
    unknown = np.array([np.nan])
    points = {"total": unknown, "visible": unknown, "occluded": unknown}
    points |= dict(zip(parts, shares.T))
    points["occluded_minus_visible"] = points["occluded"] - points["visible"]
    return {name: difference(values) for name, values in points.items()}


def difference(points: np.ndarray) -> dict | None:
    """{"difference", "ci95"} of a quantity; None if undefined.

    points: measured on everybody (first) and on resamples of people, NaN of those that have no such
    joint, which are left out.
    """
    if not np.isfinite(points[0]):
        return None
    low, high = np.nanpercentile(points[1:], (2.5, 97.5))
    return {"difference": float(points[0]), "ci95": [float(low), float(high)]}


def format_difference(found: dict | None) -> str:
    """A `paired` difference as text, "+5.1 [4.0, 6.3]"; a dash where it is undefined."""
    if found is None:
        return "–"
    return "{:+.1f} [{:.1f}, {:.1f}]".format(found["difference"], *found["ci95"])
