"""Parquet parts from a stream of rows: the same rows give the same bytes, whatever engine they come from."""

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

from data_prep.output.writer import UNFINISHED
from ple_rec.config.schema import FINGERPRINT_KEY

PART = "__part"
COMPRESSION = "zstd"
COMPRESSION_LEVEL = 1
NO_GROUP = -1  # the group of a row without one, as readers see it
DICTIONARY_LIMIT = 65_536  # distinct values up to which `write_part` dictionary-encodes a column


@dataclass(frozen=True)
class PartLayout:
    """Where parts go and how they look.

    Args:
        folder: One split's.
        schema: Columns and types of a part, in order.
        fingerprint: For the parts' metadata, if any.
        dictionary: Columns to dictionary-encode; Parquet gives it up by itself where a column has too many values.
        row_group_rows: Rows of a row group, at most; exactly so many but for the last of a part without `group`.
        group: Column whose equal values, which stand together, share a row group; but for nulls and -1, which are none.
        names: Names of the files by part; by default `part-00000.parquet` and so on.
    """

    folder: Path
    schema: pa.Schema
    fingerprint: str | None
    dictionary: tuple[str, ...]
    row_group_rows: int
    group: str | None = None
    names: tuple[str, ...] = ()

    def path(self, part: int) -> Path:
        """Return the file of a part."""
        return self.folder / (self.names[part] if self.names else f"part-{part:05d}.parquet")

    def write_empty(self, part: int) -> PartFile:
        """Write a part without rows."""
        return _Writer(part, self).close()


@dataclass(frozen=True)
class PartFile:
    """A part that was written."""

    part: int
    rows: int
    row_groups: int


def write_stream(batches: Iterable[pa.RecordBatch], layout: PartLayout) -> Iterator[PartFile]:
    """Write rows that come in the order of `PART` as a file for each of its values.

    A file appears under its name when it is complete, and replaces one of that name.

    Args:
        batches: The columns of `layout.schema`, and `PART`.
        layout: Of the parts.

    Yields:
        Each part, when it is complete.
    """
    writer: _Writer | None = None
    try:
        for batch in batches:
            for part, rows in _by_part(batch):
                if writer is not None and writer.part != part:
                    yield writer.close()
                    writer = None
                if writer is None:
                    writer = _Writer(part, layout)
                writer.write(rows)
        if writer is not None:
            yield writer.close()
            writer = None
    finally:
        if isinstance(batches, Generator):  # a query that nobody reads any more must end before its engine does
            batches.close()
        if writer is not None:
            writer.abandon()


def write_part(path: Path, table: pa.Table, fingerprint: str, row_group_rows: int) -> PartFile:
    """Write one part of rows at hand; columns of few distinct values are dictionary-encoded, bags are not.

    Args:
        path: The file, which appears when it is complete.
        table: The rows, in order.
        fingerprint: For the part's metadata.
        row_group_rows: Rows of a row group, exactly so many but for the last.
    """
    flat = [field.name for field in table.schema if not pa.types.is_nested(field.type)]
    few = tuple(name for name in flat if len(table[name].unique()) <= DICTIONARY_LIMIT)
    layout = PartLayout(path.parent, table.schema, fingerprint, few, row_group_rows, names=(path.name,))
    writer = _Writer(0, layout)
    try:
        for batch in table.to_batches():
            writer.write(batch)
        return writer.close()
    except BaseException:
        writer.abandon()
        raise


