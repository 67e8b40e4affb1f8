"""Trainings that go wrong: noticed within an epoch, said in one line, with what to do."""

import re
from types import SimpleNamespace

import pytest
import torch

from hpe_lib import cascade, evaluation, stages, training
from hpe_lib.data.datasets import open_data, prepare
from hpe_lib.targets import write_targets
from hpe_lib.workbook import presets


def test_a_divergence_in_a_later_epoch_names_the_epochs_that_are_kept(tmp_path):
    path = tmp_path / "training.pt"
    parts = {"scheduler": SimpleNamespace(get_last_lr=lambda: [0.3])}
    progress = training.Progress(None, training.Checkpoint(path, {}), 0, parts, records=[{}, {}])
    broken = cascade.BadMaps("the weights", "maps that reach nan", "finite ones")
    for error, found in ((broken, "maps that reach nan"), (FloatingPointError("inf"), "inf")):
        expected = (
            f"{found} in epoch 3: a smaller learning rate than 0.3 may help; "
            f"the weights after epoch 2 are kept in {path}"
        )
        with (
            pytest.raises(FloatingPointError, match=re.escape(expected)),
            training.divergence(progress),
        ):
            raise error


def test_a_divergence_in_the_first_epoch_names_the_step_that_is_kept(tmp_path):
    path = tmp_path / "training.pt"
    parts = {"scheduler": SimpleNamespace(get_last_lr=lambda: [0.3])}
    progress = training.Progress(None, training.Checkpoint(path, {}), 0, parts, saved_within=7)
    expected = f"in epoch 1: .*; the weights of its step 7 are kept in {re.escape(str(path))}$"
    with pytest.raises(FloatingPointError, match=expected), training.divergence(progress):
        raise FloatingPointError("the loss became nan")


@pytest.fixture
def detector(tmp_path):
    """detector(**changes) trains the smallest detector, scored after every epoch."""
    parameters = presets.resolve("smoke")
    prepare(tmp_path, **parameters["01"])
    write_targets(tmp_path, **parameters["02"])
    scorer = evaluation.monitor(open_data(tmp_path).val, parameters["01"]["image_size"])

    def train(**changes):
        list(stages.train("detector", tmp_path, parameters["03"] | changes, scorer))

    return train


def test_maps_that_overflow_stop_the_training_though_the_loss_is_finite(detector, tmp_path):
    with pytest.raises(
        FloatingPointError, match=r"in epoch 1: a smaller learning rate than 1e\+04"
    ):
        detector(epochs=2, optimizer="sgd", lr=1e4, lr_end=1e4)
    assert not (tmp_path / "detector" / "manifest.json").exists()


def test_weights_that_overflow_stop_the_training_though_the_loss_is_finite(
    detector, tmp_path, monkeypatch
):
    """A norm's statistics are not used while it learns."""
    update = training.update_weights

    def overflow(parts):
        update(parts)
        parts["model"].detector.B1[1].running_var.fill_(torch.inf)

    monkeypatch.setattr(training, "update_weights", overflow)
    with pytest.raises(FloatingPointError, match="running_var became NaN or infinite in epoch 1"):
        detector(epochs=2)
    assert not (tmp_path / "detector" / "manifest.json").exists()


def test_crops_of_one_colour_are_counted():
    images = torch.randint(0, 256, (3, 8, 8, 3), dtype=torch.uint8)
    images[1] = torch.tensor([7, 8, 9])
    images[2, ..., 0] = 5  # one channel alone may well be constant
    assert training.count_blank(images).item() == 1


@pytest.mark.parametrize(
    "people, blank, loss, peak, warnings",
    [
        (100, 0, 1.4, 0.5, []),
        (7, 0, 1.4, 0.5, ["people to learn from: 7"]),
        (100, 3, 1.4, 0.5, ["3 crops are of one colour"]),
        (100, 0, 1.4, 0.04, ["nearly empty"]),
        (100, 0, 1.4, 0.06, []),
        (100, 0, 1.6, 0.5, ["the loss is far above the first epoch's"]),
        (7, 1, 1.6, 0.01, ["nearly empty", "far above", "1 crops", "people to learn from"]),
    ],
)
def test_what_is_likely_to_be_wrong_is_said(people, blank, loss, peak, warnings):
    parts = {"scheduler": SimpleNamespace(get_last_lr=lambda: [0.3])}
    progress = training.Progress(None, None, 0, parts, records=[{"loss": 1.0}], seconds=1.0)
    sampler = training.ShuffledBatches(people, 4, 0)
    record = training.epoch_record(progress, sampler, loss, peak, blank)
    said = record.get("warning", "").split("; ")
    assert len(said) == max(1, len(warnings))
    assert all(text in line for text, line in zip(warnings, said))


def test_progress_is_told_of_the_steps_that_were_read():
    """On a GPU the loss is read now and then only: later steps are not in it yet."""
    sampler = training.ShuffledBatches(1600, 8, 0)
    progress = training.Progress(None, None, 0, {}, step=9)
    assert training.progress_line(progress, sampler, 1) == "epoch 1/1  step 9/200  starting"
    progress = training.Progress(None, None, 0, {}, step=99, read_at=50, total=100.0, seconds=50.0)
    wanted = "epoch 1/1  step 99/200  loss 2.000  8 people/s  2 min left"
    assert training.progress_line(progress, sampler, 1) == wanted


def test_each_epoch_has_random_numbers_of_its_own():
    accelerator = SimpleNamespace(process_index=0)
    progress = training.Progress(accelerator, None, 3, {})
    drawn = []
    for epoch in (1, 2, 1):
        progress.seed_epoch(epoch)
        drawn.append(torch.rand(4))
    assert torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[1])
