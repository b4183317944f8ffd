"""The rows of a request, in either form; an answer has the form of its request.

    rows       [{"video_id": 7, "seconds": 12.5}, {"video_id": 9, "seconds": 30.0}]
    columns    {"video_id": [7, 9], "seconds": [12.5, 30.0]}

Columns say each name once: a request is a fraction of the bytes, and is read without looking up a name in every row.

Shapes: N rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from operator import itemgetter
from typing import Any, Literal

from numpy.typing import NDArray

from ple_rec.serve.values import RequestError

MAX_ITEMS = 2000
Form = Literal["rows", "columns"]
_RULE = f"a list of 1 to {MAX_ITEMS:,} objects, feature: value; or one object, feature: list, all of one length"
Known = Callable[[Mapping[str, Any], str], None]  # refuses a name that is no feature's


@dataclass(frozen=True)
class Given:
    """Rows as they were given.

    Args:
        key: Of the body.
        form: Of it.
        count: N.
        columns: Values by name, of all rows; empty where rows have different names.
        rows: Each row's own, there.
    """

    key: str
    form: Form
    count: int
    columns: Mapping[str, Sequence[Any]]
    rows: Sequence[Mapping[str, Any]] = ()

    def values(self, name: str) -> Sequence[Any]:
        """Return a feature's value of every row, None where a row has none."""
        if (column := self.columns.get(name)) is not None:
            return column
        return [row.get(name) for row in self.rows] if self.rows else [None] * self.count

    def own(self, name: str) -> tuple[Sequence[int], Sequence[Any]]:
        """Return the places of the rows that have a feature, if only as null, and its values there."""
        if (column := self.columns.get(name)) is not None:
            return range(self.count), column
        places = [i for i, row in enumerate(self.rows) if name in row]
        return places, [self.rows[i][name] for i in places]

    def has(self, name: str) -> bool:
        """Whether any row gives it, if only as null."""
        return name in self.columns or any(name in row for row in self.rows)

    def place(self, i: int, name: str) -> str:
        """Of a row's value, for messages."""
        return f"{self.key}.{name}[{i}]" if self.form == "columns" else f"{self.key}[{i}].{name}"


def read_given(body: Mapping[str, Any], key: str, names: Sequence[str], known: Known) -> Given:
    """The rows of a request.

    Args:
        body: Of the request.
        key: Of the rows in it.
        names: That a row may have.
        known: Refuses, told an object and its place, names that are none.

    Raises:
        RequestError: they are wrong; of values only their number is looked at.
    """
    if key not in body:
        raise RequestError(key, None, f"it is missing; {_RULE}")
    found = body[key]
    if isinstance(found, dict):
        return _of_columns(found, key, known)
    if not isinstance(found, list):
        raise RequestError(key, found, _RULE)
    if not 1 <= len(found) <= MAX_ITEMS:
        raise RequestError(key, found, _RULE, counted=f"{len(found):,} objects")
    if whole := _transposed(found, names):
        return Given(key, "rows", len(found), whole)
    allowed = set(names)
    for i, row in enumerate(found):
        if not isinstance(row, dict):
            raise RequestError(f"{key}[{i}]", row, "an object, feature: value")
        if not row.keys() <= allowed:
            known(row, f"{key}[{i}]")
    return Given(key, "rows", len(found), {}, found)


def _of_columns(columns: Mapping[str, Any], key: str, known: Known) -> Given:
    if not columns:
        raise RequestError(key, columns, _RULE)
    known(columns, key)
    first = next(iter(columns))
    for name, values in columns.items():
        if not isinstance(values, list):
            raise RequestError(f"{key}.{name}", values, f"a list, the {name} of all {key}")
    count = len(columns[first])
    if not 1 <= count <= MAX_ITEMS:
        raise RequestError(f"{key}.{first}", None, f"1 to {MAX_ITEMS:,} values", counted=f"a list of {count:,}")
    for name, values in columns.items():
        if len(values) != count:
            rule = f"as many values as {key}.{first}: {count:,}"
            raise RequestError(f"{key}.{name}", None, rule, counted=f"a list of {len(values):,}")
    return Given(key, "columns", count, columns)


def _transposed(rows: Sequence[Any], names: Sequence[str]) -> Mapping[str, Sequence[Any]]:
    """The values of each name, where every row is an object of all of them and no other; else nothing."""
    if len(names) < 2:  # of one, itemgetter gives the value alone
        return {}
    if set(map(type, rows)) != {dict} or set(map(len, rows)) != {len(names)}:
        return {}
    try:
        return dict(zip(names, zip(*map(itemgetter(*names), rows), strict=True), strict=True))
    except KeyError:
        return {}


def answered(
    columns: Mapping[str, list[Any]], named: Mapping[str, tuple[Sequence[str], NDArray[Any]]], form: Form
) -> dict[str, Any] | list[dict[str, Any]]:
    """What is told of rows, in the form of their request.

    Args:
        columns: Values of N rows, by name.
        named: By name, what has several values a row: their names, and N of each.
        form: Of the request.
    """
    if form == "columns":
        return {**columns, **{key: dict(zip(names, x.T.tolist(), strict=True)) for key, (names, x) in named.items()}}
    by_row = [map(dict, map(zip, repeat(names), x.tolist())) for names, x in named.values()]
    keys = (*columns, *named)
    return [dict(zip(keys, row, strict=True)) for row in zip(*columns.values(), *by_row, strict=True)]
