"""Whether the dense layers of a training step are compiled, and the reason that a user reads if they are not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ple_rec.training import compilation
from ple_rec.training.compilation import CompileClock, describe_compilation, eager_reason

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.fixture(autouse=True)
def complete_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A host with Triton, a C compiler and Python's headers, whatever this machine has."""
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(compilation, "has_triton_package", lambda: True)
    monkeypatch.setattr(compilation.sysconfig, "get_path", lambda _: str(tmp_path))
    monkeypatch.setenv("CC", "cc")


def test_a_gpu_compiles_unless_told_otherwise_or_grouped_by_request() -> None:
    assert eager_reason("auto", CUDA, by_request=False) is None
    assert "off" in str(eager_reason("off", CUDA, by_request=False))
    assert "CPU" in str(eager_reason("auto", CPU, by_request=False))
    assert "requests" in str(eager_reason("auto", CUDA, by_request=True))


def test_a_host_that_cannot_compile_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "Python.h").unlink()
    assert "Python" in str(eager_reason("auto", CUDA, by_request=False))
    monkeypatch.setenv("CC", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "C compiler" in str(eager_reason("auto", CUDA, by_request=False))
    monkeypatch.setattr(compilation, "has_triton_package", lambda: False)
    assert "Triton is not installed" in str(eager_reason("auto", CUDA, by_request=False))


def test_the_log_of_a_gpu_says_whether_it_compiles() -> None:
    assert "compiled at the first step" in describe_compilation(None, CUDA)
    assert "not compiled, since Triton is not installed" in describe_compilation("Triton is not installed", CUDA)
    assert describe_compilation("the device is a CPU", CPU) == ""


def test_the_clock_measures_forward_and_backward_compilations_once() -> None:
    clock = CompileClock()
    assert clock.restart() == 0.0
    square = torch.compile(torch.square, backend="aot_eager", fullgraph=True, dynamic=False)
    for compiles in (True, False):
        square(torch.ones(2, requires_grad=True)).sum().backward()
        assert (clock.restart() > 0) == compiles
