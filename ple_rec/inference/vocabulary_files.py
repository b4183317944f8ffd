"""Vocabularies of a version as files: values by row, read and written piece by piece in bounded memory.

The vocabulary of a whole version, `vocab/<table>.parquet`, is that of the dataset. In a squashed version it has the
columns `raw` (null in a free row), `row` (1, 2, ...) and `day` (null). A delta has a line for each row whose value
differs from that of its base (`delta.py`).

Shape suffixes: E changed rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ple_rec.config.schema import VOCAB_DAY
from ple_rec.data.vocabulary_changes import VocabularyChanges
from ple_rec.storage.arrow import open_parquet

# Number of rows that are read, compared and written at a time.
_PIECE_ROWS = 1 << 18


def read_values(file: Path, changes: Sequence[VocabularyChanges] = ()) -> Iterator[pa.Array]:
    """Yield the raw values of a vocabulary from row 1 on, `_PIECE_ROWS` at a time; a free row has null.

    Args:
        file: Vocabulary of a dataset or of a whole version, ordered by row.
        changes: Changes of this vocabulary by deltas, the oldest first.
    """
    with open_parquet(file) as vocabulary:
        raw_type, rows = vocabulary.schema_arrow.field("raw").type, vocabulary.metadata.num_rows
        last_row = max([rows, *(int(each.rows_E[-1]) for each in changes if len(each.rows_E))])
        batches = vocabulary.iter_batches(_PIECE_ROWS, columns=["raw"], use_threads=False)
        # Rows of later versions follow those of the file.
        added = (pa.nulls(count, raw_type) for count in _piece_sizes(last_row - rows))
        first = 1
        for piece in _rearrange(chain((batch.column("raw") for batch in batches), added), raw_type):
            yield _with_changes(piece, first, changes)
            first += len(piece)


def write_vocabulary(file: Path, pieces: Iterable[pa.Array]) -> None:
    """Write the vocabulary of a squashed version.

    Args:
        file: File of the vocabulary.
        pieces: Raw values from row 1 on, as `read_values` yields them.
    """
    writer, first = None, 1
    try:
        for raw in pieces:
            rows = pa.array(np.arange(first, first + len(raw), dtype=np.int32))
            # Only a vocabulary with days may have free rows. A server does not need the days, so all are null.
            table = pa.table({"raw": raw, "row": rows, VOCAB_DAY: pa.nulls(len(raw), pa.int32())})
            # Every value occurs once, so a dictionary of them would only take time.
            writer = writer or pq.ParquetWriter(file, table.schema, use_dictionary=False)
            writer.write_table(table)
            first += len(raw)
    finally:
        if writer is not None:
            writer.close()


def compare_values(new: Iterable[pa.Array], old: Iterable[pa.Array]) -> VocabularyChanges:
    """Return the rows whose values differ, and every row that only the new vocabulary has.

    Args:
        new: Raw values of the new vocabulary, as `read_values` yields them.
        old: Raw values of the old vocabulary.
    """
    rows, raw, previous, first = [], [], [], 1
    for new_piece, old_piece in zip_longest(new, old):
        old_rows = 0 if old_piece is None else len(old_piece)
        count = max(old_rows, 0 if new_piece is None else len(new_piece))
        new_values, old_values = _pad(new_piece, old_piece, count), _pad(old_piece, new_piece, count)
        differ = pc.fill_null(pc.not_equal(new_values, old_values), False)
        differ = pc.or_(differ, pc.xor(new_values.is_null(), old_values.is_null()))
        differ = differ.to_numpy(zero_copy_only=False).copy()
        # A row that only the new vocabulary has is listed even if it is free, so that the vocabulary gets its length.
        differ[old_rows:] = True
        (places_E,) = differ.nonzero()
        rows.append((places_E + first).astype(np.int32))
        raw.append(new_values.take(pa.array(places_E)))
        previous.append(old_values.take(pa.array(places_E)))
        first += count
    return VocabularyChanges(np.concatenate(rows), pa.concat_arrays(raw), pa.concat_arrays(previous))


def _pad(piece: pa.Array | None, other: pa.Array | None, count: int) -> pa.Array:
    """Return a piece of `count` values with nulls at its end; without the piece, nulls of the type of the other one."""
    if piece is None:
        assert other is not None
        return pa.nulls(count, other.type)
    return pa.concat_arrays([piece, pa.nulls(count - len(piece), piece.type)])


def _with_changes(piece: pa.Array, first: int, changes: Sequence[VocabularyChanges]) -> pa.Array:
    """Return raw values of consecutive rows with the changes of deltas.

    Args:
        piece: Raw values of the rows from `first` on.
        first: First row of the piece.
        changes: Changes by deltas, the oldest first.
    """
    for each in changes:
        begin, end = np.searchsorted(each.rows_E, [first, first + len(piece)])
        changed = np.zeros(len(piece), np.bool_)
        changed[each.rows_E[begin:end] - first] = True
        piece = pc.replace_with_mask(piece, pa.array(changed), each.raw_E[begin:end].cast(piece.type))
    return piece


def _rearrange(pieces: Iterable[pa.Array], kind: pa.DataType) -> Iterator[pa.Array]:
    """Yield the values of all pieces in pieces of `_PIECE_ROWS`; the last one may be shorter or empty."""
    rest = pa.array([], kind)
    for piece in pieces:
        rest = pa.concat_arrays([rest, piece])
        while len(rest) > _PIECE_ROWS:  # The last piece is yielded below, even if it is full or empty.
            yield rest[:_PIECE_ROWS]
            rest = rest[_PIECE_ROWS:]
    yield rest


def _piece_sizes(count: int) -> Iterator[int]:
    """Yield the numbers of rows of the pieces of `count` rows."""
    return (min(_PIECE_ROWS, count - begin) for begin in range(0, count, _PIECE_ROWS))
