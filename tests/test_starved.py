"""Too little of something: one clear line, what was there stays whole, nothing is left behind.

That a cache finds no home is in test_datasets, two runs at once are in test_resume and test_cli.
"""

import contextlib
import errno
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from small_runs import DETECTOR, REGRESSOR, prepare, same_weights

from hpe_lib import ablation, cli, stages
from hpe_lib.data import augment
from hpe_lib.data.datasets import load_people
from hpe_lib.workbook import artifacts


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with a detector."""
    out = tmp_path_factory.mktemp("finished")
    prepare(out)
    list(stages.train("detector", out, DETECTOR))
    return out


@pytest.fixture
def small_disk(tmp_path):
    """A folder with room for four megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder])
    if mount.returncode:
        pytest.skip("this user may not mount a file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def in_child(action):
    """The exit status of an action in a process of its own, which it may break or end."""
    child = multiprocessing.get_context("fork").Process(target=action)
    child.start()
    child.join(120)
    return child.exitcode


def end_as_command(action):
    """End the process as `hpe` would: with one line about the exception, and its status."""
    try:
        action()
    except Exception as error:
        sys.exit(cli.failed(error))


def regressor(out, **changes):
    """Train the regressor, as small as can be."""
    return list(stages.train("regressor", out, REGRESSOR | changes))


def test_a_full_disk_at_any_write_of_a_stage_leaves_what_was_there(finished, tmp_path, monkeypatch):
    wanted = shutil.copytree(finished, tmp_path / "wanted")
    done = []
    fsync = os.fsync
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda file: done.append(file) or fsync(file))
        regressor(wanted)
    assert len(done) > 4
    for last in range(1, len(done) + 1):
        out = shutil.copytree(finished, tmp_path / f"full-{last}")
        left = iter(range(1, last))

        def full(file, left=left):
            if next(left, None) is None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            fsync(file)

        with monkeypatch.context() as patched, pytest.raises(OSError) as raised:
            patched.setattr(os, "fsync", full)
            regressor(out)
        message, status = cli.describe_error(raised.value)
        assert message.startswith(str(out)) and "No space left" in message and status == 1
        assert not list(out.rglob("*.tmp")) and same_weights(out / "detector", wanted / "detector")
        regressor(out)
        assert same_weights(out / "regressor", wanted / "regressor")


def on_a_disk_that_fills(monkeypatch, action):
    """Call an action(attempt) again and again, the disk full at its first write, then its second …

    Yields each attempt after its error, and ends with the one that had room enough.
    """
    fsync = os.fsync
    for attempt in range(1, 99):
        left = iter(range(1, attempt))

        def full(file, left=left):
            if next(left, None) is None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            fsync(file)

        try:
            with monkeypatch.context() as patched:
                patched.setattr(os, "fsync", full)
                action(attempt)
        except OSError as error:
            message, status = cli.describe_error(error)
            assert "No space left" in message and status == 1
            yield attempt
        else:
            break


def test_a_full_disk_while_a_stage_is_scored_on_other_people_keeps_its_curve(
    finished, tmp_path, monkeypatch
):
    run = shutil.copytree(finished, tmp_path / "run")
    prepare(run, val="20-23")
    losses = [record["loss"] for record in stages.history(run / "detector")]

    def score(attempt):
        out = shutil.copytree(run, tmp_path / f"full-{attempt}")
        list(stages.train("detector", out, DETECTOR))

    attempts = list(on_a_disk_that_fills(monkeypatch, score))
    assert len(attempts) >= 3
    for attempt in attempts:
        records = list(stages.train("detector", tmp_path / f"full-{attempt}", DETECTOR))
        assert [record["loss"] for record in records] == losses


def test_a_full_disk_while_a_stage_is_copied_to_a_row_blocks_no_later_copy(
    finished, tmp_path, monkeypatch
):
    run = shutil.copytree(finished, tmp_path / "run")

    def copy(attempt):
        list(ablation.train_row(run, f"row-{attempt}", {}, ("detector",)))

    for attempt in on_a_disk_that_fills(monkeypatch, copy):
        copy(attempt)
        assert same_weights(run / "rows" / f"row-{attempt}" / "detector", run / "detector")
        assert not list(run.rglob("*.tmp"))
    assert attempt >= 4


def test_a_full_disk_under_the_cache_is_an_error_and_not_the_end_of_the_process(small_disk):
    def draw():
        try:
            load_people("synthetic", "", "1-400", 64, cache=small_disk / "cache")
        except OSError as error:
            os._exit(7 if error.errno == errno.ENOSPC else 8)

    assert in_child(draw) == 7
    assert not list((small_disk / "cache").iterdir())


