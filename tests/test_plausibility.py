"""Notes beside a score: of files that were probably meant otherwise, not of sound ones.

Sound ones may be good or bad.
"""

import re
from dataclasses import replace

import numpy as np
import pytest

from hpe_lib import evaluation, plausibility
from hpe_lib.data import annotations
from hpe_lib.data.lsp import label_convention
from hpe_lib.data.people import People
from hpe_lib.evaluation import read_files
from hpe_lib.skeleton import ABSENT, MPII, OCCLUDED, VISIBLE

N = 40


def persons(seed=0):
    """(N, 16, 2) px: people of about 300 px in pictures of 1,000 × 600 px, head size 30 px."""
    random = np.random.default_rng(seed)
    pose = random.uniform(-150, 150, (16, 2))
    shape = pose + random.normal(0, 40, (N, 16, 2))
    return shape + random.uniform((150, 150), (850, 450), (N, 1, 2))


JOINTS = persons()
GUESS = JOINTS + np.random.default_rng(1).normal(0, 6, JOINTS.shape)
SIZES = np.random.default_rng(4).uniform(20, 40, N)  # px, of heads
PEOPLE = np.random.default_rng(2).permutation(N)
ORDER = np.random.default_rng(2).permutation(16)
LEGS = [
    MPII.index(f"{side}_{part}") for side in ("left", "right") for part in ("hip", "knee", "ankle")
]
EDGES = np.random.default_rng(2).choice([640.0, 1280.0], (N, 1))  # of images of two sizes


def mirrored(axis):
    """The guesses, counted from the far edge of each image along an axis."""
    found = GUESS.copy()
    found[..., axis] = EDGES - found[..., axis]
    return found


def truth(metric="PCKh@0.5", **changed):
    visibility = np.full((N, 16), VISIBLE, np.int8)
    made = People(
        dataset="made",
        keys=np.arange(N).astype(str),
        joints=JOINTS,
        visibility=visibility,
        normaliser=np.full(N, 30.0),
        metric=metric,
        occlusion_labels=True,
    )
    return replace(made, **changed)


def notes(predicted, **changed):
    return evaluation.score(predicted, truth(**changed))["notes"]


@pytest.mark.parametrize(
    "wrong, said",
    [
        (GUESS[..., ::-1], "with x and y exchanged the total would be 9"),
        (GUESS[:, MPII.mirror], "with left and right exchanged the total would be 9"),
        (
            GUESS[:, MPII.mirror, ::-1],
            "with x and y, and left and right, exchanged the total would be 9",
        ),
        (
            np.roll(GUESS, 1, axis=0),
            "with the people's rows moved back by one the total would be 9",
        ),
        (np.roll(GUESS, -1, axis=0), "with the people's rows moved on by one the total would be 9"),
        (GUESS[::-1], "with the people's rows in reverse the total would be 9"),
        (np.roll(GUESS, 1, axis=1), "with the joints moved back by one the total would be 9"),
        (
            GUESS[PEOPLE],
            "with the people's rows in another order, each beside whom it fits best the",
        ),
        (GUESS[:, ORDER], "with the joints in another order (right_ankle in row "),
        (mirrored(0), "with x from the image's right edge the total would be 9"),
        (
            mirrored(0)[:, MPII.mirror],
            "with x from the image's right edge, left and right exchanged the total would be 9",
        ),
        (mirrored(1), "with y from the image's lower edge the total would be 9"),
        (EDGES[..., None] - GUESS, "with the image turned by 180° the total would be 9"),
        (GUESS / (1000, 600), "look like fractions: with a scale and a shift for each person"),
        ((GUESS - GUESS.min(1, keepdims=True)) / 8, "look like pixels of a crop or of a heatmap"),
        ((GUESS * 3).astype(int) % 256, "8-bit integers that overflowed?"),
        (np.full_like(GUESS, -1), f"all joints of {N} people are predicted at one point, first"),
        (np.zeros_like(GUESS), "first person 1: (0, 0)"),
        (np.broadcast_to(GUESS[3], GUESS.shape), f"{N} of {N} people have the same predictions"),
        (JOINTS - 1, "seem to count from 0, the truth's from 1: moved by one"),
        (JOINTS + 1, "seem to count from 1, the truth's from 0: moved by one"),
    ],
)
def test_what_was_meant_otherwise_is_said_in_one_line(wrong, said):
    found = notes(wrong.astype(float))
    assert len(found) == 1 and said in found[0] and "\n" not in found[0], found


