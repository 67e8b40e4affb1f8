"""What a stage cannot begin with, told in one line before anything is written."""

import os
import shutil
from pathlib import Path

import torch

from hpe_lib import cascade
from hpe_lib.cascade import Cascade, network_parameters
from hpe_lib.rivals import LEVELS
from hpe_lib.workbook import artifacts
from hpe_lib.workbook.artifacts import BadInput

COMPILER = (os.environ.get("CXX", "").split() or ["g++"])[0]  # the one that torch.compile calls


def start_folder(init_from: str | Path, out: Path) -> Path:
    """The folder of the weights that a stage of the run OUT begins from.

    BadInput if there are none, or if they are the run's own.
    """
    start = cascade.stage_folder(init_from)
    if start.resolve().parent == out.resolve():
        expected = "another run's: this run's stages follow each other without it"
        raise BadInput("init_from", start, expected)
    return start


def check_detector(resolved: dict[str, dict], out: Path, init_from: Path | None) -> None:
    """BadInput on a detector's training that could not begin, before anything is written for it.

    Whether ImageNet weights can be had is not asked: a stage that is reused needs none.
    resolved: parameters by notebook (`presets.resolve`).  init_from: as for `train`.
    """
    parameters = resolved["02"] | resolved[artifacts.NOTEBOOKS["detector"]]
    image_size = resolved["01"]["image_size"]
    start = init_from or parameters["init_from"]
    check_crop_size("detector", parameters, image_size)
    check_compiler(parameters)
    model = Cascade(network_parameters(parameters, regressor=False))
    model.freeze_blocks(parameters["frozen_blocks"])
    check_maps(model, image_size)
    cascade.check_pretrained(parameters["trunk"], parameters["pretrained"] and not start)
    if start:
        artifacts.load_into(model.detector, start_folder(start, out), "detector.")


def check_compiler(parameters: dict) -> None:
    """BadInput if the networks are to be compiled and there is no compiler."""
    if parameters.get("compiled") and shutil.which(COMPILER) is None:
        expected = "a C++ compiler for torch.compile, or compiled=false"
        raise BadInput("compiled", f"no {COMPILER} here", expected)


def check_crop_size(stage: str, parameters: dict, image_size: int) -> None:
    """BadInput on a crop size, px, that the levels of a stage's networks do not divide."""
    flat = stage == "detector" or parameters.get("regressor") == "convolutions"
    levels = 0 if flat else parameters["levels"]
    if parameters.get("rival") == "stacked_hourglass":
        levels = LEVELS
    divisor = 4 * 2**levels
    if image_size % divisor:
        expected = f"a multiple of {divisor}, for every level to be halved"
        raise BadInput("image_size", image_size, expected)


@torch.no_grad()
def check_maps(model: Cascade, image_size: int) -> None:
    """BadInput on a crop size, px, of which a network makes maps of another size than the targets.

    A stride that rounds down does so unless it divides the crop.
    """
    maps = model.eval()(torch.zeros(1, image_size, image_size, 3, dtype=torch.uint8))
    model.train()
    cells = image_size // model.map_stride
    for part in maps:
        if part is not None and part.shape[-1] != cells:
            found = f"{image_size}, of which this network makes {part.shape[-1]} of {cells} cells"
            raise BadInput("image_size", found, "a multiple of the trunk's whole stride")
