import math

import cv2
import numpy as np
import pytest
import scipy.io
import torch
from torch.utils.data import default_collate

from hpe_lib import cascade, stages, training, trunks
from hpe_lib.cascade import Maps
from hpe_lib.targets import Targets
from hpe_lib.workbook import artifacts, estimate, presets
from hpe_lib.workbook.artifacts import BadInput

STEP = {"seconds": 90.0, "memory_mb": 1536.0, "measured_batch": 2, "loss": 1.0}


pytestmark = pytest.mark.usefixtures("one_thread")


def parameters(*overrides):
    return presets.resolve("smoke", overrides)


def stage_parameters(stage, *overrides):
    """What a stage's recipe has: its own parameters over those of the stages before."""
    return presets.stage_parameters(parameters(*overrides))[stage]


@pytest.fixture
def steps(monkeypatch):
    """training_step replaced: notes of (stage, parameters, image_size), no measuring."""
    calls = []
    monkeypatch.setattr(estimate, "training_step", lambda *given: calls.append(given) or STEP)
    return calls


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0, "0 min"),
        (29, "0 min"),
        (90.1, "2 min"),
        (3599, "60 min"),
        (3600, "1.0 h"),
        (5400, "1.5 h"),
        (360000, "100.0 h"),
    ],
)
def test_durations(seconds, text):
    assert estimate.duration(seconds) == text


# ---- one step


@pytest.mark.parametrize("stage", artifacts.NOTEBOOKS)
def test_a_step_of_every_stage_is_measured(stage):
    found = estimate.training_step(
        stage, stage_parameters(stage, "channels=8", "levels=1", "batch_size=4"), 32
    )
    assert found["measured_batch"] == 2 and found["seconds"] > 0 and math.isfinite(found["loss"])
    assert found["memory_mb"] > 50


def test_the_step_is_the_stage_s_own():
    """An untrained detector predicts `prior` everywhere, so eq. 1 gives the step's loss."""
    given = stage_parameters("detector", "prior=0.1", "radius=100", "batch_size=2")
    targets = Targets(4, 100.0, given["sigma"], given["occluded"])
    batch = default_collate(estimate.noise_people(2, 32))
    maps = Maps(torch.full((2, 16, 8, 8), math.log(0.1 / 0.9)), None)
    expected = stages.detector_loss(maps, batch, targets).item()
    assert estimate.training_step("detector", given, 32)["loss"] == pytest.approx(
        expected, rel=1e-3
    )


def test_what_was_measured_on_two_is_said_of_the_batch(monkeypatch):
    seen = {}
    used = iter([100.0, 130.0])

    def fit(model, objective, loader, optimizer, scheduler, epochs, accelerator, compiled):
        seen.update(
            compiled=compiled,
            people=len(loader.dataset),
            epochs=epochs,
            lr=optimizer.param_groups[0]["lr"],
            frozen={
                name.partition(".")[0]
                for name, one in model.named_parameters()
                if not one.requires_grad
            },
        )
        yield {"seconds": 99.0, "loss": 9.0}
        yield {"seconds": 1.5, "loss": 2.0}

    monkeypatch.setattr(training, "fit", fit)
    monkeypatch.setattr(estimate, "peak_memory", lambda device: next(used))
    monkeypatch.setattr(estimate, "memory_of_weights", lambda model, optimizer: 6.0)
    found = estimate.training_step(
        "regressor", stage_parameters("regressor", "batch_size=8", "compiled=true"), 32
    )
    if torch.cuda.is_available():
        pytest.skip("a GPU makes the whole step")
    assert found == {
        "seconds": 6.0,
        "memory_mb": 100 + 6 + 4 * 24,  # gradients and the optimizer's state do not grow
        "measured_batch": 2,
        "loss": 2.0,
    }  # the second step
    assert (
        seen["people"] == 2
        and seen["epochs"] == 2
        and seen["lr"] < 1e-6
        and "detector" in seen["frozen"]
    )
    assert seen["compiled"] is True


def test_crops_of_noise_are_as_a_dataset_gives_them():
    one, two = estimate.noise_people(2, 32)
    assert (
        one["image"].shape == (32, 32, 3)
        and one["image"].dtype == torch.uint8
        and one["joints"].shape == (16, 2)
    )
    assert (
        (one["joints"] >= 0).all()
        and (one["joints"] <= 31).all()
        and not torch.equal(one["image"], two["image"])
    )
    assert torch.equal(estimate.noise_people(2, 32)[1]["image"], two["image"])


def test_memory_that_does_not_grow_with_the_batch():
    """RMSprop keeps a number for each weight beside its gradient, and steps in a counter."""
    model, _, optimizer, _ = estimate.random_stage(
        "regressor", stage_parameters("regressor", "optimizer=rmsprop")
    )
    for weight in model.regressor.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    learned = list(model.regressor.parameters())
    numbers = sum(weight.numel() for weight in learned)
    found = estimate.memory_of_weights(model, optimizer)
    assert found * 2**20 == 4 * (2 * numbers + len(learned))


