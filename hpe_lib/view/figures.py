"""Charts of the notebooks, drawn by matplotlib in the colours of `drawing`."""

import inspect
import io
from collections.abc import Callable
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hpe_lib.skeleton import MPII
from hpe_lib.view.drawing import BLACK, BLUE, GREEN, PURPLE, SKY, VERMILION

ORANGE = "#E69F00"
KIND_COLOURS = {
    "visible": GREEN,
    "occluded": PURPLE,
    "background": "#7F7F7F",
    "outside the crop": SKY,
    "not annotated": "#D9D9D9",
}
LEGEND = {"fontsize": 8, "frameon": False}


class InlineFigure(Figure):
    """A Figure that a notebook shows without pyplot, so that no figure stays open in memory."""

    def __init__(self, width: float, height: float):
        super().__init__(figsize=(width, height), layout="constrained", dpi=100)

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", bbox_inches="tight")
        return buffer.getvalue()


class Source(str):
    """The source of functions, as a notebook shows it: what is read is what runs."""

    def __new__(cls, *functions: Callable) -> "Source":
        """Read the functions' source."""
        return super().__new__(cls, "\n\n".join(map(inspect.getsource, functions)))

    def _repr_markdown_(self) -> str:
        return f"```python\n{self}```"


def annotation_bars(counts: dict[str, np.ndarray], total: int) -> Figure:
    """Show how many of `total` people have each joint: a stacked bar for each joint.

    counts: a key of KIND_COLOURS -> (16,).
    """
    figure = InlineFigure(8, 4.2)
    ax = figure.subplots()
    left = np.zeros(len(MPII.names))
    for kind, count in counts.items():
        style = {"color": KIND_COLOURS[kind], "edgecolor": "white", "label": kind}
        ax.barh(MPII.names, 100 * count / total, left=left, **style)
        left = left + 100 * count / total
    ax.set(xlabel=f"share of {total} people, %", xlim=(0, 100))
    ax.invert_yaxis()
    ax.tick_params(labelsize=8)
    figure.legend(loc="outside upper center", ncols=len(counts), **LEGEND)
    return figure


def histograms(
    quantities: dict[str, dict[str, np.ndarray] | np.ndarray],
    bins: int | np.ndarray = 40,
    share: bool = False,
) -> Figure:
    """Show one panel for each x label: an array, or several named ones. NaN is left out.

    bins: their number or edges; values beyond the edges count in the last bins.  share: in percent
    and on a logarithmic scale, since a bar at 0 may hold nearly everything.
    """
    figure = InlineFigure(4.6 * len(quantities), 2.9)
    axes = figure.subplots(1, len(quantities), squeeze=False)[0]
    for ax, (label, groups) in zip(axes, quantities.items()):
        groups = groups if isinstance(groups, dict) else {"": groups}
        _draw_histogram(ax, groups, bins, share)
        ax.set(xlabel=label, ylabel="share, %" if share else "count")
        if share:
            ax.set(yscale="log", ylim=(0.05, 120))
            ax.yaxis.set_major_formatter("{x:g}")
        if len(groups) > 1:
            ax.legend(**LEGEND)
    return figure


def _draw_histogram(ax, groups, bins, share):
    groups = {name: np.asarray(values)[np.isfinite(values)] for name, values in groups.items()}
    every = np.concatenate([*groups.values()])
    if every.size and np.allclose(every, every[0]):  # one value, but for rounding, is one bar
        groups = {name: np.full(len(values), every[0]) for name, values in groups.items()}
        every = every[:1]
    edges = np.histogram_bin_edges(every, bins)
    styles = zip((GREEN, PURPLE, BLACK, BLUE), ("-", "--", ":", "-."))
    for (name, values), (colour, dash) in zip(groups.items(), styles):
        ax.hist(
            np.clip(values, edges[0], edges[-1]),
            edges,
            weights=np.full(len(values), 100 / max(len(values), 1)) if share else None,
            histtype="stepfilled",
            facecolor=(colour, 0.25),
            edgecolor=colour,
            linestyle=dash,
            linewidth=1.6,
            label=f"{name} ({len(values)})",
        )


class LearningCurves:
    """Losses and scores of stages, redrawn after each epoch of a stage that trains.

    histories: stage -> epoch records.  reference: name -> loss, drawn as dotted lines: the loss of
    an answer that ignores the image.  figure: always the same Figure.
    """

    def __init__(
        self,
        histories: dict[str, list[dict]] | None = None,
        reference: dict[str, float] | None = None,
    ):
        self.histories = dict(histories or {})
        self.reference = reference or {}
        self.figure = InlineFigure(9.5, 3.1)
        self.draw()

    def add(self, record: dict) -> Figure:
        """Add one epoch to the stage that the record names, and return the figure."""
        self.histories.setdefault(record["stage"], []).append(record)
        return self.draw()

    def draw(self) -> Figure:
        """Draw the losses on a logarithmic scale, and all scores of the records."""
        self.figure.clear()
        left, right = self.figure.subplots(1, 2)
        done = 0
        for stage, records in self.histories.items():
            if not records:
                continue
            epochs = done + np.arange(1, len(records) + 1)
            losses = [record["loss"] for record in records]
            left.plot(epochs, losses, "o-", color=BLUE, markersize=3)
            place = {"transform": left.get_xaxis_transform(), "fontsize": 8}
            left.text(done + 0.6, 1.02, stage, **place)
            draw_scores(right, epochs, records, labelled=done == 0)
            done += len(records)
            for ax in (left, right):
                ax.axvline(done + 0.5, color="lightgrey", linewidth=1)
        for name, value in self.reference.items():
            left.axhline(value, color=VERMILION, linestyle=":", label=name)
        set_log_scale(left)
        left.set(ylabel="training loss, Σ over map cells / 16")
        right.set(ylabel="held-out people, %", ylim=(0, 100))
        for ax in (left, right):
            ax.set(xlabel="epoch", xlim=(0.5, max(done, 1) + 0.5))
            ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
            if ax.get_legend_handles_labels()[0]:
                ax.legend(**LEGEND)
        return self.figure


