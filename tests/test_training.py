import contextlib
import functools
import json
import math
import os
import shutil
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import small_runs
import torch
from accelerate import Accelerator
from small_runs import STILL, TARGETS, prepare, same_weights
from torch import nn

from hpe_lib import (
    ablation,
    cascade,
    evaluation,
    heatmaps,
    prediction,
    refusals,
    stages,
    training,
    trunks,
    watched,
)
from hpe_lib.cascade import Cascade, Maps
from hpe_lib.data import synthetic
from hpe_lib.data.augment import Augmentation, PoseDataset
from hpe_lib.data.datasets import open_data
from hpe_lib.data.images import ImageArrays
from hpe_lib.data.people import People
from hpe_lib.skeleton import ABSENT, OCCLUDED, VISIBLE
from hpe_lib.targets import Targets, write_targets
from hpe_lib.workbook import artifacts, environment
from hpe_lib.workbook.artifacts import BadInput

SIZE = small_runs.DATA["image_size"]
DETECTOR = small_runs.DETECTOR | {"deterministic": False, "compiled": False}
REGRESSOR = small_runs.REGRESSOR | {"lr": 2e-3, "lr_end": 1e-4}
JOINT = {"lr": 5e-4, "lr_end": 1e-4}
STAGES = {"detector": DETECTOR, "regressor": REGRESSOR, "joint": JOINT}


pytestmark = pytest.mark.usefixtures("one_thread")


def train(stage, out, **changes):
    return list(stages.train(stage, out, STAGES[stage] | changes))


@pytest.fixture
def out(tmp_path):
    """A run folder of eight people whose targets are decided."""
    prepare(tmp_path / "run")
    return tmp_path / "run"


