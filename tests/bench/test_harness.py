"""Contenders in processes of their own: turns, cores, memory, errors."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from ple_rec.bench.harness import Contender, Pass, conditions, cpu_name, race
from ple_rec.errors import UserError


def working(log: Path, name: str, megabytes: int) -> Pass:
    kept: list[bytes] = []

    def once() -> int:
        kept.append(b"x" * (megabytes << 20))
        with log.open("a") as file:
            file.write(f"{name} {len(os.sched_getaffinity(0))}\n")
        return 1000

    return once


def failing(error: Exception) -> Pass:
    raise error


def ending() -> Pass:
    return lambda: os._exit(7)


def test_contenders_take_turns(tmp_path: Path) -> None:
    log, told = tmp_path / "log", list[str]()
    contenders = [
        Contender("a", "A", partial(working, log, "a", 1)),
        Contender("b", "B", partial(working, log, "b", 30), pinned=False),
    ]
    first, second = race(contenders, 2, told.append)
    every = len(os.sched_getaffinity(0))
    assert log.read_text().splitlines() == ["a 1", f"b {every}"] * 3
    assert [len(first.rates), len(second.rates), len(first.cpu_rates)] == [2, 2, 2]
    assert min(*first.rates, *second.rates) > 0
    assert second.peak_bytes - second.idle_bytes >= 90 << 20
    assert first.peak_bytes - first.idle_bytes < 60 << 20
    assert [line.split(":")[0] for line in told] == ["warm-up"] * 2 + ["pass 1 of 2"] * 2 + ["pass 2 of 2"] * 2
    record = first.record()
    assert record["min"] <= record["median"] <= record["max"]


def test_what_a_contender_raises_is_raised() -> None:
    error = UserError("data", "got 3", "it must be 4", "use 4")
    for raised, kind, text in (
        (error, UserError, r"^data: got 3; it must be 4\. Fix: use 4$"),
        (KeyError("x"), RuntimeError, r"^KeyError: 'x'$"),
    ):
        with pytest.raises(kind, match=text):
            race([Contender("a", "A", partial(failing, raised))], 1, print)


def test_a_process_that_ends_is_named() -> None:
    with pytest.raises(RuntimeError, match=r"^A: its process ended with 7$"):
        race([Contender("a", "A", ending)], 1, print)


def test_conditions() -> None:
    found = conditions()
    assert found["cores"] >= 1
    assert len(found["load_before"]) == 3
    assert {"python", "numpy", "pyarrow", "torch"} <= set(found["versions"])
    assert found["cpu"]


def test_the_name_of_the_processor(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Fast: 3000\n\nmodel name\t: Fast: 3000\n")
    assert cpu_name(tmp_path / "cpuinfo") == "Fast: 3000"
    assert cpu_name(tmp_path / "none") == os.uname().machine
