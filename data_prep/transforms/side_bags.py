"""Bags (features with a list of values) that are read from side tables, computed once per row of the side table.

A side table, such as one of items, is joined to the log by a key, so many rows of the log share a side row. A row of
the log without a side row is joined to an artificial side row at position `NULL_POSITION`, whose columns are null. Its
bag need not be empty, since an expression such as `coalesce(tags, other)` may give items.
"""

from __future__ import annotations

from collections.abc import Mapping

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir

from data_prep.engines.base import Engine
from data_prep.engines.look_up import LookupTable
from data_prep.sources.files import POSITION, RawTable
from data_prep.transforms.columns import DAY, LOG_ROW_COUNT
from data_prep.transforms.encode import encode_features
from data_prep.transforms.expression_scope import BROKEN, SIDE_ROW, readable_columns
from data_prep.transforms.features import build_bag
from data_prep.transforms.resolve import Resolved
from ple_rec.config.schema import Table

NULL_POSITION = -1
_POSITION = "__position_"  # Prefix: `__position_<side>` holds the positions of the rows of a side table.


def bag_columns(name: str, table: ir.Table, resolved: Resolved) -> list[str]:
    """Return the columns of a side table that bags are read from.

    They are all lists, and other columns in the `value` of a bag, such as a text that it splits; join keys are left
    out.
    """
    keys = [f"sparse[{i}].value" for i, feature in enumerate(resolved.config.sparse) if feature.bag]
    words_of_bags = {column for key in keys for column in resolved.parsed[key].columns}
    return [
        column
        for column in resolved.joined_columns(name)
        if column not in resolved.config.sides[name].on
        and (isinstance(table[column].type(), dt.Array) or f"{name}.{column}" in words_of_bags)
    ]


def bag_features(name: str, table: ir.Table, resolved: Resolved) -> list[int]:
    """Return the indices of the sparse features that are bags and read only `bag_columns` of one side table."""
    words = {f"{name}.{column}" for column in bag_columns(name, table, resolved)}
    features = []
    for i, feature in enumerate(resolved.config.sparse):
        if feature.bag:
            keys = [f"sparse[{i}].value"] + ([f"sparse[{i}].weights"] if feature.weights is not None else [])
            read = [set(resolved.parsed[key].columns) for key in keys]
            if read[0] and all(columns <= words for columns in read):
                features.append(i)
    return features


def with_null_row(table: ir.Table) -> ir.Table:
    """Return a side table with one more row, at `NULL_POSITION`, whose columns are null."""
    row = ibis.literal(NULL_POSITION, "int64").name(POSITION).as_table()
    nulls = {column: ibis.null(kind.copy(nullable=True)) for column, kind in table.schema().items()}
    return ibis.union(table, row.select(**(nulls | {POSITION: row[POSITION]})).select(table.columns), distinct=False)


def select_bags(name: str, table: ir.Table, resolved: Resolved) -> ir.Table:
    """Return the positions of a side table's rows with the raw columns of its bag features."""
    values = {f"{name}.{column}": value for column, value in readable_columns(table).items()}
    columns: dict[str, ir.Value] = {}
    for i in bag_features(name, table, resolved):
        columns |= build_bag(i, values, resolved).columns
    return table.select(POSITION, **columns)


def weight_rule_columns(
    name: str, table: ir.Table, resolved: Resolved
) -> dict[str, tuple[ir.IntegerValue, ir.IntegerValue]]:
    """Return the columns with the number of the rule that the weights of each bag break, from 1; 0 for no rule.

    Returns:
        By name of the column, which begins with `BROKEN`: its value for a row of the side table, and its value for a
        row of the log without a side row.
    """
    columns = readable_columns(table)
    values = {f"{name}.{column}": value for column, value in columns.items()}
    nulls = {f"{name}.{column}": ibis.null(value.type().copy(nullable=True)) for column, value in columns.items()}
    return {
        f"{BROKEN}{i}": (_first_broken(i, values, resolved), _first_broken(i, nulls, resolved))
        for i in bag_features(name, table, resolved)
        if resolved.config.sparse[i].weights is not None
    }


