"""The written parts of all splits, so that one query serves them all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.engines.base import Engine
from ple_rec.config.base import Split

SPLIT = "split__"
CELLS = 2**20  # values, at most, that `Parts.fetch` hands over at a time


@dataclass(frozen=True)
class Parts:
    """The written parts of every split.

    Args:
        engine: Engine that reads them.
        files: Paths of the parts by split.
    """

    engine: Engine
    files: Mapping[Split, Sequence[Path]]

    def rows(self, columns: Sequence[str]) -> dict[Split, ir.Table]:
        """Return the rows of every split with some columns.

        The time to compile a query grows with the columns of its tables, also of those that it does not read.
        """
        return {split: self.engine.read(files, columns) for split, files in self.files.items()}

    def fetch(self, columns: Sequence[str], rows: int) -> Iterator[tuple[str, dict[Split, pa.ChunkedArray]]]:
        """Yield the values of columns by split, for one query many columns where the rows are few.

        Args:
            columns: Names of the columns.
            rows: Rows of all splits together, at most `CELLS`.
        """
        size = CELLS // max(rows, 1)
        for first in range(0, len(columns), size):
            names = columns[first : first + size]
            values = apart(self.engine.fetch(together(self.rows(names))), self.files)
            for name in names:
                yield name, {split: table[name] for split, table in values.items()}


def together(parts: Mapping[Split, ir.Table]) -> ir.Table:
    """Return the rows of every split as one table, with the split's place among `parts` in a column of its own."""
    tables = [rows.mutate(**{SPLIT: ibis.literal(place, "int32")}) for place, rows in enumerate(parts.values())]
    return ibis.union(*tables) if len(tables) > 1 else tables[0]


def apart(table: pa.Table, splits: Sequence[Split] | Mapping[Split, object]) -> dict[Split, pa.Table]:
    """Return a result by split, without the column of the splits; a split of no rows has an empty table."""
    return {
        split: table.filter(pc.equal(table[SPLIT], place)).drop_columns([SPLIT]) for place, split in enumerate(splits)
    }
