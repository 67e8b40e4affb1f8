"""Files of a run (weights, manifests, metrics), written atomically and checked by hash.

Everything is written beside its name and renamed into place, and a folder's manifest.json is
written last. A folder without a manifest, or with weights of another hash than the manifest says,
is no artifact. A manifest keeps its own hash, and the weights' file the hash of what they were made
from, so a change by hand is noticed in both.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import stat
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from hpe_lib.workbook import environment

if TYPE_CHECKING:  # torch takes seconds to import
    from torch.nn import Module

MANIFEST, WEIGHTS, HISTORY = "manifest.json", "weights.safetensors", "history.jsonl"
CHECKPOINT = "checkpoint.pt"  # of a stage that is being trained
ASIDE_DIGITS = 8  # of a hash, in the name of a checkpoint that was put aside
ASIDE = f"checkpoint.{'[0-9a-f]' * ASIDE_DIGITS}.pt"  # of a training with other parameters
DIGEST = 32  # bytes of a sha256, with which a checkpoint begins
WATCHED_FILES = "watched/[0-9][0-9][0-9][0-9].npz"  # of a stage, one an epoch
METRICS, LOCK = "metrics.json", ".lock"
STAGES = {"joint": "cascade", "regressor": "regressor", "detector": "detector"}  # latest first
# The notebooks that declare a stage's parameters, and train it.
NOTEBOOKS = {"detector": "03", "regressor": "04", "joint": "05"}
OWN_HASH = "manifest_sha256"  # a manifest's, of all its other entries
# What weights depend on.
MADE_FROM = ("kind", "network", "parameters", "data", "upstream", "versions_of")
LARGEST_JSON, LARGEST_WEIGHTS = 8 * 2**20, 4 * 2**30  # bytes that are read at most


class BadInput(Exception):
    """Input that cannot be used: the file, what was found in it, what was expected; one line."""

    def __init__(self, file, found=None, expected=None):
        super().__init__(file, found, expected)

    def __str__(self):
        file, found, expected = self.args
        if found is None:  # a DataLoader worker's error comes back as one text after its traceback
            return one_line(str(file).rsplit("BadInput: ", 1)[-1])
        return one_line(f"{file}: found {found}, expected {expected}")


class CellFailed(Exception):
    """A notebook's cell raised, or its kernel died: one line that says which and what."""


