"""Mirrors that lie, break off or are gone, all on this machine; nothing outside is asked."""

import errno
import hashlib
import io
import os
import stat
import struct
import tarfile
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest

from hpe_lib import cli
from hpe_lib.data import download
from hpe_lib.data.download import File
from hpe_lib.workbook import artifacts, locks
from hpe_lib.workbook.artifacts import BadInput

MAT = b"MATLAB 5.0 " + np.random.default_rng(0).bytes(400_000)
PAGE = b"<!DOCTYPE html><html>moved</html>"


class Server(ThreadingHTTPServer):
    """files: {path: bytes}. asked: (path, Range) of every request. The others are sets of paths:

    short breaks off half way, once; crumbs after 70,000 bytes, always;
    stubborn half way, always, and knows no Range; nor does plain;
    moved leads to "/"; wrong answers a Range with another; busy says so, once.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"/": PAGE}
        self.asked = []
        self.short, self.stubborn, self.plain, self.moved, self.wrong, self.crumbs = (
            set() for _ in range(6)
        )
        self.busy = {}  # path: the status that is answered once

    def url(self, path):
        return f"http://127.0.0.1:{self.server_port}{path}"


class Always(dict):
    """Answers every path with one status."""

    def __init__(self, status):
        super().__init__()
        self.status = status

    def pop(self, *_):
        return self.status


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        path = self.path
        asked = self.headers.get("Range")
        server.asked.append((path, asked))
        if path in server.moved:
            self.send_response(302)
            self.send_header("Location", "/")
            self.end_headers()
            return
        if status := server.busy.pop(path, None):
            self.send_error(status)
            return
        if path not in server.files:
            self.send_error(404)
            return
        content = server.files[path]
        start = 0
        if asked and path not in server.stubborn | server.plain and path != "/":
            start = int(asked.removeprefix("bytes=").rstrip("-")) - (path in server.wrong)
            if start >= len(content):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = len(content) // 2 if path in server.short | server.stubborn else None
        server.short.discard(path)
        self.wfile.write(content[start : start + 70_000 if path in server.crumbs else end])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def fetched(server, tmp_path, monkeypatch, capsys):
    """fetched(File, …) downloads these files and returns their folder and what was said."""

    def run(*files):
        monkeypatch.setitem(download.FILES, "lsp", files)
        capsys.readouterr()  # what was said before
        download.download("lsp", tmp_path / "data")
        return tmp_path / "data", capsys.readouterr().out

    return run


def joints(server, *paths):
    return File(
        "joints.mat",
        "labels",
        len(MAT),
        tuple(map(server.url, paths)),
        hashlib.sha256(MAT).hexdigest(),
    )


def images(server, *paths, count=2, **known):
    return File(
        "images/im????.jpg", "images", 1000, tuple(map(server.url, paths)), count=count, **known
    )


def zipped(link=None, **files):
    with zipfile.ZipFile(packed := io.BytesIO(), "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        if link:
            (info := zipfile.ZipInfo("images/im0003.jpg")).external_attr = (
                stat.S_IFLNK | 0o777
            ) << 16
            archive.writestr(info, link)
    return packed.getvalue()


def tarred(*members):
    with tarfile.open(fileobj=(packed := io.BytesIO()), mode="w:gz") as archive:
        for name, content, kind in members:
            member = tarfile.TarInfo(name)
            member.type = kind
            member.size = len(content)
            member.linkname = "im0001.jpg"
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


GOOD = {
    "lsp/images/im0001.jpg": b"\xff\xd8one",
    "lsp/images/im0002.jpg": b"\xff\xd8two",
    "lsp/visualized/im0001.jpg": b"drawn on",
}


def left(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_mirrors_are_asked_in_turn_and_nothing_is_fetched_twice(server, fetched):
    server.files |= {"/wrong.mat": MAT[:-1] + b"?", "/page.mat": PAGE, "/joints.mat": MAT}
    server.moved.add("/home.mat")
    file = joints(server, "/gone.mat", "/page.mat", "/home.mat", "/wrong.mat", "/joints.mat")
    folder, said = fetched(file)
    assert (folder / "joints.mat").read_bytes() == MAT
    assert left(folder) == ["downloads.json", "joints.mat"]
    told = [line for line in said.splitlines() if line.startswith("  no:")]
    assert [
        word in line
        for word, line in zip(("404", "an HTML page", "an HTML page", "expected"), told)
    ] == [True] * 4
    assert server.url("/") in told[2]  # where the dead address led
    record = artifacts.read_json(folder / "downloads.json")["joints.mat"]
    assert record["url"] == server.url("/joints.mat") and record["sha256"] == file.sha256
    asked = len(server.asked)
    assert fetched(file)[1] == f"{folder / 'joints.mat'}: there\n"
    assert len(server.asked) == asked


def test_a_broken_transfer_goes_on_where_it_broke(server, fetched):
    server.files["/joints.mat"] = MAT
    server.short.add("/joints.mat")
    folder, _ = fetched(joints(server, "/joints.mat"))
    assert (folder / "joints.mat").read_bytes() == MAT
    first, second = (place for _, place in server.asked)
    assert first is None and 0 < int(second.removeprefix("bytes=").rstrip("-")) <= len(MAT) // 2


def test_breaks_are_no_matter_while_each_transfer_brings_something(server, fetched):
    server.files["/joints.mat"] = MAT
    server.crumbs.add("/joints.mat")
    folder, _ = fetched(joints(server, "/joints.mat"))
    assert (folder / "joints.mat").read_bytes() == MAT and len(server.asked) > 1 + download.TRIES


@pytest.mark.parametrize("kind", ["whole", "wrong", "plain"])
def test_a_part_of_an_earlier_run(server, fetched, tmp_path, kind):
    """The download goes on from it.

    It begins anew if the server gives another range or none, or says that there is no more.
    """
    server.files["/joints.mat"] = MAT
    if kind != "whole":
        getattr(server, kind).add("/joints.mat")
    (tmp_path / "data").mkdir()
    started = {"wrong": MAT[:1000], "plain": MAT[:6] + bytes(994), "whole": MAT + b"more"}
    beginning = started[kind]
    (tmp_path / "data" / "joints.mat.part").write_bytes(beginning)
    folder, _ = fetched(joints(server, "/joints.mat"))
    assert (folder / "joints.mat").read_bytes() == MAT and left(folder) == [
        "downloads.json",
        "joints.mat",
    ]
    assert server.asked[0][1] == f"bytes={len(beginning)}-"


def test_a_part_is_used(server, fetched, tmp_path):
    server.files["/joints.mat"] = MAT
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "joints.mat.part").write_bytes(MAT[:399_000])
    fetched(joints(server, "/joints.mat"))
    assert server.asked == [("/joints.mat", "bytes=399000-")]


def test_a_server_that_always_breaks_off_is_given_up(server, fetched):
    server.files |= {"/joints.mat": MAT, "/good.mat": MAT}
    server.stubborn.add("/joints.mat")
    folder, said = fetched(joints(server, "/joints.mat", "/good.mat"))
    assert (folder / "joints.mat").read_bytes() == MAT
    assert 1 < sum(path == "/joints.mat" for path, _ in server.asked) <= 1 + download.TRIES


def test_one_line_and_status_2_when_no_mirror_gives_it(server, tmp_path, monkeypatch, capsys):
    server.files |= {"/page.mat": PAGE, "/wrong.mat": MAT + b"?", "/lsp.zip": zipped(**GOOD)}
    files = (joints(server, "/gone.mat", "/page.mat", "/wrong.mat"), images(server, "/lsp.zip"))
    monkeypatch.setitem(download.FILES, "lsp", files)
    with pytest.raises(SystemExit) as error:
        cli.main(["download", "lsp", "--root", str(tmp_path / "data")])
    told = capsys.readouterr()
    assert error.value.code == 2 and told.err.startswith("hpe: ") and told.err.count("\n") == 1
    assert all(
        word in told.err for word in ("joints.mat", "404", "an HTML page", "expected", "kaggle.com")
    )
    assert "images" not in told.err.split("expected joints.mat")[0]
    assert left(tmp_path / "data") == [
        "downloads.json",
        "images/im0001.jpg",
        "images/im0002.jpg",
    ]  # the rest came


@pytest.mark.parametrize("ending", ["zip", "tar.gz"])
def test_archives_are_unpacked_as_the_loaders_read_them(server, fetched, ending):
    path = f"/lsp.{ending}"
    server.files[path] = PACKERS[ending](**GOOD)
    file = images(server, path, md5="0" * 32)
    folder, said = fetched(file)
    assert left(folder) == ["downloads.json", "images/im0001.jpg", "images/im0002.jpg"]
    assert (folder / "images" / "im0001.jpg").read_bytes() == b"\xff\xd8one"
    assert f"md5 {hashlib.md5(server.files[path]).hexdigest()} - warning" in said
    (folder / "images" / "im0001.jpg").write_bytes(b"mine")
    assert "2 files" in fetched(file)[1] and len(server.asked) == 1
    (folder / "images" / "im0002.jpg").unlink()
    fetched(file)
    assert (folder / "images" / "im0002.jpg").read_bytes() == b"\xff\xd8two" and len(
        server.asked
    ) == 2
    assert (folder / "images" / "im0001.jpg").read_bytes() == b"mine"  # never overwritten


def marked(packed, flags=0, method=0):
    """A zip with these flags and this method in all its headers."""
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        parts = packed.split(signature)
        told = struct.pack("<HH", flags, method)
        parts[1:] = [p[: place - 4] + told + p[place:] for p in parts[1:]]
        packed = signature.join(parts)
    return packed


PACKERS = {
    "zip": zipped,
    "tar.gz": lambda **files: tarred(*((n, data, tarfile.REGTYPE) for n, data in files.items())),
}
EVIL = {
    "up.zip": zipped(**GOOD, **{"lsp/images/../../../im9999.jpg": b"evil"}),
    "root.zip": zipped(**GOOD, **{"/tmp/images/im9999.jpg": b"evil"}),
    "windows.zip": zipped(**GOOD, **{"C:\\images\\im9999.jpg": b"evil"}),
    "cut.zip": zipped(**GOOD)[:-30],
    "bytes.zip": zipped(**GOOD).replace(b"two", b"owt", 1),
    "empty.zip": zipped(readme=b"nothing"),
    "up.tar.gz": tarred(
        ("images/im0001.jpg", b"\xff\xd8one", tarfile.REGTYPE),
        ("../im9999.jpg", b"evil", tarfile.REGTYPE),
    ),
    "root.tar.gz": tarred(("/im9999.jpg", b"evil", tarfile.REGTYPE)),
    "link.tar.gz": tarred(
        ("images/im0001.jpg", b"\xff\xd8one", tarfile.REGTYPE),
        ("images/im0002.jpg", b"", tarfile.SYMTYPE),
    ),
    "link.zip": zipped(**GOOD, link=b"images/im0001.jpg"),
    "cut.tar.gz": tarred(*((name, bytes(9999), tarfile.REGTYPE) for name in GOOD))[:-20],
    "encrypted.zip": marked(zipped(**GOOD), flags=1),
    "method.zip": marked(zipped(**GOOD), method=99),
    "few.zip": zipped(**dict([*GOOD.items()][:1])),
    "offset.zip": zipped(**GOOD)[100:],
    "folders.zip": zipped(**{f"{name}/": b"" for name in GOOD}),
    "pages.zip": zipped(**dict.fromkeys(GOOD, PAGE)),
    "nothing.tar.gz": tarred(*((name, b"", tarfile.REGTYPE) for name in GOOD)),
}


@pytest.mark.parametrize("name", EVIL)
def test_unsafe_and_damaged_archives_leave_nothing(server, fetched, tmp_path, name):
    server.files[f"/{name}"] = EVIL[name]
    with pytest.raises(BadInput, match="unsafe|outside|absolute|damaged|without|link") as error:
        fetched(images(server, f"/{name}"))
    assert str(error.value).count("\n") == 0
    assert left(tmp_path) == [] and not list(tmp_path.rglob("im9999.jpg"))
    good = f"/good/{name}"
    server.files[good] = PACKERS[name.partition(".")[2]](**GOOD)
    folder, said = fetched(images(server, f"/{name}", good))  # the next mirror is asked
    assert said.count("  no: ") == 1
    assert left(folder) == ["downloads.json", "images/im0001.jpg", "images/im0002.jpg"]
    assert artifacts.read_json(folder / "downloads.json")["images/im????.jpg"]["url"] == (
        server.url(good)
    )


@pytest.mark.parametrize("status", [429, 503])
def test_a_mirror_that_is_busy_for_a_moment_loses_nothing(server, fetched, status):
    names = [f"im{number:04d}.jpg" for number in range(1, 4)]
    server.files |= {f"/raw/{name}": b"\xff\xd8" + name.encode() for name in names}
    server.busy["/raw/im0002.jpg"] = status
    folder, said = fetched(images(server, "/raw/im{:04d}.jpg", count=3))
    assert left(folder) == ["downloads.json", *(f"images/{name}" for name in names)]
    assert "  no: " not in said


def test_a_mirror_that_stays_busy_says_so(server, fetched):
    server.busy = Always(503)
    with pytest.raises(BadInput, match="503 Service Unavailable"):
        fetched(joints(server, "/joints.mat"))


def test_a_folder_that_may_not_be_written_is_said(server, fetched, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError("[Errno 13] Permission denied | Pooch could not write")

    monkeypatch.setattr(download.pooch, "retrieve", refuse)
    with pytest.raises(BadInput, match="data: found no permission to write, expected a folder"):
        fetched(joints(server, "/joints.mat"))


def test_what_a_killed_unpacking_left_is_removed_after_a_day(server, fetched, tmp_path):
    folder = tmp_path / "data" / ".unpacking-dead"
    artifacts.write_bytes(folder / "images" / "im0001.jpg", b"old")
    server.files["/joints.mat"] = MAT
    fetched(joints(server, "/joints.mat"))
    assert folder.exists(), "it may still be written"
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (0, 0))
    fetched(joints(server, "/joints.mat"))
    assert not folder.exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_disk_s_fault_is_not_the_archive_s(server, fetched, monkeypatch, number):
    def fails(*arguments):
        raise OSError(number, "the disk")

    server.files["/lsp.zip"] = zipped(**GOOD)
    monkeypatch.setattr(download.shutil, "copyfileobj", fails)
    with pytest.raises(OSError, match="the disk"):
        fetched(images(server, "/lsp.zip"))


@pytest.mark.parametrize("content", [EVIL["cut.zip"], EVIL["few.zip"], b"", b"notes"])
def test_an_archive_put_there_by_hand_that_does_not_serve_stays(server, fetched, tmp_path, content):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "lsp.zip").write_bytes(content)
    server.files["/lsp.zip"] = zipped(**GOOD)
    folder, said = fetched(images(server, "/lsp.zip"))
    assert left(folder) == ["downloads.json", *(f"images/im000{i}.jpg" for i in (1, 2)), "lsp.zip"]
    assert (folder / "lsp.zip").read_bytes() == content and "  no: a" in said


def test_an_archive_put_there_by_hand_is_taken(server, fetched, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "lsp.zip").write_bytes(zipped(**GOOD))
    folder, _ = fetched(images(server, "/lsp.zip"))
    assert (
        left(folder) == ["downloads.json", "images/im0001.jpg", "images/im0002.jpg", "lsp.zip"]
        and server.asked == []
    )


JPEGS = {f"im{n:04d}.jpg": b"\xff\xd8" + bytes([n]) * 100_000 * n for n in (1, 2, 3)}
LISTING = "".join(f"{n} {len(b)} {hashlib.sha256(b).hexdigest()}\n" for n, b in JPEGS.items())


def one_by_one(server, listing=LISTING):
    sha = hashlib.sha256(listing.encode()).hexdigest()
    return images(server, "/raw/im{:04d}.jpg", "/lsp.zip", count=len(JPEGS), listing=sha)


def test_files_come_one_by_one_each_going_on_where_it_broke(server, fetched):
    server.files |= {f"/raw/{name}": content for name, content in JPEGS.items()}
    server.short.add("/raw/im0003.jpg")
    folder, said = fetched(one_by_one(server))
    assert left(folder) == ["downloads.json", *(f"images/{name}" for name in JPEGS)]
    assert all((folder / "images" / name).read_bytes() == JPEGS[name] for name in JPEGS)
    assert ("/raw/im0003.jpg", "bytes=131072-") in server.asked and len(server.asked) == 4
    entry = artifacts.read_json(folder / "downloads.json")["images/im????.jpg"]
    assert (entry["bytes"], entry["files"]) == (600_006, 3)
    assert "3 files" in fetched(one_by_one(server))[1] and len(server.asked) == 4


def test_files_that_came_stay_when_the_connection_breaks(server, fetched, tmp_path):
    server.files |= {f"/raw/{name}": content for name, content in JPEGS.items()}
    server.stubborn.add("/raw/im0003.jpg")
    with pytest.raises(BadInput, match="no connection"):
        fetched(one_by_one(server))
    assert not (tmp_path / "data" / "images").exists()
    server.stubborn.clear()
    server.asked.clear()
    fetched(one_by_one(server))
    assert {path for path, _ in server.asked} == {"/raw/im0003.jpg"}


@pytest.mark.parametrize("fault", ["missing", "page", "other"])
def test_of_files_that_are_not_all_as_listed_none_is_taken(server, fetched, tmp_path, fault):
    server.files |= {f"/raw/{name}": content for name, content in JPEGS.items()}
    if fault == "missing":
        del server.files["/raw/im0002.jpg"]
    else:
        server.files["/raw/im0002.jpg"] = PAGE if fault == "page" else JPEGS["im0002.jpg"] + b"?"
    with pytest.raises(BadInput) as error:
        fetched(one_by_one(server))
    told = {"missing": "404", "page": "an HTML page", "other": "3 files of 600,007 bytes"}[fault]
    assert told in str(error.value) and not (tmp_path / "data").exists()
    server.files["/lsp.zip"] = zipped(
        **{f"images/{name}": b"\xff\xd8 of the zip" for name in JPEGS}
    )
    assert len(left(fetched(one_by_one(server))[0])) == 4  # the next mirror gives them


def test_the_listing_is_of_the_images_that_everybody_has(test_data):
    file = next(file for file in download.FILES["lsp"] if file.listing)
    found = download.listing((test_data / "lsp").glob(file.name))
    assert found == {"bytes": file.size, "sha256": file.listing, "files": file.count}


def test_a_file_with_another_content_is_not_overwritten(server, fetched, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "joints.mat").write_bytes(b"mine")
    with pytest.raises(BadInput, match="move this one away"):
        fetched(joints(server, "/joints.mat"))
    assert (tmp_path / "data" / "joints.mat").read_bytes() == b"mine" and server.asked == []


def test_two_downloads_into_one_folder_do_not_meet(server, fetched, tmp_path):
    server.files["/a.mat"] = MAT
    with locks.lock(tmp_path / "data"):
        locks.HELD.clear()  # as if the other were another process
        with pytest.raises(BadInput, match="another process that is writing to it"):
            fetched(joints(server, "/a.mat"))
    assert not server.asked
    assert fetched(joints(server, "/a.mat"))[0].joinpath("joints.mat").read_bytes() == MAT


def test_images_may_lie_on_another_disk(server, fetched, monkeypatch):
    server.files["/a.zip"] = zipped(**GOOD)
    rename = os.replace

    def within_a_disk(new, target):
        """Folders are disks here."""
        if os.path.dirname(new) != os.path.dirname(target):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        rename(new, target)

    monkeypatch.setattr(os, "replace", within_a_disk)
    root, said = fetched(images(server, "/a.zip"))
    assert len(list(root.glob("images/*.jpg"))) == 2


def test_a_disk_that_is_too_small_is_found_out_beforehand(server, fetched, tmp_path):
    with pytest.raises(BadInput, match=r"GB free on its disk, expected 10000000.0 GB free"):
        fetched(File("images/im????.jpg", "images", 5 * 10**15, (server.url("/lsp.zip"),), count=2))
    assert server.asked == []


def test_what_is_there_already_needs_no_room(server, fetched, tmp_path, monkeypatch):
    """An archive of 100 GB: 60 are fetched, or all of it was put there by hand."""
    big = File("images/im????.jpg", "images", 100 * 10**9, (server.url("/a.zip"),), count=2)
    root = tmp_path / "data"
    part = root / download.FETCHING / "a.zip.part"
    for path, there, needed in ((part, 60, 140), (root / "a.zip", 100, 100)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            file.truncate(there * 10**9)  # takes no room
        assert download.fetched_bytes(root, big) == there * 10**9
        usage = SimpleNamespace(free=(needed - 1) * 10**9)
        monkeypatch.setattr(download.shutil, "disk_usage", lambda folder, usage=usage: usage)
        with pytest.raises(BadInput, match=f"expected {needed}.0 GB free"):
            download.check_space(root, [big])
        usage.free = needed * 10**9
        download.check_space(root, [big])


def test_an_archive_put_by_hand_into_a_folder_with_a_brace(server, monkeypatch, tmp_path):
    root = tmp_path / "x{a}"
    root.mkdir()
    (root / "a.zip").write_bytes(zipped(**GOOD))
    assert download.get_file(root, images(server, "/a.zip")) is None
    assert len(list(root.glob("images/*.jpg"))) == 2 and server.asked == []


def test_the_table_says_what_the_loaders_need():
    for dataset, files in download.FILES.items():
        assert {".mat", ".jpg"} <= {file.name[-4:] for file in files}
        assert download.SOURCES[dataset]["terms"] and download.SOURCES[dataset]["by_hand"]
        for file in files:
            assert file.sha256 or file.count > 1 or file.urls[0].endswith(".zip")
            assert all(download.SIGNATURES[url[url.rindex(".") :]] for url in file.urls)
            assert len(file.sha256 or "0" * 64) == 64


def test_a_server_that_sends_far_too_much_is_stopped(server, fetched, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "SPARE", 1000)
    server.files |= {"/long.mat": MAT * 3, "/good.mat": MAT}
    folder, said = fetched(joints(server, "/long.mat", "/good.mat"))
    assert (folder / "joints.mat").read_bytes() == MAT
    assert "bytes, far more than it should have" in said
    assert sorted(path.name for path in folder.iterdir()) == ["downloads.json", "joints.mat"]


def test_a_server_that_never_says_how_much_is_stopped_too(tmp_path, monkeypatch):
    part = tmp_path / "joints.mat.part"
    chunks = iter([b"MATLAB", *[b"x" * 100] * 50])
    answer = SimpleNamespace(headers={}, iter_content=lambda size: chunks, url="https://a/b")
    with pytest.raises(download.Refused, match="over 1,000 bytes"):
        download.append(answer, part, 0, 1000)
    assert part.stat().st_size < 1200 and next(chunks) == b"x" * 100


def test_a_part_of_something_else_is_not_gone_on_with(server, fetched, tmp_path):
    server.files["/a.mat"] = MAT
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "joints.mat.part").write_bytes(b"garbage" * 100)
    folder, _ = fetched(replace(joints(server, "/a.mat"), sha256=None))
    assert (folder / "joints.mat").read_bytes() == MAT and server.asked == [("/a.mat", None)]


def test_an_archive_that_unpacks_to_far_more_is_refused(server, fetched, monkeypatch):
    monkeypatch.setattr(download, "SPARE", 1000)
    with zipfile.ZipFile(packed := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images/im0001.jpg", b"\xff\xd8" + bytes(10**6))
    server.files["/a.zip"] = packed.getvalue()
    with pytest.raises(BadInput, match="unpacks to far more than its bytes"):
        fetched(images(server, "/a.zip"))


def test_a_record_that_is_somebody_else_s_stops_before_anything_is_fetched(
    server, tmp_path, fetched
):
    server.files["/a.mat"] = MAT
    (tmp_path / "data").mkdir()
    for content in ("[1]", '{"mine": 1}', '{"mine": {"a": 1}}'):
        (tmp_path / "data" / "downloads.json").write_text(content)
        with pytest.raises(BadInput, match="downloads.json: found no record of downloads"):
            fetched(joints(server, "/a.mat"))
        assert not server.asked and (tmp_path / "data" / "downloads.json").read_text() == content


@pytest.mark.parametrize("name", ["fetched-lsp.zip", ".fetching/images/im0001.jpg", "mine.zip"])
def test_a_person_s_files_are_neither_taken_nor_removed(server, fetched, tmp_path, name):
    server.files["/lsp.zip"] = zipped(**GOOD)
    theirs = tmp_path / "data" / name
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(zipped(**{"images/im0001.jpg": b"\xff\xd8 mine"}))
    before = theirs.read_bytes()
    folder, _ = fetched(images(server, "/lsp.zip"))
    assert theirs.read_bytes() == before and len(server.asked) == 1
    assert b"mine" not in (folder / "images" / "im0001.jpg").read_bytes()


@pytest.mark.parametrize("name", ["images", download.FETCHING])
def test_a_file_where_a_folder_should_be_is_said_before_anything_is_fetched(
    server, fetched, tmp_path, name
):
    server.files["/lsp.zip"] = zipped(**GOOD)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).write_text("mine")
    with pytest.raises(BadInput, match=f"{name}: found a file, expected a folder"):
        fetched(images(server, "/lsp.zip"))
    assert left(tmp_path / "data") == [name] and not server.asked
