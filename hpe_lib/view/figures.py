"""Every picture of the workbook. Functions take what they draw on (an Axes) or return a Figure; nothing is global.

Colours are Okabe & Ito's, which colour-blind readers tell apart, and never the only sign: right parts are orange
circles, left parts blue squares, those on the middle line green diamonds; filled is visible, hollow is occluded.
Crops and maps are drawn by the pixel-centre rule: (0, 0) is the centre of the crop's first pixel, so cell i of a map
whose cells are `stride` crop px wide covers i * stride - 0.5 … (i + 1) * stride - 0.5.
"""

import functools
import io
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd
import torch
from matplotlib import cm, colormaps, colors, font_manager, lines, patches, ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from hpe_lib import heatmaps
from hpe_lib.cascade import Cascade
from hpe_lib.data.augment import joints_in_crop
from hpe_lib.data.people import People
from hpe_lib.geometry import Frame, rescale
from hpe_lib.paper import BODY
from hpe_lib.prediction import decode
from hpe_lib.skeleton import ABSENT, MPII, OCCLUDED, VISIBLE
from hpe_lib.targets import Targets
from hpe_lib.view import drawing
from hpe_lib.view.drawing import WHITE, fill_midpoints

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
SIDES = {"right": (VERMILION, "o"), "left": (BLUE, "s")}  # else the middle line
KINDS = {
    "visible": GREEN,
    "occluded": PURPLE,
    "background": "#7F7F7F",
    "outside the crop": SKY,
    "not annotated": "#D9D9D9",
}
STATES = {VISIBLE: "visible", OCCLUDED: "occluded", ABSENT: "no label here"}
LOSSES = {"detector": "eq. 1", "regressor": "eq. 2", "joint": "eq. 1 + eq. 2"}
HEAT = colors.ListedColormap(
    colormaps["inferno"](np.linspace(0.3, 1, 256))
)  # without the black that hides a crop


class Picture(Figure):
    """A Figure that shows itself in a notebook without pyplot, so no figure stays open behind the reader's back."""

    def __init__(self, width: float, height: float):
        super().__init__(figsize=(width, height), layout="constrained", dpi=100)

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", bbox_inches="tight")
        return buffer.getvalue()


