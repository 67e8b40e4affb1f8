import errno
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hpe_lib.workbook import artifacts, environment, locks, measurements
from hpe_lib.workbook.artifacts import BadInput

MADE_FROM = {
    "parameters": {"lr": 1e-3, "steps": (1, 2)},
    "data": "abc",
    "upstream": {"detector": "f00"},
}


@pytest.fixture
def folder(tmp_path):
    manifest = {**MADE_FROM, "seed": 1}
    history = [{"epoch": 1}, {"epoch": 2}]
    artifacts.save(tmp_path / "a", torch.nn.Linear(3, 2).state_dict(), manifest, history)
    return tmp_path / "a"


def test_bad_input_is_one_line_that_names_file_found_expected():
    assert (
        str(BadInput("a.jpg", "12 bytes\nof text", "an image"))
        == "a.jpg: found 12 bytes of text, expected an image"
    )


class Raises(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise BadInput("a.jpg", "nothing", "an image")


def test_bad_input_comes_out_of_a_worker_as_its_one_line():
    with pytest.raises(BadInput) as error:
        list(torch.utils.data.DataLoader(Raises(), num_workers=1))
    assert str(error.value) == "a.jpg: found nothing, expected an image"


def test_json_holds_arrays_and_turns_nan_into_null(tmp_path):
    value = {"a": torch.tensor([1.5, float("nan")]), "b": (tmp_path,), 3: float("inf")}
    artifacts.write_json(tmp_path / "x.json", value)
    assert json.loads((tmp_path / "x.json").read_text()) == {
        "a": [1.5, None],
        "b": [str(tmp_path)],
        "3": None,
    }


def test_json_holds_names_that_are_not_utf_8(tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    artifacts.write_json(tmp_path / "x.json", {name: "é"})
    assert artifacts.read_json(tmp_path / "x.json") == {name: "é"}
    assert (tmp_path / "x.json").read_text(encoding="utf-8")


def test_a_write_that_breaks_off_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    artifacts.write_json(path, 1)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError):
        artifacts.write_json(path, 2)
    assert artifacts.read_json(path) == 1 and os.listdir(tmp_path) == ["x.json"]


@pytest.mark.parametrize(
    "content, said",
    [
        (None, "no such file"),
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"\xff\xfe\x00", "UnicodeDecodeError"),
        (b'{"a": 1, "b": {"c": 2, "c": 3}}', "'c' twice"),
        (b'{"a": ' + 5000 * b"9" + b"}", "a number of 5000 digits"),
        (b"[9223372036854775808]", "a number of 19 digits"),
        (100_000 * b"[", "RecursionError"),
        (100_000 * b'{"a":', "RecursionError"),
        (b'"' + 200 * b"x" + b'"', "over"),
    ],
)
def test_unreadable_json_is_one_line(tmp_path, monkeypatch, content, said):
    if said == "over":
        monkeypatch.setattr(artifacts, "LARGEST_JSON", 100)
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInput, match=f"x.json: found .*{said}") as error:
        artifacts.read_json(path)
    assert len(str(error.value).splitlines()) == 1 and len(str(error.value)) < 300


def test_a_folder_is_no_json_file(tmp_path):
    with pytest.raises(BadInput, match="found Is a directory, expected a JSON file"):
        artifacts.read_json(tmp_path)


