"""Predictions read otherwise (scaled, mirrored, in another order), and what they would score.

Everywhere predicted and truth are (N, 16, 2) px, NaN where there is no prediction or a joint does
not count, and tolerance is (N,) px within which a joint is right.
"""

import numpy as np

from hpe_lib.skeleton import MPII

LEAD = 25  # points by which another reading must lead; misreading a published file costs 38 or more
FIT = 60  # % right, from which a fitted score is believed
# People in another order are found by matching poses.
SAMPLE = 60  # people that are looked at
FULL = 7  # joints that they must have
STANDS_OUT = 0.7  # a best match is this much closer than the next
OTHERS = 0.3  # of the people must have such a match in another row


def percent_right(predicted: np.ndarray, truth: np.ndarray, tolerance: np.ndarray) -> float:
    """% of the joints that count within the tolerance."""
    return 100 * float(near(predicted, truth, tolerance)[~np.isnan(truth[..., 0])].mean())


def shares_right(predicted: np.ndarray, truth: np.ndarray, tolerance: np.ndarray) -> np.ndarray:
    """(N,) of each person's joints that count, those within the tolerance."""
    annotated = (~np.isnan(truth[..., 0])).sum(1)
    return near(predicted, truth, tolerance).sum(1) / np.maximum(annotated, 1)


def near(predicted: np.ndarray, truth: np.ndarray, tolerance: np.ndarray) -> np.ndarray:
    """(N, 16) bool, within the tolerance (N,) px; False where a joint does not count."""
    return np.linalg.norm(predicted - truth, axis=-1) <= tolerance[:, None]


def right_by_pair(predicted: np.ndarray, truth: np.ndarray, tolerance: np.ndarray) -> np.ndarray:
    """(16, 16): % of the people for whom a predicted joint (row) is right as another (column)."""
    # One true joint at a time: all at once would fill 1.6 GB for 200,000 people.
    right = [
        near(predicted, truth[:, [joint]], tolerance).sum(0) for joint in range(truth.shape[1])
    ]
    scored = ~np.isnan(truth[..., 0])
    return 100 * np.stack(right, axis=1) / np.maximum(scored.sum(0), 1)


def best_order(right: np.ndarray) -> np.ndarray:
    """(16,) the predicted joint for each true one, so that `right_by_pair` adds up to most."""
    from scipy.optimize import linear_sum_assignment  # here: it takes a second

    rows, places = linear_sum_assignment(right, maximize=True)
    return rows[np.argsort(places)]


def exchanged_joints(right: np.ndarray, counts: np.ndarray) -> list[list[int]]:
    """Joints that are right more often as each other: in each list the next one's predictions, and
    at its end the first one's, fit a joint better.

    right: of `right_by_pair`.  counts: (16,) bool, the joints that are scored by enough people.
    """
    if not (right > np.diag(right))[:, counts].any():
        return []
    order = best_order(right + np.eye(len(right)))  # as they are where it makes no difference
    cycles = []
    left = set(range(len(order)))
    while left:
        joint = min(left)
        cycle = []
        while joint in left:
            left.remove(joint)
            cycle.append(joint)
            joint = int(order[joint])
        cycles.append(cycle)
    return [cycle for cycle in cycles if len(cycle) > 1 and counts[cycle].any()]


def score_fitted(
    predicted: np.ndarray, truth: np.ndarray, tolerance: np.ndarray
) -> dict[str, float]:
    """{reading: % right} with one scale about each person's middle and one shift for everybody.

    The right ones undo a crop's padding, a centre that was moved, or images of another size. There
    are four numbers for all people, so sound predictions gain next to nothing.
    """
    there = np.isfinite(predicted) & ~np.isnan(truth)
    if not there.any():
        return {}
    middle = _mean_where(there, predicted)
    size = np.where(tolerance > 0, tolerance, np.nan)[:, None, None]
    reach, wanted = (
        np.nanmedian(np.where(there, np.abs(part) / size, np.nan), axis=(0, 1))
        for part in (predicted - middle, truth - _mean_where(there, truth))
    )
    if not (reach > 0).all():  # all of somebody's predictions lie on one line
        return {}
    scale_x, scale_y = wanted / reach
    scaled = middle + (predicted - middle) * (scale_x, scale_y)
    shares = {}
    for unit, length in (("px", 1), ("head sizes or torsos", size)):
        shift = np.nanmedian(np.where(there, (truth - scaled) / length, np.nan), axis=(0, 1))
        name = (
            f"a scale of ({scale_x:.2f}, {scale_y:.2f}) about each person's middle and a shift of "
            f"({shift[0]:.2g}, {shift[1]:.2g}) {unit}"
        )
        shares[name] = percent_right(scaled + shift * length, truth, tolerance)
    return shares


