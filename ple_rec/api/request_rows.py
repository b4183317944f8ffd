"""Conversion of tables and DataFrames to rows of JSON values, and division of the rows into requests.

`Model.rank` and `Model.score` answer by requests, which have limits, so their rows may need several requests.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ple_rec.api.frames import columns_and_selector
from ple_rec.errors import UserError
from ple_rec.text.messages import print_messages
from ple_rec.text.suggest import nearest_name

logger = logging.getLogger(__name__)

_SHOWN_NAMES = 8  # A warning names at most this many columns.


@dataclass(frozen=True)
class InputNames:
    """Names of the values in requests of one form, and limits of such requests.

    Args:
        names: Names of all features, or of all raw columns.
        large: Names of the values whose total size is limited: lists and, in the raw form, texts.
        large_of_items: Names among `large` that features of items read. If `user` has such a value, it counts once for
            each item.
        raw: True for the raw form.
        max_rows: Largest number of rows of a request.
        float_lists: Names of the raw columns that are lists of floats.
    """

    names: Sequence[str]
    large: Sequence[str]
    large_of_items: Collection[str]
    raw: bool
    max_rows: int
    float_lists: Collection[str] = ()

    def size(self, name: str, value: object) -> int:
        """Return the size of a value, where `max_size` is the largest size of a request.

        The items of a list, or of a weighted bag, count. In the raw form the characters of texts count, too, and the
        items of a list of floats count as characters do.
        """
        from ple_rec.inference.feature_parsing import MAX_VALUES
        from ple_rec.inference.raw_columns import MAX_TEXT

        if isinstance(value, dict):
            return max((self.size(name, each) for each in value.values()), default=0)
        items = value if isinstance(value, list) else []
        if name in self.float_lists:
            return len(items) * MAX_VALUES
        texts = [value, *items] if self.raw else []
        return len(items) * MAX_TEXT + sum(len(text) for text in texts if isinstance(text, str)) * MAX_VALUES

    @property
    def max_size(self) -> int:
        """Largest sum of the sizes of the values of a request."""
        from ple_rec.inference.feature_parsing import MAX_VALUES
        from ple_rec.inference.raw_columns import MAX_TEXT

        return MAX_VALUES * MAX_TEXT


@dataclass(frozen=True)
class PlainRows:
    """Rows as JSON values.

    Args:
        values: Rows as dicts, or columns as lists.
        left_out: Names of columns that were left out, for a warning.
    """

    values: list[Any] | dict[str, list[Any]]
    left_out: tuple[str, ...] = ()


def request_pieces(
    rows: list[Any] | dict[str, list[Any]], inputs: InputNames, user: Mapping[str, Any]
) -> Iterator[tuple[list[Any] | dict[str, list[Any]], int]]:
    """Yield the rows in pieces that are small enough for one request, each with its number of rows.

    Args:
        rows: Rows as dicts, or columns as lists.
        inputs: Names of the values.
        user: Values of the user, which every piece repeats.
    """
    size_of_user = sum(inputs.size(name, user.get(name)) for name in inputs.large)
    size_per_row = sum(inputs.size(name, user.get(name)) for name in inputs.large_of_items)
    if isinstance(rows, list):
        sizes = [
            sum(inputs.size(name, row.get(name)) for name in inputs.large) if isinstance(row, dict) else 0
            for row in rows
        ]
    else:
        sizes = [0] * len(next(iter(rows.values()), ()))
        for name in rows.keys() & inputs.large:
            sizes = [size + inputs.size(name, value) for size, value in zip(sizes, rows[name], strict=True)]
    begin, end = 0, 0
    # Without rows, one empty piece is yielded, so that the model refuses it with the message of the server.
    while True:
        size = size_of_user
        while end < len(sizes) and end - begin < inputs.max_rows:
            size += size_per_row + sizes[end]
            if size > inputs.max_size and end > begin:
                break
            end += 1
        piece = slice(begin, end)
        yield (
            rows[piece] if isinstance(rows, list) else {key: cells[piece] for key, cells in rows.items()},
            end - begin,
        )
        if end == len(sizes):
            return
        begin = end


def plain_rows(name: str, rows: object, inputs: InputNames) -> PlainRows:
    """Return rows as dicts or columns of Python values.

    In the raw form, columns that the model does not read are left out, and returned for a warning. In the form of
    features, columns of a table or a DataFrame that are no features are left out silently, except a column whose name
    is close to that of a missing feature, which the model then refuses as misspelt. Unknown names of dicts remain, so
    that the model refuses them.

    Args:
        name: Name of the argument with the rows, for messages.
        rows: Value of that argument.
        inputs: Names that the model reads.

    Raises:
        UserError: The value is not rows, or its columns have different lengths.
    """
    if isinstance(rows, list | tuple):
        plain = [plain_values(row) for row in rows]
        if not inputs.raw or not all(isinstance(row, dict) for row in plain):
            return PlainRows(plain)
        renamed = raw_names({key: None for row in plain for key in row}, inputs.names)
        plain = [{renamed[key]: value for key, value in row.items()} for row in plain]
        left_out = dict.fromkeys(key for row in plain for key in row if key not in inputs.names)
        return PlainRows([known_values(row, inputs.names) for row in plain], tuple(left_out))
    left_out = {}
    if isinstance(rows, Mapping):
        if inputs.raw:
            renamed = raw_names(rows, inputs.names)
            rows = {renamed[key]: values for key, values in rows.items()}
            left_out = dict.fromkeys(key for key in rows if key not in inputs.names)
        columns = {str(key): plain_values(values) for key, values in rows.items() if str(key) not in left_out}
    else:
        columns, left_out = _columns_of_table(name, rows, inputs)
    if odd := [key for key, values in columns.items() if not isinstance(values, list)]:
        value = f"got a {type(columns[odd[0]]).__name__}"
        raise UserError(f"{name}.{odd[0]}", value, "a column is a list of values", "give a list, one value a row")
    lengths = {key: len(values) for key, values in columns.items()}
    if len(set(lengths.values())) > 1:
        value = ", ".join(f"{key} has {count:,} values" for key, count in lengths.items())
        rule = "columns have the same length, a value for each row"
        raise UserError(name, value, rule, "give each column a value for every row")
    return PlainRows(columns, tuple(left_out))


def _columns_of_table(name: str, rows: object, inputs: InputNames) -> tuple[dict[str, list[Any]], dict[str, None]]:
    """Return the columns of a table that the model reads, and the names of those that it leaves out with a warning."""
    import pyarrow as pa

    keys, pick = columns_and_selector(rows)
    renamed = raw_names(keys, inputs.names) if inputs.raw else {}
    lacking = [each for each in inputs.names if each not in keys]
    read = [
        key
        for key in keys
        if renamed.get(key, key) in inputs.names or (not inputs.raw and nearest_name(str(key), lacking, cutoff=0.8))
    ]
    if twice := [key for key, count in Counter(read).items() if count > 1]:
        raise UserError(f"{name}.{twice[0]}", "two columns", "column names are unique", "rename or drop one of them")
    try:
        arrow = pa.table(pick(read))
    except (TypeError, ValueError, pa.ArrowException):
        rule = "rows are a list of dicts, a dict of columns, or a table"
        raise UserError(name, f"got a {type(rows).__name__}", rule, "give one of these") from None
    # The index of a DataFrame comes along as a column.
    columns = {renamed.get(key, key): plain_values(values) for key, values in arrow.to_pydict().items() if key in read}
    return columns, dict.fromkeys(str(key) for key in keys if key not in read) if inputs.raw else {}


def known_values(values: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Return the values whose names the model reads."""
    return {key: value for key, value in values.items() if key in names}


