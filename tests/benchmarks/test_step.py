"""The counts of a step as a table, and from a run."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.feed import write_feed
from benchmarks.operators import StepCounts
from benchmarks.step import describe
from ple_rec.training.profiler.regions import REGIONS, Region
from tests.project_files import REPOSITORY


def _seconds(data_wait: float, lookup: float) -> dict[Region, float]:
    return dict.fromkeys(REGIONS, 0.0) | {"data wait": data_wait, "lookup": lookup}


def test_a_table_has_the_second_step_the_mean_and_the_hosts_time() -> None:
    step, with_report = Counter({("lookup", "a"): 2, ("lookup", "b"): 1}), Counter({("logging", "c"): 8})
    counts = StepCounts(
        [with_report, step, step, step + with_report],
        [Counter(logging=5), Counter(lookup=2), Counter(lookup=2), Counter(lookup=2)],
        [_seconds(0.7, 0.001 * ms) for ms in (3, 1, 2, 9, 4, 5, 6, 7, 8, 10, 11)],
    )
    lines = [line.split() for line in describe(counts)]
    assert lines[0] == ["region", "a", "step", "mean", "host", "reads", "host", "ms"]
    assert ["lookup", "3", "2.2", "2", "6.00"] in lines
    assert ["logging", "0", "4.0", "0", "0.00"] in lines
    assert ["data", "wait", "0", "0.0", "0", "700.00"] in lines
    assert ["all", "3", "6.2", "2"] in lines
    assert describe(counts)[-1] == "host, without waiting for data: median 6.00 ms, p10 2.00 ms"


@pytest.mark.slow
def test_the_benchmark_counts_a_run(tmp_path: Path) -> None:
    write_feed(tmp_path / "data", 20_000, 20_000)
    arguments = ["bench-feed", "--data", str(tmp_path / "data"), "--batch-size", "16", "--precision", "fp32"]
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.step", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    (total,) = [line.split() for line in done.stdout.splitlines() if line.startswith("all ")]
    assert int(total[1]) > 100
    assert "machine:" in done.stdout