def _first_broken(i: int, values: Mapping[str, ir.Value], resolved: Resolved) -> ir.IntegerValue:
    rules = build_bag(i, values, resolved).rules.values()
    return ibis.cases(*((rule, number) for number, rule in enumerate(rules, 1)), else_=0).cast("int8")


def training_bags(
    engine: Engine, sides: Mapping[str, ir.Table], train: ir.Table, resolved: Resolved, *, by_day: bool = False
) -> dict[str, ir.Table]:
    """Return the bags of side tables that occur in training rows, from which vocabularies are counted.

    Args:
        engine: Engine that counts the training rows.
        sides: Side tables by name.
        train: Derived training rows.
        resolved: Configuration with its expressions.
        by_day: True to count the training rows of each day apart. A row of a side table then gives a row for each day,
            in the column `DAY`.

    Returns:
        By name of the bag feature, the rows of `select_bags` of its side table, with the number of training rows that
        are joined to each in the column `LOG_ROW_COUNT`.
    """
    keys = [POSITION, *([DAY] if by_day else [])]
    bags: dict[str, ir.Table] = {}
    for name, table in sides.items():
        if features := bag_features(name, table, resolved):
            days = {DAY: train[DAY]} if by_day else {}
            by_side_row = train.select(**{POSITION: _side_position(name, train)}, **days).group_by(keys)
            row_counts = engine.materialize(
                f"met_{name}", by_side_row.aggregate(**{LOG_ROW_COUNT: ibis._.count().cast("int64")})
            )
            rows = select_bags(name, with_null_row(table), resolved).join(row_counts, POSITION)
            bags |= dict.fromkeys((resolved.config.sparse[i].name for i in features), rows)
    return bags


def encoded_bags(
    engine: Engine,
    sides: Mapping[str, RawTable],
    vocabularies: Mapping[str, LookupTable],
    tables: Mapping[str, Table],
    resolved: Resolved,
    rows_at_once: int,
) -> dict[str, ir.Table]:
    """Return the bags of side tables, encoded as rows of embedding tables.

    Args:
        engine: Engine that encodes the bags, and stores the results.
        sides: Files of the side tables by name.
        vocabularies: Vocabularies by embedding table.
        tables: Embedding tables by name.
        resolved: Configuration with its expressions.
        rows_at_once: Number of rows of a side table that are encoded at a time.

    Returns:
        By name of each side table with `bag_features`: a table of `POSITION` and the columns of these features.
    """
    bags: dict[str, ir.Table] = {}
    for name, raw in sides.items():
        encoded_parts = []
        for first in range(0, max(raw.rows, 1), rows_at_once):
            table = engine.scan(raw, resolved.side_columns[name], first, first + rows_at_once)
            features = [resolved.config.sparse[i] for i in bag_features(name, table, resolved)]
            if not features:
                break
            rows = select_bags(name, table if first else with_null_row(table), resolved)
            encoded_parts.append(
                engine.materialize(
                    f"bags_{name}_{first}", encode_features(engine, rows, features, vocabularies, tables)
                )
            )
        if encoded_parts:
            bags[name] = encoded_parts[0] if len(encoded_parts) == 1 else ibis.union(*encoded_parts, distinct=False)
    return bags


def with_bags(rows: ir.Table, bags: Mapping[str, ir.Table]) -> ir.Table:
    """Return rows in which the raw bags of side tables are replaced by the encoded ones.

    Args:
        rows: Derived rows of the log.
        bags: Result of `encoded_bags`.
    """
    out = rows
    columns: list[str] = []
    for name, table in bags.items():
        side = table.rename({f"{_POSITION}{name}": POSITION})
        out = out.left_join(side, _side_position(name, out) == side[f"{_POSITION}{name}"])
        columns += [column for column in table.columns if column != POSITION]
    raw = {f"{prefix}__{column}" for column in columns for prefix in ("raw", "weights")}
    return out.select(*(column for column in rows.columns if column not in raw), *columns) if bags else rows


def _side_position(name: str, rows: ir.Table) -> ir.IntegerValue:
    """Return the position of the side row of each row of the log, or `NULL_POSITION` without a side row."""
    position: ir.IntegerValue = rows[f"{SIDE_ROW}{name}"].fill_null(NULL_POSITION)
    return position
