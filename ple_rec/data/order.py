"""The order of samples: a function of (seed, epoch) alone, cut into V virtual shards of which a rank owns V / W.

The row groups of a split, permuted, stand in one line; virtual shard v owns the rows [v N / V, (v + 1) N / V) of it,
and each row group is permuted inside, by rows or by requests. A global batch of G samples takes G / V rows from every
shard, so it holds the same samples at every world size W that divides V.
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
    """Positions [start, stop) of a (permuted) row group."""

    row_group: int
    start: int
    stop: int


def row_group_order(count: int, seed: int, epoch: int, *, shuffle: bool) -> NDArray[np.int64]:
    """Row groups in reading order."""
    if not shuffle:
        return np.arange(count)
    return np.random.default_rng([seed, epoch]).permutation(count)


def row_order(rows: int, row_group: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The permutation inside a row group."""
    return np.random.default_rng([seed, epoch, row_group + 1]).permutation(rows)


def request_order(starts_N: NDArray[np.bool_], row_group: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The permutation of the requests inside a row group; the rows of each stay together, in their order.

    Args:
        starts_N: Of each row, whether a request begins there.
        row_group: Its number.
        seed: Of the order.
        epoch: Of the order.
    """
    begins = np.flatnonzero(starts_N)
    order = row_order(len(begins), row_group, seed, epoch)
    begins, lengths = begins[order], np.diff(np.append(begins, len(starts_N)))[order]
    return np.arange(len(starts_N)) + np.repeat(begins - (np.cumsum(lengths) - lengths), lengths)


def shard_pieces(
    rows: Sequence[int] | NDArray[np.int64], order: NDArray[np.int64], shards: int, shard: int
) -> list[Piece]:
    """The pieces of virtual shard `shard` of `shards`, in reading order.

    Args:
        rows: Rows of every row group, none of them empty.
        order: Row groups in reading order.
        shards: V.
        shard: 0 to V - 1.
    """
    ends = np.cumsum(np.asarray(rows)[order])
    total = int(ends[-1])
    first, last = shard * total // shards, (shard + 1) * total // shards
    # Of a dataset of very many row groups, only those of this shard are looked at one by one.
    i, pieces = int(np.searchsorted(ends, first, side="right")), []
    while first < last:
        row_group, stop = int(order[i]), min(last, int(ends[i]))
        begin = int(ends[i]) - int(rows[row_group])
        pieces.append(Piece(row_group, first - begin, stop - begin))
        first, i = stop, i + 1
    return pieces


def skip_rows(pieces: Sequence[Piece], rows: int) -> list[Piece]:
    """What is left of `pieces` after their first `rows` rows."""
    left = []
    for piece in pieces:
        skipped = min(rows, piece.stop - piece.start)
        rows -= skipped
        if piece.start + skipped < piece.stop:
            left.append(Piece(piece.row_group, piece.start + skipped, piece.stop))
    return left


def cut_pieces(pieces: Sequence[Piece], most_rows: int, count_before: int = 0) -> list[Piece]:
    """Return the same rows in pieces of at most `most_rows`, cut where the running count reaches a multiple of it.

    Args:
        pieces: Pieces of a shard, in reading order.
        most_rows: Most rows of a piece.
        count_before: Start of the running count; it shifts the cuts.
    """
    cut, count = [], count_before
    for piece in pieces:
        start = piece.start
        while start < piece.stop:
            stop = min(piece.stop, start + most_rows - count % most_rows)
            cut.append(Piece(piece.row_group, start, stop))
            count += stop - start
            start = stop
    return cut


def order_of_need(pieces: Sequence[Sequence[Piece]], rows_per_step: int) -> list[Piece]:
    """Return the pieces of all shards in the order in which steps come to them.

    Args:
        pieces: Pieces of each shard, in reading order.
        rows_per_step: Rows that each step takes of each shard, one shard after the other.
    """
    needed: list[tuple[int, int, Piece]] = []
    for shard, own in enumerate(pieces):
        rows = 0
        for piece in own:
            needed.append((rows // rows_per_step, shard, piece))
            rows += piece.stop - piece.start
    return [piece for _, _, piece in sorted(needed, key=itemgetter(0, 1))]


def rows_per_shard(batch_size: int, virtual_shards: int, world_size: int) -> int:
    """G / V: rows that each virtual shard gives to a global batch.

    Raises:
        UserError: W does not divide V, or V does not divide G.
    """
    if virtual_shards % world_size:
        raise UserError(
            "data.virtual_shards",
            f"got {virtual_shards} with {world_size} ranks",
            "the number of ranks divides it, so that every rank owns as many shards",
            f"set {_fitting(batch_size, virtual_shards, world_size)}, or use another number of ranks",
        )
    if batch_size % virtual_shards:
        fitting = max(virtual_shards, batch_size - batch_size % virtual_shards)
        raise UserError(
            "train.batch_size",
            f"got {batch_size} samples over all ranks with data.virtual_shards = {virtual_shards}",
            "every virtual shard gives as many samples to each batch, so the shards divide the batch size",
            f"use a global batch of {fitting}, or another data.virtual_shards",
        )
    return batch_size // virtual_shards


def _fitting(batch_size: int, virtual_shards: int, world_size: int) -> str:
    """What to set for so many ranks, near to what was asked for: the shards alone, where some divide the batch."""
    several = [v for v in range(world_size, batch_size + 1, world_size) if batch_size % v == 0]
    if several:
        return f"data.virtual_shards = {min(several, key=lambda v: (abs(v - virtual_shards), -v))}"
    shards = virtual_shards + world_size - virtual_shards % world_size
    return f"data.virtual_shards = {shards} and a global batch of {max(shards, batch_size - batch_size % shards)}"


def steps_per_epoch(total_rows: int, virtual_shards: int, rows_per_step: int) -> int:
    """Return the steps until the longest virtual shard is read."""
    longest = -(-total_rows // virtual_shards)
    return -(-longest // rows_per_step)