CENTRES = JOINTS.mean(1, keepdims=True)


@pytest.mark.parametrize(
    "wrong, scale",
    [
        (GUESS + 40, "(0.9"),  # px
        (GUESS + 1.2 * SIZES[:, None, None], "(0.9"),  # head sizes, as a centre that was not moved
        (CENTRES + (GUESS - CENTRES) / 1.25, "(1.2"),  # a crop's padding that was not undone
        (CENTRES + (GUESS - CENTRES) * (0.8, 1), "(1.2"),
    ],
)
def test_one_scale_and_one_shift_for_everybody_are_said(wrong, scale):
    (note,) = notes(wrong, normaliser=SIZES)
    assert note.startswith(f"with a scale of {scale}") and "the total would be 9" in note


def test_predictions_that_are_merely_poor_fit_no_better_with_a_scale_and_a_shift():
    for noise in (20, 40, 80):
        poor = JOINTS + np.random.default_rng(3).normal(0, noise, JOINTS.shape)
        assert notes(poor) == []


def test_people_without_a_prediction_are_in_no_other_row():
    """Six of them, each beside somebody who is half alike and whose prediction fits the two."""
    joints = JOINTS.copy()
    some = GUESS.copy()
    lost = np.arange(0, 12, 2)
    joints[lost + 1] = joints[lost]
    joints[lost + 1, ::2] += 60
    some[lost + 1] = some[lost]
    some[lost] = np.nan
    assert notes(some, joints=joints) == []


@pytest.mark.parametrize("step, other", [(1, "before"), (-1, "after")])
def test_rows_that_are_moved_in_a_part_of_the_file_are_said(step, other):
    some = GUESS.copy()
    some[25:35] = np.roll(some[25:35], -step, axis=0)
    (note,) = notes(some)
    assert f"fit the predictions of the row {other} theirs and not their own" in note
    assert note.startswith("9 people, from person ")


def test_a_film_s_frames_fit_their_neighbours_without_a_note():
    """Four nearly equal frames of each of ten people, a quarter from the wrong side."""
    joints = np.repeat(JOINTS[:10], 4, axis=0)
    predicted = joints + np.random.default_rng(1).normal(0, 3, joints.shape)
    predicted[2::4] = predicted[2::4, MPII.mirror]
    found = notes(predicted, joints=joints + np.arange(N)[:, None, None] / 10)
    assert found == ["25% of the people are right only with left and right exchanged"]


@pytest.mark.parametrize("order", [np.arange(11, -1, -1), np.random.default_rng(0).permutation(12)])
def test_rows_in_another_order_in_a_part_of_the_file_are_said(order):
    some = GUESS.copy()
    some[:12] = some[order]
    (note,) = notes(some)
    assert re.match(r"(about )?\d+ people.* fit the predictions of (another|the) row", note)


def test_x_and_y_exchanged_for_some_people_are_said():
    some = GUESS.copy()
    some[::8] = some[::8, :, ::-1]
    assert notes(some) == ["5 people are right only with x and y exchanged"]


def test_left_and_right_exchanged_for_some_people_are_said():
    some = GUESS.copy()
    some[::3] = some[::3, MPII.mirror]
    assert notes(some) == ["35% of the people are right only with left and right exchanged"]


def test_two_neighbouring_joints_exchanged_are_said():
    pair = [MPII.index("upper_neck"), MPII.index("head_top")]
    some = GUESS.copy()
    some[:, pair] = some[:, pair[::-1]]
    (note,) = notes(some)
    assert note.startswith("with upper_neck and head_top exchanged these would score 9")


