import json
import os

import pytest
import torch

from hpe_lib import artifacts
from hpe_lib.artifacts import BadInput

MADE_FROM = {
    "parameters": {"lr": 1e-3, "steps": (1, 2)},
    "data": "abc",
    "upstream": {"detector": "f00"},
}


@pytest.fixture
def folder(tmp_path):
    manifest, history = {**MADE_FROM, "seed": 1}, [{"epoch": 1}, {"epoch": 2}]
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


def test_a_write_that_breaks_off_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    artifacts.write_json(path, 1)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError):
        artifacts.write_json(path, 2)
    assert artifacts.read_json(path) == 1 and os.listdir(tmp_path) == ["x.json"]


@pytest.mark.parametrize("content", [None, "{", b"\xff\xfe\x00"])
def test_unreadable_json_is_bad_input(tmp_path, content):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadInput, match="x.json"):
        artifacts.read_json(path)


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
    assert artifacts.differences(folder, MADE_FROM) == ["its manifest is unreadable"]
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


# ---- one at a time; numbers by notebook


def test_a_folder_is_held_by_one_process_at_a_time(tmp_path):
    out = tmp_path / "x"
    with artifacts.lock(out):
        (out / "kept").touch()
        with pytest.raises(BadInput) as refused, artifacts.lock(out):
            pass
        assert str(refused.value).startswith(f"{out}: found another process")
    with artifacts.lock(out):
        pass
    assert (out / "kept").exists()


def test_a_folder_that_nothing_was_written_to_goes_again(tmp_path):
    with pytest.raises(ValueError), artifacts.lock(tmp_path / "x"):
        raise ValueError
    assert not (tmp_path / "x").exists()
    (tmp_path / "mine").mkdir()
    with artifacts.lock(tmp_path / "mine"):
        pass
    assert (tmp_path / "mine").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="a folder to write to"), artifacts.lock(tmp_path / "file"):
        pass


def test_where_no_locks_are_kept_every_folder_is_free(tmp_path, monkeypatch):
    import errno
    import fcntl

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with artifacts.lock(tmp_path), artifacts.lock(tmp_path):
        pass


def test_a_notebook_run_again_leaves_what_the_others_have_measured(tmp_path):
    artifacts.write_metrics(tmp_path, "05", {"cascade": {"total": 1.0}, "floors": 2})
    artifacts.write_metrics(tmp_path, "07", {"comparison": 3})
    artifacts.write_metrics(tmp_path, "06", {"ablation": float("nan")})
    together = artifacts.write_metrics(tmp_path, "05", {"cascade": {"total": 9.0}})
    wanted = {"cascade": {"total": 9.0}, "ablation": None, "comparison": 3}
    assert together == artifacts.read_json(tmp_path / "metrics.json") == wanted
    assert artifacts.read_json(tmp_path / "metrics" / "05.json") == {"cascade": {"total": 9.0}}


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
    assert artifacts.torchrun_rank() == rank
    assert not {"RANK", "LOCAL_RANK", "WORLD_SIZE"} & os.environ.keys()


def test_torchrun_s_processes_know_their_rank(monkeypatch):
    given = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "none"}
    for name, value in (given | {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}).items():
        monkeypatch.setenv(name, value)
    assert artifacts.torchrun_rank() == 3 and os.environ["LOCAL_RANK"] == "1"
