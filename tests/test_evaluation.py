import json
import time
import tracemalloc
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from benchmarks import same_joints
from hpe_lib import claims, evaluation, probes
from hpe_lib.cascade import Maps
from hpe_lib.data.datasets import load_people
from hpe_lib.data.images import ImageArrays
from hpe_lib.data.people import People
from hpe_lib.skeleton import ABSENT, MPII, OCCLUDED, VISIBLE

PELVIS = MPII.index("pelvis")
THORAX = MPII.index("thorax")


def people(joints, normaliser, visibility=None, metric="PCKh@0.5", occlusion_labels=True):
    count = len(joints)
    if visibility is None:
        visibility = np.where(np.isnan(joints[..., 0]), ABSENT, VISIBLE)
    return People(
        dataset="made",
        keys=np.arange(count).astype(str),
        joints=joints.astype(float),
        visibility=visibility.astype(np.int8),
        normaliser=np.broadcast_to(normaliser, count).astype(float),
        metric=metric,
        occlusion_labels=occlusion_labels,
        images=ImageArrays(np.zeros((count, 4, 4, 3), np.uint8), "made"),
        center=np.zeros((count, 2)),
        side=np.ones(count),
        body=np.ones(count),
    )


def crowd(count=50, seed=0, spread=1.0):
    """(people, predictions with Gaussian errors), head size 10 px."""
    random = np.random.default_rng(seed)
    joints = random.uniform(0, 200, (count, 16, 2))
    return people(joints, 10.0), joints + random.normal(0, spread, joints.shape)


# ---- conventions, by value


def test_a_distance_at_the_threshold_is_right():
    """The head is 60 px (0.6 times a box of 80 × 60): 30 px off is right at 0.5.

    The next float is wrong; likewise at 0.1.
    """
    joints = np.zeros((1, 16, 2))
    for threshold, key in ((0.5, "total"), (0.1, "at_0.1")):
        predicted = joints + [60 * threshold, 0]
        assert evaluation.score(predicted, people(joints, 0.6 * np.hypot(80, 60)))[key] == 100
        assert evaluation.score(np.nextafter(predicted, np.inf), people(joints, 60.0))[key] == 0
    assert (
        evaluation.score(joints + [6.3, 0], people(joints, 60.0))["at_0.1"] == 0
    )  # @0.105: wrong, not "@0.11"


def test_the_metric_s_name_carries_its_threshold():
    joints = np.zeros((1, 16, 2))
    assert evaluation.score(joints + [3, 0], people(joints, 10.0, metric="PCK@0.2"))["total"] == 0
    assert (
        evaluation.score(joints + [3, 0], people(joints, 10.0, metric="PCKh@0.5"))["total"] == 100
    )


def test_missing_truth_is_ignored_and_a_missing_prediction_is_wrong():
    truth, predicted = crowd(20, spread=0.01)
    assert evaluation.score(predicted, truth)["total"] == 100
    for wrong in (np.nan, np.inf):
        some = predicted.copy()
        some[:5, 0] = wrong
        some[0, 1, 1] = wrong
        found = evaluation.score(some, truth)
        assert found["total"] == pytest.approx(100 * (280 - 6) / 280) and found["joints"] == 280
        assert found["not_finite"] == 6 and evaluation.score(predicted, truth)["not_finite"] == 0
    joints = truth.joints.copy()
    joints[3] = np.nan
    joints[4, 2] = np.nan  # one person without any joint adds nothing, above or below
    found = evaluation.score(predicted, replace(truth, joints=joints))
    assert found["total"] == 100 and found["joints"] == 280 - 15
    hidden = np.where(np.arange(16) == 2, ABSENT, truth.visibility).astype(np.int8)
    predicted[:, 2] += 99
    assert evaluation.score(predicted, replace(truth, visibility=hidden))["total"] == 100


def test_pelvis_and_thorax_do_not_count():
    truth, predicted = crowd(spread=0.01)
    predicted[:, [PELVIS, THORAX]] += 500
    found = evaluation.score(predicted, truth)
    assert found["total"] == 100 and found["joints"] == 700


