"""Conversion of JSON values of raw columns to Arrow arrays of the columns' types, and JSON schemas of the values.

`ple_rec.config.raw_form` lists the types. Null is a missing value in each of them. Values are not rounded or guessed: a
number is no text, and a decimal has no more digits than its type. Only integers and decimals may also be texts, since
the numbers of many clients have 53 bits. The Python API also passes dates, times and decimals as Python objects.

Shape suffixes: N rows, V items of all lists.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal, localcontext
from functools import cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ple_rec.config.raw_form import RawType
from ple_rec.inference.feature_parsing import MAX_BAG
from ple_rec.inference.request_error import RequestError
from ple_rec.inference.value_types import FieldOf, Schema

_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_LARGEST_FLOAT = float(np.finfo(np.float32).max)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]+)?)?(Z|[+-][0-9]{2}:?[0-9]{2})?")
# Floats below this number are whole only if they stand for one integer alone; every float keeps this many digits.
_LARGEST_WHOLE_FLOAT, _FLOAT_DIGITS = 2**53, 15


def to_array(kind: RawType, values: Sequence[Any], field_of: FieldOf) -> pa.Array:
    """Return JSON values of a raw column as an Arrow array of its type.

    Args:
        kind: Type of the column.
        values: JSON values, one for each row.
        field_of: Function that returns the path of a row's value in the request.

    Raises:
        RequestError: A value does not fit the type, or a list is too long.
    """
    if kind.startswith("list<"):
        return _list_array(_scalar(kind[5:-1]), values, field_of)
    return _scalar_array(_scalar(kind), values, field_of)


def arrow_type(kind: RawType) -> pa.DataType:
    """Return the Arrow type of the arrays that `to_array` returns."""
    return pa.list_(_scalar(kind[5:-1]).type) if kind.startswith("list<") else _scalar(kind).type


def value_schema(kind: RawType) -> Schema:
    """Return the JSON schema of a value of a raw column.

    Args:
        kind: Type of the column.
    """
    if kind.startswith("list<"):
        limit = {} if pa.types.is_floating(_scalar(kind[5:-1]).type) else {"maxItems": MAX_BAG}
        return {"type": ["array", "null"], "items": value_schema(kind[5:-1])} | limit
    return _scalar(kind).schema


@dataclass(frozen=True)
class _Scalar:
    """Type of single values.

    Args:
        type: Arrow type.
        rule: Description of a valid value, for error messages.
        schema: JSON schema of a value.
        convert: Function from a JSON value to a Python value of the type; it raises a ValueError for any other value.
        plain_types: Python types of values that Arrow converts in the same way, which is faster than `convert`.
    """

    type: pa.DataType
    rule: str
    schema: Schema
    convert: Callable[[Any], Any]
    plain_types: frozenset[type] = frozenset()


def _scalar_array(scalar: _Scalar, values: Sequence[Any], field_of: FieldOf) -> pa.Array:
    if set(map(type, values)) <= {*scalar.plain_types, type(None)}:
        with suppress(pa.ArrowException, OverflowError, UnicodeEncodeError):
            array = pa.array(values, scalar.type)
            if not pa.types.is_floating(scalar.type) or pc.all(pc.is_finite(array)).as_py() is not False:
                return array
    converted = []
    for i, value in enumerate(values):
        try:
            converted.append(None if value is None else scalar.convert(value))
        except (ValueError, OverflowError, ArithmeticError):
            rule = f"{scalar.rule}, or null where it is missing"
            raise RequestError(field_of(i), value, rule) from None
    return pa.array(converted, scalar.type)


def _list_array(scalar: _Scalar, values: Sequence[Any], field_of: FieldOf) -> pa.Array:
    starts: list[int] = []
    items: list[Any] = []
    for i, value in enumerate(values):
        if value is not None and not isinstance(value, list):
            raise RequestError(field_of(i), value, f"a list, with each value {scalar.rule}, or null")
        if value is not None and len(value) > MAX_BAG and not pa.types.is_floating(scalar.type):
            raise RequestError(field_of(i), value, f"at most {MAX_BAG:,} values", counted=f"{len(value):,} values")
        starts.append(len(items))
        items += value or ()
    offsets = np.array([*starts, len(items)], np.int32)

    def field_in_list(v: int) -> str:
        """Return the path of the item with index v among those of all lists, for example `items[2].tags[0]`."""
        i = int(np.searchsorted(offsets, v, side="right")) - 1
        return f"{field_of(i)}[{v - offsets[i]}]"

    missing_N = pa.array([value is None for value in values], pa.bool_())
    items_V = _scalar_array(scalar, items, field_in_list)
    return pa.ListArray.from_arrays(pa.array(offsets), items_V, mask=missing_N)


def _to_integer(value: Any) -> int:
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) < _LARGEST_WHOLE_FLOAT
    if is_whole or (isinstance(value, str) and _INTEGER.fullmatch(value)):
        value = int(value)
    if type(value) is not int or not -(2**63) <= value < 2**63:
        raise ValueError
    return value


def _to_double(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(number := float(value)):
        raise ValueError
    return number


def _to_float(value: Any) -> float:
    number = _to_double(value)
    if abs(number) > _LARGEST_FLOAT:
        raise ValueError
    return number


def _to_string(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    value.encode()  # An unpaired surrogate raises a UnicodeEncodeError, which is a ValueError.
    return value


def _to_bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _to_date(value: Any) -> date:
    if type(value) is date:
        return value
    if not isinstance(value, str) or not _DATE.fullmatch(value):
        raise ValueError
    return date.fromisoformat(value)


def _to_time(value: Any, *, with_offset: bool) -> datetime:
    if isinstance(value, datetime):
        time = value
    elif isinstance(value, str) and _TIME.fullmatch(value):
        time = datetime.fromisoformat(value)
    else:
        raise ValueError
    if (time.tzinfo is not None) != with_offset:
        raise ValueError
    return time.astimezone(UTC) if with_offset else time


def _to_decimal(value: Any, precision: int, scale: int) -> Decimal:
    """Return the decimal that a number or a text writes; a ValueError is raised if the type would round it."""
    text = str(value) if type(value) in (int, float, Decimal) else value
    if not isinstance(text, str) or not _DECIMAL.fullmatch(text):
        raise ValueError
    number = Decimal(text)
    if isinstance(value, float) and len(number.as_tuple().digits) > _FLOAT_DIGITS:  # The float may be a rounded number.
        raise ValueError
    with localcontext(prec=100):
        rounded = number.quantize(Decimal(1).scaleb(-scale))
    if rounded != number or rounded.adjusted() >= precision - scale:
        raise ValueError
    return rounded


_SCALARS: dict[str, _Scalar] = {
    "int64": _Scalar(
        pa.int64(),
        'an integer of 64 bits (5 or "5")',
        {
            "type": ["integer", "string", "null"],
            "pattern": f"^{_INTEGER.pattern}$",
            "description": "send an integer as text if the client's numbers have 53 bits",
        },
        _to_integer,
        frozenset({int}),
    ),
    "double": _Scalar(pa.float64(), "a number", {"type": ["number", "null"]}, _to_double, frozenset({float})),
    "float": _Scalar(
        pa.float32(), "a number that fp32 can hold", {"type": ["number", "null"]}, _to_float, frozenset({float})
    ),
    "string": _Scalar(pa.string(), "a text", {"type": ["string", "null"]}, _to_string, frozenset({str})),
    "bool": _Scalar(pa.bool_(), "true or false", {"type": ["boolean", "null"]}, _to_bool, frozenset({bool})),
    "date": _Scalar(
        pa.date32(),
        'a date as text ("2024-05-08")',
        {"type": ["string", "null"], "pattern": f"^{_DATE.pattern}$"},
        _to_date,
    ),
    "timestamp": _Scalar(
        pa.timestamp("us"),
        'a time in UTC as text without an offset ("2024-05-08T12:30:00")',
        {"type": ["string", "null"], "description": "ISO 8601 without an offset, in UTC"},
        partial(_to_time, with_offset=False),
    ),
    "timestamptz": _Scalar(
        pa.timestamp("us", "UTC"),
        'a time with an offset as text ("2024-05-08T12:30:00+08:00")',
        {"type": ["string", "null"], "description": "ISO 8601 with an offset"},
        partial(_to_time, with_offset=True),
    ),
}


@cache
def _scalar(kind: str) -> _Scalar:
    """Return the type of single values with a name such as `int64` or `decimal(10, 2)`."""
    if kind in _SCALARS:
        return _SCALARS[kind]
    precision, scale = map(int, kind.removeprefix("decimal(").removesuffix(")").split(","))
    return _Scalar(
        pa.decimal128(precision, scale),
        f"a decimal number of at most {precision} digits, {scale} of them after the point "
        f'(12.5 or "12.5"; more than {_FLOAT_DIGITS} digits as text)',
        {"type": ["number", "string", "null"], "pattern": f"^{_DECIMAL.pattern}$"},
        partial(_to_decimal, precision=precision, scale=scale),
    )
