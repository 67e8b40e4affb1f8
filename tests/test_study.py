"""Rows of a study: trained, scored beside the first one, reused."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import commands, gradients, release, study
from hpe_lib import evaluation, stages
from hpe_lib.data.datasets import open_data, prepare
from hpe_lib.targets import write_targets
from hpe_lib.view import figures
from hpe_lib.workbook import artifacts, presets, results
from hpe_lib.workbook.artifacts import STAGES

ROWS = {
    "same": {"label": "nothing", "row": "detection+regression (Res)"},
    "other": {"label": "half the rate", "changes": {"joint.lr": 7e-4}},
    "first": {
        "label": "one network",
        "stages": ["detector"],
        "changes": {"prior": 0.02},
        "row": "detection only (Res)",
    },
    "second": {"label": "another seed", "changes": {"seed": 1}, "against": "other"},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The three stages, as small as can be."""
    out = tmp_path_factory.mktemp("finished")
    parameters = presets.resolve("smoke")
    prepare(out, **parameters["01"])
    write_targets(out, **parameters["02"])
    scorer = evaluation.monitor(open_data(out).val, parameters["01"]["image_size"])
    for stage, number in artifacts.NOTEBOOKS.items():
        list(stages.train(stage, out, parameters[number], scorer))
    return out


@pytest.fixture
def run(finished, tmp_path, monkeypatch):
    """A run whose rows may be trained, and a folder for what they score."""
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    monkeypatch.setitem(study.STUDIES, "three", dict(ROWS))
    return shutil.copytree(finished, tmp_path / "run")


def test_rows_are_kept_with_their_lead_over_the_first_row(run, capsys):
    study.train_and_score(run, "three", [])
    assert "joint: training" in capsys.readouterr().out
    people = open_data(run).val
    joints = {name: study.last_joints(f"three/{name}") for name in ROWS}
    for name, other in (("other", "same"), ("first", "same"), ("second", "other")):
        lead = evaluation.paired([joints[name]], [joints[other]], people)
        assert results.metrics_of(f"three/{name}")["difference"] == artifacts.plain(lead)
    same = results.metrics_of("three/same")
    assert "difference" not in same and same["label"] == "nothing"
    minutes = [point["minutes"] for point in same["curve"]]
    epochs = sum(len(stages.history(run / folder)) for folder in STAGES.values())
    assert len(minutes) == epochs > 3 and minutes == sorted(minutes)
    table = results.study_table("three")
    assert set(table.index) == {row["label"] for row in ROWS.values()}
    assert table.loc["nothing", "difference"] == "–"
    assert set(results.metrics_of("three/first")["scores"]) == {"detector", "detector, centroid"}
    same = artifacts.manifest(results.RESULTS / "three/same")["weights_sha256"]
    assert same == artifacts.manifest(run / "cascade")["weights_sha256"]
    judged = results.metrics_of("three-claims")["criterion"]
    lead = evaluation.paired([joints["same"]], [joints["first"]], people)
    assert set(judged) == {"4 det+reg > det only", "4 more on occluded joints"}, "no other rows"
    assert judged["4 det+reg > det only"]["seeds"]["0"] == artifacts.plain(lead)
    assert ": synthetic, 1 epochs of 48, 1 seed" in judged["4 det+reg > det only"]["verdict"]
    curves = results.study_curves("three")
    assert curves["nothing"] == results.metrics_of("three/same")["curve"]
    ends = [points[-1]["total"] for points in curves.values()]
    assert ends == sorted(ends, reverse=True)
    (ax,) = figures.score_against_time(curves, "PCKh@0.5").axes
    assert [line.get_label() for line in ax.lines] == list(curves)


def test_the_last_third_of_a_curve():
    curve = [{"total": total} for total in (1.0, 2.0, 4.0, 8.0, 8.5, 8.25)]
    assert results.last_third(curve) == 0.25
    assert np.isnan(results.last_third(curve[:5])), "too short to have a third"