def test_real_predictions_with_neck_and_thorax_exchanged_are_said(test_data):
    """T29: LSP's neck is no thorax. Thorax does not count, so the total hardly shows it."""
    mpii = test_data / "mpii"
    truth = mpii / "mpii_human_pose_v1_u12_1.val.mat"
    rows = mpii / "valid.h5"
    predicted, people = read_files("mpii", truth, mpii / "predictions" / "newell.h5", rows)
    assert evaluation.notes(predicted, people) == []
    pair = [MPII.index("upper_neck"), MPII.index("thorax")]
    predicted[:, pair] = predicted[:, pair[::-1]]
    (note,) = evaluation.notes(predicted, people)
    assert note.startswith("with thorax and upper_neck exchanged these would score ")


def test_a_pair_whose_sides_are_exchanged_is_said():
    ankles = [MPII.index("right_ankle"), MPII.index("left_ankle")]
    some = GUESS.copy()
    some[:, ankles] = some[:, ankles[::-1]]
    (note,) = notes(some)
    assert note.startswith("with right_ankle and left_ankle exchanged these would score ")


def test_a_joint_that_is_at_one_point_for_everybody_is_said():
    some = GUESS.copy()
    some[:, MPII.index("head_top")] = 0
    assert notes(some) == ["head_top is predicted at (0, 0) for all 40 people"]
    some[::4, MPII.index("head_top")] = 7
    assert notes(some) == ["30 joints are predicted at (0, 0): were they not found?"]


def test_people_who_are_in_the_truth_twice_are_said():
    keys = np.array([f"{row}.jpg" for row in range(N)])
    keys[5] = keys[9] = keys[3]
    assert notes(GUESS, keys=keys) == [], "an image may hold several people"
    joints = JOINTS.copy()
    joints[9] = joints[3]
    (note,) = notes(joints, keys=keys, joints=joints)
    assert note.startswith("1 people are in the truth more than once and count as often, first")
    assert note.endswith("person 4, of 3.jpg")


def test_some_people_without_a_prediction():
    some = GUESS.copy()
    some[[4, 7]] = -1
    assert notes(some) == [
        "all joints of 2 people are predicted at one point, first person 5: (-1, -1)"
    ]


@pytest.mark.parametrize(
    "wrong, said",
    [
        (GUESS[..., ::-1], "with x and y exchanged the total would be 9"),
        (GUESS[:, MPII.mirror], "with left and right exchanged the total would be 9"),
        (
            np.roll(GUESS, 1, axis=0),
            "with the people's rows moved back by one the total would be 9",
        ),
        (GUESS / (1000, 600), "look like fractions: with a scale and a shift for each person"),
    ],
)
def test_a_person_without_a_prediction_hides_nothing(wrong, said):
    some = wrong.copy()
    some[7] = 0
    alone, other = notes(some)
    assert alone == "all joints of 1 people are predicted at one point, first person 8: (0, 0)"
    assert said in other


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("axis", [0, 1])
def test_predictions_without_one_of_the_two_coordinates_are_wrong_and_have_no_note(bad, axis):
    half = GUESS.copy()
    half[..., axis] = bad
    score = evaluation.score(half, truth())
    assert score["total"] == 0 and score["not_finite"] == score["joints"] and not score["notes"]


def test_a_joint_without_a_prediction_does_not_hide_pixels_that_count_from_0():
    some = JOINTS - 1
    some[3, 5] = np.nan
    some[7] = 0
    assert any("seem to count from 0" in note for note in notes(some))


def test_joints_that_nobody_predicts_are_exchanged_with_no_other():
    upper = GUESS.copy()
    upper[:, LEGS] = np.nan
    upper[:, MPII.index("pelvis")] = JOINTS[:, MPII.index("left_hip")]
    assert not notes(upper)


