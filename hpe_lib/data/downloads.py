"""Where the data sets are found, how they are fetched, and whether what lies in a folder is whole.

None of the addresses was fetched by us: repositories and pages named them, years apart. Nobody publishes official
hashes: those of files in public repositories are of the copies we read.
"""

import errno
import fnmatch
import hashlib
import lzma
import os
import shutil
import stat
import struct
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, combinations
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import cv2
import numpy as np
import pooch
import requests
from tqdm.auto import tqdm

from hpe_lib.data import annotations, datasets
from hpe_lib.skeleton import ABSENT, OCCLUDED, VISIBLE
from hpe_lib.workbook import artifacts, presets
from hpe_lib.workbook.artifacts import BadInput, one_line


@dataclass(frozen=True)
class File:
    """A file to fetch: its name in the folder, or for an archive the pattern of what is unpacked from it.

    size: bytes, about.  sha256: another one is refused.  md5: a third party's, a hint only.  count: files that match.
    listing: for urls with a number in braces, whose files are fetched one by one: sha256 of `listing`.
    """

    name: str
    what: str
    size: int
    urls: tuple[str, ...]
    sha256: str | None = None
    md5: str | None = None
    count: int = 1
    listing: str | None = None


RAW, GITHUB, MPI = (
    "https://raw.githubusercontent.com",
    "https://github.com",
    "https://datasets.d2.mpi-inf.mpg.de",
)
EVAL_MPII, EVAL_POSE = (
    f"{RAW}/anibali/eval-mpii-pose/HEAD/preds/reference",
    f"{RAW}/bearpaw/eval_pose/HEAD",
)
SMPL = f"{RAW}/CircularWorld/smpl/3a15fae330673bbdb556d78d6326432783a9fcd9"
LEEDS = (
    "https://sam.johnson.io/research",
    "http://www.comp.leeds.ac.uk/mat4saj",
)  # dead since 2019-2021, it is said
FILES = {
    "mpii": (
        File(
            "mpii_human_pose_v1_u12_1.mat",
            "annotations",
            12_500_000,
            (
                f"{MPI}/andriluka14cvpr/mpii_human_pose_v1_u12_2.zip",
                f"{MPI}/leonid14cvpr/mpii_human_pose_v1_u12_1.tar.gz",
            ),
        ),
        File(
            "valid.h5",
            "the validation split",
            1_350_310,
            (
                f"{RAW}/princeton-vl/pose-hg-train/HEAD/data/mpii/annot/valid.h5",
                *(
                    f"{RAW}/{owner}/pose-hg-demo/HEAD/annot/valid.h5"
                    for owner in ("anewell", "princeton-vl")
                ),
            ),
            "6c9e29d1472945abf370339d8a75e0da4117be52dcc3f589cb9f4a77cac2b760",
        ),
        File(
            "predictions/newell.h5",
            "published predictions",
            759_392,
            (f"{EVAL_MPII}/newell.h5",),
            "1814e043232b2bae94a4ac4190a46d3273249cdf85993d9dfa98082713bc77f2",
        ),
        File(
            "predictions/bearpaw-hg_s2_b1.mat",
            "published predictions",
            378_824,
            (f"{EVAL_MPII}/bearpaw-hg_s2_b1.mat",),
            "e55d253422cbcc9655395519f0ceb8c21f45f829c77b600fc4de708b4116e61e",
        ),
        File(
            "images/*.jpg",
            "images",
            12_900_000_000,
            (f"{MPI}/andriluka14cvpr/mpii_human_pose_v1.tar.gz",),
            md5="b6bc9c6869d3f035a5570b2e68ec84c4",
            count=24_984,
        ),
    ),
    "lsp": (
        File(
            "joints.mat",
            "person-centric labels, as in the paper",
            440_523,
            (f"{EVAL_POSE}/gt/lsp-joints-PC.mat",),
            "ddcfcbe904106bfbf26561c8d11720ca62a11c7a861548064b3bae84cb396b2a",
        ),
        File(
            "lsp-joints-OC.mat",
            "observer-centric labels",
            440_600,
            (f"{EVAL_POSE}/gt/lsp-joints-OC.mat",),
            "14e4f21084081275f064d68faa365280ce0aa28130ae54d564f6a626e9ef57bb",
        ),
        File(
            "pred_keypoints_lsp_pc.mat",
            "published predictions",
            59_847,
            (f"{EVAL_POSE}/results/LSP/pred_keypoints_lsp_pc.mat",),
            "ac417a0f291a8a68a04bf1ef337bc95ef7b1c6896e62949f9222496ccc4e30f0",
        ),
        File(
            "images/im????.jpg",
            "images",
            10_492_160,
            (f"{SMPL}/images/lsp/im{{:04d}}.jpg", *(f"{home}/lsp_dataset.zip" for home in LEEDS)),
            count=2000,
            listing="f852b68d81b3d61530dfec0f3e64a9d28afd85dea45a7ab847942bfb79fb2965",
        ),
    ),
    "lspet": (  # not hr-lspet.zip, which holds other pixels and other labels
        File(
            "joints.mat",
            "labels",
            1_906_792,
            (f"{RAW}/axelcarlier/lsp/HEAD/joints.mat",),
            "cc66465117888d9f43aac78c15c4548e37df5022640a193f2002fd084cba13ef",
        ),
        File(
            "images/im?????.jpg",
            "images",
            170_000_000,
            (
                f"{GITHUB}/axelcarlier/lsp/archive/HEAD.zip",
                *(f"{home}/lspet_dataset.zip" for home in LEEDS),
            ),
            count=10_000,
        ),
    ),
}
TERMS = {
    "mpii": "images for research only, not commercially; annotations BSD-2; cite Andriluka et al., CVPR 2014",
    "lsp": "photographs from Flickr, for research; cite Johnson & Everingham, BMVC 2010",
    "lspet": "photographs from Flickr, for research; cite Johnson & Everingham, CVPR 2011",
}
ELSEWHERE = {
    "mpii": "these files, or the archives, put there by hand: human-pose.mpi-inf.mpg.de",
    "lsp": "joints.mat and images/ put there by hand; copies: huggingface.co/datasets/LiuRunky/"
    "Leeds_Sports_Pose, kaggle.com/datasets/dkrivosic/leeds-sports-pose-lsp",
    "lspet": "joints.mat and images/ put there by hand, from a clone of github.com/axelcarlier/lsp",
}
SIGNATURES = {
    ".zip": b"PK\x03\x04",
    ".gz": b"\x1f\x8b",
    ".h5": b"\x89HDF",
    ".mat": b"MATLAB",
    ".jpg": b"\xff\xd8",
}
RECORD = "downloads.json"  # beside the data: what came from where, its sha256, when
AT_ONCE = 8  # transfers of small files
TRIES, PAUSE, TIMEOUT, CHUNK = (
    3,
    2.0,
    (15, 60),
    1 << 16,
)  # tries that bring nothing new, s between, s, bytes