def footer_if_whole(path: Path) -> pq.FileMetaData | None:
    """Return the footer of a file that a stopped run has left; None, and remove it, where a page of it is damaged.

    Every page is read and compared with its checksum: a disk may lose what a run has written, or give other bytes back.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for group in range(file.num_row_groups):
                file.read_row_group(group)
            return file.metadata
    except (OSError, ValueError, pa.ArrowException):  # also a name that is no UTF-8
        path.unlink(missing_ok=True)
        return None


def read_part(path: Path, part: int, fingerprint: str) -> PartFile | None:
    """Return a part that a stopped run has left, if it is whole and of the dataset, else None."""
    footer = footer_if_whole(path)
    if footer is None or (footer.metadata or {}).get(FINGERPRINT_KEY) != fingerprint.encode():
        return None
    return PartFile(part, footer.num_rows, footer.num_row_groups)


def _by_part(batch: pa.RecordBatch) -> Iterator[tuple[int, pa.RecordBatch]]:
    parts = batch.column(PART)
    start = 0
    while start < batch.num_rows:
        part = parts[start].as_py()
        later = pc.index(pc.not_equal(parts.slice(start), part), True).as_py()
        stop = batch.num_rows if later < 0 else start + later
        yield part, batch.slice(start, stop - start)
        start = stop


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Let what goes wrong with a file tell its name; pyarrow tells none."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno) if error.errno else str(error), str(path)) from error


class _Writer:
    """One part under way."""

    def __init__(self, part: int, layout: PartLayout) -> None:
        self.part, self.layout = part, layout
        self.rows = self.row_groups = self.waiting_rows = 0
        self.waiting: list[pa.RecordBatch] = []
        mark = layout.fingerprint
        # Of this attempt alone: Spark may make a part twice at a time, and give up either attempt.
        self.unfinished = layout.path(part).with_suffix(f".{secrets.token_hex(4)}{UNFINISHED}")
        self.file = pq.ParquetWriter(
            self.unfinished,
            layout.schema.with_metadata(None if mark is None else {FINGERPRINT_KEY: mark.encode()}),
            use_dictionary=list(layout.dictionary),
            compression=COMPRESSION,
            compression_level=COMPRESSION_LEVEL,
            write_page_checksum=True,
        )

    def write(self, batch: pa.RecordBatch) -> None:
        columns = [batch.column(field.name).cast(field.type) for field in self.layout.schema]
        self.waiting.append(pa.RecordBatch.from_arrays(columns, schema=self.layout.schema))
        self.waiting_rows += batch.num_rows
        while self.waiting_rows > self.layout.row_group_rows:
            table = pa.Table.from_batches(self.waiting)
            cut = self._cut(table)
            if cut is None:
                return
            self._row_group(table.slice(0, cut))
            self.waiting = table.slice(cut).to_batches()
            self.waiting_rows = table.num_rows - cut

    def _cut(self, table: pa.Table) -> int | None:
        """Rows of the next row group; None where its last group may go on in the next batch."""
        size = self.layout.row_group_rows
        if self.layout.group is None:
            return size
        groups = table[self.layout.group].combine_chunks().fill_null(NO_GROUP)
        # starts[i]: row i + 1 begins a group, or has none
        starts = pc.or_(pc.not_equal(groups[1:], groups[:-1]), pc.equal(groups[1:], NO_GROUP))
        inside = starts[:size]
        if (last := _last_true(inside)) is not None:
            return last + 1
        later = pc.index(starts, True).as_py()  # a group larger than a row group
        return later + 1 if later >= 0 else None

    def _row_group(self, table: pa.Table) -> None:
        with _named(self.unfinished):
            self.file.write_table(table.combine_chunks(), row_group_size=max(1, table.num_rows))
        self.rows += table.num_rows
        self.row_groups += 1

    def close(self) -> PartFile:
        if self.waiting_rows:
            self._row_group(pa.Table.from_batches(self.waiting))
        with _named(self.unfinished):
            self.file.close()
        self.unfinished.replace(self.layout.path(self.part))
        return PartFile(self.part, self.rows, self.row_groups)

    def abandon(self) -> None:
        with suppress(OSError, pa.ArrowException):  # as on a disk that is full, which has been said
            self.file.close()
        self.unfinished.unlink(missing_ok=True)


def _last_true(flags: pa.Array) -> int | None:
    found = pc.indices_nonzero(flags)
    return found[-1].as_py() if len(found) else None
