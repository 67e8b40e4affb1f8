"""A stopped training goes on from its last epoch and ends in the same weights, bit for bit."""

import contextlib
import io
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import processes
import pytest
import small_runs
import torch
from small_runs import TARGETS, same_weights

from hpe_lib import ablation, cascade, stages, training, watched
from hpe_lib.data import datasets
from hpe_lib.targets import write_targets
from hpe_lib.workbook import artifacts

DETECTOR = small_runs.DETECTOR | {
    "epochs": 3,
    "weight_decay": 1e-4,
    "warmup": 0.1,
    "colour": 0.2,
    "ema": 0.0,
    "save_minutes": 10.0,
}
STAGES = {"detector": DETECTOR, "regressor": small_runs.REGRESSOR, "joint": {}}

pytestmark = pytest.mark.usefixtures("one_thread")


class Killed(Exception):
    """Stands for a kill: nothing in the program catches it."""


def prepare(out):
    small_runs.prepare(out, train="1-14")
    return out


def train(stage, out, **changes):
    return list(stages.train(stage, out, STAGES[stage] | changes, lambda model: {"PCK": 1.0}))


def stop(stage, out, monkeypatch, after, **changes):
    """Train, and be killed in the step after `after` steps have been done."""
    done = []
    objective = stages.OBJECTIVES[stage]

    def fatal(*given):
        if len(done) == after:
            raise Killed
        done.append(1)
        return objective(*given)

    with monkeypatch.context() as patched:
        patched.setitem(stages.OBJECTIVES, stage, fatal)
        with pytest.raises(Killed):
            train(stage, out, **changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run whose three stages were trained without a stop."""
    out = prepare(tmp_path_factory.mktemp("whole") / "run")
    for stage in STAGES:
        train(stage, out)
    return out


@pytest.fixture
def copy(whole, tmp_path):
    """copy(stage): the run as it was before a stage, its synthetic people beside it."""

    def made(stage):
        out = shutil.copytree(whole, tmp_path / "run")
        for later in list(STAGES)[list(STAGES).index(stage) :]:
            shutil.rmtree(out / artifacts.STAGES[later])
        return out

    return made


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("after", [1, 4, 8])  # of 3 steps an epoch: in the first, second and third
def test_a_stopped_stage_ends_in_the_weights_of_one_that_was_not(
    whole, copy, monkeypatch, capsys, stage, after
):
    out = copy(stage)
    folder = artifacts.STAGES[stage]
    stop(stage, out, monkeypatch, after)
    assert not (out / folder / "manifest.json").exists()
    kept = stages.history(out / folder)
    assert len(kept) == after // 3
    capsys.readouterr()
    records = train(stage, out)
    said = capsys.readouterr().out
    assert ("goes on with epoch" in said) == bool(after // 3)
    assert [record.get("resumed", False) for record in records] == [
        epoch <= after // 3 for epoch in (1, 2, 3)
    ]
    assert same_weights(whole / folder, out / folder)
    assert [record["loss"] for record in records] == [
        record["loss"] for record in stages.history(whole / folder)
    ]
    assert sorted(path.name for path in (out / folder).iterdir()) == sorted(
        path.name for path in (whole / folder).iterdir()
    )
    assert len(watched.read(out / folder)) == 3


def test_with_loader_workers_too(whole, copy, monkeypatch):
    out = copy("detector")
    stop("detector", out, monkeypatch, 4, workers=2)
    train("detector", out, workers=2)
    assert same_weights(whole / "detector", out / "detector")


def test_it_goes_on_with_as_many_threads_as_it_began(whole, copy, monkeypatch, capsys):
    out = copy("detector")
    stop("detector", out, monkeypatch, 4)
    torch.set_num_threads(2)
    train("detector", out)
    assert torch.get_num_threads() == 2, "what follows has as many as before"
    torch.set_num_threads(1)
    assert "with 1 threads, as it began" in capsys.readouterr().out
    assert same_weights(whole / "detector", out / "detector")
    assert artifacts.manifest(out / "detector")["machine"]["threads"] == 1


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_long_epochs_are_saved_within(whole, copy, monkeypatch, ema):
    out = copy("detector")
    stop("detector", out, monkeypatch, 5, save_minutes=0.0, ema=ema)
    saved = (out / "detector" / "checkpoint.pt").read_bytes()[artifacts.DIGEST :]
    state = torch.load(io.BytesIO(saved), weights_only=True)
    assert len(state["records"]) == 1 and state["step"] == 2
    records = train("detector", out, save_minutes=0.0, ema=ema)
    if ema:
        other = prepare(out.parent / "other")
        train("detector", other, ema=ema)
        assert not same_weights(whole / "detector", out / "detector")
        assert same_weights(other / "detector", out / "detector")
    else:
        assert same_weights(whole / "detector", out / "detector")
        losses = [record["loss"] for record in stages.history(whole / "detector")]
        assert [record["loss"] for record in records] == losses


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_the_maps_that_are_shown_are_those_of_the_weights_that_are_kept(copy, ema):
    out = copy("detector")
    train("detector", out, ema=ema)
    shown = watched.read(out / "detector")[-1]["maps"]
    data = datasets.open_data(out)
    watched.write(out / "detector", 3, cascade.load(out / "detector"), data.val, data.image_size)
    kept = watched.read(out / "detector")[-1]["maps"]
    assert shown == pytest.approx(kept, abs=5e-5) and kept.max() > 0.005


def test_dropout_goes_on_with_its_random_stream(copy, monkeypatch, tmp_path):
    """slim_vgg has no dropout, so one is planted: its masks must be those of an unstopped run."""
    made = cascade.Cascade.normalise

    def dropped(self, images):
        return torch.nn.functional.dropout(made(self, images), 0.3, self.training)

    monkeypatch.setattr(cascade.Cascade, "normalise", dropped)
    out = copy("detector")
    other = prepare(tmp_path / "other")
    train("detector", other)
    stop("detector", out, monkeypatch, 5, save_minutes=0.0)
    train("detector", out)
    assert same_weights(other / "detector", out / "detector")


@pytest.mark.parametrize(("after", "workers", "then"), [(3, 0, 0), (4, 0, 2), (7, 2, 0), (4, 2, 2)])
def test_dropout_does_not_depend_on_workers_and_interruptions(
    copy, monkeypatch, tmp_path, after, workers, then
):
    out = copy("regressor")
    other = shutil.copytree(out, tmp_path / "other")
    train("regressor", other, map_dropout=0.5)
    stop("regressor", out, monkeypatch, after, map_dropout=0.5, workers=workers)
    train("regressor", out, map_dropout=0.5, workers=then)
    assert same_weights(other / "regressor", out / "regressor")


def test_a_row_of_an_ablation_goes_on_too(whole, copy, monkeypatch):
    out = copy("joint")
    train("joint", out)
    row = {"seed": 1, "joint.epochs": 2}

    def rows(folder):
        return list(ablation.train_row(folder, "row", row, tuple(STAGES)))

    expected = shutil.copytree(out, out.parent / "expected")
    rows(expected)
    objective = stages.OBJECTIVES["joint"]
    done = []

    def fatal(*given):
        if len(done) == 4:
            raise Killed
        done.append(1)
        return objective(*given)

    with monkeypatch.context() as patched:
        patched.setitem(stages.OBJECTIVES, "joint", fatal)
        with pytest.raises(Killed):
            rows(out)
    records = rows(out)
    assert [r["epoch"] for r in records if r["stage"] == "joint" and r.get("resumed")] == [1]
    assert all(r.get("reused") for r in records if r["stage"] != "joint")
    for stage in artifacts.STAGES.values():
        assert same_weights(expected / "rows" / "row" / stage, out / "rows" / "row" / stage)


def test_a_checkpoint_of_something_else_is_not_used_and_not_lost(whole, copy, monkeypatch, capsys):
    out = copy("detector")
    stop("detector", out, monkeypatch, 7)
    capsys.readouterr()
    records = train("detector", out, lr=1e-3)
    assert not any(record.get("resumed") for record in records)
    said = capsys.readouterr().out
    assert "goes on with" not in said
    assert "until epoch 3 before a change (parameters: lr was 0.002, is 0.001)" in said
    assert len(list((out / "detector").glob(artifacts.ASIDE))) == 1
    records = train("detector", out)
    assert [record.get("resumed", False) for record in records] == [True, True, False]
    assert same_weights(whole / "detector", out / "detector")
    assert not list((out / "detector").glob(artifacts.ASIDE))


def test_a_slip_that_was_stopped_costs_nothing_of_either_training(whole, copy, monkeypatch):
    out = copy("detector")
    stop("detector", out, monkeypatch, 7)
    stop("detector", out, monkeypatch, 4, lr=1e-3)
    records = train("detector", out)
    assert [record.get("resumed", False) for record in records] == [True, True, False]
    assert same_weights(whole / "detector", out / "detector")
    records = train("detector", out, lr=1e-3)
    assert [record.get("resumed", False) for record in records] == [True, False, False]


def shown(out):
    """The maps that are kept of each epoch."""
    return {epoch["epoch"]: epoch["maps"].tobytes() for epoch in watched.read(out / "detector")}


def test_a_slip_that_was_stopped_in_its_first_epoch_leaves_all_maps(whole, copy, monkeypatch):
    out = copy("detector")
    stop("detector", out, monkeypatch, 7)
    stop("detector", out, monkeypatch, 1, lr=1e-3)
    train("detector", out)
    assert shown(out) == shown(whole)


@pytest.mark.parametrize("again", [False, True])
def test_a_finished_slip_stays_until_the_training_before_it_goes_on(
    whole, copy, monkeypatch, again
):
    out = copy("detector")
    stop("detector", out, monkeypatch, 7)
    train("detector", out, lr=1e-3)
    slip = shown(out)
    written = (out / "detector" / "manifest.json").read_bytes()
    for _ in range(2 if again else 1):
        stop("detector", out, monkeypatch, 1)
        assert (out / "detector" / "manifest.json").read_bytes() == written
        assert shown(out) == slip
    train("detector", out)
    assert same_weights(whole / "detector", out / "detector")
    assert shown(out) == {3: shown(whole)[3]}, "those of its first two epochs are gone"


def test_each_process_goes_on_with_its_own_sum_of_losses(tmp_path):
    checkpoint = training.Checkpoint(tmp_path / "checkpoint.pt", {})
    counted = dict.fromkeys(training.COUNTERS, 3.0)
    sums = [(3.0, 0), (5.0, 2)]
    checkpoint.save({"parts": {}, "records": [], "random": [], "sums": sums, **counted})
    for index, (total, blank) in enumerate(sums):
        process = SimpleNamespace(
            process_index=index,
            is_main_process=not index,
            device=torch.device("cpu"),
            wait_for_everyone=lambda: None,
        )
        progress = training.Progress(process, checkpoint, 0, {})
        progress.resume()
        assert (progress.total, progress.blank) == (total, blank)


def test_damaged_images_before_a_stop_are_counted(copy, monkeypatch):
    out = copy("detector")
    monkeypatch.setattr(training, "count_blank", lambda images: torch.tensor(2))
    stop("detector", out, monkeypatch, 2, save_minutes=0.0)
    records = train("detector", out, save_minutes=0.0)
    assert ["6 crops are of one colour" in record["warning"] for record in records] == [True] * 3


def test_a_checkpoint_with_one_bit_changed_is_not_used(tmp_path, capsys):
    checkpoint = training.Checkpoint(tmp_path / "checkpoint.pt", {"lr": 1})
    checkpoint.save({"weight": torch.arange(4096.0)})
    assert torch.equal(checkpoint.load()["weight"], torch.arange(4096.0))
    content = bytearray(checkpoint.path.read_bytes())
    content[content.index(torch.arange(4096.0).numpy().tobytes()) + 801] ^= 16
    checkpoint.path.write_bytes(content)
    assert checkpoint.load() is None
    assert "its bytes have changed" in capsys.readouterr().out


@pytest.mark.parametrize("damage", [b"", b"no checkpoint", None])
def test_a_damaged_checkpoint_is_said_and_the_training_starts_anew(
    whole, copy, monkeypatch, capsys, damage
):
    out = copy("detector")
    stop("detector", out, monkeypatch, 7)
    path = out / "detector" / "checkpoint.pt"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if damage is None else damage)
    train("detector", out)
    assert "cannot be read" in capsys.readouterr().out
    assert same_weights(whole / "detector", out / "detector")


def test_a_full_disk_leaves_the_checkpoint_before(whole, copy, monkeypatch):
    out = copy("detector")
    write = artifacts.write_bytes
    calls = []

    def full(path, data):
        if Path(path).name == "checkpoint.pt":
            calls.append(path)
            if len(calls) == 2:
                raise OSError(28, "No space left on device", str(path))
        write(path, data)

    with monkeypatch.context() as patched:
        patched.setattr(artifacts, "write_bytes", full)
        with pytest.raises(OSError, match="No space left"):
            train("detector", out)
    records = train("detector", out)
    assert [bool(record.get("resumed")) for record in records] == [True, False, False]
    assert same_weights(whole / "detector", out / "detector")


def test_the_maps_of_an_epoch_are_there_even_if_it_was_killed_just_before(copy, monkeypatch):
    out = copy("detector")
    with monkeypatch.context() as patched:
        patched.setattr(stages.Recipe, "write_progress", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            train("detector", out)
    assert not stages.history(out / "detector")
    train("detector", out)
    assert len(watched.read(out / "detector")) == 3
    assert len(stages.history(out / "detector")) == 3


def test_a_line_is_said_at_least_every_so_often(copy, monkeypatch, capsys):
    monkeypatch.setattr(training, "REPORT_EVERY", 0.05)
    objective = stages.OBJECTIVES["detector"]
    slow = lambda *given: time.sleep(0.2) or objective(*given)  # noqa: E731
    monkeypatch.setitem(stages.OBJECTIVES, "detector", slow)
    train("detector", copy("detector"), epochs=1)
    said = capsys.readouterr().out
    assert re.search(r"epoch 1/1  step 2/3  loss \d+\.\d+  \d+ people/s  \d+ min left", said)


def test_watched_maps_that_cannot_be_read_are_left_out_with_a_word(copy, capsys):
    folder = copy("regressor") / "detector"
    paths = sorted(folder.glob("watched/*.npz"))
    whole = paths[0].read_bytes()
    count = len(paths)
    damages = [whole[: len(whole) // 2], b"", b"PK\3\4", whole[:200] + bytes(200) + whole[400:]]
    for damage in damages:
        paths[0].write_bytes(damage)
        assert [one["epoch"] for one in watched.read(folder)] == list(range(2, count + 1))
        said = capsys.readouterr().out
        assert said.startswith(f"{paths[0]}: left out, as no maps") and said.count("\n") == 1
    paths[0].unlink()
    paths[0].mkdir()
    assert len(watched.read(folder)) == count - 1


# ---- reuse: the right key


def test_other_held_out_people_are_scored_anew_and_the_weights_kept(copy, capsys):
    out = copy("regressor")
    before = watched.read(out / "detector")
    data = artifacts.manifest(out / "data")["parameters"]
    datasets.prepare(out, **data | {"val": "201-205"})
    written = (out / "detector" / "weights.safetensors").stat().st_mtime_ns
    scored = list(stages.train("detector", out, DETECTOR, lambda model: {"PCK": 2.0}))
    assert "other held-out people" in capsys.readouterr().out
    assert [record.get("PCK") for record in scored] == [None, None, 2.0]
    assert (out / "detector" / "weights.safetensors").stat().st_mtime_ns == written
    after = watched.read(out / "detector")
    assert [one["epoch"] for one in after] == [3]
    assert (after[-1]["crops"] != before[-1]["crops"]).any()
    again = list(stages.train("detector", out, DETECTOR, lambda model: {"PCK": 3.0}))
    assert again[-1]["PCK"] == 2.0  # scored once


@pytest.mark.parametrize("room", ["heatmaps", "losses", "cascade", "training"])
def test_a_raised_version_trains_anew_and_says_so(copy, monkeypatch, capsys, room):
    out = copy("regressor")
    module = sys.modules[f"hpe_lib.{room}"]
    assert train("detector", out)[0]["reused"]
    monkeypatch.setattr(module, "VERSION", module.VERSION + 1)
    capsys.readouterr()
    assert "reused" not in train("detector", out)[0]
    assert "detector: training again: versions_of" in capsys.readouterr().out
    monkeypatch.undo()


def test_each_epoch_has_an_order_of_its_own_and_the_seed_decides_it():
    def orders(seed):
        batches = training.ShuffledBatches(64, 8, seed)
        for batches.epoch in (1, 2):
            yield [row for batch in batches for row, _ in batch]

    first, second = orders(0)
    assert sorted(first) == sorted(second) == list(range(64)) and first != second
    assert list(orders(0)) == [first, second] and next(orders(1)) != first


def test_what_does_not_affect_the_weights_is_no_reason(copy):
    out = copy("regressor")
    assert train("detector", out, save_minutes=3.0, workers=1)[0]["reused"]
    settings = artifacts.manifest(out / "detector")["settings"]
    assert settings["save_minutes"] == 3, "the next stage takes it from there"


# ---- killed in earnest


def weights_of(out):
    """sha256 of all weights below a run's folder, by place."""
    return {
        str(path.relative_to(out)): artifacts.file_hash(path)
        for path in sorted(Path(out).rglob("weights.safetensors"))
    }


def killed_until_it_ends(words, folder, kills, seconds, seed, trained=None):
    """Run `hpe` again and again until it ends, killing its whole process group `kills` times.

    seconds: (least, most) that an attempt lives, at random; several are taken in turn.
    trained: a run's folder. The first of `seconds` then begins when a checkpoint is written there.
    Returns (exit status, the output of each attempt): one attempt more than it was killed.
    """
    moments = random.Random(seed)
    said = []
    status = -signal.SIGKILL
    while status == -signal.SIGKILL:
        path = folder / f"said-{len(said)}"
        before = last_written(trained)
        process = processes.start_hpe(words, path)
        turn = len(said) % len(seconds)
        while trained and turn == 0 and process.is_alive() and last_written(trained) == before:
            time.sleep(0.01)
        process.join(moments.uniform(*seconds[turn]) if len(said) < kills else None)
        if process.is_alive():
            os.killpg(process.pid, signal.SIGKILL)
            process.join()
        said.append(path.read_text())
        status = process.exitcode
    return status, said


def last_written(run):
    """Which checkpoint below a run's folder was written last, and when; None if there is none."""
    found = []
    for path in Path(run).rglob("checkpoint.pt") if run else []:
        with contextlib.suppress(FileNotFoundError):  # its stage is finished
            found.append((path.stat().st_mtime_ns, path))
    return max(found, default=None)


def trained_twice(said):
    """The epochs that more than one of the attempts trained to their end."""
    fresh = re.compile(r"^(\w+) epoch (\d+)/\d+  loss")
    seen = set()
    twice = []
    row = ""
    for attempt in said:
        row = ""
        for line in attempt.splitlines():
            row = line if line.startswith(("--- ", "notebook ")) else row
            found = fresh.match(line)
            if found and "(reused)" not in line and "(resumed)" not in line:
                epoch = (row, *found.groups())
                twice += [epoch] if epoch in seen else []
                seen.add(epoch)
    return twice


def unkilled(words, folder):
    """The same without a kill: it must end well."""
    status, (said,) = killed_until_it_ends(words, folder, 0, [(0, 0)], 0)
    assert status == 0, said


def test_three_kills_of_hpe_train_end_in_the_same_weights(tmp_path):
    changes = ["epochs=6", "train=1-96", "save_minutes=0"]
    options = [part for change in changes for part in ("-p", change)]

    def command(out):
        return ["train", "detector", "--preset", "smoke", "--out", str(out), *options]

    unkilled(command(tmp_path / "whole"), tmp_path)
    took = stages.history(tmp_path / "whole" / "detector")[-1]["elapsed"]
    (tmp_path / "said").mkdir()
    out = tmp_path / "cut"
    seconds = [(0, 0.2 * took)]
    code, said = killed_until_it_ends(command(out), tmp_path / "said", 3, seconds, 0, out)
    assert code == 0, said[-1]
    assert len(said) == 4 and "goes on with epoch" in said[-1]
    assert not trained_twice(said)
    assert weights_of(tmp_path / "cut") == weights_of(tmp_path / "whole")


@pytest.mark.slow
def test_twenty_kills_of_a_smoke_run_end_in_the_same_weights_and_metrics(tmp_path):
    """`make test ARGS='-m slow -k twenty_kills -n 0 -s'`: half an hour on two cores.

    Every other kill strikes soon after a checkpoint, so within a stage; the others at any moment.
    """
    changes = ["03.epochs=3", "04.epochs=3", "05.epochs=3", "06.stage_epochs=[3,3,3]"]
    options = [part for change in changes for part in ("-p", change)]

    def command(out):
        return ["reproduce", "--preset", "smoke", "--out", str(out), *options]

    unkilled(command(tmp_path / "whole"), tmp_path)
    whole = json.loads((tmp_path / "whole" / "metrics.json").read_text())
    struck = 0
    resumed = 0
    runs = 0
    while struck < 20:  # a run may end before it was killed so often: then another is begun
        runs += 1
        out = tmp_path / f"cut-{runs}"
        (folder := tmp_path / f"said-{runs}").mkdir()
        code, said = killed_until_it_ends(
            command(out), folder, 20 - struck, [(0, 1), (5, 75)], runs, out
        )
        assert code == 0, said[-1]
        assert not trained_twice(said)
        assert weights_of(out) == weights_of(tmp_path / "whole")
        assert untimed(json.loads((out / "metrics.json").read_text())) == untimed(whole)
        struck += len(said) - 1
        resumed += sum("goes on with epoch" in attempt for attempt in said)
        print(f"run {runs}: {len(said) - 1} kills, {resumed} attempts so far within a stage")
    assert resumed >= 5, "kills within a stage are what this is about"


def untimed(value):
    """The metrics without what a clock measured."""
    if isinstance(value, dict):
        kept = {name: untimed(inner) for name, inner in value.items()}
        return {name: inner for name, inner in kept.items() if name not in ("minutes", "seconds")}
    return value


def test_a_second_training_of_a_stage_is_refused_in_one_line(copy):
    out = copy("detector")
    holder = (
        "import sys, time; from hpe_lib.workbook import locks\n"
        f"with locks.lock({str(out)!r}, '.detector.lock'): "
        "print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(processes.ROOT)},
    ) as process:
        process.stdout.readline()
        before = [(out / name / "manifest.json").read_text() for name in ("data", "targets")]
        for write in (
            lambda: train("detector", out),
            lambda: small_runs.prepare(out, train="1-7"),
            lambda: write_targets(out, **TARGETS | {"sigma": 7.0}),
        ):
            with pytest.raises(artifacts.BadInput, match="another process that is writing to it"):
                write()
        after = [(out / name / "manifest.json").read_text() for name in ("data", "targets")]
        assert after == before, "the training's people and targets stay"
        process.kill()
    assert len(train("detector", out)) == 3


@pytest.mark.parametrize("change", ["a score", "a loss", "the last line", "all"])
def test_scores_of_a_history_changed_by_hand_are_not_believed(copy, capsys, change):
    out = copy("detector")
    scores = iter([10.0, 20.0, 30.0, 31.0, 32.0])

    def again():
        return list(
            stages.train("detector", out, DETECTOR, lambda model: {"PCKh@0.5": next(scores)})
        )

    again()
    path = out / "detector" / "history.jsonl"
    text = path.read_text()
    if change == "all":
        path.unlink()
    elif change == "the last line":
        path.write_text("".join(text.splitlines(keepends=True)[:-1]))
    else:
        wrong = {"a score": ("30.0", "99.9"), "a loss": ('"loss": ', '"loss": 0')}[change]
        path.write_text(text.replace(*wrong))
    capsys.readouterr()
    for score in (31.0, 32.0):  # and never becomes genuine
        (record,) = again()
        assert record["epoch"] == record["epochs"] == 3 and record["PCKh@0.5"] == score
        assert math.isnan(record["loss"]) and record["reused"]
        assert "no curve, scored again after its last epoch" in capsys.readouterr().out
        assert "loss nan" in stages.record_line(record)


def test_a_weight_that_is_not_finite_never_comes_into_a_checkpoint(copy, monkeypatch):
    out = copy("detector")
    update = training.update_weights
    steps = []

    def overflow(parts):
        update(parts)
        steps.append(1)
        if len(steps) == 4:  # in the second epoch
            next(parts["model"].parameters()).data.fill_(float("nan"))

    with monkeypatch.context() as patched:
        patched.setattr(training, "update_weights", overflow)
        with pytest.raises(FloatingPointError, match="became NaN or infinite") as error:
            train("detector", out, save_minutes=0.0)
    saved = (out / "detector" / "checkpoint.pt").read_bytes()[artifacts.DIGEST :]
    state = torch.load(io.BytesIO(saved), weights_only=True)
    assert not artifacts.not_finite(state["parts"]["model"])
    step = state["step"]
    told = f"the weights of its step {step}" if step else "the weights after epoch 1"
    assert told in str(error.value)
    assert train("detector", out, save_minutes=0.0)[-1]["epoch"] == 3


def test_an_interrupted_cell_does_not_lock_its_own_kernel_out(copy):
    out = copy("detector")
    abandoned = stages.train("detector", out, DETECTOR)
    next(abandoned)
    assert len(train("detector", out)) == 3
