"""Hostile files, from a seed, and what the readers make of them: each file in a fork of its own.

python tests/hostile.py GROUP COUNT SEED FOLDER prints one JSON line a file. The group "apart", of
readers that the library runs in a child process, is never in a process with torch.
"""

import io
import json
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tarfile
import zipfile
from pathlib import Path

import h5py
import numpy as np
import scipy.io
from PIL import Image

from hpe_lib.workbook.artifacts import BadInput

POSES = np.random.default_rng(0).uniform(50, 450, (5, 16, 2)).round(1)
PEOPLE = [
    {"image": f"{n}.jpg", "center": [9, 9], "scale": 2.0, "joints": pose, "joints_vis": [1] * 16}
    for n, pose in enumerate(POSES.tolist())
]
IMAGES = "jpeg", "png", "webp", "tiff", "avif", "gif", "bmp", "ppm", "jpeg2000"
SECONDS = 60  # on the clock, after which a reader counts as hanging


def image(kind):
    """A small photograph-like image in this format."""
    pixels = np.random.default_rng(1).integers(0, 255, (6, 5, 3), np.uint8)
    made = Image.fromarray(pixels).resize((50, 60))
    exif = Image.Exif()
    exif[0x0112] = 6
    known = {} if kind in ("gif", "bmp", "ppm", "jpeg2000") else {"exif": exif}
    made.save(file := io.BytesIO(), kind.upper(), **known)
    return file.getvalue()


def mat(values, **how):
    """The bytes of a .mat file."""
    scipy.io.savemat(file := io.BytesIO(), values, **how)
    return file.getvalue()


def official():
    """MPII's official struct of five images with one person each."""
    people = [
        {
            "image": {"name": f"{n}.jpg"},
            "annorect": {
                "x1": 1, "y1": 1, "x2": 9, "y2": 9, "scale": 2.0, "objpos": {"x": 9, "y": 9},
                "annopoints": {
                    "point": [{"x": x, "y": y, "id": j} for j, (x, y) in enumerate(pose)]
                },
            },
        }
        for n, pose in enumerate(POSES)
    ]  # fmt: skip
    return {"RELEASE": {"annolist": people, "img_train": np.ones((1, 5))}}


def hdf5(values, **how):
    """The bytes of an .h5 file."""
    file = io.BytesIO()
    with h5py.File(file, "w", **how) as made:
        for name, value in values.items():
            made[name] = value
            if how:
                made[name].attrs["MATLAB_class"] = np.bytes_("double")
    return file.getvalue()


def newell():
    """The arrays of Newell's layout."""
    ones = {"normalize": np.ones(5), "scale": np.ones(5), "center": np.ones((5, 2))}
    names = {"imgname": np.array([b"x.jpg"] * 5), "person": np.zeros(5)}
    return {**names, **ones, "part": POSES, "visible": np.ones((5, 16))}


JOINTS = b"MATLAB 5.0 MAT-file" + bytes(range(256)) * 8


def archive(kind):
    """A zip, or a tar.gz, with one file that is asked for."""
    file = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
            made.writestr("lsp/joints.mat", JOINTS)
    else:
        with tarfile.open(fileobj=file, mode="w:gz") as made:
            member = tarfile.TarInfo("lsp/joints.mat")
            member.size = len(JOINTS)
            made.addfile(member, io.BytesIO(JOINTS))
    return file.getvalue()


RECORD = {"stage": "joint", "epochs": 2, "loss": 1.0, "lr": 1.0, "seconds": 1.0}
RECORD |= {"images_per_second": 1.0, "peak": None, "epoch": 1}
METRICS = {"metric": "PCKh", "cascade": {"total": 1.0, "persons": 5}, "detector": {}}
PRESET = b"all:\n  seed: 3\n  rotation: 30\n'03':\n  epochs: 2\n  lr: 1e-3\n'04':\n  levels: 2\n"
NETWORK = {"trunk": "slim", "map_stride": 4, "image_size": 64}


def apart_samples():
    """{kind: bytes} of what the library reads in a child process."""
    lsp = np.concatenate([POSES.transpose(2, 1, 0)[:, :14], np.zeros((1, 14, 5))])
    return {
        "mat4": mat({"p": POSES.reshape(80, 2)}, format="4"),
        "mat5": mat({"preds": POSES}),
        "mat5 packed": mat({"preds": POSES}, do_compression=True),
        "mat5 lsp": mat({"joints": lsp}),
        "mat5 official": mat(official()),
        "mat7.3": hdf5({"preds": POSES.T}, userblock_size=512),
        "h5": hdf5({"preds": POSES}),
        "h5 newell": hdf5(newell()),
        "json truth": json.dumps(PEOPLE).encode(),
    }