def test_the_gain_of_the_last_third_is_measured_on_all_validation_people(run, monkeypatch):
    same_rate = {"joint.schedule": "step", "joint.lr": 1e-3, "joint.lr_end": 1e-3}
    rows = {
        "three": {"label": "three epochs", "changes": {"joint.epochs": 3, **same_rate}},
        "two": {"label": "two epochs", "changes": {"joint.epochs": 2, **same_rate}},
    }
    monkeypatch.setitem(study.STUDIES, "long", rows)
    study.train_and_score(run, "long", [])
    people = open_data(run).val
    kept = results.metrics_of("long/three")["last third"]
    lead = evaluation.paired(
        [study.last_joints("long/three")], [study.last_joints("long/two")], people
    )
    assert kept == artifacts.plain(lead), "as if it had ended after two of three epochs"
    assert "last third" not in results.metrics_of("long/two")
    table = results.study_table("long")
    assert table.loc["three epochs", "last third, all"] == evaluation.format_difference(
        lead["total"]
    )


def test_trained_rows_are_scored_on_test_people(run, monkeypatch):
    people = open_data(run).val[:8]
    monkeypatch.setattr(study, "load_people", lambda name, root, split: people)
    study.train_and_score(run, "three", ["first"])
    study.score_test_people(run, "three", ["same"])
    assert not (results.RESULTS / "three-test/first").exists(), "only those that are named"
    with pytest.raises(artifacts.BadInput, match="three-other.*: found no such row"):
        study.score_test_people(run, "three", ["other"])
    study.score_test_people(run, "three", [])
    found = results.metrics_of("three-test/first")
    assert found["scores"]["detector"]["persons"] == len(people)
    first = study.last_joints("three-test/same")
    lead = found["difference"]
    paired = evaluation.paired([study.last_joints("three-test/first")], [first], people)
    assert lead == artifacts.plain(paired)
    table = results.parts_table("three-test")
    assert set(table.index) == {"nothing", "one network"}, "rows that are not trained are left out"
    assert table.loc["one network", "difference, total"] == evaluation.format_difference(
        lead["total"]
    )


def test_a_row_that_is_kept_is_not_scored_again_but_other_weights_are(run):
    study.train_and_score(run, "three", ["first"])
    assert not (results.RESULTS / "three/other").exists()
    kept = results.RESULTS / "three/first/metrics.json"
    before = kept.stat().st_mtime_ns
    study.train_and_score(run, "three", ["first"])
    assert kept.stat().st_mtime_ns == before
    content = kept.read_text()
    kept.write_text(content.replace('"total"', '"total": 99.9, "was"', 1))
    with pytest.raises(artifacts.BadInput, match="metrics.json: found a file changed since"):
        study.train_and_score(run, "three", ["first"])
    with pytest.raises(artifacts.BadInput, match="metrics.json: found a file changed since"):
        results.study_table("three")
    kept.write_text(content)
    study.STUDIES["three"]["first"] = ROWS["first"] | {"changes": {"prior": 0.05}}
    study.train_and_score(run, "three", ["first"])
    assert kept.stat().st_mtime_ns != before


def test_a_row_whose_reference_has_changed_gets_its_difference_again(run):
    study.train_and_score(run, "three", ["first"])
    before = results.metrics_of("three/first")
    study.STUDIES["three"]["same"] = ROWS["same"] | {"changes": {"joint.lr": 1e-2}}
    study.train_and_score(run, "three", ["first"])
    after = results.metrics_of("three/first")
    assert after["scores"] == before["scores"]
    data = open_data(run)
    rows = [[study.last_joints(f"three/{name}")] for name in ("first", "same")]
    lead = artifacts.plain(evaluation.paired(*rows, data.val))
    assert after["difference"] == lead != before["difference"]


def test_rows_that_are_compared_with_a_new_reference_get_their_difference_again(run):
    study.train_and_score(run, "three", ["first"])
    before = results.metrics_of("three/first")["difference"]
    study.STUDIES["three"]["same"] = ROWS["same"] | {"changes": {"joint.lr": 1e-2}}
    study.train_and_score(run, "three", ["same"])
    rows = [[study.last_joints(f"three/{name}")] for name in ("first", "same")]
    lead = artifacts.plain(evaluation.paired(*rows, open_data(run).val))
    assert results.metrics_of("three/first")["difference"] == lead != before


def test_one_network_is_read_as_the_run_reads_its_cascade(run):
    stage = artifacts.manifest(run / STAGES["joint"])
    stage["settings"] |= {"decoder": "argmax", "flip_test": False}
    artifacts.write_manifest(run / STAGES["joint"], stage)
    study.train_and_score(run, "three", ["first"])
    read = artifacts.manifest(results.RESULTS / "three/first")["settings"]
    assert (read["decoder"], read["flip_test"]) == ("argmax", False)


