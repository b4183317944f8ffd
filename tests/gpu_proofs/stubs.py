"""Libraries of an NVIDIA driver that are stubs, for machines without one: `stub_cuda.c` and `stub_nvml.c`."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

_SONAMES = {"cuda": "libcuda.so.1", "nvml": "libnvidia-ml.so.1"}


def stub_environment(folder: Path, *names: str) -> dict[str, str]:
    """Return this process's environment, in which other processes load the stubs. Skip the test without a compiler.

    Args:
        folder: Empty folder for the libraries.
        names: Stubs: cuda, a driver for CUDA 12.8, and nvml.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    for name in names:
        source = Path(__file__).with_name(f"stub_{name}.c")
        command = [compiler, "-shared", "-fPIC", "-w", "-o", str(folder / _SONAMES[name]), str(source)]
        subprocess.run(command, check=True)
    paths = [str(folder), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    return os.environ | {"LD_LIBRARY_PATH": os.pathsep.join(paths)}
