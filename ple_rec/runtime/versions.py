"""Installed versions of torch, TorchRec, FBGEMM, PySpark and Java, and the versions that fit together.

`import_torch` imports torch and TorchRec, and says what to do if they do not load.
"""

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
    """Versions that load together.

    FBGEMM is built against one minor version of torch, and TorchRec against one version of FBGEMM.

    Args:
        torch: Version of torch that `make setup` installs; any other with the same minor version fits, too.
        torchrec: Version of TorchRec.
        fbgemm: Version of both wheels of FBGEMM.
    """

    torch: str
    torchrec: str
    fbgemm: str

    @property
    def torch_minor(self) -> str:
        """Minor version of torch, such as 2.13."""
        return minor_version(self.torch)

    def count_matches(self, versions: Mapping[str, str]) -> int:
        """Return how many of torch, TorchRec and FBGEMM are installed in the versions of this stack."""
        wheels = [versions[name] for name in (CPU_WHEEL, CUDA_WHEEL) if name in versions]
        return (
            (minor_version(versions.get("torch", "")) == self.torch_minor)
            + (versions.get("torchrec") == self.torchrec)
            + any(public_version(version) == self.fbgemm for version in wheels)
        )


# `make setup` installs one of these. The artefacts and figures of this repository were made with the CPU stack.
CPU_STACK = Stack(torch="2.13.0", torchrec="1.8.0", fbgemm="1.8.0")
CUDA_STACK = Stack(torch="2.14.1", torchrec="1.9.2", fbgemm="1.9.0")


def public_version(version: str) -> str:
    """Return a version without its build, such as 2.13.0 for 2.13.0+cpu."""
    return version.partition("+")[0]


def minor_version(version: str) -> str:
    """Return the minor version, such as 2.13 for 2.13.0+cpu."""
    return ".".join(public_version(version).split(".")[:2])


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution, without importing it.

    None if it is not installed, or has no version because it was removed incompletely.
    """
    try:
        return importlib.metadata.version(distribution) or None
    except importlib.metadata.PackageNotFoundError:
        return None


def installed_versions() -> dict[str, str]:
    """Return the versions of the installed packages that must fit each other, without importing them."""
    names = ("torch", "torchrec", CPU_WHEEL, CUDA_WHEEL, "torchx")
    return {name: version for name in names if (version := installed_version(name))}


def nearest_stack(versions: Mapping[str, str], cuda: bool) -> Stack:
    """Return the stack to which most of the installed packages belong.

    Args:
        versions: Versions of the installed packages by name.
        cuda: True to prefer the CUDA stack to the CPU stack in a tie.
    """
    stacks = (CUDA_STACK, CPU_STACK) if cuda else (CPU_STACK, CUDA_STACK)
    return max(stacks, key=lambda stack: stack.count_matches(versions))


def pip_command() -> str:
    """Return the shell command of this interpreter's pip."""
    return f"{shlex.quote(sys.executable)} -m pip"


def reinstall_fbgemm(cuda: bool, stack: Stack) -> str:
    """Return the command that removes both FBGEMM wheels, which share a folder, and installs the CUDA or CPU wheel."""
    wheel = CUDA_WHEEL if cuda else CPU_WHEEL
    return (
        f"{pip_command()} uninstall -y {CUDA_WHEEL} {CPU_WHEEL} && "
        f"{pip_command()} install --no-deps {wheel}=={stack.fbgemm}"
    )


@contextmanager
def suspend_garbage_collection() -> Iterator[None]:
    """Suspend garbage collection in a block of imports, and exclude the objects of the block from later collections.

    Importing torch and torchrec creates about 300,000 objects that are never freed. During the imports, the collector
    would scan them repeatedly, which takes a sixth of the time of the imports. In training, each full collection would
    scan them again, on each rank at another time, while the other ranks wait.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


def import_torch(*, own_process: bool) -> None:
    """Import torch and torchrec.

    Args:
        own_process: True if `ple-rec` is the program of this process, so that all existing objects may be excluded
            from garbage collection. In the process of another program, its garbage would then never be freed.

    Raises:
        UserError: The packages are missing, or do not fit each other.
    """
    if sys.modules.get("torchrec") is not None:
        return
    try:
        with suspend_garbage_collection() if own_process else nullcontext():
            import torch  # noqa: F401
            import torchrec  # noqa: F401
    except (ImportError, OSError) as error:
        raise UserError(
            "torch and torchrec",
            f"cannot be loaded ({error})",
            "training and evaluation need them",
            "run `ple-rec doctor`, which says what to install",
        ) from error


# Spark 4 needs at least this version of Java.
MIN_JAVA = 17
PYSPARK = "pyspark>=4.1,<5"
_JAVA_TIMEOUT_SECONDS = 20


def java_command() -> str | None:
    """Return the path of the Java command that Spark would start, by `JAVA_HOME` or else PATH; None without Java."""
    home = os.environ.get("JAVA_HOME")
    return shutil.which("java" if not home else str(Path(home, "bin", "java")))


def java_version() -> int | None:
    """Return the major version of the Java that Spark would start; None if no Java answers."""
    command = java_command()
    if command is None:
        return None
    try:
        result = subprocess.run(
            [command, "-version"], capture_output=True, encoding="locale", timeout=_JAVA_TIMEOUT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r'version "(?:1\.)?(\d+)', result.stderr + result.stdout)
    return int(match[1]) if match else None


def pyspark_version() -> str | None:
    """Return the installed version of PySpark, without importing it; None if it is not installed."""
    try:
        return version("pyspark")
    except PackageNotFoundError:
        return None


def find_spark_problem() -> tuple[str, str] | None:
    """Return what Spark needs and this machine lacks, and the fix; None if nothing is missing."""
    if pyspark_version() is None:
        return "PySpark is not installed", f"pip install '{PYSPARK}'"
    java = java_version()
    if java is None:
        return (
            "no Java answers",
            f"install Java {MIN_JAVA} or newer (Debian: apt install default-jre-headless), or set JAVA_HOME",
        )
    if java < MIN_JAVA:
        return f"Java is {java} ({java_command()})", f"install Java {MIN_JAVA} or newer, or set JAVA_HOME to it"
    return None
