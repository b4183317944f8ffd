"""MTL gain paired by seed (Eq. 11 of the PLE paper, Tang et al., 2020), and the interval of its mean over seeds.

    binary      gain = AUC - AUC of the baseline; in the same way for GAUC
    regression  gain = MSE of the baseline - MSE

A gain compares two runs with the same seed. A higher gain is better.

Training is random: the gains of S seeds are S independent samples on one test split, and the interval of their mean is
Student's t with S - 1 degrees of freedom. `resampling` estimates how much gains depend on the choice of the test split.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from scipy.special import stdtrit  # type: ignore[import-untyped]  # scipy has no stubs

from ple_rec.config.base import TaskKind
from ple_rec.config.metrics import is_higher_better

Interval = tuple[float, float]

# Confidence level of all intervals.
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


# Metric from which gains are computed, by kind of task.
METRICS: dict[TaskKind, str] = {"binary": "auc", "regression": "mse"}


def gain(metric: str, value: float, baseline: float) -> float:
    """Return the gain of one run over another, in the unit of the metric; higher is better."""
    return value - baseline if is_higher_better(metric) else baseline - value


def paired_gains(
    metric: str, values: Mapping[str, float | None], baseline: Mapping[str, float | None]
) -> dict[str, float]:
    """Return the gain of every seed for which both the variant and the baseline have a value.

    Args:
        metric: Key of the metric, such as "auc" or "mse".
        values: Metric of the variant by seed; None for an undefined AUC (one class). Seeds of failed runs are missing.
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
        metric: Key of the metric, such as "auc" or "mse".
        values: Metric of the variant by seed.
        baseline: Metric of the baseline, or of another variant, by seed.
        row_interval: Interval of the mean gain over the seeds, from `resampling.row_interval`.

    Returns:
        `{"values": {seed: gain}, "mean", "sd", "seed_interval", "row_interval"}`; mean is None if no seed has both
        values; sd and seed_interval are None if fewer than two seeds have both.
    """
    gains = paired_gains(metric, values, baseline)
    return {
        "values": gains,
        **mean_sd(list(gains.values())),
        "seed_interval": seed_interval(list(gains.values())),
        "row_interval": row_interval if gains else None,
    }


def mean_sd(values: Sequence[float]) -> dict[str, float | None]:
    """Return mean and sample standard deviation (n - 1); the mean is None without a value, sd for fewer than two."""
    return {
        "mean": statistics.fmean(values) if values else None,
        "sd": statistics.stdev(values) if len(values) > 1 else None,
    }
