"""LSP, LSPET and both as one: real labels, made ones, and files that are wrong."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
from lspet_files import read_joints, says

from hpe_lib.data.check import COPY, find_copies, read_thumbnails
from hpe_lib.data.datasets import load_people, open_data, prepare
from hpe_lib.data.images import read_image
from hpe_lib.data.lsp import COPIES, label_convention
from hpe_lib.data.people import replace_midpoints
from hpe_lib.skeleton import ABSENT, LSP_NAMES, MPII, OCCLUDED, VISIBLE
from hpe_lib.workbook.artifacts import BadInput

# ---- Leeds Sports Pose Extended, the real one


def test_lspet_has_9000_people_88_percent_of_whose_joints_are_annotated(lspet, test_data):
    assert len(lspet) == 9000 and lspet.skipped == {"no annotated joint": 0}
    annotated = (lspet.visibility != ABSENT)[:, MPII.scored]
    flags = scipy.io.loadmat(test_data / "lspet" / "joints.mat")["joints"][:, 2]
    assert annotated.mean() == pytest.approx(flags.mean()) and 0.875 < annotated.mean() < 0.885
    assert set(np.unique(lspet.visibility)) == {ABSENT, VISIBLE} and not lspet.occlusion_labels
    assert (lspet.visibility[:, [MPII.index("pelvis"), MPII.index("thorax")]] == ABSENT).all()


def test_lspet_garbage_never_becomes_a_joint(lspet):
    """All coordinates of flag 0 are negative or (0, 0); none may be left."""
    annotated = lspet.visibility != ABSENT
    assert (np.isnan(lspet.joints).any(-1) == ~annotated).all() and (
        np.isnan(lspet.joints).all(-1) == ~annotated
    ).all()
    assert not (lspet.joints[annotated] == 0).all(-1).any() and (lspet.joints[annotated] > -2).all()


def test_lspet_joints_stand_at_their_names(lspet, test_data):
    joints = scipy.io.loadmat(test_data / "lspet" / "joints.mat")["joints"]
    for row, name in enumerate(LSP_NAMES):
        person = int(np.flatnonzero(joints[row, 2] == 1)[-1])
        assert (lspet.joints[person, MPII.index(name)] == joints[row, :2, person]).all()
    heights = {name: np.nanmedian(lspet.joints[:, MPII.index(name), 1]) for name in LSP_NAMES}
    assert (
        heights["head_top"] < heights["upper_neck"] < heights["right_hip"] < heights["right_knee"]
    )


def test_28_percent_of_lspet_have_no_torso(lspet):
    assert 0.27 < np.isnan(lspet.normaliser).mean() < 0.29 and not np.isnan(lspet.box).any()
    person = int(np.flatnonzero(~np.isnan(lspet.normaliser))[0])
    torso = (
        lspet.joints[person, MPII.index("left_shoulder")]
        - lspet.joints[person, MPII.index("right_hip")]
    )
    assert lspet.normaliser[person] == pytest.approx(np.hypot(*torso)) and lspet.metric == "PCK@0.2"


def test_lspet_frames_have_their_person_in_the_middle_at_150_px(lspet):
    middle = (np.nanmin(lspet.joints, 1) + np.nanmax(lspet.joints, 1)) / 2
    assert np.allclose(lspet.center, middle) and lspet.center_from_joints
    assert lspet.frame(7, 256).body_in_crop == pytest.approx(204.8)


def test_real_people_s_range_is_counted_from_one(lspet, test_data):
    some = load_people("lspet", test_data / "lspet", "8001-8003")
    assert (
        list(some.keys)
        == ["im08001.jpg", "im08002.jpg", "im08003.jpg"]
        == list(lspet[8000:8003].keys)
    )
    assert np.array_equal(some.joints, lspet.joints[8000:8003], equal_nan=True)
    with pytest.raises(BadInput, match=r"found 9000 people, expected at least the 10000"):
        load_people("lspet", test_data / "lspet", "1-10000")


def test_lspet_has_all_its_people_but_no_splits(lspet, test_data):
    assert load_people("lspet", test_data / "lspet", "all").fingerprint() == lspet.fingerprint()
    with pytest.raises(BadInput, match="people: found 'val 1-5', expected FIRST-LAST or all"):
        load_people("lspet", test_data / "lspet", "val 1-5")


# ---- Leeds Sports Pose: the labels are real, the images are made


@pytest.fixture(scope="session")
def lsp_root(test_data, tmp_path_factory):
    """LSP's person-centric labels and images of 2-4 and 1002-1004, each of another size."""
    root = tmp_path_factory.mktemp("lsp")
    (root / "joints.mat").symlink_to(test_data / "lsp" / "lsp-joints-PC.mat")
    (root / "images").mkdir()
    for number in (2, 3, 4, 1002, 1003, 1004):
        image = np.full((150 + number % 7, 120 + number % 5, 3), 90, np.uint8)
        cv2.imwrite(str(root / "images" / f"im{number:04d}.jpg"), image)
    return root


