"""Rows in lists of candidates (the impressions of a request or a user), ordered under many fusions at once.

The rows of a list are sorted by descending score, ties by their place in the log, as 64-bit keys:

    key = 32 bits of -score | place in the list

so a log score counts in fp32 (differences of 1e-7 of its size). Lists of one length stand together, and one sort along
the last axis orders all of them.

Shape suffixes: N rows, L lists, W settings of the exponents.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ple_rec.errors import UserError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
_CHUNK = 1 << 18  # scores that are ordered at a time: they stay in the cache


@dataclass(frozen=True)
class Lists:
    """Which rows stand in one list; rows without a list are left out.

    Args:
        row_N: The rows, list by list, shorter lists first, in each in their order.
        start_L: Where each list begins among these.
        size_L: Its rows.
        place_N: Of these rows, the place in the list, from 0.
    """

    row_N: Ints
    start_L: Ints
    size_L: Ints
    place_N: Ints

    @classmethod
    def of(cls, group_N: Ints, at_least: int = 2) -> Lists:
        """Lists of rows with the same group.

        Args:
            group_N: Of every row; below 0: in none.
            at_least: Rows of a list; in a shorter one there is nothing to order.

        Raises:
            UserError: no list is left.
        """
        _, number_N, size_L = np.unique(group_N, return_inverse=True, return_counts=True)
        size_N = size_L[number_N]
        row_N = np.lexsort((np.arange(len(group_N)), group_N, size_N))
        row_N = row_N[(group_N[row_N] >= 0) & (size_N[row_N] >= at_least)]
        if not len(row_N):
            raise UserError(
                "group",
                f"no group has {at_least} rows or more",
                "an order needs lists of candidates",
                "take a split, or a group column, in which users or requests come several times",
            )
        start_L = np.flatnonzero(np.diff(group_N[row_N], prepend=-1))
        size_L = np.diff(start_L, append=len(row_N))
        return cls(row_N, start_L, size_L, np.arange(len(row_N)) - np.repeat(start_L, size_L))

    def ordered(self, scores_WN: NDArray[np.floating]) -> Ints:
        """Indices into `row_N`, list by list and best first, (W, N).

        Args:
            scores_WN: In the order of `row_N`.
        """
        settings = len(scores_WN)
        bits = np.negative(scores_WN, dtype=np.float32, casting="same_kind").view(np.int32)
        bits ^= (bits >> 31) & np.int32(0x7FFFFFFF)  # integers that compare as the floats do
        keys = bits.astype(np.int64)
        keys <<= self._place_bits
        keys |= self.place_N
        for begin, end, size in self._lengths():
            keys[:, begin:end].reshape(settings, -1, size).sort(axis=-1)  # a view: it is the keys that are sorted
        keys &= (1 << self._place_bits) - 1
        keys += np.repeat(self.start_L, self.size_L)
        return np.asarray(keys)

    def chunks(self, settings: int) -> Iterator[slice]:
        """Settings, some at a time."""
        size = max(1, _CHUNK // len(self.row_N))
        yield from (slice(i, min(i + size, settings)) for i in range(0, settings, size))

    def _lengths(self) -> list[tuple[int, int, int]]:
        """Begin and end, among the rows, of the lists of each length, and that length."""
        first = np.flatnonzero(np.diff(self.size_L, prepend=0))
        begins = [*self.start_L[first].tolist(), len(self.row_N)]
        return list(zip(begins[:-1], begins[1:], self.size_L[first].tolist(), strict=True))

    @property
    def _place_bits(self) -> int:
        return max(1, int(self.size_L.max() - 1).bit_length())
