"""Names that expressions read, and the builder of the derived columns and their rules."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import ibis.expr.datatypes as dt
import ibis.expr.types as ir

from data_prep.expressions import kinds as exact
from data_prep.expressions import word_of
from data_prep.expressions.kinds import floating
from data_prep.sources.files import POSITION
from data_prep.sources.table import Want
from data_prep.transforms.arithmetic import LocalTime, weekday_of
from data_prep.transforms.resolve import Resolved, owner_of
from ple_rec.errors import UserError

logger = logging.getLogger(__name__)


def renamed_to_words(rows: ir.Table) -> ir.Table:
    """Return rows of the log, each column renamed to the word by which expressions know it."""
    words = {word_of(name): name for name in rows.columns if word_of(name) != name}
    return rows.rename(words) if words else rows


def columns_of(rows: ir.Table) -> dict[str, ir.Value]:
    """Return the columns of rows as expressions read them.

    Columns of uint64 and of decimals without a fraction are read as int64, with null for a number that does not fit.
    Other decimals are read as float64.
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
    """Return True where a column that `is_wide` holds a number beyond int64."""
    if isinstance(value, ir.ArrayValue):
        lost = value.filter(lambda x: x.notnull() & _narrowed(x).isnull())
        return (lost.length() > 0).fill_null(False)
    return value.notnull() & _narrowed(value).isnull()


def _narrowed(value: ir.Value) -> ir.Value:
    if isinstance(value, ir.ArrayValue):
        return value.map(lambda x: exact.cast(x, "integer"))
    return cast(ir.Value, exact.cast(value, "integer"))


def names_of(rows: ir.Table, resolved: Resolved) -> dict[str, ir.Value]:
    """Return the values that expressions may read, by word: columns, time, derived columns."""
    names = columns_of(rows)
    if resolved.config.time is not None:
        names = _times(names, resolved) | names  # Rows of `with_times` have these columns already.
        names["time.weekday"] = weekday_of(cast(ir.IntegerValue, names["time.day"]))
    for name in resolved.config.derived:
        names[name] = resolved.build(f"derived.{name}", names)
    return names


def with_times(rows: ir.Table, resolved: Resolved) -> ir.Table:
    """Return rows with the columns `time.day` and `time.hour`, so that they are computed once for all readers."""
    if resolved.config.time is None:
        return rows
    return rows.mutate(**_times(columns_of(rows), resolved))


def _times(names: Mapping[str, ir.Value], resolved: Resolved) -> dict[str, ir.Value]:
    local = local_time(names, resolved)
    return {"time.day": local.day} if local.hour is None else {"time.day": local.day, "time.hour": local.hour}


def local_time(names: Mapping[str, ir.Value], resolved: Resolved) -> LocalTime:
    """Return the local time of rows; the configuration must have `[time]`.

    Raises:
        UserError: The expression has a type that the unit does not fit.
        DataError: The column that the expression names has such a type.
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
    """Warn of times of the log whose UTC offset is not `time.utc_offset`, by which the days are cut."""
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
    """Return a value as a condition; a number is true if it is not 0.

    Raises:
        UserError: The expression is neither a condition nor a number.
        DataError: The column that the expression names is neither.
    """
    if isinstance(value, ir.BooleanValue):
        return value
    if isinstance(value, ir.NumericValue):
        return (exact.comparable(value) if isinstance(value, ir.FloatingValue) else value) != 0
    raise resolved.wrong_type(key, value, "a condition is true or false", "condition")


def filtered(rows: ir.Table, resolved: Resolved) -> ir.Table:
    """Return the rows of the log that fulfil `log.where`.

    Raises:
        UserError: `log.where` is no condition, or reads an unknown name.
    """
    if resolved.config.log.where is None:
        return rows
    return rows.filter(condition_of("log.where", resolved.build("log.where", columns_of(rows)), resolved))


SIDE_ROW = "__row_"  # The column holds the position of the side row that is joined to a row of the log.
BROKEN = "__broken"  # The column holds the rule that a bag of a side table breaks, counted from 1, or 0.
_LARGEST_FLOAT32 = 3.4028234663852886e38


@dataclass(frozen=True)
class Rule:
    """Rule that every good row fulfils.

    Args:
        key: Key of the configuration.
        rule: Text of the rule.
        value_column: Column of the derived rows that holds the value that messages show.
        fix: Fix that messages name; None for the general one.
    """

    key: str
    rule: str
    value_column: str
    fix: str | None = None

    @property
    def reason(self) -> str:
        """Reason for which a row that breaks the rule is left out."""
        return f"{self.key}: {self.rule}"


class ColumnBuilder:
    """Columns that are derived from the rows of a log, with the rules that a row can break.

    Args:
        rows: Rows with the columns of the log, the `side.column` ones, and `POSITION`.
        resolved: Configuration with its expressions.
        day_1: Days from 1970-01-01 to day 1; None if the configuration does not count days.

    Attributes:
        names: Values that expressions read, by word.
        columns: Derived columns by name, as expressions over `rows`.
        broken: Rules, each with the condition under which a row breaks it.
        checks_on_derived_columns: Rules, each with a function that makes this condition from the table of the derived
            columns, so that the label is computed once.
    """

    def __init__(self, rows: ir.Table, resolved: Resolved, day_1: int | None) -> None:
        self.rows = with_times(rows, resolved)
        self.resolved, self.config, self.day_1 = resolved, resolved.config, day_1
        self.names = names_of(self.rows, resolved)
        self.columns: dict[str, ir.Value] = {}
        self.broken: list[tuple[Rule, ir.BooleanValue]] = []
        self.checks_on_derived_columns: list[tuple[Rule, Callable[[ir.Table], ir.BooleanValue]]] = []

    def build(self, key: str) -> ir.Value:
        """Return the value of the expression at a key of the configuration."""
        return self.resolved.build(key, self.names)

    def boolean(self, key: str) -> ir.BooleanValue:
        """Return the value of the expression at a key, as a condition."""
        return condition_of(key, self.build(key), self.resolved)

    def number(self, key: str) -> ir.FloatingValue:
        """Return the value of the expression at a key, a number, in float64."""
        value = self.build(key)
        if isinstance(value, ir.BooleanValue | ir.IntegerValue | ir.FloatingValue):
            return value.cast("float64")
        raise self.resolved.wrong_type(key, value, "a number is needed", "number")

    def hash_input(self, key: str) -> ir.StringValue | ir.IntegerValue:
        """Return the value of the expression at a key; only integers and texts can be hashed alike on every engine."""
        value = self.build(key)
        if not isinstance(value, ir.StringValue | ir.IntegerValue):
            raise self.resolved.wrong_type(key, value, "a hashed value is an integer or text", "id")
        return value

    def rule(self, key: str, rule: str, value_column: str, broken: ir.BooleanValue, fix: str | None = None) -> None:
        """Add a rule with the condition under which a row breaks it; the other arguments are those of `Rule`."""
        self.broken.append((Rule(key, rule, value_column, fix), broken))


def as_float32(value: ir.FloatingValue) -> ir.FloatingValue:
    """Return a number in float32; a number that does not fit, of a bad row, must not end the query."""
    return value.try_cast("float32")


def beyond_float32(value: ir.FloatingValue) -> ir.BooleanValue:
    """Return True where a number is NaN, or too large for float32."""
    return (value.isnan() | (value.abs() > floating(_LARGEST_FLOAT32))).fill_null(False)