def test_lsp_s_halves(lsp_root):
    for people, wanted in (
        ("train", (2, 3, 4)),
        ("val", (1002, 1003, 1004)),
        ("test", (1002, 1003, 1004)),
        ("test 3-999", (1003, 1004)),
        ("3-1003", (3, 4, 1002, 1003)),
    ):
        found = load_people("lsp", lsp_root, people, only_present=True)
        assert found.keys.tolist() == [f"im{number:04d}.jpg" for number in wanted]
    with pytest.raises(BadInput, match="997 of 1000 people's images absent"):
        load_people("lsp", lsp_root, "train")
    with pytest.raises(
        BadInput, match="found 1000 people, expected at least the 1001 of people train 1-1001"
    ):
        load_people("lsp", lsp_root, "train 1-1001")


def test_lsp_s_frame_owes_nothing_to_the_joints(lsp_root):
    people = load_people("lsp", lsp_root, "2-4")
    sizes = np.array([image.shape[1::-1] for image in map(people.images.__getitem__, range(3))])
    assert np.array_equal(people.center, (sizes - 1) / 2) and len(set(people.center[:, 0])) == 3
    assert not people.center_from_joints and (people.side == 178).all()
    assert people.frame(0, 256).body_in_crop == pytest.approx(
        204.8
    )  # as on MPII, whose weights are fine-tuned


def test_lsp_says_who_is_occluded(lsp_root, test_data):
    table = scipy.io.loadmat(test_data / "lsp" / "lsp-joints-PC.mat")["joints"]
    people = load_people("lsp", lsp_root, "all", only_present=True)
    rows = [MPII.index(name) for name in LSP_NAMES]
    for place, row in enumerate((1, 2, 3, 1001, 1002, 1003)):
        assert np.array_equal(people.joints[place, rows], table[:2, :, row].T)
        assert np.array_equal(people.visibility[place, rows] == OCCLUDED, table[2, :, row] == 1)
    assert people.occlusion_labels and set(np.unique(people.visibility[:, rows])) == {
        OCCLUDED,
        VISIBLE,
    }
    torso = (
        people.joints[:, MPII.index("left_shoulder")] - people.joints[:, MPII.index("right_hip")]
    )
    assert np.allclose(people.normaliser, np.hypot(*torso.T)) and people.metric == "PCK@0.2"


def test_lsp_and_lspet_are_told_apart(lspet_folder, lsp_root):
    with pytest.raises(BadInput) as error:
        load_people("lsp", lspet_folder, "all")
    says(error, "joints.mat", "(14, 3, 5), the layout of lspet", "(3, 14, N), that of lsp")
    with pytest.raises(BadInput) as error:
        load_people("lspet", lsp_root, "all")
    says(error, "joints.mat", "(3, 14, 2000), the layout of lsp", "(14, 3, N), that of lspet")


