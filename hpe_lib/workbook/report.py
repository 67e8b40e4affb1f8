"""report.html: what a run found, in one file that opens offline.

Its first screen has the claims with their verdicts, in this run and on real people, the paper's
Table 5 beside ours, the way from image to pose, and what the run was. Below stand the cells that
the notebooks tag "report", taken from their executed copies. Nothing is measured here, so the
report says nothing that they or results/ do not.
"""

import html
import re
import shlex
from collections import defaultdict
from pathlib import Path

import nbformat
import pandas as pd
from nbconvert import HTMLExporter

from hpe_lib import claims, paper, rivals
from hpe_lib.workbook import artifacts, measurements, results, table_5

PAGE = """<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{title}</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 1220px }}
body {{ margin: .8em auto; padding: 0 1em }}
h1 {{ font-size: 1.4em; margin: 0 }} h2 {{ font-size: 1.2em }}
table, th, td {{ border: 0; border-collapse: collapse }}
table {{ font-size: 73%; margin: 1em 0 }} img {{ max-width: 100% }}
th, td {{ padding: .25em .4em; border-bottom: 1px solid #ddd; text-align: right }}
th, td {{ vertical-align: top; white-space: nowrap }} .prompt, .anchor-link {{ display: none }}
th:first-child, tbody th {{ text-align: left }} .text td {{ text-align: left; white-space: normal }}
.claims :nth-child(2) {{ text-align: left }}
.wide, .output_subarea, .jp-OutputArea-output {{ overflow-x: auto }}
.first {{ display: grid; grid-template-columns: minmax(0, 1fr) 330px; gap: 0 1.2em }}
.first h2 {{ font-size: 1.05em; margin: .3em 0 0 }}
.first table {{ font-size: 12px; margin: .2em 0 }}
.first th, .first td {{ padding: .1em .4em; line-height: 1.35 }}
.first p {{ margin: .1em 0; font-size: 13px }}
pre {{ white-space: pre-wrap; background: #f6f6f6; padding: .6em }}
</style></head><body><h1>{title}</h1>{body}</body></html>"""
ORIGIN = ("command", "commit", "started", "finished", "machine", "versions")  # of the manifest
CLAIMS = (
    "det: a detecting network, reg: a regressing one. Differences in points, rows scored on the "
    "same held-out people. A claim holds where the 95 % interval of each seed lies above 0, and "
    "fails where each lies below."
)
PICTURE = (
    "Chosen as a success: a hidden elbow that only the cascade finds, if there is one; of all "
    "these people the one with most joints right. A ring where it is, a cross where a network "
    "puts it."
)
REAL = (
    "LSP's test people, after so many epochs of 3,000 Leeds people; each seed's lead, in points. "
    "Own rates: detection+regression learns at 0.009 in place of 0.003. "
    "What that comes to: docs/argument.md."
)
EPOCH = re.compile(r" epoch \d+/\d+ ")  # in a line that a training prints


def write(out: str | Path) -> Path:
    """Write OUT/report.html from the run's manifest and executed notebooks; return its path.

    BadInput if OUT has no manifest of a run, or metrics that other notebooks than these have
    written.
    """
    out = Path(out)
    manifest = artifacts.manifest(out, "command", "notebooks", "preset")
    executed = {}
    for number, entry in sorted(manifest["notebooks"].items()):
        if (out / entry["notebook"]).is_file():
            executed[number] = read_executed(out / entry["notebook"])
    old = [number for number in executed if is_outdated(out, number, manifest)]
    notebooks = [notebook for number, notebook in executed.items() if number not in old]
    metrics = measurements.read(out) if (out / artifacts.METRICS).is_file() else {}
    real = on_real_people()
    try:
        first = first_screen(out, manifest, notebooks, metrics, real)
    except (AttributeError, KeyError, TypeError) as error:
        found = f"numbers that do not make a report ({type(error).__name__}: {error})"
        expected = "those of these notebooks: run them again"
        raise artifacts.BadInput(out / artifacts.METRICS, found, expected) from None
    parts = [
        first,
        *(section(notebook) for notebook in notebooks),
        outdated_note(old),
        "<h2>How the paper was read</h2>",
        text_table(paper.reading()),
        "<h2>What it cost</h2>",
        scrolling_table(cost_table(out, manifest).to_html(na_rep="–")),
        "<h2>How it was made</h2>",
        origin_table(manifest),
        "<h2>Commands</h2>",
        f"<pre>{html.escape(commands(out, manifest))}</pre>",
    ]
    title = html.escape(f"Part heatmap regression, preset {manifest['preset']}")
    page = PAGE.format(title=title, body="".join(parts))
    artifacts.write_bytes(out / "report.html", (page + signature(page)).encode())
    return out / "report.html"


