"""The notebooks without a person: papermill, one after the other, into a run folder."""

import contextlib
import logging
import os
import re
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from unittest.mock import patch

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError, strip_color

from hpe_lib import ablation
from hpe_lib.workbook import artifacts, environment, locks, measurements, presets, report
from hpe_lib.workbook.artifacts import STAGES, BadInput, CellFailed, one_line

# "python3" is this interpreter, whatever kernels the person has installed; no progress bars.
KERNEL = {"JUPYTER_PATH": "", "JUPYTER_PREFER_ENV_PATH": "1", "TQDM_DISABLE": "1"}
SOURCES = "hpe_sources_sha256"  # in an executed copy's metadata: `sources_hash`
WIDGET = "application/vnd.jupyter.widget-view+json"
DIED_AT_START = "Kernel died before replying to kernel_info"  # Jupyter's words
# In the order of removal: the manifest comes last, so that a killed removal can be repeated.
STAGED = (
    ".*.tmp",
    artifacts.LOCK,
    artifacts.CHECKPOINT,
    artifacts.ASIDE,
    artifacts.HISTORY,
    artifacts.WEIGHTS,
    artifacts.MANIFEST,
)
# What a run writes, beside executed notebooks, into its folder and into each row of its ablation.
WRITTEN = [
    *(f"{folder}/{artifacts.WATCHED_FILES}" for folder in STAGES.values()),
    *(f"{folder}/{name}" for folder in STAGES.values() for name in STAGED),
    *(
        f"{folder}/{name}"
        for folder in ("data", "targets")
        for name in (".*.tmp", artifacts.MANIFEST)
    ),
    f"metrics/{measurements.NUMBERED}",
    "metrics/manifest.json",
    *map(locks.stage_lock, STAGES.values()),
]


def run(
    preset: str | Path,
    out: str | Path,
    overrides: Iterable[str] = (),
    start: str | None = None,
    only: str | None = None,
    fresh: bool = False,
    numbers: Iterable[str] | None = None,
) -> dict:
    """Execute the notebooks in order with their parameters into the folder `out`; returns the run's
    manifest.

    start, only: a notebook's number, "03"; what they leave out is taken as the run folder has it.
    numbers: of the notebooks to run, all if None.
    fresh: remove first what an earlier run left. BadInput, before anything runs, for a parameter or
    a notebook that does not exist; CellFailed (BadInput if that is what the cell raised) stops the
    run, its notebook kept as NN_….failed.ipynb.
    """
    out = Path(out).resolve()
    found = presets.notebooks()
    among = found if numbers is None else {n: found[n] for n in sorted(numbers) if n in found}
    chosen = choose(among, start, only)
    resolved = presets.resolve(preset, overrides, running=chosen)
    parameters = {number: resolved[number] for number in chosen}
    ablation.check_plan(resolved, chosen)
    with locks.lock(out), patch.dict(os.environ, KERNEL):
        locks.check_idle(out)
        refuse_foreign_files(out, chosen)
        if fresh:
            remove_artifacts(out)
        else:
            measurements.refuse_foreign(out)
        manifest = begin_manifest(out, preset, parameters)
        for number, path in chosen.items():
            if manifest["notebooks"].pop(number, None):  # of the copy that is replaced now
                artifacts.write_manifest(out, manifest)
            given = {**parameters[number], "out": str(out)}
            manifest["notebooks"][number] = execute(path, out, given)
            artifacts.write_manifest(out, manifest)
        manifest = artifacts.write_manifest(out, {**manifest, "finished": environment.timestamp()})
        print(f"the report is {report.write(out)}", flush=True)
    return manifest


def choose(found: dict[str, Path], start: str | None, only: str | None) -> dict[str, Path]:
    """The notebooks to run, {number: path}. BadInput for a number there is none of."""
    for option, number in (("--from", start), ("--only", only)):
        if number is not None and number not in found:
            raise BadInput(f"{option} {number}", "no such notebook", f"one of {', '.join(found)}")
    if not found:
        raise BadInput("notebooks", "none", "NN_….ipynb")
    chosen = {n: path for n, path in found.items() if n == (only or n) and n >= (start or "")}
    if not chosen:
        raise BadInput("--from", f"{start}, after --only {only}", "one of the two options")
    return chosen


