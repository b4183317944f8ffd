"""Dense columns: counts of their values, and exactly rounded figures from these counts.

A split of many rows may have as many values as rows. So its values are rounded to fewer significant bits, by Veltkamp's
splitting in double precision:

    c = x (2^s + 1)        hi = c - (c - x)        s = 53 - bits

`hi` is x rounded to `bits` significant bits, so |hi - x| <= 2^-bits |x|. If x is rounded to 16 bits first, the error
grows by at most 2^-16 |x|. The splitting uses IEEE multiplications and subtractions only, so it gives the same bits on
every engine. x is a float32, so that c, at most 2^128 2^45, cannot overflow.
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
from data_prep.stats.together import CELLS, SPLIT, Parts, apart, together
from ple_rec.config.base import Split
from ple_rec.config.schema import Task

Numbers: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]

QUANTILES = 1001  # The quantiles 0, 1/1000, ..., 1.


def dense_stats(
    values: Sequence[float] | Numbers, counts: Sequence[int] | Integers, rows: int, quantiles: int = QUANTILES
) -> dict[str, Any]:
    """Return the statistics of a column of numbers.

        mean = sum c x / n          std = sqrt(sum c (x - mean)^2 / n)          n = sum c
        log_mean, log_std: the same for sign(x) log(1 + |x|)
        quantiles[i]: linear between the two order statistics beside rank (n - 1) i / (quantiles - 1)

    Args:
        values: Distinct values, ascending.
        counts: Number of rows with each value.
        rows: Number of rows of the split, including nulls.
        quantiles: Number of quantiles, at least 2.
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
    """Return the number and the mean of the labels inside the sample space, and the positives of a binary task."""
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
    ends = np.cumsum(counts)  # values[i] has the ranks ends[i - 1] .. ends[i] - 1.
    last = int(ends[-1]) - 1
    ranks, rests = _ranks(last, points)
    low = values[np.searchsorted(ends, ranks, side="right")]
    high = values[np.searchsorted(ends, np.minimum(ranks + 1, last), side="right")]
    quantiles: list[float] = (low + (high - low) * rests).tolist()
    return quantiles


@lru_cache(maxsize=8)  # All columns without nulls have the same number of samples.
def _ranks(last: int, points: int) -> tuple[Integers, Numbers]:
    """Return the rank below each quantile, and how far the quantile lies from it towards the next."""
    ranks, rests = zip(*(divmod(last * i, points - 1) for i in range(points)), strict=True)
    return np.array(ranks), np.array(rests) / (points - 1)


EXACT_ROWS = 2**20  # Number of rows in every split up to which values are exact.
MOST_BITS, LEAST_BITS = 16, 8
MOST_VALUES = 2**17  # Number of distinct values to which a column is reduced.


@dataclass(frozen=True)
class Pairs:
    """Distinct values, ascending, and their counts, without nulls."""

    values: Numbers
    counts: Integers


def value_pairs(
    parts: Parts, columns: Sequence[str], rows: int, *, exact: bool
) -> Iterator[tuple[str, dict[Split, Pairs], int | None]]:
    """Yield the values of columns and their counts, by split.

    Args:
        parts: Parts of the dataset.
        columns: Names of the columns.
        rows: Rows of all splits together.
        exact: True if values are not rounded.

    Yields:
        Name, pairs by split, and the bits to which the values are rounded in all splits; None if they are exact. The
        bits are `MOST_BITS`, or fewer so that about `MOST_VALUES` values remain. Each bit less halves their number,
        about.
    """
    if exact and rows <= CELLS:
        for name, values in parts.fetch(columns, rows):
            yield name, {split: _count_values(each) for split, each in values.items()}, None
    else:
        for name in columns:
            yield name, *_value_pairs(parts.engine, parts.rows([name]), name, exact=exact)


def _count_values(values: pa.ChunkedArray) -> Pairs:
    """Return the pairs of the values of one split."""
    x = values.drop_null().to_numpy().astype(np.float64) + 0.0  # It makes 0.0 of -0.0.
    return Pairs(*np.unique(x, return_counts=True))


def _value_pairs(
    engine: Engine, parts: Mapping[Split, ir.Table], column: str, *, exact: bool
) -> tuple[dict[Split, Pairs], int | None]:
    """Let the engine count the values of a column, and return the pairs by split, and their bits."""
    rows = together(parts)
    x = rows[column].cast("float64")
    if exact:
        return _fetch_pairs(engine, _values(rows, x), parts), None
    counted = _values(rows, round_to_bits(x, MOST_BITS))
    stored = engine.keep("values", counted)
    (size,) = engine.fetch(stored.aggregate(values=stored["value"].nunique())).to_pylist()
    bits = MOST_BITS
    if size["values"] > MOST_VALUES:
        bits = max(LEAST_BITS, MOST_BITS - math.ceil(math.log2(size["values"] / MOST_VALUES)))
        coarse = stored.select(SPLIT, "count", value=round_to_bits(stored["value"], bits))
        stored = coarse.group_by([SPLIT, "value"]).aggregate(count=coarse["count"].sum().cast("int64"))
    return _fetch_pairs(engine, stored, parts), bits


def round_to_bits(x: ir.FloatingValue, bits: int) -> ir.FloatingValue:
    """Return float32 numbers as doubles, rounded to so many significant bits."""
    c = x * (2.0 ** (53 - bits) + 1.0)
    return c - (c - x)


def _values(rows: ir.Table, value: ir.FloatingValue) -> ir.Table:
    values = rows.select(SPLIT, value=value)
    return values.group_by([SPLIT, "value"]).aggregate(count=values.count().cast("int64"))


def _fetch_pairs(engine: Engine, counted: ir.Table, parts: Mapping[Split, ir.Table]) -> dict[Split, Pairs]:
    return {split: _pairs_of(table) for split, table in apart(engine.fetch(counted), parts).items()}


def _pairs_of(table: pa.Table) -> Pairs:
    valid = table.filter(pc.is_valid(table["value"]))
    x = valid["value"].to_numpy() + 0.0  # It makes 0.0 of -0.0.
    return _sum_counts(x, valid["count"].to_numpy())


def together_of(*splits: Pairs) -> Pairs:
    """Return the pairs of several splits together."""
    return _sum_counts(*(np.concatenate(each) for each in zip(*((p.values, p.counts) for p in splits), strict=True)))


def _sum_counts(x: Numbers, counts_of_x: Integers) -> Pairs:
    """Return distinct values with the sums of their counts."""
    values, place = np.unique(x, return_inverse=True)
    counts = np.zeros(len(values), np.int64)
    np.add.at(counts, place, counts_of_x)
    return Pairs(values, counts)


def describe(pairs: Pairs, rows: int, between: Range, bits: int | None) -> dict[str, Any]:
    """Return `columns.<name>.<split>` of a dense column; `min`, `max`, first and last quantile are exact."""
    low, high = between.low, between.high
    values = pairs.values
    if low is not None and high is not None:
        values = np.clip(values, low, high)
    out = dense_stats(values, pairs.counts, rows) | {"bits": bits}
    if low is not None:
        out |= {"min": low, "max": high, "quantiles": [low, *out["quantiles"][1:-1], high]}
    return out
