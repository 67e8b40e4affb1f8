"""Risky formats, .mat and HDF5: read in a process of their own, told apart, and their arrays.

One wrong bit in a .mat file is enough to kill the process inside scipy's reader. In a child, a
crash, a hang or a flood of memory can be told, and becomes one line.
"""

import codecs
import functools
import importlib
import io
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from hpe_lib.workbook.artifacts import BadInput

MEMORY, PER_BYTE = 3 << 29, 64  # of address space; a third is the libraries'
SECONDS, BYTES_PER_SECOND = 4, 50_000  # of the processor; ten times what the slowest layout takes
PATIENCE = 20  # times that on the clock: the machine may be busy
PIPE = 20_000_000  # bytes that a pipe, whose size is unknown, is taken to hold
CHILD = (
    "import pickle, sys; sys.path[:], *job = pickle.loads(bytes.fromhex(sys.argv[1])); "
    "from hpe_lib.data import reading; reading.run_reader(*job)"
)


def in_child_process(expected: str) -> Callable:
    """A decorator for reader(stream, *arguments), which is then called with a path in the stream's
    place and runs in a child process.

    The file is opened once, in this process, so that pipes can be read too. The reader gets a
    seekable binary stream. Every failure becomes a BadInput that names the path. expected: what
    the file should have been.
    """

    def decorate(reader: Callable) -> Callable:
        """The reader, called in another process."""

        @functools.wraps(reader)
        def read(path: str | Path, *arguments: Any) -> Any:
            """What the reader returns. BadInput, naming the path."""
            found = _opened(path, expected)
            if not isinstance(found, BadInput):
                with found as file:
                    job = reader.__module__, reader.__name__, arguments
                    found = _in_child(file, expected, *job)
            if isinstance(found, BadInput):
                raise BadInput(path, *found.args[1:])
            return found

        return read

    return decorate


def _opened(path, expected):
    """The file, or a BadInput that says why it cannot be opened."""
    try:
        return open(path, "rb")
    except FileNotFoundError:
        return BadInput(path, "no such file", expected)
    except OSError as error:
        found = "a folder" if Path(path).is_dir() else error.strerror
        return BadInput(path, found, expected)


def _in_child(file, expected: str, *job):
    """What `attempt` returns in a child process, or a BadInput that says how the child ended."""
    size = os.fstat(file.fileno()).st_size or PIPE
    seconds = SECONDS + size // BYTES_PER_SECOND
    message = pickle.dumps((sys.path, seconds, size, expected, *job)).hex()
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", CHILD, message],
            stdin=file,
            capture_output=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            timeout=PATIENCE * seconds,
        )
    except subprocess.TimeoutExpired:
        return BadInput(None, f"a file that takes more than {seconds} s to read", expected)
    if done.returncode == 0:
        return pickle.loads(done.stdout)
    if -done.returncode == getattr(signal, "SIGXCPU", None):
        found = f"a file that takes more than {seconds} s to read"
    elif done.returncode < 0:
        found = f"a damaged file: its reader died of {signal.Signals(-done.returncode).name}"
    else:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        found = f"a file whose reader failed: {last}"[:200]
    return BadInput(None, found, expected)


def run_reader(seconds: int, size: int, *job) -> None:
    """The child: what the reader makes of standard input, or a BadInput, pickled to its output."""
    _limit(seconds, MEMORY + PER_BYTE * size)
    sys.stdout.buffer.write(pickle.dumps(attempt(sys.stdin.buffer, *job)))


def attempt(stream: BinaryIO, expected: str, module: str, name: str, arguments: tuple) -> Any:
    """What the named reader makes of a stream, or a BadInput whatever it raises."""
    try:
        reader = getattr(importlib.import_module(module), name).__wrapped__
        if not stream.seekable():
            stream = io.BytesIO(stream.read())
        return reader(stream, *arguments)
    except BadInput as error:
        return error
    except MemoryError:
        return BadInput(None, f"a file that asks for more than {MEMORY / 2**30:g} GiB", expected)
    except Exception as error:  # scipy and h5py raise many kinds
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        return BadInput(None, f"{kind}{error}"[:200], expected)


