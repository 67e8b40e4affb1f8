"""Fetch a data set: ask mirrors in turn, go on where a transfer broke off, keep what is checked."""

import errno
import hashlib
import os
import shutil
import stat
import tempfile
import time
import zipfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path, PureWindowsPath
from urllib.parse import urlsplit

import pooch
import requests
import yaml
from tqdm.auto import tqdm

from hpe_lib.workbook import artifacts, environment, locks
from hpe_lib.workbook.artifacts import BadInput, one_line


@dataclass(frozen=True)
class File:
    """A file to fetch, or what an archive holds. The fields are explained in sources.yaml."""

    name: str
    what: str
    size: int
    urls: list[str]
    sha256: str | None = None
    md5: str | None = None
    count: int = 1
    listing: str | None = None

    @property
    def most(self) -> int:
        """Bytes that are taken at most: sizes in sources.yaml are rounded."""
        return 2 * self.size + SPARE


SOURCES = yaml.safe_load(Path(__file__).with_name("sources.yaml").read_text(encoding="utf-8"))
FILES = {name: [File(**file) for file in source["files"]] for name, source in SOURCES.items()}
SIGNATURES = {
    ".zip": b"PK\x03\x04",
    ".gz": b"\x1f\x8b",
    ".h5": b"\x89HDF",
    ".mat": b"MATLAB",
    ".jpg": b"\xff\xd8",
}
RECORD = "downloads.json"  # beside the data: what came from where, its sha256, when
FETCHING = ".hpe-fetching"  # beside the data, until they are used: archives, and files of a set
UNPACKING = ".unpacking-"  # begins the name of a folder that is there while an archive is unpacked
AT_ONCE = 8  # transfers of small files
PASSING = 408, 429  # answers of a server that may give another one later; so may 500 and above
TRIES = 3  # that bring nothing new
PAUSE = 2.0  # s between tries
TIMEOUT = 15, 60  # s, to connect and between bytes
CHUNK = 1 << 16  # bytes
SPARE = 10_000_000  # bytes that a file may have beyond twice its size in sources.yaml
UNPACKED = 20  # times a zip's bytes, at most; images hardly shrink
BROKEN = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
)


say = partial(print, flush=True)


class Refused(Exception):
    """What one mirror sent cannot be used."""


class Busy(requests.ConnectionError):
    """A mirror says that it may answer later."""


def download(dataset: str, root: str | Path) -> None:
    """Fetch what a folder lacks of "mpii", "lsp" or "lspet", and unpack it as the loaders read it.

    Mirrors are asked in turn. What is there is never overwritten, and an archive put there by hand
    is taken. Raises BadInput at once where a file has another content, the disk is too small or
    another process fetches into this folder; otherwise at the end, naming what no mirror gave and
    what each of them answered.
    """
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    locks.remove_leftovers(root.glob(f"{UNPACKING}*"))
    pooch.get_logger().setLevel("WARNING")
    source = SOURCES[dataset]
    lacking = [file for file in FILES[dataset] if not is_complete(root, file)]
    if lacking:
        size = sum(file.size for file in lacking) / 1e6
        say(f"to fetch: about {size:,.0f} MB; {source['terms']}")
    check_space(root, lacking)
    read_record(root)
    with locks.lock(root) if lacking else nullcontext():
        failures = fetch_lacking(root, lacking)
    for folder in (root / FETCHING, root / "predictions", root):
        with suppress(OSError):  # not empty, or not there
            folder.rmdir()
    if failures:
        raise BadInput(root, "; ".join(failures), source["by_hand"])


def fetch_lacking(root: Path, lacking: list[File]) -> list[str]:
    """Fetch these files into a folder; returns what each source answered of those it did not give.

    Raises BadInput if a file has the name of a folder that is needed.
    """
    for folder in (root / FETCHING, *((root / file.name).parent for file in lacking)):
        if os.path.lexists(folder) and not folder.is_dir():
            raise BadInput(folder, "a file", "a folder, or a name that is free")
    return [failure for file in lacking if (failure := get_file(root, file))]