def panels(
    count: int, columns: int, size: float = 2.0, extra: float = 0.0
) -> tuple[Picture, np.ndarray]:
    """(figure, (count,) Axes without ticks): square panels of `size` inches, `extra` inches on top for titles."""
    rows = -(-count // columns)
    figure = Picture(columns * size, rows * (size + extra))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes:
        ax.set(xticks=[], yticks=[])
    for ax in axes[count:]:
        ax.remove()
    return figure, axes[:count]


def side_style(joint: int) -> tuple[str, str]:
    """(colour, marker) of a joint, by its name."""
    return SIDES.get(MPII.names[joint].partition("_")[0], (GREEN, "D"))


def pose(
    ax: Axes, joints: np.ndarray, visibility: np.ndarray, size: float = 4.0, limbs: bool = True
) -> Axes:
    """Draw one person: joints (16, 2) in the Axes' pixels, visibility (16,); what is ABSENT or NaN is not drawn."""
    there = (np.asarray(visibility) != ABSENT) & np.isfinite(joints).all(-1)
    ends = fill_midpoints(np.where(there[:, None], joints, np.nan))
    for child, parent in MPII.limbs if limbs else []:
        if np.isfinite(ends[[child, parent]]).all():
            hidden = OCCLUDED in (visibility[child], visibility[parent])
            ax.plot(
                *ends[[child, parent]].T,
                color=side_style(child)[0],
                linewidth=0.4 * size,
                linestyle=(0, (2, 1)) if hidden else "solid",
            )
    for joint in np.flatnonzero(there):
        colour, marker = side_style(joint)
        seen = visibility[joint] == VISIBLE
        ax.plot(
            *joints[joint],
            marker,
            markersize=size,
            markerfacecolor=colour if seen else "white",
            markeredgecolor="black" if seen else colour,
            markeredgewidth=0.08 * size if seen else 0.3 * size,
        )
    return ax


def pose_legend(figure: Figure, occlusion_labels: bool = True) -> None:
    """What markers mean, under the figure; says so where the data set does not tell occluded joints."""
    entries = [
        lines.Line2D([], [], color=colour, marker=marker, label=name)
        for name, (colour, marker) in (*SIDES.items(), ("middle line", (GREEN, "D")))
    ]
    note = (
        "hollow, dashed: occluded"
        if occlusion_labels
        else "this data set does not say which joints are occluded"
    )
    entries.append(
        lines.Line2D(
            [], [], color="grey", marker="o", markerfacecolor="white", linestyle="--", label=note
        )
    )
    figure.legend(handles=entries, loc="outside lower center", ncols=4, fontsize=8, frameon=False)


def crop(ax: Axes, image: np.ndarray, title: str = "") -> Axes:
    """An image (H, W, 3) with a title; its limits stay the image's, whatever is drawn on it later."""
    height, width = image.shape[:2]
    ax.imshow(image)
    ax.set(xticks=[], yticks=[], xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    ax.set_title(title, fontsize=8)
    return ax


def contact_sheet(
    crops: np.ndarray,
    joints: np.ndarray,
    visibility: np.ndarray,
    titles=None,
    columns: int = 6,
    occlusion_labels: bool = True,
    truth: np.ndarray | None = None,
) -> Figure:
    """People (N, S, S, 3) with joints (N, 16, 2) crop px; `truth` (N, 16, 2) crop px is drawn in white under them."""
    crops, joints, visibility = (np.asarray(part) for part in (crops, joints, visibility))
    titles = [""] * len(crops) if titles is None else titles
    figure, axes = panels(len(crops), columns, 11 / columns, 0.2)
    for row, ax in enumerate(axes):
        crop(ax, crops[row], titles[row])
        if truth is not None:
            bones(ax, truth[row])
        pose(ax, joints[row], visibility[row], size=22 / columns)
    pose_legend(figure, occlusion_labels)
    return figure


def bones(ax: Axes, joints: np.ndarray) -> None:
    """Limbs (16, 2) as plain white lines with a dark edge: the truth under a prediction."""
    for colour, width in (("black", 3.5), ("white", 2.0)):
        for child, parent in MPII.limbs:
            ax.plot(
                *fill_midpoints(joints)[[child, parent]].T,
                color=colour,
                linewidth=width,
                solid_capstyle="round",
            )


def window(people: People, row: int, frames: dict[str, Frame]) -> Figure:
    """Person `row`: the whole image with every frame's window, then what each frame cuts out, joints by its matrix."""
    image, figure = people.images[row], Picture(3.4 * (len(frames) + 1), 3.7)
    first, *others = figure.subplots(1, len(frames) + 1)
    first.imshow(image)
    first.set_title(f"image, {image.shape[1]} × {image.shape[0]} px", fontsize=9)
    first.plot(*people.center[row], "+", color="white", markersize=12, markeredgewidth=2)
    for ax, (name, frame), colour in zip(others, frames.items(), (YELLOW, SKY, PURPLE)):
        size = frame.image_size
        corners = frame.to_image(
            np.array([(0, 0), (size, 0), (size, size), (0, size), (0, 0)]) - 0.5
        )
        first.plot(*corners.T, color="black", linewidth=4)
        first.plot(*corners.T, color=colour, linewidth=2.2)
        crop(ax, frame.crop(image), f"{name}: body {frame.body_in_crop:.0f} px of {size}")
        pose(ax, *joints_in_crop(frame, people.joints[row], people.visibility[row]), size=5)
        ax.spines[:].set(color=colour, linewidth=3)
    for ax in (first, *others):
        last_row, last_column = np.array(ax.images[0].get_array().shape[:2]) - 1
        ax.set(xlabel="x, px", ylabel="y, px", xticks=[0, last_column], yticks=[0, last_row])
    return figure


def shares(counts: dict[str, np.ndarray], total: int) -> Figure:
    """Stacked bars, one a joint: counts kind -> (16,) of `total` people, in percent."""
    figure = Picture(8, 4.2)
    ax, left = figure.subplots(), np.zeros(len(MPII.names))
    for kind, count in counts.items():
        ax.barh(
            MPII.names,
            100 * count / total,
            left=left,
            color=KINDS[kind],
            label=kind,
            edgecolor="white",
        )
        left = left + 100 * count / total
    ax.set(xlabel=f"share of {total} people, %", xlim=(0, 100))
    ax.invert_yaxis()
    ax.tick_params(labelsize=8)
    figure.legend(loc="outside upper center", ncols=len(counts), fontsize=8, frameon=False)
    return figure


def histograms(
    quantities: dict[str, dict[str, np.ndarray] | np.ndarray], bins=40, share: bool = False
) -> Figure:
    """One panel for each x label: an array, or several named ones (step lines). NaN is left out.

    share: in percent, on a logarithmic scale, since a bar at 0 may hold nearly everything.
    """
    figure = Picture(4.6 * len(quantities), 2.9)
    for ax, (label, groups) in zip(
        np.atleast_1d(figure.subplots(1, len(quantities))), quantities.items()
    ):
        groups = groups if isinstance(groups, dict) else {"": groups}
        groups = {name: np.asarray(values)[np.isfinite(values)] for name, values in groups.items()}
        edges = np.histogram_bin_edges(np.concatenate(list(groups.values())), bins)
        groups = {
            name: np.clip(values, edges[0], edges[-1]) for name, values in groups.items()
        }  # nobody is left out
        for (name, values), colour, dash in zip(
            groups.items(), (GREEN, PURPLE, BLACK, BLUE), ("-", "--", ":", "-.")
        ):
            weights = np.full(len(values), 100 / max(len(values), 1)) if share else None
            ax.hist(values, edges, weights=weights, histtype="stepfilled", color=colour, alpha=0.25)
            ax.hist(
                values,
                edges,
                weights=weights,
                histtype="step",
                color=colour,
                linestyle=dash,
                linewidth=1.6,
                label=f"{name} ({len(values)})",
            )
        ax.set(xlabel=label, ylabel="share, %" if share else "count")
        if share:
            ax.set(yscale="log", ylim=(0.05, 120))
            ax.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        if len(groups) > 1:
            ax.legend(fontsize=8, frameon=False)
    return figure


def scatter_poses(joints: np.ndarray, mean: np.ndarray, image_size: int) -> Figure:
    """Everybody's joints (N, 16, 2) crop px as a cloud a joint, the mean pose (16, 2) on them."""
    figure = Picture(4.6, 4.8)
    ax = figure.subplots()
    for joint in range(len(MPII.names)):
        ax.plot(
            *joints[:, joint].T,
            ".",
            color=side_style(joint)[0],
            alpha=0.3,
            markersize=1.5,
            zorder=0,
        )
    there = np.where(np.isfinite(mean).all(-1), VISIBLE, ABSENT)
    pose(ax, mean, there, size=7)
    ax.set(
        xlim=(-0.5, image_size - 0.5),
        ylim=(image_size - 0.5, -0.5),
        aspect="equal",
        xlabel="x, crop px",
        ylabel="y, crop px",
    )
    return figure


def overlay(
    ax: Axes, image: np.ndarray, heat: np.ndarray, title: str = "", top: float = 1.0
) -> Axes:
    """A map (h, w) on its crop (S, S, 3): `blend`."""
    return crop(ax, blend(image, heat, top), title)


def overlays(
    crops: np.ndarray,
    maps: np.ndarray,
    joints: np.ndarray,
    visibility: np.ndarray,
    titles: list[str],
    columns: int = 5,
) -> Figure:
    """Crops (N, S, S, 3) with the highest of their 16 maps (N, 16, h, w) and joints (N, 16, 2) crop px on them."""
    columns = min(columns, len(crops))
    figure, axes = panels(len(crops), columns, 11 / columns, 0.3)
    for ax, image, heat, points, states, title in zip(
        axes, crops, maps, joints, visibility, titles
    ):
        overlay(ax, image, heat.max(0), title)
        pose(ax, points, states, size=3, limbs=False)
    pose_legend(figure)
    return figure


def joint_maps(
    image: np.ndarray,
    rows: dict[str, np.ndarray],
    shown: list[int],
    joints: np.ndarray,
    visibility: np.ndarray,
) -> Figure:
    """One person, one column for each joint `shown`: the rows' maps (16, h, w) on the crop, the peak's value above.

    All panels share one scale, which ends at the highest value shown. The true place (joints (16, 2) crop px) is
    ringed: solid if visible, dashed if occluded, no ring without a label.
    """
    top = max(0.05, *(maps[shown].max() for maps in rows.values()))
    figure, axes = panels(len(rows) * len(shown), len(shown), 11 / max(len(shown), 5), 0.35)
    for number, ax in enumerate(axes):
        (name, maps), joint = list(rows.items())[number // len(shown)], shown[number % len(shown)]
        head = (
            f"{MPII.names[joint]}\n{STATES[int(visibility[joint])]}\n"
            if number < len(shown)
            else ""
        )
        overlay(ax, image, maps[joint], f"{head}peak {maps[joint].max():.2f}", top)
        ring(ax, joints[joint], visibility[joint], image.shape[0])
        if number % len(shown) == 0:
            ax.set_ylabel(name, fontsize=9)
    bar = figure.colorbar(
        cm.ScalarMappable(colors.Normalize(0, top), HEAT), ax=list(axes), fraction=0.015, pad=0.01
    )
    bar.ax.tick_params(labelsize=7)
    return figure


def ring(ax: Axes, point: np.ndarray, state: int, size: int) -> None:
    """A circle around a joint, solid if visible, dashed if occluded; nothing if there is no label."""
    if state != ABSENT:
        ax.add_patch(
            patches.Circle(
                point,
                0.07 * size,
                fill=False,
                edgecolor=SKY,
                linewidth=1.5,
                linestyle="solid" if state == VISIBLE else (0, (2, 1.5)),
            )
        )


def stack(channels: np.ndarray) -> Figure:
    """The regressor's input (19, S, S): 16 maps on one grey scale from 0 to their highest value, then R, G, B."""
    names, top = [*MPII.names, "red", "green", "blue"], channels[: len(MPII.names)].max()
    figure, axes = panels(len(names), 7, 11 / 7, 0.2)
    for ax, name, channel in zip(axes, names, channels):
        limits = (0, top) if name in MPII.names else (channel.min(), channel.max())
        ax.imshow(channel, cmap="gray", vmin=limits[0], vmax=limits[1])
        ax.set_title(f"{name} {channel.min():.2f} … {channel.max():.2f}", fontsize=7)
    return figure


class Curves:
    """Learning curves that grow while a stage trains: `figure` is displayed once, `add(record)` redraws and returns it.

    reference: name -> loss, drawn as dotted lines: what an answer that ignores the image would cost.
    """

    def __init__(
        self,
        histories: dict[str, list[dict]] | None = None,
        reference: dict[str, float] | None = None,
    ):
        self.histories, self.reference = dict(histories or {}), reference or {}
        self.figure = Picture(9.5, 3.1)
        self.draw()

    def add(self, record: dict) -> Figure:
        """One epoch more, of the stage that the record names."""
        self.histories.setdefault(record["stage"], []).append(record)
        return self.draw()

    def draw(self) -> Figure:
        """Both panels anew: the loss on a logarithmic scale, and every PCK column of the records."""
        self.figure.clear()
        left, right = self.figure.subplots(1, 2)
        done = 0
        for stage, records in self.histories.items():
            epochs = done + np.arange(1, len(records) + 1)
            left.plot(
                epochs, [record["loss"] for record in records], "o-", color=BLUE, markersize=3
            )
            left.text(
                done + 0.6,
                1.02,
                f"{stage}\n{LOSSES[stage]}",
                transform=left.get_xaxis_transform(),
                fontsize=8,
            )
            scores(right, epochs, records, labelled=done == 0)
            done += len(records)
            for ax in (left, right):
                ax.axvline(done + 0.5, color="lightgrey", linewidth=1)
        for name, value in self.reference.items():
            left.axhline(value, color=VERMILION, linestyle=":", label=name)
        logarithmic(left)
        left.set(ylabel="training loss, Σ over px / 16")
        right.set(ylabel="held-out people, %", ylim=(0, 100))
        for ax in (left, right):
            ax.set(xlabel="epoch", xlim=(0.5, max(done, 1) + 0.5))
            ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
            if ax.get_legend_handles_labels()[0]:
                ax.legend(fontsize=8, frameon=False)
        return self.figure


def curves(histories: dict[str, list[dict]]) -> Image.Image:
    """`Curves` of finished or running stages as a picture."""
    return Image.open(io.BytesIO(Curves(histories).figure._repr_png_())).convert("RGB")


def logarithmic(ax: Axes) -> None:
    """A logarithmic y axis with plain numbers, wide enough to show at least one of them."""
    low, high = ax.dataLim.intervaly if np.isfinite(ax.dataLim.intervaly).all() else (1, 1)
    ax.set(yscale="log", ylim=(0.75 * low, 1.35 * high))
    ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    ax.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    ax.yaxis.set_minor_locator(ticker.NullLocator())


def scores(ax: Axes, epochs: np.ndarray, records: list[dict], labelled: bool) -> None:
    """The PCK columns of epoch records as lines: all, visible, occluded."""
    for name in [name for name in records[0] if name.startswith("PCK")] if records else []:
        kind = name.partition(" ")[2]
        dash = {"visible": "--", "occluded": ":"}.get(kind, "-")
        ax.plot(
            epochs,
            [record[name] for record in records],
            "o",
            linestyle=dash,
            color=KINDS.get(kind, BLACK),
            markersize=3,
            label=name if labelled else None,
        )


def visible_against_occluded(scores: dict[str, dict]) -> Figure:
    """Bars of Score dicts by row name: visible joints beside occluded ones; a sentence where the truth cannot say."""
    figure = Picture(8, 0.7 + 0.55 * len(scores))
    ax, names = figure.subplots(), list(scores)
    metric = scores[names[0]]["metric"]
    if any(scores[name]["occluded"] is None for name in names):
        ax.text(
            0.5,
            0.5,
            "not measurable here:\nthis data set does not say which joints are occluded",
            ha="center",
            va="center",
        )
        ax.set(xticks=[], yticks=[])
        figure.set_size_inches(8, 0.8)
        return figure
    for shift, kind in ((-0.2, "visible"), (0.2, "occluded")):
        values = [scores[name][kind] for name in names]
        bars = ax.barh(
            np.arange(len(names)) + shift,
            values,
            0.38,
            color=KINDS[kind],
            label=f"{kind} joints",
            hatch="" if kind == "visible" else "///",
            edgecolor="white",
        )
        ax.bar_label(bars, fmt="%.1f", fontsize=8, padding=2)
    ax.set(yticks=range(len(names)), yticklabels=names, xlim=(0, 108), xlabel=f"{metric}, %")
    ax.invert_yaxis()
    figure.legend(loc="outside upper center", ncols=2, fontsize=8, frameon=False)
    return figure


def peaks(
    maps: torch.Tensor, batch: dict, map_stride: int, radius: float = 10.0
) -> dict[str, np.ndarray]:
    """What Fig. 2 compares: the highest value of a joint's map (B, 16, h, w) within a disc, by what lies there.

    visible, occluded: the disc lies around the joint. background: it lies where another person of the batch has that
    joint, at least two radii away from this person's own. radius: px at a body of 200 px. Returns kind -> (n,) values.
    """
    maps, points = maps.float().cpu(), heatmaps.to_map(batch["joints"], map_stride)
    reach, labelled = radius * batch["body"] / BODY / map_stride, batch["visibility"] != ABSENT
    elsewhere, both = points.roll(1, dims=0), labelled & labelled.roll(1, dims=0)
    both &= (points - elsewhere).norm(dim=-1) >= 2 * reach[:, None]
    kinds = {
        "visible": (points, batch["visibility"] == VISIBLE),
        "occluded": (points, batch["visibility"] == OCCLUDED),
        "background": (elsewhere, both),
    }
    found = {}
    for kind, (places, counts) in kinds.items():
        inside = (
            heatmaps.discs(places, counts, maps.shape[-1], reach.clamp_min(0.75)) > 0
        )  # never between two cells
        found[kind] = torch.where(inside, maps, -torch.inf).amax((-2, -1))[counts].numpy()
    return found


def blocks(network: nn.Module, inputs: torch.Tensor) -> pd.DataFrame:
    """A network's blocks by the labels of their table: parameters, and channels and sides of the maps they put out.

    inputs: (B, C, S, S) for one pass. A block that is a list of modules has a side for each of them.
    """
    made, hooks = {}, []
    for name, block in network.named_children():
        for part in block if isinstance(block, nn.ModuleList) else [block]:
            hooks.append(
                part.register_forward_hook(
                    lambda _, __, maps, name=name: made.setdefault(name, []).append(maps.shape)
                )
            )
    network(inputs)
    for hook in hooks:
        hook.remove()
    rows = {
        name: {
            "parameters": sum(weight.numel() for weight in block.parameters()),
            "channels": made[name][0][1],
            "map, cells": ", ".join(str(shape[-1]) for shape in made[name]),
        }
        for name, block in network.named_children()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def gaps(against: dict[str, dict], printed: pd.Series) -> Figure:
    """Each row's distance from the full cascade in points: `against` (evaluation.paired by row) with its interval,
    beside the differences of the paper's printed totals where it has the row."""
    names = [name for name in against if name != printed.index[0]]
    figure = Picture(8, 0.9 + 0.35 * len(names))
    ax = figure.subplots()
    for row, name in enumerate(names):
        found = against[name]["total"]
        ax.plot(found["ci95"], [row - 0.12] * 2, color=BLUE)
        ax.plot(
            found["difference"],
            row - 0.12,
            "o",
            color=BLUE,
            label=None if row else "ours, 95 % over people",
        )
        if name in printed:
            ax.plot(
                printed[name] - printed.iloc[0],
                row + 0.12,
                "D",
                color=ORANGE,
                label="paper" if not row else None,
            )
    ax.axvline(0, color=BLACK, lw=0.8)
    ax.set(yticks=range(len(names)), yticklabels=names, xlabel=f"points against {printed.index[0]}")
    ax.invert_yaxis()
    figure.legend(loc="outside upper center", ncols=2, fontsize=8, frameon=False)
    return figure


def covering(covered: pd.DataFrame, metric: str) -> Figure:
    """evaluation.covering as curves by the patch's side: share of covered joints that are right, and the map's peak."""
    figure = Picture(9, 3)
    labels = (f"{metric} of the covered joint, %", "mean peak")
    for ax, ending, label in zip(figure.subplots(1, 2), ("", "'s peak"), labels):
        for name, colour, marker in (("detector", ORANGE, "o"), ("cascade", BLUE, "s")):
            ax.plot(covered.index, covered[name + ending], marker + "-", color=colour, label=name)
        ax.set(xlabel=covered.index.name, ylabel=label, ylim=0)
        ax.legend(fontsize=8, frameon=False)
    return figure


def standing(tables: dict[str, pd.Series], rescored: dict[str, dict]) -> Figure:
    """Printed totals as dots, a line of them for each table; predictions scored here as diamonds with intervals."""
    figure = Picture(9, 0.8 + 0.4 * (len(tables) + len(rescored)))
    ax, names = figure.subplots(), [*tables, *rescored]
    for row, totals in enumerate(tables.values()):
        ax.plot(totals, [row] * len(totals), "o", color=BLUE, alpha=0.6)
    for row, score in enumerate(rescored.values(), len(tables)):
        ax.plot(score["ci95"], [row] * 2, color=ORANGE)
        ax.plot(score["total"], row, "D", color=ORANGE)
    ax.set(yticks=range(len(names)), yticklabels=names, xlabel="total, %")
    ax.invert_yaxis()
    return figure


# ---- Pictures made of pixels alone, quick enough to be redrawn at every move of a hand (widgets)

# Orange: more, purple: less; without the white between them, which a light crop swallows.
SIGNED = colormaps["PuOr"](np.concatenate([np.linspace(1, 0.8, 128), np.linspace(0.2, 0, 128)]))
LAYERS = ("detector's target", "detector", "regressor's target", "regressor", "difference")
FONT = font_manager.findfont("DejaVu Sans")


def blend(
    image: np.ndarray,
    heat: np.ndarray,
    top: float = 1.0,
    opacity: float = 0.85,
    signed: bool = False,
) -> np.ndarray:
    """A map (h, w) on its crop (S, S, 3), which turns light grey: nothing where the map is 0, yellow at `top`.

    S is a multiple of h. signed: from purple at -top to orange at top. Returns (S, S, 3) uint8.
    """
    level = np.clip(heat / top, -1 if signed else 0, 1).astype(np.float32)
    table = SIGNED if signed else HEAT.colors
    colour = (255 * table[:, :3]).astype(np.float32)[
        (255 * ((level + 1) / 2 if signed else level)).astype(np.uint8)
    ]
    alpha, size = (opacity * np.sqrt(np.abs(level)))[..., None], image.shape[:2]
    colour, alpha = (
        cv2.resize(part, size, interpolation=cv2.INTER_NEAREST) for part in (colour * alpha, alpha)
    )
    grey = 90 + 0.6 * image.mean(-1, keepdims=True, dtype=np.float32)
    return np.rint(grey * (1 - alpha[..., None]) + colour).astype(np.uint8)


def filling(size: int, limit: int) -> int:
    """The largest multiple of a crop's side that is at most `limit` px; `limit` if the crop is larger."""
    return limit // size * size or limit


def marked(
    image: np.ndarray, side: int, truth: np.ndarray, state: int, predicted: np.ndarray | None
) -> np.ndarray:
    """The image (S, S, 3) as (side, side, 3), the true joint ringed, dashed if it is occluded, the predicted one a
    cross. truth, predicted: (2,) crop px; NaN, None or a state ABSENT: no mark."""
    zoom, how = (
        side / image.shape[0],
        cv2.INTER_NEAREST if side >= image.shape[0] else cv2.INTER_AREA,
    )
    picture = cv2.resize(image, (side, side), interpolation=how)
    radius, width = max(6.0, 0.05 * side), max(1, round(side / 250))
    if state != ABSENT:
        for start in range(0, 360, 60):
            sweep = 60 if state == VISIBLE else 20
            center, axes = (
                np.rint(16 * rescale(truth, zoom)).astype(int).tolist(),
                [round(16 * radius)] * 2,
            )
            cv2.ellipse(
                picture,
                center,
                axes,
                0,
                start,
                start + sweep,
                RING,
                width + 1,
                cv2.LINE_AA,
                shift=4,
            )
    if predicted is not None and np.isfinite(predicted).all():
        for colour, thick in (((0, 0, 0), width + 2), (WHITE, width)):
            for arm in np.array([[(-1, -1), (1, 1)], [(-1, 1), (1, -1)]]) * 0.5 * radius:
                ends = np.rint(16 * (rescale(predicted, zoom) + arm)).astype(int).tolist()
                cv2.line(picture, *ends, colour, thick, cv2.LINE_AA, shift=4)
    return picture


RING = tuple(round(255 * part) for part in colors.to_rgb(SKY))


@functools.cache
def _font(size):
    return ImageFont.truetype(FONT, size)


TITLE = 18  # px above a tile for its title


def tiled(
    tiles: list[np.ndarray], titles: list[str], columns: int, text: int = 12, gap: int = 6
) -> Image.Image:
    """Tiles (h, w, 3), all of one size, in rows of `columns`, a title in black above each; the rest is white."""
    (high, wide), line = tiles[0].shape[:2], TITLE
    rows = -(-len(tiles) // columns)
    sheet = Image.new(
        "RGB", (columns * (wide + gap) - gap, rows * (high + line + gap) - gap), "white"
    )
    pen = ImageDraw.Draw(sheet)
    for number, (tile, title) in enumerate(zip(tiles, titles)):
        x, y = number % columns * (wide + gap), number // columns * (high + line + gap)
        pen.text((x + 2, y), title, "black", _font(text))
        sheet.paste(Image.fromarray(tile), (x, y + line))
    return sheet


@dataclass(frozen=True)
class Layers:
    """All maps of one person: crop (S, S, 3) uint8, maps layer -> (16, h, w), joints (16, 2) crop px and visibility
    (16,) as labelled, found layer -> (16, 2) crop px as decoded."""

    crop: np.ndarray
    maps: dict[str, np.ndarray]
    joints: np.ndarray
    visibility: np.ndarray
    found: dict[str, np.ndarray]


@torch.no_grad()
def seen(cascade: Cascade, crop: np.ndarray, decoder: str = "parabola") -> tuple[dict, dict]:
    """What each network makes of a crop (S, S, 3): its maps (16, h, w), and where they point, (16, 2) crop px; without
    flip test. Keys: "detector" and, where there is one, "regressor"."""
    maps = cascade.eval()(torch.from_numpy(crop)[None].to(cascade.mean.device))
    joints, _, from_logits, *_ = decode(maps, cascade.map_stride, decoder, cascade.first)
    shown, found = {"detector": cascade.confidence(maps.detector)}, {"detector": from_logits[0]}
    if maps.regressor is not None:
        shown, found = shown | {"regressor": maps.regressor}, found | {"regressor": joints[0]}
    return {name: part[0].float().cpu().numpy() for name, part in shown.items()}, found


def layers(cascade: Cascade, targets: Targets, sample: dict, decoder: str = "parabola") -> Layers:
    """What the networks should see and do see of one person, an item of PoseDataset; without flip test.

    A layer is one of LAYERS; difference: regressor less detector, that is, what context adds and takes away. A cascade
    without a regressor has the first two. The targets' maps have the networks' stride.
    """
    batch = torch.utils.data.default_collate([sample])
    maps, found = seen(cascade, sample["image"].numpy(), decoder)
    for name, draw in (("detector", targets.detector), ("regressor", targets.regressor)):
        if name in maps:
            maps[f"{name}'s target"] = draw(batch)[0][0].numpy()
    if "regressor" in maps:
        maps["difference"], found["difference"] = (
            maps["regressor"] - maps["detector"],
            found["regressor"],
        )
    return Layers(
        sample["image"].numpy(), maps, sample["joints"].numpy(), sample["visibility"].numpy(), found
    )


def one_map(person: Layers, layer: str, joint: int, opacity: float = 0.85) -> Image.Image:
    """One joint's map on the crop, ring and cross (`marked`), at most about 560 px wide."""
    return Image.fromarray(
        _map(person, layer, joint, scale_of(person, layer), opacity, filling(len(person.crop), 560))
    )


def _map(person, layer, joint, top, opacity, side):
    painted = blend(person.crop, person.maps[layer][joint], top, opacity, layer == "difference")
    predicted = person.found[layer][joint] if layer in person.found else None
    return marked(painted, side, person.joints[joint], person.visibility[joint], predicted)


def all_maps(person: Layers, layer: str, opacity: float = 0.85, columns: int = 6) -> Image.Image:
    """All joints' maps of a layer, one scale for all, each with its highest (for a difference: largest) value."""
    top = scale_of(person, layer)
    tiles = [_map(person, layer, joint, top, opacity, 144) for joint in range(len(MPII.names))]
    titles = [
        f"{name} {heat.flat[np.abs(heat).argmax()]:.2f}"
        for name, heat in zip(MPII.names, person.maps[layer])
    ]
    return tiled(tiles, titles, columns, 10)


def scale_of(person: Layers, layer: str) -> float:
    """Where a layer's colours end: at 1 for targets, else at the highest value of any joint, 0.05 at least."""
    return 1.0 if layer.endswith("target") else max(0.05, float(np.abs(person.maps[layer]).max()))


def covered(
    image: np.ndarray,
    maps: dict[str, np.ndarray],
    found: dict[str, np.ndarray],
    joint: int,
    truth: np.ndarray,
    state: int,
) -> Image.Image:
    """A crop, maybe with a patch on it, beside one joint's map of each network (`seen`), on one scale.

    Ring and cross as in `marked`; on the crop the cross is the last network's.
    """
    side, top = filling(len(image), 300), max(0.05, *(part[joint].max() for part in maps.values()))
    tiles, titles = (
        [marked(image, side, truth, state, list(found.values())[-1][joint])],
        ["the crop, to be covered"],
    )
    for name, part in maps.items():
        tiles.append(marked(blend(image, part[joint], top), side, truth, state, found[name][joint]))
        titles.append(f"{name}: peak {part[joint].max():.2f}")
    return tiled(tiles, titles, len(tiles))


def on_crop(box: list[float], image_size: int) -> tuple[int, ...]:
    """A box [x1, y1, x2, y2] on the first tile of `covered`, picture px, in whole crop px, cut off at its edges."""
    side = filling(image_size, 300)
    return tuple(
        int(np.clip(round((edge - shift) * image_size / side), 0, image_size))
        for edge, shift in zip(box, (0, TITLE, 0, TITLE))
    )


def moved_targets(
    people: People,
    row: int,
    image_size: int,
    targets: Targets,
    joint: int | None = None,
    scale: float = 1.0,
    angle: float = 0.0,
    mirrored: bool = False,
) -> Image.Image:
    """Person `row` scaled, turned (degrees) and mirrored as training may, beside the disc and the Gaussian drawn anew.

    joint: one joint's maps; None: the highest of all. Titles say radius and sigma in px of this crop.
    """
    frame = people.frame(row, image_size).augmented(scale, angle, mirrored)
    joints, states = joints_in_crop(frame, people.joints[row], people.visibility[row])
    crop, body, side = people.images.crop(row, frame), frame.body_in_crop, filling(image_size, 300)
    batch = {
        "image": torch.from_numpy(crop)[None],
        "joints": torch.from_numpy(joints)[None],
        "visibility": torch.from_numpy(states)[None],
        "body": torch.tensor([body], dtype=torch.float32),
    }
    shown = range(len(states)) if joint is None else [joint]
    maps = [
        draw(batch)[0][0].numpy()[shown].max(0) for draw in (targets.detector, targets.regressor)
    ]
    painted = [
        cv2.resize(blend(crop, part), (side, side), interpolation=cv2.INTER_NEAREST)
        for part in maps
    ]
    titles = [
        f"body {body:.0f} px of {image_size}",
        f"disc, radius {targets.radius * body / BODY:.1f} px",
        f"Gaussian, sigma {targets.sigma * body / BODY:.1f} px",
    ]
    return tiled([pose_marks(crop, joints, states, side), *painted], titles, 3)


def pose_marks(
    image: np.ndarray, joints: np.ndarray, visibility: np.ndarray, side: int
) -> np.ndarray:
    """The crop (S, S, 3) as (side, side, 3) with a dot on each labelled joint (16, 2) crop px: orange right, blue left,
    green between; hollow if occluded."""
    picture, zoom = (
        cv2.resize(image, (side, side), interpolation=cv2.INTER_NEAREST),
        side / image.shape[0],
    )
    for joint in np.flatnonzero(visibility != ABSENT):
        colour = tuple(round(255 * part) for part in colors.to_rgb(side_style(joint)[0]))
        for shade, width, radius in (
            (WHITE, -1, 4.5),
            (colour, -1 if visibility[joint] == VISIBLE else 2, 3.5),
        ):
            center = np.rint(16 * rescale(joints[joint], zoom)).astype(int).tolist()
            cv2.circle(picture, center, round(16 * radius), shade, width, cv2.LINE_AA, shift=4)
    return picture


def sharpening(
    epochs: list[dict], joint: int | None = None, side: int = 104, across: bool = False
) -> Image.Image:
    """The watched people's maps (stages.watched_maps) as they become sharp: a row a person, a column
    an epoch, nine at most.

    joint: one joint's maps; None: the highest of all. Each epoch has its own scale, whose end is said above it.
    across: people side by side, for a single epoch.
    """
    if not epochs:
        return tiled(
            [np.full((1, 300, 3), 255, np.uint8)], ["no epoch of this stage was watched"], 1
        )
    chosen = [
        epochs[k]
        for k in np.unique(np.linspace(0, len(epochs) - 1, min(9, len(epochs))).round().astype(int))
    ]
    shown = [
        record["maps"].max(1) if joint is None else record["maps"][:, joint] for record in chosen
    ]
    tops = [max(0.05, float(maps.max())) for maps in shown]
    tiles = [
        cv2.resize(
            blend(record["crops"][row], maps[row], top), (side, side), interpolation=cv2.INTER_AREA
        )
        for row in range(len(chosen[0]["crops"]))
        for record, maps, top in zip(chosen, shown, tops)
    ]
    titles = [
        f"{record['stage']} {record['epoch']}: {top:.2f}" for record, top in zip(chosen, tops)
    ]
    return tiled(
        tiles, titles + [""] * (len(tiles) - len(titles)), len(tiles) if across else len(chosen), 10
    )


def photograph(
    image: np.ndarray, people: list[dict], width: int = 600, height: int = 500
) -> Image.Image:
    """An image (H, W, 3) as large as fits, people (PoseEstimator.predict) drawn on it (drawing.overlay)."""
    factor = min(width / image.shape[1], height / image.shape[0])
    size = [max(1, round(factor * length)) for length in image.shape[1::-1]]
    image = cv2.resize(
        image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_NEAREST
    )
    moved = [
        {
            "box": [factor * edge for edge in person["box"]],
            "joints": {
                name: joint | {axis: rescale(joint[axis], factor) for axis in "xy"}
                for name, joint in person["joints"].items()
            },
        }
        for person in people
    ]
    return Image.fromarray(drawing.overlay(image, moved))
