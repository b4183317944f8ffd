"""Versions of torch, TorchRec and FBGEMM: which fit together, what is installed, what to run. Imports no torch."""

from __future__ import annotations

import importlib.metadata
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass

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