def signature(page: str) -> str:
    """The last line of a report, a hash of all before it."""
    return f"\n<!-- {artifacts.digest([page])} -->\n"


def is_own(path: Path) -> bool:
    """Is a report as `write` has left it?"""
    text = path.read_text(encoding="utf-8", errors="replace")
    page = text.rpartition("\n<!-- ")[0]
    return text == page + signature(page)


def is_outdated(out: Path, number: str, manifest: dict) -> bool:
    """Was a notebook executed on other people or weights than the run has now, or were its maps
    read by another decoder or flip test?
    """
    on = manifest["notebooks"][number].get("on")
    return on is not None and measurements.is_outdated(out, number, on)


def outdated_note(numbers: list[str]) -> str:
    """Return a sentence about the notebooks that are left out; empty if none is."""
    if not numbers:
        return ""
    return (
        f"<p><b>Left out: {', '.join(numbers)}</b>, executed on other people or weights than the "
        "run has now, or with another decoder or flip test. The run's command with "
        f"<code>--from {numbers[0]}</code> executes them again.</p>"
    )


def read_executed(path: Path) -> nbformat.NotebookNode:
    """Return an executed notebook. BadInput if the file is none."""
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        notebook.cells[0]
    except (ValueError, LookupError, TypeError, AttributeError, nbformat.ValidationError) as error:
        expected = f"the executed notebook; run it again (hpe reproduce --only {path.name[:2]})"
        raise artifacts.BadInput(path, f"{type(error).__name__}", expected) from None
    return notebook


def first_screen(
    out: Path, manifest: dict, notebooks: list[nbformat.NotebookNode], metrics: dict, real: str
) -> str:
    """Return what a reader came for as HTML; what the run has not come to yet is left out.

    real: `on_real_people`.
    """
    left = ""
    ablated = metrics.get("ablation")
    if ablated:
        verdicts = claims.table(ablated["criterion"])
        short = [name for name in verdicts if not name.endswith(claims.PARTS[1:])]
        table = scrolling_table(verdicts[short].to_html(classes="claims"))
        count = claims.count_verdicts(ablated["criterion"])
        left = f"<h2>Does the argument hold in this run?</h2><p><b>{count}</b>. {CLAIMS}</p>{table}"
        rows = scrolling_table(rows_table(ablated).to_html(na_rep="–"))
        ours = (
            f"<p>Paper: {rivals.SOURCES[5]}. Ours: {metrics['dataset']}, {metrics['metric']}.</p>"
        )
        left += real
        left += f"<h2>Table 5, the paper's total beside ours</h2>{ours}{rows}"
    picture = "".join(tagged_cells(notebook, "summary") for notebook in notebooks)
    right = f"<h2>From image to pose</h2><p>{PICTURE}</p>{picture}" if picture else ""
    right += "<h2>The run</h2>" + text_table(pd.DataFrame({"": run_facts(out, manifest, metrics)}))
    return f"<div class='first'><div>{left}</div><div>{right}</div></div>"


def on_real_people() -> str:
    """Return the kept verdicts on LSP's test people as HTML; empty where there are none, and where
    they cannot be read, which a line says: the run itself needs none.
    """
    judged = pd.DataFrame()
    try:
        if results.RESULTS.is_dir():
            judged = table_5.verdicts()
    except (artifacts.BadInput, KeyError) as error:
        print(f"the report has no verdicts on real people: {error}", flush=True)
    long = [name for name in judged if name.startswith("LSP") and name != "LSP, 6 epochs"]
    if not long:
        return ""
    table = judged[long].replace("–", pd.NA).dropna(how="all").fillna("–")
    shown = scrolling_table(table.to_html(classes="claims"))
    return f"<h2>On real people</h2><p>{REAL}</p>{shown}"


def rows_table(ablated: dict) -> pd.DataFrame:
    """Return the rows of Table 5: the paper's total, then ours and minutes, mean of seeds."""
    scores = pd.DataFrame(ablated["scores"]).T[["total", "visible", "occluded"]]
    rows = scores.join(pd.DataFrame(ablated["costs"]).T["minutes"]).astype(float)
    names = rows.index.str.rpartition(", seed ").get_level_values(0)
    means = rows.groupby(names, sort=False).mean().round(1)
    means.insert(0, "paper's total", rivals.published(5)["total"].reindex(means.index))
    return means.rename_axis(None)


