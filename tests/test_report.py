import base64
from html.parser import HTMLParser

import nbformat
import pandas as pd
import pytest

from hpe_lib import paper
from hpe_lib.workbook import artifacts, measurements, report, results
from hpe_lib.workbook.artifacts import BadInput

PNG = base64.b64encode(b"\x89PNG made for this test").decode()
TABLE = "<table><tr><td>PCKh 61.5</td></tr></table>"


def shown(source, data=None, text="", tags=("report",)):
    """An executed cell."""
    outputs = [nbformat.v4.new_output("stream", name="stdout", text=text)] if text else []
    outputs += [nbformat.v4.new_output("display_data", data)] if data else []
    return nbformat.v4.new_code_cell(source, outputs=outputs, metadata={"tags": list(tags)})


def notebook(title, *cells):
    return nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell(f"# {title}\n\nSee https://example.org."), *cells]
    )


def test_notebooks_of_other_weights_than_the_run_has_now_are_left_out(run):
    manifest = artifacts.manifest(run)
    manifest["notebooks"]["06"]["on"] = measurements.basis(run, "06")
    artifacts.write_json(run / "manifest.json", manifest)
    assert "<b>second</b>" in report.write(run).read_text()
    manifest["notebooks"]["06"]["on"] = {"detector": "0" * 64}
    artifacts.write_json(run / "manifest.json", manifest)
    page = report.write(run).read_text()
    assert "<b>second</b>" not in page and "Left out: 06" in page and "61.5" in page


@pytest.fixture
def run(tmp_path):
    """A run folder: two executed notebooks, one that told nothing, a trained stage of a row."""
    out = tmp_path / "runs" / "x"
    first = notebook(
        "05 · Does it <work>?",
        shown("secret_source()", {"image/png": PNG, "text/plain": "<Figure>"}),
        shown("unseen_source()", text="not told", tags=()),
        shown("table()", {"text/html": TABLE, "text/plain": "t"}, "said & printed\n"),
    )
    second = notebook("06 · Which part?", shown("other()", {"text/html": "<b>second</b>"}))
    for name, made in (
        ("05_a", first),
        ("06_b", second),
        ("07_c", notebook("07 · Nothing", shown("x", tags=()))),
    ):
        artifacts.write_bytes(out / f"{name}.ipynb", nbformat.writes(made).encode())
    entry = {"wall_seconds": 90.0}
    manifest = {
        "kind": "run",
        "command": "hpe reproduce -p 'a<b'",
        "preset": "smoke",
        "commit": "abc123",
        "started": "2020-01-01T10:00:00+0000",
        "finished": None,
        "versions": {"torch": "9.9", "numpy": "8.8"},
        "machine": {"cores": 2},
        "notebooks": {
            "06": {"notebook": "06_b.ipynb", **entry},
            "05": {"notebook": "05_a.ipynb", **entry},
            "07": {"notebook": "07_c.ipynb", "wall_seconds": 6.0},
            "08": {"notebook": "08_gone.ipynb", **entry},
        },
    }
    artifacts.write_json(out / "manifest.json", manifest)
    artifacts.write_json(
        out / "data" / "manifest.json", {"parameters": {"dataset": "synthetic", "data_root": ""}}
    )
    artifacts.claim_rows(out, ["wide-seed1"])
    for name, seed in (("detector", 0), ("rows/wide-seed1/cascade", 1), ("best-of-june", 2)):
        artifacts.write_bytes(out / name / "weights.safetensors", b"")
        artifacts.write_json(
            out / name / "manifest.json",
            {"wall_seconds": 120.0, "peak_memory_mb": 1000.0, "seed": seed, "steps": 33},
        )
    return out


class Page(HTMLParser):
    """Start tags with their attributes, texts, and the text of each heading."""

    def __init__(self, source):
        super().__init__()
        self.tags = []
        self.text = ""
        self.headings = []
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data
        if self.tags and self.tags[-1][0] in ("h1", "h2"):
            self.headings.append(data)


@pytest.fixture
def source(run):
    assert report.write(run) == run / "report.html"
    return (run / "report.html").read_text(encoding="utf-8")


def test_the_report_opens_offline(source):
    tags = Page(source).tags
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in tags}
    for _, attributes in tags:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            assert name not in attributes or attributes[name].startswith(("data:", "#")), attributes
    assert "@import" not in source and "url(" not in source


def test_figures_are_in_it(source):
    pictures = [attributes["src"] for tag, attributes in Page(source).tags if tag == "img"]
    assert len(pictures) == 1 and "".join(pictures[0].split()) == f"data:image/png;base64,{PNG}"


