import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import small_runs

import hpe_lib
from hpe_lib import cli, refusals, stages, targets, training
from hpe_lib.data import annotations, datasets
from hpe_lib.workbook import artifacts, locks, presets, scoring
from hpe_lib.workbook.artifacts import BadInput

NUMBERS = {
    "dataset": "synthetic",
    "data_root": "",
    "train": "1-40",
    "val": "41-46",
    "image_size": 32,
    "data_seed": 0,
    "only_present": False,
    "margin": 1.25,
    "missing_points": "as_labelled",
}


def called(*arguments):
    with pytest.raises(SystemExit) as error:
        cli.main(list(arguments))
    return error.value.code


def test_help_does_not_wait_for_torch():
    code = (
        "import sys, time; from hpe_lib import cli\ntry: cli.main(['--help'])\n"
        "finally: print(time.process_time(), *sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    seconds, *modules = told.splitlines()[-1].split()
    assert all(name in told for name in ("reproduce", "train", "evaluate"))
    assert not {"torch", "numpy", "papermill", "matplotlib", "pandas"} & set(modules)
    assert float(seconds) < 0.5  # of the processor: tests may share the machine


def test_the_bare_command_shows_what_people_come_for(capsys):
    assert called() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[:3]] == ["predict", "score", "reproduce"]
    for line in lines[:3]:
        words = line.split("   ")[0].split()
        assert called(words[1], "--help") == 0
        options = capsys.readouterr().out
        assert all(word in options for word in words if word.startswith("--"))


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "hpe_lib", "nix"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "hpe: No such command 'nix'.\n")


