"""Joins of the log with side tables, such as tables of users or items.

A side table has one row per key. A dated side table has one per key and day; a row of the log is joined with the last
one whose day is not after its own.

A bag is a feature with a list of values per row. Columns that bags are read from would be repeated in every row of the
log. So the join is in two steps. `link_side_rows` adds the other columns of side tables and, if a side table has
columns for bags, the position of its row. Its result may be stored. `with_side_bags` then adds the columns for bags by
this position, whenever rows are read.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import ibis
import ibis.expr.types as ir

from data_prep.engines.base import Engine
from data_prep.expressions import column_to_word
from data_prep.expressions.kinds import kind_of
from data_prep.expressions.source import kind_fix
from data_prep.sources.files import POSITION, RawTable
from data_prep.transforms.arithmetic import date_text, date_to_day
from data_prep.transforms.expression_scope import (
    SIDE_ROW,
    exceeds_int64,
    local_time,
    may_exceed_int64,
    readable_columns,
)
from data_prep.transforms.resolve import Resolved
from data_prep.transforms.side_bags import bag_columns, weight_rule_columns
from ple_rec.config.prep import SideConfig
from ple_rec.errors import DataError, UserError

logger = logging.getLogger(__name__)

# Prefixes of columns that exist only while side tables are checked and joined; the name of the side table follows.
# `__key<side><i>` is the log's value of the i-th key, `__match<side><i>` that of the side table. `__log_day<side>` is
# the day of the log's row; a side row is valid from `__from<side>` on and before `__until<side>`. In
# `deduplicate_keys`, `__from` without a suffix is the day of a side row.
_KEY, _FROM, _UNTIL, _LOG_DAY, _MATCH = "__key", "__from", "__until", "__log_day", "__match"
_CHOSEN = "__kept"  # Column: position of the row that `keep` chooses among rows with the same key.
_POSITION = "__position_"  # Prefix: `__position_<side>` holds the positions of the rows of a side table.


def join_sides(rows: ir.Table, sides: Mapping[str, ir.Table], resolved: Resolved) -> ir.Table:
    """Return the log's rows with the columns of every side table as `side.column`, null where no side row matches.

    Arguments and errors are those of `link_side_rows`.
    """
    return with_side_bags(link_side_rows(rows, sides, resolved), sides, resolved)


def with_side_bags(rows: ir.Table, sides: Mapping[str, ir.Table], resolved: Resolved) -> ir.Table:
    """Return the rows of `link_side_rows` with the side tables' columns for bags (`side_bags.bag_columns`)."""
    out, columns = rows, list(rows.columns)
    for name in resolved.config.sides:
        table = sides[name]
        bags = {f"{name}.{column}": table[column] for column in bag_columns(name, table, resolved)}
        if bags:
            side_rows = table.select(**{f"{_POSITION}{name}": table[POSITION]}, **bags)
            out = out.left_join(side_rows, out[f"{SIDE_ROW}{name}"] == side_rows[f"{_POSITION}{name}"])
            columns += bags
    return rows if out is rows else out.select(columns)


def link_side_rows(rows: ir.Table, sides: Mapping[str, ir.Table], resolved: Resolved) -> ir.Table:
    """Return the log's rows with the columns of every side table except those for bags.

    For each side table with columns for bags or with frozen vectors, the position of the side row is added (null
    without one), and for each weighted bag the number of the rule that its weights break, 0 for none
    (`side_bags.weight_rule_columns`). Columns that only frozen tables have are left out.

    Args:
        rows: Rows of the log.
        sides: Side tables by name, each with at most one row per key, or per key and day.
        resolved: Configuration with its expressions.

    Raises:
        UserError: There is a dated side table, but no `[time]`; or a side table's day is an expression whose type
            is no date.
        DataError: The expression of a key and its column in the side table are not both integers or both text; or a
            side table's day is a column of its files whose type is no date.
    """
    config = resolved.config
    out, columns = rows, list(rows.columns)
    broken_without_row: dict[str, ir.Value] = {}
    for name, side in config.sides.items():
        table = sides[name]
        values = readable_columns(rows)
        keys = {f"{_KEY}{i}": key_value(resolved, name, column, values, table) for i, column in enumerate(side.on)}
        match: dict[str, ir.Value] = {f"{_KEY}{name}{i}": value for i, value in enumerate(keys.values())}
        if side.day is not None:
            match[f"{_LOG_DAY}{name}"] = _log_day(resolved, values)
        out = out.mutate(**_rebind(out, rows, match))
        # `broken` has two values for each column: on a side row, and in a row of the log without a side row.
        bags, broken = bag_columns(name, table, resolved), weight_rule_columns(name, table, resolved)
        narrow = [column for column in resolved.joined_columns(name) if column not in bags]
        needs_position = bool(bags) or any(column.side == name for column in resolved.frozen.values())
        extra_columns: dict[str, ir.Value] = {f"{SIDE_ROW}{name}": table[POSITION]} if needs_position else {}
        extra_columns |= {column: on_row for column, (on_row, _) in broken.items()}
        side_rows = _select_side_columns(resolved, name, side, table, narrow, extra_columns)
        conditions = [out[f"{_KEY}{name}{i}"] == side_rows[f"{_MATCH}{name}{i}"] for i in range(len(side.on))]
        if side.day is not None:
            day = out[f"{_LOG_DAY}{name}"]
            conditions += [day >= side_rows[f"{_FROM}{name}"], day < side_rows[f"{_UNTIL}{name}"]]
        out = out.left_join(side_rows, conditions)
        columns += [*(f"{name}.{column}" for column in narrow), *([f"{SIDE_ROW}{name}"] if needs_position else [])]
        broken_without_row |= {column: on_none for column, (_, on_none) in broken.items()}
    rules = {column: out[column].fill_null(on_none) for column, on_none in broken_without_row.items()}
    return out.select(*columns, **rules) if config.sides else rows


