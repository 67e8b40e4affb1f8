"""Measured on the device at hand: the claims of speed, and what a step of training, and so a preset, would take."""

import contextlib
import itertools
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
import torchvision
from torch.utils.data import DataLoader, default_collate
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from hpe_lib import cascade, evaluation, heatmaps, prediction, training
from hpe_lib.cascade import Cascade
from hpe_lib.data.augment import Augmentation, PoseDataset
from hpe_lib.data.datasets import load_people
from hpe_lib.data.images import ImageFiles, read_image
from hpe_lib.data.people import SPLIT_SIZES, People
from hpe_lib.paper import MARGIN, N_JOINTS
from hpe_lib.skeleton import VISIBLE
from hpe_lib.training import NOTEBOOKS
from hpe_lib.trunks import IMAGENET_DEVIATION, IMAGENET_MEAN
from hpe_lib.workbook import artifacts, presets
from hpe_lib.workbook.artifacts import BadInput


def crops(count: int, image_size: int, seed: int = 0) -> list[dict]:
    """Items as PoseDataset gives them, of noise: what a step costs does not depend on what is to be seen."""
    random = torch.Generator().manual_seed(seed)
    return [
        {
            "image": torch.randint(
                0, 256, (image_size, image_size, 3), generator=random, dtype=torch.uint8
            ),
            "joints": torch.rand((N_JOINTS, 2), generator=random) * (image_size - 1),
            "visibility": torch.full((N_JOINTS,), VISIBLE),
            "body": torch.tensor(0.8 * image_size),
            "row": row,
        }
        for row in range(count)
    ]


class Noise(list):
    """Items that are the same in every epoch."""

    def __getitem__(self, item: tuple[int, int]) -> dict:
        row, _ = item
        return super().__getitem__(row)


def training_step(stage: str, parameters: dict, image_size: int, steps: int = 1) -> dict:
    """An optimiser step of a stage at its printed size, the mean of some made by the same `fit` after as many that warm
    up.

    parameters: as training.Recipe has them, those of the earlier stages included; weights are random. On a CPU at most
    two people make the step, and the rest is extrapolated. Returns seconds a step and peak memory_mb, both for
    batch_size people, measured_batch and the loss of the step.
    """
    accelerator = training.accelerated(parameters["precision"])
    batch = (
        parameters["batch_size"]
        if accelerator.device.type == "cuda"
        else min(2, parameters["batch_size"])
    )
    model, objective, optimizer, scheduler = beginning(stage, parameters)
    order = training.ShuffledBatches(batch * steps, batch, seed=0)
    loader = DataLoader(Noise(crops(batch * steps, image_size)), batch_sampler=order)
    before = start_memory(accelerator.device)
    *_, record = training.fit(
        model,
        objective,
        loader,
        optimizer,
        scheduler,
        2,
        accelerator,
        compiled=parameters.get("compiled", False),
    )
    more, grown = parameters["batch_size"] / batch, peak_memory(accelerator.device) - before
    return {
        "seconds": record["seconds"] / steps * more,
        "memory_mb": before + grown * more,
        "measured_batch": batch,
        "loss": record["loss"],
    }


def beginning(stage: str, parameters: dict) -> tuple:
    """(model, objective, optimizer, scheduler) of a stage as `fit` takes them; weights are random and hardly move."""
    torch.manual_seed(0)
    names = training.DETECTOR if stage == "detector" else training.NETWORK
    model = Cascade({name: parameters[name] for name in names if name in parameters})
    model.laid_out().freeze_detector(stage == "regressor")
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = training.make_optimizer(
        parameters["optimizer"], learning, 1e-9, parameters["weight_decay"]
    )
    targets = training.Targets(
        **{name: parameters[name] for name in training.TARGETS if name in parameters}
    )
    return (
        model,
        lambda maps, batch: training.OBJECTIVES[stage](maps, batch, targets),
        optimizer,
        torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0),
    )


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


