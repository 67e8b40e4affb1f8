"""Weights whose manifest was edited, made up or left behind: a result or one line, soon."""

import contextlib
import json
import random
import sys
import time

import pytest
import torch

import hpe_lib
from hpe_lib import cascade, cli, trunks
from hpe_lib.cascade import Cascade
from hpe_lib.data import datasets
from hpe_lib.workbook import artifacts, presets
from hpe_lib.workbook.artifacts import BadInput

NETWORK = {
    "trunk": "slim",
    "map_stride": 4,
    "prior": 0.01,
    "first": "detection",
    "regressor": "hourglass",
    "channels": 8,
    "levels": 1,
    "bottlenecks": 1,
    "stem": "patch",
    "kernels": [9, 13, 13, 15],
    "std": 0.01,
    "stacked": "both",
    "image_size": 32,
}
MADE = {
    "kind": "joint",
    "network": NETWORK,
    "parameters": {"trunk": "slim", "lr": 1e-3, "kernels": [9, 13, 13, 15]},
    "settings": {"decoder": "parabola", "flip_test": True, "trunk": "slim", "lr": 1e-3},
    "data": {"train": 64 * "a", "image_size": 32},
    "upstream": {},
    "seed": 0,
    "steps": 3,
    "wall_seconds": 1.5,
}


@pytest.fixture(scope="module")
def tensors():
    torch.manual_seed(0)
    return Cascade(NETWORK).state_dict()


@pytest.fixture
def folder(tmp_path, tensors):
    """A stage's folder as a training leaves it."""
    artifacts.save(tmp_path / "w", tensors, MADE)
    return tmp_path / "w"


def edit(folder, **entries):
    """Entries of the manifest changed with a text editor."""
    found = artifacts.read_json(folder / "manifest.json")
    artifacts.write_json(folder / "manifest.json", found | entries)


def called(*arguments):
    with pytest.raises(SystemExit) as error:
        cli.main([str(argument) for argument in arguments])
    return error.value.code


# ---- bounds


@pytest.mark.parametrize(
    "name, value, said",
    [
        ("levels", 10**9, "less than or equal to 8"),
        ("levels", 0, "greater than or equal to 1"),
        ("levels", True, "a valid integer"),
        ("channels", -1, "a multiple of 2"),
        ("channels", -2, "greater than or equal to 2"),
        ("channels", 17, "a multiple of 2"),
        ("channels", 8192, "less than or equal to 4096"),
        ("bottlenecks", 17, "less than or equal to 16"),
        ("prior", 1, "less than 1"),
        ("prior", 0, "greater than 0"),
        ("image_size", "large", "a valid integer"),
        ("image_size", 4096, "less than or equal to 2048"),
        ("image_size", 66, "a multiple of 4"),
        ("map_stride", 3, "1, 2 or 4"),
        ("kernels", [1, 1, 1], "at least 4 items"),
        ("kernels", [9, 13, 13, 65], "less than or equal to 63"),
        ("kernels", [9, 13, 13, 14], "an odd number"),
        ("std", 11, "less than or equal to 10"),
        ("std", None, "a valid number"),
        ("trunk", ["slim"], "a valid string"),
        ("trunk", 201 * "x", "at most 200 characters"),
        ("first", "classification", "'detection' or 'regression'"),
        ("width", 8, "Extra inputs are not permitted"),
    ],
)
def test_a_network_out_of_bounds_is_not_built(folder, tensors, monkeypatch, name, value, said):
    network = {**NETWORK, name: value}
    with pytest.raises(BadInput, match=f"{name}: found .*{said}"):
        Cascade(network)
    monkeypatch.setattr(cascade, "Cascade", None)
    artifacts.save(folder, tensors, {**MADE, "network": network})
    with pytest.raises(BadInput, match=f"manifest.json: found network.{name} .*{said}"):
        cascade.load(folder)


@pytest.mark.parametrize("absent", ["trunk", "map_stride"])
def test_a_network_without_its_trunk_or_stride_is_one_line(folder, tensors, absent):
    network = {name: value for name, value in NETWORK.items() if name != absent}
    artifacts.save(folder, tensors, {**MADE, "network": network})
    with pytest.raises(BadInput, match=f"found network.{absent} nothing, expected a value"):
        cascade.load(folder)