def plain_samples(folder):
    """{kind: bytes} of what the library reads in its own process."""
    from hpe_lib.cascade import Cascade
    from hpe_lib.workbook import artifacts

    cascade = Cascade(NETWORK)
    made = {"kind": "detector", "network": NETWORK, "parameters": {}, "data": "a", "upstream": {}}
    artifacts.save(folder / "stage", cascade.state_dict(), made, [])
    history = b"".join(json.dumps(RECORD | {"epoch": n}).encode() + b"\n" for n in (1, 2))
    return {
        **{kind: image(kind) for kind in IMAGES},
        "json": json.dumps(METRICS).encode(),
        "boxes": json.dumps({"a.jpg": [[10, 20, 100], [1, 2, 30, 40]], "b.jpg": []}).encode(),
        "yaml": PRESET,
        "history": history,
        "manifest": (folder / "stage" / artifacts.MANIFEST).read_bytes(),
        "safetensors": (folder / "stage" / artifacts.WEIGHTS).read_bytes(),
        "zip": archive("zip"),
        "tar": archive("tar"),
    }


def mutated(content, chance):
    """The bytes, damaged in one to three ways."""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        content = chance.choice(MUTATIONS)(bytearray(content) or bytearray(1), chance)
    return bytes(content)


def place(content, chance):
    """Somewhere, in the first 200 bytes half of the time."""
    return chance.randrange(len(content) if chance.random() < 0.5 else min(200, len(content)))


def flip(content, chance):
    """One to eight bits changed."""
    for _ in range(chance.choice((1, 1, 2, 8))):
        content[place(content, chance)] ^= 1 << chance.randrange(8)
    return content


def cut(content, chance):
    """The end is missing."""
    return content[: chance.randrange(len(content))]


def blank(content, chance):
    """A run of zeros."""
    at = place(content, chance)
    size = chance.choice((1, 4, 16, 256, 4096))
    end = min(at + size, len(content))
    content[at:end] = bytes(end - at)
    return content


def double(content, chance):
    """A block that comes twice, or where another was."""
    at = place(content, chance)
    to = place(content, chance)
    block = content[at : at + chance.choice((4, 64, 1024))]
    content[to : to + chance.choice((0, len(block)))] = block
    return content


def enlarge(content, chance):
    """A count or size in the header set to a huge value: numbers as bytes, or as digits."""
    digits = [n for n, byte in enumerate(content[:4000]) if chr(byte).isdigit()]
    if len(digits) > len(content[:4000]) / 20 and chance.random() < 0.8:
        at = chance.choice(digits)
        content[at : at + 1] = chance.choice((b"999999999", b"-1", b"1e308", b"9" * 5000, b"NaN"))
        return content
    at = place(content, chance)
    huge = chance.choice((2**31 - 1, 2**32 - 1, 2**30, 10**6, 2**16, 0x80000000))
    value = struct.pack(chance.choice("<>") + chance.choice("IQ"), huge)
    content[at : at + len(value)] = value
    return content


MUTATIONS = flip, cut, blank, double, enlarge


def read_apart(kind, path, folder):
    """What an annotation reader returns; the bounds of its child process hold in this one."""
    from hpe_lib.data import annotations, reading

    def inside(file, expected, *job):
        """The library's child, without its start."""
        size = path.stat().st_size
        seconds = reading.SECONDS + size // reading.BYTES_PER_SECOND
        reading._limit(seconds, reading.MEMORY + reading.PER_BYTE * size)
        return reading.attempt(file, expected, *job)

    reading._in_child = inside
    if kind.startswith("mat5 lsp"):
        return annotations.lsp(path).joints.shape[1:] == (16, 2)
    if any(word in kind for word in ("newell", "truth", "official")):
        return annotations.mpii_truth(path).joints.shape[1:] == (16, 2)
    return annotations.predictions(path, 5).shape == (5, 16, 2)


def read_plain(kind, path, folder):
    """Is what the reader of this kind returns of the right type?"""
    from hpe_lib import cascade, photographs
    from hpe_lib.data import download
    from hpe_lib.data.images import read_image
    from hpe_lib.workbook import artifacts, measurements, presets

    if kind in ("zip", "tar"):
        return unpacked(download, kind, path)
    if kind in ("manifest", "safetensors", "history"):
        return read_stage(cascade, artifacts, kind, path, folder)
    if kind == "boxes":
        return isinstance(photographs.read_boxes(path, [Path("a.jpg")])[0], list)
    if kind == "yaml":
        return set(presets.resolve(path)) == set(presets.notebooks())
    if kind == "json":
        return isinstance(measurements.read(metrics_beside(path)), dict)
    pixels = read_image(path)
    return pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3


