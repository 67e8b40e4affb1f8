"""Claims about the rows of an ablation, and the verdict on each over seeds.

claims.csv lists them. Numbered claims are the criterion of notebook 06; the others are extra. A
claim says that the row "better" leads the row "worse" on some joints. If the columns "more_than"
and "over" are filled, it must lead by more than "more_than" leads "over".
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from hpe_lib.data.people import People
from hpe_lib.evaluation import format_difference, paired

PARTS = ("total", "visible", "occluded")


def criterion() -> pd.DataFrame:
    """Return the claims: index claim; columns better, worse, joints, more_than, over."""
    file = Path(__file__).with_name("claims.csv")
    return pd.read_csv(file, dtype=str, keep_default_na=False, index_col="claim")


def setting(dataset: str, people: int, epochs: Iterable[int]) -> str:
    """Data and budget for a verdict: "synthetic, 1+1+1 epochs of 8,000".

    people: how many there were to learn from.  epochs: of each stage.
    """
    return f"{dataset}, {'+'.join(map(str, epochs))} epochs of {people:,}"


def judge(answers: dict[tuple[str, int], np.ndarray], people: People, setting: str) -> dict:
    """Return what each claim comes to: {claim: {verdict, joints, difference, signs, seeds}}.

    answers: (row, seed) -> joints (N, 16, 2) image px.  setting: data and budget, for the verdicts.
    difference: the mean over seeds, in points, of the joints that the claim is about.  signs: how
    many seeds have it above 0.  seeds: by seed, the `paired` differences.  A claim holds, or fails,
    if the interval of every seed does. Claims on rows that no seed has are left out.
    """
    judged = {}
    for claim in criterion().itertuples():
        plus = (claim.better, claim.over)
        minus = (claim.worse, claim.more_than)
        found = {}
        for seed in dict.fromkeys(seed for _, seed in answers):
            sides = [[answers.get((name, seed)) for name in side if name] for side in (plus, minus)]
            if all(joints is not None for side in sides for joints in side):
                found[seed] = paired(*sides, people)
        if found:
            judged[claim.Index] = _summary(claim.joints, found, setting)
    return judged


def merge(*judgements: dict) -> dict:
    """Judge each claim anew on the seeds of several judgements of one setting together."""
    merged = {}
    for judged in judgements:
        for claim, found in judged.items():
            _, _, setting = found["verdict"].partition(": ")
            setting, _, _ = setting.rpartition(", ")
            seeds = merged.get(claim, {"seeds": {}})["seeds"] | found["seeds"]
            merged[claim] = _summary(found["joints"], seeds, setting)
    return merged


def count_verdicts(judged: dict) -> str:
    """How many claims of the criterion (the numbered ones) hold, fail and are undecided."""
    verdicts = [found["verdict"] for name, found in judged.items() if name[1] == " "]
    if not verdicts:
        return "no claim can be judged from these rows"
    words = Counter(verdict.partition(":")[0].rstrip("s") for verdict in verdicts)
    counted = ", ".join(f"{count} {word}" for word, count in words.most_common())
    return f"{len(verdicts)} claims: {counted}"


def _summary(joints, found, setting):
    """A claim's entry, of its `paired` differences by seed."""
    found = {seed: found[seed] for seed in sorted(found, key=int)}
    leads = [differences[joints] for differences in found.values()]
    words = {verdict(lead) for lead in leads}
    word = words.pop() if len(words) == 1 else "undecided"
    record = {"joints": joints, "difference": None, "signs": None}
    if all(leads):
        points = np.array([lead["difference"] for lead in leads])
        record |= {"difference": float(points.mean()), "signs": int((points > 0).sum())}
    count = "1 seed" if len(leads) == 1 else f"{len(leads)} seeds"
    seeds = {str(seed): differences for seed, differences in found.items()}
    return {"verdict": f"{word}: {setting}, {count}", **record, "seeds": seeds}


def verdict(found: dict | None) -> str:
    """A `paired` difference in words: does it hold, with its whole interval above 0?

    An interval without width, of a person or a few who are all alike, decides nothing.
    """
    if found is None:
        return "not measurable"
    low, high = found["ci95"]
    if low == high:
        return "undecided"
    return "holds" if low > 0 else "fails" if high < 0 else "undecided"


def in_brief(judged: dict) -> dict[str, str]:
    """Return by claim the verdict's word and each seed's lead, in points: "holds: +9.5, +9.6"."""
    texts = {}
    for claim, found in judged.items():
        leads = [differences[found["joints"]] for differences in found["seeds"].values()]
        points = ", ".join(f"{lead['difference']:+.1f}" for lead in leads if lead)
        word, _, _ = found["verdict"].partition(":")
        texts[claim] = f"{word}: {points}" if points else word
    return texts


def table(judged: dict) -> pd.DataFrame:
    """Return a row a claim: verdict, mean difference, seeds with its sign, each seed's interval.

    The intervals are of the claim's own joints; visible and occluded ones stand beside them.
    """
    rows = {}
    for claim, found in judged.items():
        row = rows[claim] = {"verdict": found["verdict"]}
        if found["difference"] is not None:
            row["mean"] = f"{found['difference']:+.1f}"
            row["above 0"] = f"{found['signs']} of {len(found['seeds'])}"
        for seed, differences in found["seeds"].items():
            row[f"seed {seed}"] = format_difference(differences[found["joints"]])
            for part in PARTS[1:]:
                row[f"seed {seed}, {part}"] = format_difference(differences[part])
    return pd.DataFrame.from_dict(rows, orient="index").fillna("–")
