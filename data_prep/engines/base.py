"""Interface of an engine. All other work of the pipeline is Ibis expressions, which every engine runs alike."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import ibis.expr.types as ir
import pyarrow as pa

from data_prep.engines.look_up import Entries
from data_prep.sources.files import RawTable

PART = "__part"  # The column holds the number of the part of a row.


@dataclass(frozen=True)
class PartFile:
    """Part that was written."""

    part: int
    rows: int
    row_groups: int


class PartSink(Protocol):
    """Writer of parts in some layout.

    DuckDB passes the sorted rows in a thread of this process, Spark on an executor, to which the layout is pickled.
    """

    @property
    def folder(self) -> Path:
        """Folder of the parts."""

    @property
    def schema(self) -> pa.Schema:
        """Columns and types of a part, in order."""

    def write(self, batches: Iterable[pa.RecordBatch]) -> Iterator[PartFile]:
        """Write rows that come in the order of `PART`, and yield each part when it is complete."""


@dataclass(frozen=True)
class Unit:
    """Parts of a split that are computed together.

    Args:
        rows: Rows with `PART`, the columns of `order`, and the columns of `layout.schema` that no table of `more` has.
        order: Columns by which the rows of a part are sorted; no two rows are equal in all of them.
        layout: Layout of the parts.
        count: Number of the rows.
        more: Tables of the same rows with other columns of `layout.schema`, and with `order` and `PART`.
    """

    rows: ir.Table
    order: tuple[str, ...]
    layout: PartSink
    count: int
    more: tuple[ir.Table, ...] = ()

    def tables(self) -> Iterator[ir.Table]:
        """Yield `rows` and the tables of `more`, each with `PART`, `order` and its columns of the layout."""
        keys = [PART, *self.order]
        for rows in (self.rows, *self.more):
            columns = set(rows.columns)
            yield rows.select(list(dict.fromkeys([*keys, *(n for n in self.layout.schema.names if n in columns)])))


class Engine(Protocol):
    """Engine of one run of the pipeline.

    Attributes:
        span: Most consecutive integers over which an inner join is faster than a left join; 0 if it never is.
        streams: Most units that are written at a time.
        verifies_pages: True if the engine compares pages of raw Parquet files with their checksums as it reads.
    """

    span: int
    streams: int
    verifies_pages: bool

    def scan(self, table: RawTable, columns: Sequence[str], first: int = 0, last: int | None = None) -> ir.Table:
        """Return columns of the rows of Parquet files, and `POSITION`, an `int64` that counts the rows of all files.

        Columns in the names of folders (`day=2022-04-25`) count as columns of the files.

        Args:
            table: Table of the files.
            columns: Names of the columns.
            first: Position of the first row.
            last: Position after the last row; None to read all rows from `first` on.
        """

    def read(self, files: Sequence[Path], columns: Sequence[str] | None = None, every: int = 1) -> ir.Table:
        """Read Parquet files of this machine, in any order of rows.

        Args:
            files: Paths of the files.
            columns: Names of the columns; None for all.
            every: Distance between the rows that are read of a file, from its first row on.
        """

    def named(self, rows: ir.Table) -> ir.Table:
        """Return `rows` under a name, not computed, so that a query over them is compiled without their expressions."""

    def narrow(self, rows: ir.Table, columns: Sequence[str]) -> ir.Table:
        """Return some columns of a table of `named`, so that a query over them is compiled for these alone."""

    def look_up(self, rows: ir.Table, vocabularies: Mapping[str, Entries]) -> ir.Table:
        """Return `rows`, not computed, with a column `<column>__row` for each column that has a vocabulary.

        Args:
            rows: Rows with the columns of raw values.
            vocabularies: Vocabularies by column of the rows, in the order in which they are joined.
        """

    def keep(self, name: str, rows: ir.Table) -> ir.Table:
        """Compute `rows` and keep the result on the disk for later queries; it replaces an older one of that name."""

    def fetch(self, rows: ir.Table) -> pa.Table:
        """Compute a few rows and return them, in order if `rows` is ordered."""

    def unit_rows(self, columns: int) -> int:
        """Return the most rows that a unit of so many columns may have."""

    def write_units(
        self, units: Iterable[Unit], columns: int, advance: Callable[[int], None]
    ) -> Generator[tuple[Unit, list[PartFile]]]:
        """Write the parts of units, several units at a time if they fit in memory.

        Args:
            units: Units, each of which is requested when it can be started.
            columns: Number of columns of a part; a bag counts as many as it has items.
            advance: Function that gets the number of rows just written; any thread may call it.

        Yields:
            Each unit with its parts when it is written, in any order.
        """

    def write_parts(self, rows: ir.Table, order: Sequence[str], layout: PartSink) -> list[PartFile]:
        """Write a part for each value of `PART`, its rows sorted by `order`, and return the parts."""

    def close(self) -> None:
        """Release the resources of the engine."""
