import math

import pytest
import torch
from torch import tensor

from hpe_lib import losses


def test_detection_loss_worked_by_hand():
    """-Σ p log p̂ + (1 - p) log(1 - p̂), a sum over pixels: at logit 0 each pixel costs log 2."""
    logits = torch.zeros(1, 2, 2, 2)
    labels = torch.zeros(1, 2, 2, 2)
    labels[0, 1, 0, 0] = 1
    logits[0, 1, 0, 0] = math.log(3)  # probability 3/4
    assert losses.detection_losses(logits, labels)[0].tolist() == pytest.approx(
        [4 * math.log(2), 3 * math.log(2) + math.log(4 / 3)]
    )


def test_detection_loss_takes_logits_and_stays_finite_when_they_are_large():
    logits = tensor([200.0, -200.0]).view(1, 2, 1, 1)
    assert losses.detection_losses(logits, torch.ones(1, 2, 1, 1))[0].tolist() == pytest.approx(
        [0, 200]
    )


def test_regression_loss_worked_by_hand():
    maps = torch.zeros(1, 2, 2, 2)
    targets = torch.zeros(1, 2, 2, 2)
    maps[0, 0] = tensor([[1.0, 2.0], [0.0, -1.0]])
    targets[0, 1, 1, 1] = 0.5
    assert losses.regression_losses(maps, targets).tolist() == [[6, 0.25]]


def test_average_divides_by_16_however_few_joints_count():
    each = torch.full((2, 16), 3.0)
    counts = torch.zeros(2, 16, dtype=torch.bool)
    counts[0, :4] = True
    counts[1, :2] = True
    assert losses.masked_mean(each, counts).item() == pytest.approx((4 * 3 / 16 + 2 * 3 / 16) / 2)
    assert losses.masked_mean(each, torch.ones_like(counts)).item() == pytest.approx(3)
    assert losses.masked_mean(each, torch.zeros_like(counts)).item() == 0


@pytest.mark.parametrize("loss", [losses.detection_losses, losses.regression_losses])
def test_what_does_not_count_gets_no_gradient_and_gives_none_of_its_share_away(loss):
    maps = torch.randn(2, 16, 4, 4, requires_grad=True)
    counts = torch.arange(32).view(2, 16) % 3 == 0
    losses.masked_mean(loss(maps, torch.rand(2, 16, 4, 4)), counts).backward()
    assert ((maps.grad != 0).flatten(2).all(-1) == counts).all()
    alone = maps.detach().clone().requires_grad_()
    losses.masked_mean(loss(alone, torch.zeros(2, 16, 4, 4)), torch.ones_like(counts)).backward()
    again = maps.detach().clone().requires_grad_()
    losses.masked_mean(loss(again, torch.zeros(2, 16, 4, 4)), counts).backward()
    assert torch.equal(alone.grad[counts], again.grad[counts])


def test_a_nan_where_nothing_counts_does_no_harm():
    each = torch.ones(1, 16).index_fill(1, tensor([3]), float("nan"))
    assert losses.masked_mean(each, each == 1).item() == pytest.approx(15 / 16)
