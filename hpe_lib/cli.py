"""The command `hpe`. Every command imports what it needs when it runs, so that --help does not wait for torch."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from typer.exceptions import Abort, TyperException

from hpe_lib.artifacts import BadInput, one_line

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Human pose estimation by part heatmap regression (Bulat & Tzimiropoulos, ECCV 2016).",
)
Preset = Annotated[
    str, typer.Option(help="A preset of notebooks/presets, or a path ending in .yaml.")
]
Parameters = Annotated[
    list[str],
    typer.Option(
        "-p",
        metavar="[NN.]name=value",
        show_default=False,
        help="Set a parameter, of notebook NN only if given. Repeatable.",
    ),
]


def trust_trunk(name):
    """What --trunk says."""
    from hpe_lib import presets

    if name and ":" not in name:
        raise BadInput("--trunk", repr(name), "module:function")
    presets.trust_trunks({"trunk": name})
    return name


OwnTrunk = Annotated[
    str,
    typer.Option(
        "--trunk",
        metavar="module:function",
        callback=trust_trunk,
        show_default=False,
        help="A trunk of your own that the weights were trained with: its code is imported.",
    ),
]
# A stage's notebooks, its own last: people and targets are decided with the detector and stay as they are then.
NOTEBOOKS = {"detector": ("01", "02", "03"), "regressor": ("04",), "joint": ("05",)}


def main(arguments=None):
    """Run a command line. One line on stderr and exit status 2 for bad input, 1 for what failed, 130 for Ctrl-C."""
    if (
        os.environ.get("RANK", "0") != "0"
    ):  # of torchrun's processes the first speaks; errors are everybody's
        sys.stdout = open(os.devnull, "w")
    try:
        code = app(arguments or sys.argv[1:] or ["--help"], prog_name="hpe", standalone_mode=False)
    except BadInput as error:
        code = complain(error, 2)
    except TyperException as error:
        code = complain(error.format_message().replace("Value error, ", ""), 2)
    except OSError as error:
        code = complain(
            BadInput(error.filename, error.strerror, "a place that can be read or written"), 2
        )
    except FloatingPointError as error:
        code = complain(error, 1)
    except (Abort, KeyboardInterrupt):
        code = 130
    if code == 130:  # typer gives Ctrl-C as an exit status
        complain("interrupted", 130)
    sys.exit(code if isinstance(code, int) else 0)


def complain(message, code):
    """Say on stderr, in one line, what went wrong; returns the exit status."""
    print(f"hpe: {one_line(message)}", file=sys.stderr)
    return code


@app.command()
def reproduce(
    preset: Preset = "synthetic",
    out: Annotated[
        Path, typer.Option(help="The run's folder; runs/PRESET if not given.", show_default=False)
    ] = None,
    start: Annotated[
        str, typer.Option("--from", metavar="NN", help="Begin with this notebook.")
    ] = None,
    only: Annotated[str, typer.Option(metavar="NN", help="Run this notebook only.")] = None,
    p: Parameters = (),
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Remove first what an earlier run left.")
    ] = False,
    seeds: Annotated[
        str,
        typer.Option(
            metavar="0,1,2", help="Train notebook 06's rows with these seeds.", show_default=False
        ),
    ] = "",
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Run nothing: say what is found, and what time and memory it would take here.",
        ),
    ] = False,
):
    """Run the notebooks in order and keep the executed copies, weights and numbers in the run's folder."""
    p = [*p, f"06.seeds={seeds}"] if seeds else p
    if dry_run:
        from hpe_lib import bench, presets

        for line in bench.rehearse(presets.resolve(preset, p)):
            print(line, flush=True)
        return 0
    if fresh and (start or only):
        raise BadInput(
            "--fresh",
            "--from or --only beside it",
            "--fresh alone: it removes what they would build on",
        )
    from hpe_lib.reproduce import CellFailed, run

    out = out or Path("runs") / Path(preset).stem
    try:
        run(preset, out, p, start and start.zfill(2), only and only.zfill(2), fresh)
    except CellFailed as error:
        return complain(error, 1)
    print(f"the run is in {out}", flush=True)
    return 0


