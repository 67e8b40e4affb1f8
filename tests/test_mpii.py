"""MPII from the official layout: real people if there are any, and small files with its quirks."""

import json
from dataclasses import replace

import cv2
import h5py
import numpy as np
import pytest
import scipy.io
import torch

from hpe_lib import cascade, heatmaps, prediction, stages
from hpe_lib.data import annotations, mpii
from hpe_lib.data.augment import PoseDataset, joints_in_crop
from hpe_lib.data.datasets import load_people, open_data, prepare
from hpe_lib.skeleton import ABSENT, MPII, OCCLUDED, VISIBLE
from hpe_lib.targets import write_targets
from hpe_lib.workbook import artifacts, presets
from hpe_lib.workbook.artifacts import BadInput

FILE = "mpii_human_pose_v1_u12_1.mat"


# ---- the 2,958 validation people


@pytest.fixture(scope="session")
def root(test_data, tmp_path_factory):
    """The validation people's folder.

    An empty file stands for each image that is not at hand, so that all are found.
    """
    root = tmp_path_factory.mktemp("mpii")
    for name in ("mpii_human_pose_v1_u12_1.val.mat", "valid.h5", "evaluation_data_detections.mat"):
        (root / name).symlink_to(test_data / "mpii" / name)
    (root / "images").mkdir()
    for name in annotations.mpii_rows(root / "valid.h5")[0]:
        real = test_data / "mpii" / "images" / name
        path = root / "images" / name
        if real.is_file() and not path.exists():
            path.symlink_to(real)
        path.touch()
    return root


@pytest.fixture(scope="session")
def val(root):
    return load_people("mpii", root, "val")


@pytest.fixture(scope="session")
def newell(root):
    with h5py.File(root / "valid.h5") as file:
        return {name: file[name][:] for name in file}


def test_counts_of_the_validation_people(val):
    assert (
        len(val) == 2958 == len(set(val.keys))
        and len({path.name for path in val.images.paths}) == 2729
    )
    assert val.skipped == {"rectangles without points": 1988, "no position or scale": 0}
    assert ((val.visibility != ABSENT).sum(), (val.visibility == OCCLUDED).sum()) == (44240, 10243)
    assert (np.isnan(val.joints).any(-1) == (val.visibility == ABSENT)).all()
    assert val.occlusion_labels and val.center_from_joints and val.metric == "PCKh@0.5"


def test_a_folder_that_is_not_there_is_said_not_to_be(tmp_path, monkeypatch):
    with pytest.raises(BadInput, match="typo: found no such folder, expected that of MPII's"):
        load_people("mpii", tmp_path / "typo", "val")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(BadInput, match=f"{tmp_path}/typo: found no such folder"):
        load_people("mpii", "~/typo", "val")


def test_the_order_is_that_of_prediction_files(val, newell):
    names = newell["imgname"].astype(str)
    assert [path.name for path in val.images.paths] == names.tolist()
    assert [key.split() for key in val.keys] == [
        [n, str(int(p) + 1)] for n, p in zip(names, newell["person"])
    ]


def test_frames_are_those_that_newell_s_file_has_adjusted_once(val, newell):
    """Trap T17: centre and scale adjusted twice or never."""
    assert np.allclose(val.center + 1, newell["center"], atol=1e-9)
    assert np.allclose(val.side, 200 * newell["scale"], rtol=1e-12) and np.allclose(
        val.side, 1.25 * val.body
    )
    assert np.allclose(val.normaliser, 0.1 * val.side, rtol=1e-5)  # a head is a tenth of the crop
    assert val.frame(7, 256).body_in_crop == pytest.approx(204.8)


def test_joints_are_newell_s_which_are_cut_to_integers(val, newell):
    there = val.visibility != ABSENT
    difference = (val.joints + 1 - newell["part"])[there]
    assert np.abs(difference).max() < 1 and (difference != 0).any(1).sum() == 5460
    assert (newell["part"][~there] == 0).all() and (newell["part"][there] % 1 == 0).all()
    assert ((newell["visible"] > 0) == (val.visibility == VISIBLE))[there].all()


def test_few_joints_lie_outside_the_crop(val):
    """Users' trap T17 again: 190 joints of 150 people, 1,809 without the adjustment."""
    outside = np.stack(
        [
            joints_in_crop(frame, joints, visible)[1] == ABSENT
            for frame, joints, visible in zip(val.frames(256), val.joints, val.visibility)
        ]
    ) & (val.visibility != ABSENT)
    assert (outside.sum(), outside.any(1).sum()) == (190, 150)


