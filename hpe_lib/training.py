"""The training loop `fit` that all stages share: epochs, checkpoints, optimisers, rates (§3)."""

import contextlib
import hashlib
import io
import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator, DataLoaderConfiguration, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list, gather_object
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Sampler

from hpe_lib.cascade import BadMaps, Cascade, Maps
from hpe_lib.skeleton import ABSENT, VISIBLE
from hpe_lib.workbook import artifacts, environment

# Of this file, stages.py and what makes crops (data/augment, data/images, geometry): raise it when
# equal parameters give other weights.
VERSION = 1
EMPTY_PEAK = 0.05  # mean peak at annotated joints under which maps count as empty
GROWN_LOSS = 1.5  # times the first epoch's: the training is about to diverge
FEW_PEOPLE = 8  # warn below this: too few for batch norm and for training
CHECK_EVERY = 10  # steps between reads of the loss: each read waits for the GPU
REPORT_EVERY = 30.0  # seconds between lines of progress
COUNTERS = ("step", "total", "seconds", "spent")  # of `Progress`, kept in its checkpoint


class ShuffledBatches(Sampler):
    """Batches of (row, epoch), reshuffled in each epoch; seed and epoch alone decide the order.

    So a training that was stopped can go on where it was: set `epoch`, and set `start` to the
    first step that is still to be done. The last people of an epoch that fill no batch are left
    out.
    before: epochs of the run's stages before. A batch's epoch counts them, too, so that no stage
    meets again the crops, and their order, from which an earlier one has learned. Epochs of another
    run, whose weights a stage begins from, are not counted.
    """

    def __init__(self, people: int, batch_size: int, seed: int, before: int = 0):
        self.people = people
        self.batch_size = batch_size
        self.seed = seed
        self.before = before
        self.drop_last = True  # Accelerate reads it
        self.epoch = 1
        self.start = 0

    def __len__(self) -> int:
        return self.people // self.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.before + self.epoch
        rows = np.random.default_rng((self.seed, epoch)).permutation(self.people).tolist()
        for step in range(self.start, len(self)):
            batch = rows[step * self.batch_size : (step + 1) * self.batch_size]
            yield [(row, epoch) for row in batch]


@dataclass
class Checkpoint:
    """The state of a training, in one file that is always replaced as a whole.

    made_from: the stage's parameters, data and upstream weights; other checkpoints are not used.
    minutes: between checkpoints within an epoch.
    """

    path: Path
    made_from: dict
    minutes: float = 10.0

    def load(self) -> dict | None:
        """The state that was saved last. None if there is none, or none that can be used."""
        if not self.path.is_file():
            return None
        try:
            state = self.read()
            fits = state["made_from"] == self.key
        except Exception as error:  # torch, zipfile and pickle raise many kinds
            reason = artifacts.one_line(error)[:80]
            print(f"{self.path}: cannot be read ({reason}): the training starts anew", flush=True)
            return None
        return state if fits else None

    def read(self) -> dict:
        """The state in the file, whatever training it is of. ValueError if its bytes changed."""
        with open(self.path, "rb") as file:
            written = file.read(artifacts.DIGEST)
            if written != hashlib.file_digest(file, "sha256").digest():
                raise ValueError("its bytes have changed since it was written")
            file.seek(artifacts.DIGEST)
            return torch.load(io.BytesIO(file.read()), map_location="cpu", weights_only=True)

    def put_in_place(self) -> None:
        """Put aside the file of another training, and back what was put aside of this one.

        So a parameter that was changed by mistake costs nothing of what was trained before. Only
        one process may call this, before all `load`.
        """
        if self.path.is_file():
            try:
                state = self.read()
            except Exception:  # `load` says why
                state = {"made_from": None}
            if state["made_from"] == self.key:
                return
            if state["made_from"]:
                self.put_aside(state)
        own = self.aside(self.key)
        if own.is_file():
            os.replace(own, self.path)

    def put_aside(self, state: dict) -> None:
        """Rename the file, whose state is another training's, and say so: hours may be in it."""
        aside = self.aside(state["made_from"])
        os.replace(self.path, aside)
        found = json.loads(state["made_from"])
        reasons = "; ".join(artifacts.changed_inputs(found, json.loads(self.key)))
        print(
            f"{aside}: what was trained until epoch {len(state['records']) + 1} before a change "
            f"({reasons}); without the change it goes on from there, else delete it",
            flush=True,
        )

    def aside(self, made_from: str) -> Path:
        """Where the file of a training with this `key` is put aside."""
        name = hashlib.sha256(made_from.encode()).hexdigest()[: artifacts.ASIDE_DIGITS]
        return self.path.with_suffix(f".{name}.pt")

    def save(self, state: dict) -> None:
        """Write a state of tensors, numbers and text, its sha256 before it."""
        buffer = io.BytesIO()
        torch.save({**state, "made_from": self.key}, buffer)
        saved = buffer.getvalue()
        artifacts.write_bytes(self.path, hashlib.sha256(saved).digest() + saved)

    @property
    def key(self) -> str:
        """made_from as text."""
        return json.dumps(artifacts.plain(self.made_from), sort_keys=True)


