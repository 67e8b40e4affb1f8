"""Kept evidence: what is written, and that the printed tables say it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import pages, release
from hpe_lib import evaluation, rivals
from hpe_lib.data.datasets import load_people
from hpe_lib.paper import ROOT
from hpe_lib.prediction import Predictions
from hpe_lib.skeleton import OCCLUDED
from hpe_lib.view import figures
from hpe_lib.workbook import artifacts, results, table_5

PAGES = [path for page in pages.PAGES for path in sorted(ROOT.glob(page))]
KEPT = sorted(path.parent for path in results.RESULTS.rglob("predictions.npz"))


@pytest.fixture
def people():
    return load_people("synthetic", people="1-6", image_size=64)


@pytest.fixture
def weights(tmp_path):
    """A stage's folder, without anything that could be loaded."""
    made = {"kind": "joint", "network": {"trunk": "slim", "map_stride": 4}, "seed": 3}
    artifacts.save(tmp_path / "cascade", {}, {**made, "wall_seconds": 60.0, "steps": 5})
    return tmp_path / "cascade"


def found(people, off=0.0):
    joints = np.nan_to_num(people.joints) + off
    peaks = np.ones(joints.shape[:2])
    return Predictions(joints, peaks, joints + 100, joints + 100, peaks)


def test_what_is_kept_is_enough_to_score_and_compare_again(people, weights, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    metrics = results.keep_scores(
        tmp_path / "results" / "a", weights, found(people), people, "hpe …"
    )
    assert metrics["scores"]["cascade"]["total"] == 100 > metrics["scores"]["detector"]["total"]
    assert results.metrics_of("a") == artifacts.plain(metrics)
    joints = results.joints_of("a")
    assert joints["keys"].tolist() == people.keys.tolist()
    assert evaluation.score(joints["cascade"], people) == metrics["scores"]["cascade"]
    again = evaluation.paired([joints["cascade"]], [joints["detector"]], people)
    assert again == metrics["cascade over detector"]
    manifest = artifacts.manifest(tmp_path / "results" / "a")
    assert manifest["kind"] == "joint" and manifest["seed"] == 3
    assert pages.minutes("a") == 1


def test_a_detector_has_no_cascade(people, weights, tmp_path):
    made = artifacts.manifest(weights)
    artifacts.save(weights, {}, {**made, "kind": "detector"})
    metrics = results.keep_scores(tmp_path / "b", weights, found(people), people, "hpe …")
    assert set(metrics["scores"]) == {"detector", "detector, centroid"}


def test_released_weights_are_halved_and_say_what_they_were_trained_with(tmp_path, monkeypatch):
    tensors = {"weight": torch.tensor([1 / 3]), "count": torch.tensor([7])}
    artifacts.save(tmp_path / "run", tensors, {"kind": "joint", "seed": 3})
    cost = artifacts.manifest(tmp_path / "run") | {"peak_memory_mb": 12345.0}
    artifacts.write_manifest(tmp_path / "run", cost)
    monkeypatch.setattr(release, "RELEASED", tmp_path / "weights" / "leeds")
    folder = release.release(tmp_path / "run", "other")
    assert folder == tmp_path / "weights" / "other"
    found = artifacts.load_weights(folder)
    assert found["weight"].dtype == torch.float16 and found["count"].tolist() == [7]
    assert found["weight"].item() == pytest.approx(1 / 3, abs=1e-3)
    assert artifacts.manifest(folder)["seed"] == 3
    assert artifacts.manifest(folder)["peak_memory_mb"] == 12345.0, "the training's"


@pytest.mark.parametrize("name", ["metrics.json", "predictions.npz", "manifest.json"])
def test_a_person_s_file_among_the_evidence_is_not_replaced(people, weights, tmp_path, name):
    kept = weights, found(people), people, "hpe …"
    results.keep_scores(tmp_path / "b", *kept)
    results.keep_scores(tmp_path / "b", *kept)
    (tmp_path / "b" / name).write_text('{"mine": 1}')
    with pytest.raises(artifacts.BadInput, match=f"{name}: found a file"):
        results.keep_scores(tmp_path / "b", *kept)
    assert (tmp_path / "b" / name).read_text() == '{"mine": 1}'


def test_a_block_of_a_page_is_replaced_and_the_rest_left(monkeypatch):
    import pandas as pd

    table = pd.DataFrame({"total": [12.345, None]}, index=["ours", "theirs"])
    monkeypatch.setitem(pages.TABLES, "made-up", lambda: table)
    page = "a\n<!-- table: made-up -->\nold\n<!-- end of table -->\nb\n"
    assert pages.fill_tables(page) == (
        "a\n<!-- table: made-up -->\n| row | total |\n| --- | --- |\n| ours | 12.3 |\n"
        "| theirs | – |\n<!-- end of table -->\nb\n"
    )


def test_every_figure_of_the_results_is_on_a_page():
    text = "".join(path.read_text(encoding="utf-8") for path in PAGES)
    for name in pages.FIGURES:
        assert f"]({name})" in text and (ROOT / "docs" / name).is_file()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_printed_tables_are_those_of_the_results(path):
    """`make tables` writes them anew."""
    text = path.read_text(encoding="utf-8")
    assert pages.fill_tables(text) == text


def test_every_kept_score_says_what_made_it():
    for path in results.RESULTS.rglob("metrics.json"):
        made = artifacts.manifest(path.parent, "commit", "machine", "versions")
        assert "command" in made or "scored_by" in made


@pytest.mark.parametrize("folder", KEPT, ids=lambda path: path.name)
def test_kept_files_are_small_and_complete(folder):
    assert (folder / "predictions.npz").stat().st_size <= 150_000
    manifest = artifacts.manifest(folder)
    assert {"scored_by", "commit", "seed", "machine", "wall_seconds"} <= set(manifest)


def test_leads_on_synthetic_people_are_those_of_detection_first(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    behind = {"difference": -4.0, "ci95": [-5.0, -2.0]}
    level = {"difference": 0.5, "ci95": [-1.0, 1.5]}
    difference = {"visible": level, "occluded": behind}
    for row in ("cascade-3", "iterative-3", "iterative-3-seed-1", "regression-3"):
        artifacts.write_json(
            tmp_path / f"drawn-hard/{row}/metrics.json", {"difference": difference}
        )
    artifacts.write_json(tmp_path / "drawn-hard-claims/metrics.json", {})
    leads = table_5.drawn_leads()
    of_row = {"difficulty": "hard", "epochs": 3, "over": "regression+regression", "seed": 0}
    assert leads.to_dict("records") == [
        {**of_row, "joints": "visible", "lead": -0.5, "low": -1.5, "high": 1.0},
        {**of_row, "joints": "occluded", "lead": 4.0, "low": 2.0, "high": 5.0},
        {**of_row, "seed": 1, "joints": "visible", "lead": -0.5, "low": -1.5, "high": 1.0},
        {**of_row, "seed": 1, "joints": "occluded", "lead": 4.0, "low": 2.0, "high": 5.0},
    ]
    (panel,) = figures.leads_by_budget(leads).axes
    assert panel.get_title() == "hard"
    heights = sorted(float(bars[0].get_ydata()[0]) for bars in panel.containers)
    assert heights == [-0.5, -0.5, 4.0, 4.0]


def test_leads_on_real_people_are_those_of_the_verdicts(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    parts = ("total", "visible", "occluded")
    points = dict(zip(parts, (9.0, 10.0, 4.0)))
    for study, seed in (("table-5-36", 1), ("seeds", 1), ("race", 0), (table_5.OWN_RATES, 1)):
        paired = {
            part: {"difference": lead, "ci95": [lead - 1, lead + 2]}
            for part, lead in points.items()
        }
        found = {"joints": "total", "difference": 9.0, "signs": 1, "seeds": {str(seed): paired}}
        judged = {"1 det+reg > reg+reg": {"verdict": f"holds: {study}, 1 seed", **found}}
        judged["1 reg+reg > reg only"] = judged["1 det+reg > reg+reg"]
        artifacts.write_json(tmp_path / f"{study}-test-claims/metrics.json", {"criterion": judged})
    leads = table_5.leeds_leads()
    assert leads[["epochs", "seed", "joints", "lead"]].to_numpy().tolist() == [
        [6, 0, "visible", 10.0],
        [6, 0, "occluded", 4.0],
        [6, 1, "visible", 10.0],
        [6, 1, "occluded", 4.0],
        [36, 1, "visible", 10.0],
        [36, 1, "occluded", 4.0],
    ]
    assert leads.iloc[0][["low", "high"]].tolist() == [9.0, 12.0]
    (panel,) = figures.leads_by_budget(leads).axes
    ends = {tuple(bars[0].get_ydata()) for bars in panel.containers}
    assert ends == {(10.0,), (4.0,), (10.0, 10.0), (4.0, 4.0)}, "a line a seed"
    verdicts = table_5.claims_on_lsp()["verdict"]
    of_each = [*["holds: seeds, 2 seeds"] * 2, *["holds: table-5-36, 1 seed"] * 2]
    assert verdicts.tolist() == of_each, "two seeds of one budget have one verdict"
    in_brief = table_5.verdicts()
    assert in_brief.to_dict("list") == {
        "LSP, 6 epochs": ["holds: +9.0, +9.0"] * 2,
        "LSP, 36 epochs": ["holds: +9.0"] * 2,
        "LSP, 36 epochs, own rates": ["holds: +9.0"] * 2,
    }
    assert in_brief.index.tolist() == ["1 det+reg > reg+reg", "1 reg+reg > reg only"]


def test_totals_on_real_people_are_those_of_table_5s_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", tmp_path)

    def keep(name, row, epochs, total):
        score = {"total": total, "ci95": [total - 1, total + 2]}
        found = {"scores": {"detector": score | {"total": 0.0}, "cascade": score}} | row
        artifacts.write_json(tmp_path / name / "metrics.json", found)
        trained = {"seed": 1, "settings": {"epochs": epochs}}
        artifacts.write_manifest(tmp_path / name, trained)

    twice = {"row": "regression+regression (Res)"}
    longer = {"row": "detection only for all steps"}
    keep("table-5-72-test/iterative-1", twice, 72, 76.0)
    keep("table-5-test/iterative-1", twice, 18, 62.0)
    keep("table-5-test/control-1", longer, 36, 71.0)
    keep("table-5-test/regression-0", {}, 18, 30.0)  # not at the row's own rate
    keep("table-5-36-test/detection-1", {"row": "detection only (Res)"}, 36, 71.0)
    keep("other-test/iterative-1", twice, 36, 72.0)
    totals = table_5.totals_on_lsp()
    assert totals.to_numpy().tolist() == [
        ["detection only", 36, 1, 71.0, 70.0, 73.0],
        ["regression+regression", 18, 1, 62.0, 61.0, 64.0],
        ["regression+regression", 72, 1, 76.0, 75.0, 78.0],
    ]
    (panel,) = figures.totals_by_budget(totals).axes
    lines = {bars.get_label(): bars[0].get_xydata().tolist() for bars in panel.containers}
    assert lines == {
        "detection only, seed 1": [[36, 71]],
        "regression+regression, seed 1": [[18, 62], [72, 76]],
    }


def test_without_results_of_real_people_tables_are_empty(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    for table in (
        table_5.totals_on_lsp(),
        table_5.leeds_leads(),
        table_5.claims_on_lsp(),
        table_5.verdicts(),
        table_5.gains_by_epochs(),
    ):
        assert table.empty


def test_gains_are_listed_by_epochs_and_seed():
    gains = table_5.gains_by_epochs()
    budgets = [int(row.split()[0]) for row in gains.index]
    assert budgets == sorted(budgets) and {6, 18, 36, 72} == set(budgets)
    found = results.metrics_of("table-5-36-test/cascade-0")["cascade over detector"]["occluded"]
    assert gains.loc["36 epochs, seed 0", "occluded"] == evaluation.format_difference(found)


def test_every_cascade_scored_on_lsp_has_its_gain_in_the_table(tmp_path, monkeypatch):
    network = artifacts.manifest(results.RESULTS / "leeds-192")["network"]
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    parts = ("total", "visible", "occluded", "occluded_minus_visible")
    lead = {"difference": 1.0, "ci95": [0.0, 2.0]}
    gain = {"cascade over detector": dict.fromkeys(parts, lead)}
    for name, dataset, first, stacked in (
        ("study-test/row", "lsp", "detection", "both"),
        ("leeds-192", "lsp", "detection", "both"),
        ("study/row", "leeds", "detection", "both"),
        ("study-test/twice", "lsp", "regression", "both"),
        ("study-test/image", "lsp", "detection", "image"),
    ):
        artifacts.write_json(tmp_path / name / "metrics.json", {"dataset": dataset} | gain)
        changed = network | {"first": first, "stacked": stacked}
        artifacts.write_manifest(tmp_path / name, {"network": changed})
    artifacts.write_json(tmp_path / "study-test/detector/metrics.json", {"dataset": "lsp"})
    assert list(results.gain_table().index) == ["`leeds-192`", "`study-test/row`"]


def test_curves_are_of_rows_whose_minutes_compare(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    for name, threads in (("one", 1), ("other", 1), ("fast", 2)):
        metrics = {"label": name, "curve": [{"minutes": 4.0, "total": 1.0 + (name == "other")}]}
        artifacts.write_json(tmp_path / f"race/{name}/metrics.json", metrics)
        artifacts.write_manifest(tmp_path / f"race/{name}", {"machine": {"threads": threads}})
    assert list(results.study_curves("race")) == ["other", "one"]
    assert results.study_curves("of no rows") == {}


def test_table_5_takes_the_mean_over_seeds_beside_the_paper_s_total(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", tmp_path)

    def keep(name, row, total, minutes=40.0, threads=1, **more):
        score = {"total": total, "visible": total + 2, "occluded": total - 20}
        found = {"label": row, "row": row, "scores": {"cascade": score, "detector": {}}} | more
        found["curve"] = [{"minutes": minutes, "total": 1.0}]
        artifacts.write_json(tmp_path / name / "metrics.json", found)
        seed = int(name[-1]) if name.endswith(("-0", "-1")) else 0
        artifacts.write_manifest(tmp_path / name, {"machine": {"threads": threads}, "seed": seed})

    both, alone = "detection+regression (Res)", "detection only for all steps"
    keep("drawn-medium/cascade-3", both, 82.0)
    keep("drawn-medium/vgg-cascade-3", "detection+regression (VGG)", 81.0)
    keep("table-5-test/cascade-0", both, 60.0)
    keep("table-5-test/cascade-1", both, 61.0, 44.0)
    keep("table-5-test/control-0", alone, 50.0, threads=2)
    keep("table-5-36-test/cascade-1", both, 65.0)
    gain = {"total": {"difference": 0.5, "ci95": [-0.5, 1.5]}}
    keep("table-5-36/cascade-1", both, 64.0, **{"last third": gain})
    table = table_5.beside_the_paper()
    of_control = "detection only (Res)"  # the control has as many epochs as the study of 36
    assert list(table.index) == [both, "detection+regression (VGG)", alone, of_control]
    assert table.loc[both].fillna("–").tolist() == [
        *(pytest.approx(rivals.published(5)["total"][both]), "82.0", "60.0, 61.0", "65.0", "–"),
        *("36 epochs: +0.5 [-0.5, 1.5]", 62.5, 40.5, 42.0),
    ]
    assert table["paper, MPII"].isna().tolist() == [False, False, True, False]
    assert table["LSP, 18 epochs"].fillna("–").tolist() == ["60.0, 61.0", "–", "50.0", "–"]
    assert table.loc[of_control, "LSP, 36 epochs"] == "50.0"
    assert np.isnan(table.loc[alone, "minutes"]), "of two threads"


LEEDS = [path.parent for path in sorted(results.RESULTS.rglob("predictions.npz"))]


def test_every_folder_of_evidence_keeps_its_files_hashes():
    for path in results.RESULTS.rglob("manifest.json"):
        files = artifacts.manifest(path.parent, "files")["files"]
        there = {file.name for file in path.parent.iterdir() if file.is_file()}
        assert there == {*files, artifacts.MANIFEST}, path
        for name in files:
            results.evidence_file(path.parent.relative_to(results.RESULTS).as_posix(), name)


def test_what_was_changed_in_the_evidence_is_not_read(people, weights, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    results.keep_scores(tmp_path / "a", weights, found(people), people, "hpe …", ["learned from"])
    assert results.metrics_of("a")["scores"]["cascade"]["notes"][-1] == "learned from"
    joints = results.joints_of("a")
    with open(tmp_path / "a" / "predictions.npz", "wb") as file:
        np.savez(file, **joints | {"cascade": joints["cascade"] + 1})
    metrics = (tmp_path / "a" / "metrics.json").read_text()
    (tmp_path / "a" / "metrics.json").write_text(metrics.replace("100.0", "99.0", 1))
    for read in (results.metrics_of, results.joints_of):
        with pytest.raises(artifacts.BadInput, match="found a file changed since it was written"):
            read("a")


def test_joints_beyond_what_half_precision_can_say_are_kept_in_single(people, weights, tmp_path):
    far = replace(people, joints=people.joints + 5000.3)
    metrics = results.keep_scores(tmp_path / "far", weights, found(far), far, "hpe …")
    assert metrics["scores"]["cascade"]["total"] == 100
    with np.load(tmp_path / "far" / "predictions.npz") as kept:
        assert kept["cascade"].dtype == np.float32
        assert np.nanmax(np.abs(kept["cascade"] - np.nan_to_num(far.joints))) < 0.01


@pytest.mark.parametrize("difficulty", ["easy", "medium", "hard"])
def test_kept_scores_of_synthetic_people_are_those_of_the_kept_joints(difficulty):
    """The people are those that this code draws: a cache of earlier ones is no truth."""
    truth = load_people("synthetic", people="200001-201000", image_size=96, difficulty=difficulty)
    names = [path.name for path in (results.RESULTS / f"drawn-{difficulty}").iterdir()]
    assert len(names) >= 8
    for name in names:
        row = f"drawn-{difficulty}/{name}"
        joints = results.joints_of(row)
        metrics = results.metrics_of(row)
        assert joints["keys"].tolist() == truth.keys.tolist()
        for network in joints.keys() - {"keys"}:
            hits = evaluation.within_threshold(joints[network], truth)
            mask = evaluation.errors(joints[network], truth)[1]
            kept = metrics["scores"][network]["total"]
            assert kept == pytest.approx(evaluation.share(hits, mask)), row


def test_kept_scores_of_leeds_people_are_those_of_the_kept_joints(test_data):
    """Total, visible and occluded of every row, from its joints and the annotation files."""
    halves = [
        load_people("lsp", test_data / "lsp", "test", only_present=None),
        load_people("leeds", test_data, "val", only_present=None),
    ]
    checked = 0
    for folder in LEEDS:
        name = folder.relative_to(results.RESULTS).as_posix()
        joints = results.joints_of(name)
        metrics = results.metrics_of(name)
        for truth in halves:
            if joints["keys"].tolist() != truth.keys.tolist():
                continue
            for row in joints.keys() - {"keys"}:
                hits = evaluation.within_threshold(joints[row], truth)
                mask = evaluation.errors(joints[row], truth)[1]
                kept = metrics["scores"][row]
                assert kept["total"] == pytest.approx(evaluation.share(hits, mask)), name
                hidden = mask & (truth.visibility == OCCLUDED)
                if truth.occlusion_labels:
                    assert kept["occluded"] == pytest.approx(evaluation.share(hits, hidden)), name
                checked += 1
    assert checked > 100
