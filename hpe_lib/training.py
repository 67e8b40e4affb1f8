"""The one `fit` and the three stages it serves: detector, regressor on a frozen detector, both (§3)."""

import contextlib
import functools
import io
import json
import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator, DataLoaderConfiguration, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list, gather_object
from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Sampler

from hpe_lib import artifacts, cascade, datasets, heatmaps, losses
from hpe_lib.artifacts import BadInput
from hpe_lib.cascade import STAGES, Cascade, Maps
from hpe_lib.paper import BODY
from hpe_lib.skeleton import ABSENT, VISIBLE

VERSION = 1  # raise it when the same parameters and people train to other weights
UPSTREAM = {"detector": None, "regressor": "detector", "joint": "regressor"}
NOTEBOOKS = {
    "detector": "03",
    "regressor": "04",
    "joint": "05",
}  # where a stage's parameters are declared
DETECTOR = ("trunk", "map_stride", "prior", "first")  # parameters that make the first network
NETWORK = (
    *DETECTOR,
    "regressor",
    "channels",
    "levels",
    "bottlenecks",
    "stem",
    "kernels",
    "std",
    "stacked",
)
TARGETS = (  # make Targets
    "map_stride",
    "radius",
    "sigma",
    "occluded",
    "first",
    "first_sees",
    "first_sigma",
)
# These do not affect the weights, or are compared by the hash of what they name.
NO_MATTER = ("workers", "save_minutes", "decoder", "flip_test", "init_from")
COMPILER = os.environ.get("CXX", "g++").split()[0]  # that torch.compile calls
WATCHED = 4  # held-out people whose maps are kept after every epoch, to be looked at
EMPTY_PEAK = 0.05  # mean peak at annotated joints under which maps count as empty
LOOK_EVERY = 50  # steps: looking at a loss makes the program wait for the GPU
SPEAK_EVERY = 30.0  # seconds between lines where no one watches a terminal


