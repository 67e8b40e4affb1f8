"""Published results: metrics and predictions of runs in results/NAME, and the tables of README
and docs that are generated from them.

results/NAME holds metrics.json (scores and paired differences), manifest.json (command, commit,
seed, machine, cost) and predictions.npz (the joints of everybody who was scored), so that anybody
can score and compare again without training.
"""

import io
import re
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from hpe_lib import claims, evaluation, rivals
from hpe_lib.data.people import People
from hpe_lib.paper import RELEASED, ROOT
from hpe_lib.prediction import Predictions
from hpe_lib.workbook import artifacts, environment
from hpe_lib.workbook.artifacts import BadInput

RESULTS = ROOT / "results"
PAGES = ("README.md", "docs/*.md")
BLOCK = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def keep_scores(
    folder: Path, weights: Path, found: Predictions, people: People, command: str
) -> dict:
    """Write results/NAME for predictions that a stage's weights made; returns its metrics.

    weights: the stage's folder, whose manifest says what it was made from and at what cost.
    The joints are rounded to float16 first, and the scores are those of the rounded joints.
    BadInput if the folder holds files of the same names that are no such results.
    """
    refuse_foreign_results(folder)
    trained = artifacts.manifest(weights)
    answers = {"detector": found.detector_joints, "detector, centroid": found.detector_centroids}
    if trained["kind"] == "detector":
        answers["detector"] = found.joints  # a rival's second hourglass, if it has one
    else:
        answers = {"cascade": found.joints, **answers}
    answers = {name: joints.astype(np.float16) for name, joints in answers.items()}
    scores = {name: score(joints, people) for name, joints in answers.items()}
    metrics = {
        "dataset": people.dataset,
        "metric": people.metric,
        "center_from_joints": people.center_from_joints,
        "scores": scores,
    }
    if "cascade" in answers:
        pair = [[answers[name].astype(float)] for name in ("cascade", "detector")]
        metrics["cascade over detector"] = evaluation.paired(*pair, people)
    kept = ("kind", "seed", "steps", "processes", "wall_seconds", "network", "settings", "machine")
    kept += ("commit", "versions", "weights_sha256", "upstream")
    manifest = {name: trained[name] for name in kept if name in trained}
    manifest["scored_by"] = command
    buffer = io.BytesIO()
    read = {name: joints for name, joints in answers.items() if "centroid" not in name}
    np.savez_compressed(buffer, keys=people.keys.astype(str), **read)
    files = {
        "predictions.npz": buffer.getvalue(),
        "metrics.json": artifacts.json_bytes(metrics),
        artifacts.MANIFEST: artifacts.json_bytes(artifacts.with_own_hash(manifest)),
    }
    artifacts.write_files({folder / name: content for name, content in files.items()})
    return metrics


def refuse_foreign_results(folder: Path) -> None:
    """BadInput if the folder holds files of the names in results/NAME, but is no such folder."""
    if folder.exists() and not folder.is_dir():
        raise BadInput(folder, "a file", "a folder, or a name that is free")
    artifacts.refuse_foreign_manifest(folder)
    if (folder / artifacts.MANIFEST).is_file():
        artifacts.manifest(folder, "scored_by")
    for name, is_evidence in {
        "metrics.json": holds_metrics,
        "predictions.npz": holds_joints,
    }.items():
        path = folder / name
        if artifacts.holds_something(path) and not is_evidence(path):
            raise BadInput(path, "a file that is no evidence", "a folder without it")


def holds_metrics(path: Path) -> bool:
    """Does a file hold metrics as `keep_scores` writes them?"""
    try:
        found = artifacts.read_json(path)
    except BadInput:
        return False
    return isinstance(found, dict) and {"dataset", "metric", "scores"} <= found.keys()


def holds_joints(path: Path) -> bool:
    """Does a file hold people's keys and joints as `keep_scores` writes them?"""
    try:
        with np.load(path) as found:
            return {"keys", "detector"} <= set(found.files)
    except (OSError, ValueError, AttributeError, EOFError, zipfile.BadZipFile):
        return False


def write(name: str, metrics: dict, command: str) -> None:
    """Write results/NAME for metrics that rest on no training of ours."""
    artifacts.write_json(RESULTS / name / "metrics.json", metrics)
    artifacts.write_manifest(RESULTS / name, {"command": command} | environment.describe())


def score(joints: np.ndarray, people: People) -> dict:
    """The Score JSON of joints (N, 16, 2), of any float type."""
    return evaluation.score(joints.astype(float), people)


