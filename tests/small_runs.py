"""Small runs for tests of training: synthetic people, decided targets, three tiny stages."""

import torch

from hpe_lib.data import datasets
from hpe_lib.targets import write_targets
from hpe_lib.workbook import artifacts

DATA = {
    "dataset": "synthetic",
    "data_root": "",
    "train": "1-8",
    "val": "101-104",
    "image_size": 64,
    "data_seed": 0,
    "only_present": False,
    "margin": 1.25,
    "missing_points": "as_labelled",
}
TARGETS = {"radius": 12.0, "sigma": 12.0, "occluded": "empty"}  # cells are 4 px, bodies about 45
STILL = {"rotation": 0.0, "scale_low": 1.0, "scale_high": 1.0, "flip": False}
DETECTOR = {
    "trunk": "slim",
    "map_stride": 4,
    "prior": 0.01,
    "pretrained": False,
    "seed": 0,
    "epochs": 1,
    "batch_size": 4,
    "optimizer": "adamw",
    "weight_decay": 0.0,
    "lr": 2e-3,
    "lr_end": 1e-4,
    "schedule": "cosine",
    "warmup": 0.0,
    "workers": 0,
    "precision": "no",
    "rotation": 40.0,
    "scale_low": 0.7,
    "scale_high": 1.3,
    "flip": True,
}
REGRESSOR = {"channels": 8, "levels": 1, "bottlenecks": 1, "stem": "patch"}


def prepare(out, targets=TARGETS, **changes):
    """A run folder of synthetic people, or of others, whose targets are decided."""
    data = datasets.prepare(out, **DATA | changes)
    write_targets(out, **targets)
    return data


def same_weights(one, other, prefix=""):
    """Do two folders hold the same tensors, bit for bit, of those whose names begin so?"""
    one, other = (
        {
            name: weight
            for name, weight in artifacts.load_weights(folder).items()
            if name.startswith(prefix)
        }
        for folder in (one, other)
    )
    return one and one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)
