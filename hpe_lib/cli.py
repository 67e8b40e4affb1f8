"""The command `hpe`. Every command imports what it needs when it runs, so that --help does not wait
for torch.
"""

import contextlib
import errno
import io
import json
import os
import re
import sys
import traceback
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer
import typer.core
from typer.exceptions import Abort, TyperException

from hpe_lib.paper import RELEASED
from hpe_lib.workbook import artifacts, environment, locks
from hpe_lib.workbook.artifacts import BadInput, CellFailed, one_line

FULL = (errno.ENOSPC, errno.EDQUOT)
NO_MEMORY = "MemoryError|(?i:out of memory|allocate memory)|DataLoader worker .*(killed|exited)"
OUT_OF_MEMORY = "out of memory: smaller batch_size or image_size, or fewer workers or people"


class Escaped(Exception):
    """Carries, as its cause, an exception that typer would treat in its own way."""


class Commands(typer.core.TyperGroup):
    """typer takes an EOFError for Ctrl-C and is silent on a broken pipe: here both reach `main`."""

    def invoke(self, ctx: typer.Context) -> object:
        """What the command returns. Escaped instead of these errors."""
        try:
            return super().invoke(ctx)
        except (EOFError, OSError) as error:
            raise Escaped from error


app = typer.Typer(
    cls=Commands,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Human pose estimation by part heatmap regression (Bulat & Tzimiropoulos, ECCV 2016).",
    epilog="Synthetic people are kept in ~/.cache/hpe, or where HPE_CACHE says. "
    "HPE_DEBUG=1 shows the traceback of what failed.",
)
Preset = Annotated[
    str, typer.Option(help="A preset of notebooks/presets, or a path ending in .yaml.")
]
Parameters = Annotated[
    list[str],
    typer.Option(
        "-p",
        metavar="[NN.]name=value",
        help="Set a parameter, of notebook NN only if given. Repeatable. Each notebook's first "
        "code cell lists its parameters.",
    ),
]


AsJson = Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")]


