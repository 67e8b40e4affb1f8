"""Whom `hpe evaluate` scores: the run's people as they were; training people are named."""

import importlib
import linecache
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import scipy.io
import small_runs
from lspet_files import read_joints

from hpe_lib import photographs, stages, trunks
from hpe_lib.data import lsp
from hpe_lib.data.datasets import load_people
from hpe_lib.data.people import SPLIT_SIZES
from hpe_lib.paper import RELEASED
from hpe_lib.targets import write_targets
from hpe_lib.workbook import artifacts, scoring
from hpe_lib.workbook.artifacts import WEIGHTS, BadInput

LSPET = {"dataset": "lspet", "train": "1-3", "val": "4-5", "image_size": 32}


def train(out, **changes):
    """Train a detector as small as can be; returns the lines of its epochs."""
    return list(stages.train("detector", out, small_runs.DETECTOR | {"batch_size": 2} | changes))


def test_a_reused_stage_keeps_the_decoder_and_flip_test_of_now(tmp_path):
    small_runs.prepare(tmp_path)
    train(tmp_path, decoder="parabola", flip_test=True)
    before = artifacts.manifest(tmp_path / "detector")["weights_sha256"]
    (record,) = train(tmp_path, decoder="argmax", flip_test=False)
    estimator = photographs.load(tmp_path)
    assert (estimator.decoder, estimator.flip_test) == ("argmax", False) and record["reused"]
    assert artifacts.manifest(tmp_path / "detector")["weights_sha256"] == before


def test_a_reused_stage_has_the_settings_of_now_that_do_not_concern_it(tmp_path):
    """The width of targets that it has none of, and where its first weights lie."""
    small_runs.prepare(tmp_path)
    train(tmp_path)
    small_runs.prepare(tmp_path, small_runs.TARGETS | {"sigma": 7.0})
    (record,) = train(tmp_path)
    settings = artifacts.manifest(tmp_path / "detector")["settings"]
    assert record["reused"] and settings["sigma"] == 7.0


def test_a_reused_stage_knows_where_its_first_weights_lie_now(tmp_path):
    for name in ("first", "second"):
        small_runs.prepare(tmp_path / name)
    train(tmp_path / "first")
    train(tmp_path / "second", init_from=str(tmp_path / "first"))
    (tmp_path / "first").rename(tmp_path / "moved")
    (record,) = train(tmp_path / "second", init_from=str(tmp_path / "moved"))
    settings = artifacts.manifest(tmp_path / "second" / "detector")["settings"]
    assert record["reused"] and settings["init_from"] == str(tmp_path / "moved")


def test_people_from_whom_the_weights_have_learned_are_said(tmp_path):
    data = small_runs.prepare(tmp_path)
    train(tmp_path)
    folder = tmp_path / "detector"
    assert scoring.training_notes(data.val, folder) == []
    (note,) = scoring.training_notes(data.train, folder)
    assert note == "the weights have learned from 8 of these 8 people: no test score"
    some = load_people("synthetic", people="8-10", image_size=64)
    assert "from 1 of these 3 people" in scoring.training_notes(some, folder)[0]
    write_targets(tmp_path, **small_runs.TARGETS)
    small_runs.prepare(tmp_path, train="201-208", val="1-4")
    (note,) = scoring.training_notes(load_people("synthetic", people="1-4", image_size=64), folder)
    assert "chosen again after these weights were trained" in note


def test_whom_a_stage_without_its_run_has_learned_from_cannot_be_told(tmp_path):
    data = small_runs.prepare(tmp_path / "run")
    train(tmp_path / "run")
    alone = shutil.copytree(tmp_path / "run" / "detector", tmp_path / "alone" / "detector")
    (note,) = scoring.training_notes(data.train, alone)
    assert note.startswith("whom the weights have learned from cannot be told: ")
    assert f"{tmp_path / 'alone' / 'data'}: found no such folder" in note
    assert scoring.training_notes(data.train, RELEASED) == []


