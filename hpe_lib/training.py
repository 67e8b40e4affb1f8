"""The one `fit` and the three stages it serves: detector, then regressor on a frozen detector, then both (§3)."""

import contextlib
import functools
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator, DataLoaderConfiguration, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list, gather_object
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from hpe_lib import artifacts, cascade, datasets, heatmaps, losses
from hpe_lib.artifacts import BadInput
from hpe_lib.cascade import STAGES, Cascade, Maps
from hpe_lib.paper import BODY
from hpe_lib.skeleton import ABSENT, VISIBLE

UPSTREAM = {"detector": (), "regressor": ("detector",), "joint": ("regressor",)}
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
TARGETS = (
    "map_stride",
    "radius",
    "sigma",
    "occluded",
    "first",
    "first_sees",
    "first_sigma",
)  # make Targets
NO_MATTER = (
    "workers",
    "decoder",
    "flip_test",
    "init_from",
)  # leave the weights as they are, or are hashed instead
OLDER = (
    ("deterministic", False),
    ("compiled", False),
)  # what runs without these parameters were made with
COMPILER = os.environ.get("CXX", "g++").split()[0]  # that torch.compile calls
WATCHED = 4  # held-out people whose maps are kept after every epoch, to be looked at
EMPTY_PEAK = 0.05  # mean peak at annotated joints under which maps count as empty


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
) -> Iterator[dict]:
    """Train, and yield one record an epoch: epoch, loss, lr, seconds, images_per_second, peak and the scorer's numbers.

    The model is trained in place; `break` stops early. peak is the mean maximum of the trained maps at annotated joints
    over the epoch's last batch: near 0 the maps have collapsed to empty, and the record carries a `warning`.
    FloatingPointError as soon as a loss is not finite. Several processes share each batch, yield the same records, and
    on GPUs have the batch's statistics in common. compiled: the training passes are, in the first step, which then
    takes a minute or more; the scorer's are not. In bf16 or fp16 the scorer's passes are, too.
    """
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    shared, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    network = torch.compile(shared) if compiled else shared
    for epoch in range(1, epochs + 1):
        start, total = time.perf_counter(), 0.0
        loader.dataset.epoch = epoch  # new augmentations, the same for the same seed
        network.train()
        silent = None if accelerator.is_main_process else True
        for batch in tqdm(loader, desc=f"epoch {epoch}/{epochs}", disable=silent, leave=False):
            with accelerator.autocast():
                maps = network(batch["image"])
                loss = objective(maps, batch)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
            total += finite(loss.item(), epoch)
        seconds, people = (
            time.perf_counter() - start,
            len(batch["image"]) * accelerator.num_processes,
        )
        here = total / len(loader), peak(model, maps, batch)
        loss, top = np.mean(gather_object([here]), axis=0).tolist()
        record = {
            "epoch": epoch,
            "epochs": epochs,
            "loss": loss,
            "lr": scheduler.get_last_lr()[0],
            "seconds": seconds,
            "images_per_second": len(loader) * people / seconds,
            "peak": top,
        }
        if record["peak"] < EMPTY_PEAK:
            record["warning"] = (
                f"maps are nearly empty: mean peak {record['peak']:.3f} after {epoch} epochs"
            )
        yield record | (scorer(model) if scorer else {})


def finite(loss: float, epoch: int) -> float:
    """The loss itself. FloatingPointError if it is NaN or infinite: nothing after it would mean anything."""
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
    return last + (1 - last) * (1 + np.cos(np.pi * min(done, 1))) / 2


def train(
    stage: str,
    out: str | Path,
    parameters: dict,
    scorer: Callable[[Cascade], dict] | None = None,
    init_from: str | Path | None = None,
) -> Iterator[dict]:
    """One stage of the cascade: "detector", "regressor" or "joint". Yields epoch records, then OUT holds its weights.

    parameters: the tagged cell of the stage's notebook; what it does not say is inherited from the earlier stage's
    manifest. An artifact made from the same parameters, people and upstream weights is reused: its recorded epochs are
    yielded again. init_from: a folder of weights to begin from instead of the earlier stage's or nothing.
    Under torchrun all its processes train together, and the first alone writes; all of them read OUT.
    BadInput if the run has no people, targets or earlier stage yet.
    """
    with world().main_process_first():  # it draws or fetches what the others then find
        recipe = Recipe(stage, Path(out), parameters, init_from)
    (reasons,) = broadcast_object_list([recipe.reasons()])
    if not reasons:
        print(
            f"{stage}: reused from {recipe.folder}: parameters, people and upstream weights match",
            flush=True,
        )
        yield from ({**record, "reused": True} for record in history(recipe.folder))
        return
    print(
        f"{stage}: trained {'' if reasons == ['absent'] else 'anew: ' + '; '.join(reasons)}".rstrip(),
        flush=True,
    )
    yield from recipe.train(scorer)


