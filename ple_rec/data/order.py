"""Order in which training reads the samples of a split: it depends on seed and epoch, but not on the number of ranks.

The row groups of the split are permuted and form one sequence of T rows. The sequence is cut into V virtual shards;
shard v has the rows [v T / V, (v + 1) T / V). Each of the W ranks reads V / W shards. Within each row group, the rows
are permuted, too, by rows or by requests (runs of rows that belong together, see `requests.py`). A global batch of G
samples takes G / V rows from every shard, so it has the same samples at every world size W that divides V.

Shape suffixes: N rows of a row group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from ple_rec.errors import UserError


@dataclass(frozen=True)
class Piece:
    """Range of rows of a row group: positions start to stop - 1 in the permuted order of its rows."""

    row_group: int
    start: int
    stop: int


def row_group_order(count: int, seed: int, epoch: int, *, shuffle: bool) -> NDArray[np.int64]:
    """Return the indices of the row groups in reading order: permuted, or in file order if `shuffle` is false."""
    if not shuffle:
        return np.arange(count)
    return np.random.default_rng([seed, epoch]).permutation(count)


def row_order(rows: int, row_group: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the permutation of the rows of a row group."""
    # The sequence [seed, epoch, 0] would give the random numbers of `row_group_order`.
    return np.random.default_rng([seed, epoch, row_group + 1]).permutation(rows)


def request_order(starts_N: NDArray[np.bool_], row_group: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return a permutation of the rows of a row group by requests: the rows of a request stay together, in file order.

    Args:
        starts_N: Flag of each row, True if it begins a request.
        row_group: Index of the row group in the split.
        seed: Seed of the order of samples.
        epoch: Number of the epoch, from 0.
    """
    begins = np.flatnonzero(starts_N)
    order = row_order(len(begins), row_group, seed, epoch)
    begins, lengths = begins[order], np.diff(np.append(begins, len(starts_N)))[order]
    return np.arange(len(starts_N)) + np.repeat(begins - (np.cumsum(lengths) - lengths), lengths)


def shard_pieces(
    rows: Sequence[int] | NDArray[np.int64], order: NDArray[np.int64], shards: int, shard: int
) -> list[Piece]:
    """Return the pieces of which a virtual shard consists, in reading order.

    Args:
        rows: Number of rows of every row group, all above 0.
        order: Indices of the row groups in reading order.
        shards: Number of virtual shards V.
        shard: Index of the virtual shard, 0 to V - 1.
    """
    ends = np.cumsum(np.asarray(rows)[order])
    total = int(ends[-1])
    first, last = shard * total // shards, (shard + 1) * total // shards
    # A dataset may have very many row groups, so the loop visits only those of this shard.
    i, pieces = int(np.searchsorted(ends, first, side="right")), []
    while first < last:
        row_group, stop = int(order[i]), min(last, int(ends[i]))
        begin = int(ends[i]) - int(rows[row_group])  # Position of the row group's first row in the sequence.
        pieces.append(Piece(row_group, first - begin, stop - begin))
        first, i = stop, i + 1
    return pieces


def skip_rows(pieces: Sequence[Piece], rows: int) -> list[Piece]:
    """Return the pieces without their first `rows` rows."""
    remaining = []
    for piece in pieces:
        skipped = min(rows, piece.stop - piece.start)
        rows -= skipped
        if piece.start + skipped < piece.stop:
            remaining.append(Piece(piece.row_group, piece.start + skipped, piece.stop))
    return remaining


def cut_pieces(pieces: Sequence[Piece], max_rows: int, count_before: int = 0) -> list[Piece]:
    """Return the same rows in pieces of at most `max_rows` rows, cut at multiples of `max_rows` of a running count.

    Args:
        pieces: Pieces of a shard, in reading order.
        max_rows: Maximum number of rows of a piece.
        count_before: Start of the running count of rows; it shifts the cuts.
    """
    short_pieces, count = [], count_before
    for piece in pieces:
        start = piece.start
        while start < piece.stop:
            stop = min(piece.stop, start + max_rows - count % max_rows)
            short_pieces.append(Piece(piece.row_group, start, stop))
            count += stop - start
            start = stop
    return short_pieces


def reading_order(pieces: Sequence[Sequence[Piece]], rows_per_step: int) -> list[Piece]:
    """Return the pieces of all shards, in the order in which the steps of training reach their first rows.

    Args:
        pieces: Pieces of each shard, in reading order.
        rows_per_step: Number of rows that each step takes from each shard, one shard after the other.
    """
    first_steps: list[tuple[int, int, Piece]] = []
    for shard, sequence in enumerate(pieces):
        rows = 0
        for piece in sequence:
            first_steps.append((rows // rows_per_step, shard, piece))
            rows += piece.stop - piece.start
    return [piece for _, _, piece in sorted(first_steps, key=itemgetter(0, 1))]


def rows_per_shard(batch_size: int, virtual_shards: int, world_size: int) -> int:
    """Return G / V, the number of rows that a global batch takes from each virtual shard.

    Args:
        batch_size: Size of the global batch G.
        virtual_shards: Number of virtual shards V.
        world_size: Number of ranks W.

    Raises:
        UserError: W does not divide V, or V does not divide G.
    """
    if virtual_shards % world_size:
        raise UserError(
            "data.virtual_shards",
            f"got {virtual_shards} with {world_size} ranks",
            "it must be a multiple of the number of ranks, so that all ranks read equally many shards",
            f"set {_suggest_shards(batch_size, virtual_shards, world_size)}, or use another number of ranks",
        )
    if batch_size % virtual_shards:
        fitting = max(virtual_shards, batch_size - batch_size % virtual_shards)
        raise UserError(
            "train.batch_size",
            f"got {batch_size} samples over all ranks with data.virtual_shards = {virtual_shards}",
            "it must be a multiple of the virtual shards, since a batch takes equally many samples from each of them",
            f"use a global batch of {fitting}, or another data.virtual_shards",
        )
    return batch_size // virtual_shards


def _suggest_shards(batch_size: int, virtual_shards: int, world_size: int) -> str:
    """Return the nearest settings that are valid for this number of ranks, as text.

    If possible, only the number of virtual shards changes; else the batch size changes, too.
    """
    candidates = [v for v in range(world_size, batch_size + 1, world_size) if batch_size % v == 0]
    if candidates:
        return f"data.virtual_shards = {min(candidates, key=lambda v: (abs(v - virtual_shards), -v))}"
    shards = virtual_shards + world_size - virtual_shards % world_size
    return f"data.virtual_shards = {shards} and a global batch of {max(shards, batch_size - batch_size % shards)}"


def steps_per_epoch(total_rows: int, virtual_shards: int, rows_per_step: int) -> int:
    """Return the number of steps until the longest virtual shard is read."""
    longest = -(-total_rows // virtual_shards)
    return -(-longest // rows_per_step)
