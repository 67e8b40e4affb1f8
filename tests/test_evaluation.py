import json
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from hpe_lib import evaluation
from hpe_lib.datasets import People, Pixels
from hpe_lib.skeleton import ABSENT, MPII, OCCLUDED, VISIBLE

PELVIS, THORAX = MPII.index("pelvis"), MPII.index("thorax")


def people(joints, normaliser, visibility=None, metric="PCKh@0.5", occlusion_labels=True):
    count = len(joints)
    if visibility is None:
        visibility = np.where(np.isnan(joints[..., 0]), ABSENT, VISIBLE)
    return People("made", np.arange(count).astype(str), Pixels(np.zeros((count, 4, 4, 3), np.uint8), "made"),
                  joints.astype(float), visibility.astype(np.int8), np.zeros((count, 2)), np.ones(count),
                  np.ones(count), np.broadcast_to(normaliser, count).astype(float),
                  (np.nanmax(joints, 1) - np.nanmin(joints, 1)).max(1), metric, occlusion_labels, False)


def crowd(count=50, seed=0, spread=1.0):
    """(people, predictions with Gaussian errors), head size 10 px."""
    random = np.random.default_rng(seed)
    joints = random.uniform(0, 200, (count, 16, 2))
    return people(joints, 10.0), joints + random.normal(0, spread, joints.shape)


# ---- conventions, by value


def test_a_distance_at_the_threshold_is_right():
    """Head size 60 px (a box of 80 × 60, times 0.6): 30 px off is right at 0.5, the next float is wrong; so at 0.1."""
    joints = np.zeros((1, 16, 2))
    for threshold, key in ((0.5, "total"), (0.1, "at_0.1")):
        predicted = joints + [60 * threshold, 0]
        assert evaluation.score(predicted, people(joints, 0.6 * np.hypot(80, 60)))[key] == 100
        assert evaluation.score(np.nextafter(predicted, np.inf), people(joints, 60.0))[key] == 0
    assert evaluation.score(joints + [6.3, 0], people(joints, 60.0))["at_0.1"] == 0  # @0.105: wrong, not "@0.11"


def test_the_metric_s_name_carries_its_threshold():
    joints = np.zeros((1, 16, 2))
    assert evaluation.score(joints + [3, 0], people(joints, 10.0, metric="PCK@0.2"))["total"] == 0
    assert evaluation.score(joints + [3, 0], people(joints, 10.0, metric="PCKh@0.5"))["total"] == 100


def test_missing_truth_is_ignored_and_a_missing_prediction_is_wrong():
    truth, predicted = crowd(20, spread=0.01)
    assert evaluation.score(predicted, truth)["total"] == 100
    for wrong in (np.nan, np.inf):
        some = predicted.copy()
        some[:5, 0], some[0, 1, 1] = wrong, wrong
        found = evaluation.score(some, truth)
        assert found["total"] == pytest.approx(100 * (280 - 6) / 280) and found["joints"] == 280
        assert found["not_finite"] == 6 and evaluation.score(predicted, truth)["not_finite"] == 0
    joints = truth.joints.copy()
    joints[3], joints[4, 2] = np.nan, np.nan  # one person without any joint adds nothing, above or below
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
    assert found["total"] == pytest.approx(100 * 130 / 131) and found["total_macro"] == pytest.approx(100 * 13 / 14)
    assert found["ankle"] == 50 and found["knee"] == 100  # a column is the mean of left and right, as published


def test_groups_go_by_name():
    truth, predicted = crowd(spread=0.01)
    predicted[:, MPII.index("left_wrist")] += 50
    predicted[:, MPII.index("head_top")] += 50
    found = evaluation.score(predicted, truth)
    assert [found[group] for group in MPII.groups] == [50, 100, 100, 50, 100, 100, 100] and found["head_top"] == 0


def test_people_without_normaliser_are_left_out_and_counted_but_have_a_box():
    truth, predicted = crowd(20, spread=0.01)
    predicted[:5] += 500
    normaliser = truth.normaliser.copy()
    normaliser[:5] = np.nan
    found = evaluation.score(predicted, replace(truth, normaliser=normaliser))
    assert (found["total"], found["persons"], found["left_out"], found["joints"]) == (100, 15, 5, 15 * 14)
    assert found["box_normalised"] is None  # a rule of PCK, not of PCKh
    on_lsp = evaluation.score(predicted, replace(truth, normaliser=normaliser, metric="PCK@0.2"))
    assert on_lsp["box_normalised"] == 75 and on_lsp["left_out"] == 5