class Targets:
    """What the two networks learn from a batch, drawn on the batch's device (notebook 02 shows it).

    radius, sigma: px at a body of 200 px (F1).  map_stride: crop px per map cell.
    first: what the first network learns, "detection" (discs) or "regression" (Gaussians).  first_sees: of which parts,
    "visible", "all", or "" for the usual: visible for detection (§3), all for regression, as in [16] (F15).
    first_sigma: px at a body of 200 px, a first network's own if it regresses; 0: sigma.
    occluded: what an occluded joint is where it sees visible parts only (F2), "empty": an empty map that counts, or
    "ignored".  BadInput on another value.
    """

    def __init__(
        self,
        map_stride: int,
        radius: float = 10.0,
        sigma: float = 5.0,
        occluded: str = "empty",
        first: str = "detection",
        first_sees: str = "",
        first_sigma: float = 0.0,
    ):
        said = {"occluded": occluded, "first": first, "first_sees": first_sees}
        for name, allowed in (
            ("occluded", ("empty", "ignored")),
            ("first", cascade.FIRST),
            ("first_sees", ("", "visible", "all")),
        ):
            cascade.choice(said, name, allowed)
        self.map_stride, self.radius, self.sigma, self.occluded, self.first = (
            map_stride,
            radius,
            sigma,
            occluded,
            first,
        )
        self.first_sigma = first_sigma or sigma
        self.first_sees = first_sees or ("visible" if first == "detection" else "all")

    def _geometry(self, batch):
        points = heatmaps.to_map(batch["joints"], self.map_stride)
        return (
            points,
            batch["image"].shape[1] // self.map_stride,
            batch["body"] / BODY / self.map_stride,
        )

    def detector(self, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
        """What the first network learns: (discs (B, 16, h, w), counts (B, 16) bool), of visible parts only.

        With first "regression" Gaussians instead; with first_sees "all" occluded parts are drawn as visible ones are.
        """
        points, size, unit = self._geometry(batch)
        present = batch["visibility"] != ABSENT
        drawn = present if self.first_sees == "all" else batch["visibility"] == VISIBLE
        draw, extent = (
            (heatmaps.discs, self.radius)
            if self.first == "detection"
            else (heatmaps.gaussians, self.first_sigma)
        )
        return draw(
            points, drawn, size, extent * unit
        ), drawn if self.occluded == "ignored" else present

    def regressor(self, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
        """(Gaussians (B, 16, h, w), counts (B, 16) bool): all parts, be they visible or not."""
        points, size, unit = self._geometry(batch)
        present = batch["visibility"] != ABSENT
        return heatmaps.gaussians(points, present, size, self.sigma * unit), present


def detector_loss(maps: Maps, batch: dict, targets: Targets) -> torch.Tensor:
    """Eq. 1 on a first network's logits; eq. 2 on its maps if it learns by regression (F15)."""
    wanted, counts = targets.detector(batch)
    each = losses.detection_losses if targets.first == "detection" else losses.regression_losses
    return losses.average(each(maps.detector, wanted), counts)


def regressor_loss(maps: Maps, batch: dict, targets: Targets) -> torch.Tensor:
    """Eq. 2 on the regressor's maps."""
    confidence, counts = targets.regressor(batch)
    return losses.average(losses.regression_losses(maps.regressor, confidence), counts)


def joint_loss(maps: Maps, batch: dict, targets: Targets) -> torch.Tensor:
    """The first network's loss + the second's, weight 1 each (F11): eq. 1 + eq. 2."""
    return detector_loss(maps, batch, targets) + regressor_loss(maps, batch, targets)


OBJECTIVES = {"detector": detector_loss, "regressor": regressor_loss, "joint": joint_loss}


class ShuffledBatches(Sampler):
    """Batches of (row, epoch), shuffled anew in each epoch; seed and epoch alone decide the order.

    So a training that was stopped finds its place again: set `epoch`, and `start` to the first
    step that is still to be done. The last people of an epoch that fill no batch are left out.
    """

    def __init__(self, people: int, batch_size: int, seed: int):
        self.people, self.batch_size, self.seed = people, batch_size, seed
        self.drop_last = True  # Accelerate asks
        self.epoch, self.start = 1, 0

    def __len__(self) -> int:
        return self.people // self.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        rows = np.random.default_rng((self.seed, self.epoch)).permutation(self.people).tolist()
        for step in range(self.start, len(self)):
            batch = rows[step * self.batch_size : (step + 1) * self.batch_size]
            yield [(row, self.epoch) for row in batch]


@dataclass
class Checkpoint:
    """Where a training stands, in one file that is replaced as a whole.

    made_from: what the stage is made from; a checkpoint of anything else is not used.
    minutes: an epoch that takes longer is saved within, too.
    """

    path: Path
    made_from: dict
    minutes: float = 10.0

    def load(self) -> dict | None:
        """What `save` was given last; None if there is nothing, or nothing that can be used."""
        if not self.path.is_file():
            return None
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            fits = state["made_from"] == self.key
        except Exception as error:  # torch, zipfile and pickle raise many kinds
            reason = artifacts.one_line(error)[:80]
            print(f"{self.path}: cannot be read ({reason}): the training starts anew", flush=True)
            return None
        return state if fits else None

    def save(self, state: dict) -> None:
        """Write the state (tensors, numbers, text) to disk, then give it the checkpoint's name."""
        buffer = io.BytesIO()
        torch.save({**state, "made_from": self.key}, buffer)
        artifacts.write_bytes(self.path, buffer.getvalue())

    @property
    def key(self) -> str:
        """made_from as text."""
        return json.dumps(artifacts.plain(self.made_from), sort_keys=True)


@dataclass
class Progress:
    """Everything that moves in a training, and how far it is.

    parts: what has a state_dict: model, optimizer, scheduler, the average of the weights.
    records: of the finished epochs.  step, total, seconds: of the epoch under way, its steps
    done, the sum of their losses, the time they took.  spent: seconds of the whole training.
    """

    accelerator: Accelerator
    checkpoint: Checkpoint | None
    seed: int
    parts: dict
    records: list[dict] = field(default_factory=list)
    step: int = 0
    total: float = 0.0
    seconds: float = 0.0
    spent: float = 0.0
    random: list | None = None  # the processes' random streams at `step`
    began: float = field(default_factory=time.perf_counter)
    saved: float = field(default_factory=time.perf_counter)

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one that fits."""
        state = self.checkpoint.load() if self.checkpoint else None
        if state is None:
            return
        for name, part in self.parts.items():
            part.load_state_dict(state["parts"][name])
        for name in ("records", "step", "total", "seconds", "spent", "random"):
            setattr(self, name, state[name])
        place = f"epoch {len(self.records) + 1}, step {self.step + 1}"
        if self.accelerator.is_main_process:
            print(f"goes on with {place}, from {self.checkpoint.path}", flush=True)

    def save(self) -> None:
        """Write the checkpoint; all processes call this at the same step."""
        if self.checkpoint is None:
            return
        streams = {"cpu": torch.get_rng_state()}
        if self.accelerator.device.type == "cuda":
            streams["cuda"] = torch.cuda.get_rng_state()
        random = gather_object([streams])
        self.spent, self.began = self.elapsed(), time.perf_counter()
        names = ("step", "total", "seconds", "spent")
        if self.accelerator.is_main_process:
            self.checkpoint.save(
                {
                    "parts": {name: part.state_dict() for name, part in self.parts.items()},
                    "records": artifacts.plain(self.records),
                    "random": random,
                    **{name: getattr(self, name) for name in names},
                }
            )
        self.saved = time.perf_counter()

    def finish_epoch(self, record: dict) -> None:
        """Keep the epoch's record, say how long the training has taken, begin the next epoch."""
        record["elapsed"] = self.elapsed()
        self.records.append(record)
        self.step, self.total, self.seconds = 0, 0.0, 0.0
        self.save()

    def elapsed(self) -> float:
        """Seconds that the training has taken so far, in this run and those before."""
        return self.spent + time.perf_counter() - self.began

    def seed_epoch(self, epoch: int) -> None:
        """Seed this process's random stream (dropout uses it) for an epoch."""
        entropy = (self.seed, epoch, self.accelerator.process_index)
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]))

    def restore_random(self) -> None:
        """Put the random streams where the checkpoint left them, once."""
        if self.random:
            streams = self.random[self.accelerator.process_index]
            torch.set_rng_state(streams["cpu"])
            if "cuda" in streams and self.accelerator.device.type == "cuda":
                torch.cuda.set_rng_state(streams["cuda"])
        self.random = None

    def due(self) -> bool:
        """Is it time to save within the epoch? The first process's clock decides for all."""
        if self.checkpoint is None:
            return False
        waited = time.perf_counter() - self.saved
        return broadcast_object_list([waited > 60 * self.checkpoint.minutes])[0]


