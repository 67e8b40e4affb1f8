"""report.html: what a run found, in one file that opens offline.

It shows the cells that the notebooks tag "report", taken from their executed copies, and how the
run was made. Nothing is computed here, so the report says nothing that the notebooks do not.
"""

import html
import shlex
from pathlib import Path

import nbformat
import pandas as pd
from nbconvert import HTMLExporter

from hpe_lib import cascade, paper
from hpe_lib.workbook import artifacts

PAGE = """<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{title}</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em }}
table {{ border-collapse: collapse; font-size: 85%; margin: 1em 0 }} img {{ max-width: 100% }}
th, td {{ padding: .25em .6em; border-bottom: 1px solid #ddd; text-align: right }}
th, td {{ vertical-align: top }} .prompt, .anchor-link {{ display: none }}
th:first-child {{ text-align: left }} .text td {{ text-align: left }}
.output_subarea {{ overflow-x: auto }}
pre {{ white-space: pre-wrap; background: #f6f6f6; padding: .6em }}
</style></head><body><h1>{title}</h1>{body}</body></html>"""
ORIGIN = ("command", "commit", "started", "finished", "machine", "versions")  # of the manifest


def write(out: str | Path) -> Path:
    """Write OUT/report.html from the run's manifest and executed notebooks; return its path.

    BadInput if OUT has no manifest of a run.
    """
    out = Path(out)
    manifest = artifacts.manifest(out, "command", "notebooks", "preset")
    executed = [out / entry["notebook"] for _, entry in sorted(manifest["notebooks"].items())]
    notebooks = [nbformat.read(path, as_version=4) for path in executed if path.is_file()]
    parts = [
        origin_table(manifest),
        *map(tagged_cells, notebooks),
        "<h2>How the paper was read</h2>",
        text_table(paper.reading()),
        "<h2>What it cost</h2>",
        cost_table(out, manifest).to_html(na_rep="–"),
        "<h2>Commands</h2>",
        f"<pre>{html.escape(commands(out, manifest))}</pre>",
    ]
    title = html.escape(f"Part heatmap regression, preset {manifest['preset']}")
    page = PAGE.format(title=title, body="".join(parts))
    artifacts.write_bytes(out / "report.html", page.encode())
    return out / "report.html"


def tagged_cells(notebook: nbformat.NotebookNode) -> str:
    """Return a notebook's title and the outputs of its cells tagged "report" as HTML.

    Empty if no cell is tagged.
    """
    cells = [cell for cell in notebook.cells if "report" in cell.metadata.get("tags", [])]
    if not cells:
        return ""
    title = notebook.cells[0].source.partition("\n")[0].lstrip("# ")
    shown = nbformat.v4.new_notebook(cells=cells, metadata=notebook.metadata)
    exporter = HTMLExporter(template_name="basic", exclude_input=True, embed_images=True)
    body, _ = exporter.from_notebook_node(shown)
    return f"<h2>{html.escape(title)}</h2>{body}"


def origin_table(manifest: dict) -> str:
    """Return command, commit, times, machine and versions of a run as an HTML table."""
    lines = {}
    for name in ORIGIN:
        value = manifest.get(name)
        if isinstance(value, dict):
            value = ", ".join(f"{key} {item}" for key, item in value.items())
        if value:
            lines[name] = str(value)
    return text_table(pd.DataFrame({"": lines}))


def text_table(frame: pd.DataFrame) -> str:
    """Return a table of sentences as HTML, aligned to the left."""
    return frame.to_html(classes="text", header=len(frame.columns) > 1)


def stage_manifests(out: Path) -> dict[str, dict]:
    """Return the manifest of each stage that the run trained, by folder, ablations included."""
    runs = [out, *sorted(artifacts.own_rows(out))]  # other folders belong to the user
    folders = [run / stage for run in runs for stage in cascade.STAGES.values()]
    finished = [folder for folder in folders if (folder / artifacts.MANIFEST).is_file()]
    return {folder.relative_to(out).as_posix(): artifacts.manifest(folder) for folder in finished}


def cost_table(out: Path, manifest: dict) -> pd.DataFrame:
    """Return minutes and peak memory of each notebook and of each stage's training."""
    notebooks = [entry for _, entry in sorted(manifest["notebooks"].items())]
    entries = {entry["notebook"]: entry for entry in notebooks} | stage_manifests(out)
    rows = {
        name: {
            "minutes": entry["wall_seconds"] / 60,
            "peak MB": entry.get("peak_memory_mb"),
            "seed": entry.get("seed"),
            "steps": entry.get("steps"),
        }
        for name, entry in entries.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index", dtype=float).round(1)


def commands(out: Path, manifest: dict) -> str:
    """Return the run's command and, for each trained stage, the command that scores it."""
    lines, people = [manifest["command"]], out / "data" / artifacts.MANIFEST
    if people.is_file():
        data = artifacts.read_json(people)["parameters"]
        root = " --data-root DIR" if data["data_root"] else ""
        run = out.relative_to(paper.ROOT) if out.is_relative_to(paper.ROOT) else out
        for name in stage_manifests(out):
            weights = shlex.quote(str(run / name))
            data_set = f"{data['dataset']}{root} --split val"
            lines.append(f"hpe evaluate --weights {weights} --data {data_set}")
    return "\n".join(lines)
