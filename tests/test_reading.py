"""Annotation and prediction files that crash, hang or flood their reader, or are none at all."""

import codecs
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import bad_readers
import h5py
import numpy as np
import pytest
import scipy.io

from hpe_lib.data import annotations, reading
from hpe_lib.data.datasets import load_people
from hpe_lib.skeleton import MPII
from hpe_lib.workbook.artifacts import BadInput

POSES = np.random.default_rng(0).uniform(50, 450, (5, 16, 2)).round(1)


@pytest.fixture
def readers():
    """These tests are of the child process: they undo what conftest does for all others."""


@pytest.mark.parametrize(
    "reader, found",
    [
        ("crashing", "a damaged file: its reader died of SIGSEGV"),
        ("hanging", "a file that takes more than 2 s to read"),
        ("sleeping", "a file that takes more than 2 s to read"),
        ("flooding", "a file that asks for more than 1.5 GiB"),
        ("leaving", "a file whose reader failed: "),
    ],
)
def test_a_reader_that_does_not_come_back_is_one_line(tmp_path, monkeypatch, reader, found):
    monkeypatch.setattr(reading, "SECONDS", 2)
    monkeypatch.setattr(reading, "PATIENCE", 2 if reader == "sleeping" else 60)
    (tmp_path / "poem").write_text("roses")
    with pytest.raises(BadInput) as error:
        getattr(bad_readers, reader)(tmp_path / "poem")
    assert str(error.value) == f"{tmp_path}/poem: found {found}, expected a poem".replace("  ", " ")
    assert not list(tmp_path.glob("core*"))


def test_files_and_pipes_are_read_once(tmp_path):
    (tmp_path / "poem").write_text("roses" * 40)
    assert bad_readers.measuring(tmp_path / "poem", 10) == (20, False)
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=["roses" * 40])
    writer.start()
    assert bad_readers.measuring(tmp_path / "pipe", 10) == (20, False)
    writer.join()


def test_annotations_are_read_without_torch():
    """It costs seconds, and a child is started for each file."""
    code = "import hpe_lib.data.annotations, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# ---- files whose kind is not what their reader expects


def people(**changed):
    """HRNet's list of five people; `changed` goes into the third."""
    found = [
        {
            "image": f"{n}.jpg",
            "center": [9, 9],
            "scale": 2.0,
            "joints": pose,
            "joints_vis": [1] * 16,
        }
        for n, pose in enumerate(POSES.tolist())
    ]
    found[2] |= changed
    return found


