"""Statistics that do not depend on the order of rows, the number of threads or the engine.

A column is first reduced to its distinct values and their counts, in ascending order; every figure is then an exactly
rounded sum over those pairs. `stats.json` holds

    version
    rows.<split>
    columns.<column>.<split>   dense:  rows nulls min max mean std log_mean log_std quantiles
                               sparse: rows oov oov_rate
    tasks.<task>.<split>       samples (the task's sample space) mean, and for a binary task positives
    dropped                    [{split, rows, reason}]

A figure of no value at all (an empty split, a column of nulls) is null.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import ibis
import ibis.expr.types as ir

from ple_rec.config.schema import Task

STATS_VERSION = 1
QUANTILES = 1001  # 0, 1/1000, ..., 1


def value_counts(rows: ir.Table, column: str) -> ir.Table:
    """The distinct values of a column and their counts (`value`, `count`), ascending, nulls left out."""
    values = rows.select(value=rows[column]).drop_null("value")
    return values.group_by("value").aggregate(count=values.count()).order_by("value")


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


def sparse_stats(rows: ir.Table, features: Sequence[str]) -> ir.Table:
    """One row: `rows`, and the number of rows at 0 ("out of vocabulary or missing") under every feature's name."""
    return rows.aggregate(
        rows__=rows.count(), **{feature: (rows[feature] == 0).sum().fill_null(0).cast("int64") for feature in features}
    )


def task_counts(rows: ir.Table, task: Task) -> ir.Table:
    """The distinct labels of a task inside its sample space, as `value_counts` gives them."""
    inside = rows if task.space is None else rows.filter(rows[task.space])
    return value_counts(inside, task.label)


def task_stats(task: Task, values: Sequence[float], counts: Sequence[int]) -> dict[str, Any]:
    """Sample-space size, mean label, and for a binary task the positives."""
    samples = sum(counts)
    mean = math.fsum(count * x for x, count in zip(values, counts, strict=True)) / samples if samples else None
    out: dict[str, Any] = {"samples": samples, "mean": mean}
    if task.kind == "binary":
        out["positives"] = sum(count for x, count in zip(values, counts, strict=True) if x == 1)
    return out


def rate(part: int, whole: int) -> float | None:
    """`part / whole`, or None of nothing."""
    return part / whole if whole else None


def scalar_row(connection: ibis.BaseBackend, table: ir.Table) -> dict[str, Any]:
    """The only row of a table."""
    (row,) = connection.to_pyarrow(table).to_pylist()
    return dict(row)
