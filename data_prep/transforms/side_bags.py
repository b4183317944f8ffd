"""Bags of side tables, which are handled once a side row instead of once a row of the log that meets it.

A log row without a side row meets the row at `NONE`, whose columns are null: a bag of `coalesce(tags, other)` may hold
something even there.
"""

from __future__ import annotations

from collections.abc import Mapping

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir

from data_prep.engines.base import Engine
from data_prep.sources.files import POSITION, RawTable
from data_prep.transforms.encode import encoded
from data_prep.transforms.expression_scope import BROKEN, SIDE_ROW, columns_of
from data_prep.transforms.features import bag_of
from data_prep.transforms.resolve import Resolved
from data_prep.vocabulary.build import Vocabularies
from data_prep.vocabulary.lookup import TIMES

NONE = -1  # position of the side row that a log row without one meets
_POSITION = "__position_"  # of a row of a side table, beside those of the log


def bag_columns(name: str, table: ir.Table, resolved: Resolved) -> list[str]:
    """Columns of a side table that hold bags: lists, and texts that a bag is cut from."""
    keys = [f"sparse[{i}].value" for i, feature in enumerate(resolved.config.sparse) if feature.bag]
    cut = {column for key in keys for column in resolved.parsed[key].columns}
    return [
        column
        for column in resolved.side_columns[name]
        if column not in resolved.config.sides[name].on
        and (isinstance(table[column].type(), dt.Array) or f"{name}.{column}" in cut)
    ]


def bag_features(name: str, table: ir.Table, resolved: Resolved) -> list[int]:
    """Which sparse features are bags of a side table: they read nothing but `bag_columns` of it."""
    mine = {f"{name}.{column}" for column in bag_columns(name, table, resolved)}
    found = []
    for i, feature in enumerate(resolved.config.sparse):
        if feature.bag:
            keys = [f"sparse[{i}].value"] + ([f"sparse[{i}].weights"] if feature.weights is not None else [])
            read = [set(resolved.parsed[key].columns) for key in keys]
            if read[0] and all(columns <= mine for columns in read):
                found.append(i)
    return found


def with_none(table: ir.Table) -> ir.Table:
    """A side table with the row at `NONE`."""
    none = ibis.literal(NONE, "int64").name(POSITION).as_table()
    nulls = {column: ibis.null(kind.copy(nullable=True)) for column, kind in table.schema().items()}
    return ibis.union(table, none.select(**(nulls | {POSITION: none[POSITION]})).select(table.columns), distinct=False)


def bags_of(name: str, table: ir.Table, resolved: Resolved) -> ir.Table:
    """The bag features of the rows of a side table, as `derive` makes them of the log's rows."""
    names = {f"{name}.{column}": value for column, value in columns_of(table).items()}
    columns: dict[str, ir.Value] = {}
    for i in bag_features(name, table, resolved):
        columns |= bag_of(i, names, resolved).columns
    return table.select(POSITION, **columns)


def broken_of(name: str, table: ir.Table, resolved: Resolved) -> dict[str, tuple[ir.IntegerValue, ir.IntegerValue]]:
    """Which rule the weights of bags break, counted from 1, or 0: on each row of a side table, and on that at `NONE`.

    Returns:
        By name of the column beside the log's rows.
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


def met_bags(engine: Engine, sides: Mapping[str, ir.Table], train: ir.Table, resolved: Resolved) -> dict[str, ir.Table]:
    """The bags of side tables as training rows meet them.

    Args:
        engine: Counts.
        sides: Side tables by name.
        train: What `derive` made of the training rows.
        resolved: The configuration.

    Returns:
        By bag feature, its `bags_of`, those that training rows meet, with the `TIMES` that they do.
    """
    found: dict[str, ir.Table] = {}
    for name, table in sides.items():
        if features := bag_features(name, table, resolved):
            met = train.select(**{POSITION: _met(name, train)}).group_by(POSITION)
            times = engine.keep(f"met_{name}", met.aggregate(**{TIMES: ibis._.count().cast("int64")}))
            rows = bags_of(name, with_none(table), resolved).join(times, POSITION)
            found |= dict.fromkeys((resolved.config.sparse[i].name for i in features), rows)
    return found


def encoded_bags(
    engine: Engine, sides: Mapping[str, RawTable], made: Vocabularies, resolved: Resolved, at_once: int
) -> dict[str, ir.Table]:
    """The bags of side tables as table rows.

    Args:
        engine: Encodes them, and keeps them.
        sides: Side tables by name.
        made: The vocabularies.
        resolved: The configuration.
        at_once: Rows of a side table that fit in memory.

    Returns:
        By side table that has any: `POSITION`, and the columns of its `bag_features`.
    """
    bags: dict[str, ir.Table] = {}
    for name, raw in sides.items():
        kept = []
        for first in range(0, max(raw.rows, 1), at_once):
            table = engine.scan(raw, resolved.side_columns[name], first, first + at_once)
            features = [resolved.config.sparse[i] for i in bag_features(name, table, resolved)]
            if not features:
                break
            rows = bags_of(name, table if first else with_none(table), resolved)
            kept.append(engine.keep(f"bags_{name}_{first}", encoded(engine, rows, features, made.entries, made.tables)))
        if kept:
            bags[name] = kept[0] if len(kept) == 1 else ibis.union(*kept, distinct=False)
    return bags


def with_bags(rows: ir.Table, bags: Mapping[str, ir.Table]) -> ir.Table:
    """Rows with the encoded bags of their side rows instead of raw ones.

    Args:
        rows: What `derive` made.
        bags: What `encoded_bags` gave.
    """
    out = rows
    made: list[str] = []
    for name, table in bags.items():
        theirs = table.rename({f"{_POSITION}{name}": POSITION})
        out = out.left_join(theirs, _met(name, out) == theirs[f"{_POSITION}{name}"])
        made += [column for column in table.columns if column != POSITION]
    gone = {f"{kind}__{column}" for column in made for kind in ("raw", "weights")}
    return out.select(*(column for column in rows.columns if column not in gone), *made) if bags else rows


def _met(name: str, rows: ir.Table) -> ir.IntegerValue:
    position: ir.IntegerValue = rows[f"{SIDE_ROW}{name}"].fill_null(NONE)
    return position
