"""CUDA driver of this machine, and the reason why torch sees no GPU.

Torch itself gives no reason: if the driver is too old for its build, `torch.cuda.is_available()` just returns False.
"""

from __future__ import annotations

import ctypes
import os
from typing import NamedTuple

# Oldest driver for each major version of CUDA. It runs builds for every minor version, such as 12.0 and 12.9.
_OLDEST_DRIVERS = {12: 525, 13: 580}


class MissingGpu(NamedTuple):
    """Reason why torch sees no GPU.

    Args:
        cause: State of this machine that keeps torch from a GPU.
        rule: Requirement of torch.
        fix: Action that makes a GPU usable.
    """

    cause: str
    rule: str
    fix: str


def driver_cuda_version() -> str | None:
    """Return the newest version of CUDA that the driver of this machine supports, such as 12.8; None without driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    number = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(number)) != 0:
        return None
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


def find_missing_gpu() -> MissingGpu | None:
    """Return the reason why torch sees no GPU; None if it sees one."""
    import torch

    if torch.cuda.is_available():
        return None
    torch_cuda, driver_cuda = torch.version.cuda, driver_cuda_version()
    if torch_cuda is None:
        return MissingGpu(
            f"torch {torch.__version__} is a build for CPUs",
            "only a build with CUDA computes on a GPU",
            "install the packages of the extra `cuda` (make setup DEVICE=cuda)",
        )
    oldest = _OLDEST_DRIVERS.get(int(torch_cuda.partition(".")[0]))
    rule = f"torch {torch.__version__} needs a driver for CUDA {torch_cuda}" + (
        f", {oldest} or newer" if oldest else ""
    )
    if driver_cuda is None:
        fix = "install the driver, or give the container the host's (docker run --gpus all)"
        return MissingGpu("there is no CUDA driver (libcuda.so.1)", rule, fix)
    if int(driver_cuda.partition(".")[0]) < int(torch_cuda.partition(".")[0]):
        return MissingGpu(f"the CUDA driver supports CUDA {driver_cuda} at most", rule, "update the driver")
    return MissingGpu(
        f"the CUDA driver supports CUDA {driver_cuda}, but shows no GPU ({_error_of_torch()})",
        "torch uses the GPUs that the driver shows and CUDA_VISIBLE_DEVICES allows",
        "run `nvidia-smi`, which lists the GPUs that work" + _visible_devices_hint(),
    )


def _error_of_torch() -> str:
    """Return the first line of the error that torch raises when it initializes CUDA."""
    import torch

    try:
        torch.cuda.init()
    # Torch raises errors of several classes, and some of them come from C++.
    except Exception as error:
        return str(error).strip().partition("\n")[0]
    return "torch gives no reason"


def _visible_devices_hint() -> str:
    """Return a further step for the user if CUDA_VISIBLE_DEVICES is set; else an empty text."""
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if value is None else f", and correct or unset CUDA_VISIBLE_DEVICES, which is {value!r}"
