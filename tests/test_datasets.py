import io
import os
import shutil
import time
import zlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
import torch
from PIL import ExifTags, Image
from torch.utils.data import DataLoader

from hpe_lib import datasets, heatmaps, training
from hpe_lib.artifacts import BadInput
from hpe_lib.datasets import Augmentation, PoseDataset
from hpe_lib.geometry import Frame
from hpe_lib.skeleton import ABSENT, LSP_NAMES, MPII, OCCLUDED, VISIBLE

SYNTHETIC = {
    "dataset": "synthetic",
    "data_root": "",
    "image_size": 64,
    "data_seed": 0,
    "only_present": False,
}


@pytest.fixture(scope="session")
def lspet(test_data):
    return datasets.load_lspet(test_data / "lspet", "1-9000")


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    return datasets.load("synthetic", "", "1-24", 128, cache=tmp_path_factory.mktemp("drawn"))


@pytest.fixture
def folder(tmp_path):
    """An LSPET folder of five people, small and whole: joints.mat (14, 3, 5), images 40×30, written as PNG bytes."""
    joints = np.random.default_rng(0).uniform(5, 25, (14, 3, 5))
    joints[:, 2] = 1
    joints[3, :, 1] = -4, -9, 0
    write_lspet(tmp_path, joints)
    return tmp_path


def write_lspet(root, joints):
    (root / "images").mkdir(exist_ok=True)
    scipy.io.savemat(root / "joints.mat", {"joints": joints})
    for person in range(joints.shape[-1]):
        image = np.random.default_rng(person).integers(0, 255, (30, 40, 3), dtype=np.uint8)
        (root / "images" / f"im{person + 1:05d}.jpg").write_bytes(
            cv2.imencode(".jpg", image)[1].tobytes()
        )


def table(folder):
    return scipy.io.loadmat(folder / "joints.mat")["joints"]


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
    some = datasets.load("lspet", test_data / "lspet", "8001-8003")
    assert (
        list(some.keys)
        == ["im08001.jpg", "im08002.jpg", "im08003.jpg"]
        == list(lspet[8000:8003].keys)
    )
    assert np.array_equal(some.joints, lspet.joints[8000:8003], equal_nan=True)
    with pytest.raises(BadInput, match=r"found 9000 people, expected at least the 10000"):
        datasets.load_lspet(test_data / "lspet", "1-10000")


def test_lspet_has_all_its_people_but_no_splits(lspet, test_data):
    assert datasets.load("lspet", test_data / "lspet", "all").fingerprint() == lspet.fingerprint()
    with pytest.raises(BadInput, match="people: found 'val 1-5', expected FIRST-LAST or all"):
        datasets.load("lspet", test_data / "lspet", "val 1-5")


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
        found = datasets.load("lsp", lsp_root, people, only_present=True)
        assert found.keys.tolist() == [f"im{number:04d}.jpg" for number in wanted]
    with pytest.raises(BadInput, match="997 of 1000 people's images absent"):
        datasets.load("lsp", lsp_root, "train")
    with pytest.raises(
        BadInput, match="found 1000 people, expected at least the 1001 of people train 1-1001"
    ):
        datasets.load("lsp", lsp_root, "train 1-1001")


def test_lsp_s_frame_owes_nothing_to_the_joints(lsp_root):
    people = datasets.load("lsp", lsp_root, "2-4")
    sizes = np.array([image.shape[1::-1] for image in map(people.images.__getitem__, range(3))])
    assert np.array_equal(people.center, (sizes - 1) / 2) and len(set(people.center[:, 0])) == 3
    assert not people.center_from_joints and (people.side == 178).all()
    assert people.frame(0, 256).body_in_crop == pytest.approx(
        204.8
    )  # as on MPII, whose weights are fine-tuned


def test_lsp_says_who_is_occluded(lsp_root, test_data):
    table = scipy.io.loadmat(test_data / "lsp" / "lsp-joints-PC.mat")["joints"]
    people = datasets.load("lsp", lsp_root, "all", only_present=True)
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


def test_lsp_and_lspet_are_told_apart(folder, lsp_root):
    with pytest.raises(BadInput) as error:
        datasets.load("lsp", folder, "all")
    says(error, "joints.mat", "(14, 3, 5), the layout of lspet", "(3, 14, N), that of lsp")
    with pytest.raises(BadInput) as error:
        datasets.load("lspet", lsp_root, "all")
    says(error, "joints.mat", "(3, 14, 2000), the layout of lsp", "(14, 3, N), that of lspet")


def test_halves_of_another_number_of_people_are_unknown(folder):
    scipy.io.savemat(folder / "joints.mat", {"joints": table(folder).transpose(1, 0, 2) % 1})
    for number in range(1, 6):
        (folder / "images" / f"im{number:05d}.jpg").rename(
            folder / "images" / f"im{number:04d}.jpg"
        )
    assert len(datasets.load("lsp", folder, "all")) == 5
    with pytest.raises(
        BadInput, match="found 5 people, expected LSP's 2000, to know which are test"
    ):
        datasets.load("lsp", folder, "test")


def test_without_joints_mat_the_person_centric_labels_are_read_and_said(test_data, tmp_path):
    for kind, file in (("person", "PC"), ("observer", "OC")):
        (root := tmp_path / file).mkdir()
        shutil.copy(test_data / "lsp" / f"lsp-joints-{file}.mat", root / "joints.mat")
        people = datasets.load("lsp", root, only_present=None)
        assert people.source == f"{kind}-centric labels of joints.mat"
    shutil.copy(test_data / "lsp" / "lsp-joints-PC.mat", tmp_path)
    found = datasets.load("lsp", tmp_path, only_present=None)
    assert found.source == "person-centric labels of lsp-joints-PC.mat"
    (tmp_path / "joints.mat").write_bytes(b"")  # whatever is there under that name comes first
    with pytest.raises(BadInput):
        datasets.load("lsp", tmp_path, only_present=None)


# ---- LSP and LSPET as one


@pytest.fixture(scope="module")
def leeds(tmp_path_factory):
    """Made labels of 2,000 LSP and 8,500 LSPET people, and the images of a few."""
    root, random = tmp_path_factory.mktemp("leeds"), np.random.default_rng(0)
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
    return datasets.load("leeds", root, people, only_present=True)


def test_leeds_trains_on_both_without_copies_of_scored_people(leeds):
    found = leeds_people(leeds, "train")
    lsp, lspet = ("im0001 im0002 im0660", "im00001 im00002 im00371 im01001 im01622")
    assert found.keys.tolist() == [f"{name}.jpg" for name in (lsp + " " + lspet).split()]
    (copies,) = [why for why in found.skipped if "near-duplicates" in why]
    assert "im0371.jpg" in copies and "im00660.jpg" in copies and found.skipped[copies] == 13
    assert found.skipped["image absent"] == 8987 - 8
    first, last = (Path(found.images.paths[row]) for row in (0, -1))
    assert (first.parent.parent.name, last.parent.parent.name) == ("lsp", "lspet")


def test_leeds_frames_are_each_set_s_own(leeds):
    found = leeds_people(leeds, "train")
    lsp = datasets.load("lsp", leeds / "lsp", "train", only_present=True)
    lspet = datasets.load("lspet", leeds / "lspet", "1-8000", only_present=True)
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
    asked = {"train": "train 1-9", "val": "val", "only_present": True, "dataset": "leeds"}
    asked["data_root"] = str(leeds)
    data = datasets.prepare(tmp_path / "run", **SYNTHETIC | asked)
    assert any("near-duplicates" in why for why in data.manifest["skipped"]["train"])
    assert data.manifest["sources"]["train"].startswith("person-centric")
    assert datasets.opened(tmp_path / "run").train.fingerprint() == data.train.fingerprint()
    assert (data.train[:1].crops(32).shape, data.train.body[0]) == ((1, 32, 32, 3), 142.4)


