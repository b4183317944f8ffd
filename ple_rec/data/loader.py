"""Batches of one rank, made ahead by one thread, resumable at any step.

From a store, other threads read the row groups that it will need next: bytes that are far away come late, and several
at once come as fast as one.
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
from ple_rec.data.collate import Slice, collate
from ple_rec.data.columns import Columns, Selection
from ple_rec.data.dataset import Dataset, RowGroup, read_row_group
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

_MOST_AHEAD = 4  # row groups that are read ahead from a store; of more, the threads would contend for the cores
_WHILE_DECODING = 2  # times of its bytes that a row group takes while it is decoded: as Arrow has it, and as arrays


class Loader:
    """Gives each rank as many batches of as many rows, so that no rank waits for a peer that has run out.

    Args:
        dataset: To read.
        split: Which part of it.
        selection: Which columns of it.
        batch_size: Samples per step over all ranks.
        rank: Of this process.
        world_size: W.
        virtual_shards: V, a multiple of W that divides the batch size.
        seed: Of the order.
        shuffle: Else rows come in file order.
        by_request: Whether whole requests are permuted, and not rows; the selection has features that they share.
        prefetch: Batches kept ready.
        pin: Put them in page-locked memory.
        buffer_bytes: Limit on the decoded rows that the rank holds, batches excluded, estimated from the bytes per row
            of the first row group. From a store, row groups are read ahead as far as it lets. If one row group per
            shard exceeds it, each shard holds a piece of a row group and reads the row group again for the next piece.

    Raises:
        UserError: more ranks than row groups, or sizes that do not divide.
    """

    def __init__(
        self,
        dataset: Dataset,
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
        self._rows_of = np.array([group.rows for group in self.groups])
        self.rows = int(self._rows_of.sum())
        self.steps = steps_per_epoch(self.rows, virtual_shards, self.rows_per_step)

    def epoch(self, epoch: int, start_step: int = 0) -> Generator[Batch, None, None]:
        """The batches of an epoch from `start_step` on. Close the iterator to stop its thread early.

        Batches that were read ahead and not taken do not count: what has been consumed of every virtual shard is
        `step * rows_per_step` of its rows (or all of them), whatever the world size.

        Args:
            epoch: Of the order.
            start_step: Steps done.

        Raises:
            DataError: what reading finds, at the batch where it finds it.
        """
        return read_ahead(self._batches(epoch, start_step), self.prefetch)

    def _batches(self, epoch: int, start_step: int) -> Generator[Batch]:
        order = row_group_order(len(self.groups), self.seed, epoch, shuffle=self.shuffle)
        done = start_step * self.rows_per_step
        pieces = [
            skip_rows(shard_pieces(self._rows_of, order, self.virtual_shards, shard), done) for shard in self.shards
        ]

        def read(piece: Piece) -> Columns:
            return self.read(piece.row_group, epoch, slice(piece.start, piece.stop))

        # Of few row groups, each stands in many shards: what one of them holds, the others share.
        source: Callable[[Piece], Piece] = self._whole
        first = next((source(own[0]) for own in pieces if own), None)
        made = {} if first is None else {first: read(first)}
        most_steps, ahead = self._limits(made.values())
        if most_steps is not None:
            # Shards refill at different steps, so no batch waits for all of them at once.
            begins = [i * most_steps // len(pieces) * self.rows_per_step for i in range(len(pieces))]
            most_rows = most_steps * self.rows_per_step
            pieces = [cut_pieces(own, most_rows, begin) for own, begin in zip(pieces, begins, strict=True)]
            source, made = _itself, {}
        needed = order_of_need(pieces, self.rows_per_step)
        columns = map_ahead(read, map(source, needed), ahead, made)

        def take(piece: Piece) -> Slice:
            begin = source(piece).start
            return Slice(next(columns), piece.start - begin, piece.stop - begin)

        readers = [_ShardReader(take, own) for own in pieces if own]
        with closing(columns):
            for _ in range(start_step, self.steps):
                # Without a name for the slices, which would keep row groups that are done.
                yield collate(
                    [part for reader in readers for part in reader.next_rows(self.rows_per_step)],
                    self.selection,
                    self.batch_size,
                    pin=self.pin,
                )

    def _whole(self, piece: Piece) -> Piece:
        """Return the row group of a piece."""
        return Piece(piece.row_group, 0, int(self._rows_of[piece.row_group]))

    def _limits(self, read: Iterable[Columns]) -> tuple[int | None, int]:
        """Return how much a rank may hold, estimated from the bytes per row of the first row group.

        Args:
            read: The first row group, decoded; nothing where there is no more to read.

        Returns:
            Most steps whose rows a shard may hold, at least 1, or None if whole row groups fit; and the row groups that
            are read ahead of need: none from a disk, and from a store what fits beside those of the shards.
        """
        for columns in read:
            bytes_per_row = columns.nbytes / len(columns)
            largest = sorted(self._rows_of)[-len(self.shards) :]
            held = sum(largest) * bytes_per_row
            decoding = _WHILE_DECODING * int(largest[-1]) * bytes_per_row
            fitting = int((self.buffer_bytes - held) // max(1, decoding))
            ahead = min(max(1, fitting), _MOST_AHEAD) if is_remote(self.groups[0].file) else 0
            return (None if held <= self.buffer_bytes else self._steps_to_hold(bytes_per_row, largest)), ahead
        return None, 0

    def _steps_to_hold(self, bytes_per_row: float, largest: Sequence[int]) -> int:
        rows = self.buffer_bytes / (len(self.shards) * bytes_per_row)
        if not self._warned and 0 in self.shards:  # only rank 0 warns
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
            epoch: Epoch of the order.
            rows: Slice of the row group in that order.
        """
        decoded = read_row_group(self.groups[row_group], self.selection)
        if self.shuffle and self.by_request:
            return decoded.arrange(request_order(decoded.request_starts(), row_group, self.seed, epoch)[rows])
        if self.shuffle:
            return decoded.arrange(row_order(decoded.rows, row_group, self.seed, epoch)[rows])
        whole = rows.indices(decoded.rows) == (0, decoded.rows, 1)
        return decoded.arrange(None if whole else np.arange(decoded.rows)[rows])


def _itself(piece: Piece) -> Piece:
    return piece


class _ShardReader:
    """Reader of the rows of one virtual shard, in order. It holds one piece at a time.

    Args:
        read: Function that reads a piece.
        pieces: Pieces of the shard, in reading order.
    """

    def __init__(self, read: Callable[[Piece], Slice], pieces: Sequence[Piece]) -> None:
        self._read, self._pieces = read, deque(pieces)
        self._rest: Slice | None = None  # of the piece that is being read

    def next_rows(self, count: int) -> list[Slice]:
        """Return the next `count` rows, or what is left of them."""
        slices = []
        while count and (self._rest is not None or self._pieces):
            part = self._rest or self._read(self._pieces.popleft())
            stop = min(part.stop, part.start + count)
            slices.append(Slice(part.columns, part.start, stop))
            count -= stop - part.start
            self._rest = Slice(part.columns, stop, part.stop) if stop < part.stop else None
            del part  # frees a finished piece before the next is read
        return slices
