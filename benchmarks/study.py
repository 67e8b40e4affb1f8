"""Train the rows of a study and keep what each scores on the validation people.

python -m benchmarks.study RUN STUDY [ROW…]
python -m benchmarks.study RUN STUDY [ROW…] --test

RUN is a finished run of the three stages. A row changes one thing of it (studies.yaml). It is
trained into RUN/rows/STUDY-ROW and goes on if it was stopped. Its scores on RUN's validation
people are written to results/STUDY/ROW, and `make tables` makes tables of them. --test scores the
rows that are there on LSP's test people, once all choices are made, into results/STUDY-test/ROW.
"""

import io
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
import yaml

from benchmarks import commands
from hpe_lib import claims, evaluation, photographs, prediction, stages
from hpe_lib.ablation import read_test_time, train_row
from hpe_lib.cascade import Cascade
from hpe_lib.data.datasets import Data, load_people, open_data
from hpe_lib.data.people import People
from hpe_lib.photographs import PoseEstimator
from hpe_lib.workbook import artifacts, environment, measurements, results, scoring
from hpe_lib.workbook.artifacts import STAGES, BadInput

STUDIES = yaml.safe_load(Path(__file__).with_name("studies.yaml").read_text(encoding="utf-8"))
SAME_TOTAL = 0.01  # points: totals of the same joints and people differ by less
TWO_THIRDS = "two_thirds.npz"  # a row's joints of the validation people, before the last third


@dataclass
class Watcher:
    """A scorer for `stages.train` that remembers the network it has scored last."""

    scorer: stages.Scorer
    cascade: Cascade | None = None

    def __call__(self, cascade: Cascade) -> dict:
        """The scorer's numbers."""
        self.cascade = cascade
        return self.scorer(cascade)


def main(
    run: Path,
    study: str,
    names: Annotated[list[str] | None, typer.Argument()] = None,
    test: Annotated[bool, typer.Option(help="Score the rows on LSP's test people.")] = False,
) -> None:
    """Train and score a study's rows, all if none are named."""
    if study not in STUDIES:
        raise typer.BadParameter(f"{study}: expected one of {', '.join(STUDIES)}")
    if unknown := [name for name in names or [] if name not in STUDIES[study]]:
        raise typer.BadParameter(f"{unknown[0]}: expected {', '.join(STUDIES[study])}")
    if test:
        score_test_people(run, study, names or [])
    else:
        train_and_score(run, study, names or [])


def train_and_score(run: Path, study: str, names: list[str]) -> None:
    """Train and score rows, all of the study if none are named.

    So are those that they are compared with, unless another machine's RUN has trained them.
    """
    data = open_data(run)
    wanted = set(names or STUDIES[study])
    references = {reference_row(study, name) for name in wanted}
    wanted |= {name for name in references if not only_kept(run, data.val, study, name)}
    for name, row in STUDIES[study].items():
        if name not in wanted or "same_as" in row:
            continue
        print(f"{study}: {name}", flush=True)
        folder = train(run, data, study, name)
        score(data.val, folder, study, name)
    for name in STUDIES[study]:
        if name not in wanted and reference_row(study, name) in wanted:
            compare(data.val, study, name)
    judge(data.val, len(data.train), study)


def only_kept(run: Path, people: People, study: str, name: str) -> bool:
    """Does results/ have a row's joints of these people, and RUN nothing of the row?"""
    row = f"{study}/{name}"
    if (run / "rows" / row_folder(study, name)).exists() or not results.existing(row):
        return False
    return are_of(row, people)


def are_of(row: str, people: People) -> bool:
    """Are the joints in results/ROW of these people, as they are now?

    Evidence that does not say of whom it is must have the total that it has on these.
    """
    if told := artifacts.manifest(results.RESULTS / row).get("people"):
        return told == people.fingerprint()
    return scores_again(row, people)


def scores_again(row: str, people: People) -> bool:
    """Are the joints in results/ROW of these people, and is their total the one that is kept?"""
    if not np.array_equal(results.joints_of(row)["keys"], people.keys):
        return False
    total = results.of_last_network(results.metrics_of(row)["scores"])["total"]
    return abs(evaluation.score(last_joints(row), people)["total"] - total) < SAME_TOTAL


def reference_row(study: str, name: str) -> str:
    """The row that a row is compared with."""
    return STUDIES[study][name].get("against", next(iter(STUDIES[study])))


