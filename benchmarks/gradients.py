"""Do eq. 2's small gradients hold a network back? They are laid beside AdamW's ε (table gradients).

python -m benchmarks.gradients RUN/rows/NAME ...

AdamW divides each weight's mean gradient by the root of its mean square plus ε. So a factor on the
loss cancels, but where the gradients are as small as ε. Each row is a finished one of a study, with
two networks, and is looked at as it is after its training. What is found comes to
results/gradients.
"""

from pathlib import Path

import torch

from benchmarks import commands
from hpe_lib import stages
from hpe_lib.cascade import Cascade
from hpe_lib.targets import Targets
from hpe_lib.workbook import artifacts, results
from hpe_lib.workbook.groups import build

STEPS = 30
MATTERS = 0.001  # a loss of any other size changes a step by no more than ε / (root mean square)


def main(rows: list[Path]) -> None:
    """Write results/gradients."""
    found = {}
    for row in rows:
        parameters = artifacts.manifest(row / artifacts.STAGES["joint"], "settings")["settings"]
        recipe = stages.Recipe("joint", row, parameters)
        model = artifacts.load_into(recipe.initial_model(), recipe.folder)
        epsilon = recipe.optimizer(model, STEPS)[0].defaults["eps"]
        for network, sizes in gradient_sizes(recipe, model).items():
            found[f"`{row.name}`, {network}"] = beside_epsilon(sizes, epsilon)
    results.write(
        "gradients", {"gradients": found}, "python -m benchmarks.gradients RUN/rows/NAME ..."
    )


def gradient_sizes(recipe: stages.Recipe, model: Cascade) -> dict[str, torch.Tensor]:
    """The root mean square of each weight's gradient over some training batches, by network.

    The weights stay as they are. Frozen ones are left out.
    """
    targets = build(Targets, recipe.parameters)
    loader = recipe.loader()
    steps = min(STEPS, len(loader))
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    squares = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    model.train()
    for _, batch in zip(range(steps), loader):
        model.zero_grad()
        stages.joint_loss(model(batch["image"]), batch, targets).backward()
        for name, weight in weights.items():
            squares[name] += weight.grad**2 / steps
    sizes = {}
    for part, network in (("detector", "first network"), ("regressor", "second network")):
        of_part = [square.flatten() for name, square in squares.items() if name.startswith(part)]
        sizes[network] = torch.cat(of_part).sqrt()
    return sizes


def beside_epsilon(sizes: torch.Tensor, epsilon: float) -> dict:
    """The median of gradients (n,), and for how many weights a factor on the loss matters.

    "none": the share of weights without any gradient, which no factor helps; the rest is of others.
    """
    some = sizes[sizes > 0]
    return {
        "weights": len(sizes),
        "none": 1 - len(some) / len(sizes),
        "median": some.median().item(),
        "matters": (epsilon / some > MATTERS).float().mean().item(),
    }


if __name__ == "__main__":
    commands.run(main)
