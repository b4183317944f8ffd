"""Ways in processes of their own: turns, ranks, memory, errors."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from benchmarks.harness import BenchmarkCase, Pass, PassResult, race, report
from ple_rec.errors import UserError

MEGABYTES = 60


@contextmanager
def working(log: Path, name: str, seconds: float, megabytes: int = 0) -> Iterator[Pass]:
    kept: list[bytes] = []

    def once() -> PassResult:
        kept.append(b"x" * (megabytes << 20))
        with log.open("a") as file:
            file.write(f"{name}\n")
        return PassResult(1000, seconds)

    try:
        yield once
    finally:
        with log.open("a") as file:
            file.write(f"{name} ends\n")


@contextmanager
def together() -> Iterator[Pass]:
    dist.init_process_group("gloo")
    ones = torch.ones(1)
    dist.all_reduce(ones)
    yield lambda: PassResult(float(ones), 1.0 + dist.get_rank())


@contextmanager
def failing(error: Exception) -> Iterator[Pass]:
    if error:
        raise error
    yield lambda: PassResult(0, 1.0)


@contextmanager
def ending() -> Iterator[Pass]:
    yield lambda: os._exit(7)


def test_ways_take_turns_and_the_slower_rank_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    ways = [
        BenchmarkCase("large", partial(working, log, "a", 2.0, MEGABYTES)),
        BenchmarkCase("limit", partial(working, log, "b", 1.0), is_baseline=True),
        BenchmarkCase("ranks", together, ranks=2),
    ]
    measured = race(ways, 2)
    large, limit, ranks = measured
    assert log.read_text().splitlines()[:6] == ["b", "a", "a", "b", "b", "a"]  # to and fro
    assert sorted(log.read_text().splitlines()[6:]) == ["a ends", "b ends"]
    assert (large.rates, limit.rates, ranks.rates) == ([500.0] * 2, [1000.0] * 2, [2.0] * 2)
    assert large.peak_bytes - limit.peak_bytes > 2 * MEGABYTES << 20
    assert ranks.peak_bytes > limit.peak_bytes
    report(argparse.Namespace(repeats=2, json=tmp_path / "found.json"), "rows", ways, measured)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["rows/s", "min", "max"]
    assert lines[1].split()[:5] == ["large", "500", "500", "500", "0.500"]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["measured"][1]["rates"] == [1000.0, 1000.0]


def test_what_a_process_raises_is_raised() -> None:
    error = UserError("data", "got 3", "it must be 4", "use 4")
    for raised, kind, text in (
        (error, UserError, r"^data: got 3; it must be 4\. Fix: use 4$"),
        (KeyError("x"), RuntimeError, r"^KeyError: 'x'$"),
    ):
        with pytest.raises(kind, match=text):
            race([BenchmarkCase("a", partial(failing, raised))], 1)
    with pytest.raises(RuntimeError, match="ended without an answer"):
        race([BenchmarkCase("a", ending)], 1)