# ---- rehearsals


def test_a_rehearsal_counts_steps_and_adds_them_up(steps):
    """48 people in batches of 16, 90 s a step: 2, 2 and 1 epochs of 3 steps."""
    lines = list(estimate.rehearse(parameters()))
    told = "{}: {} steps of 16 people, 90.00 s each: {} min; 1.5 GiB of memory "
    told += "(measured with 2 people)"
    assert lines == [
        "train: 48 people of synthetic, 1-48",
        "val: 24 people of synthetic, 100001-100024",
        told.format("detector", 6, 9),
        told.format("regressor", 6, 9),
        told.format("joint", 3, "4"),
        "all stages: 22 min on this device, without scoring",
        # 14 stages of six rows with an epoch each, and the control's three: 51 steps
        "notebook 06: 7 rows, 1 seed: 1.3 h at this pace, less what rows share",
    ]
    assert [(stage, size) for stage, _, size in steps] == [
        ("detector", 64),
        ("regressor", 64),
        ("joint", 64),
    ]
    assert all(given["radius"] == 10 and given["batch_size"] == 16 for _, given, _ in steps)
    assert steps[2][1]["channels"] == 16 and steps[2][1]["lr"] == parameters()["05"]["lr"]


def test_hours_of_people_who_cannot_be_counted_are_not_told(steps):
    resolved = presets.resolve("lspet", ["01.train=all"])
    lines = list(estimate.rehearse(resolved))
    assert "as published unknown people" in lines[0]
    (joint,) = [line for line in lines if line.startswith("joint")]
    told = f"joint: {resolved['05']['epochs']} epochs of unknown length, 90.00 s for each step of"
    assert joint.startswith(told)
    assert not any("all stages" in line for line in lines)


def test_drawn_people_make_no_known_number_of_an_unknown_one():
    people = presets.resolve("lspet", ["01.train=all", "01.drawn=1-1000"])["01"]
    assert estimate.find_people(people)[0] == 0


def test_a_crop_that_a_trunk_rounds_down_is_refused_in_a_rehearsal(monkeypatch):
    def refuse(model, image_size):
        raise BadInput("image_size", image_size, "another")

    monkeypatch.setattr(estimate.refusals, "check_maps", refuse)
    with pytest.raises(BadInput, match="image_size: found 64"):
        list(estimate.rehearse(parameters()))


def test_steps_are_those_that_training_makes(steps):
    """A last batch that is not full is dropped, unless it is the only one."""
    for train, wanted in (("1-48", 3), ("1-49", 3), ("1-47", 2), ("1-16", 1), ("1-5", 1)):
        lines = list(estimate.rehearse(parameters(f"train={train}")))
        assert f"joint: {wanted} steps" in lines[4]


def test_crops_that_no_training_takes_are_refused_before_anything_is_measured(steps):
    with pytest.raises(BadInput, match="image_size: found 100, expected a multiple of"):
        list(estimate.rehearse(parameters("image_size=100")))
    assert not steps


def test_what_a_run_would_refuse_is_refused_before_anything_is_measured(steps, monkeypatch):
    with pytest.raises(BadInput, match="a trunk that has ImageNet weights"):
        list(estimate.rehearse(parameters("pretrained=true")))
    monkeypatch.setattr(estimate.refusals, "COMPILER", "no-such-compiler")
    with pytest.raises(BadInput, match="compiled: found no no-such-compiler here"):
        list(estimate.rehearse(parameters("compiled=true")))
    assert not steps


def test_frozen_blocks_do_not_learn_in_a_measured_step():
    model, *_ = estimate.random_stage("detector", stage_parameters("detector", "frozen_blocks=2"))
    learning = [any(p.requires_grad for p in block.parameters()) for block in model.trunk[:3]]
    assert learning == [False, False, True]


def test_no_epochs_are_weights_taken_over(steps, tmp_path):
    artifacts.save(tmp_path / "run" / "cascade", {}, {"kind": "joint"})
    lines = list(
        estimate.rehearse(parameters("03.epochs=0", "04.epochs=0", f"init_from={tmp_path / 'run'}"))
    )
    assert lines[2:6] == [
        f"detector: starts from {tmp_path / 'run' / 'cascade'}",
        f"regressor: starts from {tmp_path / 'run' / 'cascade'}",
        "detector: 0 epochs, weights taken over",
        "regressor: 0 epochs, weights taken over",
    ]
    assert [stage for stage, *_ in steps] == ["joint"]
    assert "detector: 0 epochs, made, not trained" in estimate.rehearse(parameters("03.epochs=0"))