def test_one_person_alone_has_no_note_on_pixels_or_on_the_normaliser():
    one = JOINTS[:1] - 1
    score = evaluation.score(one, truth()[:1])
    assert not score["notes"]


def test_people_without_a_label_are_nobody_twice():
    keys = np.array(["a.jpg"] * N)
    joints = JOINTS.copy()
    joints[[3, 4]] = np.nan
    assert not plausibility.repeated_people_notes(keys, joints)
    joints[5] = joints[6]
    (note,) = plausibility.repeated_people_notes(keys, joints)
    assert note.startswith("1 people are in the truth more than once") and "person 6," in note


def marked(mark):
    """The guesses, a fifth of the joints at one point."""
    some = GUESS.copy()
    some[np.random.default_rng(5).random((N, 16)) < 0.2] = mark
    return some


@pytest.mark.parametrize(
    "wrong, said",
    [
        (marked((0, 0)), r"\d+ joints are predicted at \(0, 0\): were they not found\?"),
        (marked((-1, -1)), r"\d+ joints are predicted at \(-1, -1\): were they not found\?"),
        (
            np.minimum(GUESS, (700, 9999)),
            r"x is at most 700, and just that for \d+ joints that lie ",
        ),
        (
            np.minimum(GUESS, (9999, 420)),
            r"y is at most 420, and just that for \d+ joints that lie ",
        ),
        (
            GUESS[..., [0, 0]],
            "most joints are predicted where x equals y: is one of them there twice",
        ),
    ],
)
def test_values_that_no_predictor_gives_are_said(wrong, said):
    (note,) = notes(wrong)
    assert re.match(said, note), note


def test_numbers_of_8_bits_that_overflowed_are_said_where_most_joints_are_right():
    joints = JOINTS * (0.15, 0.1)  # up to 150 × 60 px
    whole = joints.round().astype(np.int8).astype(float)
    small = {"joints": joints, "normaliser": np.full(N, 5.0)}
    (note,) = notes(whole, **small)
    assert re.fullmatch(r"whole numbers of -128 to 127, the truth goes up to 1\d\d", note)
    assert notes(joints.round(), **small) == []
    few = truth(**small)[:4]
    assert evaluation.score(whole[:4], few)["notes"] == [], "too few people to tell"


@pytest.mark.filterwarnings("error")
def test_a_line_of_joints_or_a_head_without_length_warns_of_nothing_else():
    flat = GUESS.copy()
    flat[..., 0] = 50
    assert all("scale" not in note for note in notes(flat))
    joints = JOINTS.copy()
    joints[0, MPII.index("head_top")] = joints[0, MPII.index("upper_neck")]
    assert notes(joints, joints=joints, dataset="mpii", normaliser=head_sizes()) == []


