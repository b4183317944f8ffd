"""A training step launches no more operators on a GPU than the ceilings below, by region of the step.

Each operator costs the host of a GPU a few microseconds, so a step of small layers is as slow as their number. Counts
are those of the code path of a GPU. Whoever saves operators lowers the ceiling, so that the next one too many fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.operators import StepCounts, count_steps
from data_prep import write_tables
from ple_rec.config.schema import DenseFeature, SparseFeature, Task
from ple_rec.training.context import build_context
from tests.gpu_proofs.device_path import device_path
from tests.training.small import on_ranks, ranks_of, small_config

# Operators of a step between two reports, by region: with two tasks in fp32 and in bf16, and with one more task the
# operators more in fp32 and in bf16.
CEILINGS = {
    "input distribution": (0, 0, 0, 0),
    "lookup": (8, 8, 0, 0),
    "dense forward": (49, 72, 8, 14),
    "dense backward": (60, 83, 17, 23),
    "table update": (1, 1, 0, 0),
    "optimizers": (5, 5, 0, 0),
    "metrics": (0, 0, 0, 0),
    "other": (15, 15, 0, 0),
}
# Operators of a report, which computes the metrics of all of its steps.
REPORT = (156, 156, 11, 11)
REPORT_EVERY = 5
# Values that FBGEMM reads from its counters, which are in the host's memory on a GPU, too.
HOST_READS = {"lookup": 2}

Counts = dict[tuple[int, str], StepCounts]  # by number of tasks and precision
PRECISIONS = ("fp32", "bf16")
TASKS = ("click", "watch", "like")
ROWS = 240  # 10 steps an epoch


def _write(path: Path) -> None:
    random = np.random.default_rng(0)
    rows = pa.table(
        {"user": random.integers(50, size=ROWS), "item": random.integers(30, size=ROWS)}
        | {"age": random.normal(size=ROWS).astype(np.float32), "weight": random.random(ROWS, np.float32)}
        | {"watch": random.random(ROWS, np.float32)}
        | {name: random.integers(2, size=ROWS).astype(np.float32) for name in ("click", "like")}
    )
    write_tables(
        path,
        name="three",
        splits={"train": rows, "valid": rows, "test": rows},
        sparse=[SparseFeature(name=name, table=name) for name in ("user", "item")],
        dense=[DenseFeature(name="age", normaliser="standard")],
        tasks=[Task(name=name, kind="regression" if name == "watch" else "binary", label=name) for name in TASKS],
        sample_weight="weight",
        row_group_rows=20,
    )


def _count(rank: int, world_size: int, folder: Path, cases: Sequence[tuple[int, str]]) -> Counts:
    """Count the operators of each case of (number of tasks, precision), over two reports."""
    counts: Counts = {}
    for tasks, precision in cases:
        changes = {
            "tasks": [{"name": name} for name in TASKS[:tasks]],
            "train": {
                "batch_size": 24,
                "steps": 100,
                "report_every": REPORT_EVERY,
                "evaluate_every": 100,
                "precision": precision,
            },
        }
        context = build_context(small_config(folder / "data", changes), ranks_of(rank, world_size))
        run = folder / f"{tasks}-{precision}"
        run.mkdir()
        with device_path():
            counts[tasks, precision] = count_steps(context, run, counted=2 * REPORT_EVERY)
    return counts


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> Counts:
    folder = tmp_path_factory.mktemp("launches")
    _write(folder / "data")
    (counted,) = on_ranks(_count, 1, folder, [(tasks, precision) for tasks in (2, 3) for precision in PRECISIONS])
    return counted


def _ceilings(row: tuple[int, int, int, int], tasks: int, precision: str) -> int:
    column = PRECISIONS.index(precision)
    return row[column] + (tasks - 2) * row[2 + column]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("tasks", [2, 3])
def test_no_region_of_a_step_launches_more_operators(tasks: int, precision: str, counts: Counts) -> None:
    counted = counts[tasks, precision]
    ceilings = {region: _ceilings(row, tasks, precision) for region, row in CEILINGS.items()}
    for step in range(2 * REPORT_EVERY):
        above = {
            region: [f"{count} operators, at most {ceilings.get(region, 0)}", *_names(counted, step, region)]
            for region, count in counted.by_region(step).items()
            if count > ceilings.get(region, 0) and region != "logging"
        }
        assert above == {}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("tasks", [2, 3])
def test_metrics_are_launched_once_a_report(tasks: int, precision: str, counts: Counts) -> None:
    """Steps 0 and 5 of the counted steps end with a report."""
    counted = counts[tasks, precision]
    reports = [counted.by_region(step)["logging"] for step in range(2 * REPORT_EVERY)]
    assert [step for step, count in enumerate(reports) if count] == [0, REPORT_EVERY]
    assert max(reports) <= _ceilings(REPORT, tasks, precision)


def test_the_host_reads_nothing_from_the_device_between_reports(counts: Counts) -> None:
    reads = [counted.host_reads[step] for counted in counts.values() for step in range(1, REPORT_EVERY)]
    assert reads == [HOST_READS] * len(reads)


def _names(counted: StepCounts, step: int, region: str) -> list[str]:
    """Return the names and counts of the operators of one region, for the message of a failure."""
    return [f"{name}: {count}" for (place, name), count in sorted(counted.operators[step].items()) if place == region]
