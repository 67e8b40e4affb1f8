import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hpe_lib import cli
from hpe_lib.workbook import artifacts, estimate, locks, measurements, presets, reproduce
from hpe_lib.workbook.artifacts import BadInput
from hpe_lib.workbook.reproduce import CellFailed

SAY = (
    "from pathlib import Path; print('epoch', epochs); "
    "(Path(out) / 'seen.txt').write_text(repr((lr, epochs, out)))"
)
TYPED = 'out: str = "nowhere"\nlr: float = 1e-3\nepochs: int = 4'


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run(folder of notebooks, overrides, **options) by an empty preset.

    From tmp_path, into tmp_path/runs/x.
    """
    monkeypatch.chdir(tmp_path)

    def run_(folder, overrides=(), **options):
        (folder / "presets" / "p.yaml").write_text("all: {}\n")
        return reproduce.run("p", "runs/x", overrides, **options)

    return run_


def kinds(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("words", "failures", "tries"),
    [
        ("Kernel died before replying to kernel_info", 2, 3),
        ("Kernel died before replying to kernel_info", 9, 3),
        ("anything else", 9, 1),
    ],
)
def test_a_kernel_that_dies_at_its_start_is_started_anew(
    notebook, run, tmp_path, monkeypatch, words, failures, tries
):
    """Two programs that start at one moment may choose the same ports."""
    folder = notebook("01_a", TYPED, SAY)
    begun = []
    whole = reproduce.papermill.execute_notebook

    def start(*given, **options):
        begun.append(given)
        if len(begun) <= failures:
            raise RuntimeError(words)
        return whole(*given, **options)

    monkeypatch.setattr(reproduce.papermill, "execute_notebook", start)
    if failures < tries:
        run(folder)
        assert (tmp_path / "runs/x/seen.txt").is_file()
    else:
        with pytest.raises(RuntimeError, match=words):
            run(folder)
    assert len(begun) == tries


def test_a_run_is_whole(notebook, run, tmp_path, capfd):
    folder = notebook(
        "01_a",
        "a: int = 1",
        "import ipywidgets\nipywidgets.IntSlider()",
        "import os, sys, tqdm\n"
        "print(os.getcwd()); print(sys.executable)\n"
        "list(tqdm.tqdm(range(99)))",
    )
    notebook("03_b", TYPED, SAY)
    manifest = run(folder, ["03.lr=1e-4"])
    out = tmp_path / "runs" / "x"
    assert kinds(out) == ["01_a.ipynb", "03_b.ipynb", "manifest.json", "report.html", "seen.txt"]
    assert eval((out / "seen.txt").read_text()) == (
        1e-4,
        4,
        str(out),
    )  # the declared type; out absolute
    text = (out / "01_a.ipynb").read_text()
    assert "widgets" not in nbformat.reads(text, 4).metadata and reproduce.WIDGET not in text
    told = capfd.readouterr()
    assert all(
        said in told.out
        for said in (f"{tmp_path}\n{sys.executable}\n", "epoch 4\n", "notebook 03_b done in")
    )
    assert len(told.out.splitlines()) == 8  # no progress bar, nothing of Jupyter's
    # a kernel that ends just now may leave a line of libzmq's own, rarely
    assert [line for line in told.err.splitlines() if "src/signaler.cpp" not in line] == []
    assert manifest == json.loads((out / "manifest.json").read_text())
    assert manifest["parameters"]["03"] == {"lr": 1e-4, "epochs": 4} and manifest["finished"]
    assert manifest["notebooks"]["01"]["wall_seconds"] > 0
    assert {"command", "preset", "versions", "commit", "machine"} <= set(manifest)


def test_unknown_names_are_refused_before_anything_runs(notebook, run, tmp_path):
    folder = notebook("01_a", TYPED, "raise SystemError")
    for overrides, options in (
        (["lrr=1"], {}),
        (["02.lr=1"], {}),
        ((), {"start": "07"}),
        ((), {"only": "02"}),
    ):
        with pytest.raises(BadInput):
            run(folder, overrides, **options)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "given, told",
    [
        (["06.stage_epochs=[]", "03.epochs=0"], "at least one epoch of the first stage"),
        (["further=disc radius 6"], "further: found disc radius 6, expected all or some of"),
        (["vgg=vgg61"], "'vgg61', expected"),
    ],
)
def test_rows_that_cannot_be_trained_are_refused_before_hours_of_training(tmp_path, given, told):
    for start in (None, "03"):
        with pytest.raises(BadInput, match=told):
            reproduce.run("synthetic", tmp_path / "run", given, start=start)
    with pytest.raises(BadInput, match=told):
        list(estimate.rehearse(presets.resolve("synthetic", given)))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("given", ["image_size=144", "pretrained=true"])
def test_stages_that_cannot_be_trained_are_refused_before_the_first_one(tmp_path, given):
    with pytest.raises(BadInput, match="expected a multiple of 32|that has ImageNet weights"):
        reproduce.run("synthetic", tmp_path / "run", [given])
    assert not (tmp_path / "run").exists()


def test_a_disk_that_was_full_while_a_notebook_ran_is_what_is_said(
    notebook, run, tmp_path, monkeypatch
):
    def cut(path, running, *arguments, **options):
        Path(running).write_text('{"cells": [')
        raise OSError(28, "No space left on device", running)

    monkeypatch.setattr(reproduce.papermill, "execute_notebook", cut)
    with pytest.raises(OSError, match="No space left on device"):
        run(notebook("01_a", "a: int = 1", "a"))


def test_a_failing_cell_is_one_line_and_no_notebook_poses_as_executed(notebook, run, tmp_path):
    folder = notebook("01_a", "a: int = 1", "a", "raise ValueError('so\\nit is')")
    notebook("02_b", "a: int = 1", "a")
    earlier = {"kind": "run", "parameters": {}, "notebooks": {}}
    artifacts.write_manifest(tmp_path / "runs" / "x", earlier)
    (tmp_path / "runs" / "x" / "01_a.ipynb").write_text('an earlier run\'s: "papermill"')
    with pytest.raises(CellFailed) as error:
        run(folder)
    assert "01_a.ipynb, cell [4]: ValueError: so it is" in str(error.value) and "\n" not in str(
        error.value
    )
    assert kinds(tmp_path / "runs" / "x") == ["01_a.failed.ipynb", "manifest.json"]
    assert json.loads((tmp_path / "runs" / "x" / "manifest.json").read_text())["finished"] is None
    notebook("01_a", "a: int = 1", "a")
    run(folder)  # mended: the failed copy goes
    assert kinds(tmp_path / "runs" / "x") == [
        "01_a.ipynb",
        "02_b.ipynb",
        "manifest.json",
        "report.html",
    ]


def test_a_bare_assert_is_told_by_its_line(notebook, run):
    with pytest.raises(CellFailed, match=r"cell \[3\]: AssertionError: assert a == 2 \(see"):
        run(notebook("01_a", "a: int = 1", "a\nassert a == 2"))


def test_bad_input_in_a_cell_is_bad_input_of_the_run(notebook, run):
    cell = (
        "from hpe_lib.workbook.artifacts import BadInput\nraise BadInput('x.mat', 'NaN', 'numbers')"
    )
    folder = notebook("01_a", "a: int = 1", cell)
    with pytest.raises(BadInput) as error:
        run(folder)
    assert str(error.value) == "x.mat: found NaN, expected numbers"


def test_a_kernel_that_dies_says_probably_memory(notebook, run, tmp_path):
    folder = notebook(
        "01_a", "a: int = 1", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    with pytest.raises(CellFailed, match="01_a.ipynb: its kernel died, probably out of memory"):
        run(folder)
    assert kinds(tmp_path / "runs" / "x") == ["01_a.failed.ipynb", "manifest.json"]


def test_from_and_only_leave_the_others_as_they_are(notebook, run, tmp_path):
    folder = notebook("01_a", TYPED, SAY)
    notebook("02_b", TYPED, SAY)
    notebook("03_c", TYPED, SAY)
    run(folder, start="02")
    assert kinds(tmp_path / "runs" / "x") == [
        "02_b.ipynb",
        "03_c.ipynb",
        "manifest.json",
        "report.html",
        "seen.txt",
    ]
    manifest = run(folder, only="01")
    assert sorted(manifest["notebooks"]) == ["01", "02", "03"]


@pytest.mark.parametrize("fresh", [False, True])
def test_an_executed_notebook_that_a_person_has_changed_stays(notebook, run, tmp_path, fresh):
    folder = notebook("01_a", TYPED, SAY)
    out = tmp_path / "runs" / "x"
    run(folder)
    run(folder)
    copy = out / "01_a.ipynb"
    changed = copy.read_text().replace('"cells": [', '"cells":  [', 1)
    copy.write_text(changed)
    with pytest.raises(
        BadInput, match="01_a.ipynb: found a notebook that is not as a run has left"
    ):
        run(folder, fresh=fresh)
    assert copy.read_text() == changed
    copy.rename(out / "mine.ipynb")
    run(folder, fresh=fresh)
    assert (out / "mine.ipynb").read_text() == changed


def test_a_notebook_in_a_run_s_folder_that_no_run_has_written_stays(notebook, run, tmp_path):
    folder = notebook("01_a", TYPED, SAY)
    out = tmp_path / "runs" / "x"
    run(folder)
    notebook("02_b", TYPED, SAY)
    (out / "02_b.ipynb").write_text("{}")
    with pytest.raises(
        BadInput, match="02_b.ipynb: found a notebook that is not as a run has left"
    ):
        run(folder, only="02")
    manifest = artifacts.manifest(out)
    made = out / "01_a.ipynb"
    artifacts.write_manifest(out, manifest | {"notebooks": {}})  # killed before it could write it
    run(folder, only="01")
    assert made.is_file()


def test_fresh_removes_the_runs_artifacts_and_nothing_else(notebook, run, tmp_path):
    folder = notebook("01_a", TYPED, SAY)
    out = tmp_path / "runs" / "x"
    run(folder)
    stage = ("manifest.json", "weights.safetensors", "history.jsonl", "watched/0001.npz", ".lock")
    row = "rows/detection-only-(Res)-seed0"
    artifacts.claim_rows(out, [Path(row).name])
    own = [
        f"{place}/{name}" for place in ("cascade", "detector", f"{row}/cascade") for name in stage
    ]
    own += ["data/manifest.json", "targets/manifest.json", f"{row}/data/manifest.json"]
    own += ["metrics.json", "metrics/05.json", "01_a.failed.ipynb"]
    mine = [f"{place}/{name}" for place in ("best-of-june", "rows/mine/cascade") for name in stage]
    mine += ["best-of-june/notes.txt", "cascade/notes.txt", f"{row}/cascade/notes.txt"]
    mine += ["01_mine.ipynb", "02_b.failed.ipynb", "seen.txt", "data/images/a.png"]
    for name in own + mine:
        artifacts.write_bytes(out / name, b"{}")
    elsewhere = tmp_path / "elsewhere"
    artifacts.write_bytes(elsewhere / "weights.safetensors", b"{}")
    (out / "regressor").symlink_to(elsewhere)
    run(folder, fresh=True)
    there = {path.relative_to(out).as_posix() for path in out.rglob("*") if not path.is_dir()}
    made = {"01_a.ipynb", "manifest.json", "report.html"}
    assert there == made | set(mine) and (out / "regressor" / "weights.safetensors").exists()
    assert not (out / "detector").exists() and not (out / "metrics").exists()


@pytest.mark.parametrize("names", ["1", '["..", "../../x", 3, "."]'])
def test_fresh_takes_no_row_outside_the_run_for_its_own(notebook, run, tmp_path, names):
    folder = notebook("01_a", TYPED, SAY)
    out = tmp_path / "runs" / "x"
    run(folder)
    artifacts.write_bytes(out / "rows" / "manifest.json", f'{{"names": {names}}}'.encode())
    outside = [tmp_path / "runs" / "cascade" / "manifest.json"]
    outside += [tmp_path / "x" / "cascade" / "manifest.json"]
    for path in outside:
        artifacts.write_bytes(path, b"{}")
    with contextlib.suppress(BadInput):
        run(folder, fresh=True)
    assert all(path.exists() for path in outside)


@pytest.mark.parametrize("name", ["r{x}", "r{out}", "r{", "r}", "r{train}", "r{lr:>9}", "r{{0}}"])
def test_braces_in_a_path_are_braces(notebook, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    folder = notebook("01_a", "a: int = 1\ntrain: str = '1-48'\nlr: float = 1.0", "a")
    there = folder.rename(tmp_path / f"notebooks of {name}")
    (tmp_path / "r1-48").mkdir()
    (tmp_path / f"{name}.yaml").write_text("all: {}\n")
    monkeypatch.setattr(presets, "NOTEBOOKS", there)
    reproduce.run(f"{name}.yaml", name)
    assert kinds(tmp_path / name) == ["01_a.ipynb", "manifest.json", "report.html"]
    assert not list((tmp_path / "r1-48").iterdir())


def test_a_run_does_not_replace_the_manifest_of_something_else(notebook, run, tmp_path):
    folder = notebook("01_a", TYPED, SAY)
    out = tmp_path / "runs" / "x"
    out.mkdir(parents=True)
    for content in (
        '{"kind": "joint", "parameters": {}, "notebooks": {}}',
        '{"kind": "run"}',
        "[]",
    ):
        (out / "manifest.json").write_text(content)
        with pytest.raises(BadInput, match="manifest.json: found .*, expected (a run's|a JSON o)"):
            run(folder)
        assert (out / "manifest.json").read_text() == content


def test_fresh_does_not_touch_a_folder_that_is_no_run(notebook, run, tmp_path):
    folder = notebook("01_a", TYPED, SAY)
    out = tmp_path / "runs" / "x"
    (out / "data").mkdir(parents=True)
    (out / "data" / "manifest.json").write_text("{}")
    for content in (None, '{"kind": "data"}'):
        if content:
            (out / "manifest.json").write_text(content)
        with pytest.raises(BadInput, match="manifest"):
            run(folder, fresh=True)
    assert (out / "data" / "manifest.json").exists()


def test_a_folder_takes_one_run_at_a_time(notebook, run, tmp_path):
    folder = notebook("01_a", TYPED, SAY)
    with locks.lock(tmp_path / "runs" / "x"), pytest.raises(BadInput, match="another process"):
        locks.HELD.clear()  # as if the run were another process
        run(folder)
    run(folder)


@pytest.mark.parametrize("place", ["", "rows/wide-seed0"])
def test_a_run_does_not_begin_while_one_of_its_stages_is_trained(notebook, run, tmp_path, place):
    """A notebook in Jupyter holds its stage alone."""
    folder = notebook("01_a", TYPED, SAY)
    out = tmp_path / "runs" / "x"
    run(folder)
    checkpoint = bytes(artifacts.DIGEST) + b"PK\3\4 an epoch"
    artifacts.write_bytes(out / place / "detector" / "checkpoint.pt", checkpoint)
    report = (out / "report.html").read_text()
    with locks.lock(out / place, ".detector.lock"):
        locks.HELD.clear()  # as if the notebook were another process
        for fresh in (True, False):
            with pytest.raises(BadInput, match="another process that is writing"):
                run(folder, fresh=fresh)
        assert (out / place / ".detector.lock").exists()
    assert (out / place / "detector" / "checkpoint.pt").read_bytes() == checkpoint
    assert (out / "report.html").read_text() == report
    run(folder)


def test_fresh_may_be_killed_at_any_file(notebook, run, tmp_path, monkeypatch):
    folder = notebook("05_a", TYPED, SAY)
    out = tmp_path / "runs" / "x"
    run(folder)
    (out / "seen.txt").unlink()
    maps = out / "cascade" / "watched" / "0001.npz"
    maps.parent.mkdir(parents=True)
    np.savez(maps, crops=np.zeros(1), maps=np.zeros(1))
    artifacts.save(out / "cascade", {}, {"kind": "joint"}, [])
    unlink = Path.unlink
    count = 0
    while True:
        count += 1
        killed = tmp_path / f"killed-{count}"
        left = iter(range(1, count))
        shutil.copytree(out, killed)

        def strike(self, missing_ok=False, left=left):
            if self.exists() and next(left, None) is None:
                raise KeyboardInterrupt
            unlink(self, missing_ok=missing_ok)

        try:
            with monkeypatch.context() as patched:
                patched.setattr(Path, "unlink", strike)
                reproduce.remove_artifacts(killed)
            break
        except KeyboardInterrupt:
            with locks.lock(killed):
                reproduce.refuse_foreign_files(killed, ["05"])
                reproduce.remove_artifacts(killed)
            assert not [path for path in killed.rglob("*") if path.is_file()]
    assert count > 6


def test_a_run_stops_before_weights_that_no_training_has_written(notebook, run, tmp_path):
    theirs = tmp_path / "runs" / "x" / "detector" / "weights.safetensors"
    theirs.parent.mkdir(parents=True)
    save_file({"layer.weight": torch.ones(2)}, theirs)
    before = theirs.read_bytes()
    for fresh in (True, False):
        with pytest.raises(BadInput, match="weights.safetensors: found a file that this program"):
            run(notebook("03_a", TYPED, SAY), fresh=fresh)
    assert theirs.read_bytes() == before and kinds(tmp_path / "runs" / "x") == ["detector"]


@pytest.mark.parametrize("name", ["report.html", "01_a.ipynb", "01_a.failed.ipynb", "metrics.json"])
def test_a_run_does_not_replace_a_person_s_files(notebook, run, tmp_path, name):
    folder = notebook("01_a", TYPED, SAY)
    out = tmp_path / "runs" / "x"
    artifacts.write_bytes(out / name, b"mine")
    with pytest.raises(BadInput, match="a file that no run has written"):
        run(folder)
    assert os.listdir(out) == [name] and (out / name).read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["metrics.json", "metrics/05.json"])
def test_a_person_s_numbers_in_a_folder_metrics_stay(notebook, run, tmp_path, name):
    folder = notebook("01_a", TYPED, SAY)
    out = tmp_path / "runs" / "x"
    (out / "metrics").mkdir(parents=True)
    artifacts.write_bytes(out / name, b"{}")
    with pytest.raises(BadInput, match="a file that no run has written"):
        run(folder)
    with pytest.raises(BadInput, match="a file that no run has written"):
        measurements.write(out, "05", {"mine": 1})
    assert (out / name).read_bytes() == b"{}"


def test_numbers_that_no_notebook_wrote_stay_beside_those_of_notebooks(tmp_path):
    measurements.write(tmp_path, "05", {"total": 1})
    mine = tmp_path / "metrics" / "07.json"
    mine.write_text("{}")
    with pytest.raises(BadInput, match="07.json: found a file that no run has written"):
        measurements.write(tmp_path, "07", {"place": 2})
    assert mine.read_text() == "{}"


def test_a_report_with_a_person_s_remarks_stays(notebook, run, tmp_path):
    folder = notebook("01_a", TYPED, SAY)
    page = tmp_path / "runs" / "x" / "report.html"
    for _ in range(2):  # what the run has left itself is replaced
        run(folder)
    remarked = page.read_text().replace("</body>", "<p>mine</p></body>")
    page.write_text(remarked)
    with pytest.raises(BadInput, match="report.html: found a file that no run has written, or"):
        run(folder)
    assert page.read_text() == remarked


def test_a_failed_notebook_that_a_person_has_mended_is_kept(notebook, run, tmp_path):
    folder = notebook("01_a", TYPED, "raise ValueError('no')")
    for _ in range(2):  # what the run has left itself is replaced
        with pytest.raises(CellFailed):
            run(folder)
    failed = tmp_path / "runs" / "x" / "01_a.failed.ipynb"
    failed.write_text(failed.read_text().replace("raise ValueError('no')", "print('mended')"))
    mended = failed.read_bytes()
    with pytest.raises(BadInput, match="01_a.failed.ipynb: found a notebook that is not as a run"):
        run(folder)
    assert failed.read_bytes() == mended


def test_ctrl_c_leaves_no_kernel_and_no_half_notebook(notebook, tmp_path):
    import signal

    import psutil

    cell = "from pathlib import Path\n(Path(out) / 'here').touch()\nimport time; time.sleep(60)"
    folder = notebook("01_a", TYPED, cell)
    (folder / "presets" / "p.yaml").write_text("all: {}\n")
    code = (
        # Background jobs ignore this signal.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from pathlib import Path; from hpe_lib.workbook import presets, reproduce\n"
        f"presets.NOTEBOOKS = Path({str(folder)!r}); reproduce.run('p', 'x')"
    )
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, **quiet)
    wait_for(lambda: (tmp_path / "x" / "here").exists())
    kernels = psutil.Process(process.pid).children()
    os.kill(process.pid, signal.SIGINT)
    process.wait(60)
    psutil.wait_procs(kernels, 60)
    assert process.returncode and not any(kernel.is_running() for kernel in kernels)
    assert kinds(tmp_path / "x") == ["01_a.failed.ipynb", "here", "manifest.json"]


def wait_for(done, seconds=120):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_the_command_turns_them_into_exit_statuses(notebook, tmp_path, monkeypatch, capsys):
    outcome = {}

    def run(*_, **__):
        if outcome["raises"]:
            raise outcome["raises"]

    monkeypatch.setattr(reproduce, "run", run)
    for raises, status, line in (
        (None, 0, ""),
        (CellFailed("03, cell [3]: no"), 1, "hpe: 03, cell [3]: no\n"),
        (BadInput("a", "b", "c"), 2, "hpe: a: found b, expected c\n"),
        (KeyboardInterrupt(), 130, "hpe: interrupted\n"),
    ):
        outcome["raises"] = raises
        with pytest.raises(SystemExit) as error:
            cli.main(["reproduce", "--out", str(tmp_path / "x")])
        assert error.value.code == status and capsys.readouterr().err == line
