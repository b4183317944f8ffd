"""Why torch sees no GPU: no driver, an old one, a build for CPUs, hidden GPUs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ple_rec.runtime import cuda
from tests.gpu_proofs.stubs import stub_environment


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch, "__version__", "2.14.1+cu130")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


NEEDED = "torch 2.14.1+cu130 needs a driver for CUDA 13.0, 580 or newer"


def _found(monkeypatch: pytest.MonkeyPatch, version: str | None) -> cuda.MissingGpu:
    monkeypatch.setattr(cuda, "driver_cuda_version", lambda: version)
    missing = cuda.find_missing_gpu()
    assert missing is not None
    return missing


def test_the_driver_says_its_newest_cuda(tmp_path: Path, repository: Path) -> None:
    code = "from ple_rec.runtime.cuda import driver_cuda_version; print(driver_cuda_version())"
    command, environment = [sys.executable, "-c", code], stub_environment(tmp_path, "cuda")
    assert subprocess.check_output(command, cwd=repository, env=environment, text=True) == "12.8\n"


def test_a_gpu_that_torch_sees_is_not_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert cuda.find_missing_gpu() is None


def test_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    fix = "install the driver, or give the container the host's (docker run --gpus all)"
    assert _found(monkeypatch, None) == ("there is no CUDA driver (libcuda.so.1)", NEEDED, fix)


def test_an_old_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _found(monkeypatch, "12.8") == ("the CUDA driver supports CUDA 12.8 at most", NEEDED, "update the driver")
    # Drivers of one major version run all of its minor versions.
    monkeypatch.setattr(torch.version, "cuda", "12.9")
    assert _found(monkeypatch, "12.8").cause.startswith("the CUDA driver supports CUDA 12.8, but shows no GPU (")


def test_a_build_for_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    missing = _found(monkeypatch, "13.0")
    assert missing.cause == "torch 2.14.1+cu130 is a build for CPUs"
    assert "make setup DEVICE=cuda" in missing.fix


def test_gpus_that_a_good_driver_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("No CUDA GPUs are available\nand more")

    monkeypatch.setattr(torch.cuda, "init", fail)
    missing = _found(monkeypatch, "13.1")
    assert missing.cause == "the CUDA driver supports CUDA 13.1, but shows no GPU (No CUDA GPUs are available)"
    assert missing.fix == "run `nvidia-smi`, which lists the GPUs that work"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert _found(monkeypatch, "13.1").fix.endswith(", and correct or unset CUDA_VISIBLE_DEVICES, which is ''")
