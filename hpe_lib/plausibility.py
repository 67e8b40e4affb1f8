"""Warnings about scores that suggest a misread file: axes, joints, people or unit in another order.

This cannot be told from the file. It shows where the same numbers, read otherwise, would score far
more. Sound predictions, good and bad ones, get no warning.
"""

import numpy as np

from hpe_lib import readings
from hpe_lib.readings import FIT, FULL, LEAD, SAMPLE
from hpe_lib.skeleton import ABSENT, MPII, OCCLUDED

CHANCE = 15  # % right; a person's own scale and shift are believed if the score is below this
OUTSIDE = 0.1  # of the truth's coordinates beyond all predictions: another unit
FRACTION = 1.5  # coordinates within ±this are no pixels
# The normaliser, in distances within which half of a person's joints lie from their middle. In
# sound data it is 0.02 to 5.6 for one person, 0.56 to 1.4 as the median of a data set.
OF_ONE = (0.01, 20)
OF_MOST = (0.1, 5)
# Rows that are missing or twice in a part of the file: who fits a neighbour's truth. In sound
# predictions these are 0.2 % of the people at most, and 20 % or more where a third is moved on.
LOST = 0.2  # of a person's joints are right by the own row, at most
FITS = 0.6  # … by another row, at least
MOVED = 0.02  # of the people
SOME = 10  # people, at least, of whom such a share says something
# Rows in another order in a part of the file. In sound predictions 0.5 % of the people at most.
FITS_WELL = 0.8  # of a person's joints are right by some other row
REACH = 10_000  # rows, before and after, that are looked at
# Two joints exchanged would score this many points more; in sound predictions they score less.
LEAD_OF_PAIR = 15
BITS = (-128, 127), (0, 255)  # lowest and highest number of 8
TURNED = 0.15  # of the people, if left means another side in truth and predictions; sound ones 0.08
# A head size in ways from head top to upper neck: as the median of a data set, and of one person.
HEADS = (0.68, 0.82)
OF_ONE_HEAD = (0.5, 1)
RIGHT_BY_CHANCE = 0.1  # of the joints at one point, if it is a mark for joints not found
FEW_PEOPLE = 5  # of fewer, a back taken for a front may be all that is wrong
FEW = 4  # joints; of fewer the distance says nothing


def truth_notes(visibility: np.ndarray, scored: np.ndarray, occlusion_labels: bool) -> list[str]:
    """Notes on a truth's visibility (N, 16), by the joints (N, 16) bool that are scored where
    annotated.
    """
    seen = visibility[scored]
    if len(visibility) < SOME or not len(seen):
        return []
    if occlusion_labels and (occluded := np.mean(seen == OCCLUDED)) > 0.5:
        return [
            f"{occluded:.0%} of the annotated joints count as occluded (LSP: third value 1, MPII: "
            "visible 0), which is unlikely: if the file has the opposite sense, visible and "
            "occluded are exchanged"
        ]
    rows = visibility[:, MPII.scored]
    if not occlusion_labels and (annotated := np.mean(rows != ABSENT)) < 0.5:
        return [
            f"only {annotated:.0%} of the joints count as annotated (LSPET: third value 1), which "
            "is unlikely: a file with the opposite sense, or LSP's as (14, 3, N), would look so"
        ]
    return []


def repeated_people_notes(keys: np.ndarray, joints: np.ndarray) -> list[str]:
    """A note on people (N,) of one image with the very same joints (N, 16, 2): they count twice."""
    _, images, counts = np.unique(keys, return_inverse=True, return_counts=True)
    labelled = np.isfinite(joints).any((1, 2))
    shared = np.flatnonzero((counts[images] > 1) & (keys != "") & labelled)
    if not len(shared):
        return []
    rows = np.column_stack([images[shared], np.nan_to_num(joints[shared]).reshape(-1, 32)])
    _, places, again = np.unique(rows, axis=0, return_index=True, return_counts=True)
    if (again == 1).all():
        return []
    first = shared[places[again > 1].min()]
    return [
        f"{(again - 1).sum()} people are in the truth more than once and count as often, first "
        f"person {first + 1}, of {keys[first]}"
    ]