def test_the_total_is_pooled_and_the_macro_mean_is_not():
    """One ankle that 1 of 10 people has, and is wrong: 1 of 131 joints, but 1 of 14 columns."""
    joints = np.random.default_rng(0).uniform(0, 100, (10, 16, 2))
    joints[1:, 0] = np.nan
    predicted = np.nan_to_num(joints)
    predicted[0, 0] += 900
    found = evaluation.score(predicted, people(joints, 10.0))
    assert found["total"] == pytest.approx(100 * 130 / 131) and found[
        "total_macro"
    ] == pytest.approx(100 * 13 / 14)
    assert (
        found["ankle"] == 50 and found["knee"] == 100
    )  # a column is the mean of left and right, as published


def test_groups_go_by_name():
    truth, predicted = crowd(spread=0.01)
    predicted[:, MPII.index("left_wrist")] += 50
    predicted[:, MPII.index("head_top")] += 50
    found = evaluation.score(predicted, truth)
    assert [found[group] for group in MPII.groups] == [50, 100, 100, 50, 100, 100, 100] and found[
        "head_top"
    ] == 0


def test_people_without_normaliser_are_left_out_and_counted_but_have_a_box():
    truth, predicted = crowd(20, spread=0.01)
    predicted[:5] += 500
    normaliser = truth.normaliser.copy()
    normaliser[:5] = np.nan
    found = evaluation.score(predicted, replace(truth, normaliser=normaliser))
    assert (found["total"], found["persons"], found["left_out"], found["joints"]) == (
        100,
        15,
        5,
        15 * 14,
    )
    assert found["box_normalised"] is None  # a rule of PCK, not of PCKh
    on_lsp = evaluation.score(predicted, replace(truth, normaliser=normaliser, metric="PCK@0.2"))
    assert on_lsp["box_normalised"] == 75 and on_lsp["left_out"] == 5


def test_visible_and_occluded_are_told_apart_where_labels_say_so():
    truth, predicted = crowd(20, spread=0.01)
    visibility = truth.visibility.copy()
    visibility[:, :4] = OCCLUDED
    predicted[:, 0] += 500
    found = evaluation.score(predicted, replace(truth, visibility=visibility))
    assert (found["visible"], found["occluded"]) == (100, 75) and found["total"] == pytest.approx(
        100 * 13 / 14
    )
    unlabelled = evaluation.score(predicted, replace(truth, occlusion_labels=False))
    assert unlabelled["visible"] is None and unlabelled["occluded"] is None


def test_a_truth_without_images_scores_as_people_do():
    truth, predicted = crowd(20, spread=4.0)
    joints = truth.joints.copy()
    joints[3] = np.nan
    joints[4, 2:] = np.nan
    truth = people(
        np.nan_to_num(joints), 10.0, np.where(np.isnan(joints[..., 0]), ABSENT, VISIBLE), "PCK@0.2"
    )
    bare = replace(truth, joints=joints, images=None, center=None, side=None, body=None)
    assert np.isnan(bare.box[3]) and bare.box[4] == pytest.approx(
        np.ptp(joints[4, :2], axis=0).max()
    )
    low = np.nanmin(joints[5], axis=0)
    high = np.nanmax(joints[5], axis=0)
    assert bare.box[5] == (high - low).max()
    found = evaluation.score(predicted, bare)
    wanted = evaluation.score(predicted, replace(truth, joints=joints))
    assert found == wanted and found["box_normalised"] > found["total"] > 0


def test_three_thousand_people_are_scored_in_half_a_second():
    truth, predicted = crowd(2958, spread=3.0)
    start = time.process_time()
    evaluation.score(predicted, truth)
    assert time.process_time() - start < 0.5


def test_area_under_the_curve():
    joints = np.zeros((1, 16, 2))
    assert evaluation.score(joints, people(joints, 10.0))["auc"] == 100
    half = evaluation.score(joints + [2.5, 0], people(joints, 10.0))["auc"]  # right from 0.25 on
    assert half == pytest.approx(51, abs=0.01)
    assert evaluation.score(joints + [9, 0], people(joints, 10.0))["auc"] == 0


def test_interval_is_seeded_and_as_wide_as_the_binomial_says():
    """400 people of one joint each, 80 % right: ± 1.96 · sqrt(0.8 · 0.2 / 400) = 3.9 points."""
    joints = np.full((400, 16, 2), np.nan)
    joints[:, 0] = 0
    truth = replace(people(np.zeros((400, 16, 2)), 10.0), joints=joints)
    predicted = np.zeros((400, 16, 2))
    predicted[:80] += 99
    low, high = evaluation.score(predicted, truth)["ci95"]
    assert 80 - low == pytest.approx(3.92, abs=0.5) and high - 80 == pytest.approx(3.92, abs=0.5)
    assert evaluation.score(predicted, truth)["ci95"] == [low, high]
    assert evaluation.score(predicted, truth, seed=1)["ci95"] != [low, high]


