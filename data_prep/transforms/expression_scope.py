"""Values that the expressions of a configuration may read, and the builder of the columns that they compute.

A name in an expression is called a word. It stands for a column of the log, a column of a side table as `side.column`,
a part of the time such as `time.day`, or a derived column. `ColumnBuilder` collects the computed columns of a dataset,
and the rules that each row must obey.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import ibis.expr.datatypes as dt
import ibis.expr.types as ir

from data_prep.expressions import column_to_word, json_text, kinds
from data_prep.expressions.kinds import floating
from data_prep.expressions.times import weekday_of
from data_prep.sources.files import POSITION
from data_prep.sources.table import ColumnPurpose
from data_prep.transforms.arithmetic import LocalTime
from data_prep.transforms.resolve import Resolved
from data_prep.transforms.words import ROW_TIME, is_rate_word, locate_word
from ple_rec.errors import UserError

logger = logging.getLogger(__name__)


def renamed_to_words(rows: ir.Table) -> ir.Table:
    """Return rows of the log with each column renamed to the word by which expressions refer to it."""
    words = {column_to_word(name): name for name in rows.columns if column_to_word(name) != name}
    return rows.rename(words) if words else rows


def readable_columns(rows: ir.Table) -> dict[str, ir.Value]:
    """Return the columns of rows as expressions read them.

    Columns of uint64 and of decimals of scale 0, and lists of these, are read as int64, with null for a number that
    does not fit. Other decimals remain, since `units` and casts to integers are exact. `POSITION` and the columns of
    `with_fields` are left out.
    """
    names = (name for name in rows.columns if name != POSITION and not name.startswith(json_text.FIELD))
    values = {name: rows[name] for name in names}
    return {name: _to_int64(value) if may_exceed_int64(value) else value for name, value in values.items()}


def may_exceed_int64(value: ir.Value) -> bool:
    """Return True if a column's kind can hold integers beyond int64: uint64, decimals of scale 0, and lists of these.

    Spark reads uint64 as decimal(20, 0).
    """
    kind = value.type()
    kind = kind.value_type if isinstance(kind, dt.Array) else kind
    return isinstance(kind, dt.UInt64) or (isinstance(kind, dt.Decimal) and kind.scale == 0)


def exceeds_int64(value: ir.Value) -> ir.BooleanValue:
    """Return True where a column has a number beyond int64, or a list with one; `may_exceed_int64` must hold for it."""
    if isinstance(value, ir.ArrayValue):
        lost = value.filter(lambda x: x.notnull() & _to_int64(x).isnull())
        return (lost.length() > 0).fill_null(False)
    return value.notnull() & _to_int64(value).isnull()


def _to_int64(value: ir.Value) -> ir.Value:
    """Return int64, or a list of it; null for a number that does not fit."""
    if isinstance(value, ir.ArrayValue):
        return value.map(lambda x: kinds.cast(x, "integer"))
    return cast(ir.Value, kinds.cast(value, "integer"))


def readable_values(rows: ir.Table, resolved: Resolved) -> dict[str, ir.Value]:
    """Return the values that expressions may read, by word: columns, parts of the time, derived columns."""
    values = readable_columns(rows)
    if resolved.config.time is not None:
        values = _times(values, resolved) | values  # Columns that `with_times` has added take precedence.
        values["time.weekday"] = weekday_of(cast(ir.IntegerValue, values["time.day"]))
    for name in resolved.config.derived:
        values[name] = resolved.build(f"derived.{name}", values)
    return values


def with_times(rows: ir.Table, resolved: Resolved) -> ir.Table:
    """Return rows with columns for the words of the time, so that expressions do not compute them again."""
    if resolved.config.time is None:
        return rows
    return rows.mutate(**_times(readable_columns(rows), resolved))


def _times(values: Mapping[str, ir.Value], resolved: Resolved) -> dict[str, ir.Value]:
    local = local_time(values, resolved)
    parts: dict[str, ir.Value] = {"time.day": local.day}
    if local.hour is not None:
        parts["time.hour"] = local.hour
    if ROW_TIME in resolved.log_words and ROW_TIME not in values:
        parts[ROW_TIME] = local.time
    return parts


def local_time(values: Mapping[str, ir.Value], resolved: Resolved) -> LocalTime:
    """Return the local time of rows; the configuration must have `[time]`.

    Args:
        values: Values that expressions read, by word.
        resolved: Configuration with its expressions.

    Raises:
        UserError: `time.value` is an expression whose type does not match `time.unit`.
        DataError: `time.value` is the name of a column whose type does not match.
    """
    assert resolved.config.time is not None
    value = resolved.build("time.value", values)
    try:
        return LocalTime(value, resolved.config.time, f"{resolved.place}: time.value")
    except UserError as error:
        unit = resolved.config.time.unit
        want: ColumnPurpose = "day" if unit == "date" else "time" if unit == "timestamp" else "integer"
        raise resolved.wrong_type("time.value", value, error.rule, want, error.fix) from None


def warn_of_offsets(resolved: Resolved) -> None:
    """Warn if times of the log have a UTC offset other than `time.utc_offset`, which determines their local day."""
    table, config = resolved.tables["log"], resolved.config.time
    if config is None:
        return
    for word in resolved.parsed["time.value"].columns:
        _, column = locate_word("time.value", word, resolved.config)
        offsets = table.utc_offsets(column)
        others = [offset for offset in offsets if offset != config.utc_offset]
        if others:
            one = f'set time.utc_offset = "{others[0]}"'
            logger.warning(
                "%s, column %r: its times have the offset %s, but time.utc_offset is %s, which determines their days "
                "(%s: time.value). Fix: %s",
                table.files[0].display_name,
                column,
                " and ".join(others),
                config.utc_offset,
                resolved.place,
                one if len(offsets) == 1 else 'write the local date as a column, and set time.unit = "date"',
            )


def as_condition(key: str, value: ir.Value, resolved: Resolved) -> ir.BooleanValue:
    """Return the value of the expression at a key as a boolean.

    A number is true if it is not 0, and null if it is NaN.

    Raises:
        UserError: The expression is neither boolean nor numeric.
        DataError: It is the name of a column that is neither boolean nor numeric.
    """
    if isinstance(value, ir.BooleanValue):
        return value
    if isinstance(value, ir.NumericValue):
        return (kinds.nan_to_null(value) if isinstance(value, ir.FloatingValue) else value) != 0
    raise resolved.wrong_type(key, value, "a condition is true or false", "condition")


def filter_log(rows: ir.Table, resolved: Resolved) -> ir.Table:
    """Return the rows of the log that fulfil `log.where`.

    Raises:
        UserError: `log.where` is neither boolean nor numeric, or reads an unknown name.
        DataError: `log.where` is the name of a column that is neither boolean nor numeric.
    """
    if resolved.config.log.where is None:
        return rows
    return rows.filter(as_condition("log.where", resolved.build("log.where", readable_columns(rows)), resolved))


SIDE_ROW = "__row_"  # Prefix: `__row_<side>` is the position of the side row that is joined to a row of the log.
BROKEN = "__broken"  # Prefix: `__broken<i>` is the number of the rule that the weights of bag `sparse[i]` break, or 0.
_LARGEST_FLOAT32 = 3.4028234663852886e38


@dataclass(frozen=True)
class Rule:
    """Rule that every row must obey. A row that breaks one is a bad row.

    Args:
        key: Key of the configuration.
        rule: Text of the rule.
        value_column: Column with the value that a message shows, among those of `ColumnBuilder`.
        fix: Fix for messages; None for the general one.
    """

    key: str
    rule: str
    value_column: str
    fix: str | None = None

    @property
    def reason(self) -> str:
        """Text by which reports say why a row was dropped."""
        return f"{self.key}: {self.rule}"


class ColumnBuilder:
    """Builder of the columns of a dataset that are computed from the rows of a log, and of the rules for rows.

    Args:
        rows: Rows with the columns of the log, the `side.column` ones, and `POSITION`.
        resolved: Configuration with its expressions.
        day_1: Days from 1970-01-01 to day 1, from which a configuration counts days; None if it names dates only.

    Attributes:
        values: Values that expressions read, by word.
        columns: Computed columns by name, as expressions over `rows`.
        rules: Rules, each with the condition under which a row breaks it.
        checks_on_computed_columns: Further rules, each with a function that returns this condition for the table of the
            computed columns. So a label is not computed again for its rule.
    """

    def __init__(self, rows: ir.Table, resolved: Resolved, day_1: int | None) -> None:
        self.rows = with_times(rows, resolved)
        self.resolved, self.config, self.day_1 = resolved, resolved.config, day_1
        self.values = readable_values(self.rows, resolved)
        self.columns: dict[str, ir.Value] = {}
        self.rules: list[tuple[Rule, ir.BooleanValue]] = []
        self.checks_on_computed_columns: list[tuple[Rule, Callable[[ir.Table], ir.BooleanValue]]] = []

    def has_words(self, key: str) -> bool:
        """Return True unless the expression at a key reads a rate, and the rows have no rates yet."""
        words = self.resolved.parsed[key].columns
        return all(word in self.values for word in words if is_rate_word(word, self.config))

    def build(self, key: str) -> ir.Value:
        """Return the value of the expression at a key of the configuration."""
        return self.resolved.build(key, self.values)

    def boolean(self, key: str) -> ir.BooleanValue:
        """Return the value of the expression at a key as a boolean; see `as_condition`."""
        return as_condition(key, self.build(key), self.resolved)

    def number(self, key: str) -> ir.FloatingValue:
        """Return the value of the expression at a key, which must be a number or a boolean, in float64."""
        value = self.build(key)
        if isinstance(value, ir.BooleanValue | ir.IntegerValue | ir.FloatingValue):
            return value.cast("float64")
        raise self.resolved.wrong_type(key, value, "a number is needed", "number")

    def hash_input(self, key: str) -> ir.StringValue | ir.IntegerValue:
        """Return the value of the expression at a key, which must be an integer or text.

        Other types are written as text differently by the engines, so their hashes would differ.
        """
        value = self.build(key)
        if not isinstance(value, ir.StringValue | ir.IntegerValue):
            raise self.resolved.wrong_type(key, value, "a hashed value is an integer or text", "id")
        return value

    def add_rule(self, key: str, rule: str, value_column: str, broken: ir.BooleanValue, fix: str | None = None) -> None:
        """Add a rule, with the condition `broken` under which a row breaks it. For the other arguments, see `Rule`."""
        self.rules.append((Rule(key, rule, value_column, fix), broken))


def as_float32(value: ir.FloatingValue) -> ir.FloatingValue:
    """Return a number in float32; null for one that is too large, which a bad row may have."""
    return value.try_cast("float32")


def beyond_float32(value: ir.FloatingValue) -> ir.BooleanValue:
    """Return True where a number is NaN, infinite or too large for float32; False for null."""
    return (value.isnan() | (value.abs() > floating(_LARGEST_FLOAT32))).fill_null(False)
