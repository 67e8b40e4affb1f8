"""The three stages (§3): detector, regressor on a frozen detector, and both together."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from hpe_lib import cascade, heatmaps, losses, refusals, training, trunks, watched
from hpe_lib.cascade import REGRESSOR_PARAMETERS, Cascade, Maps, network_parameters
from hpe_lib.data.augment import Augmentation, PoseDataset, limit_opencv_threads
from hpe_lib.data.datasets import open_data
from hpe_lib.skeleton import ABSENT, MPII
from hpe_lib.targets import Targets, draws_discs, read_targets
from hpe_lib.workbook import artifacts, environment, locks
from hpe_lib.workbook.artifacts import STAGES, BadInput
from hpe_lib.workbook.groups import build
from hpe_lib.workbook.schemas import Settings

UPSTREAM = {"detector": None, "regressor": "detector", "joint": "regressor"}
TEST_TIME = ("decoder", "flip_test", "workers")  # how the weights are used, not what they become
# Not compared as parameters: no effect on the weights, or (init_from) compared by their hash.
WITHOUT_EFFECT = {*TEST_TIME, "save_minutes", "init_from"}
Scorer = Callable[[Cascade], dict]


def detector_loss(maps: Maps, batch: dict, targets: Targets) -> torch.Tensor:
    """Eq. 1 on a first network's logits; eq. 2 on its maps if it learns by regression (F15)."""
    wanted, mask = targets.detector(batch)
    detects = targets.first == "detection"
    loss = losses.detection_losses if detects else losses.regression_losses
    return losses.masked_mean(loss(maps.detector, wanted), mask)


def regressor_loss(maps: Maps, batch: dict, targets: Targets) -> torch.Tensor:
    """Eq. 2 on the regressor's maps."""
    wanted, mask = targets.regressor(batch)
    return losses.masked_mean(losses.regression_losses(maps.regressor, wanted), mask)


def joint_loss(maps: Maps, batch: dict, targets: Targets) -> torch.Tensor:
    """Eq. 1 + eq. 2: the losses of both networks, with weight 1 each (F11)."""
    return detector_loss(maps, batch, targets) + regressor_loss(maps, batch, targets)


def first_loss(maps: Maps, batch: dict, targets: Targets) -> torch.Tensor:
    """The loss of the detector's stage: eq. 1, or both losses of a rival with two hourglasses."""
    loss = detector_loss if maps.regressor is None else joint_loss
    return loss(maps, batch, targets)


OBJECTIVES = {"detector": first_loss, "regressor": regressor_loss, "joint": joint_loss}


def train(
    stage: str,
    out: str | Path,
    parameters: dict,
    scorer: Scorer | None = None,
    init_from: str | Path | None = None,
) -> Iterator[dict]:
    """Train one stage of the cascade into OUT and yield its epoch records.

    stage: "detector", "regressor" or "joint".
    parameters: those of the stage's notebook (its cell tagged "parameters"). Missing ones are
    inherited from the manifest of the stage before.
    init_from: a folder with weights to start from.
    A finished stage is reused, and its records are yielded again, if it was made from the same
    parameters, people, code versions and upstream weights. A stage that was stopped goes on.
    Under torchrun all processes train together and read OUT; only the first writes.
    BadInput if the run has no people, targets or earlier stage yet.
    """
    with training.world().main_process_first():  # it fills the cache, the others read it
        recipe = Recipe(stage, Path(out), parameters, init_from)
    (reasons,) = broadcast_object_list([recipe.reasons_to_train()])
    if reasons:
        why = "" if reasons == ["absent"] else " again: " + "; ".join(reasons)
        with lock_stage(recipe):
            print(f"{stage}: training{why}", flush=True)
            yield from recipe.train(scorer)
    else:
        print(f"{stage}: reused from {recipe.folder}: same parameters, people and code", flush=True)
        yield from recipe.reuse(scorer)


def lock_stage(recipe: "Recipe") -> contextlib.AbstractContextManager:
    """Hold the stage's folder while it is trained. BadInput if another program trains it now.

    Of torchrun's processes the first holds it for all.
    """
    if not training.world().is_main_process:
        return contextlib.nullcontext()
    return locks.lock(recipe.folder.parent, locks.stage_lock(recipe.folder.name))