def is_complete(root: Path, file: File) -> bool:
    """Is the file, or all that is unpacked from an archive, there?

    Raises BadInput if a file is there whose sha256 is another.
    """
    path = root / file.name
    found = len(list(root.glob(file.name)))
    if found and file.sha256 and (sha := artifacts.file_hash(path)) != file.sha256:
        expected = f"{file.sha256[:12]}…; to fetch it, move this one away"
        raise BadInput(path, f"sha256 {sha[:12]}…", expected)
    if found < file.count:
        return False
    say(f"{path}: there" + (f", {found:,} files" if file.count > 1 else ""))
    return True


def check_space(root: Path, files: list[File]) -> None:
    """Raise BadInput if the disk has no room for what is lacking of archives and for what is in
    them.
    """
    unpacked = sum(file.size for file in files if file.count > 1)
    needed = sum(max(0, file.size - fetched_bytes(root, file)) for file in files) + unpacked
    folders = {(root / file.name).parent for file in files if file.count > 1}
    elsewhere = dict.fromkeys(filter(Path.is_dir, folders), unpacked)  # links to another disk
    for folder, least in {root: needed, **elsewhere}.items():
        free = shutil.disk_usage(folder).free
        if free < least:
            found = f"{free / 1e9:.1f} GB free on its disk"
            raise BadInput(folder, found, f"{least / 1e9:.1f} GB free")


def fetched_bytes(root: Path, file: File) -> int:
    """How much of a file's archive is there: put there by hand, or fetched so far."""
    names = {Path(url).name for url in file.urls}
    places = [root / name for name in names]
    places += [root / FETCHING / f"{name}{ending}" for name in names for ending in ("", ".part")]
    return max((place.stat().st_size for place in places if place.is_file()), default=0)


def get_file(root: Path, file: File) -> str | None:
    """Get a file from the first source that serves, and record it.

    An archive that a person has put there is tried before the mirrors, and stays. Returns None, or
    what each source answered.
    """
    names = sorted({Path(url).name for url in file.urls if is_archive(url)})
    by_hand = [root / name for name in names if (root / name).is_file()]
    answers = []
    for source in (*by_hand, *file.urls):
        say(f"{file.what}: {source}")
        try:
            entry = place_source(source, root, file)
        except (Refused, Busy) as error:
            answer = one_line(error)
        except requests.RequestException as error:
            answer = f"no connection ({type(error).__name__})"
        else:
            record = read_record(root)
            record[file.name] = {"url": str(source), **entry, "fetched": environment.timestamp()}
            artifacts.write_json(root / RECORD, record)
            return None
        say(f"  no: {answer}")
        answers.append(f"{urlsplit(str(source)).netloc or source}: {answer}")
    return f"{file.name} from no mirror: {', '.join(answers)}"


def read_record(root: Path) -> dict:
    """What was fetched into a folder so far; empty if nothing was. BadInput if it is no record."""
    if not (root / RECORD).exists():
        return {}
    found = artifacts.read_json(root / RECORD)
    entries = found.values() if isinstance(found, dict) else [found]
    if not all(isinstance(entry, dict) and {"url", "fetched"} <= entry.keys() for entry in entries):
        raise BadInput(root / RECORD, "no record of downloads", "a folder without this file")
    return found


def place_source(source: str | Path, root: Path, file: File) -> dict:
    """Put what a url or an archive gives into its place. Returns {"bytes", "sha256"} of it.

    Raises Refused if it cannot be used, RequestException if it cannot be reached.
    """
    if isinstance(source, str) and "{" in source:
        return fetch_each(source, root, file)
    path = source if isinstance(source, Path) else fetch(source, root, file)
    entry = {"bytes": path.stat().st_size, "sha256": artifacts.file_hash(path)}
    say(f"  {entry['bytes']:,} bytes, sha256 {entry['sha256']}")
    if file.md5 and (md5 := pooch.file_hash(str(path), "md5")) != file.md5:
        say(f"  md5 {md5} - warning: a third party published {file.md5}")
    if path != root / file.name:
        unpack(path, root, file)
    return entry


# ---- fetching


def is_archive(url: str) -> bool:
    """Is it an archive that is behind an address?"""
    return Path(url).suffix in (".zip", ".gz")


