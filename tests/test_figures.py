import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from hpe_lib import heatmaps
from hpe_lib.data.images import ImageArrays
from hpe_lib.data.people import People
from hpe_lib.skeleton import ABSENT, MPII, OCCLUDED, VISIBLE
from hpe_lib.view import figures

PNG = b"\x89PNG"
RANDOM = np.random.default_rng(0)
CROP = np.zeros((16, 16, 3), np.uint8)


def bright(ax):
    """(x from, x to, y from, y to) in the Axes' data units of what is drawn in yellow."""
    FigureCanvasAgg(ax.figure).draw()
    pixels = np.asarray(ax.figure.canvas.buffer_rgba())[..., :3].astype(int)
    rows, columns = np.nonzero((pixels[..., 0] > 200) & (pixels[..., 2] < 200))
    left, right, top, bottom = columns.min(), columns.max() + 1, rows.min(), rows.max() + 1
    corners = ax.transData.inverted().transform(
        [(left, len(pixels) - top), (right, len(pixels) - bottom)]
    )
    return corners[0, 0], corners[1, 0], corners[0, 1], corners[1, 1]


def test_a_hot_cell_is_drawn_over_the_pixels_it_covers():
    heat = np.zeros((4, 4))
    heat[1, 2] = 1  # row 1, column 2
    figure = figures.Picture(4, 4)
    ax = figures.overlay(figure.subplots(), CROP, heat)
    assert bright(ax) == pytest.approx((7.5, 11.5, 3.5, 7.5), abs=0.1)
    point, _ = heatmaps.decode(torch.from_numpy(heat).float()[None, None], "argmax")
    assert heatmaps.from_map(point, 4).flatten().tolist() == [
        9.5,
        5.5,
    ]  # the middle of what was drawn


def test_a_pose_shows_each_joint_by_what_is_known_of_it():
    joints, visibility = RANDOM.uniform(0, 15, (16, 2)), np.full(16, VISIBLE)
    left, right, gone = (MPII.index(name) for name in ("left_wrist", "right_wrist", "head_top"))
    visibility[left], visibility[gone] = OCCLUDED, ABSENT
    joints[MPII.index("pelvis")] = np.nan
    ax = figures.pose(figures.Picture(2, 2).subplots(), joints, visibility, limbs=False)
    drawn = {tuple(line.get_xydata()[0]): line for line in ax.lines}
    assert len(drawn) == 14 and tuple(joints[gone]) not in drawn
    hollow, filled = drawn[tuple(joints[left])], drawn[tuple(joints[right])]
    assert (
        hollow.get_markerfacecolor() == "white"
        and filled.get_markerfacecolor() == figures.VERMILION
    )
    assert hollow.get_marker() != filled.get_marker()
    limbs = figures.pose(figures.Picture(2, 2).subplots(), joints, visibility).lines[:-14]
    assert len(limbs) == len(MPII.limbs) - sum(gone in limb for limb in MPII.limbs)
    middle = (
        joints[MPII.index("left_hip")] + joints[MPII.index("right_hip")]
    ) / 2  # where an absent pelvis is drawn
    assert sum(np.isclose(line.get_xydata(), middle).all(1).any() for line in limbs) == 3
    assert sum(line.is_dashed() for line in limbs) == 1


def test_peaks_are_taken_where_the_joint_is_and_where_it_is_not():
    maps = torch.full((2, 16, 32, 32), 0.05)
    joints = torch.tensor([[30.0, 30.0], [90.0, 90.0]])[:, None].repeat(1, 16, 1)
    visibility = torch.full((2, 16), VISIBLE)
    visibility[:, 3], visibility[0, 4] = OCCLUDED, ABSENT
    maps[0, :, 7, 7], maps[1, :, 22, 22], maps[:, 3] = 0.9, 0.9, 0.4
    batch = {"joints": joints, "visibility": visibility, "body": torch.tensor([100.0, 100.0])}
    found = figures.peaks(maps, batch, map_stride=4)
    assert {kind: len(values) for kind, values in found.items()} == {
        "visible": 29,
        "occluded": 2,
        "background": 30,
    }
    assert np.allclose(found["visible"], 0.9) and np.allclose(found["occluded"], 0.4)
    assert np.allclose(np.sort(found["background"]), [0.05] * 28 + [0.4] * 2)
    near = {**batch, "joints": joints.clone().fill_(30.0)}
    assert (
        len(figures.peaks(maps, near, map_stride=4)["background"]) == 0
    )  # nobody else's joint is far enough


def person():
    joints = RANDOM.uniform(0, 40, (1, 16, 2))
    one = np.ones(1)
    return People(
        dataset="drawn",
        keys=np.array(["a"]),
        joints=joints,
        visibility=np.full((1, 16), VISIBLE, np.int8),
        normaliser=3 * one,
        metric="PCKh@0.5",
        occlusion_labels=True,
        images=ImageArrays([RANDOM.integers(0, 255, (40, 60, 3), np.uint8)], "drawn"),
        center=np.array([[30.0, 20.0]]),
        side=32 * one,
        body=24 * one,
    )


