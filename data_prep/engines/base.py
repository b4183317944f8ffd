"""Interface of an engine: DuckDB (`duck.py`) or Spark (`spark.py`), which computes a data preparation.

The pipeline describes rows by Ibis expressions, which mean the same on every engine. An engine compiles an expression
to SQL, runs it, and passes sorted rows to a `PartSink`, which writes them to files. Terms:

    part   one Parquet file of a split (train, valid or test)
    unit   consecutive parts of a split that are computed, sorted and written together, as many as fit in memory
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import ibis.expr.types as ir
import pyarrow as pa

from data_prep.engines.look_up import LookupTable
from data_prep.sources.files import RawTable

PART = "__part"  # Name of the column with the number of the part that a row belongs to.


@dataclass(frozen=True)
class PartFile:
    """A part that has been written: its number, its rows and its row groups."""

    part: int
    rows: int
    row_groups: int


class PartSink(Protocol):
    """Receiver of sorted rows, which writes them to the files of parts.

    DuckDB calls `write` on a thread of this process, Spark on an executor, to which the sink is pickled.
    """

    @property
    def folder(self) -> Path:
        """Folder of the parts."""

    @property
    def schema(self) -> pa.Schema:
        """Columns and types of a part, in order."""

    def write(self, batches: Iterable[pa.RecordBatch]) -> Iterator[PartFile]:
        """Write rows, which are sorted by `PART`, and yield each part when its file is complete."""


@dataclass(frozen=True)
class Unit:
    """Consecutive parts of a split that an engine computes, sorts and writes together.

    A query over very many columns takes long to compile, so the columns may be divided among several tables, which hold
    the same rows.

    Args:
        rows: Rows with `PART`, the columns of `order`, and all columns of `sink.schema` that `more_columns` lacks.
        order: Columns by which the rows of a part are sorted; no two rows are equal in all of them.
        sink: Receiver of the sorted rows.
        row_count: Number of rows. Implementations of `Engine.write_parts`, which do not know it, set it to 0.
        more_columns: Tables of the same rows with `PART`, the columns of `order`, and other columns of `sink.schema`.
    """

    rows: ir.Table
    order: tuple[str, ...]
    sink: PartSink
    row_count: int
    more_columns: tuple[ir.Table, ...] = ()

    def tables(self) -> Iterator[ir.Table]:
        """Yield `rows` and the tables of `more_columns`, each with `PART`, `order` and its columns of `sink.schema`."""
        keys = [PART, *self.order]
        for rows in (self.rows, *self.more_columns):
            columns = set(rows.columns)
            yield rows.select(list(dict.fromkeys([*keys, *(n for n in self.sink.schema.names if n in columns)])))


class Engine(Protocol):
    """Engine of one run of the pipeline. Its methods return lazy tables unless they say that they compute.

    Attributes:
        max_inner_join_span: Widest range of integer keys for which an inner join is faster than a left join, if the
            right table is filled up to have every key of the range, as a spread vocabulary is (`look_up.py`); 0 if it
            never is.
        max_concurrent_units: Largest number of units that are written at the same time.
        verifies_pages: True if the engine compares pages of raw Parquet files with their checksums as it reads.
    """

    max_inner_join_span: int
    max_concurrent_units: int
    verifies_pages: bool

    def scan(self, table: RawTable, columns: Sequence[str], first: int = 0, stop: int | None = None) -> ir.Table:
        """Return rows of a raw table: some columns, and `POSITION`, the number of a row over all files of the table.

        The rows are in any order. `POSITION` is an `int64` that counts from 0. A column in the names of folders
        (`day=2022-04-25`) is read like a column of the files.

        Args:
            table: Raw table, whose files are Parquet files.
            columns: Names of the columns.
            first: Position of the first row.
            stop: Position after the last row; None to read all rows from `first` on.
        """

    def read(self, files: Sequence[Path], columns: Sequence[str] | None = None, stride: int = 1) -> ir.Table:
        """Read Parquet files of this machine, in any order of rows.

        Args:
            files: Paths of the files.
            columns: Names of the columns; None for all.
            stride: Distance between the rows that are read: 3 for rows 0, 3, 6 ... of each file.
        """

    def create_view(self, rows: ir.Table) -> ir.Table:
        """Return a view of `rows`, so that a query over it is compiled without the expressions of `rows`."""

    def select_columns(self, rows: ir.Table, columns: Sequence[str]) -> ir.Table:
        """Return a view of some columns of a view, so that a query over it is compiled for these columns alone."""

    def look_up(self, rows: ir.Table, vocabularies: Mapping[str, LookupTable]) -> ir.Table:
        """Join `rows` with vocabularies: a column `<column>__row` gets the embedding-table row of each raw value.

        It is null for a value that the vocabulary lacks, and for null.

        Args:
            rows: Rows with the columns of raw values.
            vocabularies: Vocabularies by column of `rows`, in the order in which they are joined.
        """

    def materialize(self, name: str, rows: ir.Table) -> ir.Table:
        """Compute `rows` and store the result on the disk for later queries, in place of an older one of that name."""

    def fetch(self, rows: ir.Table) -> pa.Table:
        """Compute rows that fit in memory and return them, in order if `rows` is ordered."""

    def max_unit_rows(self, columns: int) -> int:
        """Return the largest number of rows of a unit; a row has `columns` columns, as `write_units` counts them."""

    def write_units(
        self, units: Iterable[Unit], columns: int, advance: Callable[[int], None]
    ) -> Generator[tuple[Unit, list[PartFile]]]:
        """Write the parts of units, several units at a time if they fit in memory.

        Args:
            units: Units, taken one by one as the earlier ones are started.
            columns: Number of columns of a part; a bag (a column of lists) counts once per item.
            advance: Callback that gets the number of rows just written; any thread may call it.

        Yields:
            Each unit with its written parts, in the order in which units are finished.
        """

    def write_parts(self, rows: ir.Table, order: Sequence[str], sink: PartSink) -> list[PartFile]:
        """Write a part for each value of `PART`, with its rows sorted by `order`, and return the parts.

        Unlike for `write_units`, the rows need not be counted and divided into units. No progress is reported.
        """

    def close(self) -> None:
        """Release the resources of the engine."""