def test_a_reference_that_another_machine_has_trained_is_not_trained_again(run):
    study.train_and_score(run, "three", ["first"])
    lead = results.metrics_of("three/first")["difference"]
    for name in ("same", "first"):
        shutil.rmtree(run / "rows" / study.row_folder("three", name))
    study.train_and_score(run, "three", ["first"])
    assert not (run / "rows" / study.row_folder("three", "same")).exists()
    assert results.metrics_of("three/first")["difference"] == lead
    prepare(run, **presets.resolve("smoke")["01"] | {"val": "3001-3030"})
    study.train_and_score(run, "three", ["first"])
    assert (run / "rows" / study.row_folder("three", "same")).exists(), "of other people"


def test_joints_of_other_people_are_not_compared(run, monkeypatch):
    """Synthetic people of two difficulties have the same keys."""
    study.train_and_score(run, "three", ["first"])
    people = open_data(run).val
    others = replace(people, joints=people.joints + 5)
    assert study.are_of("three/same", people) and not study.are_of("three/same", others)
    told = artifacts.manifest(results.RESULTS / "three/same")
    monkeypatch.setattr(artifacts, "manifest", lambda path, *_: told | {"people": None})
    assert study.are_of("three/same", people), "older evidence is known by its total"
    assert not study.are_of("three/same", others)
    monkeypatch.undo()


def test_without_its_reference_a_row_is_scored_alone(run, monkeypatch):
    people = open_data(run).val
    monkeypatch.setattr(study, "load_people", lambda name, root, split: people)
    study.train_and_score(run, "three", ["first"])
    study.score_test_people(run, "three", ["first"])
    assert "difference" not in results.metrics_of("three-test/first")
    assert results.parts_table("three-test").index.tolist() == ["one network"]
    study.score_test_people(run, "three", [])
    assert "difference" in results.metrics_of("three-test/first")
    shutil.rmtree(results.RESULTS / "three-test/same")
    study.score_test_people(run, "three", ["first"])
    assert "difference" not in results.metrics_of("three-test/first"), "of a reference that is gone"


def test_rows_are_scored_again_on_other_people(run):
    study.train_and_score(run, "three", ["first"])
    prepare(run, **presets.resolve("smoke")["01"] | {"val": "3001-3030"})
    study.train_and_score(run, "three", ["first"])
    assert results.metrics_of("three/first")["scores"]["detector"]["persons"] == 30


def test_joints_before_the_last_third_are_of_these_people_and_this_training(run, monkeypatch):
    rows = {"three": {"label": "three epochs", "changes": {"joint.epochs": 3}}}
    monkeypatch.setitem(study.STUDIES, "long", rows)
    study.train_and_score(run, "long", [])
    weights = study.weights_folder(run, "long", "three")
    people = open_data(run).val
    assert study.joints_of_two_thirds(weights, people) is not None
    assert study.joints_of_two_thirds(weights, people[::-1]) is None
    kept = (weights.parent / study.TWO_THIRDS).read_bytes()
    joints = study.joints_of_two_thirds(weights, people)
    record = stages.history(weights)[1]
    study.keep_two_thirds(weights.parent, joints, people, record, {"decoder": "argmax"})
    assert study.joints_of_two_thirds(weights, people) is None, "read by another decoder"
    (weights.parent / study.TWO_THIRDS).write_bytes(kept)
    written = (weights / artifacts.HISTORY).read_bytes()
    other = stages.history(weights)
    other[1]["elapsed"] += 1.0
    artifacts.write_history(weights, other)
    assert study.joints_of_two_thirds(weights, people) is None
    (weights / artifacts.HISTORY).write_bytes(written)
    prepare(run, **presets.resolve("smoke")["01"] | {"val": "3001-3030"})
    study.train_and_score(run, "long", [])
    assert "last third" not in results.metrics_of("long/three")


def test_a_history_that_was_edited_is_no_curve(run):
    study.train_and_score(run, "three", ["first"])
    history = study.weights_folder(run, "three", "first") / "history.jsonl"
    history.write_text(history.read_text().replace('"elapsed"', '"elapsed": 60, "was"', 1))
    with pytest.raises(artifacts.BadInput, match="history.jsonl: found a changed file"):
        study.train_and_score(run, "three", ["first"])