@pytest.mark.parametrize(
    "given, told",
    [
        ("01.train=train", "synthetic people have no splits and no end"),
        ("01.val=val 1-9", "synthetic people have no splits and no end"),
        ("drawn=1-9", "nobody where all are drawn"),
    ],
)
def test_people_whom_a_run_refuses_are_refused(steps, given, told):
    with pytest.raises(BadInput, match=told):
        list(estimate.rehearse(parameters(given)))
    assert not steps


def test_a_rehearsal_writes_nothing_and_draws_nobody(steps, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    list(estimate.rehearse(parameters()))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("preset", presets.names())
def test_every_preset_can_be_rehearsed_where_nothing_is_there(steps, preset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    lines = list(estimate.rehearse(presets.resolve(preset)))
    assert lines[0].startswith("train: ") and lines[-2].startswith("all stages: ")
    assert lines[-1].startswith("notebook 06: ")
    assert all("\n" not in line for line in lines) and not list(tmp_path.iterdir())


def test_people_that_are_not_there_are_counted_as_published(tmp_path):
    mpii = parameters("dataset=mpii", "train=train", "val=val 1-100", f"data_root={tmp_path}")["01"]
    count, lines = estimate.find_people(mpii)
    assert (
        count == 22246 and lines[0].startswith("train: NOT FOUND: ") and str(tmp_path) in lines[0]
    )
    assert lines[0].endswith("as published 22246 people") and lines[1].endswith(
        "as published 100 people"
    )
    count, lines = estimate.find_people({**mpii, "data_root": ""})
    assert count == 22246 and "data_root: found nothing, expected the folder of mpii" in lines[0]


def test_people_that_are_there_are_counted_in_the_folder(tmp_path):
    joints = np.random.default_rng(0).uniform(5, 25, (14, 3, 5))
    joints[:, 2] = 1
    joints[:, 2, 1] = 0  # nobody can be seen there
    scipy.io.savemat(tmp_path / "joints.mat", {"joints": joints})
    (tmp_path / "images").mkdir()
    for number in range(1, 5):
        cv2.imwrite(
            str(tmp_path / "images" / f"im{number:05d}.jpg"), np.zeros((30, 40, 3), np.uint8)
        )
    given = parameters("dataset=lspet", "train=1-4", "val=5-5", f"data_root={tmp_path}")["01"]
    count, lines = estimate.find_people(given)
    assert count == 3 and lines[0] == "train: 3 people of lspet, 1-4"
    assert (
        lines[1].startswith("val: NOT FOUND: ")
        and "im00005.jpg" in lines[1]
        and "1 people" in lines[1]
    )


def test_drawn_people_count_among_those_to_train_on():
    given = parameters("dataset=lspet", "train=1-40", "val=50-60", "drawn=11-30")["01"]
    count, lines = estimate.find_people(given)
    assert count == 60 and lines[-1] == "train: and 20 synthetic people, 11-30"


def test_weights_to_start_from_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert estimate.find_weights(parameters()) == []
    (line,) = estimate.find_weights(parameters("trunk=resnet18", "pretrained=true"))
    name = line.rpartition("/")[2]
    assert line.startswith("ImageNet weights: to be fetched from https://") and name.startswith(
        "resnet18"
    )
    artifacts.write_bytes(tmp_path / "checkpoints" / name, b"")
    assert estimate.find_weights(parameters("trunk=resnet18", "pretrained=true")) == [
        "ImageNet weights: found"
    ]
    rows = estimate.find_weights(parameters("trunk=lite0", "pretrained=true", "vgg=vgg16"))
    assert rows[0] == "ImageNet weights: found"
    assert rows[1].startswith("notebook 06: ImageNet weights: to be fetched from https://")
    with monkeypatch.context() as patched:
        patched.setattr(trunks.importlib.util, "find_spec", lambda name: None)
        (line,) = estimate.find_weights(parameters("trunk=lite2", "pretrained=true"))
    assert "NOT FOUND: ImageNet weights of lite2: found no package" in line
    absent = estimate.find_weights(
        parameters("trunk=resnet18", "pretrained=true", f"init_from={tmp_path / 'nix'}")
    )
    assert [line.partition(" ")[0] for line in absent] == ["detector:", "regressor:"]
    with pytest.raises(BadInput) as error:
        cascade.stage_folder(tmp_path / "nix")
    assert absent[0] == f"detector: NOT FOUND: {error.value}"


def test_a_trunk_without_imagenet_weights_is_no_traceback(steps):
    """Such as "slim": nothing is looked for."""
    assert estimate.find_weights(parameters("pretrained=true")) == []


def test_an_unknown_number_of_people_is_not_that_of_the_others():
    count, lines = estimate.find_people(parameters("dataset=lspet", "train=all", "val=1-5")["01"])
    assert count == 0 and "unknown people" in lines[0]
