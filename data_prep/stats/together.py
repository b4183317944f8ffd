"""Written parts of all splits as one table, and raw values of the rows that the page shows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from data_prep.engines.base import Engine
from ple_rec.config.base import Split
from ple_rec.config.schema import DatasetSchema

SPLIT = "split__"
CELLS = 2**20  # Number of values that `Parts.fetch` reads at a time.


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
        """Yield the values of columns by split. If there are few rows, one query reads many columns.

        Args:
            columns: Names of the columns.
            rows: Number of rows of all splits together.
        """
        size = max(1, CELLS // max(rows, 1))
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
    """Return a result by split, without the column of the splits. A split without rows has an empty table."""
    return {
        split: table.filter(pc.equal(table[SPLIT], place)).drop_columns([SPLIT]) for place, split in enumerate(splits)
    }


LONGEST = 80  # Characters of a value.


def raw_values(
    vocabularies: Mapping[str, Path], rows_of_tables: Mapping[str, Iterable[int]]
) -> dict[str, dict[str, str]]:
    """Return the raw values of some rows of every table that has a vocabulary. Only these rows are read."""
    out = {}
    for table, rows in rows_of_tables.items():
        path, some = vocabularies.get(table), sorted({row for row in rows if row > 0})
        if path is None or not path.exists() or not some:
            continue
        entries = ds.dataset(path, format="parquet").to_table(columns=["raw", "row"], filter=ds.field("row").isin(some))
        texts = zip(entries["row"].to_pylist(), entries["raw"].to_pylist(), strict=True)
        out[table] = {str(row): _text(raw) for row, raw in sorted(texts)}
    return out


def _text(raw: object) -> str:
    text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def rows_to_name(
    columns: Mapping[str, Mapping[Split, Mapping[str, Any]]], schema: DatasetSchema, slices: Iterable[Mapping[str, Any]]
) -> dict[str, list[int]]:
    """Return the rows of every table that `stats.json` mentions."""
    out: dict[str, list[int]] = {}
    tables = {feature.name: feature.table for feature in schema.sparse}
    for name, table in tables.items():
        out.setdefault(table, []).extend(row for row, _, _ in columns[name]["train"]["top"])
    for column in slices:
        if column["column"] in tables:
            out[tables[column["column"]]] += [value["value"] for value in column["values"]]
    return out
