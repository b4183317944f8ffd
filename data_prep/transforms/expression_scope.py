"""The words that expressions read: columns as they see them, the time of a row, derived columns."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import cast

import ibis.expr.datatypes as dt
import ibis.expr.types as ir

from data_prep.expressions import numbers as exact
from data_prep.expressions import word_of
from data_prep.sources.files import POSITION
from data_prep.sources.table import Want
from data_prep.transforms.days import LocalTime, weekday_of
from data_prep.transforms.resolve import Resolved, owner_of
from ple_rec.errors import UserError

logger = logging.getLogger(__name__)


def worded(rows: ir.Table) -> ir.Table:
    """Return rows of the log with every column under the word by which expressions know it."""
    words = {word_of(name): name for name in rows.columns if word_of(name) != name}
    return rows.rename(words) if words else rows


def columns_of(rows: ir.Table) -> dict[str, ir.Value]:
    """Return the columns of rows as expressions read them.

    That is uint64, and decimals without a fraction, as int64, null where they do not fit; other decimals as float64.
    """
    return {name: _as_read(rows[name]) for name in rows.columns if name != POSITION}


def _as_read(value: ir.Value) -> ir.Value:
    if is_wide(value):
        return _narrowed(value)
    return exact.cast(value, "float") if isinstance(value, ir.DecimalValue) else value


def is_wide(value: ir.Value) -> bool:
    """Return True for uint64, which Spark reads as decimal(20, 0), decimals without a fraction, and lists of them."""
    kind = value.type()
    kind = kind.value_type if isinstance(kind, dt.Array) else kind
    return isinstance(kind, dt.UInt64) or (isinstance(kind, dt.Decimal) and kind.scale == 0)


def too_wide(value: ir.Value) -> ir.BooleanValue:
    """Where a `is_wide` column holds a number beyond int64."""
    if isinstance(value, ir.ArrayValue):
        lost = value.filter(lambda x: x.notnull() & _narrowed(x).isnull())
        return (lost.length() > 0).fill_null(False)
    return value.notnull() & _narrowed(value).isnull()


def _narrowed(value: ir.Value) -> ir.Value:
    if isinstance(value, ir.ArrayValue):
        return value.map(lambda x: exact.cast(x, "integer"))
    return cast(ir.Value, exact.cast(value, "integer"))


def names_of(rows: ir.Table, resolved: Resolved) -> dict[str, ir.Value]:
    """The words that expressions may use: columns, time, derived columns."""
    names = columns_of(rows)
    if resolved.config.time is not None:
        names = _times(names, resolved) | names  # `timed` rows have them already
        names["time.weekday"] = weekday_of(cast(ir.IntegerValue, names["time.day"]))
    for name in resolved.config.derived:
        names[name] = resolved.build(f"derived.{name}", names)
    return names


def timed(rows: ir.Table, resolved: Resolved) -> ir.Table:
    """Rows with their `time.day` and `time.hour`, so that what refers to them does not compute them again."""
    if resolved.config.time is None:
        return rows
    return rows.mutate(**_times(columns_of(rows), resolved))


def _times(names: Mapping[str, ir.Value], resolved: Resolved) -> dict[str, ir.Value]:
    local = local_time(names, resolved)
    return {"time.day": local.day} if local.hour is None else {"time.day": local.day, "time.hour": local.hour}


def local_time(names: Mapping[str, ir.Value], resolved: Resolved) -> LocalTime:
    """The time of a row, where the configuration has `[time]`.

    Raises:
        UserError: The value has a type that the unit does not fit; a DataError where it is a column as it is.
    """
    assert resolved.config.time is not None
    value = resolved.build("time.value", names)
    try:
        return LocalTime(value, resolved.config.time, f"{resolved.place}: time.value")
    except UserError as error:
        unit = resolved.config.time.unit
        want: Want = "day" if unit == "date" else "time" if unit == "timestamp" else "integer"
        raise resolved.wrong_type("time.value", value, error.rule, want, error.fix) from None


def warn_of_offsets(resolved: Resolved) -> None:
    """Warn where times of the log have an offset, not that of UTC, by which the days are not cut."""
    table, config = resolved.tables["log"], resolved.config.time
    if config is None:
        return
    for word in resolved.parsed["time.value"].columns:
        _, column = owner_of("time.value", word, resolved.config)
        offsets = table.offsets(column)
        others = [offset for offset in offsets if offset != config.utc_offset]
        if others:
            one = f'set time.utc_offset = "{others[0]}"'
            logger.warning(
                "%s, column %r: its times carry the offset %s, and time.utc_offset is %s; days are cut by the latter "
                "(%s: time.value). Fix: %s",
                table.files[0].shown,
                column,
                " and ".join(others),
                config.utc_offset,
                resolved.place,
                one if len(offsets) == 1 else 'write the local date as a column, and set time.unit = "date"',
            )


def condition_of(key: str, value: ir.Value, resolved: Resolved) -> ir.BooleanValue:
    """A condition, true where a number is not 0.

    Raises:
        UserError: It is neither; a DataError where it is a column as it is.
    """
    if isinstance(value, ir.BooleanValue):
        return value
    if isinstance(value, ir.NumericValue):
        return (exact.comparable(value) if isinstance(value, ir.FloatingValue) else value) != 0
    raise resolved.wrong_type(key, value, "a condition is true or false", "condition")


def taken(rows: ir.Table, resolved: Resolved) -> ir.Table:
    """The rows of the log that `log.where` takes.

    Raises:
        UserError: It is no condition, or reads what is not there.
    """
    if resolved.config.log.where is None:
        return rows
    return rows.filter(condition_of("log.where", resolved.build("log.where", columns_of(rows)), resolved))
