"""A small LSPET folder for tests, and what a refusal must say."""

import cv2
import numpy as np
import scipy.io


def write_lspet(root, joints):
    """joints.mat of joints (14, 3, N), and images of 40 × 30 px."""
    (root / "images").mkdir(exist_ok=True)
    scipy.io.savemat(root / "joints.mat", {"joints": joints})
    for person in range(joints.shape[-1]):
        image = np.random.default_rng(person).integers(0, 255, (30, 40, 3), dtype=np.uint8)
        (root / "images" / f"im{person + 1:05d}.jpg").write_bytes(
            cv2.imencode(".jpg", image)[1].tobytes()
        )


def read_joints(root):
    return scipy.io.loadmat(root / "joints.mat")["joints"]


def says(error, *parts):
    """The error is one line with what was found, what was expected, and these parts."""
    line = str(error.value)
    assert "\n" not in line and all(part in line for part in ("found", "expected", *parts)), line
