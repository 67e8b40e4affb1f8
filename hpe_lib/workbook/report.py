"""report.html: what a run found, in one file that opens offline.

The cells that the notebooks tag "report" are taken from the executed copies, figures and all; how the run was made
stands around them. Nothing is computed here, so the report cannot say anything that the notebooks do not.
"""

import html
import shlex
from pathlib import Path

import nbformat
import pandas as pd
from nbconvert import HTMLExporter

from hpe_lib import cascade, paper
from hpe_lib.workbook import artifacts

STYLE = """body { font: 16px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; font-size: 85%; margin: 1em 0 } img { max-width: 100% }
th, td { padding: .25em .6em; border-bottom: 1px solid #ddd; text-align: right; vertical-align: top }
th:first-child { text-align: left } .text td { text-align: left } .prompt, .anchor-link { display: none }
.output_subarea { overflow-x: auto } pre { white-space: pre-wrap; background: #f6f6f6; padding: .6em }"""


def write(out: str | Path) -> Path:
    """OUT/report.html from the run's manifest and executed notebooks; returns its path."""
    out = Path(out)
    manifest = artifacts.manifest(out, "command", "notebooks", "preset")
    executed = [out / entry["notebook"] for _, entry in sorted(manifest["notebooks"].items())]
    sections = [section(nbformat.read(path, as_version=4)) for path in executed if path.is_file()]
    title = f"Part heatmap regression, preset {manifest['preset']}"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        made(manifest),
        *sections,
        "<h2>How the paper was read</h2>",
        text_table(paper.reading()),
        "<h2>What it cost</h2>",
        cost(out, manifest).to_html(na_rep="–"),
        "<h2>Commands</h2>",
        f"<pre>{html.escape(commands(out, manifest))}</pre>",
    ]
    page = f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{html.escape(title)}</title>"
    page += f"<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>"
    artifacts.write_bytes(out / "report.html", page.encode())
    return out / "report.html"


def section(notebook) -> str:
    """A notebook's title and its cells tagged "report", without their code, as HTML; nothing if none is tagged."""
    cells = [cell for cell in notebook.cells if "report" in cell.metadata.get("tags", [])]
    if not cells:
        return ""
    title = notebook.cells[0].source.partition("\n")[0].lstrip("# ")
    shown = nbformat.v4.new_notebook(cells=cells, metadata=notebook.metadata)
    body, _ = HTMLExporter(
        template_name="basic", exclude_input=True, embed_images=True
    ).from_notebook_node(shown)
    return f"<h2>{html.escape(title)}</h2>{body}"


def made(manifest: dict) -> str:
    """What made the run, as a table: command, commit, versions, machine, times."""
    told = {
        name: manifest[name]
        for name in ("command", "commit", "started", "finished", "machine", "versions")
        if manifest.get(name)
    }
    lines = {
        name: ", ".join(f"{key} {item}" for key, item in value.items())
        if isinstance(value, dict)
        else str(value)
        for name, value in told.items()
    }
    return text_table(pd.DataFrame({"": lines}))


def text_table(frame: pd.DataFrame) -> str:
    """A table of sentences, set flush left."""
    return frame.to_html(classes="text", header=len(frame.columns) > 1)


def trained(out: Path) -> dict[str, dict]:
    """The manifests of every stage that the run trained, by folder, the ablation's rows included."""
    runs = [out, *sorted(artifacts.own_rows(out))]  # what else lies there is a person's own
    folders = [run / stage for run in runs for stage in cascade.STAGES.values()]
    whole = [folder for folder in folders if (folder / artifacts.MANIFEST).is_file()]
    return {folder.relative_to(out).as_posix(): artifacts.manifest(folder) for folder in whole}


def cost(out: Path, manifest: dict) -> pd.DataFrame:
    """Minutes of every notebook, and of every stage's training with its peak memory, seed and steps."""
    rows = {
        entry["notebook"]: {"minutes": entry["wall_seconds"] / 60}
        for _, entry in sorted(manifest["notebooks"].items())
    }
    rows |= {
        name: {
            "minutes": made["wall_seconds"] / 60,
            "peak MB": made.get("peak_memory_mb"),
            "seed": made["seed"],
            "steps": made["steps"],
        }
        for name, made in trained(out).items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").round(1)


def commands(out: Path, manifest: dict) -> str:
    """The run's command, then for every trained folder the one that scores it."""
    lines, chosen = [manifest["command"]], out / "data" / "manifest.json"
    if chosen.is_file():
        data = artifacts.read_json(chosen)["parameters"]
        people = f"{data['dataset']}{' --data-root DIR' if data['data_root'] else ''} --split val"
        run = out.relative_to(paper.ROOT) if out.is_relative_to(paper.ROOT) else out
        lines += [
            f"hpe evaluate --weights {shlex.quote(str(run / name))} --data {people}"
            for name in trained(out)
        ]
    return "\n".join(lines)