def normaliser_notes(normaliser: np.ndarray, usable: np.ndarray) -> list[str]:
    """A note on people (N,) whose normaliser is there but not `usable`."""
    wrong = np.flatnonzero(~usable & ~np.isnan(normaliser))
    if not len(wrong):
        return []
    return [
        f"{len(wrong)} people are left out as their normaliser (head size or torso) is not a "
        f"positive length, first person {wrong[0] + 1}: {normaliser[wrong[0]]:g} px"
    ]


def scale_notes(normaliser: np.ndarray, usable: np.ndarray, joints: np.ndarray) -> list[str]:
    """A note on people whose normaliser (N,) px cannot belong to their joints (N, 16, 2) px: with
    one of 1e9 px everything is right. Half of the joints count, so that no single one matters.

    usable: (N,) bool, the people who are scored.
    """
    annotated = np.isfinite(joints).all(-1)
    rows = np.flatnonzero(usable & annotated.any(1))
    if not len(rows):
        return []
    joints = joints[rows]
    annotated = annotated[rows]
    middle = np.nanmedian(joints, axis=1, keepdims=True)
    reach = np.nanmedian(np.linalg.norm(joints - middle, axis=-1), axis=1)
    reach = np.where(annotated.sum(1) < FEW, np.median(reach), reach)
    ratio = normaliser[rows] / np.maximum(reach, 1e-9)
    likely = len(rows) < FEW_PEOPLE or OF_MOST[0] <= np.median(ratio) <= OF_MOST[1]
    least, most = OF_ONE if likely else OF_MOST
    far = np.flatnonzero((ratio < least) | (ratio > most))
    if not len(far):
        return []
    first = rows[far[0]]
    return [
        f"the normaliser (head size or torso) of {len(far)} of {len(rows)} people does not fit "
        f"their joints, first person {first + 1}: {normaliser[first]:.3g} px, while half of the "
        f"joints lie within {reach[far[0]]:.3g} px of their middle: in another unit?"
    ]


def head_notes(head_size: np.ndarray, joints: np.ndarray) -> list[str]:
    """A note on MPII's people whose head size (N,) px does not fit their head, of joints (N, 16, 2)
    px, NaN where not annotated.

    MPII's annotators drew the head box from the head top to the upper neck, so the size is three
    quarters of that way for everybody: 0.734 to 0.767 for 98 % of the validation people.
    """
    top = joints[:, MPII.index("head_top")]
    neck = joints[:, MPII.index("upper_neck")]
    length = np.linalg.norm(top - neck, axis=1)
    ratio = head_size / np.where(length > 0, length, np.nan)
    known = np.isfinite(ratio)
    if known.sum() < SOME:
        return []
    middle = np.median(ratio[known])
    if not HEADS[0] <= middle <= HEADS[1]:
        return [
            f"head sizes are {middle:.2f} of the way from head top to upper neck, as the median; "
            "in MPII they are 0.75: the 0.6 of its evaluator forgotten, or applied twice?"
        ]
    far = np.flatnonzero(known & ((ratio < OF_ONE_HEAD[0]) | (ratio > OF_ONE_HEAD[1])))
    if len(far) < max(3, MOVED * known.sum()):
        return []
    return [
        f"the head size of {len(far)} of {known.sum()} people does not fit the way from head top "
        f"to upper neck, first person {far[0] + 1}: is it another person's?"
    ]


def prediction_notes(predicted: np.ndarray, truth: np.ndarray, tolerance: np.ndarray) -> list[str]:
    """Notes on predictions (N, 16, 2) px against the truth (N, 16, 2), NaN where a joint does not
    count.

    tolerance: (N,) px within which a joint is right.
    """
    whole = np.isfinite(predicted).all(-1, keepdims=True)  # half a point is none
    predicted = np.where(whole, predicted, np.nan)
    with np.errstate(all="ignore"):  # predictions may be as large as they like
        blank = _at_one_point_mask(predicted)
        found = _same_pose_notes(predicted, blank)
        if found:
            return found
        # Nobody's prediction: it must not hide what is wrong with the others.
        found = _one_point_notes(predicted, blank)
        predicted = np.where(blank[:, None, None], np.nan, predicted)
        if np.isnan(predicted).all():
            return found
        return found + (
            _misreading_notes(predicted, truth, tolerance)
            or _some_people_notes(predicted, truth, tolerance)
            or _moved_rows_notes(predicted, truth, tolerance)
            or _other_rows_notes(predicted, truth, tolerance)
            or _joint_notes(predicted, truth, tolerance)
            or _value_notes(predicted, truth, tolerance)
            or _off_by_one_notes(predicted, truth)
        )