def fit(
    model: Cascade,
    objective: Callable[[Maps, dict], torch.Tensor],
    loader: DataLoader,
    optimizer,
    scheduler,
    epochs: int,
    accelerator: Accelerator,
    scorer: Callable[[Cascade], dict] | None = None,
    compiled: bool = False,
    ema: float = 0.0,
    checkpoint: Checkpoint | None = None,
) -> Iterator[dict]:
    """Train, and yield one record an epoch.

    A record holds epoch, epochs, loss, lr, seconds, images_per_second, peak, the scorer's numbers
    and elapsed, the seconds since the training began. peak: mean maximum of the trained maps at
    annotated joints over the epoch's last batch; near 0 the maps have collapsed to empty, and the
    record carries a `warning`.
    The model is trained in place; `break` stops early.
    loader: its batch_sampler is a ShuffledBatches.
    ema: 0, or the decay of an exponential moving average of the weights; the scorer sees the
    average, and at the end the model holds it.
    checkpoint: where to keep what is needed to go on. A training that was stopped goes on from
    there, after its earlier records were yielded again with "resumed": True, and on a CPU ends
    in the same weights bit for bit.
    compiled: torch.compile the training passes, which takes a minute or more in the first step.
    Several processes share each batch, yield the same records and, on GPUs, share the norms'
    statistics. FloatingPointError if the loss is not finite.
    """
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        model = convert_sync_batchnorm(model)  # timm's: its trunks have norms of their own
    average = averaged(model, ema).to(accelerator.device) if ema else None
    unprepared = loader
    shared, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    order = unprepared.batch_sampler  # Accelerate wraps it for several processes
    network = torch.compile(shared) if compiled else shared
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    parts |= {"average": average} if ema else {}
    parts |= {"scaler": accelerator.scaler} if accelerator.scaler else {}
    progress = Progress(accelerator, checkpoint, order.seed, parts)
    progress.resume()
    for record in progress.records:
        yield {**record, "resumed": True}
    for order.epoch in range(len(progress.records) + 1, epochs + 1):
        with heartbeat(progress, order, epochs):
            record = {"epoch": order.epoch, "epochs": epochs}
            record |= train_epoch(network, objective, loader, order, progress)
            record |= scorer(average.module if ema else model) if scorer else {}
        progress.finish_epoch(record)
        yield record
    if ema:
        model.load_state_dict(average.module.state_dict())


