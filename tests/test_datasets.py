"""People by name and range, and those that a run has chosen."""

import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
import scipy.io
from lspet_files import read_joints, says, write_lspet

from hpe_lib.data import synthetic
from hpe_lib.data.augment import PoseDataset
from hpe_lib.data.datasets import cache_folder, load_people, open_data, prepare
from hpe_lib.data.people import center_on_images, image_notes, parse_people, replace_midpoints
from hpe_lib.skeleton import ABSENT, LSP_NAMES, MPII, OCCLUDED, VISIBLE
from hpe_lib.workbook.artifacts import BadInput

SYNTHETIC = {
    "dataset": "synthetic",
    "data_root": "",
    "image_size": 64,
    "data_seed": 0,
    "only_present": False,
    "margin": 1.25,
    "missing_points": "as_labelled",
}


# ---- rows, fingerprints


def test_rows_of_people_belong_together(drawn):
    for rows in (slice(4, 9), [7, 2], np.arange(24) % 5 == 1):
        some = drawn[rows]
        wanted = np.arange(24)[rows]
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
    assert replace(drawn, joints=joints).fingerprint() != drawn.fingerprint()


def test_people_ranges():
    assert parse_people("3-5") == parse_people("all 3-5") == ("all", slice(2, 5))
    assert parse_people("val 1-1") == ("val", slice(0, 1))
    assert parse_people("test") == ("test", slice(0, None))


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
        "1-0",
        "5-0",
        "val 1-0",
    ],
)
def test_people_ranges_that_are_none(people):
    with pytest.raises(BadInput) as error:
        parse_people(people)
    says(error, people)


def test_unknown_data_set():
    with pytest.raises(BadInput) as error:
        load_people("coco")
    says(error, "coco", "synthetic", "mpii", "lsp", "lspet")


def test_unknown_way_with_missing_points():
    """Taken for "withheld", it would remove all labels of MPII's pelvis and thorax."""
    with pytest.raises(BadInput) as error:
        load_people("synthetic", people="1-2", image_size=32, missing_points="invent")
    says(error, "missing_points", "'invent'", "as_labelled, withheld or invented")


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "garbage"])
def test_unreadable_images_are_found_before_anything_is_written(lspet_folder, tmp_path, damage):
    path = lspet_folder / "images" / "im00004.jpg"
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
        prepare(
            tmp_path / "run",
            dataset="lspet",
            data_root=lspet_folder,
            train="1-3",
            val="4-5",
            image_size=64,
            data_seed=0,
            only_present=False,
            margin=1.25,
            missing_points="as_labelled",
        )
    says(error, str(path), str(path.stat().st_size))
    assert not (tmp_path / "run").exists()


# ---- a run's people


def test_prepared_people_are_opened_again(tmp_path):
    data = prepare(tmp_path / "run", **SYNTHETIC, train="1-6", val="7-9")
    again = open_data(tmp_path / "run")
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
        prepare(tmp_path / "run", **SYNTHETIC, train="1-6", val="6-9")
    says(error, "1 in both", "00000006")


def test_how_missing_points_were_treated_is_kept(tmp_path, lspet_folder):
    given = {
        "dataset": "lspet",
        "data_root": lspet_folder,
        "train": "1-3",
        "val": "4-5",
        "image_size": 64,
        "data_seed": 0,
        "only_present": False,
        "margin": 1.25,
        "missing_points": "as_labelled",
    }
    plain, made = (
        prepare(tmp_path / name, **given | more)
        for name, more in (("plain", {}), ("made", {"missing_points": "invented"}))
    )
    pelvis = MPII.index("pelvis")
    assert (open_data(tmp_path / "plain").train.visibility[:, pelvis] == ABSENT).all()
    assert (open_data(tmp_path / "made").train.visibility[:, pelvis] != ABSENT).any()
    assert plain.manifest["fingerprints"] != made.manifest["fingerprints"]


def test_a_run_without_people_or_with_changed_ones(tmp_path, lspet_folder):
    with pytest.raises(BadInput, match="notebook 01"):
        open_data(tmp_path / "nothing")
    prepare(
        tmp_path / "run",
        dataset="lspet",
        data_root=lspet_folder,
        train="1-3",
        val="4-5",
        image_size=64,
        data_seed=0,
        only_present=False,
        margin=1.25,
        missing_points="as_labelled",
    )
    joints = read_joints(lspet_folder)
    joints[0, 0, 4] += 1
    scipy.io.savemat(lspet_folder / "joints.mat", {"joints": joints})
    with pytest.raises(BadInput) as error:
        open_data(tmp_path / "run")
    says(error, "val people that have changed", "notebook 01")


# ---- frames of another margin, augmentation in steps, points withheld, images not asked for


