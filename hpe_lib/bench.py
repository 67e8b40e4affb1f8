"""Measured on the device at hand: what a step of training takes, and so what a preset would."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
import torchvision
from accelerate import Accelerator
from torch.utils.data import DataLoader

from hpe_lib import artifacts, cascade, datasets, presets, training
from hpe_lib.artifacts import BadInput
from hpe_lib.cascade import Cascade
from hpe_lib.paper import N_JOINTS
from hpe_lib.skeleton import VISIBLE


def crops(count: int, image_size: int, seed: int = 0) -> list[dict]:
    """Items as PoseDataset gives them, of noise: what a step costs does not depend on what is to be seen."""
    random = torch.Generator().manual_seed(seed)
    return [{"image": torch.randint(0, 256, (image_size, image_size, 3), generator=random, dtype=torch.uint8),
             "joints": torch.rand((N_JOINTS, 2), generator=random) * (image_size - 1),
             "visibility": torch.full((N_JOINTS,), VISIBLE), "body": torch.tensor(0.8 * image_size), "row": row}
            for row in range(count)]


class Noise(list):
    """Items with the one attribute that `fit` sets."""

    epoch = 0


def training_step(stage: str, parameters: dict, image_size: int) -> dict:
    """One optimiser step of a stage at its printed size, by the same `fit`, after one that warms up.

    parameters: as training.Recipe has them, those of the earlier stages included; weights are random. On a CPU at most
    two people make the step, and the rest is extrapolated. Returns seconds a step and peak memory_mb, both for
    batch_size people, measured_batch and the loss of the step.
    """
    torch.manual_seed(0)
    accelerator = Accelerator(mixed_precision=parameters["precision"])
    batch = parameters["batch_size"] if accelerator.device.type == "cuda" else min(2, parameters["batch_size"])
    names = training.DETECTOR if stage == "detector" else training.NETWORK
    model = Cascade({name: parameters[name] for name in names if name in parameters})
    model.laid_out().freeze_detector(stage == "regressor")
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = training.make_optimizer(parameters["optimizer"], learning, 1e-9, parameters["weight_decay"])
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    targets = training.Targets(**{name: parameters[name] for name in training.TARGETS if name in parameters})
    loader = DataLoader(Noise(crops(batch, image_size)), batch)
    objective = training.OBJECTIVES[stage]
    before = start_memory(accelerator.device)
    *_, record = training.fit(model, lambda maps, batch: objective(maps, batch, targets), loader, optimizer, scheduler,
                              2, accelerator)
    more, grown = parameters["batch_size"] / batch, peak_memory(accelerator.device) - before
    return {"seconds": record["seconds"] * more, "memory_mb": before + grown * more, "measured_batch": batch,
            "loss": record["loss"]}


def start_memory(device: torch.device) -> float:
    """MiB in use now; from here on the peak is counted anew where the system can do that."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):  # Linux only: elsewhere the peak so far stays
            Path("/proc/self/clear_refs").write_text("5")
    return peak_memory(device)


def peak_memory(device: torch.device) -> float:
    """MiB in use at most since start_memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return artifacts.peak_memory_mb() or 0.0


STAGES = {"detector": "03", "regressor": "04", "joint": "05"}  # stage -> its notebook


def rehearse(parameters: dict[str, dict]) -> Iterator[str]:
    """Lines that say what a run of these parameters (presets.resolve) needs and would take here; nothing is written.

    People found or not, weights to start from found or not; then for each stage optimiser steps, hours and memory, from
    one measured step. The people counted are those of the folder, or those that the split is said to have.
    """
    people, lines = found_people(parameters["01"])
    yield from lines + starts(parameters)
    stage_parameters, total = {}, 0.0
    for stage, notebook in STAGES.items():
        stage_parameters |= parameters["02"] | parameters[notebook]
        steps = stage_parameters["epochs"] * max(1, people // stage_parameters["batch_size"])
        if not steps:
            yield f"{stage}: 0 epochs, weights taken over"
            continue
        step = training_step(stage, stage_parameters, parameters["01"]["image_size"])
        total += steps * step["seconds"]
        yield (f"{stage}: {steps} steps of {stage_parameters['batch_size']} people, {step['seconds']:.2f} s each: "
               f"{duration(steps * step['seconds'])}; {step['memory_mb'] / 1024:.1f} GiB of memory "
               f"(measured with {step['measured_batch']} people)")
    yield f"all stages: {duration(total)} on this device, without scoring"


def duration(seconds: float) -> str:
    """Hours, or minutes if there is less than one."""
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"


def found_people(parameters: dict) -> tuple[int, list[str]]:
    """(people to train on, what was found of train and val). Images are looked for, not read."""
    counts, lines = {}, []
    for part in ("train", "val"):
        split, asked = presets.person_range(parameters[part])
        size = asked.stop - asked.start if asked.stop else datasets.SPLIT_SIZES.get((parameters["dataset"], split))
        try:
            if parameters["dataset"] != "synthetic":
                if not parameters["data_root"]:
                    raise BadInput("data_root", "nothing", f"the folder of {parameters['dataset']}")
                size = len(datasets.load(parameters["dataset"], parameters["data_root"], parameters[part],
                                         only_present=parameters["only_present"]))
            lines.append(f"{part}: {size} people of {parameters['dataset']}, {parameters[part]}")
        except BadInput as error:
            lines.append(f"{part}: NOT FOUND: {error}; as published {size or 'unknown'} people")
        counts[part] = size
    return counts["train"] or 0, lines


def starts(parameters: dict[str, dict]) -> list[str]:
    """What is there of the weights that the stages start from."""
    lines = []
    for stage, notebook in STAGES.items():
        if folder := parameters[notebook].get("init_from"):
            try:
                lines.append(f"{stage}: starts from {cascade.stage_folder(folder)}")
            except BadInput as error:
                lines.append(f"{stage}: NOT FOUND: {error}")
    trunk, pretrained = parameters["03"]["trunk"], parameters["03"]["pretrained"]
    if pretrained and not parameters["03"]["init_from"] and trunk in torchvision.models.list_models():
        url = torchvision.models.get_model_weights(trunk).IMAGENET1K_V1.url
        file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
        lines.append(f"ImageNet weights: {'found' if file.is_file() else 'to be fetched from ' + url}")
    return lines
