import numpy as np
import pandas as pd
import pytest

from hpe_lib.skeleton import MPII
from hpe_lib.view import figures

PNG = b"\x89PNG"


def test_curves_have_no_label_of_a_stage_without_epochs_and_scores_of_any_epoch():
    records = [{"stage": "joint", "loss": 2.0}, {"stage": "joint", "loss": 1.0, "PCKh@0.5": 40.0}]
    curves = figures.LearningCurves({"detector": [], "regressor": [], "joint": records})
    left, right = curves.figure.axes
    assert [text.get_text() for text in left.texts] == ["joint"]
    (line, *_) = right.lines
    assert np.isnan(line.get_ydata()[0]) and line.get_ydata()[1] == 40


def test_curves_grow_in_one_figure():
    curves = figures.LearningCurves({"detector": []}, reference={"constant": 3.0})
    before = curves.figure
    for epoch in (1, 2):
        record = {
            "stage": "detector",
            "epoch": epoch,
            "loss": 2.0 / epoch,
            "PCKh@0.5": 10.0,
            "PCKh@0.5 occluded": 5.0,
        }
        assert curves.add(record) is before
    left, right = before.axes
    assert left.lines[0].get_ydata().tolist() == [2.0, 1.0] and left.get_ylim()[1] > 3
    assert [line.get_label() for line in right.lines if not line.get_label().startswith("_")] == [
        "PCKh@0.5",
        "PCKh@0.5 occluded",
    ]
    curves.add(
        {"stage": "regressor", "epoch": 1, "loss": 0.5}
    )  # the next stage goes on where this one ended
    assert any(
        line.get_xdata().tolist() == [3]
        for line in before.axes[0].lines
        if hasattr(line.get_xdata(), "tolist")
    )
    assert before._repr_png_().startswith(PNG)


def test_bars_say_where_the_truth_cannot_tell():
    known = {"metric": "PCKh@0.5", "visible": 80.0, "occluded": 40.0}
    bars = figures.visibility_bars({"a": known, "b": known}).axes[0]
    assert sorted(patch.get_width() for patch in bars.patches) == [40, 40, 80, 80]
    unknown = figures.visibility_bars({"a": {**known, "visible": None, "occluded": None}}).axes[0]
    assert "not measurable" in unknown.texts[0].get_text() and not unknown.patches


@pytest.mark.parametrize("side", [96.0, 102.4, 204.8, 256.0])
def test_one_value_up_to_rounding_is_one_bar(side):
    """The frame of real people is their body times a margin: in the crop all bodies are one."""
    values = np.array([np.nextafter(side, 0), side, np.nextafter(side, np.inf)])
    bars = figures.histograms({"upright body in the crop, px": values}).axes[0].patches
    heights = bars[0].get_xy()[:, 1]
    assert heights.max() == 3 and (np.diff(heights) > 0).sum() == 1


def test_histograms_bear_missing_values_and_leave_nobody_out():
    values = {"some": np.array([np.nan, -5.0, 0.5, 2.0]), "none": np.array([])}
    figure = figures.histograms({"x, px": values}, bins=np.linspace(0, 1, 5), share=True)
    heights = [patch.get_xy()[:, 1].max() for patch in figure.axes[0].patches]
    assert heights[0] == pytest.approx(100 / 3) and figure._repr_png_().startswith(PNG)
    assert "some (3)" in [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_bars_of_annotations_are_stacked():
    counts = {"visible": np.full(16, 3), "occluded": np.arange(16) % 2}
    ax = figures.annotation_bars(counts, 4).axes[0]
    first, second = ax.containers
    assert [bar.get_width() for bar in first] == [75.0] * 16
    assert [bar.get_width() for bar in second] == [0.0, 25.0] * 8
    assert {bar.get_x() for bar in second} == {75.0}
    assert [label.get_text() for label in ax.get_yticklabels()] == list(MPII.names)


def points(ax, marker):
    """[x, y] of every point of one marker, in the order they were drawn."""
    lines = [line.get_xydata() for line in ax.lines if line.get_marker() == marker]
    found = np.concatenate(lines) if lines else np.empty((0, 2))
    return found[np.isfinite(found).all(1)].tolist()


def intervals(ax):
    """[[x, y], [x, y]] of every level line from one place to another."""
    return [segment.tolist() for lines in ax.collections for segment in lines.get_segments()]


def test_gaps_stand_beside_the_paper_s():
    """ours: b 3 below the full cascade, c 1 above; the paper: b 2 below, and c is no row of it."""
    against = {
        name: {"total": {"difference": value, "ci95": [value - 1, value + 2]}}
        for name, value in (("full", 0.0), ("b", -3.0), ("c", 1.0))
    }
    ax = figures.ablation_differences(
        against, pd.Series({"full": 89.7, "b": 87.7, "d": 50.0})
    ).axes[0]
    ours = points(ax, "o")
    paper = points(ax, "D")
    assert [x for x, _ in ours] == [-3, 1] and [x for x, _ in paper] == [pytest.approx(-2)]
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "b",
        "c",
    ] and ax.get_yticks().tolist() == [0, 1]
    assert (
        [round(y) for _, y in ours] == [0, 1]
        and [round(y) for _, y in paper] == [0]
        and ours[0][1] != paper[0][1]
    )
    assert [[x for x, _ in line] for line in intervals(ax)] == [[-4, -1], [0, 3]]
    assert [line[0][1] for line in intervals(ax)] == [y for _, y in ours]
    assert ax.get_ylim()[0] > ax.get_ylim()[1] and "full" in ax.get_xlabel()
    (legend,) = ax.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["ours, 95 % over people", "paper"]


def test_covered_joints_as_curves():
    table = pd.DataFrame(
        {
            "detector": [90.0, 20.0],
            "cascade": [95.0, 60.0],
            "detector's peak": [0.8, 0.1],
            "cascade's peak": [0.9, 0.5],
        },
        index=pd.Index([0.0, 0.2], name="side"),
    )
    figure = figures.cover_curves(table, "PCKh@0.5")
    drawn = {
        (ax.get_ylabel(), line.get_label()): line.get_xydata().tolist()
        for ax in figure.axes
        for line in ax.lines
    }
    share = "PCKh@0.5 of the covered joint, %"
    peak = "mean peak"
    assert drawn == {
        (share, "detector"): [[0, 90], [0.2, 20]],
        (share, "cascade"): [[0, 95], [0.2, 60]],
        (peak, "detector"): [[0, 0.8], [0.2, 0.1]],
        (peak, "cascade"): [[0, 0.9], [0.2, 0.5]],
    }
    assert all(ax.get_ylim()[0] == 0 and ax.get_xlabel() == "side" for ax in figure.axes)
    assert (
        len({line.get_marker() for line in figure.axes[0].lines}) == 2
    )  # told apart without colour, too


def test_where_predictions_stand_among_printed_totals():
    tables = {"Table 6": pd.Series({"a": 80.0, "b": 89.7}), "Table 7": pd.Series({"c": 73.0})}
    ax = figures.published_totals(tables, {"file": {"total": 85.0, "ci95": [84.0, 86.5]}}).axes[0]
    assert points(ax, "o") == [[80, 0], [89.7, 0], [73, 1]] and points(ax, "D") == [[85, 2]]
    assert intervals(ax) == [[[84, 2], [86.5, 2]]]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["Table 6", "Table 7", "file"]
    assert ax.get_yticks().tolist() == [0, 1, 2] and ax.get_ylim()[0] > ax.get_ylim()[1]
    assert (
        figures.published_totals(tables, {})._repr_png_().startswith(PNG)
    )  # nobody's predictions are there
