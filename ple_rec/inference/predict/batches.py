"""Batches of one size from chunks of any size, with the id columns of their rows.

An input has one or more sections, such as the splits of a dataset, and a section is read in chunks (`inputs.py`). The
batches of a section begin at its first row and have `size` rows each, except for the last, as the batches of an
evaluation do. The bounds of chunks and of output files therefore do not change the batch of a row, nor the bits of its
prediction.

Shape suffixes: N rows of a chunk.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass

import pyarrow as pa

from ple_rec.data.batch import Batch
from ple_rec.data.collate import RowSlice, collate
from ple_rec.data.columns import Selection
from ple_rec.inference.predict.inputs import Chunk

# Chunk, start and stop: rows [start, stop) of the chunk.
Piece = tuple[Chunk, int, int]


@dataclass(frozen=True)
class InputBatch:
    """Batch for the model, with the pieces of chunks that its rows come from.

    Args:
        batch: Tensors of the batch.
        pieces: Pieces of chunks, in the order of the rows.
    """

    batch: Batch
    pieces: tuple[Piece, ...]

    @property
    def next_position(self) -> int:
        """Position of the first row of the input after the batch; 0 for a batch without rows."""
        chunk, _, stop = self.pieces[-1]
        return int(chunk.next_N[stop - 1]) if stop else 0

    def id_columns(self) -> pa.Table:
        """Return the id columns of the rows; of the types that a column has in the files, the widest is taken."""
        parts = [chunk.ids.slice(start, stop - start) for chunk, start, stop in self.pieces]
        return pa.concat_tables(parts, promote_options="permissive")

    def place(self, row: int) -> str:
        """Return a text that names the place of a row in the input, for messages."""
        for chunk, start, stop in self.pieces:
            if row < stop - start:
                return chunk.place(start + row)
            row -= stop - start
        raise IndexError(row)


def make_batches(
    chunks: Iterable[Chunk], selection: Selection, size: int, *, pin: bool = False
) -> Generator[InputBatch]:
    """Yield the batches of a section; if its chunks have no rows, yield a single batch without rows.

    Args:
        chunks: Chunks of the section.
        selection: Features of the chunks.
        size: Number of rows of a batch.
        pin: True to copy the tensors to pinned memory.
    """
    pieces: list[Piece] = []
    count = 0
    empty_chunk = None
    for chunk in chunks:
        if not len(chunk.next_N):
            empty_chunk = chunk
            continue
        start = 0
        while start < len(chunk.next_N):
            stop = min(len(chunk.next_N), start + size - count)
            pieces.append((chunk, start, stop))
            count += stop - start
            start = stop
            if count == size:
                yield _collate_pieces(pieces, selection, size, pin)
                pieces, count = [], 0
    if pieces:
        yield _collate_pieces(pieces, selection, size, pin)
    elif empty_chunk is not None:
        yield _collate_pieces([(empty_chunk, 0, 0)], selection, size, pin)


def _collate_pieces(pieces: list[Piece], selection: Selection, size: int, pin: bool) -> InputBatch:
    slices = [RowSlice(chunk.columns, start, stop) for chunk, start, stop in pieces]
    return InputBatch(collate(slices, selection, size, pin=pin), tuple(pieces))