def test_a_run_of_other_people_has_learned_from_none_of_these(tmp_path, lspet_folder):
    small_runs.prepare(tmp_path / "run", **LSPET, data_root=str(lspet_folder))
    train(tmp_path / "run")
    folder = tmp_path / "run" / "detector"
    drawn = load_people("synthetic", people="1-4", image_size=32)
    assert scoring.training_notes(drawn, folder) == []
    everybody = load_people("lspet", lspet_folder, "1-5")
    assert "from 3 of these 5 people" in scoring.training_notes(everybody, folder)[0]


def test_the_code_of_one_s_own_trunk_counts(tmp_path, monkeypatch, capsys):
    code = "from hpe_lib.trunks import slim_trunk\n\n"
    code += "def my_trunk(pretrained):\n    return slim_trunk()\n"
    module = tmp_path / "mine.py"
    module.write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("HPE_TRUNK", "mine:my_trunk")
    monkeypatch.setattr(trunks, "TRUNKS", {})

    def changed(text):
        module.write_text(text)
        linecache.clearcache()
        importlib.invalidate_caches()
        trunks.TRUNKS.clear()
        sys.modules.pop("mine", None)

    small_runs.prepare(tmp_path / "run")
    train(tmp_path / "run", trunk="mine:my_trunk")
    changed(code + "# a remark\n")
    (record,) = train(tmp_path / "run", trunk="mine:my_trunk")
    assert record["reused"], "a comment is no change"
    assert "has changed" not in capsys.readouterr().err
    changed(code + "\nSIZE = 1\n")
    photographs.load(tmp_path / "run", trunk="mine:my_trunk")
    said = capsys.readouterr().err
    assert "detector: the code of its trunk has changed since it was trained" in said
    (record,) = train(tmp_path / "run", trunk="mine:my_trunk")
    assert "reused" not in record
    assert "training again: versions_of" in capsys.readouterr().out
    module.write_text(code + "\nSIZE = 2\n")
    linecache.clearcache()
    photographs.load(tmp_path / "run", trunk="mine:my_trunk")
    assert "has changed" not in capsys.readouterr().err, "it is the code that has trained them"
    with pytest.raises(BadInput, match="found code that has changed since it was imported"):
        train(tmp_path / "run", trunk="mine:my_trunk")


def test_drawn_people_who_were_mixed_in_are_said(tmp_path, lspet_folder):
    small_runs.prepare(tmp_path / "run", **LSPET, data_root=str(lspet_folder), drawn="3-9")
    train(tmp_path / "run")
    folder = tmp_path / "run" / "detector"
    drawn = load_people("synthetic", people="1-4", image_size=32)
    assert "from 2 of these 4 people" in scoring.training_notes(drawn, folder)[0]
    others = load_people("synthetic", people="1-4", image_size=32, data_seed=7)
    assert scoring.training_notes(others, folder) == [], "other people, of another seed"
    everybody = load_people("lspet", lspet_folder, "1-5")
    assert "from 3 of these 5 people" in scoring.training_notes(everybody, folder)[0]
    for split, count in (("train", 3), ("val", 2)):
        people = scoring.people_to_score("lspet", lspet_folder, split, tmp_path / "run", 32)
        assert len(people) == count and people.dataset == "lspet"


def test_the_released_weights_have_learned_from_leeds_training_people():
    learned = lsp.leeds_training_keys()
    assert len(learned) == 9000 - len(lsp.copies_of_scored_people())
    assert len(learned) == SPLIT_SIZES["leeds", "train"]
    assert {"im0001.jpg", "im1000.jpg", "im00001.jpg", "im08000.jpg"} <= {*learned}
    assert not {"im1001.jpg", "im08001.jpg"} & {*learned}
    people = load_people("synthetic", people="1-2", image_size=32)
    people = replace(people, keys=np.array(["im1001.jpg", "im08001.jpg"]))
    assert scoring.training_notes(people, RELEASED) == []


def test_real_training_people_are_those_of_the_split(test_data):
    people = load_people("leeds", test_data, "train", only_present=None)
    assert sorted(people.keys) == lsp.leeds_training_keys()


