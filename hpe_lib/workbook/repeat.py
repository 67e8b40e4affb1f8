"""A finished run once more, from its manifest: does it find the same numbers?

On the same kind of processor, with as many threads, the same packages and the same code, all
numbers are equal to the last digit. Elsewhere sums are rounded otherwise and a training ends in
other weights.
"""

from math import inf
from pathlib import Path

from hpe_lib.skeleton import MPII
from hpe_lib.workbook import artifacts, measurements, reproduce
from hpe_lib.workbook.artifacts import BadInput

# Points that a total may differ by on another kind of processor: docs/results.md saw 0.3.
MOST = 2.0
# The same for a score of fewer joints, or a difference of two scores: docs/results.md saw 1.2.
MOST_OF_A_PART = 3 * MOST
PARTS = (*MPII.groups, *"visible occluded at_0.1 auc total_macro head_top difference".split())
COUNTS = ("persons", "joints", "left_out", "not_finite")  # the same on every processor
LIMITS = {"total": MOST} | dict.fromkeys(PARTS, MOST_OF_A_PART) | dict.fromkeys(COUNTS, 0)
COSTS = ("costs",)  # parts of metrics.json that no two runs share


def repeat(file: Path, out: Path | None = None) -> tuple[bool, list[str]]:
    """Run the notebooks of a finished run again with its parameters, and compare metrics.json.

    file: the run's manifest.json. out: where to; beside the run, with "-again" added, if None.
    Returns whether the numbers agree, and lines for a person. A repetition that was stopped goes
    on. BadInput on a manifest that is no finished run's, no metrics.json beside it, or a run in
    `out` that was ever finished, or stages without a run: they would be taken over, and nothing
    repeated.
    """
    file = Path(file)
    if file.name != artifacts.MANIFEST:
        raise BadInput(file, "another name", f"the {artifacts.MANIFEST} of a run")
    earlier = artifacts.manifest(file.parent, "kind", "notebooks", "finished")
    if earlier["kind"] != "run" or not earlier["finished"]:
        raise BadInput(file, "no finished run", "the manifest.json of one")
    before = numbers(measurements.read(file.parent))
    run = file.parent.resolve()
    out = out or run.with_name(f"{run.name}-again")
    if out.resolve() == run:
        raise BadInput("--out", out, "another folder than that of the run to compare with")
    there = reproduce.earlier_run(out)
    trained = any(
        (out / stage / artifacts.MANIFEST).is_file() for stage in artifacts.STAGES.values()
    )
    if there.get("finished") or there.get("finished_before") or (trained and not there):
        found = "a finished run" if there else "stages that were trained there"
        raise BadInput(out, found, "a folder without one, for the repetition (--out)")
    reproduce.run(file, out, numbers=earlier["notebooks"])
    now = numbers(measurements.read(out))
    return compare(before, now, reasons_to_differ(file.parent, out))


def numbers(metrics: dict, place: str = "") -> dict[str, float]:
    """All numbers in metrics.json, by their place: {"detector, logits, total": 40.1, …}."""
    found = {}
    for name, value in metrics.items():
        where = f"{place}, {name}" if place else name
        if isinstance(value, list):
            value = dict(enumerate(value, start=1))
        if isinstance(value, dict) and name not in COSTS:
            found |= numbers(value, where)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[where] = value
    return found


def compare(before: dict, after: dict, reasons: list[str]) -> tuple[bool, list[str]]:
    """Whether two runs' numbers agree, and lines that say how far.

    reasons: of `reasons_to_differ`. Without any the numbers must be equal. Else totals may differ
    by MOST points, parts by MOST_OF_A_PART, and counts not at all.
    """
    if before.keys() != after.keys():
        missing = sorted(before.keys() ^ after.keys())
        return False, [f"{len(missing)} numbers are in one run only, such as {missing[0]}"]
    differing = {
        name: after[name] - value for name, value in before.items() if after[name] != value
    }
    if not differing:
        return True, [f"all {len(before)} numbers are equal"]
    kinds = {name: name.rpartition(", ")[2] for name in differing}
    beyond = [name for name, kind in kinds.items() if abs(differing[name]) > LIMITS.get(kind, inf)]
    worst = max(beyond or differing, key=lambda name: abs(differing[name]))
    lines = [
        f"{len(differing)} of {len(before)} numbers differ",
        f"farthest apart: {worst}, {before[worst]:.4g} before and {after[worst]:.4g} now",
    ]
    if not reasons:
        lines.append("processor, threads, packages and code are the same: they ought to be equal")
        return False, lines
    within = "beyond" if beyond else "within"
    limits = f"{within} the {MOST:g} points that totals may differ by, {MOST_OF_A_PART:g} parts"
    return not beyond, [*lines, f"made otherwise: {'; '.join(reasons)}", limits]


def reasons_to_differ(earlier: Path, again: Path) -> list[str]:
    """Why two runs may have other numbers, as text: what they, their stages and rows were made
    with.

    A stage may come from an earlier run in the same folder, and so from another machine.
    """
    found = {}
    stages = artifacts.STAGES.values()
    rows = [path.relative_to(again) for stage in stages for path in again.glob(f"rows/*/{stage}")]
    for part in (".", *stages, *sorted(rows)):
        folders = [run / part for run in (earlier, again)]
        if all((folder / artifacts.MANIFEST).is_file() for folder in folders):
            made = [artifacts.manifest(folder) for folder in folders]
            found |= dict.fromkeys(environment_differences(*made))
    return list(found)


def environment_differences(earlier: dict, again: dict) -> list[str]:
    """What two runs or stages were made with that can change a number, where it differs, as text.

    A GPU that does not have to repeat exactly is a reason by itself.
    """
    pairs = {name: (earlier.get(name), again.get(name)) for name in ("commit", "processes")}
    for part, names in (
        ("machine", ("processor", "threads", "gpus")),
        ("versions", again["versions"]),
    ):
        for name in names:
            pairs[name] = earlier.get(part, {}).get(name), again[part].get(name)
    found = [f"{name} {old}, now {new}" for name, (old, new) in pairs.items() if old != new]
    exact = again.get("settings", {"deterministic": True})["deterministic"]
    if again["machine"].get("gpus") and not exact:
        found.append("trained on a GPU without deterministic=true")
    return found
