"""The few things that the pipeline asks of an engine. All else is Ibis expressions, which both engines run alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import ibis.expr.types as ir
import pyarrow as pa

from data_prep.parts import PartFile, PartLayout
from data_prep.sources.files import RawTable


class Engine(Protocol):
    """An engine, open for one run of the pipeline."""

    def scan(self, table: RawTable, columns: Sequence[str], first: int = 0, last: int | None = None) -> ir.Table:
        """The rows of Parquet files: the given columns, and `POSITION`, an `int64` that counts the rows of all files.

        Columns that the folders' names hold (`day=2022-04-25`) count as columns of the files.

        Args:
            table: The files.
            columns: Which.
            first: Position of the first row.
            last: Position after the last row; all others are read where it is None.
        """

    def read(self, files: Sequence[Path]) -> ir.Table:
        """The rows of Parquet files of this machine, in any order, all columns."""

    def named(self, rows: ir.Table) -> ir.Table:
        """`rows` under a name, not computed: a query over the name is compiled without what stands behind it."""

    def keep(self, name: str, rows: ir.Table) -> ir.Table:
        """Compute `rows` once and keep the result on disk for all that reads it later."""

    def fetch(self, rows: ir.Table) -> pa.Table:
        """Compute `rows`, a few at most, and hand them over, in order where `rows` has one."""

    def unit_rows(self, columns: int) -> int:
        """Rows of so many columns that `write_parts` should get at a time."""

    def write_parts(
        self, rows: ir.Table, order: Sequence[str], layout: PartLayout, advance: Callable[[int], None] | None = None
    ) -> list[PartFile]:
        """Write `rows` as parts: one for each value of `PART`, its rows in the given order.

        Args:
            rows: The columns of `layout.schema`, those of `order`, and `PART`.
            order: Columns.
            layout: Of the parts.
            advance: Told of rows that are written.
        """

    def close(self) -> None:
        """End what the engine holds."""
