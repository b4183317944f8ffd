"""Choice whether the dense layers of a training step are compiled, and a clock for the time of compilation.

On a GPU, an operator costs the host more time than the device, so `train.compile = "auto"` compiles the dense layers
and the losses of the tasks into one graph of a few kernels. A CPU computes them in blocks of rows instead
(`ple_rec.models.cpu.blocks`). A compiled graph is valid for one shape of its inputs, and all batches of a run have
the same number of rows.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import torch

from ple_rec.config.run import CompileKind


def eager_reason(kind: CompileKind, device: torch.device, *, by_request: bool) -> str | None:
    """Return the reason why the dense layers of a training step are not compiled; None if they are.

    Args:
        kind: Value of `train.compile`.
        device: Device of the model.
        by_request: True if batches are grouped by request.
    """
    if kind == "off":
        return 'train.compile is "off"'
    if device.type != "cuda":
        return "the device is a CPU"
    if by_request:
        return "batches grouped by request have different numbers of requests, and each would need a compilation"
    if find_spec("triton") is None:
        return "Triton is not installed"
    # Triton compiles C code that launches its kernels, and this code includes Python's headers.
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "Triton needs a C compiler, such as gcc"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "Triton needs the C headers of Python, such as the package python3-dev"
    return None


def describe_compilation(reason: str | None, device: torch.device) -> str:
    """Return a line for the log that says whether the dense layers are compiled; an empty text on a CPU.

    Args:
        reason: Result of `eager_reason`.
        device: Device of the model.
    """
    if device.type != "cuda":
        return ""
    return (
        "dense layers: compiled at the first step" if reason is None else f"dense layers: not compiled, since {reason}"
    )


class CompileClock:
    """Clock that measures how long this process compiles."""

    def __init__(self) -> None:
        # Importing the compiler takes seconds, so only a run that compiles imports it.
        from torch._dynamo.utils import calculate_time_spent

        self._time_spent = calculate_time_spent
        self._seconds = calculate_time_spent()["total_wall_time"]

    def restart(self) -> float:
        """Return the seconds of compilation since the clock was created or last restarted, and restart it."""
        before, self._seconds = self._seconds, self._time_spent()["total_wall_time"]
        return self._seconds - before