@contextlib.contextmanager
def kept_at_the_end():
    """Trainings keep no checkpoint and no maps of an epoch, which take as long as a short epoch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.Progress, "save", lambda _: None)
        patch.setattr(watched, "write", lambda *_: None)
        yield


@dataclass
class Overfitted:
    people: People
    folder: object
    records: dict


@pytest.fixture(scope="module")
def overfitted(tmp_path_factory):
    """Eight people learned by heart, stage by stage, without augmentation."""
    out = tmp_path_factory.mktemp("overfit") / "run"
    people = prepare(out).train
    learned = {
        "detector": {"epochs": 130, "lr": 4e-3, "batch_size": 8, **STILL},
        "regressor": {"epochs": 150, "lr": 5e-3, "channels": 32, "levels": 3},
        "joint": {"epochs": 15},
    }
    with kept_at_the_end():
        records = {stage: train(stage, out, **changes) for stage, changes in learned.items()}
    return Overfitted(people, out, records)


@pytest.mark.parametrize(
    "stage, part", [("detector", "visible"), ("regressor", "total"), ("joint", "total")]
)
def test_eight_people_are_overfitted_to_100(overfitted, stage, part):
    """The detector on the visible joints, which it is taught; the others on the occluded, too."""
    net = cascade.load(overfitted.folder / artifacts.STAGES[stage])
    found = prediction.predict(net, overfitted.people, SIZE, flip_test=False)
    report = evaluation.score(found.joints, overfitted.people)
    assert report[part] == 100, report
    first = overfitted.records[stage][0]
    last = overfitted.records[stage][-1]
    assert last["loss"] < first["loss"] and last["peak"] > 0.5 and "warning" not in last


def test_what_was_overfitted_can_also_fail(overfitted):
    """The control: the same people, untrained weights."""
    net = Cascade(cascade.load(overfitted.folder).network).eval()
    found = prediction.predict(net, overfitted.people, SIZE, flip_test=False)
    assert evaluation.score(found.joints, overfitted.people)["total"] < 20


def test_eval_mode_agrees_with_train_mode(overfitted):
    """Trap T34: running statistics that are not those of the batches."""
    net = cascade.load(overfitted.folder)
    crops = torch.from_numpy(overfitted.people.crops(SIZE))
    with torch.no_grad():
        still = net.eval()(crops)
        moving = net.train()(crops)
    for one, other in zip(still, moving, strict=True):
        assert (one - other).abs().mean() < 0.05 * (one.abs().mean() + one.std())
    points = [heatmaps.decode(maps.regressor)[0] for maps in (still, moving)]
    seen = torch.from_numpy(overfitted.people.visibility != ABSENT)
    assert (points[0] - points[1])[seen].abs().mean() < 0.1


def test_the_detector_goes_quiet_on_occluded_joints(overfitted):
    """Fig. 2, of people learned by heart."""
    net = cascade.load(overfitted.folder / "detector")
    peaks = prediction.predict(net, overfitted.people, SIZE, flip_test=False).detector_peak
    visibility = overfitted.people.visibility
    assert peaks[visibility == VISIBLE].mean() > 0.8 > 0.3 > peaks[visibility == OCCLUDED].mean()


# ---- stages


def weights(folder):
    return artifacts.load_weights(folder)


def test_frozen_is_frozen_and_everything_learns_in_the_joint_stage(out):
    for stage in STAGES:
        train(stage, out)
    first, second, third = (
        weights(out / folder) for folder in ("detector", "regressor", "cascade")
    )
    assert set(first) < set(second) and all(
        torch.equal(first[name], second[name]) for name in first
    )
    assert any("running_mean" in name for name in first)
    untrained = Cascade(artifacts.manifest(out / "regressor")["network"]).state_dict()
    torch.manual_seed(0)
    start = stages.Recipe("regressor", out, REGRESSOR).initial_model().state_dict()
    moved = {
        name
        for name in second
        if name.startswith("regressor.") and not torch.equal(start[name], second[name])
    }
    assert {"regressor.D1.0.weight", "regressor.D7.weight", "regressor.D6.1.running_mean"} <= moved
    assert set(untrained) == set(second) == set(third)
    assert not any(
        torch.equal(second[name], third[name]) for name in second if name.endswith("conv1.weight")
    )


def test_history_is_on_disk_as_it_grows(out):
    epochs = stages.train("detector", out, DETECTOR | {"epochs": 3})
    first = next(epochs)
    assert stages.history(out / "detector") == [json.loads(json.dumps(first))]
    assert not (out / "detector" / "manifest.json").exists()
    rest = list(epochs)
    assert [record["epoch"] for record in stages.history(out / "detector")] == [1, 2, 3]
    assert [record["epoch"] for record in rest] == [2, 3]
    assert {
        "stage",
        "epoch",
        "epochs",
        "loss",
        "lr",
        "seconds",
        "images_per_second",
        "peak",
    } <= set(first)
    assert (
        out / "detector" / "manifest.json"
    ).exists() and "detector epoch 1/3" in stages.record_line(first)


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a GPU")
def test_fp16_without_a_gpu_is_refused(out):
    with pytest.raises(BadInput, match="precision: found fp16 without a GPU, expected bf16, or no"):
        train("detector", out, precision="fp16")
    assert not (out / "detector" / "manifest.json").exists()


def test_maps_that_are_there_stay_where_the_history_is_lost(out):
    begun = stages.train("detector", out, DETECTOR | {"epochs": 3})
    next(begun)
    next(begun)
    begun.close()
    kept = {path: path.read_bytes() for path in (out / "detector" / "watched").iterdir()}
    (out / "detector" / "history.jsonl").unlink()
    assert len(list(stages.train("detector", out, DETECTOR | {"epochs": 3}))) == 3
    assert len(kept) == 2 and all(path.read_bytes() == content for path, content in kept.items())
    assert len(stages.history(out / "detector")) == 3


def test_an_interrupted_training_leaves_no_artifact(out):
    epochs = stages.train("detector", out, DETECTOR | {"epochs": 3})
    next(epochs)
    epochs.close()
    assert stages.history(out / "detector") and artifacts.differences(out / "detector", {}) == [
        "absent"
    ]
    with pytest.raises(BadInput):
        train("regressor", out)


def test_the_manifest_says_what_the_weights_were_made_from(out):
    train("detector", out), train("regressor", out)
    found = artifacts.manifest(out / "regressor")
    assert (
        found["kind"] == "regressor"
        and found["seed"] == 0
        and found["steps"] == 2
        and found["wall_seconds"] > 0
    )
    assert [found["parameters"][name] for name in ("channels", "trunk", "sigma")] == [8, "slim", 12]
    assert found["upstream"] == {"detector": artifacts.manifest(out / "detector")["weights_sha256"]}
    assert found["data"]["train"] == open_data(out).train.fingerprint()
    assert found["weights_sha256"] == artifacts.file_hash(out / "regressor" / "weights.safetensors")


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path):
    made = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        prepare(tmp_path / name)
        train("detector", tmp_path / name, seed=seed)
        made.append(weights(tmp_path / name / "detector"))
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])
    assert not torch.equal(made[0]["detector.B1.0.weight"], made[2]["detector.B1.0.weight"])


def test_deterministic_operations_are_asked_for_and_inherited(out, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", asked.append)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that it is put back
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    train("detector", out)
    assert "reused" in train("detector", out, deterministic=False)[0]
    assert "reused" not in train("detector", out, deterministic=True)[0]
    train("regressor", out)
    assert asked == [False, True, True] and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_a_compiled_training_is_the_same_but_for_rounding(out, monkeypatch):
    """Here by a backend that changes nothing; `-m slow` really compiles. Scores are as ever."""
    kinds = []
    compiled = functools.partial(torch.compile, backend="eager")
    monkeypatch.setattr(
        torch, "compile", lambda network: kinds.append("compiled") or compiled(network)
    )
    monkeypatch.setattr(refusals, "COMPILER", sys.executable)
    records = {
        way: list(
            stages.train(
                "detector",
                out,
                DETECTOR | {"compiled": way},
                lambda model: kinds.append(type(model)) or {},
            )
        )
        for way in (False, True)
    }
    assert kinds == [Cascade, "compiled", Cascade]
    assert (
        "reused" not in records[True][0] and records[True][0]["loss"] == records[False][0]["loss"]
    )
    after = weights(out / "detector")
    train("detector", out)
    assert all(
        torch.equal(weight, after[name]) for name, weight in weights(out / "detector").items()
    )
    assert "reused" in train("detector", out, compiled=False)[0]


@pytest.mark.slow
def test_compiled_in_earnest_every_stage_ends_at_the_same_weights(tmp_path):
    """One step of each stage, from the same beginning (about four minutes)."""
    for way in (False, True):
        prepare(tmp_path / str(way), train="1-4")
        for stage in STAGES:
            train(stage, tmp_path / str(way), optimizer="sgd", lr=1e-4, compiled=way)
            made = [
                weights(tmp_path / str(each) / artifacts.STAGES[stage]) for each in {False, way}
            ]
            assert all(
                torch.allclose(weight.float(), made[0][name].float(), atol=1e-5)
                for name, weight in made[-1].items()
            )


def test_without_a_compiler_nothing_is_compiled_and_nothing_lost(out, monkeypatch):
    train("detector", out)
    monkeypatch.setattr(refusals, "COMPILER", "no-such-compiler")
    with pytest.raises(
        BadInput, match="compiled: found no no-such-compiler here, expected a C\\+\\+ compiler"
    ):
        train("detector", out, compiled=True)
    assert "reused" in train("detector", out)[0]


def test_a_stage_may_begin_from_weights_of_another_run(out, tmp_path):
    train("detector", out)
    prepare(tmp_path / "other")
    list(
        stages.train(
            "detector", tmp_path / "other", DETECTOR | {"lr": 1e-12, "lr_end": 1e-12}, init_from=out
        )
    )
    one = weights(out / "detector")
    other = weights(tmp_path / "other" / "detector")
    assert torch.allclose(one["detector.B6.weight"], other["detector.B6.weight"], atol=1e-6)
    assert "init_from" in artifacts.manifest(tmp_path / "other" / "detector")["upstream"]


def test_a_training_ends_though_the_weights_it_began_from_are_gone(out, tmp_path):
    train("detector", out)
    prepare(tmp_path / "other")
    records = stages.train("detector", tmp_path / "other", DETECTOR | {"epochs": 2}, init_from=out)
    next(records)
    shutil.rmtree(out / "detector")
    list(records)
    assert artifacts.manifest(tmp_path / "other" / "detector")["unlabelled"] == []


def test_init_from_as_a_parameter_is_not_inherited_and_keeps_this_run_s_detector(
    out, tmp_path, capsys
):
    """LSP after MPII (F18): the detector goes on from there and is fine-tuned here; the regressor's
    stage takes the regressor from there and the detector from here; the joint stage says nothing
    and goes on from here."""
    still = {"lr": 1e-12, "lr_end": 1e-12}
    for stage in STAGES:
        train(stage, out)
    prepare(other := tmp_path / "other", train="9-16")
    train("detector", other, init_from=str(out))
    train("regressor", other, init_from=str(out), **still)
    train("joint", other, **still)
    there = weights(out / "cascade")
    here = weights(other / "detector")
    second = weights(other / "regressor")
    assert not torch.equal(there["detector.B6.weight"], here["detector.B6.weight"])
    assert torch.equal(second["detector.B6.weight"], here["detector.B6.weight"])
    assert torch.allclose(second["regressor.D7.weight"], there["regressor.D7.weight"], atol=1e-6)
    found = artifacts.manifest(other / "cascade")
    assert found["settings"]["init_from"] == "" and set(found["upstream"]) == {"regressor"}
    found = artifacts.manifest(other / "regressor")
    assert found["settings"]["init_from"] == str(out) and "init_from" not in found["parameters"]
    assert reused(
        "regressor", other, init_from=str(out / "cascade"), **still
    )  # the same weights by another name
    train("joint", out, lr=1e-3)
    assert not reused("regressor", other, init_from=str(out), **still)
    assert "upstream: init_from" in capsys.readouterr().out


def test_an_init_from_without_a_regressor_is_no_start_for_one(out, tmp_path):
    train("detector", out)
    other = shutil.copytree(out / "detector", tmp_path / "other")
    with pytest.raises(BadInput, match="regressor|D1"):
        train("regressor", out, init_from=str(other))


@pytest.mark.parametrize("start", ["", "detector"])
def test_a_stage_that_would_replace_what_it_starts_from_is_refused(out, start):
    train("detector", out)
    before = hashes(out)
    with pytest.raises(BadInput, match="init_from: found .*detector, expected another run's"):
        train("detector", out, init_from=str(out / start), lr=9e-4)
    assert hashes(out) == before and reused("detector", out)


def test_a_joint_that_earlier_weights_have_learned_stays_learned(out, tmp_path):
    """As where a network of MPII's people goes on with LSP's, which have no pelvis."""
    train("detector", out)
    other = tmp_path / "other"
    prepare(other, missing_points="withheld")
    train("detector", other, init_from=str(out))
    assert artifacts.manifest(other / "detector")["unlabelled"] == []
    train("detector", other)
    assert artifacts.manifest(other / "detector")["unlabelled"] == ["pelvis", "thorax"]
    third = tmp_path / "third"
    prepare(third, missing_points="withheld")
    train("detector", third, init_from=str(other))
    assert artifacts.manifest(third / "detector")["unlabelled"] == ["pelvis", "thorax"]


def test_maps_of_the_training_before_do_not_outlive_a_kill(out, monkeypatch):
    train("detector", out, epochs=3)

    def die(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(stages.Recipe, "write_progress", die)  # the checkpoint is written
        train("detector", out, lr=9e-4, epochs=1)
    before = watched.read(out / "detector")[0]["maps"]
    train("detector", out, lr=9e-4, epochs=1)
    (after,) = watched.read(out / "detector")
    assert not np.array_equal(after["maps"], before)


def test_a_copied_stage_leaves_a_stopped_training_of_something_else(run):
    recipe = stages.Recipe("detector", run, STAGES["detector"] | {"epochs": 12})
    stopped = training.Checkpoint(
        run / "rows" / "row" / "detector" / artifacts.CHECKPOINT, recipe.checkpoint().made_from
    )
    stopped.save({"records": [{}] * 11})
    varied(run, "row", {}, ("detector",))
    folder = run / "rows" / "row" / "detector"
    (aside,) = folder.glob(artifacts.ASIDE)
    assert aside == stopped.aside(stopped.key) and not stopped.path.exists()


def test_a_crop_that_a_trunk_rounds_down_is_refused_before_the_first_step():
    net = Cascade({"trunk": "timm:convnext_atto", "map_stride": 4})
    refusals.check_maps(net, 96)
    with pytest.raises(
        BadInput, match="image_size: found 100, of which this network makes 24 of 25"
    ):
        refusals.check_maps(net, 100)
    assert net.training


def test_a_row_takes_over_no_checkpoint(run):
    (run / "detector" / artifacts.CHECKPOINT).write_bytes(b"of a training that was given up")
    (run / "detector" / ".weights.safetensors.1-0.tmp").write_bytes(b"left by a kill")
    varied(run, "row", {}, ("detector",))
    names = {path.name for path in (run / "rows" / "row" / "detector").iterdir()}
    assert artifacts.WEIGHTS in names and not {artifacts.CHECKPOINT} & names
    assert not any(name.endswith(".tmp") for name in names)


def test_a_history_that_does_not_fit_is_not_shown(out, capsys):
    records = train("detector", out)
    kept = stages.history(out / "detector")
    assert [record["loss"] for record in kept] == [record["loss"] for record in records]
    path = out / "detector" / artifacts.HISTORY
    written = path.read_text()
    path.write_text(written.replace('"loss": ', '"loss": 1'))
    assert stages.history(out / "detector") == []
    assert "history.jsonl: not the one that was written, and left out" in capsys.readouterr().out
    path.write_text(written)
    scored = [record | {"PCKh@0.5": 99.0, "scored_on": "others"} for record in kept]
    stages.write_other_history(out / "detector", scored, artifacts.manifest(out / "detector"))
    assert not any("PCKh@0.5" in record for record in stages.history(out / "detector"))


def test_no_epochs_leave_no_maps_of_the_training_before(out):
    train("detector", out)
    assert watched.read(out / "detector")
    train("detector", out, epochs=0)
    assert not watched.read(out / "detector")


def test_a_training_that_ends_in_its_first_epoch_leaves_the_one_before_whole(out, monkeypatch):
    train("detector", out)

    def interrupt(parts):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(training, "update_weights", interrupt)
        train("detector", out, lr=9e-4)
    assert reused("detector", out)


# ---- first networks that regress, and the VGG pair


@pytest.mark.parametrize(
    "first", [{"first": "regression"}, {"first": "regression", "first_sees": "visible"}]
)
@pytest.mark.parametrize(
    "pair",
    [
        {},
        {
            "trunk": "slim_vgg",
            "regressor": "convolutions",
            "channels": 8,
            "kernels": [5, 5, 5, 7],
            "std": 0.0,
        },
    ],
)
def test_a_cascade_that_regresses_twice_trains_and_decodes(out, first, pair):
    for stage in STAGES:
        records = train(stage, out, **({**first, **pair} if stage == "detector" else pair))
        assert np.isfinite(records[-1]["loss"])
        net = cascade.load(out / artifacts.STAGES[stage])
        assert net.first == "regression" and (net.regressor is None) == (stage == "detector")
        found = prediction.predict(net, open_data(out).val, SIZE)
        assert np.isfinite(found.joints).all() and np.isfinite(found.detector_peak).all()
    assert artifacts.manifest(out / "cascade")["settings"]["first"] == "regression"


def test_a_first_network_that_regresses_is_overfitted_alone(tmp_path):
    """Regression only (Table 5): occluded joints too, read from its raw maps."""
    wide = TARGETS | {"sigma": 30.0}  # 1.7 cells: B7 begins in blocks of 2
    people = prepare(tmp_path / "run", wide, train="1-4").train
    with kept_at_the_end():
        records = train(
            "detector", tmp_path / "run", first="regression", epochs=120, lr=4e-3, **STILL
        )
    found = prediction.predict(cascade.load(tmp_path / "run"), people, SIZE, flip_test=False)
    assert (
        evaluation.score(found.joints, people)["total"] > 75
        and (found.joints == found.detector_joints).all()
    )
    assert evaluation.score(found.detector_centroids, people)["total"] > 95
    assert 0.7 < records[-1]["peak"] < 1.1 and 0.7 < found.detector_peak.mean() < 1.1


def test_settings_of_an_older_run_have_no_word_of_the_new_parameters(out):
    train("detector", out), train("regressor", out)
    for folder in ("detector", "regressor"):
        found = artifacts.manifest(out / folder)
        assert not {"first", "first_sees", "stacked", "kernels"} & set(found["settings"])
        found["settings"].pop("init_from")
        artifacts.write_manifest(out / folder, found)
    assert reused("detector", out) and reused("regressor", out)
    assert "reused" not in train("joint", out)[-1]


def test_convolutions_need_no_crop_that_halves(tmp_path):
    """380 px are 4 · 95: no level of an hourglass could halve them."""
    prepare(out := tmp_path / "run", train="1-4")
    data = artifacts.read_json(next((out / "data").glob("*.json")))
    train("detector", out)
    odd = stages.Recipe("regressor", out, REGRESSOR | {"regressor": "convolutions", "levels": 8})
    assert odd.network["regressor"] == "convolutions" and data
    with pytest.raises(BadInput, match="multiple of 1024"):
        stages.Recipe("regressor", out, REGRESSOR | {"levels": 8})


FULL = {
    "paper-res": (
        256,
        {"trunk": "resnet152", "optimizer": "rmsprop", "lr": 1e-3, "lr_end": 2.5e-5},
        {
            "regressor": "hourglass",
            "channels": 256,
            "levels": 4,
            "bottlenecks": 3,
            "stem": "conv7",
            "lr": 1e-4,
            "lr_end": 2.5e-5,
        },
    ),
    "paper-vgg": (
        380,
        {"trunk": "vgg16", "optimizer": "sgd", "lr": 1e-8, "lr_end": 1e-9},
        {
            "regressor": "convolutions",
            "channels": 64,
            "kernels": [9, 13, 13, 15],
            "std": 0.01,
            "lr": 1e-5,
            "lr_end": 1e-6,
        },
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_a_full_size_cascade_makes_one_step_of_every_stage(tmp_path, name):
    """At its printed input size, batch 2, maps as fine as the input, from random weights.

    This takes minutes and 10 GB.
    """
    side, first, second = FULL[name]
    usual = {"radius": 10.0, "sigma": 5.0, "occluded": "empty"}
    prepare(tmp_path, usual, train="1-2", val="3-4", image_size=side)
    printed = {
        "detector": {
            **DETECTOR,
            **first,
            "map_stride": 1,
            "prior": 0.5,
            "batch_size": 2,
            "schedule": "geometric",
        },
        "regressor": {**second, "schedule": "step"},
        "joint": {"lr": second["lr_end"]},
    }
    for stage, folder in (
        ("detector", "detector"),
        ("regressor", "regressor"),
        ("joint", "cascade"),
    ):
        (record,) = stages.train(stage, tmp_path, printed[stage])
        made = artifacts.manifest(tmp_path / folder)
        assert made["steps"] == 1 and np.isfinite(record["loss"])
        print(
            f"\n{name}, {stage}: loss {record['loss']:.1f}, {record['seconds']:.1f} s a step, "
            f"peak memory so far {environment.peak_memory_mb() / 1024:.1f} GiB"
        )
    before, frozen, joint = (
        weights(tmp_path / folder) for folder in ("detector", "regressor", "cascade")
    )
    assert all(torch.equal(before[key], frozen[key]) for key in before)
    moved = [key for key in joint if not torch.equal(joint[key], frozen[key])]
    assert {key.partition(".")[0] for key in moved} == {"detector", "regressor"}


def test_weights_of_another_architecture_are_no_start(out, tmp_path):
    train("detector", out)
    prepare(tmp_path / "other")
    with pytest.raises(BadInput) as error:
        list(
            stages.train(
                "detector", tmp_path / "other", DETECTOR | {"trunk": "resnet18"}, init_from=out
            )
        )
    assert "weights.safetensors" in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "other" / "detector").exists()


@pytest.mark.parametrize(
    "stage, missing", [("detector", "data"), ("detector", "targets"), ("regressor", "detector")]
)
def test_a_stage_without_what_comes_before_it(tmp_path, stage, missing):
    if missing != "data":
        prepare(tmp_path / "run")
    if missing == "targets":
        (tmp_path / "run" / "targets" / "manifest.json").unlink()
    with pytest.raises(BadInput, match=missing):
        train(stage, tmp_path / "run")


# ---- reuse


def reused(stage, out, **changes):
    """Was it? And, if not, were its weights written anew?"""
    path = out / artifacts.STAGES[stage] / "weights.safetensors"
    before = path.stat().st_mtime_ns
    answer = all(record.get("reused", False) for record in train(stage, out, **changes))
    assert answer == (path.stat().st_mtime_ns == before)
    return answer


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of all stages that no test changes."""
    out = tmp_path_factory.mktemp("finished") / "run"
    prepare(out)
    for stage in STAGES:
        train(stage, out)
    return out


