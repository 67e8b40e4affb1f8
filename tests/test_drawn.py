"""Synthetic people are kept, checked, and drawn anew where they do not fit."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from lspet_files import says

from hpe_lib.data import drawn, synthetic
from hpe_lib.data.datasets import load_people
from hpe_lib.data.drawn import load_drawn
from hpe_lib.workbook.artifacts import BadInput


def test_people_of_a_difficulty_whose_numbers_have_changed_are_drawn_again(tmp_path, monkeypatch):
    given = ("synthetic", "", "3-5", 64)
    before = load_people(*given, difficulty="easy", cache=tmp_path).fingerprint()
    levels = dict(synthetic.DIFFICULTIES)
    monkeypatch.setitem(synthetic.DIFFICULTIES, "easy", levels["hard"])
    assert load_people(*given, difficulty="easy", cache=tmp_path).fingerprint() != before
    monkeypatch.setitem(synthetic.DIFFICULTIES, "easy", levels["easy"])
    assert load_people(*given, difficulty="easy", cache=tmp_path).fingerprint() == before


def test_drawn_people_are_kept_and_are_the_same_again(tmp_path):
    first = load_people("synthetic", "", "3-5", 64, data_seed=1, cache=tmp_path)
    written = next(tmp_path.rglob("images.npy")).stat().st_mtime_ns
    again = load_people("synthetic", "", "3-5", 64, data_seed=1, cache=tmp_path)
    assert next(tmp_path.rglob("images.npy")).stat().st_mtime_ns == written
    assert again.fingerprint() == first.fingerprint() and list(first.keys) == [
        "00000003",
        "00000004",
        "00000005",
    ]
    other = load_people("synthetic", "", "3-5", 64, data_seed=2, cache=tmp_path)
    assert other.fingerprint() != first.fingerprint() and (other.images[0] != first.images[0]).any()
    assert (
        load_people("synthetic", "", "5-5", 64, data_seed=1, cache=tmp_path).images[0]
        == first.images[2]
    ).all()


def test_a_larger_crop_is_drawn_anew_of_the_same_person(tmp_path):
    people = load_people("synthetic", "", "3-5", 64, data_seed=1, cache=tmp_path)[[2, 0]]
    for row, number in enumerate((4, 2)):
        sharp = synthetic.draw(1, number, 256)
        frame = people.frame(row, 256)
        assert (people.images.crop(row, frame) == sharp.image).all()
        assert np.allclose(frame.to_crop(people.joints[row]), sharp.joints, equal_nan=True)
    small = people.frame(0, 64).augmented(1.3)
    assert (people.images.crop(0, small) == small.crop(people.images[0])).all()


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
    first = load_people("synthetic", "", "3-5", 64, cache=tmp_path)
    before = first.images.arrays.copy()
    (path,) = tmp_path.rglob(name)
    damage(path)
    capsys.readouterr()
    again = load_people("synthetic", "", "3-5", 64, cache=tmp_path)
    told = capsys.readouterr()
    assert "not as it was written, made anew" in told.err and not told.out
    assert again.fingerprint() == first.fingerprint()
    assert (again.images.arrays == before).all() and before.any()
    assert [found.name for found in tmp_path.iterdir()] == [path.parent.name]
    load_people("synthetic", "", "3-5", 64, cache=tmp_path)
    assert "anew" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["truth.npz", "images.npy", "manifest.json", "."])
@pytest.mark.parametrize("instead", ["folder", "file"])
def test_kept_people_where_something_else_lies_are_drawn_anew(tmp_path, capsys, name, instead):
    before = load_drawn("1-2", 64, 0, "medium", tmp_path)
    (kept,) = tmp_path.iterdir()
    place = kept / name
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    place.mkdir() if instead == "folder" else place.write_text("something else")
    after = load_drawn("1-2", 64, 0, "medium", tmp_path)
    assert after.fingerprint() == before.fingerprint()
    assert "not as it was written, made anew" in capsys.readouterr().err
    assert (after.images[1] == before.images[1]).all()


def test_a_drawing_that_breaks_off_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "draw", None)
    with pytest.raises(TypeError):
        load_people("synthetic", "", "3-5", 64, cache=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_says_how_to_have_another(tmp_path):
    (tmp_path / "notes").write_text("not a folder")
    with pytest.raises(BadInput) as error:
        load_drawn("1-2", 64, 0, "medium", tmp_path / "notes")
    says(error, f"{tmp_path / 'notes'}: ", "Not a directory", "HPE_CACHE may name another")


def test_people_kept_are_on_the_disk_before_they_have_their_name(tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync
    rename = Path.rename
    monkeypatch.setattr(
        os, "fsync", lambda file: synced.append(os.fstat(file).st_ino) or fsync(file)
    )
    monkeypatch.setattr(Path, "rename", lambda *names: synced.append("named") or rename(*names))
    load_people("synthetic", "", "3-5", 64, cache=tmp_path)
    inodes = {path.stat().st_ino for path in next(tmp_path.iterdir()).iterdir()}
    assert len(inodes) == 3 and inodes <= set(synced[: synced.index("named")])


def test_what_a_killed_program_left_of_its_drawing_is_removed_after_a_day(tmp_path):
    load_people("synthetic", "", "3-5", 64, cache=tmp_path)
    (drawn,) = tmp_path.iterdir()
    left = drawn.rename(tmp_path / f"{drawn.name}.123.part")
    mine = tmp_path / "mine.part"
    mine.mkdir()
    for path in (left, mine, *left.iterdir()):
        os.utime(path, (0, 0))
    load_people("synthetic", "", "3-5", 64, cache=tmp_path)
    assert sorted(tmp_path.iterdir()) == [drawn, mine]


def test_two_containers_with_one_process_number_draw_side_by_side(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with drawn._writing(tmp_path / "a", "mix") as one, drawn._writing(tmp_path / "a", "mix") as two:
        assert one != two
        for folder in (one, two):
            (folder / "images.npy").write_bytes(b"drawn")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_another_version_of_drawing_draws_anew(tmp_path, monkeypatch):
    first = load_people("synthetic", "", "3-5", 64, cache=tmp_path)
    monkeypatch.setattr(synthetic, "VERSION", -1)
    assert (
        load_people("synthetic", "", "3-5", 64, cache=tmp_path).fingerprint() != first.fingerprint()
    )
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("people", ["all", "val", "val 1-3"])
def test_drawn_people_have_neither_splits_nor_an_end(people, tmp_path):
    with pytest.raises(BadInput) as error:
        load_people("synthetic", "", people, 32, cache=tmp_path)
    says(error, people, "synthetic people")
