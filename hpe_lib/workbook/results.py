"""Published results: metrics and predictions of runs in results/NAME, and the tables of them that
notebooks show. README's and docs' are in benchmarks/pages.py.

results/NAME holds metrics.json (scores and paired differences), manifest.json (command, commit,
seed, machine, cost) and predictions.npz (the joints of everybody who was scored), so that anybody
can score and compare again without training.
"""

import hashlib
import io
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hpe_lib import claims, evaluation, rivals
from hpe_lib.data.people import People
from hpe_lib.paper import ROOT
from hpe_lib.prediction import Predictions
from hpe_lib.workbook import artifacts, environment
from hpe_lib.workbook.artifacts import BadInput

RESULTS = ROOT / "results"
RELEASED = "leeds-192"  # results/NAME of the weights in this package


def keep_scores(
    folder: Path,
    weights: Path,
    found: Predictions,
    people: People,
    command: str,
    notes: Iterable[str] = (),
) -> dict:
    """Write results/NAME for predictions that a stage's weights made; returns its metrics.

    weights: the stage's folder, whose manifest says what it was made from and at what cost. notes:
    what must be said beside each score. The joints are rounded first, to float16 where that is
    within half a pixel, and the scores are those of the rounded joints.
    BadInput if the folder holds files of the same names that are no such results.
    """
    refuse_foreign_results(folder)
    trained = artifacts.manifest(weights)
    answers = {"detector": found.detector_joints, "detector, centroid": found.detector_centroids}
    if trained["kind"] == "detector":
        answers["detector"] = found.joints  # a rival's second hourglass, if it has one
    else:
        answers = {"cascade": found.joints, **answers}
    answers = {name: rounded(joints) for name, joints in answers.items()}
    scores = {}
    for name, joints in answers.items():
        scores[name] = evaluation.score(joints.astype(float), people)
        scores[name]["notes"] += notes
    metrics = {
        "dataset": people.dataset,
        "metric": people.metric,
        "truth": people.source,
        "skipped": people.skipped,
        "center_from_joints": people.center_from_joints,
        "scores": scores,
    }
    if "cascade" in answers:
        pair = [[answers[name].astype(float)] for name in ("cascade", "detector")]
        metrics["cascade over detector"] = evaluation.paired(*pair, people)
    kept = ("kind", "seed", "steps", "processes", "wall_seconds", "network", "settings", "machine")
    kept += ("commit", "versions", "weights_sha256", "upstream")
    manifest = {name: trained[name] for name in kept if name in trained}
    manifest |= {"scored_by": command, "people": people.fingerprint()}
    buffer = io.BytesIO()
    read = {name: joints for name, joints in answers.items() if "centroid" not in name}
    np.savez_compressed(buffer, keys=people.keys.astype(str), **read)
    files = {
        "predictions.npz": buffer.getvalue(),
        "metrics.json": artifacts.json_bytes(metrics),
    }
    write_evidence(folder, files, manifest)
    return metrics


def write_evidence(folder: Path, files: dict[str, bytes], manifest: dict) -> None:
    """Write a folder of results with its manifest, which keeps the files' sha256."""
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    manifest = manifest | {"files": manifest.get("files", {}) | hashes}
    content = artifacts.json_bytes(artifacts.with_own_hash(manifest))
    written = files | {artifacts.MANIFEST: content}
    artifacts.write_files({folder / name: content for name, content in written.items()})


def evidence_file(name: str, file: str) -> Path:
    """The path of a file in results/NAME. BadInput if it is not as it was written."""
    path = RESULTS / name / file
    if not path.is_file() or not path.with_name(artifacts.MANIFEST).is_file():
        return path
    wanted = artifacts.manifest(RESULTS / name).get("files", {}).get(file)
    if wanted and artifacts.file_hash(path) != wanted:
        raise BadInput(path, "a file changed since it was written", "the one of its manifest.json")
    return path


def rounded(joints: np.ndarray) -> np.ndarray:
    """Joints as float16, or as float32 where that moves one by half a pixel or more."""
    half = joints.astype(np.float16)
    with np.errstate(invalid="ignore"):
        far = np.abs(half.astype(float) - joints) > 0.5
    return joints.astype(np.float32) if far.any() else half