def convention_notes(
    predicted: np.ndarray, truth: np.ndarray, tolerance: np.ndarray, conventions: tuple[str, str]
) -> list[str]:
    """A note where left and right are exchanged for some people only.

    So it is where one file means the person's left and the other the viewer's: people who show
    their back, a quarter of LSP, are then right only with left and right exchanged.
    predicted, truth, tolerance: as in `prediction_notes`.  conventions: of the predictions and of
    the truth, as `data.lsp.label_convention` tells them; equal where there are none.
    """
    plain, exchanged = (
        readings.shares_right(joints, truth, tolerance)
        for joints in (predicted, predicted[:, MPII.mirror])
    )
    turned = (exchanged >= 0.6) & (plain < 0.4)
    # Weak predictors take backs for fronts, which looks like the viewer's left, never the reverse.
    least = TURNED / 3 if conventions == ("person-centric", "observer-centric") else TURNED
    if turned.sum() < max(4, least * len(predicted)):  # three of ten backs may look so
        return []
    what = f"{turned.mean():.0%} of the people are right only with left and right exchanged"
    if conventions[0] == conventions[1]:
        return [what]
    return [f"{what}: the predictions look {conventions[0]}, the truth {conventions[1]}"]


def _same_pose_notes(predicted, blank):
    """Most people have the same predictions, and are not `blank` (N,), all at one point."""
    some = predicted[_predicted_mask(predicted) & ~blank]
    repeats = np.unique(np.nan_to_num(some), axis=0, return_counts=True)[1]
    if len(some) and repeats.max() > max(1, len(predicted) / 2):
        return [f"{repeats.max()} of {len(predicted)} people have the same predictions"]
    return []


def _at_one_point_mask(predicted):
    """(N,) bool: are all of this person's joints, two or more, predicted at one point?"""
    there = np.isfinite(predicted).all(-1)
    spread = np.fmax.reduce(predicted, axis=1) - np.fmin.reduce(predicted, axis=1)
    return (spread == 0).all(1) & (there.sum(1) > 1)


def _one_point_notes(predicted, blank):
    """A note on the people (N,) of `_at_one_point_mask`."""
    if not blank.any():
        return []
    first = np.argmax(blank)
    x, y = predicted[first][np.isfinite(predicted[first]).all(-1)][0]
    return [
        f"all joints of {blank.sum()} people are predicted at one point, first person "
        f"{first + 1}: ({x:g}, {y:g})"
    ]


def _misreading_notes(predicted, truth, tolerance):
    """The reading of the predictions that would score most, if far more than as they are."""
    if np.isnan(truth).all():
        return []
    total = readings.percent_right(predicted, truth, tolerance)
    if total > 100 - LEAD:
        return []
    if len(predicted) < FEW_PEOPLE:
        exchanged = readings.percent_right(predicted[..., ::-1], truth, tolerance)
        shares = {"x and y exchanged": exchanged}
    else:
        shares = _shares_of_readings(predicted, truth, tolerance, total)
    best = max(shares, key=shares.get, default="")
    if best and shares[best] >= total + LEAD:
        return [f"with {best} the total would be {shares[best]:.1f}, as they are it is {total:.1f}"]
    return _other_range_notes(predicted, truth, tolerance) if total < CHANCE else []


def _shares_of_readings(predicted, truth, tolerance, total):
    """{reading: % right} of everything that the predictions may have meant instead."""
    others = {
        "x and y exchanged": predicted[..., ::-1],
        "left and right exchanged": predicted[:, MPII.mirror],
        "x and y, and left and right, exchanged": predicted[:, MPII.mirror, ::-1],
        "the people's rows moved on by one": np.roll(predicted, 1, axis=0),
        "the people's rows moved back by one": np.roll(predicted, -1, axis=0),
        "the people's rows in reverse": predicted[::-1],
        "the joints moved on by one": np.roll(predicted, 1, axis=1),
        "the joints moved back by one": np.roll(predicted, -1, axis=1),
    }
    shares = {
        name: readings.percent_right(joints, truth, tolerance) for name, joints in others.items()
    }
    shares |= {
        name: right
        for name, right in readings.score_fitted(predicted, truth, tolerance).items()
        if right >= FIT or total >= CHANCE
    }
    if total < FIT:
        shares |= readings.score_mirrored(predicted, truth, tolerance)
        if max(shares.values()) < total + LEAD:
            return readings.score_reordered(predicted, truth, tolerance)
    return shares