def test_the_margin_is_the_frame_s_side_in_bodies(lspet_folder, tmp_path):
    usual, wide = (
        load_people("lspet", lspet_folder, "1-5", **given) for given in ({}, {"margin": 380 / 300})
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
        load_people("synthetic", "", "1-2", 64, margin=margin, cache=tmp_path / "c")
        for margin in (1.25, 2.0)
    ]
    assert (
        drawn[0].fingerprint() == drawn[1].fingerprint()
    )  # synthetic people fill their frames as they are


def test_the_margin_of_a_run_is_kept(lspet_folder, tmp_path):
    given = {
        "dataset": "lspet",
        "data_root": lspet_folder,
        "train": "1-3",
        "val": "4-5",
        "image_size": 64,
        "data_seed": 0,
        "only_present": False,
        "margin": 1.25,
        "missing_points": "as_labelled",
    }
    prepare(tmp_path / "wide", **given | {"margin": 2.0})
    prepare(tmp_path / "usual", **given)
    assert [open_data(tmp_path / name).train.side[0] for name in ("wide", "usual")] == [
        300,
        187.5,
    ]


def test_drawn_people_are_mixed_into_real_ones(tmp_path, lspet_folder):
    given = {**SYNTHETIC, "dataset": "lspet", "data_root": lspet_folder, "train": "1-3"}
    plain = prepare(tmp_path / "plain", **given, val="4-5")
    prepare(tmp_path / "mixed", **given, val="4-5", drawn="7-10")
    mixed = open_data(tmp_path / "mixed")
    more = load_people("synthetic", people="7-10", image_size=64)
    people = mixed.train
    assert people.keys.tolist() == [*plain.train.keys, *more.keys] and people.metric == "PCK@0.2"
    assert mixed.val.fingerprint() == plain.val.fingerprint()
    assert people.fingerprint() != plain.train.fingerprint()
    assert (people.joints[3:] == more.joints).all() and np.isnan(people.normaliser[3:]).all()
    assert (people.crops(64) == [*plain.train.crops(64), *more.crops(64)]).all()
    finer = people.frame(4, 128)
    assert (people.images.crop(4, finer) == more.images.crop(1, finer)).all(), "drawn again"
    some = people[[5, 0]]
    assert (some.images[0] == more.images[2]).all() and (some.images[1] == people.images[0]).all()
    crops = PoseDataset(people, 64)
    assert crops[6]["image"].shape == crops[0]["image"].shape


def test_joints_of_drawn_people_outside_their_image_are_no_note(tmp_path):
    people = load_people("synthetic", people="1-60", image_size=32, cache=tmp_path)
    away = people.joints.copy()
    away[:, :4] += 500
    hidden = people.visibility.copy()
    hidden[:, :4] = ABSENT
    assert image_notes(replace(people, joints=away, visibility=hidden)) == []
    assert image_notes(replace(people, joints=away)), "if they were annotated"


@pytest.mark.parametrize("times", [0.4, 0.8, 2.5])
def test_images_of_another_size_than_the_annotated_ones_are_said(tmp_path, capsys, times):
    """LSP is around in two sizes, with the same file names."""
    joints = np.random.default_rng(0).uniform((5, 5), (35, 25), (24, 14, 2)).transpose(1, 2, 0)
    write_lspet(tmp_path, np.concatenate([joints, np.ones((14, 1, 24))], axis=1))
    given = {**SYNTHETIC, "dataset": "lspet", "data_root": tmp_path, "train": "1-20"}
    prepare(tmp_path / "sound", **given, val="21-24")
    assert "another size" not in capsys.readouterr().out
    assert image_notes(load_people("lspet", tmp_path, "1-24")) == []
    for path in (tmp_path / "images").iterdir():
        small = cv2.imread(str(path))
        cv2.imwrite(str(path), cv2.resize(small, None, fx=times, fy=times))
    (note,) = image_notes(load_people("lspet", tmp_path, "1-24"))
    assert note.startswith("are the images of another size than those that were annotated?")
    prepare(tmp_path / "other", **given, val="21-24")
    assert capsys.readouterr().out.count(f"note: {note[:40]}") == 1, (
        "of four people nothing is said"
    )


def test_drawn_people_are_mixed_only_into_real_ones(tmp_path):
    with pytest.raises(BadInput) as error:
        prepare(tmp_path / "run", **SYNTHETIC, train="1-3", val="4-5", drawn="7-10")
    says(error, "drawn", "nobody")
    assert not (tmp_path / "run" / "data").exists()


