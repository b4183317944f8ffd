"""Loader of the batches of one rank, which can start at any step of an epoch.

The order of the samples is that of `order.py`: the rows of a split, permuted, are cut into virtual shards. Every batch
takes the same number of rows from each shard, and each rank reads some of the shards. A piece is a range of the rows of
one row group; each shard is a sequence of pieces.

A thread prepares batches ahead of training. If the dataset is in an object store, further threads read the next row
groups at the same time, since the store has a high latency but answers many requests at once.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing

import numpy as np

from ple_rec.config.base import Split
from ple_rec.data.ahead import map_ahead, read_ahead
from ple_rec.data.arrow import IntArray
from ple_rec.data.batch import Batch
from ple_rec.data.collate import RowSlice, collate
from ple_rec.data.columns import Columns, Selection
from ple_rec.data.dataset import DatasetDirectory, RowGroup, read_row_group
from ple_rec.data.id_dropout import drop_ids
from ple_rec.data.order import (
    Piece,
    cut_pieces,
    reading_order,
    request_order,
    row_group_order,
    row_order,
    rows_per_shard,
    shard_pieces,
    skip_rows,
    steps_per_epoch,
)
from ple_rec.errors import UserError
from ple_rec.storage import is_remote

logger = logging.getLogger(__name__)

# Maximum number of row groups that are read ahead from a store. Their decoding threads would compete for the cores if
# there were more.
_MAX_READ_AHEAD = 4
# A row group that is being decoded is in memory twice: as Arrow columns and as NumPy arrays.
_DECODING_FACTOR = 2


class Loader:
    """Loader of one rank. All ranks get the same number of batches, with the same number of rows.

    Args:
        dataset: Dataset to read.
        split: Split of the dataset.
        selection: Columns to read.
        batch_size: Number of samples per step over all ranks.
        rank: Rank of this process.
        world_size: Number of ranks W.
        virtual_shards: Number of virtual shards V, a multiple of W that divides the batch size.
        seed: Seed of the order of samples, and of id dropout.
        shuffle: True to permute the samples, False to read them in file order.
        by_request: True to permute whole requests instead of rows, if `shuffle` is true; `selection.requests` then
            names the features that the samples of a request share.
        id_dropout: Share of the ids that row 0 replaces, by name of the feature (`id_dropout.py`); other features keep
            their ids.
        prefetch: Number of batches that are prepared ahead.
        pin: True to put batches in page-locked memory.
        buffer_bytes: Limit of the memory of this rank for decoded rows, without the batches. It also limits the number
            of row groups that are read ahead from a store. If one row group per shard exceeds the limit, each shard
            keeps only a piece of its row group, and reads the row group again for the next piece. Memory is estimated
            from the bytes per row of the first row group.

    Attributes:
        groups: Row groups of the split.
        rows: Number of rows of the split.
        steps: Number of batches of an epoch.
        shards: Virtual shards that this rank reads.
        rows_per_step: Number of rows that a batch takes from each shard.
        batch_size: Number of samples of a batch of this rank, unlike the argument of this name.

    Raises:
        UserError: The split has no rows or fewer row groups than ranks, or a size does not divide another one.
        DataError: A part of the split is damaged, or does not belong to the dataset.
    """

    def __init__(
        self,
        dataset: DatasetDirectory,
        split: Split,
        selection: Selection,
        *,
        batch_size: int,
        rank: int,
        world_size: int,
        virtual_shards: int,
        seed: int = 0,
        shuffle: bool = True,
        by_request: bool = False,
        id_dropout: Mapping[str, float] | None = None,
        prefetch: int = 4,
        pin: bool = False,
        buffer_bytes: int = 2 << 30,
    ) -> None:
        self.groups: list[RowGroup] = dataset.row_groups(split, selection.column_names())
        if world_size > len(self.groups):
            raise UserError(
                str(dataset.path / split),
                f"{len(self.groups)} row group(s) for {world_size} ranks",
                "each rank must read at least one row group",
                "use fewer ranks, or prepare the dataset with smaller row groups",
            )
        self.selection, self.seed, self.shuffle, self.by_request = selection, seed, shuffle, by_request
        self.id_dropout = id_dropout or {}
        self.prefetch, self.pin, self.buffer_bytes = prefetch, pin, buffer_bytes
        self._warned = False
        self.rows_per_step = rows_per_shard(batch_size, virtual_shards, world_size)
        self.virtual_shards = virtual_shards
        shards_per_rank = virtual_shards // world_size
        self.shards = range(rank * shards_per_rank, (rank + 1) * shards_per_rank)
        self.batch_size = batch_size // world_size
        self._rows_per_group = np.array([group.rows for group in self.groups])
        self.rows = int(self._rows_per_group.sum())
        self.steps = steps_per_epoch(self.rows, virtual_shards, self.rows_per_step)

    def epoch(self, epoch: int, start_step: int = 0) -> Generator[Batch, None, None]:
        """Return an iterator over the batches of an epoch. Close it to stop its thread early.

        On all ranks together, the first n batches have the first n * `rows_per_step` rows of each virtual shard, or all
        its rows if it has fewer. So a run can go on at `start_step` with another number of ranks.

        Args:
            epoch: Number of the epoch, from 0.
            start_step: Number of batches of the epoch to skip.

        Raises:
            DataError: Reading a batch failed; the iterator raises the error in place of the batch.
        """
        return read_ahead(self._batches(epoch, start_step), self.prefetch)

    def _batches(self, epoch: int, start_step: int) -> Generator[Batch]:
        order = row_group_order(len(self.groups), self.seed, epoch, shuffle=self.shuffle)
        rows_to_skip = start_step * self.rows_per_step
        pieces_by_shard = [
            skip_rows(shard_pieces(self._rows_per_group, order, self.virtual_shards, shard), rows_to_skip)
            for shard in self.shards
        ]

        def read(piece: Piece) -> Columns:
            return self.read(piece.row_group, epoch, slice(piece.start, piece.stop))

        # If the memory allows it, the whole row group of a piece is read, since several shards may have pieces of one
        # row group and then share its rows.
        range_to_read: Callable[[Piece], Piece] = self._whole_row_group
        first = next((range_to_read(pieces[0]) for pieces in pieces_by_shard if pieces), None)
        decoded_ranges = {} if first is None else {first: read(first)}
        max_steps, ahead = self._limits(decoded_ranges.values())
        if max_steps is not None:
            # The cuts differ between the shards, so that in no step all of them have to read a new piece.
            begins = [i * max_steps // len(pieces_by_shard) * self.rows_per_step for i in range(len(pieces_by_shard))]
            max_rows = max_steps * self.rows_per_step
            pieces_by_shard = [
                cut_pieces(pieces, max_rows, begin) for pieces, begin in zip(pieces_by_shard, begins, strict=True)
            ]
            range_to_read, decoded_ranges = _identity, {}
        pieces_to_read = reading_order(pieces_by_shard, self.rows_per_step)
        columns = map_ahead(read, map(range_to_read, pieces_to_read), ahead, decoded_ranges)

        def take(piece: Piece) -> RowSlice:
            # The shards ask for their pieces in the order of `pieces_to_read`, so the next columns are of this piece.
            begin = range_to_read(piece).start
            return RowSlice(next(columns), piece.start - begin, piece.stop - begin)

        readers = [_ShardReader(take, pieces) for pieces in pieces_by_shard if pieces]
        with closing(columns):
            for _ in range(start_step, self.steps):
                # The slices are not assigned to a variable, which would keep finished row groups in memory.
                yield collate(
                    [part for reader in readers for part in reader.next_rows(self.rows_per_step)],
                    self.selection,
                    self.batch_size,
                    pin=self.pin,
                )

    def _whole_row_group(self, piece: Piece) -> Piece:
        """Return the range of all rows of the row group in which a piece lies."""
        return Piece(piece.row_group, 0, int(self._rows_per_group[piece.row_group]))

    def _limits(self, first_group: Iterable[Columns]) -> tuple[int | None, int]:
        """Return the limits that follow from `buffer_bytes` and the bytes per row of the first row group.

        Args:
            first_group: Columns of the first row group; empty if no rows are left to read.

        Returns:
            Maximum number of steps for which a shard may keep rows, at least 1, or None if it may keep a whole row
            group; and the number of row groups to read ahead, which is 0 if the dataset is on a disk.
        """
        for columns in first_group:
            bytes_per_row = columns.nbytes / len(columns)
            largest = sorted(self._rows_per_group)[-len(self.shards) :]
            kept_bytes = sum(largest) * bytes_per_row
            decoding_bytes = _DECODING_FACTOR * int(largest[-1]) * bytes_per_row
            fitting = int((self.buffer_bytes - kept_bytes) // max(1, decoding_bytes))
            ahead = min(max(1, fitting), _MAX_READ_AHEAD) if is_remote(self.groups[0].file) else 0
            return (None if kept_bytes <= self.buffer_bytes else self._max_steps(bytes_per_row, largest)), ahead
        return None, 0

    def _max_steps(self, bytes_per_row: float, largest: Sequence[int]) -> int:
        """Warn that row groups are read several times, and return the number of steps for which a shard keeps rows."""
        rows = self.buffer_bytes / (len(self.shards) * bytes_per_row)
        # Only rank 0 logs the warning. It is the rank with shard 0.
        if not self._warned and 0 in self.shards:
            self._warned = True
            logger.warning(
                "%s: one row group for each of %d shards takes %d MiB, more than data.buffer_mib = %d, so each row "
                "group is read up to %d times. Raise data.buffer_mib, or lower data.virtual_shards",
                self.groups[0].file.parent,
                len(self.shards),
                int(sum(largest) * bytes_per_row) >> 20,
                self.buffer_bytes >> 20,
                -(-int(largest[-1]) // max(1, int(rows))),
            )
        return max(1, int(rows) // self.rows_per_step)

    def read(self, row_group: int, epoch: int, rows: slice = slice(None)) -> Columns:
        """Return rows of a row group, in the order of the epoch.

        Args:
            row_group: Index of the row group in the split.
            epoch: Number of the epoch, from 0.
            rows: Slice of the positions in the order of the epoch.
        """
        decoded = read_row_group(self.groups[row_group], self.selection)
        order: IntArray | None
        if self.shuffle and self.by_request:
            # Requests are found before ids are dropped, so that the order of the samples does not depend on it.
            order = request_order(decoded.request_starts(), row_group, self.seed, epoch)[rows]
        elif self.shuffle:
            order = row_order(decoded.rows, row_group, self.seed, epoch)[rows]
        else:
            is_whole = rows.indices(decoded.rows) == (0, decoded.rows, 1)
            order = None if is_whole else np.arange(decoded.rows)[rows]
        if self.id_dropout:
            decoded = drop_ids(decoded, self.id_dropout, seed=self.seed, epoch=epoch, row_group=row_group)
        return decoded.arrange(order)


def _identity(piece: Piece) -> Piece:
    return piece


class _ShardReader:
    """Reader of the rows of one virtual shard, in order, which keeps one piece at a time in memory.

    Args:
        read: Function that reads a piece.
        pieces: Pieces of the shard, in reading order.
    """

    def __init__(self, read: Callable[[Piece], RowSlice], pieces: Sequence[Piece]) -> None:
        self._read, self._pieces = read, deque(pieces)
        # Unread rows of the current piece; None before the first piece and at the end of each.
        self._unread: RowSlice | None = None

    def next_rows(self, count: int) -> list[RowSlice]:
        """Return the next `count` rows, or all remaining rows if there are fewer."""
        slices = []
        while count and (self._unread is not None or self._pieces):
            part = self._unread or self._read(self._pieces.popleft())
            stop = min(part.stop, part.start + count)
            slices.append(RowSlice(part.columns, part.start, stop))
            count -= stop - part.start
            self._unread = RowSlice(part.columns, stop, part.stop) if stop < part.stop else None
            # Free a finished piece before the next one is read.
            del part
        return slices
