"""Joins of the log's rows with side tables; a dated side table is joined as of the log's day.

`linked` joins every row of the log to its side rows once: it adds their single-valued columns, and for side tables with
bags the position of the side row. `with_side_bags` adds the bags when a pass reads them, so that a bag is stored once
instead of once per impression.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import ibis
import ibis.expr.types as ir

from data_prep.engines.base import Engine
from data_prep.expressions import word_of
from data_prep.sources.files import POSITION, RawTable
from data_prep.transforms.arithmetic import date_text, day_of
from data_prep.transforms.expression_scope import SIDE_ROW, columns_of, is_wide, local_time, too_wide
from data_prep.transforms.resolve import Resolved
from data_prep.transforms.side_bags import bag_columns, broken_of
from ple_rec.config.prep import SideConfig
from ple_rec.errors import DataError, UserError

logger = logging.getLogger(__name__)

_KEY, _FROM, _UNTIL, _LOG_DAY, _MATCH = "__key", "__from", "__until", "__log_day", "__match"
_CHOSEN = "__kept"
_POSITION = "__position_"  # Before the name of a side table, the name of the column of its rows' positions.


def joined(rows: ir.Table, sides: Mapping[str, ir.Table], resolved: Resolved) -> ir.Table:
    """Return the log's rows with the columns of every side table as `side.column`, null where no side row matches.

    Args and errors are those of `linked`.
    """
    return with_side_bags(linked(rows, sides, resolved), sides, resolved)


def with_side_bags(rows: ir.Table, sides: Mapping[str, ir.Table], resolved: Resolved) -> ir.Table:
    """Return rows of `linked` with the bags of their side rows."""
    out, columns = rows, list(rows.columns)
    for name in resolved.config.sides:
        table = sides[name]
        bags = {f"{name}.{column}": table[column] for column in bag_columns(name, table, resolved)}
        if bags:
            side_rows = table.select(**{f"{_POSITION}{name}": table[POSITION]}, **bags)
            out = out.left_join(side_rows, out[f"{SIDE_ROW}{name}"] == side_rows[f"{_POSITION}{name}"])
            columns += bags
    return rows if out is rows else out.select(columns)


def linked(rows: ir.Table, sides: Mapping[str, ir.Table], resolved: Resolved) -> ir.Table:
    """Return the log's rows with the columns of every side table but its bags.

    For each side table with bags, the position of the side row is added, and the rule that the weights break.

    Args:
        rows: Rows of the log.
        sides: Side tables by name; each has at most one row for each key, or for each key and day.
        resolved: Configuration with its expressions.

    Raises:
        UserError: The days of a side table have a type that is no date, or there is no `[time]` to compare them with.
        DataError: A key has another type than its column of the side table.
    """
    config = resolved.config
    out, columns = rows, list(rows.columns)
    broken_without_row: dict[str, ir.Value] = {}
    for name, side in config.sides.items():
        table = sides[name]
        names = columns_of(rows)
        keys = {f"{_KEY}{i}": _key(resolved, name, column, names, table) for i, column in enumerate(side.on)}
        match: dict[str, ir.Value] = {f"{_KEY}{name}{i}": value for i, value in enumerate(keys.values())}
        if side.day is not None:
            match[f"{_LOG_DAY}{name}"] = _log_day(resolved, names)
        out = out.mutate(**_moved_onto(out, rows, match))
        bags, broken = bag_columns(name, table, resolved), broken_of(name, table, resolved)
        narrow = [column for column in resolved.side_columns[name] if column not in bags]
        more: dict[str, ir.Value] = {f"{SIDE_ROW}{name}": table[POSITION]} if bags else {}
        more |= {column: on_row for column, (on_row, _) in broken.items()}
        side_rows = _renamed(resolved, name, side, table, narrow, more)
        conditions = [out[f"{_KEY}{name}{i}"] == side_rows[f"{_MATCH}{name}{i}"] for i in range(len(side.on))]
        if side.day is not None:
            day = out[f"{_LOG_DAY}{name}"]
            conditions += [day >= side_rows[f"{_FROM}{name}"], day < side_rows[f"{_UNTIL}{name}"]]
        out = out.left_join(side_rows, conditions)
        columns += [*(f"{name}.{column}" for column in narrow), *([f"{SIDE_ROW}{name}"] if bags else [])]
        broken_without_row |= {column: on_none for column, (_, on_none) in broken.items()}
    rules = {column: out[column].fill_null(on_none) for column, on_none in broken_without_row.items()}
    return out.select(*columns, **rules) if config.sides else rows


def _moved_onto(out: ir.Table, rows: ir.Table, values: Mapping[str, ir.Value]) -> dict[str, ir.Value]:
    """Return expressions over `rows` as expressions over `out`, which has the same columns and more."""
    if out is rows:
        return dict(values)
    replace = {rows.op(): out.op()}
    return {name: value.op().replace(replace).to_expr() for name, value in values.items()}


def _key(resolved: Resolved, name: str, column: str, names: Mapping[str, ir.Value], table: ir.Table) -> ir.Value:
    key = f"sides.{name}.on.{column}"
    value, other = resolved.build(key, names), columns_of(table)[column]
    for kind in (ir.IntegerValue, ir.StringValue):
        if isinstance(value, kind) and isinstance(other, kind):
            return value.cast("int64") if isinstance(value, ir.IntegerValue) else value
    kinds = [str(each.type().copy(nullable=True)) for each in (value, other)]
    fix = f"write the column {name}.{column} as integers or text"
    if isinstance(other, ir.IntegerValue | ir.StringValue):
        fix = (
            f"write cast({resolved.parsed[key].text} as {'bigint' if isinstance(other, ir.IntegerValue) else 'string'})"
        )
        if not isinstance(value, ir.IntegerValue | ir.StringValue | ir.BooleanValue | ir.FloatingValue):
            fix = f"write the log's column as {kinds[1]}"
    raise DataError(
        f"{_first_file(resolved, 'log')} and {_first_file(resolved, name)}, column {column!r}",
        f"`{resolved.parsed[key].text}` is {kinds[0]} and {name}.{column} is {kinds[1]}",
        f"keys are integers on both sides or text on both sides ({resolved.place}: {key})",
        f"{fix}, or declare the type of a CSV column (csv.types)",
    )


def _first_file(resolved: Resolved, table: str) -> str:
    return resolved.tables[table].files[0].shown if table in resolved.tables else table


def _log_day(resolved: Resolved, names: Mapping[str, ir.Value]) -> ir.IntegerValue:
    if resolved.config.time is None:
        raise UserError(
            resolved.place, "a dated side table and no [time]", "its rows need the log row's day", "add [time]"
        )
    return local_time(names, resolved).day


def side_day(resolved: Resolved, name: str, table: ir.Table) -> ir.IntegerValue:
    """Return the day of each row of a dated side table, in days from 1970-01-01."""
    key = f"sides.{name}.day"
    value = resolved.build(key, {word_of(column): value for column, value in columns_of(table).items()})
    try:
        return day_of(value, f"{resolved.place}: {key}")
    except UserError as error:
        raise resolved.wrong_type(key, value, error.rule, "day", error.fix) from None


def _renamed(
    resolved: Resolved,
    name: str,
    side: SideConfig,
    table: ir.Table,
    narrow: Sequence[str],
    more: Mapping[str, ir.Value],
) -> ir.Table:
    columns: dict[str, ir.Value] = {f"{name}.{column}": table[column] for column in narrow} | dict(more)
    for i, column in enumerate(side.on):
        value = columns_of(table)[column]
        columns[f"{_MATCH}{name}{i}"] = value.cast("int64") if isinstance(value, ir.IntegerValue) else value
    if side.day is None:
        return table.select(**columns)
    columns[f"{_FROM}{name}"] = side_day(resolved, name, table)
    dated = table.select(**columns)
    keys = [dated[f"{_MATCH}{name}{i}"] for i in range(len(side.on))]
    window = ibis.window(group_by=keys, order_by=dated[f"{_FROM}{name}"])
    following = dated[f"{_FROM}{name}"].lead().over(window)
    return dated.mutate(**{f"{_UNTIL}{name}": following.fill_null(2**31)})


def _check_wide(engine: Engine, raw: RawTable, table: ir.Table) -> None:
    """Refuse a side table that holds a number beyond int64."""
    for column in table.columns:
        if not is_wide(table[column]):
            continue
        bad = table.filter(too_wide(table[column])).select(POSITION, value=table[column])
        first = engine.fetch(bad.order_by(POSITION).limit(1)).to_pylist()
        if first:
            place = f"{raw.locate(first[0][POSITION])}, column {column!r}"
            rule = "integers are int64, at most 2^63 - 1"
            raise DataError(place, f"got {first[0]['value']}", rule, "write it as text, or correct the row")


def _warn_of_repeated(engine: Engine, chosen: ir.Table, name: str, side: SideConfig) -> None:
    """Warn of the keys that stand in several rows, of which `keep` has chosen one."""
    repeated = chosen.filter(chosen["__rows"] > 1)
    first = engine.fetch(repeated.order_by(_CHOSEN).limit(1)).to_pylist()
    if not first:
        return
    (total,) = engine.fetch(repeated.aggregate(keys=repeated.count(), rows=repeated["__rows"].sum())).to_pylist()
    logger.warning(
        'side table %s: %s keys stand in %s rows, and by keep = "%s" one row of each counts; the first: %s',
        name,
        f"{total['keys']:,}",
        f"{total['rows']:,}",
        side.keep,
        _key_text(first[0], side),
    )


def _key_text(row: Mapping[str, Any], side: SideConfig) -> str:
    """Return the key of a row of a side table for messages, with the day of a dated one."""
    value = ", ".join(f"{column} = {row[column]!r}" for column in side.on)
    return value if side.day is None else f"{value} on {date_text(row[_FROM])}"


def one_row_per_key(engine: Engine, raw: RawTable, table: ir.Table, name: str, resolved: Resolved) -> ir.Table:
    """Return a side table that has one row for each key, or for each key and day.

    Args:
        engine: Engine that looks for repeated keys.
        raw: Files of the side table.
        table: All rows of the files.
        name: Name of the side table.
        resolved: Configuration, whose `keep` chooses one of several rows.

    Raises:
        DataError: Several rows have the same key although `keep` is not set, or a row has no day.
    """
    side = resolved.config.sides[name]
    _check_wide(engine, raw, table)
    columns: dict[str, ir.Value] = {column: columns_of(table)[column] for column in side.on}
    if side.day is not None:
        columns[_FROM] = side_day(resolved, name, table)
    rows = table.select(POSITION, **columns)
    if side.day is not None:
        missing = engine.fetch(rows.filter(rows[_FROM].isnull()).aggregate(first=rows[POSITION].min()))
        if (first_missing := missing["first"][0].as_py()) is not None:
            rule = "a dated row has a date, text YYYY-MM-DD or an integer YYYYMMDD"
            raise DataError(f"{raw.locate(first_missing)}, {side.day}", "no day", rule, "correct or remove the row")
    if side.keep is not None:
        position = rows[POSITION].min() if side.keep == "first" else rows[POSITION].max()
        grouped = rows.group_by(list(columns)).aggregate(__rows=rows.count(), **{_CHOSEN: position})
        chosen = engine.keep(f"keyed_{name}", grouped.select(_CHOSEN, "__rows", *columns))
        _warn_of_repeated(engine, chosen.drop_null(list(side.on)), name, side)
        return table.semi_join(chosen, table[POSITION] == chosen[_CHOSEN])
    known = rows.drop_null(list(side.on))
    counted = known.group_by(list(columns)).aggregate(
        __rows=known.count(), __first=known[POSITION].min(), __last=known[POSITION].max()
    )
    repeated = counted.filter(counted["__rows"] > 1)
    first = engine.fetch(repeated.order_by("__first").limit(1)).to_pylist()
    if first:
        row = first[0]
        total = engine.fetch(repeated.aggregate(keys=repeated.count(), rows=repeated["__rows"].sum())).to_pylist()[0]
        value = ", ".join(f"{column} = {row[column]!r}" for column in side.on)
        day = f" on {date_text(row[_FROM])}" if side.day is not None else ""
        raise DataError(
            raw.locate(row["__last"]),
            f"{value} stands {row['__rows']} times{day}, first in {raw.locate(row['__first'])} (keys that repeat: "
            f"{total['keys']:,}, in {total['rows']:,} rows)",
            f"a key of the side table {name!r} stands once" + (" a day" if side.day is not None else ""),
            "remove the repeated rows, add what tells them apart to `on`, or say which one counts: "
            f'sides.{name}.keep = "first" or "last"',
        )
    return table