def score_test_people(run: Path, study: str, names: Collection[str]) -> None:
    """Score these rows of a study, or all that are trained, on LSP's 1,000 test people."""
    trained_on = len(open_data(run).train)
    root = Path(artifacts.manifest(run / "data", "parameters")["parameters"]["data_root"])
    people = load_people("lsp", root / "lsp", "test")
    for name in STUDIES[study]:
        weights = weights_folder(run, study, name)
        trained = weights.is_dir() and (results.RESULTS / study / name).is_dir()
        if name in names and not trained:
            raise BadInput(weights, "no such row", "one that is trained and scored: without --test")
        if trained and (not names or name in names):
            score(people, weights, study, name, "-test")
        elif reference_row(study, name) in names:
            compare(people, study, name, "-test")
    judge(people, trained_on, study, "-test")


def judge(people: People, trained_on: int, study: str, split: str = "") -> None:
    """Save the verdict on each claim of claims.csv for a study's rows of Table 5.

    trained_on: the number of people that the rows have learned from.  split: as in `score`.
    """
    rows = {name: row for name, row in STUDIES[study].items() if "row" in row}
    places = {name: evidence(study, name, split) for name in rows}
    kept = {
        name: place
        for name, place in places.items()
        if results.existing(place) and are_of(place, people)
    }
    for name, place in places.items():
        if name not in kept and results.existing(place):
            print(f"{place}: of other people than these, and not judged", flush=True)
    if not kept:
        return
    made = artifacts.manifest(results.RESULTS / next(iter(kept.values())))
    setting = claims.setting(people.dataset, trained_on, [made["settings"]["epochs"]])
    answers = {}
    for name, place in kept.items():
        seed = artifacts.manifest(results.RESULTS / place)["seed"]
        answers[rows[name]["row"], seed] = last_joints(place)
    if judged := claims.judge(answers, people, setting):
        results.write(f"{study}{split}-claims", {"criterion": judged}, environment.command())


def evidence(study: str, name: str, split: str) -> str:
    """Where in results/ a row's evidence is: its own, or another study's of the same training."""
    of_study, of_row = STUDIES[study][name].get("same_as", f"{study}/{name}").split("/")
    return f"{of_study}{split}/{of_row}"


def row_folder(study: str, name: str) -> str:
    """The name of a row's folder in RUN/rows: rows of two studies may have one name, and differ."""
    return f"{study}-{name}"


def stages_of(study: str, name: str) -> tuple[str, ...]:
    """The stages that are trained in a row."""
    return tuple(STUDIES[study][name].get("stages", stages.UPSTREAM))


def weights_folder(run: Path, study: str, name: str) -> Path:
    """Where the last stage of a row is."""
    return run / "rows" / row_folder(study, name) / STAGES[stages_of(study, name)[-1]]


def train(run: Path, data: Data, study: str, name: str) -> Path:
    """Train one row into RUN/rows/STUDY-NAME; returns the folder of its last stage.

    After two thirds of its epochs its joints of all validation people are kept, with flip test.
    """
    changes = STUDIES[study][name].get("changes", {})
    image_size = changes.get("image_size", data.image_size)
    watcher = Watcher(evaluation.monitor(data.val, image_size))
    folder = row_folder(study, name)
    trained = stages_of(study, name)
    weights = weights_folder(run, study, name)
    for record in train_row(run, folder, changes, trained, watcher):
        print(stages.record_line(record), flush=True)
        of_before = record.get("resumed") or record.get("reused")
        two_thirds = record["epoch"] * 3 == record["epochs"] * 2
        if record["stage"] == trained[-1] and two_thirds and not of_before:
            how = read_test_time(run)
            joints = prediction.predict(watcher.cascade, data.val, image_size, **how).joints
            keep_two_thirds(weights.parent, results.rounded(joints), data.val, record, how)
    return weights


def keep_two_thirds(row: Path, joints: np.ndarray, people: People, record: dict, how: dict) -> None:
    """Keep a row's joints (N, 16, 2) of people after the epoch of a record, and whose they are.

    how: they were read from the maps (`reading`).
    """
    content = io.BytesIO()
    of = [people.fingerprint(), str(reading(how)), *stages.told_by(record)]
    np.savez(content, joints=joints, of=np.array(of))
    artifacts.write_bytes(row / TWO_THIRDS, content.getvalue())


def joints_of_two_thirds(weights: Path, people: People) -> np.ndarray | None:
    """The joints that `keep_two_thirds` has kept.

    None unless they are of these people and this training, and were read as its last ones are.
    """
    path = weights.parent / TWO_THIRDS
    if not path.is_file():
        return None
    with np.load(path) as found:
        *read, epoch, elapsed, loss = found["of"].tolist()
        joints = found["joints"]
    of_training = [epoch, elapsed, loss] in map(stages.told_by, stages.history(weights))
    now = [people.fingerprint(), str(reading(artifacts.manifest(weights)["settings"]))]
    return joints if of_training and read == now else None