@pytest.mark.parametrize(
    "line",
    [
        "reproduce --preset nix",
        "reproduce --lr 3",
        "reproduce --fresh --only 03",
        "reproduce -p lr",
        "train detector",
        "train pose --out x",
        "evaluate --weights nix --data synthetic",
        "evaluate --weights . --data coco",
    ],
)
def test_bad_command_lines_are_one_line_and_status_2(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert called(*line.split()) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.startswith("hpe: ") and told.err.count("\n") == 1
    assert not list(tmp_path.iterdir())  # nothing half-written


@pytest.fixture
def calls(monkeypatch):
    """`hpe train` with the library's functions replaced by notes of how they were called."""
    calls = []
    resolved = {"01": {"dataset": "synthetic"}, "02": {"radius": 10.0}}
    resolved |= {"03": {"lr": 1.0}, "04": {"lr": 2.0}, "05": {"lr": 3.0}}
    record = {
        "stage": "x",
        "epoch": 1,
        "epochs": 1,
        "loss": 1.0,
        "lr": 1.0,
        "images_per_second": 9.0,
        "peak": 0.5,
    }
    monkeypatch.setattr(
        presets,
        "resolve",
        lambda preset, overrides, running: calls.append((preset, *overrides)) or resolved,
    )
    monkeypatch.setattr(
        datasets, "prepare", lambda out, **parameters: calls.append((str(out), parameters))
    )
    monkeypatch.setattr(datasets, "open_data", lambda out: SimpleNamespace(val=[], image_size=64))
    monkeypatch.setattr(
        targets, "write_targets", lambda out, **parameters: calls.append((str(out), parameters))
    )
    monkeypatch.setattr(refusals, "check_detector", lambda *given: None)
    monkeypatch.setattr(
        stages,
        "train",
        lambda *a, **k: calls.append((a[0], str(a[1]), a[2], k)) or iter([record]),
    )
    return calls


def test_a_trunk_that_is_not_the_one_to_be_trained_is_refused(capsys, tmp_path):
    line = ("train", "detector", "--preset", "smoke", "--trunk", "mine:trunk", "--out")
    assert called(*line, str(tmp_path / "x")) == 2
    assert "--trunk: found mine:trunk beside trunk=slim" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        ("--init-from", "nowhere"),
        ("-p", "trunk=resnet51"),
        ("-p", "frozen_blocks=99"),
        ("-p", "pretrained=true"),
        ("-p", "image_size=66"),
    ],
)
def test_a_training_that_cannot_begin_changes_nothing_of_the_run(tmp_path, capsys, wrong):
    out = tmp_path / "run"
    small_runs.prepare(out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    line = ("train", "detector", "--preset", "smoke", "-p", "radius=7", "-p", "train=1-9")
    assert called(*line, *wrong, "--out", str(out)) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_nothing_to_run_is_refused(capsys, tmp_path):
    line = ("reproduce", "--from", "06", "--only", "05", "--out", str(tmp_path / "x"))
    assert called(*line) == 2
    assert "--from: found 06, after --only 05, expected one of the two" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("option", [("--data-root", "nowhere"), ("--only-present",)])
def test_synthetic_people_have_no_folder(weights, capsys, option):
    line = ("evaluate", "--weights", str(weights), "--data", "synthetic", *option)
    assert called(*line) == 2
    assert f"{option[0]}: found synthetic people" in capsys.readouterr().err


@pytest.mark.parametrize("stage, lr", [("detector", 1.0), ("regressor", 2.0), ("joint", 3.0)])
def test_train_calls_what_the_notebooks_call(calls, capsys, stage, lr):
    assert called("train", stage, "--preset", "smoke", "-p", "lr=1", "--out", "x") == 0
    chosen = (
        [("x", {"dataset": "synthetic"}), ("x", {"radius": 10.0})] if stage == "detector" else []
    )
    assert calls == [("smoke", "lr=1"), *chosen, (stage, "x", {"lr": lr}, {"init_from": None})]
    assert capsys.readouterr().out.count("\n") == 1


def test_a_loss_that_is_not_finite_is_one_line_and_status_1(calls, monkeypatch, capsys):
    monkeypatch.setattr(stages, "train", lambda *_, **__: training.require_finite(float("nan")))
    assert called("train", "detector", "--out", "x") == 1
    assert capsys.readouterr().err.startswith("hpe: the loss became nan")


@pytest.mark.parametrize(
    "split, count, expected",
    [
        ("train", None, "1-40"),
        ("val", 50, "41-46"),
        ("all", 50, "1-50"),
        ("test", 50, "47-50"),
        ("test", None, "47-1046"),
    ],
)
def test_splits(split, count, expected):
    assert scoring.people_range(split, NUMBERS, count) == expected


@pytest.mark.parametrize("split, count", [("all", None), ("test", 46)])
def test_splits_that_are_empty_or_have_no_end(split, count):
    with pytest.raises(BadInput, match=f"--split {split}"):
        scoring.people_range(split, NUMBERS, count)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A run folder whose detector was never trained."""
    from hpe_lib.cascade import Cascade

    run = tmp_path_factory.mktemp("runs") / "x"
    network = {"trunk": "slim", "map_stride": 4, "image_size": 32}
    artifacts.write_json(run / "data" / "manifest.json", {"parameters": NUMBERS})
    artifacts.save(run / "detector", Cascade(network).state_dict(), {"network": network})
    return run


def test_evaluate_scores_the_runs_own_people(weights, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert called("evaluate", "--weights", str(weights), "--data", "synthetic", "--json") == 0
    score = json.loads(capsys.readouterr().out)
    assert score["metric"] == "PCKh@0.5" and score["persons"] == 6
    assert {
        "total",
        "total_macro",
        "head",
        "shoulder",
        "elbow",
        "wrist",
        "hip",
        "knee",
        "ankle",
        "head_top",
        "visible",
        "occluded",
        "at_0.1",
        "auc",
        "ci95",
        "persons",
        "joints",
        "left_out",
    } <= set(score)
    assert called("evaluate", "--weights", str(weights / "detector"), "--data", "synthetic") == 0
    told = capsys.readouterr().out
    assert "PCKh@0.5 of 6 people" in told and f"{score['total']:.1f}" in told


def test_evaluate_on_a_folder_takes_everyone_it_holds(weights, test_data, tmp_path, capsys):
    import scipy.io

    root = tmp_path / "lspet"
    (root / "images").mkdir(parents=True)
    joints = scipy.io.loadmat(test_data / "lspet" / "joints.mat")["joints"]
    scipy.io.savemat(root / "joints.mat", {"joints": joints[:, :, :30]})
    for number in range(1, 31):
        (root / "images" / f"im{number:05d}.jpg").symlink_to(
            test_data / "lspet" / "images" / f"im{number:05d}.jpg"
        )
    assert (
        called(
            "evaluate",
            "--weights",
            str(weights),
            "--data",
            "lspet",
            "--data-root",
            str(root),
            "--json",
        )
        == 0
    )
    score = json.loads(capsys.readouterr().out)
    assert score["metric"] == "PCK@0.2" and score["persons"] + score["left_out"] == 30
    assert (
        called(
            "evaluate", "--weights", str(weights), "--data", "lspet", "--data-root", str(tmp_path)
        )
        == 2
    )
    assert "joints.mat" in capsys.readouterr().err


def test_evaluate_on_published_splits(weights, test_data, monkeypatch, capsys):
    asked = []
    load = datasets.load_people
    monkeypatch.setattr(
        scoring,
        "load_people",
        lambda *given, **named: asked.append(given[2]) or load(*given, **named),
    )
    line = [
        "evaluate",
        "--weights",
        str(weights),
        "--data",
        "mpii",
        "--data-root",
        str(test_data / "mpii"),
        "--json",
    ]
    images, _ = annotations.mpii_rows(test_data / "mpii" / "valid.h5")
    there = sum((test_data / "mpii" / "images" / name).is_file() for name in images)
    assert called(*line, "--split", "val", "--only-present") == 0
    score = json.loads(capsys.readouterr().out)
    assert (score["metric"], score["persons"], score["left_out"]) == ("PCKh@0.5", there, 0)
    assert f"{2958 - there} people skipped: image absent" in score["notes"]
    assert "the crops are placed by the annotation: a hint from the truth" in score["notes"]
    assert called(*line) == 2
    assert f"{2958 - there} of 2958 people's images absent" in capsys.readouterr().err
    assert (
        called(*line, "--split", "train") == 2
        and "found nobody of train" in capsys.readouterr().err
    )
    assert asked == ["val", "all", "train"]


@pytest.mark.parametrize("data", ["mpii", "lsp", "lspet", "leeds"])
def test_evaluate_asks_for_the_folder(weights, data, capsys):
    assert called("evaluate", "--weights", str(weights), "--data", data) == 2
    assert f"--data-root: found nothing, expected the folder of {data}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "stage, given, told",
    [
        ("regressor", "train=1-12", "a parameter of notebook 01, which does not run now"),
        ("regressor", "batch_size=2", "a parameter of notebook 03, which does not run now"),
        ("joint", "04.lr=1", "a parameter of notebook 04, which does not run now"),
    ],
)
def test_a_later_stage_takes_people_targets_and_earlier_stages_as_they_are(
    tmp_path, capsys, stage, given, told
):
    assert (
        called("train", stage, "--preset", "smoke", "-p", given, "--out", str(tmp_path / "x")) == 2
    )
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1 and not (tmp_path / "x").exists()


def test_a_place_that_cannot_be_written_is_one_line_and_status_2(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert (
        called("train", "detector", "--preset", "smoke", "--out", str(tmp_path / "file" / "x")) == 2
    )
    assert capsys.readouterr().err.count("\n") == 1


# ---- reproduce --dry-run and --seeds


@pytest.fixture
def reproduced(monkeypatch, tmp_path):
    """`hpe reproduce` from an empty folder, its library replaced by notes of how it was called."""
    from hpe_lib.workbook import estimate, reproduce

    calls = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reproduce, "run", lambda *given: calls.append(("run", *given)))
    step = {"seconds": 2.0, "memory_mb": 512.0, "measured_batch": 2, "loss": 1.0}
    monkeypatch.setattr(
        estimate, "training_step", lambda stage, *_: calls.append(("step", stage)) or step
    )
    return calls


def test_a_dry_run_says_what_it_would_take_and_runs_nothing(reproduced, tmp_path, capsys):
    (tmp_path / "x" / "detector").mkdir(parents=True)
    (tmp_path / "x" / "detector" / "manifest.json").write_text("{}")
    line = "reproduce --preset smoke --dry-run --fresh --out x -p 03.epochs=4"
    assert called(*line.split()) == 0
    told = capsys.readouterr().out.splitlines()
    assert reproduced == [("step", stage) for stage in ("detector", "regressor", "joint")]
    assert told[0] == "train: 48 people of synthetic, 1-48" and told[2].startswith(
        "detector: 12 steps of 16 people"
    )
    assert told[-2] == "all stages: 1 min on this device, without scoring"  # 21 steps of 2 s
    assert told[-1].startswith("notebook 06: 7 rows, 1 seed: ")
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == [
        "x",
        "x/detector",
        "x/detector/manifest.json",
    ]


@pytest.mark.parametrize(
    "line", ["--preset nix", "-p lrr=1", "-p epochs=-1", "--seeds 1,x", "--seeds 0.5", "--only 05"]
)
def test_a_dry_run_refuses_what_a_run_would(reproduced, capsys, line):
    assert called("reproduce", "--dry-run", *line.split()) == 2
    told = capsys.readouterr()
    assert (
        told.out == ""
        and told.err.startswith("hpe: ")
        and told.err.count("\n") == 1
        and not reproduced
    )


def test_seeds_are_notebook_06_s(reproduced, capsys):
    assert (
        called(
            "reproduce", "--preset", "smoke", "--seeds", "0,1,2", "-p", "03.lr=1e-3", "--out", "x"
        )
        == 0
    )
    ((_, preset, out, given, *_),) = reproduced
    assert (preset, str(out), given) == ("smoke", "x", ["03.lr=1e-3", "06.seeds=0,1,2"])
    assert presets.resolve(preset, given)["06"]["seeds"] == [0, 1, 2]
    assert presets.resolve("smoke")["06"]["seeds"] == []
    reproduced.clear()
    assert called("reproduce", "--preset", "smoke") == 0 and list(reproduced[0][3]) == []


# ---- the edge: what nobody has caught, streams, other programs' variables

ROOT = Path(__file__).resolve().parent.parent
WORKER = """Caught KeyError in DataLoader worker process 0.
Original Traceback (most recent call last):
  File "x.py", line 1, in f
KeyError: 'x'
"""


class OutOfMemoryError(RuntimeError):
    """As torch's of that name."""


@pytest.mark.parametrize(
    "error, status, said",
    [
        (KeyError("x"), 1, "KeyError: 'x'"),
        (RuntimeError("a\nb"), 1, "RuntimeError: a b"),
        (RecursionError("too deep"), 1, "RecursionError: too deep"),
        (RuntimeError(WORKER), 1, "KeyError: 'x'"),
        (EOFError("No data left"), 1, "EOFError: No data left"),
        (EOFError(), 1, "EOFError: "),
        (OSError("no number"), 1, "OSError: no number"),
        (OSError(errno.EIO, "Input/output error"), 1, "Input/output error"),
        (
            OSError(errno.ENOSPC, "No space left on device", "a/b"),
            1,
            "a/b: No space left on device",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "a/b"),
            2,
            "a/b: found Permission denied",
        ),
        (
            UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed"),
            2,
            "a name or text",
        ),
        (MemoryError(), 1, "out of memory: smaller batch_size"),
        (OutOfMemoryError("CUDA out of memory. Tried"), 1, "out of memory: smaller batch_size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you"), 1, "out of memory"),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
            1,
            "out of memory",
        ),
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), 1, "out of memory"),
        (FloatingPointError("the loss became nan"), 1, "the loss became nan"),
        (artifacts.CellFailed("03, cell [3]: no"), 1, "03, cell [3]: no"),
        (BadInput("a", "b", "c"), 2, "a: found b, expected c"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (RuntimeError("Symlink loop from 'a'"), 2, "Symlink loop from 'a'"),
        (ValueError("x" * 5000), 1, "ValueError: xxx"),
    ],
)
def test_what_nobody_has_caught_is_one_line(calls, monkeypatch, capsys, error, status, said):
    def train(*_, **__):
        raise error

    monkeypatch.setattr(stages, "train", train)
    monkeypatch.setenv("HPE_DEBUG", "")
    assert called("train", "regressor", "--out", "x") == status
    told = capsys.readouterr().err
    assert told.startswith(f"hpe: {said}".rstrip()) and told.count("\n") == 1 and len(told) < 1100
    monkeypatch.setenv("HPE_DEBUG", "1")
    assert called("train", "regressor", "--out", "x") == status
    *traceback, last = capsys.readouterr().err.splitlines(keepends=True)
    assert last == told and (
        isinstance(error, KeyboardInterrupt) or "in train" in "".join(traceback)
    )