def test_a_byte_order_mark_and_the_largest_numbers_are_read(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": [-9223372036854775807, "\xc3\xa9", 1e-8]}')
    assert artifacts.read_json(path) == {"a": [1 - 2**63, "é", 1e-8]}


def test_saved_weights_come_back_with_all_the_manifest_promises(folder):
    kept = artifacts.manifest(folder)
    assert {
        "parameters",
        "data",
        "upstream",
        "seed",
        "versions",
        "commit",
        "machine",
        "peak_memory_mb",
    } <= set(kept)
    assert kept["weights_sha256"] == artifacts.file_hash(folder / "weights.safetensors")
    assert kept["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert 50 < kept["peak_memory_mb"] < 1e5
    assert set(artifacts.load_weights(folder)) == {"weight", "bias"}
    assert [
        json.loads(line)["epoch"] for line in (folder / "history.jsonl").read_text().splitlines()
    ] == [1, 2]


def test_tied_and_strided_tensors_can_be_saved(tmp_path):
    tensor = torch.arange(6.0).reshape(2, 3)
    artifacts.save(tmp_path, {"a": tensor, "b": tensor, "c": tensor.T}, {})
    assert torch.equal(artifacts.load_weights(tmp_path)["c"], tensor.T)


def test_a_matching_artifact_is_reused(folder):
    assert artifacts.differences(folder, MADE_FROM) == []


@pytest.mark.parametrize(
    "change, said",
    [
        ({"parameters": {"lr": 1e-4, "steps": [1, 2]}}, "lr was 0.001, is 0.0001"),
        ({"parameters": {"lr": 1e-3}}, "steps was [1, 2], is absent"),
        ({"parameters": {**MADE_FROM["parameters"], "flip": True}}, "flip was absent, is True"),
        ({"data": "abd"}, "data was abc, is abd"),
        ({"upstream": {"detector": "f01"}}, "detector was f00"),
    ],
)
def test_what_differs_is_said(folder, change, said):
    reasons = artifacts.differences(folder, {**MADE_FROM, **change})
    assert len(reasons) == 1 and said in reasons[0]


def test_half_an_artifact_is_absent_and_a_damaged_one_is_not_reused(folder):
    weights = folder / "weights.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + b"\x01")
    assert "not the file" in artifacts.differences(folder, MADE_FROM)[0]
    with pytest.raises(BadInput, match="sha256"):
        artifacts.load_weights(folder)
    weights.unlink()
    assert "not the file" in artifacts.differences(folder, MADE_FROM)[0]
    with pytest.raises(BadInput, match="no such file"):
        artifacts.load_weights(folder)
    weights.write_bytes(content)
    (folder / "manifest.json").write_text("{")
    assert "its manifest.json: found JSONDecodeError" in artifacts.differences(folder, MADE_FROM)[0]
    (folder / "manifest.json").unlink()
    assert artifacts.differences(folder, MADE_FROM) == ["absent"]
    with pytest.raises(BadInput, match="manifest.json"):
        artifacts.load_weights(folder)


def test_saving_over_an_artifact_leaves_none_when_it_breaks_off(folder, monkeypatch):
    monkeypatch.setattr(
        artifacts, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        artifacts.save(folder, torch.nn.Linear(3, 2).state_dict(), MADE_FROM)
    assert artifacts.differences(folder, MADE_FROM) == ["absent"]


def test_weights_of_another_architecture_are_one_line_and_change_nothing(folder):
    module = torch.nn.Linear(4, 2)
    before = module.weight.clone()
    with pytest.raises(BadInput) as error:
        artifacts.load_into(module, folder)
    assert "weights.safetensors" in str(error.value) and "weight 2x3 instead of 2x4" in str(
        error.value
    )
    assert torch.equal(module.weight, before)
    assert torch.equal(
        artifacts.load_into(torch.nn.Linear(3, 2), folder).bias,
        artifacts.load_weights(folder)["bias"],
    )


def test_a_prefix_picks_one_network_out_of_several(tmp_path):
    layer = torch.nn.Linear(3, 2)
    tensors = {
        f"{name}.{key}": value for name in ("a", "b") for key, value in layer.state_dict().items()
    }
    artifacts.save(tmp_path, tensors, {})
    assert torch.equal(
        artifacts.load_into(torch.nn.Linear(3, 2), tmp_path, "a.").weight, layer.weight
    )
    with pytest.raises(BadInput, match="absent"):
        artifacts.load_into(layer, tmp_path, "c.")


# ---- what binds a manifest and its weights to each other


def edited(folder, path, value, forged=False):
    """The manifest with one entry changed by a text editor or, forged, with its hash made anew."""
    found = artifacts.read_json(folder / "manifest.json")
    *outer, last = path
    inner = found
    for name in outer:
        inner = inner[name]
    inner[last] = value
    (artifacts.write_manifest if forged else plainly)(folder, found)
    return found


def plainly(folder, found):
    artifacts.write_json(folder / "manifest.json", found)


def repacked(folder, content):
    """Other bytes as the weights of a folder, which its manifest is made to agree with."""
    (folder / "weights.safetensors").write_bytes(content)
    sha = artifacts.file_hash(folder / "weights.safetensors")
    edited(folder, ["weights_sha256"], sha, forged=True)


def retyped(folder, change):
    """The folder's tensors changed by a function, with all hashes right."""
    tensors = artifacts.load_weights(folder)
    artifacts.save(folder, change(tensors), {**MADE_FROM, "seed": 1})


@pytest.mark.parametrize(
    "path, value",
    [
        (["seed"], 2),
        (["parameters", "lr"], 2e-3),
        (["upstream", "detector"], "f01"),
        (["written"], "yesterday"),
        (["note"], "one entry more"),
    ],
)
def test_a_manifest_edited_by_hand_is_noticed(folder, path, value):
    edited(folder, path, value)
    with pytest.raises(BadInput, match="manifest.json: found entries changed by hand"):
        artifacts.manifest(folder)
    with pytest.raises(BadInput, match="manifest.json: found entries changed by hand"):
        artifacts.load_weights(folder)
    assert artifacts.differences(folder, MADE_FROM) == [
        "its manifest.json: found entries changed by hand"
    ]


def test_a_manifest_without_its_own_hash_is_that_of_no_weights(folder):
    found = artifacts.read_json(folder / "manifest.json")
    del found["manifest_sha256"]
    plainly(folder, found)
    with pytest.raises(BadInput, match="no manifest_sha256"):
        artifacts.load_weights(folder)
    assert "no manifest_sha256" in artifacts.differences(folder, MADE_FROM)[0]


def test_another_layout_of_the_same_manifest_is_no_edit(folder):
    path = folder / "manifest.json"
    path.write_text(json.dumps(dict(reversed(artifacts.read_json(path).items()))))
    assert artifacts.load_weights(folder) and artifacts.differences(folder, MADE_FROM) == []


@pytest.mark.parametrize(
    "path, value",
    [
        (["parameters", "lr"], 2e-3),
        (["data"], "abd"),
        (["network"], {"trunk": "a", "map_stride": 4}),
    ],
)
def test_weights_know_what_they_were_made_from(folder, path, value):
    """A manifest whose own hash was made anew, too, still does not fit its weights."""
    made_from = {**MADE_FROM, **edited(folder, path, value, forged=True)}
    with pytest.raises(BadInput, match="manifest.json: found another network, people or para"):
        artifacts.load_weights(folder)
    wanted = {name: made_from[name] for name in MADE_FROM}
    assert artifacts.differences(folder, wanted) == [
        "weights.safetensors was not made from what its manifest says"
    ]


def test_the_same_weights_from_the_same_have_the_same_hash(tmp_path):
    """What a run took and when does not enter: later stages are not made anew for it."""
    for name, seconds in (("a", 1.0), ("b", 2.0)):
        made = {**MADE_FROM, "wall_seconds": seconds, "settings": {"workers": int(seconds)}}
        artifacts.save(tmp_path / name, {"x": torch.ones(3)}, made)
    one, other = (artifacts.manifest(tmp_path / name)["weights_sha256"] for name in "ab")
    assert one == other


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(folder, value):
    def spoil(tensors):
        tensors["bias"][1] = value
        return tensors

    retyped(folder, spoil)
    with pytest.raises(BadInput, match="NaN or infinity in 1 tensors, first bias, expected numb"):
        artifacts.load_into(torch.nn.Linear(3, 2), folder)


def test_numbers_too_large_for_single_precision_are_not_finite(folder):
    retyped(folder, lambda tensors: {k: v.double() + 1e300 for k, v in tensors.items()})
    with pytest.raises(BadInput, match="NaN or infinity in 2 tensors"):
        artifacts.load_into(torch.nn.Linear(3, 2), folder)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_of_another_width_are_cast(folder, kind):
    before = artifacts.load_weights(folder)
    retyped(folder, lambda tensors: {k: v.to(kind) for k, v in tensors.items()})
    layer = artifacts.load_into(torch.nn.Linear(3, 2), folder)
    assert layer.weight.dtype == torch.float32
    assert torch.allclose(layer.weight, before["weight"], atol=1e-2)


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda t: t | {"bias": t["bias"].long()}, "bias 2 torch.int64 instead of 2"),
        (lambda t: t | {"bias": t["bias"] > 0}, "bias 2 torch.bool instead of 2"),
        (lambda t: t | {"more": t["bias"]}, "more 2 instead of absent"),
        (lambda t: {"bias": t["bias"]}, "weight absent instead of 2x3"),
        (lambda t: t | {"bias": t["bias"][:1]}, "bias 1 instead of 2"),
        (lambda t: {}, "2 tensors that do not fit"),
    ],
)
def test_tensors_of_another_kind_number_or_shape_are_one_line(folder, change, said):
    retyped(folder, change)
    with pytest.raises(BadInput, match=said) as error:
        artifacts.load_into(torch.nn.Linear(3, 2), folder)
    assert "\n" not in str(error.value) and "weights.safetensors" in str(error.value)


