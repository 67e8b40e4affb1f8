"""Readers of risky formats run in a process of their own, where a crash, a hang or a flood can be told.

One wrong bit in a .mat file is enough to kill the process inside scipy's reader. A child that dies is one line.
"""

import functools
import importlib
import io
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from hpe_lib.artifacts import BadInput

MEMORY = 4 << 30  # bytes of address space; MPII's whole official file needs about 1.5 GiB
SECONDS, BYTES_PER_SECOND = 30, 50_000  # ten times what the slowest layout, the official one, takes
CHILD = (
    "import pickle, sys; sys.path[:], *job = pickle.loads(bytes.fromhex(sys.argv[1])); "
    "from hpe_lib import sandbox; sandbox.answer(*job)"
)


def apart(expected: str) -> Callable:
    """Decorates reader(stream, *arguments): called with a path in the stream's place, it runs in a child process.

    The file is opened once, here, so pipes can be read too; the reader gets it as a seekable binary stream. Whatever
    goes wrong is a BadInput that names the path; a reader's own BadInput may leave the file out. expected: what the
    file should have been.
    """

    def decorate(reader: Callable) -> Callable:
        @functools.wraps(reader)
        def read(path, *arguments):
            job = (sys.path, reader.__module__, reader.__name__, expected, arguments)
            found = _run(path, pickle.dumps(job).hex(), expected)
            if isinstance(found, BadInput):
                raise BadInput(path, *found.args[1:])
            return found

        return read

    return decorate


def _run(path, job, expected):
    """What the child answers, or a BadInput that says why it does not."""
    try:
        file = open(path, "rb")
    except FileNotFoundError:
        return BadInput(path, "no such file", expected)
    except OSError as error:
        found = "a folder" if Path(path).is_dir() else error.strerror
        return BadInput(path, found, expected)
    with file:
        limit = SECONDS + os.fstat(file.fileno()).st_size / BYTES_PER_SECOND
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-c", CHILD, job],
                stdin=file,
                capture_output=True,
                env=os.environ | threads,
                timeout=limit,
            )
        except subprocess.TimeoutExpired:
            return BadInput(path, f"a file that cannot be read in {limit:.0f} s", expected)
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        return BadInput(path, f"a damaged file: its reader died of {name}", expected)
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        return BadInput(path, f"a file whose reader failed: {last}"[:200], expected)
    return pickle.loads(done.stdout)


def answer(module: str, name: str, expected: str, arguments: tuple) -> None:
    """The child: reads standard input with the named reader and writes what it returns, or a BadInput, pickled."""
    with suppress(ImportError, ValueError, OSError):  # Windows and macOS may not know them
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        reader = getattr(importlib.import_module(module), name).__wrapped__
        stream = sys.stdin.buffer
        if not stream.seekable():
            stream = io.BytesIO(stream.read())
        found = reader(stream, *arguments)
    except BadInput as error:
        found = error
    except MemoryError:
        found = BadInput(None, f"a file that asks for more than {MEMORY >> 30} GiB", expected)
    except Exception as error:  # scipy and h5py raise many kinds
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        found = BadInput(None, f"{kind}{error}"[:200], expected)
    sys.stdout.buffer.write(pickle.dumps(found))
