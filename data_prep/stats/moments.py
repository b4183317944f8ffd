"""Figures of a column that is reduced to its distinct values, ascending, and their counts: exactly rounded sums."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from ple_rec.config.schema import Task

QUANTILES = 1001  # 0, 1/1000, ..., 1


def dense_stats(
    values: Sequence[float], counts: Sequence[int], rows: int, quantiles: int = QUANTILES
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
    samples = sum(counts)
    out: dict[str, Any] = {"rows": rows, "nulls": rows - samples}
    if samples == 0:
        return out | dict.fromkeys(("min", "max", "mean", "std", "log_mean", "log_std", "quantiles"))
    mean, std = _mean_std(values, counts)
    log_mean, log_std = _mean_std([math.copysign(math.log1p(abs(x)), x) for x in values], counts)
    out |= {"min": values[0], "max": values[-1], "mean": mean, "std": std, "log_mean": log_mean, "log_std": log_std}
    return out | {"quantiles": _quantiles(values, counts, quantiles)}


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


def _mean_std(values: Sequence[float], counts: Sequence[int]) -> tuple[float, float]:
    samples = sum(counts)
    mean = math.fsum(count * x for x, count in zip(values, counts, strict=True)) / samples
    variance = math.fsum(count * (x - mean) ** 2 for x, count in zip(values, counts, strict=True)) / samples
    return mean, math.sqrt(variance)


def _quantiles(values: Sequence[float], counts: Sequence[int], points: int) -> list[float]:
    ends = list(accumulate(counts))  # values[i] fills the ranks ends[i - 1] .. ends[i] - 1

    def at(rank: int) -> float:
        return values[bisect_right(ends, rank)]

    out = []
    for i in range(points):
        rank, rest = divmod((ends[-1] - 1) * i, points - 1)
        low = at(rank)
        out.append(low + (at(rank + 1) - low) * (rest / (points - 1)) if rest else low)
    return out