def set_log_scale(ax: Axes) -> None:
    """Give an Axes a logarithmic y axis, labelled with plain numbers."""
    low, high = ax.dataLim.intervaly if np.isfinite(ax.dataLim.intervaly).all() else (1, 1)
    ax.set(yscale="log", ylim=(0.75 * low, 1.35 * high))
    ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_locator(ticker.NullLocator())


def draw_scores(ax: Axes, epochs: np.ndarray, records: list[dict], labelled: bool) -> None:
    """Draw the scores of epoch records as lines: of all, visible and occluded joints."""
    for name in dict.fromkeys(name for record in records for name in record):
        if name.startswith("PCK"):
            kind = name.partition(" ")[2]
            dash = {"visible": "--", "occluded": ":"}.get(kind, "-")
            style = {"linestyle": dash, "color": KIND_COLOURS.get(kind, BLACK), "markersize": 3}
            values = [record.get(name, np.nan) for record in records]
            ax.plot(epochs, values, "o", label=name if labelled else None, **style)


def label_rows(ax: Axes, names: list[str], xlabel: str) -> None:
    """Name the rows 0, 1, … of an Axes, the first on top."""
    ax.set(yticks=range(len(names)), yticklabels=names, xlabel=xlabel)
    ax.invert_yaxis()


def visibility_bars(scores: dict[str, dict]) -> Figure:
    """Show scores (`evaluation.score`) by row name: visible joints beside occluded ones.

    A sentence takes their place if no scored joint is labelled as occluded.
    """
    figure = InlineFigure(8, 0.7 + 0.55 * len(scores))
    names = list(scores)
    ax = figure.subplots()
    if any(score["occluded"] is None for score in scores.values()):
        note = "not measurable here:\nno scored joint is labelled as occluded"
        ax.text(0.5, 0.5, note, ha="center", va="center")
        ax.set(xticks=[], yticks=[])
        figure.set_size_inches(8, 0.8)
        return figure
    for shift, kind, hatch in ((-0.2, "visible", ""), (0.2, "occluded", "///")):
        values = [scores[name][kind] for name in names]
        style = {"color": KIND_COLOURS[kind], "hatch": hatch, "edgecolor": "white"}
        places = np.arange(len(names)) + shift
        bars = ax.barh(places, values, 0.38, label=f"{kind} joints", **style)
        ax.bar_label(bars, fmt="%.1f", fontsize=8, padding=2)
    label_rows(ax, names, f"{scores[names[0]]['metric']}, %")
    ax.set(xlim=(0, 108))
    figure.legend(loc="outside upper center", ncols=2, **LEGEND)
    return figure


def ablation_differences(differences: dict[str, dict], printed: pd.Series) -> Figure:
    """Show each row's distance from the full cascade in points, with its interval.

    differences: row -> `evaluation.paired`, the full cascade first.  printed: the paper's totals by
    row; rows that it lacks are ours alone.
    """
    full = next(iter(differences))
    names = [name for name in differences if name != full]
    figure = InlineFigure(8, 0.9 + 0.35 * len(names))
    ax = figure.subplots()
    ours = [differences[name]["total"] for name in names]
    places = np.arange(len(names))
    for place, total in zip(places - 0.12, ours):
        ax.hlines(place, *total["ci95"], color=BLUE)
    points = [total["difference"] for total in ours]
    ax.plot(points, places - 0.12, "o", color=BLUE, label="ours, 95 % over people")
    theirs = printed.reindex(names).to_numpy() - printed[full]
    ax.plot(theirs, places + 0.12, "D", color=ORANGE, label="paper")
    ax.axvline(0, color=BLACK, lw=0.8)
    label_rows(ax, names, f"points against {full}")
    figure.legend(loc="outside upper center", ncols=2, **LEGEND)
    return figure


def cover_curves(covered: pd.DataFrame, metric: str) -> Figure:
    """Show `probes.cover_one_joint` by the patch's side: the covered joint's score and its peak."""
    figure = InlineFigure(9, 3)
    panels = {"": f"{metric} of the covered joint, %", "'s peak": "mean peak"}
    for ax, (ending, label) in zip(figure.subplots(1, 2), panels.items()):
        for name, colour, marker in (("detector", ORANGE, "o"), ("cascade", BLUE, "s")):
            ax.plot(covered.index, covered[name + ending], marker + "-", color=colour, label=name)
        ax.set(xlabel=covered.index.name, ylabel=label, ylim=0)
        ax.legend(**LEGEND)
    return figure


