from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.stats import dense_stats, rate, task_stats
from ple_rec.config.schema import Task


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


def test_tasks() -> None:
    binary, regression = Task(name="t", kind="binary", label="y"), Task(name="r", kind="regression", label="y")
    assert task_stats(binary, [0.0, 1.0], [2, 1]) == {"samples": 3, "mean": 1 / 3, "positives": 1}
    assert task_stats(regression, [0.5, 1.0], [3, 1]) == {"samples": 4, "mean": 0.625}
    assert task_stats(regression, [], []) == {"samples": 0, "mean": None}
    assert rate(1, 4) == 0.25
    assert rate(0, 0) is None
