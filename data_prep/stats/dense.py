"""Statistics of dense columns, which hold numbers: values are counted, and all figures are computed from the counts.

A split of many rows may have as many distinct values as rows. Then the values are rounded to fewer significant bits, by
Veltkamp's splitting in double precision:

    c = x (2^s + 1)        hi = c - (c - x)        s = 53 - bits

`hi` is x rounded to `bits` significant bits, so |hi - x| <= 2^-bits |x|. If x is rounded to 16 bits first, the error
grows by at most 2^-16 |x|. The splitting uses only IEEE multiplications and subtractions, so it gives the same bits on
every engine. x is a float32, so c is at most 2^128 2^45 and cannot overflow.

`dense_stats` and `task_stats` compute the figures of a column or a label for any caller that has counted its values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data_prep.engines.base import Engine
from data_prep.stats.extents import Range
from data_prep.stats.together import MAX_CELLS, SPLIT, Parts, split_result, union_splits
from ple_rec.config.base import Split
from ple_rec.config.schema import Task

Numbers: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]

QUANTILES = 1001  # The quantiles 0, 1/1000, ..., 1.


def dense_stats(
    values: Sequence[float] | Numbers, counts: Sequence[int] | Integers, rows: int, quantiles: int = QUANTILES
) -> dict[str, Any]:
    """Return the statistics of a column of numbers from its distinct values x and their counts c.

        mean = sum c x / n          std = sqrt(sum c (x - mean)^2 / n)          n = sum c
        log_mean, log_std: the same for sign(x) log(1 + |x|)
        quantiles[i]: linear between the two order statistics beside rank (n - 1) i / (quantiles - 1)

    Args:
        values: Distinct values, ascending.
        counts: Number of rows with each value.
        rows: Number of rows of the split, including nulls.
        quantiles: Number of quantiles, at least 2.

    Returns:
        Figures by name; those of values are None if all are null.
    """
    x, c = np.asarray(values, np.float64), np.asarray(counts, np.int64)
    samples = int(c.sum())
    out: dict[str, Any] = {"rows": rows, "nulls": rows - samples}
    if samples == 0:
        return out | dict.fromkeys(("min", "max", "mean", "std", "log_mean", "log_std", "quantiles"))
    mean, std = _mean_std(x, c)
    # The logarithm of the C library is used, since the result of numpy's depends on the processor.
    log = np.copysign(np.fromiter(map(math.log1p, np.abs(x).tolist()), np.float64, len(x)), x)
    log_mean, log_std = _mean_std(log, c)
    low, high = float(x[0]), float(x[-1])
    out |= {"min": low, "max": high, "mean": mean, "std": std, "log_mean": log_mean, "log_std": log_std}
    return out | {"quantiles": _quantiles(x, c, quantiles)}


def task_stats(task: Task, values: Sequence[float], counts: Sequence[int]) -> dict[str, Any]:
    """Return the number and the mean (None without labels) of labels, and the number of positives of a binary task.

    Args:
        task: Task of the labels.
        values: Distinct labels of the rows in the sample space of the task.
        counts: Number of rows with each label.
    """
    samples = sum(counts)
    mean = math.fsum(count * x for x, count in zip(values, counts, strict=True)) / samples if samples else None
    out: dict[str, Any] = {"samples": samples, "mean": mean}
    if task.kind == "binary":
        out["positives"] = sum(count for x, count in zip(values, counts, strict=True) if x == 1)
    return out


def rate(part: int, whole: int) -> float | None:
    """Return `part / whole`, or None if `whole` is 0."""
    return part / whole if whole else None


def _mean_std(values: Numbers, counts: Integers) -> tuple[float, float]:
    samples = int(counts.sum())
    mean = math.fsum((counts * values).tolist()) / samples
    return mean, math.sqrt(math.fsum((counts * (values - mean) ** 2).tolist()) / samples)


def _quantiles(values: Numbers, counts: Integers, points: int) -> list[float]:
    """Return `points` quantiles at equal distances, from the least to the greatest value."""
    ends = np.cumsum(counts)  # values[i] has the ranks ends[i - 1] .. ends[i] - 1.
    last = int(ends[-1]) - 1
    ranks, rests = _ranks(last, points)
    low = values[np.searchsorted(ends, ranks, side="right")]
    high = values[np.searchsorted(ends, np.minimum(ranks + 1, last), side="right")]
    quantiles: list[float] = (low + (high - low) * rests).tolist()
    return quantiles


@lru_cache(maxsize=8)  # All columns without nulls have the same number of samples.
def _ranks(last: int, points: int) -> tuple[Integers, Numbers]:
    """Return the rank below each quantile, and the distance from this rank to the quantile, from 0 to less than 1.

    Args:
        last: Rank of the greatest value; ranks count from 0.
        points: Number of quantiles.
    """
    ranks, rests = zip(*(divmod(last * i, points - 1) for i in range(points)), strict=True)
    return np.array(ranks), np.array(rests) / (points - 1)


EXACT_ROWS = 2**20  # Values are not rounded if no split has more rows.
MAX_BITS, MIN_BITS = 16, 8  # Most and fewest significant bits to which values are rounded.
MAX_VALUES = 2**17  # About the most distinct values that a column of many rows has after rounding.


@dataclass(frozen=True)
class ColumnCounts:
    """Distinct values of a column, in ascending order, and the number of rows with each; nulls are left out."""

    values: Numbers
    counts: Integers


def value_counts(
    parts: Parts, columns: Sequence[str], rows: int, *, exact: bool
) -> Iterator[tuple[str, dict[Split, ColumnCounts], int | None]]:
    """Count the values of columns in every split.

    Args:
        parts: Parquet files of the dataset.
        columns: Names of the columns.
        rows: Number of rows of all splits together.
        exact: True to count the values without rounding.

    Yields:
        Name of a column, its counts by split, and the number of significant bits to which its values are rounded; None
        if they are not rounded. The number is `MAX_BITS`, or less if more than `MAX_VALUES` values would remain. Each
        bit less about halves their number.
    """
    if exact and rows <= MAX_CELLS:
        for name, values in parts.fetch(columns, rows):
            yield name, {split: _count_values(each) for split, each in values.items()}, None
    else:
        for name in columns:
            yield name, *_value_counts(parts.engine, parts.rows([name]), name, exact=exact)


def _count_values(values: pa.ChunkedArray) -> ColumnCounts:
    """Count the values of one split in this process."""
    x = values.drop_null().to_numpy().astype(np.float64) + 0.0  # Adding 0.0 turns -0.0 into 0.0.
    return ColumnCounts(*np.unique(x, return_counts=True))


def _value_counts(
    engine: Engine, parts: Mapping[Split, ir.Table], column: str, *, exact: bool
) -> tuple[dict[Split, ColumnCounts], int | None]:
    """Let the engine count the values of a column; return the counts by split, and the bits to which it rounds."""
    rows = union_splits(parts)
    x = rows[column].cast("float64")
    if exact:
        return _fetch_counts(engine, _count_by_value(rows, x), parts), None
    counted = _count_by_value(rows, round_to_bits(x, MAX_BITS))
    stored = engine.materialize("values", counted)
    (size,) = engine.fetch(stored.aggregate(values=stored["value"].nunique())).to_pylist()
    bits = MAX_BITS
    if size["values"] > MAX_VALUES:
        bits = max(MIN_BITS, MAX_BITS - math.ceil(math.log2(size["values"] / MAX_VALUES)))
        coarse = stored.select(SPLIT, "count", value=round_to_bits(stored["value"], bits))
        stored = coarse.group_by([SPLIT, "value"]).aggregate(count=coarse["count"].sum().cast("int64"))
    return _fetch_counts(engine, stored, parts), bits


def round_to_bits(x: ir.FloatingValue, bits: int) -> ir.FloatingValue:
    """Return float32 numbers as doubles that are rounded to `bits` significant bits."""
    c = x * (2.0 ** (53 - bits) + 1.0)
    return c - (c - x)


def _count_by_value(rows: ir.Table, value: ir.FloatingValue) -> ir.Table:
    values = rows.select(SPLIT, value=value)
    return values.group_by([SPLIT, "value"]).aggregate(count=values.count().cast("int64"))


def _fetch_counts(engine: Engine, counted: ir.Table, parts: Mapping[Split, ir.Table]) -> dict[Split, ColumnCounts]:
    return {split: _counts_of_table(table) for split, table in split_result(engine.fetch(counted), parts).items()}


def _counts_of_table(table: pa.Table) -> ColumnCounts:
    valid = table.filter(pc.is_valid(table["value"]))
    x = valid["value"].to_numpy() + 0.0  # Adding 0.0 turns -0.0 into 0.0.
    return _sum_counts(x, valid["count"].to_numpy())


def merge_counts(*splits: ColumnCounts) -> ColumnCounts:
    """Return the counts of several splits together."""
    return _sum_counts(*(np.concatenate(each) for each in zip(*((p.values, p.counts) for p in splits), strict=True)))


def _sum_counts(x: Numbers, counts_of_x: Integers) -> ColumnCounts:
    """Return the distinct values of `x`, each with the sum of its counts."""
    values, place = np.unique(x, return_inverse=True)
    counts = np.zeros(len(values), np.int64)
    np.add.at(counts, place, counts_of_x)
    return ColumnCounts(values, counts)


def describe(column_counts: ColumnCounts, rows: int, value_range: Range, bits: int | None) -> dict[str, Any]:
    """Return the entry `columns.<name>.<split>` of `stats.json` for a dense column.

    Args:
        column_counts: Counts of the values of the split, which may be rounded.
        rows: Number of rows of the split, including nulls.
        value_range: Exact range of the values, to which rounded values are clipped: `min`, `max`, and the first and the
            last quantile.
        bits: Significant bits to which the values are rounded; None if they are exact.
    """
    low, high = value_range.low, value_range.high
    values = column_counts.values
    if low is not None and high is not None:
        values = np.clip(values, low, high)
    out = dense_stats(values, column_counts.counts, rows) | {"bits": bits}
    if low is not None:
        out |= {"min": low, "max": high, "quantiles": [low, *out["quantiles"][1:-1], high]}
    return out
