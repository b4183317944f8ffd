"""The few things that the pipeline asks of an engine. All else is Ibis expressions, which both engines run alike."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import ibis.expr.types as ir
import pyarrow as pa

from data_prep.output.parts import PART, PartFile, PartLayout
from data_prep.sources.files import RawTable
from data_prep.vocabulary.lookup import Entries


@dataclass(frozen=True)
class Unit:
    """Parts that are computed together.

    Args:
        rows: Columns of `layout.schema` that no table of `more` has, those of `order`, and `PART`.
        order: Columns that say the order of the rows of a part; no two rows are equal in all of them.
        layout: Layout of the parts.
        count: Number of the rows.
        more: Tables of the same rows, each with other columns of `layout.schema`, and with `order` and `PART`.
    """

    rows: ir.Table
    order: tuple[str, ...]
    layout: PartLayout
    count: int
    more: tuple[ir.Table, ...] = ()

    def tables(self) -> Iterator[ir.Table]:
        """Yield `rows` and `more`, each with `PART`, `order` and the columns of the layout that it gives."""
        keys = [PART, *self.order]
        for rows in (self.rows, *self.more):
            columns = set(rows.columns)
            yield rows.select(list(dict.fromkeys([*keys, *(n for n in self.layout.schema.names if n in columns)])))


class Engine(Protocol):
    """An engine, open for one run of the pipeline.

    Attributes:
        span: Consecutive integers, at most, over which an inner join is faster than a left join; 0 where none is.
        streams: Units that are written at a time, at most.
        verifies_pages: True if the engine compares pages of raw Parquet files with their checksums as it reads.
    """

    span: int
    streams: int
    verifies_pages: bool

    def scan(self, table: RawTable, columns: Sequence[str], first: int = 0, last: int | None = None) -> ir.Table:
        """The rows of Parquet files: the given columns, and `POSITION`, an `int64` that counts the rows of all files.

        Columns that the folders' names hold (`day=2022-04-25`) count as columns of the files.

        Args:
            table: The files.
            columns: Which.
            first: Position of the first row.
            last: Position after the last row; all others are read where it is None.
        """

    def read(self, files: Sequence[Path], columns: Sequence[str] | None = None, every: int = 1) -> ir.Table:
        """Read Parquet files of this machine, in any order of rows.

        Args:
            files: Paths of the files.
            columns: Names of the columns; None for all.
            every: Distance, in a file, between the rows that are read, of which its first is one.
        """

    def named(self, rows: ir.Table) -> ir.Table:
        """Return `rows` under a name, not computed: a query over the name is compiled without its expressions."""

    def narrow(self, rows: ir.Table, columns: Sequence[str]) -> ir.Table:
        """Return some columns of a table that the engine has named: a query over them is compiled for these alone."""

    def look_up(self, rows: ir.Table, vocabularies: Mapping[str, Entries]) -> ir.Table:
        """Return `rows`, not computed, with a column `<column>__row` more for each column that has a vocabulary.

        Args:
            rows: Rows with the columns of raw values.
            vocabularies: Vocabularies by column of the rows, in the order in which they are joined.
        """

    def keep(self, name: str, rows: ir.Table) -> ir.Table:
        """Compute `rows` once and keep the result on disk for all that reads it later."""

    def fetch(self, rows: ir.Table) -> pa.Table:
        """Compute `rows`, a few at most, and hand them over, in order where `rows` has one."""

    def unit_rows(self, columns: int) -> int:
        """Rows of so many columns that a unit may have."""

    def write_units(
        self, units: Iterable[Unit], columns: int, advance: Callable[[int], None]
    ) -> Generator[tuple[Unit, list[PartFile]]]:
        """Write the parts of units, a file for each value of `PART`; several units at a time where memory allows.

        Args:
            units: Taken when their turn comes.
            columns: As `unit_rows` takes them.
            advance: Told of rows that are written, from any thread.

        Yields:
            Each unit with its parts, when it is written; in any order.
        """

    def write_parts(self, rows: ir.Table, order: Sequence[str], layout: PartLayout) -> list[PartFile]:
        """Write `rows` as parts: one for each value of `PART`, its rows in the given order."""

    def close(self) -> None:
        """End what the engine holds."""
