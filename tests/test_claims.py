"""Claims as data, their verdicts over seeds, and the rows that they compare."""

import numpy as np
import pandas as pd
import pytest
from test_evaluation import answered, crowd

from hpe_lib import ablation, claims, evaluation, rivals
from hpe_lib.skeleton import MPII, OCCLUDED, VISIBLE
from hpe_lib.workbook.artifacts import BadInput

RES = "detection+regression (Res)"
L2 = "regression+regression (Res)"
FIRST = "1 det+reg > reg+reg"

OWN = [{}, {}, {"regressor": "hourglass"}]  # a run of the residual kind


def wrong(people, count):
    """Predictions with the left wrist of the first `count` people far off."""
    wrist = MPII.index("left_wrist")
    return answered(people, *((row, wrist) for row in range(count)))


def test_the_criterion_compares_rows_that_there_are():
    rows = ablation.table_rows({}, OWN) | ablation.controls({"detector.epochs": 1}, ["all"])
    assert list(rows)[:6] == list(rivals.published(5).index)
    table = claims.criterion()
    named = {name for column in ("better", "worse", "more_than", "over") for name in table[column]}
    assert {name for name in named if name and not name.startswith("03 to 05")} <= set(rows)
    assert set(table.joints) == {"total", "occluded_minus_visible"}
    third = table.loc["3 gap larger with VGG"]
    assert third.tolist()[:2] == ["detection+regression (VGG)", "regression+regression (VGG)"]
    assert (third.more_than, third.over) == (RES, L2)


def test_a_claim_holds_only_if_it_does_with_every_seed():
    people, _ = crowd(50)
    answers = {}
    for seed, lost in enumerate((30, 20, 1)):
        answers[RES, seed] = people.joints
        answers[L2, seed] = wrong(people, lost)
    two = {row: joints for row, joints in answers.items() if row[1] < 2}
    found = claims.judge(two, people, "made, 1 epoch")[FIRST]
    assert found["verdict"] == "holds: made, 1 epoch, 2 seeds" and found["signs"] == 2
    assert found["difference"] == pytest.approx(100 * 25 / (50 * 14))
    wanted = evaluation.paired([people.joints], [answers[L2, 1]], people)
    assert found["seeds"]["1"] == wanted
    three = claims.judge(answers, people, "made, 1 epoch")[FIRST]
    assert three["verdict"] == "undecided: made, 1 epoch, 3 seeds" and three["signs"] == 3
    turned = {(RES if name == L2 else L2, seed): joints for (name, seed), joints in two.items()}
    failed = claims.judge(turned, people, "made, 1 epoch")[FIRST]
    assert failed["verdict"] == "fails: made, 1 epoch, 2 seeds" and failed["signs"] == 0


def test_seeds_that_were_judged_one_by_one_have_one_verdict_together():
    people, _ = crowd(50)
    judged = []
    answers = {}
    for seed, lost in enumerate((30, 1)):
        of_seed = {(RES, seed): people.joints, (L2, seed): wrong(people, lost)}
        judged.append(claims.judge(of_seed, people, "made, 1 epoch"))
        answers |= of_seed
    together = claims.judge(answers, people, "made, 1 epoch")
    assert claims.merge(*judged) == together
    leads = ", ".join(f"+{100 * lost / (50 * 14):.1f}" for lost in (30, 1))
    assert claims.in_brief(together) == {FIRST: f"undecided: {leads}"}


def test_verdicts_are_counted_without_those_beside_the_criterion():
    verdicts = {"1 a > b": "holds", "1 b > c": "holds", "2 c > d": "undecided", "4 e > f": "fails"}
    verdicts |= {"03 to 05: g": "holds", "h, equal steps": "holds"}
    judged = {name: {"verdict": f"{word}: made, 1 seed"} for name, word in verdicts.items()}
    assert claims.count_verdicts(judged) == "4 claims: 2 hold, 1 undecided, 1 fail"
    assert claims.count_verdicts({"03 to 05: g": judged["03 to 05: g"]}).startswith("no claim")


def test_a_gap_is_the_lead_of_one_pair_over_that_of_another():
    people, _ = crowd(50)
    lost = {RES: 0, L2: 10, "detection+regression (VGG)": 5, "regression+regression (VGG)": 40}
    answers = {(name, 0): wrong(people, count) for name, count in lost.items()}
    found = claims.judge(answers, people, "made")
    assert found["3 gap larger with VGG"]["difference"] == pytest.approx(100 * 25 / (50 * 14))
    assert "1 reg+reg > reg only" not in found  # nobody trained that row


def test_a_claim_on_occluded_joints_says_where_nothing_can_be_measured():
    people, _ = crowd(50)
    answers = {(RES, 0): people.joints, ("detection only (Res)", 0): wrong(people, 30)}
    claim = "4 more on occluded joints"
    unknown = claims.judge(answers, people, "made")[claim]
    assert unknown["verdict"].startswith("not measurable") and unknown["difference"] is None
    people.visibility[:] = np.where(np.isin(MPII.names, ["left_wrist"]), OCCLUDED, VISIBLE)
    known = claims.judge(answers, people, "made")
    assert known[claim]["verdict"].startswith("holds") and known[claim]["difference"] == 60
    table = claims.table(known)
    assert table.loc[claim, ["mean", "above 0"]].tolist() == ["+60.0", "1 of 1"]
    assert table.loc[claim, "seed 0, occluded"].startswith("+60.0 [")
    assert isinstance(claims.table({claim: unknown}), pd.DataFrame)


def test_rows_are_three_arguments_and_controls_have_names():
    rows = ablation.table_rows({"trunk": "vgg16"}, OWN)
    stages, changes = rows["regression+regression (VGG)"]
    assert stages == ablation.ALL and changes["first"] == "regression"
    assert changes["trunk"] == "vgg16" and changes["regressor"] == "convolutions"
    assert rows["detection only (Res)"] == (
        ("detector",),
        {"first": "detection", "first_sees": "", "first_maps": "", "stacked": "both"},
    )
    began = ablation.table_rows({}, [{"init_from": "another"}, *OWN[1:]])
    assert list(began) == ["detection+regression (Res)", "detection only (Res)"]
    with pytest.raises(BadInput, match="at least one epoch of the first stage"):
        ablation.stage_budget([0, 0, 13])
    pair = ablation.table_rows({"trunk": "vgg16"}, [{}, {}, {"regressor": "convolutions"}])
    assert list(pair) == ["detection+regression (VGG)", "regression+regression (VGG)"]
    budget = {"detector.epochs": 1, "regressor.epochs": 2, "joint.epochs": 4}
    control = ablation.controls(budget, ["disc radius 5"])
    assert list(control) == ["detection only for all steps", "disc radius 5"]
    assert control["detection only for all steps"][1]["detector.epochs"] == 7
    with pytest.raises(BadInput, match="disc radius 6.*disc radius 5"):
        ablation.controls(budget, ["disc radius 6"])
