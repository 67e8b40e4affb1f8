"""Floors: what a pose estimator must beat to have looked at the image at all."""

import numpy as np


def mean_pose(joints: np.ndarray) -> np.ndarray:
    """The training set's mean pose in the crop: joints (N, 16, 2) crop px, NaN where absent -> (16, 2) crop px.

    A joint that nobody has (pelvis and thorax of LSP) is NaN.
    """
    counts = (~np.isnan(joints[..., 0])).sum(0)
    return np.nansum(joints, axis=0) / np.where(counts, counts, np.nan)[:, None]
