"""Sparse columns: how often which row of an embedding table is looked up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa

from data_prep.engines.base import Engine
from data_prep.stats.dense import rate
from data_prep.stats.extents import Extent
from data_prep.stats.together import CELLS, SPLIT, Parts, apart, together
from ple_rec.config.base import Split
from ple_rec.config.schema import DatasetSchema, SparseFeature

SMALL = 2**16  # rows of a table up to which all counts are fetched
KEPT = 64  # most frequent rows of a larger table whose counts are fetched
SHOWN = 10  # most frequent rows in stats.json
_OTHER = -1  # stands for the rows of a larger table whose counts are added up


@dataclass(frozen=True)
class Lookups:
    """Look-ups of a column in a split.

    Attributes:
        counts: Look-ups by row: of few rows of the split, and of a small table, all that are not 0, else those of row 0
            and of the most frequent rows of train.
        total: Look-ups of all rows.
        missed: Look-ups of row 0.
        hit: Distinct rows.
    """

    counts: Mapping[int, int]
    total: int
    missed: int
    hit: int

    def top(self, most: int) -> list[tuple[int, int]]:
        """Return the most frequent rows and their look-ups; the lower row first where they are equal."""
        return sorted(self.counts.items(), key=lambda pair: (-pair[1], pair[0]))[:most]


def lookups(
    parts: Parts,
    schema: DatasetSchema,
    vocabularies: Mapping[str, Path],
    extents: Mapping[Split, Extent],
    small: int = SMALL,
) -> dict[str, dict[Split, Lookups]]:
    """Return the look-ups of every sparse column, by name and split.

    Columns of few rows are counted here. A column of more rows is grouped by row of its table: all groups of a small
    table are fetched; of a larger one the engine adds up those that are not among the most frequent of train.

    Args:
        parts: Parts of the dataset.
        schema: Schema of the dataset.
        vocabularies: Files by table.
        extents: Extents of the splits.
        small: Rows of a table up to which all its counts are fetched.
    """
    engine, rows_of = parts.engine, schema.table_rows()
    rows = sum(extent.rows for extent in extents.values())
    singles = [feature.name for feature in schema.sparse if not feature.bag and rows <= CELLS]
    lookups_of = {
        name: {split: _counted(each) for split, each in values.items()} for name, values in parts.fetch(singles, rows)
    }
    for feature in schema.sparse:
        if feature.name in lookups_of:
            continue
        tables = parts.rows([feature.name])
        grouped = {split: _grouped(table, feature) for split, table in tables.items()}
        counted = _all_counts if rows_of[feature.table] <= small else _top_counts
        if (path := _vocabulary_of(feature, schema, vocabularies)) is not None:
            train = _by_vocabulary(engine.read([path]), tables["train"], feature)
            known = counted(engine, grouped | {"train": train})
            if known["train"].total == extents["train"].rows:
                lookups_of[feature.name] = known
                continue
        lookups_of[feature.name] = counted(engine, grouped)
    return lookups_of


def _counted(ids: pa.ChunkedArray) -> Lookups:
    """Return the look-ups of the ids of one split."""
    rows, times = np.unique(ids.to_numpy(), return_counts=True)
    counts = dict(zip(rows.tolist(), times.tolist(), strict=True))
    return Lookups(counts, len(ids), counts.get(0, 0), len(counts))


def describe(feature: SparseFeature, found: Lookups, extent: Extent, *, top: bool) -> dict[str, Any]:
    """Return `columns.<name>.<split>` of a sparse column."""
    out: dict[str, Any] = {"rows": extent.rows}
    if feature.bag:
        bags = extent.bags[feature.name]
        out |= {"ids": bags.ids, "mean_length": rate(bags.ids, extent.rows), "empty": bags.empty}
    out |= {"oov": found.missed, "oov_rate": rate(found.missed, found.total), "hit": found.hit}
    if top:
        out["top"] = [[row, count, rate(count, found.total)] for row, count in found.top(SHOWN)]
    return out


def _grouped(rows: ir.Table, feature: SparseFeature) -> ir.Table:
    """Return the look-ups of a column by row of its table."""
    column = rows[feature.name]
    ids = rows.select(row=column.unnest() if feature.bag else column)
    return ids.group_by("row").aggregate(count=ids.count().cast("int64"))


def _vocabulary_of(feature: SparseFeature, schema: DatasetSchema, vocabularies: Mapping[str, Path]) -> Path | None:
    """Return the vocabulary that has counted the rows of train: that of a table which a single-valued column owns.

    To count tens of millions of ids again would cost as much as to encode them.
    """
    alone = [other.table for other in schema.sparse].count(feature.table) == 1
    if feature.bag or not alone or schema.parent is not None:  # one that has grown counts the rows of its first day
        return None
    path = vocabularies.get(feature.table)
    return path if path is not None and path.exists() else None


def _by_vocabulary(entries: ir.Table, train: ir.Table, feature: SparseFeature) -> ir.Table:
    """Return `_grouped` of train: row 0, which no vocabulary counts, and the counts of a vocabulary."""
    ids = train[feature.name]
    known = entries.filter(entries["count"] > 0).select(row=entries["row"].cast(ids.type()), count=entries["count"])
    return known.union(_grouped(train.filter(ids == 0), feature))


def _all_counts(engine: Engine, grouped: Mapping[Split, ir.Table]) -> dict[Split, Lookups]:
    found = {}
    for split, table in apart(engine.fetch(together(grouped)), grouped).items():
        counts = dict(zip(table["row"].to_pylist(), table["count"].to_pylist(), strict=True))
        found[split] = Lookups(counts, sum(counts.values()), counts.get(0, 0), len(counts))
    return found


def _top_counts(engine: Engine, grouped: Mapping[Split, ir.Table]) -> dict[Split, Lookups]:
    """Return the look-ups by split, with the counts of row 0 and of the rows that are most frequent in train."""
    train, groups = grouped["train"], together(grouped)
    top = engine.fetch(train.order_by(train["count"].desc(), train["row"].asc()).limit(KEPT))
    wanted = sorted({0, *top["row"].to_pylist()})
    keyed = groups.mutate(row=ibis.ifelse(groups["row"].isin(wanted), groups["row"], _OTHER))
    sums = keyed.group_by([SPLIT, "row"]).aggregate(count=keyed["count"].sum(), hit=keyed.count().cast("int64"))
    found = {}
    for split, table in apart(engine.fetch(sums), grouped).items():
        counts = dict(zip(table["row"].to_pylist(), table["count"].to_pylist(), strict=True))
        total, hit = sum(counts.values()), sum(table["hit"].to_pylist())
        counts.pop(_OTHER, None)
        found[split] = Lookups(counts, total, counts.get(0, 0), hit)
    return found