def _some_people_notes(predicted, truth, tolerance):
    """Some people are right only if they are read otherwise; nobody is in sound predictions."""
    others = {
        "x and y exchanged": predicted[..., ::-1],
        "their joints in reverse": predicted[:, ::-1],
    }
    plain = readings.shares_right(predicted, truth, tolerance)
    for name, joints in others.items():
        exchanged = readings.shares_right(joints, truth, tolerance)
        turned = np.sum((exchanged >= FITS) & (plain < 1 - FITS))
        if turned >= max(3, MOVED * len(predicted)):
            return [f"{turned} people are right only with {name}"]
    return []


def _moved_rows_notes(predicted, truth, tolerance):
    """People who fit the truth of the row before or after theirs, and not their own."""
    full = (~np.isnan(truth[..., 0])).sum(1) >= FULL
    if full.sum() < SOME:
        return []
    lost = (
        full
        & _predicted_mask(predicted)
        & (readings.shares_right(predicted, truth, tolerance) <= LOST)
    )
    for step, other in ((1, "before"), (-1, "after")):
        alike, fits = (
            readings.shares_right(np.roll(joints, step, axis=0), truth, tolerance) >= FITS
            for joints in (truth, predicted)
        )
        moved = lost & fits & ~alike  # alike: the frames of a film
        if moved.sum() >= max(3, MOVED * full.sum()):
            first, last = np.flatnonzero(moved)[[0, -1]] + 1
            return [
                f"{moved.sum()} people, from person {first} to {last}, fit the predictions of the "
                f"row {other} theirs and not their own: is a row missing, or there twice?"
            ]
    return []


def _predicted_mask(predicted):
    """(N,) bool: has this person a prediction at all?"""
    return np.isfinite(predicted).all(-1).any(1)


def _other_rows_notes(predicted, truth, tolerance):
    """People who fit the predictions of some other row, and not their own. Some are looked at."""
    annotated = ~np.isnan(truth[..., 0])
    full = annotated.sum(1) >= FULL
    least = max(3, MOVED * full.sum())
    wrong = readings.shares_right(predicted, truth, tolerance) <= LOST
    lost = np.flatnonzero(full & _predicted_mask(predicted) & wrong)
    if full.sum() < SOME or len(lost) < least:
        return []
    fits = []
    for row in np.unique(lost[np.linspace(0, len(lost) - 1, SAMPLE).astype(int)]):
        rows = slice(max(0, row - REACH), row + REACH)
        right, alike = (
            np.linalg.norm(joints[rows] - truth[row], axis=-1) <= tolerance[row]
            for joints in (predicted, truth)
        )
        others = alike[:, annotated[row]].mean(1) < FITS  # else frames of a film
        fits.append((right[:, annotated[row]].mean(1) >= FITS_WELL)[others].any())
    moved = np.mean(fits) * len(lost)
    if moved < least:
        return []
    return [
        f"about {moved:.0f} people fit the predictions of another row and not their own: is a part "
        "of the rows in another order?"
    ]


def _joint_notes(predicted, truth, tolerance):
    """A joint that is at one point for everybody, or two joints that are exchanged."""
    there = np.isfinite(predicted).all(-1)
    scored = ~np.isnan(truth[..., 0])
    for joint, name in enumerate(MPII.names):
        points = predicted[there[:, joint], joint]
        if scored[:, joint].any() and len(points) >= SOME and (points == points[0]).all():
            x, y = points[0]
            return [f"{name} is predicted at ({x:g}, {y:g}) for all {len(points)} people"]
    right = readings.right_by_pair(predicted, truth, tolerance)
    counts = (scored & there).sum(0) >= SOME
    for cycle in readings.exchanged_joints(right, counts):
        some = counts[cycle]
        now = right[cycle, cycle][some].mean()
        then = right[np.roll(cycle, -1), cycle][some].mean()
        if then >= max(FIT, now + LEAD_OF_PAIR):
            names = " and ".join(MPII.names[joint] for joint in cycle)
            return [f"with {names} exchanged these would score {then:.1f}, as they are {now:.1f}"]
    return []