def score(people: People, weights: Path, study: str, name: str, split: str = "") -> None:
    """Keep a row's scores in results/STUDY/NAME, with its curve and its paired difference.

    So is what it gained in the last third of its epochs, if its joints were kept before.

    split: "-test" for test people, the suffix of the study's folder.
    """
    row = f"{study}{split}/{name}"
    kept = results.RESULTS / row
    if not scored(kept, weights, people):
        estimator = photographs.load(weights)
        predictions = prediction.predict(people=people, **estimator.settings)
        notes = scoring.training_notes(people, weights)
        results.keep_scores(kept, weights, predictions, people, environment.command(), notes)
    metrics = results.metrics_of(row)
    metrics |= {
        "label": STUDIES[study][name]["label"],
        "curve": curve(weights.parent, stages_of(study, name)),
    }
    if of_table := STUDIES[study][name].get("row"):
        metrics["row"] = of_table
    metrics.pop("difference", None)  # from a reference that may be another now
    if lead := difference(people, study, name, split):
        metrics["difference"] = lead
    files = {}
    before = None if split else joints_of_two_thirds(weights, people)
    if before is not None:
        gain = evaluation.paired([last_joints(row)], [before.astype(float)], people)
        metrics["last third"] = artifacts.plain(gain)
        content = io.BytesIO()
        np.save(content, before)
        files["two_thirds.npy"] = content.getvalue()
    if metrics == results.metrics_of(row):
        return
    files["metrics.json"] = artifacts.json_bytes(metrics)
    results.write_evidence(kept, files, artifacts.manifest(kept, "scored_by"))
    print(evaluation.table(metrics["scores"]).round(1).to_string(), flush=True)


def difference(people: People, study: str, name: str, split: str = "") -> dict | None:
    """A row's paired difference from its reference; None without one that is of these people."""
    row, other = (f"{study}{split}/{of}" for of in (name, reference_row(study, name)))
    if row == other or not results.existing(other) or not are_of(other, people):
        return None
    return artifacts.plain(evaluation.paired([last_joints(row)], [last_joints(other)], people))


def compare(people: People, study: str, name: str, split: str = "") -> None:
    """Take a kept row's difference anew, as its reference may be another now."""
    row = f"{study}{split}/{name}"
    if "same_as" in STUDIES[study][name] or not results.existing(row) or not are_of(row, people):
        return
    metrics = results.metrics_of(row)
    lead = difference(people, study, name, split)
    if lead and lead != metrics.get("difference"):
        content = {"metrics.json": artifacts.json_bytes({**metrics, "difference": lead})}
        kept = results.RESULTS / row
        results.write_evidence(kept, content, artifacts.manifest(kept, "scored_by"))


def curve(row: Path, trained: Collection[str] = tuple(stages.UPSTREAM)) -> list[dict]:
    """After every epoch of a row's trained stages: minutes so far, and the monitored score.

    Epochs that were scored on other people than now are left out.
    BadInput if a history is not the one that its training wrote.
    """
    points = []
    before = 0.0
    for stage in trained:
        folder = row / STAGES[stage]
        records = artifacts.read_history(folder)
        if records and artifacts.history_changed(folder, artifacts.manifest(folder)):
            raise BadInput(folder / artifacts.HISTORY, "a changed file", "as its training wrote it")
        for record in stages.history(folder):
            minutes = before + record["elapsed"] / 60
            scores = [value for key, value in record.items() if key.startswith("PCK")]
            points += [{"minutes": minutes, "total": total} for total in scores[:1]]
        if records:
            before += records[-1]["elapsed"] / 60
    return points


def scored(kept: Path, weights: Path, people: People) -> bool:
    """Are the scores of these weights on these people, read as now, kept already?"""
    if not (kept / artifacts.MANIFEST).is_file():
        return False
    needed = ("weights_sha256", "settings")
    before, now = (artifacts.manifest(path, *needed) for path in (kept, weights))
    same_people = before.get("people") == people.fingerprint()
    same_weights = before["weights_sha256"] == now["weights_sha256"]
    same_reading = reading(before["settings"]) == reading(now["settings"])
    return same_people and same_weights and same_reading


def reading(settings: dict) -> dict:
    """How maps are read: the decoder and the flip test of settings, the usual ones by default."""
    usual = {"decoder": PoseEstimator.decoder, "flip_test": PoseEstimator.flip_test}
    return {name: settings.get(name, usual[name]) for name in measurements.READ_BY}


def last_joints(name: str) -> np.ndarray:
    """The joints (N, 16, 2), image px, of the last network in results/NAME."""
    return results.of_last_network(results.joints_of(name))


if __name__ == "__main__":
    commands.run(main)