def test_points_can_be_withheld(tmp_path):
    """Strategy (ii) of §3.1: no labels of pelvis and thorax, everything else as it was."""
    drawn, withheld = (
        load_people("synthetic", "", "1-4", 64, missing_points=how, cache=tmp_path / "c")
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


def test_annotations_can_be_looked_at_without_images(lspet_folder, monkeypatch):
    whole = load_people("lspet", lspet_folder, "1-5")
    shutil.rmtree(lspet_folder / "images")
    bare = load_people("lspet", lspet_folder, "1-5", only_present=None)
    assert bare.fingerprint() == whole.fingerprint() and len(bare) == 5
    for only_present in (False, True):
        with pytest.raises(BadInput, match="5 of 5 people's images absent"):
            load_people("lspet", lspet_folder, "1-5", only_present=only_present)
    scipy.io.savemat(
        lspet_folder / "joints.mat", {"joints": read_joints(lspet_folder).transpose(1, 0, 2) % 1}
    )
    assert len(load_people("lsp", lspet_folder, "all", only_present=None)) == 5


def test_rows_of_an_ablation_take_their_drawn_people_from_where_the_run_has_them(
    tmp_path, monkeypatch
):
    data = prepare(tmp_path / "runs" / "x", **SYNTHETIC, train="1-3", val="7-8")
    monkeypatch.setattr(synthetic, "draw", lambda *_: 1 / 0)  # nobody is drawn again
    row = tmp_path / "runs" / "x" / "rows" / "some-row-seed0"
    again = prepare(row, **data.manifest["parameters"])
    assert again.manifest["fingerprints"] == data.manifest["fingerprints"]
    assert open_data(row).train.fingerprint() == data.train.fingerprint()
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
    (tmp_path / "file").touch()  # a home in which no lspet_folder can be made
    for name in ("HPE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    assert cache_folder(tmp_path / "run" / row) == tmp_path / wanted


def test_a_cache_of_nobody_s_home_is_refused(monkeypatch):
    monkeypatch.setenv("HPE_CACHE", "~nobody-of-this-name/x")
    with pytest.raises(
        BadInput, match="HPE_CACHE: found ~nobody-of-this-name/x, expected a folder"
    ):
        cache_folder("run")


def test_people_are_drawn_into_the_cache_and_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.setenv("HPE_CACHE", str(tmp_path / "cache"))
    prepare(tmp_path / "runs" / "x", **SYNTHETIC, train="1-2", val="7-8")
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert [path.name for path in (tmp_path / "runs").rglob("*")] == ["x", "data", "manifest.json"]


def test_held_out_people_whom_nobody_could_score_are_refused(lspet_folder, tmp_path):
    """Right hip or left shoulder at one point: a torso of no length. One such person is counted."""
    joints = read_joints(lspet_folder)
    ends = [LSP_NAMES.index(name) for name in ("right_hip", "left_shoulder")]
    joints[ends[0], :, 3:] = joints[ends[1], :, 3:]
    scipy.io.savemat(lspet_folder / "joints.mat", {"joints": joints})
    given = SYNTHETIC | {"dataset": "lspet", "data_root": str(lspet_folder), "image_size": 32}
    with pytest.raises(BadInput) as error:
        prepare(tmp_path / "run", **given, train="1-3", val="4-5")
    says(error, "val", "nobody of 2 with a positive normaliser for PCK@0.2", "people who can be")
    assert not (tmp_path / "run").exists()


def test_an_invented_pelvis_is_as_visible_as_the_less_visible_hip():
    hips = [MPII.index(f"{side}_hip") for side in ("right", "left")]
    states = [(VISIBLE, VISIBLE), (VISIBLE, OCCLUDED), (OCCLUDED, ABSENT), (VISIBLE, ABSENT)]
    people = load_people("synthetic", people="1-4", image_size=32)
    seen = people.visibility.copy()
    seen[:, hips] = states
    found = replace_midpoints(replace(people, visibility=seen), invent=True)
    pelvis = MPII.index("pelvis")
    assert found.visibility[:, pelvis].tolist() == [VISIBLE, OCCLUDED, ABSENT, ABSENT]
    assert np.allclose(found.joints[:, pelvis], people.joints[:, hips].mean(1))


@pytest.mark.parametrize("name", ["joints", "visibility", "center", "side", "body", "normaliser"])
def test_a_fingerprint_changes_with_whatever_a_training_sees(name):
    people = load_people("synthetic", people="1-3", image_size=32)
    values = np.array(getattr(people, name))
    values[0] += 1
    assert replace(people, **{name: values}).fingerprint() != people.fingerprint()


def test_an_image_s_centre_lies_between_its_first_and_last_pixel():
    people = load_people("synthetic", people="1-3", image_size=32)
    found = center_on_images(replace(people, center=np.full((3, 2), np.nan)))
    assert (found.center == 15.5).all() and not found.center_from_joints
