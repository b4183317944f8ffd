from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from data_prep.stats.cells import Pair, task_blocks
from data_prep.stats.correlation import fisher, pearson, shift, wilson
from data_prep.stats.dense import ColumnCounts, merge_counts
from data_prep.stats.drift import dense_drift, kolmogorov_smirnov, psi, sparse_drift
from data_prep.stats.ids import Lookups
from data_prep.stats.labels import group_columns
from ple_rec.config.schema import Task


def test_pearson_of_integers_beyond_every_float() -> None:
    scale = 2**31
    assert pearson(Pair(4, 2 * scale, 2, 2 * scale**2, 2, scale)) == 0.0
    assert pearson(Pair(10**12, scale * 10**11, 10**11, scale**2 * 10**11, 10**11, scale * 10**11)) == 1.0
    assert pearson(Pair(4, 4, 2, 4, 2, 2)) is None  # one label does not vary
    assert pearson(Pair(0, 0, 0, 0, 0, 0)) is None


def test_intervals_of_known_cases() -> None:
    assert fisher(0.5, 103) == pytest.approx((0.33931, 0.63234), abs=1e-5)  # tanh(0.54931 -+ 0.19600)
    assert fisher(0.5, 3) == (-1.0, 1.0)
    assert fisher(1.0, 50) == (1.0, 1.0)
    assert wilson(10, 100) == pytest.approx((0.05523, 0.17437), abs=1e-5)
    assert wilson(0, 10) == pytest.approx((0.0, 0.27753), abs=1e-5)
    assert wilson(0, 0) == (0.0, 1.0)


def part(value: int, r: float | None, samples: int, fewest: int = 100) -> dict[str, Any]:
    return {"value": value, "correlation": [{"a": "x", "b": "y", "samples": samples, "r": r, "fewest": fewest}]}


def test_a_shift_is_between_parts_of_enough_samples() -> None:
    values = [part(1, 0.5, 1000), part(2, 0.1, 400), part(3, -0.9, 199), part(4, 0.9, 5000, 19), part(5, None, 900)]
    found = shift(values, "x", "y")
    assert found is not None
    assert (found["low"], found["high"], found["shift"]) == (2, 1, 0.4)
    (a, _), (_, d) = fisher(0.5, 1000), fisher(0.1, 400)
    assert found["interval"][0] == pytest.approx(0.4 - math.hypot(0.5 - a, d - 0.1))
    assert shift(values[2:], "x", "y") is None


def test_the_interval_of_a_shift_covers_the_truth() -> None:
    """Also where it is that of the extremes of many values of one r, most of which differ by chance alone."""
    random, covered, false = np.random.default_rng(3), 0, 0
    for _ in range(400):
        parts = []
        for value, r in ((1, 0.6), (2, 0.2)):
            a = random.normal(size=300)
            b = r * a + math.sqrt(1 - r * r) * random.normal(size=300)
            parts.append(part(value, float(np.corrcoef(a, b)[0, 1]), 300))
        found = shift(parts, "x", "y")
        assert found is not None
        covered += found["interval"][0] <= 0.4 <= found["interval"][1]
        equal = [part(i, float(np.tanh(0.3 + random.normal() / math.sqrt(297))), 300) for i in range(40)]
        found = shift(equal, "x", "y")
        assert found is not None
        false += found["interval"][0] > 0
    assert 0.925 <= covered / 400 <= 0.975
    assert false / 400 <= 0.08


def test_the_surest_of_many_shifts_is_none_where_there_is_no_relation() -> None:
    random, alone, among = np.random.default_rng(4), 0, 0
    for _ in range(100):
        columns = [
            [part(i, float(np.tanh(random.normal() / math.sqrt(297))), 300) for i in range(5)] for _ in range(20)
        ]
        alone += any(found["interval"][0] > 0 for each in columns if (found := shift(each, "x", "y")))
        among += any(found["interval"][0] > 0 for each in columns if (found := shift(each, "x", "y", len(columns))))
    assert alone > 30
    assert among <= 8


@pytest.mark.parametrize("count", [1, 4, 6, 7, 13])
def test_every_two_tasks_are_together_in_a_block(count: int) -> None:
    tasks = [Task(name=f"t{i:02}", kind="binary", label=f"y{i}") for i in range(count)]
    found = task_blocks(tasks)
    assert max(map(len, found)) <= 6
    together = {pair for block in found for pair in combinations([task.name for task in block], 2)}
    assert together == set(combinations([task.name for task in tasks], 2))
    assert {task.name for block in found for task in block} == {task.name for task in tasks}


def test_packs_have_few_combinations() -> None:
    assert group_columns(["a", "b", "c", "d"], {"a": 100, "b": 3, "c": 50, "d": 9999}) == [["b", "c"], ["a"], ["d"]]
    assert group_columns([], {}) == []


def test_psi_by_hand_and_by_chance() -> None:
    p, q = (30.5 / 101, 70.5 / 101), (60.5 / 101, 40.5 / 101)
    expected = sum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True))
    assert psi([30, 0, 70], [60, 0, 40]) == pytest.approx({"psi": expected, "chance": 0.02})
    assert psi([1], [0]) == {"psi": None, "chance": None}
    random = np.random.default_rng(0)
    drawn = [psi(*random.multinomial(2000, [0.1] * 10, 2).tolist()) for _ in range(200)]
    assert np.mean([each["psi"] for each in drawn]) == pytest.approx(drawn[0]["chance"], rel=0.15)


def test_ks_is_that_of_the_sorted_values() -> None:
    random = np.random.default_rng(0)
    a, b = random.integers(0, 40, 500) / 8, random.integers(5, 45, 300) / 8
    pairs = [ColumnCounts(*np.unique(x, return_counts=True)) for x in (a, b)]
    grid = np.unique(np.concatenate([a, b]))
    cumulative = [np.searchsorted(np.sort(x), grid, side="right") / len(x) for x in (a, b)]
    assert kolmogorov_smirnov(*pairs) == pytest.approx(np.abs(cumulative[0] - cumulative[1]).max())
    assert kolmogorov_smirnov(pairs[0], ColumnCounts(np.array([]), np.array([], np.int64))) is None


def test_users_that_are_dealt_out_to_valid_and_test_do_not_drift() -> None:
    """As `valid_share` does: half of the users of a day are in valid, the others in test."""
    train = Lookups(dict.fromkeys(range(40), 100), 4000, 100, 40)
    valid, test = (Lookups(dict.fromkeys(users, 50), 1000, 0, 20) for users in (range(20), range(20, 40)))
    assert sparse_drift(train, valid, test)["psi"] < 0.01
    assert sparse_drift(train, valid)["psi"] > 1  # either alone seems to


def test_the_values_of_valid_and_test_count_together() -> None:
    valid, test = (ColumnCounts(np.array(values), np.array([3, 4])) for values in ([1.0, 2.0], [2.0, 5.0]))
    both = merge_counts(valid, test)
    assert both.values.tolist() == [1.0, 2.0, 5.0]
    assert both.counts.tolist() == [3, 7, 4]


def test_drift_of_nulls_alone_is_seen() -> None:
    same = ColumnCounts(np.array([1.0, 2.0]), np.array([50, 50]))
    assert dense_drift(same, same, (0, 0), [1.0])["psi"] == 0.0
    found = dense_drift(same, same, (0, 100), [1.0])
    assert found["psi"] > 0.25
    assert found["ks"] == 0.0