def refuse_foreign_results(folder: Path) -> None:
    """BadInput if the folder holds files of the names in results/NAME, but is no such folder."""
    if folder.exists() and not folder.is_dir():
        raise BadInput(folder, "a file", "a folder, or a name that is free")
    artifacts.refuse_foreign_manifest(folder)
    if (folder / artifacts.MANIFEST).is_file():
        artifacts.manifest(folder, "scored_by")
    files = {folder / "metrics.json": holds_metrics, folder / "predictions.npz": holds_joints}
    artifacts.refuse_foreign(files, "a file that is no evidence")


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
        with artifacts.open_file(path) as file, np.load(file) as found:
            return {"keys", "detector"} <= set(found.files)
    except (OSError, ValueError, AttributeError, EOFError, zipfile.BadZipFile):
        return False


def write(name: str, metrics: dict, command: str) -> None:
    """Write results/NAME for metrics that rest on no training of ours."""
    files = {"metrics.json": artifacts.json_bytes(metrics)}
    write_evidence(RESULTS / name, files, {"command": command} | environment.describe())


def metrics_of(name: str) -> dict:
    """The metrics of results/NAME. BadInput if there are none."""
    return artifacts.read_json(evidence_file(name, "metrics.json"))


def existing(*names: str) -> list[str]:
    """The names for which results/NAME exists."""
    return [name for name in names if (RESULTS / name / "metrics.json").is_file()]


def joints_of(name: str) -> dict[str, np.ndarray]:
    """The predictions of results/NAME: {"keys": (N,) str, row: (N, 16, 2) float64 image px}."""
    with np.load(evidence_file(name, "predictions.npz")) as found:
        rows = {row: joints.astype(float) for row, joints in found.items() if row != "keys"}
        return {"keys": found["keys"], **rows}


# ---- tables


def lsp_table() -> pd.DataFrame:
    """Table 7, ours beside the printed rows: LSP's 1,000 test people, person-centric PCK@0.2."""
    printed = rivals.published(7).assign(source="printed")
    rows = {}
    for name in existing(RELEASED, "leeds-256", "leeds-lsp", "leeds"):
        scores = metrics_of(name)["scores"]
        rows[f"ours, cascade (`{name}`)"] = score_columns(scores["cascade"])
        rows[f"ours, its detector alone (`{name}`)"] = score_columns(scores["detector"])
    if existing("frozen-192"):
        label = f"ours, a regressor on `{RELEASED}`' detector, frozen (`frozen-192`)"
        rows[label] = score_columns(metrics_of("frozen-192")["scores"]["cascade"])
    again = metrics_of("released")["lsp"]["PC file, PC labels"]
    rows["Yang et al. [41], released predictions"] = score_columns(again)
    ours = pd.DataFrame.from_dict(rows, orient="index").assign(source="scored here")
    return pd.concat([ours, printed])


def released_on_lsp() -> dict[str, dict]:
    """Return what the released cascade scores on LSP's test people, by a name for figures."""
    if not existing(RELEASED):
        return {}
    return {"our cascade on LSP's test people": metrics_of(RELEASED)["scores"]["cascade"]}


def mpii_table() -> pd.DataFrame:
    """The Leeds weights on MPII photographs, beside a released hourglass on the same people."""
    rows = {}
    if existing("leeds-mpii"):
        scores = metrics_of("leeds-mpii")["scores"]
        rows["ours, cascade, never saw MPII"] = score_columns(scores["cascade"])
        rows["ours, its detector alone"] = score_columns(scores["detector"])
    for name, again in metrics_of("released")["mpii, photographs at hand"].items():
        rows[f"{name}, released predictions, trained on MPII"] = score_columns(again)
    return pd.DataFrame.from_dict(rows, orient="index")


def released_scores() -> dict[str, dict]:
    """Scores of released predictions by row name, MPII's and LSP's (benchmarks/released.py)."""
    found = metrics_of("released")
    return {
        f"{dataset}: {name}": of
        for dataset in ("mpii", "lsp")
        for name, of in found[dataset].items()
    }


def released_table(dataset: str) -> pd.DataFrame:
    """Released predictions on all people, against each truth (benchmarks/released.py)."""
    table = evaluation.table(metrics_of("released")[dataset]).drop(columns=["persons", "left_out"])
    return table.map(lambda value: f"{value:.2f}" if isinstance(value, float) else value).replace(
        "nan", "–"
    )


def conventions_table() -> pd.DataFrame:
    """Released predictions under each convention of published numbers (benchmarks/released.py)."""
    return pd.DataFrame(metrics_of("released")["conventions"]).astype(float)


def cascades_on_lsp() -> list[str]:
    """The rows of results/ with a detector, and a regressor that reads heatmaps and image, scored
    on LSP's test people.
    """
    rows = []
    for path in sorted(RESULTS.rglob("metrics.json")):
        name = str(path.parent.relative_to(RESULTS))
        found = metrics_of(name)
        if found.get("dataset") == "lsp" and "cascade over detector" in found:
            network = artifacts.manifest(path.parent, "network")["network"]
            if network["first"] == "detection" and network["stacked"] == "both":
                rows.append(name)
    return rows


