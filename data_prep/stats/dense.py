"""Dense columns: from rows to pairs of a value and its count, and from these to figures.

A split of many rows is not reduced to its exact values, which may be as many as its rows, but to values of fewer
significant bits, by Veltkamp's splitting in double precision:

    c = x (2^s + 1)        hi = c - (c - x)        s = 53 - bits

`hi` is x rounded to `bits` significant bits, so |hi - x| <= 2^-bits |x|. It takes IEEE multiplications and subtractions
alone, hence the same bits on every engine; x is a float32, so that c, at most 2^128 2^45, cannot overflow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ibis.expr.types as ir
import pyarrow as pa

from data_prep.engines.base import Engine
from data_prep.stats.extents import Extent, Range
from data_prep.stats.moments import dense_stats
from data_prep.stats.together import SPLIT, apart, together
from ple_rec.config.base import Split

EXACT_ROWS = 2**20  # up to so many rows in every split, values are exact
MOST_BITS, LEAST_BITS = 16, 8
MOST_VALUES = 2**17  # that a column should be reduced to


@dataclass(frozen=True)
class Pairs:
    """Distinct values, ascending, and how often each occurs; nulls are left out."""

    values: Sequence[float]
    counts: Sequence[int]


def significant_bits(column: str, extents: Mapping[Split, Extent], exact_rows: int = EXACT_ROWS) -> int | None:
    """Bits that a column's values are rounded to, in all splits alike; None where they stay exact.

    As many as keep it to `MOST_VALUES` values, `MOST_BITS` at most: a power of two has 2^(bits - 1) values of a sign.
    """
    if all(extent.rows <= exact_rows for extent in extents.values()):
        return None
    ranges = [extent.dense[column] for extent in extents.values()]
    octaves = _octaves(ranges)
    signs = any((r.low or 0.0) < 0 for r in ranges) + any((r.high or 0.0) > 0 for r in ranges)
    bits = 1 + math.floor(math.log2(MOST_VALUES / max(1, octaves * signs)))
    return min(MOST_BITS, max(LEAST_BITS, bits))


def _octaves(ranges: Sequence[Range]) -> int:
    """Powers of two that the values lie between."""
    near = [r.nearest for r in ranges if r.nearest]
    far = [max(abs(end) for end in (r.low, r.high) if end is not None) for r in ranges if r.low is not None]
    return math.frexp(max(far))[1] - math.frexp(min(near))[1] + 1 if near else 1


def value_pairs(engine: Engine, parts: Mapping[Split, ir.Table], column: str, bits: int | None) -> dict[Split, Pairs]:
    """The values of a column, rounded to `bits` significant bits, and their counts, by split."""
    rows = together(parts)
    x = rows[column].cast("float64")
    if bits is not None:
        c = x * (2.0 ** (53 - bits) + 1.0)
        x = c - (c - x)
    values = rows.select(SPLIT, value=x).drop_null("value")
    found = engine.fetch(values.group_by([SPLIT, "value"]).aggregate(count=values.count().cast("int64")))
    return {split: _merged(table) for split, table in apart(found, parts).items()}


def _merged(found: pa.Table) -> Pairs:
    merged: dict[float, int] = {}
    for value, count in zip(found["value"].to_pylist(), found["count"].to_pylist(), strict=True):
        merged[value + 0.0] = merged.get(value + 0.0, 0) + count  # -0.0 + 0.0 is 0.0
    return Pairs(sorted(merged), [merged[value] for value in sorted(merged)])


def describe(pairs: Pairs, rows: int, between: Range, bits: int | None) -> dict[str, Any]:
    """`columns.<name>.<split>` of a dense column; `min`, `max` and the first and last quantile are exact."""
    low, high = between.low, between.high
    values = pairs.values
    if low is not None and high is not None:
        values = [min(max(value, low), high) for value in values]
    out = dense_stats(values, pairs.counts, rows) | {"bits": bits}
    if low is not None:
        out |= {"min": low, "max": high, "quantiles": [low, *out["quantiles"][1:-1], high]}
    return out