@pytest.fixture(scope="module")
def trained(finished, tmp_path_factory):
    """A run of all stages to be trained anew, in parts."""
    return shutil.copytree(finished, tmp_path_factory.mktemp("reuse") / "run")


def test_reuse_follows_parameters_people_and_upstream_weights(trained, capsys):
    out = trained
    assert all(reused(stage, out) for stage in STAGES)
    assert "joint: reused" in capsys.readouterr().out
    assert reused("detector", out, workers=1) and reused(
        "joint", out, decoder="argmax", flip_test=False
    )
    write_targets(out, **TARGETS | {"sigma": 15.0})
    assert reused("detector", out) and not reused("regressor", out)
    assert "sigma was 12.0, is 15.0" in capsys.readouterr().out
    assert not reused("joint", out)  # its upstream weights are others now
    write_targets(out, **TARGETS | {"sigma": 15.0, "radius": 14.0})
    assert not reused("detector", out) and not reused("regressor", out)
    assert "radius was 12.0, is 14.0" in capsys.readouterr().out
    assert reused("regressor", out) and not reused("regressor", out, lr=1e-3)
    prepare(out, train="1-7", targets=TARGETS | {"sigma": 15.0, "radius": 14.0})
    assert not reused("detector", out) and "data: train" in capsys.readouterr().out


