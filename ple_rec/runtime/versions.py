"""Versions of torch, TorchRec, FBGEMM, PySpark and Java: which fit together, and what is installed."""

from __future__ import annotations

import gc
import importlib.metadata
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ple_rec.errors import UserError

CPU_WHEEL, CUDA_WHEEL = "fbgemm-gpu-cpu", "fbgemm-gpu"


@dataclass(frozen=True)
class Stack:
    """Versions that load together: FBGEMM is built against one minor version of torch, and TorchRec against FBGEMM.

    Args:
        torch: Version of torch that is installed; every other one of its minor version fits, too.
        torchrec: Version of TorchRec.
        fbgemm: Version of both wheels of FBGEMM.
    """

    torch: str
    torchrec: str
    fbgemm: str

    @property
    def torch_minor(self) -> str:
        """Minor version of torch, such as 2.13."""
        return minor(self.torch)

    def fitting(self, versions: Mapping[str, str]) -> int:
        """Return how many of the installed packages are of this stack."""
        wheels = [versions[name] for name in (CPU_WHEEL, CUDA_WHEEL) if name in versions]
        return (
            (minor(versions.get("torch", "")) == self.torch_minor)
            + (versions.get("torchrec") == self.torchrec)
            + any(public(version) == self.fbgemm for version in wheels)
        )


# What `make setup` installs for each device. The artefacts and figures of this repository were made with the first.
CPU_STACK = Stack(torch="2.13.0", torchrec="1.8.0", fbgemm="1.8.0")
CUDA_STACK = Stack(torch="2.14.1", torchrec="1.9.2", fbgemm="1.9.0")


def public(version: str) -> str:
    """Return a version without its build, such as 2.13.0 of 2.13.0+cpu."""
    return version.partition("+")[0]


def minor(version: str) -> str:
    """Return the minor version, such as 2.13 of 2.13.0+cpu."""
    return ".".join(public(version).split(".")[:2])


def installed_version(distribution: str) -> str | None:
    """Version of an installed distribution, None where it is absent or half removed; nothing is imported."""
    try:
        return importlib.metadata.version(distribution) or None
    except importlib.metadata.PackageNotFoundError:
        return None


def installed_versions() -> dict[str, str]:
    """Return the version of each installed package whose versions must fit; nothing is imported."""
    names = ("torch", "torchrec", CPU_WHEEL, CUDA_WHEEL, "torchx")
    return {name: version for name in names if (version := installed_version(name))}


def nearest_stack(versions: Mapping[str, str], cuda: bool) -> Stack:
    """Return the stack of most of the installed packages; where neither is ahead, that of the device."""
    stacks = (CUDA_STACK, CPU_STACK) if cuda else (CPU_STACK, CUDA_STACK)
    return max(stacks, key=lambda stack: stack.fitting(versions))


def pip() -> str:
    """The pip of this very interpreter, as a shell command."""
    return f"{shlex.quote(sys.executable)} -m pip"


def reinstall_fbgemm(cuda: bool, stack: Stack) -> str:
    """Return the command that removes both FBGEMM wheels, which own one folder, and installs the right one."""
    wheel = CUDA_WHEEL if cuda else CPU_WHEEL
    return f"{pip()} uninstall -y {CUDA_WHEEL} {CPU_WHEEL} && {pip()} install --no-deps {wheel}=={stack.fbgemm}"


@contextmanager
def large_imports() -> Iterator[None]:
    """Collect nothing in the block, which imports, and look at what it made in no collection to come.

    Torch and torchrec make some 300,000 objects that stay. While they are loaded the collector goes through them again
    and again, a sixth of the time, and later every full collection does once more, on each rank at a moment of its own:
    the other ranks wait for it.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collects:
            gc.enable()


def import_torch(*, own_process: bool) -> None:
    """Import torch and torchrec.

    Args:
        own_process: True if this program owns the process, so that later collections of garbage may pass over the
            objects of the import. In somebody else's process, garbage of that moment would then stay for ever.

    Raises:
        UserError: they are missing, or do not fit.
    """
    if sys.modules.get("torchrec") is not None:
        return
    try:
        with large_imports() if own_process else nullcontext():
            import torch  # noqa: F401
            import torchrec  # noqa: F401
    except (ImportError, OSError) as error:
        raise UserError(
            "torch and torchrec",
            f"cannot be loaded ({error})",
            "training and evaluation need them",
            "run `ple-rec doctor`, which says what to install",
        ) from error


JAVA = 17  # the oldest that Spark 4 runs on
PYSPARK = "pyspark>=4,<5"
_SECONDS = 20


def java_command() -> str | None:
    """The Java that Spark would start: of `JAVA_HOME`, else the one on PATH."""
    home = os.environ.get("JAVA_HOME")
    return shutil.which("java" if not home else str(Path(home, "bin", "java")))


def java_version() -> int | None:
    """The major version of that Java; None without one that answers."""
    command = java_command()
    if command is None:
        return None
    try:
        done = subprocess.run([command, "-version"], capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r'version "(?:1\.)?(\d+)', done.stderr + done.stdout)
    return int(found[1]) if found else None


def pyspark_version() -> str | None:
    """The version of PySpark that is installed; nothing is imported."""
    try:
        return version("pyspark")
    except PackageNotFoundError:
        return None


def spark_lacks() -> tuple[str, str] | None:
    """What is missing for Spark to run on this machine, and what mends it; None where nothing is."""
    if pyspark_version() is None:
        return "PySpark is not installed", f"pip install '{PYSPARK}'"
    java = java_version()
    if java is None:
        return (
            "no Java answers",
            f"install Java {JAVA} or newer (Debian: apt install default-jre-headless), or set JAVA_HOME",
        )
    if java < JAVA:
        return f"Java is {java} ({java_command()})", f"install Java {JAVA} or newer, or set JAVA_HOME to it"
    return None
