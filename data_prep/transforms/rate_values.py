"""Keys and values that rates are counted from, as columns of the rows of a log."""

from __future__ import annotations

import ibis.expr.types as ir

from data_prep.expressions.kinds import floating, nan_to_null
from data_prep.transforms.expression_scope import ColumnBuilder
from data_prep.transforms.resolve import Resolved
from ple_rec.config.prep_rates import CountedTable

# Prefixes of columns: `__rate_key<i>_<table>` is the i-th key of a counted table, `__rate_of<i>` the value of
# `rates[i]`.
_KEY, _VALUE = "__rate_key", "__rate_of"


def key_columns(table: CountedTable) -> list[str]:
    """Return the names of the columns with the key of a counted table."""
    return [f"{_KEY}{i}_{table.name}" for i in range(len(table.key))]


def value_column(i: int) -> str:
    """Return the name of the column with the value of `rates[i]`, an integer."""
    return f"{_VALUE}{i}"


def add_rate_values(builder: ColumnBuilder) -> None:
    """Add the keys of the counted tables, and the values of the rates that have any."""
    for table in builder.config.counted_tables.values():
        builder.columns |= build_keys(builder, table)
    for i, rate in enumerate(builder.config.rates):
        if rate.of is not None:
            key = f"rates[{i}].of"
            builder.columns[value_column(i)] = _count_value(builder.resolved, key, builder.build(key), rate.unit)


def build_keys(builder: ColumnBuilder, table: CountedTable) -> dict[str, ir.Value]:
    """Return the columns of `key_columns`, as int64 or text.

    Raises:
        UserError: A key is neither integer nor text.
        DataError: A key is the name of a column that is neither.
    """
    keys = {}
    first = next(iter(table.rates))
    for i, column in enumerate(key_columns(table)):
        keys[column] = build_key(builder, f"rates[{first}].key[{i}]")
    return keys


def build_key(builder: ColumnBuilder, key: str) -> ir.Value:
    """Return the value of the expression at a key of the configuration, by which rows are counted, as int64 or text.

    Raises:
        UserError: The value is neither integer nor text.
        DataError: The expression is the name of a column that is neither.
    """
    value = builder.build(key)
    if isinstance(value, ir.BooleanValue | ir.IntegerValue):
        return value.cast("int64")
    if not isinstance(value, ir.StringValue):
        fix = "name a column" if value.type().is_null() else None
        raise builder.resolved.wrong_type(key, value, "a key is an integer or text", "id", fix)
    return value


def _count_value(resolved: Resolved, key: str, value: ir.Value, unit: float | None) -> ir.IntegerValue:
    """Return the integer that is added for a value: 0 or 1, an integer itself, or the number of units."""
    if not isinstance(value, ir.BooleanValue | ir.IntegerValue | ir.FloatingValue):
        fix = f"write cast({resolved.parsed[key].text} as bigint)" if isinstance(value, ir.StringValue) else None
        raise resolved.wrong_type(key, value, "a rate is of a boolean or a number", "number", fix)
    if unit is None and isinstance(value, ir.FloatingValue):
        rule = "sums are exact, so a number with fractions is counted in units"
        unit_key = key.replace(".of", ".unit")
        raise resolved.wrong_type(key, value, rule, fix=f"set {unit_key}, e.g. unit = 0.001")
    if unit is None:
        return value.cast("int64")
    number = value.cast("float64")
    if isinstance(value, ir.FloatingValue):
        number = nan_to_null(number)
    # An engine ends the query if the result exceeds int64.
    return (number / floating(unit) + floating(0.5)).floor().cast("int64")
