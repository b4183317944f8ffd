"""Values -> table rows: the columns of the parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ibis
import ibis.expr.types as ir

from data_prep.columns import weights_column
from data_prep.expressions.kinds import floating
from data_prep.hashing import hashed_row
from data_prep.sources.files import POSITION
from data_prep.vocabulary import Entries
from ple_rec.config.prep import SparseSpec
from ple_rec.config.schema import Table


def encoded(
    rows: ir.Table, features: Sequence[SparseSpec], vocabularies: Mapping[str, Entries], tables: Mapping[str, Table]
) -> ir.Table:
    """Add the `int32` column of every feature, a list of them for a bag.

    Args:
        rows: Rows with a column `raw__<feature>` each, and `weights__<feature>` for a weighted bag.
        features: Which; those without a raw column are encoded already.
        vocabularies: By table; bucketised features have none.
        tables: By name.

    Returns:
        `rows` without the raw columns; rows in any order.
    """
    features = [feature for feature in features if f"raw__{feature.name}" in rows.columns]
    out = rows
    ids: dict[str, ir.Value] = {}
    singles = [feature for feature in features if not feature.bag and not feature.bucketised]
    # The cheapest joins first: those of large tables may hand their rows on in small batches.
    for feature in sorted(singles, key=lambda f: (vocabularies[f.table_name].low is None, tables[f.table_name].rows)):
        entries = vocabularies[feature.table_name]
        out = entries.found(out, f"raw__{feature.name}", f"{feature.name}__row")
    for feature in features:
        if feature.bag:
            bags = _bag(rows, feature, vocabularies[feature.table_name], tables[feature.table_name])
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
            ids[feature.name] = _row(raw, out[f"{feature.name}__row"], tables[feature.table_name])
    gone = [name for name in rows.columns if name.startswith(("raw__", "weights__"))]
    return out.select(*(name for name in rows.columns if name not in gone), **ids)


def bucket(value: ir.Value, edges: Sequence[float]) -> ir.IntegerValue:
    """1 + how many edges a number reaches; 0 where it is missing."""
    return (reached(value, edges) + 1).fill_null(0).cast("int32")


def reached(value: ir.Value, edges: Sequence[float]) -> ir.IntegerValue:
    """How many edges a number reaches: a sum whose depth stays small, whatever their number."""
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


def _bag(rows: ir.Table, feature: SparseSpec, entries: Entries, table: Table) -> ir.Table:
    """The rows of every bag that is not empty, in the bag's order."""
    at, item, place = f"{feature.name}__position", f"{feature.name}__item", f"{feature.name}__place"
    items = rows.select(**{at: rows[POSITION], item: rows[f"raw__{feature.name}"]}).unnest(item, offset=place)
    found = entries.found(items, item, f"{feature.name}__row")
    row = _row(found[item], found[f"{feature.name}__row"], table)
    ordered = found.select(at, pair=ibis.struct({"place": found[place].cast("int64"), "row": row}))
    # A sort of pairs, for not every engine can collect in an order.
    collected = ordered.group_by(at).aggregate(pairs=ordered["pair"].collect().sort())
    return collected.select(at, **{f"{feature.name}__rows": collected["pairs"].map(lambda pair: pair.row)})