def score_against_time(
    curves: dict[str, list[dict]], metric: str = "PCK@0.2 of 200 people,\nno flip test"
) -> Figure:
    """Show how trainings' scores grow with their minutes.

    curves: row -> [{"minutes", "total"}, …], a point for each epoch.  metric: what the totals are;
    that of Leeds people's curves, if none is named.
    """
    figure = InlineFigure(8, 5)
    ax = figure.subplots()
    for (name, points), marker in zip(curves.items(), cycle("osD^vPX")):
        minutes, totals = zip(*[(point["minutes"], point["total"]) for point in points])
        ax.plot(minutes, totals, f"{marker}-", markersize=4, label=name)
    ax.set(xlabel="minutes of training", ylabel=f"{metric}, %", xlim=0, ylim=0)
    figure.legend(loc="outside lower center", **LEGEND)
    return figure


def totals_by_budget(totals: pd.DataFrame) -> Figure:
    """Show what each row scores by the epochs of each of its networks, a line a seed.

    totals: `table_5.totals_on_lsp`.
    """
    figure = InlineFigure(6, 3.6)
    ax = figure.subplots()
    styles = dict(zip(totals.row.unique(), zip("osD^", (BLACK, BLUE, ORANGE, PURPLE))))
    for (row, seed), part in totals.groupby(["row", "seed"], sort=False):
        marker, colour = styles[row]
        part = part.sort_values("epochs")
        error = [part.total - part.low, part.high - part.total]
        fill = "none" if seed else "full"
        ax.errorbar(
            part.epochs,
            part.total,
            error,
            fmt=f"{marker}-",
            color=colour,
            fillstyle=fill,
            label=f"{row}, seed {seed}",
        )
    budgets = sorted(set(totals.epochs))
    ax.set(xscale="log", xlabel="epochs", ylabel="PCK@0.2, %")
    ax.set_xticks(budgets, budgets)
    ax.xaxis.set_minor_locator(ticker.NullLocator())
    figure.legend(loc="outside lower center", ncols=2, **LEGEND)
    return figure


def leads_by_budget(leads: pd.DataFrame) -> Figure:
    """Show detection+regression's lead by epochs, a panel a difficulty and a line a seed.

    leads: `table_5.drawn_leads` or `table_5.leeds_leads`.
    """
    order = ("easy", "medium", "hard", "real people")
    difficulties = [name for name in order if name in set(leads.difficulty)]
    figure = InlineFigure(max(6, 3 * len(difficulties)), 3.6)
    panels = figure.subplots(1, len(difficulties), sharey=True, squeeze=False)[0]
    styles = {"visible": ("o-", "full"), "occluded": ("s--", "none")}
    for ax, difficulty in zip(panels, difficulties):
        shown = leads[leads.difficulty == difficulty]
        lines = shown.groupby(["over", "joints", "seed"])
        for number, ((over, joints, _), part) in enumerate(lines):
            line, fill = styles[joints]
            colour = ORANGE if over == "detection only" else BLUE
            places = part.epochs * 1.02 ** (number - (len(lines) - 1) / 2)  # side by side
            error = [part.lead - part.low, part.high - part.lead]
            label = f"over {over}, {joints} joints"
            ax.errorbar(
                places, part.lead, error, fmt=line, color=colour, fillstyle=fill, label=label
            )
        ax.axhline(0, color=BLACK, lw=0.8)
        ax.set(xscale="log", title=difficulty, xlabel="epochs")
        budgets = sorted(set(shown.epochs))
        ax.set_xticks(budgets, budgets)
        ax.xaxis.set_minor_locator(ticker.NullLocator())
    panels[0].set_ylabel("lead of detection+regression, points")
    handles, labels = panels[0].get_legend_handles_labels()
    named = dict(zip(labels, handles))
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=2, **LEGEND)
    return figure


def published_totals(tables: dict[str, pd.Series], scores: dict[str, dict]) -> Figure:
    """Show printed totals as dots, a row for each table, and scores made here with intervals.

    The paper's own rows are named.
    """
    count = len(tables) + len(scores)
    figure = InlineFigure(9, 0.8 + 0.5 * count)
    ax = figure.subplots()
    ax.set_ylim(-0.6, count - 0.4)
    for row, totals in enumerate(tables.values()):
        ax.plot(totals, [row] * len(totals), "o", color=BLUE, alpha=0.6)
        for name in totals.index[totals.index.str.startswith("Bulat")]:
            words = name.partition(" (")[2].rstrip(")")
            ax.annotate(words, (totals[name], row - 0.15), ha="center")
    for row, score in enumerate(scores.values(), len(tables)):
        ax.hlines(row, *score["ci95"], color=ORANGE)
        ax.plot(score["total"], row, "D", color=ORANGE)
    label_rows(ax, [*tables, *scores], "total, %")
    return figure
