"""MTL gain (the paper's Eq. 11), paired: the same seed, hence the same order of samples, on both sides.

    binary      gain = AUC - AUC of the baseline
    regression  gain = MSE of the baseline - MSE

so that more is better. A task's metric is AUC or MSE, whatever else a run reports.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ple_rec.analysis.compare.intervals import Interval, seed_interval
from ple_rec.config.base import TaskKind

METRICS: dict[TaskKind, str] = {"binary": "auc", "regression": "mse"}


def gain(metric: str, value: float, baseline: float) -> float:
    """Of one run over another, in the unit of the metric; more is better."""
    return value - baseline if metric == "auc" else baseline - value


def paired_gains(
    metric: str, values: Mapping[str, float | None], baseline: Mapping[str, float | None]
) -> dict[str, float]:
    """The gain of every seed that has a value on both sides: an AUC of one class is None, a failed run is not there."""
    pairs = {seed: (value, baseline.get(seed)) for seed, value in values.items()}
    return {seed: gain(metric, a, b) for seed, (a, b) in pairs.items() if a is not None and b is not None}


def gain_entry(
    metric: str,
    values: Mapping[str, float | None],
    baseline: Mapping[str, float | None],
    row_interval: Interval | None = None,
) -> dict[str, Any]:
    """What `compare.json` says of a task's gain.

    Args:
        metric: "auc" or "mse".
        values: By seed.
        baseline: Likewise; of another variant, where two are compared with each other.
        row_interval: Of the mean gain over the seeds, from `resampling.row_interval`.

    Returns:
        `{"values": {seed: gain}, "mean", "sd", "seed_interval", "row_interval"}`; mean is None where no seed has both
        values, sd and seed_interval are None where only one has.
    """
    gains = paired_gains(metric, values, baseline)
    return {
        "values": gains,
        **mean_sd(list(gains.values())),
        "seed_interval": seed_interval(list(gains.values())),
        "row_interval": row_interval if gains else None,
    }


def mean_sd(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and sample standard deviation (n - 1); None where there are too few values."""
    return {
        "mean": statistics.fmean(values) if values else None,
        "sd": statistics.stdev(values) if len(values) > 1 else None,
    }
