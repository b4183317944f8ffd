"""Chunks of any size -> batches of one size, each with the columns that its rows carry along.

A section's batches begin at its first row and have `size` rows each, but for the last: as evaluation cuts a split. So a
row stands in the same batch wherever chunks or the parts of the output end, and its prediction has the same bits.

Shape suffixes: N rows of a chunk.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass

import pyarrow as pa

from ple_rec.data.batch import Batch
from ple_rec.data.collate import Slice, collate
from ple_rec.data.columns import Selection
from ple_rec.inference.predict.inputs import Chunk

Piece = tuple[Chunk, int, int]  # rows [start, stop) of a chunk


@dataclass(frozen=True)
class InputBatch:
    """A batch for the model, and where its rows come from.

    Args:
        batch: Batch.
        pieces: Pieces of chunks that its rows are.
    """

    batch: Batch
    pieces: tuple[Piece, ...]

    @property
    def next(self) -> int:
        """Position of the input behind the batch; 0 behind one without rows."""
        chunk, _, stop = self.pieces[-1]
        return int(chunk.next_N[stop - 1]) if stop else 0

    def ids(self) -> pa.Table:
        """Return the columns that rows carry along; where files differ in a column's type, it is the wider one."""
        parts = [chunk.ids.slice(start, stop - start) for chunk, start, stop in self.pieces]
        return pa.concat_tables(parts, promote_options="permissive")

    def place(self, row: int) -> str:
        """Return the place of a row in the input, for messages."""
        for chunk, start, stop in self.pieces:
            if row < stop - start:
                return chunk.place(start + row)
            row -= stop - start
        raise IndexError(row)


def batches_of(chunks: Iterable[Chunk], selection: Selection, size: int, *, pin: bool = False) -> Generator[InputBatch]:
    """Yield the batches of a section; one without rows where its chunks have none.

    Args:
        chunks: Chunks of the section.
        selection: Features that they hold.
        size: Rows of a batch.
        pin: Flag that tensors lie in pinned memory.
    """
    pieces: list[Piece] = []
    have = 0
    empty = None
    for chunk in chunks:
        if not len(chunk.next_N):
            empty = chunk
            continue
        start = 0
        while start < len(chunk.next_N):
            stop = min(len(chunk.next_N), start + size - have)
            pieces.append((chunk, start, stop))
            have += stop - start
            start = stop
            if have == size:
                yield _batch(pieces, selection, size, pin)
                pieces, have = [], 0
    if pieces:
        yield _batch(pieces, selection, size, pin)
    elif empty is not None:
        yield _batch([(empty, 0, 0)], selection, size, pin)


def _batch(pieces: list[Piece], selection: Selection, size: int, pin: bool) -> InputBatch:
    slices = [Slice(chunk.columns, start, stop) for chunk, start, stop in pieces]
    return InputBatch(collate(slices, selection, size, pin=pin), tuple(pieces))
