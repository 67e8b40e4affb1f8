"""One row for each claim of docs/speed.md, beside what it is compared with, in the same run."""

import functools
import itertools
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from torch.utils.benchmark import Timer
from torch.utils.data import DataLoader, default_collate
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import references
from hpe_lib import evaluation, heatmaps, photographs, prediction, refusals, training
from hpe_lib.data.augment import Augmentation, PoseDataset
from hpe_lib.data.images import ImageFiles, read_image
from hpe_lib.data.people import People
from hpe_lib.paper import MARGIN, N_JOINTS
from hpe_lib.skeleton import VISIBLE
from hpe_lib.workbook import estimate, presets

JPEG = (cv2.IMWRITE_JPEG_QUALITY, 85, cv2.IMWRITE_JPEG_PROGRESSIVE)
BF16_PEAK = {  # dense FLOP/s
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
}


def table(count: int = 48, rounds: int = 7, preset: str = "synthetic") -> pd.DataFrame:
    """All rows: what, unit, ours, reference, against, ratio (times as fast), aim, met, note.

    count: people or images in a round. rounds: a figure is their median. preset: whose network
    trains. All images are made here.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = (
            small_images(folder, count, rounds),
            large_images(folder, count, rounds),
            targets(count, rounds),
            training_steps(rounds, preset),
            inference(folder, count, rounds, preset),
            scores(rounds),
            on_a_gpu(rounds),
        )
        return pd.DataFrame(itertools.chain.from_iterable(parts))


def claim(
    what: str,
    unit: str,
    seconds: tuple[float, float],
    against: str,
    ratio: float | None = None,
    limit: float | None = None,
    note: str = "",
) -> dict:
    """A row. seconds: ours and the reference's, for one sample ("samples/s") or in all ("ms").

    ratio: the aim, how many times as fast as the reference. limit: the aim of ours, the least of a
    rate, the most of a time.
    """
    rate = unit.endswith("/s")
    ours, reference = (1 / value if rate else 1000 * value for value in seconds)
    found = seconds[1] / seconds[0]
    aims = {}
    if ratio:
        aims[f"{ratio:.2g} times"] = found >= ratio
    if limit:
        aims[f"{'≥' if rate else '≤'} {limit:g} {unit}"] = (ours >= limit) == rate
    return {
        "what": what,
        "unit": unit,
        "ours": ours,
        "reference": reference,
        "against": against,
        "ratio": found,
        "aim": ", ".join(aims),
        "met": all(aims.values()) if aims else None,
        "note": note,
    }


def median_seconds(rounds: int, *actions: Callable, threads: int | None = None) -> list[float]:
    """Median seconds of each action. They take turns, so that other load is shared by all.

    threads: of PyTorch and OpenCV; None: as many as now.
    """
    threads = threads or torch.get_num_threads()
    timers = [
        Timer("action()", globals={"action": action}, num_threads=threads) for action in actions
    ]
    before = cv2.getNumThreads()
    cv2.setNumThreads(threads)
    try:
        turns = [[timer.timeit(1).mean for timer in timers] for _ in range(rounds)]
    finally:
        cv2.setNumThreads(before)
    return np.median(turns, axis=0).tolist()


def people_on_files(folder: Path, count: int, width: int, height: int, sides: np.ndarray) -> People:
    """People in the middle of JPEGs, noise on a smooth image, with as many bytes as real ones.

    These are 0.2 a pixel (LSPET's mean), 0.1 from 500 px on (the few photographs of MPII at hand).
    sides: (count,) of their frames, px. From 500 px on every other image is progressive, as many
    of MPII's are.
    """
    folder.mkdir()
    random = np.random.default_rng(0)
    large = width > 500
    paths = [folder / f"{number}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        image = np.zeros((height, width, 3), np.uint8)
        for most, size in ((256, (9, 12)), (8 if large else 20, (height // 2, width // 2))):
            noise = random.integers(0, most, (*size, 3), np.uint8)
            enlarged = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
            image = cv2.add(image, enlarged)
        cv2.imwrite(str(path), image, [*JPEG, int(large and number % 2)])
    middle = np.full((count, 2), ((width - 1) / 2, (height - 1) / 2))
    offsets = random.uniform(-0.4, 0.4, (count, N_JOINTS, 2))
    return People(
        dataset="bench",
        keys=np.array([path.name for path in paths]),
        joints=middle[:, None] + sides[:, None, None] * offsets,
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
    """An action: an epoch of a loader's worker, every augmented 256 px sample once."""
    data = PoseDataset(people, 256, Augmentation())
    epochs = itertools.count()

    def one_epoch():
        epoch = next(epochs)
        for row in range(len(data)):
            data[row, epoch]

    return one_epoch


def augmented(people: People) -> list[tuple]:
    """(path, frame, joints (16, 2) crop px) of everybody, for the references."""
    draw = Augmentation()
    frames = [
        draw(frame, np.random.default_rng(row)) for row, frame in enumerate(people.frames(256))
    ]
    return [
        (str(path), frame, frame.to_crop(joints))
        for path, frame, joints in zip(people.images.paths, frames, people.joints)
    ]


def small_images(folder: Path, count: int, rounds: int) -> Iterator[dict]:
    """Samples of images of LSPET's median size and frame."""
    people = people_on_files(folder / "small", count, 238, 252, np.full(count, 187.5))
    rows = augmented(people)
    what = "samples of 238 × 252 px"
    ours, least, common = median_seconds(
        rounds,
        samples(people),
        lambda: [references.decode_and_warp(path, frame) for path, frame, _ in rows],
        lambda: [references.common_sample(*row) for row in rows],
        threads=1,
    )
    each = ours / count
    yield claim(what, "samples/s", (each, least / count), "decode + warp", 1 / 1.3, 1300)
    yield claim(what, "samples/s", (each, common / count), "common dataset class")


def large_images(folder: Path, count: int, rounds: int) -> Iterator[dict]:
    """Samples of photographs of MPII's size, with its people's sizes (median 690 px)."""
    sides = np.exp(np.random.default_rng(1).normal(np.log(690), 0.55, count)).clip(250, 1700)
    people = people_on_files(folder / "large", count, 1280, 720, sides)
    rows = augmented(people)
    ours, common = median_seconds(
        rounds,
        samples(people),
        lambda: [references.common_sample(*row) for row in rows],
        threads=1,
    )
    seconds = ours / count, common / count
    yield claim("samples of 1280 × 720 px", "samples/s", seconds, "common dataset class", 1.5)


def targets(count: int, rounds: int) -> Iterator[dict]:
    """Targets of 64 cells for a batch."""
    points = torch.rand((count, N_JOINTS, 2)) * 63
    present = torch.ones((count, N_JOINTS)).bool()
    people = list(points.double().numpy())
    sigma = torch.full((count,), 2.0)
    for draw, extent in ((heatmaps.gaussians, sigma), (heatmaps.discs, 2 * sigma)):
        disc = draw is heatmaps.discs

        def pasted(disc=disc):
            return np.stack([references.pasted_targets(one, 64, 2.0, disc) for one in people])

        ours = functools.partial(draw, points, present, 64, extent)
        seconds = median_seconds(3 * rounds, ours, pasted, threads=1)
        what = f"{draw.__name__} of {count} people"
        yield claim(what, "ms", seconds, "a patch of 6 sigma a joint", 4)


def joint_stage(preset: str) -> tuple[int, dict]:
    """(image_size, the parameters of its joint stage) of a preset."""
    found = presets.resolve(preset)
    return found["01"]["image_size"], presets.stage_parameters(found)["joint"]


def batch_on(device: torch.device, parameters: dict, image_size: int) -> dict:
    """A batch of a stage's size on the device."""
    batch = default_collate(estimate.noise_people(parameters["batch_size"], image_size))
    return {name: value.to(device) for name, value in batch.items()}


def training_steps(rounds: int, preset: str) -> Iterator[dict]:
    """What `fit` adds to the network's own work, and what bf16 and compiling change."""
    steps = 4
    image_size, parameters = joint_stage(preset)
    accelerator = training.make_accelerator()
    batch = batch_on(accelerator.device, parameters, image_size)
    model, objective, *rest = estimate.random_stage("joint", parameters)
    loader = DataLoader(
        estimate.Repeated([batch] * steps),
        batch_sampler=training.ShuffledBatches(steps, 1, seed=0),
        collate_fn=lambda batches: batches[0],
    )
    fit = training.fit(model, objective, loader, *rest, 10**6, accelerator)
    alone, *rest, _ = estimate.random_stage("joint", parameters)
    given = alone.to(accelerator.device).train(), *rest, batch

    def row(what, ours, against, ratio=None, note=""):
        seconds = median_seconds(rounds, ours, lambda: references.plain_steps(*given, steps))
        return claim(what, "ms", [value / steps for value in seconds], against, ratio, None, note)

    in_bf16 = functools.partial(references.plain_steps, *given, steps, bf16=True)
    plain = "forward, loss, backward, optimiser"
    yield row(f"training step, {preset}", lambda: next(fit), plain, 1 / 1.05)
    yield row("that network's step in bf16", in_bf16, "in float32")
    if shutil.which(refusals.COMPILER):
        faster = (torch.compile(given[0]), *given[1:])
        start = time.perf_counter()
        references.plain_steps(*faster, 1)
        note = f"its first step takes {time.perf_counter() - start:.0f} s"
        compiled = functools.partial(references.plain_steps, *faster, steps)
        yield row("that network's step, compiled", compiled, "as it is", note=note)


def inference(folder: Path, count: int, rounds: int, preset: str) -> Iterator[dict]:
    """The flip test, decoding, and photographs that are read while the network works."""
    image_size, parameters = joint_stage(preset)
    device = training.make_accelerator().device
    model = estimate.random_stage("joint", parameters)[0].eval().to(device)
    images = torch.randint(0, 256, (16, image_size, image_size, 3), dtype=torch.uint8).to(device)
    seconds = median_seconds(
        rounds,
        lambda: prediction.forward(model, images),
        lambda: [prediction.forward(model, part, False) for part in (images, images.flip(2))],
    )
    yield claim("flip test of 16 people", "ms", seconds, "two passes")
    maps = torch.rand((16, N_JOINTS, 64, 64)).to(device)
    seconds = median_seconds(
        3 * rounds,
        lambda: [found.cpu() for found in heatmaps.decode(maps, "quarter")],
        lambda: references.decode_by_map(maps.cpu().numpy()),
    )
    yield claim("decoding of 16 people", "ms", seconds, "map by map")
    estimator = photographs.PoseEstimator(model, image_size)
    paths = people_on_files(folder / "whole", count, 1280, 720, np.full(count, 720.0)).images.paths

    def one_after_the_other():
        pixels = [read_image(path) for path in paths]
        frames = [photographs.box_frames(None, image.shape, image_size)[0] for image in pixels]
        crops = [frame.crop(image) for frame, image in zip(frames, pixels)]
        estimator.predict_people(crops, frames)

    seconds = median_seconds(
        rounds,
        lambda: list(photographs.predict_photographs(estimator, paths)),
        one_after_the_other,
    )
    yield claim(f"{count} photographs of 1280 × 720 px", "ms", seconds, "reading, then the network")


def scores(rounds: int) -> Iterator[dict]:
    """All scores and the interval, of as many people as MPII's validation set has."""
    people = 2958
    random = np.random.default_rng(0)
    joints = random.uniform(0, 500, (people, N_JOINTS, 2))
    visibility = random.integers(0, 3, (people, N_JOINTS))
    joints[visibility == 0] = np.nan
    sizes = random.uniform(30, 90, people)
    truth = People(
        dataset="drawn",
        keys=np.arange(people),
        joints=joints,
        visibility=visibility,
        normaliser=sizes,
        metric="PCKh@0.5",
        occlusion_labels=True,
    )
    predicted = joints + random.normal(0, 20, joints.shape)

    def resample():
        ratio, counts = evaluation.errors(predicted, truth)
        for _ in range(evaluation.RESAMPLES):
            rows = random.integers(0, people, people)
            evaluation.share(ratio[rows] <= 0.5, counts[rows])

    def ours():
        return evaluation.score(predicted, truth), evaluation.conventions(predicted, truth)

    seconds = median_seconds(rounds, ours, resample)
    what = f"all scores of {people} people"
    yield claim(what, "ms", seconds, "the resamples alone, in a loop", limit=500)


def on_a_gpu(rounds: int) -> Iterator[dict]:
    """The ResNet-152 cascade's stages in bf16, beside the plain loop in float32, on a GPU."""
    if not torch.cuda.is_available():
        return
    steps = 10
    training.set_deterministic(False)  # for both sides: the fastest convolutions are looked for
    resolved = presets.stage_parameters(presets.resolve("paper-res"))
    name = torch.cuda.get_device_name()
    peak = next((value for part, value in BF16_PEAK.items() if part in name), None)
    for stage, declared in resolved.items():
        parameters = declared | {"precision": "bf16"}
        ours = estimate.training_step(stage, parameters, 256, steps)
        size = parameters["batch_size"]
        model, *rest, _ = estimate.random_stage(stage, parameters)
        model.to("cuda", memory_format=torch.contiguous_format).train()
        given = model, *rest, batch_on(torch.device("cuda"), parameters, 256)
        torch.backends.cudnn.benchmark = True  # as in `training.fit`
        with FlopCounterMode(display=False) as counter:
            references.plain_steps(*given, 1)
        plain = median_seconds(rounds, functools.partial(references.plain_steps, *given, steps))
        torch.backends.cudnn.benchmark = False
        flops = counter.get_total_flops() / ours["seconds"]
        share = f"{flops / peak:.0%} of {name}'s peak" if peak else f"{flops / 1e12:.0f} TFLOP/s"
        yield claim(
            f"ResNet-152, {stage}",
            "samples/s",
            (ours["seconds"] / size, plain[0] / steps / size),
            "float32 (convolutions TF32), eager",
            4,
            note=f"{share}, {ours['memory_mb'] / 1024:.1f} GiB",
        )
        del model, rest, given  # or the next stage's memory would hold them
