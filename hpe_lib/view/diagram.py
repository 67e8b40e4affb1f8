"""A diagram of the cascade, as Fig. 1, drawn from the shapes that the real modules compute."""

from itertools import groupby

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hpe_lib.cascade import Cascade, block_table
from hpe_lib.view.drawing import BLUE
from hpe_lib.view.figures import ORANGE, InlineFigure

SKIPS = ["D4", "score4", "score3"]  # blocks that carry a finer map past the coarser ones
SHADES = {"detector": ORANGE, "regressor": BLUE, "": "#BFBFBF"}
Slab = tuple[str, str, int, int]  # a part of the cascade, a block's name, its channels, map side


@torch.no_grad()
def cascade_diagram(cascade: Cascade, images: torch.Tensor) -> Figure:
    """Show the cascade as Fig. 1 does: each map that it computes of the images is a slab.

    images: (B, S, S, 3) uint8.  A slab's height goes with the root of its map's side, its width
    with the logarithm of its channels. Arcs are what is passed on beside the blocks between.
    """
    pixels = cascade.eval().normalise(images)
    logits = cascade.detector(pixels)
    stack = cascade.stack(logits, pixels)
    tables = {
        "detector": block_table(cascade.detector, pixels).sort_index(),
        "regressor": block_table(cascade.regressor, stack),
    }
    first, second = (_slabs(part, blocks) for part, blocks in tables.items())
    shapes = {"image": pixels, "part maps": logits, "stack": stack}
    shapes["joint maps"] = cascade.regressor(stack)
    image, *between, last = (("", name, *maps.shape[1:3]) for name, maps in shapes.items())
    slabs = [image, *first, *between, *second, last]
    figure = InlineFigure(13, 3.4)
    ax = figure.subplots()
    places = _draw_slabs(ax, slabs)
    _draw_arc(ax, places[0], places[len(first) + 2])
    for part, blocks in tables.items():
        own = [place for place, slab in zip(places, slabs) if slab[0] == part]
        text = f"{part}: {blocks.parameters.sum():,} parameters"
        ax.text(own[0][0], -0.7, text, color=SHADES[part], fontsize=11, weight="bold")
        for side in _sides(blocks[blocks.index.isin(SKIPS)]):
            _draw_skip(ax, own, (side / images.shape[1]) ** 0.5 / 2)
    ax.axis("off")
    return figure


def _sides(blocks: pd.DataFrame) -> list[int]:
    """The map sides of blocks, as `block_table` has them, in one list."""
    return [int(side) for sides in blocks["map, cells"] for side in sides.split(", ")]


def _slabs(part: str, blocks: pd.DataFrame) -> list[Slab]:
    """The slabs of a part in the order of computing, without skips and blocks that do nothing.

    Blocks that work level by level on the same maps take turns, as D5 and the merges do.
    """
    blocks = blocks[~blocks.index.isin(SKIPS) & (blocks.parameters > 0)]
    slabs = []
    for _, group in groupby(blocks.itertuples(), key=lambda block: block[3]):
        group = list(group)
        for side in group[0][3].split(", "):
            slabs += [(part, block.Index, block.channels, int(side)) for block in group]
    return slabs


def _draw_slabs(ax: Axes, slabs: list[Slab]) -> list[tuple[float, float]]:
    """Draw slabs from left to right. Returns (x of its middle, y of its top) of each."""
    left = 0.0
    places = []
    for part, name, channels, side in slabs:
        width = 0.1 + 0.08 * np.log2(channels)
        height = (side / slabs[0][3]) ** 0.5
        middle = left + max(width, 0.6) / 2
        ax.bar(middle, height, width, -height / 2, color=SHADES[part], edgecolor="white")
        label = f"{name}\n{channels}×{side}²"
        ax.text(middle, -height / 2 - 0.03, label, ha="center", va="top", fontsize=7)
        places.append((middle, height / 2))
        left += max(width, 0.6) + 0.05
    ax.set(xlim=(0, left), ylim=(-0.75, 0.75))
    return places


def _draw_arc(ax: Axes, begin: tuple[float, float], end: tuple[float, float]) -> None:
    style = {"arrowstyle": "->", "connectionstyle": "arc3,rad=-0.15", "color": "#7F7F7F"}
    ax.annotate("", end, begin, arrowprops=style)


def _draw_skip(ax: Axes, places: list[tuple[float, float]], top: float) -> None:
    """Draw an arc between the last map of a height on the way down and the first on the way up."""
    lowest = min(range(len(places)), key=lambda k: places[k][1])
    before = [place for place in places[:lowest] if place[1] >= top]
    after = [place for place in places[lowest:] if place[1] >= top]
    _draw_arc(ax, before[-1], after[0])
