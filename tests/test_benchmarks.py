"""The rows of `make bench`, as small as can be, and that the references do the same work."""

import functools
import json
import runpy
import sys
import time

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import pages, plan, references, speed
from hpe_lib import heatmaps, refusals
from hpe_lib.trunks import IMAGENET_MEAN, IMAGENET_STD
from hpe_lib.workbook import artifacts, presets, results

pytestmark = pytest.mark.usefixtures("one_thread")


TINY = """
all: {}
"01": {train: 1-8, val: 9-12, image_size: 32}
"03": {batch_size: 4}
"04": {channels: 8, levels: 1}
"""


def test_every_claim_is_measured_in_one_table(monkeypatch, tmp_path):
    """Figures stand for what they say. Compiling in earnest takes too long."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    monkeypatch.setattr(refusals, "COMPILER", sys.executable)
    table = speed.table(count=2, rounds=1, preset=str(tmp_path / "tiny.yaml"))
    columns = ["what", "unit", "ours", "reference", "against", "ratio", "aim", "met", "note"]
    assert list(table) == columns
    assert len(table) == 12 if not torch.cuda.is_available() else 15
    assert (table.ours > 0).all() and (table.reference > 0).all() and np.isfinite(table.ratio).all()
    rates = table.unit.str.endswith("/s")
    ratio = np.where(rates, table.ours / table.reference, table.reference / table.ours)
    assert np.allclose(table.ratio, ratio) and rates.any() and not rates.all()
    assert set(table.met) <= {True, False, None} and table.met[table.aim == ""].isna().all()


@pytest.mark.parametrize(
    "unit, limit, ratio, met, aim",
    [
        ("x/s", 150, 1.9, True, "1.9 times, ≥ 150 x/s"),
        ("x/s", 250, 1.9, False, "1.9 times, ≥ 250 x/s"),
        ("x/s", 150, 2.1, False, "2.1 times, ≥ 150 x/s"),
        ("ms", 6, None, True, "≤ 6 ms"),
        ("ms", 4, None, False, "≤ 4 ms"),
        ("ms", None, None, None, ""),
    ],
)
def test_an_aim_is_met_or_not(unit, limit, ratio, met, aim):
    found = speed.claim("it", unit, (0.005, 0.01), "that", ratio, limit)
    assert (found["met"], found["aim"], found["ratio"]) == (met, aim, 2)
    assert (found["ours"], found["reference"]) == ((200, 100) if unit == "x/s" else (5, 10))


def test_actions_take_turns_and_their_first_calls_do_not_count():
    turns = []

    def slow_at_first():
        turns.append("b")
        if turns.count("b") < 2:
            time.sleep(1)

    seconds = speed.median_seconds(3, lambda: turns.append("a"), slow_at_first)
    assert "".join(turns).replace("aa", "a").replace("aa", "a").count("ab") == 3
    assert max(seconds) < 0.5


def test_threads_are_given_back():
    before = (torch.get_num_threads(), cv2.getNumThreads())
    during = []
    speed.median_seconds(
        1, lambda: during.append((torch.get_num_threads(), cv2.getNumThreads())), threads=1
    )
    assert set(during) == {(1, 1)}
    assert (torch.get_num_threads(), cv2.getNumThreads()) == before


def test_the_references_make_the_same_crops(tmp_path):
    people = speed.people_on_files(tmp_path / "x", 3, 238, 252, np.full(3, 187.5))
    mean, std = (torch.tensor(value)[:, None, None] for value in (IMAGENET_MEAN, IMAGENET_STD))
    for row, (path, frame, joints) in enumerate(speed.augmented(people)):
        crop = people.images.crop(row, frame)
        assert np.array_equal(references.decode_and_warp(path, frame)[..., ::-1], crop)
        image, maps = references.common_sample(path, frame, joints)
        expected = torch.from_numpy(crop).permute(2, 0, 1) / 255
        assert torch.allclose(image * std + mean, expected, atol=1e-5)
        assert maps.shape == (16, 64, 64)


@pytest.mark.parametrize(
    "draw, disc, extent, most",
    [(heatmaps.gaussians, False, 2.0, 0.012), (heatmaps.discs, True, 4.0, 0)],
)
def test_the_references_draw_the_same_targets(draw, disc, extent, most):
    points = torch.randint(8, 56, (1, 16, 2)).float()
    ours = draw(points, torch.ones(1, 16, dtype=torch.bool), 64, torch.tensor([extent]))[0]
    pasted = references.pasted_targets(points[0].numpy(), 64, 2.0, disc)
    assert np.abs(pasted - ours.numpy()).max() <= most


def test_pasted_targets_at_the_border():
    outside = np.array([[0.0, 63.0], [200.0, 5.0], [-40.0, 5.0]])
    edge = references.pasted_targets(outside, 64, 2.0)
    assert edge[0, 63, 0] == 1 and edge[1:].max() == 0


def test_the_references_decode_the_same_points():
    maps = torch.rand(2, 16, 12, 10)
    # On the border the loop does not look at neighbours.
    maps[..., [0, -1], :] = maps[..., :, [0, -1]] = 0
    points = references.decode_by_map(maps.numpy())
    assert np.allclose(points, heatmaps.decode(maps, "quarter")[0])


def test_the_command_prints_the_table_or_json(monkeypatch, capsys):
    rows = [
        speed.claim("it", "x/s", (0.005, 0.01), "that", 1.5),
        speed.claim("more", "ms", (1, 2), "that"),
    ]
    monkeypatch.setattr(speed, "table", lambda: pd.DataFrame(rows))
    for arguments in ([], ["--json"]):
        monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
        runpy.run_module("benchmarks", run_name="__main__")
    told = capsys.readouterr().out
    assert json.loads(told[told.index("[") :]) == rows and "200.0" in told.partition("[")[0]


def test_speeds_are_kept_for_the_page(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    rows = [
        speed.claim("samples", "samples/s", (1 / 1500, 1 / 750), "a class", limit=2000),
        speed.claim("step", "ms", (0.0025, 0.01), "a loop", ratio=4),
        speed.claim("rest", "ms", (0.002, 0.001), "another"),
    ]
    monkeypatch.setattr(speed, "table", lambda: pd.DataFrame(rows))
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--keep"])
    runpy.run_module("benchmarks", run_name="__main__")
    table = pages.speed_table()
    assert table.loc["samples"].tolist() == [
        *("1,500 samples/s", "750 samples/s", "a class", "2.00", "≥ 2000 samples/s", "**no**"),
    ]
    assert table.loc["step"].tolist() == ["2.5 ms", "10.0 ms", "a loop", "4.00", "4 times", "yes"]
    assert table.loc["rest", ["times as fast", "aim", "met"]].tolist() == ["0.50", "–", "–"]


def test_the_plan_counts_what_a_step_takes(monkeypatch):
    monkeypatch.setattr(plan, "IMAGE_SIZE", 64)
    of_stages = presets.stage_parameters(presets.resolve("smoke"))
    counted = {stage: plan.count(stage, parameters) for stage, parameters in of_stages.items()}
    detector, regressor, joint = (counted[stage] for stage in artifacts.NOTEBOOKS)
    assert detector["learning"] + regressor["learning"] == joint["learning"] == joint["weights"]
    assert regressor["forward"] == joint["forward"] > detector["forward"]
    assert detector["backward"] == pytest.approx(2 * detector["forward"], rel=0.2)
    assert regressor["backward"] < joint["backward"] and regressor["kernels"] < joint["kernels"]
    for found in counted.values():
        assert found["saved, bf16"] < found["saved, fp32"]


def test_views_and_allocations_are_no_kernels():
    with plan.Kernels() as kernels:
        numbers = torch.ones(4, 4)
        numbers.T[:2].sum()
        torch.empty(3)
    assert kernels.count == 2, "ones and sum"