def trust_trunk(name: str) -> str:
    """What --trunk says."""
    from hpe_lib.workbook import presets

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
        help="A trunk of your own that the weights were trained with: its code is imported.",
    ),
]
# What `hpe` alone prints.
START = """\
hpe predict photo.jpg --out found                    the joints of the people in a photograph
hpe score lsp --truth FILE --predictions FILE        anyone's predictions, by the official rule
hpe reproduce                                        the notebooks, 20 minutes on two cores

hpe --help lists all commands, hpe COMMAND --help the options of one.
"""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a command line and exit: 2 for bad input, 1 for what failed, 130 for Ctrl-C.

    Each of them is one line on stderr. With HPE_DEBUG=1 the traceback comes before it.
    """
    open_streams()
    if environment.torchrun_rank():  # the first of its processes speaks; errors are everybody's
        sys.stdout = open(os.devnull, "w")
    try:
        words = sys.argv[1:] if arguments is None else arguments
        code = 0
        if words:
            code = app(words, prog_name="hpe", standalone_mode=False)
        else:
            print(START, end="")
        if code == 130:  # typer gives Ctrl-C as an exit status
            raise KeyboardInterrupt
    except (Exception, KeyboardInterrupt) as error:
        code = failed(error.__cause__ if isinstance(error, Escaped) else error)
    sys.exit(flush_stdout(code if isinstance(code, int) else 0))


def open_streams() -> None:
    """Print "?" for what stdout's encoding lacks; open to nowhere what was closed at the start."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:  # or else the next file opened would be taken for it
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
            setattr(sys, name, open(number, "w", closefd=False))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def flush_stdout(code: int) -> int:
    """The exit status, 1 instead of 0 if stdout cannot be written now, before Python ends."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        error.filename = "stdout"
        return code or failed(error)
    return code


def failed(error: BaseException) -> int:
    """Say in one line what an exception means that nobody has caught; returns the exit status."""
    if os.environ.get("HPE_DEBUG", "") not in ("", "0"):
        traceback.print_exception(error)
    if isinstance(error, BrokenPipeError):  # such as `| head`: nobody listens any more
        return 1
    message, code = describe_error(error)
    message = one_line(message)
    with contextlib.suppress(OSError):  # a full disk under stderr
        print(f"hpe: {message if len(message) <= 999 else message[:999] + '…'}", file=sys.stderr)
    return code


def describe_error(error: BaseException) -> tuple[object, int]:
    """What to say of an exception, and the exit status."""
    kind = type(error).__name__
    text = str(error)
    if "Traceback (" in text:  # a loader's worker sends it as one text, the error itself last
        kind, _, text = text.strip().rpartition("\n")[2].partition(": ")
    if isinstance(error, BadInput):
        return error, 2
    if isinstance(error, TyperException):
        return error.format_message().replace("Value error, ", ""), 2
    if isinstance(error, (KeyboardInterrupt, Abort)):
        return "interrupted", 130
    if isinstance(error, OSError) and error.filename and error.errno not in FULL:
        return BadInput(error.filename, error.strerror, "a place that can be read or written"), 2
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return place + (error.strerror or f"{kind}: {text}"), 1
    if isinstance(error, (CellFailed, FloatingPointError)):
        return text, 1
    if isinstance(error, RuntimeError) and text.startswith("Symlink loop"):
        return text, 2
    if isinstance(error, UnicodeError):
        return f"a name or text that cannot be written as UTF-8: {text}", 2
    if re.search(NO_MEMORY, f"{kind} {text}"):
        return f"{OUT_OF_MEMORY} ({kind}: {text[:200]})", 1
    return f"{kind}: {text}", 1


REHEARSE = "Run nothing: say what is found, and what time and memory it would take here."
REPEAT = "Repeat the run that wrote this manifest.json, and compare the numbers."


@app.command()
def reproduce(
    preset: Preset = "synthetic",
    out: Annotated[Path, typer.Option(help="The run's folder; runs/PRESET if not given.")] = None,
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
        typer.Option(metavar="0,1,2", help="Train notebook 06's rows with these seeds."),
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help=REHEARSE)] = False,
    from_manifest: Annotated[Path, typer.Option(metavar="FILE", help=REPEAT)] = None,
):
    """Run the notebooks in order and keep the executed copies, weights and numbers in the run's
    folder.
    """
    if from_manifest:
        others = [*p, preset != "synthetic", start, only, fresh, seeds, dry_run]
        return repeat_run(from_manifest, out, others)
    p = [*p, f"06.seeds={seeds}"] if seeds else p
    if dry_run and (start or only):
        expected = "--dry-run without them: it tells of a whole run"
        raise BadInput("--dry-run", "--from or --only beside it", expected)
    if dry_run:
        from hpe_lib.workbook import estimate, presets

        for line in estimate.rehearse(presets.resolve(preset, p)):
            print(line, flush=True)
        return 0
    if fresh and (start or only):
        raise BadInput(
            "--fresh",
            "--from or --only beside it",
            "--fresh alone: it removes what they would build on",
        )
    from hpe_lib.workbook.reproduce import run

    out = out or Path("runs") / Path(preset).stem
    run(preset, out, p, start and start.zfill(2), only and only.zfill(2), fresh)
    print(f"the run is in {out}", flush=True)
    return 0


def repeat_run(manifest: Path, out: Path | None, others: list) -> int:
    """`hpe reproduce --from-manifest`: 0 if the numbers agree, else 1."""
    from hpe_lib.workbook import repeat

    if any(others):
        expected = "--out alone: the manifest has the parameters"
        raise BadInput("--from-manifest", "other options beside it", expected)
    agree, lines = repeat.repeat(manifest, out)
    print("\n".join(lines), flush=True)
    return 0 if agree else 1


@app.command()
def train(
    stage: Literal["detector", "regressor", "joint"],
    out: Annotated[
        Path, typer.Option(help="The run's folder; later stages read the earlier ones there.")
    ],
    preset: Preset = "synthetic",
    p: Parameters = (),
    init_from: Annotated[Path, typer.Option(help="Start from the weights in this folder.")] = None,
    trunk: OwnTrunk = "",
):
    """Train one stage without Jupyter: the same code, parameters and artifacts as notebooks 03, 04
    and 05.

    The detector's run also chooses the people and how targets are drawn; later stages take them as
    they are.
    """
    from hpe_lib.workbook import presets

    own = artifacts.NOTEBOOKS[stage]
    running = ("01", "02", own) if stage == "detector" else (own,)
    parameters = presets.resolve(preset, p, running=running)
    if stage == "detector" and trunk and trunk != parameters[own]["trunk"]:
        expected = f"the trunk to be trained: -p 03.trunk={trunk}"
        raise BadInput("--trunk", f"{trunk} beside trunk={parameters[own]['trunk']}", expected)
    from hpe_lib import evaluation, refusals, stages, training
    from hpe_lib.data.datasets import open_data, prepare
    from hpe_lib.targets import write_targets

    world = training.world()
    with locks.lock(out) if world.is_main_process else contextlib.nullcontext():
        with world.main_process_first():
            if stage == "detector" and world.is_main_process:
                artifacts.refuse_foreign_stage(out / artifacts.STAGES[stage])
                refusals.check_detector(parameters, out, init_from)
                prepare(out, **parameters["01"])
                write_targets(out, **parameters["02"])
            data = open_data(out)
        scorer = evaluation.monitor(data.val, data.image_size)
        for record in stages.train(stage, out, parameters[own], scorer, init_from=init_from):
            print(stages.record_line(record), flush=True)
    # Left to the interpreter's end, gloo's threads may abort the process.
    world.destroy_process_group()


DATA_ROOT = "images/ and joints.mat, for mpii the official .mat; leeds: lsp/ and lspet/."
SPLIT = (
    "mpii, lsp, leeds: the published one. Else train, val: the run's own people, test: those after "
    "them. all: everyone the folder holds, the default; val for leeds and where people are drawn."
)
ABSENT = "Leave out and count people whose image is absent, instead of stopping."
KEEP = "Keep scores, manifest and joints in this folder, as evidence: results/NAME."


@app.command()
def evaluate(
    data: Annotated[Literal["synthetic", "mpii", "lsp", "lspet", "leeds"], typer.Option()],
    weights: Annotated[
        Path,
        typer.Option(help="A run's folder, or a stage's. [default: the released]"),
    ] = None,
    data_root: Annotated[Path, typer.Option(help=DATA_ROOT)] = None,
    split: Annotated[Literal["all", "train", "val", "test"], typer.Option(help=SPLIT)] = None,
    only_present: Annotated[bool, typer.Option("--only-present", help=ABSENT)] = False,
    keep: Annotated[Path, typer.Option(help=KEEP)] = None,
    as_json: AsJson = False,
    trunk: OwnTrunk = "",
):
    """Score weights on people."""
    from hpe_lib import cascade, evaluation, photographs, prediction, training
    from hpe_lib.data.people import image_notes
    from hpe_lib.workbook import results, scoring

    folder = cascade.stage_folder(weights or RELEASED)
    world = training.world()
    if keep:
        results.refuse_foreign_results(keep)
    estimator = photographs.load(folder)
    with world.main_process_first():  # people are drawn once
        people = scoring.people_to_score(
            data, data_root, split, folder.parent, estimator.image_size, only_present
        )
    evaluation.scorable(people, data_root or data)
    notes = scoring.training_notes(people, folder, data_root) + image_notes(people)
    estimator.cascade.to(world.device)
    found = prediction.predict(people=people, **estimator.settings)
    world.destroy_process_group()  # as train does
    if keep and world.is_main_process:
        given = environment.command(hidden="--data-root")
        results.keep_scores(keep, folder, found, people, given, notes)
    score = evaluation.score(found.joints, people)
    score["notes"] += notes + scoring.notes_on(people)
    show(score, scoring.describe(str(folder), score, people), as_json)


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
        typer.Option(help="Newell's valid.h5: whose predictions they are, in its order."),
    ] = None,
    as_json: AsJson = False,
):
    """Score anyone's predictions against annotation files, without images: see docs/scoring.md."""
    from hpe_lib import evaluation
    from hpe_lib.workbook import scoring

    predicted, people = evaluation.read_files(data, truth, predictions, rows)
    found = evaluation.score(predicted, people)
    found["notes"] += scoring.notes_on(people)
    if predictions.samefile(truth):
        found["notes"].append("the truth: it is the file of the predictions, too")
    show(found, scoring.describe(predictions.name, found, people), as_json)


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(help="Photographs.")],
    out: Annotated[Path, typer.Option(help="The folder for STEM.png, the overlay, and STEM.json.")],
    weights: Annotated[
        Path,
        typer.Option(
            help="A run's folder, or a trained stage's; without it the released weights.",
        ),
    ] = None,
    boxes: Annotated[
        Path,
        typer.Option(help="JSON: {image: [[x, y, side] or [x1, y1, x2, y2], …], …}, px."),
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
    from hpe_lib import photographs

    stems = photographs.output_stems(images, out, boxes)
    estimator = photographs.load(weights)
    answers = photographs.predict_photographs(estimator, images, boxes, people == "detect")
    for stem, (image, pixels, found) in zip(stems, answers):
        photographs.write_prediction(stem, image, pixels, found)
        print(f"{image}: people: {len(found)}, {stem}.json and .png", flush=True)


@app.command()
def download(
    dataset: Literal["mpii", "lsp", "lspet"],
    root: Annotated[
        Path, typer.Option(help="The folder to fill; what is in it is never overwritten.")
    ],
):
    """Fetch a data set from whichever mirror gives it, going on where a transfer broke off."""
    from hpe_lib.data import download as fetching

    fetching.download(dataset, root)


@app.command("check-data")
def check_data(
    dataset: Literal["mpii", "lsp", "lspet", "leeds"],
    root: Annotated[Path, typer.Option(help="The folder that holds the annotations and images/.")],
    as_json: AsJson = False,
):
    """Say what a data folder holds: people, joints, images that are missing or broken, copies
    between splits.
    """
    from hpe_lib.data import check

    found = check.check_data(dataset, root)
    show(found, check.format_check(found), as_json)
    if found["broken"]:
        counts = {kind: found[kind]["count"] for kind in ("missing", "unreadable")}
        faults = [f"{count} images {kind}" for kind, count in counts.items() if count]
        faults += [f"{split} cannot be read" for split in found["problems"]]
        raise BadInput(root, ", ".join(faults), "every image of these people, whole")


def show(found: dict, text: str, as_json: bool) -> None:
    """Print what was found, as JSON or as a text for a person."""
    print(json.dumps(artifacts.plain(found), indent=2) if as_json else text, flush=True)