def world() -> PartialState:
    """The processes that torchrun has started, on GPUs or, without any, on CPUs; or this one alone.

    They wait for each other for two hours at most: the first may have to draw or check all people.
    """
    on_cpu = (
        "LOCAL_RANK" in os.environ and not torch.cuda.is_available()
    )  # else Accelerate takes each for alone
    return PartialState(cpu=on_cpu, timeout=timedelta(hours=2))


def accelerated(precision: str = "no") -> Accelerator:
    """Accelerate's helper of one training: its processes share out each batch.  precision: "no", "bf16" or "fp16"."""
    AcceleratorState._reset_state()  # or else a second training in this process could not have another precision
    return Accelerator(
        mixed_precision=precision,
        dataloader_config=DataLoaderConfiguration(split_batches=True, non_blocking=True),
    )


class Recipe:
    """Everything a stage is made from: parameters with what is inherited, people, targets, upstream weights."""

    def __init__(self, stage: str, out: Path, parameters: dict, init_from=None):
        self.stage, self.folder = stage, out / STAGES[stage]
        self.data = datasets.opened(out)
        self.upstream = [out / STAGES[earlier] for earlier in UPSTREAM[stage]]
        self.parameters = {}
        for folder in self.upstream:
            self.parameters |= artifacts.manifest(folder, "settings", "data", "weights_sha256")[
                "settings"
            ]
        self.parameters |= (
            read_targets(out) | {"init_from": ""} | parameters
        )  # no stage inherits where another began
        init_from = self.init_from = init_from or self.parameters["init_from"]
        self.parameters["init_from"] = str(init_from)
        hashes = {
            folder.name: artifacts.manifest(folder)["weights_sha256"] for folder in self.upstream
        }
        if init_from:
            hashes["init_from"] = artifacts.manifest(cascade.stage_folder(init_from))[
                "weights_sha256"
            ]
        detects = self.parameters.get("first", "detection") == "detection"
        unused = () if detects else ("radius",)
        if stage == "detector":
            unused = (*NETWORK[len(DETECTOR) :], "sigma" if detects else "radius")
        self.wanted = {
            "kind": stage,
            "parameters": {
                name: value
                for name, value in self.parameters.items()
                if name not in (*NO_MATTER, *unused) and (name, value) not in OLDER
            },
            "data": {
                "train": self.data.manifest["fingerprints"]["train"],
                "image_size": self.data.image_size,
            },
            "upstream": hashes,
        }
        self.check()

    def check(self) -> None:
        """BadInput for what would only fail later: earlier stages of other people, a crop that does not halve, nothing
        to compile with."""
        for folder in self.upstream:
            if artifacts.manifest(folder)["data"] != self.wanted["data"]:
                raise BadInput(
                    folder,
                    "a stage trained on other people or crops",
                    "this run's: train it again first",
                )
        convolutions = (
            self.stage == "detector" or self.parameters.get("regressor") == "convolutions"
        )
        halved = 4 * 2 ** (0 if convolutions else self.parameters["levels"])
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
        chosen = {
            name: self.parameters[name] for name in names if name in self.parameters
        }  # an older run has fewer
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
            artifacts.load_into(model, cascade.stage_folder((begins or self.upstream)[0]))
        elif begins:
            artifacts.load_into(
                getattr(model, self.stage), cascade.stage_folder(begins[0]), f"{self.stage}."
            )
        if self.stage == "regressor":
            artifacts.load_into(model.detector, self.upstream[0], "detector.")
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
        )
        people = datasets.PoseDataset(
            self.data.train, self.data.image_size, augmentation, p["seed"]
        )
        order = torch.Generator().manual_seed(p["seed"])
        size = min(p["batch_size"], len(people))
        if size % processes:
            raise BadInput(
                "batch_size",
                size,
                f"people for a whole step, a multiple of its {processes} processes",
            )
        return DataLoader(
            people,
            size,
            shuffle=True,
            drop_last=True,
            num_workers=p["workers"],
            generator=order,
            pin_memory=torch.cuda.is_available(),
        )

    def train(self, scorer) -> Iterator[dict]:
        """Fit from the start; each record is on disk before it is yielded, the weights after the last."""
        p, environment = self.parameters, artifacts.environment()
        deterministic(p.get("deterministic", False))
        accelerator = accelerated(p["precision"])
        with (
            accelerator.local_main_process_first()
        ):  # one fetches pretrained weights for all of its host
            model = self.model()
        torch.manual_seed(
            p["seed"] + accelerator.process_index
        )  # for dropout, which is each process's own
        loader = self.loader()
        learning = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = make_optimizer(p["optimizer"], learning, p["lr"], p["weight_decay"])
        steps = p["epochs"] * len(loader)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: learning_rate(
                step, steps, p["schedule"], p["lr_end"] / p["lr"], p["warmup"]
            ),
        )
        targets = Targets(**{name: p[name] for name in TARGETS if name in p})
        accelerator.wait_for_everyone()  # all have read what they begin from
        if accelerator.is_main_process:
            (self.folder / artifacts.MANIFEST).unlink(
                missing_ok=True
            )  # only now: nothing above touches what is there
        start, records = time.perf_counter(), []
        for record in fit(
            model,
            lambda maps, batch: OBJECTIVES[self.stage](maps, batch, targets),
            loader,
            optimizer,
            scheduler,
            p["epochs"],
            accelerator,
            scorer,
            p.get("compiled", False),
        ):
            records.append({"stage": self.stage, **record})
            if accelerator.is_main_process:
                self.watch(
                    model, records[-1]
                )  # first: who sees the line finds the maps it tells of
                self.append(records[-1], first=len(records) == 1)
            yield records[-1]
        made = {
            "settings": p,
            "network": self.network,
            "seed": p["seed"],
            "steps": steps,
            "processes": accelerator.num_processes,
            "wall_seconds": time.perf_counter() - start,
        }
        if accelerator.is_main_process:
            artifacts.save(
                self.folder, model.state_dict(), {**environment, **self.wanted, **made}, records
            )
        accelerator.wait_for_everyone()  # what comes next finds it whole

    def append(self, record: dict, first: bool) -> None:
        """One line more in history.jsonl, so that a closed browser or a killed run leaves what was measured."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / artifacts.HISTORY, "w" if first else "a") as lines:
            lines.write(json.dumps(artifacts.plain(record)) + "\n")

    @torch.no_grad()
    def watch(self, model: Cascade, record: dict) -> None:
        """The last network's maps of the first held-out people after this epoch, in watched/, 64 cells wide at most."""
        if record["epoch"] == 1:
            shutil.rmtree(self.folder / "watched", ignore_errors=True)
        crops = self.data.val[:WATCHED].crops(self.data.image_size)
        found = model.eval()(torch.from_numpy(crops).to(model.mean.device))
        maps = model.confidence(found.detector) if found.regressor is None else found.regressor
        maps = (
            F.adaptive_max_pool2d(maps.float(), min(64, maps.shape[-1]))
            .cpu()
            .numpy()
            .astype(np.float16)
        )
        buffer = io.BytesIO()
        np.savez_compressed(buffer, crops=crops, maps=maps)
        artifacts.write_bytes(
            self.folder / "watched" / f"{record['epoch']:04d}.npz", buffer.getvalue()
        )


