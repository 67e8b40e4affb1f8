"""The pages' sentences say what is in results/: every number that stands with its interval."""

import json
import re

import pytest

from benchmarks import compare, pages
from hpe_lib.data.datasets import load_people
from hpe_lib.paper import ROOT
from hpe_lib.workbook import artifacts, results

NUMBER = r"[+-]?\d+\.\d"
INTERVAL = re.compile(rf"\[({NUMBER}), ({NUMBER})\]")
IN_TABLE = re.compile(rf"({NUMBER}) {INTERVAL.pattern}")
ALONE = re.compile(rf"(?<![\w.]){NUMBER}(?![\w.])")
FAR = 60  # characters between a number and its interval: "1.2 points less on hidden joints [...]"
TEXTS = [
    *(path for page in pages.PAGES for path in sorted(ROOT.glob(page))),
    *sorted(ROOT.glob("notebooks/*.ipynb")),
    ROOT / "hpe_lib/reading.yaml",
]


def prose(path):
    """A page without its generated tables, or a notebook's text, on one line."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = " ".join("".join(cell["source"]) for cell in cells if cell["cell_type"] != "code")
    return " ".join(pages.BLOCK.sub("", text).split())


def cited(text):
    """(number, low, high) of each interval of a text; the nearest number before it."""
    for found in INTERVAL.finditer(text):
        before = text[max(0, found.start() - FAR) : found.start()]
        yield float(ALONE.findall(before)[-1]), float(found[1]), float(found[2])


def from_both_sides(number, low, high):
    """A lead, and the same as a deficit; -0.0 is 0.0."""
    return {(number + 0, low + 0, high + 0), (0 - number, 0 - high, 0 - low)}


def measured(value):
    """All numbers with an interval in the content of a metrics.json, to one decimal."""
    known = set()
    children = value
    if isinstance(value, dict):
        children = value.values()
        for name in ("difference", "total", "mean"):
            if value.get("ci95") and isinstance(value.get(name), float):
                rounded = (float(f"{x:.1f}") for x in (value[name], *value["ci95"]))
                known |= from_both_sides(*rounded)
    if isinstance(children, str) or not hasattr(children, "__iter__"):
        return known
    return known.union(*map(measured, children))


@pytest.fixture(scope="module")
def known():
    """What results/ and the tables made from it say."""
    found = set()
    for path in results.RESULTS.rglob("metrics.json"):
        found |= measured(artifacts.read_json(path))
    for path in TEXTS:
        for block in pages.BLOCK.finditer(path.read_text(encoding="utf-8")):
            for row in IN_TABLE.finditer(block[0]):
                found |= from_both_sides(*map(float, row.groups()))
    return found


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_every_interval_of_the_text_is_in_the_results(path, known):
    missing = []
    for number, low, high in cited(prose(path)):
        signs = (number, -number)  # a sentence may give the number without: "0.3 behind"
        if not any(known & from_both_sides(sign, low, high) for sign in signs):
            missing.append(f"{number} [{low}, {high}]")
    assert not missing


def test_kept_comparisons_are_those_that_are_listed():
    leads = results.metrics_of("comparisons")["leads"]
    assert {split: list(found) for split, found in leads.items()} == {
        split: list(wanted) for split, wanted in compare.COMPARISONS.items()
    }


def test_kept_comparisons_are_those_of_the_kept_joints(test_data):
    lsp = load_people("lsp", test_data / "lsp", "test", only_present=None)
    kept = results.metrics_of("comparisons")["leads"]["LSP"]
    for label in (
        "6 epochs: regressing twice at 0.003 over 0.009",
        "gain over the own detector: 36 epochs over 6, seed 0",
    ):
        found = artifacts.plain(compare.lead(compare.COMPARISONS["LSP"][label], lsp))
        assert found["occluded"]["ci95"] == pytest.approx(kept[label]["occluded"]["ci95"])


def test_joints_of_other_people_are_not_compared(test_data):
    val = load_people("leeds", test_data, "val", only_present=None)
    with pytest.raises(artifacts.BadInput, match="joints of other people"):
        compare.network_joints("race-test/cascade-0.003", val)