def one_line(text: object) -> str:
    """The text with every run of white space, line breaks included, as one space."""
    return " ".join(str(text).split())


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write bytes so that `path` holds the old content or all of the new, never a part."""
    write_files({path: data})


def write_files(files: dict[str | Path, bytes]) -> None:
    """Write files that belong together: where the disk is full, all keep their old content.

    A link stays, and what it leads to is written.
    """
    paths = [Path(os.path.realpath(path)) for path in files]
    beside = [
        path.with_name(f".{shortened(path.name)}.{os.getpid()}-{number}.tmp")
        for number, path in enumerate(paths)
    ]
    try:
        for path, new, data in zip(paths, beside, files.values()):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.exists()  # a name that is too long is an error now, not after the first renaming
            with open(new, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        for path, new in zip(paths, beside):
            os.replace(new, path)
    except OSError as error:
        error.filename = str(path)  # not the file beside it
        error.filename2 = None
        raise
    finally:
        for new in beside:
            with contextlib.suppress(OSError):  # what is to be told is the first error
                new.unlink(missing_ok=True)


def open_file(path: str | Path, mode: str = "rb") -> IO:
    """Open a file as `open` does. OSError on a pipe or a device, which might never end."""

    def opener(name: str, flags: int) -> int:
        """The number of the opened file; a pipe is opened without waiting for its other end."""
        number = os.open(name, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
        kind = os.fstat(number).st_mode
        if stat.S_ISREG(kind) or stat.S_ISDIR(kind):
            return number
        os.close(number)
        raise OSError(errno.EINVAL, "a pipe or a device", name)

    return open(path, mode, opener=opener)


def plain(value: Any) -> Any:
    """The value as JSON can hold it: arrays as lists, paths as text, NaN and infinity as null."""
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if hasattr(value, "tolist"):  # numpy and torch, scalars too
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def shortened(name: str) -> str:
    """At most 64 bytes of a file's name, which may be as long as a name can be."""
    return os.fsencode(name)[:64].decode(errors="ignore")


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as indented JSON, atomically; arrays, paths and NaN as `plain` has them."""
    write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """The content of a file that `write_json` writes."""
    text = json.dumps(plain(value), indent=2, ensure_ascii=False) + "\n"
    return text.encode(errors="backslashreplace")  # a file name need not be UTF-8


def read_json(path: str | Path) -> Any:
    """Read a JSON file. BadInput if it is absent, over 8 MiB or not what `parse_json` reads."""
    try:
        with open_file(path) as file:
            content = file.read(LARGEST_JSON + 1)
        if len(content) > LARGEST_JSON:
            raise ValueError(f"over {LARGEST_JSON // 2**20} MiB")
        return parse_json(content)
    except FileNotFoundError:
        raise BadInput(path, "no such file", "a JSON file") from None
    except OSError as error:
        raise BadInput(path, error.strerror, "a JSON file") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(path, f"{type(error).__name__}: {error}", "a JSON file") from None


def claim_rows(out: Path, names: Iterable[str]) -> None:
    """Record in OUT/rows/manifest.json which row folders belong to the run, for --fresh.

    A name stays the run's when its folder is removed.
    """
    together = claimed_rows(out) | set(names)
    write_json(Path(out) / "rows" / MANIFEST, {"kind": "rows", "names": sorted(together)})


def own_rows(out: Path) -> list[Path]:
    """The folders that `claim_rows` has noted, those that are there."""
    claimed = claimed_rows(out)
    return [path for path in (Path(out) / "rows").glob("*") if path.name in claimed]


def claimed_rows(out: Path) -> set[str]:
    """The names that `claim_rows` has noted."""
    folder = Path(out) / "rows"
    if not (folder / MANIFEST).is_file():
        return set()
    found = manifest(folder, "names")
    check(found, "rows", folder / MANIFEST)
    return set(found["names"])


def parse_json(content: bytes) -> Any:
    """The value of JSON bytes, with or without a byte order mark.

    ValueError if it is not JSON, repeats a key or holds an integer beyond 64 bits;
    RecursionError if it is nested too deeply.
    """
    return json.loads(content, object_pairs_hook=unique_names, parse_int=int64)


def unique_names(pairs: list[tuple[str, Any]]) -> dict:
    """A JSON object as a dict. ValueError if it has a name twice: one of the two would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} twice")
    return found


def int64(digits: str) -> int:
    """A whole number of JSON. ValueError beyond 64 bits, where neither files nor tensors go."""
    if len(digits) > 20 or abs(int(digits)) >= 2**63:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def file_hash(path: str | Path) -> str:
    """sha256 of a file's bytes, as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """sha256 of a JSON value, as hex, whatever the order and layout in which it is written."""
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True).encode()).hexdigest()


def own_hash(manifest: dict) -> str:
    """The hash that a manifest should keep of itself."""
    return digest({name: value for name, value in manifest.items() if name != OWN_HASH})


def origin_hash(manifest: dict) -> str:
    """The hash, kept in the weights' file, of what the weights were made from."""
    return digest({name: manifest.get(name) for name in MADE_FROM})


def write_manifest(folder: str | Path, manifest: dict) -> dict:
    """Write a folder's manifest.json with its own hash in it; returns what was written."""
    refuse_foreign_manifest(folder)
    written = with_own_hash(manifest)
    write_json(Path(folder) / MANIFEST, written)
    return written


def with_own_hash(manifest: dict) -> dict:
    """The manifest with its own hash in it."""
    return {**manifest, OWN_HASH: own_hash(manifest)}


def refuse_foreign(
    writers: dict[Path, Callable[[Path], bool | None]],
    found: str = "a file that this program has not written",
) -> None:
    """BadInput if a file that is to be replaced is a person's own.

    writers: {path: whether this program has written the file, None if nobody can say}. Damaged
    files, of which nobody can say it, may be replaced where another file is ours, and empty ones
    anywhere.
    """
    there = {path: wrote for path, wrote in writers.items() if holds_something(path)}
    ours = {path: path.is_file() and wrote(path) for path, wrote in there.items()}
    for path, answer in ours.items():
        if answer is False or (answer is None and True not in ours.values()):
            raise BadInput(path, found, "a folder without it")