def test_visible_and_occluded_are_told_apart_where_labels_say_so():
    truth, predicted = crowd(20, spread=0.01)
    visibility = truth.visibility.copy()
    visibility[:, :4] = OCCLUDED
    predicted[:, 0] += 500
    found = evaluation.score(predicted, replace(truth, visibility=visibility))
    assert (found["visible"], found["occluded"]) == (100, 75) and found["total"] == pytest.approx(100 * 13 / 14)
    unlabelled = evaluation.score(predicted, replace(truth, occlusion_labels=False))
    assert unlabelled["visible"] is None and unlabelled["occluded"] is None


def test_a_truth_without_images_scores_as_people_do():
    truth, predicted = crowd(20, spread=4.0)
    joints = truth.joints.copy()
    joints[3], joints[4, 2:] = np.nan, np.nan
    truth = people(np.nan_to_num(joints), 10.0, np.where(np.isnan(joints[..., 0]), ABSENT, VISIBLE), "PCK@0.2")
    bare = evaluation.Truth(joints, truth.visibility, truth.normaliser, truth.metric, True, "made")
    assert np.isnan(bare.box[3]) and bare.box[4] == pytest.approx(np.ptp(joints[4, :2], axis=0).max())
    low, high = np.nanmin(joints[5], axis=0), np.nanmax(joints[5], axis=0)
    assert bare.box[5] == (high - low).max()
    found, wanted = evaluation.score(predicted, bare), evaluation.score(predicted, replace(truth, box=bare.box))
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
    """400 people of one joint each, 80 % right: 1.96 · sqrt(0.8 · 0.2 / 400) = 3.9 points on each side."""
    joints = np.full((400, 16, 2), np.nan)
    joints[:, 0] = 0
    truth = replace(people(np.zeros((400, 16, 2)), 10.0), joints=joints)
    predicted = np.zeros((400, 16, 2))
    predicted[:80] += 99
    low, high = evaluation.score(predicted, truth)["ci95"]
    assert 80 - low == pytest.approx(3.92, abs=0.5) and high - 80 == pytest.approx(3.92, abs=0.5)
    assert evaluation.score(predicted, truth)["ci95"] == [low, high]
    assert evaluation.score(predicted, truth, seed=1)["ci95"] != [low, high]


def test_interval_resamples_people_not_joints():
    """14 joints that rise and fall together are one observation: the interval does not shrink."""
    joints = np.zeros((100, 16, 2))
    predicted = joints.copy()
    predicted[:50] += 99
    low, high = evaluation.score(predicted, people(joints, 10.0))["ci95"]
    assert 8 < 50 - low < 12 and 8 < high - 50 < 12


def test_nobody_to_score_gives_null_everywhere():
    truth, predicted = crowd(3)
    found = evaluation.score(predicted, replace(truth, normaliser=np.full(3, np.nan)))
    assert all(found[key] is None for key in ("total", "total_macro", "head", "auc", "at_0.1", "ci95", "visible"))
    assert (found["persons"], found["joints"], found["left_out"]) == (0, 0, 3)
    assert evaluation.table({"nobody": found}).loc["nobody", "persons"] == 0


def test_score_json_has_the_agreed_keys():
    truth, predicted = crowd()
    found = json.loads(json.dumps(evaluation.score(predicted, truth)))
    assert set("metric total total_macro head shoulder elbow wrist hip knee ankle head_top visible occluded at_0.1 auc "
               "ci95 persons joints left_out".split()) <= set(found)


def test_predictions_of_another_shape():
    truth, predicted = crowd(5)
    with pytest.raises(ValueError, match="expected"):
        evaluation.score(predicted[:4], truth)


def test_table_has_a_row_for_each_score():
    truth, predicted = crowd(spread=3.0)
    rows = {"ours": evaluation.score(predicted, truth), "perfect": evaluation.score(truth.joints, truth)}
    found = evaluation.table(rows)
    assert isinstance(found, pd.DataFrame) and list(found.index) == ["ours", "perfect"]
    assert found.loc["perfect", "total"] == 100 > found.loc["ours", "total"]
    assert found.loc["perfect", "ci95"] == "100.0–100.0"
    assert list(found.columns)[:8] == [*MPII.groups, "total"] and "occluded" not in found  # nobody is: an empty column


def test_joint_by_joint_tells_occluded_from_visible():
    truth, predicted = crowd(10, spread=0.01)
    wrist = MPII.index("left_wrist")
    hidden = truth.visibility.copy()
    hidden[:4, wrist] = OCCLUDED
    predicted[:1, wrist] += 900
    table = evaluation.by_joint({"one": predicted}, replace(truth, visibility=hidden))
    assert table.loc["left_wrist", ("one", "occluded")] == 75 and table.loc["left_wrist", ("one", "visible")] == 100
    assert table.loc["left_wrist", ("joints", "occluded")] == 4 and len(table) == 14
    unlabelled = evaluation.by_joint({"one": predicted}, replace(truth, occlusion_labels=False))
    assert list(unlabelled)[0] == ("one", "annotated")
