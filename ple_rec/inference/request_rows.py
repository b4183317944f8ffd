"""Rows of a request, read from either of two JSON forms; an answer has the form of its request.

    rows       [{"video_id": 7, "seconds": 12.5}, {"video_id": 9, "seconds": 30.0}]
    columns    {"video_id": [7, 9], "seconds": [12.5, 30.0]}

In the form of columns each feature is named only once, so such a request is much smaller; nor need it be transposed.

Shapes: N rows, M values of each row, such as the predictions of M tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Literal

from numpy.typing import NDArray

from ple_rec.inference.feature_parsing import object_schema
from ple_rec.inference.request_error import RequestError
from ple_rec.inference.signature import Signature
from ple_rec.inference.value_types import Schema

MAX_ITEMS = 2000
Form = Literal["rows", "columns"]
# Function that raises a RequestError if an object has a wrong key, given the object and its path in the body.
CheckNames = Callable[[Mapping[str, Any], str], None]
_RULE = f"a list of 1 to {MAX_ITEMS:,} objects, feature: value; or one object, feature: list, all of one length"


@dataclass(frozen=True)
class RequestRows:
    """Rows of a request by feature.

    Args:
        key: Key of the rows in the body.
        form: Form of the rows in the body.
        count: Number of rows, N.
        columns: Values of all rows for each feature that some row has, with None for rows without it.
        uneven_rows: Rows of the body if some of them lack a feature that others have; else empty.
    """

    key: str
    form: Form
    count: int
    columns: Mapping[str, Sequence[Any]]
    uneven_rows: Sequence[Mapping[str, Any]] = ()

    def rows_with(self, name: str) -> Sequence[int]:
        """Return the indices of the rows that have a value of a feature, null included."""
        if self.uneven_rows:
            return [i for i, row in enumerate(self.uneven_rows) if name in row]
        return range(self.count if name in self.columns else 0)

    def field(self, name: str, i: int) -> str:
        """Return the path of a row's value in the body, for messages."""
        return f"{self.key}.{name}[{i}]" if self.form == "columns" else f"{self.key}[{i}].{name}"


def read_rows(body: Mapping[str, Any], key: str, names: Set[str], check_names: CheckNames) -> RequestRows:
    """Return the rows of a request.

    Args:
        body: Body of the request.
        key: Key of the rows in it.
        names: Features that a row may have.
        check_names: Function that raises an error if an object has another key, given the object and its path.

    Raises:
        RequestError: The rows are invalid; the values of features are only checked later, by their parsers.
    """
    if key not in body:
        raise RequestError(key, None, f"the key is missing; {_RULE}")
    value = body[key]
    if isinstance(value, dict):
        return _read_columns(value, key, check_names)
    if not isinstance(value, list):
        raise RequestError(key, value, _RULE)
    if not 1 <= len(value) <= MAX_ITEMS:
        raise RequestError(key, value, _RULE, counted=f"{len(value):,} objects")
    return _read_row_objects(value, key, names, check_names)


def _read_columns(columns: Mapping[str, Any], key: str, check_names: CheckNames) -> RequestRows:
    """Return the rows of a request in the form of columns."""
    if not columns:
        raise RequestError(key, columns, _RULE)
    check_names(columns, key)
    for name, values in columns.items():
        if not isinstance(values, list):
            raise RequestError(f"{key}.{name}", values, f"a list with the {name} of all {key}")
    first = next(iter(columns))
    count = len(columns[first])
    if not 1 <= count <= MAX_ITEMS:
        raise RequestError(f"{key}.{first}", None, f"1 to {MAX_ITEMS:,} values", counted=f"a list of {count:,}")
    for name, values in columns.items():
        if len(values) != count:
            rule = f"as many values as {key}.{first}: {count:,}"
            raise RequestError(f"{key}.{name}", None, rule, counted=f"a list of {len(values):,}")
    return RequestRows(key, "columns", count, columns)


def _read_row_objects(rows: Sequence[Any], key: str, names: Set[str], check_names: CheckNames) -> RequestRows:
    """Return the rows of a request in the form of rows, transposed to columns."""
    first = rows[0]
    if set(map(type, rows)) == {dict} and set(map(len, rows)) == {len(first)}:
        check_names(first, f"{key}[0]")
        # A row with equally many but other keys raises a KeyError; the code below then reads the rows.
        with suppress(KeyError):
            return RequestRows(key, "rows", len(rows), {name: [row[name] for row in rows] for name in first})
    for i, row in enumerate(rows):
        if not isinstance(row, dict):
            raise RequestError(f"{key}[{i}]", row, "an object, feature: value")
        if not row.keys() <= names:
            check_names(row, f"{key}[{i}]")
    present = [name for name in names if any(name in row for row in rows)]
    return RequestRows(key, "rows", len(rows), {name: [row.get(name) for row in rows] for name in present}, rows)


