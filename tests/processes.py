"""Processes of the tests' own that do not import everything anew, which takes seconds each.

Two processes do all that test_processes looks at: torchrun processes.py RUN FILE COMMANDS. What
each of COMMANDS (JSON) prints ends with the line END; then what `findings` has goes into FILE.
`start_hpe` forks a command from a process that has all of the library, and has done nothing yet.
"""

import json
import multiprocessing
import os
import sys
from pathlib import Path
from unittest import mock

import torch

from hpe_lib import cascade, cli, prediction, stages, training
from hpe_lib.data.datasets import open_data

ROOT = Path(__file__).parents[1]
END = "--- that was the command"
WARM = multiprocessing.get_context("forkserver")
WARM.set_forkserver_preload(["hpe_lib.cli", "hpe_lib.evaluation", "hpe_lib.stages"])


def start_hpe(words, path):
    """`hpe` with these words, begun in a process group of its own. What it says goes to `path`."""
    process = WARM.Process(target=run_hpe, args=(words, path))
    with mock.patch.dict(os.environ, {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}):
        process.start()
    return process


def run_hpe(words, path):
    os.setsid()
    file = os.open(path, os.O_CREAT | os.O_WRONLY)
    os.dup2(file, 1)
    os.dup2(file, 2)
    cli.main(words)


def in_float64_with_frozen_norms(model):
    """The same model, whose norms stay in eval mode whatever it is told."""
    for norm in model.double().modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.eval().train = lambda mode=True, norm=norm: norm
    return model


def gradients(out):
    """The joint stage in float64: its records and, of every step, all gradients."""
    model = stages.Recipe.initial_model
    make_optimizer = training.make_optimizer
    steps = []

    def watched(name, groups, lr, weight_decay):
        made = make_optimizer(name, groups, lr, weight_decay)
        weights = [weight for group in groups for weight in group["params"]]
        made.register_step_pre_hook(
            lambda *_: steps.append([weight.grad.clone() for weight in weights])
        )
        return made

    def initial_model(recipe):
        return in_float64_with_frozen_norms(model(recipe))

    with (
        mock.patch.object(stages.Recipe, "initial_model", initial_model),
        mock.patch.object(training, "make_optimizer", watched),
    ):
        return {"records": list(stages.train("joint", out, {"epochs": 2})), "steps": steps}


def predictions(out):
    """All held-out people, and the first of them alone."""
    net = cascade.load(out / "regressor").double()
    people = open_data(out).val
    return [vars(prediction.predict(net, chosen, 64)) for chosen in (people, people[:1])]


def findings(out):
    """All of the above, of the run `out`, by as many processes as there are."""
    processes = training.world().num_processes
    return {"processes": processes, "predictions": predictions(out), **gradients(out), "out": out}


def say(command, folder):
    """`hpe` in a process that goes on. Returns when the weights below `folder` were written."""
    try:
        with mock.patch.object(type(training.world()), "destroy_process_group"):
            cli.main(command)
    except SystemExit as end:
        assert not end.code, command
    if training.world().is_main_process:
        print(END, flush=True)
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("weights.safetensors")}


if __name__ == "__main__":
    world = training.world()
    run = Path(sys.argv[1])
    written = [say(command, run.parent) for command in json.loads(sys.argv[3])]
    found = findings(run) | {"written": written}
    if world.is_main_process:
        torch.save(found, sys.argv[2])
    world.wait_for_everyone()  # a process that leaves while another is connected may abort
    world.destroy_process_group()