def rehearse(parameters: dict[str, dict]) -> Iterator[str]:
    """Lines that say what a run of these parameters (presets.resolve) needs and would take here; nothing is written.

    People found or not, weights to start from found or not; then for each stage optimiser steps, hours and memory, from
    one measured step. The people counted are those of the folder, or those that the split is said to have.
    """
    people, lines = found_people(parameters["01"])
    yield from lines + starts(parameters)
    stage_parameters, total = {}, 0.0
    for stage, notebook in NOTEBOOKS.items():
        stage_parameters |= parameters["02"] | parameters[notebook]
        steps = stage_parameters["epochs"] * max(1, people // stage_parameters["batch_size"])
        if not steps:
            yield f"{stage}: 0 epochs, weights taken over"
            continue
        step = training_step(stage, stage_parameters, parameters["01"]["image_size"])
        total += steps * step["seconds"]
        yield (
            f"{stage}: {steps} steps of {stage_parameters['batch_size']} people, {step['seconds']:.2f} s each: "
            f"{duration(steps * step['seconds'])}; {step['memory_mb'] / 1024:.1f} GiB of memory "
            f"(measured with {step['measured_batch']} people)"
        )
    yield f"all stages: {duration(total)} on this device, without scoring"


def duration(seconds: float) -> str:
    """Hours, or minutes if there is less than one."""
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"


def found_people(parameters: dict) -> tuple[int, list[str]]:
    """(people to train on, what was found of train and val). Images are looked for, not read."""
    counts, lines = {}, []
    for part in ("train", "val"):
        split, asked = presets.person_range(parameters[part])
        size = (
            asked.stop - asked.start
            if asked.stop
            else SPLIT_SIZES.get((parameters["dataset"], split))
        )
        try:
            if parameters["dataset"] != "synthetic":
                if not parameters["data_root"]:
                    raise BadInput("data_root", "nothing", f"the folder of {parameters['dataset']}")
                size = len(
                    load_people(
                        parameters["dataset"],
                        parameters["data_root"],
                        parameters[part],
                        only_present=parameters["only_present"],
                    )
                )
            lines.append(f"{part}: {size} people of {parameters['dataset']}, {parameters[part]}")
        except BadInput as error:
            lines.append(f"{part}: NOT FOUND: {error}; as published {size or 'unknown'} people")
        counts[part] = size
    return counts["train"] or 0, lines


def starts(parameters: dict[str, dict]) -> list[str]:
    """What is there of the weights that the stages start from."""
    lines = []
    for stage, notebook in NOTEBOOKS.items():
        if folder := parameters[notebook].get("init_from"):
            try:
                lines.append(f"{stage}: starts from {cascade.stage_folder(folder)}")
            except BadInput as error:
                lines.append(f"{stage}: NOT FOUND: {error}")
    trunk, pretrained = parameters["03"]["trunk"], parameters["03"]["pretrained"]
    if (
        pretrained
        and not parameters["03"]["init_from"]
        and trunk in torchvision.models.list_models()
    ):
        url = torchvision.models.get_model_weights(trunk).IMAGENET1K_V1.url
        file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
        lines.append(
            f"ImageNet weights: {'found' if file.is_file() else 'to be fetched from ' + url}"
        )
    return lines


# ---- `hpe bench`: a row a claim, beside what it is claimed against, measured in turn in the same run


def table(count: int = 48, rounds: int = 7, preset: str = "synthetic") -> pd.DataFrame:
    """All claims, a row each: what, unit, ours, reference, against, ratio (how many times as fast), aim, met, note.

    count: people or images in a round.  rounds: a figure is their median.  preset: whose network trains.
    Nothing is read that is not made here first.
    """
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            row
            for part in tqdm(ROWS, desc="measuring", disable=None, leave=False)
            for row in part(Path(folder), count, rounds, preset)
        ]
    return pd.DataFrame(rows)


