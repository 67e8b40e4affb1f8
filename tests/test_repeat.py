"""A run repeated from its manifest, and whether its numbers agree."""

import json
import shutil

import pytest

from hpe_lib import cli
from hpe_lib.workbook import artifacts, environment, repeat, reproduce
from hpe_lib.workbook.artifacts import BadInput

# The number is the parameter's square, so a run with other parameters finds another one.
MEASURE = """from hpe_lib.workbook import measurements
cascade, detector = {'total': rate**2, 'ci95': [1.0, 2.0]}, {'logits': {'total': 3.0}}
scores = {'metric': 'PCKh@0.5', 'dataset': 'synthetic', 'cascade': cascade}
scores |= {'detector': detector, 'costs': {'a': time()}}
measurements.write(out, '01', scores)"""


@pytest.fixture
def run(notebook, tmp_path, monkeypatch):
    """A finished run of notebook 01 of two, and the folder of both."""
    monkeypatch.chdir(tmp_path)
    cell = 'out: str = "nowhere"\nrate: float = 1.0\nnames: list[str] = []'
    folder = notebook("01_a", cell, "from time import time", MEASURE)
    notebook("02_b", "slow: int = 1", "raise SystemError('not asked for')")
    (folder / "presets" / "p.yaml").write_text("all: {rate: 7, names: [a, b]}\n")
    reproduce.run("p", "runs/x", ["rate=6.5"], only="01")
    return tmp_path / "runs" / "x" / "manifest.json", folder


def test_the_same_notebooks_run_with_the_same_parameters(run, tmp_path):
    file, folder = run
    agree, lines = repeat.repeat(file)
    assert agree and lines == ["all 4 numbers are equal"]
    again = artifacts.manifest(tmp_path / "runs" / "x-again")
    assert again["parameters"] == artifacts.manifest(file.parent)["parameters"]
    assert list(again["notebooks"]) == ["01"]


def test_a_repetition_lies_beside_the_run_from_wherever_it_is_asked_for(run, tmp_path, monkeypatch):
    file, _ = run
    monkeypatch.chdir(file.parent)
    assert repeat.repeat("manifest.json")[0]
    assert (tmp_path / "runs" / "x-again").is_dir()


def test_what_differs_is_told(run, tmp_path):
    file, folder = run
    code = folder / "01_a.ipynb"
    code.write_text(code.read_text().replace("rate**2", "rate**2 + 1"))
    agree, lines = repeat.repeat(file, tmp_path / "b")
    assert not agree and lines == [
        "1 of 4 numbers differ",
        "farthest apart: cascade, total, 42.25 before and 43.25 now",
        "processor, threads, packages and code are the same: they ought to be equal",
    ]


@pytest.mark.parametrize(
    ("part", "name", "old", "new"),
    [
        ("machine", "threads", 1, 2),
        ("machine", "processor", "one", "two"),
        ("versions", "timm", "1.0.12", "1.0.20"),
        ("versions", "hpe-lib", "0.1", "0.2"),
    ],
)
def test_what_can_change_a_number_is_compared(part, name, old, new):
    here = environment.describe()
    before, now = ({**here, part: here[part] | {name: value}} for value in (old, new))
    assert name in here[part]
    assert repeat.environment_differences(before, now) == [f"{name} {old}, now {new}"]
    assert repeat.environment_differences(here, here) == []


MADE = {"commit": "a", "machine": {"processor": "one", "gpus": []}, "versions": {"torch": "2"}}
OTHER = MADE | {"machine": {"processor": "two", "gpus": []}}
REASONS = repeat.environment_differences(MADE, OTHER)


def test_a_gpu_repeats_exactly_only_if_it_has_to():
    stage = MADE | {"machine": {"processor": "one", "gpus": ["a GPU"]}}
    for exact, reasons in ((True, []), (False, ["trained on a GPU without deterministic=true"])):
        made = stage | {"settings": {"deterministic": exact}}
        assert repeat.environment_differences(made, made) == reasons


def test_stages_that_were_made_otherwise_are_a_reason(tmp_path):
    for run, processes in (("before", 4), ("now", 1)):
        artifacts.write_manifest(tmp_path / run, MADE)
        made = MADE | {"processes": processes, "settings": {"deterministic": False}}
        artifacts.write_manifest(tmp_path / run / "detector", made)
        of_row = made | {"machine": {"processor": run, "gpus": []}}
        artifacts.write_manifest(tmp_path / run / "rows" / "a" / "cascade", of_row)
    found = repeat.reasons_to_differ(tmp_path / "before", tmp_path / "now")
    assert found == ["processes 4, now 1", "processor before, now now"]


