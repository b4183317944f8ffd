"""Writing of parts, the Parquet files of a split of a dataset.

`ParquetPartSink` writes them from sorted rows of an engine (DuckDB or Spark), `write_part` from a table in memory. The
same rows give the same bytes on every engine.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.engines.base import PART, PartFile
from data_prep.output.writer import UNFINISHED
from data_prep.sources.footers import read_verified_footer
from data_prep.transforms.columns import NO_GROUP
from ple_rec.config.schema import FINGERPRINT_KEY

COMPRESSION = "zstd"
COMPRESSION_LEVEL = 1
MAX_DICTIONARY_VALUES = 65_536  # Most distinct values of a column that `write_part` dictionary-encodes.


@dataclass(frozen=True)
class ParquetPartSink:
    """Writer of the parts of a split, which an engine calls; see `data_prep.engines.base.PartSink`.

    It also writes vocabularies: then each part is the file of one vocabulary.

    Args:
        folder: Folder of the split, or of the vocabularies.
        schema: Columns and types of a part, in order.
        fingerprint: Fingerprint of the dataset for the metadata of the parts; None to write none.
        dictionary_columns: Columns to dictionary-encode; the Parquet writer stops it for a column of too many values.
        row_group_rows: Largest number of rows of a row group, which is exceeded only by a larger group of rows. Without
            `group`, every row group but the last of a part has this number.
        group: Column whose equal values are adjacent and stay in one row group; null and -1 stand for no group.
        names: File names by number of the part; empty for `part-00000.parquet` and so on.
    """

    folder: Path
    schema: pa.Schema
    fingerprint: str | None
    dictionary_columns: tuple[str, ...]
    row_group_rows: int
    group: str | None = None
    names: tuple[str, ...] = ()

    def path(self, part: int) -> Path:
        """Return the path of the file of a part."""
        return self.folder / (self.names[part] if self.names else f"part-{part:05d}.parquet")

    def write(self, batches: Iterable[pa.RecordBatch]) -> Iterator[PartFile]:
        """Write a file for each value of `PART`.

        A file gets its name when it is complete, and replaces an older file of that name.

        Args:
            batches: Rows that are sorted by `PART`, with the columns of `schema` and `PART`.

        Yields:
            Each part when it is complete.
        """
        writer: _PartWriter | None = None
        try:
            for batch in batches:
                for part, rows in _slice_by_part(batch):
                    if writer is not None and writer.part != part:
                        yield writer.close()
                        writer = None
                    if writer is None:
                        writer = _PartWriter(part, self)
                    writer.write(rows)
            if writer is not None:
                yield writer.close()
                writer = None
        finally:
            if isinstance(batches, Generator):  # An unfinished query must end before its engine is closed.
                batches.close()
            if writer is not None:
                writer.discard()

    def write_empty(self, part: int) -> PartFile:
        """Write a part without rows."""
        return _PartWriter(part, self).close()


def write_part(path: Path, table: pa.Table, fingerprint: str, row_group_rows: int) -> PartFile:
    """Write a table as one part.

    Columns of at most `MAX_DICTIONARY_VALUES` distinct values are dictionary-encoded, except columns of lists.

    Args:
        path: Path of the file, which gets its name when it is complete.
        table: Rows of the part, in order.
        fingerprint: Fingerprint of the dataset for the metadata of the part.
        row_group_rows: Number of rows of every row group but the last, which may have fewer.
    """
    flat = [field.name for field in table.schema if not pa.types.is_nested(field.type)]
    dictionary_columns = tuple(name for name in flat if len(table[name].unique()) <= MAX_DICTIONARY_VALUES)
    sink = ParquetPartSink(
        path.parent, table.schema, fingerprint, dictionary_columns, row_group_rows, names=(path.name,)
    )
    writer = _PartWriter(0, sink)
    try:
        for batch in table.to_batches():
            writer.write(batch)
        return writer.close()
    except BaseException:
        writer.discard()
        raise


def read_part(path: Path, part: int, fingerprint: str) -> PartFile | None:
    """Return the part that a stopped run has left at a path; None if it is missing, damaged or of another dataset."""
    footer = read_verified_footer(path)
    if footer is None or (footer.metadata or {}).get(FINGERPRINT_KEY) != fingerprint.encode():
        return None
    return PartFile(part, footer.num_rows, footer.num_row_groups)


def _slice_by_part(batch: pa.RecordBatch) -> Iterator[tuple[int, pa.RecordBatch]]:
    parts = batch.column(PART)
    start = 0
    while start < batch.num_rows:
        part = parts[start].as_py()
        length = pc.index(pc.not_equal(parts.slice(start), part), True).as_py()
        stop = batch.num_rows if length < 0 else start + length
        yield part, batch.slice(start, stop - start)
        start = stop


@contextmanager
def _add_path_to_errors(path: Path) -> Iterator[None]:
    """Add the path of a file to an `OSError` of the block, since pyarrow leaves the path out."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno) if error.errno else str(error), str(path)) from error


