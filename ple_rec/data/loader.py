"""Batches of one rank, read ahead by one thread, resumable at any step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from functools import partial
from weakref import WeakValueDictionary

import numpy as np

from ple_rec.config.base import Split
from ple_rec.data.ahead import read_ahead
from ple_rec.data.batch import Batch
from ple_rec.data.collate import Slice, collate
from ple_rec.data.columns import Columns, Selection
from ple_rec.data.dataset import Dataset, RowGroup, read_requests, read_row_group
from ple_rec.data.order import (
    Piece,
    request_order,
    row_group_order,
    row_order,
    rows_per_shard,
    shard_pieces,
    skip_rows,
    steps_per_epoch,
)
from ple_rec.errors import UserError


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
        self.prefetch, self.pin = prefetch, pin
        self.rows_per_step = rows_per_shard(batch_size, virtual_shards, world_size)
        self.virtual_shards = virtual_shards
        own = virtual_shards // world_size
        self.shards = range(rank * own, (rank + 1) * own)
        self.batch_size = batch_size // world_size
        self._rows_of = np.array([group.rows for group in self.groups])
        self.rows = int(self._rows_of.sum())
        self.steps = steps_per_epoch(self.rows, virtual_shards, self.rows_per_step)

    def epoch(self, epoch: int, start_step: int = 0, *, offset: int = 0) -> Generator[Batch, None, None]:
        """The batches of an epoch from `start_step` on. Close the iterator to stop its thread early.

        Batches that were read ahead and not taken do not count: what has been consumed of every virtual shard is
        `offset + step * rows_per_step` of its rows (or all of them), whatever the world size.

        Args:
            epoch: Of the order.
            start_step: Steps done.
            offset: Rows that each virtual shard had given before step 0, to steps of another batch size.

        Raises:
            DataError: what reading finds, at the batch where it finds it.
        """
        return read_ahead(self._batches(epoch, start_step, offset), self.prefetch)

    def _batches(self, epoch: int, start_step: int, offset: int) -> Generator[Batch]:
        order = row_group_order(len(self.groups), self.seed, epoch, shuffle=self.shuffle)
        held: WeakValueDictionary[int, Columns] = WeakValueDictionary()

        def read(row_group: int) -> Columns:
            """Of few row groups, each stands in many shards: what one of them holds, the others share."""
            columns = held.get(row_group)
            if columns is None:
                columns = held[row_group] = self.read(row_group, epoch)
            return columns

        readers = []
        for shard in self.shards:
            pieces = shard_pieces(self._rows_of, order, self.virtual_shards, shard)
            readers.append(_ShardReader(read, skip_rows(pieces, offset + start_step * self.rows_per_step)))
        for _ in range(start_step, steps_per_epoch(self.rows, self.virtual_shards, self.rows_per_step, offset)):
            # Without a name for the slices, which would keep row groups that are done.
            yield collate(
                [part for reader in readers for part in reader.next_rows(self.rows_per_step)],
                self.selection,
                self.batch_size,
                pin=self.pin,
            )

    def read(self, row_group: int, epoch: int) -> Columns:
        """One row group, in the epoch's order."""
        group = self.groups[row_group]
        if self.shuffle and self.by_request:
            order = partial(request_order, row_group=row_group, seed=self.seed, epoch=epoch)
            return read_requests(group, self.selection, order)
        rows_N = row_order(group.rows, row_group, self.seed, epoch) if self.shuffle else None
        return read_row_group(group, self.selection, rows_N)


class _ShardReader:
    """Reads one virtual shard's pieces in order, holding one row group at a time."""

    def __init__(self, read: Callable[[int], Columns], pieces: Sequence[Piece]) -> None:
        self.read, self.pieces = read, deque(pieces)
        self.columns: Columns | None = None
        self.position = self.stop = 0

    def next_rows(self, count: int) -> list[Slice]:
        """The next `count` rows, or what is left of them."""
        slices = []
        while count:
            if self.columns is None or self.position == self.stop:
                self.columns = None
                if not self.pieces:
                    break
                piece = self.pieces.popleft()
                self.columns = self.read(piece.row_group)
                self.position, self.stop = piece.start, piece.stop
            taken = min(count, self.stop - self.position)
            slices.append(Slice(self.columns, self.position, self.position + taken))
            self.position += taken
            count -= taken
        return slices