def metrics_of(name: str) -> dict:
    """The metrics of results/NAME. BadInput if there are none."""
    return artifacts.read_json(RESULTS / name / "metrics.json")


def existing(*names: str) -> list[str]:
    """The names for which results/NAME exists."""
    return [name for name in names if (RESULTS / name / "metrics.json").is_file()]


def joints_of(name: str) -> dict[str, np.ndarray]:
    """The predictions of results/NAME: {"keys": (N,) str, row: (N, 16, 2) float64 image px}."""
    with np.load(RESULTS / name / "predictions.npz") as found:
        return {
            key: value if key == "keys" else value.astype(float) for key, value in found.items()
        }


def minutes(name: str) -> float:
    """How long the training behind results/NAME took."""
    return artifacts.manifest(RESULTS / name)["wall_seconds"] / 60


def release(weights: Path, name: str) -> Path:
    """Write a stage's weights as float16 to hpe_lib/weights/NAME; returns that folder.

    Loading turns them into float32 again; the scores stay the same to 0.1. Integer counts of norms
    are kept as they are.
    """
    tensors, made = artifacts.load_weights(weights), artifacts.manifest(weights)
    halved = {name: to_half(tensor) for name, tensor in tensors.items()}
    folder = RELEASED.parent / name
    artifacts.save(folder, halved, made)
    return folder


