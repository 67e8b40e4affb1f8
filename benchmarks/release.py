"""Write a finished stage's weights as float16 to hpe_lib/weights/NAME, to be released.

python -m benchmarks.release RUN/STAGE NAME

Loading turns them into float32 again; the scores stay the same to 0.1.
"""

from pathlib import Path

import torch

from benchmarks import commands
from hpe_lib.paper import RELEASED
from hpe_lib.workbook import artifacts


def main(weights: Path, name: str) -> None:
    """Release a stage and say where."""
    print(release(weights, name))


def release(weights: Path, name: str) -> Path:
    """Write hpe_lib/weights/NAME, the manifest with its command and cost too; returns the folder.

    BadInput if there are no such weights, or the folder holds other files of their names.
    """
    tensors = artifacts.load_weights(weights)
    halved = {tensor_name: to_half(tensor) for tensor_name, tensor in tensors.items()}
    folder = RELEASED.parent / name
    artifacts.save(folder, halved, artifacts.manifest(weights))
    return folder


def to_half(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor as float16 if it holds floating-point numbers; the counts of norms as they are."""
    return tensor.half() if tensor.is_floating_point() else tensor


if __name__ == "__main__":
    commands.run(main)