def test_a_manifest_without_the_crop_s_side_is_one_line(folder, tensors):
    artifacts.save(folder, tensors, {"network": NETWORK | {"image_size": 32}})
    assert hpe_lib.load(folder).image_size == 32
    network = {name: value for name, value in NETWORK.items() if name != "image_size"}
    artifacts.save(folder, tensors, {"network": network})
    with pytest.raises(BadInput, match="manifest.json: found no network.image_size"):
        hpe_lib.load(folder)


@pytest.mark.parametrize(
    "numbers",
    [
        {"channels": 4096, "levels": 8, "bottlenecks": 16},
        {"regressor": "convolutions", "channels": 4096, "kernels": [63, 63, 63, 63]},
    ],
)
def test_a_network_that_the_file_cannot_hold_is_not_built(folder, tensors, monkeypatch, numbers):
    """Within every bound, and of 23 and 734 thousand million weights."""
    monkeypatch.setattr(cascade, "Cascade", None)
    artifacts.save(folder, tensors, {**MADE, "network": NETWORK | numbers})
    with pytest.raises(
        BadInput, match="weights.safetensors: found .* numbers, expected .* at least"
    ):
        cascade.load(folder)


@pytest.mark.parametrize("name, value", [("decoder", "magic"), ("flip_test", "yes"), ("levels", 0)])
def test_settings_out_of_bounds_are_one_line(folder, tensors, name, value):
    settings = MADE["settings"] | {name: value}
    artifacts.save(folder, tensors, MADE | {"settings": settings})
    with pytest.raises(BadInput, match=f"manifest.json: found settings.{name} {value!r}"):
        hpe_lib.load(folder)


DATA = {
    "kind": "data",
    "parameters": {
        "dataset": "synthetic",
        "data_root": "",
        "train": "1-4",
        "val": "5-6",
        "image_size": 32,
        "data_seed": 0,
        "only_present": False,
        "margin": 1.25,
        "missing_points": "as_labelled",
    },
    "fingerprints": {"train": 64 * "a", "val": 64 * "b"},
}
RUN = {
    "kind": "run",
    "command": "hpe reproduce",
    "preset": "smoke",
    "notebooks": {"03": {"notebook": "03_a.ipynb", "wall_seconds": 1.0}},
}
TARGETS = {"kind": "targets", "parameters": {"radius": 10.0, "sigma": 5.0, "occluded": "empty"}}


@pytest.mark.parametrize(
    "made, path, value",
    [
        (DATA, ["parameters", "dataset"], "coco"),
        (DATA, ["parameters", "image_size"], "64"),
        (DATA, ["parameters", "data_seed"], -1),
        (DATA, ["parameters", "only_present"], 0),
        (DATA, ["parameters"], []),
        (DATA, ["parameters", "crop_cache"], ""),
        (DATA, ["fingerprints", "val"], None),
        (DATA, ["fingerprints"], {"manifest": "x"}),
        (TARGETS, ["parameters", "sigma"], 0),
        (TARGETS, ["parameters", "occluded"], True),
        (RUN, ["notebooks", "03"], "03_a.ipynb"),
        (RUN, ["notebooks", "03", "notebook"], "../../secret.ipynb"),
        (RUN, ["parameters"], []),
        (MADE, ["kind"], ["joint"]),
        (MADE, ["kind"], "detectors"),
        (MADE, ["upstream"], {"detector": 7}),
        (MADE, ["steps"], 1.5),
        (MADE, ["network"], None),
    ],
)
def test_manifests_of_every_kind_have_their_types(tmp_path, made, path, value):
    artifacts.write_manifest(tmp_path, made)
    assert artifacts.manifest(tmp_path)["kind"] == made["kind"]
    found = json.loads(json.dumps(made))
    inner = found
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    artifacts.write_manifest(tmp_path, found)
    with pytest.raises(BadInput, match=r"manifest\.json: found " + r"\.".join(path[:2])):
        artifacts.manifest(tmp_path)


def test_evaluate_does_not_trust_an_edited_data_manifest(folder, tmp_path, capsys):
    artifacts.write_manifest(tmp_path / "data", DATA)
    edit(tmp_path / "data", parameters=DATA["parameters"] | {"val": "5-9999999"})
    assert called("evaluate", "--weights", folder, "--data", "synthetic") == 2
    assert "data/manifest.json: found entries changed by hand" in capsys.readouterr().err