@app.command()
def train(
    stage: Literal["detector", "regressor", "joint"],
    out: Annotated[
        Path, typer.Option(help="The run's folder; later stages read the earlier ones there.")
    ],
    preset: Preset = "synthetic",
    p: Parameters = (),
    init_from: Annotated[
        Path, typer.Option(help="Start from the weights in this folder.", show_default=False)
    ] = None,
    trunk: OwnTrunk = "",
):
    """Train one stage without Jupyter: the same code, parameters and artifacts as notebooks 03, 04 and 05.

    The detector's run also chooses the people and how targets are drawn; later stages take them as they are.
    """
    from hpe_lib import presets

    parameters = presets.resolve(preset, p, running=NOTEBOOKS[stage])
    from hpe_lib import datasets, evaluation, training

    world = training.world()
    with world.main_process_first():
        if stage == "detector" and world.is_main_process:
            datasets.prepare(out, **parameters["01"])
            training.write_targets(out, **parameters["02"])
        data = datasets.opened(out)
    scorer = evaluation.monitor(data.val, data.image_size)
    for record in training.train(
        stage, out, parameters[NOTEBOOKS[stage][-1]], scorer, init_from=init_from
    ):
        print(training.line(record), flush=True)
    world.destroy_process_group()  # left to the interpreter's end, gloo's threads may abort the process


@app.command()
def evaluate(
    weights: Annotated[Path, typer.Option(help="A run's folder, or a trained stage's.")],
    data: Annotated[Literal["synthetic", "mpii", "lsp", "lspet"], typer.Option()],
    data_root: Annotated[
        Path,
        typer.Option(
            help="The folder that holds images/ and joints.mat, for mpii the official .mat.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[
        Literal["all", "train", "val", "test"],
        typer.Option(
            help="mpii, lsp: the published one. Else train, val: the run's own people, test: those after them. "
            "all: everyone the folder holds, the default; val where people are drawn.",
            show_default=False,
        ),
    ] = None,
    only_present: Annotated[
        bool,
        typer.Option(
            "--only-present",
            help="Leave out and count people whose image is absent, instead of stopping.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the score as JSON.")] = False,
    trunk: OwnTrunk = "",
):
    """Score weights on people."""
    from hpe_lib import artifacts, cascade, evaluation, prediction, training

    folder, world = cascade.stage_folder(weights), training.world()
    made = prediction.load(folder)
    with world.main_process_first():  # people are drawn once
        people = people_to_score(
            data, data_root, split, folder.parent, made.image_size, only_present
        )
    chosen = {"flip_test": made.flip_test, "decoder": made.decoder}
    network = made.cascade.to(world.device)
    found = prediction.predict(network, people, made.image_size, **chosen)
    world.destroy_process_group()  # as train does
    score = evaluation.score(found.joints, people)
    print(
        json.dumps(artifacts.plain(score), indent=2)
        if as_json
        else report(str(folder), score, people)
    )


@app.command()
def score(
    data: Literal["mpii", "lsp"],
    truth: Annotated[
        Path,
        typer.Option(
            help="mpii: the official .mat, Newell's .h5, Tompson's .mat or HRNet or "
            "MMPose JSON. lsp: joints.mat, PC or OC."
        ),
    ],
    predictions: Annotated[
        Path,
        typer.Option(
            help="A .mat or .h5 with one array, people × joints × (x, y), in the truth's pixels."
        ),
    ],
    rows: Annotated[
        Path,
        typer.Option(
            help="Newell's valid.h5: whose predictions they are, in its order.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the score as JSON.")] = False,
):
    """Score anyone's predictions against annotation files, without images: see docs/scoring.md."""
    from hpe_lib import artifacts, evaluation

    predicted, people = evaluation.read_files(data, truth, predictions, rows)
    found = evaluation.score(predicted, people)
    print(
        json.dumps(artifacts.plain(found), indent=2)
        if as_json
        else f"truth: {people.source}\n{report(predictions.name, found, people)}"
    )


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(help="Photographs.", show_default=False)],
    weights: Annotated[Path, typer.Option(help="A run's folder, or a trained stage's.")],
    out: Annotated[Path, typer.Option(help="The folder for STEM.png, the overlay, and STEM.json.")],
    boxes: Annotated[
        Path,
        typer.Option(
            help="JSON: {image: [[x, y, side] or [x1, y1, x2, y2], …], …}, px.", show_default=False
        ),
    ] = None,
    people: Annotated[
        Literal["image", "detect"],
        typer.Option(
            help="Without --boxes: each image is one person, or torchvision's detector finds them."
        ),
    ] = "image",
    trunk: OwnTrunk = "",
):
    """Find people's joints in photographs."""
    from hpe_lib import artifacts, prediction

    stems = prediction.output_stems(images, out, boxes)
    estimator = prediction.load(weights)
    for stem, found in zip(
        stems, prediction.photographs(estimator, images, boxes, people == "detect")
    ):
        image = prediction.read_image(Path(found["image"]))
        artifacts.write_bytes(
            f"{stem}.png", prediction.encode_png(prediction.overlay(image, found["people"]))
        )
        artifacts.write_json(f"{stem}.json", found)
        print(f"{found['image']}: people: {len(found['people'])}, {stem}.json and .png", flush=True)


