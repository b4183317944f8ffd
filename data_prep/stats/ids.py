"""Sparse columns: how often which row of an embedding table is looked up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from data_prep.engines.base import Engine
from data_prep.stats.extents import Extent
from data_prep.stats.moments import rate
from data_prep.stats.packs import packs
from data_prep.stats.together import SPLIT, apart, together
from ple_rec.config.base import Split
from ple_rec.config.schema import DatasetSchema, SparseFeature

SMALL = 2**16  # rows of a table up to which all counts are fetched
KEPT = 64  # most frequent rows of a larger table whose counts are fetched
SHOWN = 10  # most frequent rows in stats.json


@dataclass(frozen=True)
class Lookups:
    """Of a column in a split.

    Attributes:
        counts: Look-ups by row: of a small table all that are not 0, else of the train split's most frequent rows.
        total: Look-ups.
        missed: Look-ups of row 0.
        hit: Distinct rows.
    """

    counts: Mapping[int, int]
    total: int
    missed: int
    hit: int

    def top(self, most: int) -> list[tuple[int, int]]:
        """The most frequent rows and their look-ups; the lower row first where they are equal."""
        return sorted(self.counts.items(), key=lambda pair: (-pair[1], pair[0]))[:most]


def lookups(
    engine: Engine,
    parts: Mapping[Split, ir.Table],
    schema: DatasetSchema,
    vocabularies: Mapping[str, Path],
    small: int = SMALL,
) -> dict[str, dict[Split, Lookups]]:
    """The look-ups of every sparse column, by name and split.

    The counts of a large table that a single-valued column has to itself are those of its vocabulary, where these add
    up to the rows of the train split: to count tens of millions of ids again would cost as much as to encode them.
    """
    rows_of = schema.table_rows()
    sizes = {feature.name: rows_of[feature.table] for feature in schema.sparse}
    few = [feature for feature in schema.sparse if rows_of[feature.table] <= small]
    many = [feature for feature in schema.sparse if rows_of[feature.table] > small]
    found: dict[str, dict[Split, Lookups]] = {feature.name: {} for feature in schema.sparse}
    rows = together(parts)
    for pack in packs([feature.name for feature in few if not feature.bag], sizes):
        table = engine.fetch(rows.group_by([SPLIT, *pack]).aggregate(count__=rows.count().cast("int64")))
        for split, counted in apart(table, parts).items():
            for name in pack:
                found[name][split] = _complete(counted, name)
    for feature in few:
        if feature.bag:
            ids = rows.select(SPLIT, **{feature.name: rows[feature.name].unnest()})
            table = engine.fetch(ids.group_by([SPLIT, feature.name]).aggregate(count__=ids.count().cast("int64")))
            for split, counted in apart(table, parts).items():
                found[feature.name][split] = _complete(counted, feature.name)
    users = [feature.table for feature in schema.sparse]
    for feature in many:
        alone = users.count(feature.table) == 1 and not feature.bag
        vocabulary = vocabularies.get(feature.table) if alone else None
        train = _from_vocabulary(engine, parts["train"], feature, vocabulary) or _top(engine, parts["train"], feature)
        found[feature.name]["train"] = train
        for split, some in parts.items():
            if split != "train":
                found[feature.name][split] = _of_rows(engine, some, feature, sorted({0, *train.counts}))
    return found


def describe(feature: SparseFeature, found: Lookups, extent: Extent, *, top: bool) -> dict[str, Any]:
    """`columns.<name>.<split>` of a sparse column."""
    out: dict[str, Any] = {"rows": extent.rows}
    if feature.bag:
        bags = extent.bags[feature.name]
        out |= {"ids": bags.ids, "mean_length": rate(bags.ids, extent.rows), "empty": bags.empty}
    out |= {"oov": found.missed, "oov_rate": rate(found.missed, found.total), "hit": found.hit}
    if top:
        out["top"] = [[row, count, rate(count, found.total)] for row, count in found.top(SHOWN)]
    return out


def _ids(rows: ir.Table, feature: SparseFeature) -> ir.Table:
    """One column `id`, a row for every look-up."""
    column = rows[feature.name]
    return rows.select(id=(column.unnest() if feature.bag else column))


def _counted(rows: ir.Table, feature: SparseFeature) -> ir.Table:
    ids = _ids(rows, feature)
    return ids.group_by("id").aggregate(count=ids.count().cast("int64"))


def _complete(table: pa.Table, column: str) -> Lookups:
    """All counts of one of the columns that are counted together."""
    counted = table.group_by(column).aggregate([("count__", "sum")])
    found = dict(zip(counted[column].to_pylist(), counted["count___sum"].to_pylist(), strict=True))
    return Lookups(found, sum(found.values()), found.get(0, 0), len(found))


def _top(engine: Engine, rows: ir.Table, feature: SparseFeature) -> Lookups:
    counted = _counted(rows, feature)
    top = engine.fetch(counted.order_by(counted["count"].desc(), counted["id"].asc()).limit(KEPT))
    (row,) = engine.fetch(
        counted.aggregate(
            hit=counted.count().cast("int64"),
            total=counted["count"].sum(),
            missed=ibis.ifelse(counted["id"] == 0, counted["count"], 0).sum(),
        )
    ).to_pylist()
    counts = dict(zip(top["id"].to_pylist(), top["count"].to_pylist(), strict=True))
    return Lookups(counts, int(row["total"] or 0), int(row["missed"] or 0), row["hit"])


def _from_vocabulary(engine: Engine, rows: ir.Table, feature: SparseFeature, path: Path | None) -> Lookups | None:
    if path is None or not path.exists():
        return None
    entries = engine.read([path])
    entries = entries.filter(entries["count"] > 0)
    (sums,) = engine.fetch(
        entries.aggregate(hit=entries.count().cast("int64"), total=entries["count"].sum())
    ).to_pylist()
    missed_rows = rows.filter(rows[feature.name] == 0)
    (split,) = engine.fetch(rows.aggregate(rows=rows.count().cast("int64"))).to_pylist()
    (zero,) = engine.fetch(missed_rows.aggregate(rows=missed_rows.count().cast("int64"))).to_pylist()
    if int(sums["total"] or 0) + zero["rows"] != split["rows"]:
        return None
    top = engine.fetch(
        entries.order_by(entries["count"].desc(), entries["row"].asc()).limit(KEPT).select("row", "count")
    )
    counts = dict(zip(top["row"].to_pylist(), top["count"].to_pylist(), strict=True))
    if zero["rows"]:
        counts[0] = zero["rows"]
    kept = dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:KEPT])
    return Lookups(kept, split["rows"], zero["rows"], sums["hit"] + bool(zero["rows"]))


def _of_rows(engine: Engine, rows: ir.Table, feature: SparseFeature, wanted: Sequence[int]) -> Lookups:
    """The look-ups of some rows alone."""
    counted = _counted(rows, feature)
    keyed = counted.select("count", key=ibis.ifelse(counted["id"].isin(wanted), counted["id"], -1))
    table = engine.fetch(keyed.group_by("key").aggregate(lookups=keyed["count"].sum(), hit=keyed.count().cast("int64")))
    found = {row["key"]: int(row["lookups"]) for row in table.to_pylist()}
    counts = {row: count for row, count in found.items() if row >= 0}
    return Lookups(counts, sum(found.values()), counts.get(0, 0), sum(table["hit"].to_pylist()))