class _PartWriter:
    """Writer of one part; batches wait in memory until they fill a row group."""

    def __init__(self, part: int, sink: ParquetPartSink) -> None:
        self.part, self.sink = part, sink
        self.rows = self.row_groups = self.waiting_rows = 0
        self.waiting: list[pa.RecordBatch] = []
        fingerprint = sink.fingerprint
        # Spark may run two attempts to write a part at once and drop one, so each attempt has its own file.
        self.unfinished = sink.path(part).with_suffix(f".{secrets.token_hex(4)}{UNFINISHED}")
        self.file = pq.ParquetWriter(
            self.unfinished,
            sink.schema.with_metadata(None if fingerprint is None else {FINGERPRINT_KEY: fingerprint.encode()}),
            use_dictionary=list(sink.dictionary_columns),
            compression=COMPRESSION,
            compression_level=COMPRESSION_LEVEL,
            write_page_checksum=True,
        )

    def write(self, batch: pa.RecordBatch) -> None:
        columns = [batch.column(field.name).cast(field.type) for field in self.sink.schema]
        self.waiting.append(pa.RecordBatch.from_arrays(columns, schema=self.sink.schema))
        self.waiting_rows += batch.num_rows
        while self.waiting_rows > self.sink.row_group_rows:
            table = pa.Table.from_batches(self.waiting)
            size = self._next_row_group_rows(table)
            if size is None:
                return
            self._write_row_group(table.slice(0, size))
            self.waiting = table.slice(size).to_batches()
            self.waiting_rows = table.num_rows - size

    def _next_row_group_rows(self, table: pa.Table) -> int | None:
        """Return the number of rows of the next row group; None if all rows are one group, which may still grow."""
        size = self.sink.row_group_rows
        if self.sink.group is None:
            return size
        groups = table[self.sink.group].combine_chunks().fill_null(NO_GROUP)
        # starts[i] is true if row i + 1 begins a group, or has no group.
        starts = pc.or_(pc.not_equal(groups[1:], groups[:-1]), pc.equal(groups[1:], NO_GROUP))
        inside = starts[:size]
        if (last := _last_true(inside)) is not None:
            return last + 1
        next_start = pc.index(starts, True).as_py()  # The first group is larger than a row group.
        return next_start + 1 if next_start >= 0 else None

    def _write_row_group(self, table: pa.Table) -> None:
        with _add_path_to_errors(self.unfinished):
            self.file.write_table(table.combine_chunks(), row_group_size=max(1, table.num_rows))
        self.rows += table.num_rows
        self.row_groups += 1

    def close(self) -> PartFile:
        if self.waiting_rows:
            self._write_row_group(pa.Table.from_batches(self.waiting))
        with _add_path_to_errors(self.unfinished):
            self.file.close()
        self.unfinished.replace(self.sink.path(self.part))
        return PartFile(self.part, self.rows, self.row_groups)

    def discard(self) -> None:
        with suppress(OSError, pa.ArrowException):  # The first error, such as a full disk, is the one to report.
            self.file.close()
        self.unfinished.unlink(missing_ok=True)


def _last_true(flags: pa.Array) -> int | None:
    indices = pc.indices_nonzero(flags)
    return indices[-1].as_py() if len(indices) else None
