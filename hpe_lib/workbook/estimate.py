"""What a run would need here: people, weights, hours, memory (`hpe reproduce --dry-run`)."""

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
import torchvision
from torch.optim.lr_scheduler import ConstantLR, LRScheduler
from torch.utils.data import DataLoader

from hpe_lib import ablation, cascade, refusals, stages, training, trunks
from hpe_lib.cascade import Cascade
from hpe_lib.data.datasets import check_drawn, load_people
from hpe_lib.data.drawn import drawn_numbers
from hpe_lib.data.people import SPLIT_SIZES
from hpe_lib.paper import N_JOINTS
from hpe_lib.skeleton import VISIBLE
from hpe_lib.targets import Targets
from hpe_lib.workbook import artifacts, environment, presets, schemas
from hpe_lib.workbook.artifacts import BadInput
from hpe_lib.workbook.groups import build


def noise_people(count: int, image_size: int) -> list[dict]:
    """Items as PoseDataset makes them, but of noise. A step costs the same, whatever is shown."""
    random = torch.Generator().manual_seed(0)
    shape = (image_size, image_size, 3)
    return [
        {
            "image": torch.randint(0, 256, shape, generator=random, dtype=torch.uint8),
            "joints": torch.rand((N_JOINTS, 2), generator=random) * (image_size - 1),
            "visibility": torch.full((N_JOINTS,), VISIBLE),
            "body": torch.tensor(0.8 * image_size),
            "row": row,
        }
        for row in range(count)
    ]


class Repeated(list):
    """A data set whose items are the same in every epoch."""

    def __getitem__(self, item: tuple[int, int]) -> dict:
        row, _ = item
        return super().__getitem__(row)


def training_step(stage: str, parameters: dict, image_size: int, steps: int = 1) -> dict:
    """Time and memory of an optimiser step: the mean of some, made by `fit` after a warm-up.

    parameters: those of the stage and the stages before. image_size: px. Weights are random.
    On a CPU at most two people make the step, and the rest is extrapolated.
    Returns seconds and peak memory_mb for batch_size people, measured_batch and loss.
    """
    accelerator = training.make_accelerator(parameters["precision"])
    size = parameters["batch_size"]
    batch = size if accelerator.device.type == "cuda" else min(2, size)
    model, objective, optimizer, scheduler = random_stage(stage, parameters)
    refusals.check_maps(model, image_size)
    people = Repeated(noise_people(batch * steps, image_size))
    sampler = training.ShuffledBatches(len(people), batch, seed=0)
    loader = DataLoader(people, batch_sampler=sampler)
    before = reset_peak_memory(accelerator.device)
    compiled = parameters.get("compiled", False)
    *_, record = training.fit(
        model, objective, loader, optimizer, scheduler, 2, accelerator, compiled=compiled
    )
    more = size / batch
    grown = peak_memory(accelerator.device) - before
    fixed = min(memory_of_weights(model, optimizer), grown)
    return {
        "seconds": record["seconds"] / steps * more,
        "memory_mb": before + fixed + (grown - fixed) * more,
        "measured_batch": batch,
        "loss": record["loss"],
    }


def random_stage(
    stage: str, parameters: dict
) -> tuple[Cascade, Callable, torch.optim.Optimizer, LRScheduler]:
    """Model, objective, optimizer and scheduler for `fit`; weights are random and hardly change."""
    torch.manual_seed(0)
    model = Cascade(cascade.network_parameters(parameters, regressor=stage != "detector"))
    model.freeze_blocks(parameters["frozen_blocks"])
    model.set_memory_format().freeze_detector(stage == "regressor")
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = training.make_optimizer(
        parameters["optimizer"], learning, 1e-9, parameters["weight_decay"]
    )
    objective = partial(stages.OBJECTIVES[stage], targets=build(Targets, parameters))
    return model, objective, optimizer, ConstantLR(optimizer, 1.0)


def memory_of_weights(model: Cascade, optimizer: torch.optim.Optimizer) -> float:
    """MiB of the gradients and the optimizer's state after a step, whatever the batch."""
    gradients = [weight for weight in model.parameters() if weight.requires_grad]
    kept = [value for state in optimizer.state.values() for value in state.values()]
    tensors = [value for value in kept if torch.is_tensor(value)]
    return sum(tensor.nbytes for tensor in gradients + tensors) / 2**20


def reset_peak_memory(device: torch.device) -> float:
    """Count peak memory from here on, where the system can. Returns MiB in use now."""
    with contextlib.suppress(OSError, AttributeError):  # what earlier stages have left, in glibc
        ctypes.CDLL(None).malloc_trim(0)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):  # Linux only: elsewhere the peak so far stays
            Path("/proc/self/clear_refs").write_text("5")
    return peak_memory(device)