@pytest.mark.parametrize("missing_points", ["as_labelled", "withheld", "invented"])
@pytest.mark.parametrize("only_present", [False, True])
def test_a_truth_that_was_moved_is_not_scored(tmp_path, lspet_folder, missing_points, only_present):
    root = str(lspet_folder)
    small_runs.prepare(tmp_path / "run", **LSPET, data_root=root, missing_points=missing_points)
    given = ("lspet", None, "val", tmp_path / "run", 32, only_present)
    assert len(scoring.people_to_score(*given)) == 2
    joints = read_joints(lspet_folder)
    joints[:, 0] += np.where(joints[:, 2] == 1, 40, 0)
    scipy.io.savemat(lspet_folder / "joints.mat", {"joints": joints})
    with pytest.raises(BadInput, match="val people that have changed since"):
        scoring.people_to_score(*given)


def test_a_truth_that_was_moved_is_not_scored_under_another_name(tmp_path, test_data):
    """LSP's "val" and its "test" are the same people; presets paper-…-lsp have chosen "test"."""
    root = tmp_path / "lsp"
    root.mkdir()
    (root / "images").symlink_to(test_data / "lsp" / "images")
    shutil.copy(test_data / "lsp" / "lsp-joints-PC.mat", root / "joints.mat")
    chosen = {"dataset": "lsp", "data_root": str(root), "train": "train 1-3", "val": "test 1-9"}
    small_runs.prepare(tmp_path / "run", **chosen)
    for split in ("test 1-9", "val 1-9", "val 2-9"):
        assert scoring.people_to_score("lsp", None, split, tmp_path / "run", 32)
    joints = scipy.io.loadmat(root / "joints.mat")["joints"]
    joints[:2] += 30
    scipy.io.savemat(root / "joints.mat", {"joints": joints})
    for split in ("test 1-9", "val 1-9", "train 1-3"):
        with pytest.raises(BadInput, match="people that have changed since"):
            scoring.people_to_score("lsp", None, split, tmp_path / "run", 32)
    others = scoring.people_to_score("lsp", None, "val 2-9", tmp_path / "run", 32)
    assert len(others) == 8, "people whom this run has not chosen"


def test_released_predictions_are_found_beside_their_labels(tmp_path):
    lsp = tmp_path / "lsp"
    lsp.mkdir()
    with pytest.raises(BadInput, match="lsp: found no annotation, expected what hpe download lsp"):
        scoring.released_files("", str(lsp))
    labels = [lsp / "lsp-joints-PC.mat", lsp / "lsp-joints-OC.mat"]
    for file in (*labels, lsp / "notes.txt"):
        file.touch()
    with pytest.raises(BadInput, match="found no predictions"):
        scoring.released_files("", str(lsp))
    (lsp / "pred_yang.mat").touch()
    mpii = tmp_path / "mpii"
    (mpii / "predictions").mkdir(parents=True)
    for name in ("hg.h5", "hg.mat", ".DS_Store", "._hg.h5", "README"):
        (mpii / "predictions" / name).touch()
    truth = mpii / "mpii_human_pose_v1_u12_1.mat"
    scipy.io.savemat(truth, {"RELEASE": np.zeros(1)})
    scipy.io.savemat(mpii / "mpii_human_pose_v1_sequences.mat", {"other": np.zeros(1)})
    found = scoring.released_files(str(mpii), str(lsp))
    assert found == {
        "hg.h5": ("mpii", truth, mpii / "predictions/hg.h5", mpii / "valid.h5"),
        "hg.mat": ("mpii", truth, mpii / "predictions/hg.mat", mpii / "valid.h5"),
        "pred_yang.mat, lsp-joints-PC": ("lsp", labels[0], lsp / "pred_yang.mat", None),
        "pred_yang.mat, lsp-joints-OC": ("lsp", labels[1], lsp / "pred_yang.mat", None),
    }
    assert scoring.released_files("", "") == {}