def metrics_beside(path):
    """The folder of a file that has become its metrics.json."""
    os.replace(path, path.with_name("metrics.json"))
    return path.parent


def unpacked(download, kind, path):
    """Is the one file there, and the archive, which we fetched, gone?"""
    fetching = path.parent / download.FETCHING
    fetching.mkdir(exist_ok=True)
    archive_ = fetching / ("a.zip" if kind == "zip" else "a.tar.gz")
    os.replace(path, archive_)
    try:
        download.unpack(archive_, path.parent, download.File("joints.mat", "joints", 1000, []))
    except download.Refused as error:
        assert not archive_.exists(), "a refused archive stays"
        raise BadInput(path, error, "an archive") from None
    return (path.parent / "joints.mat").is_file() and not archive_.exists()


def read_stage(cascade, artifacts, kind, path, folder):
    """A stage's folder with one file changed; changed weights have their right hash."""
    names = {"manifest": artifacts.MANIFEST, "safetensors": artifacts.WEIGHTS}
    stage = path.parent / "stage"
    stage.mkdir(exist_ok=True)
    for name in names.values():
        (stage / name).write_bytes((folder / "stage" / name).read_bytes())
    os.replace(path, stage / names.get(kind, artifacts.HISTORY))
    if kind == "history":
        return all(isinstance(record, dict) for record in artifacts.read_history(stage))
    if kind == "safetensors":
        made = json.loads((stage / artifacts.MANIFEST).read_bytes())
        made["weights_sha256"] = artifacts.file_hash(stage / artifacts.WEIGHTS)
        artifacts.write_manifest(stage, made)
    return isinstance(cascade.load(stage), cascade.Cascade)


def resident():
    """Bytes of memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def outcome(reader, kind, path, folder):
    """{"outcome", "said", "seconds" of the processor, "growth" in bytes} of one file, in a fork."""
    ours, theirs = os.pipe()
    if not (child := os.fork()):
        os.close(ours)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        signal.alarm(SECONDS)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.write(theirs, f"{resident()}\n".encode())
        os.write(theirs, answer(reader, kind, path, folder).encode(errors="replace")[:4000])
        os._exit(0)
    os.close(theirs)
    with open(ours, "rb") as pipe:
        before, _, said = pipe.read().partition(b"\n")
    _, status, used = os.wait4(child, 0)
    if signal_ := os.WTERMSIG(status):
        said = f"died {signal.Signals(signal_).name}".encode()
    word, _, rest = said.decode(errors="replace").partition(" ")
    growth = used.ru_maxrss * 1024 - int(before)
    seconds = used.ru_utime + used.ru_stime
    return {"outcome": word, "said": rest, "seconds": seconds, "growth": max(growth, 0)}


def answer(reader, kind, path, folder):
    """read, refused, or fault with what is wrong."""
    try:
        return "read" if reader(kind, path, folder) else "fault a wrong result"
    except BadInput as error:
        said = str(error)
        whole = "\n" not in said and "found" in said and "expected" in said and len(said) < 1500
        return f"{'refused' if whole else 'fault'} {said}"
    except BaseException as error:
        return f"fault {type(error).__name__}: {error}"


def check_whole(reader, kind, content, folder):
    """AssertionError unless the file is read while it is whole."""
    (folder / "whole").mkdir()
    (folder / "whole" / "file.yaml").write_bytes(content)
    assert reader(kind, folder / "whole" / "file.yaml", folder), kind
    shutil.rmtree(folder / "whole")


def main(group, count, seed, folder):
    """Print what becomes of `count` files."""
    folder = Path(folder)
    import hpe_lib.data.annotations  # noqa: F401

    reader = read_apart if group == "apart" else read_plain
    samples = apart_samples() if group == "apart" else plain_samples(folder)
    for kind, content in samples.items() if group == "plain" else ():
        check_whole(reader, kind, content, folder)  # here, so that forks find everything imported
    kinds = list(samples)
    for number in range(int(count)):
        kind = kinds[number % len(kinds)]
        chance = random.Random(f"{seed} {group} {number}")
        place_ = folder / "one"
        place_.mkdir()
        (place_ / "file.yaml").write_bytes(mutated(samples[kind], chance))
        found = outcome(reader, kind, place_ / "file.yaml", folder)
        print(json.dumps({"kind": kind, "number": number, **found}), flush=True)
        shutil.rmtree(place_)


if __name__ == "__main__":
    main(*sys.argv[1:])