def to_half(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor as float16 if it holds floating-point numbers."""
    return tensor.half() if tensor.is_floating_point() else tensor


# ---- tables


def lsp_table() -> pd.DataFrame:
    """Table 7, ours beside the printed rows: LSP's 1,000 test people, person-centric PCK@0.2."""
    printed = rivals.published(7).assign(source="printed")
    rows = {}
    for name in existing("leeds-192", "leeds-256", "leeds-lsp", "leeds"):
        scores = metrics_of(name)["scores"]
        rows[f"ours, cascade (`{name}`)"] = score_columns(scores["cascade"])
        rows[f"ours, its detector alone (`{name}`)"] = score_columns(scores["detector"])
    again = metrics_of("released")["lsp"]["PC, PC"]
    rows["Yang et al. [41], released predictions"] = score_columns(again)
    ours = pd.DataFrame.from_dict(rows, orient="index").assign(source="scored here")
    return pd.concat([ours, printed])


def lsp_short_table() -> pd.DataFrame:
    """The rows and columns of `lsp_table` that README shows."""
    table = lsp_table()[["total", "95 %", "visible", "occluded", "source"]]
    ours = [name for name in table.index if name.startswith("ours")][:2]
    again = [name for name in table.index if name.endswith("released predictions")]
    paper = [name for name in table.index if name.startswith("Bulat")]
    return table.loc[[*ours, *again, *paper]]


def mpii_table() -> pd.DataFrame:
    """The Leeds weights on MPII photographs, beside a released hourglass on the same people."""
    rows = {}
    for name in existing("leeds-mpii"):
        scores = metrics_of(name)["scores"]
        rows["ours, cascade, never saw MPII"] = score_columns(scores["cascade"])
        rows["ours, its detector alone"] = score_columns(scores["detector"])
    for name, again in metrics_of("released")["mpii, photographs at hand"].items():
        rows[f"{name}, released predictions, trained on MPII"] = score_columns(again)
    return pd.DataFrame.from_dict(rows, orient="index")


GAINS = ("leeds-192", "leeds-256", "leeds-lsp", "leeds", "leeds-mpii", "synthetic-val")


def gain_table(names: Iterable[str] = GAINS) -> pd.DataFrame:
    """The lead of results/NAME's second network over its first, paired over people, in points."""
    rows = {}
    for name in existing(*names):
        found = metrics_of(name)
        parts = ("total", "visible", "occluded", "occluded_minus_visible")
        rows[found.get("label", f"`{name}`")] = {
            part.replace("_", " "): evaluation.format_difference(
                found["cascade over detector"][part]
            )
            for part in parts
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def study_rows(study: str) -> list[str]:
    """The rows that are in results/STUDY, "STUDY/ROW" each."""
    paths = sorted(RESULTS.glob(f"{study}/*/metrics.json"))
    return [f"{study}/{path.parent.name}" for path in paths]


STEPS = {
    "leeds": "LSP and LSPET, 128 px, 13 epochs",
    "leeds-lsp-128": "then LSP alone, 8 epochs",
    "leeds-192": "`leeds`, then 192 px, 6 epochs",
    "leeds-256": "then 256 px, 1 epoch",
    "leeds-lsp": "`leeds-192`, then LSP alone, 8 epochs",
}  # trainings on Leeds people: results/NAME (LSP test), results/NAME-val (LSPET 8001-8500)


def steps_table() -> pd.DataFrame:
    """The score after each training step, on the validation people and on LSP's test people."""
    rows = {}
    for name in existing(*STEPS):
        test, choosing = (
            metrics_of(name)["scores"]["cascade"],
            metrics_of(f"{name}-val")["scores"]["cascade"],
        )
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


def study_table(study: str) -> pd.DataFrame:
    """The rows of results/STUDY, the highest total on LSPET 8001-8500 first.

    "first network": read from its own maps, where a second one follows.  "last third": what the
    curve has gained in the last third of its epochs.  "difference": from the row that it is
    compared with, paired.
    """
    rows = {}
    for name in study_rows(study):
        found = metrics_of(name)
        score = of_last_network(found["scores"])
        low, high = score["ci95"]
        lead = found.get("difference")
        rows[found["label"]] = {
            "minutes": found["curve"][-1]["minutes"],
            "LSPET 8001-8500": score["total"],
            "95 %": f"{low:.1f}–{high:.1f}",
            "first network": first_total(found["scores"]),
            "last third": last_third(found["curve"]),
            "difference": evaluation.format_difference(lead["total"]) if lead else "–",
        }
    return ranked(rows, "LSPET 8001-8500").dropna(axis="columns", how="all")


def parts_table(study: str) -> pd.DataFrame:
    """The rows of results/STUDY on visible and occluded joints; differences as in `study_table`.

    study: of people whose occlusion is labelled: LSP's test people, or synthetic ones.
    """
    rows = {}
    for name in study_rows(study):
        found = metrics_of(name)
        score, lead = of_last_network(found["scores"]), found.get("difference", {})
        columns = {
            key: score_columns(score)[key] for key in ("total", "95 %", "visible", "occluded")
        }
        columns["first network"] = first_total(found["scores"])
        for part in ("total", "visible", "occluded"):
            columns[f"difference, {part}"] = evaluation.format_difference(lead.get(part))
        rows[found["label"]] = columns
    return ranked(rows, "total")


def table_5() -> pd.DataFrame:
    """Table 5's residual rows: the paper's total beside ours on LSP's test people, over seeds.

    Minutes are of one thread, the mean over seeds.
    """
    printed, runs = rivals.published(5)["total"], {}
    for row in study_rows("table-5-test"):
        found = metrics_of(row)
        name, _, _ = found["label"].rpartition(", seed ")
        score = of_last_network(found["scores"])
        runs.setdefault(name, []).append(score | {"minutes": found["curve"][-1]["minutes"]})
    rows = {}
    for name, scores in runs.items():
        totals = [score["total"] for score in scores]
        rows[name] = {
            "paper, MPII": printed.get(f"{name} (Res)"),
            "ours, LSP": float(np.mean(totals)),
            "of each seed": ", ".join(f"{total:.1f}" for total in totals),
        }
        for column in ("visible", "occluded", "minutes"):
            rows[name][column] = float(np.mean([score[column] for score in scores]))
    return ranked(rows, "ours, LSP")


def claims_table(name: str) -> pd.DataFrame:
    """What the claims of claims.csv come to in results/NAME, as `claims.table`."""
    return claims.table(metrics_of(name)["criterion"])


def last_third(curve: list[dict]) -> float:
    """What a curve has gained in the last third of its epochs, in points; NaN below six epochs."""
    if len(curve) < 6:
        return np.nan
    return curve[-1]["total"] - curve[-1 - len(curve) // 3]["total"]


def ranked(rows: dict[str, dict], column: str) -> pd.DataFrame:
    """Rows as a table, the highest in a column first."""
    names = sorted(rows, key=lambda name: -rows[name][column])
    return pd.DataFrame.from_dict({name: rows[name] for name in names}, orient="index")


def of_last_network(found: dict):
    """The cascade's entry, or the detector's if there is no cascade."""
    return found.get("cascade", found["detector"])


def first_total(found: dict) -> float:
    """The total of a cascade's first network, read from its own maps; NaN if it is alone."""
    return found["detector"]["total"] if "cascade" in found else np.nan


def given_table() -> pd.DataFrame:
    """Scores of the released regressor for different input maps (benchmarks/argument.py)."""
    rows = {name: score_columns(score) for name, score in metrics_of("argument")["given"].items()}
    return pd.DataFrame.from_dict(rows, orient="index")


def confidence_table() -> pd.DataFrame:
    """Mean peak within a disc at joints, and in the background, in the released networks' maps."""
    table = pd.DataFrame.from_dict(metrics_of("argument")["confidence"], orient="index")
    return table.map(lambda peak: f"{peak:.2f}")


def released_table(dataset: str) -> pd.DataFrame:
    """Released predictions on all people, against each truth (benchmarks/released.py)."""
    table = evaluation.table(metrics_of("released")[dataset]).drop(columns=["persons", "left_out"])
    return table.map(lambda value: f"{value:.2f}" if isinstance(value, float) else value).replace(
        "nan", "–"
    )


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


def drawn_table() -> pd.DataFrame:
    """Notebooks 03 to 05 on synthetic people, with baselines that need no training."""
    run = metrics_of("synthetic")
    rows = {
        "mean pose of the training people": run["floors"]["mean_pose"],
        "untrained cascade": run["floors"]["untrained"],
        "detector alone, logits": run["detector"]["logits"],
        "detector alone, centroid": run["detector"]["centroid"],
        "regressor on the frozen detector": run["regressor"],
        "cascade, joint": run["cascade"],
    }
    found = {name: score_columns(score) for name, score in rows.items()}
    return pd.DataFrame.from_dict(found, orient="index")


def drawn_leads() -> pd.DataFrame:
    """By how much detection+regression leads on synthetic people (studies drawn-…).

    A row for every difficulty, budget ("epochs"), other row ("over") and kind of joints: lead, low
    and high of its 95 % interval, in points. Empty where the studies have not been run.
    """
    names = {"iterative": "regression+regression", "detection": "detection only"}
    leads = []
    for path in sorted(RESULTS.glob("drawn-*/*/metrics.json")):
        row, _, epochs = path.parent.name.rpartition("-")
        if row not in names:
            continue
        place = {
            "difficulty": path.parts[-3].removeprefix("drawn-"),
            "epochs": int(epochs),
            "over": names[row],
        }
        difference = artifacts.read_json(path)["difference"]
        for joints in ("visible", "occluded"):
            low, high = difference[joints]["ci95"]
            lead = {"lead": -difference[joints]["difference"], "low": -high, "high": -low}
            leads.append({**place, "joints": joints, **lead})
    return pd.DataFrame(leads)


def study_curves(study: str) -> dict[str, list[dict]]:
    """{label: [{"minutes", "total"}, …]} of a study's rows, the best at its end first."""
    found = [metrics_of(row) for row in study_rows(study)]
    found.sort(key=lambda row: -row["curve"][-1]["total"])
    return {row["label"]: row["curve"] for row in found}


def score_columns(found: dict) -> dict:
    """A score's columns for a table of a page."""
    low, high = found["ci95"]
    columns = {name: found[name] for name in (*rivals.COLUMNS, "total")}
    return columns | {
        "95 %": f"{low:.1f}–{high:.1f}",
        "visible": found["visible"],
        "occluded": found["occluded"],
    }


TABLES: dict[str, Callable[[], pd.DataFrame]] = {
    "lsp": lsp_table,
    "lsp-short": lsp_short_table,
    "mpii": mpii_table,
    "gain": gain_table,
    "steps": steps_table,
    "threads": threads_table,
    "recipe": lambda: study_table("recipe"),
    "rates": lambda: study_table("rates"),
    "race": lambda: study_table("race"),
    "race-test": lambda: parts_table("race-test"),
    "table-5-paper": table_5,
    "table-5-claims": lambda: claims_table("table-5-test-claims"),
    "table-5": lambda: study_table("table-5"),
    "drawn-easy": lambda: parts_table("drawn-easy"),
    "drawn-medium": lambda: parts_table("drawn-medium"),
    "drawn-hard": lambda: parts_table("drawn-hard"),
    "controls": lambda: parts_table("controls"),
    "controls-gain": lambda: gain_table(study_rows("controls")),
    "drawn-medium-claims": lambda: claims_table("drawn-medium-claims"),
    "given": given_table,
    "confidence": confidence_table,
    "released-mpii": lambda: released_table("mpii"),
    "released-lsp": lambda: released_table("lsp"),
    "drawn": drawn_table,
    "speed": speed_table,
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


def main() -> None:
    """Rewrite the tables of README and docs (make tables)."""
    for path in [path for page in PAGES for path in sorted(ROOT.glob(page))]:
        text = path.read_text(encoding="utf-8")
        if (new := fill_tables(text)) != text:
            artifacts.write_bytes(path, new.encode())
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