def test_a_coarse_grid_has_no_note():
    assert notes(GUESS // 60 * 60 + 30, normaliser=np.full(N, 60.0)) == []


@pytest.mark.parametrize("limb", [("hip", "knee", "ankle"), ("wrist", "elbow", "shoulder")])
def test_joints_of_a_limb_in_a_circle_are_said(limb):
    joints = [MPII.index(f"left_{part}") for part in limb]
    some = GUESS.copy()
    some[:, joints] = some[:, np.roll(joints, 1)]
    (note,) = notes(some)
    assert all(MPII.names[joint] in note for joint in joints)
    assert " exchanged these would score 9" in note


def test_joints_in_reverse_for_some_people_are_said():
    some = GUESS.copy()
    some[::5] = some[::5, ::-1]
    assert notes(some) == ["8 people are right only with their joints in reverse"]


def head_sizes():
    """(N,) px, as MPII's annotators drew head boxes."""
    way = JOINTS[:, MPII.index("head_top")] - JOINTS[:, MPII.index("upper_neck")]
    return 0.75 * np.linalg.norm(way, axis=1)


@pytest.mark.parametrize("factor", [1 / 0.6, 1.25, 0.6])
def test_head_sizes_that_are_not_mpii_s_are_said(factor):
    assert notes(JOINTS, dataset="mpii", normaliser=head_sizes()) == []
    (note,) = notes(JOINTS, dataset="mpii", normaliser=factor * head_sizes())
    assert note.startswith(f"head sizes are {0.75 * factor:.2f} of the way from head top to upper ")


def test_head_sizes_of_other_people_are_said():
    (note,) = notes(JOINTS, dataset="mpii", normaliser=np.roll(head_sizes(), 1))
    assert re.match(r"the head size of \d+ of 40 people does not fit the way from head top", note)


def test_real_head_sizes_are_three_quarters_of_the_way_to_the_neck(test_data):
    for name in ("mpii_human_pose_v1_u12_1.val.mat", "valid.h5"):
        found = annotations.mpii_truth(test_data / "mpii" / name)
        assert plausibility.head_notes(found.head_size, found.joints) == []
        assert plausibility.head_notes(found.head_size / 0.6, found.joints)


@pytest.mark.parametrize("name", ["newell.h5", "bearpaw-hg_s2_b1.mat"])
def test_parts_of_published_predictions_have_no_note(test_data, name):
    mpii = test_data / "mpii"
    truth = mpii / "mpii_human_pose_v1_u12_1.val.mat"
    predicted, people = read_files("mpii", truth, mpii / "predictions" / name, mpii / "valid.h5")
    for count in (1, 2, 3, 5, 8, 12, 30):
        for start in range(0, len(predicted) - count, 97):
            part = slice(start, start + count)
            assert evaluation.notes(predicted[part], people[part]) == [], part


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_few_backs_taken_for_fronts_have_no_note(count):
    some = GUESS[:, MPII.mirror]
    people = truth()[slice(count)]
    assert evaluation.score(some[:count], people)["notes"] == []
    few = GUESS[:10].copy()
    few[:3] = few[:3, MPII.mirror]
    assert evaluation.score(few, truth()[slice(10)])["notes"] == []


@pytest.mark.parametrize("noise", [0, 5, 20, 60, 300])
def test_sound_predictions_good_and_bad_have_no_note(noise):
    """With unannotated joints and people, and predictions that are not finite, too."""
    random = np.random.default_rng(noise)
    predicted = JOINTS + random.normal(0, noise, JOINTS.shape)
    assert notes(predicted) == []
    visibility = np.where(random.random((N, 16)) < 0.2, ABSENT, VISIBLE).astype(np.int8)
    joints = np.where((visibility == ABSENT)[..., None], np.nan, JOINTS)
    predicted[random.random((N, 16)) < 0.1] = np.nan
    predicted[3] = np.inf
    normaliser = np.where(np.arange(N) % 5 == 0, np.nan, 30.0)
    assert notes(predicted, joints=joints, visibility=visibility, normaliser=normaliser) == []


@pytest.mark.parametrize("scale", [1, 1.2])
def test_everybody_s_mean_pose_has_no_note(scale):
    """It is no reading of a file, however well each person's own scale and shift would serve it."""
    middle = JOINTS.mean(1, keepdims=True)
    assert notes(middle + scale * (JOINTS - middle).mean(0)) == []


def test_the_order_of_joints_that_fits_is_named():
    """Rows from 1, so that it can be put right."""
    (note,) = notes(GUESS[:, ORDER])
    for joint in MPII.scored:
        place = int(np.flatnonzero(joint == ORDER)[0])
        moved = f"{MPII.names[joint]} in row {place + 1}"
        assert (moved in note) == (place != joint)


@pytest.mark.parametrize("count", [2, 5, N])
def test_poor_predictions_of_few_or_many_people_have_no_note_in_any_order(count):
    """Neither for the people's order nor the joints': nothing fits well that was not meant so."""
    for seed in range(20):
        random = np.random.default_rng(seed)
        predicted = JOINTS[:count] + random.normal(0, 70, (count, 16, 2))
        shown = truth(joints=JOINTS[:count], visibility=np.full((count, 16), VISIBLE, np.int8))
        shown = replace(shown, normaliser=np.full(count, 30.0), keys=np.arange(count).astype(str))
        assert evaluation.score(predicted, shown)["notes"] == []
        assert evaluation.score(predicted[::-1], shown)["notes"] == []


def test_everybody_s_mean_place_in_the_image_is_no_other_unit():
    random = np.random.default_rng(5)
    assert notes(JOINTS.mean(0) + random.normal(0, 20, JOINTS.shape)) == []


def test_nothing_predicted_or_nobody_to_score():
    assert notes(np.full_like(GUESS, np.nan)) == []
    assert notes(GUESS, normaliser=np.full(N, np.nan)) == []


def test_the_sense_of_a_truth_s_visibility_is_doubted_when_nearly_all_is_occluded():
    visibility = np.full((N, 16), OCCLUDED, np.int8)
    visibility[:3] = VISIBLE
    (note,) = notes(GUESS, visibility=visibility)
    assert note.startswith("92% of the annotated joints count as occluded") and "exchanged" in note
    visibility[:21] = VISIBLE
    assert notes(GUESS, visibility=visibility) == []
    visibility[5:] = ABSENT
    (note,) = notes(GUESS, visibility=visibility, occlusion_labels=False)
    assert note.startswith("only 12% of the joints count as annotated")


@pytest.mark.parametrize("bad", [0.0, -60.0, np.inf, -np.inf])
@pytest.mark.parametrize("metric", ["PCKh@0.5", "PCK@0.2"])
def test_who_has_no_positive_normaliser_is_left_out_and_counted(bad, metric):
    """A negative one would make every prediction right, one of 0 every prediction wrong."""
    normaliser = np.full(N, 30.0)
    normaliser[[2, 5]] = bad
    normaliser[9] = np.nan
    predicted = JOINTS.copy()
    predicted[[2, 5, 9]] += 1e6
    predicted[11, 0] += 1e6
    found = evaluation.score(predicted, truth(metric, normaliser=normaliser))
    counted = 14 * (N - 3)
    assert found["total"] == pytest.approx(100 * (1 - 1 / counted)) and found["joints"] == counted
    assert (found["persons"], found["left_out"]) == (N - 3, 3)
    assert found["notes"] == [
        "2 people are left out as their normaliser (head size or torso) is not a positive length, "
        f"first person 3: {bad:g} px"
    ]
    sound = evaluation.conventions(predicted, truth(metric, normaliser=normaliser))
    assert sound["pooled over 14 joints"] == found["total"]
    assert sound["pelvis and thorax pooled too"] > 99


NO_FIT = "the normaliser (head size or torso) of {} of 40 people does not fit their joints, first "


@pytest.mark.parametrize("factor", [1e8, 100, 1e-3, 1e-8])
@pytest.mark.parametrize("metric", ["PCKh@0.5", "PCK@0.2"])
def test_normalisers_in_another_unit_are_said(factor, metric):
    """With large ones everything is right, with small ones only what is exact."""
    normaliser = np.full(N, 30 * factor)
    (note,) = notes(JOINTS, normaliser=normaliser, metric=metric)
    assert note.startswith(NO_FIT.format(N) + f"person 1: {30 * factor:.3g} px, while half of the")
    normaliser[1:] = 30
    (note,) = notes(JOINTS, normaliser=normaliser, metric=metric)
    assert note.startswith(NO_FIT.format(1) + f"person 1: {30 * factor:.3g} px, while half of the")


def test_one_joint_far_away_does_not_hide_the_torso_that_it_makes():
    joints = JOINTS.copy()
    normaliser = np.full(N, 30.0)
    joints[7, MPII.index("right_hip")] = 1e9
    normaliser[7] = 1.4e9
    (note,) = notes(joints, joints=joints, normaliser=normaliser, metric="PCK@0.2")
    assert note.startswith(NO_FIT.format(1) + "person 8: 1.4e+09 px")


def test_people_of_few_joints_are_compared_with_the_others():
    joints = JOINTS.copy()
    normaliser = np.full(N, 30.0)
    joints[5, 1:] = np.nan
    visibility = np.where(np.isnan(joints[..., 0]), ABSENT, VISIBLE).astype(np.int8)
    assert notes(joints, joints=joints, visibility=visibility) == []
    normaliser[5] = 1e9
    (note,) = notes(joints, joints=joints, visibility=visibility, normaliser=normaliser)
    assert note.startswith(NO_FIT.format(1) + "person 6: 1e+09 px")


def test_bodies_of_all_sizes_have_no_note():
    size = np.random.default_rng(3).uniform(0.2, 5, N)
    joints = JOINTS * size[:, None, None]
    normaliser = size * np.random.default_rng(4).uniform(10, 100, N)
    assert notes(joints, joints=joints, normaliser=normaliser) == []


@pytest.mark.parametrize("factor", [30, 0.2])
def test_what_may_be_of_one_person_is_not_of_most(factor):
    """Ten times a head size: a person bent double has such a torso, but not half of all people."""
    normaliser = np.full(N, 30.0)
    normaliser[3] *= factor
    assert notes(JOINTS, normaliser=normaliser) == []
    (note,) = notes(JOINTS, normaliser=np.full(N, 30 * factor))
    assert note.startswith(NO_FIT.format(N))


def test_another_left_in_predictions_than_in_the_truth_is_said():
    """24 people seen from the front and 16 from behind; the viewer's left is always at the left."""
    random = np.random.default_rng(0)
    fronts = random.uniform(100, 200, (24, 16, 2))
    right = np.array([name.startswith("right") for name in MPII.names])
    fronts[:, right, 0] -= 100
    viewer = np.concatenate([fronts, fronts[:16] + 7])
    person = np.concatenate([fronts, fronts[:16, MPII.mirror] + 7])
    person_centric, observer_centric = (label_convention(joints) for joints in (person, viewer))
    assert (person_centric, observer_centric) == ("person-centric", "observer-centric")
    tolerance = np.full(40, 10.0)
    for predicted, truth in ((person, viewer), (viewer, person)):
        conventions = label_convention(predicted), label_convention(truth)
        (note,) = plausibility.convention_notes(predicted, truth, tolerance, conventions)
        assert note.startswith("40% of the people") and note.endswith(f"truth {conventions[1]}")
        assert not plausibility.convention_notes(truth, truth, tolerance, conventions)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e308, np.nan])
