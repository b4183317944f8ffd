from __future__ import annotations

import itertools
import time

import pytest
import torch

from ple_rec.models.cpu.gemm_probe import gemm_gflops


def test_speed_is_operations_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count(step=0.125)
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    # Two products of 2 x 1024 x 512 x 512 operations in a quarter of a second.
    assert gemm_gflops(torch.float32, "cpu", seconds=0.25) == 2 * (2 * 1024 * 512 * 512) / 0.25 / 1e9


def test_bf16_runs_for_about_as_long_as_asked() -> None:
    start = time.perf_counter()
    assert gemm_gflops(torch.bfloat16, torch.device("cpu"), seconds=0.05) > 0
    assert 0.05 <= time.perf_counter() - start < 60  # under any load; a product takes milliseconds


def test_no_time_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^seconds = 0; it must be > 0$"):
        gemm_gflops(torch.float32, "cpu", seconds=0)


def test_a_precision_without_a_product_raises() -> None:
    with pytest.raises(RuntimeError):
        gemm_gflops(torch.bool, "cpu", seconds=0.01)