def test_resamples_without_any_joint_are_left_out():
    """One person of four has joints, all right: a third of the resamples leave that one out."""
    joints = np.full((4, 16, 2), np.nan)
    joints[0] = 0
    truth = people(joints, 10.0)
    assert evaluation.score(np.zeros((4, 16, 2)), truth)["ci95"] == [100, 100]
    wrong = np.full((4, 16, 2), 99.0)
    lead = evaluation.paired([np.zeros((4, 16, 2))], [wrong], truth)
    assert lead["total"] == {"difference": 100, "ci95": [100, 100]}
    assert lead["occluded"] is None, "nobody has one"


def test_a_few_people_with_occluded_joints_are_enough_for_a_difference():
    truth, predicted = crowd(200, spread=0.1)
    truth.visibility[:5, 0] = OCCLUDED
    wrong = predicted.copy()
    wrong[:5, 0] += 99
    lead = evaluation.paired([predicted], [wrong], truth)
    assert lead["occluded"] == {"difference": 100, "ci95": [100, 100]}
    assert lead["occluded_minus_visible"]["difference"] == 100


def test_people_of_unknown_head_size_count_in_no_convention():
    truth, predicted = crowd(2, spread=0.1)
    truth.normaliser[1] = np.nan
    found = evaluation.conventions(predicted, truth)
    assert found["pelvis and thorax pooled too"] == found["pooled over 14 joints"] == 100
    assert found["missing truth counted as wrong"] == 100


def test_without_labels_there_is_no_convention_of_visible_joints():
    truth, predicted = crowd(2, spread=0.1)
    known, unknown = (
        evaluation.conventions(predicted, replace(truth, occlusion_labels=told))
        for told in (True, False)
    )
    assert known["visible joints only"] == 100 and np.isnan(unknown["visible joints only"])


def test_interval_resamples_people_not_joints():
    """14 joints that rise and fall together are one observation: the interval does not shrink."""
    joints = np.zeros((100, 16, 2))
    predicted = joints.copy()
    predicted[:50] += 99
    low, high = evaluation.score(predicted, people(joints, 10.0))["ci95"]
    assert 8 < 50 - low < 12 and 8 < high - 50 < 12


def test_resamples_do_not_depend_on_how_many_are_in_memory(monkeypatch):
    counts = np.random.default_rng(0).integers(0, 15, (100, 3))
    whole = evaluation.resampled_sums(counts, 0)
    monkeypatch.setattr(evaluation, "SAMPLED_AT_ONCE", 700)
    assert (evaluation.resampled_sums(counts, 0) == whole).all()
    assert whole.shape == (1001, 3) and whole.std(0).min() > 10
    assert (whole[0] == counts.sum(0)).all(), "first of everybody"