def averaged(model: Cascade, decay: float) -> AveragedModel:
    """An exponential moving average of a model's weights and norms' statistics."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def train_epoch(
    network: nn.Module, objective, loader: DataLoader, order: ShuffledBatches, progress: Progress
) -> dict:
    """Train the rest of the epoch under way: {loss, lr, seconds, images_per_second, peak, …}."""
    accelerator, parts = progress.accelerator, progress.parts
    looks_are_free = accelerator.device.type == "cpu"
    total = torch.tensor(progress.total, dtype=torch.float64, device=accelerator.device)
    order.start, start = progress.step, time.perf_counter() - progress.seconds
    progress.seed_epoch(order.epoch)
    network.train()
    torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
    for batch in loader:
        progress.restore_random()  # now: making the loader's iterator has drawn from them, too
        with accelerator.autocast():
            maps = network(batch["image"])
            loss = objective(maps, batch)
        accelerator.backward(loss)
        parts["optimizer"].step()
        parts["optimizer"].zero_grad()
        parts["scheduler"].step()
        if "average" in parts:
            parts["average"].update_parameters(parts["model"])
        total += loss.detach()
        progress.step += 1
        if looks_are_free or progress.step % LOOK_EVERY == 0 or progress.step == len(order):
            progress.total = finite(total.item(), order.epoch)
            progress.seconds = time.perf_counter() - start
            if progress.step < len(order) and progress.due():
                progress.save()
    torch.backends.cudnn.benchmark = False  # scoring has batches of other sizes
    here = progress.total / len(order), peak(parts["model"], maps, batch)
    loss, top = np.mean(gather_object([here]), axis=0).tolist()
    record = {
        "loss": loss,
        "lr": parts["scheduler"].get_last_lr()[0],
        "seconds": progress.seconds,
        "images_per_second": len(order) * order.batch_size / progress.seconds,
        "peak": top,
    }
    if top < EMPTY_PEAK:
        record["warning"] = f"maps are nearly empty: mean peak {top:.3f} after {order.epoch} epochs"
    return record


@contextlib.contextmanager
def heartbeat(progress: Progress, order: ShuffledBatches, epochs: int) -> Iterator[None]:
    """While the block runs, print how far the training is every SPEAK_EVERY seconds."""
    over = threading.Event()

    def speak():
        while not over.wait(SPEAK_EVERY):
            print(said(progress, order, epochs), flush=True)

    thread = threading.Thread(target=speak, daemon=True)
    if progress.accelerator.is_main_process:
        thread.start()
    try:
        yield
    finally:
        over.set()


def said(progress: Progress, order: ShuffledBatches, epochs: int) -> str:
    """How far a training is, in one line: step, loss, people per second, time left."""
    text = f"epoch {order.epoch}/{epochs}  step {progress.step}/{len(order)}"
    if progress.step == len(order):
        return f"{text}  scoring"
    if not progress.step or not progress.seconds:
        return f"{text}  starting"
    pace = progress.step / progress.seconds  # steps per second
    steps_left = len(order) * (epochs - order.epoch + 1) - progress.step
    return (
        f"{text}  loss {progress.total / progress.step:.3f}  {pace * order.batch_size:.0f} people/s"
        f"  {steps_left / pace / 60:.0f} min left"
    )


def finite(loss: float, epoch: int) -> float:
    """The loss itself. FloatingPointError if it is NaN or infinite."""
    if not np.isfinite(loss):
        raise FloatingPointError(
            f"the loss became {loss} in epoch {epoch}: a smaller learning rate may help"
        )
    return loss


def peak(model: Cascade, maps: Maps, batch: dict) -> float:
    """Mean over joints of the highest value of the last network's maps: visible joints for the first, else all."""
    if maps.regressor is None:
        values, rows = model.confidence(maps.detector), batch["visibility"] == VISIBLE
    else:
        values, rows = maps.regressor, batch["visibility"] != ABSENT
    return values.detach().float().amax((-2, -1))[rows].mean().item() if rows.any() else 0.0


