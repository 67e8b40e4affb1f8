"""Part heatmap regression, read from the paper: Bulat & Tzimiropoulos, ECCV 2016.

Reading order, which is also the order of imports (each room imports only from those before it):

paper, skeleton, geometry, heatmaps, losses    what the paper says, and what is learned from
data/                                          people: files of others, drawn ones, how to get them
trunks, detector, regressor, cascade, rivals   networks, block by block; what results stand beside
training, prediction                           the one `fit`, test time
plausibility, evaluation                       PCKh and PCK, and what looks unlikely about them
view/                                          every picture and panel
workbook/                                      what a run keeps, declares, costs and reports
bench, cli                                     measuring it, running it
"""


def load(folder=None, trunk=None):
    """The pose estimator of a run's folder or one stage's: hpe_lib.load("runs/synthetic").predict("photo.jpg").

    folder: without one, the released weights (hpe_lib/weights/leeds).

    trunk: the function that makes the trunk, of weights that were trained with one of your own (docs/backbones.md).
    `predict(image, boxes=None)` is described at photographs.PoseEstimator. torch is imported here, not before.
    """
    from hpe_lib import photographs

    return photographs.load(folder, trunk)
