"""Whom `hpe evaluate` scores, and a score in words."""

import os
from pathlib import Path

import numpy as np

from hpe_lib import evaluation
from hpe_lib.cascade import stage_folder, weights_hash
from hpe_lib.data import annotations
from hpe_lib.data.datasets import cache_folder, load_people, require_unchanged
from hpe_lib.data.drawn import drawn_key
from hpe_lib.data.lsp import drop_copies, leeds_training_keys
from hpe_lib.data.mpii import find_annotations
from hpe_lib.data.people import ABSENT_IMAGE, People
from hpe_lib.paper import MARGIN, RELEASED
from hpe_lib.workbook import artifacts, presets, schemas
from hpe_lib.workbook.artifacts import STAGES, BadInput

UNTOLD = "whom the weights have learned from cannot be told"


def people_to_score(
    data: str,
    data_root: Path | None,
    split: str | None,
    run: Path,
    image_size: int,
    only_present: bool = False,
) -> People:
    """The people of a split, as published (mpii, lsp).

    Splits that nobody has published are those of the run, if it is of this data set, or of the data
    set's preset.
    """
    if data == "synthetic" and (data_root or only_present):
        option = "--data-root" if data_root else "--only-present"
        raise BadInput(option, "synthetic people", "a data set in a folder: these are drawn")
    chosen = run / "data" / "manifest.json"
    manifest = artifacts.manifest(chosen.parent, "parameters") if chosen.is_file() else {}
    own = manifest.get("parameters", {})
    numbers = own
    if own.get("dataset") != data:
        numbers = presets.resolve("lspet" if data == "lspet" else "synthetic")["01"]
    root = data_root or numbers["data_root"]
    if data != "synthetic" and not root:
        raise BadInput(
            "--data-root", "nothing", f"the folder of {data}: its annotation and images/"
        )
    root = os.path.expanduser(root)
    split = split or ("val" if data in ("synthetic", "leeds") else "all")
    if data == "leeds" and split == "all":
        raise BadInput("--split all", "leeds", "train, val or test")
    count = len(annotations.lsp(Path(root) / "joints.mat")) if data == "lspet" else None
    people = split if data in ("mpii", "lsp", "leeds") else people_range(split, numbers, count)
    found = load_people(
        data,
        root,
        people,
        image_size,
        numbers["data_seed"],
        only_present or numbers["only_present"],
        own.get("margin", MARGIN),
        missing_points=own.get("missing_points", "as_labelled"),
        difficulty=numbers.get("difficulty", "medium"),
        cache=cache_folder(run),
    )
    complete = own.get("only_present") or not found.skipped.get(ABSENT_IMAGE)
    if numbers is own and complete:
        for half, wanted in manifest.get("fingerprints", {}).items():
            mixed = half == "train" and own.get("drawn")
            if not mixed and (people == own[half] or are_all_of(found, own[half], root)):
                chosen_then = without_copies(found, own, root) if half == "train" else found
                require_unchanged(chosen_then, half, wanted, chosen)
    return found


def are_all_of(found: People, people: str, root: Path) -> bool:
    """Are these all of the `people` of their data set, under whatever name they were asked for?

    LSP's "val" is its "test". False if that cannot be read, and where people are drawn.
    """
    if found.dataset == "synthetic":
        return False
    try:
        everyone = load_people(found.dataset, root, people, only_present=None)
    except BadInput:
        return False
    return np.array_equal(found.keys, everyone.keys)


def training_notes(people: People, folder: Path, data_root: Path | None = None) -> list[str]:
    """Notes if people are scored from whom a stage's weights have learned, or may have.

    The weights that they began from count as well.  folder: the stage's, beside its run's data/, or
    the released weights.  data_root: where the people who are scored come from; a run's own may
    have moved there.
    """
    learned = []
    notes = []
    try:
        if weights_hash(RELEASED) in origins(folder):
            learned += leeds_training_keys()
        stages = lineage(folder)
    except BadInput as error:
        notes = [f"{UNTOLD}: {error}"]
        stages = {folder: None}
    for stage, wanted in stages.items():
        try:
            if wanted and weights_hash(stage) != wanted:
                raise BadInput(stage, "other weights than these began from", "the same")
            learned += keys_learned_from(stage, people, data_root)
        except BadInput as error:
            notes = [f"{UNTOLD}: {error}"]
    if known := int(np.isin(people.keys, learned).sum()):
        what = f"the weights have learned from {known} of these {len(people)} people: no test score"
        notes.insert(0, what)
    return notes


def lineage(folder: Path) -> dict[Path, str | None]:
    """A stage's folder, and those of the stages that its run's stages began from (init_from), with
    the hash of the weights that were taken from there; None for the stage itself.
    """
    found = {}
    waiting = [(folder, None)]
    while waiting:
        stage, wanted = waiting.pop()
        if stage in found:
            continue
        found[stage] = wanted
        for place in stages_beside(stage):
            made = artifacts.manifest(place)
            if start := made.get("settings", {}).get("init_from"):
                waiting.append((start_folder(start), made.get("upstream", {}).get("init_from")))
    return found


def start_folder(start: str) -> Path:
    """The stage's folder that init_from names; as it is named if there is none any more."""
    try:
        return stage_folder(start)
    except BadInput:
        return Path(start)


def stages_beside(folder: Path) -> list[Path]:
    """A stage's folder and those of its run's other stages, as far as they are there."""
    places = dict.fromkeys((folder, *(folder.parent / name for name in STAGES.values())))
    return [place for place in places if (place / artifacts.MANIFEST).is_file()]