def _limit(seconds, memory):
    """Bounds on this process's memory and time, as far as the system knows them; no core files."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


# ---- what kind of file it is

HDF5 = b"\x89HDF\r\n\x1a\n"
MATLAB = b"\x00\x01IM", b"\x01\x00MI"  # bytes 124 to 127 of versions 5 to 7
OTHERS = {
    b"\x93NUMPY": "a NumPy .npy file",
    b"PK": "a zip archive, such as .npz",
    b"\x1f\x8b": "a gzip archive",
    b"{": "JSON",
    b"[": "JSON",
}


def _start(stream: BinaryIO, size: int, at: int = 0) -> bytes:
    """Bytes of a stream, which is left at its beginning."""
    stream.seek(at)
    found = stream.read(size)
    stream.seek(0)
    return found


def is_hdf5(stream: BinaryIO) -> bool:
    """An .h5 file, or a .mat of version 7.3: HDF5 behind 512 bytes of MATLAB's."""
    return any(_start(stream, 8, at) == HDF5 for at in (0, 512, 1024, 2048))


def mat_file(stream: BinaryIO, read: str = "loadmat") -> Any:
    """The variables of a .mat file of version 4 to 7, by scipy.io's function of this name.

    BadInput or ValueError, saying what it is, if it is another file.
    """
    import scipy.io  # here: importing it takes a quarter of a second, and photographs need none

    if is_hdf5(stream):
        raise BadInput(
            None, "HDF5, as MATLAB's version 7.3 writes", "the official layout saved with save -v7"
        )
    _check_mat(_start(stream, 128))
    return getattr(scipy.io, read)(stream)


def _check_mat(start: bytes) -> None:
    """ValueError, saying what else begins with these 128 bytes, unless a .mat of version 4 to 7."""
    if not start:
        raise ValueError("0 bytes")
    if 0 in start[:4] or start[124:] in MATLAB:  # version 4 begins with a small integer
        return
    for magic, kind in OTHERS.items():
        if _stripped(start).startswith(magic):
            raise ValueError(kind)
    raise ValueError(f"a file that begins with {start[:16]!r}")


def starts_json(stream: BinaryIO) -> bool:
    """Does a list or an object come first? UTF-16 is told by its byte order mark."""
    start = _stripped(_start(stream, 128))
    return start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) or start[:1] in (b"[", b"{")


def _stripped(start: bytes) -> bytes:
    """Text without the byte order mark and white space that editors may put before it."""
    return start.removeprefix(codecs.BOM_UTF8).lstrip()


# ---- the arrays in it


def arrays_in(stream: BinaryIO, most: int | None = None) -> list[tuple[str, np.ndarray]]:
    """Names and values of a file's numeric arrays; HDF5's of more than `most` numbers are not read,
    but stand there with their shape.
    """
    if is_hdf5(stream):
        with h5py.File(stream) as file:
            return list(hdf5_arrays(file, most))
    variables = mat_file(stream).items()
    named = [variable for variable in variables if not variable[0].startswith("__")]
    return [found for variable in named for found in _numeric(*variable)]


def hdf5_arrays(file: h5py.File, most: int | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """As `arrays_in`. Version 7.3 reverses axes, so they are turned; its cells are references."""
    names = []
    file.visit(names.append)
    for name in names:
        item = file[name]
        is_array = isinstance(item, h5py.Dataset) and item.shape is not None
        if not is_array or name.startswith("#refs#"):
            continue
        values = _hdf5_value(item, most)
        if h5py.check_ref_dtype(item.dtype):
            cells = [_hdf5_value(file[place], most) for place in values.flat if place]
            values = np.empty(len(cells), object)
            values[:] = cells
        yield from _numeric(name, values)


def _hdf5_value(item, most: int | None) -> np.ndarray:
    large = most is not None and item.size > most
    values = np.broadcast_to(0.0, item.shape) if large else np.asarray(item[()])
    return values.T if "MATLAB_class" in item.attrs else values


def _numeric(name, value) -> Iterator[tuple[str, np.ndarray]]:
    """The numeric arrays in a variable; a struct's by their own names, those of cells stacked.

    Cells of arrays that cannot be stacked stay an array of objects, as they may be predictions.
    Whatever else MATLAB keeps, such as text, functions and tables, is passed over.
    """
    if not isinstance(value, np.ndarray):
        return
    if value.dtype.names:
        for inner in value.dtype.names:
            yield from _numeric(f"{name}.{inner}", value[inner])
    elif value.dtype == object and value.size:
        cells = list(value.ravel())
        numbers = all(np.asarray(cell).dtype.kind in "iuf" for cell in cells)
        types = {"number" if numbers else getattr(cell, "dtype", None) for cell in cells}
        # MATLAB stores whole numbers in as few bytes as a cell needs.
        if len(types) == 1 and len({np.shape(cell) for cell in cells}) == 1:
            yield from _numeric(name, np.stack(cells) if len(cells) > 1 else cells[0])
        elif numbers:
            yield name, value.ravel()
    elif value.dtype.kind in "iuf":
        yield name, value