@dataclass
class Progress:
    """The state of a training while it runs.

    parts: objects with a state_dict: model, optimizer, scheduler, moving average of the weights.
    records: of the finished epochs.
    step: finished steps of the current epoch.
    total, seconds, blank: of those until `read_at`, the sum of their losses, their time, and how
        many crops were of one colour.
    read_at: the step at which the device was last asked for these.
    spent: seconds of the whole training.
    saved_within: the step of the current epoch at which the checkpoint was written; 0: before it.
    random: random states of all processes at `step`, if it goes on from a checkpoint.
    total and blank are of this process alone.
    """

    accelerator: Accelerator
    checkpoint: Checkpoint | None
    seed: int
    parts: dict
    records: list[dict] = field(default_factory=list)
    step: int = 0
    read_at: int = 0
    total: float = 0.0
    blank: int = 0
    seconds: float = 0.0
    spent: float = 0.0
    random: list | None = None
    started_at: float = field(default_factory=time.perf_counter)
    saved_at: float = field(default_factory=time.perf_counter)
    saved_within: int = 0

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one that fits."""
        state = self.checkpoint.load() if self.checkpoint else None
        if state is None:
            return
        for name, part in self.parts.items():
            part.load_state_dict(state["parts"][name])
        for name in ("records", "random", *COUNTERS):
            setattr(self, name, state[name])
        if sums := state.get("sums"):  # checkpoints had none at first
            self.total, self.blank = sums[self.accelerator.process_index]
        self.saved_within = self.read_at = self.step
        place = f"epoch {len(self.records) + 1}, step {self.step + 1}"
        if self.accelerator.is_main_process:
            print(f"goes on with {place}, from {self.checkpoint.path}", flush=True)
        threads = state.get("threads", torch.get_num_threads())
        if self.accelerator.device.type == "cpu" and threads != torch.get_num_threads():
            torch.set_num_threads(threads)  # another number rounds sums otherwise
            if self.accelerator.is_main_process:
                print(
                    f"with {threads} threads, as it began, so that the weights are the same",
                    flush=True,
                )

    def save(self) -> None:
        """Write the checkpoint. All processes call this at the same step."""
        if self.checkpoint is None:
            return
        states = {"cpu": torch.get_rng_state()}
        if self.accelerator.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state()
        random = gather_object([states])
        sums = gather_object([(self.total, self.blank)])
        self.spent = self.elapsed()
        self.started_at = time.perf_counter()
        if self.accelerator.is_main_process:
            self.checkpoint.save(
                {
                    "parts": {name: part.state_dict() for name, part in self.parts.items()},
                    "records": artifacts.plain(self.records),
                    "random": random,
                    "sums": sums,
                    "threads": torch.get_num_threads(),
                    **{name: getattr(self, name) for name in COUNTERS},
                }
            )
        self.saved_at = time.perf_counter()
        self.saved_within = self.step

    def finish_epoch(self, record: dict) -> None:
        """Keep the epoch's record with the time so far, and begin the next epoch."""
        record["elapsed"] = self.elapsed()
        self.records.append(record)
        self.step = 0
        self.read_at = 0
        self.total = 0.0
        self.blank = 0
        self.seconds = 0.0
        self.save()

    def elapsed(self) -> float:
        """Seconds that the training has taken so far, in this run and those before."""
        return self.spent + time.perf_counter() - self.started_at

    def seed_epoch(self, epoch: int) -> None:
        """Seed this process's random numbers (of dropout) for an epoch."""
        entropy = (self.seed, epoch, self.accelerator.process_index)
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]))

    def restore_random(self) -> None:
        """Restore the random states of the checkpoint, on the first call only."""
        if self.random and self.step:  # an epoch's beginning is seeded, not restored
            states = self.random[self.accelerator.process_index]
            torch.set_rng_state(states["cpu"])
            if "cuda" in states and self.accelerator.device.type == "cuda":
                torch.cuda.set_rng_state(states["cuda"])
        self.random = None

    def must_save(self) -> bool:
        """Is it time for a checkpoint within the epoch? The first process's clock decides."""
        if self.checkpoint is None:
            return False
        waited = time.perf_counter() - self.saved_at
        return broadcast_object_list([waited > 60 * self.checkpoint.minutes])[0]


