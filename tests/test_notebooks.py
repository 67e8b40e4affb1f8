import ast
import json
import re
import shutil

import nbformat
import papermill
import pytest

from hpe_lib import paper
from hpe_lib.workbook import presets, reproduce

NOTEBOOKS = presets.notebooks()
LINE = re.compile(r"\w+: [\w\[\] |]+ = [^=#]+  # .+")


def cells(number, kind="code"):
    return [cell for cell in nbformat.read(NOTEBOOKS[number], 4).cells if cell.cell_type == kind]


def test_the_five_are_there():
    assert [path.stem for path in NOTEBOOKS.values()][:5] == [
        "01_explore_data",
        "02_build_targets",
        "03_train_detector",
        "04_train_regressor",
        "05_finetune_jointly",
    ]


@pytest.mark.parametrize("number", NOTEBOOKS)
class TestAsCommitted:
    def test_it_is_valid_and_holds_no_results(self, number):
        notebook = nbformat.read(NOTEBOOKS[number], 4)
        nbformat.validate(notebook)
        assert notebook.metadata.kernelspec.name == "python3" and "widgets" not in notebook.metadata
        assert not [cell for cell in cells(number) if cell.outputs or cell.execution_count]

    def test_it_opens_with_its_question_then_its_parameters(self, number):
        title, parameters = nbformat.read(NOTEBOOKS[number], 4).cells[:2]
        assert (
            title.source.startswith(f"# {number} · ")
            and "?**" in title.source
            and "ection" in title.source
        )
        assert parameters.metadata.tags == ["parameters"]
        lines = parameters.source.splitlines()
        assert not [line for line in lines if not LINE.fullmatch(line)]
        told = papermill.inspect_notebook(
            str(NOTEBOOKS[number])
        )  # what `papermill --help-notebook` can parse
        assert list(told) == ["out", *presets.declared_parameters(number)] and all(
            entry["help"] for entry in told.values()
        )

    def test_no_cell_replaces_a_parameter(self, number):
        """Else a cell that is run once more gets something else."""
        assigned = {
            node.id
            for cell in cells(number)
            if "parameters" not in cell.metadata.get("tags", [])
            for node in ast.walk(ast.parse(cell.source))
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
        assert not assigned & {"out", *presets.declared_parameters(number)}

    def test_it_ends_with_what_must_hold_and_what_was_learned(self, number):
        assert "assert " in cells(number)[-1].source
        assert (
            nbformat.read(NOTEBOOKS[number], 4).cells[-1].source.startswith("## What was learned")
        )

    def test_its_cells_are_short_and_define_nothing(self, number):
        for cell in cells(number):
            tree = ast.parse(cell.source)
            defined = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
            assert not [node for node in ast.walk(tree) if isinstance(node, defined)], cell.source
            assert "import *" not in cell.source
            if "parameters" not in cell.metadata.get("tags", []):
                assert len(cell.source.splitlines()) <= 8, cell.source
        assert sum(len(cell.source.splitlines()) for cell in cells(number)) <= 100

    def test_it_knows_nothing_of_presets_by_name(self, number):
        assert not [
            name
            for name in presets.names()
            if name not in ("synthetic", "lspet", "leeds")  # data sets, too
            for cell in cells(number)
            if name in cell.source
        ]


@pytest.fixture
def run(smoke_run):
    return smoke_run


def outputs(run, number):
    executed = nbformat.read(run / NOTEBOOKS[number].name, 4)
    return [
        (cell.source, cell.get("outputs", []))
        for cell in executed.cells
        if cell.cell_type == "code"
    ]


def pictures(outs):
    return sum("image/png" in out.get("data", {}) for out in outs)


def test_a_run_leaves_weights_numbers_and_executed_notebooks(run):
    for stage in ("detector", "regressor", "cascade"):
        names = {path.name for path in (run / stage).iterdir()}
        assert names == {"weights.safetensors", "manifest.json", "history.jsonl", "watched"}
    metrics = json.loads((run / "metrics.json").read_text())
    assert {"floors", "detector", "regressor", "cascade", "statements"} <= set(metrics)
    rows = [
        *metrics["floors"].values(),
        *metrics["detector"].values(),
        metrics["regressor"],
        metrics["cascade"],
    ]
    assert len(rows) == 6 and {row["persons"] for row in rows} == {
        24
    }  # scored on all who are held out
    statements = metrics["statements"]
    margins = {f"{part}_margin_over_own_detector" for part in ("total", "occluded")}
    assert set(statements) == {"margin_over_mean_pose", "fig2_order", *margins}
    lead = metrics["cascade"]["occluded"] - metrics["cascade's detector"]["occluded"]
    assert statements["occluded_margin_over_own_detector"] == pytest.approx(lead)
    assert json.loads((run / "manifest.json").read_text())["finished"]


def test_every_executed_notebook_shows_pictures(run):
    for number in NOTEBOOKS:
        shown = outputs(run, number)
        assert sum(pictures(outs) for _, outs in shown) >= {"07": 1, "08": 3}.get(number, 4), number
        assert not [out for _, outs in shown for out in outs if out.output_type == "error"]


def test_executed_copies_keep_pictures_where_panels_were(run):
    """No state of a widget that nobody can move, but in the cell below it what the widget shows."""
    for number, panels in (("02", 1), ("08", 3)):
        executed = nbformat.read(run / NOTEBOOKS[number].name, 4)
        assert "widgets" not in executed.metadata
        code = [cell for cell in executed.cells if cell.cell_type == "code"]
        places = [
            k for k, cell in enumerate(code) if re.search(r"^widgets\.", cell.source, re.MULTILINE)
        ]
        assert len(places) == panels
        for k in places:
            assert code[k].outputs == [] and pictures(code[k + 1].outputs) == 1


def test_a_training_cell_keeps_one_picture_and_one_line_an_epoch(run):
    for number, stage, epochs in (
        ("03", "detector", 2),
        ("04", "regressor", 2),
        ("05", "joint", 1),
    ):
        (outs,) = [outs for source, outs in outputs(run, number) if "stages.train(" in source]
        printed = "".join(
            out.text for out in outs if out.output_type == "stream" and out.name == "stdout"
        )
        assert pictures(outs) == 1
        assert (
            printed.count(f"{stage} epoch ") == epochs and len(printed.splitlines()) == epochs + 1
        )


def test_released_predictions_are_scored_again(run, test_data, tmp_path):
    """By notebook 07, to the figures that their authors' evaluators give.

    LSP's are scored on both kinds of labels.
    """
    shutil.copytree(run, tmp_path / "run")
    roots = [f"07.{name}_root={test_data / name}" for name in ("mpii", "lsp")]
    reproduce.run("smoke", tmp_path / "run", roots, only="07")
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())["comparison"]
    totals = {name: round(score["total"], 2) for name, score in found["rescored"].items()}
    assert totals == {
        "newell.h5": 88.43,
        "bearpaw-hg_s2_b1.mat": 87.30,
        "pred_keypoints_lsp_pc.mat, lsp-joints-PC": 73.56,
        "pred_keypoints_lsp_pc.mat, lsp-joints-OC": 69.44,
        "pred_keypoints_lsp_oc.mat, lsp-joints-PC": 64.60,
        "pred_keypoints_lsp_oc.mat, lsp-joints-OC": 81.50,
    }


def test_every_reading_of_the_paper_is_shown_in_some_notebook():
    shown = {
        name
        for number in NOTEBOOKS
        for cell in cells(number)
        if "paper.reading(" in cell.source
        for name in re.findall(r'"(F\d+)"', cell.source)
    }
    assert shown == set(paper.reading().index)
