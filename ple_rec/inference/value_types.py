"""Types of the raw values of features in a request: integers, texts and numbers, as Arrow arrays.

For integers, true counts as 1 and false as 0. A client may send an integer as text, since JavaScript cannot represent
all integers above 2^53 - 1.
"""

from __future__ import annotations

import math
import re
from array import array as int_array
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from ple_rec.data.encode import RawKind
from ple_rec.inference.request_error import RequestError

# Pattern of a text that represents an integer. A JSON parser may round a number, but never a text.
_DECIMAL = "-?(0|[1-9][0-9]{0,39})"
NULL: Final = type(None)
_match_decimal = re.compile(_DECIMAL).fullmatch
Schema = dict[str, Any]
# Function that takes the index of a row and returns the path of the row's value in the request, for error messages.
FieldOf = Callable[[int], str]


@dataclass(frozen=True)
class ValueType:
    """Type of the raw values of a sparse feature: integers, texts or numbers.

    Args:
        rule: Description of a valid value, for error messages.
        schema: JSON schema of a value.
        to_array: Function that converts values to an Arrow array. It raises a RequestError if a value has another type.
    """

    rule: str
    schema: Schema
    to_array: Callable[[Sequence[Any], FieldOf], pa.Array]


def integer_array(values: Sequence[Any], field_of: FieldOf) -> pa.Array:
    """Convert integers, booleans and texts of integers to an Arrow array."""
    # If all values are 64-bit integers or booleans, this takes half the time of Arrow's own conversion. Another value
    # raises an error here, and the code below converts or refuses it.
    with suppress(TypeError, OverflowError):
        return pa.Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(int_array("q", values))])
    if not set(map(type, values)) <= {int, NULL}:
        converted = list(map(_to_integer, values))
        _check_raw("int", converted, {int, NULL}, field_of)
        values = converted
    try:
        return pa.array(values, pa.int64())
    except (pa.ArrowException, OverflowError):
        # No vocabulary has integers beyond 64 bits. They become null, so they are treated like missing values.
        return pa.array([v if v is not None and -(2**63) <= v < 2**63 else None for v in values], pa.int64())


def _text_array(values: Sequence[Any], field_of: FieldOf) -> pa.Array:
    """Convert texts to an Arrow array."""
    _check_raw("text", values, {str, NULL}, field_of)
    try:
        return pa.array(values, pa.string())
    except UnicodeEncodeError as error:
        # The text contains half of a UTF-16 surrogate pair. The JSON parser of the HTTP server refuses such a text, but
        # other callers may pass it.
        i = values.index(error.object)
        raise RequestError(field_of(i), ascii(error.object), "a text of whole characters") from None


def _number_array(values: Sequence[Any], field_of: FieldOf) -> pa.Array:
    """Convert integers and floats to an Arrow array of float64."""
    _check_raw("number", values, {int, float, NULL}, field_of)
    try:
        return pa.array(values, pa.float64())
    except (pa.ArrowException, OverflowError):
        # Arrow refuses integers that float64 cannot represent exactly; Python rounds them.
        return pa.array([None if value is None else _to_float64(value) for value in values], pa.float64())


VALUE_TYPES: dict[RawKind, ValueType] = {
    "int": ValueType(
        'an integer (5, "5", or true for 1)',
        {
            "type": ["integer", "string", "boolean", "null"],
            "pattern": f"^{_DECIMAL}$",
            "description": "true is 1; send an integer as text if the client's numbers have 53 bits",
        },
        integer_array,
    ),
    "text": ValueType("a text", {"type": ["string", "null"]}, _text_array),
    "number": ValueType("a number", {"type": ["number", "null"]}, _number_array),
}


def _check_raw(kind: RawKind, values: Sequence[Any], permitted: set[type], field_of: FieldOf) -> None:
    """Raise a RequestError if the type of a raw value is not permitted; the message explains the kind of the values."""
    rule = f"{VALUE_TYPES[kind].rule}, or null where it is missing"
    check_types(values, set(map(type, values)), permitted, rule, field_of)


def check_types(values: Sequence[Any], types: set[type], permitted: set[type], rule: str, field_of: FieldOf) -> None:
    """Raise a RequestError for the first value whose type is not permitted.

    Args:
        values: JSON values, one for each row.
        types: Types of the values.
        permitted: Types that a value may have.
        rule: Description of a valid value, for the message.
        field_of: Function that returns the path of a row's value in the request.
    """
    if not types <= permitted:
        i = next(i for i, value in enumerate(values) if type(value) not in permitted)
        raise RequestError(field_of(i), values[i], rule)


def _to_integer(value: Any) -> Any:
    """Return the integer that a text, boolean or whole float represents; return any other value unchanged."""
    if isinstance(value, str):
        return int(value) if _match_decimal(value) else value
    return int(value) if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()) else value


def _to_float64(value: float) -> float:
    """Return the nearest float64, or an infinity if the value is beyond its range."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