def deterministic(on: bool) -> None:
    """Let PyTorch use only operations that give the same numbers each time, slower on a GPU; or any, and there try
    which convolution is the fastest for the one size that a training has."""
    torch.backends.cudnn.benchmark = not on
    if on:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS refuses
    torch.use_deterministic_algorithms(on)


def launched(
    stage: str, out: str | Path, parameters: dict, processes: int | str = "gpu"
) -> Iterator[dict]:
    """`train` by so many processes of torchrun's, "gpu": one a GPU; for a notebook, whose own process must not fork.

    People and targets are those of OUT. Yields the epoch records as they reach history.jsonl; closing the generator
    ends the training. RuntimeError with what went wrong if it fails; all it said is in OUT/STAGE.log.
    """
    out = Path(out)
    folder, preset, log = out / STAGES[stage], out / f"{stage}.yaml", out / f"{stage}.log"
    chosen = artifacts.manifest(out / "data", "parameters")["parameters"]
    artifacts.write_json(
        preset, {"01": chosen, "02": read_targets(out), NOTEBOOKS[stage]: parameters}
    )  # JSON is YAML
    command = [
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
        "-m",
        "hpe_lib",
        "train",
        stage,
        "--preset",
        str(preset),
        "--out",
        str(out),
    ]
    before, told, running = history(folder), 0, True
    with (
        log.open("w") as said,
        subprocess.Popen([sys.executable, "-m", *command], stdout=said, stderr=said) as run,
    ):
        try:
            while running:
                running = run.poll() is None  # asked first: what is written at the end is seen too
                new = [record for record in history(folder) if record not in before][told:]
                told += len(new)
                yield from new
                time.sleep(0.2)
        finally:
            run.terminate()
    if run.returncode:
        words = [
            line
            for line in log.read_text().splitlines()
            if line.startswith("hpe: ") or "Error: " in line
        ]
        raise RuntimeError(f"{stage} failed: {(words or ['nothing said'])[0]} ({log})")
    if not told:
        yield from ({**record, "reused": True} for record in history(folder))