def test_crops_of_another_size_are_learned_anew(tmp_path, lspet_folder, capsys):
    """The people are the same: of photographs, not even their fingerprint changes."""
    given = LSPET | {"data_root": str(lspet_folder)}
    before = small_runs.prepare(tmp_path, **given)
    train(tmp_path)
    after = small_runs.prepare(tmp_path, **given | {"image_size": 64})
    assert before.train.fingerprint() == after.train.fingerprint()
    train(tmp_path)
    assert "detector: training again: data: image_size was 32, is 64" in capsys.readouterr().out


def test_a_run_whose_photographs_have_moved_is_scored(tmp_path, lspet_folder):
    first = tmp_path / "first"
    moved = tmp_path / "moved"
    shutil.copytree(lspet_folder, first)
    small_runs.prepare(tmp_path / "run", **LSPET, data_root=str(first))
    train(tmp_path / "run")
    folder = tmp_path / "run" / "detector"
    first.rename(moved)
    people = load_people("lspet", moved, "1-5")
    (note,) = scoring.training_notes(people, folder)
    assert note.startswith("whom the weights have learned from cannot be told: ")
    assert "from 3 of these 5 people" in scoring.training_notes(people, folder, moved)[0]


def test_weights_that_began_from_the_released_ones_have_their_people_too(tmp_path):
    copied = shutil.copytree(RELEASED, tmp_path / "copied")
    people = load_people("synthetic", people="1-2", image_size=32)
    people = replace(people, keys=np.array(["im0007.jpg", "im1007.jpg"]))
    (note,) = scoring.training_notes(people, copied)
    assert note == "the weights have learned from 1 of these 2 people: no test score"
    run = tmp_path / "run"
    began = {"kind": "detector", "upstream": {"init_from": artifacts.file_hash(copied / WEIGHTS)}}
    artifacts.save(run / "detector", {}, began, [])
    artifacts.save(run / "cascade", {}, {"kind": "joint", "upstream": {}}, [])
    assert scoring.training_notes(people, run / "cascade") == [note]


def test_people_of_the_training_that_weights_began_from_are_said(tmp_path):
    data = small_runs.prepare(tmp_path / "first")
    train(tmp_path / "first")
    small_runs.prepare(tmp_path / "second", train="201-208", val="1-4")
    train(tmp_path / "second", init_from=str(tmp_path / "first"))
    folder = tmp_path / "second" / "detector"
    (note,) = scoring.training_notes(data.train, folder)
    assert note == "the weights have learned from 8 of these 8 people: no test score"
    shutil.rmtree(tmp_path / "first")
    (note,) = scoring.training_notes(data.train, folder)
    assert note.startswith("whom the weights have learned from cannot be told: ")


def test_an_ancestor_that_was_edited_leaves_a_note(tmp_path):
    data = small_runs.prepare(tmp_path / "first")
    train(tmp_path / "first")
    small_runs.prepare(tmp_path / "second", train="201-208")
    train(tmp_path / "second", init_from=str(tmp_path / "first"))
    manifest = tmp_path / "first" / "detector" / artifacts.MANIFEST
    manifest.write_text(manifest.read_text().replace('"seed": 0', '"seed": 1', 1))
    (note,) = scoring.training_notes(data.val, tmp_path / "second" / "detector")
    assert note.startswith("whom the weights have learned from cannot be told: ")


def test_people_who_were_left_out_of_the_training_are_not_counted(test_data):
    """LSP's training half holds nine near-duplicates of its test people."""
    parameters = {"dataset": "lsp", "data_root": str(test_data / "lsp"), "train": "train"}
    people = load_people("lsp", test_data / "lsp", "train", only_present=None)
    learned = scoring.training_keys(parameters | {"val": "test"}, people, None)
    assert len(people) == 1000 and len(learned) == 991


def test_a_start_that_was_trained_again_since_says_nothing_of_these_weights(tmp_path):
    small_runs.prepare(tmp_path / "first")
    train(tmp_path / "first")
    data = small_runs.prepare(tmp_path / "second", train="201-208")
    train(tmp_path / "second", init_from=str(tmp_path / "first"))
    train(tmp_path / "first", seed=5)
    (note,) = scoring.training_notes(data.val, tmp_path / "second" / "detector")
    assert "other weights than these began from" in note