class Recipe:
    """Everything a stage is made from: parameters, people, targets, upstream weights.

    The stage's own parameters come first. What they lack comes from the manifest of the stage
    before, and from the run's targets. The people are those of OUT/data. BadInput if any of this
    is absent or does not fit.
    """

    def __init__(
        self, stage: str, out: Path, parameters: dict, init_from: str | Path | None = None
    ):
        self.stage = stage
        self.folder = out / STAGES[stage]
        self.data = open_data(out)
        self.previous = out / STAGES[UPSTREAM[stage]] if UPSTREAM[stage] else None
        earlier = {"settings": {}}
        if self.previous:
            earlier = artifacts.manifest(self.previous, "settings", "data", "weights_sha256")
        self.epochs_before = earlier.get("epochs_before", 0) + earlier["settings"].get("epochs", 0)
        inherited = earlier["settings"] | read_targets(out) | {"init_from": ""}
        self.parameters = inherited | parameters
        self.init_from = init_from or self.parameters["init_from"]
        self.parameters["init_from"] = str(self.init_from)
        self.made_from = {
            "kind": stage,
            "parameters": self.decisive_parameters(),
            "data": {
                "train": self.data.manifest["fingerprints"]["train"],
                "image_size": self.data.image_size,
            },
            "upstream": self.upstream_hashes(),
            "versions_of": {
                "targets": heatmaps.VERSION,
                "losses": losses.VERSION,
                "networks": cascade.VERSION,
                "training": training.VERSION,
            },
        }
        if self.epochs_before:
            self.made_from["epochs_before"] = self.epochs_before
        if own := trunks.own_trunk(self.parameters["trunk"]):
            trunks.check_code(own)
            self.made_from["versions_of"]["trunk"] = trunks.code_hash(own)
        if self.previous and earlier["data"] != self.made_from["data"]:
            found = "a stage trained on other people or crops"
            raise BadInput(self.previous, found, "this run's: train it again first")
        self.unlabelled = self.joints_without_labels()
        self.check()
        self.settings = Settings.model_construct(**self.parameters)

    def decisive_parameters(self) -> dict:
        """The parameters that decide what the stage's weights become."""
        unused = set(WITHOUT_EFFECT)
        discs = draws_discs(self.parameters)
        if not discs:
            unused.add("radius")
        if self.stage == "detector":
            unused.update(REGRESSOR_PARAMETERS, ("map_dropout", "map_noise"))
            if discs and self.parameters.get("rival") != "stacked_hourglass":
                unused.add("sigma")  # a second hourglass learns Gaussians
        elif not self.parameters.get("map_noise"):
            unused.add("map_noise")  # stages from before there was any are as good as without
        return {name: value for name, value in self.parameters.items() if name not in unused}

    def upstream_hashes(self) -> dict:
        """The hashes of the weights that the stage starts from, by where they come from."""
        hashes = {}
        if self.previous:
            hashes[self.previous.name] = cascade.weights_hash(self.previous)
        if self.init_from:
            start = refusals.start_folder(self.init_from, self.folder.parent)
            hashes["init_from"] = cascade.weights_hash(start)
        return hashes

    def check(self) -> None:
        """BadInput on a parameter out of bounds, a crop size that the levels do not divide, or a
        missing compiler.
        """
        artifacts.check(artifacts.plain(self.parameters), "settings")
        refusals.check_crop_size(self.stage, self.parameters, self.data.image_size)
        refusals.check_compiler(self.parameters)

    def reasons_to_train(self) -> list[str]:
        """Why the folder's weights cannot be reused; [] if they can."""
        if reasons := artifacts.differences(self.folder, self.made_from):
            return reasons
        try:
            artifacts.load_into(Cascade(self.network), self.folder)
        except BadInput:
            return ["its weights are of another network than this code makes"]
        return []

    @property
    def network(self) -> dict:
        """The parameters of this stage's cascade, and image_size for whoever loads the weights."""
        chosen = network_parameters(self.parameters, regressor=self.stage != "detector")
        return chosen | {"image_size": self.data.image_size}

    def initial_model(self) -> Cascade:
        """The network as this stage starts: seeded, earlier weights loaded, parts frozen.

        The regressor's stage takes the detector of the stage before, and only the regressor of
        init_from.
        """
        torch.manual_seed(self.settings.seed)
        pretrained = self.settings.pretrained and self.stage == "detector"
        model = Cascade(self.network, pretrained and not self.init_from)
        if self.stage == "joint":
            artifacts.load_into(model, cascade.stage_folder(self.init_from or self.previous))
        elif self.init_from:
            start = cascade.stage_folder(self.init_from)
            artifacts.load_into(getattr(model, self.stage), start, f"{self.stage}.")
        if self.stage == "regressor":
            artifacts.load_into(model.detector, self.previous, "detector.")
        model.map_dropout = self.settings.map_dropout
        model.map_noise = self.settings.map_noise
        model.freeze_blocks(self.settings.frozen_blocks)
        return model.set_memory_format().freeze_detector(self.stage == "regressor")

    def loader(self) -> DataLoader:
        """Augmented training batches, in an order that the seed decides.

        batch_size counts the people of a step in all processes. BadInput if these cannot share
        them evenly.
        """
        seed = self.settings.seed
        workers = self.settings.workers
        augmentation = build(Augmentation, self.parameters)
        people = PoseDataset(self.data.train, self.data.image_size, augmentation, seed)
        size = min(self.settings.batch_size, len(people))
        processes = PartialState().num_processes
        if size % processes:
            expected = f"people for a whole step, a multiple of its {processes} processes"
            raise BadInput("batch_size", size, expected)
        return DataLoader(
            people,
            batch_sampler=training.ShuffledBatches(len(people), size, seed, self.epochs_before),
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=limit_opencv_threads,
            pin_memory=torch.cuda.is_available(),
        )

    def train(self, scorer: Scorer | None) -> Iterator[dict]:
        """Fit, from the checkpoint if there is one. A record is on disk before it is yielded."""
        settings = self.settings
        made_here = environment.describe()
        training.set_deterministic(settings.deterministic)
        accelerator = training.make_accelerator(settings.precision)
        with accelerator.local_main_process_first():  # one process fetches weights for its host
            model = self.initial_model()
        refusals.check_maps(model, self.data.image_size)
        loader = self.loader()
        steps = settings.epochs * len(loader)
        processes = accelerator.num_processes
        optimizer, scheduler = self.optimizer(model, steps)
        targets = build(Targets, self.parameters)
        checkpoint = self.checkpoint()
        average = training.average_of(model, settings.ema) if settings.ema else None
        accelerator.wait_for_everyone()  # all have read what they start from
        if accelerator.is_main_process:
            artifacts.refuse_foreign_stage(self.folder)
            checkpoint.put_in_place()
        accelerator.wait_for_everyone()
        records = []
        threads = torch.get_num_threads()
        for record in training.fit(
            model,
            lambda maps, batch: OBJECTIVES[self.stage](maps, batch, targets),
            loader,
            optimizer,
            scheduler,
            settings.epochs,
            accelerator,
            scorer=lambda model: self.score(model, scorer),
            compiled=settings.compiled,
            average=average,
            checkpoint=checkpoint,
        ):
            threads = torch.get_num_threads()  # those of a resumed training
            resumed = record.pop("resumed", False)
            records.append({"stage": self.stage, **record})
            if accelerator.is_main_process:
                scored = average.module if average else model
                self.write_progress(scored, records, resumed)
            yield records[-1] | ({"resumed": True} if resumed else {})
        made_here["machine"]["threads"] = threads
        if accelerator.is_main_process:
            self.save(model, records, {**made_here, "steps": steps, "processes": processes})
            checkpoint.path.unlink(missing_ok=True)
        accelerator.wait_for_everyone()  # the next stage finds it complete

    def checkpoint(self) -> training.Checkpoint:
        """The stage's checkpoint, which only a training from the same things goes on from."""
        made_from = {**self.made_from, "processes": training.world().num_processes}
        path = self.folder / artifacts.CHECKPOINT
        return training.Checkpoint(path, made_from, self.settings.save_minutes)

    def optimizer(self, model: Cascade, steps: int) -> tuple[torch.optim.Optimizer, LambdaLR]:
        """The optimizer and the learning rate's schedule of a training of so many steps."""
        settings = self.settings
        groups = model.parameter_groups(settings.lr, settings.trunk_lr)
        optimizer = training.make_optimizer(
            settings.optimizer, groups, settings.lr, settings.weight_decay
        )
        last = settings.lr_end / settings.lr

        def factor(step: int) -> float:
            """Factor on the initial learning rate at a step."""
            return training.rate_factor(step, steps, settings.schedule, last, settings.warmup)

        return optimizer, LambdaLR(optimizer, factor)

    def save(self, model: Cascade, records: list[dict], made_here: dict) -> None:
        """Write the finished stage: weights, history and, last, the manifest."""
        manifest = {
            **made_here,
            **self.made_from,
            "settings": self.parameters,
            "network": self.network,
            "unlabelled": self.unlabelled,
            "seed": self.settings.seed,
            "wall_seconds": records[-1]["elapsed"] if records else 0.0,
        }
        if not records or not self.follows(records):
            watched.remove(self.folder)  # maps of the weights that are replaced
            if records:
                self.write_maps(records[-1], model)
        artifacts.save(self.folder, model.state_dict(), manifest, records)

    def joints_without_labels(self) -> list[str]:
        """The joints of which no training person has a label, nor had one in the training
        that these weights began from.
        """
        labelled = (self.data.train.visibility != ABSENT).any(0)
        found = [name for name, known in zip(MPII.names, labelled) if not known]
        if self.previous:
            before = artifacts.manifest(self.previous).get("unlabelled", found)
            found = [name for name in found if name in before]
        if self.init_from:
            before = artifacts.manifest(cascade.stage_folder(self.init_from)).get("unlabelled", [])
            found = [name for name in found if name in before]
        return found

    @property
    def scored_on(self) -> str:
        """The fingerprint of the held-out people, whose scores and maps a history holds."""
        return self.data.manifest["fingerprints"]["val"]

    def score(self, model: Cascade, scorer: Scorer | None) -> dict:
        """The scorer's numbers, and on whom they were measured."""
        return {"scored_on": self.scored_on, **(scorer(model) if scorer else {})}

    def reuse(self, scorer: Scorer | None) -> Iterator[dict]:
        """Yield a finished stage's records again.

        If the held-out people have changed, scores and watched maps are made again, for the last
        epoch only, as only its weights are kept. If history.jsonl was changed, there is one record,
        of the last epoch: new scores and no losses.
        """
        records = artifacts.read_history(self.folder)
        manifest = self.adopt_settings()
        if artifacts.history_changed(self.folder, manifest):
            found = "absent" if not records else "not the one that was written"
            again = "no curve, scored again after its last epoch"
            print(f"{self.stage}: its {artifacts.HISTORY} is {found}: {again}", flush=True)
            model = cascade.load(self.folder).to(training.world().device)
            records = [self.unknown_record() | self.score(model, scorer)]
        elif records and records[-1].get("scored_on") != self.scored_on:
            again = "other held-out people: scored anew after its last epoch"
            print(f"{self.stage}: {again}", flush=True)
            records = self.score_again(records, manifest, scorer)
        yield from ({**record, "reused": True} for record in records)

    def adopt_settings(self) -> dict:
        """Write settings that leave the weights as they are to a finished stage's manifest.

        `hpe evaluate` and `predict` take decoder, flip test and workers from there, the next stage
        save_minutes. The rows of an ablation take init_from from there, and the size of targets of
        which this stage has none. Returns the manifest.
        """
        manifest = artifacts.manifest(self.folder, "settings")
        decisive = self.decisive_parameters()
        names = (*sorted(WITHOUT_EFFECT), "radius", "sigma")
        without_effect = [name for name in names if name not in decisive]
        now = {name: self.parameters[name] for name in without_effect if name in self.parameters}
        settings = manifest["settings"] | now
        if settings == manifest["settings"] or not training.world().is_main_process:
            return manifest
        return artifacts.write_manifest(self.folder, manifest | {"settings": settings})

    def unknown_record(self) -> dict:
        """The last epoch's record where nothing of its training is known."""
        names = ("elapsed", "loss", "lr", "seconds", "images_per_second", "peak")
        epochs = self.settings.epochs
        known = {"stage": self.stage, "epoch": epochs, "epochs": epochs}
        return known | dict.fromkeys(names, np.nan)

    def score_again(self, records: list[dict], manifest: dict, scorer: Scorer | None) -> list[dict]:
        """The records with new scores for the last epoch only, also in the stage's folder."""
        records = [without_scores(record) for record in records]
        model = cascade.load(self.folder).to(training.world().device)
        records[-1] |= self.score(model, scorer)
        if training.world().is_main_process:
            watched.remove(self.folder)
            self.write_maps(records[-1], model)
            write_other_history(self.folder, records, manifest)
        return records

    def write_progress(self, model: Cascade, records: list[dict], resumed: bool) -> None:
        """Write the records so far, and the maps after the last one.

        Those of a resumed record are there, unless a kill came between the checkpoint and this: the
        model is then still as it was after that epoch. What another training has left stays whole
        until this one has finished an epoch.
        """
        earlier = self.folder / artifacts.MANIFEST
        goes_on = self.follows(records[:-1]) and not earlier.is_file()
        if resumed and not goes_on:
            return
        if not goes_on:
            watched.remove(self.folder)
            earlier.unlink(missing_ok=True)
        artifacts.write_history(self.folder, records)
        if not (resumed and watched.has(self.folder, len(records))):
            self.write_maps(records[-1], model)

    def write_maps(self, record: dict, model: Cascade) -> None:
        """Keep the maps of the first held-out people after a record's epoch."""
        epoch = record["epoch"]
        watched.write(self.folder, epoch, model, self.data.val, self.data.image_size)

    def follows(self, records: list[dict]) -> bool:
        """Is the folder's history that of these epochs, and of no others?"""
        written = artifacts.read_history(self.folder)
        return [told_by(record) for record in written] == [told_by(record) for record in records]


