"""Count what a training step of the paper's ResNet cascade costs, for the plan of docs/scaling.md.

python -m benchmarks.plan

Operations, kernels and saved bytes are counted on the CPU, for two people at 256 px, and come to
results/plan. Nothing is timed.
"""

import math

import numpy as np
import pandas as pd
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import commands, speed
from hpe_lib.workbook import environment, estimate, presets, results

PEOPLE = 2
IMAGE_SIZE = 256
PEAK = speed.BF16_PEAK["H200"]  # operations/s
SHARE = 0.4  # of the peak, assumed
START = 10e-6  # s from one kernel to the next, assumed
PAPERS_BATCH = 8
LINKS = {  # published bytes/s, and how many GPUs share them
    "8 GPUs, NVLink 450 GB/s": (450e9, 8),
    "2 hosts of 8, Ethernet 400 Gb/s": (50e9, 16),
    "2 hosts of 8, Ethernet 100 Gb/s": (12.5e9, 16),
}


class Kernels(TorchDispatchMode):
    """Counts operators that compute something: views and allocations start no kernel."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.count += not (operator.is_view or "empty" in operator.name())
        return operator(*args, **(kwargs or {}))


def main() -> None:
    """Write results/plan."""
    stages = presets.stage_parameters(presets.resolve("paper-res"))
    counted = {stage: count(stage, parameters) for stage, parameters in stages.items()}
    results.write("plan", {"stages": counted}, environment.command())


def count(stage: str, parameters: dict) -> dict:
    """What a step of a stage takes in bf16: operations, kernels, weights, saved bytes."""
    model, objective, optimizer, _ = estimate.random_stage(stage, parameters)
    model.to(memory_format=torch.contiguous_format).train()
    batch = speed.batch_on(torch.device("cpu"), parameters | {"batch_size": PEOPLE}, IMAGE_SIZE)
    with Kernels() as kernels, torch.autocast("cpu", torch.bfloat16):
        with FlopCounterMode(display=False) as forward:
            loss = objective(model(batch["image"]), batch)
        with FlopCounterMode(display=False) as backward:
            loss.backward()
    optimizer.zero_grad()
    return {
        "forward": forward.get_total_flops() / PEOPLE,
        "backward": backward.get_total_flops() / PEOPLE,
        "kernels": kernels.count,
        "weights": sum(weight.numel() for weight in model.parameters()),
        "learning": sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        "saved, fp32": saved_for_one(model, batch["image"], bf16=False),
        "saved, bf16": saved_for_one(model, batch["image"], bf16=True),
    }


def saved_for_one(model: torch.nn.Module, images: torch.Tensor, bf16: bool) -> int:
    """Bytes that one person more keeps; the weights, cast once for all, are left out."""
    return saved_bytes(model, images[:2], bf16) - saved_bytes(model, images[:1], bf16)


def saved_bytes(model: torch.nn.Module, images: torch.Tensor, bf16: bool) -> int:
    """Bytes that a forward pass keeps for the backward pass, weights apart, each storage once."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage  # held, so that its address is not used again
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
    ):
        maps = model(images)
    del maps
    return sum(storage.nbytes() for storage in kept.values())


# ---- tables


def work_table() -> pd.DataFrame:
    """Operations of a person and kernels of a step, and what both would take on one H200."""
    rows = {}
    for stage, found in results.metrics_of("plan")["stages"].items():
        operations = found["forward"] + found["backward"]
        rows[stage] = {
            "forward, GFLOP": found["forward"] / 1e9,
            "backward, GFLOP": found["backward"] / 1e9,
            "people/s at 40 %": f"{SHARE * PEAK / operations:,.0f}",
            "kernels a step": f"{found['kernels']:,}",
            "a step of 8, arithmetic, ms": 1000 * PAPERS_BATCH * operations / (SHARE * PEAK),
            "a step, kernel starts, ms": 1000 * START * found["kernels"],
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def memory_table() -> pd.DataFrame:
    """GB that the joint stage holds on each GPU, by what it is and by people in the batch."""
    found = results.metrics_of("plan")["stages"]["joint"]
    people = np.array([8, 64])
    rows = {
        "weights, gradients, RMSprop's squares, fp32": [12 * found["weights"]] * 2,
        "weights once more in bf16, under autocast": [2 * found["weights"]] * 2,
        "kept for the backward pass, bf16": people * found["saved, bf16"],
        "kept for the backward pass, fp32": people * found["saved, fp32"],
    }
    columns = [f"{count} people" for count in people]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns) / 1e9


def exchange_table() -> pd.DataFrame:
    """What each GPU sends in a step of the joint stage, and people whose backward pass hides it."""
    found = results.metrics_of("plan")["stages"]["joint"]
    backward = found["backward"] / (SHARE * PEAK)
    rows = {}
    for link, (bandwidth, gpus) in LINKS.items():
        sent = 4 * found["learning"] * 2 * (gpus - 1) / gpus
        rows[link] = {
            "sent, MB": f"{sent / 1e6:.0f}",
            "time, ms": 1000 * sent / bandwidth,
            "people a GPU to hide it": f"{math.ceil(sent / bandwidth / backward)}",
        }
    return pd.DataFrame.from_dict(rows, orient="index")


if __name__ == "__main__":
    commands.run(main)
