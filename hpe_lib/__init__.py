"""Part heatmap regression, read from the paper: Bulat & Tzimiropoulos, ECCV 2016.

Reading order, which is also the order of imports (each room imports only from those before it):

paper, artifacts, presets                      what the paper says; what a run leaves behind; parameters
skeleton, geometry, heatmaps, synthetic,
datasets                                       people: joints, frames, targets, images
detector, regressor, cascade, rivals           networks, block by block
losses, training, prediction, evaluation       eq. 1 and 2, the one `fit`, test time, PCKh and PCK
figures, reproduce, cli                        showing it, running it
"""
