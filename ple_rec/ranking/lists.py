"""Lists of candidates (the impressions of a request or a user), ordered under many fusions at once.

The rows of a list are sorted by descending score, as 64-bit keys:

    key = 32 bits of -score | 32 bits of the row

A log score thus counts in fp32, with differences down to 1e-7 of its size. Lists of equal length are next to each other
in memory, and one sort along the last axis orders all of them.

Rows with equal scores have a random order that is the same for every fusion. The order of the log will not do: it may
be that in which the rows were shown, so that a fusion with many ties would profit from the old ranking.

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
# So many scores are ordered at a time, so that they stay in the cache.
_CHUNK = 1 << 18
_ROW_BITS = 32
_TIE_SEED = 0


@dataclass(frozen=True)
class Order:
    """Order of the rows of lists under each setting: list by list, the highest score first.

    Args:
        row_WN: Indices into `CandidateLists.row_N`, in this order.
        key_WN: Sort keys, ascending in each list.
        start_L: Index of the first row of each list.
    """

    row_WN: Ints
    key_WN: Ints
    start_L: Ints

    def averaged(self, values_WN: Floats) -> Floats:
        """Replace the values of tied rows of a list by their mean, in place, and return the values.

        Args:
            values_WN: Values of the rows, in this order.
        """
        # A row is tied if its score is that of the row before.
        tied_WN = np.zeros(values_WN.shape, bool)
        differ_WN = self.key_WN[:, 1:] ^ self.key_WN[:, :-1]
        np.less(differ_WN.view(np.uint64), 1 << _ROW_BITS, out=tied_WN[:, 1:])
        tied_WN[:, self.start_L] = False
        tied, values = tied_WN.reshape(-1), values_WN.reshape(-1)
        # The first row of a tie shares its score with the row after it.
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
        row_N: Rows of the log list by list, shorter lists first; rows of a list are in the order of ties.
        start_L: Index into `row_N` of the first row of each list.
        size_L: Number of rows of each list.
        place_N: Place of each row in its list, from 0.
    """

    row_N: Ints
    start_L: Ints
    size_L: Ints
    place_N: Ints

    @classmethod
    def of(cls, group_N: Ints, place: str = "lists", at_least: int = 2) -> CandidateLists:
        """Return the lists of rows with equal groups.

        Args:
            group_N: Group of every row; a row with a group below 0 is in no list.
            place: Split and column of the groups, for messages.
            at_least: Smallest number of rows of a list, since a list of one row has nothing to order.

        Raises:
            UserError: No list has enough rows.
        """
        _, number_N, size_L = np.unique(group_N, return_inverse=True, return_counts=True)
        size_N = size_L[number_N]
        tie_N = np.random.default_rng(_TIE_SEED).permutation(len(group_N))
        row_N = np.lexsort((tie_N, group_N, size_N))
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
        """Return the order of the rows by descending score.

        Args:
            scores_WN: Score of each row under each setting, in the order of `row_N`.
        """
        settings = len(scores_WN)
        # The difference turns -0 into 0, so that both have the same bits.
        bits = np.subtract(0.0, scores_WN, dtype=np.float32, casting="same_kind").view(np.int32)
        # These integers compare as the floats do.
        bits ^= (bits >> 31) & np.int32(0x7FFFFFFF)
        keys = bits.astype(np.int64)
        keys <<= _ROW_BITS
        keys |= np.arange(len(self.row_N))
        for begin, end, size in self._lengths():
            # The reshaped slice is a view, so this sorts the keys themselves.
            keys[:, begin:end].reshape(settings, -1, size).sort(axis=-1)
        return Order(keys & ((1 << _ROW_BITS) - 1), keys, self.start_L)

    def chunks(self, settings: int) -> Iterator[slice]:
        """Yield slices of the settings, so that the scores of each slice fit the cache."""
        size = max(1, _CHUNK // len(self.row_N))
        yield from (slice(i, min(i + size, settings)) for i in range(0, settings, size))

    def _lengths(self) -> list[tuple[int, int, int]]:
        """Return (first row, end, length) for all lists of each length."""
        first = np.flatnonzero(np.diff(self.size_L, prepend=0))
        begins = [*self.start_L[first].tolist(), len(self.row_N)]
        return list(zip(begins[:-1], begins[1:], self.size_L[first].tolist(), strict=True))
