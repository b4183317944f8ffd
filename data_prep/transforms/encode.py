"""Encoding of raw values as rows of embedding tables, in the columns of the parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ibis
import ibis.expr.types as ir

from data_prep.engines.base import Engine
from data_prep.engines.look_up import Entries
from data_prep.expressions.kinds import floating
from data_prep.sources.files import POSITION
from data_prep.transforms.arithmetic import hashed_row
from data_prep.transforms.columns import weights_column
from ple_rec.config.prep import SparseSpec
from ple_rec.config.schema import Table

HANDED_ON = 2**12  # One query looks up all features if its lookups times its columns are at most so many.
JOINS = 16  # Otherwise, each of several queries looks up so many features.


def encoded(
    engine: Engine,
    rows: ir.Table,
    features: Sequence[SparseSpec],
    vocabularies: Mapping[str, Entries],
    tables: Mapping[str, Table],
) -> ir.Table:
    """Add the `int32` column of every feature, a list of them for a bag.

    Args:
        engine: Engine that looks the values up.
        rows: Rows with a column `raw__<feature>` each, and `weights__<feature>` for a weighted bag.
        features: Features to encode; a feature without a raw column is encoded already.
        vocabularies: Vocabularies by table; bucketised features have none.
        tables: Tables by name.

    Returns:
        `rows` with the encoded instead of the raw columns, in any order.
    """
    features = [feature for feature in features if f"raw__{feature.name}" in rows.columns]
    ids: dict[str, ir.Value] = {}
    singles = [feature for feature in features if not feature.bag and not feature.bucketised]
    # Joins with large tables come last, since they may hand on their rows in small batches.
    singles.sort(key=lambda f: (vocabularies[f.table_name].low is None, tables[f.table_name].rows))
    out = engine.look_up(rows, {f"raw__{f.name}": vocabularies[f.table_name] for f in singles}) if singles else rows
    for feature in features:
        if feature.bag:
            bags = _bag(engine, rows, feature, vocabularies[feature.table_name], tables[feature.table_name])
            out = out.left_join(bags, out[POSITION] == bags[f"{feature.name}__position"])
    for feature in features:
        raw = out[f"raw__{feature.name}"]
        if feature.edges is not None:
            ids[feature.name] = bucket(raw, feature.edges)
        elif feature.bag:
            empty = ibis.literal([], "array<int32>")
            ids[feature.name] = out[f"{feature.name}__rows"].fill_null(empty)
            if feature.weights is not None:
                weights = out[f"weights__{feature.name}"].fill_null(ibis.literal([], "array<float32>"))
                ids[weights_column(feature.name)] = weights
        else:
            ids[feature.name] = _row(raw, out[f"raw__{feature.name}__row"], tables[feature.table_name])
    others = [name for name in rows.columns if not name.startswith(("raw__", "weights__"))]
    return out.select(*others, **ids)


def in_groups(
    engine: Engine,
    rows: ir.Table,
    keys: Sequence[str],
    features: Sequence[SparseSpec],
    vocabularies: Mapping[str, Entries],
    tables: Mapping[str, Table],
    keep: str | None,
) -> list[ir.Table]:
    """Return the columns of `encoded` as one table, or as several tables of the same rows if there are many columns.

    Each join of a query hands on all columns, so memory and time grow with the product of joins and columns.

    Args:
        engine: Engine that names the rows.
        rows: Rows with a column `raw__<feature>` each, and `weights__<feature>` for a weighted bag.
        keys: Columns that every table has.
        features: Features whose columns are added.
        vocabularies: Vocabularies by table; bucketised features have none.
        tables: Tables by name.
        keep: Name under which the engine keeps rows that become several tables; None for too many rows.
    """
    columns = set(rows.columns)
    raw = [f"raw__{f.name}" for f in features if not f.bag and not f.bucketised and f"raw__{f.name}" in columns]
    if len(raw) * len(columns) <= HANDED_ON:
        return [encoded(engine, rows, features, vocabularies, tables)]
    rows = engine.named(rows) if keep is None else engine.keep(keep, rows)
    groups = [[name for name in rows.columns if name not in set(raw)]]
    groups += [[*keys, *raw[first : first + JOINS]] for first in range(0, len(raw), JOINS)]
    return [encoded(engine, engine.narrow(rows, group), features, vocabularies, tables) for group in groups]


def bucket(value: ir.Value, edges: Sequence[float]) -> ir.IntegerValue:
    """Return 1 + the number of edges that a value reaches; 0 for a missing value."""
    return (reached(value, edges) + 1).fill_null(0).cast("int32")


def reached(value: ir.Value, edges: Sequence[float]) -> ir.IntegerValue:
    """Return the number of edges that a value reaches, as a sum whose depth grows with the logarithm of that number."""
    if not edges:
        return ibis.literal(0, "int32")
    if len(edges) == 1:
        return (value >= floating(edges[0])).cast("int32")
    half = len(edges) // 2
    return (reached(value, edges[:half]) + reached(value, edges[half:])).cast("int32")


def _row(raw: ir.Value, row: ir.IntegerValue, table: Table) -> ir.IntegerValue:
    if table.hash_rows:
        hashed = ibis.ifelse(raw.notnull(), hashed_row(raw, table.allocated, table.hash_rows), 0)
        return row.fill_null(hashed).cast("int32")
    return row.fill_null(0).cast("int32")


def _bag(engine: Engine, rows: ir.Table, feature: SparseSpec, entries: Entries, table: Table) -> ir.Table:
    """Return the table rows of every bag that is not empty, in the bag's order."""
    at, item, place = f"{feature.name}__position", f"{feature.name}__item", f"{feature.name}__place"
    items = rows.select(**{at: rows[POSITION], item: rows[f"raw__{feature.name}"]}).unnest(item, offset=place)
    looked_up = engine.look_up(items, {item: entries})
    row = _row(looked_up[item], looked_up[f"{item}__row"], table)
    ordered = looked_up.select(at, pair=ibis.struct({"place": looked_up[place].cast("int64"), "row": row}))
    # Pairs are sorted after they are collected, since not every engine can collect in an order.
    collected = ordered.group_by(at).aggregate(pairs=ordered["pair"].collect().sort())
    return collected.select(at, **{f"{feature.name}__rows": collected["pairs"].map(lambda pair: pair.row)})
