"""Equations 1 and 2: one loss per person and joint, and the masked mean over a batch."""

import torch
import torch.nn.functional as F

VERSION = 1  # raise it when a loss changes its value: finished stages are then retrained


def detection_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Eq. 1, with the minus sign it lacks: sigmoid cross-entropy, summed over pixels (F3).

    logits, labels: (B, J, H, W). Returns (B, J).
    """
    return F.binary_cross_entropy_with_logits(logits, labels, reduction="none").sum((-2, -1))


def regression_losses(maps: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Eq. 2: squared error, summed over pixels. maps, targets: (B, J, H, W). Returns (B, J)."""
    return (maps - targets).square().sum((-2, -1))


def masked_mean(losses: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Sum over the joints in the mask, divided by N = J always; mean over the batch (F3).

    losses: (B, J). mask: (B, J) bool. A joint outside the mask gets no gradient, and the weight
    of the other joints stays the same.
    """
    return torch.where(mask, losses, 0).sum(1).mean() / losses.shape[1]