def gain_table(names: Iterable[str] | None = None) -> pd.DataFrame:
    """The lead of results/NAME's second network over its first, paired over people, in points.

    names: if None, the released cascade, all others on LSP, then those on other data sets.
    """
    if names is None:
        names = dict.fromkeys([RELEASED, *cascades_on_lsp(), "leeds-mpii", "synthetic-val"])
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


def study_metrics(study: str) -> list[dict]:
    """The metrics of the rows that are in results/STUDY."""
    return [metrics_of(name) for name in study_rows(study)]


def study_table(study: str) -> pd.DataFrame:
    """The rows of results/STUDY, the highest total on LSPET 8001-8500 first.

    "first network": read from its own maps, where a second one follows.  "last third": what the
    curve has gained in the last third of its epochs.  "last third, all": what the row has gained
    in it on all these people, paired.  "difference": from the row that it is compared with, paired.
    """
    rows = {}
    for found in study_metrics(study):
        score = of_last_network(found["scores"])
        lead = found.get("difference", {})
        rows[found["label"]] = {
            "minutes": found["curve"][-1]["minutes"],
            "LSPET 8001-8500": score["total"],
            "95 %": evaluation.format_interval(score["ci95"]),
            "first network": first_total(found["scores"]),
            "last third": last_third(found["curve"]),
            "last third, all": last_third_of_all(found),
            "difference": evaluation.format_difference(lead.get("total")),
        }
    return ranked(rows, "LSPET 8001-8500").dropna(axis="columns", how="all")


def parts_table(study: str) -> pd.DataFrame:
    """The rows of results/STUDY on visible and occluded joints; differences as in `study_table`.

    study: of people whose occlusion is labelled: LSP's test people, or synthetic ones.
    """
    rows = {}
    for found in study_metrics(study):
        score = of_last_network(found["scores"])
        lead = found.get("difference", {})
        columns = {"total": score["total"], "95 %": evaluation.format_interval(score["ci95"])}
        columns |= {"visible": score["visible"], "occluded": score["occluded"]}
        columns["first network"] = first_total(found["scores"])
        for part in ("total", "visible", "occluded"):
            columns[f"difference, {part}"] = evaluation.format_difference(lead.get(part))
        rows[found["label"]] = columns
    return ranked(rows, "total")


def claims_table(name: str) -> pd.DataFrame:
    """What the claims of claims.csv come to in results/NAME, as `claims.table`."""
    return claims.table(metrics_of(name)["criterion"])


def last_third(curve: list[dict]) -> float:
    """What a curve has gained in the last third of its epochs, in points; NaN below six epochs."""
    if len(curve) < 6:
        return np.nan
    return curve[-1]["total"] - curve[-1 - len(curve) // 3]["total"]


def last_third_of_all(found: dict) -> str | None:
    """A study's row's gain in the last third of its epochs, with interval; None if not measured."""
    gain = found.get("last third")
    return evaluation.format_difference(gain["total"]) if gain else None


def ranked(rows: dict[str, dict], column: str) -> pd.DataFrame:
    """Rows as a table, the highest in a column first."""
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table.sort_values(column, ascending=False, kind="stable")


def of_last_network(found: dict) -> Any:
    """The score or the joints of the cascade, or of the detector if there is no cascade."""
    return found.get("cascade", found["detector"])


def first_total(found: dict) -> float:
    """The total of a cascade's first network, read from its own maps; NaN if it is alone."""
    return found["detector"]["total"] if "cascade" in found else np.nan


def study_curves(study: str) -> dict[str, list[dict]]:
    """{label: [{"minutes", "total"}, …]} of a study's rows, the best at its end first.

    Of the rows trained on as many threads as most of them: the minutes of others do not compare.
    """
    threads = {
        name: artifacts.manifest(RESULTS / name, "machine")["machine"].get("threads")
        for name in study_rows(study)
    }
    numbers = list(threads.values())
    usual = max(numbers, key=numbers.count, default=None)
    found = [metrics_of(name) for name, number in threads.items() if number == usual]
    found.sort(key=lambda row: -row["curve"][-1]["total"])
    return {row["label"]: row["curve"] for row in found}


def score_columns(found: dict) -> dict:
    """A score's columns for a table of a page."""
    columns = {name: found[name] for name in (*rivals.COLUMNS, "total")}
    return columns | {
        "95 %": evaluation.format_interval(found["ci95"]),
        "visible": found["visible"],
        "occluded": found["occluded"],
    }
