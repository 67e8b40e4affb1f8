"""The rows of an ablation: the run's own stages with some parameters changed (F15, F16)."""

import shutil
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from hpe_lib.cascade import DETECTOR_PARAMETERS, REGRESSOR_PARAMETERS, STAGES
from hpe_lib.data.datasets import prepare
from hpe_lib.stages import Recipe, Scorer, train
from hpe_lib.targets import Targets, read_targets, write_targets
from hpe_lib.workbook import artifacts
from hpe_lib.workbook.artifacts import BadInput


def train_row(
    out: str | Path,
    name: str,
    changes: dict,
    stages: tuple[str, ...],
    scorer: Scorer | None = None,
) -> Iterator[dict]:
    """Train one row of an ablation in OUT/rows/NAME, and yield its epoch records.

    changes: {parameter: value}, or {"joint.epochs": value} for one stage only. All other
    parameters are those of the run's stages, epochs included. A parameter of the people chooses
    them anew. A stage that the run, or another row, has trained identically is copied.
    BadInput on a change of what neither people nor stages have.
    """
    out, row = Path(out), Path(out) / "rows" / name
    artifacts.claim_rows(out, [name])
    data = artifacts.manifest(out / "data", "parameters")
    of_people = data["parameters"]
    settings = {
        stage: artifacts.manifest(out / STAGES[stage], "settings")["settings"] for stage in stages
    }
    chosen = {key: value for key, value in changes.items() if key in of_people}
    others = {key: value for key, value in changes.items() if key not in of_people}
    _check_changes(name, others, settings)
    if chosen:
        prepare(row, **data["parameters"] | chosen)
    else:
        artifacts.write_manifest(row / "data", data)
    write_targets(row, **read_targets(out))
    for stage in stages:
        parameters = settings[stage] | _changes_of(stage, others)
        copy_identical_stage(out, Recipe(stage, row, parameters))
        yield from train(stage, row, parameters, scorer)


def _check_changes(name, changes, settings):
    """BadInput on a change of what no stage has."""
    of_targets = {field.name for field in fields(Targets)}
    known = {*DETECTOR_PARAMETERS, *REGRESSOR_PARAMETERS, *of_targets}.union(*settings.values())
    for key in changes:
        stage, _, parameter = key.rpartition(".")
        if stage not in ("", *STAGES) or parameter not in known:
            expected = "a parameter of the run's people or stages"
            raise BadInput(f"row {name}", f"a change of {key}", expected)


def _changes_of(stage, changes):
    """{parameter: value} of the changes that concern a stage, in their order."""
    split = [(*key.rpartition(".")[::2], value) for key, value in changes.items()]
    return {name: value for where, name, value in split if where in ("", stage)}


def copy_identical_stage(out: Path, recipe: Recipe) -> None:
    """Copy an identical stage, already trained by this run or another row, to the recipe's folder.

    If there is none, or the folder holds it already, nothing happens.
    """
    if not recipe.reasons_to_train():
        return
    stage = recipe.folder.name
    for folder in (out / stage, *sorted(out.glob(f"rows/*/{stage}"))):
        if folder != recipe.folder and not artifacts.differences(folder, recipe.made_from):
            shutil.copytree(folder, recipe.folder, dirs_exist_ok=True)
            return
