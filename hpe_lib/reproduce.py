"""The notebooks without a person: papermill, one after the other, into a run folder."""

import contextlib
import json
import logging
import os
import re
import shlex
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import nbformat
import papermill
import psutil
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError, strip_color

from hpe_lib import artifacts, presets, report
from hpe_lib.artifacts import BadInput, one_line

WIDGET = "application/vnd.jupyter.widget-view+json"


class CellFailed(Exception):
    """A notebook's cell raised, or its kernel died: one line that says which and what."""


def run(preset, out, overrides=(), start=None, only=None, fresh=False, notebooks=presets.NOTEBOOKS):
    """Execute the notebooks in order with their parameters into the folder `out`; returns the run's manifest.

    start, only: a notebook's number, "03"; what they leave out is taken as the run folder has it. fresh: remove first
    what an earlier run left. BadInput, before anything runs, for a parameter or a notebook that does not exist;
    CellFailed (BadInput if that is what the cell raised) stops the run, its notebook kept as NN_….failed.ipynb.
    """
    out = Path(out).resolve()
    chosen = choose(presets.notebooks(notebooks), start, only)
    resolved = presets.resolve(preset, overrides, notebooks, running=chosen)
    parameters = {number: resolved[number] for number in chosen}
    with locked(out, fresh), native_kernel():
        manifest = begun(out, preset, parameters)
        for number, path in chosen.items():
            manifest["notebooks"][number] = execute(
                path, out, {**parameters[number], "out": str(out)}
            )
            artifacts.write_manifest(out, manifest)
        manifest = artifacts.write_manifest(out, {**manifest, "finished": artifacts.now()})
        print(f"the report is {report.write(out)}", flush=True)
    return manifest


def choose(found, start, only):
    """The notebooks to run, {number: path}. BadInput for a number there is none of."""
    for option, number in (("--from", start), ("--only", only)):
        if number is not None and number not in found:
            raise BadInput(f"{option} {number}", "no such notebook", f"one of {', '.join(found)}")
    if not found:
        raise BadInput("notebooks", "none", "NN_….ipynb")
    return {n: path for n, path in found.items() if n == (only or n) and n >= (start or "")}


def begun(out, preset, parameters):
    """The run's manifest as it stands before the first notebook; what an earlier run executed stays listed."""
    earlier = artifacts.manifest(out) if (out / "manifest.json").is_file() else {}
    (out / "report.html").unlink(missing_ok=True)  # it would tell of the run before
    manifest = {
        "kind": "run",
        "command": command(),
        "preset": str(preset),
        "parameters": earlier.get("parameters", {}) | parameters,
        **artifacts.environment(),
        "started": artifacts.now(),
        "finished": None,
        "notebooks": earlier.get("notebooks", {}),
    }
    artifacts.write_manifest(out, manifest)
    return manifest


def command():
    """The command that was given, the program by its name."""
    return shlex.join([Path(sys.argv[0]).name.replace("__main__.py", "hpe"), *sys.argv[1:]])


@contextlib.contextmanager
def locked(out, fresh=False):
    """Hold the run folder: one run at a time. The lock goes with the process, however it ends."""
    if out.exists() and not out.is_dir():
        raise BadInput(out, "a file", "a folder to write the run to")
    out.mkdir(parents=True, exist_ok=True)
    with open(out / ".lock", "w") as file:
        if not take(file):
            raise BadInput(
                out, "another run that is writing to it", "one run at a time in a folder"
            )
        if fresh:
            remove_artifacts(out)
        yield


def take(file):
    """Lock an open file for this process; False if another holds it. Where there is no flock, always True."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def remove_artifacts(out):
    """Remove what a run made: folders with a manifest, executed notebooks, numbers. A person's own files stay."""
    marker = out / "manifest.json"
    if not marker.is_file():
        if any(path.name != ".lock" for path in out.iterdir()):
            raise BadInput(
                out, "files but no manifest.json of a run", "a run folder, for --fresh to empty"
            )
        return
    if artifacts.manifest(out).get("kind") != "run":
        raise BadInput(
            marker, "the manifest of something else", "a run's, for --fresh to empty its folder"
        )
    for folder in [path.parent for path in out.glob("*/manifest.json")] + [out / "rows"]:
        shutil.rmtree(folder, ignore_errors=True)
    for path in [
        *out.glob("[0-9][0-9]_*.ipynb"),
        out / "metrics.json",
        out / "report.html",
        marker,
    ]:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def native_kernel():
    """Make "python3" the interpreter that runs this, whatever kernels the person has installed; progress bars off."""
    spec = {
        "argv": [
            sys.executable,
            "-m",
            "ipykernel_launcher",
            "-f",
            "{connection_file}",
            "--log-level=CRITICAL",
        ],
        "display_name": "Python 3",
        "language": "python",
    }
    before = {name: os.environ.get(name) for name in ("JUPYTER_PATH", "TQDM_DISABLE")}
    with tempfile.TemporaryDirectory() as folder:
        kernel = Path(folder) / "kernels" / "python3"
        kernel.mkdir(parents=True)
        (kernel / "kernel.json").write_text(json.dumps(spec))
        os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [folder, before["JUPYTER_PATH"]]))
        os.environ.setdefault("TQDM_DISABLE", "1")
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})


