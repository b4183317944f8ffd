"""Lists of candidates (the impressions of a request or a user), ordered under many fusions at once.

A fusion computes one score for each row from the predictions of several tasks. The rows of a list are sorted by
descending score, as 64-bit keys:

    key = 32 bits of -score | 32 bits of the row's index

So scores are compared in fp32, which resolves differences down to 1e-7 of their size. Lists of equal length are next to
each other in memory, so that one sort along the last axis of an array orders all of them.

Rows with equal scores have a random order that is the same for every fusion. They cannot keep the order of the log,
which may be the order in which the rows were shown: a fusion with many ties would then profit from the old ranking.

Shape suffixes: N rows of all lists (of the log in `from_groups`), L lists, W settings (choices of the exponents that a
fusion raises predictions to).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ple_rec.errors import UserError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
# Largest number of scores that are ordered at a time, so that they fit in the processor's cache.
_CHUNK = 1 << 18
_ROW_BITS = 32
_TIE_SEED = 0


@dataclass(frozen=True)
class Order:
    """Order of the rows of lists under each setting: list by list, the highest score first.

    Args:
        row_WN: Index into `CandidateLists.row_N` of the row at each place, list by list.
        key_WN: Sort key of the row at each place; ascending within each list.
        start_L: Index of the first row of each list.
    """

    row_WN: Ints
    key_WN: Ints
    start_L: Ints

    def average_ties(self, values_WN: Floats) -> Floats:
        """Replace the values of tied rows of a list by their mean, in place, and return the array.

        Args:
            values_WN: Value of the row at each place, list by list.
        """
        # `tied` marks a row with the score of the row before it: their keys differ in the low 32 bits alone.
        tied_WN = np.zeros(values_WN.shape, bool)
        differ_WN = self.key_WN[:, 1:] ^ self.key_WN[:, :-1]
        np.less(differ_WN.view(np.uint64), 1 << _ROW_BITS, out=tied_WN[:, 1:])
        tied_WN[:, self.start_L] = False
        tied, values = tied_WN.reshape(-1), values_WN.reshape(-1)
        # The first row of a tie is not marked, but the row after it is.
        in_tie = tied.copy()
        in_tie[:-1] |= tied[1:]
        rows = np.flatnonzero(in_tie)
        if len(rows):
            begin = np.flatnonzero(~tied[rows])
            size = np.diff(begin, append=len(rows))
            values[rows] = np.repeat(np.add.reduceat(values[rows], begin) / size, size)
        return values_WN


@dataclass(frozen=True)
class CandidateLists:
    """Lists of candidates. Rows without a list are left out.

    Args:
        row_N: Index of each row in the log, list by list, shorter lists first. Within a list, the rows have the random
            order that tied rows keep.
        start_L: Index into `row_N` of the first row of each list.
        size_L: Number of rows of each list.
        place_N: Place of each row in its list, from 0.
    """

    row_N: Ints
    start_L: Ints
    size_L: Ints
    place_N: Ints

    @classmethod
    def from_groups(cls, group_N: Ints, source: str = "lists", min_rows: int = 2) -> CandidateLists:
        """Return the lists of rows with equal groups.

        Args:
            group_N: Group of every row; a row with a group below 0 is in no list.
            source: Split and column of the groups, for messages.
            min_rows: Smallest number of rows of a list; shorter lists are left out. The order of one row says nothing.

        Raises:
            UserError: No list has enough rows.
        """
        _, number_N, size_L = np.unique(group_N, return_inverse=True, return_counts=True)
        size_N = size_L[number_N]
        tie_N = np.random.default_rng(_TIE_SEED).permutation(len(group_N))
        row_N = np.lexsort((tie_N, group_N, size_N))
        row_N = row_N[(group_N[row_N] >= 0) & (size_N[row_N] >= min_rows)]
        if not len(row_N):
            raise UserError(
                source,
                f"no list has {min_rows} rows or more",
                "a ranking needs lists of several candidates",
                "take a split, or name by --by a column, in which users or requests have several rows",
            )
        start_L = np.flatnonzero(np.diff(group_N[row_N], prepend=-1))
        size_L = np.diff(start_L, append=len(row_N))
        return cls(row_N, start_L, size_L, np.arange(len(row_N)) - np.repeat(start_L, size_L))

    def order_rows(self, scores_WN: NDArray[np.floating]) -> Order:
        """Return the order of the rows by descending score.

        Args:
            scores_WN: Score of each row under each setting, in the order of `row_N`.
        """
        settings = len(scores_WN)
        # Subtract from 0 instead of negating, so that the scores 0 and -0 both give 0, with the same bits.
        bits = np.subtract(0.0, scores_WN, dtype=np.float32, casting="same_kind").view(np.int32)
        # These integers compare as the floats do.
        bits ^= (bits >> 31) & np.int32(0x7FFFFFFF)
        keys = bits.astype(np.int64)
        keys <<= _ROW_BITS
        keys |= np.arange(len(self.row_N))
        for begin, end, size in self._ranges_by_length():
            # The reshaped slice is a view, so this sorts the keys themselves.
            keys[:, begin:end].reshape(settings, -1, size).sort(axis=-1)
        return Order(keys & ((1 << _ROW_BITS) - 1), keys, self.start_L)

    def chunks(self, settings: int) -> Iterator[slice]:
        """Yield consecutive slices of that many settings, so that the scores of each slice fit the cache."""
        size = max(1, _CHUNK // len(self.row_N))
        yield from (slice(i, min(i + size, settings)) for i in range(0, settings, size))

    def _ranges_by_length(self) -> list[tuple[int, int, int]]:
        """Return (begin, end, length) for each length that lists have: the rows of these lists are `begin:end`."""
        first = np.flatnonzero(np.diff(self.size_L, prepend=0))
        begins = [*self.start_L[first].tolist(), len(self.row_N)]
        return list(zip(begins[:-1], begins[1:], self.size_L[first].tolist(), strict=True))
