"""What all tests share."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WORKER = os.environ.get("PYTEST_XDIST_WORKER")  # of several processes that share the tests: gw0, …
if WORKER:
    os.environ["OMP_NUM_THREADS"] = "1"  # in what the tests start, too


@pytest.fixture(autouse=True, scope="session")
def few_threads():
    """The tests' tensors are too small for many threads to help, and workers share the machine."""
    import torch

    torch.set_num_threads(1 if WORKER else 2)


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory):
    """Where synthetic people are kept while the tests run: not in the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HPE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def readers(monkeypatch):
    """Annotation files are read in this process, which saves half a second a file.

    test_reading tests the child process.
    """
    from hpe_lib.data import reading

    monkeypatch.setattr(reading, "_in_child", reading.attempt)


@pytest.fixture(autouse=True)
def own_folder(monkeypatch, tmp_path):
    """Every test runs in a folder of its own: names without a folder are never shared."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def one_thread():
    """These networks are so small that a second thread only waits."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def test_data():
    """The folder of real data (lspet/, lsp/, mpii/), which is not part of this repository."""
    folder = os.environ.get("HPE_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip(
            "HPE_TEST_DATA is not set to a folder that holds lspet/joints.mat and lspet/images/"
        )
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def lspet(test_data):
    """The 9,000 real people of LSPET."""
    from hpe_lib.data.datasets import load_people

    return load_people("lspet", test_data / "lspet", "1-9000")


@pytest.fixture
def lspet_folder(tmp_path):
    """An LSPET folder of five made people, small and whole; one of them lacks a joint."""
    import numpy as np
    from lspet_files import write_lspet

    joints = np.random.default_rng(0).uniform(5, 25, (14, 3, 5))
    joints[:, 2] = 1
    joints[3, :, 1] = -4, -9, 0
    write_lspet(tmp_path, joints)
    return tmp_path


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """24 synthetic people of 128 px."""
    from hpe_lib.data.datasets import load_people

    return load_people("synthetic", "", "1-24", 128, cache=tmp_path_factory.mktemp("drawn"))


@pytest.fixture(autouse=True, scope="session")
def smoke_process(request, cache, tmp_path_factory):
    """The folder of `hpe reproduce --preset smoke`, which is begun at once if a test needs it,
    beside the first tests, as it takes minutes. Of several workers the first begins it.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if WORKER else base) / "smoke"
    needed = any("smoke_run" in item.fixturenames for item in request.session.items)
    if not needed or WORKER not in (None, "gw0"):
        yield folder
        return
    folder.mkdir()
    command = (
        '"$0" -m hpe_lib reproduce --preset smoke --out "$1/run" > "$1/said" 2>&1; '
        'echo $? > "$1/status"'
    )
    words = ["bash", "-c", command, sys.executable, folder]
    with subprocess.Popen(words, cwd=ROOT, start_new_session=True) as process:
        yield folder
        if WORKER and not request.session.shouldstop:  # another worker may still wait for it
            process.wait(600)
        if process.poll() is None:  # the tests ended early
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="session")
def smoke_run(smoke_process):
    """The notebooks, all cells, in order, into one folder, with the preset `smoke`."""
    status = smoke_process / "status"
    deadline = time.monotonic() + 600
    while not (status.is_file() and status.read_text().strip()):
        assert time.monotonic() < deadline, "the smoke run has not ended"
        time.sleep(0.2)
    assert status.read_text().strip() == "0", (smoke_process / "said").read_text()
    return smoke_process / "run"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Tests of the smoke run come last: by then it is there. Of several workers one runs them all,
    and a file's tests stay together for what they share.
    """
    items.sort(key=lambda item: "smoke_run" in item.fixturenames)
    for item in items:
        group = "smoke" if "smoke_run" in item.fixturenames else item.path.stem
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """notebook("03_train", parameters, *cells) writes a small notebook and returns its folder,
    which is where notebooks are looked for.
    """
    import nbformat

    from hpe_lib.workbook import presets

    monkeypatch.setattr(presets, "NOTEBOOKS", tmp_path / "notebooks")

    def write(name, parameters, *cells):
        made = [
            nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
            *map(nbformat.v4.new_code_cell, cells),
        ]
        folder = tmp_path / "notebooks"
        (folder / "presets").mkdir(parents=True, exist_ok=True)
        nbformat.write(nbformat.v4.new_notebook(cells=made), folder / f"{name}.ipynb")
        return folder

    return write