def _rebind(out: ir.Table, rows: ir.Table, values: Mapping[str, ir.Value]) -> dict[str, ir.Value]:
    """Return expressions on the table `rows` as expressions on `out`, which has all columns of `rows`."""
    if out is rows:
        return dict(values)
    replace = {rows.op(): out.op()}
    return {name: value.op().replace(replace).to_expr() for name, value in values.items()}


def key_value(resolved: Resolved, name: str, column: str, values: Mapping[str, ir.Value], table: ir.Table) -> ir.Value:
    """Return the log's value that is compared with a key column of a side table, after a check of both types."""
    key = f"sides.{name}.on.{column}"
    value, other = resolved.build(key, values), readable_columns(table)[column]
    for kind in (ir.IntegerValue, ir.StringValue):
        if isinstance(value, kind) and isinstance(other, kind):
            return value.cast("int64") if isinstance(value, ir.IntegerValue) else value
    kinds = [str(each.type().copy(nullable=True)) for each in (value, other)]
    fix = f"write the column {name}.{column} as integers or text"
    if isinstance(other, ir.StringValue):
        fix = kind_fix(kind_of(value), "string", resolved.parsed[key].text)
    elif isinstance(other, ir.IntegerValue):
        fix = f"write cast({resolved.parsed[key].text} as bigint)"
        if not isinstance(value, ir.StringValue | ir.BooleanValue | ir.FloatingValue):
            fix = f"write the log's column as {kinds[1]}"
    raise DataError(
        f"{_first_file(resolved, 'log')} and {_first_file(resolved, name)}, column {column!r}",
        f"`{resolved.parsed[key].text}` is {kinds[0]} and {name}.{column} is {kinds[1]}",
        f"both must be integers or both text ({resolved.place}: {key})",
        f"{fix}, or declare the type of a CSV column (csv.types)",
    )


def _first_file(resolved: Resolved, table: str) -> str:
    return resolved.tables[table].files[0].display_name if table in resolved.tables else table


def _log_day(resolved: Resolved, values: Mapping[str, ir.Value]) -> ir.IntegerValue:
    if resolved.config.time is None:
        raise UserError(
            resolved.place,
            "a dated side table without [time]",
            "dated side tables are joined by the day of each row of the log",
            "add [time]",
        )
    return local_time(values, resolved).day


def side_day(resolved: Resolved, name: str, table: ir.Table) -> ir.IntegerValue:
    """Return the day of each row of a dated side table, in days from 1970-01-01."""
    key = f"sides.{name}.day"
    value = resolved.build(key, {column_to_word(column): value for column, value in readable_columns(table).items()})
    try:
        return date_to_day(value, f"{resolved.place}: {key}", f"write date({resolved.parsed[key].text})")
    except UserError as error:
        raise resolved.wrong_type(key, value, error.rule, "day", error.fix) from None


def _select_side_columns(
    resolved: Resolved,
    name: str,
    side: SideConfig,
    table: ir.Table,
    narrow: Sequence[str],
    extra_columns: Mapping[str, ir.Value],
) -> ir.Table:
    """Return the columns of a side table that are joined to the log.

    They are the columns `narrow` (those not for bags) as `side.column`, the extra columns, the keys and, for a dated
    table, the days from which (`_FROM`) and before which (`_UNTIL`) a row is valid.
    """
    columns: dict[str, ir.Value] = {f"{name}.{column}": table[column] for column in narrow} | dict(extra_columns)
    for i, column in enumerate(side.on):
        value = readable_columns(table)[column]
        columns[f"{_MATCH}{name}{i}"] = value.cast("int64") if isinstance(value, ir.IntegerValue) else value
    if side.day is None:
        return table.select(**columns)
    columns[f"{_FROM}{name}"] = side_day(resolved, name, table)
    dated = table.select(**columns)
    keys = [dated[f"{_MATCH}{name}{i}"] for i in range(len(side.on))]
    window = ibis.window(group_by=keys, order_by=dated[f"{_FROM}{name}"])
    following = dated[f"{_FROM}{name}"].lead().over(window)
    # The last row of a key is valid without end, that is, until a day later than all days.
    return dated.mutate(**{f"{_UNTIL}{name}": following.fill_null(2**31)})