def test_halves_of_another_number_of_people_are_unknown(lspet_folder):
    scipy.io.savemat(
        lspet_folder / "joints.mat", {"joints": read_joints(lspet_folder).transpose(1, 0, 2) % 1}
    )
    for number in range(1, 6):
        (lspet_folder / "images" / f"im{number:05d}.jpg").rename(
            lspet_folder / "images" / f"im{number:04d}.jpg"
        )
    assert len(load_people("lsp", lspet_folder, "all")) == 5
    with pytest.raises(
        BadInput, match="found 5 people, expected LSP's 2000, to know which are test"
    ):
        load_people("lsp", lspet_folder, "test")


def test_whose_left_it_is_is_not_said_of_few_people(test_data, tmp_path):
    """Of ten, a fifth of the windows of the person-centric labels look observer-centric."""
    joints = scipy.io.loadmat(test_data / "lsp" / "lsp-joints-PC.mat")["joints"]
    scipy.io.savemat(tmp_path / "joints.mat", {"joints": joints[..., :10]})
    found = load_people("lsp", tmp_path, "all", only_present=None)
    assert found.source == "labels of joints.mat"


def test_without_joints_mat_the_person_centric_labels_are_read_and_said(test_data, tmp_path):
    for kind, file in (("person", "PC"), ("observer", "OC")):
        (root := tmp_path / file).mkdir()
        shutil.copy(test_data / "lsp" / f"lsp-joints-{file}.mat", root / "joints.mat")
        people = load_people("lsp", root, only_present=None)
        assert people.source == f"{kind}-centric labels of joints.mat"
    shutil.copy(test_data / "lsp" / "lsp-joints-PC.mat", tmp_path)
    found = load_people("lsp", tmp_path, only_present=None)
    assert found.source == "person-centric labels of lsp-joints-PC.mat"
    (tmp_path / "joints.mat").write_bytes(b"")  # whatever is there under that name comes first
    with pytest.raises(BadInput):
        load_people("lsp", tmp_path, only_present=None)


# ---- LSP and LSPET as one


@pytest.fixture(scope="module")
def leeds(tmp_path_factory):
    """Made labels of 2,000 LSP and 8,500 LSPET people, and the images of a few."""
    root = tmp_path_factory.mktemp("leeds")
    random = np.random.default_rng(0)
    for part, count, digits in (("lsp", 2000, 4), ("lspet", 8500, 5)):
        (root / part / "images").mkdir(parents=True)
        joints = random.uniform(5, 25, (14, 3, count))
        joints[:, 2] = part == "lspet"
        joints[4, 2, :] = part == "lsp"  # occluded in LSP, not annotated in LSPET
        joints = joints.transpose(1, 0, 2) if part == "lsp" else joints
        scipy.io.savemat(root / part / "joints.mat", {"joints": joints})
        for number in (1, 2, 371, 660, 1001, 1622, 8001, 8483):
            name = root / part / "images" / f"im{number:0{digits}d}.jpg"
            cv2.imwrite(str(name), random.integers(0, 255, (40, 30 + number % 7, 3), np.uint8))
    return root


def leeds_people(root, people):
    return load_people("leeds", root, people, only_present=True)


def test_leeds_trains_on_both_without_copies_of_scored_people(leeds):
    found = leeds_people(leeds, "train")
    lsp = "im0001 im0002 im0660"
    lspet = "im00001 im00002 im00371 im01001 im01622"
    assert found.keys.tolist() == [f"{name}.jpg" for name in (lsp + " " + lspet).split()]
    (copies,) = [why for why in found.skipped if "near-duplicates" in why]
    assert "im0371.jpg" in copies and "im00660.jpg" in copies and found.skipped[copies] == 13
    assert found.skipped["image absent"] == 8987 - 8
    first, last = (Path(found.images.paths[row]) for row in (0, -1))
    assert (first.parent.parent.name, last.parent.parent.name) == ("lsp", "lspet")