def test_it_shows_what_is_tagged_in_the_notebooks_order_and_no_code(source):
    page = Page(source)
    wanted = [
        "Part heatmap regression, preset smoke",
        "05 · Does it <work>?",
        "06 · Which part?",
        "How the paper was read",
        "What it cost",
        "How it was made",
        "Commands",
    ]
    assert [heading for heading in page.headings if heading in wanted] == wanted
    assert "07 · Nothing" not in page.text and "Does it <work>" not in source
    assert (
        TABLE in source
        and "said & printed" in page.text
        and source.index("PCKh 61.5") < source.index("second")
    )
    for word in ("secret_source", "unseen_source", "not told", "other()", "example.org"):
        assert word not in source


@pytest.fixture
def finished(run):
    """The run with two seeds' numbers of notebooks 05 and 06 and a picture for the first screen."""
    names = ("detection+regression (Res)", "detection only for all steps")
    keys = [f"{name}, seed {seed}" for name in names for seed in (0, 1)]
    totals = (60.0, 64.0, 50.0, 51.0)
    scores = {key: {"total": t, "visible": t + 1, "occluded": None} for key, t in zip(keys, totals)}
    lead = {"difference": 10.0, "ci95": [8.0, 12.0]}
    lead = dict.fromkeys(("total", "visible", "occluded"), lead)
    claim = {"verdict": "holds: drawn, 2 seeds", "joints": "total", "difference": 11.5, "signs": 2}
    ablated = {
        "criterion": {"1 a > b": claim | {"seeds": {"0": lead, "1": lead}}},
        "scores": scores,
        "costs": {key: {"minutes": 3.0} for key in keys},
    }
    metrics = {"metric": "PCKh@0.5", "dataset": "synthetic", "ablation": ablated}
    metrics |= {"cascade": {"total": 61.5}, "detector": {"logits": {"total": 55.5}}}
    artifacts.write_json(run / "metrics.json", metrics)
    told = notebook("05 · A", shown("x", {"image/png": PNG}, tags=("summary",)))
    artifacts.write_bytes(run / "05_a.ipynb", nbformat.writes(told).encode())
    return report.write(run).read_text(encoding="utf-8")


def test_the_first_screen_has_claims_table_5_a_person_and_the_run(finished):
    first = finished[: finished.index("06 · Which part?")]
    text = " ".join(Page(first).text.split())
    assert text.index("1 a > b") < text.index("Table 5") < text.index("From image to pose")
    for said in ("holds: drawn, 2 seeds", "+11.5", "2 of 2", "+10.0 [8.0, 12.0]"):
        assert said in text, said
    assert "detection+regression (Res) 88.2 62.0 63.0 – 3.0" in text
    assert "detection only for all steps – 50.5" in text
    assert "cascade 61.5, detector alone 55.5" in text
    assert "4.0 minutes of training; the notebooks 4.6 when last executed, on 2 cores" in text
    assert len([tag for tag, _ in Page(first).tags if tag == "img"]) == 1


def test_real_people_s_verdicts_stand_on_the_first_screen_where_they_are(
    run, tmp_path, monkeypatch, capsys
):
    assert "1 det+reg &gt; reg+reg" in report.on_real_people()
    assert "LSP, 36 epochs" in report.on_real_people()
    monkeypatch.setattr(results, "RESULTS", tmp_path / "absent")
    assert report.on_real_people() == ""
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    artifacts.write_json(tmp_path / "table-5-test-claims" / "metrics.json", {"none": 1})
    assert report.on_real_people() == ""
    assert "the report has no verdicts on real people" in capsys.readouterr().out


@pytest.mark.parametrize("ablation", [3, {"criterion": {}}, {"criterion": {"a": 1}}])
def test_numbers_of_other_notebooks_are_one_line(run, ablation):
    metrics = {"metric": "PCKh@0.5", "dataset": "synthetic", "ablation": ablation}
    artifacts.write_json(run / "metrics.json", metrics)
    with pytest.raises(artifacts.BadInput, match="metrics.json: found numbers that do not make"):
        report.write(run)
    assert not (run / "report.html").exists()


def test_no_table_is_wider_than_the_page(finished):
    assert ".wide, .output_subarea" in finished and "overflow-x: auto" in finished
    for name in ("wide", "output_html", "output_subarea"):
        assert f"{name}" in finished
    tables = finished.count("<table")
    assert tables == finished.count("<div class='wide'><table")  # and those of notebooks scroll too