def test_real_leeds_people_have_the_published_numbers(test_data):
    for people, count in (("train", 8987), ("val", 500), ("test", 1000)):
        found = datasets.load("leeds", test_data, people, only_present=None)
        assert len(found) == count
    unlabelled = [MPII.index("pelvis"), MPII.index("thorax")]
    assert (found.visibility[:, unlabelled] == ABSENT).all()


@pytest.mark.slow
def test_the_listed_copies_are_those_that_are_measured(test_data):
    from hpe_lib import downloads

    names = [("lsp", f"im{n:04d}.jpg") for n in range(1, 2001)]
    names += [("lspet", f"im{n:05d}.jpg") for n in range(1, 9001)]
    paths = [test_data / part / "images" / name for part, name in names]
    scored = [*paths[1000:2000], *paths[10000:]]
    looked, *_ = downloads.look(paths)
    parts = {"train": [*paths[:1000], *paths[2000:10000]], "scored": scored}
    found = [(*p["files"], f"{p['correlation']:.4f}") for p in downloads.copies(parts, looked)]
    listed = [tuple(line.split(",")) for line in datasets.COPIES.read_text().split()[1:]]
    assert found == [row for row in listed if float(row[2]) > downloads.COPY]


@pytest.mark.parametrize(
    "part, sides",
    [("pelvis", ("left_hip", "right_hip")), ("thorax", ("left_shoulder", "right_shoulder"))],
)
def test_missing_points_can_be_invented(lsp_root, lspet, test_data, part, sides):
    """Strategies (i) and (ii) of §3.1: between the two, as visible as the lesser of them, absent if one is."""
    row, (left, right) = MPII.index(part), map(MPII.index, sides)
    for name, root, rows, plain in (
        ("lsp", lsp_root, "2-4", datasets.load("lsp", lsp_root, "2-4")),
        ("lspet", test_data / "lspet", "1-9000", lspet),
    ):
        made = datasets.load(name, root, rows, missing_points="invented")
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


def test_an_invented_point_is_occluded_if_one_of_its_two_is(folder):
    people = datasets.load("lspet", folder, "1-5")
    people.visibility[0, MPII.index("left_hip")] = OCCLUDED
    seen = datasets.with_middle_points(people, invented=True).visibility[:, MPII.index("pelvis")]
    assert seen.tolist() == [OCCLUDED, ABSENT, VISIBLE, VISIBLE, VISIBLE]
    assert people.visibility[0, MPII.index("pelvis")] == ABSENT  # the given ones stay as they are


# ---- what the decoder makes of the truth (DESIGN F13, users' trap T16)


def closed_loop(people, image_size, stride, decoder="parabola", times=1):
    """(errors (M, 2) image px, normaliser (M,)) of joints inside the crop: image -> crop -> Gaussians -> image."""
    random, errors, units = np.random.default_rng(0), [], []
    for row in np.repeat(np.arange(len(people)), times):
        frame = Augmentation(40, 0.7, 1.3, True)(people.frame(row, image_size), random)
        joints, visibility = datasets.framed(frame, people.joints[row], people.visibility[row])
        sigma = torch.tensor([frame.body_in_crop / 40 / stride])
        maps = heatmaps.gaussians(
            heatmaps.to_map(torch.from_numpy(joints)[None], stride),
            torch.from_numpy(visibility != ABSENT)[None],
            image_size // stride,
            sigma.float(),
        )
        points = frame.to_image(
            heatmaps.from_map(heatmaps.decode(maps, decoder)[0], stride)[0].numpy()
        )
        order = MPII.mirror if frame.mirrored else slice(None)
        inside = visibility != ABSENT
        errors.append((points - people.joints[row][order])[inside])
        units.append(np.full(inside.sum(), people.box[row] / 5))
    return np.concatenate(errors), np.concatenate(units)


def check_closed_loop(errors, units):
    """Zero mean, under a hundredth of a pixel, hence 100 at any threshold; argmax on the same maps is the control."""
    assert (
        len(errors) > 1000 and np.abs(errors).max() < 0.01 and np.abs(errors.mean(0)).max() < 0.0005
    )
    distance = np.linalg.norm(errors, axis=1)
    assert (distance <= 0.5 * units).all() and (distance <= 0.1 * units).mean() >= 0.99


