"""The two wheels of FBGEMM: which one is installed, and the command that changes it. Imports no torch."""

from __future__ import annotations

import importlib.metadata
import shlex
import sys

FBGEMM = "1.8.0"
CPU_WHEEL, CUDA_WHEEL = "fbgemm-gpu-cpu", "fbgemm-gpu"


def installed_version(distribution: str) -> str | None:
    """Version of an installed distribution, None where it is absent or half removed; nothing is imported."""
    try:
        return importlib.metadata.version(distribution) or None
    except importlib.metadata.PackageNotFoundError:
        return None


def pip() -> str:
    """The pip of this very interpreter, as a shell command."""
    return f"{shlex.quote(sys.executable)} -m pip"


def reinstall_fbgemm(cuda: bool) -> str:
    """The command that removes both FBGEMM wheels, which own one folder, and installs the right one."""
    wheel = CUDA_WHEEL if cuda else CPU_WHEEL
    return f"{pip()} uninstall -y {CUDA_WHEEL} {CPU_WHEEL} && {pip()} install --no-deps {wheel}=={FBGEMM}"