def fit(
    model: Cascade,
    objective: Callable[[Maps, dict], torch.Tensor],
    loader: DataLoader,
    optimizer: torch.optim.Optimizer,
    scheduler: LRScheduler,
    epochs: int,
    accelerator: Accelerator,
    scorer: Callable[[Cascade], dict] | None = None,
    compiled: bool = False,
    average: AveragedModel | None = None,
    checkpoint: Checkpoint | None = None,
) -> Iterator[dict]:
    """Train the model in place and yield one record per epoch; `break` stops early.

    A record holds epoch, epochs, loss, lr, seconds, images_per_second, peak, the scorer's numbers
    and elapsed, the seconds since the training began. lr is the rate that the epoch has come to,
    that of the next step. peak is the mean maximum of the trained maps at annotated joints, over
    the last batch. Near 0 the maps have collapsed to empty ones, and the record carries a
    `warning`.
    loader: its batch_sampler is a ShuffledBatches.
    compiled: torch.compile the training passes, which takes a minute or more in the first step.
    average: of `average_of`, if the scorer and, at the end, the model are to have averaged weights.
    checkpoint: lets a stopped training go on. Its earlier records are yielded again with
    "resumed": True. On a CPU it ends in the same weights, bit for bit.
    Several processes share each batch and yield the same records, but for the seconds. On GPUs they
    share the norms' statistics, too. FloatingPointError if the training diverges: the loss, a
    weight or a map is not finite; the checkpoint keeps the epochs before.
    """
    threads = torch.get_num_threads()
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        from timm.layers import convert_sync_batchnorm  # its trunks have norms of their own

        model = convert_sync_batchnorm(model)
    sampler = loader.batch_sampler  # before Accelerate wraps it for several processes
    shared, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    network = torch.compile(shared) if compiled else shared
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    if average:
        average.module.to(accelerator.device)  # its counter stays: reading it would wait for a GPU
        parts["average"] = average
    if accelerator.scaler:
        parts["scaler"] = accelerator.scaler
    progress = Progress(accelerator, checkpoint, sampler.seed, parts)
    scored = average.module if average else model
    try:
        progress.resume()
        for record in progress.records:
            yield {**record, "resumed": True}
        for epoch in range(len(progress.records) + 1, epochs + 1):
            sampler.epoch = epoch
            with heartbeat(progress, sampler, epochs), divergence(progress):
                record = {"epoch": epoch, "epochs": epochs}
                record |= train_epoch(network, objective, loader, sampler, progress)
                if scorer:
                    record |= scorer(scored)
            progress.finish_epoch(record)
            yield record
    finally:
        torch.set_num_threads(threads)  # a checkpoint may have had another number
    if average:
        model.load_state_dict(average.module.state_dict())


def average_of(model: Cascade, decay: float) -> AveragedModel:
    """A moving average of a model's weights and norm statistics: each step keeps `decay` of it."""
    of_numbers = get_ema_multi_avg_fn(decay)

    def average(averaged: list, current: list, steps: torch.Tensor) -> None:
        """Move the averages towards the current tensors; whole numbers, counters, are copied."""
        of_numbers(averaged, current, steps)
        for mean, now in zip(averaged, current):
            if not mean.is_floating_point():
                mean.copy_(now)

    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)


