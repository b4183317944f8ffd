"""Limits that are measured, and what the neighbours had."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch

from ple_rec.bench.limits import copy_bandwidth, gemm_peak
from ple_rec.bench.neighbours import Neighbours


def test_the_peak_is_of_the_best_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[int, ...]] = []
    product = torch.mm

    def mm(a_MK: torch.Tensor, b_KN: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        done.append((*a_MK.shape, b_KN.shape[1]))
        time.sleep(0.02 if len(a_MK) == 64 else 0.001)
        return product(a_MK, b_KN, out=out)

    monkeypatch.setattr(torch, "mm", mm)
    peak = gemm_peak(torch.float32, 0.01, ((64, 8, 8), (32, 16, 8)))
    assert peak.shape == (32, 16, 8)
    assert 0 < peak.gflops < 2e-9 * 32 * 16 * 8 / 0.001
    assert done.count((64, 8, 8)) == 2  # one does not count, one takes longer than was asked for
    assert done.count((32, 16, 8)) > 2


def test_a_copied_byte_counts_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    copy = torch.Tensor.copy_

    def slow(self: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        time.sleep(0.01)
        return copy(self, source)

    monkeypatch.setattr(torch.Tensor, "copy_", slow)
    assert 0.5 * 2e-9 * (1 << 20) / 0.01 < copy_bandwidth(0.03, 1 << 20) < 2e-9 * (1 << 20) / 0.01


def test_neighbours_are_what_others_had(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    ticks = os.sysconf("SC_CLK_TCK")
    stat.write_text("cpu  100 0 100 1000 0 0 0 10 0 0\ncpu0 1 1 1 1\n")
    beside = Neighbours(stat)
    stat.write_text(f"cpu  {100 + 50 * ticks} 0 100 {1000 + 30 * ticks} 0 0 0 {10 + 20 * ticks} 0 0\n")
    shares = beside.shares()
    assert shares["steal"] == 0.2
    assert 0.45 < shares["others"] <= 0.5  # less what this process has used
    assert Neighbours(tmp_path / "none").shares() == {}
