"""Kinds of values, literals, arithmetic and casts, with the same bits on every engine.

A literal goes to the engine as text in a cast: a bare `0.1` is a decimal to both and `5` an int32 that overflows early.

Where DuckDB and Spark differ, the native form is not used: DuckDB rounds a float that it casts to an integer and Spark
cuts it, one raises for a zero divisor and the other does not, each reads other texts as numbers, neither divides
integers under a name that both know.
"""

from __future__ import annotations

import math
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


Target = Literal["integer", "float", "string", "boolean"]
INFINITY, ZERO = floating(math.inf), integer(0)
_INTEGER_TEXT = r"^ *[+-]?[0-9]+ *\z"  # `$` would accept a line break at the end, in Java only
_FLOAT_TEXT = r"^ *[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][+-]?[0-9]+)? *\z"
_TRUE, _FALSE = ("true", "t", "1"), ("false", "f", "0")


def divide(a: Any, b: Any) -> Any:
    """`a / b` in float64; null where b is 0."""
    return a.cast("float64") / b.cast("float64").nullif(floating(0.0))


def remainder(a: Any, b: Any) -> Any:
    """`a % b` of integers, with the sign of a; null where b is 0.

    The divisor -1 is replaced by 1, of the same remainder: INT64_MIN % -1 raises on one engine.
    """
    return a % ibis.cases((b == ZERO, null("int64")), (b == integer(-1), integer(1)), else_=b)


def cut_quotient(a: Any, b: Any) -> Any:
    """`a // b` of integers, cut toward zero, exact; null where b is 0.

    With m = a - a % b, a multiple of b, the quotient m / b is estimated in float64 a little too near zero, so that
    `estimate * b` cannot overflow. What it leaves of m is a multiple of b so small that its float64 quotient rounds to
    the exact one.
    """
    multiple, b = a - remainder(a, b), b.nullif(ZERO)
    divisor = b.cast("float64")
    estimate = (multiple.cast("float64") / divisor * floating(1 - 2**-50)).cast("int64")
    rest = multiple - estimate * b
    return estimate + (rest.cast("float64") / divisor).round()


def is_null(x: Any) -> Any:
    """Whether x is null. Ibis has Spark answer true for NaN too, so floats are asked whether x = x is."""
    return (x == x).isnull() if kind_of(x) == "float" else enclosed(x).isnull()


def is_nan(x: Any) -> Any:
    """Whether x is NaN; null of null, of which Spark's own isnan is false."""
    return ibis.ifelse(is_null(x), null("boolean"), x.isnan())


def comparable(x: Any) -> Any:
    """A float to compare: null in place of NaN.

    Engines hold NaN above all numbers, but skip it where Parquet's statistics, which leave it out, decide already.
    """
    return ibis.ifelse(x.isnan(), null("float64"), x)


def null_if(a: Any, b: Any) -> Any:
    """Null where a = b, else a."""
    left, right = (comparable(x) if kind_of(x) == "float" else enclosed(x) for x in (a, b))
    return ibis.ifelse(left == right, null(a.type()), a)


def clip(x: Any, low: Any, high: Any) -> Any:
    """The number within [low, high]; null and NaN remain, and a null bound bounds nothing.

    Where low > high it is high. No comparison is true of null, and NaN is asked for first, which would be above high.
    """
    unordered = [(x.isnan(), x)] if kind_of(x) == "float" else []
    return ibis.cases(*unordered, (x > high, high), (x < low, ibis.least(low, high)), else_=x)


def floor(x: Any) -> Any:
    """The largest integer <= x as int64; null where x is NaN or beyond int64."""
    return x if kind_of(x) == "integer" else _within_int64(x).floor()


def ceil(x: Any) -> Any:
    """The smallest integer >= x as int64; null where x is NaN or beyond int64."""
    return x if kind_of(x) == "integer" else _within_int64(x).ceil()


def nearest(x: Any) -> Any:
    """The nearest integer as int64, halves away from zero; null where x is NaN or beyond int64."""
    return x if kind_of(x) == "integer" else _within_int64(x).round()


def cut(x: Any) -> Any:
    """A float cut toward zero, as int64; null where x is NaN or beyond int64."""
    x = _within_int64(x)
    return ibis.ifelse(x < floating(0.0), x.ceil(), x.floor())


def _within_int64(x: Any) -> Any:
    """The number, or null where it has no integer part in int64."""
    inside = x.between(floating(-(2.0**63)), floating(math.nextafter(2.0**63, 0)))
    return ibis.cases((~x.isnan() & inside, x))


def cast(x: Any, to: Target) -> Any | None:
    """A value as another kind, null where a text is none; None where engines differ and there is no such cast."""
    dtype, source = x.type(), kind_of(x)
    if source == "null":
        return null({"integer": "int64", "float": "float64"}.get(to, to))
    if source == to:
        return x
    if to == "integer":
        return _to_integer(x)
    if to == "float":
        return _to_float(x)
    if to == "boolean":
        return _to_boolean(x)
    whole = source in ("integer", "boolean") or dtype.is_integer() or (dtype.is_decimal() and dtype.scale == 0)
    return x.cast("string") if whole else None


def _to_integer(x: Any) -> Any | None:
    dtype = x.type()
    if kind_of(x) == "float":
        return cut(x)
    if dtype.is_string():
        return ibis.cases((x.re_search(_INTEGER_TEXT), x.try_cast("int64")))
    if dtype.is_boolean():
        return x.cast("int64")
    # Spark reads uint64 as decimal(20, 0). Engines round or cut other decimals.
    return x.try_cast("int64") if dtype.is_integer() or (dtype.is_decimal() and dtype.scale == 0) else None


def _to_float(x: Any) -> Any | None:
    dtype = x.type()
    if dtype.is_decimal() or (kind_of(x) == "other" and dtype.is_integer()):
        x = x.cast("string")  # whose digits are exact, as reading them is
    elif dtype.is_boolean():
        return x.cast("int64").cast("float64")
    elif dtype.is_integer():
        return x.cast("float64")
    elif not dtype.is_string():
        return None
    number = ibis.cases((x.re_search(_FLOAT_TEXT), x.try_cast("float64")))
    return number.nullif(INFINITY).nullif(-INFINITY)  # a number too large is an infinity to one, null to the other


def _to_boolean(x: Any) -> Any | None:
    if kind_of(x) == "integer":
        return x != ZERO
    if kind_of(x) != "string":
        return None
    x = x.strip().translate("TRUEFALS", "truefals")
    return ibis.cases((x.isin(_TRUE), True), (x.isin(_FALSE), False))