def rows_schema(features: Mapping[str, Schema]) -> Schema:
    """Return the JSON schema of rows in either form; a schema cannot demand that columns have the same length.

    Args:
        features: JSON schema of each feature's value.
    """
    bounds = {"minItems": 1, "maxItems": MAX_ITEMS}
    rows = {"type": "array", "items": object_schema(dict(features)), **bounds}
    columns = object_schema({name: {"type": "array", "items": value, **bounds} for name, value in features.items()})
    columns |= {"minProperties": 1, "description": "lists of equal length, with a value for each row"}
    return {"oneOf": [rows, columns]}


def format_rows(
    columns: Mapping[str, list[Any]], matrices: Mapping[str, tuple[Sequence[str], NDArray[Any]]], form: Form
) -> dict[str, Any] | list[dict[str, Any]]:
    """Return the rows of an answer in the form of its request.

    Args:
        columns: Values of N rows, by key in the answer.
        matrices: Names of M columns and an (N, M) matrix, by key in the answer: each row gets an object of M values.
        form: Form of the request.
    """
    if form == "columns":
        return {**columns, **{key: dict(zip(names, x.T.tolist(), strict=True)) for key, (names, x) in matrices.items()}}
    by_row = [map(dict, map(zip, repeat(names), x.tolist())) for names, x in matrices.values()]
    keys = (*columns, *matrices)
    return [dict(zip(keys, row, strict=True)) for row in zip(*columns.values(), *by_row, strict=True)]


def answer_schemas(signature: Signature, factors: Sequence[str]) -> dict[str, Schema]:
    """Return the JSON schemas of the answers, "Ranked" and "Scored".

    Args:
        signature: Signature of the model.
        factors: Names of the factors of the fusion, whose score is their product, each to the power of an exponent.
    """
    kinds = {"binary": "probability", "regression": "prediction"}
    tasks = {task.name: {"type": "number", "description": kinds[task.kind]} for task in signature.tasks}
    row: dict[str, Schema] = {
        "score": {"type": "number", "description": "logarithm of the fused score"},
        "predictions": object_schema(tasks) | {"required": list(tasks)},
        "factors": {"type": "object", "additionalProperties": {"type": "number"}},
    }
    index = {"index": {"type": "integer", "description": "index in the request's items"}}
    required = ["score", "predictions"]
    return {
        "Ranked": _answer_schema(factors, "items", index | row, ["index", *required]),
        "Scored": _answer_schema(factors, "rows", row, required),
    }


def _answer_schema(factors: Sequence[str], key: str, row: dict[str, Schema], required: list[str]) -> Schema:
    """Return the schema of an answer whose rows are under a key, as rows or as columns."""
    row_schema = {"type": "object", "properties": row, "required": required}
    lists = {name: _column_schema(value) for name, value in row.items()}
    columns = {"type": "object", "properties": lists, "required": required, "description": "for a request of columns"}
    properties = {
        "model": {"type": "string"},
        "version": {"type": "string"},
        "missing": {"type": "array", "items": {"type": "string"}, "description": "features that the request lacks"},
        "unknown": {
            "type": "object",
            "additionalProperties": {"type": "number"},
            "description": "share of the rows whose key a side table does not have, by table",
        },
        "rates_as_of": {
            "type": "string",
            "format": "date",
            "description": "day for whose rows the rates of side tables hold; the oldest of several",
        },
        "events_as_of": {
            "type": "string",
            "format": "date",
            "description": "day before which the events of histories are that were looked up; the oldest of several",
        },
        "exponents": object_schema({name: {"type": "number"} for name in factors}),
        "gates": {"type": "array", "items": {"type": "object"}, "description": "gate weights of the first row"},
        key: {"oneOf": [{"type": "array", "items": row_schema}, columns]},
    }
    return {"type": "object", "properties": properties, "required": ["model", "version", key]}


def _column_schema(value: Schema) -> Schema:
    """Return the schema of the values of all rows from the schema of the value of one row.

    An object becomes an object of lists.
    """
    if value.get("type") != "object":
        return {"type": "array", "items": value}
    properties = {name: _column_schema(each) for name, each in value.get("properties", {}).items()}
    others = value["additionalProperties"]
    return value | {"properties": properties, "additionalProperties": _column_schema(others) if others else False}
