"""Order of samples: a function of (seed, epoch) alone, divided into V virtual shards, of which each rank owns V / W.

The row groups of a split are permuted and put in one sequence of N rows. Virtual shard v owns its rows
[v N / V, (v + 1) N / V). Each row group is also permuted inside, by rows or by requests. A global batch of G samples
takes G / V rows from every shard, so it has the same samples at every world size W that divides V.
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
    """Positions [start, stop) in the order of a row group."""

    row_group: int
    start: int
    stop: int


def row_group_order(count: int, seed: int, epoch: int, *, shuffle: bool) -> NDArray[np.int64]:
    """Return the indices of the row groups in reading order."""
    if not shuffle:
        return np.arange(count)
    return np.random.default_rng([seed, epoch]).permutation(count)


def row_order(rows: int, row_group: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the permutation of the rows of a row group."""
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
    """Return the pieces of a virtual shard, in reading order.

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
        begin = int(ends[i]) - int(rows[row_group])
        pieces.append(Piece(row_group, first - begin, stop - begin))
        first, i = stop, i + 1
    return pieces


def skip_rows(pieces: Sequence[Piece], rows: int) -> list[Piece]:
    """Return the pieces without their first `rows` rows."""
    left = []
    for piece in pieces:
        skipped = min(rows, piece.stop - piece.start)
        rows -= skipped
        if piece.start + skipped < piece.stop:
            left.append(Piece(piece.row_group, piece.start + skipped, piece.stop))
    return left


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


def order_of_need(pieces: Sequence[Sequence[Piece]], rows_per_step: int) -> list[Piece]:
    """Return the pieces of all shards in the order in which the steps need them.

    Args:
        pieces: Pieces of each shard, in reading order.
        rows_per_step: Rows that each step takes from each shard, one shard after the other.
    """
    needed: list[tuple[int, int, Piece]] = []
    for shard, own in enumerate(pieces):
        rows = 0
        for piece in own:
            needed.append((rows // rows_per_step, shard, piece))
            rows += piece.stop - piece.start
    return [piece for _, _, piece in sorted(needed, key=itemgetter(0, 1))]


def rows_per_shard(batch_size: int, virtual_shards: int, world_size: int) -> int:
    """Return G / V, the number of rows that each virtual shard gives to a global batch.

    Raises:
        UserError: W does not divide V, or V does not divide G.
    """
    if virtual_shards % world_size:
        raise UserError(
            "data.virtual_shards",
            f"got {virtual_shards} with {world_size} ranks",
            "the number of ranks divides it, so that every rank owns equally many shards",
            f"set {_suggest_shards(batch_size, virtual_shards, world_size)}, or use another number of ranks",
        )
    if batch_size % virtual_shards:
        fitting = max(virtual_shards, batch_size - batch_size % virtual_shards)
        raise UserError(
            "train.batch_size",
            f"got {batch_size} samples over all ranks with data.virtual_shards = {virtual_shards}",
            "every virtual shard gives equally many samples to each batch, so the shards divide the batch size",
            f"use a global batch of {fitting}, or another data.virtual_shards",
        )
    return batch_size // virtual_shards


def _suggest_shards(batch_size: int, virtual_shards: int, world_size: int) -> str:
    """Return the nearest settings that fit this number of ranks: of the shards alone, if possible, or of both sizes."""
    several = [v for v in range(world_size, batch_size + 1, world_size) if batch_size % v == 0]
    if several:
        return f"data.virtual_shards = {min(several, key=lambda v: (abs(v - virtual_shards), -v))}"
    shards = virtual_shards + world_size - virtual_shards % world_size
    return f"data.virtual_shards = {shards} and a global batch of {max(shards, batch_size - batch_size % shards)}"


def steps_per_epoch(total_rows: int, virtual_shards: int, rows_per_step: int) -> int:
    """Return the number of steps until the longest virtual shard is read."""
    longest = -(-total_rows // virtual_shards)
    return -(-longest // rows_per_step)