def raw_names(keys: Iterable[object], names: Collection[str]) -> dict[object, str]:
    """Return the name in a raw request of each column of a log.

    A column whose own name has a dot stands in double quotes there, as in expressions, since `user.age` is the column
    of a side table.
    """
    quoted = {key: '"' + str(key).replace('"', '""') + '"' for key in keys}
    return {key: name if str(key) not in names and name in names else str(key) for key, name in quoted.items()}


def warn_of_unread(names: Sequence[str], inputs: InputNames) -> None:
    """Warn of raw columns that no feature reads, by one message for all of them.

    Args:
        names: Names of these columns.
        inputs: Names that the model reads.
    """
    if not names:
        return
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    with print_messages("stderr"):
        logger.warning(
            "warning: no feature of the model reads the columns %s%s, so they are left out; it reads %s",
            ", ".join(names[:_SHOWN_NAMES]),
            more,
            ", ".join(inputs.names),
        )


def plain_values(value: Any) -> Any:
    """Return a value of NumPy, Arrow or pandas as Python values; NaN, NaT and NA become None."""
    for method in ("to_pylist", "as_py", "tolist"):
        if hasattr(value, method):
            value = getattr(value, method)()
            break
    if isinstance(value, Mapping):
        return {str(key): plain_values(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain_values(part) for part in value]
    missing = (isinstance(value, float) and math.isnan(value)) or type(value).__name__ in ("NaTType", "NAType")
    return None if missing else value