@pytest.mark.parametrize(
    "gap, agrees, farthest",
    [
        (1.9, True, "a, knee, 40 before and 45 now"),
        (2.1, False, "a, total, 50 before and 47.9 now"),
    ],
)
def test_on_another_processor_totals_may_differ_a_little(gap, agrees, farthest):
    before = {"a, total": 50.0, "a, knee": 40.0}
    found = repeat.compare(before, {"a, total": 50 - gap, "a, knee": 45.0}, REASONS)
    assert found[0] is agrees
    assert "made otherwise: processor one, now two" in found[1]
    assert f"farthest apart: {farthest}" in found[1]


@pytest.mark.parametrize(
    "name, now",
    [
        ("cascade, occluded", 0.0),
        ("cascade, at_0.1", 33.0),
        ("cascade over detector, occluded, difference", 46.1),
        ("cascade, persons", 41.0),
    ],
)
def test_a_part_or_a_count_that_is_far_off_is_no_agreement(name, now):
    before = {"cascade, total": 50.0, name: 40.0}
    agree, lines = repeat.compare(before, before | {name: now}, REASONS)
    assert not agree and lines[1].startswith(f"farthest apart: {name}, 40 before")
    assert lines[-1].startswith("beyond the 2 points that totals may differ by")


def test_a_finished_repetition_is_not_compared_as_if_it_were_a_new_one(run, tmp_path):
    file, _ = run
    shutil.copytree(file.parent, file.parent.with_name("x-again"))
    with pytest.raises(BadInput, match="x-again: found a finished run, expected a folder without"):
        repeat.repeat(file)


def test_a_repetition_that_was_finished_and_begun_again_takes_nothing_over(run, tmp_path):
    file, folder = run
    again = file.parent.with_name("x-again")
    shutil.copytree(file.parent, again)
    notebook_02 = next(folder.glob("02*"))
    with pytest.raises(reproduce.CellFailed):
        reproduce.run("p", again, only=notebook_02.name[:2])
    assert not artifacts.manifest(again)["finished"]
    with pytest.raises(BadInput, match="x-again: found a finished run, expected a folder without"):
        repeat.repeat(file)


def test_stages_that_were_trained_before_are_no_repetition(run):
    file, _ = run
    stage = file.parent.with_name("x-again") / "cascade"
    artifacts.save(stage, {}, {"kind": "joint"})
    with pytest.raises(BadInput, match="x-again: found stages that were trained there, expected"):
        repeat.repeat(file)


def test_a_repetition_that_was_stopped_goes_on(run, tmp_path):
    file, _ = run
    again = file.parent.with_name("x-again")
    shutil.copytree(file.parent, again)
    artifacts.write_manifest(again, artifacts.manifest(again) | {"finished": None})
    assert repeat.repeat(file)[0]


def test_numbers_that_only_one_run_has(run):
    agree, lines = repeat.compare({"a": 1.0}, {"a": 1.0, "b": 2.0}, [])
    assert not agree and lines == ["1 numbers are in one run only, such as b"]


def test_what_is_no_finished_run_is_refused(run, tmp_path):
    file, folder = run
    with pytest.raises(BadInput, match="another name"):
        repeat.repeat(file.with_name("metrics.json"))
    with pytest.raises(BadInput, match="another folder"):
        repeat.repeat(file, file.parent)
    half = shutil.copytree(file.parent, tmp_path / "half")
    content = json.loads(file.read_text()) | {"finished": None}
    (half / "manifest.json").unlink()
    artifacts.write_manifest(half, content)
    with pytest.raises(BadInput, match="no finished run"):
        repeat.repeat(half / "manifest.json")
    (file.parent / "metrics.json").unlink()
    with pytest.raises(BadInput, match="metrics.json"):
        repeat.repeat(file, tmp_path / "c")


@pytest.mark.parametrize("agree, code", [(True, 0), (False, 1)])
def test_the_command_says_it_and_its_status_too(run, monkeypatch, capsys, agree, code):
    monkeypatch.setattr(repeat, "repeat", lambda file, out: (agree, [f"of {file.name}"]))
    with pytest.raises(SystemExit) as ended:
        cli.main(["reproduce", "--from-manifest", str(run[0])])
    assert (ended.value.code, capsys.readouterr().out) == (code, "of manifest.json\n")


@pytest.mark.parametrize("other", ["--fresh", "--dry-run", "--seeds=0,1"])
def test_other_options_beside_it_are_refused(run, capsys, other):
    with pytest.raises(SystemExit) as ended:
        cli.main(["reproduce", "--from-manifest", str(run[0]), other])
    assert ended.value.code == 2 and "other options beside it" in capsys.readouterr().err