def train_epoch(
    network: nn.Module,
    objective: Callable[[Maps, dict], torch.Tensor],
    loader: DataLoader,
    sampler: ShuffledBatches,
    progress: Progress,
) -> dict:
    """Train the rest of the current epoch. Returns loss, lr, seconds, images_per_second, peak, …

    FloatingPointError if the loss or a weight is not finite.
    """
    accelerator = progress.accelerator
    steps = len(sampler)
    checks_are_free = accelerator.device.type == "cpu"
    total = torch.tensor(progress.total, dtype=torch.float64, device=accelerator.device)
    blank = torch.tensor(progress.blank, device=accelerator.device)
    sampler.start = progress.step
    start = time.perf_counter() - progress.seconds
    network.train()
    torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
    for number, batch in enumerate(loader):
        if number == 0:  # only now: making the loader's iterator may draw numbers, too
            progress.seed_epoch(sampler.epoch)
            progress.restore_random()
        with accelerator.autocast():
            maps = network(batch["image"])
            loss = objective(maps, batch)
        accelerator.backward(loss)
        update_weights(progress.parts)
        total += loss.detach()
        blank += count_blank(batch["image"])
        progress.step += 1
        if checks_are_free or progress.step % CHECK_EVERY == 0 or progress.step == steps:
            progress.total = require_finite(total.item())
            progress.blank = blank.item()
            progress.seconds = time.perf_counter() - start
            progress.read_at = progress.step
            if progress.step < steps and progress.must_save():
                require_finite_weights(progress.parts["model"])
                progress.save()
    torch.backends.cudnn.benchmark = False  # scoring has batches of other sizes
    require_finite_weights(progress.parts["model"])
    peak = mean_peak(progress.parts["model"], maps, batch)
    own = (progress.total / steps, peak, progress.blank)  # of this process
    loss, peak, mean_blank = np.mean(gather_object([own]), axis=0).tolist()
    return epoch_record(progress, sampler, loss, peak, mean_blank * accelerator.num_processes)


def count_blank(images: torch.Tensor) -> torch.Tensor:
    """How many crops (B, S, S, 3) are of one colour: nothing can be learned from them."""
    pixels = images.flatten(1, 2)
    return (pixels.amax(1) == pixels.amin(1)).all(1).sum()


def update_weights(parts: dict) -> None:
    """Make one step of the optimizer, the learning rate and the moving average."""
    parts["optimizer"].step()
    parts["optimizer"].zero_grad()
    parts["scheduler"].step()
    if "average" in parts:
        parts["average"].update_parameters(parts["model"])


def epoch_record(
    progress: Progress, sampler: ShuffledBatches, loss: float, peak: float, blank: float
) -> dict:
    """What `train_epoch` returns, with a warning if something is likely to be wrong.

    blank: crops of one colour.
    """
    record = {
        "loss": loss,
        "lr": progress.parts["scheduler"].get_last_lr()[0],
        "seconds": progress.seconds,
        "images_per_second": len(sampler) * sampler.batch_size / progress.seconds,
        "peak": peak,
    }
    found = []
    if peak < EMPTY_PEAK:
        found += [
            f"maps are nearly empty: mean peak {peak:.3f} after {sampler.epoch} epochs (too few "
            "steps so far, or a learning rate far too high or too low)"
        ]
    if progress.records and loss > GROWN_LOSS * progress.records[0]["loss"]:
        found += ["the loss is far above the first epoch's: a smaller learning rate may help"]
    if blank:
        found += [f"{blank:.0f} crops are of one colour: the images may be damaged"]
    if sampler.people < FEW_PEOPLE:
        found += [f"people to learn from: {sampler.people} (so few are learned by heart)"]
    if found:
        record["warning"] = "; ".join(found)
    return record


@contextlib.contextmanager
def divergence(progress: Progress) -> Iterator[None]:
    """Say what to do where the block finds a loss, a weight or a map that is not finite."""
    try:
        yield
    except (FloatingPointError, BadMaps) as error:
        found = error.args[1] if isinstance(error, BadMaps) else error
        rate = progress.parts["scheduler"].get_last_lr()[0]
        kept = ""
        if progress.checkpoint and (progress.saved_within or progress.records):
            within = f"of its step {progress.saved_within}"
            place = within if progress.saved_within else f"after epoch {len(progress.records)}"
            kept = f"; the weights {place} are kept in {progress.checkpoint.path}"
        raise FloatingPointError(
            f"{found} in epoch {len(progress.records) + 1}: "
            f"a smaller learning rate than {rate:.2g} may help{kept}"
        ) from None


@contextlib.contextmanager
def heartbeat(progress: Progress, sampler: ShuffledBatches, epochs: int) -> Iterator[None]:
    """While the block runs, print how far the training is every REPORT_EVERY seconds."""
    over = threading.Event()

    def speak() -> None:
        """Print a line now and then."""
        while not over.wait(REPORT_EVERY):
            print(progress_line(progress, sampler, epochs), flush=True)

    thread = threading.Thread(target=speak, daemon=True)
    if progress.accelerator.is_main_process:
        thread.start()
    try:
        yield
    finally:
        over.set()