@app.command()
def download(
    dataset: Literal["mpii", "lsp", "lspet"],
    root: Annotated[
        Path, typer.Option(help="The folder to fill; what is in it is never overwritten.")
    ],
):
    """Fetch a data set from whichever mirror gives it, going on where a transfer broke off."""
    from hpe_lib import downloads

    downloads.download(dataset, root, say=lambda line: print(line, flush=True))


@app.command("check-data")
def check_data(
    dataset: Literal["mpii", "lsp", "lspet"],
    root: Annotated[Path, typer.Option(help="The folder that holds the annotations and images/.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
):
    """Say what a data folder holds: people, joints, images that are missing or broken, copies between splits."""
    from hpe_lib import downloads

    found = downloads.check(dataset, root)
    print(json.dumps(found, indent=2) if as_json else downloads.report(found), flush=True)
    if found["broken"]:
        faults = [f"{found[kind]['count']} images {kind}" for kind in ("missing", "unreadable")]
        faults += [f"no people of {split}" for split in found["problems"]]
        raise BadInput(root, ", ".join(faults), "every image of these people, whole")


@app.command()
def bench(as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False):
    """Measure what is claimed of speed, here and now: ours beside a reference, in the same run. Takes minutes."""
    from hpe_lib import artifacts, bench

    rows = bench.table()
    print(
        json.dumps(artifacts.plain(rows.to_dict("records")), indent=2, ensure_ascii=False)
        if as_json
        else rows.round(2).to_string(index=False)
    )


def people_to_score(data, data_root, split, run, image_size, only_present=False):
    """The people of a split: as published (mpii, lsp), or by notebook 01's numbers: the run's own if they are of this
    data set, else its preset's."""
    from hpe_lib import annotations, artifacts, datasets, presets

    chosen = run / "data" / "manifest.json"
    own = artifacts.manifest(chosen.parent, "parameters")["parameters"] if chosen.is_file() else {}
    numbers = (
        own
        if own.get("dataset") == data
        else presets.resolve(data if data == "lspet" else "synthetic")["01"]
    )
    root = data_root or numbers["data_root"]
    if data != "synthetic" and not root:
        raise BadInput(
            "--data-root", "nothing", f"the folder of {data}: its annotation and images/"
        )
    split = split or ("val" if data == "synthetic" else "all")
    count = len(annotations.lsp(Path(root) / "joints.mat")) if data == "lspet" else None
    people = split if data in ("mpii", "lsp") else rows(split, numbers, count)
    return datasets.load(
        data,
        root,
        people,
        image_size,
        numbers["data_seed"],
        only_present or numbers["only_present"],
        own.get("margin", datasets.NEWER["margin"]),
        cache=datasets.cache_of(run),
    )


def rows(split, numbers, count):
    """A split that is not published, as FIRST-LAST. count: people the folder holds, None: drawn, so without end."""
    from hpe_lib import presets

    if split in ("train", "val"):
        return numbers[split]
    if split == "all":
        if count is None:
            raise BadInput("--split all", "drawn people, who have no end", "train, val or test")
        return f"1-{count}"
    first = 1 + max(
        presets.person_range(numbers[part])[1].stop or count for part in ("train", "val")
    )
    if count is not None and first > count:
        raise BadInput(
            "--split test", f"{count} people, none after train and val", f"people from {first} on"
        )
    return f"{first}-{count or first + 999}"


def report(name, score, people):
    """A score as text for a person, with what must be said beside it."""
    from hpe_lib import evaluation

    lines = [
        f"{score['metric']} of {score['persons']} people, {score['joints']} joints; ci95: bootstrap over people"
    ]
    lines += (
        [f"{score['left_out']} people left out: their normaliser is not annotated"]
        if score["left_out"]
        else []
    )
    lines += [f"{score['not_finite']} predictions not finite: wrong"] if score["not_finite"] else []
    lines += [f"{count} people skipped: {why}" for why, count in people.skipped.items() if count]
    if people.center_from_joints:
        lines.append("the crops are placed by the annotation: a hint from the truth")
    return "\n".join([*lines, "", evaluation.table({name: score}).round(2).T.to_string()])
