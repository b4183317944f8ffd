"""Sparse columns: how often which row of an embedding table is looked up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from data_prep.engines.base import Engine
from data_prep.stats.extents import Extent, Range
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
    extents: Mapping[Split, Extent],
    small: int = SMALL,
) -> dict[str, dict[Split, Lookups]]:
    """The look-ups of every sparse column, by name and split.

    The counts of a table that a single-valued column has to itself are those of its vocabulary, where these add up to
    the rows of the train split: to count tens of millions of ids again would cost as much as to encode them.

    Args:
        engine: Counts.
        parts: Rows by split.
        schema: Of the dataset.
        vocabularies: Files by table.
        extents: Of the splits.
        small: Rows of a table up to which all its counts are fetched.
    """
    rows_of = schema.table_rows()
    found: dict[str, dict[Split, Lookups]] = {feature.name: {} for feature in schema.sparse}
    for name, known in _from_vocabularies(
        engine, parts["train"], schema, vocabularies, extents["train"], small
    ).items():
        found[name]["train"] = known
    few = [feature for feature in schema.sparse if rows_of[feature.table] <= small]
    fresh = [feature for feature in few if "train" not in found[feature.name]]
    _count_small(engine, parts, [f for f in few if f not in fresh], found, rows_of, without="train")
    _count_small(engine, parts, fresh, found, rows_of)
    for feature in schema.sparse:
        if feature not in few:
            if "train" not in found[feature.name]:
                found[feature.name]["train"] = _top(engine, parts["train"], feature)
            kept = sorted({0, *found[feature.name]["train"].counts})
            for split, some in parts.items():
                if split != "train":
                    found[feature.name][split] = _of_rows(engine, some, feature, kept)
    return found


def _count_small(
    engine: Engine,
    parts: Mapping[Split, ir.Table],
    features: Sequence[SparseFeature],
    found: dict[str, dict[Split, Lookups]],
    rows_of: Mapping[str, int],
    without: Split | None = None,
) -> None:
    """Count the look-ups of columns of small tables, all of them, in every split or in all but one."""
    some = {split: rows for split, rows in parts.items() if split != without}
    if not features or not some:
        return
    rows = together(some)
    for pack in packs([f.name for f in features if not f.bag], {f.name: rows_of[f.table] for f in features}):
        table = engine.fetch(rows.group_by([SPLIT, *pack]).aggregate(count__=rows.count().cast("int64")))
        for split, counted in apart(table, some).items():
            for name in pack:
                found[name][split] = _complete(counted, name)
    for feature in features:
        if feature.bag:
            ids = rows.select(SPLIT, **{feature.name: rows[feature.name].unnest()})
            table = engine.fetch(ids.group_by([SPLIT, feature.name]).aggregate(count__=ids.count().cast("int64")))
            for split, counted in apart(table, some).items():
                found[feature.name][split] = _complete(counted, feature.name)


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
    top = engine.fetch(_most_frequent(counted, "id"))
    (row,) = engine.fetch(
        counted.aggregate(
            hit=counted.count().cast("int64"),
            total=counted["count"].sum(),
            missed=ibis.ifelse(counted["id"] == 0, counted["count"], 0).sum(),
        )
    ).to_pylist()
    counts = dict(zip(top["id"].to_pylist(), top["count"].to_pylist(), strict=True))
    return Lookups(counts, int(row["total"] or 0), int(row["missed"] or 0), row["hit"])


def _from_vocabularies(
    engine: Engine,
    train: ir.Table,
    schema: DatasetSchema,
    vocabularies: Mapping[str, Path],
    extent: Extent,
    small: int,
) -> dict[str, Lookups]:
    """The look-ups of train that vocabularies know: of columns that have a table to themselves."""
    if schema.parent is not None:
        return {}  # a vocabulary that has grown counts the rows of its first day
    users = [feature.table for feature in schema.sparse]
    alone = [f for f in schema.sparse if not f.bag and users.count(f.table) == 1]
    alone = [f for f in alone if f.table in vocabularies and vocabularies[f.table].exists()]
    zeros = _zeros(engine, train, [f.name for f in alone], extent)
    rows_of = schema.table_rows()
    out = {}
    for feature in alone:
        entries = engine.read([vocabularies[feature.table]])
        entries = entries.filter(entries["count"] > 0)
        (sums,) = engine.fetch(
            entries.aggregate(hit=entries.count().cast("int64"), total=entries["count"].sum())
        ).to_pylist()
        missed = zeros[feature.name]
        if int(sums["total"] or 0) + missed != extent.rows:
            continue
        top = entries if rows_of[feature.table] <= small else _most_frequent(entries, "row")
        table = engine.fetch(top.select("row", "count"))
        counts = dict(zip(table["row"].to_pylist(), table["count"].to_pylist(), strict=True))
        if missed:
            counts[0] = missed
        found = Lookups(counts, extent.rows, missed, sums["hit"] + bool(missed))
        out[feature.name] = found if rows_of[feature.table] <= small else replace(found, counts=dict(found.top(KEPT)))
    return out


def _zeros(engine: Engine, rows: ir.Table, columns: Sequence[str], extent: Extent) -> dict[str, int]:
    """How often columns are 0; only those are read whose footers do not exclude it."""
    out = dict.fromkeys(columns, 0)
    unsure = [name for name in columns if (extent.ranges.get(name, Range()).low or 0) <= 0]
    if unsure and extent.rows:
        counted = {f"zeros{i}": (rows[name] == 0).sum() for i, name in enumerate(unsure)}
        (found,) = engine.fetch(rows.aggregate(**counted)).to_pylist()
        out |= {name: int(found[f"zeros{i}"] or 0) for i, name in enumerate(unsure)}
    return out


def _most_frequent(counted: ir.Table, row: str) -> ir.Table:
    return counted.order_by(counted["count"].desc(), counted[row].asc()).limit(KEPT)


def _of_rows(engine: Engine, rows: ir.Table, feature: SparseFeature, wanted: Sequence[int]) -> Lookups:
    """The look-ups of some rows alone."""
    counted = _counted(rows, feature)
    keyed = counted.select("count", key=ibis.ifelse(counted["id"].isin(wanted), counted["id"], -1))
    table = engine.fetch(keyed.group_by("key").aggregate(lookups=keyed["count"].sum(), hit=keyed.count().cast("int64")))
    found = {row["key"]: int(row["lookups"]) for row in table.to_pylist()}
    counts = {row: count for row, count in found.items() if row >= 0}
    return Lookups(counts, sum(found.values()), counts.get(0, 0), sum(table["hit"].to_pylist()))