def history(folder: str | Path) -> list[dict]:
    """The epoch records of a stage's folder, finished or still running; empty if there are none."""
    path = Path(folder) / artifacts.HISTORY
    text = path.read_text() if path.is_file() else ""
    return [
        json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()
    ]  # a line may just be being written


def watched(folder: str | Path) -> list[dict]:
    """What `Recipe.watch` kept in a stage's folder, an epoch each: stage, epoch, crops (4, S, S, 3) uint8, maps (4, 16,
    h, w). Empty if there is nothing."""
    stage = {name: stage for stage, name in STAGES.items()}.get(Path(folder).name, "")
    found = []
    for path in sorted(Path(folder).glob("watched/[0-9][0-9][0-9][0-9].npz")):
        with contextlib.suppress(
            FileNotFoundError
        ):  # a training that begins anew has just removed it
            found.append(
                {"stage": stage, "epoch": int(path.stem), **_kept(path, path.stat().st_mtime_ns)}
            )
    return found


@functools.lru_cache(maxsize=256)
def _kept(path: Path, changed: int) -> dict:
    """An epoch's file, read once. changed: its time of change."""
    with np.load(path) as kept:
        return {"crops": kept["crops"], "maps": kept["maps"].astype(np.float32)}


def write_targets(out: str | Path, **parameters) -> None:
    """Fix how targets are drawn in this run (notebook 02's cell): radius, sigma, occluded. See `Targets`."""
    Targets(1, **parameters)
    artifacts.write_json(
        Path(out) / "targets" / "manifest.json", {"kind": "targets", "parameters": parameters}
    )


def read_targets(out: str | Path) -> dict:
    """What `write_targets` fixed. BadInput if nothing is."""
    path = Path(out) / "targets" / "manifest.json"
    if not path.is_file():
        raise BadInput(
            path, "no such file", "how targets are drawn in this run: notebook 02 decides it"
        )
    return artifacts.read_json(path)["parameters"]


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
    return "  ".join(
        [text, *extra, *([f"WARNING {record['warning']}"] if "warning" in record else [])]
    )


def variant(
    out: str | Path, name: str, changes: dict, stages: tuple[str, ...], scorer=None
) -> Iterator[dict]:
    """One row of an ablation, in OUT/rows/NAME: the run's own stages, some parameters changed (F15). Epoch records.

    changes: {parameter: value}, or {"joint.epochs": value} for one stage only; all else is as the run's stages have
    it, budgets included (F16). Parameters of the people choose them anew. What the run itself or another row has
    trained from the same is taken over, not trained again.
    """
    out, row = Path(out), Path(out) / "rows" / name
    data = artifacts.read_json(out / "data" / "manifest.json")
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
        artifacts.write_json(row / "data" / "manifest.json", data)
    artifacts.write_json(
        row / "targets" / "manifest.json", artifacts.read_json(out / "targets" / "manifest.json")
    )
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