@pytest.mark.parametrize(
    ("dataset", "halves", "copy"),
    [
        ("lsp", ("train", "test"), "im0371.jpg"),
        ("lspet", ("1-8000", "8001-8500"), "im00660.jpg"),
        ("lsp", ("test", "train"), "im1622.jpg"),  # held out the other way round: of im0371's pair
    ],
)
def test_copies_leave_the_training_half_of_either_set_alone(leeds, tmp_path, dataset, halves, copy):
    train, val = halves
    given = {
        "missing_points": "as_labelled",
        "only_present": True,
        "image_size": 64,
        "data_seed": 0,
    }
    given |= {"dataset": dataset, "data_root": leeds / dataset, "margin": 1.25}
    data = prepare(tmp_path, **given, train=train, val=val)
    assert copy in load_people(dataset, leeds / dataset, train, only_present=True).keys
    assert copy not in data.train.keys and any(copy in why for why in data.train.skipped)
    assert not any("near-duplicates" in why for why in data.val.skipped)


def test_leeds_frames_are_each_set_s_own(leeds):
    found = leeds_people(leeds, "train")
    lsp = load_people("lsp", leeds / "lsp", "train", only_present=True)
    lspet = load_people("lspet", leeds / "lspet", "1-8000", only_present=True)
    for name in ("center", "side", "body", "normaliser", "box", "joints", "visibility"):
        apart = {k: v for part in (lsp, lspet) for k, v in zip(part.keys, getattr(part, name))}
        wanted = np.stack([apart[key] for key in found.keys])
        assert np.array_equal(getattr(found, name), wanted, equal_nan=True)
    assert found.center_from_joints and len(set(found.side)) == 2
    occluded = found.visibility[:, MPII.index("left_knee")].tolist()
    assert occluded == [OCCLUDED] * 3 + [ABSENT] * 5 and not found.occlusion_labels


@pytest.mark.parametrize(
    "people, keys, of_truth",
    [
        ("val", ["im08001.jpg", "im08483.jpg"], True),
        ("val 2-500", ["im08483.jpg"], True),
        ("test", ["im1001.jpg", "im1622.jpg"], False),
        ("train 1-3", ["im0001.jpg", "im0002.jpg"], False),
    ],
)
def test_leeds_choices_and_scores_are_on_others(leeds, people, keys, of_truth):
    found = leeds_people(leeds, people)
    assert found.keys.tolist() == keys and found.dataset == "leeds"
    assert found.center_from_joints == of_truth
    assert found.occlusion_labels == (people == "test") and found.metric == "PCK@0.2"


@pytest.mark.parametrize("people", ["all", "1-9"])
def test_leeds_has_no_people_but_those_of_its_splits(leeds, people):
    with pytest.raises(BadInput, match="expected train, val, test"):
        leeds_people(leeds, people)


def test_leeds_refuses_labels_that_contradict_lspet_s(leeds, test_data, tmp_path):
    (tmp_path / "lspet").symlink_to(leeds / "lspet")
    (tmp_path / "lsp").mkdir()
    shutil.copy(test_data / "lsp" / "lsp-joints-OC.mat", tmp_path / "lsp" / "joints.mat")
    with pytest.raises(BadInput, match="observer-centric labels of joints.mat, expected person"):
        leeds_people(tmp_path, "train")


def test_leeds_is_chosen_and_found_again(leeds, tmp_path):
    data = prepare(
        tmp_path / "run",
        dataset="leeds",
        data_root=str(leeds),
        train="train 1-9",
        val="val",
        image_size=64,
        data_seed=0,
        only_present=True,
        margin=1.25,
        missing_points="as_labelled",
    )
    assert any("near-duplicates" in why for why in data.manifest["skipped"]["train"])
    assert data.manifest["sources"]["train"].startswith("person-centric")
    assert open_data(tmp_path / "run").train.fingerprint() == data.train.fingerprint()
    assert (data.train[:1].crops(32).shape, data.train.body[0]) == ((1, 32, 32, 3), 142.4)