def fetch(url: str, root: Path, file: File) -> Path:
    """Fetch a url to its final name, or an archive to a folder of our own.

    Raises Refused if its sha256 is another.
    """
    path = root / FETCHING / Path(url).name if is_archive(url) else root / file.name
    part = path.with_name(f"{path.name}.part")
    downloader = partial(transfer_all, part, most=file.most)
    try:
        pooch.retrieve(url, file.sha256, path.name, path.parent, downloader=downloader)
    except ValueError as error:  # pooch found another hash
        raise Refused(str(error).split(". ")[0]) from None
    except PermissionError as error:  # pooch's own, which names no file
        if error.filename:
            raise
        raise BadInput(path.parent, "no permission to write", "a folder to write to") from None
    return path


def fetch_each(url: str, root: Path, file: File) -> dict:
    """Fetch files 1, 2, … of a url with a number in braces, and put them in place once all came.

    Returns their `listing`. What came stays for the next try if the connection breaks. Raises
    Refused, and keeps nothing, if one of them is missing or the listing is another.
    """
    folder = root / FETCHING / Path(file.name).parent
    folder.mkdir(parents=True, exist_ok=True)
    urls = [url.format(number) for number in range(1, file.count + 1)]
    lacking = [url for url in urls if not (folder / Path(url).name).exists()]

    def get(url: str) -> None:
        """Fetch one of the files."""
        path = folder / Path(url).name
        part = path.with_name(f"{path.name}.part")
        transfer_all(part, url, path, patient=True, most=file.most)

    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:  # which asks for no more once one has failed
            list(tqdm(pool.map(get, lacking), total=len(lacking), disable=None, leave=False))
        found = listing(folder.glob(Path(file.name).name))
        if file.listing not in (None, found["sha256"]):
            raise Refused(f"{found['files']} files of {found['bytes']:,} bytes in all, not these")
        put_in_place(folder.glob(Path(file.name).name), root / file.name)
    except Refused:
        shutil.rmtree(folder)
        raise
    shutil.rmtree(folder)
    return found


def listing(paths: Iterable[Path]) -> dict:
    """{"bytes", "sha256", "files"} of files, as sources.yaml defines the sha256 of a listing."""
    lines = sorted(f"{path.name} {size(path)} {artifacts.file_hash(path)}\n" for path in paths)
    total = sum(int(line.split()[1]) for line in lines)
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    return {"bytes": total, "sha256": digest, "files": len(lines)}


def transfer_all(
    part: Path,
    url: str,
    output_file: str | Path,
    pooch: object = None,
    patient: bool = False,
    *,
    most: int,
) -> None:
    """A downloader for pooch, which has none that goes on where a transfer broke off.

    part: the file that holds what has come, and stays for the next try.
    patient: try again also where nothing has come yet; else the server counts as gone.
    most: bytes that are taken at most: a server may send without end.
    Raises Refused, or requests' error of the last try.
    """
    furthest = 1 if patient else 0  # bytes
    tries = TRIES
    while True:
        try:
            transfer(url, part, most)
            os.replace(part, output_file)
            return
        except BROKEN:
            tries = TRIES if size(part) > furthest else tries - 1
            furthest = max(furthest, size(part))
            if not (tries and furthest):
                raise
            time.sleep(PAUSE)


def size(path: Path) -> int:
    """A file's bytes; 0 if there is none."""
    return path.stat().st_size if path.exists() else 0


def begins_well(start: bytes, suffix: str) -> bool:
    """Does a file with this suffix begin as it should?"""
    return start.startswith(SIGNATURES[suffix])


def transfer(url: str, part: Path, most: int) -> None:
    """One request: on from what is in `part` if the server can, else from the start.

    Raises Refused if the server has no such file, or sends us on to plain http, Busy if it may
    have it later.
    """
    have = size(part)
    if have:
        with open(part, "rb") as file:
            if not begins_well(file.read(8), Path(part.stem).suffix):
                have = 0  # of something else nothing is taken
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        as_asked = answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        partial_content = answer.status_code == 206
        # `part` is longer than the server's file, or this is another range than we asked for.
        if have and (answer.status_code == 416 or (partial_content and not as_asked)):
            part.unlink()
            return transfer(url, part, most)
        if url.startswith("https:") and not answer.url.startswith("https:"):
            raise Refused(f"it leads to {answer.url}, which is not https")
        if answer.status_code in PASSING or answer.status_code >= 500:
            raise Busy(f"{answer.status_code} {answer.reason}")
        if answer.status_code not in (200, 206):
            raise Refused(f"{answer.status_code} {answer.reason}")
        append(answer, part, have if partial_content else 0, most)


