"""Hostile and broken files: each ends in a right result or in one line, soon, in little memory."""

import json
import os
import struct
import subprocess
import sys
import zlib
from collections import Counter
from pathlib import Path

import h5py
import hostile
import pytest

SEED = 2018
SHORT = {"apart": 90, "plain": 32}  # files
LONG = {"apart": 7000, "plain": 3000}
SECONDS, GROWTH = 5, 10**9  # of the processor; bytes above the importing process


def run(group, count, folder):
    """What becomes of `count` files, as hostile.py's lines say."""
    words = [sys.executable, hostile.__file__, group, str(count), str(SEED), folder]
    root = str(Path(__file__).parents[1])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def allowed(group, found):
    """Is it a result or one line, in time and memory? A crash in the library's child is a line."""
    ends = ("read", "refused", "died") if group == "apart" else ("read", "refused")
    return found["outcome"] in ends and found["seconds"] < SECONDS and found["growth"] < GROWTH


@pytest.mark.parametrize("counts", [SHORT, pytest.param(LONG, marks=pytest.mark.slow)])
@pytest.mark.parametrize("group", ["apart", "plain"])
def test_damaged_files_end_in_a_result_or_in_one_line(tmp_path, group, counts):
    rows = run(group, counts[group], tmp_path)
    assert len(rows) == counts[group]
    for (kind, end), number in sorted(Counter((r["kind"], r["outcome"]) for r in rows).items()):
        print(f"{kind:14} {end:8} {number}")
    for name in ("seconds", "growth"):
        print("most", name, max(rows, key=lambda row: row[name]))
    assert not [row for row in rows if not allowed(group, row)]


def png_bomb(width, height, channels):
    """A whole PNG of zeros: 1,000 times smaller than its pixels."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    packer = zlib.compressobj(9)
    row = bytes(1 + width * channels)
    packed = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    kind = {3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def nested_cells(depth):
    """A .mat of version 5 with a cell in a cell in a cell …"""

    def matrix(kind, body, name=b""):
        label = struct.pack("<HH4s", 1, len(name), name) if name else struct.pack("<II", 1, 0)
        head = struct.pack("<IIII", 6, 8, kind, 0) + struct.pack("<IIii", 5, 8, 1, 1)
        content = head + label + body
        return struct.pack("<II", 14, len(content)) + content

    found = matrix(6, struct.pack("<IId", 9, 8, 1.0))
    for _ in range(depth):
        found = matrix(1, found)
    return b"MATLAB 5.0".ljust(124) + b"\x00\x01IM" + matrix(1, found, b"p")


def test_a_png_bomb_stays_under_a_gigabyte(tmp_path):
    for side, channels in ((10_000, 4), (8_000, 3)):
        (tmp_path / "a.png").write_bytes(png_bomb(side, 1, channels).replace(
            struct.pack(">II", side, 1), struct.pack(">II", side, side)))  # fmt: skip
        found = hostile.outcome(hostile.read_plain, "png", tmp_path / "a.png", tmp_path)
        assert found["outcome"] == "refused" and found["growth"] < 10**8


@pytest.mark.slow
@pytest.mark.parametrize("channels", [3, 4])
def test_the_largest_png_is_read_within_a_gigabyte(tmp_path, channels):
    (tmp_path / "a.png").write_bytes(png_bomb(6_320, 6_320, channels))
    found = hostile.outcome(hostile.read_plain, "png", tmp_path / "a.png", tmp_path)
    assert found["outcome"] == "read" and found["growth"] < GROWTH


@pytest.fixture
def readers():
    """The child process itself, which conftest leaves out for other tests."""


def test_a_kilobyte_of_hdf5_that_declares_gigabytes_is_one_line(tmp_path, readers):
    from hpe_lib.data import annotations

    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, value in hostile.newell().items():
            if name != "part":
                file[name] = value
        file.create_dataset("part", (3 * 10**7, 16, 2), "f4")
    with pytest.raises(hostile.BadInput, match="asks for more than 1.5 GiB"):
        annotations.mpii_truth(tmp_path / "a.h5")


def test_ten_thousand_nested_cells_are_one_line(tmp_path, readers):
    from hpe_lib.data import annotations

    (tmp_path / "a.mat").write_bytes(nested_cells(10_000))
    with pytest.raises(hostile.BadInput, match="its reader died of SIGSEGV"):
        annotations.predictions(tmp_path / "a.mat", 5)


def test_an_encrypted_zip_is_refused_and_removed(tmp_path):
    content = bytearray(hostile.archive("zip"))
    for at, offset in ((content.find(b"PK\3\4"), 6), (content.find(b"PK\1\2"), 8)):
        content[at + offset] |= 1
    (tmp_path / "file").write_bytes(content)
    found = hostile.outcome(hostile.read_plain, "zip", tmp_path / "file", tmp_path)
    assert found["outcome"] == "refused" and "encrypted" in found["said"]
    assert not list(tmp_path.iterdir())
