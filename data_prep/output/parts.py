"""Parquet parts that are written from a stream of rows; the same rows give the same bytes on every engine."""

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
from data_prep.sources.footers import footer_if_whole
from data_prep.transforms.columns import NO_GROUP
from ple_rec.config.schema import FINGERPRINT_KEY

COMPRESSION = "zstd"
COMPRESSION_LEVEL = 1
DICTIONARY_LIMIT = 65_536  # `write_part` dictionary-encodes a column of at most so many distinct values.


@dataclass(frozen=True)
class PartLayout:
    """Layout of the parts of a split: folder, columns, encoding and row groups.

    Args:
        folder: Folder of the split.
        schema: Columns and types of a part, in order.
        fingerprint: Fingerprint of the dataset for the metadata of the parts; None to write none.
        dictionary: Columns to dictionary-encode; Parquet stops by itself if a column has too many values.
        row_group_rows: Most rows of a row group. Without `group`, every row group but the last of a part has so many.
        group: Column whose equal values are adjacent and share a row group; nulls and -1 stand for no group.
        names: Names of the files by part; empty for `part-00000.parquet` and so on.
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

    def write(self, batches: Iterable[pa.RecordBatch]) -> Iterator[PartFile]:
        """Write a file for each value of `PART`.

        A file appears under its name when it is complete, and replaces an older file of that name.

        Args:
            batches: Rows in the order of `PART`, with the columns of `schema`, and `PART`.

        Yields:
            Each part when it is complete.
        """
        writer: _Writer | None = None
        try:
            for batch in batches:
                for part, rows in _by_part(batch):
                    if writer is not None and writer.part != part:
                        yield writer.close()
                        writer = None
                    if writer is None:
                        writer = _Writer(part, self)
                    writer.write(rows)
            if writer is not None:
                yield writer.close()
                writer = None
        finally:
            if isinstance(batches, Generator):  # An unfinished query must end before its engine is closed.
                batches.close()
            if writer is not None:
                writer.abandon()

    def write_empty(self, part: int) -> PartFile:
        """Write a part without rows."""
        return _Writer(part, self).close()


def write_part(path: Path, table: pa.Table, fingerprint: str, row_group_rows: int) -> PartFile:
    """Write a table as one part; columns of few distinct values are dictionary-encoded, bags are not.

    Args:
        path: Path of the part, which appears when it is complete.
        table: Rows of the part, in order.
        fingerprint: Fingerprint of the dataset for the metadata of the part.
        row_group_rows: Rows of every row group but the last.
    """
    flat = [field.name for field in table.schema if not pa.types.is_nested(field.type)]
    dictionary = tuple(name for name in flat if len(table[name].unique()) <= DICTIONARY_LIMIT)
    layout = PartLayout(path.parent, table.schema, fingerprint, dictionary, row_group_rows, names=(path.name,))
    writer = _Writer(0, layout)
    try:
        for batch in table.to_batches():
            writer.write(batch)
        return writer.close()
    except BaseException:
        writer.abandon()
        raise


def read_part(path: Path, part: int, fingerprint: str) -> PartFile | None:
    """Return the part at a path, which a stopped run may have left; None unless it is whole and of this dataset."""
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
    """Add the path of a file to an `OSError`, since pyarrow leaves it out."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno) if error.errno else str(error), str(path)) from error


class _Writer:
    """Writer of one part."""

    def __init__(self, part: int, layout: PartLayout) -> None:
        self.part, self.layout = part, layout
        self.rows = self.row_groups = self.waiting_rows = 0
        self.waiting: list[pa.RecordBatch] = []
        mark = layout.fingerprint
        # Spark may write a part twice at a time and give up either attempt, so each attempt has its own file.
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
        """Return the rows of the next row group; None if its last group may continue in the next batch."""
        size = self.layout.row_group_rows
        if self.layout.group is None:
            return size
        groups = table[self.layout.group].combine_chunks().fill_null(NO_GROUP)
        # starts[i] is true if row i + 1 begins a group, or has none.
        starts = pc.or_(pc.not_equal(groups[1:], groups[:-1]), pc.equal(groups[1:], NO_GROUP))
        inside = starts[:size]
        if (last := _last_true(inside)) is not None:
            return last + 1
        later = pc.index(starts, True).as_py()  # The first group is larger than a row group.
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
        with suppress(OSError, pa.ArrowException):  # The first error, such as a full disk, is the one to report.
            self.file.close()
        self.unfinished.unlink(missing_ok=True)


def _last_true(flags: pa.Array) -> int | None:
    indices = pc.indices_nonzero(flags)
    return indices[-1].as_py() if len(indices) else None
