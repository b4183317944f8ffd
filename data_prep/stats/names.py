"""Raw values of the few rows that the page shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds

from ple_rec.config.base import Split
from ple_rec.config.schema import DatasetSchema

LONGEST = 80  # characters of a value


def raw_values(vocabularies: Mapping[str, Path], wanted: Mapping[str, Iterable[int]]) -> dict[str, dict[str, str]]:
    """The raw value of some rows of every table that has a vocabulary; only these rows are read."""
    out = {}
    for table, rows in wanted.items():
        path, some = vocabularies.get(table), sorted({row for row in rows if row > 0})
        if path is None or not path.exists() or not some:
            continue
        found = ds.dataset(path, format="parquet").to_table(columns=["raw", "row"], filter=ds.field("row").isin(some))
        texts = zip(found["row"].to_pylist(), found["raw"].to_pylist(), strict=True)
        out[table] = {str(row): _text(raw) for row, raw in sorted(texts)}
    return out


def _text(raw: object) -> str:
    text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def rows_to_name(
    columns: Mapping[str, Mapping[Split, Mapping[str, Any]]], schema: DatasetSchema, slices: Iterable[Mapping[str, Any]]
) -> dict[str, list[int]]:
    """The rows of every table that `stats.json` mentions."""
    out: dict[str, list[int]] = {}
    tables = {feature.name: feature.table for feature in schema.sparse}
    for name, table in tables.items():
        out.setdefault(table, []).extend(row for row, _, _ in columns[name]["train"]["top"])
    for column in slices:
        if column["column"] in tables:
            out[tables[column["column"]]] += [value["value"] for value in column["values"]]
    return out