def claim(
    what: str,
    unit: str,
    seconds: tuple[float, float],
    against: str,
    ratio: float | None = None,
    limit: float | None = None,
    note: str = "",
) -> dict:
    """A row. seconds: ours and the reference's, for one of what `unit` counts ("samples/s") or in all ("ms").

    ratio: the aim, how many times as fast as the reference.  limit: the aim of ours, least of a rate, most of a time.
    """
    rate = unit.endswith("/s")
    ours, reference = (1 / value if rate else 1000 * value for value in seconds)
    found, aims = seconds[1] / seconds[0], []
    if ratio:
        aims.append((f"{ratio:.2g} times", found >= ratio))
    if limit:
        aims.append(
            (f"{'≥' if rate else '≤'} {limit:g} {unit}", ours >= limit if rate else ours <= limit)
        )
    return {
        "what": what,
        "unit": unit,
        "ours": ours,
        "reference": reference,
        "against": against,
        "ratio": found,
        "aim": ", ".join(text for text, _ in aims),
        "met": all(met for _, met in aims) if aims else None,
        "note": note,
    }


def in_turn(rounds: int, *actions: Callable) -> tuple[float, ...]:
    """Median seconds of each action; they take turns, so that what else the machine does strikes all alike."""
    found = []
    for _ in range(rounds + 1):
        found.append([])
        for action in actions:
            start = time.perf_counter()
            action()
            found[-1].append(time.perf_counter() - start)
    return tuple(statistics.median(column) for column in zip(*found[1:]))  # the first warms up