def refuse_foreign_manifest(folder: str | Path) -> None:
    """BadInput if the folder has a manifest.json that this program has not written."""
    refuse_foreign({Path(folder) / MANIFEST: wrote_manifest})


def refuse_foreign_stage(folder: str | Path) -> None:
    """BadInput if a training into this folder would replace files that no training has written."""
    folder = Path(folder)
    files = {
        folder / MANIFEST: wrote_manifest,
        folder / WEIGHTS: wrote_weights,
        folder / CHECKPOINT: wrote_checkpoint,
        folder / HISTORY: wrote_history,
    }
    refuse_foreign(files | dict.fromkeys(folder.glob(WATCHED_FILES), wrote_maps))


def wrote_manifest(path: Path) -> bool | None:
    """Has this program written this manifest? None: it is unreadable and holds no hash of ours."""
    try:
        found = read_json(path)
    except BadInput:
        with open(path, "rb") as file:
            content = file.read(LARGEST_JSON)
        return True if OWN_HASH.encode() in content else None
    return isinstance(found, dict) and OWN_HASH in found


def holds_something(path: Path) -> bool:
    """Is there anything under this name but an empty file?"""
    return path.exists() and not (path.is_file() and path.stat().st_size == 0)


def wrote_maps(path: Path) -> bool | None:
    """Has a training written these watched maps? None: they are damaged, or something else."""
    try:
        with zipfile.ZipFile(path) as file:
            return True if {"crops.npy", "maps.npy"} <= set(file.namelist()) else None
    except (OSError, ValueError, zipfile.BadZipFile):
        return None


def wrote_weights(path: Path) -> bool | None:
    """Has this program written this safetensors file? None: it is damaged."""
    entries = weights_entries(path)
    return None if entries is None else "made_from" in entries


def wrote_history(path: Path) -> bool | None:
    """Has a training written this history? None: it begins with no record."""
    try:
        with open(path, "rb") as file:
            check(parse_json(file.readline(LARGEST_JSON)), "record", path)
    except (BadInput, ValueError, RecursionError):
        return None
    return True


def wrote_checkpoint(path: Path) -> bool | None:
    """Has a training written this file, which torch's zip begins after a sha256? None: damaged."""
    with open(path, "rb") as file:
        start = file.read(DIGEST + 4)
    if start[DIGEST:] == b"PK\3\4":
        return True
    return False if start[:2] in (b"PK", b"\x80\2") else None


def save(
    folder: str | Path, state_dict: dict, manifest: dict, history: list[dict] | None = None
) -> None:
    """Write weights.safetensors, history.jsonl (one epoch record a line) and, last, manifest.json.

    manifest: with "network", "parameters", "data" (fingerprint), "upstream" ({name: sha256}),
    "seed" and "wall_seconds". Versions, commit, machine, peak memory, time and hashes are added
    here.
    """
    from safetensors.torch import save as packed

    folder = Path(folder)
    refuse_foreign_stage(folder)
    (folder / MANIFEST).unlink(missing_ok=True)  # until the last line this is no artifact
    tensors = {
        name: tensor.detach().cpu().contiguous().clone() for name, tensor in state_dict.items()
    }
    write_bytes(folder / WEIGHTS, packed(tensors, {"made_from": origin_hash(manifest)}))
    if history is not None:
        write_history(folder, history)
    measured = {
        "weights_sha256": file_hash(folder / WEIGHTS),
        "history_sha256": history_hash(folder),
        "written": environment.timestamp(),
    }
    here = {**environment.describe(), "peak_memory_mb": environment.peak_memory_mb()}
    write_manifest(folder, {**here, **manifest, **measured})