def test_epoch_lines_are_folded_away():
    lines = [f"joint epoch {k}/2  loss 1.0\n" for k in (1, 2)]
    cell = shown("train()", {"image/png": PNG}, lines[0])
    cell.outputs.append(nbformat.v4.new_output("stream", name="stdout", text=lines[1]))
    made = report.section(notebook("05 · A", cell, shown("y", text="61.5 points\n")))
    folded = made[made.index("<details>") : made.index("</details>")]
    assert "2 epochs, a line each" in folded and lines[0] in folded and lines[1] in folded
    assert made.index("<img") < made.index("<details>") and "61.5" not in folded


def test_it_says_what_made_it_and_how_the_paper_was_read(source):
    text = Page(source).text
    for said in (
        "hpe reproduce -p 'a<b'",
        "abc123",
        "2020-01-01T10:00:00+0000",
        "torch 9.9, numpy 8.8",
        "cores 2",
    ):
        assert said in text
    assert all(name in text and row["we_do"] in text for name, row in paper.reading().iterrows())
    assert "a<b" not in source and "finished" not in report.origin_table(
        {"command": "x", "finished": None}
    )


def test_what_it_cost(run):
    found = report.cost_table(run, artifacts.manifest(run))
    assert list(found.index) == [
        "05_a.ipynb",
        "06_b.ipynb",
        "07_c.ipynb",
        "08_gone.ipynb",
        "detector",
        "rows/wide-seed1/cascade",
    ]
    assert found.loc["05_a.ipynb", "minutes"] == 1.5 and found.loc["07_c.ipynb", "minutes"] == 0.1
    assert found.loc["rows/wide-seed1/cascade"].tolist() == [2, 1000, 1, 33]
    assert pd.isna(found.loc["05_a.ipynb", "seed"])


def test_commands_score_every_trained_folder(run, monkeypatch):
    manifest = artifacts.manifest(run)
    assert f"hpe evaluate --weights {run}/detector " in report.commands(run, manifest)
    monkeypatch.setattr(
        paper, "ROOT", run.parent.parent
    )  # a run of the project is named from there
    assert report.commands(run, manifest).splitlines() == [
        "hpe reproduce -p 'a<b'",
        "hpe evaluate --weights runs/x/detector --data synthetic --split val",
        "hpe evaluate --weights runs/x/rows/wide-seed1/cascade --data synthetic --split val",
    ]
    artifacts.write_json(
        run / "data" / "manifest.json",
        {"parameters": {"dataset": "mpii", "data_root": "/here/mpii", "val": "val"}},
    )
    assert (
        report.commands(run, manifest)
        .splitlines()[1]
        .endswith("--data mpii --data-root DIR --split val")
    )
    others = {"dataset": "lsp", "data_root": "/here/lsp"}
    for val, said in (("test", "--split test"), ("test 1-9", "hpe reproduce -p 'a<b'")):
        chosen = {"parameters": others | {"val": val}}
        artifacts.write_json(run / "data" / "manifest.json", chosen)
        assert report.commands(run, manifest).endswith(said)
    (run / "data" / "manifest.json").unlink()
    assert report.commands(run, manifest) == "hpe reproduce -p 'a<b'"  # people were never chosen


def test_a_section_is_what_one_notebook_tells():
    assert report.section(notebook("05 · A", shown("x", tags=()))) == ""
    made = report.section(notebook("05 · A", shown("code()", text="<i>raw</i>")))
    assert made.startswith("<h2>05 · A</h2>") and "&lt;i&gt;raw" in made and "code()" not in made


@pytest.mark.parametrize("content", ["{}", "[]", "not JSON", '{"nbformat": 4, "cells": []}'])
def test_an_executed_notebook_that_is_none_is_one_line(tmp_path, content):
    (tmp_path / "01_a.ipynb").write_text(content)
    with pytest.raises(BadInput, match="01_a.ipynb: found .*, expected the executed notebook"):
        report.read_executed(tmp_path / "01_a.ipynb")


def test_a_folder_that_is_no_run_has_no_report(tmp_path):
    with pytest.raises(BadInput, match="manifest.json"):
        report.write(tmp_path)
    artifacts.write_json(tmp_path / "manifest.json", {"kind": "data"})
    with pytest.raises(BadInput, match="no command, notebooks"):
        report.write(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_weights_without_a_manifest_are_no_artifact_and_no_obstacle(run):
    """A training that was interrupted leaves the weights of the one before."""
    (run / "detector" / "manifest.json").unlink()
    assert (
        list(report.stage_manifests(run)) == ["rows/wide-seed1/cascade"]
        and report.write(run).is_file()
    )