def test_the_first_five_are_those_of_the_json_sample(val, test_data):
    for row, other in enumerate(
        json.loads((test_data / "mpii" / "mmpose_sample.json").read_text())
    ):
        assert val.images.paths[row].name == other["image"]
        there = val.visibility[row] != ABSENT
        assert there.tolist() == [bool(flag) for flag in other["joints_vis"]]
        assert np.allclose(val.joints[row][there] + 1, np.array(other["joints"])[there], atol=1e-3)
        assert val.body[row] == pytest.approx(200 * other["scale"], rel=1e-6)
        assert np.allclose(
            val.center[row] + 1 - (0, 15 * other["scale"]), other["center"], atol=1e-3
        )


def test_parts_of_the_validation_people(root, val, test_data):
    assert (load_people("mpii", root, "val 101-200").keys == val.keys[100:200]).all()
    assert set(load_people("mpii", root, "all").keys) == set(val.keys)
    here = load_people("mpii", test_data / "mpii", "val", only_present=True)
    photographs = {path.name for path in (test_data / "mpii" / "images").iterdir()}
    there = np.array([path.name in photographs for path in val.images.paths])
    assert list(here.keys) == list(val.keys[there])
    assert list(here.keys[:5]) == list(val.keys[:5])
    absent = (~there).sum()
    assert here.skipped["image absent"] == absent
    with pytest.raises(BadInput, match=f"{absent} of 2958 people's images absent, this one first"):
        load_people("mpii", test_data / "mpii", "val")
    for people, said in (
        ("train", "nobody of train among its 2958 people"),
        ("test", "nobody of test"),
        ("val 2958-2959", "at least the 2959 of people val 2958-2959"),
    ):  # everybody here is of val
        with pytest.raises(BadInput, match=said):
            load_people("mpii", root, people)


class Knowing(cascade.Cascade):
    """An untrained cascade that runs.

    Its regressor then answers with Gaussians at the true joints.
    """

    def forward(self, images):
        maps = super().forward(images)
        return maps._replace(regressor=self.truth)


@pytest.mark.parametrize("stride", [1, 4])
def test_five_people_from_photograph_through_network_and_back(val, stride):
    people = val[:5]
    batch = torch.utils.data.default_collate([PoseDataset(people, 256)[row] for row in range(5)])
    there = batch["visibility"].numpy() != ABSENT
    assert (there == (people.visibility != ABSENT)).all()
    items = np.stack(
        [f.to_image(crop) for f, crop in zip(people.frames(256), batch["joints"].numpy())]
    )
    assert np.abs(items - people.joints)[there].max() < 0.001

    torch.manual_seed(0)
    network = Knowing({"trunk": "slim", "map_stride": stride, "image_size": 256})
    sigma = batch["body"] / 40 / stride
    network.truth = heatmaps.gaussians(
        heatmaps.to_map(batch["joints"], stride),
        batch["visibility"] != ABSENT,
        256 // stride,
        sigma,
    )
    found = prediction.predict(network, people, 256, flip_test=False)
    assert np.abs(found.joints - people.joints)[there].max() < 0.01
    assert np.isfinite(found.detector_joints).all() and found.detector_joints.shape == (5, 16, 2)


def test_the_crop_shows_what_stands_around_the_joint(val):
    """About the first person's right shoulder, a full-size patch is the photograph's own."""
    people = val[:1]
    point = val.joints[0, MPII.index("right_shoulder")]
    whole = replace(people, center=point[None], side=np.array([65.0]))
    x, y = point.astype(int)
    assert (point == (x, y)).all()
    assert (
        np.abs(
            whole.crops(65)[0].astype(int) - people.images[0][y - 32 : y + 33, x - 32 : x + 33]
        ).max()
        <= 1
    )


# ---- the layout and its quirks, in small


def structs(*records):
    """A MATLAB struct array; a field that a record lacks is empty."""
    names = dict.fromkeys(name for record in records for name in record)
    made = np.zeros((1, len(records)), [(name, object) for name in names] or [("x", object)])
    for place, record in enumerate(records):
        made[0, place] = tuple(record.get(name, np.zeros((0, 0))) for name in names)
    return made


def person(x, y, scale=1.0, visible=(1, "0", "1", 0), **other):
    """A rectangle with four points about (x, y), their ids in an order of their own.

    Further points have no is_visible.
    """
    points = [
        {"x": x + 10 * k, "y": float(y + 5 * k), "id": k, "is_visible": value}
        for k, value in reversed(list(enumerate(visible)))
    ]
    points.append({"x": np.uint8(x), "y": y - 40.5, "id": 9})
    return {
        "x1": x - 3,
        "y1": y - 44,
        "x2": x + 3,
        "y2": y - 36,
        "annopoints": structs({"point": structs(*points)}),
        "scale": scale,
        "objpos": structs({"x": x, "y": y}),
    } | other