def header(text, behind=b""):
    return len(text).to_bytes(8, "little") + text + behind


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x01",
        (2**63).to_bytes(8, "little") + b"{}",  # a header of 9 EiB
        (90 * 10**6).to_bytes(8, "little") + b"{}",
        header(b"{"),
        header(b"[]"),
        header(100_000 * b"["),
        header(b'{"bias":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(4)),
        header(b'{"bias":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(99)),
        header(b'{"bias":{"dtype":"F32","shape":[9999999999999],"data_offsets":[0,8]}}', bytes(8)),
        header(b'{"bias":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}', bytes(8)),
        header(b'{"bias":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}', bytes(8)),
        header(b'{"bias":{"dtype":"F31","shape":[2],"data_offsets":[0,8]}}', bytes(8)),
        header(b'{"bias":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8)),
    ],
)
def test_what_is_no_safetensors_file_is_one_line(folder, content):
    """The last is one, but does not say what it was made from."""
    repacked(folder, content)
    with pytest.raises(BadInput, match="weights.safetensors|manifest.json") as error:
        artifacts.load_weights(folder)
    assert "\n" not in str(error.value)
    assert len(artifacts.differences(folder, MADE_FROM)) == 1


def test_a_file_too_large_to_be_weights_is_not_read(folder):
    with open(folder / "weights.safetensors", "r+b") as file:
        file.truncate(5 * 2**30)  # a hole: nothing is written
    with pytest.raises(BadInput, match=f"found {5 * 2**30} bytes, expected {4 * 2**30} at most"):
        artifacts.load_weights(folder)


# ---- records and numbers


RECORD = {
    "stage": "joint",
    "epoch": 1,
    "epochs": 2,
    "loss": 0.5,
    "lr": 1e-3,
    "seconds": 1.5,
    "images_per_second": 90.0,
    "peak": 0.01,
    "PCKh@0.5": None,
}


def test_history_is_read_line_by_line_and_what_is_broken_is_left_out_with_a_word(tmp_path, capsys):
    assert artifacts.read_history(tmp_path) == []
    good = json.dumps(RECORD)
    later = json.dumps(RECORD | {"epoch": 2, "warning": "w"})
    broken = [
        good[:20],
        "7",
        "[]",
        "",
        json.dumps(RECORD | {"loss": "low"}),
        good[:-1] + ', "lr": 2}',
    ]
    lines = [good, *broken, later, good[:9]]  # the last has no end: it is just being written
    (tmp_path / "history.jsonl").write_bytes("\n".join(lines).encode() + b"")
    found = artifacts.read_history(tmp_path)
    said = capsys.readouterr().out.splitlines()
    assert found == [RECORD, RECORD | {"epoch": 2, "warning": "w"}]
    assert [line.partition(": ")[2].split()[1] for line in said] == ["2", "3", "4", "5", "6", "7"]
    assert artifacts.read_history(tmp_path) == found
    (tmp_path / "history.jsonl").write_bytes(b"")
    assert artifacts.read_history(tmp_path) == []


def test_metrics_are_read_as_they_are_or_refused(tmp_path):
    value = {
        "metric": "PCKh@0.5",
        "cascade": {"total": None, "head": 3.5},
        "more": {"a": [1, None]},
    }
    artifacts.write_json(tmp_path / "metrics.json", value)
    assert measurements.read(tmp_path) == value
    for wrong, said in (({"cascade": {"total": "high"}}, "cascade.total 'high'"), ([], "metrics")):
        artifacts.write_json(tmp_path / "metrics.json", wrong)
        with pytest.raises(BadInput, match=f"metrics.json: found {said}"):
            measurements.read(tmp_path)


# ---- one at a time; numbers by notebook


def test_a_folder_is_held_by_one_process_at_a_time(tmp_path):
    out = tmp_path / "x"
    with locks.lock(out):
        (out / "kept").touch()
        with locks.lock(out):  # whoever holds it may take it again
            pass
        locks.HELD.clear()  # from here on as if another process asked
        with pytest.raises(BadInput) as refused, locks.lock(out):
            pass
        assert str(refused.value).startswith(f"{out}: found another process")
    with locks.lock(out):
        pass
    assert os.listdir(out) == ["kept"], "the lock's file goes with the lock"


KILLED = """
import os, sys, time
from hpe_lib.workbook import locks
held = locks.lock(sys.argv[1])
held.__enter__()
read, write = os.pipe()
worker = os.fork()
if not worker:
    os.write(write, b"x")
    time.sleep(60)
os.read(read, 1)
print(worker, flush=True)
os._exit(9)
"""


def test_a_worker_that_outlives_a_killed_training_does_not_keep_its_folder_locked(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as training:
        worker = int(training.stdout.readline())
        training.wait()
        try:
            with locks.lock(tmp_path):
                os.kill(worker, 0)
        finally:
            os.kill(worker, signal.SIGKILL)


def test_a_folder_that_nothing_was_written_to_goes_again(tmp_path):
    with pytest.raises(ValueError), locks.lock(tmp_path / "x"):
        raise ValueError
    assert not (tmp_path / "x").exists()
    (tmp_path / "mine").mkdir()
    with locks.lock(tmp_path / "mine"):
        pass
    assert (tmp_path / "mine").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="a folder to write to"), locks.lock(tmp_path / "file"):
        pass


def test_a_file_of_a_lock_s_name_keeps_what_a_person_wrote_into_it(tmp_path):
    (tmp_path / ".lock").write_text("mine")
    with pytest.raises(ValueError), locks.lock(tmp_path):
        raise ValueError
    assert (tmp_path / ".lock").read_text() == "mine"


def test_a_lock_whose_file_was_removed_while_it_was_waited_for_is_taken_anew(tmp_path, monkeypatch):
    """Else two processes would hold a folder: one the file that is gone, one the file that is."""
    path = tmp_path / ".lock"
    try_lock = locks.try_lock
    tries = []

    def removed_meanwhile(file):
        tries.append(file)
        if len(tries) == 1:
            path.rename(tmp_path / "gone")
            path.touch()
        return try_lock(file)

    monkeypatch.setattr(locks, "try_lock", removed_meanwhile)
    with locks.lock(tmp_path):
        assert len(tries) == 2 and locks.HELD[path.resolve()] is tries[1]
        assert os.path.samestat(os.fstat(tries[1].fileno()), path.stat())


def test_where_no_locks_are_kept_every_folder_is_free(tmp_path, monkeypatch):
    import errno
    import fcntl

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locks.lock(tmp_path), locks.lock(tmp_path):
        pass


def test_a_notebook_run_again_leaves_what_the_others_have_measured(tmp_path):
    measurements.write(tmp_path, "05", {"cascade": {"total": 1.0}, "floors": 2})
    measurements.write(tmp_path, "07", {"comparison": 3})
    measurements.write(tmp_path, "06", {"ablation": float("nan")})
    together = measurements.write(tmp_path, "05", {"cascade": {"total": 9.0}})
    wanted = {"cascade": {"total": 9.0}, "ablation": None, "comparison": 3}
    assert together == artifacts.read_json(tmp_path / "metrics.json") == wanted
    assert artifacts.read_json(tmp_path / "metrics" / "05.json") == {"cascade": {"total": 9.0}}
    artifacts.write_json(tmp_path / "metrics" / "06.json", ["edited"])
    together = measurements.write(tmp_path, "05", {"floors": 2})
    assert together == {"floors": 2, "comparison": 3}, "the edited file is left out"


@pytest.mark.parametrize(
    "given, rank",
    [
        ({}, 0),
        ({"RANK": "1"}, 0),
        ({"RANK": ""}, 0),
        ({"LOCAL_RANK": "0"}, 0),
        ({"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}, 0),
        ({"TORCHELASTIC_RUN_ID": "none", "RANK": "1"}, 0),
    ],
)
def test_variables_that_torchrun_has_not_set_are_no_rank_and_go(monkeypatch, given, rank):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert environment.torchrun_rank() == rank
    assert not {"RANK", "LOCAL_RANK", "WORLD_SIZE"} & os.environ.keys()


def test_torchrun_s_processes_know_their_rank(monkeypatch):
    given = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "none"}
    for name, value in (given | {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}).items():
        monkeypatch.setenv(name, value)
    assert environment.torchrun_rank() == 3 and os.environ["LOCAL_RANK"] == "1"


# ---- numbers, and what they rest on


def measured(out, weights="a", people="b"):
    """A run's people and detector, as far as the numbers of notebooks rest on them."""
    (out / "data").mkdir(parents=True, exist_ok=True)
    hashes = {"train": "0" * 64, "val": people * 64}
    artifacts.write_manifest(out / "data", {"kind": "data", "fingerprints": hashes})
    artifacts.write_manifest(out / "detector", {"kind": "detector", "weights_sha256": weights * 64})


def test_numbers_of_other_people_or_weights_are_left_out(tmp_path, capsys):
    measured(tmp_path)
    measurements.write(tmp_path, "03", {"found": 1})
    measurements.write(tmp_path, "07", {"compared": 2})
    assert measurements.read(tmp_path) == {"found": 1, "compared": 2}
    measured(tmp_path, weights="c")
    assert measurements.read(tmp_path) == {}, "both were of other weights"
    assert measurements.write(tmp_path, "03", {"found": 3}) == {"found": 3}
    assert "07.json: of other people, weights" in capsys.readouterr().out
    measurements.write(tmp_path, "07", {"compared": 4})
    assert measurements.read(tmp_path) == {"found": 3, "compared": 4}
    measured(tmp_path, weights="c", people="d")
    assert measurements.write(tmp_path, "03", {"found": 5}) == {"found": 5}


def test_numbers_read_by_another_decoder_or_flip_test_are_left_out(tmp_path, capsys):
    measured(tmp_path)
    weights = {"kind": "joint", "weights_sha256": "f" * 64}
    read = {"decoder": "parabola", "flip_test": True}
    artifacts.write_manifest(tmp_path / "cascade", weights | {"settings": read})
    for number in ("03", "06"):
        measurements.write(tmp_path, number, {f"of {number}": 1})
    artifacts.write_manifest(
        tmp_path / "cascade", weights | {"settings": read | {"flip_test": False}}
    )
    assert measurements.read(tmp_path) == {"of 03": 1}
    assert "06.json: of other people, weights, decoder or flip" in capsys.readouterr().out


def test_a_number_that_is_needed_is_missed_in_one_line(tmp_path):
    measurements.write(tmp_path, "03", {"found": 1})
    assert measurements.read(tmp_path, needed="found") == {"found": 1}
    with pytest.raises(
        BadInput, match="metrics.json: found no 'cascade', expected that of this run"
    ):
        measurements.read(tmp_path, needed="cascade")


def test_an_earlier_notebook_s_numbers_do_not_rest_on_later_weights(tmp_path):
    measurements.write(tmp_path, "02", {"targets": 1})
    artifacts.write_manifest(tmp_path / "detector", {"weights_sha256": "a" * 64})
    assert measurements.write(tmp_path, "03", {"found": 2}) == {"targets": 1, "found": 2}


def test_numbers_changed_by_hand_are_not_published(tmp_path, capsys):
    measurements.write(tmp_path, "05", {"total": 50.0})
    file = tmp_path / "metrics" / "05.json"
    file.write_text(file.read_text().replace("50.0", "99.9"))
    assert measurements.write(tmp_path, "07", {"place": 1}) == {"place": 1}
    assert "05.json: changed since" in capsys.readouterr().out
    together = tmp_path / "metrics.json"
    together.write_text(together.read_text().replace("1", "2"))
    assert measurements.read(tmp_path) == {"place": 1}
    assert "not what the notebooks have written" in capsys.readouterr().out
    (tmp_path / "metrics" / "manifest.json").unlink()
    assert measurements.read(tmp_path) == {}, "nothing says that they were not changed"


@pytest.mark.parametrize("damage", ["", "{}", "[]", '{"kind": "stage'])
def test_a_damaged_manifest_costs_the_numbers_that_rest_on_it(tmp_path, damage):
    measured(tmp_path)
    for number, name in (("02", "targets"), ("05", "floors")):
        measurements.write(tmp_path, number, {name: 1})
    artifacts.write_manifest(tmp_path / "cascade", {"weights_sha256": "e" * 64})
    measurements.write(tmp_path, "05", {"floors": 2})
    (tmp_path / "cascade" / "manifest.json").write_text(damage)
    assert measurements.write(tmp_path, "02", {"targets": 3}) == {"targets": 3}
    (tmp_path / "metrics" / "manifest.json").write_text(damage)
    if damage:
        with pytest.raises(BadInput, match="has not written"):
            measurements.write(tmp_path, "02", {"targets": 4})
        assert artifacts.read_json(tmp_path / "metrics" / "02.json") == {"targets": 3}
    else:
        assert measurements.write(tmp_path, "02", {"targets": 4}) == {"targets": 4}


def test_what_is_far_too_large_is_not_read(tmp_path):
    for name in ("manifest.json", "history.jsonl"):
        with open(tmp_path / name, "wb") as file:
            file.truncate(2**31)
    with pytest.raises(BadInput, match="over 8 MiB"):
        artifacts.manifest(tmp_path)
    assert artifacts.read_history(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with a name here")
def test_nothing_waits_for_the_other_end_of_a_pipe(tmp_path):
    for name in ("manifest.json", "weights.safetensors", "checkpoint.pt", ".x.lock"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(BadInput) as error:
        artifacts.read_json(tmp_path / "manifest.json")
    assert str(error.value).endswith("found a pipe or a device, expected a JSON file")
    for write in (artifacts.refuse_foreign_stage, artifacts.refuse_foreign_manifest):
        with pytest.raises(BadInput, match="has not written"):
            write(tmp_path)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(BadInput, match="weights.safetensors: found a file that this program"):
        artifacts.refuse_foreign_stage(tmp_path)
    with pytest.raises(OSError), locks.lock(tmp_path, ".x.lock"):
        pass
    assert (tmp_path / ".x.lock").is_fifo()


def test_only_a_stage_s_lock_says_that_it_is_trained(tmp_path):
    os.mkfifo(tmp_path / ".x.lock")
    (tmp_path / ".detector.lock").mkdir()
    (tmp_path / ".cascade.lock").symlink_to(tmp_path / "nowhere")
    locks.check_idle(tmp_path)


def test_a_manifest_of_somebody_else_is_not_replaced(tmp_path):
    theirs = tmp_path / "manifest.json"
    theirs.write_text('{"name": "my app"}')
    for write in (artifacts.write_manifest, lambda out, made: artifacts.save(out, {}, made)):
        with pytest.raises(BadInput, match="has not written"):
            write(tmp_path, {"kind": "run"})
    assert theirs.read_text() == '{"name": "my app"}'
    for damage in (
        '{\n"kind": 1\n"manifest_sha256": ',
        "",
    ):  # what a fault of the disk has left of ours
        theirs.write_text(damage)
        artifacts.write_manifest(tmp_path, {"kind": "run"})


@pytest.mark.parametrize(
    "content",
    ['{"a": 1}\n{"a": 2}\n', '{"a": 1} // mine', '{"a": 12345678901234567890}', " " * 9 * 2**20],
    ids=["lines", "comment", "digits", "large"],
)
def test_a_manifest_that_cannot_be_read_is_somebody_else_s(tmp_path, content):
    theirs = tmp_path / "manifest.json"
    theirs.write_text(content)
    for write in (artifacts.write_manifest, lambda out, made: artifacts.save(out, {}, made)):
        with pytest.raises(BadInput, match="manifest.json: found a file that this program has not"):
            write(tmp_path, {"kind": "run"})
    assert theirs.read_text() == content


def theirs(folder, name):
    """Somebody else's file of a name that a training writes."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {"layer.weight": torch.ones(2)}
    if name == "weights.safetensors":
        save_file(tensors, path)
    elif name == "checkpoint.pt":
        torch.save(tensors, path)
    else:
        path.write_text('{"epoch": 1}\n')
    return path


THEIRS = ["weights.safetensors", "checkpoint.pt", "history.jsonl", "watched/0001.npz"]


@pytest.mark.parametrize("name", THEIRS)
def test_a_training_replaces_no_file_of_somebody_else(tmp_path, name):
    path = theirs(tmp_path, name)
    before = path.read_bytes()
    with pytest.raises(BadInput, match=f"{name}: found a file that this program has not written"):
        artifacts.save(tmp_path, {}, {"kind": "detector"}, [])
    assert path.read_bytes() == before and not (tmp_path / "manifest.json").exists()


def test_watched_maps_show_a_stage_and_empty_files_hold_nothing(tmp_path):
    """What is left where somebody, or a kill, has removed the others."""
    artifacts.write_bytes(tmp_path / "history.jsonl", b"")
    artifacts.save(tmp_path, {}, {"kind": "detector"}, [])
    maps = tmp_path / "watched" / "0001.npz"
    maps.parent.mkdir()
    np.savez(maps, crops=np.zeros(1), maps=np.zeros(1))
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "weights.safetensors").write_bytes(b"cut")
    artifacts.refuse_foreign_stage(tmp_path)
    maps.unlink()
    with pytest.raises(BadInput, match="weights.safetensors: found a file that this program"):
        artifacts.refuse_foreign_stage(tmp_path)


@pytest.mark.parametrize("name", THEIRS[:2])
def test_weights_that_a_person_has_put_into_a_stage_s_folder_are_theirs(tmp_path, name):
    artifacts.save(tmp_path, {}, {"kind": "detector"}, [])
    before = theirs(tmp_path, name).read_bytes()
    with pytest.raises(BadInput, match=f"{name}: found a file that this program has not written"):
        artifacts.save(tmp_path, {}, {"kind": "detector"}, [])
    assert (tmp_path / name).read_bytes() == before


@pytest.mark.parametrize("name", ["manifest.json", *THEIRS])
def test_a_stage_s_damaged_file_is_replaced(tmp_path, name):
    artifacts.save(tmp_path, {"weight": torch.ones(2)}, {"kind": "detector"}, [])
    theirs(tmp_path, name).write_bytes(b"\x07" * 99)
    artifacts.save(tmp_path, {"weight": torch.zeros(2)}, {"kind": "detector"}, [])
    assert artifacts.load_weights(tmp_path)["weight"].tolist() == [0, 0]


def test_a_name_may_be_as_long_as_the_system_lets_it(tmp_path):
    path = tmp_path / ("x" * 250 + ".json")
    artifacts.write_json(path, 1)
    assert artifacts.read_json(path) == 1 and len(os.listdir(tmp_path)) == 1
    with pytest.raises(OSError) as refused:
        artifacts.write_json(tmp_path / ("x" * 300), 1)
    assert refused.value.filename == str(tmp_path / ("x" * 300)), "not the file beside it"


def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path):
    (tmp_path / "link.json").symlink_to(tmp_path / "elsewhere.json")
    artifacts.write_json(tmp_path / "link.json", 1)
    assert (tmp_path / "link.json").is_symlink()
    assert artifacts.read_json(tmp_path / "elsewhere.json") == 1


def test_files_that_belong_together_all_stay_where_the_disk_is_full(tmp_path, monkeypatch):
    files = {tmp_path / name: b"old" for name in ("a", "b")}
    artifacts.write_files(files)
    synced = []

    def fsync(number):
        synced.append(number)
        if len(synced) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left"):
        artifacts.write_files(dict.fromkeys(files, b"new"))
    assert {path.read_bytes() for path in files} == {b"old"}
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_a_name_of_many_bytes_is_written(tmp_path):
    path = tmp_path / ("🦊" * 60)
    artifacts.write_bytes(path, b"whole")
    assert path.read_bytes() == b"whole"


def test_files_that_belong_together_all_stay_where_one_has_too_long_a_name(tmp_path):
    files = {tmp_path / name: b"new" for name in ("a", "x" * 300)}
    with pytest.raises(OSError, match="name too long"):
        artifacts.write_files(files)
    assert os.listdir(tmp_path) == []


def test_a_kept_command_names_no_folder_of_this_machine(monkeypatch):
    given = ["evaluate", "--data", "lspet", "--data-root", "data", "--keep", "data"]
    wanted = "hpe evaluate --data lspet --data-root DIR --keep data"
    monkeypatch.setattr(sys, "argv", ["/somewhere/hpe", *given])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    assert environment.command(hidden="--data-root") == wanted
    monkeypatch.setattr(sys, "argv", ["/somewhere/hpe", "evaluate", "--data-root=data"])
    assert environment.command(hidden="--data-root") == "hpe evaluate --data-root=DIR"