def begin_manifest(out: Path, preset: str | Path, parameters: dict) -> dict:
    """The run's manifest as it stands before the first notebook; what an earlier run executed stays
    listed.
    """
    earlier = earlier_run(out)
    (out / "report.html").unlink(missing_ok=True)  # it would tell of the run before
    entries = {
        "kind": "run",
        "command": environment.command(),
        "preset": str(preset),
        "parameters": earlier.get("parameters", {}) | parameters,
        **environment.describe(),
        "started": environment.timestamp(),
        "finished": None,
        "finished_before": earlier.get("finished") or earlier.get("finished_before"),
        "notebooks": earlier.get("notebooks", {}),
    }
    return artifacts.write_manifest(out, entries)


def refuse_foreign_files(out: Path, numbers: Iterable[str]) -> None:
    """BadInput if the folder has files of the names that a run of these notebooks writes, but that
    no run has written, or that a person has changed since.
    """
    for stage, number in artifacts.NOTEBOOKS.items():
        if number in numbers:
            artifacts.refuse_foreign_stage(out / STAGES[stage])
    page = out / "report.html"
    if page.is_file() and not report.is_own(page):
        found = "a file that no run has written, or that was changed since"
        raise BadInput(page, found, "that it is kept elsewhere: the run would replace it")
    if earlier := earlier_run(out):
        for number in numbers:
            refuse_changed_notebook(out, number, earlier["notebooks"].get(number, {}))
        return
    for name in executed_names():
        if (out / name).exists():
            found = "a file that no run has written"
            raise BadInput(out / name, found, "a run's folder, or one without it")


def refuse_changed_notebook(out: Path, number: str, entry: dict) -> None:
    """BadInput if the executed copy of a notebook is not as the run has left it.

    entry: the run's of the notebook; {} if it was stopped before it could write one.
    """
    path = out / presets.notebooks()[number].name
    failed = path.with_suffix(".failed.ipynb")
    for copy, is_own in ((path, is_own_copy(path, entry)), (failed, has_own_cells(failed))):
        if copy.is_file() and not is_own:
            found = "a notebook that is not as a run has left it"
            raise BadInput(copy, found, "that it is kept elsewhere: the run would replace it")


def is_own_copy(path: Path, entry: dict) -> bool:
    """Is an executed copy that is there as the run has left it? entry: as above."""
    if not path.is_file():
        return False
    if "sha256" in entry:
        return artifacts.file_hash(path) == entry["sha256"]
    return b'"papermill"' in path.read_bytes()


def has_own_cells(failed: Path) -> bool:
    """Are the cells of a failed copy those that were executed, and not somebody's mended ones?

    Nobody has mended what cannot be read.
    """
    try:
        notebook = nbformat.read(failed, as_version=4)
    except Exception:  # nbformat and json raise many kinds
        return True
    return notebook.metadata.get(SOURCES, sources_hash(notebook)) == sources_hash(notebook)


def sources_hash(notebook: nbformat.NotebookNode) -> str:
    """sha256 of what stands in a notebook's cells, whatever they have printed."""
    return artifacts.digest([cell.source for cell in notebook.cells])


def executed_names() -> list[str]:
    """The names of executed notebooks: whole, being executed, failed."""
    stems = [path.stem for path in presets.notebooks().values()]
    return [f"{stem}{ending}.ipynb" for stem in stems for ending in ("", ".running", ".failed")]


def earlier_run(out: Path) -> dict:
    """The manifest of the run in the folder; {} if there is none. BadInput if it is another's."""
    if not (out / artifacts.MANIFEST).is_file():
        return {}
    found = artifacts.manifest(out)
    if found.get("kind") != "run" or not {"parameters", "notebooks"} <= found.keys():
        raise BadInput(out / artifacts.MANIFEST, "the manifest of something else", "a run's")
    return found


