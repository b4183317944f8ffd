"""Statistics of vectors: missing ones by split, and the exact mean and standard deviation of each component.

A float32 number is an integer of 24 bits times a power of two. The integers are summed separately for each exponent,
and so are their squares, as a high and a low half. Every sum of a block of rows is an integer below 2^53, which float64
holds exactly, so the result depends neither on the order of the rows nor on the processor.

Shape suffixes: N rows, W components.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ple_rec.config.base import Split
from ple_rec.config.schema import VectorFeature

_MANTISSA_BITS = 24
_NUMBERS_AT_ONCE = 1 << 20  # Numbers that are added at a time, which limits the memory of intermediate arrays.
_LEAST_EXPONENT, _EXPONENTS = -148, 277  # `np.frexp` of a float32 gives exponents from -148 to 128.


class ExactSums:
    """Exact sums of vectors and of their squares, by component.

    Args:
        width: Number of components W.
    """

    def __init__(self, width: int) -> None:
        self.width, self.rows = width, 0
        # The unit of the sums is 2^-172, the smallest possible bit: least exponent -148, mantissa of 24 bits. That of
        # the sums of squares is 2^-344.
        self._sums, self._squares = [0] * width, [0] * width

    def add(self, values_NW: NDArray[np.float32]) -> None:
        """Add the rows of an array; all its numbers are finite."""
        step = max(1, _NUMBERS_AT_ONCE // self.width)
        for begin in range(0, len(values_NW), step):
            self._add_block(values_NW[begin : begin + step])

    def _add_block(self, values_NW: NDArray[np.float32]) -> None:
        self.rows += len(values_NW)
        fractions_NW, exponents_NW = np.frexp(values_NW.astype(np.float64))
        mantissas_NW = np.ldexp(fractions_NW, _MANTISSA_BITS)
        slots_NW = exponents_NW - _LEAST_EXPONENT + _EXPONENTS * np.arange(self.width)
        squares_NW = mantissas_NW * mantissas_NW
        high_NW = np.floor(np.ldexp(squares_NW, -_MANTISSA_BITS))
        low_NW = squares_NW - np.ldexp(high_NW, _MANTISSA_BITS)
        sums, high, low = (self._sum_by_slot(slots_NW, each) for each in (mantissas_NW, high_NW, low_NW))
        for slot in np.flatnonzero(sums | high | low).tolist():
            component, shift = divmod(slot, _EXPONENTS)
            self._sums[component] += int(sums[slot]) << shift
            square = (int(high[slot]) << _MANTISSA_BITS) + int(low[slot])
            self._squares[component] += square << (2 * shift)

    def _sum_by_slot(self, slots_NW: NDArray[Any], integers_NW: NDArray[np.float64]) -> NDArray[np.int64]:
        size = self.width * _EXPONENTS
        return np.bincount(slots_NW.ravel(), integers_NW.ravel(), size).astype(np.int64)

    def mean_std(self) -> tuple[list[float], list[float]]:
        """Return the mean and the standard deviation of each component; there is at least one row."""
        unit = Fraction(1, 1 << (_MANTISSA_BITS - _LEAST_EXPONENT))
        means = [Fraction(total, self.rows) * unit for total in self._sums]
        variances = [
            Fraction(total, self.rows) * unit**2 - mean**2 for total, mean in zip(self._squares, means, strict=True)
        ]
        return [float(mean) for mean in means], [math.sqrt(variance) for variance in variances]


def describe(
    feature: VectorFeature, files: Mapping[Split, Sequence[Path]], frozen_table: Path | None
) -> dict[Split, dict[str, Any]]:
    """Return the entry `columns.<name>` of `stats.json` for a vector feature.

    Args:
        feature: Vector feature.
        files: Parts by split.
        frozen_table: File of the frozen table; None if the parts have the vectors. `mean` and `std` are computed over
            the rows of this table; without it, over the vectors of train.
    """
    out: dict[Split, dict[str, Any]] = {}
    for split, parts in files.items():
        rows = missing = 0
        for column in _columns(parts, feature.name):
            rows += len(column)
            missing += column.null_count if frozen_table is None else pc.sum(pc.equal(column, 0)).as_py() or 0
        out[split] = {"rows": rows, "missing": missing}
    if feature.normaliser == "standard":
        vectors = _columns(files["train"], feature.name) if frozen_table is None else _columns([frozen_table], "vector")
        sums = ExactSums(feature.width)
        for column in vectors:
            sums.add(column.flatten().to_numpy().reshape(-1, feature.width))
        mean, std = sums.mean_std() if sums.rows else (None, None)
        out["train"] |= {"mean": mean, "std": std}
    return out


def _columns(files: Sequence[Path], name: str) -> Iterator[pa.Array]:
    """Yield a column of Parquet files, one row group at a time."""
    for path in files:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, [name], use_threads=False)[name].combine_chunks()
