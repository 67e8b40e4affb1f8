"""What test_processes has one process or several do: python processes.py OUT FILE. The first process writes FILE."""

import sys
from pathlib import Path

import torch

from hpe_lib import cascade, prediction, stages, training
from hpe_lib.data.datasets import open_data


def in_float64_with_frozen_norms(model):
    """The same model, whose norms stay in eval mode whatever it is told."""
    for norm in model.double().modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.eval().train = lambda mode=True, norm=norm: norm
    return model


def gradients(out):
    """The joint stage by `stages.train`, in float64: its records and, of every step, all gradients."""
    model, make_optimizer, steps = stages.Recipe.initial_model, training.make_optimizer, []

    def watched(name, groups, lr, weight_decay):
        made = make_optimizer(name, groups, lr, weight_decay)
        weights = [weight for group in groups for weight in group["params"]]
        made.register_step_pre_hook(
            lambda *_: steps.append([weight.grad.clone() for weight in weights])
        )
        return made

    stages.Recipe.initial_model = lambda recipe: in_float64_with_frozen_norms(model(recipe))
    training.make_optimizer = watched
    return {"records": list(stages.train("joint", out, {"epochs": 2})), "steps": steps}


def predictions(out):
    """All held-out people, and the first of them alone."""
    net, people = cascade.load(out / "regressor").double(), open_data(out).val
    return [vars(prediction.predict(net, chosen, 64)) for chosen in (people, people[:1])]


if __name__ == "__main__":
    world, run = training.world(), Path(sys.argv[1])
    found = {"processes": world.num_processes, "predictions": predictions(run), **gradients(run)}
    if world.is_main_process:
        torch.save(found, sys.argv[2])
    world.destroy_process_group()
