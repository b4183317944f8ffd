"""Resampled AUC and MSE against a direct computation, intervals against scipy's bootstrap and a known variance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]
from sklearn.metrics import mean_squared_error, roc_auc_score

from ple_rec.analysis.compare.resampling import (
    RESAMPLES,
    count_groups,
    draw_counts,
    metrics_of_rows,
    resampled_metrics,
    row_interval,
)

METRICS = ((0, "auc"), (1, "mse"))


def normalised_entropy(label: NDArray[Any], score: NDArray[Any], weight: NDArray[Any]) -> float:
    """Log loss by that of the mean label."""
    mean = np.average(label, weights=weight)
    loss = np.average(-np.where(label > 0, np.log(score), np.log(1 - score)), weights=weight)
    return float(loss / -(mean * np.log(mean) + (1 - mean) * np.log(1 - mean)))


def rows_of(n: int, *, groups: int | None, seed: int = 0, weighted: bool = True) -> dict[str, NDArray[Any]]:
    """A binary task of coarse, hence tied, scores and a regression; a fifth of the rows is in neither space."""
    random = np.random.default_rng(seed)
    labels = np.stack([random.random(n) < 0.3, random.normal(size=n)], axis=1).astype(np.float32)
    scores = (np.round(labels * 0.4 + random.normal(size=(n, 2)), 1) / 8).astype(np.float32)
    weights = random.random((n, 2)) + 0.5 if weighted else np.ones((n, 2))
    weights = (weights * (random.random((n, 2)) < 0.8)).astype(np.float32)
    labels[weights == 0] = np.nan
    rows: dict[str, NDArray[Any]] = {"labels": labels, "scores": scores, "weights": weights}
    if groups is not None:
        rows["group"] = random.integers(-1, groups, n) * 1000  # -1000 is a group as any other
    return rows


def directly(rows: dict[str, NDArray[Any]], row_N: NDArray[Any]) -> list[float]:
    """Both metrics of a resample, written out row by row."""
    found = []
    for k, metric in enumerate((roc_auc_score, mean_squared_error)):
        kept = row_N[rows["weights"][row_N, k] > 0]
        label, score, weight = (rows[name][kept, k].astype(np.float64) for name in ("labels", "scores", "weights"))
        found.append(float(metric(label, score, sample_weight=weight)))
    return found


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("groups", [None, 30])
def test_every_resample_is_what_a_direct_computation_gives(groups: int | None, weighted: bool) -> None:
    rows = rows_of(200, groups=groups, weighted=weighted)
    found_KR = resampled_metrics(rows, METRICS, 35)
    group_N = np.unique(rows["group"], return_inverse=True)[1] if groups else np.arange(200)
    counts_GR = np.concatenate(list(draw_counts(group_N.max() + 1, 35)), axis=1)
    assert (counts_GR.sum(axis=0) == len(counts_GR)).all()
    for r in range(35):
        row_N = np.repeat(np.arange(200), counts_GR[group_N, r])
        assert found_KR[:, r] == pytest.approx(directly(rows, row_N), rel=1e-9)


@pytest.mark.parametrize("weighted", [True, False])
def test_normalised_entropy_of_every_resample(weighted: bool) -> None:
    rows = rows_of(200, groups=30, weighted=weighted)
    rows["scores"] = (1 / (1 + np.exp(-4 * rows["scores"]))).astype(np.float32)
    group_N = np.unique(rows["group"], return_inverse=True)[1]
    counts_GR = np.concatenate(list(draw_counts(group_N.max() + 1, 20)), axis=1)
    values_1R = resampled_metrics(rows, [(0, "ne")], 20)
    for r in [*range(20), None]:
        row_N = np.arange(200) if r is None else np.repeat(np.arange(200), counts_GR[group_N, r])
        kept = row_N[rows["weights"][row_N, 0] > 0]
        expected = normalised_entropy(
            *(rows[name][kept, 0].astype(np.float64) for name in ("labels", "scores", "weights"))
        )
        value = metrics_of_rows(rows, [(0, "ne")])[0] if r is None else values_1R[0, r]
        assert value == pytest.approx(expected, rel=1e-6)
    one_class = rows | {"labels": np.ones_like(rows["labels"])}
    assert np.isnan(resampled_metrics(one_class, [(0, "ne")], 3)).all()


def test_rows_without_a_group_are_drawn_one_by_one() -> None:
    rows = rows_of(60, groups=None)
    alone = rows | {"group": np.full(60, -1)}
    assert np.array_equal(resampled_metrics(rows, METRICS, 5), resampled_metrics(alone, METRICS, 5))
    assert count_groups(alone, 0) == (rows["weights"][:, 0] > 0).sum()
    mixed = rows | {"group": np.array([7] * 30 + [-1] * 30)}
    assert count_groups(mixed, 1) == 1 + (rows["weights"][30:, 1] > 0).sum()


@pytest.mark.parametrize("groups", [None, 60])
def test_the_interval_is_scipys_within_its_chance(groups: int | None) -> None:
    model, base = rows_of(300, groups=groups), rows_of(300, groups=groups)
    base["scores"] = model["scores"] + np.random.default_rng(5).normal(0, 0.1, (300, 2)).astype(np.float32)
    group_N = np.unique(model["group"], return_inverse=True)[1] if groups else np.arange(300)
    members = [np.flatnonzero(group_N == g) for g in range(group_N.max() + 1)]

    def gain(drawn: NDArray[Any]) -> list[float]:
        row_N = np.concatenate([members[g] for g in drawn])
        (auc, mse), (base_auc, base_mse) = directly(model, row_N), directly(base, row_N)
        return [auc - base_auc, base_mse - mse]

    every = (np.arange(len(members)),)
    # scipy hands the statistic one resample at a time, and takes a vector back.
    result = stats.bootstrap(every, gain, n_resamples=150, method="percentile", vectorized=False, random_state=1)
    ours, theirs = resampled_metrics(model, METRICS), resampled_metrics(base, METRICS)
    for k, metric in METRICS:
        low, high = row_interval(metric, [ours[k]], [theirs[k]], len(members)) or (np.nan, np.nan)
        expected = [float(end[k]) for end in result.confidence_interval]
        assert [low, high] == pytest.approx(expected, abs=0.3 * (expected[1] - expected[0]))


def test_the_interval_covers_a_known_gain_about_as_often_as_it_says() -> None:
    covered = []
    for seed in range(60):
        random = np.random.default_rng(seed)
        label = random.normal(size=(400, 1))
        rows = {"labels": label, "weights": np.ones((400, 1))}
        errors = random.normal(0, (0.5, 0.6), (400, 2))
        ours, theirs = (
            resampled_metrics(rows | {"scores": label + errors[:, [i]]}, [(0, "mse")], 300)[0] for i in (0, 1)
        )
        low, high = row_interval("mse", [ours], [theirs], 400) or (np.nan, np.nan)
        covered.append(low < 0.6**2 - 0.5**2 < high)
    assert 0.85 <= np.mean(covered) <= 1  # 0.95 but for 60 trials


def test_seeds_are_averaged_within_each_resample() -> None:
    random = np.random.default_rng(0)
    runs, baselines = random.normal(0.7, 0.1, (2, 3, RESAMPLES))
    expected = np.quantile((runs - baselines).mean(axis=0), [0.025, 0.975])
    assert row_interval("auc", list(runs), list(baselines), 50) == pytest.approx(tuple(expected))
    assert row_interval("mse", list(runs), list(baselines), 50) == pytest.approx(tuple(-expected[::-1]))


def test_there_is_no_interval_of_too_little() -> None:
    some = [np.linspace(0.5, 0.6, 100)]
    assert row_interval("auc", [], [], 50) is None
    assert row_interval("auc", some, some, 9) is None
    holes = [np.where(np.arange(100) < 6, np.nan, some[0])]
    assert row_interval("auc", holes, some, 50) is None
    assert row_interval("auc", [np.where(np.arange(100) < 5, np.nan, some[0])], some, 50) == (0.0, 0.0)


def test_a_task_of_one_class_is_undefined_and_not_an_error() -> None:
    rows = rows_of(50, groups=None)
    rows["labels"][:, 0] = 1
    found_KR = resampled_metrics(rows, METRICS, 4)
    assert np.isnan(found_KR[0]).all()
    assert np.isfinite(found_KR[1]).all()
