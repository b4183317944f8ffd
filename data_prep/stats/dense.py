"""Dense columns: from rows to pairs of a value and its count, and from these to exactly rounded figures.

A split of many rows is not reduced to its exact values, which may be as many as its rows, but to values of fewer
significant bits, by Veltkamp's splitting in double precision:

    c = x (2^s + 1)        hi = c - (c - x)        s = 53 - bits

`hi` is x rounded to `bits` significant bits, so |hi - x| <= 2^-bits |x|; rounded to 16 and then to fewer, it is off by
2^-16 |x| more at most. It takes IEEE multiplications and subtractions
alone, hence the same bits on every engine; x is a float32, so that c, at most 2^128 2^45, cannot overflow.
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


EXACT_ROWS = 2**20  # up to so many rows in every split, values are exact
MOST_BITS, LEAST_BITS = 16, 8
MOST_VALUES = 2**17  # that a column should be reduced to


@dataclass(frozen=True)
class Pairs:
    """Distinct values, ascending, and how often each occurs; nulls are left out."""

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
        The name, the pairs, and the bits that the values are rounded to, in all splits alike; None where they are
        exact. They are `MOST_BITS`, or so many fewer that no more than some `MOST_VALUES` values remain: one bit fewer
        has about half as many.
    """
    if exact and rows <= CELLS:
        for name, values in parts.fetch(columns, rows):
            yield name, {split: _counted(each) for split, each in values.items()}, None
    else:
        for name in columns:
            yield name, *_value_pairs(parts.engine, parts.rows([name]), name, exact=exact)


def _counted(values: pa.ChunkedArray) -> Pairs:
    """Return the pairs of the values of one split."""
    x = values.drop_null().to_numpy().astype(np.float64) + 0.0  # -0.0 + 0.0 is 0.0
    return Pairs(*np.unique(x, return_counts=True))


def _value_pairs(
    engine: Engine, parts: Mapping[Split, ir.Table], column: str, *, exact: bool
) -> tuple[dict[Split, Pairs], int | None]:
    """Return the pairs of a column that the engine counts, and their bits."""
    rows = together(parts)
    x = rows[column].cast("float64")
    if exact:
        return _fetched(engine, _values(rows, x), parts), None
    counted = _values(rows, rounded(x, MOST_BITS))
    kept = engine.keep("values", counted)
    (found,) = engine.fetch(kept.aggregate(values=kept["value"].nunique())).to_pylist()
    bits = MOST_BITS
    if found["values"] > MOST_VALUES:
        bits = max(LEAST_BITS, MOST_BITS - math.ceil(math.log2(found["values"] / MOST_VALUES)))
        coarse = kept.select(SPLIT, "count", value=rounded(kept["value"], bits))
        kept = coarse.group_by([SPLIT, "value"]).aggregate(count=coarse["count"].sum().cast("int64"))
    return _fetched(engine, kept, parts), bits


def rounded(x: ir.FloatingValue, bits: int) -> ir.FloatingValue:
    """A float32, as a double, with so many significant bits."""
    c = x * (2.0 ** (53 - bits) + 1.0)
    return c - (c - x)


def _values(rows: ir.Table, value: ir.FloatingValue) -> ir.Table:
    values = rows.select(SPLIT, value=value)
    return values.group_by([SPLIT, "value"]).aggregate(count=values.count().cast("int64"))


def _fetched(engine: Engine, counted: ir.Table, parts: Mapping[Split, ir.Table]) -> dict[Split, Pairs]:
    return {split: _merged(table) for split, table in apart(engine.fetch(counted), parts).items()}


def _merged(found: pa.Table) -> Pairs:
    known = found.filter(pc.is_valid(found["value"]))
    x = known["value"].to_numpy() + 0.0  # -0.0 + 0.0 is 0.0
    return _summed(x, known["count"].to_numpy())


def together_of(*splits: Pairs) -> Pairs:
    """Return the pairs of several splits as those of one."""
    return _summed(*(np.concatenate(each) for each in zip(*((p.values, p.counts) for p in splits), strict=True)))


def _summed(x: Numbers, counts_of_x: Integers) -> Pairs:
    """Return distinct values with the sums of their counts."""
    values, place = np.unique(x, return_inverse=True)
    counts = np.zeros(len(values), np.int64)
    np.add.at(counts, place, counts_of_x)
    return Pairs(values, counts)


def describe(pairs: Pairs, rows: int, between: Range, bits: int | None) -> dict[str, Any]:
    """`columns.<name>.<split>` of a dense column; `min`, `max` and the first and last quantile are exact."""
    low, high = between.low, between.high
    values = pairs.values
    if low is not None and high is not None:
        values = np.clip(values, low, high)
    out = dense_stats(values, pairs.counts, rows) | {"bits": bits}
    if low is not None:
        out |= {"min": low, "max": high, "quantiles": [low, *out["quantiles"][1:-1], high]}
    return out
