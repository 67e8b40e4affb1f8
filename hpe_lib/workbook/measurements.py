"""What a run's notebooks have measured: OUT/metrics/NN.json, and all of it in OUT/metrics.json.

Numbers measured on other people or weights than the run has now, or with another decoder or flip
test, are left out.
"""

import contextlib
import hashlib
from pathlib import Path

from hpe_lib.workbook import artifacts
from hpe_lib.workbook.artifacts import NOTEBOOKS, STAGES, BadInput

NUMBERED = "[0-9][0-9].json"  # a notebook's numbers
READ_BY = ("decoder", "flip_test")  # settings by which the cascade's maps are read


def write(out: str | Path, number: str, values: dict) -> dict:
    """Write what a notebook measured: OUT/metrics/NN.json, and all notebooks': OUT/metrics.json.

    values: {name: value}; a name belongs to one notebook. Returns what metrics.json then holds.
    BadInput as `refuse_foreign`.
    """
    refuse_foreign(out)
    folder = Path(out) / "metrics"
    content = artifacts.json_bytes(values)
    measured = measured_on(out)
    measured[number] = {"sha256": hashlib.sha256(content).hexdigest(), "on": basis(out, number)}
    # The manifest first: it says whose the files are, also when this is killed.
    artifacts.write_manifest(folder, {"kind": "numbers", "notebooks": measured})
    artifacts.write_bytes(folder / f"{number}.json", content)
    together = still_valid(out, measured)
    artifacts.write_json(Path(out) / artifacts.METRICS, together)
    return together


def refuse_foreign(out: str | Path) -> None:
    """BadInput if files of the names that notebooks write are there, and no notebook wrote them."""
    folder = Path(out) / "metrics"
    artifacts.refuse_foreign_manifest(folder)
    files = sorted(folder.glob(NUMBERED))
    if not (folder / artifacts.MANIFEST).is_file():
        files.append(Path(out) / artifacts.METRICS)
    elif measured := measured_on(out):
        files = [path for path in files if path.stem not in measured]
    else:  # damaged
        files = []
    for path in files:
        if path.is_file():
            found = "a file that no run has written"
            raise BadInput(path, found, "a run's folder, or one without it")


def read(out: str | Path, needed: str = "") -> dict:
    """The numbers that a run's notebooks have written, of the people and weights it has now.

    needed: a number without which the reader cannot go on, as "cascade".
    BadInput if it is not there, or none at all. metrics.json itself is for others to read: if it
    was changed by hand, a line says so, and the notebooks' own files are read.
    """
    path = Path(out) / artifacts.METRICS
    together = found = read_file(path)
    if (Path(out) / "metrics").is_dir():
        together = artifacts.plain(still_valid(out, measured_on(out)))
    if together != found:
        print(f"{path}: not what the notebooks have written; taken from metrics/")
    if needed and needed not in together:
        expected = "that of this run's people and weights: run notebooks 03 to 05 again"
        raise BadInput(path, f"no {needed!r}", expected)
    return together


def still_valid(out: str | Path, measured: dict) -> dict:
    """All notebooks' numbers as they were written, and of the people and weights that are there.

    measured: as `measured_on`. What is left out is said in a line.
    """
    together = {}
    for path in sorted((Path(out) / "metrics").glob(NUMBERED)):
        found = measured.get(path.stem, {})
        if found.get("sha256") != artifacts.file_hash(path):
            print(f"{path}: changed since its notebook wrote it, and left out")
        elif is_outdated(out, path.stem, found["on"]):
            other = "of other people, weights, decoder or flip test than the run has now"
            print(f"{path}: {other}, and left out")
        else:
            together |= read_file(path)
    return together


def measured_on(out: str | Path) -> dict:
    """Which numbers were written, and of what: {notebook: {"sha256", "on": `basis`}}."""
    with contextlib.suppress(BadInput):  # absent or damaged: then none of them can be relied on
        return artifacts.manifest(Path(out) / "metrics", "notebooks")["notebooks"]
    return {}


def basis(out: str | Path, number: str) -> dict:
    """What a notebook's numbers rest on: hashes of the run's people and of its stages' weights,
    and how the cascade's maps are read.
    """
    found = {}
    writers = {"data": "01"} | {STAGES[stage]: notebook for stage, notebook in NOTEBOOKS.items()}
    for folder, first in writers.items():
        if first <= number and (Path(out) / folder / artifacts.MANIFEST).is_file():
            try:
                entries = artifacts.manifest(Path(out) / folder)
            except BadInput:
                entries = {"weights_sha256": "damaged"}
            found[folder] = entries.get("fingerprints") or entries.get("weights_sha256")
            if folder == STAGES["joint"]:
                settings = entries.get("settings", {})
                found |= {name: settings.get(name) for name in READ_BY}
    return found


def is_outdated(out: str | Path, number: str, on: dict) -> bool:
    """Do a notebook's numbers rest on something else than the run has now?

    on: their `basis`. Older ones do not say how the maps were read.
    """
    now = basis(out, number)
    return on != {name: now[name] for name in now if name in on or name not in READ_BY}


def read_file(path: Path) -> dict:
    """A file of notebooks' numbers. BadInput if it is absent or not what `schemas` allow."""
    found = artifacts.read_json(path)
    artifacts.check(found, "metrics", path)
    return found
