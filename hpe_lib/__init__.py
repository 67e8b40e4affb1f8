"""Part heatmap regression, read from the paper: Bulat & Tzimiropoulos, ECCV 2016.

Suggested reading order (the order of imports is in tests/test_layers.py):

paper, skeleton, geometry                      numbers and joints; images and crops
heatmaps, targets, losses                      what the networks learn from: §3, eq. 1 and 2
data/                                          people: data sets, synthetic people, downloads
trunks, detector, regressor, cascade           networks, block by block (Tables 1 to 4)
rivals                                         baselines, and the printed Tables 5 to 7
training, refusals, stages, ablation           the one `fit`; the three stages; rows of an ablation
prediction, export, photographs                test time; ONNX; your own photographs
readings, plausibility, evaluation             PCKh and PCK, and what looks unlikely about them
probes, claims                                 experiments on a cascade; verdicts of notebook 06
view/                                          every picture and panel
workbook/                                      what a run keeps, declares, costs and reports
cli                                            the command `hpe`
"""

from collections.abc import Callable
from pathlib import Path


def load(folder: str | Path | None = None, trunk: Callable | str | None = None):
    """A pose estimator: hpe_lib.load("runs/synthetic").predict("photo.jpg").

    folder: of a run or one of its stages; None: the released weights (hpe_lib/weights/leeds).
    trunk: the function that builds your own trunk, if the weights were trained with one
    (docs/backbones.md).
    Returns a photographs.PoseEstimator. BadInput on a folder without weights.
    """
    from hpe_lib import photographs  # here, so that importing hpe_lib does not wait for torch

    return photographs.load(folder, trunk)
