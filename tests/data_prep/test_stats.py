from __future__ import annotations

import math
from collections import Counter

import ibis
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.stats import dense_stats, rate, scalar_row, sparse_stats, task_counts, task_stats, value_counts
from ple_rec.config.schema import Task

CONNECTION = ibis.duckdb.connect()


def reduced(values: list[float]) -> tuple[list[float], list[int]]:
    counts = Counter(values)
    return sorted(counts), [counts[value] for value in sorted(counts)]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(-50, 100_000).map(float), min_size=1, max_size=60), st.integers(2, 30))
def test_against_numpy(values: list[float], points: int) -> None:
    stats = dense_stats(*reduced(values), rows=len(values) + 2, quantiles=points)
    x = np.array(values)
    log = np.sign(x) * np.log1p(np.abs(x))
    expected = {"rows": len(values) + 2, "nulls": 2, "min": x.min(), "max": x.max(), "mean": x.mean(), "std": x.std()}
    expected |= {"log_mean": log.mean(), "log_std": log.std()}
    for key, value in expected.items():
        assert stats[key] == pytest.approx(value, rel=1e-12, abs=1e-6), key
    np.testing.assert_allclose(stats["quantiles"], np.quantile(x, np.linspace(0, 1, points)), rtol=1e-9, atol=1e-9)


def test_quantiles_between_two_values() -> None:
    assert dense_stats([1.0, 3.0], [1, 1], rows=2, quantiles=5)["quantiles"] == [1.0, 1.5, 2.0, 2.5, 3.0]
    assert dense_stats([1.0, 3.0], [3, 1], rows=4, quantiles=4)["quantiles"] == [1.0, 1.0, 1.0, 3.0]


def test_a_constant_has_no_spread() -> None:
    stats = dense_stats([math.pi], [1000], rows=1000, quantiles=3)
    assert (stats["mean"], stats["std"], stats["log_std"]) == (math.pi, 0.0, 0.0)
    assert stats["quantiles"] == [math.pi] * 3


def test_nothing_but_nulls() -> None:
    stats = dense_stats([], [], rows=3)
    assert (stats["rows"], stats["nulls"]) == (3, 3)
    assert all(stats[key] is None for key in ("min", "max", "mean", "std", "log_mean", "log_std", "quantiles"))


def test_value_counts_are_sorted_and_leave_nulls_out() -> None:
    rows = ibis.memtable(pa.table({"x": pa.array([2.5, None, -1.0, 2.5], pa.float32())}))
    assert CONNECTION.to_pyarrow(value_counts(rows, "x")).to_pydict() == {"value": [-1.0, 2.5], "count": [1, 2]}


def test_sparse_counts_row_0() -> None:
    rows = ibis.memtable(pa.table({"f": pa.array([0, 3, 0], pa.int32()), "g": pa.array([1, 1, 1], pa.int32())}))
    assert scalar_row(CONNECTION, sparse_stats(rows, ["f", "g"])) == {"rows__": 3, "f": 2, "g": 0}
    empty = ibis.memtable(pa.table({"f": pa.array([], pa.int32())}))
    assert scalar_row(CONNECTION, sparse_stats(empty, ["f"])) == {"rows__": 0, "f": 0}
    assert rate(1, 4) == 0.25
    assert rate(0, 0) is None


def test_a_task_counts_its_sample_space_only() -> None:
    task = Task(name="t", kind="binary", label="y", space="s")
    rows = ibis.memtable(pa.table({"y": pa.array([1, 1, 0, 0], pa.float32()), "s": [True, False, True, True]}))
    pairs = CONNECTION.to_pyarrow(task_counts(rows, task)).to_pydict()
    assert task_stats(task, pairs["value"], pairs["count"]) == {"samples": 3, "mean": 1 / 3, "positives": 1}


def test_a_regression_has_a_mean_and_no_positives() -> None:
    task = Task(name="t", kind="regression", label="y")
    assert task_stats(task, [0.5, 1.0], [3, 1]) == {"samples": 4, "mean": 0.625}
    assert task_stats(task, [], []) == {"samples": 0, "mean": None}
