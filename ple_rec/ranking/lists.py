"""Rows in lists of candidates (the impressions of a request or a user), ordered under many fusions at once.

The rows of a list are sorted by descending score, as 64-bit keys:

    key = 32 bits of -score | 32 bits of the row

so a log score counts in fp32 (differences of 1e-7 of its size). Lists of one length stand together, and one sort along
the last axis orders all of them.

Rows of one score stand in an order that was drawn once, the same for every fusion. That of the log may be the order in
which they were shown, the best first: a fusion that cannot tell rows apart would be paid for what the old ranking knew.

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
_ROW_BITS = 32
_DRAWN = 0  # seed of the order of ties


@dataclass(frozen=True)
class Order:
    """Rows of lists, ordered under each setting: list by list, best first.

    Args:
        row_WN: Indices into `Lists.row_N`.
        key_WN: Ascending in each list.
        start_L: Where each list begins.
    """

    row_WN: Ints
    key_WN: Ints
    start_L: Ints

    def averaged(self, values_WN: Floats) -> Floats:
        """Values in this order, changed in place: those of rows of one list and one score give way to their mean."""
        tied_WN = np.zeros(values_WN.shape, bool)  # with the row before
        differ_WN = self.key_WN[:, 1:] ^ self.key_WN[:, :-1]
        np.less(differ_WN.view(np.uint64), 1 << _ROW_BITS, out=tied_WN[:, 1:])
        tied_WN[:, self.start_L] = False
        tied, values = tied_WN.reshape(-1), values_WN.reshape(-1)
        shared = tied.copy()  # their score, with the row before or the one after
        shared[:-1] |= tied[1:]
        at = np.flatnonzero(shared)
        if len(at):
            begin = np.flatnonzero(~tied[at])
            size = np.diff(begin, append=len(at))
            values[at] = np.repeat(np.add.reduceat(values[at], begin) / size, size)
        return values_WN


@dataclass(frozen=True)
class Lists:
    """Which rows stand in one list; rows without a list are left out.

    Args:
        row_N: The rows, list by list, shorter lists first, in each in the order that ties are broken by.
        start_L: Where each list begins among these.
        size_L: Its rows.
        place_N: Of these rows, the place in the list, from 0.
    """

    row_N: Ints
    start_L: Ints
    size_L: Ints
    place_N: Ints

    @classmethod
    def of(cls, group_N: Ints, place: str = "lists", at_least: int = 2) -> Lists:
        """Lists of rows with the same group.

        Args:
            group_N: Of every row; below 0: in none.
            place: Split and column that they are of, for messages.
            at_least: Rows of a list; in a shorter one there is nothing to order.

        Raises:
            UserError: no list is left.
        """
        _, number_N, size_L = np.unique(group_N, return_inverse=True, return_counts=True)
        size_N = size_L[number_N]
        drawn_N = np.random.default_rng(_DRAWN).permutation(len(group_N))
        row_N = np.lexsort((drawn_N, group_N, size_N))
        row_N = row_N[(group_N[row_N] >= 0) & (size_N[row_N] >= at_least)]
        if not len(row_N):
            raise UserError(
                place,
                f"no list has {at_least} rows or more",
                "an order needs lists of candidates",
                "take a split, or by --by a column, in which users or requests come several times",
            )
        start_L = np.flatnonzero(np.diff(group_N[row_N], prepend=-1))
        size_L = np.diff(start_L, append=len(row_N))
        return cls(row_N, start_L, size_L, np.arange(len(row_N)) - np.repeat(start_L, size_L))

    def ordered(self, scores_WN: NDArray[np.floating]) -> Order:
        """The rows, by their scores.

        Args:
            scores_WN: In the order of `row_N`.
        """
        settings = len(scores_WN)
        bits = np.subtract(0.0, scores_WN, dtype=np.float32, casting="same_kind").view(np.int32)  # -0 is 0
        bits ^= (bits >> 31) & np.int32(0x7FFFFFFF)  # integers that compare as the floats do
        keys = bits.astype(np.int64)
        keys <<= _ROW_BITS
        keys |= np.arange(len(self.row_N))
        for begin, end, size in self._lengths():
            keys[:, begin:end].reshape(settings, -1, size).sort(axis=-1)  # a view: it is the keys that are sorted
        return Order(keys & ((1 << _ROW_BITS) - 1), keys, self.start_L)

    def chunks(self, settings: int) -> Iterator[slice]:
        """Settings, some at a time."""
        size = max(1, _CHUNK // len(self.row_N))
        yield from (slice(i, min(i + size, settings)) for i in range(0, settings, size))

    def _lengths(self) -> list[tuple[int, int, int]]:
        """Begin and end, among the rows, of the lists of each length, and that length."""
        first = np.flatnonzero(np.diff(self.size_L, prepend=0))
        begins = [*self.start_L[first].tolist(), len(self.row_N)]
        return list(zip(begins[:-1], begins[1:], self.size_L[first].tolist(), strict=True))
