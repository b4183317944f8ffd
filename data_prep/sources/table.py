"""`RawFile` and `RawTable`: Parquet files whose footers are known, and what is asked of their columns."""

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
from typing import TYPE_CHECKING, Literal, Protocol
from zoneinfo import ZoneInfo

import pyarrow as pa

from data_prep.sources.columns import Columns, Reader, check_columns
from data_prep.sources.remote import identity_now, open_raw_parquet
from ple_rec.errors import DataError
from ple_rec.storage import is_address

if TYPE_CHECKING:
    from data_prep.sources.text import TextSource

POSITION = "__position"  # the column that counts the rows of a table, over all its files
UTC_OFFSETS = ("+00:00", "-00:00")
_OFFSET = re.compile(r"[+-]\d\d:\d\d")
_SHOWN = 80  # characters of a value that a message shows
_THREADS = 8  # which ask for files, and wait for a store most of their time
Stamp = tuple[int | str, ...]
Want = Literal["number", "integer", "time", "id", "day"]
_WANTED: Mapping[Want, tuple[pa.DataType, ...]] = {  # what a text may convert to
    "number": (pa.float64(), pa.bool_()),
    "integer": (pa.int64(),),
    "time": (pa.timestamp("us"), pa.timestamp("us", "UTC")),
}


@dataclass(frozen=True)
class RawFile:
    """A Parquet file to read.

    Args:
        path: Absolute, or an address of a store. Of a text file: the Parquet file that it was converted to.
        shown: What messages call it: the user's file, relative to `--from` where it lies below that.
        rows: Rows.
        row_groups: Rows of each row group.
        size: Of the user's file, in bytes.
        identity: Hex digest of the user's file: of its content, or of what an object store says about it.
        partitions: Columns that folder names hold (`day=1`), by name.
        columns: Columns in the file.
        converted: Whether `path` is a conversion, whose row groups mean nothing to the user.
        text: Text file that it was converted from, if that has one row a line.
        zones: Time zones that the file names for its timestamps, by column.
        stamp: Text that changes when the file does, taken when it was listed: `stamp_of` of a local file, the identity
            of an object; empty for a file that is not watched.
    """

    path: str
    shown: str
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


def stamp_of(found: os.stat_result) -> Stamp:
    """Return what changes when a local file does: size, time of change, inode."""
    return (found.st_size, found.st_mtime_ns, found.st_ino)


class Stamped(Protocol):
    """A file whose change can be noticed."""

    @property
    def path(self) -> str:
        """Path or address."""

    @property
    def shown(self) -> str:
        """Name in messages."""

    @property
    def size(self) -> int:
        """Bytes when it was listed."""

    @property
    def stamp(self) -> Stamp:
        """Stamp when it was listed; empty for a file that is not watched."""


@contextmanager
def refuse_changes(files: Collection[Stamped], fix: str = "run again when nothing writes to them") -> Iterator[None]:
    """Check that files stay as they were listed while the block reads them.

    An error that the block raises about the data gives way to that of a file that has changed, which explains it.

    Args:
        files: Files that are read.
        fix: Fix in the message.

    Raises:
        DataError: As `check_unchanged`.
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
        files: Files that are read.
        fix: Fix in the message.

    Raises:
        DataError: A file is no longer the one that was listed.
    """
    watched = [file for file in files if file.stamp]
    with ThreadPoolExecutor(_THREADS) as pool:
        for file, value in zip(watched, pool.map(_change_of, watched), strict=True):
            if value is not None:
                raise DataError(file.shown, value, "raw files stay as they are while they are read", fix)


def _change_of(file: Stamped) -> str | None:
    """What has happened to a file since it was listed; None where it is the same."""
    try:
        now: Stamp = (identity_now(file.path),) if is_address(file.path) else stamp_of(Path(file.path).stat())
        return None if now == file.stamp else "it has changed while it was read"
    except OSError as error:
        said = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        return f"it can no longer be read ({said})"