def test_a_stage_is_trained_anew_after_other_weights_of_the_same_parameters(trained):
    """Such as those of another machine, copied over."""
    folder = trained / "regressor"
    for stage in STAGES:
        train(stage, trained)
    weights = artifacts.load_weights(folder)
    made = artifacts.manifest(folder)
    name = next(name for name, weight in weights.items() if weight.is_floating_point())
    weights[name] = weights[name] + 0.01
    artifacts.save(folder, weights, made, artifacts.read_history(folder))
    assert reused("regressor", trained) and not reused("joint", trained)


def test_damaged_weights_are_not_reused(out):
    train("detector", out)
    path = out / "detector" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    assert not reused("detector", out) and reused("detector", out)
    path.unlink()
    assert not any(record.get("reused") for record in train("detector", out))


def test_weights_that_no_longer_fit_the_network_are_not_reused(out, monkeypatch, capsys):
    train("detector", out)
    monkeypatch.setattr(trunks, "basic_stage", functools.partial(trunks.basic_stage, blocks=3))
    assert not reused("detector", out) and "of another network" in capsys.readouterr().out


@pytest.mark.parametrize(
    "typo", [{"optimizer": "adm"}, {"schedule": "cosin"}, {"precision": "half"}, {"lr": -1.0}]
)
def test_a_typo_leaves_the_finished_artifact_as_it_was(out, typo):
    train("detector", out)
    before = artifacts.manifest(out / "detector")
    with pytest.raises(BadInput, match=f"{next(iter(typo))}: found"):
        train("detector", out, **typo)
    assert artifacts.manifest(out / "detector") == before and reused("detector", out)


def test_a_stage_of_other_people_is_no_upstream(out):
    train("detector", out)
    prepare(out, train="1-6")
    with pytest.raises(BadInput, match="trained on other people or crops"):
        train("regressor", out)


def test_a_manifest_that_says_nothing_is_one_line(out):
    train("detector", out)
    artifacts.write_json(out / "detector" / "manifest.json", {})
    with pytest.raises(BadInput, match="manifest.json: found no settings"):
        train("regressor", out)


def test_a_manifest_changed_by_hand_is_not_reused(out, capsys):
    """Neither is what it says inherited by a later stage."""
    train("detector", out)
    found = artifacts.manifest(out / "detector")
    kept = weights(out / "detector")
    changed = found | {"network": found["network"] | {"first": "regression"}}
    artifacts.write_json(out / "detector" / "manifest.json", changed)
    with pytest.raises(BadInput, match="manifest.json: found entries changed by hand"):
        train("regressor", out)
    capsys.readouterr()
    assert not reused("detector", out)
    assert "again: its manifest.json: found entries changed by hand" in capsys.readouterr().out
    again = artifacts.manifest(out / "detector")
    assert again["network"] == found["network"]
    assert again["weights_sha256"] == found["weights_sha256"] and all(
        torch.equal(kept[name], tensor) for name, tensor in weights(out / "detector").items()
    )


def test_a_reused_stage_tells_its_history_again(out):
    first = train("detector", out, epochs=2)
    again = train("detector", out, epochs=2)
    assert [record["loss"] for record in again] == [record["loss"] for record in first]


# ---- fit


class Constant(nn.Module):
    """A detector that answers one logit everywhere."""

    confidence = staticmethod(torch.sigmoid)

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, images):
        return Maps(self.value.expand(len(images), 16, 4, 4), None)


