"""The command `hpe`. Every command imports what it needs when it runs, so that --help does not wait for torch."""

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from typer.exceptions import Abort, TyperException

from hpe_lib.artifacts import BadInput, one_line

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
                  help="Human pose estimation by part heatmap regression (Bulat & Tzimiropoulos, ECCV 2016).")
Preset = Annotated[str, typer.Option(help="A preset of notebooks/presets, or a path ending in .yaml.")]
Parameters = Annotated[list[str], typer.Option("-p", metavar="[NN.]name=value", show_default=False,
                                               help="Set a parameter, of notebook NN only if given. Repeatable.")]
# A stage's notebooks, its own last: people and targets are decided with the detector and stay as they are then.
NOTEBOOKS = {"detector": ("01", "02", "03"), "regressor": ("04",), "joint": ("05",)}


def main(arguments=None):
    """Run a command line. One line on stderr and exit status 2 for bad input, 1 for what failed, 130 for Ctrl-C."""
    try:
        code = app(arguments or sys.argv[1:] or ["--help"], prog_name="hpe", standalone_mode=False)
    except BadInput as error:
        code = complain(error, 2)
    except TyperException as error:
        code = complain(error.format_message().replace("Value error, ", ""), 2)
    except OSError as error:
        code = complain(BadInput(error.filename, error.strerror, "a place that can be read or written"), 2)
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
def reproduce(preset: Preset = "synthetic",
              out: Annotated[Path, typer.Option(help="The run's folder; runs/PRESET if not given.",
                                                show_default=False)] = None,
              start: Annotated[str, typer.Option("--from", metavar="NN", help="Begin with this notebook.")] = None,
              only: Annotated[str, typer.Option(metavar="NN", help="Run this notebook only.")] = None,
              p: Parameters = (),
              fresh: Annotated[bool, typer.Option("--fresh", help="Remove first what an earlier run left.")] = False):
    """Run the notebooks in order and keep the executed copies, weights and numbers in the run's folder."""
    if fresh and (start or only):
        raise BadInput("--fresh", "--from or --only beside it", "--fresh alone: it removes what they would build on")
    from hpe_lib.reproduce import CellFailed, run

    out = out or Path("runs") / Path(preset).stem
    try:
        run(preset, out, p, start and start.zfill(2), only and only.zfill(2), fresh)
    except CellFailed as error:
        return complain(error, 1)
    print(f"the run is in {out}", flush=True)
    return 0


@app.command()
def train(stage: Literal["detector", "regressor", "joint"],
          out: Annotated[Path, typer.Option(help="The run's folder; later stages read the earlier ones there.")],
          preset: Preset = "synthetic", p: Parameters = (),
          init_from: Annotated[Path, typer.Option(help="Start from the weights in this folder.",
                                                  show_default=False)] = None):
    """Train one stage without Jupyter: the same code, parameters and artifacts as notebooks 03, 04 and 05.

    The detector's run also chooses the people and how targets are drawn; later stages take them as they are.
    """
    from hpe_lib import presets

    parameters = presets.resolve(preset, p, running=NOTEBOOKS[stage])
    from hpe_lib import datasets, training

    if stage == "detector":
        datasets.prepare(out, **parameters["01"])
        training.write_targets(out, **parameters["02"])
    for record in training.train(stage, out, parameters[NOTEBOOKS[stage][-1]], init_from=init_from):
        print(training.line(record), flush=True)


@app.command()
def evaluate(weights: Annotated[Path, typer.Option(help="A run's folder, or a trained stage's.")],
             data: Annotated[Literal["synthetic", "lspet"], typer.Option()],
             data_root: Annotated[Path, typer.Option(help="The folder that holds joints.mat and images/.",
                                                     show_default=False)] = None,
             split: Annotated[Literal["all", "train", "val", "test"], typer.Option(
                 help="train, val: the run's own people. test: those after them. all: everyone the folder holds, the "
                      "default where people are files; val where they are drawn.", show_default=False)] = None,
             only_present: Annotated[bool, typer.Option("--only-present", help="Leave out and count people whose "
                                                        "image is absent, instead of stopping.")] = False,
             as_json: Annotated[bool, typer.Option("--json", help="Print the score as JSON.")] = False):
    """Score weights on people."""
    import torch

    from hpe_lib import artifacts, cascade, evaluation, prediction

    folder = cascade.stage_folder(weights)
    network = cascade.load(folder)
    image_size = network.network["image_size"]
    people = people_to_score(data, data_root, split, folder.parent, image_size, only_present)
    network.to("cuda" if torch.cuda.is_available() else "cpu")
    score = evaluation.score(prediction.predict(network, people, image_size).joints, people)
    print(json.dumps(artifacts.plain(score), indent=2) if as_json else report(str(folder), score, people))


def people_to_score(data, data_root, split, run, image_size, only_present=False):
    """The people of a split: by notebook 01's numbers in the run if they are of this data set, else in its preset."""
    from hpe_lib import artifacts, datasets, presets

    chosen = run / "data" / "manifest.json"
    numbers = artifacts.read_json(chosen)["parameters"] if chosen.is_file() else {}
    if numbers.get("dataset") != data:
        numbers = presets.resolve(data)["01"]
    root = data_root or numbers["data_root"]
    if data != "synthetic" and not root:
        raise BadInput("--data-root", "nothing", f"the folder of {data}: joints.mat and images/")
    split = split or ("val" if data == "synthetic" else "all")
    count = None if data == "synthetic" else len(datasets.lsp_joints(Path(root) / "joints.mat"))
    return datasets.load(data, root, rows(split, numbers, count), image_size, numbers["data_seed"],
                         only_present or numbers["only_present"], run.parent / "cache")


def rows(split, numbers, count):
    """A split as FIRST-LAST. count: people the folder holds, None where they are drawn and have no end."""
    if split in ("train", "val"):
        return numbers[split]
    if split == "all":
        if count is None:
            raise BadInput("--split all", "drawn people, who have no end", "train, val or test")
        return f"1-{count}"
    first = 1 + max(int(numbers[part].partition("-")[2]) for part in ("train", "val"))
    if count is not None and first > count:
        raise BadInput("--split test", f"{count} people, none after train and val", f"people from {first} on")
    return f"{first}-{count or first + 999}"


def report(name, score, people):
    """A score as text for a person, with what must be said beside it."""
    from hpe_lib import evaluation

    lines = [f"{score['metric']} of {score['persons']} people, {score['joints']} joints; ci95: bootstrap over people"]
    lines += [f"{score['left_out']} people left out: their normaliser is not annotated"] if score["left_out"] else []
    lines += [f"{count} people skipped: {why}" for why, count in people.skipped.items() if count]
    if people.center_from_joints:
        lines.append("the crops are centred on the annotated joints: a hint from the truth")
    return "\n".join([*lines, "", evaluation.table({name: score}).round(1).T.to_string()])
