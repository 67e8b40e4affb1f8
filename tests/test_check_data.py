"""`hpe check-data` on folders with known faults, and on real people."""

import json
import shutil

import cv2
import numpy as np
import pytest
import scipy.io

from hpe_lib import cli
from hpe_lib.data import annotations, check
from hpe_lib.data.check import COPY, check_data, default_splits
from hpe_lib.workbook.artifacts import BadInput

SPLITS = {"train": "1-12", "val": "13-20"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Twenty people in LSPET's layout.

    14 is 3 resized and grey, 15 is 4 mirrored; 5 lacks a hip, 6 all joints.
    """
    random = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(1, 21):
        image = cv2.resize(
            random.integers(0, 256, (8, 6, 3), np.uint8), (120, 160), interpolation=cv2.INTER_CUBIC
        )
        cv2.imwrite(path(tmp_path, number), image)
    grey = cv2.cvtColor(cv2.imread(path(tmp_path, 3)), cv2.COLOR_BGR2GRAY)
    cv2.imwrite(path(tmp_path, 14), cv2.resize(grey, (90, 130), interpolation=cv2.INTER_AREA))
    cv2.imwrite(path(tmp_path, 15), cv2.imread(path(tmp_path, 4))[:, ::-1])
    joints = np.concatenate([random.uniform(10, 100, (14, 2, 20)), np.ones((14, 1, 20))], 1)
    joints[2, :, 4] = (-5, -5, 0)
    joints[:, :, 5] = 0
    scipy.io.savemat(tmp_path / "joints.mat", {"joints": joints})
    monkeypatch.setattr(check, "default_splits", lambda dataset, root: SPLITS)
    return tmp_path


def path(folder, number):
    return str(folder / "images" / f"im{number:05d}.jpg")


def called(*arguments):
    with pytest.raises(SystemExit) as error:
        cli.main(["check-data", *map(str, arguments)])
    return error.value.code


def test_a_whole_folder(folder, capsys):
    assert called("lspet", "--root", folder, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["splits"]["train"] == {
        "asked": "1-12",
        "people": 11,
        "images": 11,
        "metric": "PCK@0.2",
        "without normaliser": 1,
        "joints": {"visible": 11 * 14 - 1, "occluded": 0, "not annotated": 1},
        "notes": [],
        "left out": {"no annotated joint": 1},
    }
    assert (
        found["missing"] == found["unreadable"] == {"count": 0, "first": []} and not found["broken"]
    )
    pairs = {tuple(pair["files"]): pair["correlation"] for pair in found["near_duplicates"]}
    assert set(pairs) == {("im00003.jpg", "im00014.jpg"), ("im00004.jpg", "im00015.jpg")}
    assert all(COPY < value <= 1 for value in pairs.values())


def test_missing_and_broken_images_are_counted_named_and_status_2(folder, capfd):
    for number in (2, 13):
        (folder / "images" / f"im{number:05d}.jpg").unlink()
    whole = (folder / "images" / "im00007.jpg").read_bytes()
    (folder / "images" / "im00007.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "images" / "im00008.jpg").write_bytes(b"")
    hole = whole[:-400] + bytes(398) + b"\xff\xd9"
    (folder / "images" / "im00009.jpg").write_bytes(hole)
    assert called("lspet", "--root", folder) == 2
    told = capfd.readouterr()
    assert "2 images missing, first im00002.jpg, im00013.jpg" in told.out
    assert (
        "3 images unreadable, first im00007.jpg (" in told.out
        and "im00009.jpg (" in told.out
        and "im00008.jpg (0 bytes" in told.out
    )
    assert "1 (9%) have no normaliser" in told.out and "1 left out: no annotated joint" in told.out
    assert told.err.count("\n") == 1 and "2 images missing, 3 images unreadable" in told.err


def test_no_annotations_is_one_line(tmp_path, capsys):
    assert called("lspet", "--root", tmp_path) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_picture_like_its_own_mirror_image_is_one_pair(folder):
    half = cv2.imread(path(folder, 3))
    both = np.hstack([half, half[:, ::-1]])
    for number in (3, 14):
        cv2.imwrite(path(folder, number), both)
    pairs = check_data("lspet", folder)["near_duplicates"]
    assert [pair["files"] for pair in pairs].count(["im00003.jpg", "im00014.jpg"]) == 1


def test_a_flat_image_is_like_nothing(folder):
    for number in (3, 14):
        cv2.imwrite(path(folder, number), np.full((50, 50, 3), 128, np.uint8))
    pairs = check_data("lspet", folder)["near_duplicates"]
    assert [pair["files"] for pair in pairs] == [["im00004.jpg", "im00015.jpg"]]


def test_real_people(test_data):
    """The known copies in LSPET are found; 3515 and 8742, the most similar strangers, are not."""
    splits = {
        "train": "3515-3515",
        "copy": "8796-8796",
        "twice": "8483-8483",
        "first": "660-660",
        "second": "5545-5545",
        "other": "8742-8742",
    }
    found = check_data("lspet", test_data / "lspet", splits)
    pairs = {frozenset(pair["files"]) for pair in found["near_duplicates"]}
    assert pairs == {
        frozenset(("im08796.jpg", "im05545.jpg")),
        frozenset(("im08483.jpg", "im00660.jpg")),
    }


def test_default_splits(test_data):
    assert default_splits("lspet", test_data / "lspet") == {
        "train": "1-8000",
        "val": "8001-8500",
        "test": "8501-9000",
    }


def test_mpii_and_lsp_by_their_splits(test_data, tmp_path):
    found = check_data("mpii", test_data / "mpii")
    assert "train" in found["problems"] and found["broken"]  # this file holds those of val only
    assert found["splits"]["val"]["people"] == 2958 and found["splits"]["val"]["images"] == 2729
    images = set(map(str, annotations.mpii_truth(test_data / "mpii" / "valid.h5").image))
    there = {path.name for path in (test_data / "mpii" / "images").iterdir()}
    assert found["splits"]["val"]["joints"]["occluded"] == 10243 and found["missing"][
        "count"
    ] == 2729 - len(images & there)
    shutil.copy(test_data / "lsp" / "lsp-joints-PC.mat", tmp_path / "joints.mat")
    found = check_data("lsp", tmp_path)
    assert [split["people"] for split in found["splits"].values()] == [1000, 1000] and found[
        "missing"
    ]["count"] == 2000
    with pytest.raises(BadInput):
        check_data("mpii", tmp_path)
