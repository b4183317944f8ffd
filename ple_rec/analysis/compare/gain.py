"""MTL gain (the paper's Eq. 11), paired by seed, and the interval of its mean over seeds.

    binary      gain = AUC - AUC of the baseline
    regression  gain = MSE of the baseline - MSE

A higher gain is better. A task's metric is AUC or MSE, whatever else a run reports.

The gains of S seeds are S independent draws of the chance in training, on one test split, so their mean has S - 1
degrees of freedom. `resampling` estimates the chance in the choice of the test split.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from scipy.special import stdtrit  # type: ignore[import-untyped]  # scipy has no stubs

from ple_rec.config.base import TaskKind

Interval = tuple[float, float]

LEVEL = 0.95


def seed_interval(gains: Sequence[float]) -> Interval | None:
    """Return `mean +- t sd / sqrt(S)`, t being the 97.5 % quantile for S - 1 degrees of freedom.

    Args:
        gains: Gain of each seed; fewer than two give None.
    """
    if len(gains) < 2:
        return None
    mean = statistics.fmean(gains)
    quantile = float(stdtrit(len(gains) - 1, (1 + LEVEL) / 2))
    half = quantile * statistics.stdev(gains) / math.sqrt(len(gains))
    return mean - half, mean + half


METRICS: dict[TaskKind, str] = {"binary": "auc", "regression": "mse"}


def gain(metric: str, value: float, baseline: float) -> float:
    """Return the gain of one run over another, in the unit of the metric; more is better."""
    return value - baseline if metric == "auc" else baseline - value


def paired_gains(
    metric: str, values: Mapping[str, float | None], baseline: Mapping[str, float | None]
) -> dict[str, float]:
    """Return the gain of every seed that has a value on both sides.

    Args:
        metric: "auc" or "mse".
        values: Metric of the variant by seed; None for an AUC of one class. A failed run is missing.
        baseline: Metric of the baseline by seed.
    """
    pairs = {seed: (value, baseline.get(seed)) for seed, value in values.items()}
    return {seed: gain(metric, a, b) for seed, (a, b) in pairs.items() if a is not None and b is not None}


def gain_entry(
    metric: str,
    values: Mapping[str, float | None],
    baseline: Mapping[str, float | None],
    row_interval: Interval | None = None,
) -> dict[str, Any]:
    """Return a task's gain as `compare.json` has it.

    Args:
        metric: "auc" or "mse".
        values: Metric of the variant by seed.
        baseline: Metric of the baseline, or of another variant, by seed.
        row_interval: Interval of the mean gain over the seeds, from `resampling.row_interval`.

    Returns:
        `{"values": {seed: gain}, "mean", "sd", "seed_interval", "row_interval"}`; mean is None if no seed has both
        values, sd and seed_interval are None if fewer than two have.
    """
    gains = paired_gains(metric, values, baseline)
    return {
        "values": gains,
        **mean_sd(list(gains.values())),
        "seed_interval": seed_interval(list(gains.values())),
        "row_interval": row_interval if gains else None,
    }


def mean_sd(values: Sequence[float]) -> dict[str, float | None]:
    """Return mean and sample standard deviation (n - 1); None for too few values."""
    return {
        "mean": statistics.fmean(values) if values else None,
        "sd": statistics.stdev(values) if len(values) > 1 else None,
    }