def manifest(folder: str | Path, *needed: str) -> dict:
    """The folder's manifest as a dict.

    BadInput if there is none, if an entry that is needed is absent or one is not what `schemas`
    allow, or if it was changed by hand.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise BadInput(path, "no such file", "an artifact written by a training or a notebook")
    found = read_json(path)
    if not isinstance(found, dict):
        raise BadInput(path, f"a {type(found).__name__}", "a JSON object")
    if absent := [name for name in needed if name not in found]:
        raise BadInput(path, f"no {', '.join(absent)}", "the manifest that was written with it")
    kind = found.get("kind")
    check(found, kind if kind in ("data", "targets", "run", "rows", "numbers") else "stage", path)
    if OWN_HASH in found and found[OWN_HASH] != own_hash(found):
        raise BadInput(path, "entries changed by hand", "the manifest as a run has written it")
    check_settings(found, path)
    return found


def check_settings(manifest: dict, path: Path) -> None:
    """BadInput if "settings" contradict what the weights were made from.

    Inference settings (decoder, flip_test, workers) are protected only by the manifest's own hash,
    which anybody can recompute.
    """
    settings = manifest.get("settings", {})
    decisive = {**manifest.get("parameters", {}), **manifest.get("network", {})}
    for name in settings.keys() & decisive.keys():
        if settings[name] != decisive[name]:
            found = f"settings.{name} {shorten(settings[name])}"
            raise BadInput(path, found, f"{shorten(decisive[name])}, as the weights were made with")


def check(value: Any, kind: str, file: Path | None = None) -> None:
    """BadInput on the first thing in a value that `schemas` does not allow for its kind."""
    from hpe_lib.workbook import schemas  # here: hpe --help waits for no pydantic

    fault = schemas.first_fault(value, kind)
    if fault is None:
        return
    where, found, expected = fault
    if file is None:
        raise BadInput(where, found, expected)
    raise BadInput(file, f"{where} {shorten(found)}", expected)


def write_history(folder: str | Path, records: list[dict]) -> None:
    """Write a stage's epoch records, one a line, so that a killed run leaves what was measured."""
    write_bytes(Path(folder) / HISTORY, history_bytes(records))


def history_bytes(records: list[dict]) -> bytes:
    """Epoch records as a history.jsonl holds them."""
    return "".join(json.dumps(plain(record)) + "\n" for record in records).encode()


def history_hash(folder: str | Path) -> str | None:
    """sha256 of a stage's history as it is on disk; None if there is none."""
    path = Path(folder) / HISTORY
    return file_hash(path) if path.is_file() else None


def history_changed(folder: str | Path, made: dict) -> bool:
    """Is a finished stage's history another one than its training wrote? made: its manifest."""
    return made.get("history_sha256", "") not in ("", history_hash(folder))


def read_history(folder: str | Path) -> list[dict]:
    """The epoch records in a stage's folder, finished or still running; empty if there are none.

    Lines that are no record, as a power cut leaves them, are left out, and a sentence about each is
    printed.
    """
    path = Path(folder) / HISTORY
    records = []
    if not path.is_file():
        return records
    if path.stat().st_size > LARGEST_JSON:
        print(f"{path}: over {LARGEST_JSON // 2**20} MiB, no history of a training, and left out")
        return records
    *lines, _ = path.read_bytes().split(b"\n")  # the last may just be being written
    for number, line in enumerate(lines, 1):
        try:
            record = parse_json(line)
            check(record, "record", path)
            records.append(record)
        except (BadInput, ValueError, RecursionError):
            print(f"{path}: line {number} is no record of an epoch and is left out")
    return records


def load_weights(folder: str | Path) -> dict:
    """The folder's weights as {name: tensor}, on the CPU.

    BadInput if they are absent, damaged, over 4 GiB, not finite, or not those of the manifest.
    """
    from safetensors.torch import load

    path = Path(folder) / WEIGHTS
    entries = manifest(folder, "weights_sha256", OWN_HASH)
    if not path.is_file():
        raise BadInput(path, "no such file", "the weights its manifest.json speaks of")
    if path.stat().st_size > LARGEST_WEIGHTS:
        raise BadInput(path, f"{path.stat().st_size} bytes", f"{LARGEST_WEIGHTS} at most")
    found = file_hash(path)
    wanted = entries["weights_sha256"]
    if found != wanted:
        raise BadInput(path, f"sha256 {found[:12]}…", f"{wanted[:12]}…, the one in its {MANIFEST}")
    try:
        tensors = load(path.read_bytes())
    except Exception as error:  # safetensors raises its own, undocumented class
        raise BadInput(path, one_line(error), "a safetensors file") from None
    if stored_origin(path) != origin_hash(entries):
        raise BadInput(
            path.with_name(MANIFEST),
            "another network, people or parameters than its weights were made from",
            f"the one that was written with {WEIGHTS}",
        )
    if wrong := not_finite(tensors):
        raise BadInput(
            path, f"NaN or infinity in {len(wrong)} tensors, first {wrong[0]}", "numbers"
        )
    return tensors


