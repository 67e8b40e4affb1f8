"""The rows of an ablation: the run's own stages with some parameters changed (F15, F16)."""

from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path

import yaml

from hpe_lib import refusals, trunks, watched
from hpe_lib.cascade import DETECTOR_PARAMETERS, REGRESSOR_PARAMETERS, check_pretrained, load
from hpe_lib.data.datasets import prepare
from hpe_lib.stages import UPSTREAM, Recipe, Scorer, train
from hpe_lib.targets import Targets, read_targets, write_targets
from hpe_lib.workbook import artifacts, locks, presets
from hpe_lib.workbook.artifacts import STAGES, BadInput
from hpe_lib.workbook.measurements import READ_BY
from hpe_lib.workbook.schemas import Settings

ALL = tuple(UPSTREAM)
Rows = dict[str, tuple[tuple[str, ...], dict]]  # name: (stages to train, what is changed)


def read_rows(kind: str) -> Rows:
    """The rows of rows.yaml: those of its "table", "control" or "further" part."""
    rows = yaml.safe_load(Path(__file__).with_name("rows.yaml").read_text(encoding="utf-8"))[kind]
    return {name: (tuple(row.get("stages", ALL)), row["changes"]) for name, row in rows.items()}


def table_rows(vgg: dict, own: list[dict]) -> Rows:
    """The six rows of Table 5 as parameter changes (F15).

    vgg: what the VGG rows change: trunk, channels, kernels, std, pretrained.  own: the settings of
    the run's three stages. A run that is itself of the VGG kind has that pair only: a change of it
    is no residual row. A run that began from other weights (init_from) has only the rows that begin
    there, too.
    """
    rows = read_rows("table")
    of_vgg = [name for name in rows if name.endswith("(VGG)")]
    for name in of_vgg:
        rows[name][1].update(vgg)
    if own[-1]["regressor"] == "convolutions":
        return {name: rows[name] for name in of_vgg}
    if any(settings.get("init_from") for settings in own):
        return {name: row for name, row in rows.items() if row[1].get("init_from") != ""}
    return rows


def stage_budget(epochs: list[int]) -> dict[str, int]:
    """The epochs of the three stages as changes of a row: {"detector.epochs": number, …}.

    BadInput without an epoch of the detector's stage: it is all that a row of one network has.
    """
    if not epochs[0]:
        raise BadInput("stage_epochs", epochs, "at least one epoch of the first stage")
    return {f"{stage}.epochs": number for stage, number in zip(ALL, epochs)}


def row_budget(parameters: dict[str, dict]) -> dict[str, int]:
    """`stage_budget` as notebook 06 takes it.  parameters: of the run, from `presets.resolve`."""
    of_stages = presets.stage_parameters(parameters)
    usual = [of_stage["epochs"] for of_stage in of_stages.values()]
    return stage_budget(parameters["06"]["stage_epochs"] or usual)


def controls(budget: dict[str, int], further: list[str]) -> Rows:
    """Rows beyond Table 5: "detection only for all steps" (F16), and the `further` ones.

    budget: {"detector.epochs": number, …} of the stages.  further: names, or "all".
    BadInput on a name of no row.
    """
    control = read_rows("control")
    more = read_rows("further")
    control["detection only for all steps"][1]["detector.epochs"] = sum(budget.values())
    more["joint from the start"][1]["joint.epochs"] = sum(budget.values())
    names = list(more) if further == ["all"] else further
    if unknown := [name for name in names if name not in more]:
        raise BadInput("further", unknown[0], f"all or some of {', '.join(more)}")
    return control | {name: more[name] for name in names}


def check_plan(resolved: dict[str, dict], running: Iterable[str]) -> None:
    """BadInput on what a notebook would refuse of its parameters hours after the first one began.

    resolved: parameters by notebook (`presets.resolve`).  running: the notebooks that will run; of
    the others a run folder says what they were.
    """
    numbers = set(running)
    if numbers.issuperset(["01", "02", *artifacts.NOTEBOOKS.values()]):
        check_stages(resolved)
    if "06" not in numbers:
        return
    own = resolved["06"]
    controls({}, own["further"])
    if own["vgg"] not in trunks.VGGS:
        trunks.named_trunk(own["vgg"])
    if numbers.issuperset(artifacts.NOTEBOOKS.values()):
        row_budget(resolved)


def check_stages(resolved: dict[str, dict]) -> None:
    """BadInput on stages that could not be trained as `resolved` has them.

    Those are crops that the networks cannot halve, ImageNet weights of a trunk that has none, and
    `compiled` without a compiler.
    """
    of_stages = presets.stage_parameters(resolved)
    for stage, own in of_stages.items():
        refusals.check_crop_size(stage, own, resolved["01"]["image_size"])
        refusals.check_compiler(own)
    first = of_stages["detector"]
    check_pretrained(first["trunk"], first["pretrained"] and not first["init_from"])