# What decompression and headers raise beside the archives' own errors. RuntimeError: encrypted.
DAMAGED = zlib.error, lzma.LZMAError, EOFError, ValueError, struct.error


class Refused(Exception):
    """What one mirror sent cannot be used."""


def download(dataset: str, root: str | Path, say=print) -> None:
    """Fetch what DIR lacks of "mpii", "lsp" or "lspet" and unpack it as the loaders read it. Mirrors are asked in turn.

    What is there is never overwritten, and an archive put there by hand is taken. BadInput, once all the rest is there,
    names what no mirror gave and what each answered; at once where a file has another content or the disk is too small.
    """
    root, failures = Path(root), []
    root.mkdir(parents=True, exist_ok=True)
    pooch.get_logger().setLevel("WARNING")
    lacking = [file for file in FILES[dataset] if not whole(root, file, say)]
    if lacking:
        say(f"to fetch: about {sum(file.size for file in lacking) / 1e6:,.0f} MB; {TERMS[dataset]}")
    needed = sum(
        file.size * (1 + (file.count > 1)) for file in lacking
    )  # archives and what is in them
    if (free := shutil.disk_usage(root).free) < needed:
        raise BadInput(root, f"{free / 1e9:.1f} GB free on its disk", f"{needed / 1e9:.1f} GB free")
    for file in lacking:
        failures += obtain(root, file, say)
    for folder in (root / "predictions", root):
        with suppress(OSError):  # not empty
            folder.rmdir()
    if failures:
        raise BadInput(root, "; ".join(failures), ELSEWHERE[dataset])