def test_evaluate_scores_only_the_people_that_the_run_has_chosen(folder, tmp_path, capsys):
    """A manifest edited with its hash computed anew still has the fingerprints of its people."""
    chosen = {"dataset": "synthetic", "data_root": "", "image_size": 32, "data_seed": 0}
    chosen |= {"only_present": False, "margin": 1.25, "missing_points": "as_labelled"}
    datasets.prepare(tmp_path, **chosen, train="1-3", val="4-6")
    line = ("evaluate", "--weights", folder, "--data", "synthetic")
    assert called(*line) == 0
    capsys.readouterr()
    made = artifacts.manifest(tmp_path / "data")
    artifacts.write_manifest(
        tmp_path / "data", made | {"parameters": made["parameters"] | {"val": "5-7"}}
    )
    assert called(*line) == 2
    said = "data/manifest.json: found val people that have changed since, expected those of this"
    assert said in capsys.readouterr().err


# ---- edits


@pytest.mark.parametrize(
    "name, value", [("first", "regression"), ("lr", 0.5), ("stacked", "image")]
)
def test_settings_agree_with_what_the_weights_were_made_from(folder, name, value):
    """Whoever computes the manifest's own hash anew can change those of test time only."""
    found = artifacts.manifest(folder)
    settings = found["settings"] | {"decoder": "argmax"}
    artifacts.write_manifest(folder, found | {"settings": settings})
    assert hpe_lib.load(folder).decoder == "argmax"
    artifacts.write_manifest(folder, found | {"settings": settings | {name: value}})
    said = rf"manifest.json: found settings.{name} {value}, expected .*, as the weights were made"
    with pytest.raises(BadInput, match=said):
        hpe_lib.load(folder)


@pytest.mark.parametrize(
    "entries",
    [
        {"network": NETWORK | {"first": "regression"}},
        {"settings": MADE["settings"] | {"decoder": "argmax"}},
    ],
)
def test_nothing_is_predicted_or_scored_from_an_edited_manifest(folder, tmp_path, capsys, entries):
    edit(folder, **entries)
    (tmp_path / "a.jpg").write_bytes(b"")
    for line in (
        ("evaluate", "--weights", folder, "--data", "synthetic"),
        ("predict", tmp_path / "a.jpg", "--weights", folder, "--out", tmp_path / "out"),
    ):
        assert called(*line) == 2
        assert "manifest.json: found entries changed by hand" in capsys.readouterr().err
    with pytest.raises(BadInput, match="changed by hand"):
        hpe_lib.load(folder)
    assert not (tmp_path / "out").exists()


# ---- a later stage beside a newer earlier one


@pytest.fixture
def run(tmp_path, tensors):
    """A run of three stages, each made from the one before."""
    upstream = {}
    for stage, name in (("detector", "detector"), ("regressor", "regressor"), ("joint", "cascade")):
        artifacts.save(tmp_path / name, tensors, MADE | {"kind": stage, "upstream": upstream})
        upstream = {name: artifacts.manifest(tmp_path / name)["weights_sha256"]}
    return tmp_path


@pytest.mark.parametrize("stage", ["detector", "regressor"])
def test_a_stage_made_from_another_one_than_lies_there_is_not_the_run_s(
    run, tensors, capsys, stage
):
    assert cascade.stage_folder(run) == run / "cascade"
    with contextlib.chdir(run / "cascade"):
        assert cascade.stage_folder(".").parent == run.resolve()
    kept = {"kind": stage, "upstream": artifacts.manifest(run / stage)["upstream"]}
    artifacts.save(run / stage, {k: 2 * v for k, v in tensors.items()}, MADE | kept)
    line = f"{run}: found cascade/, made from another {stage}/ than the one there now, expected"
    for read in (cascade.stage_folder, cascade.load, hpe_lib.load):
        with pytest.raises(BadInput) as error:
            read(run)
        assert str(error.value).startswith(line) and f"{run / stage} or {run}/cascade" in str(
            error.value
        )
    assert called("evaluate", "--weights", run, "--data", "synthetic") == 2
    assert line in capsys.readouterr().err
    assert called("predict", "a.jpg", "--weights", run, "--out", run / "out") == 2
    assert capsys.readouterr().err and not (run / "out").exists()
    for named in (run / "cascade", run / stage):  # said outright, each is what was asked for
        assert cascade.load(named)


