"""Functions that build Ibis values (literals, arithmetic, casts) whose results are equal on DuckDB and on Spark.

A user writes expressions, such as `price / 100`, in the configuration of a data preparation. Each becomes an Ibis value
that an engine, DuckDB or Spark, computes. Both engines must give the same bits, since a dataset must not depend on the
engine that made it. An expression computes with values of a few kinds (`Kind`), whatever their exact column types.

A literal is written as a text that is cast to int64 or float64. Both engines would read a bare `0.1` as a decimal and a
bare `5` as an int32, in which sums and products overflow early.

Where the operators of DuckDB and Spark differ, a function of this module replaces the operator. For example, DuckDB
rounds a float that is cast to an integer, and Spark truncates it. Only one engine raises an error for a zero divisor.
The engines accept different texts as numbers. The operators of integer division have different names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import ibis
from ibis.expr import operations as ops

Kind = Literal["integer", "float", "decimal", "string", "boolean", "date", "time", "list", "null", "other"]
NUMBERS: tuple[Kind, ...] = ("integer", "float")
TIMES: tuple[Kind, ...] = ("date", "time")
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


def kind_of(value: Any) -> Kind:
    """Return the kind of an Ibis value.

    A timestamp, with or without a zone, is of the kind `time`. A decimal without a fraction is not of the kind
    `decimal`: it is `other`, as all types that expressions do not compute with, such as uint64, whose values may exceed
    int64.
    """
    dtype = value.type()
    if dtype.is_integer():
        return "other" if dtype.is_unsigned_integer() and dtype.nbytes == 8 else "integer"
    tests: dict[Kind, bool] = {
        "null": dtype.is_null(),
        "boolean": dtype.is_boolean(),
        "float": dtype.is_floating(),
        "decimal": dtype.is_decimal() and dtype.scale != 0,
        "string": dtype.is_string(),
        "date": dtype.is_date(),
        "time": dtype.is_timestamp(),
        "list": dtype.is_array(),
    }
    return next((kind for kind, fits in tests.items() if fits), "other")


def kind_text(value: Any) -> str:
    """Return the kind of a value as error messages name it: `an integer`, `a time`, `of type uint64`."""
    kind = kind_of(value)
    if kind == "other":
        return f"of type {value.type().copy(nullable=True)}"
    return kind if kind == "null" else f"{'an' if kind == 'integer' else 'a'} {kind}"


def widen(value: Any) -> Any:
    """Return an integer value as int64 and a float value as float64, without loss; return any other value unchanged."""
    wide = {"integer": "int64", "float": "float64"}.get(kind_of(value))
    return value.cast(wide) if wide else value


def enclose(value: Any) -> Any:
    """Return a value as an operand of a comparison, with parentheses around a condition.

    Ibis writes `x IN (1) = y` without the parentheses that SQL needs around the condition. A call of `coalesce` around
    the condition replaces them.
    """
    is_operand = kind_of(value) != "boolean" or isinstance(value.op(), (ops.Field, ops.Literal))
    return value if is_operand else ibis.coalesce(value, null("boolean"))


def integer(value: int) -> Any:
    """Return an int64 literal."""
    return ibis.literal(str(value)).cast("int64")


def floating(value: float) -> Any:
    """Return a float64 literal with exactly the bits of `value`."""
    return ibis.literal(repr(value)).cast("float64")


def string(value: str) -> Any:
    """Return a text literal.

    Spark replaces `${name}` by a variable everywhere in a query. So the literal is a concatenation, in which `$` ends
    one text and `{` begins the next.
    """
    first, *rest = value.split("${")
    literal = ibis.literal(first + "$" if rest else first)
    for i, part in enumerate(rest, start=1):
        literal = literal + ibis.literal("{" + part + ("$" if i < len(rest) else ""))
    return literal


def null(dtype: Any) -> Any:
    """Return a null literal of the type `dtype`."""
    return ibis.null(dtype)


def unify(values: Sequence[Any]) -> list[Any] | None:
    """Return the values cast to a common type, or None if there is none.

    Integers beside floats become float64. Timestamps with and without a zone become timestamps in UTC.
    """
    typed = [value for value in values if kind_of(value) != "null"]
    if not typed:
        return list(values)
    dtypes = {value.type().copy(nullable=True) for value in typed}
    if len(dtypes) > 1:
        kinds = {kind_of(value) for value in typed}
        if kinds != {"time"} and not kinds <= set(NUMBERS):
            return None
        dtypes = {ibis.dtype("timestamp('UTC')" if kinds == {"time"} else "float64")}
    (dtype,) = dtypes
    return [null(dtype) if kind_of(value) == "null" else value.cast(dtype) for value in values]


Target = Literal["integer", "float", "string", "boolean"]  # Kinds to which `cast` converts.
INFINITY, ZERO = floating(math.inf), integer(0)
# The patterns end with `\z`, since `$` would accept a line break at the end of the text, but only in Java (Spark).
_INTEGER_TEXT = r"^ *[+-]?[0-9]+ *\z"
_FLOAT_TEXT = r"^ *[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][+-]?[0-9]+)? *\z"
_TRUE, _FALSE = ("true", "t", "1"), ("false", "f", "0")


def divide(a: Any, b: Any) -> Any:
    """Return `a / b` in float64; null if b is 0."""
    return a.cast("float64") / b.cast("float64").nullif(floating(0.0))


def remainder(a: Any, b: Any) -> Any:
    """Return the remainder `a % b` of integers, with the sign of a; null if b is 0.

    INT64_MIN % -1 raises an error on one engine. So the divisor -1 is replaced by 1, whose remainder is also 0.
    """
    return a % ibis.cases((b == ZERO, null("int64")), (b == integer(-1), integer(1)), else_=b)


def truncated_quotient(a: Any, b: Any) -> Any:
    """Return the exact quotient of the integers a and b, truncated toward zero; null if b is 0.

    A float64 division alone is not exact for large integers, so the quotient is computed in two steps:

    1. `multiple` is a - a % b, which b divides. `estimate` is multiple / b in float64, multiplied by a factor just
       below 1. It is therefore never too far from zero, and `estimate * b` cannot overflow.
    2. `rest` is the part of `multiple` that the estimate leaves. It is b times a small integer, which a float64
       division and `round` give exactly.
    """
    multiple, b = a - remainder(a, b), b.nullif(ZERO)
    divisor = b.cast("float64")
    estimate = (multiple.cast("float64") / divisor * floating(1 - 2**-50)).cast("int64")
    rest = multiple - estimate * b
    return estimate + (rest.cast("float64") / divisor).round()


def is_null(x: Any) -> Any:
    """Return whether x is null; NaN is not null.

    For a float the test is whether x = x is null, since on Spark the `isnull` of Ibis is also true for NaN.
    """
    return (x == x).isnull() if kind_of(x) == "float" else enclose(x).isnull()


def is_nan(x: Any) -> Any:
    """Return whether x is NaN; null if x is null, for which `isnan` of Spark alone would be false."""
    return ibis.ifelse(is_null(x), null("boolean"), x.isnan())


def nan_to_null(x: Any) -> Any:
    """Return a float as an operand of a comparison, with null in place of NaN.

    Both engines order NaN above all numbers, so `x > 5` would be true for NaN. But the minimum and maximum in a Parquet
    file leave NaN out. An engine that skips row groups by them would sometimes lose the rows with NaN.
    """
    return ibis.ifelse(x.isnan(), null("float64"), x)


def null_if(a: Any, b: Any) -> Any:
    """Return null if a = b, else a."""
    left, right = (nan_to_null(x) if kind_of(x) == "float" else enclose(x) for x in (a, b))
    return ibis.ifelse(left == right, null(a.type()), a)


def clip(x: Any, low: Any, high: Any) -> Any:
    """Return the number limited to [low, high], or high if low > high.

    If x is null or NaN, it is returned unchanged. A bound that is null has no effect, since no comparison with null is
    true. NaN is tested first, since the engines order it above `high`.
    """
    unordered = [(x.isnan(), x)] if kind_of(x) == "float" else []
    return ibis.cases(*unordered, (x > high, high), (x < low, ibis.least(low, high)), else_=x)


def floor(x: Any) -> Any:
    """Return the largest integer <= x as int64; null if x is NaN or beyond int64."""
    return x if kind_of(x) == "integer" else _within_int64(x).floor()


def ceil(x: Any) -> Any:
    """Return the smallest integer >= x as int64; null if x is NaN or beyond int64."""
    return x if kind_of(x) == "integer" else _within_int64(x).ceil()


def nearest(x: Any) -> Any:
    """Return the nearest integer as int64, halves away from zero; null if x is NaN or beyond int64."""
    return x if kind_of(x) == "integer" else _within_int64(x).round()


def truncate(x: Any) -> Any:
    """Return a float truncated toward zero, as int64; null if x is NaN or beyond int64."""
    x = _within_int64(x)
    return ibis.ifelse(x < floating(0.0), x.ceil(), x.floor())


def _within_int64(x: Any) -> Any:
    """Return the float, or null if it is NaN or its integer part does not fit int64."""
    inside = x.between(floating(-(2.0**63)), floating(math.nextafter(2.0**63, 0)))
    return ibis.cases((~x.isnan() & inside, x))


def cast(x: Any, target: Target) -> Any | None:
    """Return a value converted to the kind `target`.

    A text that does not represent a value of this kind becomes null. So does the text of a date outside the years 1 to
    9999, which the engines write differently, as DuckDB does an infinite date.

    Returns:
        The converted value; None if there is no conversion that gives the same result on both engines.
    """
    dtype, source = x.type(), kind_of(x)
    if source == "null":
        return null({"integer": "int64", "float": "float64"}.get(target, target))
    if source == target:
        return x
    if target == "integer":
        return _to_integer(x)
    if target == "float":
        return _to_float(x)
    if target == "boolean":
        return _to_boolean(x)
    if source == "date":
        return ibis.cases((x.year().between(1, 9999), x.cast("string")))
    is_whole_number = (
        source in ("integer", "boolean") or dtype.is_integer() or (dtype.is_decimal() and dtype.scale == 0)
    )
    return x.cast("string") if is_whole_number else None


def _to_integer(x: Any) -> Any | None:
    dtype = x.type()
    if kind_of(x) == "float":
        return truncate(x)
    if dtype.is_string():
        return ibis.cases((x.re_search(_INTEGER_TEXT), x.try_cast("int64")))
    if dtype.is_boolean():
        return x.cast("int64")
    if kind_of(x) == "decimal":
        # One engine would round the fraction and the other would truncate it, so it is cut from the text.
        return x.cast("string").re_replace("[.].*", "").try_cast("int64")
    # Spark reads uint64 as decimal(20, 0), a decimal without a fraction.
    return x.try_cast("int64") if dtype.is_integer() or (dtype.is_decimal() and dtype.scale == 0) else None


def _to_float(x: Any) -> Any | None:
    dtype = x.type()
    if dtype.is_decimal() or (kind_of(x) == "other" and dtype.is_integer()):
        # The text of such a number has all its digits, and both engines parse the text exactly.
        x = x.cast("string")
    elif dtype.is_boolean():
        return x.cast("int64").cast("float64")
    elif dtype.is_integer():
        return x.cast("float64")
    elif not dtype.is_string():
        return None
    number = ibis.cases((x.re_search(_FLOAT_TEXT), x.try_cast("float64")))
    # A text of a number beyond float64 becomes infinity on one engine and null on the other; here it is always null.
    return number.nullif(INFINITY).nullif(-INFINITY)


def _to_boolean(x: Any) -> Any | None:
    if kind_of(x) == "integer":
        return x != ZERO
    if kind_of(x) != "string":
        return None
    x = x.strip().translate("TRUEFALS", "truefals")
    return ibis.cases((x.isin(_TRUE), True), (x.isin(_FALSE), False))