def test_real_leeds_people_have_the_published_numbers(test_data):
    for people, count in (("train", 8987), ("val", 500), ("test", 1000)):
        found = load_people("leeds", test_data, people, only_present=None)
        assert len(found) == count
    unlabelled = [MPII.index("pelvis"), MPII.index("thorax")]
    assert (found.visibility[:, unlabelled] == ABSENT).all()


@pytest.mark.slow
def test_the_listed_copies_are_those_that_are_measured(test_data):

    names = [("lsp", f"im{n:04d}.jpg") for n in range(1, 2001)]
    names += [("lspet", f"im{n:05d}.jpg") for n in range(1, 9001)]
    paths = [test_data / part / "images" / name for part, name in names]
    scored = [*paths[1000:2000], *paths[10000:]]
    looked, *_ = read_thumbnails(paths)
    parts = {"train": [*paths[:1000], *paths[2000:10000]], "scored": scored}
    found = [(*p["files"], f"{p['correlation']:.4f}") for p in find_copies(parts, looked)]
    listed = [tuple(line.split(",")) for line in COPIES.read_text().split()[1:]]
    assert found == [row for row in listed if float(row[2]) > COPY]


@pytest.mark.parametrize(
    "part, sides",
    [("pelvis", ("left_hip", "right_hip")), ("thorax", ("left_shoulder", "right_shoulder"))],
)
def test_missing_points_can_be_invented(lsp_root, lspet, test_data, part, sides):
    """Strategies (i) and (ii) of §3.1: between two joints; as visible as the less visible of them,
    and absent if one is.
    """
    row = MPII.index(part)
    (left, right) = map(MPII.index, sides)
    for name, root, rows, plain in (
        ("lsp", lsp_root, "2-4", load_people("lsp", lsp_root, "2-4")),
        ("lspet", test_data / "lspet", "1-9000", lspet),
    ):
        made = load_people(name, root, rows, missing_points="invented")
        assert (plain.visibility[:, row] == ABSENT).all() and np.isnan(plain.joints[:, row]).all()
        both = (plain.visibility[:, [left, right]] != ABSENT).all(1)
        assert ((made.visibility[:, row] != ABSENT) == both).all() and np.isnan(
            made.joints[~both, row]
        ).all()
        assert np.allclose(
            made.joints[both, row], (plain.joints[both, left] + plain.joints[both, right]) / 2
        )
        assert np.array_equal(
            made.joints[:, MPII.scored], plain.joints[:, MPII.scored], equal_nan=True
        )
        assert (made.center == plain.center).all() and made.fingerprint() != plain.fingerprint()
    assert both.any() and not both.all()


def test_an_invented_point_is_occluded_if_one_of_its_two_is(lspet_folder):
    people = load_people("lspet", lspet_folder, "1-5")
    people.visibility[0, MPII.index("left_hip")] = OCCLUDED
    seen = replace_midpoints(people, invent=True).visibility[:, MPII.index("pelvis")]
    assert seen.tolist() == [OCCLUDED, ABSENT, VISIBLE, VISIBLE, VISIBLE]
    assert people.visibility[0, MPII.index("pelvis")] == ABSENT  # the given ones stay as they are


@pytest.mark.parametrize("shape", [(3, 14, 5), (14, 4), (14, 2, 5), (16, 3, 5)])
def test_joints_of_another_shape(lspet_folder, shape):
    scipy.io.savemat(lspet_folder / "joints.mat", {"joints": np.ones(shape)})
    with pytest.raises(BadInput) as error:
        load_people("lspet", lspet_folder, "1-5")
    says(error, str(lspet_folder / "joints.mat"), str(shape), "(14, 3, N)")


