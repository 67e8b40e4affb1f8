"""One writer at a time in a folder: locks that go with the process that holds them, and what killed
processes leave.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from hpe_lib.workbook import artifacts
from hpe_lib.workbook.artifacts import BadInput

HELD = {}  # {path: file}, the locks of this process
LEFT_FOR = 86_400  # s without a write, after which a killed program's folder is removed
IN_USE = ("another process that is writing to it", "one at a time in a folder")


def forget_locks() -> None:
    """Close inherited lock files after a fork: a loader's worker may outlive its parent."""
    for file in HELD.values():
        file.close()
    HELD.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget_locks)


@contextlib.contextmanager
def lock(folder: str | Path, name: str = artifacts.LOCK) -> Iterator[None]:
    """Lock a folder, made if it is missing. BadInput if another process has locked it.

    The lock ends with the process, even if that is killed. The same process may lock the folder
    again, because an interrupted notebook cell keeps its lock. The lock's file is removed at the
    end, and so is a folder that is still empty. Systems without locks let everybody write.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise BadInput(folder, "a file", "a folder to write to")
    created = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = (folder / name).resolve()
    if path in HELD:
        yield
        return
    try:
        with open_locked(path) as file:
            HELD[path] = file
            try:
                yield
            finally:
                remove_empty(path)
                unlock(file)
    finally:
        HELD.pop(path, None)
        if created:
            with contextlib.suppress(OSError):  # it holds something
                folder.rmdir()


def stage_lock(stage: str) -> str:
    """The lock's name while a stage is trained, in the folder that holds the stage's."""
    return f".{stage}.lock"


def check_idle(out: Path) -> None:
    """BadInput while another process trains a stage of the run, or of one of its rows.

    It has read the run's people and targets, and its own folder is not to be emptied.
    """
    for name in map(stage_lock, artifacts.STAGES.values()):
        for path in (out / name, *out.glob(f"rows/*/{name}")):
            if path.is_file() and path.resolve() not in HELD and is_held(path):
                raise BadInput(path.parent, *IN_USE)


def is_held(path: Path) -> bool:
    """Does another process hold this lock now?"""
    try:
        with artifacts.open_file(path) as file:
            free = try_lock(file)
            unlock(file)
    except FileNotFoundError:  # gone since it was found
        return False
    return not free


def open_locked(path: Path) -> IO:
    """A lock's file, opened and locked for this process. BadInput if another process holds it."""
    while True:
        file = artifacts.open_file(path, "a")  # which leaves what a person may have written into it
        if not try_lock(file):
            file.close()
            raise BadInput(path.parent, *IN_USE)
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
        file.close()  # whoever held it has removed it in between


def remove_empty(path: Path) -> None:
    """Remove a lock's file, where the system lets go of open files, unless a person's is there."""
    with contextlib.suppress(OSError):
        if path.is_file() and path.stat().st_size == 0:
            path.unlink()


def try_lock(file: IO) -> bool:
    """Lock an open file for this process; False if another holds it."""
    # Windows and some network folders keep no locks.
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def unlock(file: IO) -> None:
    """Give up the lock at once, whatever process still has the file open."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import fcntl

        fcntl.flock(file, fcntl.LOCK_UN)


def remove_leftovers(folders: Iterable[Path]) -> None:
    """Remove folders that a killed program has left: in which nothing was written for a day."""
    for folder in list(folders):
        with contextlib.suppress(OSError):  # another program has just removed it
            newest = max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
            if folder.is_dir() and time.time() - newest > LEFT_FOR:
                shutil.rmtree(folder)