def keys_learned_from(folder: Path, people: People, data_root: Path | None) -> list[str]:
    """The keys of the people that a stage was trained on, as `training_keys`.

    BadInput if that cannot be told.
    """
    trained = artifacts.manifest(folder)
    run = folder.parent / "data"
    if not (run / artifacts.MANIFEST).is_file():
        if trained.get("data") and weights_hash(folder) != weights_hash(RELEASED):
            raise BadInput(run, "no such folder", "the people of the run that trained them")
        return []
    chosen = artifacts.manifest(run, "parameters")
    now = chosen.get("fingerprints", {}).get("train")
    then = trained.get("data", {}).get("train")
    if now and then and now != then:
        found = "people chosen again after these weights were trained"
        raise BadInput(run, found, "those they were trained on")
    return training_keys(chosen["parameters"], people, data_root)


def origins(folder: Path) -> set[str]:
    """The hashes of a stage's weights and of all that they and their run's stages began from."""
    made = [artifacts.manifest(place) for place in stages_beside(folder)]
    before = {value for manifest in made for value in manifest.get("upstream", {}).values()}
    return before | {manifest.get("weights_sha256") for manifest in made}


def training_keys(parameters: dict, people: People, data_root: Path | None) -> list[str]:
    """The keys of a run's training people; none if nobody of them is of these people's data set.

    parameters: of the run's data/.  BadInput if their annotations are not there any more.
    """
    own = parameters["dataset"]
    dataset = people.dataset
    if dataset == "synthetic" and f"-seed{parameters['data_seed']}-" not in people.images.source:
        return []
    if dataset == "synthetic" and parameters.get("drawn"):
        return drawn_keys(parameters["drawn"])
    if own != dataset and not {own, dataset} <= {"lsp", "lspet", "leeds"}:
        return []
    if own == "synthetic":
        return drawn_keys(parameters["train"])
    root = data_root if data_root and own == dataset else parameters["data_root"]
    learned = load_people(own, root, parameters["train"], only_present=None)
    return list(without_copies(learned, parameters, root).keys)


def without_copies(learned: People, parameters: dict, root: Path) -> People:
    """The people a run has learned from, of those it asked for: `drop_copies`, as the run did.

    parameters: of the run's data/.
    """
    dataset = parameters["dataset"]
    if dataset not in ("lsp", "lspet"):  # of leeds its loader has left them out, others have none
        return learned
    held_out = load_people(dataset, root, parameters["val"], only_present=None)
    return drop_copies(learned, held_out.keys)


def drawn_keys(people: str) -> list[str]:
    """The keys of synthetic people, FIRST-LAST."""
    rows = schemas.person_range(people)[1]
    return [drawn_key(number) for number in range(rows.start, rows.stop)]


def people_range(split: str, numbers: dict, count: int | None) -> str:
    """A split that is not published, as FIRST-LAST. count: people the folder holds, None: drawn, so
    without end.
    """
    if split in ("train", "val"):
        return numbers[split]
    if split == "all":
        if count is None:
            raise BadInput("--split all", "synthetic people, who have no end", "train, val or test")
        return f"1-{count}"
    first = 1 + max(
        schemas.person_range(numbers[part])[1].stop or count for part in ("train", "val")
    )
    if count is not None and first > count:
        raise BadInput(
            "--split test", f"{count} people, none after train and val", f"people from {first} on"
        )
    return f"{first}-{count or first + 999}"


def released_files(mpii_root: str, lsp_root: str) -> dict[str, tuple]:
    """Published predictions in downloaded folders: {name: arguments of `evaluation.read_files`}.

    mpii_root: with the official .mat and predictions/.  lsp_root: with labels and pred*.mat, which
    are scored on every label file. "": not looked for. BadInput if a folder lacks either.
    """
    found = {}
    for dataset, root in (("mpii", mpii_root), ("lsp", lsp_root)):
        if not root:
            continue
        folder = Path(root)
        if dataset == "mpii":
            labels = [find_annotations(folder)]
            files = sorted(folder.glob("predictions/[!.]*"))
            files = [file for file in files if file.suffix in (".mat", ".h5")]
            rows = folder / "valid.h5"
        else:
            names = ("lsp-joints-PC.mat", "lsp-joints-OC.mat", "joints.mat")
            labels = [folder / name for name in names if (folder / name).is_file()]
            files = sorted(folder.glob("pred*.mat"))
            rows = None
        if not labels or not files:
            lacking = "annotation" if not labels else "predictions"
            raise BadInput(folder, f"no {lacking}", f"what hpe download {dataset} puts there")
        for file in files:
            for truth in labels:
                name = f"{file.name}, {truth.stem}" if dataset == "lsp" else file.name
                found[name] = (dataset, truth, file, rows)
    return found


def notes_on(people: People) -> list[str]:
    """What must be said beside every score of these people, as text and as JSON."""
    notes = [f"{count} people skipped: {why}" for why, count in people.skipped.items() if count]
    if people.center_from_joints:
        notes.append("the crops are placed by the annotation: a hint from the truth")
    return notes


def describe(name: str, score: dict, people: People) -> str:
    """A score as text for a person, with what must be said beside it."""
    lines = [f"truth: {people.source}"] if people.source else []
    lines.append(
        f"{score['metric']} of {score['persons']} people, {score['joints']} joints; "
        "ci95: bootstrap over people"
    )
    counted = {
        "people left out: no normaliser that is annotated and positive": score["left_out"],
        "predictions not finite: wrong": score["not_finite"],
    }
    lines += [f"{count} {what}" for what, count in counted.items() if count]
    lines += [f"note: {note}" for note in score["notes"]]
    if people.images is not None and not people.center_from_joints:  # of files nobody knows
        lines.append("the crops are placed about the images' centres: no hint from the truth")
    return "\n".join([*lines, "", evaluation.table({name: score}).round(2).T.to_string()])
