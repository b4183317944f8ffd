"""Intervals over seeds, against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]

from ple_rec.analysis.compare.intervals import seed_interval, student_quantile


@pytest.mark.parametrize("probability", [0.5, 0.6, 0.9, 0.975, 0.9995])
@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9, 10, 29, 100, 999])
def test_the_quantile_is_scipys(probability: float, freedom: int) -> None:
    expected = stats.t.ppf(probability, freedom)
    assert student_quantile(probability, freedom) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_the_interval_of_the_mean_is_that_of_the_paired_t_test(seeds: int) -> None:
    model, baseline = np.random.default_rng(seeds).normal(0.7, 0.01, (2, seeds))
    expected = stats.ttest_rel(model, baseline).confidence_interval(0.95)
    assert seed_interval(list(model - baseline)) == pytest.approx(tuple(expected), rel=1e-9)


def test_one_seed_has_no_interval() -> None:
    assert seed_interval([0.01]) is None
    assert seed_interval([]) is None


def test_equal_gains_have_an_interval_of_one_point() -> None:
    assert seed_interval([0.25, 0.25, 0.25]) == (0.25, 0.25)


@pytest.mark.parametrize(("probability", "freedom"), [(0.4, 3), (1.0, 3), (0.9, 0)])
def test_a_quantile_that_is_not_there_is_a_mistake(probability: float, freedom: int) -> None:
    with pytest.raises(ValueError, match=f"got probability {probability}, freedom {freedom}"):
        student_quantile(probability, freedom)
