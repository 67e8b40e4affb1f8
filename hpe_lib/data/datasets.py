"""Load people by data set name, and save or open a run's choice of people."""

import contextlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from hpe_lib.data.annotations import is_positive
from hpe_lib.data.drawn import load_drawn
from hpe_lib.data.lsp import drop_copies, load_leeds, load_lsp, load_lspet
from hpe_lib.data.mpii import load_mpii
from hpe_lib.data.people import (
    People,
    center_on_images,
    concatenate,
    image_notes,
    image_of,
    replace_midpoints,
    require_images,
)
from hpe_lib.paper import MARGIN
from hpe_lib.workbook import artifacts, locks
from hpe_lib.workbook.artifacts import BadInput

LOADERS = {"mpii": load_mpii, "lsp": load_lsp, "lspet": load_lspet, "leeds": load_leeds}


def load_people(
    dataset: str,
    data_root: str | Path = "",
    people: str = "1-1000",
    image_size: int = 128,
    data_seed: int = 0,
    only_present: bool | None = False,
    margin: float = MARGIN,
    missing_points: str = "as_labelled",
    difficulty: str = "medium",
    cache: Path | None = None,
) -> People:
    """People of a data set by its name.

    dataset: "synthetic", drawn into `cache` with image_size px and data_seed, or one of LOADERS,
        read from data_root.  cache: None stands for `cache_folder` of runs/.
    people: a range, counted from 1, a split, or a range of a split: "1-8", "val", "val 1-8".
    only_present: leave out people whose image is absent, instead of raising BadInput. None does
        not look for images (annotations only); LSP's frames then have no centre.
    margin: side of the frame in body heights (F1); ignored for synthetic people.
    missing_points: of pelvis and thorax, which LSP and LSPET lack: "as_labelled", "withheld" or
        "invented", see people.replace_midpoints.
    difficulty: of synthetic people, a key of synthetic.DIFFICULTIES: easy, medium or hard.

    Raises BadInput on an unknown data set, and as its loader.
    """
    if dataset == "synthetic":
        found = load_drawn(people, image_size, data_seed, difficulty, cache or cache_folder("runs"))
    elif dataset in LOADERS:
        found = LOADERS[dataset](Path(os.path.expanduser(data_root)), people)
        found = replace(found, side=margin * found.body)
        if only_present is not None:
            found = center_on_images(require_images(found, only_present))
    else:
        raise BadInput("dataset", repr(dataset), f"synthetic, {', '.join(LOADERS)}")
    if missing_points == "as_labelled":
        return found
    if missing_points not in ("withheld", "invented"):
        raise BadInput("missing_points", repr(missing_points), "as_labelled, withheld or invented")
    return replace_midpoints(found, missing_points == "invented")


@dataclass(frozen=True)
class Data:
    """What a run trains on (train), what it reports on (val), and how they are framed."""

    train: People
    val: People
    image_size: int
    manifest: dict


def prepare(out: str | Path, **parameters: str | int | float | bool) -> Data:
    """Choose a run's people: read every image once, then write OUT/data/manifest.json.

    parameters: those of notebook 01's cell, dataset, data_root, train, val, image_size, data_seed,
        difficulty, only_present, margin and missing_points, as load_people takes them, and drawn:
        synthetic people, "FIRST-LAST", who are added to those to train on ("": nobody).

    Raises BadInput, before anything is written, on the first file that cannot be read, if train
    and val share a person or an image, if nobody of val could be scored, or while the run is being
    trained.
    """
    locks.check_idle(Path(out))
    data = _load_both(out, parameters)
    train, val = (set(map(image_of, half.keys)) for half in (data.train, data.val))
    if shared := train & val:
        found = f"{len(shared)} in both, first {min(shared)}"
        raise BadInput("train and val", found, "no person and no image in both")
    if not is_positive(data.val.normaliser).any():
        found = f"nobody of {len(data.val)} with a positive normaliser for {data.val.metric}"
        raise BadInput("val", found, "people who can be scored")
    halves = {"train": data.train, "val": data.val}
    for people in halves.values():
        check_images(people)
    for note in image_notes(data.train) + image_notes(data.val):
        print(f"note: {note}", flush=True)
    root = os.path.expanduser(parameters["data_root"])
    manifest = {
        "kind": "data",
        "parameters": {**parameters, "data_root": str(Path(root).resolve()) if root else ""},
        "fingerprints": {name: people.fingerprint() for name, people in halves.items()},
        "skipped": {name: people.skipped for name, people in halves.items()},
        "sources": {name: people.source for name, people in halves.items()},
    }
    return replace(data, manifest=artifacts.write_manifest(Path(out) / "data", manifest))