def fit_each_person(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Each person's predictions, scaled (> 0) and shifted by axis to fit the truth best."""
    there = np.isfinite(predicted) & ~np.isnan(truth)
    middle = _mean_where(there, predicted)
    goal = _mean_where(there, truth)
    spread = _mean_where(there, (predicted - middle) ** 2)
    product = _mean_where(there, (predicted - middle) * (truth - goal))
    slope = product / np.where(spread > 0, spread, 1)
    return (predicted - middle) * np.maximum(slope, 0) + goal


def _mean_where(there, values):
    """(N, 1, 2) each person's mean over the joints that are there."""
    number = np.maximum(there.sum(1, keepdims=True), 1)
    return np.where(there, values, 0).sum(1, keepdims=True) / number


def score_mirrored(
    predicted: np.ndarray, truth: np.ndarray, tolerance: np.ndarray
) -> dict[str, float]:
    """{reading: % right} of predictions counted from another edge of each image.

    Nobody knows the images' sizes, so each person's predictions are moved to the truth. Only
    readings that beat the predictions as they are, moved likewise, by LEAD are returned.
    """
    moved = percent_right(_align_medians(predicted, truth), truth, tolerance)
    swapped = predicted[:, MPII.mirror]
    readings = {
        "x from the image's right edge": predicted * (-1, 1),
        "x from the image's right edge, left and right exchanged": swapped * (-1, 1),
        "y from the image's lower edge": predicted * (1, -1),
        "the image turned by 180°": predicted * (-1, -1),
    }
    shares = {
        name: percent_right(_align_medians(joints, truth), truth, tolerance)
        for name, joints in readings.items()
    }
    return {name: right for name, right in shares.items() if right >= max(FIT, moved + LEAD)}


def _align_medians(predicted, truth):
    """Each person's predictions moved so that their median error is 0."""
    off = np.where(np.isfinite(predicted), truth - predicted, np.nan)
    known = ~np.isnan(off).all(1, keepdims=True)
    shift = np.nanmedian(np.where(known, off, 0), axis=1, keepdims=True)
    return predicted + shift


def score_reordered(
    predicted: np.ndarray, truth: np.ndarray, tolerance: np.ndarray
) -> dict[str, float]:
    """{reading: % right} of the joints, and of the people, in the order that fits best."""
    order = best_order(right_by_pair(predicted, truth, tolerance))
    names = ", ".join(
        f"{name} in row {row + 1}"
        for name, row, place in zip(MPII.names, order, range(16))
        if row != place and place in MPII.scored
    )
    joints = f"the joints in another order ({names})"
    people = "the people's rows in another order, each beside whom it fits best"
    shares = {
        joints: percent_right(predicted[:, order], truth, tolerance),
        people: _score_matched(predicted, truth, tolerance),
    }
    return {name: right for name, right in shares.items() if right >= FIT}


def _score_matched(predicted, truth, tolerance):
    """% right of some people, each scored against the truth that the predictions fit best.

    0 unless, for many of them, the best fit stands out from the next, and each has another one.
    """
    annotated = ~np.isnan(truth[..., 0])
    full = np.flatnonzero((annotated.sum(1) >= FULL) & (tolerance > 0))
    if len(full) < 2:
        return 0.0
    truth = truth[full]
    annotated = annotated[full]
    tolerance = tolerance[full]
    right = []
    own = []
    for row in np.unique(np.linspace(0, len(predicted) - 1, SAMPLE).astype(int)):
        error = np.linalg.norm(predicted[row] - truth, axis=-1) / tolerance[:, None]
        far = np.where(annotated, np.fmin(error, 3), 0).sum(1) / annotated.sum(1)
        best, next_best = np.argsort(far)[:2]
        right.append(error[best][annotated[best]] <= 1)
        if far[best] < STANDS_OUT * far[next_best] and full[best] != row:
            own.append(best)
    if len(set(own)) < OTHERS * len(right):
        return 0.0
    return 100 * float(np.concatenate(right).mean())