def test_resamples_of_very_many_people_fit_into_memory(monkeypatch):
    monkeypatch.setattr(evaluation, "RESAMPLES", 100)
    tracemalloc.start()
    evaluation.resampled_sums(np.ones((200_000, 2), int), 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


def test_nobody_to_score_gives_null_everywhere():
    truth, predicted = crowd(3)
    found = evaluation.score(predicted, replace(truth, normaliser=np.full(3, np.nan)))
    assert all(
        found[key] is None
        for key in ("total", "total_macro", "head", "auc", "at_0.1", "ci95", "visible")
    )
    assert (found["persons"], found["joints"], found["left_out"]) == (0, 0, 3)
    assert evaluation.table({"nobody": found}).loc["nobody", "persons"] == 0


def test_score_json_has_the_agreed_keys():
    truth, predicted = crowd()
    found = json.loads(json.dumps(evaluation.score(predicted, truth)))
    assert set(
        "metric total total_macro head shoulder elbow wrist hip knee ankle head_top "
        "visible occluded at_0.1 auc ci95 persons joints left_out".split()
    ) <= set(found)


def test_predictions_of_another_shape():
    truth, predicted = crowd(5)
    with pytest.raises(ValueError, match="expected"):
        evaluation.score(predicted[:4], truth)


def test_table_has_a_row_for_each_score():
    truth, predicted = crowd(spread=3.0)
    rows = {
        "ours": evaluation.score(predicted, truth),
        "perfect": evaluation.score(truth.joints, truth),
    }
    found = evaluation.table(rows)
    assert isinstance(found, pd.DataFrame) and list(found.index) == ["ours", "perfect"]
    assert found.loc["perfect", "total"] == 100 > found.loc["ours", "total"]
    assert found.loc["perfect", "ci95"] == "100.0–100.0"
    assert (
        list(found.columns)[:8] == [*MPII.groups, "total"] and "occluded" not in found
    )  # nobody is: an empty column


def test_joint_by_joint_tells_occluded_from_visible():
    truth, predicted = crowd(10, spread=0.01)
    wrist = MPII.index("left_wrist")
    hidden = truth.visibility.copy()
    hidden[:4, wrist] = OCCLUDED
    predicted[:1, wrist] += 900
    table = evaluation.by_joint({"one": predicted}, replace(truth, visibility=hidden))
    assert (
        table.loc["left_wrist", ("one", "occluded")] == 75
        and table.loc["left_wrist", ("one", "visible")] == 100
    )
    assert table.loc["left_wrist", ("joints", "occluded")] == 4 and len(table) == 14
    unlabelled = evaluation.by_joint({"one": predicted}, replace(truth, occlusion_labels=False))
    assert next(iter(unlabelled)) == ("one", "annotated")
    some = replace(truth, visibility=hidden, occlusion_labels=False)
    every = evaluation.by_joint({"one": predicted}, some).loc["left_wrist"]
    assert every["one", "annotated"] == 90 and every["joints", "annotated"] == 10


# ---- hits, and differences on the same people


def answered(truth, *wrong):
    """The truth as predictions, but 99 px off at `wrong`: (people, joints), indices or slices."""
    predicted = truth.joints.copy()
    for persons, joints in wrong:
        predicted[persons, joints] += 99
    return predicted


def half_hidden(count=10):
    """Joint 0 of everybody occluded: of 10 people 10 joints, beside 130 visible ones that count."""
    truth, _ = crowd(count)
    visibility = truth.visibility.copy()
    visibility[:, 0] = OCCLUDED
    return replace(truth, visibility=visibility)


def test_hits_are_what_the_score_counts():
    truth, predicted = crowd(30, spread=4.0)
    predicted[0, 0] = np.nan
    visibility = truth.visibility.copy()
    visibility[1, 1] = ABSENT
    normaliser = np.where(np.arange(30) == 2, np.nan, truth.normaliser)
    truth = replace(truth, visibility=visibility, normaliser=normaliser)
    hits = evaluation.within_threshold(predicted, truth)
    assert (
        hits.shape == (30, 16)
        and hits.dtype == bool
        and not hits[0, 0]
        and not hits[1, 1]
        and not hits[2].any()
    )
    assert not hits[:, [PELVIS, THORAX]].any()
    found = evaluation.score(predicted, truth)
    assert (
        100 * hits.sum() / found["joints"] == pytest.approx(found["total"])
        and 0 < found["total"] < 100
    )


def test_predictions_against_themselves_differ_by_nothing():
    truth = half_hidden(50)
    (_, predicted) = crowd(50, spread=6.0)
    assert 10 < evaluation.score(predicted, truth)["total"] < 90
    for plus, minus in (
        ([predicted], [predicted]),
        ([predicted, truth.joints], [truth.joints, predicted]),
    ):
        found = evaluation.paired(plus, minus, truth)
        assert list(found) == ["total", "visible", "occluded", "occluded_minus_visible"]
        assert all(part == {"difference": 0, "ci95": [0, 0]} for part in found.values())


def test_a_lead_is_counted_in_points_part_by_part():
    """The other is wrong on 5 of 10 occluded joints and on one of each person's 13 visible ones."""
    truth = half_hidden()
    ours = answered(truth)
    other = answered(truth, (slice(5), 0), (slice(None), 1))
    found = evaluation.paired([ours], [other], truth)
    wanted = {
        "total": 1500 / 140,
        "visible": 100 / 13,
        "occluded": 50,
        "occluded_minus_visible": 50 - 100 / 13,
    }
    assert {name: part["difference"] for name, part in found.items()} == pytest.approx(wanted)
    assert found["visible"]["ci95"] == pytest.approx(
        [100 / 13] * 2
    )  # the same for everyone: nothing to resample
    low, high = found["occluded"]["ci95"]
    assert 10 <= low < 50 < high <= 90
    turned = evaluation.paired([other], [ours], truth)
    for name, part in found.items():
        assert turned[name]["difference"] == pytest.approx(-part["difference"])
        assert turned[name]["ci95"] == pytest.approx([-edge for edge in part["ci95"][::-1]])


def test_a_lead_is_the_difference_of_the_scores():
    truth, ours = crowd(40, spread=4.0)
    other = np.where(
        np.arange(16)[:, None] < 3,
        np.nan,
        crowd(40, seed=1, spread=6.0)[1] - crowd(40, 1)[0].joints + truth.joints,
    )
    joints = truth.joints.copy()
    joints[3] = np.nan
    joints[4, :9] = np.nan
    truth = replace(
        half_hidden(40),
        joints=joints,
        normaliser=np.where(np.arange(40) == 7, np.nan, truth.normaliser),
    )
    scores = [evaluation.score(answer, truth) for answer in (ours, other)]
    found = evaluation.paired([ours], [other], truth)
    for part in ("total", "visible", "occluded"):
        assert found[part]["difference"] == pytest.approx(scores[0][part] - scores[1][part])


def test_how_much_larger_one_lead_is_than_another():
    truth = half_hidden()
    a = answered(truth)
    b = answered(truth, (slice(8), 1))  # a leads b by 8 of 140
    c = answered(truth, (0, 2))
    d = answered(truth, (slice(4), 2))  # c leads d by 3
    lead = evaluation.paired([a, d], [b, c], truth)["total"]
    assert lead["difference"] == pytest.approx(500 / 140)
    single = [
        evaluation.paired([one], [other], truth)["total"]["difference"]
        for one, other in ((a, b), (c, d))
    ]
    assert (
        single == pytest.approx([800 / 140, 300 / 140])
        and lead["ci95"][0] < 500 / 140 < lead["ci95"][1]
    )


def test_what_is_hard_for_both_falls_out_of_the_interval_of_their_difference():
    truth, _ = crowd(100)
    ours = answered(truth, (slice(50), slice(1, None)))
    other = answered(truth, (slice(50), slice(None)), (slice(50, None), 0))
    low, high = evaluation.score(ours, truth)["ci95"]
    found = evaluation.paired([ours], [other], truth)["total"]
    assert high - low > 10 and found["ci95"] == pytest.approx([100 / 14] * 2)


def test_every_resample_is_shared_by_its_own_joints():
    """A lead on each joint that there is: 100 points, however many joints the people drawn have."""
    truth, _ = crowd(40)
    joints = truth.joints.copy()
    joints[:20, 1:] = np.nan
    truth = replace(truth, joints=joints)
    found = evaluation.paired([np.nan_to_num(joints)], [np.full_like(joints, np.inf)], truth)
    assert found["total"] == {"difference": 100, "ci95": [100, 100]}


def test_the_interval_of_a_lead_is_seeded_and_as_wide_as_the_binomial_says():
    """400 people of one joint, which one answer misses on 80: 20 ± 1.96 · sqrt(0.8 · 0.2 / 400)."""
    joints = np.full((400, 16, 2), np.nan)
    joints[:, 0] = 0
    truth = replace(people(np.zeros((400, 16, 2)), 10.0), joints=joints)
    right = np.zeros((400, 16, 2))
    other = np.where(np.arange(400)[:, None, None] < 80, 99.0, np.zeros((400, 16, 2)))
    found = evaluation.paired([right], [other], truth)["total"]
    assert found["difference"] == 20
    assert np.abs(np.array(found["ci95"]) - (20 - 3.92, 20 + 3.92)).max() < 0.5
    assert evaluation.paired([right], [other], truth)["total"] == found
    assert evaluation.paired([right], [other], truth, seed=1)["total"]["ci95"] != found["ci95"]


def test_what_the_truth_cannot_tell_is_no_difference():
    truth = half_hidden()
    found = evaluation.paired(
        [answered(truth)], [answered(truth, (0, 0))], replace(truth, occlusion_labels=False)
    )
    assert found["total"]["difference"] == pytest.approx(100 / 140)
    assert found["visible"] is found["occluded"] is found["occluded_minus_visible"] is None
    seen, _ = crowd(10)  # labels, but nobody is occluded
    found = evaluation.paired([answered(seen)], [answered(seen, (0, 0))], seen)
    assert (
        found["visible"] == found["total"]
        and found["occluded"] is found["occluded_minus_visible"] is None
    )
    nobody = replace(truth, normaliser=np.full(10, np.nan))
    assert set(evaluation.paired([truth.joints], [truth.joints], nobody).values()) == {None}


def test_a_difference_is_what_everybody_says_between_what_resamples_say():
    points = np.concatenate([[7.0], np.arange(1001) / 10])
    assert evaluation.difference(points) == {"difference": 7, "ci95": pytest.approx([2.5, 97.5])}
    assert evaluation.difference(np.array([np.nan, 1, 2])) is None


@pytest.mark.parametrize(
    "edges, word, text",
    [
        ((0.1, 6.34), "holds", "+5.1 [0.1, 6.3]"),
        ((-1.0, 6.0), "undecided", "+5.1 [-1.0, 6.0]"),
        ((0.0, 6.0), "undecided", "+5.1 [0.0, 6.0]"),
        ((-6.0, 0.0), "undecided", "+5.1 [-6.0, 0.0]"),
        ((-6.0, -0.2), "fails", "+5.1 [-6.0, -0.2]"),
        ((5.06, 5.06), "undecided", "+5.1 [5.1, 5.1]"),
        (None, "not measurable", "–"),
    ],
)
def test_a_difference_in_words(edges, word, text):
    found = edges and {"difference": 5.06, "ci95": list(edges)}
    assert claims.verdict(found) == word and evaluation.format_difference(found) == text


def test_leads_on_hidden_joints_beside_visible_ones_of_the_same_names():
    """`plus` has all wrists right and `minus` none; most wrists are hidden, no head is."""
    truth, _ = crowd(60)
    wrists = [MPII.index(f"{side}_wrist") for side in ("left", "right")]
    visibility = truth.visibility.copy()
    visibility[:40, wrists] = OCCLUDED
    truth = replace(truth, visibility=visibility)
    minus = answered(truth, *((row, wrist) for row in range(60) for wrist in wrists))
    plus = truth.joints.copy()
    found = evaluation.paired([plus], [minus], truth)["occluded_minus_visible"]
    assert found["difference"] > 50, "all hidden joints gain, few of the visible ones"
    same = same_joints.paired_on_same_joints(plus, minus, truth)
    assert same == {"difference": 0, "ci95": [0, 0]}
    plus[40:, wrists] = minus[40:, wrists]  # now only hidden wrists gain
    same = same_joints.paired_on_same_joints(plus, minus, truth)
    assert same == {"difference": 100, "ci95": [100, 100]}
    unknown = replace(truth, occlusion_labels=False)
    assert same_joints.paired_on_same_joints(plus, minus, unknown) is None


def test_who_has_one_joint_has_no_box():
    """An error of any size would be more than a fifth of it."""
    truth, predicted = crowd(2)
    visibility = truth.visibility.copy()
    visibility[1, 1:] = ABSENT
    joints = np.where(visibility[..., None] == ABSENT, np.nan, truth.joints)
    truth = replace(truth, joints=joints, visibility=visibility, metric="PCK@0.2")
    assert evaluation.box_normalised(joints + 0.1, truth) == 100


def test_a_difference_has_its_sign():
    assert (
        evaluation.format_difference({"difference": -0.06, "ci95": [-2, 1]}) == "-0.1 [-2.0, 1.0]"
    )


# ---- other people's conventions


def test_the_same_predictions_under_every_convention():
    """Two people, heads of 10 px, 27 joints that count.

    They are 7, 4.5 and 3.5 px off, and one occluded joint is far off.
    """
    truth, _ = crowd(2)
    visibility = truth.visibility.copy()
    joint = MPII.index
    visibility[1, joint("left_ankle")] = ABSENT
    visibility[0, joint("right_knee")] = OCCLUDED
    truth = replace(truth, visibility=visibility)
    predicted = answered(truth, (1, PELVIS), (0, joint("right_knee")))
    predicted[0, joint("head_top")] += 7, 0
    predicted[0, joint("left_wrist")] += 4.5, 0
    predicted[0, joint("left_elbow")] += 3.5, 0
    found = evaluation.conventions(predicted, truth)
    wanted = {
        "pooled over 14 joints": 25 / 27,
        "mean over 14 joints": 13 / 14,
        "mean of 7 columns, head top only": 6.25 / 7,
        "head column: head top only": 1 / 2,
        "head column: mean with upper neck": 3 / 4,
        "pelvis and thorax pooled too": 28 / 31,
        "visible joints only": 25 / 26,
        "moved by one pixel": 24 / 27,
        "threshold 0.1": 23 / 27,
        "missing truth counted as wrong": 25 / 28,
        "head size without its 0.6": 26 / 27,
    }
    assert (found / 100).to_dict() == pytest.approx(wanted) and list(found.index) == list(wanted)


@pytest.mark.parametrize(
    "metric, own",
    [("PCKh@0.5", "head size without its 0.6"), ("PCK@0.2", "longer side of the joints' box")],
)
def test_the_first_convention_is_ours(metric, own):
    truth, predicted = crowd(30, spread=3.0)
    predicted[0, 0] = np.nan
    truth = replace(
        truth, metric=metric, normaliser=np.where(np.arange(30) < 3, np.nan, truth.normaliser)
    )
    found = evaluation.conventions(predicted, truth)
    score = evaluation.score(predicted, truth)
    assert (
        found.iloc[0] == score["total"]
        and found.iloc[1] == score["total_macro"]
        and found.index[-1] == own
    )
    assert (
        found["threshold 0.1"] == score["at_0.1"]
        and found["head column: head top only"] == score["head_top"]
    )
    assert found["head column: mean with upper neck"] == score["head"]
    if metric == "PCK@0.2":
        assert found[own] == score["box_normalised"] != score["total"]


# ---- a patch over a joint


class Looking(nn.Module):
    """Maps with the truth's places; where the crop was changed, the detector sees its corner."""

    map_stride = 2
    first = "detection"

    def __init__(self, truth, image_size):
        super().__init__()
        self.register_buffer("mean", torch.zeros(1))
        self.plain = torch.from_numpy(truth.crops(image_size))
        self.asked = []
        self.points = np.stack(
            [frame.to_crop(joints) for frame, joints in zip(truth.frames(image_size), truth.joints)]
        )

    def forward(self, images):
        changed = (images != self.plain).any(-1)
        self.asked.append(changed)
        points = torch.from_numpy(self.points.round().astype(int)).clamp(0, images.shape[1] - 1)
        person = torch.arange(len(images))[:, None]
        blind = changed[person, points[..., 1], points[..., 0]]
        cells = points // 2
        maps = torch.full((2, len(images), 16, 32, 32), -9.0)
        seen = torch.where(blind[..., None], 0, cells)
        joint = torch.arange(16)
        maps[0, person, joint, seen[..., 1], seen[..., 0]] = torch.where(blind, -2.0, 9.0)
        maps[1, person, joint, cells[..., 1], cells[..., 0]] = torch.where(blind, 0.25, 0.75)
        return Maps(maps[0], maps[1])


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return load_people("synthetic", "", "1-6", 64, cache=tmp_path_factory.mktemp("cache"))


def test_a_patch_over_a_joint_is_put_where_the_joint_is(drawn):
    seen = Looking(drawn, 64)
    found = probes.cover_one_joint(seen, drawn, 64, [0.0, 0.2], decoder="argmax")
    assert (
        found.index.tolist() == [0.0, 0.2] and found.index.name == "side of the patch, body heights"
    )
    assert list(found) == ["detector", "cascade", "detector's peak", "cascade's peak"]
    assert found.loc[0.0].tolist() == pytest.approx(
        [100, 100, 1 / (1 + np.exp(-9)), 0.75], abs=1e-4
    )
    assert found.loc[0.2].tolist() == pytest.approx([0, 100, 1 / (1 + np.exp(2)), 0.25], abs=1e-4)
    plain, patched = (changed.numpy() for changed in seen.asked)
    assert not plain.any()
    for row, changed in enumerate(patched):
        rows, columns = np.nonzero(changed)
        width = np.ptp(columns) + 1
        body = drawn.frame(row, 64).body_in_crop
        inside = columns.min() > 0 and columns.max() < 63 and rows.min() > 0 and rows.max() < 63
        assert not inside or (
            abs(width - 0.2 * body) <= 1.5 and abs(np.ptp(rows) - np.ptp(columns)) <= 1
        )


def test_examples_of_a_covered_joint_are_named_by_what_both_networks_answer(drawn):
    wrist = MPII.index("left_wrist")
    seen = drawn[drawn.visibility[:, wrist] == VISIBLE]
    found = probes.covered_examples(Looking(seen, 64), seen, 64, wrist, 0.2)
    count = len(seen)
    ((title, row),) = found.items()
    assert title == f"found by the cascade alone, as in {count} of {count} people"
    points = seen.joints_in_crops(64)[:, wrist]
    answers = probes.predict_covered(
        Looking(seen, 64), seen.crops(64), seen.frames(64), points, 0.2
    )
    error = evaluation.errors(answers.joints, seen)[0][:, wrist]
    assert error[row] == error.min() and 0 <= row < count > 1
    assert not probes.covered_examples(Looking(seen, 64), seen, 64, wrist, 0.0), "no patch"
    hidden = drawn[drawn.visibility[:, wrist] != VISIBLE]
    assert not probes.covered_examples(Looking(hidden, 64), hidden, 64, wrist, 0.2)


def test_only_visible_scored_joints_of_people_with_a_normaliser_are_covered(drawn):
    """One joint of each is left to choose: the first visible one that is scored."""
    visibility = np.full_like(drawn.visibility, OCCLUDED)
    normaliser = drawn.normaliser.copy()
    visibility[:, [PELVIS, MPII.index("head_top")]] = VISIBLE
    normaliser[2] = np.nan
    visibility[4] = OCCLUDED  # nothing of this one is visible
    asked = replace(drawn, visibility=visibility, normaliser=normaliser)[:5]
    seen = Looking(drawn[[0, 1, 3]], 64)
    probes.cover_one_joint(seen, asked, 64, [0.1], decoder="argmax")
    heads = np.rint(seen.points[:, MPII.index("head_top")]).astype(int)
    assert len(seen.asked[0]) == 3 and all(
        changed[y, x] for changed, (x, y) in zip(seen.asked[0], heads)
    )


def test_a_joint_outside_the_crop_cannot_be_covered(drawn):
    can = probes.can_be_covered(drawn, 64)
    person, joint = np.argwhere(can)[0]
    centres = drawn.center.copy()
    centres[person, 0] += 2 * drawn.body[person]  # the crop lies beside the person
    beside = probes.can_be_covered(replace(drawn, center=centres), 64)
    assert not beside[person].any() and np.array_equal(beside[1:], can[1:]) and person == 0


def test_which_joint_is_covered_is_seeded(drawn):
    seen = Looking(drawn, 64)
    for seed in (0, 0, 1):
        probes.cover_one_joint(seen, drawn, 64, [0.1], seed)
    one, again, other = seen.asked
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_conventions_of_what_nobody_has_are_undefined():
    truth, predicted = crowd(5)
    visibility = truth.visibility.copy()
    visibility[:, [MPII.index("left_wrist"), MPII.index("right_wrist")]] = ABSENT
    found = evaluation.conventions(predicted, replace(truth, visibility=visibility))
    assert found["mean of 7 columns, head top only"] == pytest.approx(100)  # of those there are
    nobody = evaluation.conventions(predicted, replace(truth, normaliser=np.full(5, np.nan)))
    assert np.isnan(nobody["pooled over 14 joints"]) and np.isnan(
        nobody["mean of 7 columns, head top only"]
    )


def test_the_curve_is_the_last_network_s_on_the_first_people(monkeypatch):
    people = load_people("synthetic", people="1-6", image_size=32)
    asked = []

    def predict(cascade, some, image_size, flip_test):
        asked.append((some.keys.tolist(), image_size, flip_test))
        return SimpleNamespace(joints=some.joints, detector_joints=some.joints + 1000)

    monkeypatch.setattr(evaluation, "predict", predict)
    found = evaluation.monitor(people, 32, count=2)(None)
    assert found[people.metric] == 100 and asked == [(people.keys[:2].tolist(), 32, False)]


def test_an_error_of_a_fifth_of_the_box_is_right():
    people = load_people("synthetic", people="1-3", image_size=32)
    joints = np.zeros((3, 16, 2))
    seen = np.full((3, 16), VISIBLE, np.int8)
    joints[:, 0, 0] = 50
    people = replace(people, joints=joints, visibility=seen)
    for error, right in ((10, 100), (11, 0)):
        assert evaluation.box_normalised(people.joints + (error, 0), people) == right