@pytest.mark.parametrize("start", ["", "\n", " \t\r\n", "\ufeff", "\ufeff\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_json_may_begin_with_white_space_and_a_byte_order_mark(tmp_path, readers, start, encoding):
    if encoding == "utf-16" and start.startswith("\ufeff"):
        start = start[1:]  # this encoding writes its own
    (tmp_path / "a.json").write_bytes((start + json.dumps(people())).encode(encoding))
    assert (annotations.mpii_truth(tmp_path / "a.json").joints == POSES).all()


def write_kinds(folder):
    """{file: what must be found in it} of files that are no prediction file."""
    (folder / "folder.mat").mkdir()
    np.save(folder / "p.npy", POSES)
    np.savez(folder / "p.npz", POSES)
    (folder / "p.json").write_bytes(codecs.BOM_UTF8 + json.dumps(POSES.tolist()).encode())
    (folder / "empty.mat").touch()
    (folder / "page.mat").write_text("<html><body>404")
    return {
        "folder.mat": "a folder",
        "p.npy": "a NumPy .npy file",
        "p.npz": "a zip archive, such as .npz",
        "p.json": "JSON",
        "empty.mat": "0 bytes",
        "page.mat": "a file that begins with b'<html><body>404'",
        "absent.mat": "no such file",
    }


def test_another_kind_of_file_is_called_by_its_name(tmp_path):
    for name, found in write_kinds(tmp_path).items():
        with pytest.raises(BadInput) as error:
            annotations.predictions(tmp_path / name, 5)
        assert f"{name}: found {found}, expected a .mat or .h5 file" in str(error.value)


def v73(path, **values):
    """A .mat of version 7.3: axes in reverse, and lists as cells."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in values.items():
            if isinstance(value, list):
                places = []
                for number, cell in enumerate(value):
                    item = file.create_dataset(f"#refs#/{number}", data=cell.T)
                    item.attrs["MATLAB_class"] = np.bytes_("double")
                    places.append(item.ref)
                value = np.array(places, h5py.ref_dtype)[None]
            file[name] = value.T
            kind = "double" if value.dtype.kind == "f" else "cell"
            file[name].attrs["MATLAB_class"] = np.bytes_(kind)
    return path


def test_version_7_3_is_read_as_its_elders_are(tmp_path):
    predicted = v73(tmp_path / "p.mat", score=np.ones((5, 1)), preds=list(POSES))
    assert (annotations.predictions(predicted, 5) == POSES).all()
    one = v73(tmp_path / "one.mat", preds=[POSES])
    assert (annotations.predictions(one, 5) == POSES).all()
    ragged = v73(tmp_path / "ragged.mat", preds=[np.ones((n, 2)) for n in range(1, 6)])
    with pytest.raises(
        BadInput, match=r"found preds, cells of shapes \(1, 2\), .*, expected one numeric array"
    ):
        annotations.predictions(ragged, 5)
    boxes = np.broadcast_to(np.array([[10.0, 20], [90, 80]])[..., None], (2, 2, 5))
    poses = POSES.transpose(1, 2, 0)
    missing = np.zeros((16, 5))
    truth = v73(tmp_path / "t.mat", pos_gt_src=poses, jnt_missing=missing, headboxes_src=boxes)
    assert (annotations.mpii_truth(truth).joints == POSES).all()
    lsp = np.concatenate([poses[:14], missing[:14, None]], axis=1).transpose(1, 0, 2)
    found = annotations.lsp(v73(tmp_path / "joints.mat", joints=lsp))
    assert (found.joints[:, MPII.index("right_ankle")] == POSES[:, 0]).all()


def test_the_official_layout_must_be_saved_as_version_7(tmp_path):
    official = v73(tmp_path / "a.mat", **{"RELEASE/img_train": np.ones((1, 5))})
    for reader in (annotations.mpii_truth, annotations.mpii_official):
        with pytest.raises(
            BadInput, match="version 7.3 writes, expected the official layout saved"
        ):
            reader(official)
    with pytest.raises(BadInput, match="version 7.3 writes, expected the official layout saved"):
        load_people("mpii", tmp_path, "all")


def test_what_hdf5_only_declares_is_not_read(tmp_path):
    with h5py.File(tmp_path / "p.h5", "w") as file:
        file.create_dataset("maps", (10**6, 16, 256, 256), "f4", chunks=(1, 16, 256, 256))
        file["preds"] = POSES
    assert (annotations.predictions(tmp_path / "p.h5", 5) == POSES).all()
    with h5py.File(tmp_path / "p.h5", "a") as file:
        del file["preds"]
    with pytest.raises(BadInput, match=r"found maps \(1000000, 16, 256, 256\), expected one"):
        annotations.predictions(tmp_path / "p.h5", 5)


# ---- damage


def write_sound(folder):
    """[(file, its reader, what it gives)] of each format, small."""
    joints = np.concatenate([POSES.transpose(2, 1, 0)[:, :14], np.zeros((1, 14, 5))])
    scipy.io.savemat(folder / "p.mat", {"preds": POSES})
    scipy.io.savemat(folder / "z.mat", {"p": POSES}, do_compression=True)
    scipy.io.savemat(folder / "joints.mat", {"joints": joints})
    scipy.io.savemat(folder / "four.mat", {"p": POSES.reshape(80, 2)}, format="4")
    (folder / "truth.json").write_text(json.dumps(people()))
    with h5py.File(folder / "v.h5", "w") as file:
        file["imgname"] = np.array(["x.jpg"] * 5, "S")
        file["person"] = np.zeros(5)
        file["part"] = POSES
        file["visible"] = np.ones((5, 16))
        file["normalize"] = np.ones(5)
        file["scale"] = np.ones(5)
        file["center"] = np.ones((5, 2))

    def predicted(path):
        return annotations.predictions(path, 5)

    def placed(path):
        return annotations.mpii_truth(path).joints

    return [
        (folder / "p.mat", predicted),
        (folder / "z.mat", predicted),
        (folder / "joints.mat", lambda path: annotations.lsp(path).joints),
        (folder / "four.mat", predicted),
        (folder / "truth.json", placed),
        (folder / "v.h5", placed),
    ]


def damaged(content, random):
    """The bytes with one changed, in the first 2,000 three times out of four, or cut somewhere."""
    if random.random() < 0.2:
        return content[: random.integers(len(content))]
    end = len(content) if random.random() < 0.25 else min(2000, len(content))
    place = int(random.integers(end))
    value = content[place] ^ (1 << int(random.integers(8)))
    return content[:place] + bytes([value]) + content[place + 1 :]


def outcome(reader, path):
    """The shape of the array that is read, or the line that is said."""
    try:
        return reader(path).shape
    except BadInput as error:
        return str(error)


@pytest.mark.parametrize("rounds", [4, pytest.param(100, marks=pytest.mark.slow)])
def test_damage_ends_in_an_array_or_in_one_line(tmp_path, rounds):
    random = np.random.default_rng(rounds)
    folders = [tmp_path / str(number) for number in range(rounds)]
    for folder in folders:
        folder.mkdir()
    with ThreadPoolExecutor(2) as pool:  # each file has a child process, which threads wait for
        for path, reader in write_sound(tmp_path):
            content = path.read_bytes()
            paths = [folder / path.name for folder in folders]
            for broken in paths:
                broken.write_bytes(damaged(content, random))
            for broken, found in zip(paths, pool.map(partial(outcome, reader), paths)):
                if found != (5, 16, 2):
                    assert "\n" not in found and str(broken) in found and "expected" in found
                    assert len(found) < 700, broken


def test_one_bit_that_kills_scipy_s_reader(tmp_path):
    """Byte 192 names the type of the numbers: without a child, the process ends in a SIGSEGV."""
    scipy.io.savemat(tmp_path / "p.mat", {"preds": POSES})
    content = (tmp_path / "p.mat").read_bytes()
    (tmp_path / "p.mat").write_bytes(content[:192] + bytes([content[192] ^ 1]) + content[193:])
    with pytest.raises(BadInput, match="p.mat: found a damaged file: its reader died of SIGSEGV"):
        annotations.predictions(tmp_path / "p.mat", 5)