def make_optimizer(name: str, parameters, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """ "rmsprop" (§3.2; α 0.99 and ε 1e-8 are ours, F9), "sgd" with momentum 0.9 (F10) or "adamw"."""
    makers = {
        "rmsprop": lambda: torch.optim.RMSprop(
            parameters, lr, alpha=0.99, weight_decay=weight_decay
        ),
        "sgd": lambda: torch.optim.SGD(parameters, lr, momentum=0.9, weight_decay=weight_decay),
        "adamw": lambda: torch.optim.AdamW(parameters, lr, weight_decay=weight_decay, fused=True),
    }
    if name not in makers:
        raise BadInput("optimizer", repr(name), " or ".join(makers))
    return makers[name]()


def learning_rate(step: int, steps: int, schedule: str, last: float, warmup: float = 0.0) -> float:
    """Factor on the first learning rate at `step` of `steps`, going from 1 to `last`.

    schedule: "geometric" (the detector's "progressively decreasing"), "step" (the regressor's "1e-4 and then 2.5e-5",
    halfway) or "cosine". warmup: share of the steps in which the rate first rises from 0.
    """
    if schedule not in ("geometric", "step", "cosine"):
        raise BadInput("schedule", repr(schedule), "geometric, step or cosine")
    done = step / max(steps, 1)
    if done < warmup:
        return min(1.0, (step + 1) / max(warmup * steps, 1))
    done = (done - warmup) / (1 - warmup)
    if schedule == "geometric":
        return last**done
    if schedule == "step":
        return 1.0 if done < 0.5 else last
    return last + (1 - last) * (1 + math.cos(math.pi * min(done, 1))) / 2


def train(
    stage: str,
    out: str | Path,
    parameters: dict,
    scorer: Callable[[Cascade], dict] | None = None,
    init_from: str | Path | None = None,
) -> Iterator[dict]:
    """Train one stage of the cascade into OUT and yield its epoch records.

    stage: "detector", "regressor" or "joint".
    parameters: the tagged cell of the stage's notebook; what it lacks is inherited from the
    manifest of the stage before.
    init_from: a folder of weights to begin from, instead of the stage before or nothing.
    A finished stage made from the same parameters, people, code versions and upstream weights is
    reused: its records are yielded again. A stage that was stopped goes on from its last epoch.
    Under torchrun all processes train together and the first alone writes; all of them read OUT.
    BadInput if the run has no people, targets or earlier stage yet.
    """
    with world().main_process_first():  # it draws or fetches what the others then find
        recipe = Recipe(stage, Path(out), parameters, init_from)
    (reasons,) = broadcast_object_list([recipe.reasons()])
    if reasons:
        why = "" if reasons == ["absent"] else " anew: " + "; ".join(reasons)
        with writing(recipe):
            print(f"{stage}: trained{why}", flush=True)
            yield from recipe.train(scorer)
    else:
        print(f"{stage}: reused from {recipe.folder}: what it was made from matches", flush=True)
        yield from recipe.reuse(scorer)


def writing(recipe: "Recipe") -> contextlib.AbstractContextManager:
    """Hold the stage's folder while it is trained: BadInput if another program trains it now.

    Of torchrun's processes the first holds it for all.
    """
    if not world().is_main_process:
        return contextlib.nullcontext()
    return artifacts.lock(recipe.folder.parent, f".{recipe.folder.name}.lock")


def world() -> PartialState:
    """The processes that torchrun has started, on GPUs or, without any, on CPUs; or this one alone.

    They wait for each other for two hours at most: the first may have to draw or check all people.
    """
    artifacts.torchrun_rank()  # removes variables that torchrun has not set
    # Never MPS by accident; and without this Accelerate takes each process for alone on CPUs.
    return PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(hours=2))


def accelerated(precision: str = "no") -> Accelerator:
    """Accelerate's helper of one training: its processes share out each batch.  precision: "no", "bf16" or "fp16"."""
    AcceleratorState._reset_state()  # or else a second training in this process could not have another precision
    return Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision=precision,
        dataloader_config=DataLoaderConfiguration(split_batches=True, non_blocking=True),
    )