def open_data(out: str | Path) -> Data:
    """The people that `prepare` chose for this run.

    Raises BadInput if nobody was chosen yet, or the people have changed since.
    """
    path = Path(out) / "data" / "manifest.json"
    if not path.is_file():
        raise BadInput(path, "no such file", "the people of this run: notebook 01 chooses them")
    manifest = artifacts.manifest(path.parent, "parameters", "fingerprints")
    data = _load_both(out, manifest["parameters"])
    for name, fingerprint in manifest["fingerprints"].items():
        require_unchanged(getattr(data, name), name, fingerprint, path)
    return replace(data, manifest=manifest)


def require_unchanged(people: People, name: str, fingerprint: str, path: Path) -> None:
    """BadInput, naming the manifest at `path`, if people are not those whose fingerprint it has."""
    if people.fingerprint() != fingerprint:
        found = f"{name} people that have changed since"
        raise BadInput(path, found, "those of this run: run notebook 01 again")


def cache_folder(out: str | Path) -> Path:
    """Where synthetic people are kept, for all runs: $HPE_CACHE, or the user's cache folder.

    Where that cannot be written (no home), in the run itself, which an ablation's rows share.
    """
    if chosen := os.environ.get("HPE_CACHE"):
        folder = Path(os.path.expanduser(chosen))
        if str(folder).startswith("~"):
            raise BadInput("HPE_CACHE", chosen, "a folder, or ~ of a user who exists")
        return folder.resolve()
    folder = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "hpe"
    if folder.is_absolute():
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    run = Path(out).resolve()
    return (run.parents[1] if run.parent.name == "rows" else run) / "cache"


def check_images(people: People) -> None:
    """Decode every image once: a broken one is found now, not in the tenth epoch.

    Raises BadInput on the first that cannot be read.
    """
    progress = f"reading {people.dataset}"
    for row in tqdm(range(len(people)), progress, disable=None, leave=False, mininterval=5):
        people.images[row]


def add_drawn(people: People, drawn: People) -> People:
    """Real people and drawn ones to train on. The drawn ones have no normaliser of the real ones'
    metric, so they are never scored.
    """
    drawn = replace(drawn, normaliser=np.full(len(drawn), np.nan))
    return concatenate(f"{people.dataset}+synthetic", [people, drawn])


def check_drawn(dataset: str, drawn: str) -> None:
    """BadInput if synthetic people are to be added to synthetic ones."""
    if drawn and dataset == "synthetic":
        raise BadInput("drawn", drawn, "nobody where all are drawn")


def _load_both(out: str | Path, parameters: dict) -> Data:
    halves = ("train", "val", "drawn")
    shared = {name: value for name, value in parameters.items() if name not in halves}
    train, val = (
        load_people(**shared, people=parameters[half], cache=cache_folder(out))
        for half in ("train", "val")
    )
    if parameters["dataset"] in ("lsp", "lspet"):  # of leeds its loader leaves them out
        train = drop_copies(train, val.keys)
    if drawn := parameters.get("drawn"):
        check_drawn(train.dataset, drawn)
        shared["dataset"] = "synthetic"
        more = load_people(**shared, people=drawn, cache=cache_folder(out))
        train = add_drawn(train, more)
    return Data(train, val, parameters["image_size"], {})