@pytest.mark.parametrize("stride", [1, 4])
def test_true_gaussians_decode_to_the_truth_on_real_people(lspet, stride):
    count = 80 if stride == 1 else 200
    check_closed_loop(*closed_loop(lspet[:: len(lspet) // count], 256, stride))


def test_true_gaussians_decode_to_the_truth_on_drawn_people(drawn):
    check_closed_loop(*closed_loop(drawn, 256, 4, times=4))


def test_argmax_s_error_is_that_of_its_grid(drawn):
    """The control of the tests above: half a cell at most, and zero in the mean."""
    errors, _ = closed_loop(drawn, 256, 4, "argmax", times=4)
    zoom = drawn.side[0] / 256
    assert 0.3 * zoom < np.abs(errors).mean() and np.abs(errors).max() < 4 * zoom / 0.7
    assert np.abs(errors.mean(0)).max() < 0.15


# ---- items: image and joints by one matrix


def test_dots_painted_at_joints_move_with_them():
    """Augmented items: the pixel at each joint of the item is that joint's dot, by its own colour."""
    random = np.random.default_rng(4)
    joints, image = np.full((16, 2), np.nan), np.zeros((400, 400, 3), np.uint8)
    colours = np.array(
        [
            [(row % 3) * 100 + 50, (row // 3 % 3) * 100 + 50, (row // 9) * 100 + 50]
            for row in range(16)
        ]
    )
    for row in range(16):
        joints[row] = 110 + 60 * np.array([row % 4, row // 4]) + random.uniform(-8, 8, 2)
        cv2.circle(
            image,
            [int(v) for v in np.round(joints[row] * 16)],
            12 * 16,
            colours[row].tolist(),
            -1,
            shift=4,
        )
    people = made([image], joints[None])
    seen = 0
    for epoch in range(12):
        item = PoseDataset(people, 200, Augmentation(), seed=1)[0, epoch]
        mirrored = Augmentation()(
            people.frame(0, 200), np.random.default_rng((1, epoch, 0))
        ).mirrored
        for row in np.flatnonzero(item["visibility"]):
            x, y = np.clip(item["joints"][row].round().int().tolist(), 1, 198)
            painted = MPII.mirror[row] if mirrored else row
            assert np.abs(item["image"][y, x].numpy().astype(int) - colours[painted]).max() <= 2
            seen += 1
    assert seen > 100


def made(images, joints, visibility=None, side=300.0):
    """People from arrays: frames about (200, 200)."""
    count = len(joints)
    visibility = (
        np.where(np.isnan(joints[..., 0]), ABSENT, VISIBLE) if visibility is None else visibility
    )
    return datasets.People(
        "made",
        np.arange(count).astype(str),
        datasets.Pixels(np.stack(images), "made"),
        joints,
        visibility.astype(np.int8),
        np.full((count, 2), 200.0),
        np.full(count, side),
        np.full(count, 240.0),
        np.full(count, 30.0),
        np.full(count, 200.0),
        "PCKh@0.5",
        True,
        False,
    )


def test_joints_outside_the_crop_are_absent_and_get_neither_target_nor_gradient():
    joints = np.full((1, 16, 2), 200.0)
    joints[0, 0], joints[0, 1], joints[0, 2] = (20, 200), (200, 351), np.nan
    people = made(
        [np.zeros((400, 400, 3), np.uint8)],
        joints,
        np.where(np.isnan(joints[..., 0]), ABSENT, VISIBLE),
    )
    item = PoseDataset(people, 64)[0]
    assert (
        item["visibility"].tolist() == [ABSENT] * 3 + [VISIBLE] * 13
        and (item["joints"][:3] == 0).all()
    )
    batch = torch.utils.data.default_collate([item])
    for targets in (training.Targets(4).detector, training.Targets(4).regressor):
        maps, counts = targets(batch)
        assert counts[0].tolist() == [False] * 3 + [True] * 13
        assert maps[0, :3].sum() == 0 and (maps[0, 3:].amax((1, 2)) > 0).all()


def test_the_crop_ends_at_the_edges_of_its_outer_pixels():
    frame = Frame((31.5, 31.5), 64.0, 64, 50.0)
    joints = np.full((16, 2), 30.0)
    joints[:4] = (-0.5, 5), (-0.51, 5), (63.49, 5), (5, 63.5)
    _, visibility = datasets.framed(frame, joints, np.full(16, OCCLUDED))
    assert visibility.tolist() == [OCCLUDED, ABSENT, OCCLUDED, ABSENT] + [OCCLUDED] * 12


def test_head_tops_above_the_image_are_joints():
    """Trap T8: y = -14 is a coordinate, not a mark of absence."""
    joints = np.full((1, 16, 2), 200.0)
    joints[0, 9] = 200, -14
    people = made([np.zeros((400, 400, 3), np.uint8)], joints, side=500.0)
    assert PoseDataset(people, 64)[0]["visibility"][9] == VISIBLE


def test_left_is_right_in_a_mirrored_crop():
    joints = np.random.default_rng(0).uniform(100, 300, (16, 2))
    plain = Frame((200.0, 200.0), 300.0, 64, 200.0)
    visibility = np.full(16, VISIBLE)
    visibility[MPII.index("left_wrist")] = OCCLUDED
    points, seen = datasets.framed(plain.augmented(mirrored=True), joints, visibility)
    assert seen[MPII.index("right_wrist")] == OCCLUDED and (seen == OCCLUDED).sum() == 1
    expected = plain.to_crop(joints[MPII.index("left_wrist")]) * [-1, 1] + [63, 0]
    assert np.allclose(points[MPII.index("right_wrist")], expected, atol=1e-4)


# ---- augmentation


def items(people, epoch=0, seed=0, workers=0):
    data = PoseDataset(people, 64, Augmentation(), seed)
    rows = [(row, epoch) for row in range(len(people))]
    return list(DataLoader(data, 8, sampler=rows, num_workers=workers))


def same(some, other):
    return all(torch.equal(a[key], b[key]) for a, b in zip(some, other, strict=True) for key in a)


def test_augmentation_is_decided_by_seed_epoch_and_row(drawn):
    first = items(drawn)
    assert same(first, items(drawn)) and same(items(drawn, 3, 5), items(drawn, 3, 5))
    assert not same(first, items(drawn, epoch=1)) and not same(first, items(drawn, seed=1))
    assert len(set(first[0]["body"].tolist())) == 8


def test_workers_do_not_change_what_is_drawn(drawn):
    """Trap T35: random numbers that are the same in all workers, or others with each number of workers."""
    assert same(items(drawn, 1), items(drawn, 1, workers=2))


def test_augmentation_spans_its_ranges():
    frame, random = Frame((0.0, 0.0), 100.0, 64, 50.0), np.random.default_rng(0)
    many = [Augmentation(40, 0.7, 1.3, True)(frame, random) for _ in range(2000)]
    angles, scales = [f.angle for f in many], [f.body_in_crop / frame.body_in_crop for f in many]
    assert -40 <= min(angles) < -39 and 39 < max(angles) <= 40 and abs(np.mean(angles)) < 2
    assert 0.6999 <= min(scales) < 0.71 and 1.29 < max(scales) <= 1.3001
    assert 0.45 < np.mean([f.mirrored for f in many]) < 0.55
    assert not any(Augmentation(flip=False)(frame, random).mirrored for _ in range(50))


def test_without_augmentation_the_item_is_the_person_s_frame(drawn):
    item = PoseDataset(drawn, 128)[3]
    assert torch.equal(item["image"], torch.from_numpy(drawn.crops(128)[3])) and item["row"] == 3
    there = item["visibility"] != ABSENT
    assert np.allclose(item["joints"][there], drawn.joints[3][there], atol=1e-3)


# ---- People


def test_rows_of_people_belong_together(drawn):
    for rows in (slice(4, 9), [7, 2], np.arange(24) % 5 == 1):
        some, wanted = drawn[rows], np.arange(24)[rows]
        assert len(some) == len(wanted) and (some.keys == drawn.keys[wanted]).all()
        assert (
            np.array_equal(some.joints, drawn.joints[wanted])
            and (some.normaliser == drawn.normaliser[wanted]).all()
        )
        assert all((some.images[i] == drawn.images[w]).all() for i, w in enumerate(wanted))
    assert (drawn[4:9][1:3].images[1] == drawn.images[6]).all()


def test_fingerprint_follows_the_annotation_and_nothing_else(drawn):
    assert drawn.fingerprint() == drawn[:].fingerprint() != drawn[:23].fingerprint()
    joints = drawn.joints.copy()
    joints[5, 5, 0] += 1e-9
    assert datasets.replace(drawn, joints=joints).fingerprint() != drawn.fingerprint()


def test_drawn_people_are_kept_and_are_the_same_again(tmp_path):
    first = datasets.load("synthetic", "", "3-5", 64, data_seed=1, cache=tmp_path)
    written = next(tmp_path.rglob("images.npy")).stat().st_mtime_ns
    again = datasets.load("synthetic", "", "3-5", 64, data_seed=1, cache=tmp_path)
    assert next(tmp_path.rglob("images.npy")).stat().st_mtime_ns == written
    assert again.fingerprint() == first.fingerprint() and list(first.keys) == [
        "00000003",
        "00000004",
        "00000005",
    ]
    other = datasets.load("synthetic", "", "3-5", 64, data_seed=2, cache=tmp_path)
    assert other.fingerprint() != first.fingerprint() and (other.images[0] != first.images[0]).any()
    assert (
        datasets.load("synthetic", "", "5-5", 64, data_seed=1, cache=tmp_path).images[0]
        == first.images[2]
    ).all()


def emptied(path):
    path.write_bytes(b"")


def shortened(path):
    path.write_bytes(path.read_bytes()[:-100])


def blackened(path):
    pixels = np.load(path, mmap_mode="r+")
    pixels[:] = 0
    pixels.flush()


def moved(path):
    truth = dict(np.load(path))
    np.savez(path, **(truth | {"joints": truth["joints"] + 5}))


@pytest.mark.parametrize(
    "name, damage",
    [
        ("truth.npz", emptied),
        ("images.npy", emptied),
        ("manifest.json", emptied),
        ("truth.npz", shortened),
        ("images.npy", shortened),
        ("images.npy", blackened),
        ("truth.npz", moved),
        ("truth.npz", Path.unlink),
        ("manifest.json", Path.unlink),
    ],
)
def test_kept_people_that_do_not_fit_are_drawn_anew(tmp_path, capsys, name, damage):
    first = datasets.load("synthetic", "", "3-5", 64, cache=tmp_path)
    before, (path,) = first.images.array.copy(), tmp_path.rglob(name)
    damage(path)
    capsys.readouterr()
    again = datasets.load("synthetic", "", "3-5", 64, cache=tmp_path)
    told = capsys.readouterr()
    assert "not as it was written, made anew" in told.err and not told.out
    assert again.fingerprint() == first.fingerprint()
    assert (again.images.array == before).all() and before.any()
    assert [found.name for found in tmp_path.iterdir()] == [path.parent.name]
    datasets.load("synthetic", "", "3-5", 64, cache=tmp_path)
    assert "anew" not in capsys.readouterr().err


def test_a_drawing_that_breaks_off_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.synthetic, "draw", None)
    with pytest.raises(TypeError):
        datasets.load("synthetic", "", "3-5", 64, cache=tmp_path)
    assert not list(tmp_path.iterdir())


def test_people_kept_are_on_the_disk_before_they_have_their_name(tmp_path, monkeypatch):
    synced, fsync, rename = [], os.fsync, Path.rename
    monkeypatch.setattr(
        os, "fsync", lambda file: synced.append(os.fstat(file).st_ino) or fsync(file)
    )
    monkeypatch.setattr(Path, "rename", lambda *names: synced.append("named") or rename(*names))
    datasets.load("synthetic", "", "3-5", 64, cache=tmp_path)
    inodes = {path.stat().st_ino for path in next(tmp_path.iterdir()).iterdir()}
    assert len(inodes) == 3 and inodes <= set(synced[: synced.index("named")])


@pytest.mark.parametrize("name", ["truth.npz", "images.npy", "manifest.json", "."])
@pytest.mark.parametrize("instead", ["folder", "file"])
def test_kept_people_where_something_else_lies_are_drawn_anew(tmp_path, capsys, name, instead):
    before = datasets.load_synthetic("1-2", 64, 0, tmp_path)
    (kept,) = tmp_path.iterdir()
    place = kept / name
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    place.mkdir() if instead == "folder" else place.write_text("something else")
    after = datasets.load_synthetic("1-2", 64, 0, tmp_path)
    assert after.fingerprint() == before.fingerprint()
    assert "not as it was written, made anew" in capsys.readouterr().err
    assert (after.images[1] == before.images[1]).all()


def test_another_version_of_drawing_draws_anew(tmp_path, monkeypatch):
    first = datasets.load("synthetic", "", "3-5", 64, cache=tmp_path)
    monkeypatch.setattr(datasets.synthetic, "VERSION", -1)
    assert (
        datasets.load("synthetic", "", "3-5", 64, cache=tmp_path).fingerprint()
        != first.fingerprint()
    )
    assert len(list(tmp_path.iterdir())) == 2


# ---- bad input: one line naming file, found, expected


def says(error, *parts):
    line = str(error.value)
    assert "\n" not in line and all(part in line for part in ("found", "expected", *parts)), line


def test_people_ranges():
    assert datasets.person_range("3-5") == datasets.person_range("all 3-5") == ("all", slice(2, 5))
    assert datasets.person_range("val 1-1") == ("val", slice(0, 1))
    assert datasets.person_range("test") == ("test", slice(0, None))


@pytest.mark.parametrize(
    "people",
    [
        "0-5",
        "5",
        "5-3",
        "a-b",
        "-4",
        "1-",
        "1.5-3",
        "",
        "vall",
        "val1-3",
        "val 0-3",
        "1-3 val",
        "val, 1-3",
    ],
)
def test_people_ranges_that_are_none(people):
    with pytest.raises(BadInput) as error:
        datasets.person_range(people)
    says(error, people)


def test_unknown_data_set():
    with pytest.raises(BadInput) as error:
        datasets.load("coco")
    says(error, "coco", "synthetic", "mpii", "lsp", "lspet")


@pytest.mark.parametrize("people", ["all", "val", "val 1-3"])
def test_drawn_people_have_neither_splits_nor_an_end(people, tmp_path):
    with pytest.raises(BadInput) as error:
        datasets.load("synthetic", "", people, 32, cache=tmp_path)
    says(error, people, "drawn people")


@pytest.mark.parametrize("shape", [(3, 14, 5), (14, 3), (14, 2, 5), (16, 3, 5)])
def test_joints_of_another_shape(folder, shape):
    scipy.io.savemat(folder / "joints.mat", {"joints": np.ones(shape)})
    with pytest.raises(BadInput) as error:
        datasets.load_lspet(folder, "1-5")
    says(error, str(folder / "joints.mat"), str(shape), "(14, 3, N)")


@pytest.mark.parametrize("content", [None, b"", b"joints\n1 2 3\n", "other", "half"])
def test_a_joints_file_that_is_none(folder, content):
    path = folder / "joints.mat"
    whole = path.read_bytes()
    path.unlink()
    if content == "other":
        scipy.io.savemat(path, {"points": np.ones((14, 3, 5))})
    elif content is not None:
        path.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    with pytest.raises(BadInput) as error:
        datasets.load_lspet(folder, "1-5")
    says(error, str(path))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_among_annotated_coordinates(folder, value):
    joints = table(folder)
    joints[7, 1, 2] = value
    scipy.io.savemat(folder / "joints.mat", {"joints": joints})
    with pytest.raises(BadInput) as error:
        datasets.load_lspet(folder, "1-5")
    says(error, "joints.mat", "first person 3", "right_elbow")


def test_nan_where_nothing_is_annotated_is_no_error(folder):
    joints = table(folder)
    joints[3, :2, 1] = np.nan
    scipy.io.savemat(folder / "joints.mat", {"joints": joints})
    assert datasets.load_lspet(folder, "1-5").visibility[1, MPII.index("left_hip")] == ABSENT


def test_a_flag_of_minus_one_is_not_annotated(folder):
    joints = table(folder)
    joints[0, 2, 0] = -1
    scipy.io.savemat(folder / "joints.mat", {"joints": joints})
    found = datasets.load_lspet(folder, "1-5")
    assert found.visibility[0, MPII.index("right_ankle")] == ABSENT


@pytest.mark.parametrize("flag", [2, np.nan])
def test_flags_that_are_none(folder, flag):
    joints = table(folder)
    joints[0, 2, 0] = flag
    scipy.io.savemat(folder / "joints.mat", {"joints": joints})
    with pytest.raises(BadInput) as error:
        datasets.load_lspet(folder, "1-5")
    says(error, "joints.mat", "flags 0 and 1")


def test_people_without_a_usable_joint_are_skipped_and_counted(folder):
    joints = table(folder)
    joints[:, 2, 1] = 0
    joints[:, 2, 4] = 0
    scipy.io.savemat(folder / "joints.mat", {"joints": joints})
    people = datasets.load_lspet(folder, "1-5")
    assert list(people.keys) == ["im00001.jpg", "im00003.jpg", "im00004.jpg"]
    assert people.skipped == {"no annotated joint": 2}
    assert (people.joints[1, MPII.index("head_top")] == joints[13, :2, 2]).all()


def test_absent_images_stop_or_are_left_out(folder):
    for person in (2, 4):
        (folder / "images" / f"im{person:05d}.jpg").unlink()
    with pytest.raises(BadInput) as error:
        datasets.load_lspet(folder, "1-5")
    says(error, "im00002.jpg", "2 of 5", "only_present")
    people = datasets.load_lspet(folder, "1-5", only_present=True)
    assert (
        list(people.keys) == ["im00001.jpg", "im00003.jpg", "im00005.jpg"]
        and people.skipped["image absent"] == 2
    )
    assert (people.images[1] == datasets.read_image(folder / "images" / "im00003.jpg")).all()
    assert (people.joints[1, 0] == table(folder)[0, :2, 2]).all()


def test_no_image_at_all_stops_even_so(folder):
    shutil.rmtree(folder / "images")
    with pytest.raises(BadInput, match="5 of 5"):
        datasets.load_lspet(folder, "1-5", only_present=True)


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "garbage"])
def test_unreadable_images_are_found_before_anything_is_written(folder, tmp_path, damage):
    path = folder / "images" / "im00004.jpg"
    whole = path.read_bytes()
    path.write_bytes(
        {
            "truncated": whole[:-100],
            "text": b"this is no image\n" * 20,
            "empty": b"",
            "garbage": whole[:2] + bytes(200) + whole[-2:],
        }[damage]
    )
    with pytest.raises(BadInput) as error:
        datasets.prepare(
            tmp_path / "run",
            dataset="lspet",
            data_root=folder,
            train="1-3",
            val="4-5",
            image_size=64,
            data_seed=0,
            only_present=False,
        )
    says(error, str(path), str(path.stat().st_size))
    assert not (tmp_path / "run").exists()


def test_a_truncated_real_photograph(test_data, tmp_path):
    whole = (test_data / "lspet" / "images" / "im00001.jpg").read_bytes()
    for share in (0.3, 0.9, 0.999):
        (tmp_path / "cut.jpg").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(BadInput, match="cut.jpg"):
            datasets.read_image(tmp_path / "cut.jpg")


@pytest.mark.parametrize("ending", [".jpg", ".png"])
def test_images_are_what_opencv_reads_in_the_order_of_rgb(tmp_path, ending):
    noise = cv2.resize(np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8), (163, 121))
    cv2.imwrite(str(tmp_path / f"a{ending}"), noise)
    expected = cv2.cvtColor(cv2.imread(str(tmp_path / f"a{ending}")), cv2.COLOR_BGR2RGB)
    assert np.array_equal(datasets.read_image(tmp_path / f"a{ending}"), expected)


def test_images_are_rgb(tmp_path):
    cv2.imwrite(str(tmp_path / "red.png"), np.full((4, 4, 3), (0, 0, 255), np.uint8))
    assert datasets.read_image(tmp_path / "red.png")[0, 0].tolist() == [255, 0, 0]


# ---- a run's people


def test_prepared_people_are_opened_again(tmp_path):
    data = datasets.prepare(tmp_path / "run", **SYNTHETIC, train="1-6", val="7-9")
    again = datasets.opened(tmp_path / "run")
    assert (len(data.train), len(data.val), data.image_size) == (
        6,
        3,
        64,
    ) and again.manifest == data.manifest
    assert (
        again.train.fingerprint()
        == data.train.fingerprint()
        == data.manifest["fingerprints"]["train"]
    )


def test_train_and_val_may_not_share_people(tmp_path):
    with pytest.raises(BadInput) as error:
        datasets.prepare(tmp_path / "run", **SYNTHETIC, train="1-6", val="6-9")
    says(error, "1 in both", "00000006")


def test_how_missing_points_were_treated_is_kept(tmp_path, folder):
    """Manifests without the parameter are of a time before it: they left the points out."""
    given = {
        "dataset": "lspet",
        "data_root": folder,
        "train": "1-3",
        "val": "4-5",
        "image_size": 64,
        "data_seed": 0,
        "only_present": False,
    }
    plain, made = (
        datasets.prepare(tmp_path / name, **given, **more)
        for name, more in (("plain", {}), ("made", {"missing_points": "invented"}))
    )
    pelvis = MPII.index("pelvis")
    assert (datasets.opened(tmp_path / "plain").train.visibility[:, pelvis] == ABSENT).all()
    assert (datasets.opened(tmp_path / "made").train.visibility[:, pelvis] != ABSENT).any()
    same = datasets.prepare(tmp_path / "said", **given, missing_points="as_labelled")
    assert (
        same.manifest["fingerprints"]
        == plain.manifest["fingerprints"]
        != made.manifest["fingerprints"]
    )


def test_a_run_without_people_or_with_changed_ones(tmp_path, folder):
    with pytest.raises(BadInput, match="notebook 01"):
        datasets.opened(tmp_path / "nothing")
    datasets.prepare(
        tmp_path / "run",
        dataset="lspet",
        data_root=folder,
        train="1-3",
        val="4-5",
        image_size=64,
        data_seed=0,
        only_present=False,
    )
    joints = table(folder)
    joints[0, 0, 4] += 1
    scipy.io.savemat(folder / "joints.mat", {"joints": joints})
    with pytest.raises(BadInput) as error:
        datasets.opened(tmp_path / "run")
    says(error, "val people that have changed", "notebook 01")


# ---- complete images with more behind their end, and cut ones with an end in their headers


@pytest.fixture
def jpeg():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8)
    return cv2.imencode(".jpg", pixels)[1].tobytes()


def test_bytes_behind_a_complete_jpeg_do_no_harm(tmp_path, jpeg):
    (tmp_path / "a.jpg").write_bytes(jpeg)
    (tmp_path / "b.jpg").write_bytes(jpeg + bytes(10_000))  # cameras put films there
    assert np.array_equal(
        datasets.read_image(tmp_path / "a.jpg"), datasets.read_image(tmp_path / "b.jpg")
    )


def test_a_thumbnail_s_end_is_not_the_image_s(tmp_path, jpeg):
    header = (
        b"\xff\xe1" + (2 + len(jpeg)).to_bytes(2, "big") + jpeg
    )  # an APP1 segment that holds a whole JPEG
    (tmp_path / "whole.jpg").write_bytes(jpeg[:2] + header + jpeg[2:])
    assert datasets.read_image(tmp_path / "whole.jpg").shape == (64, 48, 3)
    (tmp_path / "cut.jpg").write_bytes(jpeg[:2] + header + jpeg[2:-400])
    with pytest.raises(BadInput, match="Premature end"):
        datasets.read_image(tmp_path / "cut.jpg")


def test_nothing_is_said_beside_the_refusal(tmp_path, jpeg, capfd):
    whole = cv2.imencode(".bmp", np.zeros((64, 48, 3), np.uint8))[1].tobytes()
    (tmp_path / "half.bmp").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput):
        datasets.read_image(tmp_path / "half.bmp")
    with pytest.raises(BadInput):
        datasets.decode_image("hole.jpg", holed(jpeg))
    assert capfd.readouterr() == ("", "")


def holed(jpeg):
    """Its second half zeros, but for the end: a download into a file that was made large enough
    first."""
    return jpeg[: len(jpeg) // 2] + bytes(len(jpeg) - len(jpeg) // 2 - 2) + jpeg[-2:]


@pytest.mark.parametrize("step", [1, 8])
def test_a_jpeg_s_damage_is_refused(jpeg, step):
    scan = jpeg.index(b"\xff\xda")
    middle = (scan + len(jpeg)) // 2
    for damaged in (
        holed(jpeg),
        jpeg[:middle] + jpeg[-2:],
        jpeg[:middle] + bytes(300) + jpeg[middle + 300 :],
        jpeg[:middle] + jpeg[middle + 200 :],
        jpeg[:middle] + b"\xff\xd9" + jpeg[middle:],
        jpeg[:-2],
        jpeg[:scan] + jpeg[-2:],
    ):
        with pytest.raises(BadInput, match=r"^a.jpg: found \d+ bytes: .*, expected a whole JPEG"):
            datasets.decode_image("a.jpg", damaged, step)


def test_a_remark_on_a_jpeg_s_header_is_no_damage(jpeg):
    """Samsung's phones write a scan's header that libjpeg remarks upon; the pixels are whole."""
    scan = jpeg.index(b"\xff\xda")
    last = scan + 2 + int.from_bytes(jpeg[scan + 2 : scan + 4], "big") - 2
    odd = jpeg[:last] + b"\x00" + jpeg[last + 1 :]
    with pytest.raises(ValueError, match="SOS"):
        datasets.simplejpeg.decode_jpeg(odd)
    assert (datasets.decode_image("a.jpg", odd) == datasets.decode_image("a.jpg", jpeg)).all()


def test_a_jpeg_whose_sampling_is_unknown_is_left_to_pillow(jpeg, monkeypatch):
    def unknown(data):
        raise ValueError("Could not determine subsampling level")

    expected = datasets.decode_image("a", jpeg)
    monkeypatch.setattr(datasets.simplejpeg, "decode_jpeg_header", unknown)
    assert np.abs(datasets.decode_image("a", jpeg).astype(int) - expected).max() <= 1
    for cut in (jpeg[:-300], jpeg[:13]):
        with pytest.raises(BadInput, match="(?i)truncated"):
            datasets.decode_image("a", cut)


def test_real_photographs_are_whole(test_data):
    """A sample of those that were all read once: no libjpeg warning in any of 11,188, and OpenCV's
    pixels."""
    for kind, every in (("mpii", 40), ("lsp", 400), ("lspet", 900)):
        for path in sorted((test_data / kind / "images").glob("*.jpg"))[::every]:
            expected = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
            assert (datasets.read_image(path) == expected).all()


def picture(image, kind, **options):
    image.save(file := io.BytesIO(), kind, **options)
    return file.getvalue()


CORNER = np.zeros((40, 60, 3), np.uint8)
CORNER[:20, :20] = 240, 120, 10  # and so an image is not the same turned or mirrored


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_images_are_upright(kind, orientation):
    """AVIF's own turn (irot, imir), too, which Pillow writes for the orientation."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    packed = picture(Image.fromarray(CORNER), kind, exif=exif, quality=95)
    for step in (1, 2):
        found = datasets.decode_image("a", packed, step)
        expected = {
            1: CORNER,
            2: CORNER[:, ::-1],
            3: CORNER[::-1, ::-1],
            4: CORNER[::-1],
            5: CORNER.transpose(1, 0, 2),
            6: np.rot90(CORNER, -1),
            7: np.rot90(CORNER, 2).transpose(1, 0, 2),
            8: np.rot90(CORNER),
        }[orientation][::step, ::step]
        assert found.shape == expected.shape and found.dtype == np.uint8
        assert np.abs(found.astype(int) - expected).mean() < 6


def test_a_broken_exif_block_turns_nothing(jpeg):
    for block in (b"Exif\0\0", b"Exif\0\0nothing of the sort", b"Exif\0\0II*\0\xff\xff\xff\xff"):
        told = jpeg[:2] + b"\xff\xe1" + (2 + len(block)).to_bytes(2, "big") + block + jpeg[2:]
        assert (datasets.decode_image("a", told) == datasets.decode_image("a", jpeg)).all()


def test_pixels_of_other_kinds():
    colour, deep = Image.fromarray(CORNER), np.arange(2400, dtype=np.uint16).reshape(40, 60) * 27
    grey = np.asarray(colour.convert("L"))
    clear = colour.convert("RGBA")
    clear.putalpha(
        Image.fromarray(np.where(np.arange(60) < 30, 255, 0).astype(np.uint8)[None].repeat(40, 0))
    )
    laid = CORNER.copy()
    laid[:, 30:] = 255
    first = {"save_all": True, "append_images": [colour.rotate(180)]}
    for packed, expected in (
        (picture(colour.convert("L"), "PNG"), grey[..., None]),
        (picture(colour.convert("L"), "JPEG", quality=100), grey[..., None]),
        (picture(Image.fromarray(deep), "PNG"), (deep >> 8)[..., None]),
        (picture(Image.fromarray(deep), "TIFF"), (deep >> 8)[..., None]),
        (picture(colour.convert("P"), "PNG"), CORNER),
        (picture(colour.quantize(4), "GIF", **first), CORNER),
        (picture(colour, "PNG", **first), CORNER),
        (picture(colour, "WEBP", lossless=True, **first), CORNER),
        (picture(clear, "PNG"), laid),
        (picture(clear, "WEBP", lossless=True), laid),
        (picture(colour.convert("CMYK"), "JPEG", quality=100), CORNER),
        (picture(colour.convert("CMYK"), "TIFF"), CORNER),
    ):
        found = datasets.decode_image("a", packed)
        assert found.shape == CORNER.shape and found.flags.writeable
        assert np.abs(found.astype(int) - expected).mean() < 6


@pytest.mark.parametrize(
    "packed",
    [
        picture(Image.fromarray(np.zeros((9, 9), np.float32)), "TIFF"),
        picture(Image.fromarray(np.zeros((9, 9), np.int32)), "TIFF"),
        picture(Image.fromarray(CORNER), "EPS"),
        picture(Image.fromarray(CORNER), "PNG")[:-20],
        picture(Image.fromarray(CORNER), "PNG").replace(b"IDAT\x78", b"IDAT\x79"),
        picture(Image.fromarray(CORNER), "AVIF")[:-20],
        picture(Image.fromarray(CORNER), "WEBP")[:-20],
        b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + bytes(500),
    ],
)
def test_images_that_cannot_be_used(packed, capfd):
    with pytest.raises(BadInput, match="^a.img: found .*, expected a whole JPEG") as error:
        datasets.decode_image("a.img", packed)
    assert "\n" not in str(error.value) and capfd.readouterr() == ("", "")


@pytest.mark.parametrize("side", [10_001, 30_000])
def test_an_image_of_too_many_pixels_is_not_decoded(jpeg, side):
    sides = side.to_bytes(4, "big") * 2
    png = picture(Image.new("1", (8, 8)), "PNG")
    head = b"IHDR" + sides + png[24:29]
    place = jpeg.index(b"\xff\xc0") + 5
    for huge in (
        png[:12] + head + zlib.crc32(head).to_bytes(4, "big") + png[33:],
        jpeg[:place] + side.to_bytes(2, "big") * 2 + jpeg[place + 4 :],
    ):
        before = time.perf_counter()
        with pytest.raises(BadInput, match=f"{side} × {side} pixels|{side * side} pixels"):
            datasets.decode_image("a", huge)
        assert time.perf_counter() - before < 1


# ---- frames of another margin, augmentation in steps, points withheld, images not asked for


def test_the_margin_is_the_frame_s_side_in_bodies(folder, tmp_path):
    usual, wide = (
        datasets.load("lspet", folder, "1-5", **given) for given in ({}, {"margin": 380 / 300})
    )
    assert (usual.side == 1.25 * usual.body).all() and usual.frame(
        0, 256
    ).body_in_crop == pytest.approx(204.8)
    assert wide.frame(0, 380).body_in_crop == pytest.approx(
        300
    )  # VGG's: a body of 300 px in 380 (F1)
    assert (wide.body == usual.body).all() and (wide.center == usual.center).all()
    assert wide.fingerprint() != usual.fingerprint()
    drawn = [
        datasets.load("synthetic", "", "1-2", 64, margin=margin, cache=tmp_path / "c")
        for margin in (1.25, 2.0)
    ]
    assert (
        drawn[0].fingerprint() == drawn[1].fingerprint()
    )  # drawn people fill their frames as they are


def test_the_margin_of_a_run_is_kept(folder, tmp_path):
    given = {
        "dataset": "lspet",
        "data_root": folder,
        "train": "1-3",
        "val": "4-5",
        "image_size": 64,
        "data_seed": 0,
        "only_present": False,
    }
    datasets.prepare(tmp_path / "wide", **given, margin=2.0)
    datasets.prepare(tmp_path / "older", **given)
    assert [datasets.opened(tmp_path / name).train.side[0] for name in ("wide", "older")] == [
        300,
        187.5,
    ]


@pytest.mark.parametrize(
    "value, middle, step, wanted",
    [
        (14.9, 0, 10, 10),
        (-15.1, 0, 10, -20),
        (4.9, 0, 10, 0),
        (0.76, 1, 0.1, 0.8),
        (1.24, 1, 0.1, 1.2),
        (1.3, 1, 0.25, 1.25),
        (17.3, 0, 0, 17.3),
        (-0.3, 1, 0, -0.3),
    ],
)
def test_values_in_steps(value, middle, step, wanted):
    assert datasets.stepped(value, middle, step) == pytest.approx(wanted)


def test_augmentation_in_predefined_steps():
    """§3.1: every angle and size that the steps allow is drawn, and no other; the same draws as without steps."""
    frame = Frame((50, 50), 100, 64, 80)
    steps, any_ = (Augmentation(40, 0.7, 1.3, True, *given) for given in ((10, 0.1), ()))
    stepped, free = (
        [one(frame, np.random.default_rng(seed)) for seed in range(400)] for one in (steps, any_)
    )
    assert {round(one.angle, 6) for one in stepped} == {10 * n for n in range(-4, 5)}
    assert {round(one.side, 6) for one in stepped} == {round(1000 / n, 6) for n in range(7, 14)}
    assert len({one.angle for one in free}) == 400 == len({one.side for one in free})
    assert max(abs(one.angle - other.angle) for one, other in zip(stepped, free)) <= 5
    assert [one.mirrored for one in stepped] == [one.mirrored for one in free]


def test_points_can_be_withheld(tmp_path):
    """Strategy (ii) of §3.1: no labels of pelvis and thorax, everything else as it was."""
    drawn, withheld = (
        datasets.load("synthetic", "", "1-4", 64, missing_points=how, cache=tmp_path / "c")
        for how in ("as_labelled", "withheld")
    )
    rows = [MPII.index("pelvis"), MPII.index("thorax")]
    assert (drawn.visibility[:, rows] != ABSENT).all() and (
        withheld.visibility[:, rows] == ABSENT
    ).all()
    assert np.isnan(withheld.joints[:, rows]).all() and not np.isnan(drawn.joints).any()
    assert (withheld.joints[:, MPII.scored] == drawn.joints[:, MPII.scored]).all()
    assert (withheld.visibility[:, MPII.scored] == drawn.visibility[:, MPII.scored]).all()
    assert withheld.fingerprint() != drawn.fingerprint()
    item = PoseDataset(withheld, 64)[0]
    assert (item["visibility"][rows] == ABSENT).all() and (item["joints"][rows] == 0).all()


def test_annotations_can_be_looked_at_without_images(folder, monkeypatch):
    whole = datasets.load("lspet", folder, "1-5")
    shutil.rmtree(folder / "images")
    bare = datasets.load("lspet", folder, "1-5", only_present=None)
    assert bare.fingerprint() == whole.fingerprint() and len(bare) == 5
    for only_present in (False, True):
        with pytest.raises(BadInput, match="5 of 5 people's images absent"):
            datasets.load("lspet", folder, "1-5", only_present=only_present)
    scipy.io.savemat(folder / "joints.mat", {"joints": table(folder).transpose(1, 0, 2) % 1})
    assert len(datasets.load("lsp", folder, "all", only_present=None)) == 5


def test_rows_of_an_ablation_take_their_drawn_people_from_where_the_run_has_them(
    tmp_path, monkeypatch
):
    data = datasets.prepare(tmp_path / "runs" / "x", **SYNTHETIC, train="1-3", val="7-8")
    monkeypatch.setattr(datasets.synthetic, "draw", None)  # nobody is drawn again
    row = tmp_path / "runs" / "x" / "rows" / "some-row-seed0"
    again = datasets.prepare(row, **data.manifest["parameters"])
    assert again.manifest["fingerprints"] == data.manifest["fingerprints"]
    assert datasets.opened(row).train.fingerprint() == data.train.fingerprint()
    assert not list((tmp_path / "runs" / "x").rglob("cache"))


@pytest.mark.parametrize(
    "variables, wanted",
    [
        ({"HPE_CACHE": "chosen", "XDG_CACHE_HOME": "xdg"}, "chosen"),
        ({"XDG_CACHE_HOME": "xdg", "HOME": "home"}, "xdg/hpe"),
        ({"HOME": "home"}, "home/.cache/hpe"),
        ({"HOME": "file"}, "run/cache"),
    ],
)
@pytest.mark.parametrize("row", ["", "rows/some-seed0"])
def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch, variables, wanted, row):
    (tmp_path / "file").touch()  # a home in which no folder can be made
    for name in ("HPE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    assert datasets.cache_of(tmp_path / "run" / row) == tmp_path / wanted


def test_people_are_drawn_into_the_cache_and_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.setenv("HPE_CACHE", str(tmp_path / "cache"))
    datasets.prepare(tmp_path / "runs" / "x", **SYNTHETIC, train="1-2", val="7-8")
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert [path.name for path in (tmp_path / "runs").rglob("*")] == ["x", "data", "manifest.json"]


# ---- large photographs: decoded no finer than needed, or cut out once


DOTS = 3  # joints that are painted, one a channel


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Six people on JPEGs of 1001 × 763 px whose first three joints are soft dots, the last by the image's edge."""
    root, random, paths = tmp_path_factory.mktemp("large"), np.random.default_rng(0), []
    side, center = np.array([256.0, 350, 500, 530, 800, 500]), np.full((6, 2), (500.0, 380.0))
    center[5] = 930, 60
    joints = center[:, None] + side[:, None, None] * random.uniform(-0.25, 0.25, (6, 16, 2))
    joints[5, :DOTS] = (850, 100), (900, 50), (940, 130)
    across, down = np.meshgrid(np.arange(1001), np.arange(763))
    for row in range(6):
        dots = [
            160 * np.exp(-((across - x) ** 2 + (down - y) ** 2) / (2 * (0.03 * side[row]) ** 2))
            for x, y in joints[row, :DOTS]
        ]
        texture = cv2.resize(
            random.integers(0, 60, (25, 33), np.uint8), (1001, 763), interpolation=cv2.INTER_CUBIC
        )
        image = np.stack(dots, -1) + texture[..., None]
        paths.append(root / f"{row}.jpg")
        cv2.imwrite(
            str(paths[-1]), image.astype(np.uint8)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 97]
        )
    return datasets.People(
        "made",
        np.arange(6).astype(str),
        datasets.ImageFiles(paths, "made images"),
        joints,
        np.full((6, 16), VISIBLE, np.int8),
        center,
        side,
        side / 1.25,
        side / 10,
        side,
        "PCKh@0.5",
        True,
        False,
    )


def drawn_frames(people, times=3, image_size=128):
    """(row, an augmented frame), among them the extremes of §3.1."""
    random = np.random.default_rng(1)
    for row in range(len(people)):
        plain = people.frame(row, image_size)
        extremes = [plain.augmented(scale, angle) for scale in (0.7, 1.3) for angle in (-40, 45)]
        yield from (
            (row, frame)
            for frame in extremes + [Augmentation()(plain, random) for _ in range(times)]
        )


def check_dots(crop, exact, frame, joints):
    """Each channel's dot has its middle where it has it in the crop of the whole photograph."""
    y, x = np.mgrid[: frame.image_size, : frame.image_size]
    for channel, (px, py) in enumerate(frame.to_crop(joints)):
        near = np.hypot(x - px, y - py) < 0.05 * frame.image_size * frame.body_in_crop / 102.4
        values = [image[..., channel].astype(float) for image in (crop, exact)]
        weights = [near * (value - np.percentile(value[near], 5)).clip(0) for value in values]
        middle = [
            np.array([(weight * axis).sum() for axis in (x, y)]) / weight.sum()
            for weight in weights
        ]
        assert np.hypot(*(middle[0] - middle[1])) < 0.1  # px


def test_a_jpeg_much_finer_than_the_crop_is_decoded_coarser(large, monkeypatch):
    steps, read = [], datasets.read_image
    monkeypatch.setattr(
        datasets, "read_image", lambda path, step=1: steps.append(step) or read(path, step)
    )
    for row, frame in drawn_frames(large):
        crop = large.images.cut(row, frame)
        ratio = frame.side / 128
        assert steps.pop() == (1 if ratio < 2 else 2 if ratio < 4 else 4 if ratio < 8 else 8)
        exact = frame.cut(large.images[row])
        steps.clear()
        assert np.abs(crop.astype(int) - exact).mean() < 1
        check_dots(crop, exact, frame, large.joints[row, :DOTS])
    assert read(large.images.paths[0], 4).shape == (191, 251, 3)


@pytest.fixture(scope="module", params=["jpeg", "raw"])
def cut_out(request, large, tmp_path_factory):
    return datasets.with_crops(large, 128, request.param, tmp_path_factory.mktemp("cache"))


def test_cached_crops_show_what_the_photographs_do(large, cut_out, monkeypatch):
    """Within 1.5 of 255 levels in the mean, and every dot at its joint, without reading a photograph."""
    monkeypatch.setattr(datasets, "read_image", None)
    found = [cut_out.images.cut(row, frame) for row, frame in drawn_frames(large)]
    monkeypatch.undo()
    for crop, (row, frame) in zip(found, drawn_frames(large), strict=True):
        exact = frame.cut(large.images[row])
        assert np.abs(crop.astype(int) - exact).mean() < 1.5
        check_dots(crop, exact, frame, large.joints[row, :DOTS])


def test_crops_of_pixels_that_were_not_shrunk_are_the_photograph_s(large, tmp_path):
    raw = datasets.with_crops(large, 512, "raw", tmp_path)
    for row, frame in drawn_frames(large, image_size=512):
        assert (
            np.abs(raw.images.cut(row, frame).astype(int) - frame.cut(large.images[row])).max() <= 1
        )


def test_what_cached_crops_were_not_made_for_comes_from_the_photographs(large, cut_out):
    for row in range(6):
        for scale, image_size in ((0.6, 128), (1.5, 128), (1.0, 512)):
            frame = large.frame(row, image_size).augmented(scale, 20)
            wide = scale < 0.7 or cut_out.images.index[row, 6] > 1
            assert (
                np.array_equal(cut_out.images.cut(row, frame), large.images.cut(row, frame))
                or not wide
            )
        assert np.array_equal(cut_out.images[row], large.images[row])


def test_crops_are_made_once_and_no_larger_than_needed(large, cut_out, tmp_path, monkeypatch):
    folder = cut_out.images.pixels.parent
    monkeypatch.setattr(datasets, "_cut_to", None)
    again = datasets.with_crops(large, 128, cut_out.images.kind, folder.parent)
    assert (
        again.fingerprint() == cut_out.fingerprint() != large.fingerprint()
        and len(again.images) == 6
    )
    _, sizes, heights, widths, *_ = cut_out.images.index.T
    assert [path.name for path in folder.parent.iterdir()] == [
        folder.name
    ]  # nothing half-made is left
    assert folder.joinpath("pixels").stat().st_size == sizes.sum()
    assert (np.maximum(heights, widths) <= 1.25 * 128 * 1.3 * 2**0.5 / 0.7 + 20).all()
    assert datasets.with_crops(large, 128, "", tmp_path) is large and not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", [emptied, shortened, Path.unlink])
@pytest.mark.parametrize("name", ["pixels", "index.npy"])
def test_damaged_crops_are_cut_anew(large, tmp_path, name, damage, capsys):
    whole = datasets.with_crops(large, 64, "jpeg", tmp_path)
    expected = [whole.images.cut(row, whole.frame(row, 64)) for row in range(len(whole))]
    damage(next(tmp_path.rglob(name)))
    again = datasets.with_crops(large, 64, "jpeg", tmp_path)
    assert "made anew" in capsys.readouterr().err
    for row, crop in enumerate(expected):
        assert (again.images.cut(row, again.frame(row, 64)) == crop).all()


def test_a_photograph_that_has_changed_is_cut_anew(large, tmp_path):
    path = tmp_path / "one.jpg"
    people = replace(
        large[:1], images=datasets.Rows(datasets.ImageFiles([path], "made images"), np.array([0]))
    )
    frame, cut = people.frame(0, 128), []
    for image in (large.images.paths[0], large.images.paths[3]):
        path.write_bytes(image.read_bytes())
        cut.append(datasets.with_crops(people, 128, "raw", tmp_path).images.cut(0, frame))
        assert np.abs(cut[-1].astype(int) - people.images.cut(0, frame)).mean() < 1.5
    assert np.abs(cut[0].astype(int) - cut[1]).mean() > 5


def test_workers_augment_cached_crops_alike(cut_out):
    first = items(cut_out, 1)
    assert same(first, items(cut_out, 1, workers=2)) and not same(first, items(cut_out, 2))


def test_a_run_trains_on_crops_and_is_scored_on_photographs(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HPE_CACHE", str(tmp_path / "cache"))
    given = {
        "dataset": "lspet",
        "data_root": folder,
        "train": "1-3",
        "val": "4-5",
        "image_size": 64,
        "data_seed": 0,
        "only_present": False,
    }
    older = datasets.prepare(tmp_path / "runs" / "plain", **given)
    data = datasets.prepare(tmp_path / "runs" / "cut", **given, crop_cache="jpeg")
    again = datasets.opened(tmp_path / "runs" / "cut")
    for found in (data, again):
        assert isinstance(found.train.images, datasets.Crops)
        assert isinstance(found.val.images, datasets.ImageFiles)
        assert found.manifest["fingerprints"]["val"] == older.manifest["fingerprints"]["val"]
        assert (
            found.train.fingerprint()
            == data.manifest["fingerprints"]["train"]
            != older.train.fingerprint()
        )
    assert [path.name.split("-")[:2] for path in (tmp_path / "cache").iterdir()] == [
        ["crops", "jpeg"]
    ]
    assert isinstance(
        datasets.opened(tmp_path / "runs" / "plain").train.images, datasets.ImageFiles
    )


def test_a_broken_photograph_leaves_no_crops(folder, tmp_path):
    path = folder / "images" / "im00002.jpg"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadInput, match="im00002.jpg"):
        datasets.prepare(
            tmp_path / "runs" / "x",
            dataset="lspet",
            data_root=folder,
            train="1-3",
            val="4-5",
            image_size=64,
            data_seed=0,
            only_present=False,
            crop_cache="raw",
        )
    assert not list((tmp_path / "runs").rglob("*crops*")) and not (tmp_path / "runs" / "x").exists()


def test_drawn_people_are_never_cut_out(tmp_path):
    data = datasets.prepare(
        tmp_path / "runs" / "x", **SYNTHETIC, train="1-2", val="7-8", crop_cache="raw"
    )
    assert isinstance(data.train.images, datasets.Pixels)


def test_a_folder_is_no_image_and_is_said_to_be_one(tmp_path):
    with pytest.raises(BadInput, match="found a folder, expected an image"):
        datasets.read_image(tmp_path)


def test_held_out_people_whom_nobody_could_score_are_refused(folder, tmp_path):
    """Right hip or left shoulder at one point: a torso of no length. One such person is counted."""
    joints = table(folder)
    ends = [LSP_NAMES.index(name) for name in ("right_hip", "left_shoulder")]
    joints[ends[0], :, 3:] = joints[ends[1], :, 3:]
    scipy.io.savemat(folder / "joints.mat", {"joints": joints})
    chosen = {"dataset": "lspet", "data_root": str(folder), "image_size": 32, "data_seed": 0}
    with pytest.raises(BadInput) as error:
        datasets.prepare(tmp_path, train="1-3", val="4-5", only_present=False, **chosen)
    says(error, "val", "nobody of 2 with a positive normaliser for PCK@0.2", "people who can be")
    assert not (tmp_path / "data").exists()


SCENE = (
    np.random.default_rng(0)
    .integers(0, 255, (12, 16, 3))
    .astype(np.uint8)
    .repeat(8, 0)
    .repeat(8, 1)
)
KINDS = {
    "PNG": {},
    "WEBP": {},
    "AVIF": {},
    "TIFF": {},
    "GIF": {},
    "BMP": {},
    "PPM": {},
    "JPEG2000": {},
    "JPEG": {"progressive": True},
}


def packed(kind, pixels=SCENE, **more):
    """The bytes of an image file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **KINDS[kind] | more)
    return file.getvalue()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("percent", [30, 60, 90])
def test_an_image_that_ends_early_is_refused(kind, percent):
    data = packed(kind)
    assert datasets.decode_image("whole", data).shape == SCENE.shape
    with pytest.raises(BadInput, match="cut: found .* bytes: .*, expected a whole JPEG"):
        datasets.decode_image("cut", data[: len(data) * percent // 100])


@pytest.mark.parametrize("packing", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"])
def test_packed_tiffs_that_end_early_are_refused(packing):
    data = packed("TIFF", compression=packing)
    assert datasets.decode_image("whole", data).shape == SCENE.shape
    with pytest.raises(BadInput, match="cut: found "):
        datasets.decode_image("cut", data[: len(data) * 6 // 10])


@pytest.mark.parametrize("kind", ["AVIF", "WEBP", "JPEG2000", "PNG", "JPEG"])
def test_a_hole_in_the_middle_of_a_file_is_refused(kind):
    scene = np.random.default_rng(1).integers(0, 255, (160, 160, 3)).astype(np.uint8)
    data = packed(kind, scene)
    start, size = len(data) // 2, max(1024, len(data) // 10)
    with pytest.raises(BadInput, match="holed: found .* bytes: .*, expected a whole JPEG"):
        datasets.decode_image("holed", data[:start] + bytes(size) + data[start + size :])


@pytest.mark.parametrize("kind", ["AVIF", "WEBP", "JPEG2000"])
def test_flat_images_and_room_for_notes_are_no_holes(kind):
    """A black image is zeros as nearly as an encoder can make them."""
    black = np.zeros((1500, 1500, 3), np.uint8)
    assert datasets.decode_image("black", packed(kind, black)).max() < 3
    exif = Image.Exif()
    exif[ExifTags.Base.MakerNote] = bytes(5000)
    notes = {} if kind == "JPEG2000" else {"exif": exif.tobytes()}
    assert datasets.decode_image("camera", packed(kind, **notes)).shape == SCENE.shape