def _check_int64(engine: Engine, raw: RawTable, table: ir.Table) -> None:
    """Raise an error if a side table has a number beyond int64."""
    for column in table.columns:
        if not may_exceed_int64(table[column]):
            continue
        bad = table.filter(exceeds_int64(table[column])).select(POSITION, value=table[column])
        first = engine.fetch(bad.order_by(POSITION).limit(1)).to_pylist()
        if first:
            place = f"{raw.locate(first[0][POSITION])}, column {column!r}"
            rule = "integers are int64, at most 2^63 - 1"
            raise DataError(place, f"got {first[0]['value']}", rule, "write it as text, or correct the row")


def _warn_of_repeated(engine: Engine, chosen: ir.Table, name: str, side: SideConfig) -> None:
    """Warn of keys that several rows have, of which `keep` has chosen one."""
    repeated = chosen.filter(chosen["__rows"] > 1)
    first = engine.fetch(repeated.order_by(_CHOSEN).limit(1)).to_pylist()
    if not first:
        return
    (total,) = engine.fetch(repeated.aggregate(keys=repeated.count(), rows=repeated["__rows"].sum())).to_pylist()
    logger.warning(
        'side table %s: %s keys occur in several rows each, %s in total; keep = "%s" chooses one row per key. The '
        "first such key: %s",
        name,
        f"{total['keys']:,}",
        f"{total['rows']:,}",
        side.keep,
        _key_text(first[0], side),
    )


def _key_text(row: Mapping[str, Any], side: SideConfig) -> str:
    """Return the key of a row for messages, with its day if the side table is dated."""
    value = ", ".join(f"{column} = {row[column]!r}" for column in side.on)
    return value if side.day is None else f"{value} on {date_text(row[_FROM])}"


def deduplicate_keys(engine: Engine, raw: RawTable, table: ir.Table, name: str, resolved: Resolved) -> ir.Table:
    """Return a side table with one row per key, or per key and day; without `keep`, only check that it is so.

    Null keys may repeat, since they match no row of the log.

    Args:
        engine: Engine that searches for repeated keys.
        raw: Files of the side table.
        table: All rows of the files.
        name: Name of the side table.
        resolved: Configuration. The key `keep` of the side table chooses the first or the last of several rows.

    Raises:
        DataError: Several rows have the same key although `keep` is not set, a row has no day, or a number exceeds
            int64.
    """
    side = resolved.config.sides[name]
    _check_int64(engine, raw, table)
    columns: dict[str, ir.Value] = {column: readable_columns(table)[column] for column in side.on}
    if side.day is not None:
        columns[_FROM] = side_day(resolved, name, table)
    rows = table.select(POSITION, **columns)
    if side.day is not None:
        missing = engine.fetch(rows.filter(rows[_FROM].isnull()).aggregate(first=rows[POSITION].min()))
        if (first_missing := missing["first"][0].as_py()) is not None:
            rule = "a row of a dated side table has a date, text that begins with YYYY-MM-DD or an integer YYYYMMDD"
            raise DataError(f"{raw.locate(first_missing)}, {side.day}", "no day", rule, "correct or remove the row")
    if side.keep is not None:
        position = rows[POSITION].min() if side.keep == "first" else rows[POSITION].max()
        grouped = rows.group_by(list(columns)).aggregate(__rows=rows.count(), **{_CHOSEN: position})
        chosen = engine.materialize(f"keyed_{name}", grouped.select(_CHOSEN, "__rows", *columns))
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
            f"{value} occurs {row['__rows']} times{day}, first in {raw.locate(row['__first'])} (repeated keys: "
            f"{total['keys']:,}, in {total['rows']:,} rows)",
            f"a key of the side table {name!r} must occur once" + (" a day" if side.day is not None else ""),
            "remove the repeated rows, add a column in which they differ to `on`, or choose one of them: "
            f'sides.{name}.keep = "first" or "last"',
        )
    return table


def newest_rows(table: ir.Table, name: str, resolved: Resolved) -> ir.Table:
    """Return the row of each key that has the newest day.

    Args:
        table: Rows of a dated side table, at most one for each key and day.
        name: Name of the side table.
        resolved: Configuration with its expressions.
    """
    dated = table.mutate(**{_FROM: side_day(resolved, name, table)})
    keys = [dated[column] for column in resolved.config.sides[name].on]
    newest_first = ibis.window(group_by=keys, order_by=dated[_FROM].desc())
    return dated.filter(ibis.row_number().over(newest_first) == 0).drop(_FROM)