def fit(model, objective, epochs=1, scorer=None, lr=0.0, average=None):
    people = People(
        dataset="made",
        keys=np.arange(4).astype(str),
        joints=np.full((4, 16, 2), 8.0),
        visibility=np.full((4, 16), VISIBLE, np.int8),
        normaliser=np.ones(4),
        metric="PCKh@0.5",
        occlusion_labels=True,
        images=ImageArrays(np.zeros((4, 16, 16, 3), np.uint8), "made"),
        center=np.full((4, 2), 7.5),
        side=np.full(4, 16.0),
        body=np.full(4, 12.0),
    )
    loader = torch.utils.data.DataLoader(
        PoseDataset(people, 16, Augmentation()),
        batch_sampler=training.ShuffledBatches(4, 2, seed=0),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    accelerator = Accelerator(cpu=True)
    return loader, training.fit(
        model,
        objective,
        loader,
        optimizer,
        scheduler,
        epochs,
        accelerator,
        scorer,
        average=average,
    )


def test_a_collapse_to_empty_maps_is_said():
    for logit, collapsed in ((-6.0, True), (0.0, False)):
        record = next(fit(Constant(logit), lambda maps, batch: maps.detector.sum())[1])
        assert ("nearly empty" in record["warning"]) == collapsed
        assert record["peak"] == pytest.approx(1 / (1 + math.exp(-logit)))
        assert collapsed == (
            "WARNING maps are nearly empty" in stages.record_line({"stage": "detector", **record})
        )


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_training(wrong):
    with pytest.raises(FloatingPointError, match="in epoch 1: a smaller learning rate than"):
        next(fit(Constant(0.0), lambda maps, batch: maps.detector.sum() * wrong)[1])


def test_trainings_of_one_process_have_each_its_precision(out):
    weights = []
    for precision in ("no", "bf16", "no"):
        (out / "detector" / "manifest.json").unlink(missing_ok=True)
        train("detector", out, precision=precision)
        weights.append(cascade.load(out / "detector").state_dict())
    assert all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_training_that_diverges_leaves_no_artifact(out):
    with pytest.raises(FloatingPointError):
        train("detector", out, epochs=8, optimizer="sgd", lr=1e18, lr_end=1e18)
    assert not (out / "detector" / "manifest.json").exists()


def test_each_epoch_has_its_own_augmentations():
    seen = []

    def note(maps, batch):
        """Note each person's size in the crop."""
        seen.append(dict(zip(batch["row"].tolist(), batch["body"].tolist())))
        return maps.detector.sum()

    _, epochs = fit(Constant(0.0), note, 2)
    list(epochs)
    first, second = seen[0] | seen[1], seen[2] | seen[3]
    assert first.keys() == second.keys() == set(range(4))
    assert all(first[row] != second[row] for row in first)


def test_the_detector_s_peak_is_that_of_visible_joints_the_regressor_s_of_all():
    """Else a detector that is silent on hidden joints, as it should be, looks like a collapse."""
    one = {"visibility": torch.tensor([[VISIBLE, OCCLUDED] * 8])}
    maps = torch.zeros(1, 16, 4, 4)
    maps[:, ::2] = 1.0
    net = Cascade({"trunk": "slim", "map_stride": 4, "first": "regression"})
    assert training.mean_peak(net, Maps(maps, None), one) == 1.0
    assert training.mean_peak(net, Maps(maps, maps), one) == 0.5


def test_the_peak_of_a_regression_network_is_read_from_its_maps():
    one = batch(VISIBLE, OCCLUDED)
    maps = Maps(torch.full((1, 16, 4, 4), 0.25), None)
    for first, height in (("detection", 1 / (1 + math.exp(-0.25))), ("regression", 0.25)):
        net = Cascade({"trunk": "slim", "map_stride": 4, "first": first})
        assert training.mean_peak(net, maps, one) == pytest.approx(height)


def test_the_scorer_s_numbers_are_in_the_record_and_training_goes_on_in_train_mode():
    modes = []

    def scorer(model):
        model.eval()
        return {"PCKh@0.5": 12.0}

    model = Constant(0.0)
    _, epochs = fit(
        model, lambda maps, batch: modes.append(model.training) or maps.detector.sum(), 2, scorer
    )
    records = list(epochs)
    assert records[1]["PCKh@0.5"] == 12 and modes == [True] * 4
    assert "PCKh@0.5 12.0" in stages.record_line({"stage": "detector", **records[1]})


# ---- targets and losses of the stages


def batch(*visibility):
    """Joints in the middle of a 16 px crop, as visible as said; a body of 40 px."""
    seen = torch.tensor([[*visibility, *[ABSENT] * (16 - len(visibility))]])
    return {
        "image": torch.zeros(1, 16, 16, 3, dtype=torch.uint8),
        "joints": torch.full((1, 16, 2), 7.5),
        "visibility": seen,
        "body": torch.tensor([40.0]),
    }


def test_the_detector_s_targets_are_visible_parts_only():
    """F2: an occluded joint is an empty map that counts or does not; an absent one never counts."""
    for reading, counted in (("empty", [True, True, False]), ("ignored", [True, False, False])):
        maps, counts = Targets(1, 10, 5, reading).detector(batch(VISIBLE, OCCLUDED, ABSENT))
        assert counts[0, :3].tolist() == counted and not counts[0, 3:].any()
        assert maps[0, 0].sum() > 0 and maps[0, 1:].sum() == 0


def test_the_regressor_s_targets_are_all_parts():
    maps, counts = Targets(1, 10, 5).regressor(batch(VISIBLE, OCCLUDED, ABSENT))
    assert counts[0, :3].tolist() == [True, True, False] and torch.equal(maps[0, 0], maps[0, 1])
    assert maps[0, 0].max() > 0.7 and maps[0, 2:].sum() == 0


def test_radius_and_sigma_are_of_a_body_of_200_px():
    """Radius 10 at 200 is 2 at 40, which is 1 in cells of 2 px.

    The joint lies between cells: sqrt(1/2) off in both axes.
    """
    targets = Targets(2, 10, 5)
    maps, _ = targets.detector(batch(VISIBLE))
    assert maps[0, 0].sum() == 4 and maps[0, 0, 3:5, 3:5].sum() == 4
    assert targets.regressor(batch(VISIBLE))[0][0, 0, 3, 3].item() == pytest.approx(
        math.exp(-0.5 / (2 * 0.5**2))
    )


def test_unknown_readings_of_targets():
    for name in ("occluded", "first", "first_sees", "first_maps"):
        with pytest.raises(
            BadInput, match=f"{name}: found 'maybe', expected .*(ignored|regression|all|discs)"
        ):
            Targets(1, **{name: "maybe"})


def test_what_a_first_network_is_taught():
    """F15: loss and visibility are two choices.

    (first, first_sees, occluded) -> drawn and counted of a visible, an occluded, an absent joint.
    """
    one = batch(VISIBLE, OCCLUDED, ABSENT)
    gaussians = Targets(1).regressor(one)[0]
    discs = Targets(1).detector(one)[0]
    for first, sees, occluded, shown, counted in (
        ("detection", "", "empty", [1, 0, 0], [1, 1, 0]),
        ("detection", "all", "empty", [1, 1, 0], [1, 1, 0]),
        ("regression", "", "empty", [1, 1, 0], [1, 1, 0]),
        ("regression", "all", "ignored", [1, 1, 0], [1, 1, 0]),
        ("regression", "visible", "empty", [1, 0, 0], [1, 1, 0]),
        ("regression", "visible", "ignored", [1, 0, 0], [1, 0, 0]),
    ):
        maps, counts = Targets(1, occluded=occluded, first=first, first_sees=sees).detector(one)
        full = (discs if first == "detection" else gaussians)[0, 0]
        for joint in range(3):
            assert torch.equal(maps[0, joint], full * shown[joint]), (first, sees, occluded)
        assert counts[0, :3].tolist() == [bool(count) for count in counted]


def test_either_loss_may_be_taught_by_either_kind_of_map():
    one = batch(VISIBLE, OCCLUDED)
    discs = Targets(1).detector(one)[0]
    gaussians = Targets(1).regressor(one)[0]
    soft, mask = Targets(1, first_maps="gaussians").detector(one)
    assert torch.equal(soft[0, 0], gaussians[0, 0]) and not soft[0, 1].any()
    assert mask[0, :2].all(), "the occluded joint's empty map still counts"
    hard = Targets(1, first="regression", first_maps="discs").detector(one)[0]
    assert torch.equal(hard[0, 0], discs[0, 0]) and hard[0, 1].any()


def test_a_first_network_s_own_gaussians_leave_the_second_s_alone():
    one = batch(VISIBLE, OCCLUDED)
    wide, usual = (Targets(1, first="regression", first_sigma=sigma) for sigma in (10.0, 0.0))
    assert torch.equal(wide.regressor(one)[0], usual.regressor(one)[0])
    assert torch.equal(
        wide.detector(one)[0], Targets(1, sigma=10.0, first="regression").detector(one)[0]
    )
    assert torch.equal(usual.detector(one)[0], usual.regressor(one)[0])


def test_a_first_network_that_regresses_pays_squared_error():
    one = batch(VISIBLE, OCCLUDED)
    targets = Targets(1, first="regression")
    maps = Maps(torch.randn(1, 16, 16, 16), torch.randn(1, 16, 16, 16))
    wanted, _ = targets.regressor(one)
    assert stages.detector_loss(maps, one, targets).item() == pytest.approx(
        ((maps.detector - wanted)[0, :2] ** 2).sum().item() / 16
    )
    both = stages.detector_loss(maps, one, targets) + stages.regressor_loss(maps, one, targets)
    assert stages.joint_loss(maps, one, targets).item() == pytest.approx(both.item())


def test_the_joint_loss_is_the_sum_of_both():
    maps = Maps(torch.randn(1, 16, 16, 16), torch.randn(1, 16, 16, 16))
    one = batch(VISIBLE, OCCLUDED)
    targets = Targets(1)
    parts = [
        stages.detector_loss(maps, one, targets),
        stages.regressor_loss(maps, one, targets),
    ]
    assert stages.joint_loss(maps, one, targets).item() == pytest.approx(sum(parts).item())
    zero = Maps(torch.zeros(1, 16, 16, 16), torch.zeros(1, 16, 16, 16))
    assert stages.detector_loss(zero, one, targets).item() == pytest.approx(
        2 * 256 * math.log(2) / 16
    )


def test_absent_joints_get_no_gradient_from_any_stage():
    for objective in stages.OBJECTIVES.values():
        maps = Maps(
            torch.randn(1, 16, 16, 16, requires_grad=True),
            torch.randn(1, 16, 16, 16, requires_grad=True),
        )
        objective(maps, batch(VISIBLE, OCCLUDED), Targets(1)).backward()
        for part in maps:
            assert part.grad is None or (
                (part.grad[0, 2:] == 0).all() and (part.grad[0, :2] != 0).any((1, 2)).all()
            )


# ---- schedules, optimizers


def test_learning_rates():
    rate = training.rate_factor
    for schedule in ("geometric", "step", "cosine"):
        assert rate(0, 100, schedule, 0.025) == 1 and rate(
            100, 100, schedule, 0.025
        ) == pytest.approx(0.025)
    assert rate(50, 100, "geometric", 0.04) == pytest.approx(0.2) and rate(
        50, 100, "cosine", 0.0
    ) == pytest.approx(0.5)
    assert rate(49, 100, "step", 0.25) == 1 and rate(50, 100, "step", 0.25) == 0.25
    assert [rate(step, 100, "cosine", 0.0, 0.04) for step in range(4)] == pytest.approx(
        [0.25, 0.5, 0.75, 1]
    )
    assert rate(4, 100, "cosine", 0.0, 0.04) == 1


def test_optimizers_by_name():
    weight = nn.Parameter(torch.zeros(1))
    made = {name: training.make_optimizer(name, [weight], 0.1, 0.0) for name in ("rmsprop", "sgd")}
    assert made["rmsprop"].defaults["alpha"] == 0.99 and made["rmsprop"].defaults["eps"] == 1e-8
    assert made["sgd"].defaults["momentum"] == 0.9
    for name in ("rmsprop", "sgd", "adamw"):
        found = training.make_optimizer(name, [weight], 0.1, 0.02).defaults
        assert (found["lr"], found["weight_decay"]) == (0.1, 0.02)


def test_a_stage_of_no_steps_has_a_learning_rate():
    for schedule in ("geometric", "step", "cosine"):
        for warmup in (0.0, 0.05):
            assert training.rate_factor(0, 0, schedule, 0.01, warmup) == 1


# ---- no epochs, and the rows of an ablation


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it, its people beside it."""
    return shutil.copytree(finished, tmp_path / "run")


def test_no_epochs_take_weights_over_as_they_are(finished, tmp_path, capsys):
    """Before LSP's fine-tuning (F18): running statistics, too.

    The joint stage goes on from there.
    """
    prepare(other := tmp_path / "other", train="9-14")
    begin = {"epochs": 0, "init_from": str(finished)}
    assert train("detector", other, **begin) == train("regressor", other, **begin) == []
    assert same_weights(
        other / "detector", finished / "cascade", "detector."
    )  # of the latest stage there
    assert same_weights(other / "regressor", finished / "cascade")
    found = artifacts.manifest(other / "detector")
    assert (
        found["steps"] == 0
        and stages.history(other / "detector") == []
        and "init_from" in found["upstream"]
    )
    assert (
        other / "detector" / "history.jsonl"
    ).is_file() and "detector: training" in capsys.readouterr().out
    assert train("detector", other, **begin) == [] and "detector: reused" in capsys.readouterr().out
    assert len(train("joint", other, epochs=1)) == 1 and not same_weights(
        other / "cascade", finished / "cascade"
    )
    assert np.isfinite(
        prediction.predict(cascade.load(other), open_data(other).val, SIZE).joints
    ).all()


def test_no_epochs_and_no_start_are_the_untrained_network(out):
    assert train("detector", out, epochs=0, warmup=0.05) == []
    begun = stages.Recipe("detector", out, DETECTOR).initial_model().state_dict()
    found = weights(out / "detector")
    assert set(found) == set(begun) and all(torch.equal(found[name], begun[name]) for name in begun)


def varied(out, name, changes, stages=tuple(STAGES)):
    """Stages of a row that were trained for it; the others were taken over."""
    return {
        record["stage"]: record["epochs"]
        for record in ablation.train_row(out, name, changes, stages)
        if not record.get("reused")
    }


def hashes(folder):
    """{path: sha256} of the run's own files, its rows left aside."""
    files = [path for path in folder.rglob("*") if path.is_file() and "rows" not in path.parts]
    return {path: artifacts.file_hash(path) for path in files}


@pytest.mark.parametrize(
    "first, maps, drawn",
    [
        ("detection", "", "radius"),
        ("detection", "gaussians", "sigma"),
        ("regression", "", "sigma"),
        ("regression", "discs", "radius"),
    ],
)
def test_the_extent_that_is_drawn_decides_a_first_network(first, maps, drawn):
    parameters = {"radius": 10.0, "sigma": 5.0, "first": first, "first_maps": maps, "lr": 0.1}
    detector = SimpleNamespace(stage="detector", parameters=parameters)
    decisive = stages.Recipe.decisive_parameters(detector)
    assert decisive.keys() & {"radius", "sigma"} == {drawn} and "lr" in decisive
    joint = SimpleNamespace(stage="joint", parameters=parameters)
    assert stages.Recipe.decisive_parameters(joint).keys() >= {drawn, "sigma"}
    hourglass = SimpleNamespace(
        stage="detector", parameters=parameters | {"rival": "stacked_hourglass"}
    )
    assert stages.Recipe.decisive_parameters(hourglass).keys() >= {drawn, "sigma"}


def test_a_row_replaces_no_file_of_a_person_s(run, tmp_path):
    out = shutil.copytree(run, tmp_path / "copy")
    own = out / "rows" / "mine" / "detector" / "weights.safetensors"
    own.parent.mkdir(parents=True)
    own.write_text("mine")
    with pytest.raises(BadInput, match="mine/detector/weights.safetensors: found a file that this"):
        varied(out, "mine", {}, ("detector",))
    assert own.read_text() == "mine"


def test_a_row_that_changes_nothing_is_the_run(run):
    before = hashes(run)
    assert varied(run, "same", {"seed": 0, "joint.epochs": 1, "workers": 0}) == {}
    assert all(
        same_weights(run / "rows" / "same" / folder, run / folder)
        for folder in artifacts.STAGES.values()
    )
    assert hashes(run) == before
    assert cascade.load(run / "rows" / "same").regressor is not None


@pytest.mark.parametrize(
    "changes, trained",
    [
        ({"radius": 14.0}, {"detector": 1, "regressor": 1, "joint": 1}),
        ({"sigma": 15.0}, {"regressor": 1, "joint": 1}),  # discs know nothing of it
        ({"detector.sigma": 15.0}, {}),
        ({"joint.epochs": 2}, {"joint": 2}),
        ({"regressor.epochs": 2, "joint.lr": 1e-3}, {"regressor": 2, "joint": 1}),
        ({"joint.radius": 14.0}, {"joint": 1}),
    ],
)
def test_a_row_trains_what_depends_on_its_changes_and_nothing_else(run, changes, trained):
    assert varied(run, "row", changes) == trained
    for key, value in changes.items():
        stage, _, name = key.rpartition(".")
        for one, folder in artifacts.STAGES.items():
            usual = artifacts.manifest(run / folder)["settings"].get(name)
            found = artifacts.manifest(run / "rows" / "row" / folder)["settings"].get(name)
            if one in trained:
                assert found == (value if stage in ("", one) else usual), (key, one)
    for earlier, later in (("detector", "regressor"), ("regressor", "cascade")):
        upstream = artifacts.manifest(run / "rows" / "row" / later)["upstream"]
        assert (
            upstream[earlier]
            == artifacts.manifest(run / "rows" / "row" / earlier)["weights_sha256"]
        )
    assert varied(run, "row", changes) == {}  # again: nothing


def test_rows_take_over_from_each_other(run):
    assert varied(run, "one", {"radius": 14.0}, ("detector",)) == {"detector": 1}
    assert not (run / "rows" / "one" / "regressor").exists()
    assert varied(run, "two", {"radius": 14.0, "joint.epochs": 2}) == {"regressor": 1, "joint": 2}
    assert same_weights(run / "rows" / "one" / "detector", run / "rows" / "two" / "detector")
    assert varied(run, "three", {"radius": 14.0, "seed": 1}, ("detector",)) == {"detector": 1}
    assert not same_weights(run / "rows" / "one" / "detector", run / "rows" / "three" / "detector")


def test_a_row_of_other_labels_trains_everything_on_people_drawn_once(run, monkeypatch):
    monkeypatch.setattr(synthetic, "draw", lambda *_: 1 / 0)
    data = artifacts.read_json(run / "data" / "manifest.json")
    data["parameters"]["missing_points"] = "as_labelled"
    artifacts.write_manifest(run / "data", data)
    before = hashes(run)
    assert varied(run, "withheld", {"missing_points": "withheld", "seed": 0}) == dict.fromkeys(
        STAGES, 1
    )
    row = open_data(run / "rows" / "withheld")
    assert (
        row.manifest["parameters"]["missing_points"] == "withheld"
        and np.isnan(row.train.joints[:, 6]).all()
    )
    assert (
        artifacts.manifest(run / "rows" / "withheld" / "cascade")["data"]["train"]
        == row.train.fingerprint()
    )
    assert hashes(run) == before and not np.isnan(open_data(run).train.joints).any()
    assert (
        "missing_points"
        not in artifacts.manifest(run / "rows" / "withheld" / "detector")["settings"]
    )


def test_budgets_of_no_epochs_leave_everything_to_the_joint_stage(run):
    at_once = {"detector.epochs": 0, "regressor.epochs": 0, "joint.epochs": 3}
    assert varied(run, "at once", at_once) == {"joint": 3}
    made = [
        artifacts.manifest(run / "rows" / "at once" / artifacts.STAGES[stage]) for stage in STAGES
    ]
    assert [one["settings"]["epochs"] for one in made] == [0, 0, 3] and [
        one["steps"] for one in made
    ] == [0, 0, 6]
    untrained = stages.Recipe("detector", run, DETECTOR).initial_model().state_dict()
    found = weights(run / "rows" / "at once" / "detector")
    assert all(torch.equal(found[name], untrained[name]) for name in untrained)


def test_damaged_weights_are_not_taken_over(run):
    path = run / "detector" / "weights.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert varied(run, "row", {}, ("detector",)) == {"detector": 1}
    assert artifacts.load_weights(run / "rows" / "row" / "detector")


def test_a_copied_stage_brings_its_own_watched_maps_and_no_others(run):
    varied(run, "row", {"detector.epochs": 3}, ("detector",))
    folder = run / "rows" / "row" / "detector"
    assert len(watched.read(folder)) == 3
    varied(run, "row", {}, ("detector",))
    assert [found["epoch"] for found in watched.read(folder)] == [1]


def test_a_row_that_another_process_trains_keeps_its_people(run, monkeypatch):
    varied(run, "row", {}, ("detector",))
    manifest = run / "rows" / "row" / "data" / "manifest.json"
    before = manifest.read_bytes()
    artifacts.write_manifest(run / "data", artifacts.manifest(run / "data") | {"other": 1})

    def busy(out):
        raise BadInput(out, "another process", "one")

    monkeypatch.setattr(ablation.locks, "check_idle", busy)
    with pytest.raises(BadInput, match="row: found another process"):
        varied(run, "row", {}, ("detector",))
    assert manifest.read_bytes() == before


def test_a_row_is_the_run_s_own_before_its_folder_is_there(tmp_path):
    artifacts.claim_rows(tmp_path, ["first"])
    artifacts.claim_rows(tmp_path, ["second"])
    (tmp_path / "rows" / "first").mkdir()
    (tmp_path / "rows" / "another's").mkdir()
    assert artifacts.own_rows(tmp_path) == [tmp_path / "rows" / "first"]


def test_what_a_row_has_already_is_left_alone(run):
    varied(run, "row", {}, ("detector",))
    mark = run / "rows" / "row" / "detector" / "mark"
    mark.write_text("")
    varied(run, "row", {}, ("detector",))
    assert mark.exists()
    recipe = stages.Recipe("detector", run / "rows" / "row", DETECTOR | {"lr": 1e-3})
    shutil.rmtree(recipe.folder)
    ablation.copy_identical_stage(run, recipe)  # nobody has that
    assert not recipe.folder.exists()


def test_steps_of_augmentation_reach_the_training(out):
    for given, wanted in (({}, (0, 0)), ({"rotation_step": 10.0, "scale_step": 0.1}, (10, 0.1))):
        found = stages.Recipe("detector", out, DETECTOR | given).loader().dataset.augmentation
        assert (found.rotation_step, found.scale_step) == wanted and (
            found.rotation,
            found.flip,
        ) == (40, True)


def test_a_trunk_that_begins_at_random_weights_in_a_row_learns_whole(run, tmp_path):
    other = shutil.copytree(run, tmp_path / "start")
    begun = {"init_from": str(other), "frozen_blocks": 1}
    train("detector", run, **begun)
    found = {}
    for name, changes in (("same", {}), ("anew", {"init_from": ""}), ("rate", {"lr": 9e-4})):
        varied(run, name, changes, ("detector",))
        made = artifacts.manifest(run / "rows" / name / "detector", "settings")
        found[name] = made["settings"]["frozen_blocks"]
    assert found == {"same": 1, "anew": 0, "rate": 1}


def test_what_only_the_second_network_has_leaves_the_detector_as_it_is(run):
    """Rows such as "regressor reads the image": their detector is the run's."""
    assert varied(run, "row", {"channels": 4, "stacked": "image"}) == {"regressor": 1, "joint": 1}
    assert reused("detector", run, map_dropout=0.2)
    for name in ("map_dropout", "map_noise"):
        recipe = stages.Recipe("regressor", run, STAGES["regressor"] | {name: 0.2})
        (reason,) = recipe.reasons_to_train()
        assert name in reason


def test_a_stage_from_before_there_was_noise_is_reused_and_may_have_a_noisy_row(run):
    made = artifacts.manifest(run / "regressor")
    assert "map_noise" not in made["parameters"]
    assert reused("regressor", run, map_noise=0.0)
    (noisy,) = [row for name, row in ablation.read_rows("further").items() if "noise" in name]
    assert varied(run, "noisy", noisy[1]) == {"regressor": 1, "joint": 1}


@pytest.mark.parametrize("half", ["image", "heatmaps"])
def test_a_regressor_that_reads_half_of_the_stack_begins_anew(run, tmp_path, half):
    """Weights of one that reads both, from which the run's own began, would not fit."""
    other = shutil.copytree(run, tmp_path / "other")
    begun = STAGES["regressor"] | {"init_from": str(other)}
    list(stages.train("regressor", run, begun))
    list(stages.train("joint", run, STAGES["joint"]))
    changes = ablation.read_rows("further")[f"regressor reads the {half}"][1]
    assert varied(run, half, changes) == {"regressor": 1, "joint": 1}


@pytest.mark.parametrize("change", ["radus", "join.epochs", "missing_point"])
def test_a_change_of_nothing_that_there_is_is_refused(run, change):
    with pytest.raises(BadInput, match=change):
        varied(run, "row", {change: 5.0})
    assert not (run / "rows" / "row").exists()


def test_accelerate_s_variables_in_the_environment_change_no_training(monkeypatch):
    left = {
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
        "ACCELERATE_MIXED_PRECISION": "bf16",
        "ACCELERATE_DYNAMO_BACKEND": "EAGER",
        "ACCELERATE_USE_FSDP": "true",
    }
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    made = training.make_accelerator("no")
    assert made.gradient_accumulation_steps == 1 and made.mixed_precision == "no"
    assert made.distributed_type.value == "NO"
    assert not [name for name in left if os.environ.get(name) == left[name]]


def test_no_stage_meets_the_crops_of_an_earlier_one_again(tmp_path):
    """Epochs go on counting from stage to stage; without epochs before, they begin at 1."""
    small_runs.prepare(tmp_path)
    list(stages.train("detector", tmp_path, DETECTOR | {"epochs": 2}))
    list(stages.train("regressor", tmp_path, small_runs.REGRESSOR | {"epochs": 1}))
    epochs = {}
    for stage in stages.UPSTREAM:
        recipe = stages.Recipe(stage, tmp_path, DETECTOR | small_runs.REGRESSOR)
        epochs[stage] = {epoch for batch in recipe.loader().batch_sampler for _, epoch in batch}
    assert epochs == {"detector": {1}, "regressor": {3}, "joint": {4}}
    assert artifacts.manifest(tmp_path / "regressor")["epochs_before"] == 2
    assert "epochs_before" not in artifacts.manifest(tmp_path / "detector")
    list(stages.train("detector", tmp_path, DETECTOR | {"epochs": 0}))
    assert (
        stages.Recipe("regressor", tmp_path, small_runs.REGRESSOR).loader().batch_sampler.before
        == 0
    )


def test_the_seed_decides_the_augmentation(tmp_path):
    small_runs.prepare(tmp_path)
    one, same, other = (
        stages.Recipe("detector", tmp_path, DETECTOR | {"seed": seed}).loader().dataset[0, 1]
        for seed in (1, 1, 2)
    )
    assert torch.equal(torch.as_tensor(one["image"]), torch.as_tensor(same["image"]))
    assert not torch.equal(torch.as_tensor(one["image"]), torch.as_tensor(other["image"]))


@pytest.mark.parametrize(
    "changed",
    [
        {"ema": 0.5},
        {"colour": 0.5},
        {"weight_decay": 0.5},
        {"lr": 5e-3},
        {"lr_end": 1e-5},
        {"trunk_lr": 1e-3},
        {"rotation": 41.0},
        {"scale_low": 0.71},
        {"flip": False},
        {"warmup": 0.5},
        {"schedule": "geometric"},
        {"frozen_blocks": 1},
        {"batch_size": 8},
        {"optimizer": "sgd"},
        {"seed": 1},
        {"epochs": 2},
        {"prior": 0.02},
        {"precision": "bf16"},
        {"deterministic": True},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_what_decides_the_weights_is_a_reason_to_train_again(finished_detector, changed):
    again = stages.Recipe("detector", finished_detector, DETECTOR)
    assert again.reasons_to_train() == []
    (reason,) = stages.Recipe("detector", finished_detector, DETECTOR | changed).reasons_to_train()
    assert next(iter(changed)) in reason


@pytest.fixture(scope="module")
def finished_detector(tmp_path_factory):
    """A run with a finished detector, which the tests leave as it is."""
    out = tmp_path_factory.mktemp("finished")
    small_runs.prepare(out)
    list(stages.train("detector", out, DETECTOR))
    return out


def test_the_average_of_the_weights_is_scored_and_kept():
    """Two steps of 1 in each epoch. The first sets the average; the others keep 0.75 of it each."""
    model = Constant(0.0)
    scored = []
    _, epochs = fit(
        model,
        lambda maps, batch: -maps.detector.mean(),
        2,
        lambda model: {"PCK": scored.append(model.value.item())},
        lr=1.0,
        average=training.average_of(model, 0.75),
    )
    for _ in epochs:
        assert model.value.item() in (2.0, 4.0)  # the weights that learn
    after = [1.0]
    for learned in (2.0, 3.0, 4.0):
        after.append(0.75 * after[-1] + 0.25 * learned)
    assert scored == pytest.approx([after[1], after[3]])
    assert model.value.item() == pytest.approx(after[3])


def test_averaged_weights_come_with_averaged_statistics(tmp_path):
    for ema in (0.0, 0.9):
        small_runs.prepare(tmp_path / str(ema))
        list(stages.train("detector", tmp_path / str(ema), DETECTOR | {"ema": ema, "epochs": 2}))
    plain, averaged = (
        artifacts.load_weights(tmp_path / str(ema) / "detector") for ema in (0.0, 0.9)
    )
    means = [name for name in plain if name.endswith("running_mean")]
    assert means and not any(torch.equal(plain[name], averaged[name]) for name in means)
    counts = [name for name in plain if name.endswith("num_batches_tracked")]
    assert counts and all(torch.equal(plain[name], averaged[name]) for name in counts)


def test_averaging_changes_no_counter():
    """As whole numbers, averages of equal ones would lose one now and then."""
    model = nn.BatchNorm2d(3)
    model.num_batches_tracked += 255
    averaged = training.average_of(model, 0.96)
    for _ in range(300):
        averaged.update_parameters(model)
    assert averaged.module.num_batches_tracked == 255