def told_by(record: dict) -> list[str]:
    """What tells an epoch from that of another training, and of other epochs."""
    return [str(record["epoch"]), repr(record["elapsed"]), repr(record["loss"])]


def history(folder: str | Path) -> list[dict]:
    """The epoch records of a stage, finished or still running; none if there are none.

    A finished stage's are left out, and a sentence is printed, if they are not what its training
    wrote. Scores of other held-out people than the run has now are left out, too.
    """
    folder = Path(folder)
    records = artifacts.read_history(folder)
    finished = (folder / artifacts.MANIFEST).is_file()
    if finished and artifacts.history_changed(folder, artifacts.manifest(folder)):
        print(f"{folder / artifacts.HISTORY}: not the one that was written, and left out")
        return []
    run = folder.parent / "data"
    if not (run / artifacts.MANIFEST).is_file():
        return records
    held_out = artifacts.manifest(run, "fingerprints")["fingerprints"]["val"]
    return [r if r.get("scored_on", held_out) == held_out else without_scores(r) for r in records]


def write_other_history(folder: Path, records: list[dict], made: dict) -> None:
    """Give a finished stage another history, and its manifest `made` the hash of that, together."""
    content = artifacts.history_bytes(records)
    now = artifacts.with_own_hash(made | {"history_sha256": hashlib.sha256(content).hexdigest()})
    manifest = artifacts.json_bytes(now)
    artifacts.write_files(
        {folder / artifacts.HISTORY: content, folder / artifacts.MANIFEST: manifest}
    )


def without_scores(record: dict) -> dict:
    """An epoch's record without the scorer's numbers."""
    return {name: value for name, value in record.items() if not name.startswith("PCK")}


def record_line(record: dict) -> str:
    """An epoch as one line of plain text."""
    scores = [
        f"{name} {value:.1f}"
        for name, value in record.items()
        if name.startswith("PCK") and value is not None
    ]
    text = (
        f"{record['stage']} epoch {record['epoch']}/{record['epochs']}  loss {record['loss']:.3f}"
        f"  lr {record['lr']:.2g}  {record['images_per_second']:.0f} images/s"
        f"  peak {record['peak']:.2f}"
    )
    origin = [f"({name})" for name in ("reused", "resumed") if record.get(name)]
    warning = [f"WARNING {record['warning']}"] if "warning" in record else []
    return "  ".join([text, *scores, *origin, *warning])