def execute(path, out, parameters):
    """Execute one notebook into `out`. Its copy gets its name when it is whole; until then it is NN_….running.ipynb.

    Returns {"notebook", "wall_seconds", "peak_memory_mb"}. Raises BadInput or CellFailed.
    """
    running, done, failed = (
        out / f"{path.stem}{ending}.ipynb" for ending in (".running", "", ".failed")
    )
    for old in (done, failed):
        old.unlink(missing_ok=True)
    print(f"notebook {path.stem} …", flush=True)
    begin, peak = time.monotonic(), Peak()
    try:
        with peak:
            quietly_execute(path, running, parameters)
    except BaseException as error:
        finish(running, failed)
        raise reason(path, failed, error) from None
    finish(running, done)
    seconds = time.monotonic() - begin
    print(
        f"notebook {path.stem} done in {seconds:.0f} s, peak memory {peak.mb or 0:.0f} MB",
        flush=True,
    )
    return {"notebook": done.name, "wall_seconds": round(seconds, 1), "peak_memory_mb": peak.mb}


def quietly_execute(path, running, parameters):
    """papermill, with what the cells print on the terminal as they print it, and nothing of its own."""
    logging.getLogger("papermill").setLevel(logging.ERROR)
    papermill.execute_notebook(
        path,
        running,
        parameters,
        kernel_name="python3",
        language="python",
        progress_bar=False,
        stdout_file=sys.stdout,
        stderr_file=sys.stderr,
        autosave_cell_every=30,
    )


def finish(running, name):
    """Give the executed copy its name, without the state of widgets nobody can move any more."""
    if not running.exists():
        return
    notebook = nbformat.read(running, as_version=4)
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if "outputs" in cell:
            cell.outputs = [
                output for output in cell.outputs if WIDGET not in output.get("data", {})
            ]
    artifacts.write_bytes(running, nbformat.writes(notebook).encode())
    os.replace(running, name)


def reason(path, failed, error):
    """The exception to raise for what papermill raised: BadInput as it was, the rest as one line naming the cell."""
    if isinstance(error, PapermillExecutionError):
        if error.ename == "BadInput":
            return BadInput(f"BadInput: {error.evalue}")
        message = error.evalue or failing_line(error)
        return CellFailed(
            one_line(f"{path.name}, cell [{error.exec_count}]: {error.ename}: {message}")
            + f" (see {failed})"
        )
    if isinstance(error, DeadKernelError):
        return CellFailed(
            f"{path.name}: its kernel died, probably out of memory: smaller batch_size or fewer people "
            f"(see {failed})"
        )
    return error


def failing_line(error):
    """The cell's line that raised, for an error without a text: a bare assert."""
    lines = re.findall(r"^-+> *\d+ (.*)$", strip_color("\n".join(error.traceback)), re.MULTILINE)
    return lines[0] if lines else ""


class Peak:
    """Peak resident memory of the notebook's kernel while the block runs: `mb`, MiB; None if it was not seen."""

    def __init__(self):
        self.mb, self.over = None, threading.Event()

    def __enter__(self):
        threading.Thread(target=self.watch, daemon=True).start()

    def __exit__(self, *_):
        self.over.set()

    def watch(self):
        """Ask four times a second; where the system keeps the peak itself (Linux) nothing in between is lost."""
        while not self.over.wait(0.25):
            self.mb = max([*kernels_mb(), self.mb or 0.0]) or None


def kernels_mb():
    """The memory of every kernel that this process runs; what has ended, or ends just now, is no kernel."""
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error, OSError):
            if "ipykernel_launcher" in child.cmdline():
                yield memory_mb(child)


def memory_mb(process):
    """A process's peak resident memory in MiB; its present one where the system keeps no peak."""
    if sys.platform == "linux":
        return artifacts.peak_memory_mb(process.pid) or 0.0
    return round(process.memory_info().rss / 2**20, 1)
