"""The tables of README and docs, written from results/ (make tables).

--figures draws the docs' figures of results/, too.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Annotated

import numpy as np
import pandas as pd
import typer

from benchmarks import commands, plan
from hpe_lib import evaluation
from hpe_lib.paper import ROOT
from hpe_lib.view.figures import leads_by_budget, score_against_time, totals_by_budget
from hpe_lib.workbook import artifacts, results, table_5
from hpe_lib.workbook.results import (
    claims_table,
    existing,
    gain_table,
    lsp_table,
    metrics_of,
    mpii_table,
    parts_table,
    released_table,
    score_columns,
    study_curves,
    study_rows,
    study_table,
)

PAGES = ("README.md", "docs/*.md")
BLOCK = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
STEPS = {
    "leeds": "LSP and LSPET, 128 px, 13 epochs",
    "leeds-lsp-128": "then LSP alone, 8 epochs",
    "leeds-192": "`leeds`, then 192 px, 6 epochs",
    "leeds-256": "then 256 px, 1 epoch",
    "leeds-lsp": "`leeds-192`, then LSP alone, 8 epochs",
    "leeds-6": "anew: LSP and LSPET, 128 px, 6 epochs",
    "leeds-6-192": "`leeds-6`, then 192 px, 6 epochs",
}  # trainings on Leeds people: results/NAME (LSP test), results/NAME-val (LSPET 8001-8500)


def lsp_short_table() -> pd.DataFrame:
    """The rows and columns of `lsp_table` that README shows."""
    table = lsp_table()[["total", "95 %", "visible", "occluded", "source"]]
    ours = [name for name in table.index if name.startswith("ours")][:2]
    again = [name for name in table.index if name.endswith("released predictions")]
    paper = [name for name in table.index if name.startswith("Bulat")]
    return table.loc[[*ours, *again, *paper]]


def minutes(name: str) -> float:
    """How long the training behind results/NAME took."""
    return artifacts.manifest(results.RESULTS / name)["wall_seconds"] / 60


def steps_table() -> pd.DataFrame:
    """The score after each training step, on the validation people and on LSP's test people."""
    rows = {}
    for name in existing(*STEPS):
        test = metrics_of(name)["scores"]["cascade"]
        choosing = metrics_of(f"{name}-val")["scores"]["cascade"]
        rows[f"{STEPS[name]} (`{name}`)"] = {
            "minutes": minutes(name),
            "LSPET 8001-8500": choosing["total"],
            "LSP test": test["total"],
            "visible": test["visible"],
            "occluded": test["occluded"],
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def threads_table() -> pd.DataFrame:
    """How much faster two threads train the presets of Leeds people, medians of several runs.

    "on two": minutes that the whole training would have taken, from those it took on one thread.
    """
    rows = {}
    for preset, seconds in metrics_of("threads")["seconds"].items():
        one, two = (float(np.median(seconds[name])) for name in ("one thread", "two threads"))
        rows[f"`{preset}`"] = {
            "one thread, s": one,
            "two threads, s": two,
            "times as fast": f"{one / two:.2f}",
            "minutes on one": minutes(preset),
            "on two": minutes(preset) * two / one,
        }
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.loc["both, the released cascade"] = table[["minutes on one", "on two"]].sum()
    return table


def given_table() -> pd.DataFrame:
    """Scores of the released regressor for different input maps (benchmarks/argument.py), and how
    far they are from those for its detector's.
    """
    rows = {}
    for name, found in metrics_of("argument")["given"].items():
        away = found.get("difference", {})
        rows[name] = score_columns(found) | {
            f"difference, {part}": evaluation.format_difference(away.get(part))
            for part in ("total", "occluded")
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def confidence_table() -> pd.DataFrame:
    """Mean peak within a disc at joints, and in the background, in the released networks' maps."""
    table = pd.DataFrame.from_dict(metrics_of("argument")["confidence"], orient="index")
    return table.map(lambda peak: "{:.2f} [{:.2f}, {:.2f}]".format(peak["mean"], *peak["ci95"]))


def gradients_table() -> pd.DataFrame:
    """How large gradients are, and for how many weights the size of the loss matters to AdamW."""
    table = pd.DataFrame.from_dict(metrics_of("gradients")["gradients"], orient="index")
    return pd.DataFrame(
        {
            "weights": table["weights"].map("{:,}".format),
            "median gradient": table["median"].map("{:.1e}".format),
            "no gradient, %": (100 * table["none"]).map("{:.2f}".format),
            "loss's size matters, %": (100 * table["matters"]).map("{:.2f}".format),
        }
    )


def by_peak_table() -> pd.DataFrame:
    """How often the released networks are right, by how sure the detector is of the joint."""
    rows = {}
    for name, found in metrics_of("argument")["by peak"].items():
        lead = evaluation.format_difference(found["difference"])
        rows[name] = {**found, "joints": f"{found['joints']:,}", "difference": lead}
    return pd.DataFrame.from_dict(rows, orient="index")


def same_joints_table() -> pd.DataFrame:
    """By how much larger cascades' leads are on occluded joints: than on visible ones, and on
    visible ones of the same names (benchmarks/same_joints.py).
    """
    columns = {
        "all joints": "occluded minus visible",
        "same joints": "occluded minus visible of the same names",
    }
    leads = pd.DataFrame(metrics_of("same-joints")["leads"]).T
    return leads.map(evaluation.format_difference).rename(columns=columns)


def comparisons_table() -> pd.DataFrame:
    """Paired differences that the pages cite (benchmarks/compare.py), in points."""
    rows = {}
    for people, leads in metrics_of("comparisons")["leads"].items():
        for label, lead in leads.items():
            rows[f"{people}; {label}"] = lead
    table = pd.DataFrame.from_dict(rows, orient="index").map(evaluation.format_difference)
    return table.rename(columns={"occluded_minus_visible": "occluded minus visible"})


def differing_joints_table() -> pd.DataFrame:
    """The joints that Tompson's truth has elsewhere than the official file, by person."""
    return pd.DataFrame(metrics_of("released")["Tompson's truth"]).astype(str).set_index("person")


def speed_table() -> pd.DataFrame:
    """Our speeds beside references', measured in turn (python -m benchmarks --keep)."""
    rows = pd.DataFrame(metrics_of("bench")["rows"]).set_index("what")
    digits = {unit: 1 if unit == "ms" else 0 for unit in set(rows.unit)}
    table = pd.DataFrame(index=rows.index)
    for name in ("ours", "reference"):
        table[name] = [f"{v:,.{digits[u]}f} {u}" for v, u in zip(rows[name], rows.unit)]
    table["the reference"] = rows.against
    table["times as fast"] = rows.ratio.map("{:.2f}".format)
    table["aim"] = rows.aim.replace("", "–")
    table["met"] = rows.met.map({True: "yes", False: "**no**"}).fillna("–")
    return table


def default_run_table() -> pd.DataFrame:
    """The default run on two processors: minutes, and the scores that came out."""
    rows = {}
    for name in existing("default-run-amd", "default-run-intel"):
        found = metrics_of(name)
        seconds = found["notebook seconds"]
        cascade = found["scores"]["cascade"]
        rows[artifacts.manifest(results.RESULTS / name)["machine"]["processor"]] = {
            "03 to 05, minutes": sum(seconds[number] for number in ("03", "04", "05")) / 60,
            "all, minutes": sum(seconds.values()) / 60 if "08" in seconds else None,
            "detector alone": found["scores"]["detector"]["total"],
            "cascade": cascade["total"],
            "95 %": evaluation.format_interval(cascade["ci95"]),
            "visible": cascade["visible"],
            "occluded": cascade["occluded"],
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def drawn_table() -> pd.DataFrame:
    """Notebooks 03 to 05 on synthetic people, with baselines that need no training."""
    scores = metrics_of("default-run-amd")["scores"]
    names = {
        "mean pose": "mean pose of the training people",
        "untrained": "untrained cascade",
        "detector": "detector alone, logits",
        "detector, centroid": "detector alone, centroid",
        "regressor": "regressor on the frozen detector",
        "cascade": "cascade, joint",
    }
    found = {label: score_columns(scores[name]) for name, label in names.items()}
    return pd.DataFrame.from_dict(found, orient="index")


TABLES: dict[str, Callable[[], pd.DataFrame]] = {
    "lsp": lsp_table,
    "lsp-short": lsp_short_table,
    "mpii": mpii_table,
    "gain": gain_table,
    "steps": steps_table,
    "threads": threads_table,
    "verdicts": table_5.verdicts,
    "table-5-paper": table_5.beside_the_paper,
    "gains-by-epochs": table_5.gains_by_epochs,
    "same-joints": same_joints_table,
    "comparisons": comparisons_table,
    "table-5-claims": partial(claims_table, "table-5-test-claims"),
    "table-5-36-claims": partial(claims_table, "table-5-36-test-claims"),
    "table-5-36-own-claims": partial(claims_table, "table-5-36-own-test-claims"),
    "table-5-72-claims": partial(claims_table, "table-5-72-test-claims"),
    "controls-gain": lambda: gain_table(study_rows("controls")),
    "drawn-medium-claims": partial(claims_table, "drawn-medium-claims"),
    "default-claims": partial(claims_table, "default-run-amd"),
    "given": given_table,
    "confidence": confidence_table,
    "by-peak": by_peak_table,
    "gradients": gradients_table,
    "released-mpii": partial(released_table, "mpii"),
    "released-lsp": partial(released_table, "lsp"),
    "tompson": differing_joints_table,
    "drawn": drawn_table,
    "default-run": default_run_table,
    "speed": speed_table,
    "plan-work": plan.work_table,
    "plan-memory": plan.memory_table,
    "plan-exchange": plan.exchange_table,
}
OF_TOTALS = "recipe regressor rates race seeds stacking mixed table-5 table-5-36 table-5-72".split()
OF_PARTS = (
    "race-test seeds-test stacking-test table-5-36-test table-5-72-test "
    "drawn-easy drawn-medium drawn-hard controls exchanged stacked"
).split()
TABLES |= {study: partial(study_table, study) for study in OF_TOTALS}
TABLES |= {study: partial(parts_table, study) for study in OF_PARTS}


FIGURES = {
    "leads-by-difficulty.png": lambda: leads_by_budget(table_5.drawn_leads()),
    "race-curves.png": lambda: score_against_time(study_curves("race")),
    "table-5-budgets.png": lambda: totals_by_budget(table_5.totals_on_lsp()),
    "table-5-curves.png": lambda: score_against_time(study_curves("table-5")),
}


def markdown(table: pd.DataFrame) -> str:
    """A table as Markdown, one decimal, a dash where nothing is known."""
    header = ["row", *map(str, table.columns)]
    rows = [[str(name), *map(cell, values)] for name, values in zip(table.index, table.to_numpy())]
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cell(value: str | float | None) -> str:
    """A table's value as text."""
    if isinstance(value, str):
        return value
    return "–" if value is None or np.isnan(value) else f"{value:.1f}"


def fill_tables(text: str) -> str:
    """Fill each of a page's tables from results/. KeyError on an unknown table name."""
    return BLOCK.sub(lambda found: found[1] + markdown(TABLES[found[2]]()) + found[3], text)


def main(
    figures: Annotated[
        bool, typer.Option("--figures", help="Draw the docs' figures, too.")
    ] = False,
) -> None:
    """Rewrite the tables of README and docs (make tables)."""
    for path in [path for page in PAGES for path in sorted(ROOT.glob(page))]:
        text = path.read_text(encoding="utf-8")
        if (new := fill_tables(text)) != text:
            artifacts.write_bytes(path, new.encode())
            print(path.relative_to(ROOT))
    for name, draw in FIGURES.items() if figures else ():
        draw().savefig(ROOT / "docs" / name)


if __name__ == "__main__":
    commands.run(main)
