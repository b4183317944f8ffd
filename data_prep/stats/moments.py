"""Figures of a column that is reduced to its distinct values, ascending, and their counts: exactly rounded sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ple_rec.config.schema import Task

Numbers: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]

QUANTILES = 1001  # 0, 1/1000, ..., 1


def dense_stats(
    values: Sequence[float] | Numbers, counts: Sequence[int] | Integers, rows: int, quantiles: int = QUANTILES
) -> dict[str, Any]:
    """Statistics of a column of numbers.

        mean = sum c x / n          std = sqrt(sum c (x - mean)^2 / n)          n = sum c
        log_mean, log_std: the same of sign(x) log(1 + |x|)
        quantiles[i]: linear between the two order statistics beside rank (n - 1) i / (quantiles - 1)

    Args:
        values: Distinct values, ascending.
        counts: How often each occurs.
        rows: Rows of the split, nulls included.
        quantiles: How many, at least 2.
    """
    x, n = np.asarray(values, np.float64), np.asarray(counts, np.int64)
    samples = int(n.sum())
    out: dict[str, Any] = {"rows": rows, "nulls": rows - samples}
    if samples == 0:
        return out | dict.fromkeys(("min", "max", "mean", "std", "log_mean", "log_std", "quantiles"))
    mean, std = _mean_std(x, n)
    # The logarithm of the C library: numpy's depends on the instructions that a processor has.
    log = np.copysign(np.fromiter(map(math.log1p, np.abs(x).tolist()), np.float64, len(x)), x)
    log_mean, log_std = _mean_std(log, n)
    low, high = float(x[0]), float(x[-1])
    out |= {"min": low, "max": high, "mean": mean, "std": std, "log_mean": log_mean, "log_std": log_std}
    return out | {"quantiles": _quantiles(x, n, quantiles)}


def task_stats(task: Task, values: Sequence[float], counts: Sequence[int]) -> dict[str, Any]:
    """Sample-space size, mean label, and for a binary task the positives; of the labels inside the space."""
    samples = sum(counts)
    mean = math.fsum(count * x for x, count in zip(values, counts, strict=True)) / samples if samples else None
    out: dict[str, Any] = {"samples": samples, "mean": mean}
    if task.kind == "binary":
        out["positives"] = sum(count for x, count in zip(values, counts, strict=True) if x == 1)
    return out


def rate(part: int, whole: int) -> float | None:
    """`part / whole`, or None of nothing."""
    return part / whole if whole else None


def _mean_std(values: Numbers, counts: Integers) -> tuple[float, float]:
    samples = int(counts.sum())
    mean = math.fsum((counts * values).tolist()) / samples
    return mean, math.sqrt(math.fsum((counts * (values - mean) ** 2).tolist()) / samples)


def _quantiles(values: Numbers, counts: Integers, points: int) -> list[float]:
    ends = np.cumsum(counts)  # values[i] fills the ranks ends[i - 1] .. ends[i] - 1
    last = int(ends[-1]) - 1
    ranks, rests = _ranks(last, points)
    low = values[np.searchsorted(ends, ranks, side="right")]
    high = values[np.searchsorted(ends, np.minimum(ranks + 1, last), side="right")]
    found: list[float] = (low + (high - low) * rests).tolist()
    return found


@lru_cache(maxsize=8)  # columns without nulls have as many samples as the split has rows
def _ranks(last: int, points: int) -> tuple[Integers, Numbers]:
    """Return the rank below each quantile, and how far the quantile lies from it towards the next."""
    ranks, rests = zip(*(divmod(last * i, points - 1) for i in range(points)), strict=True)
    return np.array(ranks), np.array(rests) / (points - 1)
