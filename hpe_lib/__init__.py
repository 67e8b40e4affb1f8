"""Part heatmap regression, read from the paper: Bulat & Tzimiropoulos, ECCV 2016.

Reading order, which is also the order of imports (each room imports only from those before it):

paper, schemas, artifacts, reading, presets    what the paper says; what a run keeps; safe reading; parameters
skeleton, geometry, heatmaps, synthetic        joints, frames, targets; drawn people
annotations, datasets, downloads               other people's files; people of any data set; how to get them
detector, regressor, cascade, rivals           networks, block by block; what results stand beside
losses, training, prediction                   eq. 1 and 2, the one `fit`, test time
plausibility, evaluation                       PCKh and PCK, and what looks unlikely about them
figures, report, reproduce, bench, cli         showing it, running it, measuring it
"""


def load(folder=None, trunk=None):
    """The pose estimator of a run's folder or one stage's: hpe_lib.load("runs/synthetic").predict("photo.jpg").

    folder: without one, the released weights (hpe_lib/weights/leeds).

    trunk: the function that makes the trunk, of weights that were trained with one of your own (docs/backbones.md).
    `predict(image, boxes=None)` is described at prediction.PoseEstimator. torch is imported here, not before.
    """
    from hpe_lib import prediction

    return prediction.load(folder, trunk)