def test_an_earlier_stage_in_training_is_not_what_the_run_s_was_made_from(run):
    (run / "regressor" / "manifest.json").unlink()
    with pytest.raises(BadInput, match="cascade/, made from another regressor/"):
        cascade.load(run)


def test_stages_left_out_of_a_copy_are_not_missed(run):
    for name in ("detector", "regressor"):
        for path in (run / name).iterdir():
            path.unlink()
        (run / name).rmdir()
    assert cascade.load(run)


def test_a_stage_that_claims_to_be_made_from_itself_ends(run, tensors):
    sha = artifacts.manifest(run / "cascade")["weights_sha256"]
    artifacts.save(run / "cascade", tensors, MADE | {"upstream": {"cascade": sha}})
    assert cascade.load(run)


# ---- trunks of a person's own: nothing read from disk names what is imported


@pytest.fixture
def evil(folder, tensors, tmp_path, monkeypatch):
    """Weights whose manifest names a module in the current folder; importing it leaves a mark."""
    monkeypatch.delenv("HPE_TRUNK", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    source = "from pathlib import Path\nfrom hpe_lib.trunks import slim_trunk\n"
    source += "Path('mark').touch()\ndef x_trunk(pretrained):\n    return slim_trunk()\n"
    (tmp_path / "evilmod.py").write_text(source)
    network = NETWORK | {"trunk": "evilmod:x_trunk"}
    artifacts.save(
        folder, tensors, MADE | {"network": network, "settings": {"trunk": network["trunk"]}}
    )
    yield tmp_path
    sys.modules.pop("evilmod", None)
    trunks.TRUNKS.pop("evilmod:x_trunk", None)


LINE = "'evilmod:x_trunk', expected a trunk of this library, or --trunk evilmod:x_trunk"


def test_what_a_manifest_names_is_not_imported(evil, folder, capsys):
    for read in (cascade.load, hpe_lib.load):
        with pytest.raises(BadInput, match=f"manifest.json: found trunk {LINE}"):
            read(folder)
    (evil / "a.jpg").write_bytes(b"")
    for line in (("predict", "a.jpg", "--out", "out"), ("evaluate", "--data", "synthetic")):
        assert called(*line, "--weights", folder) == 2
        assert LINE in capsys.readouterr().err
    assert not (evil / "mark").exists() and "evilmod" not in sys.modules


def test_no_installed_module_is_imported_either(folder, tensors):
    for name in ("this:x_trunk", "hf-hub:someone/something", ":", "a:"):
        network = {"network": NETWORK | {"trunk": name}, "settings": {"trunk": name}}
        artifacts.save(folder, tensors, MADE | network)
        with pytest.raises(BadInput, match="manifest.json: found trunk"):
            cascade.load(folder)
    assert "this" not in sys.modules


def test_what_a_person_names_is(evil, folder, monkeypatch, capsys):
    from evilmod import x_trunk

    assert cascade.load(folder, trunk=x_trunk).network["trunk"] == "evilmod:x_trunk"
    assert hpe_lib.load(folder, trunk="evilmod:x_trunk").image_size == 32
    with pytest.raises(BadInput):  # a word for one load is none for the next
        cascade.load(folder)
    assert called("evaluate", "--weights", folder, "--data", "synthetic", "--trunk", "x") == 2
    assert "--trunk: found 'x', expected module:function" in capsys.readouterr().err
    artifacts.write_manifest(evil / "data", {"parameters": DATA["parameters"]})
    monkeypatch.setenv("HPE_TRUNK", "")  # put back afterwards
    line = ("evaluate", "--weights", folder, "--data", "synthetic", "--json")
    assert called(*line, "--trunk", "evilmod:x_trunk") == 0
    assert json.loads(capsys.readouterr().out)["persons"] == 2


def test_a_registered_trunk_is_called_by_its_name(evil, folder):
    calls = []

    def mine(pretrained):
        calls.append(pretrained)
        return trunks.slim_trunk()

    trunks.register_trunk("evilmod:x_trunk", mine)
    assert cascade.load(folder) and calls == [False] and not (evil / "mark").exists()


def test_parameters_that_a_person_gives_name_trunks(monkeypatch):
    monkeypatch.setenv("HPE_TRUNK", "a:b_trunk")
    presets.resolve("smoke")
    assert presets.os.environ["HPE_TRUNK"] == "a:b_trunk"
    presets.resolve("smoke", ["03.trunk=evilmod:x_trunk"])
    presets.resolve("smoke", ["03.trunk=evilmod:x_trunk"])
    assert presets.os.environ["HPE_TRUNK"] == "a:b_trunk,evilmod:x_trunk"
    presets.trust_trunks({"trunk": "timm:mobilenetv3_small_050"})  # no module of a user's
    assert presets.os.environ["HPE_TRUNK"] == "a:b_trunk,evilmod:x_trunk"


def test_a_run_s_manifest_as_preset_names_no_trunk_for_others(tmp_path, monkeypatch):
    """A YAML preset is a person's own; a manifest may come from anybody."""
    monkeypatch.setenv("HPE_TRUNK", "")
    trunk = "evilmod:x_trunk"
    made = {"kind": "run", "parameters": {"03": {"trunk": trunk}}, "notebooks": {}}
    artifacts.write_manifest(tmp_path, made)
    with pytest.raises(BadInput, match="found trunk evilmod:x_trunk, expected .*HPE_TRUNK"):
        presets.resolve(tmp_path / "manifest.json")
    assert presets.os.environ["HPE_TRUNK"] == ""
    for said in ({"overrides": [f"03.trunk={trunk}"]}, {}):
        found = presets.resolve(tmp_path / "manifest.json", **said)  # then the environment says it
        assert found["03"]["trunk"] == trunk
    monkeypatch.setenv("HPE_TRUNK", "")
    (tmp_path / "own.yaml").write_text(f'"03": {{trunk: "{trunk}"}}')
    assert presets.resolve(tmp_path / "own.yaml")["03"]["trunk"] == trunk
    made["parameters"]["03"]["trunk"] = "timm:resnet18"
    artifacts.write_manifest(tmp_path, made)
    assert presets.resolve(tmp_path / "manifest.json")["03"]["trunk"] == "timm:resnet18"


# ---- whatever else a manifest may hold

VALUES = (
    None, True, -1, 0, 1, 3, 2**62, 10**9, 1.5, -0.0, 1e308, "", "slim", "resnet18", "x:y_trunk",
    20_000 * "x", [], {}, [1] * 1000, [[]], {"a": {"b": {}}}, ["slim"], "64", "\ud800", "a\nb",
)  # fmt: skip


def mutated(random):
    """MADE with one to three entries, at any depth, replaced, removed or added."""
    found = json.loads(json.dumps(MADE))
    for _ in range(random.randint(1, 3)):
        inner = found
        while random.random() < 0.7:
            deeper = [value for value in inner.values() if isinstance(value, dict) and value]
            if not deeper:
                break
            inner = random.choice(deeper)
        name = random.choice([*inner, "more"])
        if random.random() < 0.15:
            inner.pop(name, None)
        else:
            inner[name] = json.loads(json.dumps(random.choice(VALUES)))
    return found


def outcome(folder):
    """What loading weights and looking at an image ends in: a result, or its one line."""
    try:
        found = hpe_lib.load(folder)
        assert len(found.predict(torch.zeros(40, 40, 3, dtype=torch.uint8).numpy())) == 1
        return ""
    except BadInput as error:
        return str(error)


@pytest.mark.parametrize(
    "count", [40, pytest.param(300, marks=pytest.mark.slow)], ids="{} manifests".format
)
@pytest.mark.parametrize("how", ["edited", "forged"])
def test_any_manifest_ends_in_a_result_or_one_line(folder, tensors, count, how):
    """Edited: by hand. Forged: written with the weights, all hashes right, so that nothing but the
    schema, the bounds and the fit of the tensors can refuse it."""
    chance = random.Random(count)
    results = 0
    for _ in range(count):
        made = mutated(chance)
        start = time.perf_counter()
        if how == "edited":
            artifacts.save(folder, tensors, MADE)
            edit(folder, **made)
        else:
            artifacts.save(folder, tensors, made)
        line = outcome(folder)
        assert time.perf_counter() - start < 5, made
        assert len(line.splitlines()) <= 1 and len(line) < 1000, made
        assert not line or str(folder) in line or "image_size" in line, line
        results += not line
    if how == "edited":
        assert results < count / 5  # only where the change left what was there
    else:
        assert results > 0
