"""The house's order, kept by reading the imports (not by importing)."""

import ast
import sys
from pathlib import Path

import pytest

import hpe_lib

FOLDER = Path(hpe_lib.__file__).parent
ROOMS = (
    "paper workbook.groups workbook.schemas workbook.environment workbook.artifacts workbook.locks "
    "workbook.measurements "
    "data.reading workbook.presets "
    "skeleton geometry heatmaps targets losses "
    "data.bodies data.scenes data.synthetic data.annotations data.images data.people "
    "data.mpii data.lsp data.drawn "
    "data.datasets data.augment data.download data.check "
    "trunks detector regressor rivals cascade "
    "refusals training watched stages ablation prediction export view.drawing photographs readings "
    "plausibility evaluation "
    "probes claims workbook.estimate workbook.scoring workbook.results workbook.table_5 "
    "view.figures view.diagram view.pictures view.sheets view.widgets "
    "workbook.report workbook.reproduce workbook.repeat cli"
).split()
DATA = ROOMS[ROOMS.index("skeleton") : ROOMS.index("trunks")]
NETWORKS = ROOMS[ROOMS.index("trunks") : ROOMS.index("training")]
CORE = set(ROOMS) - {
    "data.download",
    "view.widgets",
    "workbook.report",
    "workbook.reproduce",
    "workbook.repeat",
    "cli",
}
PACKAGES = {room.split(".")[0] for room in ROOMS if "." in room}
CORE_PACKAGES = set(
    "torch torchvision timm numpy scipy h5py pandas matplotlib PIL cv2 yaml tqdm safetensors "
    "accelerate pydantic simplejpeg".split()
)
HERE = sorted(
    ".".join(path.relative_to(FOLDER).with_suffix("").parts)
    for path in FOLDER.rglob("*.py")
    if not path.stem.startswith("__") and "notebooks" not in path.parts
)


def imported(tree):
    """(rooms of this package, other packages) that a module imports, inside functions too."""
    rooms = set()
    packages = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level and node.names[0].name != "*", (
                f"line {node.lineno}: neither relative nor star"
            )
            rooms_named = node.module in {"hpe_lib", *(f"hpe_lib.{name}" for name in PACKAGES)}
            names = [node.module]
            if rooms_named:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        rooms |= {room(name) for name in names if name.startswith("hpe_lib.")}
        packages |= {name.split(".")[0] for name in names} - {"hpe_lib"} - sys.stdlib_module_names
    return rooms, packages


def room(name):
    """The room of a dotted name: hpe_lib.data.people.People is in data.people."""
    parts = name.split(".")[1:]
    return ".".join(parts[:2] if parts[0] in PACKAGES else parts[:1])


def parsed(room):
    path = FOLDER.joinpath(*room.split(".")).with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))


def test_the_test_sees_imports_of_every_form():
    text = (
        "import hpe_lib.a\nfrom hpe_lib import b, c\nfrom hpe_lib.d import x\n"
        "from hpe_lib.data import e\nfrom hpe_lib.data.f import x\n"
        "def f():\n    import numpy.a, os\n"
    )
    rooms = {"a", "b", "c", "d", "data.e", "data.f"}
    assert imported(ast.parse(text)) == (rooms, {"numpy"})


def test_every_room_is_in_the_list():
    assert set(HERE) <= set(ROOMS)


@pytest.mark.parametrize("room", HERE)
def test_imports_point_one_way(room):
    rooms, packages = imported(parsed(room))
    assert not [other for other in rooms if ROOMS.index(other) >= ROOMS.index(room)]
    if room in DATA:
        assert not rooms & set(NETWORKS)
    if room in NETWORKS:
        assert not rooms & set(DATA)
    if room in CORE:
        assert packages <= CORE_PACKAGES


@pytest.mark.parametrize("room", HERE)
def test_no_function_is_longer_than_50_lines(room):
    for node in ast.walk(parsed(room)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            documentation = (ast.get_docstring(node) or "").count("\n") + 1
            lines = node.end_lineno - node.lineno + 1 - documentation
            assert lines <= 50, f"{room}.{node.name}"


def test_only_drawings_and_figures_import_matplotlib():
    others = set(HERE) - {"view.drawing", "view.figures", "view.diagram"}
    assert not [room for room in others if "matplotlib" in imported(parsed(room))[1]]