def test_ctrl_c_while_the_command_is_imported_is_one_line(monkeypatch, capsys):
    from hpe_lib import __main__

    class Stopped:
        def find_spec(self, name, *_):
            if name == "hpe_lib.cli":
                raise KeyboardInterrupt

    monkeypatch.setattr(sys, "meta_path", [Stopped(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "hpe_lib.cli")
    monkeypatch.delattr(hpe_lib, "cli")
    with pytest.raises(SystemExit, match="130"):
        __main__.main()
    assert capsys.readouterr().err == "hpe: interrupted\n"


def test_a_listener_that_has_gone_is_no_line_at_all(calls, monkeypatch, capsys):
    def train(*_, **__):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(stages, "train", train)
    assert called("train", "regressor", "--out", "x") == 1 and capsys.readouterr().err == ""


def hpe(line, redirected="", **variables):
    """The command in a shell of its own: (exit status, stdout, stderr)."""
    command = f"{sys.executable} -m hpe_lib {line} {redirected}"
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    done = subprocess.run(command, shell=True, capture_output=True, env=environment)
    return done.returncode, done.stdout.decode("latin-1"), done.stderr.decode("latin-1")


@pytest.mark.parametrize(
    "line, redirected, status, said",
    [
        ("predict --help", "> /dev/full", 1, "hpe: stdout: No space left on device\n"),
        ("predict --help", ">&-", 0, ""),
        ("nix", "2> /dev/full", 2, ""),
        ("nix", "2>&-", 2, ""),
        ("nix", "<&- >&- 2>&-", 2, ""),
        ("predict --help", "| true; exit ${PIPESTATUS[0]}", 1, ""),
    ],
)
def test_a_stream_that_is_full_or_closed(line, redirected, status, said):
    bash = f"bash -c '{sys.executable} -m hpe_lib {line} {redirected}'"
    done = subprocess.run(bash, shell=True, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (status, "") and done.stderr in (
        said,
        said[:5] + said[13:],
    )


def test_what_the_output_s_encoding_lacks_is_a_question_mark():
    status, told, error = hpe("predict --help", PYTHONIOENCODING="latin-1")
    assert (status, error) == (0, "") and "[x1, y1, x2, y2], ?" in " ".join(told.split())


@pytest.mark.parametrize("variables", [{"RANK": "1"}, {"RANK": ""}, {"LOCAL_RANK": "0"}])
def test_variables_of_other_programs_silence_nothing(monkeypatch, capsys, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert called("--help") == 0 and "reproduce" in capsys.readouterr().out


def test_of_torchrun_s_processes_the_first_speaks(monkeypatch, capsys):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    assert called("--help") == 0 and capsys.readouterr().out == ""


def test_evaluate_waits_for_nobody_whom_torchrun_has_not_started(weights):
    half = {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    line = f"evaluate --weights {weights} --data synthetic"
    status, told, error = hpe(line, MASTER_PORT="29556", **half)
    assert status == 0 and "PCKh@0.5 of 6 people" in told


def test_two_trainings_into_one_folder_are_one_too_many(tmp_path, capsys):
    line = ["train", "detector", "--preset", "smoke", "--out", str(tmp_path / "x")]
    first = subprocess.Popen(
        [sys.executable, "-m", "hpe_lib", *line, "-p", "epochs=1000"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert "detector: training" in first.stdout.readline()
        before = {
            path: path.stat().st_mtime_ns for path in (tmp_path / "x").glob("*/manifest.json")
        }
        assert called(*line) == 2
        told = capsys.readouterr()
        assert told.out == "" and told.err.count("\n") == 1 and "another process" in told.err
        assert {path: path.stat().st_mtime_ns for path in before} == before
    finally:
        first.kill()
        first.communicate()
    for _ in range(100):  # the lock goes with the process, and with a child it was just starting
        with contextlib.suppress(BadInput), locks.lock(tmp_path / "x"):
            break
        time.sleep(0.1)
    else:
        pytest.fail("the lock is still held")


def test_installed_it_brings_notebooks_and_presets_along(tmp_path):
    kept = ("hpe_lib", "notebooks", "pyproject.toml", "README.md", "LICENSE")
    for name in kept:
        path = ROOT / name
        copy = tmp_path / "checkout" / name
        if path.is_dir():
            shutil.copytree(path, copy, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        else:
            shutil.copy(path, copy)
    install = ["pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run(
        [sys.executable, "-m", *install, tmp_path / "site", tmp_path / "checkout"], check=True
    )
    shutil.rmtree(tmp_path / "checkout")
    code = (
        "from hpe_lib import paper; from hpe_lib.workbook import presets; "
        "print(paper.__file__, presets.NOTEBOOKS);"
        "print(*presets.notebooks()); print(*presets.names())"
    )
    told = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    site = tmp_path / "site" / "hpe_lib"
    assert told[0] == f"{site / 'paper.py'} {site / 'notebooks'}"
    assert told[1:] == [" ".join(presets.notebooks()), " ".join(presets.names())]