IMAGES = {  # name: (img_train, its rectangles)
    "a.jpg": (1, [person(50, 60), {"x1": 1, "y1": 1, "x2": 9, "y2": 9}, person(90, 60, 0.5)]),
    "b.jpg": (1, [person(40, 50), person(80, 50)]),  # its second person is held out
    "c.jpg": (1, []),
    "d.jpg": (0, [person(30, 60)]),
    "e.jpg": (1, [person(70, 70), person(20, 70, np.zeros((0, 0)))]),
}


@pytest.fixture
def folder(tmp_path):
    """A folder in the official layout: six people with points, five with a place and a size."""
    return write_folder(tmp_path)


def write_folder(tmp_path):
    """The people of IMAGES in a folder in the official layout, and their images."""
    annolist = structs(
        *(
            {"image": structs({"name": name})} | ({"annorect": structs(*people)} if people else {})
            for name, (_, people) in IMAGES.items()
        )
    )
    acts = structs(*({"act_name": "rowing", "act_id": 3} for _ in IMAGES))
    train = np.array([[flag for flag, _ in IMAGES.values()]], np.uint8)
    release = structs({"annolist": annolist, "img_train": train, "act": acts.T, "version": "12"})
    scipy.io.savemat(tmp_path / FILE, {"RELEASE": release})
    scipy.io.savemat(tmp_path / "other.mat", {"jnt_missing": np.zeros((16, 3))})
    rows(tmp_path / "valid.h5", ["b.jpg"], [2])
    (tmp_path / "images").mkdir()
    for name in IMAGES:
        cv2.imwrite(str(tmp_path / "images" / name), np.full((100, 120, 3), 90, np.uint8))
    return tmp_path


def rows(path, images, people):
    with h5py.File(path, "w") as file:
        file["imgname"] = np.array(images, "S")
        file["person"] = np.array(people, float) - 1


@pytest.mark.parametrize(
    "people, keys",
    [
        ("train", ["a.jpg 1", "a.jpg 3", "e.jpg 1"]),
        ("val", ["b.jpg 2"]),
        ("test", ["d.jpg 1"]),
        ("all", ["a.jpg 1", "a.jpg 3", "b.jpg 1", "b.jpg 2", "d.jpg 1", "e.jpg 1"]),
        ("2-4", ["a.jpg 3", "b.jpg 1", "b.jpg 2"]),
        ("train 2-3", ["a.jpg 3", "e.jpg 1"]),
    ],
)
def test_splits_share_no_image(folder, people, keys):
    found = load_people("mpii", folder, people)
    assert list(found.keys) == keys and found.skipped["rectangles without points"] == 1


def test_the_order_of_the_row_list_is_kept(folder):
    rows(folder / "valid.h5", ["e.jpg", "a.jpg", "b.jpg", "a.jpg"], [1, 3, 1, 1])
    assert list(load_people("mpii", folder, "val").keys) == [
        "e.jpg 1",
        "a.jpg 3",
        "b.jpg 1",
        "a.jpg 1",
    ]
    with pytest.raises(BadInput, match="found nobody of train among its 7 people"):
        load_people("mpii", folder, "train")


def test_one_person_number_by_number(folder):
    found = load_people("mpii", folder, "2-2")
    states = {
        name: int(state) for name, state in zip(MPII.names, found.visibility[0]) if state != ABSENT
    }
    assert states == {
        "right_ankle": VISIBLE,
        "right_knee": OCCLUDED,
        "right_hip": VISIBLE,
        "left_hip": OCCLUDED,
        "head_top": VISIBLE,
    }
    assert found.joints[0, MPII.index("right_hip")].tolist() == [90 + 20 - 1, 60 + 10 - 1]
    assert found.center[0].tolist() == [90 - 1, 60 + 15 * 0.5 - 1]
    assert (found.side[0], found.body[0], found.normaliser[0]) == (125, 100, 0.6 * 10)
    assert found.box[0] == 75 - 19.5


def test_people_without_a_size_are_skipped_and_counted(folder):
    assert load_people("mpii", folder, "train").skipped["no position or scale"] == 1
    assert load_people("mpii", folder, "test").skipped["no position or scale"] == 0


def test_a_file_that_places_nobody_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "IMAGES", {"a.jpg": (1, [person(50, 60, np.zeros((0, 0)))])})
    with pytest.raises(BadInput, match="found no position or scale for any of 1 people, expected"):
        load_people("mpii", write_folder(tmp_path), "train")


def says(error, *parts):
    line = str(error.value)
    assert "\n" not in line and all(part in line for part in ("found", "expected", *parts)), line


