"""Statistics of sparse columns, which hold rows of embedding tables: how often each row is looked up."""

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
from data_prep.stats.together import MAX_CELLS, SPLIT, Parts, split_result, union_splits
from ple_rec.config.base import Split
from ple_rec.config.schema import DatasetSchema, SparseFeature

MAX_ROWS_FETCHED = 2**16  # For tables of at most this many rows, the counts of all rows are fetched from the engine.
TOP_ROWS = 64  # Number of most frequent rows of a larger table whose counts are fetched.
LISTED_ROWS = 10  # Number of most frequent rows that stats.json lists.
_OTHER = -1  # Id that stands for all other rows of a larger table, whose counts are summed.


@dataclass(frozen=True)
class Lookups:
    """Look-ups of a column in a split.

    Attributes:
        counts: Number of look-ups by row. If the split or the table is small, it has all rows that are looked up, else
            row 0 and the most frequent rows of train.
        total: Number of look-ups of all rows.
        oov: Number of look-ups of row 0, which stands for values that are out of vocabulary or missing.
        hit: Number of distinct rows that are looked up.
    """

    counts: Mapping[int, int]
    total: int
    oov: int
    hit: int

    def top(self, limit: int) -> list[tuple[int, int]]:
        """Return the `limit` most frequent rows and their numbers of look-ups; of equal counts, the lower row first."""
        return sorted(self.counts.items(), key=lambda pair: (-pair[1], pair[0]))[:limit]


def lookups(
    parts: Parts,
    schema: DatasetSchema,
    vocabularies: Mapping[str, Path],
    extents: Mapping[Split, Extent],
    max_rows_fetched: int = MAX_ROWS_FETCHED,
) -> dict[str, dict[Split, Lookups]]:
    """Count the look-ups of every sparse column, by name and split.

    If all splits together have at most `MAX_CELLS` rows, single-valued columns are counted in this process. The engine
    counts any other column by row of its table. The counts of all rows of a small table are fetched. For a larger
    table, the engine sums the counts of the rows that are not among the most frequent of train.

    Args:
        parts: Parts of the dataset.
        schema: Schema of the dataset.
        vocabularies: Paths of the vocabularies, by table.
        extents: Extents by split.
        max_rows_fetched: Largest number of rows of a table whose counts are all fetched.
    """
    engine, table_rows = parts.engine, schema.table_rows()
    rows = sum(extent.rows for extent in extents.values())
    singles = [feature.name for feature in schema.sparse if not feature.bag and rows <= MAX_CELLS]
    lookups_of = {
        name: {split: _count_ids(each) for split, each in values.items()} for name, values in parts.fetch(singles, rows)
    }
    for feature in schema.sparse:
        if feature.name in lookups_of:
            continue
        tables = parts.rows([feature.name])
        grouped = {split: _group_by_row(table, feature) for split, table in tables.items()}
        count = _all_counts if table_rows[feature.table] <= max_rows_fetched else _top_counts
        if (path := _vocabulary_of(feature, schema, vocabularies)) is not None:
            train = _by_vocabulary(engine.read([path]), tables["train"], feature)
            counts = count(engine, grouped | {"train": train})
            # A vocabulary may lack look-ups, such as those of hashed values. Then the engine counts train, too.
            if counts["train"].total == extents["train"].rows:
                lookups_of[feature.name] = counts
                continue
        lookups_of[feature.name] = count(engine, grouped)
    return lookups_of


def _count_ids(ids: pa.ChunkedArray) -> Lookups:
    """Count the ids of one split in this process."""
    rows, times = np.unique(ids.to_numpy(), return_counts=True)
    counts = dict(zip(rows.tolist(), times.tolist(), strict=True))
    return Lookups(counts, len(ids), counts.get(0, 0), len(counts))


def describe(feature: SparseFeature, lookups: Lookups, extent: Extent, *, top: bool) -> dict[str, Any]:
    """Return the entry `columns.<name>.<split>` of `stats.json` for a sparse column; `top` adds its frequent rows."""
    out: dict[str, Any] = {"rows": extent.rows}
    if feature.bag:
        bags = extent.bags[feature.name]
        out |= {"ids": bags.ids, "mean_length": rate(bags.ids, extent.rows), "empty": bags.empty}
    out |= {"oov": lookups.oov, "oov_rate": rate(lookups.oov, lookups.total), "hit": lookups.hit}
    if top:
        out["top"] = [[row, count, rate(count, lookups.total)] for row, count in lookups.top(LISTED_ROWS)]
    return out


def _group_by_row(rows: ir.Table, feature: SparseFeature) -> ir.Table:
    """Return a table of the look-ups of a column, by row of its embedding table."""
    column = rows[feature.name]
    ids = rows.select(row=column.unnest() if feature.bag else column)
    return ids.group_by("row").aggregate(count=ids.count().cast("int64"))


def _vocabulary_of(feature: SparseFeature, schema: DatasetSchema, vocabularies: Mapping[str, Path]) -> Path | None:
    """Return the path of the vocabulary that holds the counts of a column in train; None if the column must be counted.

    The vocabulary of a table has these counts if one single-valued column is the only one that uses the table. Counting
    tens of millions of ids again would take as long as encoding them.
    """
    is_only_user = [other.table for other in schema.sparse].count(feature.table) == 1
    # A vocabulary that has grown has the counts of the first preparation.
    if feature.bag or not is_only_user or schema.parent is not None:
        return None
    path = vocabularies.get(feature.table)
    return path if path is not None and path.exists() else None


def _by_vocabulary(entries: ir.Table, train: ir.Table, feature: SparseFeature) -> ir.Table:
    """Return the look-ups of train by row: from a vocabulary, and for row 0, which it lacks, by a count of `train`."""
    ids = train[feature.name]
    known = entries.filter(entries["count"] > 0).select(row=entries["row"].cast(ids.type()), count=entries["count"])
    return known.union(_group_by_row(train.filter(ids == 0), feature))


def _all_counts(engine: Engine, grouped: Mapping[Split, ir.Table]) -> dict[Split, Lookups]:
    """Return the look-ups by split, with the counts of all rows that are looked up."""
    lookups_of = {}
    for split, table in split_result(engine.fetch(union_splits(grouped)), grouped).items():
        counts = dict(zip(table["row"].to_pylist(), table["count"].to_pylist(), strict=True))
        lookups_of[split] = Lookups(counts, sum(counts.values()), counts.get(0, 0), len(counts))
    return lookups_of


def _top_counts(engine: Engine, grouped: Mapping[Split, ir.Table]) -> dict[Split, Lookups]:
    """Return the look-ups by split, with the counts of row 0 and of the rows that are most frequent in train."""
    train, groups = grouped["train"], union_splits(grouped)
    top = engine.fetch(train.order_by(train["count"].desc(), train["row"].asc()).limit(TOP_ROWS))
    top_rows = sorted({0, *top["row"].to_pylist()})
    keyed = groups.mutate(row=ibis.ifelse(groups["row"].isin(top_rows), groups["row"], _OTHER))
    sums = keyed.group_by([SPLIT, "row"]).aggregate(count=keyed["count"].sum(), hit=keyed.count().cast("int64"))
    lookups_of = {}
    for split, table in split_result(engine.fetch(sums), grouped).items():
        counts = dict(zip(table["row"].to_pylist(), table["count"].to_pylist(), strict=True))
        total, hit = sum(counts.values()), sum(table["hit"].to_pylist())
        counts.pop(_OTHER, None)
        lookups_of[split] = Lookups(counts, total, counts.get(0, 0), hit)
    return lookups_of