def test_a_folder_that_cannot_be_written(finished, small_disk, capfd):
    out = shutil.copytree(finished, small_disk / "run")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "regressor", "--preset", "smoke", "--out", str(out)])
    said = capfd.readouterr().err
    assert ended.value.code == 2 and said.count("\n") == 1 and "Read-only file system" in said


def test_few_file_handles_are_one_line(finished, tmp_path, capfd):
    out = shutil.copytree(finished, tmp_path / "run")
    before = (out / "detector" / "weights.safetensors").read_bytes()

    def train():
        most = len(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        end_as_command(lambda: regressor(out, workers=2))

    assert in_child(train) in (1, 2)
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and "Too many open files" in said
    assert (out / "detector" / "weights.safetensors").read_bytes() == before
    regressor(out)  # no lock is left


def test_a_worker_that_is_killed_ends_the_training_in_one_line(
    finished, tmp_path, monkeypatch, capfd
):
    out = shutil.copytree(finished, tmp_path / "run")

    def die(self, key):
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patched:
        patched.setattr(augment.PoseDataset, "__getitem__", die)
        with pytest.raises(SystemExit) as ended:
            end_as_command(lambda: regressor(out, workers=1))
    said = capfd.readouterr().err
    assert ended.value.code == 1 and said.count("\n") == 1 and "memory" in said
    assert not multiprocessing.active_children()
    regressor(out)


def test_a_clock_that_is_set_back_changes_nothing(finished, tmp_path, monkeypatch):
    wanted, out = (shutil.copytree(finished, tmp_path / name) for name in ("wanted", "back"))
    regressor(wanted)
    start = time.time()
    with monkeypatch.context() as patched:
        ticks = iter(range(10**9))
        patched.setattr(time, "time", lambda: start - 3600 * next(ticks))
        records = regressor(out, save_minutes=0.0)
    assert same_weights(out / "regressor", wanted / "regressor")
    assert all(record["seconds"] > 0 and record["elapsed"] > 0 for record in records)
    with contextlib.suppress(StopIteration):
        assert next(stages.train("regressor", out, REGRESSOR))["reused"]
    assert artifacts.manifest(out / "regressor")["wall_seconds"] > 0


def fill(folder, left):
    """Fill the disk of a folder but for a few bytes."""
    room = os.statvfs(folder)
    (folder / "filler").write_bytes(bytes(room.f_bavail * room.f_frsize - left))


def ends_in_one_line(command, capfd, text):
    """Run a command; it must end in one line with this text."""
    with pytest.raises(SystemExit) as ended:
        cli.main(list(map(str, command)))
    said = capfd.readouterr().err
    assert ended.value.code in (1, 2) and said.count("\n") == 1 and text in said, said


@pytest.mark.parametrize("left", [0, 4096])
def test_what_does_not_fit_or_may_not_be_written_leaves_nothing_behind(
    finished, small_disk, tmp_path, capfd, left
):
    """A photograph's two files and an evaluation's evidence, on a full and a read-only disk."""
    photo = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 255, (300, 200, 3), np.uint8)
    Image.fromarray(pixels).save(photo)
    kept = small_disk / "kept"
    answers = small_disk / "answers"
    commands = [
        ["predict", photo, "--weights", finished, "--out", answers],
        ["evaluate", "--data", "synthetic", "--weights", finished, "--keep", kept],
    ]
    fill(small_disk, left)
    for command in commands:
        ends_in_one_line(command, capfd, "No space left")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for command in commands:
        ends_in_one_line(command, capfd, "Read-only file system")
    assert {path.name for path in small_disk.rglob("*") if path.is_file()} == {"filler"}


@pytest.mark.parametrize("home", [None, "/nowhere"])
def test_without_a_home_photographs_are_read_and_people_are_scored(
    finished, tmp_path, monkeypatch, home
):
    names = ("HOME", "XDG_CACHE_HOME", "HPE_CACHE")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    if home:
        monkeypatch.setenv("HOME", home)
    Image.fromarray(np.full((90, 60, 3), 128, np.uint8)).save(tmp_path / "photo.png")
    for command in (
        ["predict", tmp_path / "photo.png", "--weights", finished, "--out", tmp_path / "answers"],
        ["evaluate", "--data", "synthetic", "--weights", finished, "--keep", tmp_path / "kept"],
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(list(map(str, command)))
        assert ended.value.code == 0
    assert (tmp_path / "answers" / "photo.json").is_file()
    assert artifacts.manifest(tmp_path / "kept", "scored_by")