def test_there_must_be_one_official_file(folder):
    scipy.io.savemat(folder / "second.mat", {"RELEASE": np.zeros(1)})
    with pytest.raises(BadInput) as error:
        load_people("mpii", folder, "all")
    says(error, str(folder), "2 .mat files", FILE, "second.mat")
    (folder / "second.mat").unlink()
    whole = (folder / FILE).read_bytes()
    for damaged in (b"<html>not found</html>", whole[:60], whole[:128] + b"\xff" * 64):
        (folder / FILE).write_bytes(damaged)
        with pytest.raises(BadInput) as error:
            load_people("mpii", folder, "all")
        says(error, str(folder / FILE), "MPII's official layout")
    (folder / FILE).unlink()
    with pytest.raises(BadInput) as error:
        load_people("mpii", folder, "all")
    says(error, str(folder), "0 .mat files")


def test_a_row_list_that_is_absent_or_of_other_people(folder):
    rows(folder / "valid.h5", ["b.jpg", "a.jpg"], [2, 2])
    with pytest.raises(BadInput) as error:
        load_people("mpii", folder, "val")
    says(error, FILE, "a.jpg", "person 2", "1 of the 2")
    (folder / "valid.h5").unlink()
    assert len(load_people("mpii", folder, "all")) == 6
    for people in ("train", "val"):
        with pytest.raises(BadInput, match="valid.h5: found no such file"):
            load_people("mpii", folder, people)


def test_the_official_file_has_the_published_split_or_is_refused(folder, monkeypatch):
    small = annotations.mpii_official(folder / FILE)
    many = small[np.arange(28883) % 6]
    many.image[6:] = [f"{row}.jpg" for row in range(6, len(many))]
    monkeypatch.setattr(mpii, "_read_official", lambda path, changed: many)
    for people, found, expected in (("train", 24067, 22246), ("val", 1, 2958)):
        with pytest.raises(BadInput) as error:
            load_people("mpii", folder, people)
        says(error, f"{found} people of {people}", f"the {expected} of the published split")


def test_a_file_that_has_changed_is_read_again(folder):
    assert len(load_people("mpii", folder, "all")) == 6
    whole = scipy.io.loadmat(folder / FILE)
    whole["RELEASE"]["img_train"][0, 0][:] = 0
    scipy.io.savemat(folder / FILE, {"RELEASE": whole["RELEASE"]})
    assert len(load_people("mpii", folder, "test")) == 6


def test_a_run_on_mpii_shares_neither_people_nor_images(folder, tmp_path):
    given = {
        "dataset": "mpii",
        "data_root": str(folder),
        "image_size": 64,
        "data_seed": 0,
        "only_present": False,
        "margin": 1.25,
        "missing_points": "as_labelled",
    }
    data = prepare(tmp_path / "run", **given, train="train", val="val")
    assert (len(data.train), len(data.val)) == (3, 1)
    assert open_data(tmp_path / "run").val.fingerprint() == data.val.fingerprint()
    with pytest.raises(BadInput) as error:
        prepare(tmp_path / "other", **given, train="1-3", val="val")
    says(error, "1 in both", "b.jpg")


def test_names_of_images_may_have_spaces(tmp_path, monkeypatch):
    spaced = {f"frame {name}": content for name, content in IMAGES.items()}
    monkeypatch.setitem(globals(), "IMAGES", spaced)
    folder = write_folder(tmp_path)
    rows(folder / "valid.h5", ["frame b.jpg"], [2])
    given = {"dataset": "mpii", "data_root": str(folder), "image_size": 64}
    data = prepare(tmp_path / "run", **given, train="train", val="val")
    assert list(data.val.keys) == ["frame b.jpg 2"]
    with pytest.raises(BadInput) as error:
        prepare(tmp_path / "other", **given, train="1-3", val="val")
    says(error, "1 in both, first frame b.jpg")


# ---- the paper's presets on them


@pytest.mark.slow  # 4 minutes (res) and 10 (vgg) on two cores
@pytest.mark.parametrize("preset", ["paper-res", "paper-vgg"])
def test_the_first_twelve_steps_of_the_papers_presets_on_real_people(preset, test_data, tmp_path):
    """Full networks at printed sizes and rates, from random weights, on four people at hand."""
    own = [
        "01.train=val 1-4",
        "01.val=val 5-5",
        f"data_root={test_data / 'mpii'}",
        "only_present=true",
        "pretrained=false",
        "batch_size=1",
        "workers=0",
        "epochs=3",
    ]
    resolved = presets.resolve(preset, own)
    prepare(tmp_path, **resolved["01"])
    write_targets(tmp_path, **resolved["02"])
    for stage, number in (("detector", "03"), ("regressor", "04"), ("joint", "05")):
        records = list(stages.train(stage, tmp_path, resolved[number]))
        made = artifacts.manifest(tmp_path / artifacts.STAGES[stage])
        assert made["steps"] == 12 and all(np.isfinite(record["loss"]) for record in records)
        print(
            f"{preset} {stage}: losses {[round(record['loss'], 1) for record in records]}, "
            f"{made['wall_seconds'] / 12:.1f} s a step, {made['peak_memory_mb'] / 1024:.1f} GiB"
        )
