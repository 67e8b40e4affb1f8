"""Table 5 from results/: its rows on real and on synthetic people, the verdicts on its claims, and
by how much detection+regression leads at which budget.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from hpe_lib import claims, rivals
from hpe_lib.workbook import artifacts, results

# Studies with rows of Table 5 on LSP's test people: epochs of 3,000 people
ON_LSP = {"race": 6, "seeds": 6, "table-5": 18, "table-5-36": 36, "table-5-72": 72}
STUDIES = ("table-5", "table-5-36", "table-5-72")  # those with rows beside the paper's
OWN_RATES = "table-5-36-own"  # the rows of table-5-36, each at its better rate
CONTROL = "detection only for all steps"  # of table-5: 36 epochs


def beside_the_paper() -> pd.DataFrame:
    """Table 5's rows: the paper's totals on MPII beside ours on synthetic people and on LSP's.

    A cell of ours has the total of each seed. Visible, occluded and minutes are of 18 epochs, means
    over seeds; minutes of one thread. "last third": what the longest training has gained in the
    last third of its epochs on the validation people, in points, paired.
    """
    columns = {"drawn-medium": "synthetic, 3 epochs"}
    columns |= {f"{study}-test": f"LSP, {ON_LSP[study]} epochs" for study in STUDIES}
    found = {}
    for study, column in columns.items():
        for name, row, seed in trained_rows(study):
            score = results.of_last_network(results.metrics_of(name)["scores"])
            places = {row: column}
            if study == "table-5-test" and row == CONTROL:
                places["detection only (Res)"] = columns["table-5-36-test"]
            for of_row, place in places.items():
                entry = {"row": of_row, "column": place, "seed": seed}
                entry |= {part: score[part] for part in claims.PARTS}
                found[of_row, place, seed] = entry | {"minutes": minutes_alone(name)}
    scores = pd.DataFrame(found.values()).sort_values("seed", kind="stable")
    first = scores[scores["column"] == f"LSP, {ON_LSP[STUDIES[0]]} epochs"]
    scores["total"] = scores["total"].map("{:.1f}".format)
    cells = scores.groupby(["row", "column"], sort=False)["total"].agg(", ".join)
    table = cells.unstack().reindex(scores["row"].unique(), columns=columns.values())
    table.insert(0, "paper, MPII", rivals.published(5)["total"].reindex(table.index))
    table["last third"] = [last_third_of_longest(row) for row in table.index]
    means = first.groupby("row")[["visible", "occluded", "minutes"]].mean()
    return table.join(means).rename_axis(index=None, columns=None)


def trained_rows(study: str) -> Iterator[tuple[str, str, int]]:
    """The rows of Table 5 that results/ has of a study: name in results/, row, seed."""
    for name in results.study_rows(study):
        if row := results.metrics_of(name).get("row"):
            yield name, row, artifacts.manifest(results.RESULTS / name, "seed")["seed"]


def minutes_alone(name: str) -> float:
    """The minutes that the training of results/NAME took on one thread; NaN if it had more."""
    threads = artifacts.manifest(results.RESULTS / name).get("machine", {}).get("threads", 1)
    return results.metrics_of(name)["curve"][-1]["minutes"] if threads == 1 else np.nan


def last_third_of_longest(row: str) -> str | None:
    """What the longest trainings of a row of Table 5, one a seed, have gained in the last third of
    their epochs; None if it was never measured.
    """
    gains = {}
    for study in STUDIES:
        for name, found, _ in trained_rows(study):
            gain = results.last_third_of_all(results.metrics_of(name))
            if found == row and gain:
                gains.setdefault(ON_LSP[study], []).append(gain)
    if not gains:
        return None
    epochs = max(gains)
    return f"{epochs} epochs: {', '.join(gains[epochs])}"


def judged_on_lsp() -> dict[int, dict]:
    """By epochs, what Table 5's claims come to on LSP's test people: `claims.judge`, of all seeds.

    Empty where nothing was judged.
    """
    judged = {}
    for study, epochs in ON_LSP.items():
        for name in results.existing(f"{study}-test-claims"):
            judged[epochs] = claims.merge(
                judged.get(epochs, {}), results.metrics_of(name)["criterion"]
            )
    return judged


def claims_on_lsp() -> pd.DataFrame:
    """The verdicts on Table 5's claims on LSP's test people, the shortest trainings first, with
    each seed's interval. Empty where nothing was judged.
    """
    tables = map(claims.table, judged_on_lsp().values())
    table = pd.concat([pd.DataFrame(), *tables]).fillna("–")
    return table[[name for name in table if not name.endswith(claims.PARTS[1:])]]


def verdicts() -> pd.DataFrame:
    """The verdict on each claim about Table 5's rows and each seed's lead, in points, by people and
    epochs: LSP's test people, last each row at its better rate; then synthetic ones, last those of
    the default run.
    """
    judged = {f"LSP, {epochs} epochs": found for epochs, found in judged_on_lsp().items()}
    for name in results.existing(f"{OWN_RATES}-test-claims"):
        judged["LSP, 36 epochs, own rates"] = results.metrics_of(name)["criterion"]
    for difficulty in ("easy", "medium", "hard"):
        for name in results.existing(f"drawn-{difficulty}-claims"):
            judged[f"{difficulty}, 3 epochs"] = results.metrics_of(name)["criterion"]
    for name in results.existing("default-run-amd"):
        judged["medium, 1+1+1 epochs"] = results.metrics_of(name)["criterion"]
    table = pd.DataFrame({setting: claims.in_brief(found) for setting, found in judged.items()})
    of_rows = [claim for claim in claims.criterion().index if not claim.startswith("03 to 05")]
    return table.reindex(of_rows).dropna(how="all").fillna("–")


def drawn_leads() -> pd.DataFrame:
    """By how much detection+regression leads on synthetic people (studies drawn-…).

    A row for every difficulty, budget ("epochs"), other row ("over"), seed and kind of joints:
    lead, low and high of its 95 % interval, in points. Empty where the studies have not been run.
    """
    names = {"iterative": "regression+regression", "detection": "detection only"}
    leads = []
    for path in sorted(results.RESULTS.glob("drawn-*/*/metrics.json")):
        row, epochs, *seed = path.parent.name.split("-")  # ROW-EPOCHS or ROW-EPOCHS-seed-SEED
        if row not in names:
            continue
        place = {
            "difficulty": path.parts[-3].removeprefix("drawn-"),
            "epochs": int(epochs),
            "over": names[row],
            "seed": int(seed[-1]) if seed else 0,
        }
        difference = results.metrics_of("/".join(path.parts[-3:-1]))["difference"]
        leads += [place | lead for lead in leads_of(difference, -1)]
    return pd.DataFrame(leads)


def totals_on_lsp() -> pd.DataFrame:
    """What Table 5's rows score on LSP's test people: row, epochs, seed, total, low and high, %.

    low and high: the ends of the 95 % interval over people. Empty where the studies have not been
    run. Detection only for all steps is detection only, of as many epochs.
    """
    rows = {}
    for study in ON_LSP:
        for name, full_name, seed in trained_rows(f"{study}-test"):
            row = full_name.removesuffix(" (Res)").removesuffix(" for all steps")
            settings = artifacts.manifest(results.RESULTS / name, "settings")["settings"]
            score = results.of_last_network(results.metrics_of(name)["scores"])
            place = (row, settings["epochs"], seed)
            rows.setdefault(place, (score["total"], *score["ci95"]))
    columns = ["row", "epochs", "seed", "total", "low", "high"]
    return pd.DataFrame([place + score for place, score in rows.items()], columns=columns)


def leeds_leads() -> pd.DataFrame:
    """By how much detection+regression leads on LSP's test people, at each budget and seed.

    Columns as `drawn_leads`; "difficulty" is "real people". Empty where nothing was judged.
    """
    rows = {
        "1 det+reg > reg+reg": "regression+regression",
        "4 det+reg > det only": "detection only",
    }
    leads = []
    for epochs, judged in judged_on_lsp().items():
        for claim, over in rows.items():
            place = {"difficulty": "real people", "epochs": epochs, "over": over}
            for seed, differences in judged.get(claim, {"seeds": {}})["seeds"].items():
                place["seed"] = int(seed)
                leads += [place | lead for lead in leads_of(differences, 1)]
    return pd.DataFrame(leads)


def gains_by_epochs() -> pd.DataFrame:
    """What detection+regression's second network adds to its own detector on LSP's test people, in
    points, at each budget and seed; columns as `results.gain_table`.
    """
    names = cascades_by_epochs()
    return results.gain_table(names.values()).set_axis([*names])


def cascades_by_epochs() -> dict[str, str]:
    """Detection+regression on LSP's test people: {"36 epochs, seed 0": name in results/, …}."""
    names = {}
    for study, epochs in ON_LSP.items():
        for name, row, seed in trained_rows(f"{study}-test"):
            if row == "detection+regression (Res)":
                names[f"{epochs} epochs, seed {seed}"] = name
    return names


def leads_of(differences: dict, sign: int) -> list[dict]:
    """Leads on visible and occluded joints: `paired` differences, or their opposite (sign -1)."""
    leads = []
    for joints in ("visible", "occluded"):
        low, high = sorted(sign * end for end in differences[joints]["ci95"])
        lead = sign * differences[joints]["difference"]
        leads.append({"joints": joints, "lead": lead, "low": low, "high": high})
    return leads