def whole(root: Path, file: File, say=print) -> bool:
    """Is the file, or all that is unpacked from an archive, there? BadInput if a file there has another sha256."""
    found = len(list(root.glob(file.name)))
    if found and file.sha256 and (sha := artifacts.file_hash(root / file.name)) != file.sha256:
        raise BadInput(
            root / file.name,
            f"sha256 {sha[:12]}…",
            f"{file.sha256[:12]}…; to fetch it, move this one away",
        )
    if found < file.count:
        return False
    say(f"{root / file.name}: there" + (f", {found:,} files" if file.count > 1 else ""))
    return True


def recorded(root: Path) -> dict:
    """What RECORD says: {file's name: {"url", "bytes", "sha256", "fetched"}}."""
    return artifacts.read_json(root / RECORD) if (root / RECORD).is_file() else {}


def obtain(root: Path, file: File, say=print) -> list[str]:
    """A file from the first source that serves, unpacked and recorded: []; or what each source
    said.

    An archive that a person has put there is asked before the mirrors, and stays.
    """
    answers, names = [], {Path(url).name for url in file.urls if archive(url)}
    by_hand = [root / name for name in sorted(names) if (root / name).is_file()]
    for source in (*by_hand, *file.urls):
        say(f"{file.what}: {source}")
        try:
            if isinstance(source, str) and "{" in source:
                record(root, file, {"url": source, **fetch_each(source, root, file)})
                return []
            path = source if isinstance(source, Path) else fetch(source, root, file)
            entry = {
                "url": str(source),
                "bytes": path.stat().st_size,
                "sha256": artifacts.file_hash(path),
            }
            say(f"  {entry['bytes']:,} bytes, sha256 {entry['sha256']}")
            if file.md5 and (md5 := pooch.file_hash(str(path), "md5")) != file.md5:
                say(f"  md5 {md5} - warning: a third party published {file.md5}")
            if path != root / file.name:
                unpack(path, root, file)
        except (Refused, requests.RequestException) as error:
            said = (
                one_line(error)
                if isinstance(error, Refused)
                else f"no connection ({type(error).__name__})"
            )
            say(f"  no: {said}")
            answers.append(f"{urlsplit(str(source)).netloc or source}: {said}")
            continue
        record(root, file, entry)
        return []
    return [f"{file.name} from no mirror: {', '.join(answers)}"]


def record(root: Path, file: File, entry: dict) -> None:
    """Note in RECORD where a file came from."""
    entry = {**entry, "fetched": artifacts.now()}
    artifacts.write_json(root / RECORD, {**recorded(root), file.name: entry})


def fetch_each(url: str, root: Path, file: File) -> dict:
    """Files 1, 2, … of a url with a number in braces, several at once, put in place when all are there.

    Returns {"bytes", "sha256": of the `listing`, "files"}. What came stays for the next try if the connection breaks;
    Refused, and nothing kept, if one of them is missing or the listing is another.
    """
    beside = root / ".fetching"
    (folder := beside / Path(file.name).parent).mkdir(parents=True, exist_ok=True)
    urls = [url.format(number) for number in range(1, file.count + 1)]
    lacking = [url for url in urls if not (folder / Path(url).name).exists()]

    def get(url):
        path = folder / Path(url).name
        resumed(path.with_name(f"{path.name}.part"), url, path, furthest=1)

    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        for _ in tqdm(pool.map(get, lacking), total=len(lacking), disable=None, leave=False):
            pass
        found = listing(beside.glob(file.name))
        if file.listing not in (None, found["sha256"]):
            raise Refused(f"{found['files']} files of {found['bytes']:,} bytes in all, not these")
        into_place(beside, root, file.name)
    except Refused:
        pool.shutdown(cancel_futures=True)
        shutil.rmtree(beside)
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    shutil.rmtree(beside)
    return found