@contextlib.contextmanager
def one_core():
    """As a DataLoader's worker computes."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def people_on_files(folder: Path, count: int, width: int, height: int, sides: np.ndarray) -> People:
    """People in the middle of JPEGs of noise over something smooth, with as many bytes a pixel as real ones of their
    size: 0.2 (LSPET's mean), 0.1 from 500 px on (that of the few photographs of MPII at hand).

    sides: (count,) of their frames, px. Every other image of 500 px and more is progressive, as many of MPII's are.
    """
    folder.mkdir()
    random, paths = np.random.default_rng(0), [folder / f"{number}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        smooth, rough = (
            cv2.resize(
                random.integers(0, most, (*size, 3), np.uint8),
                (width, height),
                interpolation=cv2.INTER_CUBIC,
            )
            for most, size in (
                (256, (9, 12)),
                (8 if width > 500 else 20, (height // 2, width // 2)),
            )
        )
        cv2.imwrite(
            str(path),
            cv2.add(smooth, rough),
            [
                cv2.IMWRITE_JPEG_QUALITY,
                85,
                cv2.IMWRITE_JPEG_PROGRESSIVE,
                number % 2 if width > 500 else 0,
            ],
        )
    middle = np.full((count, 2), ((width - 1) / 2, (height - 1) / 2))
    joints = middle[:, None] + sides[:, None, None] * random.uniform(
        -0.4, 0.4, (count, N_JOINTS, 2)
    )
    return People(
        dataset="bench",
        keys=np.array([path.name for path in paths]),
        joints=joints,
        visibility=np.full((count, N_JOINTS), VISIBLE, np.int8),
        normaliser=sides / 10,
        metric="PCKh@0.5",
        occlusion_labels=True,
        images=ImageFiles(paths, "bench images"),
        center=middle,
        side=sides,
        body=sides / MARGIN,
    )


def samples(people: People) -> Callable:
    """What a worker does in an epoch, as an action: every augmented 256-px sample once."""
    data, epochs = PoseDataset(people, 256, Augmentation()), itertools.count()

    def one_epoch():
        epoch = next(epochs)
        for row in range(len(data)):
            data[row, epoch]

    return one_epoch


def augmented(people: People) -> list:
    """(path, frame, joints in the crop) of everybody, for the references."""
    draw = Augmentation()
    frames = [
        draw(frame, np.random.default_rng(row)) for row, frame in enumerate(people.frames(256))
    ]
    return [
        (str(path), frame, frame.to_crop(joints))
        for path, frame, joints in zip(people.images.paths, frames, people.joints)
    ]


def floor(path: str, frame, _) -> np.ndarray:
    """What no sample can do without: decoding and one warp."""
    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    return cv2.warpAffine(image, frame.matrix, (256, 256))


def naive(path: str, frame, joints: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """A sample as dataset classes commonly make it: all in floats and on the CPU, targets of 64 cells included."""
    image = cv2.warpAffine(
        cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB), frame.matrix, (256, 256)
    )
    image = torch.from_numpy(image).permute(2, 0, 1).contiguous().float().div(255)
    image = image.sub(torch.tensor(IMAGENET_MEAN)[:, None, None]).div(
        torch.tensor(IMAGENET_DEVIATION)[:, None, None]
    )
    return image, torch.from_numpy(stamped(joints / 4, 64, 2.0))


def stamped(points: np.ndarray, size: int, sigma: float, disc: bool = False) -> np.ndarray:
    """(J, size, size) targets as commonly drawn: joint by joint, a patch of 6 sigma pasted about the nearest cell."""
    maps, reach = np.zeros((len(points), size, size), np.float32), int(3 * sigma)
    for joint, (x, y) in enumerate((points + 0.5).astype(int)):
        left, top, right, bottom = x - reach, y - reach, x + reach + 1, y + reach + 1
        if left >= size or top >= size or right <= 0 or bottom <= 0:
            continue
        cells = np.arange(2 * reach + 1, dtype=np.float32) - reach
        squares = cells**2 + cells[:, None] ** 2
        patch = squares <= (2 * sigma) ** 2 if disc else np.exp(-squares / (2 * sigma**2))
        maps[joint, max(top, 0) : bottom, max(left, 0) : right] = patch[
            max(-top, 0) : size - top, max(-left, 0) : size - left
        ]
    return maps


def small_images(folder, count, rounds, _):
    """Samples of images of LSPET's median size and window."""
    people = people_on_files(folder / "small", count, 238, 252, np.full(count, 187.5))
    rows = augmented(people)
    with one_core():
        ours, bare, common = in_turn(
            rounds,
            samples(people),
            lambda: [floor(*row) for row in rows],
            lambda: [naive(*row) for row in rows],
        )
    yield claim(
        "samples of 238 × 252 px",
        "samples/s",
        (ours / count, bare / count),
        "decode + warp",
        1 / 1.3,
        1300,
    )
    yield claim(
        "samples of 238 × 252 px",
        "samples/s",
        (ours / count, common / count),
        "common dataset class",
    )


def photographs(folder, count, rounds, _):
    """Samples of photographs of MPII's size, its people's sizes (median 690 px)."""
    sides = np.exp(np.random.default_rng(1).normal(np.log(690), 0.55, count)).clip(250, 1700)
    people = people_on_files(folder / "large", count, 1280, 720, sides)
    rows = augmented(people)
    with one_core():
        ours, common = in_turn(rounds, samples(people), lambda: [naive(*row) for row in rows])
    yield claim(
        "samples of 1280 × 720 px",
        "samples/s",
        (ours / count, common / count),
        "common dataset class",
        1.5,
    )


def targets(folder, count, rounds, _):
    """Targets of 64 cells for a batch."""
    points, present = (
        torch.rand((count, N_JOINTS, 2)) * 63,
        torch.ones((count, N_JOINTS), dtype=torch.bool),
    )
    people, sigma = list(points.double().numpy()), torch.full((count,), 2.0)
    with one_core():
        for draw, extent in ((heatmaps.gaussians, sigma), (heatmaps.discs, 2 * sigma)):
            seconds = in_turn(
                3 * rounds,
                lambda draw=draw, extent=extent: draw(points, present, 64, extent),
                lambda disc=draw is heatmaps.discs: np.stack(
                    [stamped(each, 64, 2.0, disc) for each in people]
                ),
            )
            yield claim(
                f"{draw.__name__} of {count} people", "ms", seconds, "a patch of 6 sigma a joint", 4
            )


def bare(
    model: Cascade, objective: Callable, optimizer, batch: dict, steps: int, bf16: bool = False
) -> None:
    """Forward, loss, backward and optimiser step of a resident batch, again and again."""
    for _ in range(steps):
        with torch.autocast(batch["image"].device.type, torch.bfloat16, enabled=bf16):
            loss = objective(model(batch["image"]), batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    loss.item()  # waits for a GPU


def of_preset(preset: str) -> tuple[int, dict]:
    """(image_size, the parameters of its joint stage)."""
    found = presets.resolve(preset)
    return found["01"]["image_size"], found["02"] | found["03"] | found["04"] | found["05"]


def resident(parameters: dict, image_size: int, device: torch.device) -> dict:
    """A batch of a stage's size on the device."""
    batch = default_collate(crops(parameters["batch_size"], image_size))
    return {name: value.to(device) for name, value in batch.items()}


def training_steps(folder, count, rounds, preset, steps=4):
    """What `fit` adds to the network's own work, and what bf16 and compiling do to that."""
    image_size, parameters = of_preset(preset)
    accelerator = training.accelerated()
    batch = resident(parameters, image_size, accelerator.device)
    model, objective, *rest = beginning("joint", parameters)
    loader = DataLoader(
        Noise([batch] * steps),
        batch_sampler=training.ShuffledBatches(steps, 1, seed=0),
        collate_fn=lambda batches: batches[0],
    )
    fit = training.fit(model, objective, loader, *rest, 10**6, accelerator)
    alone, *rest, _ = beginning("joint", parameters)
    given = alone.to(accelerator.device).train(), *rest, batch, steps
    for what, ours, against, ratio in (
        (
            f"training step, {preset}",
            lambda: next(fit),
            "forward, loss, backward, optimiser",
            1 / 1.05,
        ),
        ("that network's step in bf16", lambda: bare(*given, bf16=True), "in float32", None),
    ):
        seconds = in_turn(rounds, ours, lambda: bare(*given))
        yield claim(what, "ms", [value / steps for value in seconds], against, ratio)
    if shutil.which(training.COMPILER):
        faster, start = (torch.compile(given[0]), *given[1:-1]), time.perf_counter()
        bare(*faster, 1)
        begun = time.perf_counter() - start
        seconds = in_turn(rounds, lambda: bare(*faster, steps), lambda: bare(*given))
        yield claim(
            "that network's step, compiled",
            "ms",
            [value / steps for value in seconds],
            "as it is",
            note=f"its first step takes {begun:.0f} s",
        )


def peaks(maps: np.ndarray) -> np.ndarray:
    """(B, J, 2) map px as commonly decoded: map by map, a quarter cell from the peak to the higher neighbour."""
    found = np.zeros((*maps.shape[:2], 2))
    for person, joint in np.ndindex(maps.shape[:2]):
        heat = maps[person, joint]
        y, x = np.unravel_index(heat.argmax(), heat.shape)
        found[person, joint] = x, y
        if 0 < x < heat.shape[1] - 1 and 0 < y < heat.shape[0] - 1:
            steps = heat[y, x + 1] - heat[y, x - 1], heat[y + 1, x] - heat[y - 1, x]
            found[person, joint] += 0.25 * np.sign(steps)
    return found


def inference(folder, count, rounds, preset):
    """The flip test, decoding, and photographs that are read while the network works."""
    image_size, parameters = of_preset(preset)
    device = training.accelerated().device
    model = beginning("joint", parameters)[0].eval().to(device)
    images = torch.randint(0, 256, (16, image_size, image_size, 3), dtype=torch.uint8).to(device)
    seconds = in_turn(
        rounds,
        lambda: prediction.forward(model, images),
        lambda: [prediction.forward(model, part, False) for part in (images, images.flip(2))],
    )
    yield claim("flip test of 16 people", "ms", seconds, "two passes")
    maps = torch.rand((16, N_JOINTS, 64, 64)).to(device)
    seconds = in_turn(
        3 * rounds,
        lambda: [found.cpu() for found in heatmaps.decode(maps, "quarter")],
        lambda: peaks(maps.cpu().numpy()),
    )
    yield claim("decoding of 16 people", "ms", seconds, "map by map")
    estimator = prediction.PoseEstimator(model, image_size)
    paths = people_on_files(folder / "whole", count, 1280, 720, np.full(count, 720.0)).images.paths

    def one_after_the_other():
        pixels = [read_image(path) for path in paths]
        frames = [prediction.windows(None, image.shape, image_size)[0] for image in pixels]
        estimator.people([frame.crop(image) for frame, image in zip(frames, pixels)], frames)

    seconds = in_turn(
        rounds, lambda: list(prediction.photographs(estimator, paths)), one_after_the_other
    )
    yield claim(f"{count} photographs of 1280 × 720 px", "ms", seconds, "reading, then the network")


def scores(folder, count, rounds, _, people=2958):
    """Scores of as many people as MPII's validation set has, all conventions and the interval."""
    random = np.random.default_rng(0)
    joints, seen = (
        random.uniform(0, 500, (people, N_JOINTS, 2)),
        random.integers(0, 3, (people, N_JOINTS)),
    )
    joints[seen == 0] = np.nan
    truth = People(
        dataset="drawn",
        keys=np.arange(people),
        joints=joints,
        visibility=seen,
        normaliser=random.uniform(30, 90, people),
        metric="PCKh@0.5",
        occlusion_labels=True,
    )
    predicted = joints + random.normal(0, 20, joints.shape)

    def loop():
        ratio, counts = evaluation.errors(predicted, truth)
        for _ in range(evaluation.RESAMPLES):
            rows = random.integers(0, people, people)
            evaluation.share(ratio[rows] <= 0.5, counts[rows])

    seconds = in_turn(
        rounds,
        lambda: (evaluation.score(predicted, truth), evaluation.conventions(predicted, truth)),
        loop,
    )
    yield claim(
        f"all scores of {people} people", "ms", seconds, "the resamples alone, in a loop", limit=500
    )


BF16_PEAK = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
}  # dense FLOP/s


def on_a_gpu(folder, count, rounds, _, steps=10):
    """The ResNet-152 cascade's stages in bf16, where there is a GPU, beside the plain loop in float32."""
    if not torch.cuda.is_available():
        return
    training.deterministic(False)  # for both sides: the fastest convolutions are looked for
    resolved, parameters = presets.resolve("paper-res"), {}
    name = torch.cuda.get_device_name()
    peak = next((value for part, value in BF16_PEAK.items() if part in name), float("nan"))
    for stage, notebook in NOTEBOOKS.items():
        parameters |= resolved["02"] | resolved[notebook] | {"precision": "bf16"}
        ours, size = training_step(stage, parameters, 256, steps), parameters["batch_size"]
        model, *rest, _ = beginning(stage, parameters)
        model.to("cuda", memory_format=torch.contiguous_format).train()
        given = model, *rest, resident(parameters, 256, torch.device("cuda"))
        with FlopCounterMode(display=False) as counter:
            bare(*given, 1)
        (plain,) = in_turn(rounds, lambda given=given: bare(*given, steps))
        share = counter.get_total_flops() / ours["seconds"] / peak
        yield claim(
            f"ResNet-152, {stage}",
            "samples/s",
            (ours["seconds"] / size, plain / steps / size),
            "float32 (convolutions TF32), eager",
            4,
            note=f"{share:.0%} of {name}'s peak, {ours['memory_mb'] / 1024:.1f} GiB",
        )


ROWS = (small_images, photographs, targets, training_steps, inference, scores, on_a_gpu)
