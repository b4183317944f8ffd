"""First stage: import of the libraries, versions, driver and devices."""

from __future__ import annotations

import argparse
import importlib
import shutil
import subprocess
import time
from pathlib import Path

from benchmarks.gpu.stage import Deadline, StageLines, StageSettings
from ple_rec.errors import UserError

# The last one imports what a training needs beside the libraries.
_MODULES = ("torch", "fbgemm_gpu", "torchrec", "ple_rec.training.run")
_NVIDIA_SMI = (
    "nvidia-smi",
    "--query-gpu=index,name,driver_version,memory.total,power.limit,clocks.max.sm",
    "--format=csv",
)
# The version of the driver stands here even if nvidia-smi is not installed.
_DRIVER_VERSION = Path("/proc/driver/nvidia/version")


def import_libraries(settings: StageSettings, deadline: Deadline) -> StageLines:
    """Import the libraries and describe machine, versions, driver and devices, also as `ple-rec doctor` does.

    Raises:
        UserError: The stages are for a GPU, but torch sees none.
    """
    started = time.monotonic()
    for module in _MODULES:
        begun = time.monotonic()
        importlib.import_module(module)
        yield f"- import {module}: {time.monotonic() - begun:.1f} s"
    seconds = time.monotonic() - started

    from benchmarks.harness import conditions

    for key, value in conditions(argparse.Namespace()).items():
        if value:
            yield f"- {key}: {value}"
    for line in _driver_lines():
        yield f"- {line}"
    from ple_rec.runtime.cuda import find_missing_gpu
    from ple_rec.runtime.doctor import collect_findings

    for finding in collect_findings():
        yield f"- doctor, {finding.name}: {finding.value}" + ("" if finding.ok else f" (**bad**; fix: {finding.fix})")
    import torch

    if settings.device == "cpu":
        return f"libraries imported in {seconds:.0f} s"
    if (missing := find_missing_gpu()) is not None:
        raise UserError("--device cuda", missing.cause, missing.rule, f"{missing.fix}; or rehearse by --device cpu")
    started = time.monotonic()
    torch.zeros(1, device="cuda")
    names = []
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        names.append(device.name)
        yield f"- {device.name}, {device.total_memory / 2**30:.0f} GiB, sm_{device.major}{device.minor}"
    yield f"- CUDA {torch.version.cuda}, NCCL {'.'.join(map(str, torch.cuda.nccl.version()))}"
    return f"libraries in {seconds:.0f} s, first tensor on the device in {time.monotonic() - started:.1f} s; {names[0]}"


def _driver_lines() -> list[str]:
    """Return the lines of nvidia-smi about the devices and their driver, or the version of the driver, if any."""
    if shutil.which("nvidia-smi"):
        done = subprocess.run(_NVIDIA_SMI, capture_output=True, text=True, timeout=20, check=False)
        return (done.stdout or done.stderr).splitlines()
    return (
        _DRIVER_VERSION.read_text(encoding="utf-8").splitlines()[:1]
        if _DRIVER_VERSION.exists()
        else ["no driver of NVIDIA"]
    )
