"""Bags of side tables, which are computed once per side row instead of once per row of the log.

A row of the log without a side row is joined to the row at `NONE`, whose columns are null. Its bag need not be empty:
`coalesce(tags, other)` may give items.
"""

from __future__ import annotations

from collections.abc import Mapping

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir

from data_prep.engines.base import Engine
from data_prep.engines.look_up import Entries
from data_prep.sources.files import POSITION, RawTable
from data_prep.transforms.columns import TIMES
from data_prep.transforms.encode import encoded
from data_prep.transforms.expression_scope import BROKEN, SIDE_ROW, columns_of
from data_prep.transforms.features import bag_of
from data_prep.transforms.resolve import Resolved
from ple_rec.config.schema import Table

NONE = -1
_POSITION = "__position_"  # Before the name of a side table, the name of the column of its rows' positions.


def bag_columns(name: str, table: ir.Table, resolved: Resolved) -> list[str]:
    """Return the columns of a side table that hold bags: lists, and texts that a bag is cut from."""
    keys = [f"sparse[{i}].value" for i, feature in enumerate(resolved.config.sparse) if feature.bag]
    cut = {column for key in keys for column in resolved.parsed[key].columns}
    return [
        column
        for column in resolved.side_columns[name]
        if column not in resolved.config.sides[name].on
        and (isinstance(table[column].type(), dt.Array) or f"{name}.{column}" in cut)
    ]


def bag_features(name: str, table: ir.Table, resolved: Resolved) -> list[int]:
    """Return the indices of the sparse features that are bags of a side table: they read only its `bag_columns`."""
    own = {f"{name}.{column}" for column in bag_columns(name, table, resolved)}
    features = []
    for i, feature in enumerate(resolved.config.sparse):
        if feature.bag:
            keys = [f"sparse[{i}].value"] + ([f"sparse[{i}].weights"] if feature.weights is not None else [])
            read = [set(resolved.parsed[key].columns) for key in keys]
            if read[0] and all(columns <= own for columns in read):
                features.append(i)
    return features


def with_none(table: ir.Table) -> ir.Table:
    """Return a side table with the row at `NONE`, whose columns are null."""
    none = ibis.literal(NONE, "int64").name(POSITION).as_table()
    nulls = {column: ibis.null(kind.copy(nullable=True)) for column, kind in table.schema().items()}
    return ibis.union(table, none.select(**(nulls | {POSITION: none[POSITION]})).select(table.columns), distinct=False)


def bags_of(name: str, table: ir.Table, resolved: Resolved) -> ir.Table:
    """Return the columns of the bag features of a side table, one row for each of its rows."""
    names = {f"{name}.{column}": value for column, value in columns_of(table).items()}
    columns: dict[str, ir.Value] = {}
    for i in bag_features(name, table, resolved):
        columns |= bag_of(i, names, resolved).columns
    return table.select(POSITION, **columns)


def broken_of(name: str, table: ir.Table, resolved: Resolved) -> dict[str, tuple[ir.IntegerValue, ir.IntegerValue]]:
    """Return the rule that the weights of each bag break, counted from 1; 0 if they break none.

    Returns:
        By name of a `BROKEN` column: the rule on each row of the side table, and the rule on the row at `NONE`.
    """
    columns = columns_of(table)
    names = {f"{name}.{column}": value for column, value in columns.items()}
    nulls = {f"{name}.{column}": ibis.null(value.type().copy(nullable=True)) for column, value in columns.items()}
    return {
        f"{BROKEN}{i}": (_first_broken(i, names, resolved), _first_broken(i, nulls, resolved))
        for i in bag_features(name, table, resolved)
        if resolved.config.sparse[i].weights is not None
    }


def _first_broken(i: int, names: Mapping[str, ir.Value], resolved: Resolved) -> ir.IntegerValue:
    rules = bag_of(i, names, resolved).rules.values()
    return ibis.cases(*((rule, number) for number, rule in enumerate(rules, 1)), else_=0).cast("int8")


def training_bags(
    engine: Engine, sides: Mapping[str, ir.Table], train: ir.Table, resolved: Resolved
) -> dict[str, ir.Table]:
    """Return the bags of side tables that training rows have.

    Args:
        engine: Engine that counts the training rows.
        sides: Side tables by name.
        train: Derived training rows.
        resolved: Configuration with its expressions.

    Returns:
        Rows of `bags_of` by name of the bag feature, with the number of training rows that have the bag in `TIMES`.
    """
    bags: dict[str, ir.Table] = {}
    for name, table in sides.items():
        if features := bag_features(name, table, resolved):
            by_side_row = train.select(**{POSITION: _side_position(name, train)}).group_by(POSITION)
            times = engine.keep(f"met_{name}", by_side_row.aggregate(**{TIMES: ibis._.count().cast("int64")}))
            rows = bags_of(name, with_none(table), resolved).join(times, POSITION)
            bags |= dict.fromkeys((resolved.config.sparse[i].name for i in features), rows)
    return bags


def encoded_bags(
    engine: Engine,
    sides: Mapping[str, RawTable],
    vocabularies: Mapping[str, Entries],
    tables: Mapping[str, Table],
    resolved: Resolved,
    at_once: int,
) -> dict[str, ir.Table]:
    """Return the bags of side tables as rows of embedding tables.

    Args:
        engine: Engine that encodes them, and keeps them.
        sides: Side tables by name.
        vocabularies: Vocabularies by table.
        tables: Tables by name.
        resolved: Configuration with its expressions.
        at_once: Rows of a side table that fit in memory.

    Returns:
        Tables of `POSITION` and the columns of the `bag_features`, by side table that has any.
    """
    bags: dict[str, ir.Table] = {}
    for name, raw in sides.items():
        encoded_parts = []
        for first in range(0, max(raw.rows, 1), at_once):
            table = engine.scan(raw, resolved.side_columns[name], first, first + at_once)
            features = [resolved.config.sparse[i] for i in bag_features(name, table, resolved)]
            if not features:
                break
            rows = bags_of(name, table if first else with_none(table), resolved)
            encoded_parts.append(
                engine.keep(f"bags_{name}_{first}", encoded(engine, rows, features, vocabularies, tables))
            )
        if encoded_parts:
            bags[name] = encoded_parts[0] if len(encoded_parts) == 1 else ibis.union(*encoded_parts, distinct=False)
    return bags


def with_bags(rows: ir.Table, bags: Mapping[str, ir.Table]) -> ir.Table:
    """Return rows with the encoded instead of the raw bags of their side rows.

    Args:
        rows: Derived rows of the log.
        bags: Bags of `encoded_bags`, by side table.
    """
    out = rows
    columns: list[str] = []
    for name, table in bags.items():
        side = table.rename({f"{_POSITION}{name}": POSITION})
        out = out.left_join(side, _side_position(name, out) == side[f"{_POSITION}{name}"])
        columns += [column for column in table.columns if column != POSITION]
    raw = {f"{kind}__{column}" for column in columns for kind in ("raw", "weights")}
    return out.select(*(column for column in rows.columns if column not in raw), *columns) if bags else rows


def _side_position(name: str, rows: ir.Table) -> ir.IntegerValue:
    position: ir.IntegerValue = rows[f"{SIDE_ROW}{name}"].fill_null(NONE)
    return position
