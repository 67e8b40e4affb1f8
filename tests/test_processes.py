"""Several processes on CPUs (gloo), started by torchrun as on GPUs."""

import json
import os
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import processes
import pytest
import small_runs
import torch
from small_runs import REGRESSOR, prepare, same_weights
from torch import nn

from hpe_lib import cascade, cli, stages, training
from hpe_lib.workbook import artifacts, environment
from hpe_lib.workbook.artifacts import BadInput

DETECTOR = small_runs.DETECTOR | {"batch_size": 8, "optimizer": "sgd", "lr": 1e-4, "lr_end": 1e-5}
ALONE = {
    name: value
    for name, value in os.environ.items()
    if name not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")
}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
ENVIRONMENT = ALONE | {
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "PYTHONPATH": str(processes.ROOT),
}


def torchrun(*arguments):
    """Two processes, on a port that is free."""
    return subprocess.run(
        [*TORCHRUN, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env=ENVIRONMENT,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Nineteen people to train on, seven held out; detector and regressor trained for an epoch."""
    out = tmp_path_factory.mktemp("processes") / "run"
    prepare(out, train="1-19", val="101-107")
    for stage, parameters in (("detector", DETECTOR), ("regressor", REGRESSOR)):
        list(stages.train(stage, out, parameters))
    return out


@pytest.fixture
def copy(run, tmp_path):
    """copy(name): the run once more, its people beside it."""
    return lambda name="run": shutil.copytree(run, tmp_path / name)


def without_detector(run, out):
    """A copy of the run, to be trained anew."""
    shutil.copytree(run, out)
    shutil.rmtree(out / "detector")
    return out


def train_command(out):
    """Three epochs of the detector by `hpe train`, on the run's people, saved after every step."""
    people = artifacts.manifest(out / "data")["parameters"]
    chosen = {f"01.{name}": people[name] for name in ("train", "val", "image_size")}
    numbers = DETECTOR | {"epochs": 3, "save_minutes": 0.0, "radius": 12, "sigma": 12} | chosen
    options = [part for item in numbers.items() for part in ("-p", "{}={}".format(*item))]
    return ["train", "detector", "--preset", "smoke", "--out", str(out), *options]


def evaluate_command(run):
    return ["evaluate", "--weights", str(run), "--data", "synthetic", "--json"]


@pytest.fixture(scope="module")
def both(run, tmp_path_factory):
    """What processes.py finds, {1: by one process, 2: by two}, and what the commands say to two."""
    folder = tmp_path_factory.mktemp("both")
    found = {1: processes.findings(shutil.copytree(run, folder / "by1"))}
    whole = without_detector(run, folder / "whole")
    commands = [train_command(whole), train_command(whole), evaluate_command(run)]
    out = shutil.copytree(run, folder / "by2")
    given = out, folder / "found.pt", json.dumps(commands)
    done = torchrun(processes.__file__, *given)
    assert done.returncode == 0, done.stderr
    said = done.stdout.split(processes.END + "\n")[: len(commands)]
    found[2] = torch.load(folder / "found.pt", weights_only=False) | {"whole": whole, "said": said}
    assert [found[count]["processes"] for count in found] == [1, 2]
    return found


def test_two_processes_of_four_give_the_gradients_of_one_of_eight(both):
    """Two epochs of two steps, three people left over in each: the same people in each step."""
    one = both[1]["steps"]
    two = both[2]["steps"]
    assert len(one) == len(two) == 4 and all(weight.abs().max() > 0 for weight in one[0])
    for alone, shared in zip(one, two):
        for expected, weight in zip(alone, shared, strict=True):
            assert (
                weight.dtype == torch.float64
                and (weight - expected).abs().max() <= 1e-9 * expected.abs().max()
            )
    weights = [artifacts.load_weights(both[count]["out"] / "cascade") for count in both]
    assert all(
        torch.allclose(weights[0][name], weights[1][name], rtol=1e-9, atol=1e-12)
        for name in weights[0]
    )
    assert artifacts.manifest(both[2]["out"] / "cascade")["processes"] == 2


def test_records_are_of_the_whole_batch_and_the_rate_falls_as_by_one_process(both):
    for alone, shared in zip(both[1]["records"], both[2]["records"], strict=True):
        assert shared["lr"] == alone["lr"] and shared["loss"] == pytest.approx(
            alone["loss"], rel=1e-6
        )
        assert shared["peak"] == pytest.approx(alone["peak"], rel=0.1)
    assert alone["lr"] == pytest.approx(1e-5)  # lr_end


def test_every_person_is_predicted_once_and_in_order(both):
    """Seven people by two processes, and one person by two processes."""
    for people, alone, shared in zip(
        (7, 1), both[1]["predictions"], both[2]["predictions"], strict=True
    ):
        for name, expected in alone.items():
            assert len(expected) == people and shared[name].shape == expected.shape
            assert np.allclose(shared[name], expected, rtol=0, atol=1e-9), name
    assert len(np.unique(alone["joints"])) > 16


def test_hpe_train_by_two_processes_writes_once_and_again_reuses(both):
    out = both[2]["whole"]
    (first, again, _) = both[2]["said"]
    records = stages.history(out / "detector")
    assert [line.split("  ")[0] for line in first.splitlines()] == [
        "detector: training",
        *(f"detector epoch {epoch}/3" for epoch in (1, 2, 3)),
    ]
    assert [record["epoch"] for record in records] == [1, 2, 3] and "PCKh@0.5" in records[0]
    assert sorted(path.name for path in (out / "detector").iterdir()) == [
        "history.jsonl",
        "manifest.json",
        "watched",
        "weights.safetensors",
    ]
    assert again.startswith("detector: reused") and again.count("\n") == 4
    written, after, _ = both[2]["written"]
    assert written == after and str(out / "detector" / "weights.safetensors") in written


def test_hpe_evaluate_by_two_processes_says_what_one_says(run, both, capsys):
    with pytest.raises(SystemExit):
        cli.main(evaluate_command(run))
    score = json.loads(both[2]["said"][2])  # one object: one process speaks
    alone = json.loads(capsys.readouterr().out)
    assert score.pop("notes") == alone.pop("notes")
    assert score.pop("ci95") == pytest.approx(alone.pop("ci95")) and score == pytest.approx(alone)
    assert score["persons"] == 7 and score["joints"] > 80


def test_a_batch_that_processes_cannot_share_leaves_the_artifact_as_it_was(copy, monkeypatch):
    out = copy()
    before = artifacts.manifest(out / "detector")
    monkeypatch.setattr(stages, "PartialState", lambda **_: SimpleNamespace(num_processes=3))
    with pytest.raises(BadInput, match="batch_size: found 8, .*3 processes"):
        stages.Recipe("detector", out, DETECTOR | {"seed": 1}).loader()
    assert artifacts.manifest(out / "detector") == before
    assert (
        stages.Recipe("detector", out, DETECTOR | {"batch_size": 9})
        .loader()
        .batch_sampler.batch_size
        == 9
    )


def test_fewer_people_than_a_batch_are_one_batch(run):
    loader = stages.Recipe("detector", run, DETECTOR | {"batch_size": 32}).loader()
    assert [len(batch["image"]) for batch in loader] == [19]


class Several:
    """Stands for an Accelerator of several processes, up to where it would need them."""

    is_main_process = True

    def __init__(self, processes, device):
        self.num_processes = processes
        self.device = torch.device(device)

    def prepare(self, model, *_):
        raise Prepared(model)


class Prepared(Exception):
    pass


@pytest.mark.parametrize(
    "processes, device, common", [(2, "cuda", True), (1, "cuda", False), (2, "cpu", False)]
)
def test_norms_are_in_common_on_several_gpus_only(processes, device, common):
    model = cascade.Cascade({"trunk": "slim", "map_stride": 4, **REGRESSOR})
    keys = list(model.state_dict())
    norms = sum(isinstance(part, nn.BatchNorm2d) for part in model.modules())
    with pytest.raises(Prepared) as prepared:
        loader = torch.utils.data.DataLoader([])
        next(training.fit(model, None, loader, None, None, 1, Several(processes, device)))
    found = [isinstance(part, nn.SyncBatchNorm) for part in prepared.value.args[0].modules()]
    assert sum(found) == (norms if common else 0) and list(model.state_dict()) == keys
    assert prepared.value.args[0] is model  # whose weights are saved in the end


# ---- from a notebook


def test_two_processes_that_were_killed_end_in_the_same_weights(run, both, tmp_path):
    """Killed after their first epoch's line; the norms' statistics are each process's own here."""
    cut = without_detector(run, tmp_path / "cut")
    with subprocess.Popen(
        [*TORCHRUN, "-m", "hpe_lib", *train_command(cut)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,
    ) as process:
        for line in process.stdout:
            if line.startswith("detector epoch 1/3"):
                os.killpg(process.pid, signal.SIGKILL)
                break
    again = torchrun("-m", "hpe_lib", *train_command(cut))
    assert again.returncode == 0 and "goes on with epoch" in again.stdout, again.stderr
    assert same_weights(both[2]["whole"] / "detector", cut / "detector")


def test_what_mpirun_left_behind_starts_no_waiting(monkeypatch):
    """Accelerate reads how many processes there are from MPI's variables, too."""
    from hpe_lib.workbook import artifacts

    for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
        assert environment.torchrun_rank() == 0
        assert name not in artifacts.os.environ