def _value_notes(predicted, truth, tolerance):
    """Values that no sound predictor gives: y as x, a highest value where the truth goes on, one
    point for joints that were not found, whole numbers of 8 bits.
    """
    there = np.isfinite(predicted).all(-1)
    seen = predicted[there]
    if np.mean(seen[:, 0] == seen[:, 1]) > 1 / 2:
        return ["most joints are predicted where x equals y: is one of them there twice?"]
    for axis, name in enumerate("xy"):
        edge = seen[:, axis].max()
        lower = truth[..., axis] - tolerance[:, None] > edge
        cut = np.sum((predicted[..., axis] == edge) & lower)
        if cut >= max(3, MOVED * len(predicted)):
            return [f"{name} is at most {edge:g}, and just that for {cut} joints that lie beyond"]
    points, repeats = np.unique(seen, axis=0, return_counts=True)
    mark = points[np.argmax(repeats)]
    marked = (predicted == mark).all(-1) & ~np.isnan(truth[..., 0])
    right = readings.near(predicted, truth, tolerance)[marked]
    many = marked.any(1).sum() >= max(FEW_PEOPLE, MOVED * len(predicted))
    if many and right.mean() < RIGHT_BY_CHANCE:  # else a coarse grid, where joints do lie there
        x, y = mark
        return [f"{marked.sum()} joints are predicted at ({x:g}, {y:g}): were they not found?"]
    known = truth[~np.isnan(truth)]
    for low, high in BITS if len(predicted) >= FEW_PEOPLE else ():
        whole = (seen == np.round(seen)).all() and low <= seen.min() and seen.max() <= high
        if whole and np.mean(known > high) > MOVED:
            return [f"whole numbers of {low} to {high}, the truth goes up to {known.max():.0f}"]
    return []


def _other_range_notes(predicted, truth, tolerance):
    """Fractions, pixels of a crop or a heatmap, and 8-bit integers that overflowed."""
    seen = predicted[np.isfinite(predicted)]
    low = seen.min()
    high = seen.max()
    fitted = readings.percent_right(readings.fit_each_person(predicted, truth), truth, tolerance)
    of_others = readings.percent_right(
        readings.fit_each_person(np.roll(predicted, 1, axis=0), truth), truth, tolerance
    )
    small = np.percentile(np.abs(seen), 99) <= FRACTION
    many = len(predicted) >= FEW_PEOPLE
    if fitted >= FIT and (fitted >= of_others + LEAD if many else small):
        kind = "fractions" if small else "pixels of a crop or of a heatmap"
        return [
            f"the coordinates, {low:.3g} to {high:.3g}, look like {kind}: with a scale and a shift "
            f"for each person the total would be {fitted:.1f}"
        ]
    known = truth[~np.isnan(truth)]
    off = [
        not np.nanpercentile(xs, 10) <= np.nanmedian(goal) <= np.nanpercentile(xs, 90)
        for xs, goal in ((predicted[..., axis], truth[..., axis]) for axis in (0, 1))
    ]
    if many and np.mean((known < low) | (known > high)) > OUTSIDE and any(off):
        bits = (seen == np.round(seen)).all() and -128 <= low <= high <= 255
        kind = "8-bit integers that overflowed" if bits else "another unit"
        return [
            f"the predictions lie between {low:.3g} and {high:.3g}, the truth between "
            f"{known.min():.3g} and {known.max():.3g}: {kind}?"
        ]
    return []


def _off_by_one_notes(predicted, truth):
    """Pixels that count from 0 in one file and from 1 in the other: tells only of nearly exact
    predictions.
    """
    compared = ~np.isnan(truth[..., 0]) & ~np.isnan(predicted[..., 0])
    if compared.any(1).sum() < FEW_PEOPLE:
        return []
    here, later, earlier = (
        np.median(np.linalg.norm(predicted + shift - truth, axis=-1)[compared])
        for shift in (0, 1, -1)
    )
    least = min(later, earlier)
    if 0 < here < np.inf and least <= here / 2:
        bases = "0, the truth's from 1" if least == later else "1, the truth's from 0"
        return [
            f"the predictions' pixels seem to count from {bases}: moved by one, their median error "
            f"would be {least:.2g} px, as they are it is {here:.2g} px"
        ]
    return []