def run_facts(out: Path, manifest: dict, metrics: dict) -> dict[str, str]:
    """Return people, budget, seeds and cost of a run in words, and what its cascade scores."""
    found = {}
    stages = stage_manifests(out)
    if (out / "data" / artifacts.MANIFEST).is_file():
        parameters = artifacts.manifest(out / "data", "parameters")["parameters"]
        said = ("{dataset}", "{train} to train on", "{val} held out", "crops of {image_size} px")
        found["people"] = ", ".join(said).format_map(defaultdict(lambda: "?", parameters))
    if "cascade" in metrics:
        rows = {"cascade": metrics["cascade"], "detector alone": metrics["detector"]["logits"]}
        totals = ", ".join(f"{name} {score['total']:.1f}" for name, score in rows.items())
        found[metrics["metric"]] = f"{totals} (notebooks 03 to 05)"
    found["epochs"] = ", ".join(
        f"{name} {stages[name]['settings']['epochs']}"
        for name in reversed(artifacts.STAGES.values())
        if "settings" in stages.get(name, {})
    )
    found["seeds"] = ", ".join(sorted({str(manifest.get("seed")) for manifest in stages.values()}))
    trained = {
        made.get("weights_sha256", name): made["wall_seconds"] for name, made in stages.items()
    }  # what a row has taken over counts once
    executed = sum(entry["wall_seconds"] for entry in manifest["notebooks"].values())
    machine = manifest.get("machine", {})
    count = machine.get("cores", "?")
    cores = "1 core" if count == 1 else f"{count} cores"
    devices = [cores, *machine.get("gpus", [])]
    found["cost"] = (
        f"{sum(trained.values()) / 60:.1f} minutes of training; the notebooks "
        f"{executed / 60:.1f} when last executed, on {', '.join(devices)}"
    )
    return found


def section(notebook: nbformat.NotebookNode) -> str:
    """Return a notebook's title and what its cells tagged "report" say; empty if none is."""
    title = notebook.cells[0].source.partition("\n")[0].lstrip("# ")
    body = tagged_cells(notebook, "report")
    return f"<h2>{html.escape(title)}</h2>{body}" if body else ""


def tagged_cells(notebook: nbformat.NotebookNode, tag: str) -> str:
    """Return the outputs of a notebook's cells with this tag as HTML; epoch lines are folded."""
    cells = [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]
    if not cells:
        return ""
    for cell in cells:
        if "outputs" in cell:
            cell.outputs = fold_log(cell.outputs)
    shown = nbformat.v4.new_notebook(cells=cells, metadata=notebook.metadata)
    exporter = HTMLExporter(template_name="basic", exclude_input=True, embed_images=True)
    return exporter.from_notebook_node(shown)[0]


def fold_log(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Return a cell's outputs; what a training printed comes last and opens on a click."""
    printed = [output for output in outputs if output.output_type == "stream"]
    text = "".join(output.text for output in printed)
    if not EPOCH.search(text):
        return outputs
    lines = f"<details><summary>{len(EPOCH.findall(text))} epochs, a line each</summary>"
    lines += f"<pre>{html.escape(text)}</pre></details>"
    shown = [output for output in outputs if output.output_type != "stream"]
    return [*shown, nbformat.v4.new_output("display_data", {"text/html": lines})]


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
    return scrolling_table(frame.to_html(classes="text", header=len(frame.columns) > 1))


def scrolling_table(table: str) -> str:
    """Return an HTML table that scrolls where it is wider than the page."""
    return f"<div class='wide'>{table}</div>"


def stage_manifests(out: Path) -> dict[str, dict]:
    """Return the manifest of each stage that the run trained, by folder, ablations included."""
    runs = [out, *sorted(artifacts.own_rows(out))]  # other folders belong to the user
    folders = [run / stage for run in runs for stage in artifacts.STAGES.values()]
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


def split_scored(data: dict) -> str:
    """Return the split of `hpe evaluate` that a run's val people are; "" if they are none.

    data: the parameters of the run's data/.
    """
    if data["dataset"] in ("synthetic", "lspet"):
        return "val"  # nobody has published one: the run's own
    return data["val"] if data["val"] in ("train", "val", "test", "all") else ""


def commands(out: Path, manifest: dict) -> str:
    """Return the run's command and, for each trained stage, the command that scores it."""
    lines = [manifest["command"]]
    people = out / "data" / artifacts.MANIFEST
    if people.is_file():
        data = artifacts.read_json(people)["parameters"]
        if not (split := split_scored(data)):
            return "\n".join(lines)
        in_folder = data["data_root"] and data["dataset"] != "synthetic"
        root = " --data-root DIR" if in_folder else ""
        run = out.relative_to(paper.ROOT) if out.is_relative_to(paper.ROOT) else out
        for name in stage_manifests(out):
            weights = shlex.quote(str(run / name))
            data_set = f"{data['dataset']}{root} --split {split}"
            lines.append(f"hpe evaluate --weights {weights} --data {data_set}")
    return "\n".join(lines)
