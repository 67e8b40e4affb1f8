"""Small faults, put in on purpose: each turns the test beside it red (mutations.yaml)."""

import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml

from hpe_lib.paper import ROOT

MUTATIONS = yaml.safe_load((ROOT / "tests" / "mutations.yaml").read_text(encoding="utf-8"))
names = pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation["name"])
NOT_COPIED = (".git", ".venv", "runs", "__pycache__", ".pytest_cache", ".ruff_cache")


def test_there_are_enough_and_each_has_a_name():
    assert len({mutation["name"] for mutation in MUTATIONS}) == len(MUTATIONS) >= 60


@names
def test_the_place_and_the_test_are_still_there(mutation):
    assert (ROOT / "hpe_lib" / mutation["file"]).read_text().count(mutation["old"]) == 1
    file, test = mutation["test"].split("::")
    assert re.search(rf"^def {test}\(", (ROOT / "tests" / file).read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the checkout, to be broken."""
    folder = tmp_path_factory.mktemp("copy") / "checkout"
    return shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*NOT_COPIED))


@pytest.mark.slow  # 10 minutes for all on one core: make test ARGS='-m slow -k mutation'
@names
def test_a_mutation_turns_its_test_red(copy, mutation):
    place = copy / "hpe_lib" / mutation["file"]
    text = place.read_text()
    place.write_text(text.replace(mutation["old"], mutation["new"]))
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    try:
        ended = subprocess.run(
            [*command, copy / "tests" / mutation["test"]],
            cwd=copy,
            env=os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
        )
    finally:
        place.write_text(text)
    assert ended.returncode == 1, ended.stdout[-2000:]  # 1: tests failed; others: none ran
    assert " failed" in ended.stdout and "error" not in ended.stdout.splitlines()[-1]