def not_finite(tensors: dict) -> list[str]:
    """The names of tensors that hold NaN or infinity."""
    return [name for name, tensor in tensors.items() if not tensor.float().isfinite().all()]


def stored_origin(path: Path) -> str | None:
    """What a weights file says it was made from (`origin_hash`); None if it does not say."""
    return (weights_entries(path) or {}).get("made_from")


def weights_entries(path: Path) -> dict[str, str] | None:
    """What is written beside the tensors of a safetensors file; None if it is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError):
        return None


def load_into(module: "Module", folder: str | Path, prefix: str = "") -> "Module":
    """Load the folder's weights into a torch module, and return it.

    prefix: only tensors whose name starts with it, and without it. BadInput, naming the file and
    the first tensors that do not fit, if the weights are of another network.
    """
    found = tensors_for(load_weights(folder), module, Path(folder) / WEIGHTS, prefix)
    module.load_state_dict(found)
    return module


def tensors_for(tensors: dict, module: "Module", file: Path, prefix: str = "") -> dict:
    """The tensors whose name starts with `prefix`, without it. BadInput if the module's differ."""
    found = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    wanted = module.state_dict()
    wrong = [name for name in wanted | found if shape(found, name) != shape(wanted, name)]
    if wrong:
        first = ", ".join(
            f"{prefix}{name} {shape(found, name)} instead of {shape(wanted, name)}"
            for name in wrong[:2]
        )
        raise BadInput(
            file,
            f"{len(wrong)} tensors that do not fit, first {first}",
            f"the weights of this {type(module).__name__}",
        )
    return found


def shape(tensors: dict, name: str) -> str:
    """A tensor's shape as text such as 64x3x7x7; "absent" if there is none of that name.

    With its type, unless that is a float: floats of any width are cast.
    """
    if name not in tensors:
        return "absent"
    tensor = tensors[name]
    text = "x".join(str(n) for n in tensor.shape) or "scalar"
    return text if tensor.is_floating_point() else f"{text} {tensor.dtype}"


def differences(folder: str | Path, wanted: dict) -> list[str]:
    """Why the artifact in a folder cannot be reused: a list of short reasons, empty if it can.

    wanted: what the artifact would be made from now: {"parameters": {...}, "data": fingerprint,
    "upstream": {name: sha256}}. Weights that the manifest names must still have its hash.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        return ["absent"]
    try:
        found = manifest(folder, OWN_HASH)
    except BadInput as error:
        return [f"its {MANIFEST}: found {error.args[1]}"]
    return changed_inputs(found, plain(wanted)) + damaged(folder, found)


def changed_inputs(found: dict, wanted: dict) -> list[str]:
    """The reasons of `differences` that lie in what the artifact was made from."""
    reasons = []
    for key, now_ in wanted.items():
        before = found.get(key)
        if isinstance(now_, dict) and isinstance(before, dict):
            names = [name for name in now_ | before if before.get(name) != now_.get(name)]
            reasons += [
                f"{key}: {name} was {shorten(before.get(name))}, is {shorten(now_.get(name))}"
                for name in names
            ]
        elif before != now_:
            reasons.append(f"{key} was {shorten(before)}, is {shorten(now_)}")
    return reasons


def damaged(folder: Path, found: dict) -> list[str]:
    """The reason of `differences` that lies in the weights' file: it is not the manifest's."""
    if "weights_sha256" not in found:
        return []
    path = folder / WEIGHTS
    if not path.is_file() or file_hash(path) != found["weights_sha256"]:
        return [f"{WEIGHTS} is not the file its manifest was written for"]
    if stored_origin(path) != origin_hash(found):
        return [f"{WEIGHTS} was not made from what its manifest says"]
    return []


def shorten(value: Any) -> str:
    """A value for a message: hashes and long texts cut."""
    text = "absent" if value is None else str(value)
    return text if len(text) <= 40 else text[:12] + "…"
