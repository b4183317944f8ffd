"""Queries over all splits of a dataset at once, and the raw values of the embedding-table rows that statistics list."""

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

SPLIT = "split__"  # Column with the index of the split that a row belongs to.
MAX_CELLS = 2**20  # Most values that `Parts.fetch` reads at a time, unless a single column has more.


@dataclass(frozen=True)
class Parts:
    """Parts of a dataset: the Parquet files of every split.

    Args:
        engine: Engine that reads them.
        files: Paths of the parts by split.
    """

    engine: Engine
    files: Mapping[Split, Sequence[Path]]

    def rows(self, columns: Sequence[str]) -> dict[Split, ir.Table]:
        """Return a lazy table of the rows of every split, with some columns.

        The table has only these columns, since the time to compile a query grows with all columns of its tables.
        """
        return {split: self.engine.read(files, columns) for split, files in self.files.items()}

    def fetch(self, columns: Sequence[str], rows: int) -> Iterator[tuple[str, dict[Split, pa.ChunkedArray]]]:
        """Yield the name and the values by split of each column. The fewer rows, the more columns one query reads.

        Args:
            columns: Names of the columns.
            rows: Number of rows of all splits together.
        """
        size = max(1, MAX_CELLS // max(rows, 1))
        for first in range(0, len(columns), size):
            names = columns[first : first + size]
            values = split_result(self.engine.fetch(union_splits(self.rows(names))), self.files)
            for name in names:
                yield name, {split: table[name] for split, table in values.items()}


def union_splits(parts: Mapping[Split, ir.Table]) -> ir.Table:
    """Return the rows of all splits as one table, with the index of the split in the column `SPLIT`."""
    tables = [rows.mutate(**{SPLIT: ibis.literal(index, "int32")}) for index, rows in enumerate(parts.values())]
    return ibis.union(*tables) if len(tables) > 1 else tables[0]


def split_result(table: pa.Table, splits: Sequence[Split] | Mapping[Split, object]) -> dict[Split, pa.Table]:
    """Divide the result of a query over `union_splits` into one table per split, without the column `SPLIT`.

    The `splits` are in the order in which `union_splits` got them.
    """
    return {
        split: table.filter(pc.equal(table[SPLIT], index)).drop_columns([SPLIT]) for index, split in enumerate(splits)
    }


MAX_CHARACTERS = 80  # Longer raw values are shortened.


def raw_values(
    vocabularies: Mapping[str, Path], rows_of_tables: Mapping[str, Iterable[int]]
) -> dict[str, dict[str, str]]:
    """Return the raw values of rows of embedding tables, by table and row.

    Row 0 and freed rows, which have no raw value, and tables without a vocabulary are left out.
    """
    out = {}
    for table, rows in rows_of_tables.items():
        path, wanted_rows = vocabularies.get(table), sorted({row for row in rows if row > 0})
        if path is None or not path.exists() or not wanted_rows:
            continue
        entries = ds.dataset(path, format="parquet").to_table(
            columns=["raw", "row"], filter=ds.field("row").isin(wanted_rows) & ds.field("raw").is_valid()
        )
        texts = zip(entries["row"].to_pylist(), entries["raw"].to_pylist(), strict=True)
        out[table] = {str(row): _text(raw) for row, raw in sorted(texts)}
    return out


def _text(raw: object) -> str:
    text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 3] + "..."


def rows_to_name(
    columns: Mapping[str, Mapping[Split, Mapping[str, Any]]], schema: DatasetSchema, slices: Iterable[Mapping[str, Any]]
) -> dict[str, list[int]]:
    """Return the rows of every embedding table that `stats.json` lists, by table: the most frequent, and the sliced.

    Args:
        columns: Entry `columns` of `stats.json`.
        schema: Schema of the dataset.
        slices: Entry `slices` of `stats.json`.
    """
    out: dict[str, list[int]] = {}
    tables = {feature.name: feature.table for feature in schema.sparse}
    for name, table in tables.items():
        out.setdefault(table, []).extend(row for row, _, _ in columns[name]["train"]["top"])
    for column in slices:
        if column["column"] in tables:
            out[tables[column["column"]]] += [value["value"] for value in column["values"]]
    return out