def progress_line(progress: Progress, sampler: ShuffledBatches, epochs: int) -> str:
    """How far a training is, in one line: step, loss, people per second, time left."""
    text = f"epoch {sampler.epoch}/{epochs}  step {progress.step}/{len(sampler)}"
    if progress.step == len(sampler):
        return f"{text}  scoring"
    if not progress.read_at:
        return f"{text}  starting"
    pace = progress.read_at / progress.seconds  # steps per second
    loss = progress.total / progress.read_at
    people = pace * sampler.batch_size
    steps_left = len(sampler) * (epochs - sampler.epoch + 1) - progress.step
    return f"{text}  loss {loss:.3f}  {people:.0f} people/s  {steps_left / pace / 60:.0f} min left"


def require_finite(loss: float) -> float:
    """The loss itself. FloatingPointError if it is NaN or infinite."""
    if not np.isfinite(loss):
        raise FloatingPointError(f"the loss became {loss}")
    return loss


def require_finite_weights(model: nn.Module) -> None:
    """FloatingPointError if a weight is NaN or infinite: such weights are never saved."""
    if broken := artifacts.not_finite(model.state_dict()):
        raise FloatingPointError(f"{broken[0]} became NaN or infinite")


def mean_peak(model: Cascade, maps: Maps, batch: dict) -> float:
    """Mean over joints of the highest value in the last network's maps.

    For the detector over visible joints, for the regressor over all annotated ones.
    """
    if maps.regressor is None:
        values = model.confidence(maps.detector)
        mask = batch["visibility"] == VISIBLE
    else:
        values = maps.regressor
        mask = batch["visibility"] != ABSENT
    if not mask.any():
        return 0.0
    peaks = values.detach().float().amax((-2, -1))
    return peaks[mask].mean().item()


OPTIMIZERS = {
    "rmsprop": (torch.optim.RMSprop, {"alpha": 0.99}),
    "sgd": (torch.optim.SGD, {"momentum": 0.9}),
    "adamw": (torch.optim.AdamW, {"fused": True}),
}


def make_optimizer(
    name: str, parameters: Iterable, lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """An optimizer of weights, or of groups of them.

    name: "rmsprop" (§3.2; α 0.99 and ε 1e-8 are ours, F9), "sgd" with momentum 0.9 (F10) or
    "adamw".
    """
    make, options = OPTIMIZERS[name]
    return make(parameters, lr, weight_decay=weight_decay, **options)


def rate_factor(step: int, steps: int, schedule: str, last: float, warmup: float = 0.0) -> float:
    """The learning rate at `step` of `steps`, as a share of the first one; `last` at the end.

    schedule: "geometric" (the detector's "progressively decreasing", §3.2), "step" (the
    regressor's "1e-4 and then 2.5e-5", §3.2, halfway) or "cosine".
    warmup: share of the steps in which the rate first rises from 0.
    """
    done = step / max(steps, 1)
    if done < warmup:
        return min(1.0, (step + 1) / max(warmup * steps, 1))
    done = (done - warmup) / (1 - warmup)
    if schedule == "geometric":
        return last**done
    if schedule == "step":
        return 1.0 if done < 0.5 else last
    return last + (1 - last) * (1 + math.cos(math.pi * min(done, 1))) / 2


def world() -> PartialState:
    """The processes that torchrun has started, on GPUs or, without any, on CPUs; or just this one.

    They wait for each other for two hours at most: the first may have to draw or check all people.
    """
    environment.torchrun_rank()  # removes variables that torchrun has not set
    ignore_accelerate_variables()
    # Never MPS by accident. Without `cpu` Accelerate would not connect processes on CPUs.
    return PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(hours=2))


def ignore_accelerate_variables() -> None:
    """Remove Accelerate's variables from the environment: a run's parameters decide instead.

    They are what `accelerate launch` or another program has left behind.
    """
    for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
        del os.environ[name]


def make_accelerator(precision: str = "no") -> Accelerator:
    """Accelerate's helper for one training, whose processes share each batch.

    precision: "no", "bf16" or, on a GPU, "fp16". BadInput on "fp16" without one.
    """
    if precision == "fp16" and not torch.cuda.is_available():
        raise artifacts.BadInput("precision", "fp16 without a GPU", "bf16, or no")
    # Otherwise a second training in this process could not have another precision.
    AcceleratorState._reset_state()
    ignore_accelerate_variables()
    return Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision=precision,
        dataloader_config=DataLoaderConfiguration(split_batches=True, non_blocking=True),
    )


def set_deterministic(on: bool) -> None:
    """Let PyTorch use only operations that repeat exactly. They are slower on a GPU."""
    if on:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS refuses
    torch.use_deterministic_algorithms(on)