def listing(paths) -> dict:
    """{"bytes", "sha256", "files"} of files: sha256 is over their lines "NAME BYTES SHA256", sorted, each ended."""
    lines = sorted(f"{path.name} {size(path)} {artifacts.file_hash(path)}\n" for path in paths)
    total = sum(int(line.split()[1]) for line in lines)
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    return {"bytes": total, "sha256": digest, "files": len(lines)}


def archive(url: str) -> bool:
    """Is it an archive that is behind an address?"""
    return Path(url).suffix in (".zip", ".gz")


FETCHED = "fetched-"  # begins the names of our own archives, which are removed once they are used


def fetch(url: str, root: Path, file: File) -> Path:
    """One mirror's file under its final name, or an archive of our own: whole and of its hash, or
    Refused."""
    path = root / (f"{FETCHED}{Path(url).name}" if archive(url) else file.name)
    downloader = partial(resumed, path.with_name(f"{path.name}.part"))
    try:
        pooch.retrieve(url, file.sha256, path.name, path.parent, downloader=downloader)
    except ValueError as error:  # pooch's word for a hash that differs
        raise Refused(str(error).split(". ")[0]) from None
    return path


def resumed(part: Path, url: str, output_file: str, pooch=None, furthest: int = 0) -> None:
    """A downloader for pooch, which has none that goes on where a transfer broke off: `part` stays for the next try.

    furthest: 0 gives up at once where nothing has come yet, as of a server that is gone; 1 tries again.
    """
    tries = TRIES
    while True:
        try:
            transfer(url, part)
            os.replace(part, output_file)
            return
        except (
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
        ):
            tries, furthest = (
                (TRIES if size(part) > furthest else tries - 1),
                max(furthest, size(part)),
            )
            if not (tries and furthest):
                raise
            time.sleep(PAUSE)


def size(path: Path) -> int:
    """A file's bytes; 0 if there is none."""
    return path.stat().st_size if path.exists() else 0


