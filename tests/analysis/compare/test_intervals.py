"""Intervals against scipy and brute force, and how often they hold what they should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]

from ple_rec.analysis.compare.gain import gains
from ple_rec.analysis.compare.intervals import TaskRows, drawn_metrics, row_interval, seed_interval, t_quantile
from ple_rec.config.base import TaskKind


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 9, 10, 30, 99])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_quantiles_of_t(freedom: int, level: float) -> None:
    assert t_quantile(level, freedom) == pytest.approx(stats.t.ppf((1 + level) / 2, freedom), rel=1e-9)


def test_the_interval_over_seeds_is_that_of_a_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    model, baseline = rng.normal(0.8, 0.01, 6), rng.normal(0.79, 0.01, 6)
    expected = stats.ttest_rel(model, baseline).confidence_interval(0.95)
    found = seed_interval(list(model - baseline))
    assert found == pytest.approx((expected.low, expected.high))
    assert seed_interval([0.1]) is None


def test_gains_are_positive_where_the_model_is_better() -> None:
    assert gains("binary", {0: 0.8, 1: 0.7, 2: 0.9}, {0: 0.75, 1: 0.75}) == pytest.approx({0: 0.05, 1: -0.05})
    assert gains("regression", {0: 0.2}, {0: 0.3}) == pytest.approx({0: 0.1})


def rows_of(kind: TaskKind, rng: np.random.Generator, n: int = 200, groups: int = 20) -> TaskRows:
    """Scores with many ties."""
    labels = rng.integers(0, 2, n).astype(float)
    scores = np.round(labels * 0.3 + rng.random(n), 1)
    return TaskRows(kind, labels, rng.random(n) + 0.1, scores, rng.integers(0, groups, n), groups)


def by_hand(rows: TaskRows, counts: np.ndarray) -> float:
    weights = rows.weights_N * counts[rows.group_N]
    if rows.kind == "regression":
        return float(np.average((rows.scores_N - rows.labels_N) ** 2, weights=weights))
    won = total = 0.0
    for i in np.flatnonzero(rows.labels_N == 1):
        for j in np.flatnonzero(rows.labels_N == 0):
            both = weights[i] * weights[j]
            total += both
            won += both * ((rows.scores_N[i] > rows.scores_N[j]) + (rows.scores_N[i] == rows.scores_N[j]) / 2)
    return won / total


@pytest.mark.parametrize("kind", ["binary", "regression"])
def test_a_draw_has_the_metric_of_its_rows(kind: TaskKind) -> None:
    rng = np.random.default_rng(1)
    rows = rows_of(kind, rng)
    drawn = rng.integers(0, 3, (4, rows.groups))
    assert rows.metric_C(drawn) == pytest.approx([by_hand(rows, counts) for counts in drawn])


def test_the_interval_over_rows_is_a_paired_bootstrap_of_groups() -> None:
    rng = np.random.default_rng(2)
    labels, group = rng.integers(0, 2, 400).astype(float), np.repeat(np.arange(80), 5)
    base = labels + rng.normal(0, 1, 400)
    better = labels + rng.normal(0, 0.8, 400)
    model, single = (TaskRows("regression", labels, np.ones(400), scores, group, 80) for scores in (better, base))
    found = row_interval([drawn_metrics(model, 4000)], [drawn_metrics(single, 4000)], -1)
    differences = ((base - labels) ** 2 - (better - labels) ** 2).reshape(80, 5).mean(1)
    expected = stats.bootstrap((differences,), np.mean, n_resamples=4000, method="percentile", random_state=3)
    assert found == pytest.approx(tuple(expected.confidence_interval), abs=0.03)


def test_the_interval_over_rows_holds_the_truth_as_often_as_it_says() -> None:
    held = 0
    for trial in range(100):
        rng = np.random.default_rng(trial)
        group = rng.integers(0, 60, 300)
        shift = rng.normal(0, 1, 60)[group]  # what the rows of a group have in common
        rows = TaskRows("regression", np.zeros(300), np.ones(300), shift, group, 60)
        other = TaskRows("regression", np.zeros(300), np.ones(300), np.zeros(300), group, 60)
        interval = row_interval([drawn_metrics(rows, 200)], [drawn_metrics(other, 200)], -1)
        assert interval is not None
        held += interval[0] <= -1.0 <= interval[1]
    assert 80 <= held <= 99  # of 100; drawing rows instead of groups holds it in some 60


def test_rows_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "test_rows.npz"
    labels = np.array([[1, 0.5], [0, 0.2], [1, 0.1], [0, 0.9]], np.float32)
    weights = np.array([[1, 1], [2, 0], [1, 1], [1, 1]], np.float32)
    scores = labels * 0.5
    group = np.array([7, 7, -1, 9])
    np.savez(file, labels=labels, weights=weights, scores=scores, group=group, tasks=np.array(["click", "share"]))
    click = TaskRows.read(file, "click", "binary")
    assert click is not None
    assert (click.groups, click.group_N.tolist()) == (3, [1, 1, 0, 2])
    share = TaskRows.read(file, "share", "regression")
    assert share is not None
    assert len(share.labels_N) == 3
    assert TaskRows.read(file, "like", "binary") is None
    assert TaskRows.read(tmp_path / "none.npz", "click", "binary") is None
    np.savez(file, labels=labels * 0, weights=weights, scores=scores, tasks=np.array(["click", "share"]))
    assert TaskRows.read(file, "click", "binary") is None  # one class