def append(answer: requests.Response, part: Path, have: int, most: int) -> None:
    """Write an answer's body behind the first `have` bytes of `part`.

    Raises Refused if it does not begin as such a file does or has more than `most` bytes,
    ConnectionError if it ends too early.
    """
    length = answer.headers.get("Content-Length", "0")
    total = have + (int(length) if length.isdecimal() else 0)
    if total > most:
        raise Refused(f"{total:,} bytes, far more than it should have")
    chunks = answer.iter_content(CHUNK)
    first = next(chunks, b"")
    kind = Path(part.stem).suffix
    if not have and not begins_well(first, kind):
        page = first.lstrip()[:15].lower().startswith((b"<!doctype", b"<html"))
        found = "an HTML page" if page else "something else"
        raise Refused(f"{found} instead of a {kind} file, from {answer.url}")
    bar = tqdm(
        total=total or None, initial=have, unit="B", unit_scale=True, disable=None, leave=False
    )
    with open(part, "ab" if have else "wb") as file, bar:
        for chunk in chain([first], chunks):
            file.write(chunk)
            bar.update(len(chunk))
            if file.tell() > most:
                file.truncate(0)
                raise Refused(f"over {most:,} bytes, far more than it should have")
    if size(part) < total:
        raise requests.ConnectionError(f"{size(part)} of {total} bytes")


# ---- unpacking


def unpack(path: Path, root: Path, file: File) -> None:
    """Unpack an archive's files that match into the folder, except those that are there.

    Raises Refused, and unpacks nothing, if the archive is damaged, unsafe or lacks some. The
    archive is removed if we fetched it, unless the disk is at fault.
    """
    with tempfile.TemporaryDirectory(dir=root, prefix=UNPACKING) as folder:
        try:
            extract(path, Path(folder))
            matches = Path(folder).rglob(file.name)
            found = {match.name: match for match in matches if is_of_its_kind(match)}
            if len(found) < file.count:
                raise Refused(f"an archive without {file.count - len(found):,} of {file.name}")
        except Refused:
            remove_fetched(path)
            raise
        put_in_place(found.values(), root / file.name)
    remove_fetched(path)


def is_of_its_kind(path: Path) -> bool:
    """Is it a regular file that begins as one of its name does?"""
    if path.is_symlink() or not path.is_file():
        return False
    with open(path, "rb") as file:
        return begins_well(file.read(8), path.suffix)


def extract(path: Path, folder: Path) -> None:
    """Extract an archive, whose members cannot leave the folder. Raises Refused if it is unsafe."""
    try:
        if path.suffix == ".zip":
            check_members(path)
        shutil.unpack_archive(path, folder, filter=None if path.suffix == ".zip" else "data")
    except Refused:
        raise
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # the disk's; EINVAL: sought before the start
            raise
        raise Refused(f"a damaged archive: {error}") from None
    except Exception as error:  # zipfile, tarfile and what they call raise many kinds
        raise Refused(f"a damaged archive, or one that cannot be read: {error}") from None


def check_members(path: Path) -> None:
    """Raise Refused if a zip has a member that is a link or whose name leads out of the folder."""
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > UNPACKED * size(path) + SPARE:
            raise Refused("an archive that unpacks to far more than its bytes")
        for member in archive.infolist():
            place = PureWindowsPath(member.filename)  # reads / and \\, and knows drives
            link = stat.S_ISLNK(member.external_attr >> 16)
            if link or place.anchor or ".." in place.parts:
                raise Refused(f"an archive with an unsafe member, {member.filename!r}")


def put_in_place(files: Iterable[Path], pattern: Path) -> None:
    """Move files to the folder of `pattern`, except those that are there."""
    pattern.parent.mkdir(exist_ok=True)
    for new in files:
        target = pattern.with_name(new.name)
        if not target.exists():
            move(new, target)


def move(new: Path, target: Path) -> None:
    """Rename a file; copy it where the target's folder is a link to another disk."""
    try:
        os.replace(new, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        artifacts.write_bytes(target, new.read_bytes())


def remove_fetched(path: Path) -> None:
    """Remove an archive, unless a person has put it there."""
    if path.parent.name == FETCHING:
        path.unlink()
        with suppress(OSError):  # another is there
            path.parent.rmdir()
