"""What all tests share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True, scope="session")
def few_threads():
    """Two threads: the tests' tensors are too small to gain from more, and they share the machine."""
    import torch

    torch.set_num_threads(2)


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory):
    """Where drawn people are kept while the tests run: not in the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HPE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def readers(monkeypatch):
    """Annotation files are read in this process, half a second faster a file; test_reading has the child's."""
    from hpe_lib.data import reading

    monkeypatch.setattr(reading, "_in_child", reading.attempt)


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
    """24 drawn people of 128 px."""
    from hpe_lib.data.datasets import load_people

    return load_people("synthetic", "", "1-24", 128, cache=tmp_path_factory.mktemp("drawn"))


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory):
    """The notebooks, all cells, in order, into one folder, with the preset `smoke`."""
    from hpe_lib.workbook import reproduce

    out = tmp_path_factory.mktemp("runs") / "smoke"
    reproduce.run("smoke", out)
    return out


@pytest.fixture
def notebook(tmp_path):
    """notebook("03_train", parameters, *cells) writes a small notebook into a folder and returns the folder."""
    import nbformat

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
