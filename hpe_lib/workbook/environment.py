"""What ran a training: command, time, versions, commit, machine, memory."""

import os
import platform
import re
import shlex
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

from hpe_lib.paper import ROOT

# Accelerate takes these for WORLD_SIZE.
MPI_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")

PACKAGES = (  # whose versions can change a number
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "opencv-python-headless",
    "pandas",
    "safetensors",
    "accelerate",
    "timm",
    "simplejpeg",
    "pillow",
    "hpe-lib",
)


def torchrun_rank() -> int:
    """This process's rank under torchrun, from 0; also 0 if torchrun has not started it.

    Without torchrun, variables such as RANK are left over from another program. They are removed
    from the environment, or Accelerate would wait for processes that do not exist.
    """
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
    numbers = [os.environ.get(name, "") for name in names]
    complete = {"TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()
    if complete and all(re.fullmatch("[0-9]+", number) for number in numbers):
        return int(numbers[0])
    for name in (*names, *MPI_SIZES):
        os.environ.pop(name, None)
    return 0


def timestamp() -> str:
    """The time, to the second, with its zone."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def command(hidden: str = "") -> str:
    """The command that was given: the program by its name, a module as `python -m` runs it.

    hidden: an option whose value, a folder of this machine, is written as DIR.
    """
    module = getattr(sys.modules["__main__"], "__spec__", None)
    if module and not module.name.startswith("hpe_lib"):
        program = ["python", "-m", module.name.removesuffix(".__main__")]
    else:
        program = [Path(sys.argv[0]).name.replace("__main__.py", "hpe")]
    given = sys.argv[1:]
    for place, (option, value) in enumerate(zip(["", *given], given)):
        if hidden and option == hidden:
            given[place] = "DIR"
        elif hidden and value.startswith(f"{hidden}="):
            given[place] = f"{hidden}=DIR"
    return shlex.join([*program, *given])


def describe() -> dict:
    """What ran this: {"versions": {package: version}, "commit": text or None, "machine": {...}}."""
    return {"versions": versions(), "commit": commit(), "machine": machine()}


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that can change a number; None: not installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def commit() -> str | None:
    """The checkout's commit; None outside a checkout.

    With "+changes" if files that it has, other than results, are not as it has them.
    """
    if not (ROOT / ".git").exists():
        return None
    try:
        in_root = "git", "-C", str(ROOT)
        head = output_of(*in_root, "rev-parse", "HEAD")
        changes = output_of(*in_root, "status", "--porcelain", "-uno", ":!results")
    except OSError:
        return None
    if not head:
        return None
    return f"{head}+changes" if changes else head


def machine() -> dict:
    """Platform, processor, usable cores, threads, GPUs.

    No host name: manifests are to be shared.
    """
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    found = {"platform": platform.platform(), "processor": processor(), "cores": cores}
    return found | {"threads": torch.get_num_threads(), "gpus": gpus}


def processor() -> str:
    """The processor's name (floating-point results depend on it); "" if unknown."""
    path = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.+)", path.read_text() if path.is_file() else "")
    return named[1] if named else platform.processor()


def output_of(*command: str) -> str:
    """What a command prints, stripped; empty if it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def peak_memory_mb() -> float | None:
    """Peak resident memory of this process, MiB, without its workers; None: cannot be asked."""
    status = Path("/proc/self/status")
    if status.exists():  # not getrusage: on Linux a child starts from its parent's peak
        peak = re.search(r"VmHWM:\s*(\d+)", status.read_text())
        return round(int(peak[1]) / 1024, 1) if peak else None
    try:
        import resource
    except ImportError:
        return None
    bytes_used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts bytes
    return round(bytes_used / 2**20, 1)
