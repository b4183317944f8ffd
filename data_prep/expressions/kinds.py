"""Kinds of values and literals, in the Ibis forms that DuckDB and Spark read alike.

A literal goes to the engine as text in a cast: a bare `0.1` is a decimal to both and `5` an int32 that overflows early.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import ibis
from ibis.expr import operations as ops

Kind = Literal["integer", "float", "string", "boolean", "list", "null", "other"]
NUMBERS: tuple[Kind, ...] = ("integer", "float")
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


def kind_of(value: Any) -> Kind:
    """The kind of an Ibis value; `other` are those that expressions only hand on (timestamps, decimals, uint64)."""
    dtype = value.type()
    if dtype.is_integer():
        return "other" if dtype.is_unsigned_integer() and dtype.nbytes == 8 else "integer"
    tests: dict[Kind, bool] = {
        "null": dtype.is_null(),
        "boolean": dtype.is_boolean(),
        "float": dtype.is_floating(),
        "string": dtype.is_string(),
        "list": dtype.is_array(),
    }
    return next((kind for kind, fits in tests.items() if fits), "other")


def spoken(value: Any) -> str:
    """The kind of a value as messages name it: `an integer`, `a string`, `of type date`."""
    kind = kind_of(value)
    if kind == "other":
        return f"of type {value.type().copy(nullable=True)}"
    return kind if kind == "null" else f"{'an' if kind == 'integer' else 'a'} {kind}"


def widened(value: Any) -> Any:
    """A column as expressions compute with it: integers as int64, floats as float64 (both exact)."""
    wide = {"integer": "int64", "float": "float64"}.get(kind_of(value))
    return value.cast(wide) if wide else value


def enclosed(value: Any) -> Any:
    """A condition that may stand in another comparison: Ibis writes `x IN (1) = y` without the brackets it needs."""
    plain = kind_of(value) != "boolean" or isinstance(value.op(), (ops.Field, ops.Literal))
    return value if plain else ibis.coalesce(value, null("boolean"))


def integer(value: int) -> Any:
    """An int64 literal."""
    return ibis.literal(str(value)).cast("int64")


def floating(value: float) -> Any:
    """A float64 literal of exactly these bits."""
    return ibis.literal(repr(value)).cast("float64")


def string(value: str) -> Any:
    """A text literal. Spark substitutes `${name}` wherever it stands in a query, so the two characters are parted."""
    first, *rest = value.split("${")
    literal = ibis.literal(first + "$" if rest else first)
    for i, part in enumerate(rest, start=1):
        literal = literal + ibis.literal("{" + part + ("$" if i < len(rest) else ""))
    return literal


def null(dtype: Any) -> Any:
    """A null of a type."""
    return ibis.null(dtype)


def unified(values: Sequence[Any]) -> list[Any] | None:
    """The values in one type: integers beside floats become floats, nulls take it. None where there is no such type."""
    typed = [value for value in values if kind_of(value) != "null"]
    if not typed:
        return list(values)
    dtypes = {value.type().copy(nullable=True) for value in typed}
    if len(dtypes) > 1:
        if not {kind_of(value) for value in typed} <= set(NUMBERS):
            return None
        dtypes = {ibis.dtype("float64")}
    (dtype,) = dtypes
    return [null(dtype) if kind_of(value) == "null" else value.cast(dtype) for value in values]