def peak_memory(device: torch.device) -> float:
    """The most MiB in use since `reset_peak_memory`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return environment.peak_memory_mb() or 0.0


def rehearse(parameters: dict[str, dict]) -> Iterator[str]:
    """Lines about what a run of these parameters needs and would take here. Nothing is written.

    parameters: of presets.resolve. First come the people and the weights to start from, found or
    not; then optimiser steps, hours and memory of each stage, from one measured step; last the
    hours of notebook 06's rows at that pace. BadInput as `ablation.check_plan`.
    """
    of_stages = presets.stage_parameters(parameters)
    ablation.check_plan(parameters, parameters)
    people, lines = find_people(parameters["01"])
    yield from lines + find_weights(parameters)
    total = 0.0
    pace = {}
    for stage, own in of_stages.items():
        size = own["batch_size"]
        steps = own["epochs"] * max(1, people // size)
        if not steps:
            found = "weights taken over" if own["init_from"] else "made, not trained"
            yield f"{stage}: 0 epochs, {found}"
            continue
        step = training_step(stage, own, parameters["01"]["image_size"])
        pace[stage] = step["seconds"]
        if not people:
            each = f"{step['seconds']:.2f} s for each step of {size} people"
            yield f"{stage}: {own['epochs']} epochs of unknown length, {each}"
            continue
        seconds = steps * step["seconds"]
        total += seconds
        yield (
            f"{stage}: {steps} steps of {size} people, {step['seconds']:.2f} s each: "
            f"{duration(seconds)}; {step['memory_mb'] / 1024:.1f} GiB of memory "
            f"(measured with {step['measured_batch']} people)"
        )
    if people:
        yield f"all stages: {duration(total)} on this device, without scoring"
        yield rehearse_rows(parameters, people, pace)


def rehearse_rows(parameters: dict[str, dict], people: int, pace: dict[str, float]) -> str:
    """A line about notebook 06's rows, from the seconds of a step in each of the run's stages.

    A stage that the run itself does not train has no pace: the mean of the others is taken. VGG
    rows count like the others, and stages that rows share count for each.
    """
    of_stages = presets.stage_parameters(parameters)
    own = parameters["06"]
    in_order = [of_stages[stage] for stage in ablation.ALL]
    budget = ablation.row_budget(parameters)
    rows = ablation.table_rows({}, in_order)
    rows |= ablation.controls(budget, own["further"])
    seeds = {parameters["03"]["seed"], *own["seeds"]}
    usual_pace = sum(pace.values()) / max(1, len(pace))
    seconds = 0.0
    for trained, changes in rows.values():
        epochs = budget | changes
        for stage in trained:
            steps = max(1, people // of_stages[stage]["batch_size"])
            seconds += epochs[f"{stage}.epochs"] * steps * pace.get(stage, usual_pace)
    found = f"{len(rows)} rows, {len(seeds)} seed{'s' if len(seeds) > 1 else ''}"
    hours = duration(seconds * len(seeds))
    return f"notebook 06: {found}: {hours} at this pace, less what rows share"


def duration(seconds: float) -> str:
    """Hours, or minutes if there is less than one."""
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"


def find_people(parameters: dict) -> tuple[int, list[str]]:
    """(people to train on, lines about train and val). Images are looked for; only LSP's are read,
    as their middles are where people are.

    Where the data set is absent, the published number of people is taken. Of LSP and LSPET the
    run leaves out near-duplicates, which are counted here. BadInput as notebook 01 raises it on
    synthetic people.
    """
    counts = {}
    lines = []
    synthetic = parameters["dataset"] == "synthetic"
    check_drawn(parameters["dataset"], parameters.get("drawn", ""))
    for part in ("train", "val"):
        split, asked = schemas.person_range(parameters[part])
        published = SPLIT_SIZES.get((parameters["dataset"], split))
        size = asked.stop - asked.start if asked.stop else published
        if synthetic:
            size = len(drawn_numbers(parameters[part]))
        try:
            if not synthetic:
                size = count_people(parameters, parameters[part])
            lines.append(f"{part}: {size} people of {parameters['dataset']}, {parameters[part]}")
        except BadInput as error:
            lines.append(f"{part}: NOT FOUND: {error}; as published {size or 'unknown'} people")
        counts[part] = size
    if drawn := parameters.get("drawn"):
        rows = schemas.person_range(drawn)[1]
        lines.append(f"train: and {rows.stop - rows.start} synthetic people, {drawn}")
        if counts["train"] is not None:
            counts["train"] += rows.stop - rows.start
    return counts["train"] or 0, lines


def count_people(parameters: dict, people: str) -> int:
    """How many of these people the data set's folder holds. BadInput if it cannot be used."""
    name = parameters["dataset"]
    root = parameters["data_root"]
    if not root:
        raise BadInput("data_root", "nothing", f"the folder of {name}")
    return len(load_people(name, root, people, only_present=parameters["only_present"]))


def find_weights(parameters: dict[str, dict]) -> list[str]:
    """Lines about the weights that the stages start from, found or not."""
    lines = []
    for stage, notebook in artifacts.NOTEBOOKS.items():
        if folder := parameters[notebook].get("init_from"):
            try:
                lines.append(f"{stage}: starts from {cascade.stage_folder(folder)}")
            except BadInput as error:
                lines.append(f"{stage}: NOT FOUND: {error}")
    first = parameters["03"]
    if first["pretrained"] and not first["init_from"]:
        lines += find_imagenet_weights(first["trunk"])
    if first["pretrained"] and not parameters["06"]["vgg"].startswith("slim"):
        lines += [f"notebook 06: {line}" for line in find_imagenet_weights(parameters["06"]["vgg"])]
    return lines


def find_imagenet_weights(trunk: str) -> list[str]:
    """A line about a trunk's ImageNet weights, if they are torchvision's or a package's."""
    if trunk in trunks.LITES:
        try:
            trunks.packaged_weights(trunk)
        except BadInput as error:
            return [f"ImageNet weights: NOT FOUND: {error}"]
        return ["ImageNet weights: found"]
    if trunk not in torchvision.models.list_models():
        return []
    url = torchvision.models.get_model_weights(trunk).IMAGENET1K_V1.url
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    return [f"ImageNet weights: {'found' if file.is_file() else f'to be fetched from {url}'}"]