def transfer(url: str, part: Path) -> None:
    """One request: on from what is in `part` if the server can, else from the start. Refused if it has none."""
    have = size(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        elsewhere = not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if have and (answer.status_code == 416 or answer.status_code == 206 and elsewhere):
            part.unlink()  # longer than the server's file, or another range than we asked for: from the start
            return transfer(url, part)
        if answer.status_code not in (200, 206):
            raise Refused(f"{answer.status_code} {answer.reason}")
        append(answer, part, have if answer.status_code == 206 else 0)


def append(answer, part: Path, have: int) -> None:
    """Write an answer's body behind the first `have` bytes of `part`, having looked at how it begins."""
    length = int(answer.headers.get("Content-Length", 0))
    chunks = answer.iter_content(CHUNK)
    first = next(chunks, b"")
    kind = Path(part.stem).suffix
    if not have and not first.startswith(SIGNATURES[kind]):
        page = first.lstrip()[:15].lower().startswith((b"<!doctype", b"<html"))
        raise Refused(
            f"{'an HTML page' if page else 'something else'} instead of a {kind} file, from {answer.url}"
        )
    bar = tqdm(
        total=have + length or None,
        initial=have,
        unit="B",
        unit_scale=True,
        disable=None,
        leave=False,
    )
    with open(part, "ab" if have else "wb") as file, bar:
        for chunk in chain([first], chunks):
            file.write(chunk)
            bar.update(len(chunk))
    if size(part) < have + length:
        raise requests.ConnectionError(f"{size(part)} of {have + length} bytes")


def unpack(path: Path, root: Path, file: File) -> None:
    """Unpack the files whose name ends as the pattern says into the folder, but for those that are
    there.

    All of them or, if the archive is damaged, unsafe or lacks some, none: Refused. Either way our
    own is removed.
    """
    with tempfile.TemporaryDirectory(dir=root, prefix=".unpacking-") as beside:
        try:
            extract(path, Path(beside), file.name)
            found = list(Path(beside).glob(file.name))
            if len(found) < file.count:
                raise Refused(f"an archive without {file.count - len(found):,} of {file.name}")
        except Refused:
            remove_own(path)
            raise
        into_place(Path(beside), root, file.name)
    remove_own(path)


def into_place(beside: Path, root: Path, pattern: str) -> None:
    """Move the files that match to their place, but for those that are there."""
    (root / pattern).parent.mkdir(exist_ok=True)
    for new in beside.glob(pattern):
        if not (target := root / new.relative_to(beside)).exists():
            os.replace(new, target)


def remove_own(path: Path) -> None:
    """Remove an archive, unless a person has put it there."""
    if path.name.startswith(FETCHED):
        path.unlink()


def extract(path: Path, folder: Path, pattern: str) -> None:
    """The files of an archive whose name ends as the pattern says. Refused if it is damaged or
    unsafe."""
    try:
        for name, opened in members(path):
            target = "/".join(PurePosixPath(name).parts[-1 - pattern.count("/") :])
            if fnmatch.fnmatchcase(target, pattern):
                (new := folder / target).parent.mkdir(exist_ok=True)
                with opened() as content, open(new, "wb") as file:
                    shutil.copyfileobj(content, file)
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # the disk's, not a seek out of the archive
            raise
        raise Refused(f"a damaged archive: {error}") from None
    except (RuntimeError, zipfile.BadZipFile, tarfile.TarError, *DAMAGED) as error:
        raise Refused(f"a damaged archive, or one that cannot be read: {error}") from None


def members(path: Path) -> Iterator[tuple]:
    """(name, function that opens it) of an archive's files in turn, a large one never in memory. Refused if unsafe.

    Names only choose: no file is ever created under one that an archive gives (`unpack`).
    """
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if (
                    safe(info.filename, not stat.S_ISLNK(info.external_attr >> 16))
                    and not info.is_dir()
                ):
                    yield info.filename, partial(archive.open, info)
    else:
        with tarfile.open(path) as archive:
            for info in archive:
                if safe(info.name, info.isfile() or info.isdir()) and info.isfile():
                    yield info.name, partial(archive.extractfile, info)


def safe(name: str, plain: bool) -> bool:
    """Refused if an archive's member is no plain file or folder, or its name leads out of the folder."""
    where = PurePosixPath(name.replace("\\", "/"))
    if not plain or where.is_absolute() or ".." in where.parts or name[1:2] == ":":
        raise Refused(f"an archive with an unsafe member, {name!r}")
    return True


# ---- what lies in a folder

COPY = 0.97  # correlation of 16×16 grey thumbnails; on LSPET: copies 0.997, one scene twice 0.988, strangers to 0.963
FIRST = 5  # names given of each kind of fault


def default_splits(dataset: str, root: str | Path) -> dict:
    """{split: people} that presets train and score on; for LSPET, "test" is whoever comes after these."""
    if dataset != "lspet":
        return {
            "mpii": {"train": "train", "val": "val"},
            "lsp": {"train": "train", "test": "test"},
            "leeds": {"train": "train", "val": "val", "test": "test"},
        }[dataset]
    numbers = presets.resolve("lspet")["01"]
    last, count = (
        int(numbers["val"].partition("-")[2]),
        len(annotations.lsp(Path(root) / "joints.mat")),
    )
    rest = {"test": f"{last + 1}-{count}"} if count > last else {}
    return {"train": numbers["train"], "val": numbers["val"], **rest}


def check(dataset: str, root: str | Path, splits: dict | None = None) -> dict:
    """What a data folder holds, every image of its people read: {"dataset", "splits": {name: `contents`}, "problems":
    {name of a split that cannot be read: why}, "missing", "unreadable": {"count", "first"}, "near_duplicates":
    [{"files", "splits", "correlation"}], "broken": bool}.

    splits: {name: people} as datasets.load takes them. BadInput if none of them can be read.
    """
    splits, people, problems = splits or default_splits(dataset, root), {}, {}
    for name, asked in splits.items():
        try:
            people[name] = datasets.load(dataset, root, asked, only_present=None)
        except BadInput as error:
            problems[name] = str(error)
    if not people:
        raise BadInput(next(iter(problems.values())))
    paths = {name: sorted(set(p.images.paths)) for name, p in people.items()}
    looked, missing, unreadable = look(sorted(set(chain(*paths.values()))))
    read = {name: [path for path in there if path in looked] for name, there in paths.items()}
    found = {
        "dataset": dataset,
        "problems": problems,
        "splits": {name: {"asked": splits[name], **contents(p)} for name, p in people.items()},
        "missing": {"count": len(missing), "first": missing[:FIRST]},
        "unreadable": {"count": len(unreadable), "first": unreadable[:FIRST]},
        "near_duplicates": [
            pair
            for a, b in combinations(people, 2)
            for pair in copies({a: read[a], b: read[b]}, looked)
        ],
    }
    return found | {"broken": bool(missing or unreadable or problems)}


def contents(people: datasets.People) -> dict:
    """Counts of people and of the joints that the data set labels; reason -> people left out."""
    labelled = people.visibility[:, (people.visibility != ABSENT).any(0)]
    kinds = {"visible": VISIBLE, "occluded": OCCLUDED, "not annotated": ABSENT}
    return {
        "people": len(people),
        "images": len(set(people.images.paths)),
        "metric": people.metric,
        "without normaliser": int((~annotations.positive(people.normaliser)).sum()),
        "joints": {kind: int((labelled == value).sum()) for kind, value in kinds.items()},
        "left out": {why: count for why, count in people.skipped.items() if count},
    }


def look(paths: list[Path]) -> tuple[dict, list, list]:
    """Read every image: {path: thumbnail (16, 16) float32, mean 0, length 1}, absent names, "NAME (fault)"."""
    thumbnails, missing, unreadable = {}, [], []
    for path in tqdm(paths, desc="reading images", disable=None, leave=False, mininterval=5):
        if not path.is_file():
            missing.append(path.name)
            continue
        try:
            grey = cv2.cvtColor(datasets.read_image(path), cv2.COLOR_RGB2GRAY)
        except BadInput as error:
            unreadable.append(f"{path.name} ({error.args[1]})")
            continue
        small = cv2.resize(grey, (16, 16), interpolation=cv2.INTER_AREA).astype(np.float32)
        small -= small.mean()
        thumbnails[path] = small / max(float(np.linalg.norm(small)), 1e-6)
    return thumbnails, missing, unreadable


def copies(paths: dict, thumbnails: dict) -> list[dict]:
    """Pairs of images of two splits, mirrored ones too, whose thumbnails correlate above COPY, the most alike first.

    Copies that were cut differently are not found: the whole images are compared.
    """
    if not all(paths.values()):
        return []
    (a, b), found = paths, []
    many, few = (np.stack([thumbnails[path] for path in paths[name]]) for name in (a, b))
    for seen in (few, few[:, :, ::-1]):
        alike = many.reshape(-1, 256) @ seen.reshape(-1, 256).T  # MPII's 14,679 × 2,729: 160 MB
        found += [
            {
                "files": [paths[a][i].name, paths[b][j].name],
                "splits": [a, b],
                "correlation": round(float(alike[i, j]), 4),
            }
            for i, j in np.argwhere(alike > COPY)
        ]
    return sorted(found, key=lambda pair: -pair["correlation"])


def report(found: dict) -> str:
    """What `check` found, as text for a person."""
    lines = [f"{name}: {why}" for name, why in found["problems"].items()]
    for name, split in found["splits"].items():
        joints = ", ".join(f"{count:,} {kind}" for kind, count in split["joints"].items())
        lines += [
            f"{name} ({split['asked']}): {split['people']:,} people in {split['images']:,} images; {joints}"
        ]
        if lost := split["without normaliser"]:
            lines += [
                f"  {lost:,} ({lost / split['people']:.0%}) have no normaliser: left out of {split['metric']}"
            ]
        lines += [f"  {count:,} left out: {why}" for why, count in split["left out"].items()]
    for kind in ("missing", "unreadable"):
        names = ", ".join(found[kind]["first"])
        lines += [f"{found[kind]['count']:,} images {kind}" + (f", first {names}" if names else "")]
    pairs = found["near_duplicates"]
    lines += [
        f"{len(pairs)} near-duplicates between splits (thumbnails that correlate above {COPY})"
    ]
    lines += [
        f"  {pair['files'][1]} ({pair['splits'][1]}) is like {pair['files'][0]} ({pair['splits'][0]}): "
        f"{pair['correlation']:.3f}"
        for pair in pairs[: 4 * FIRST]
    ]
    return "\n".join(lines)