class Recipe:
    """Everything a stage is made from: parameters, people, targets, upstream weights.

    The parameters are the stage's own; what they lack comes from the stage before, which has kept
    what it was made with, and from the run's targets. The people are those of OUT/data.
    """

    def __init__(self, stage: str, out: Path, parameters: dict, init_from=None):
        self.stage, self.folder = stage, out / STAGES[stage]
        self.data = datasets.opened(out)
        self.before = out / STAGES[UPSTREAM[stage]] if UPSTREAM[stage] else None
        earlier = {"settings": {}}
        if self.before:
            earlier = artifacts.manifest(self.before, "settings", "data", "weights_sha256")
        # No stage inherits where another began.
        self.parameters = earlier["settings"] | read_targets(out) | {"init_from": ""} | parameters
        self.init_from = init_from or self.parameters["init_from"]
        self.parameters["init_from"] = str(self.init_from)
        upstream = {self.before.name: earlier["weights_sha256"]} if self.before else {}
        if self.init_from:
            start = artifacts.manifest(cascade.stage_folder(self.init_from))
            upstream["init_from"] = start["weights_sha256"]
        self.wanted = {
            "kind": stage,
            "parameters": self.decisive(),
            "data": {
                "train": self.data.manifest["fingerprints"]["train"],
                "image_size": self.data.image_size,
            },
            "upstream": upstream,
            "versions_of": {
                "targets": heatmaps.VERSION,
                "losses": losses.VERSION,
                "networks": cascade.VERSION,
                "training": VERSION,
            },
        }
        if self.before and earlier["data"] != self.wanted["data"]:
            raise BadInput(
                self.before,
                "a stage trained on other people or crops",
                "this run's: train it again first",
            )
        self.check()

    def decisive(self) -> dict:
        """The parameters that decide what the stage's weights become."""
        first = self.parameters.get("first", "detection")
        unused = () if first == "detection" else ("radius",)
        if self.stage == "detector":
            not_drawn = "sigma" if first == "detection" else "radius"
            unused = (*NETWORK[len(DETECTOR) :], not_drawn)
        return {
            name: value
            for name, value in self.parameters.items()
            if name not in (*NO_MATTER, *unused)
        }

    def check(self) -> None:
        """BadInput for a crop that cannot be halved often enough, or nothing to compile with."""
        flat = self.stage == "detector" or self.parameters.get("regressor") == "convolutions"
        halved = 4 * 2 ** (0 if flat else self.parameters["levels"])
        if self.data.image_size % halved:
            raise BadInput(
                "image_size",
                self.data.image_size,
                f"a multiple of {halved}, for every level to be halved",
            )
        if self.parameters.get("compiled") and shutil.which(COMPILER) is None:
            raise BadInput(
                "compiled",
                f"no {COMPILER} here",
                "a C++ compiler for torch.compile, or compiled=false",
            )

    def reasons(self) -> list[str]:
        """Why what the folder holds cannot be reused; [] if it can. Weights must fit the network as it is now."""
        if reasons := artifacts.differences(self.folder, self.wanted):
            return reasons
        try:
            artifacts.load_into(Cascade(self.network), self.folder)
        except BadInput:
            return ["its weights are of another network than this code makes"]
        return []

    @property
    def network(self) -> dict:
        """The numbers that make this stage's cascade; image_size comes along for whoever loads the weights."""
        names = DETECTOR if self.stage == "detector" else NETWORK
        chosen = {name: self.parameters[name] for name in names if name in self.parameters}
        return chosen | {"image_size": self.data.image_size}

    def model(self) -> Cascade:
        """The network as this stage begins: seeded, earlier weights loaded, detector frozen for the regressor.

        A regressor's stage takes the detector of the stage before, and of init_from the regressor.
        """
        torch.manual_seed(self.parameters["seed"])
        begins = [self.init_from] if self.init_from else []
        model = Cascade(
            self.network, self.parameters["pretrained"] and self.stage == "detector" and not begins
        )
        if self.stage == "joint":
            artifacts.load_into(model, cascade.stage_folder((begins or [self.before])[0]))
        elif begins:
            artifacts.load_into(
                getattr(model, self.stage), cascade.stage_folder(begins[0]), f"{self.stage}."
            )
        if self.stage == "regressor":
            artifacts.load_into(model.detector, self.before, "detector.")
        model.freeze_blocks(self.parameters.get("frozen_blocks", 0))
        return model.laid_out().freeze_detector(self.stage == "regressor")

    def loader(self) -> DataLoader:
        """Augmented training batches in an order that the seed decides. A batch is the whole step's, whoever shares it:
        BadInput if the processes cannot share it evenly."""
        p, processes = self.parameters, PartialState().num_processes
        augmentation = datasets.Augmentation(
            p["rotation"],
            p["scale_low"],
            p["scale_high"],
            p["flip"],
            p.get("rotation_step", 0.0),
            p.get("scale_step", 0.0),
            p.get("colour", 0.0),
        )
        people = datasets.PoseDataset(
            self.data.train, self.data.image_size, augmentation, p["seed"]
        )
        size = min(p["batch_size"], len(people))
        if size % processes:
            raise BadInput(
                "batch_size",
                size,
                f"people for a whole step, a multiple of its {processes} processes",
            )
        return DataLoader(
            people,
            batch_sampler=ShuffledBatches(len(people), size, p["seed"]),
            num_workers=p["workers"],
            persistent_workers=p["workers"] > 0,
            worker_init_fn=datasets.single_threaded_worker,
            pin_memory=torch.cuda.is_available(),
        )

    def train(self, scorer) -> Iterator[dict]:
        """Fit, from the checkpoint if there is one; a record is on disk before it is yielded."""
        p, environment = self.parameters, artifacts.environment()
        deterministic(p.get("deterministic", False))
        accelerator = accelerated(p["precision"])
        with accelerator.local_main_process_first():  # one process fetches weights for its host
            model = self.model()
        loader = self.loader()
        optimizer, scheduler = self.optimizer(model, steps=p["epochs"] * len(loader))
        targets = Targets(**{name: p[name] for name in TARGETS if name in p})
        checkpoint = Checkpoint(
            self.folder / artifacts.CHECKPOINT,
            {**self.wanted, "processes": accelerator.num_processes},
            p.get("save_minutes", 10.0),
        )
        accelerator.wait_for_everyone()  # all have read what they begin from
        if accelerator.is_main_process:  # only now: nothing above touches what is there
            (self.folder / artifacts.MANIFEST).unlink(missing_ok=True)
        records = []
        for record in fit(
            model,
            lambda maps, batch: OBJECTIVES[self.stage](maps, batch, targets),
            loader,
            optimizer,
            scheduler,
            p["epochs"],
            accelerator,
            lambda model: {"scored_on": self.scored_on, **(scorer(model) if scorer else {})},
            compiled=p.get("compiled", False),
            ema=p.get("ema", 0.0),
            checkpoint=checkpoint,
        ):
            resumed = record.pop("resumed", False)
            records.append({"stage": self.stage, **record})
            if accelerator.is_main_process:
                self.keep(model, records, resumed)
            yield {**records[-1], **({"resumed": True} if resumed else {})}
        if accelerator.is_main_process:
            made = {"steps": p["epochs"] * len(loader), "processes": accelerator.num_processes}
            self.save(model, records, {**environment, **made})
            checkpoint.path.unlink(missing_ok=True)
        accelerator.wait_for_everyone()  # what comes next finds it whole

    def optimizer(self, model: Cascade, steps: int) -> tuple:
        """(optimizer, scheduler) of a training of so many steps."""
        p = self.parameters
        groups = model.parameter_groups(p["lr"], p.get("trunk_lr", 0.0))
        optimizer = make_optimizer(p["optimizer"], groups, p["lr"], p["weight_decay"])
        last = p["lr_end"] / p["lr"]

        def factor(step: int) -> float:
            return learning_rate(step, steps, p["schedule"], last, p["warmup"])

        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)

    def save(self, model: Cascade, records: list[dict], made: dict) -> None:
        """Write the finished stage: weights, history and, last, the manifest."""
        manifest = {
            **made,
            **self.wanted,
            "settings": self.parameters,
            "network": self.network,
            "seed": self.parameters["seed"],
            "wall_seconds": records[-1]["elapsed"] if records else 0.0,
        }
        weights = model.state_dict()
        broken = [name for name, weight in weights.items() if not weight.isfinite().all()]
        if broken:
            raise FloatingPointError(f"{broken[0]} became NaN or infinite: nothing is saved")
        artifacts.save(self.folder, weights, manifest, records)

    @property
    def scored_on(self) -> str:
        """Who the records' scores and the watched maps belong to: the held-out people."""
        return self.data.manifest["fingerprints"]["val"]

    def reuse(self, scorer) -> Iterator[dict]:
        """Yield a finished stage's records again; scores and watched maps of other people anew.

        Of the weights only those after the last epoch are kept, so the earlier epochs then have
        no scores and no maps.
        """
        records = history(self.folder)
        if records and records[-1].get("scored_on") != self.scored_on:
            records = [unscored(record) for record in records]
            model = cascade.load(self.folder).to(world().device)
            records[-1] |= {"scored_on": self.scored_on, **(scorer(model) if scorer else {})}
            if world().is_main_process:
                shutil.rmtree(self.folder / "watched", ignore_errors=True)
                self.watch(model, records[-1])
                artifacts.write_history(self.folder, records)
            print(
                f"{self.stage}: other held-out people: scored anew after its last epoch", flush=True
            )
        yield from ({**record, "reused": True} for record in records)

    def keep(self, model: Cascade, records: list[dict], resumed: bool) -> None:
        """Write the records so far, and the maps after the last one if they are not there yet.

        After a kill between the checkpoint and this, the maps of the last finished epoch are
        missing; the model is then still as it was after that epoch.
        """
        record = records[-1]
        if record["epoch"] == 1 and not resumed:
            shutil.rmtree(self.folder / "watched", ignore_errors=True)
        if not resumed or not self.watched_file(record).is_file():
            self.watch(model, record)
        artifacts.write_history(self.folder, records)

    def watched_file(self, record: dict) -> Path:
        """Where the maps after this record's epoch are kept."""
        return self.folder / "watched" / f"{record['epoch']:04d}.npz"

    @torch.no_grad()
    def watch(self, model: Cascade, record: dict) -> None:
        """Keep the last network's maps of the first held-out people, at most 64 cells wide."""
        crops = self.data.val[:WATCHED].crops(self.data.image_size)
        found = model.eval()(torch.from_numpy(crops).to(model.mean.device))
        maps = model.confidence(found.detector) if found.regressor is None else found.regressor
        maps = F.adaptive_max_pool2d(maps.float(), min(64, maps.shape[-1])).cpu().numpy()
        buffer = io.BytesIO()
        np.savez_compressed(buffer, crops=crops, maps=maps.astype(np.float16))
        artifacts.write_bytes(self.watched_file(record), buffer.getvalue())