def test_a_row_of_another_study_counts_in_a_verdict_and_is_not_trained_again(run, monkeypatch):
    alone = {"row": ROWS["first"]["row"], "same_as": "three/first"}
    monkeypatch.setitem(study.STUDIES, "other", {"same": ROWS["same"], "alone": alone})
    study.train_and_score(run, "three", ["first"])
    study.train_and_score(run, "other", [])
    assert not (run / "rows" / "other-alone").exists() and not results.existing("other/alone")
    judged = results.metrics_of("other-claims")["criterion"]
    rows = [[study.last_joints(row)] for row in ("other/same", "three/first")]
    lead = artifacts.plain(evaluation.paired(*rows, open_data(run).val))
    assert judged["4 det+reg > det only"]["seeds"] == {"0": lead}


def test_scores_that_were_read_otherwise_are_made_again(run):
    study.train_and_score(run, "three", ["same"])
    weights = study.weights_folder(run, "three", "same")
    kept = results.RESULTS / "three" / "same"
    people = open_data(run).val
    assert study.scored(kept, weights, people)
    manifest = artifacts.manifest(weights)
    settings = manifest["settings"] | {"decoder": "argmax"}
    artifacts.write_manifest(weights, manifest | {"settings": settings})
    assert not study.scored(kept, weights, people)


def test_minutes_of_a_stage_without_scores_count(run):
    """Notebook 06 trains its rows without a scorer, and a study takes such a stage over."""
    study.train_and_score(run, "three", ["same"])
    row = study.weights_folder(run, "three", "same").parent
    whole = study.curve(row)
    records = [stages.without_scores(record) for record in stages.history(row / "regressor")]
    stages.write_other_history(row / "regressor", records, artifacts.manifest(row / "regressor"))
    found = study.curve(row)
    assert len(found) == len(whole) - len(records) and found[-1] == whole[-1]


def test_rows_of_one_name_in_two_studies_leave_each_other_alone(run, monkeypatch):
    monkeypatch.setitem(
        study.STUDIES, "other", {"first": ROWS["first"] | {"changes": {"lr": 9e-4}}}
    )
    study.train_and_score(run, "three", ["first"])
    folder = study.weights_folder(run, "three", "first")
    before = artifacts.manifest(folder)["weights_sha256"]
    study.train_and_score(run, "other", [])
    assert artifacts.manifest(folder)["weights_sha256"] == before
    other = study.weights_folder(run, "other", "first")
    assert artifacts.manifest(other)["weights_sha256"] != before


def test_gradients_grow_with_the_loss_and_are_laid_beside_epsilon(run, monkeypatch):
    settings = artifacts.manifest(run / STAGES["joint"])["settings"]
    recipe = stages.Recipe("joint", run, settings)
    once = gradients.gradient_sizes(recipe, recipe.initial_model())
    loss = stages.joint_loss
    monkeypatch.setattr(stages, "joint_loss", lambda *given: 1000 * loss(*given))
    larger = gradients.gradient_sizes(recipe, recipe.initial_model())
    for network, sizes in once.items():
        assert (sizes > 0).float().mean() > 0.9
        assert torch.allclose(larger[network], 1000 * sizes, rtol=1e-3, atol=1e-4), network
    found = gradients.beside_epsilon(torch.tensor([0, 2e-6, 1e-4, 1.0]), epsilon=1e-8)
    assert found["weights"] == 4 and found["none"] == 0.25
    assert found["median"] == pytest.approx(1e-4) and found["matters"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["absent", "rase"], "rase: expected one of recipe"),
        (["absent", "race", "cascade"], "cascade: expected cascade-0.003"),
        (["absent", "race"], "absent/data/manifest.json: found no such file"),
        (["absent"], "Missing argument"),
    ],
)
def test_what_is_given_wrong_is_one_line(given, found, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["study", *given])
    with pytest.raises(SystemExit) as ended:
        commands.run(study.main)
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and found in line
    assert not list(tmp_path.iterdir())


def test_a_command_that_went_well_exits_with_0(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["release", "weights", "mine"])
    monkeypatch.setattr(release, "release", lambda weights, name: weights / name)
    with pytest.raises(SystemExit) as ended:
        commands.run(release.main)
    assert not ended.value.code
    assert capsys.readouterr().out == "weights/mine\n"
