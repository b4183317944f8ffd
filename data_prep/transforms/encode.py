"""Encoding of sparse features: each raw value becomes the number of a row of an embedding table.

A dataset's Parquet files hold these row numbers instead of the raw values. A value is looked up in the
vocabulary of its table, or put into a bucket by edges. Row 0 is for missing values, and for unknown ones unless the
table has `hash_rows`, which they share. A bag is a feature with a list of values per row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ibis
import ibis.expr.types as ir

from data_prep.engines.base import Engine
from data_prep.engines.look_up import LookupTable
from data_prep.expressions.kinds import floating
from data_prep.sources.files import POSITION
from data_prep.transforms.arithmetic import hash_row
from data_prep.transforms.columns import weights_column
from ple_rec.config.prep import SparseSpec
from ple_rec.config.schema import Table

# One query looks up all features if the product of its look-ups and its columns is at most MAX_JOIN_CELLS. Otherwise
# several queries look up JOINS_PER_QUERY features each.
MAX_JOIN_CELLS = 2**12
JOINS_PER_QUERY = 16


def encode_features(
    engine: Engine,
    rows: ir.Table,
    features: Sequence[SparseSpec],
    vocabularies: Mapping[str, LookupTable],
    tables: Mapping[str, Table],
) -> ir.Table:
    """Replace the raw column of each feature by a column of row numbers: int32, or lists of int32 for a bag.

    Args:
        engine: Engine that looks the values up.
        rows: Rows with a column `raw__<feature>` for each feature, and `weights__<feature>` for a weighted bag.
        features: Features to encode. Those without a raw column in `rows` are skipped: they are encoded already, or by
            another call.
        vocabularies: Vocabularies by table; the tables of bucketised features have none.
        tables: Embedding tables by name.

    Returns:
        The rows, in any order, with all columns of `rows` but `raw__...` and `weights__...`, and instead of these the
        encoded columns and the weights of the weighted bags under the names that a dataset uses.
    """
    features = [feature for feature in features if f"raw__{feature.name}" in rows.columns]
    ids: dict[str, ir.Value] = {}
    singles = [feature for feature in features if not feature.bag and not feature.bucketised]
    # Spread vocabularies, which have a `low` (`look_up.py`), are joined first. Among them and among the others, joins
    # with large tables come last, since an engine may pass on their results in small batches.
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
            ids[feature.name] = _fill_hash_row(raw, out[f"raw__{feature.name}__row"], tables[feature.table_name])
    others = [name for name in rows.columns if not name.startswith(("raw__", "weights__"))]
    return out.select(*others, **ids)


def encode_in_groups(
    engine: Engine,
    rows: ir.Table,
    keys: Sequence[str],
    features: Sequence[SparseSpec],
    vocabularies: Mapping[str, LookupTable],
    tables: Mapping[str, Table],
    stored_name: str | None,
) -> list[ir.Table]:
    """Encode features as `encode_features` does, into one table, or into several if there are many columns.

    Each join of a query passes on all columns, so memory and time grow with the product of joins and columns.

    Args:
        engine: Engine that looks the values up.
        rows: Rows with a column `raw__<feature>` for each feature, and `weights__<feature>` for a weighted bag.
        keys: Columns that every table of the result has.
        features: Features to encode.
        vocabularies: Vocabularies by table; the tables of bucketised features have none.
        tables: Embedding tables by name.
        stored_name: Name under which the engine stores `rows` if several queries read them; None if they are too many
            to be stored, so that each query computes them again.

    Returns:
        Tables of the same rows, each with the keys and the columns of some features; the first has the other columns.
    """
    columns = set(rows.columns)
    raw = [f"raw__{f.name}" for f in features if not f.bag and not f.bucketised and f"raw__{f.name}" in columns]
    if len(raw) * len(columns) <= MAX_JOIN_CELLS:
        return [encode_features(engine, rows, features, vocabularies, tables)]
    rows = engine.create_view(rows) if stored_name is None else engine.materialize(stored_name, rows)
    groups = [[name for name in rows.columns if name not in set(raw)]]
    groups += [[*keys, *raw[first : first + JOINS_PER_QUERY]] for first in range(0, len(raw), JOINS_PER_QUERY)]
    return [
        encode_features(engine, engine.select_columns(rows, group), features, vocabularies, tables) for group in groups
    ]


def bucket(value: ir.Value, edges: Sequence[float]) -> ir.IntegerValue:
    """Return the row of a value's bucket: 1 + the number of edges that are at most the value; 0 if it is missing."""
    return (count_reached_edges(value, edges) + 1).fill_null(0).cast("int32")


def count_reached_edges(value: ir.Value, edges: Sequence[float]) -> ir.IntegerValue:
    """Return the number of edges that are at most the value, as a balanced tree of sums, whose depth is logarithmic."""
    if not edges:
        return ibis.literal(0, "int32")
    if len(edges) == 1:
        return (value >= floating(edges[0])).cast("int32")
    half = len(edges) // 2
    return (count_reached_edges(value, edges[:half]) + count_reached_edges(value, edges[half:])).cast("int32")


def _fill_hash_row(raw: ir.Value, row: ir.IntegerValue, table: Table) -> ir.IntegerValue:
    """Return `row`, the row by the vocabulary, where it is known, and else the hash row of the raw value or 0."""
    if table.hash_rows:
        hashed = ibis.ifelse(raw.notnull(), hash_row(raw, table.allocated_rows, table.hash_rows), 0)
        return row.fill_null(hashed).cast("int32")
    return row.fill_null(0).cast("int32")


def _bag(engine: Engine, rows: ir.Table, feature: SparseSpec, entries: LookupTable, table: Table) -> ir.Table:
    """Return, by position of the row, the row numbers of each bag that is not empty, as a list in the bag's order."""
    position, item, place = f"{feature.name}__position", f"{feature.name}__item", f"{feature.name}__place"
    items = rows.select(**{position: rows[POSITION], item: rows[f"raw__{feature.name}"]}).unnest(item, offset=place)
    looked_up = engine.look_up(items, {item: entries})
    row = _fill_hash_row(looked_up[item], looked_up[f"{item}__row"], table)
    ordered = looked_up.select(position, pair=ibis.struct({"place": looked_up[place].cast("int64"), "row": row}))
    # Pairs are sorted after they are collected, since not every engine can collect in an order.
    collected = ordered.group_by(position).aggregate(pairs=ordered["pair"].collect().sort())
    return collected.select(position, **{f"{feature.name}__rows": collected["pairs"].map(lambda pair: pair.row)})