def unscored(record: dict) -> dict:
    """An epoch's record without the scorer's numbers."""
    return {name: value for name, value in record.items() if not name.startswith("PCK")}


def deterministic(on: bool) -> None:
    """Let PyTorch use only operations that give the same numbers each time, slower on a GPU."""
    if on:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS refuses
    torch.use_deterministic_algorithms(on)


def history(folder: str | Path) -> list[dict]:
    """The epoch records of a stage's folder, finished or still running; empty if there are none."""
    return artifacts.read_history(folder, print)


def watched(folder: str | Path) -> list[dict]:
    """What `Recipe.watch` kept in a stage's folder, an epoch each: stage, epoch, crops (4, S, S, 3) uint8, maps (4, 16,
    h, w). Empty if there is nothing; what cannot be read is left out with a word."""
    stage = {name: stage for stage, name in STAGES.items()}.get(Path(folder).name, "")
    found = []
    for path in sorted(Path(folder).glob("watched/[0-9][0-9][0-9][0-9].npz")):
        try:
            kept = _kept(path, path.stat().st_mtime_ns)
            found.append({"stage": stage, "epoch": int(path.stem), **kept})
        except FileNotFoundError:  # a training that begins anew has just removed it
            continue
        except Exception as error:  # zipfile and numpy raise many kinds
            print(f"{path}: left out, as no maps can be read from it: {artifacts.one_line(error)}")
    return found


