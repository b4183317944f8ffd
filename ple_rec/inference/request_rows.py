"""The rows of a request as columns, whichever form they were sent in; an answer has the form of its request.

    rows       [{"video_id": 7, "seconds": 12.5}, {"video_id": 9, "seconds": 30.0}]
    columns    {"video_id": [7, 9], "seconds": [12.5, 30.0]}

Columns name each feature once: such a request is a fraction of the bytes, and no row is looked into.

Shapes: N rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from ple_rec.inference.feature_parsing import Schema, object_schema
from ple_rec.inference.request_error import RequestError

MAX_ITEMS = 2000
Form = Literal["rows", "columns"]
CheckNames = Callable[[Mapping[str, Any], str], None]  # refuses an object at a place that has another name
_RULE = f"a list of 1 to {MAX_ITEMS:,} objects, feature: value; or one object, feature: list, all of one length"


@dataclass(frozen=True)
class RequestRows:
    """Rows of a request, feature by feature.

    Args:
        key: Key of the body that holds them.
        form: Form in which they were sent.
        count: Number of rows, N.
        columns: Values of all rows for each feature that any row has, None where a row does not have it.
        uneven: Rows as they were sent, where some have features that others do not have; else empty.
    """

    key: str
    form: Form
    count: int
    columns: Mapping[str, Sequence[Any]]
    uneven: Sequence[Mapping[str, Any]] = ()

    def places(self, name: str) -> Sequence[int]:
        """Return the places of the rows that have a feature, if only as null."""
        if self.uneven:
            return [i for i, row in enumerate(self.uneven) if name in row]
        return range(self.count if name in self.columns else 0)

    def field(self, name: str, i: int) -> str:
        """Return the field of a row's value, for messages."""
        return f"{self.key}.{name}[{i}]" if self.form == "columns" else f"{self.key}[{i}].{name}"


def read_rows(body: Mapping[str, Any], key: str, names: Set[str], check_names: CheckNames) -> RequestRows:
    """Return the rows of a request.

    Args:
        body: Body of the request.
        key: Key of the rows in it.
        names: Features that a row may have.
        check_names: Function that refuses an object with another name, and names the place of the object.

    Raises:
        RequestError: They are wrong; values of features are not looked at, but for their number.
    """
    if key not in body:
        raise RequestError(key, None, f"it is missing; {_RULE}")
    value = body[key]
    if isinstance(value, dict):
        return _of_columns(value, key, check_names)
    if not isinstance(value, list):
        raise RequestError(key, value, _RULE)
    if not 1 <= len(value) <= MAX_ITEMS:
        raise RequestError(key, value, _RULE, counted=f"{len(value):,} objects")
    return _of_rows(value, key, names, check_names)


def _of_columns(columns: Mapping[str, Any], key: str, check_names: CheckNames) -> RequestRows:
    """Return rows that were sent as columns."""
    if not columns:
        raise RequestError(key, columns, _RULE)
    check_names(columns, key)
    for name, values in columns.items():
        if not isinstance(values, list):
            raise RequestError(f"{key}.{name}", values, f"a list, the {name} of all {key}")
    first = next(iter(columns))
    count = len(columns[first])
    if not 1 <= count <= MAX_ITEMS:
        raise RequestError(f"{key}.{first}", None, f"1 to {MAX_ITEMS:,} values", counted=f"a list of {count:,}")
    for name, values in columns.items():
        if len(values) != count:
            rule = f"as many values as {key}.{first}: {count:,}"
            raise RequestError(f"{key}.{name}", None, rule, counted=f"a list of {len(values):,}")
    return RequestRows(key, "columns", count, columns)


def _of_rows(rows: Sequence[Any], key: str, names: Set[str], check_names: CheckNames) -> RequestRows:
    """Return rows that were sent as rows, transposed."""
    first = rows[0]
    if set(map(type, rows)) == {dict} and set(map(len, rows)) == {len(first)}:
        check_names(first, f"{key}[0]")
        with suppress(KeyError):  # other names, though as many
            return RequestRows(key, "rows", len(rows), {name: [row[name] for row in rows] for name in first})
    for i, row in enumerate(rows):
        if not isinstance(row, dict):
            raise RequestError(f"{key}[{i}]", row, "an object, feature: value")
        if not row.keys() <= names:
            check_names(row, f"{key}[{i}]")
    present = [name for name in names if any(name in row for row in rows)]
    return RequestRows(key, "rows", len(rows), {name: [row.get(name) for row in rows] for name in present}, rows)


def rows_schema(features: Mapping[str, Schema]) -> Schema:
    """Return the JSON schema of rows in either form; it cannot say that columns are of one length.

    Args:
        features: JSON schema of each feature's value.
    """
    bounds = {"minItems": 1, "maxItems": MAX_ITEMS}
    rows = {"type": "array", "items": object_schema(dict(features)), **bounds}
    columns = object_schema({name: {"type": "array", "items": one, **bounds} for name, one in features.items()})
    columns |= {"minProperties": 1, "description": "lists of one length, a value of each row"}
    return {"oneOf": [rows, columns]}
