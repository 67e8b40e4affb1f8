"""Equations 1 and 2: one loss for each person and joint; masking and averaging happen in one place."""

import torch
import torch.nn.functional as F

VERSION = 1  # raise it when a loss changes its value: trained stages are then made anew


def detection_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Eq. 1, with its missing minus: sigmoid cross-entropy summed over pixels. (B, J, H, W) twice -> (B, J)."""
    return F.binary_cross_entropy_with_logits(logits, labels, reduction="none").sum((-2, -1))


def regression_losses(maps: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Eq. 2: squared error summed over pixels. (B, J, H, W) twice -> (B, J)."""
    return (maps - targets).square().sum((-2, -1))


def average(losses: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """1/N times the sum over joints that count, N = 16 always; mean over the batch (F3).

    losses (B, J); counts (B, J) bool. A joint that does not count gets no gradient, and nobody else's share of it.
    """
    return torch.where(counts, losses, 0).sum(1).mean() / losses.shape[1]