def test_predictions_of_any_size_are_scored_without_a_warning(value):
    people = truth("PCK@0.2", dataset="lsp")
    assert evaluation.score(np.full_like(people.joints, value), people)["total"] == 0


@pytest.mark.parametrize("turned, notes_", [(4, 1), (1, 0)])
def test_backs_that_are_exchanged_count_earlier_where_the_files_mean_another_left(turned, notes_):
    """Weak predictors take backs for fronts, never the reverse: 10 % of the people say enough."""
    some = GUESS.copy()
    truth = np.where(np.isnan(JOINTS), np.nan, JOINTS)
    some[:turned] = some[:turned, MPII.mirror]
    asked = some, truth, np.full(N, 15.0)
    other_left = "person-centric", "observer-centric"
    assert len(plausibility.convention_notes(*asked, other_left)) == notes_
    for conventions in (("", ""), other_left[::-1]):
        assert plausibility.convention_notes(*asked, conventions) == []


def test_a_twentieth_of_moved_rows_is_said_though_a_joint_of_theirs_may_be_right():
    count = 100
    joints = np.concatenate([persons(seed) for seed in range(3)])[:count]
    predicted = joints.copy()
    predicted[40:46] = joints[41:47]
    predicted[40:46, 0] = joints[40:46, 0]
    kept = {"normaliser": np.full(count, 30.0), "joints": joints}
    (note,) = plausibility.prediction_notes(predicted, kept["joints"], kept["normaliser"] / 2)
    assert note.startswith("5 people, from person 42 to 46, fit the predictions of the row before")