def test_the_window_on_the_image_is_what_the_frame_cuts_out():
    people = person()
    frame = people.frame(0, 16)
    figure = figures.window(people, 0, {"frame": frame, "turned": frame.augmented(0.8, 30, True)})
    first, second, third = figure.axes
    corners = first.lines[1].get_xydata()
    assert corners.min(0).tolist() == [14, 4] and corners.max(0).tolist() == [
        46,
        36,
    ]  # centre ± side / 2
    assert second.get_xlim() == (-0.5, 15.5) and third.get_ylim() == (15.5, -0.5)
    assert figure._repr_png_().startswith(PNG)


def test_curves_grow_in_one_figure():
    curves = figures.Curves({"detector": []}, reference={"constant": 3.0})
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
    bars = figures.visible_against_occluded({"a": known, "b": known}).axes[0]
    assert sorted(patch.get_width() for patch in bars.patches) == [40, 40, 80, 80]
    unknown = figures.visible_against_occluded(
        {"a": {**known, "visible": None, "occluded": None}}
    ).axes[0]
    assert "not measurable" in unknown.texts[0].get_text() and not unknown.patches


def test_histograms_bear_missing_values_and_leave_nobody_out():
    values = {"some": np.array([np.nan, -5.0, 0.5, 2.0]), "none": np.array([])}
    figure = figures.histograms({"x, px": values}, bins=np.linspace(0, 1, 5), share=True)
    heights = [patch.get_xy()[:, 1].max() for patch in figure.axes[0].patches]
    assert heights[0] == pytest.approx(100 / 3) and figure._repr_png_().startswith(PNG)
    assert "some (3)" in [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_the_others_draw():
    people, maps, joints = person(), RANDOM.random((2, 16, 4, 4)), RANDOM.uniform(0, 15, (2, 16, 2))
    crops, states = (
        np.repeat(CROP[None], 2, 0),
        np.tile([VISIBLE, OCCLUDED, ABSENT, VISIBLE], (2, 4)),
    )
    drawn = [
        figures.contact_sheet(crops, joints, states, ["a", "b"], truth=joints),
        figures.shares({"visible": np.full(16, 1), "occluded": np.zeros(16)}, 1),
        figures.scatter_poses(joints, np.where(np.arange(16)[:, None] == 6, np.nan, joints[0]), 16),
        figures.overlays(crops, maps, joints, states, ["a", "b"]),
        figures.joint_maps(
            CROP, {"detector": maps[0], "regressor": maps[1]}, [0, 1, 2], joints[0], states[0]
        ),
        figures.stack(RANDOM.random((19, 16, 16))),
    ]
    assert all(figure._repr_png_().startswith(PNG) for figure in drawn) and len(people) == 1


# ---- notebooks 04, 06 and 07


def test_blocks_are_told_by_their_table_s_labels():
    class Small(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.A1 = torch.nn.Conv2d(3, 4, 3, stride=2, padding=1)
            self.A2 = torch.nn.ModuleList(
                [torch.nn.MaxPool2d(2), torch.nn.Conv2d(4, 6, 1, bias=False)]
            )

        def forward(self, images):
            maps = self.A1(images)
            for part in self.A2:
                maps = part(maps)
            return maps

    network = Small()
    found = figures.blocks(network, torch.zeros(2, 3, 16, 16))
    assert found.to_dict("index") == {
        "A1": {"parameters": 3 * 4 * 9 + 4, "channels": 4, "map, cells": "8"},
        "A2": {"parameters": 24, "channels": 4, "map, cells": "4, 4"},
    }
    assert not [
        part for part in network.modules() if part._forward_hooks
    ]  # nothing is left on the network


def points(ax, marker):
    """(x, y, …) of every line of one marker, in the order they were drawn."""
    return [
        tuple(np.ravel(line.get_xydata()).tolist())
        for line in ax.lines
        if line.get_marker() == marker
    ]


def intervals(ax):
    """[[x, y], [x, y]] of every level line from one place to another."""
    ends = [line.get_xydata().tolist() for line in ax.lines if line.get_marker() == "None"]
    return [pair for pair in ends if len(pair) == 2 and pair[0][1] == pair[1][1]]


def test_gaps_stand_beside_the_paper_s():
    """ours: b 3 below the full cascade, c 1 above; the paper: b 2 below, and c is no row of it."""
    against = {
        name: {"total": {"difference": value, "ci95": [value - 1, value + 2]}}
        for name, value in (("full", 0.0), ("b", -3.0), ("c", 1.0))
    }
    ax = figures.gaps(against, pd.Series({"full": 89.7, "b": 87.7, "d": 50.0})).axes[0]
    ours, paper = points(ax, "o"), points(ax, "D")
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
    figure = figures.covering(table, "PCKh@0.5")
    drawn = {
        (ax.get_ylabel(), line.get_label()): line.get_xydata().tolist()
        for ax in figure.axes
        for line in ax.lines
    }
    share, peak = "PCKh@0.5 of the covered joint, %", "mean peak"
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
    ax = figures.standing(tables, {"file": {"total": 85.0, "ci95": [84.0, 86.5]}}).axes[0]
    assert points(ax, "o") == [(80, 0, 89.7, 0), (73, 1)] and points(ax, "D") == [(85, 2)]
    assert intervals(ax) == [[[84, 2], [86.5, 2]]]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["Table 6", "Table 7", "file"]
    assert ax.get_yticks().tolist() == [0, 1, 2] and ax.get_ylim()[0] > ax.get_ylim()[1]
    assert (
        figures.standing(tables, {})._repr_png_().startswith(PNG)
    )  # nobody's predictions are there