@functools.lru_cache(maxsize=256)
def _kept(path: Path, changed: int) -> dict:
    """An epoch's file, read once. changed: its time of change."""
    with np.load(path) as kept:
        return {"crops": kept["crops"], "maps": kept["maps"].astype(np.float32)}


def write_targets(out: str | Path, **parameters) -> None:
    """Fix how targets are drawn in this run: radius, sigma, occluded (notebook 02). See `Targets`."""
    Targets(1, **parameters)
    artifacts.write_manifest(Path(out) / "targets", {"kind": "targets", "parameters": parameters})


def read_targets(out: str | Path) -> dict:
    """What `write_targets` fixed. BadInput if nothing is."""
    folder = Path(out) / "targets"
    if not (folder / artifacts.MANIFEST).is_file():
        raise BadInput(
            folder / artifacts.MANIFEST,
            "no such file",
            "how targets are drawn in this run: notebook 02 decides it",
        )
    return artifacts.manifest(folder)["parameters"]


def line(record: dict) -> str:
    """An epoch as one line of plain text."""
    extra = [
        f"{name} {record[name]:.1f}"
        for name in record
        if name.startswith("PCK") and record[name] is not None
    ]
    text = (
        f"{record['stage']} epoch {record['epoch']}/{record['epochs']}  loss {record['loss']:.3f}  lr "
        f"{record['lr']:.2g}  {record['images_per_second']:.0f} images/s  peak {record['peak']:.2f}"
    )
    origin = [f"({name})" for name in ("reused", "resumed") if record.get(name)]
    warning = [f"WARNING {record['warning']}"] if "warning" in record else []
    return "  ".join([text, *extra, *origin, *warning])


def variant(
    out: str | Path, name: str, changes: dict, stages: tuple[str, ...], scorer=None
) -> Iterator[dict]:
    """One row of an ablation, in OUT/rows/NAME: the run's own stages, some parameters changed (F15). Epoch records.

    changes: {parameter: value}, or {"joint.epochs": value} for one stage only; all else is as the run's stages have
    it, budgets included (F16). Parameters of the people choose them anew. What the run itself or another row has
    trained from the same is taken over, not trained again.
    """
    out, row = Path(out), Path(out) / "rows" / name
    artifacts.claim_rows(out, [name])
    data = artifacts.manifest(out / "data", "parameters")
    chosen = {
        key: value for key, value in changes.items() if key in data["parameters"] | datasets.NEWER
    }
    settings = {
        stage: artifacts.manifest(out / STAGES[stage], "settings")["settings"] for stage in stages
    }
    known = {*NETWORK, *TARGETS}.union(*settings.values())
    for key in changes.keys() - chosen.keys():
        stage, _, parameter = key.rpartition(".")
        if stage not in ("", *STAGES) or parameter not in known:
            raise BadInput(
                f"row {name}", f"a change of {key}", "a parameter of the run's people or stages"
            )
    if chosen:
        datasets.prepare(row, **data["parameters"] | chosen)
    else:
        artifacts.write_manifest(row / "data", data)
    write_targets(row, **read_targets(out))
    for stage in stages:
        own = {
            key.rpartition(".")[2]: value
            for key, value in changes.items()
            if key not in chosen and key.rpartition(".")[0] in ("", stage)
        }
        take_over(out, Recipe(stage, row, settings[stage] | own))
        yield from train(stage, row, settings[stage] | own, scorer)


def take_over(out: Path, recipe: Recipe) -> None:
    """Copy into the recipe's folder what the run, or another of its rows, has made from the very same."""
    if not recipe.reasons():
        return
    stage = recipe.folder.name
    for folder in (out / stage, *sorted(out.glob(f"rows/*/{stage}"))):
        if folder != recipe.folder and not artifacts.differences(folder, recipe.wanted):
            shutil.copytree(folder, recipe.folder, dirs_exist_ok=True)
            return