def remove_artifacts(out: Path) -> None:
    """Remove what a run has written, by its names. All else stays, and the folders that hold it."""
    if not earlier_run(out):
        if os.listdir(out) != [artifacts.LOCK]:
            raise BadInput(
                out, "files but no manifest.json of a run", "a run folder, for --fresh to empty"
            )
        return
    found = [out / artifacts.METRICS]  # before the manifest that says whose it is
    found += [
        path
        for folder in (out, *artifacts.own_rows(out))
        for name in WRITTEN
        for path in folder.glob(name)
    ]
    names = ("rows/manifest.json", "report.html")
    found += [out / name for name in (*executed_names(), *names)]
    found = [path for path in found if path.parent.resolve() == path.parent]  # not through a link
    for path in found:
        path.unlink(missing_ok=True)
    folders = {folder for path in found for folder in path.parents if folder.is_relative_to(out)}
    for folder in sorted(folders - {out}, reverse=True):
        with contextlib.suppress(OSError):  # it holds something else
            folder.rmdir()
    (out / artifacts.MANIFEST).unlink()  # last, as it says that the folder is a run's


def execute(path: Path, out: Path, parameters: dict) -> dict:
    """Execute one notebook into `out`. Its copy gets its name when it is whole; until then it is
    NN_….running.ipynb.

    Returns {"notebook", "wall_seconds", "sha256" of the copy, "on": `measurements.basis`}. Raises
    BadInput or CellFailed.
    """
    running, done, failed = (
        out / f"{path.stem}{ending}.ipynb" for ending in (".running", "", ".failed")
    )
    for old in (done, failed):
        old.unlink(missing_ok=True)
    print(f"notebook {path.stem} …", flush=True)
    begin = time.monotonic()
    try:
        quietly_execute(path, running, parameters)
    except BaseException as error:
        with contextlib.suppress(nbformat.reader.NotJSONError, OSError):  # cut by a full disk
            save_executed(running, failed)
        raise explain_failure(path, failed, error) from None
    save_executed(running, done)
    seconds = time.monotonic() - begin
    print(f"notebook {path.stem} done in {seconds:.0f} s", flush=True)
    return {
        "notebook": done.name,
        "wall_seconds": round(seconds, 1),
        "sha256": artifacts.file_hash(done),
        "on": measurements.basis(out, done.name[:2]),
    }


def quietly_execute(path: Path, running: Path, parameters: dict) -> None:
    """papermill, with what the cells print on the terminal as they print it, and nothing of its
    own.

    A kernel that dies at its start, before any cell, is started anew, three times in all: Jupyter
    chooses its ports, and another program that starts may be quicker to take one.
    """
    logging.getLogger("papermill").setLevel(logging.ERROR)
    for starts_left in (2, 1, 0):
        try:
            papermill.execute_notebook(
                escape_braces(path),
                escape_braces(running),
                parameters,
                kernel_name="python3",
                language="python",
                progress_bar=False,
                stdout_file=sys.stdout,
                stderr_file=sys.stderr,
                autosave_cell_every=30,
                extra_arguments=["--log-level=CRITICAL"],  # of the kernel
            )
            return
        except RuntimeError as error:
            if DIED_AT_START not in str(error) or not starts_left:
                raise


def escape_braces(path: Path) -> str:
    """The path with its braces doubled: papermill formats paths by the parameters."""
    return str(path).replace("{", "{{").replace("}", "}}")


def save_executed(running: Path, name: Path) -> None:
    """Give the executed copy its name, without the state of widgets nobody can move any more."""
    if not running.exists():
        return
    notebook = nbformat.read(running, as_version=4)
    notebook.metadata.pop("widgets", None)
    notebook.metadata[SOURCES] = sources_hash(notebook)
    for cell in notebook.cells:
        if "outputs" in cell:
            cell.outputs = [
                output for output in cell.outputs if WIDGET not in output.get("data", {})
            ]
    artifacts.write_bytes(running, nbformat.writes(notebook).encode())
    os.replace(running, name)


def explain_failure(path: Path, failed: Path, error: BaseException) -> BaseException:
    """The exception to raise for what papermill raised: BadInput as it was, the rest as one line
    naming the cell.
    """
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
            f"{path.name}: its kernel died, probably out of memory: "
            f"smaller batch_size or fewer people (see {failed})"
        )
    return error


def failing_line(error: PapermillExecutionError) -> str:
    """The cell's line that raised, for an error without a text: a bare assert."""
    lines = re.findall(r"^-+> *\d+ (.*)$", strip_color("\n".join(error.traceback)), re.MULTILINE)
    return lines[0] if lines else ""