@dataclass(frozen=True)
class RawTable:
    """The files of the log or of a side table.

    Args:
        name: `log`, or the name of the side table.
        files: In the order of their `shown` names, so that a listing's order does not matter.
        schema: All columns of the first file, then those of the folders: `int64` where every value is an integer
            and no two are the same one (7 and 007), else `string`. Types are plain ones: no dictionaries, no `large_`
            variants, no view types.
        rows: Rows of all files.
        starts: Position of each file's first row.
    """

    name: str
    files: tuple[RawFile, ...]
    schema: pa.Schema
    rows: int
    starts: tuple[int, ...]

    def locate(self, position: int) -> str:
        """Return where a row lies, for messages: `log/day=1/part-0003.parquet, row group 2, row 17`. Both count from 0.

        Of a text file it is the line on which the row begins, `log.csv, line 19`. That takes reading the file up to it.

        Args:
            position: Of the row, from 0 to `rows` - 1.
        """
        index = self._index_of(position)
        file, row = self.files[index], position - self.starts[index]
        if file.text is not None:
            return f"{file.shown}, line {file.text.line_of(row)}"
        if file.converted:
            return f"{file.shown}, row {row}"
        starts = (0, *accumulate(file.row_groups))
        group = bisect_right(starts, row) - 1
        return f"{file.shown}, row group {group}, row {row - starts[group]}"

    def file_of(self, position: int) -> RawFile:
        """Return the file that a row lies in."""
        return self.files[self._index_of(position)]

    def _index_of(self, position: int) -> int:
        if not 0 <= position < self.rows:
            raise IndexError(f"position {position} of {self.rows} rows")
        return bisect_right(self.starts, position) - 1

    def example(self, column: str) -> tuple[str, str]:
        """Place and text of the first value of a column, for messages; no text where the first file has none."""
        file = self.files[0]
        if column in file.partitions:
            return file.shown, f"{column}={file.partitions[column]}"
        try:
            with open_raw_parquet(file.path) as parquet:
                for group in range(parquet.num_row_groups):
                    for value in parquet.read_row_group(group, [column])[column]:
                        if value.is_valid:
                            where = "" if file.converted else f", row group {group}"
                            return f"{file.shown}{where}, column {column!r}", f"got {shown_value(value.as_py())}"
        except (OSError, ValueError, KeyError, pa.ArrowException):
            pass  # what is wrong with the file is said by whoever reads it whole
        return f"{file.shown}, column {column!r}", ""

    def offsets(self, column: str) -> tuple[str, ...]:
        """Return the UTC offsets, but UTC's own, that timestamps of a column have by the first file: its text or zone.

        Parquet keeps moments alone, beside the name of the zone that the writer has shown them in.
        """
        file = self.files[0]
        return file.text.offsets.get(column, ()) if file.text is not None else zone_offsets(file.zones.get(column, ""))

    def misfit(self, column: str, want: Want) -> tuple[str, str] | None:
        """Return place and text of the first cell of a text column that is not what is wanted; None where all are.

        Args:
            column: Column of files that were converted from text.
            want: `number`, `integer` or `time`; the first cell decides which of them, e.g. whether times have a zone.
        """
        kind: pa.DataType | None = None
        for start, texts in self._texts(column):
            if kind is None and texts.null_count < len(texts):
                first = texts.drop_null()[:1]
                kind = next((kind for kind in _WANTED[want] if _converts(first, kind)), _WANTED[want][0])
            if kind is not None and (bad := _first_misfit(texts, kind)) >= 0:
                place = f"{self.locate(start + bad)}, column {column!r}"
                return place, f"got {shown_value(texts[bad].as_py())}"
        return None

    def _texts(self, column: str) -> Iterator[tuple[int, pa.Array]]:
        """Yield the texts of a column by row groups, with the position of the first, as far as they can be read."""
        for file, start in zip(self.files, self.starts, strict=True):
            try:
                with open_raw_parquet(file.path) as parquet:
                    for group in range(parquet.num_row_groups):
                        texts = parquet.read_row_group(group, [column])[column].combine_chunks()
                        yield start, texts
                        start += len(texts)
            except (OSError, ValueError, KeyError, pa.ArrowException):
                return  # what is wrong with the file is said by whoever reads it whole

    def digest(self) -> str:
        """Hex digest of all that the rows depend on: content and names of the files, and the schema."""
        files = [[file.shown, file.identity, file.rows, dict(sorted(file.partitions.items()))] for file in self.files]
        schema = [[field.name, str(field.type)] for field in self.schema]
        return hashlib.sha256(json.dumps([files, schema]).encode()).hexdigest()

    def check_columns(
        self,
        needed: Sequence[str],
        place: str,
        readers: Mapping[str, Reader] = MappingProxyType({}),
        words: Sequence[str] = (),
    ) -> None:
        """Check that every file has the needed columns, of one type that can be read.

        Args:
            needed: Names of columns.
            place: What needs them, for messages.
            readers: What in particular needs a column, by its name.
            words: Names beside the columns that may have been meant.

        Raises:
            DataError: A file lacks one, or has it twice, or of another type than the first file, or of a type that
                the pipeline cannot read.
        """
        check_columns(self.files, needed, place, readers, words)


def zone_offsets(zone: str) -> tuple[str, ...]:
    """Return the UTC offsets of a time zone in winter and summer, but UTC's own; none of a zone that is not known."""
    if _OFFSET.fullmatch(zone):
        found = {zone}
    else:
        try:
            found = {datetime(2024, month, 1, tzinfo=ZoneInfo(zone)).isoformat()[-6:] for month in (1, 7)}
        except (KeyError, ValueError, OSError):
            return ()
    return tuple(sorted(found - set(UTC_OFFSETS)))


def _first_misfit(texts: pa.Array, kind: pa.DataType) -> int:
    """Return the index of the first text that does not convert to a type; -1 where all do."""
    if _converts(texts, kind):
        return -1
    first, last = 0, len(texts)
    while last - first > 1:
        middle = (first + last) // 2
        first, last = (middle, last) if _converts(texts[first:middle], kind) else (first, middle)
    return first


def _converts(texts: pa.Array, kind: pa.DataType) -> bool:
    try:
        texts.cast(kind)
    except pa.ArrowInvalid:
        return False
    return True


def shown_value(value: object) -> str:
    """A value as messages show it."""
    text = "missing" if value is None else str(value) if isinstance(value, date | Decimal) else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def raw_table(name: str, files: Sequence[RawFile], schema: pa.Schema) -> RawTable:
    """A table of `files`, which are in order."""
    starts = tuple(accumulate((file.rows for file in files), initial=0))
    return RawTable(name, tuple(files), schema, starts[-1], starts[:-1])