def cost(folder: Path, stages: tuple[str, ...]) -> dict:
    """What a row has cost: parameters, optimiser steps by stage, minutes of training."""
    manifests = {stage: artifacts.manifest(folder / STAGES[stage]) for stage in stages}
    weights = sum(weight.numel() for weight in load(folder).parameters())
    steps = {stage: manifest["steps"] for stage, manifest in manifests.items()}
    seconds = sum(manifest["wall_seconds"] for manifest in manifests.values())
    return {"parameters": weights, **steps, "minutes": seconds / 60}


def train_row(
    out: str | Path,
    name: str,
    changes: dict,
    stages: tuple[str, ...],
    scorer: Scorer | None = None,
) -> Iterator[dict]:
    """Train one row of an ablation in OUT/rows/NAME, and yield its epoch records.

    changes: {parameter: value}, or {"joint.epochs": value} for one stage only. All other
    parameters are those of the run's stages, epochs included; but a trunk that only in this row
    begins at random weights learns whole. If a data parameter changes, the people are loaded again.
    A stage already trained identically is copied. BadInput on an unknown parameter.
    """
    out = Path(out)
    row = out / "rows" / name
    locks.check_idle(row)
    for stage in stages:
        artifacts.refuse_foreign_stage(row / STAGES[stage])
    artifacts.claim_rows(out, [name])
    data = artifacts.manifest(out / "data", "parameters")
    of_people = data["parameters"]
    settings = {
        stage: artifacts.manifest(out / STAGES[stage], "settings")["settings"] for stage in stages
    }
    test_time = read_test_time(out)
    chosen = {key: value for key, value in changes.items() if key in of_people}
    others = {key: value for key, value in changes.items() if key not in of_people}
    _check_changes(name, others, settings)
    first = settings[stages[0]]
    if _begins_at_random(first | _changes_of(stages[0], others)) and not _begins_at_random(first):
        others = {"frozen_blocks": 0} | others
    if chosen:
        prepare(row, **data["parameters"] | chosen)
    else:
        artifacts.write_manifest(row / "data", data)
    write_targets(row, **read_targets(out))
    for stage in stages:
        parameters = settings[stage] | read_targets(out) | test_time | _changes_of(stage, others)
        copy_identical_stage(out, Recipe(stage, row, parameters))
        yield from train(stage, row, parameters, scorer)


def read_test_time(out: Path) -> dict:
    """How a run reads its cascade's maps, decoder and flip test; {} if it has no cascade yet."""
    joint = out / STAGES["joint"]
    if not (joint / artifacts.MANIFEST).is_file():
        return {}
    settings = artifacts.manifest(joint, "settings")["settings"]
    return {name: settings[name] for name in READ_BY if name in settings}


def _begins_at_random(settings):
    """Are all weights of a first stage with these settings random at its start?"""
    return not (settings.get("pretrained") or settings.get("init_from"))


def _check_changes(name, changes, settings):
    """BadInput on a parameter that no stage has."""
    of_targets = {field.name for field in fields(Targets)}
    known = {*DETECTOR_PARAMETERS, *REGRESSOR_PARAMETERS, *of_targets, *Settings.model_fields}
    known = known.union(*settings.values())
    for key in changes:
        stage, _, parameter = key.rpartition(".")
        if stage not in ("", *STAGES) or parameter not in known:
            expected = "a parameter of the run's people or stages"
            raise BadInput(f"row {name}", f"a change of {key}", expected)


def _changes_of(stage, changes):
    """{parameter: value} of the changes that concern a stage, in their order."""
    found = {}
    for key, value in changes.items():
        where, _, name = key.rpartition(".")
        if where in ("", stage):
            found[name] = value
    return found


def copy_identical_stage(out: Path, recipe: Recipe) -> None:
    """Copy an identical stage, already trained by this run or another row, to the recipe's folder.

    If there is none, or the folder holds it already, nothing happens.
    """
    if not recipe.reasons_to_train():
        return
    stage = recipe.folder.name
    for folder in (out / stage, *sorted(out.glob(f"rows/*/{stage}"))):
        if folder != recipe.folder and not artifacts.differences(folder, recipe.made_from):
            _copy_stage(folder, recipe)
            return


def _copy_stage(folder, recipe):
    """Copy what a finished stage has written to the recipe's folder."""
    artifacts.refuse_foreign_stage(recipe.folder)
    unfinished = (".*.tmp", artifacts.CHECKPOINT, artifacts.ASIDE)
    copies = {}
    for path in folder.rglob("*"):
        if path.is_file() and not any(map(path.match, unfinished)):
            copies[recipe.folder / path.relative_to(folder)] = path.read_bytes()
    manifest = recipe.folder / artifacts.MANIFEST
    copies[manifest] = copies.pop(manifest)  # it comes last
    watched.remove(recipe.folder)  # maps of weights that are replaced
    artifacts.write_files(copies)
    checkpoint = recipe.checkpoint()
    checkpoint.put_in_place()  # another recipe's is put aside
    checkpoint.path.unlink(missing_ok=True)
