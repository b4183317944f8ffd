"""Loader of the batches of one rank, which one thread prepares ahead, and which can start at any step.

If the dataset is in a store, further threads read the next row groups: a store answers late, but it answers several
requests in the time of one.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing

import numpy as np

from ple_rec.config.base import Split
from ple_rec.data.ahead import map_ahead, read_ahead
from ple_rec.data.batch import Batch
from ple_rec.data.collate import RowSlice, collate
from ple_rec.data.columns import Columns, Selection
from ple_rec.data.dataset import DatasetDirectory, RowGroup, read_row_group
from ple_rec.data.order import (
    Piece,
    cut_pieces,
    order_of_need,
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

# With more row groups read ahead from a store, the threads that decode them would contend for the cores.
_MAX_READ_AHEAD = 4
# A row group that is being decoded is in memory twice: as Arrow columns and as arrays.
_DECODING_FACTOR = 2


class Loader:
    """Loader of one rank. All ranks get equally many batches of equally many rows, so that none waits for another.

    Args:
        dataset: Dataset to read.
        split: Split of the dataset.
        selection: Columns to read.
        batch_size: Samples per step over all ranks.
        rank: Rank of this process.
        world_size: Number of ranks W.
        virtual_shards: Number of virtual shards V, a multiple of W that divides the batch size.
        seed: Seed of the order of samples.
        shuffle: True to permute the samples, False to read them in file order.
        by_request: True to permute whole requests instead of rows; `selection.requests` then names the features that
            the samples of a request share.
        prefetch: Number of batches that are prepared ahead.
        pin: True to put batches in page-locked memory.
        buffer_bytes: Limit on the decoded rows of this rank, without the batches, estimated from the bytes per row of
            the first row group. It also limits the row groups that are read ahead from a store. If one row group per
            shard exceeds it, each shard holds a piece of a row group and reads the row group again for the next piece.

    Raises:
        UserError: There are more ranks than row groups, or a size does not divide another one.
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
        prefetch: int = 4,
        pin: bool = False,
        buffer_bytes: int = 2 << 30,
    ) -> None:
        self.groups: list[RowGroup] = dataset.row_groups(split, selection.column_names())
        if world_size > len(self.groups):
            raise UserError(
                str(dataset.path / split),
                f"{len(self.groups)} row group(s) for {world_size} ranks",
                "every rank reads row groups of its own",
                "use fewer ranks, or prepare the dataset with smaller row groups",
            )
        self.selection, self.seed, self.shuffle, self.by_request = selection, seed, shuffle, by_request
        self.prefetch, self.pin, self.buffer_bytes = prefetch, pin, buffer_bytes
        self._warned = False
        self.rows_per_step = rows_per_shard(batch_size, virtual_shards, world_size)
        self.virtual_shards = virtual_shards
        own = virtual_shards // world_size
        self.shards = range(rank * own, (rank + 1) * own)
        self.batch_size = batch_size // world_size
        self._rows_per_group = np.array([group.rows for group in self.groups])
        self.rows = int(self._rows_per_group.sum())
        self.steps = steps_per_epoch(self.rows, virtual_shards, self.rows_per_step)

    def epoch(self, epoch: int, start_step: int = 0) -> Generator[Batch, None, None]:
        """Return an iterator over the batches of an epoch. Close it to stop its thread early.

        After `step` batches, each virtual shard has given its first `step * rows_per_step` rows, or all its rows, at
        every world size. Batches that are prepared ahead do not count.

        Args:
            epoch: Number of the epoch, from 0.
            start_step: Number of batches of the epoch to skip.

        Raises:
            DataError: Reading a batch failed; the iterator raises the error in place of the batch.
        """
        return read_ahead(self._batches(epoch, start_step), self.prefetch)

    def _batches(self, epoch: int, start_step: int) -> Generator[Batch]:
        order = row_group_order(len(self.groups), self.seed, epoch, shuffle=self.shuffle)
        done = start_step * self.rows_per_step
        pieces = [
            skip_rows(shard_pieces(self._rows_per_group, order, self.virtual_shards, shard), done)
            for shard in self.shards
        ]

        def read(piece: Piece) -> Columns:
            return self.read(piece.row_group, epoch, slice(piece.start, piece.stop))

        # Several shards may have pieces of one row group. They share its rows if whole row groups are read.
        unit_to_read: Callable[[Piece], Piece] = self._whole_row_group
        first = next((unit_to_read(own[0]) for own in pieces if own), None)
        decoded_pieces = {} if first is None else {first: read(first)}
        max_steps, ahead = self._limits(decoded_pieces.values())
        if max_steps is not None:
            # Shards refill at different steps, so no batch waits for all of them at once.
            begins = [i * max_steps // len(pieces) * self.rows_per_step for i in range(len(pieces))]
            max_rows = max_steps * self.rows_per_step
            pieces = [cut_pieces(own, max_rows, begin) for own, begin in zip(pieces, begins, strict=True)]
            unit_to_read, decoded_pieces = _identity, {}
        needed = order_of_need(pieces, self.rows_per_step)
        columns = map_ahead(read, map(unit_to_read, needed), ahead, decoded_pieces)

        def take(piece: Piece) -> RowSlice:
            begin = unit_to_read(piece).start
            return RowSlice(next(columns), piece.start - begin, piece.stop - begin)

        readers = [_ShardReader(take, own) for own in pieces if own]
        with closing(columns):
            for _ in range(start_step, self.steps):
                # A variable for the slices would keep finished row groups in memory.
                yield collate(
                    [part for reader in readers for part in reader.next_rows(self.rows_per_step)],
                    self.selection,
                    self.batch_size,
                    pin=self.pin,
                )

    def _whole_row_group(self, piece: Piece) -> Piece:
        """Return the piece that is the whole row group of a piece."""
        return Piece(piece.row_group, 0, int(self._rows_per_group[piece.row_group]))

    def _limits(self, first_group: Iterable[Columns]) -> tuple[int | None, int]:
        """Return the limits that `buffer_bytes` sets, estimated from the bytes per row of the first row group.

        Args:
            first_group: First row group, decoded, or nothing if no rows are left to read.

        Returns:
            Largest number of steps whose rows a shard may hold, at least 1, or None if whole row groups fit; and the
            number of row groups to read ahead: 0 from a disk, and from a store as many as fit into the rest.
        """
        for columns in first_group:
            bytes_per_row = columns.nbytes / len(columns)
            largest = sorted(self._rows_per_group)[-len(self.shards) :]
            held_bytes = sum(largest) * bytes_per_row
            decoding_bytes = _DECODING_FACTOR * int(largest[-1]) * bytes_per_row
            fitting = int((self.buffer_bytes - held_bytes) // max(1, decoding_bytes))
            ahead = min(max(1, fitting), _MAX_READ_AHEAD) if is_remote(self.groups[0].file) else 0
            return (None if held_bytes <= self.buffer_bytes else self._steps_to_hold(bytes_per_row, largest)), ahead
        return None, 0

    def _steps_to_hold(self, bytes_per_row: float, largest: Sequence[int]) -> int:
        rows = self.buffer_bytes / (len(self.shards) * bytes_per_row)
        # One rank warns for all: rank 0, which has shard 0.
        if not self._warned and 0 in self.shards:
            self._warned = True
            logger.warning(
                "%s: one row group for each of %d shards takes %d MiB, more than data.buffer_mib = %d. Row groups are "
                "read up to %d times. Raise data.buffer_mib, or lower data.virtual_shards",
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
            rows: Slice of the row group in the order of the epoch.
        """
        decoded = read_row_group(self.groups[row_group], self.selection)
        if self.shuffle and self.by_request:
            return decoded.arrange(request_order(decoded.request_starts(), row_group, self.seed, epoch)[rows])
        if self.shuffle:
            return decoded.arrange(row_order(decoded.rows, row_group, self.seed, epoch)[rows])
        whole = rows.indices(decoded.rows) == (0, decoded.rows, 1)
        return decoded.arrange(None if whole else np.arange(decoded.rows)[rows])


def _identity(piece: Piece) -> Piece:
    return piece


class _ShardReader:
    """Reader of the rows of one virtual shard, in order. It holds one piece at a time.

    Args:
        read: Function that reads a piece.
        pieces: Pieces of the shard, in reading order.
    """

    def __init__(self, read: Callable[[Piece], RowSlice], pieces: Sequence[Piece]) -> None:
        self._read, self._pieces = read, deque(pieces)
        # Unread rows of the current piece.
        self._rest: RowSlice | None = None

    def next_rows(self, count: int) -> list[RowSlice]:
        """Return the next `count` rows, or all that are left."""
        slices = []
        while count and (self._rest is not None or self._pieces):
            part = self._rest or self._read(self._pieces.popleft())
            stop = min(part.stop, part.start + count)
            slices.append(RowSlice(part.columns, part.start, stop))
            count -= stop - part.start
            self._rest = RowSlice(part.columns, stop, part.stop) if stop < part.stop else None
            # This frees a finished piece before the next one is read.
            del part
        return slices