@pytest.mark.parametrize("content", [None, b"", b"joints\n1 2 3\n", "other", "half"])
def test_a_joints_file_that_is_none(lspet_folder, content):
    path = lspet_folder / "joints.mat"
    whole = path.read_bytes()
    path.unlink()
    if content == "other":
        scipy.io.savemat(path, {"points": np.ones((14, 3, 5))})
    elif content is not None:
        path.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    with pytest.raises(BadInput) as error:
        load_people("lspet", lspet_folder, "1-5")
    says(error, str(path))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_among_annotated_coordinates(lspet_folder, value):
    joints = read_joints(lspet_folder)
    joints[7, 1, 2] = value
    scipy.io.savemat(lspet_folder / "joints.mat", {"joints": joints})
    with pytest.raises(BadInput) as error:
        load_people("lspet", lspet_folder, "1-5")
    says(error, "joints.mat", "first person 3", "right_elbow")


def test_nan_where_nothing_is_annotated_is_no_error(lspet_folder):
    joints = read_joints(lspet_folder)
    joints[3, :2, 1] = np.nan
    scipy.io.savemat(lspet_folder / "joints.mat", {"joints": joints})
    assert load_people("lspet", lspet_folder, "1-5").visibility[1, MPII.index("left_hip")] == ABSENT


def test_a_flag_of_minus_one_is_not_annotated(lspet_folder):
    joints = read_joints(lspet_folder)
    joints[0, 2, 0] = -1
    scipy.io.savemat(lspet_folder / "joints.mat", {"joints": joints})
    found = load_people("lspet", lspet_folder, "1-5")
    assert found.visibility[0, MPII.index("right_ankle")] == ABSENT


@pytest.mark.parametrize("flag", [2, np.nan])
def test_flags_that_are_none(lspet_folder, flag):
    joints = read_joints(lspet_folder)
    joints[0, 2, 0] = flag
    scipy.io.savemat(lspet_folder / "joints.mat", {"joints": joints})
    with pytest.raises(BadInput) as error:
        load_people("lspet", lspet_folder, "1-5")
    says(error, "joints.mat", "flags 0 and 1")


def test_people_without_a_usable_joint_are_skipped_and_counted(lspet_folder):
    joints = read_joints(lspet_folder)
    joints[:, 2, 1] = 0
    joints[:, 2, 4] = 0
    scipy.io.savemat(lspet_folder / "joints.mat", {"joints": joints})
    people = load_people("lspet", lspet_folder, "1-5")
    assert list(people.keys) == ["im00001.jpg", "im00003.jpg", "im00004.jpg"]
    assert people.skipped == {"no annotated joint": 2}
    assert (people.joints[1, MPII.index("head_top")] == joints[13, :2, 2]).all()


def test_absent_images_stop_or_are_left_out(lspet_folder):
    for person in (2, 4):
        (lspet_folder / "images" / f"im{person:05d}.jpg").unlink()
    with pytest.raises(BadInput) as error:
        load_people("lspet", lspet_folder, "1-5")
    says(error, "im00002.jpg", "2 of 5", "only_present")
    people = load_people("lspet", lspet_folder, "1-5", only_present=True)
    assert (
        list(people.keys) == ["im00001.jpg", "im00003.jpg", "im00005.jpg"]
        and people.skipped["image absent"] == 2
    )
    assert (people.images[1] == read_image(lspet_folder / "images" / "im00003.jpg")).all()
    assert (people.joints[1, 0] == read_joints(lspet_folder)[0, :2, 2]).all()


def test_no_image_at_all_stops_even_so(lspet_folder):
    shutil.rmtree(lspet_folder / "images")
    with pytest.raises(BadInput, match="5 of 5"):
        load_people("lspet", lspet_folder, "1-5", only_present=True)


@pytest.mark.parametrize(
    "share, convention", [(0.63, "person-centric"), (0.87, "observer-centric")]
)
def test_whose_left_it_is_shows_in_how_often_right_limbs_lie_on_the_left(share, convention):
    """63 % and 87 % in LSP's own two files of labels."""
    joints = np.zeros((100, 16, 2))
    right = np.array([name.startswith("right_") for name in MPII.names])
    facing = np.arange(100) < 100 * share
    joints[np.ix_(facing, right)] = -5, 0
    joints[np.ix_(~facing, right)] = 5, 0
    assert label_convention(joints) == convention
