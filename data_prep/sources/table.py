"""Raw files and raw tables of a preparation, and checks of both.

A `RawFile` is a Parquet file whose footer has been read. It is either a file of the user, or the conversion of a CSV
file of the user to Parquet. A `RawTable` is the log (the impressions) or a side table (such as the users), and has one
or more raw files. The position of a row is its number, from 0, over all files of its table in order. A folder name
such as `day=1` (a Hive partition) gives a column `day` to all files in the folder; such columns are called columns of
folders. The option `--from` names the folder or store in which the user's files lie.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from itertools import accumulate
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol
from zoneinfo import ZoneInfo

import pyarrow as pa

from data_prep.sources.columns import Columns, ColumnUse, check_columns
from data_prep.sources.remote import identity_now, open_raw_parquet
from ple_rec.errors import DataError
from ple_rec.storage import is_address

if TYPE_CHECKING:
    from data_prep.sources.text import TextSource

POSITION = "__position"  # Name of the column with the position of each row.
ZERO_OFFSETS = ("+00:00", "-00:00")  # Offsets of UTC itself.
_OFFSET = re.compile(r"[+-]\d\d:\d\d")
_MAX_CHARACTERS = 80  # A message shows this many characters of a value.
_THREADS = 8  # The threads mostly wait for an object store, so their number need not depend on the cores.
Stamp = tuple[int | str, ...]  # Values that change when a file does; see `stamp_of`.
ColumnPurpose = Literal["number", "integer", "time", "id", "day"]  # What the values of a column are read as.
# Types to which a column of texts may be converted for a purpose, the preferred type first.
_TARGETS: Mapping[ColumnPurpose, tuple[pa.DataType, ...]] = {
    "number": (pa.float64(), pa.bool_()),
    "integer": (pa.int64(),),
    "time": (pa.timestamp("us"), pa.timestamp("us", "UTC")),
}


@dataclass(frozen=True)
class RawFile:
    """Parquet file to read: a file of the user, or the conversion of a CSV file of the user.

    Args:
        path: Absolute path or address of the Parquet file.
        display_name: Name of the user's file in messages: its path relative to `--from`, or its full path if it lies
            elsewhere.
        rows: Number of rows.
        row_groups: Number of rows of each row group.
        size: Size of the user's file in bytes.
        identity: Hex digest of the content of the user's file, or of the tag that an object store gives it. It is empty
            if the content was not digested.
        partitions: Text values of the columns of folders, by name: `day=1` gives {"day": "1"}.
        columns: Names and types of the columns in the file, without the columns of folders.
        converted: True if the file is a conversion. Messages then leave out its row groups, which the user cannot see.
        stamp: Stamp of the file when it was listed: the result of `stamp_of` for a local file, the identity for an
            object in a store. It is empty if changes of the file need not be noticed.
        text: CSV file from which the Parquet file was converted, if messages can name its lines; else None.
        zones: Names of the time zones in the file's metadata for its columns of timestamps, by column.
    """

    path: str
    display_name: str
    rows: int
    row_groups: tuple[int, ...]
    size: int
    identity: str
    partitions: Mapping[str, str] = field(hash=False)
    columns: Columns
    converted: bool = False
    stamp: Stamp = ()
    text: TextSource | None = None
    zones: Mapping[str, str] = field(default_factory=dict, hash=False)


def stamp_of(status: os.stat_result) -> Stamp:
    """Return the stamp of a local file: its size, time of last change and inode."""
    return (status.st_size, status.st_mtime_ns, status.st_ino)


class Stamped(Protocol):
    """File with a stamp, by which a change since the file was listed is noticed."""

    @property
    def path(self) -> str:
        """Path of a local file, or address of an object in a store."""

    @property
    def display_name(self) -> str:
        """Name in messages."""

    @property
    def size(self) -> int:
        """Size in bytes when the file was listed."""

    @property
    def stamp(self) -> Stamp:
        """Stamp when the file was listed; empty if its changes need not be noticed."""


@contextmanager
def refuse_changes(files: Collection[Stamped], fix: str = "run again when nothing writes to them") -> Iterator[None]:
    """Check at the end of a `with` block that the files which it reads have not changed since they were listed.

    The files are also checked if the block raises a `DataError`, since the change of a file may be its cause. If a file
    has changed, an error that says so replaces the error of the block.

    Args:
        files: Files that the block reads.
        fix: Advice at the end of the error message.

    Raises:
        DataError: A file has changed; otherwise, the `DataError` that the block has raised.
    """
    try:
        yield
    except DataError:
        check_unchanged(files, fix)
        raise
    check_unchanged(files, fix)


def check_unchanged(files: Collection[Stamped], fix: str) -> None:
    """Refuse files that were replaced, changed or removed since they were listed.

    Args:
        files: Files to check; files with an empty stamp are skipped.
        fix: Advice at the end of the error message.

    Raises:
        DataError: A file was replaced, changed or removed.
    """
    watched = [file for file in files if file.stamp]
    with ThreadPoolExecutor(_THREADS) as pool:
        for file, value in zip(watched, pool.map(_describe_change, watched), strict=True):
            if value is not None:
                raise DataError(file.display_name, value, "raw files stay as they are while they are read", fix)


def _describe_change(file: Stamped) -> str | None:
    """Return a text for messages that says how a file has changed since it was listed; None if it is unchanged."""
    try:
        now: Stamp = (identity_now(file.path),) if is_address(file.path) else stamp_of(Path(file.path).stat())
        return None if now == file.stamp else "it has changed while it was read"
    except OSError as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        return f"it can no longer be read ({reason})"


@dataclass(frozen=True)
class RawTable:
    """The log or a side table: its raw files and their common schema.

    Args:
        name: `log`, or the name of the side table.
        files: Files, sorted by `display_name`, so that positions do not depend on the order of a listing.
        schema: Columns of the first file, followed by the columns of folders. A column of folders is `int64` if all its
            values are integers that stay distinct as numbers; otherwise, as with the values 7 and 007, it is `string`.
            Types have no variants of the layout in memory, such as dictionary, `large_string` or `string_view`.
        rows: Number of rows in all files.
        starts: Position of the first row of each file.
    """

    name: str
    files: tuple[RawFile, ...]
    schema: pa.Schema
    rows: int
    starts: tuple[int, ...]

    def locate(self, position: int) -> str:
        """Return the place of a row for messages: `log/day=1/part-0003.parquet, row group 2, row 17`.

        Row groups, and the rows of a row group, count from 0. For a row of a CSV file the result names the line on
        which the row begins: `log.csv, line 19`. To count lines, this method reads the CSV file up to that row. If a
        converted file has no `text`, the result names the row in the whole file, from 0.

        Args:
            position: Position of the row in the table, from 0 to `rows` - 1.
        """
        index = self._file_index(position)
        file, row = self.files[index], position - self.starts[index]
        if file.text is not None:
            return f"{file.display_name}, line {file.text.line_of(row)}"
        if file.converted:
            return f"{file.display_name}, row {row}"
        starts = (0, *accumulate(file.row_groups))
        group = bisect_right(starts, row) - 1
        return f"{file.display_name}, row group {group}, row {row - starts[group]}"

    def file_at(self, position: int) -> RawFile:
        """Return the file that contains the row at a position."""
        return self.files[self._file_index(position)]

    def _file_index(self, position: int) -> int:
        """Return the index of the file that contains the row at a position."""
        if not 0 <= position < self.rows:
            raise IndexError(f"position {position} of {self.rows} rows")
        return bisect_right(self.starts, position) - 1

    def find_example(self, column: str) -> tuple[str, str]:
        """Return the place of an example value of a column, and its text for messages, such as `got 7`.

        The text is `day=1` for a column of folders. Only the first file is read. If that file has no value in the
        column, or cannot be read, the text is empty.
        """
        file = self.files[0]
        if column in file.partitions:
            return file.display_name, f"{column}={file.partitions[column]}"
        try:
            with open_raw_parquet(file.path) as parquet:
                for group in range(parquet.num_row_groups):
                    for value in parquet.read_row_group(group, [column])[column]:
                        if value.is_valid:
                            where = "" if file.converted else f", row group {group}"
                            return f"{file.display_name}{where}, column {column!r}", f"got {shown_value(value.as_py())}"
        except (OSError, ValueError, KeyError, pa.ArrowException):
            pass  # The pass that reads the whole file reports the error.
        return f"{file.display_name}, column {column!r}", ""

    def utc_offsets(self, column: str) -> tuple[str, ...]:
        """Return the UTC offsets of a column's timestamps in the first file, such as +08:00, without +00:00.

        For a CSV file, these are the offsets in its texts. A Parquet file stores timestamps in UTC, and may name a time
        zone in the type of the column; then these are the offsets of that zone.
        """
        file = self.files[0]
        return file.text.offsets.get(column, ()) if file.text is not None else zone_offsets(file.zones.get(column, ""))

    def find_misfit(self, column: str, purpose: ColumnPurpose) -> tuple[str, str] | None:
        """Find the first cell of a text column that cannot be converted to the type that the column is read as.

        The first value of the column decides the type of all cells. It is the first type in `_TARGETS[purpose]` to
        which this value can be converted, such as timestamps with or without a zone.

        Args:
            column: Name of a column of texts.
            purpose: Kind of value that the texts stand for: `number`, `integer` or `time`.

        Returns:
            Place of the cell, and its text, such as `got 'x'`; None if all cells up to the first unreadable file
            convert.
        """
        kind: pa.DataType | None = None
        for start, texts in self._texts(column):
            if kind is None and texts.null_count < len(texts):
                first = texts.drop_null()[:1]
                kind = next((kind for kind in _TARGETS[purpose] if _converts(first, kind)), _TARGETS[purpose][0])
            if kind is not None and (bad := _first_misfit(texts, kind)) >= 0:
                place = f"{self.locate(start + bad)}, column {column!r}"
                return place, f"got {shown_value(texts[bad].as_py())}"
        return None

    def _texts(self, column: str) -> Iterator[tuple[int, pa.Array]]:
        """Yield the texts of a column by row group, each with the position of the group's first row.

        The first file that cannot be read ends the iteration.
        """
        for file, start in zip(self.files, self.starts, strict=True):
            try:
                with open_raw_parquet(file.path) as parquet:
                    for group in range(parquet.num_row_groups):
                        texts = parquet.read_row_group(group, [column])[column].combine_chunks()
                        yield start, texts
                        start += len(texts)
            except (OSError, ValueError, KeyError, pa.ArrowException):
                return  # The pass that reads the whole file reports the error.

    def digest(self) -> str:
        """Return a hex digest of the names and contents of the files and of the schema, which determine the rows."""
        files = [
            [file.display_name, file.identity, file.rows, dict(sorted(file.partitions.items()))] for file in self.files
        ]
        schema = [[field.name, str(field.type)] for field in self.schema]
        return hashlib.sha256(json.dumps([files, schema]).encode()).hexdigest()

    def check_columns(
        self,
        needed: Sequence[str],
        place: str,
        uses: Mapping[str, ColumnUse] = MappingProxyType({}),
        words: Sequence[str] = (),
    ) -> None:
        """Check that every file has the needed columns, and that the type of each can be read and is the same in all.

        Args:
            needed: Names of the columns.
            place: Name of the configuration file that needs the columns, for messages.
            uses: Key of the configuration whose expression reads the column, by name of the column.
            words: Names that an expression may use beside columns of the table, such as `users.age` of a side table. An
                error message may propose one of them.

        Raises:
            DataError: A file lacks a column, has it twice, or has it with another type than the first file, or with a
                type that the pipeline cannot read, or the folder of a file gives no value for it.
        """
        check_columns(self.files, needed, place, uses, words)


@dataclass(frozen=True)
class RawTables:
    """Raw tables of a preparation: the log and its side tables."""

    log: RawTable
    sides: Mapping[str, RawTable]

    @property
    def by_name(self) -> dict[str, RawTable]:
        """Raw tables by name; the log has the name `log`."""
        return {"log": self.log, **self.sides}

    @property
    def files(self) -> list[RawFile]:
        """Raw files of all tables."""
        return [file for table in self.by_name.values() for file in table.files]

    def listing(self) -> list[dict[str, Any]]:
        """Return one entry per raw file for `stats.json`, the statistics of a dataset."""
        return [
            {"table": name, "file": file.display_name, "rows": file.rows, "bytes": file.size, "identity": file.identity}
            for name, table in self.by_name.items()
            for file in table.files
        ]


def zone_offsets(zone: str) -> tuple[str, ...]:
    """Return the UTC offsets that a time zone has in winter and summer (1 January and 1 July 2024), without +00:00.

    Args:
        zone: Name of a time zone, or an offset such as +08:00. An unknown name has no offsets.
    """
    if _OFFSET.fullmatch(zone):
        offsets = {zone}
    else:
        try:
            offsets = {datetime(2024, month, 1, tzinfo=ZoneInfo(zone)).isoformat()[-6:] for month in (1, 7)}
        except (KeyError, ValueError, OSError):
            return ()
    return tuple(sorted(offsets - set(ZERO_OFFSETS)))


def _first_misfit(texts: pa.Array, kind: pa.DataType) -> int:
    """Return the index of the first text that does not convert to a type, or -1 if all convert."""
    if _converts(texts, kind):
        return -1
    first, last = 0, len(texts)
    while last - first > 1:
        middle = (first + last) // 2
        first, last = (middle, last) if _converts(texts[first:middle], kind) else (first, middle)
    return first


def _converts(texts: pa.Array, kind: pa.DataType) -> bool:
    """Return True if all texts convert to a type."""
    try:
        texts.cast(kind)
    except pa.ArrowInvalid:
        return False
    return True


def shown_value(value: object) -> str:
    """Return a value as messages show it."""
    text = "missing" if value is None else str(value) if isinstance(value, date | Decimal) else repr(value)
    return text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]}..."


def raw_table(name: str, files: Sequence[RawFile], schema: pa.Schema) -> RawTable:
    """Build a raw table from its files.

    Args:
        name: `log`, or the name of the side table.
        files: Files, sorted by `display_name`.
        schema: Schema of the table, see `RawTable`.
    """
    starts = tuple(accumulate((file.rows for file in files), initial=0))
    return RawTable(name, tuple(files), schema, starts[-1], starts[:-1])
