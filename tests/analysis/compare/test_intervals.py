"""Intervals over seeds, against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]

from ple_rec.analysis.compare.gain import seed_interval


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
