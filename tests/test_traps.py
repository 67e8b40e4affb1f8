"""Traps that made other people's numbers wrong, where no other file of these tests holds them.

docs/trust.md lists all of them, each with its tests; the last test here reads that list.
"""

import ast
import importlib
import json
import pkgutil
import re
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

import h5py
import nbformat
import numpy as np
import pytest
import scipy.io
import torch
import torchvision
import yaml
from packaging.requirements import Requirement
from safetensors.torch import load_file

import hpe_lib
from hpe_lib import cli, evaluation, heatmaps, rivals, stages
from hpe_lib.cascade import Maps
from hpe_lib.data.augment import PoseDataset
from hpe_lib.data.datasets import load_people, prepare
from hpe_lib.skeleton import LSP_NAMES, MPII
from hpe_lib.targets import write_targets
from hpe_lib.workbook import presets

ROOT = Path(__file__).resolve().parent.parent


def called(*arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    return ended.value.code


def scored(capsys, dataset, truth, predictions):
    """What `hpe score … --json` says."""
    code = called("score", dataset, "--truth", truth, "--predictions", predictions, "--json")
    told = capsys.readouterr()
    assert (code, told.err) == (0, "")
    return json.loads(told.out)


# ---- the metric


def test_a_missing_truth_counts_at_no_threshold(tmp_path, capsys):
    """Of three people one has no joint, one half of them; what is predicted there says nothing."""
    joints = np.random.default_rng(0).uniform(50, 99, (16, 2, 3))
    missing = np.zeros((16, 3))
    missing[:, 1] = 1
    missing[::2, 2] = 1
    boxes = np.broadcast_to(np.array([[10, 20], [90, 80]])[..., None], (2, 2, 3))
    names = {"pos_gt_src": joints, "jnt_missing": missing, "headboxes_src": boxes}
    scipy.io.savemat(tmp_path / "truth.mat", names)
    for right, wanted in ((missing == 0, 100), (missing == 1, 0)):
        predicted = np.where(right[:, None], joints, 9e3)
        scipy.io.savemat(tmp_path / "p.mat", {"p": predicted})
        found = scored(capsys, "mpii", tmp_path / "truth.mat", tmp_path / "p.mat")
        assert found["joints"] == 14 + 7
        groups = [found[name] for name in MPII.groups if found[name] is not None]
        assert {found["total"], found["auc"], found["at_0.1"], *groups} == {wanted}
        assert found["ci95"] == [wanted, wanted]


@pytest.mark.parametrize("kind", ["json", "h5"])
@pytest.mark.parametrize("unknown", [-1, 0])
def test_a_head_size_that_marks_the_unknown_makes_nobody_right(tmp_path, capsys, kind, unknown):
    """-1 stands for it in MPII's copies; every error divided by it would be below the threshold."""
    joints = np.random.default_rng(0).uniform(50, 99, (3, 16, 2))
    sizes = [2.0, unknown, 2.0]
    path = tmp_path / f"truth.{kind}"
    if kind == "json":
        person = {"image": "x.jpg", "center": [1, 2], "joints_vis": [1] * 16}
        people = [person | {"joints": j.tolist(), "scale": s} for j, s in zip(joints, sizes)]
        path.write_text(json.dumps(people))
    else:
        with h5py.File(path, "w") as file:
            file["imgname"] = np.array(["x.jpg"] * 3, "S")
            file["person"] = np.arange(3.0)
            file["part"] = joints
            file["visible"] = np.ones((3, 16))
            file["center"] = joints[:, 0]
            file["scale"] = file["normalize"] = np.array(sizes)
    joints[1] += 1e6
    joints[0, 0] += 1e6
    scipy.io.savemat(tmp_path / "p.mat", {"p": joints})
    found = scored(capsys, "mpii", path, tmp_path / "p.mat")
    assert found["total"] == pytest.approx(100 * 27 / 28)
    assert (found["persons"], found["left_out"]) == (2, 1) and "first person 2" in found["notes"][0]


def test_lsp_is_measured_by_left_shoulder_to_right_hip(tmp_path, capsys):
    """100 px; the other diagonal 206, the hips 50, the box 1,000: 20 px off is right, 21 not."""
    joints = np.zeros((4, 14, 3))
    at = {"right_hip": (0, 100), "right_shoulder": (0, 300), "left_hip": (50, 100)}
    at |= {"left_shoulder": (0, 0), "head_top": (0, -500), "right_ankle": (0, 500)}
    for name, place in at.items():
        joints[:, LSP_NAMES.index(name), :2] = place
    joints[..., :2] += 700
    scipy.io.savemat(tmp_path / "joints.mat", {"joints": joints.transpose(2, 1, 0)})
    predicted = joints[..., :2] + np.array([20, 21, 20, 21])[:, None, None] * [1, 0]
    scipy.io.savemat(tmp_path / "p.mat", {"p": predicted})
    found = scored(capsys, "lsp", tmp_path / "joints.mat", tmp_path / "p.mat")
    assert (found["metric"], found["total"], found["joints"]) == ("PCK@0.2", 50, 56)
    assert found["box_normalised"] == 100


class Answering(torch.nn.Module):
    """A cascade that answers these maps (N, 16, h, w), whatever it sees."""

    map_stride = 2
    first = "detection"

    def __init__(self, maps):
        super().__init__()
        self.register_buffer("mean", torch.zeros(1))
        self.maps = maps

    def forward(self, images):
        return Maps(self.maps, self.maps)


def test_what_a_training_calls_pckh_is_pckh():
    """All 14 joints, in px of the image, by the head size; not the maps' cells, nor some joints."""
    size = 64
    people = load_people("synthetic", people="1-40", image_size=64)
    crops = [frame.to_crop(joints) for frame, joints in zip(people.frames(size), people.joints)]
    inside = ((np.array(crops) > 10) & (np.array(crops) < 54)).all((1, 2))
    people = people[inside]
    hips = [MPII.index("left_hip"), MPII.index("right_hip")]

    def told(moved):
        answer = people.joints + moved
        points = [frame.to_crop(joints) for frame, joints in zip(people.frames(size), answer)]
        points = heatmaps.to_map(torch.tensor(np.array(points), dtype=torch.float32), 2)
        there = torch.ones(points.shape[:2], dtype=torch.bool)
        maps = heatmaps.gaussians(points, there, size // 2, torch.full((len(points),), 1.2))
        return evaluation.monitor(people, size)(Answering(maps))["PCKh@0.5"]

    head = people.normaliser[:, None, None] * np.array([1, 0])
    only_hips = np.isin(np.arange(16), hips)[None, :, None]
    assert len(people) > 3 and told(0.45 * head) == 100 and told(0.55 * head) == 0
    assert told(0.8 * head * only_hips) == pytest.approx(100 * 12 / 14)
    assert told(0.8 * head * np.isin(np.arange(16), [6, 7])[None, :, None]) == 100


# ---- tables


def tables(page):
    """The tables of a Markdown page: [{row name: {column: text}}]."""
    blocks = re.findall(r"(?:^\|.*\n)+", page.read_text(encoding="utf-8"), re.MULTILINE)
    for block in blocks:
        lines = [line.strip("|").split("|") for line in block.splitlines()]
        header, _, *rows = [[cell.strip() for cell in line] for line in lines]
        yield {row[0]: dict(zip(header[1:], row[1:])) for row in rows}


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def totals(*numbers):
    """{(row, total)} that the paper prints in these tables."""
    found = [rivals.published(number)["total"] for number in numbers]
    return {(name, f"{total:.1f}") for table in found for name, total in table.items()}


def test_printed_rows_stand_beside_rows_of_the_same_people_only():
    """MPII's test people are never in a table with others: the printed ones here are LSP's."""
    seen = 0
    for table in [table for page in PAGES for table in tables(page)]:
        pairs = {(name, row.get("total")) for name, row in table.items()}
        assert not pairs & totals(5, 6)
        printed = {name for name, row in table.items() if row.get("source") == "printed"}
        assert {pair for pair in pairs if pair[0] in printed} == pairs & totals(7)
        if not printed:
            continue
        seen += 1
        for name, row in table.items():
            assert name in printed or (row["source"] == "scored here" and "–" in row["95 %"][1:])
            for kept in re.findall(r"\(`(.+)`\)", name):
                with np.load(ROOT / "results" / kept / "predictions.npz") as found:
                    assert found["keys"].tolist() == [f"im{n:04d}.jpg" for n in range(1001, 2001)]
    assert seen >= 2 and len(totals(7)) == 11


# ---- data


def leeds(root, crossed):
    """Labels of LSP and LSPET, made: right limbs lie left of left ones in this share of LSP."""
    random = np.random.default_rng(0)
    lsp = random.uniform(5, 99, (3, 14, 2000))
    lspet = random.uniform(5, 99, (14, 3, 8500))
    right = np.array([name.startswith("right_") for name in LSP_NAMES])
    left = np.array([name.startswith("left_") for name in LSP_NAMES])
    facing = np.where(np.arange(2000) % 100 < 100 * crossed, 1, -1)
    lsp[0, right] = 50 - 9 * facing
    lsp[0, left] = 50 + 9 * facing
    lsp[2] = 0
    lspet[:, 2] = 1
    for name, joints in (("lsp", lsp), ("lspet", lspet)):
        (root / name).mkdir()
        scipy.io.savemat(root / name / "joints.mat", {"joints": joints})
    return root


@pytest.mark.parametrize(
    "crossed, said", [(0.87, "observer-centric labels"), (0.63, "images absent")]
)
def test_nobody_learns_from_the_viewer_s_left(tmp_path, capsys, crossed, said):
    """LSPET's left is the person's own; LSP has labels of both kinds."""
    data = f"data_root={leeds(tmp_path, crossed)}"
    out = tmp_path / "run"
    assert called("train", "detector", "--preset", "leeds", "-p", data, "--out", out) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1 and not (out / "detector").exists()


def test_lspet_s_frame_is_about_its_annotated_joints(tmp_path):
    """Not about the image, which is often much larger, nor about what unannotated joints say."""
    joints = np.random.default_rng(0).uniform(300, 400, (14, 3, 3))
    joints[:, 2] = 1
    joints[3, :, 1] = (-900, -700, 0)
    joints[5, :, 2] = (0, 0, 0)
    joints[0, :2, :] = [[300], [310]]
    joints[1, :2, :] = [[400], [390]]
    scipy.io.savemat(tmp_path / "joints.mat", {"joints": joints})
    people = load_people("lspet", tmp_path, "1-3", only_present=None)
    annotated = [joints[joints[:, 2, n] == 1, :2, n] for n in range(3)]
    middle = [(one.min(0) + one.max(0)) / 2 for one in annotated]
    assert np.allclose(people.center, middle) and people.center.min() > 300


# ---- training


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A detector of ten people in steps of four: (folder, records, weights after each epoch)."""
    out = tmp_path_factory.mktemp("short") / "run"
    weights = []
    scores = [90.0, 10.0, 20.0]
    given = ["01.train=1-10", "01.val=21-22", "image_size=32", "epochs=3", "batch_size=4"]
    chosen = presets.resolve("smoke", [*given, "lr=0.003"])
    prepare(out, **chosen["01"])
    write_targets(out, **chosen["02"])

    def scorer(model):
        weights.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"PCKh@0.5": scores[len(weights) - 1]}

    records = list(stages.train("detector", out, chosen["03"], scorer))
    return out / "detector", records, weights


def test_the_weights_kept_are_the_last_epoch_s(short):
    """Not those of the best score: it is of the people who are reported."""
    folder, records, weights = short
    kept = load_file(folder / "weights.safetensors")
    assert [record["PCKh@0.5"] for record in records] == [90, 10, 20]
    assert all(torch.equal(kept[name], value) for name, value in weights[-1].items())
    assert all(any((kept[n] != v).any() for n, v in early.items()) for early in weights[:2])
    lines = (folder / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]
    assert {name for name in json.loads(lines[0]) if name.startswith("PCK")} == {"PCKh@0.5"}


def test_the_manifest_says_how_many_people_a_step_had(short):
    manifest = json.loads((short[0] / "manifest.json").read_text())
    settings = manifest["settings"]
    assert (settings["batch_size"], settings["lr"], manifest["processes"]) == (4, 0.003, 1)
    assert manifest["steps"] == 3 * 2  # ten people are two batches of four


# ---- the software it stands on


def sources():
    """{where: syntax tree} of the library's files, the benchmarks' and the notebooks."""
    files = [*(ROOT / "hpe_lib").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    found = {str(path): path.read_text("utf-8") for path in files}
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = nbformat.read(path, 4).cells
        found[str(path)] = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    return {where: ast.parse(text) for where, text in found.items()}


def module(name):
    """A module, None if it is not installed."""
    if name.partition(".")[0] in ("onnx", "onnxruntime"):
        return None
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def member(inside, name):
    """What a module has under this name; LookupError if there is no such thing."""
    if not hasattr(inside, name) and module(f"{inside.__name__}.{name}") is None:
        raise LookupError(f"{inside.__name__}.{name}")
    return getattr(inside, name)


def followed(node, known):
    """What a dotted name stands for, as far as modules go; None if it is not from one."""
    if isinstance(node, ast.Name):
        return known.get(node.id)
    inside = followed(node.value, known) if isinstance(node, ast.Attribute) else None
    return member(inside, node.attr) if isinstance(inside, ModuleType) else None


def test_every_name_taken_from_a_package_is_still_there():
    """np.float, a function that has moved and their like: found here, not where nobody comes by."""
    checked = 0
    for tree in sources().values():
        known = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = [(a.asname or a.name.partition(".")[0], a) for a in node.names]
                known |= {own: module(a.name if a.asname else own) for own, a in names}
            elif isinstance(node, ast.ImportFrom) and (inside := module(node.module)):
                known |= {a.asname or a.name: member(inside, a.name) for a in node.names}
        for node in ast.walk(tree):
            checked += followed(node, known) is not None
    assert checked > 1000


def test_torch_and_torchvision_are_a_pair(monkeypatch):
    """Both from pip; and the first cell that runs ends a run whose pair does not match."""
    needed = [Requirement(text) for text in metadata.requires("torchvision")]
    (torch_needed,) = [one for one in needed if one.name == "torch"]
    assert torch_needed.specifier.contains(metadata.version("torch"))
    from_conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert not [name for name in from_conda if "torch" in str(name)]
    notebook = nbformat.read(next((ROOT / "notebooks").glob("01_*.ipynb")), 4)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    exec(code[1], {})

    def missing(*_):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(torchvision.ops, "nms", missing)
    with pytest.raises(RuntimeError, match="nms"):
        exec(code[1], {})


def test_neither_imports_nor_loader_workers_touch_a_gpu(monkeypatch):
    """A process that has touched it cannot be forked; several GPUs are torchrun's, not a cell's."""
    rooms = [found.name for found in pkgutil.walk_packages(hpe_lib.__path__, "hpe_lib.")]
    rooms = [name for name in rooms if not name.endswith("__main__")]
    for name in rooms:  # what they import from elsewhere is there already
        importlib.import_module(name)
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: pytest.fail("CUDA was touched"))
    for name in ["hpe_lib", *rooms]:
        monkeypatch.delitem(sys.modules, name)
    for name in rooms:
        importlib.import_module(name)
    people = PoseDataset(load_people("synthetic", people="1-4", image_size=32), 32)
    loader = torch.utils.data.DataLoader(people, 2, num_workers=2)
    assert [len(batch["row"]) for batch in loader] == [2, 2]
    nodes = [node for tree in sources().values() for node in ast.walk(tree)]
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    names |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    assert not names & {"notebook_launcher", "start_processes", "spawn"}


# ---- the list of them


def defined(path):
    """{"name" or "Class::name": does it ask for real data itself?} of a file, without an import."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    groups = [("", tree)]
    groups += [(f"{n.name}::", n) for n in tree.body if isinstance(n, ast.ClassDef)]
    return {
        prefix + node.name: "test_data" in {given.arg for given in node.args.args}
        for prefix, group in groups
        for node in group.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_every_test_that_is_promised_exists():
    """docs/trust.md: each row names one at least that needs no real data, which † marks."""
    page = (ROOT / "docs" / "trust.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    rows = [row for row in rows if not row.startswith("| trap |")]
    assert len(rows) > 40
    for row in rows:
        named = re.findall(r"(†?)`(\w+\.py)::([\w:]+)`", row)
        assert not all(real for real, *_ in named), row
        for real, file, name in named:
            there = defined(ROOT / "tests" / file)
            assert name in there, f"{file}::{name}"
            assert real or not there[name], f"{file}::{name} needs real data"
