"""Raw columns of one request: the values that it sends, and those that side tables have for its keys.

`RowSet` has the rows of one owner. In a ranking, the user has one row, and each item has one; rows to score are rows of
both owners. If a request sends a value for a row, null included, the value of a side table is not used.

A short body must not cost much time. So before a query runs, it is checked that the lists of its rows have at most
`MAX_VALUES` items, and their texts at most `MAX_TEXT` characters. A float in a list, such as a number of a vector,
costs as little as a character, and counts as one. A value of `user` counts once for each item if a feature of the items
reads it. The lists of side tables, which no client can lengthen or shorten, have a bound of their own,
`MAX_TABLE_VALUES`.

Shape suffixes: N rows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ple_rec.config.raw_form import RawColumn, RawForm, RawSide, RawType
from ple_rec.config.side_table import SideTableInfo
from ple_rec.data.vocabulary_index import is_text
from ple_rec.inference.feature_parsing import MAX_VALUES
from ple_rec.inference.key_index import UNKNOWN
from ple_rec.inference.raw_query import QueryEngine, QueryError
from ple_rec.inference.raw_values import arrow_type, to_array
from ple_rec.inference.request_error import RequestError
from ple_rec.inference.request_rows import RequestRows
from ple_rec.inference.side_table import SideTable
from ple_rec.inference.signature import Owner
from ple_rec.inference.value_types import FieldOf

MAX_TEXT = 1 << 22  # Largest number of characters of all texts, and of floats in lists, that a query reads.
FLOAT_LISTS = ("list<float>", "list<double>")  # Types of lists whose items count as characters.
# Largest number of items of all lists of side tables that a query reads. A long list of a table is often cut to the few
# items of `max_length`, and prep reads it too, so its item must not be refused.
MAX_TABLE_VALUES = 16 * MAX_VALUES


@dataclass(frozen=True)
class Cells:
    """JSON values of a raw column.

    Args:
        values: Values, one for each row; a single one if all rows share it.
        field_of: Function that returns the path of a row's value in the request.
        sent_rows: Indices of the rows for which the request has a value, null included.
    """

    values: Sequence[Any]
    field_of: FieldOf
    sent_rows: Sequence[int]

    def is_sent(self, rows: int) -> NDArray[np.bool_]:
        """Return a flag for each row, True if the request has a value for it."""
        is_sent_N = np.zeros(rows, np.bool_)
        is_sent_N[list(self.sent_rows)] = True
        return is_sent_N


def cells_of_user(name: str, user: Mapping[str, Any]) -> Cells:
    """Return the value of a raw column for the user of a ranking."""
    return Cells([user.get(name)], lambda _: f"user.{name}", range(name in user))


def cells_of_items(name: str, user: Mapping[str, Any], items: RequestRows) -> Cells:
    """Return the values of a raw column for the items of a ranking; an item without a value gets that of the user."""
    indices = items.rows_with(name)
    all_rows = range(items.count)
    if not indices:
        return Cells([user.get(name)], lambda _: f"user.{name}", all_rows if name in user else ())
    if len(indices) == items.count:
        return Cells(items.columns[name], lambda i: items.field(name, i), all_rows)
    values, own = [user.get(name)] * items.count, set(indices)
    for i in indices:
        values[i] = items.columns[name][i]
    return Cells(
        values,
        lambda i: items.field(name, i) if i in own else f"user.{name}",
        all_rows if name in user else indices,
    )


def cells_of_rows(name: str, rows: RequestRows) -> Cells:
    """Return the values of a raw column for rows to score."""
    values = rows.columns.get(name, [None])
    return Cells(values, lambda i: rows.field(name, i), rows.rows_with(name))


class SideLookup:
    """Side tables of one model in memory.

    Args:
        form: Raw form of the model.
        tables: Side tables, by name; each fits the form (`find_misfit`).
        engine: Engine that computes keys.

    Attributes:
        key_columns: Names of the raw columns that the keys of these tables read, and the times of histories.
    """

    def __init__(self, form: RawForm, tables: Mapping[str, SideTable], engine: QueryEngine) -> None:
        self._tables, self._engine = tables, engine
        self._sides = {side.name: side for side in form.sides if side.name in tables}
        self._kinds = {column.name: column.type for column in form.columns}
        self._owners = {column.name: column.of for column in form.columns}
        self.key_columns = {name for side in self._sides.values() for name in side.reads}
        of_histories = (history.query.columns for history in form.histories if history.name in tables)
        self.key_columns.update(name for columns in of_histories for name in columns)

    def side_of(self, column: str) -> RawSide | None:
        """Return the side table that has a raw column, such as `video.plays`; None if no table in memory has it."""
        return self._sides.get(column.partition(".")[0]) if "." in column else None

    def columns_of(self, side: RawSide, owner: Owner) -> list[str]:
        """Return the raw columns of a side table that belong to an owner."""
        names = (f"{side.name}.{column}" for column in side.columns)
        return [name for name in names if self._owners[name] == owner]

    def find_rows(self, side: RawSide, cells: Mapping[str, Cells], arrays: Mapping[str, pa.Array]) -> NDArray[np.int64]:
        """Return the row of each key of a request; a single row if all rows of the request share the key.

        Args:
            side: Side table.
            cells: Values that the request sends for the raw columns that the keys read.
            arrays: Values of these raw columns, of the request or of other side tables.

        Raises:
            RequestError: The values are too many, or a key cannot be computed.
        """
        count = max((len(each) for each in arrays.values()), default=1)
        check_size(cells, self._kinds, count)
        try:
            computed = self._engine.keys(side, {name: broadcast(each, count) for name, each in arrays.items()}, count)
        except QueryError as error:
            each = cells[side.reads[0]]
            i = error.row if len(each.values) > 1 else 0
            raise RequestError(each.field_of(i), each.values[i], error.rule) from error
        return self._tables[side.name].find(computed)

    def as_of(self, side: RawSide) -> str | None:
        """Return the day for whose rows the values of a side table hold; None if they do not depend on the day."""
        return self._tables[side.name].info.as_of

    def take(self, column: str, rows_N: NDArray[np.int64]) -> pa.Array:
        """Return the values of a raw column in the rows of its side table that `find_rows` has returned."""
        side, _, name = column.partition(".")
        return self._tables[side].take(name, rows_N)


class RowSet:
    """Rows of one owner in a request, or of both owners.

    Args:
        columns: Raw columns of the model.
        cells: Values that the request sends, by raw column.
        count: Number of rows.
        owners: Owners of the rows.
        lookup: Side tables.
    """

    def __init__(
        self,
        columns: Mapping[str, RawColumn],
        cells: Mapping[str, Cells],
        count: int,
        owners: Collection[Owner],
        lookup: SideLookup,
    ) -> None:
        self._columns, self.cells, self.count, self._owners, self._lookup = columns, cells, count, owners, lookup
        self._rows_by_side: dict[str, NDArray[np.int64]] = {}  # Results of `find_rows`, by side table.

    def array(self, name: str) -> pa.Array:
        """Return the values of a raw column, one for each row, or a single one if all rows share it.

        Raises:
            RequestError: A value does not fit the type of its column.
        """
        cells = self.cells[name]
        side = self._lookup.side_of(name)
        if side is None or len(cells.sent_rows) == self.count:
            return to_array(self._columns[name].type, cells.values, cells.field_of)
        looked_up = self._lookup.take(name, self._find_rows(side))
        if not cells.sent_rows:
            return looked_up
        sent = to_array(self._columns[name].type, cells.values, cells.field_of)
        both = pa.concat_arrays([broadcast(sent, self.count), broadcast(looked_up, self.count)])
        index_N = np.arange(self.count) + np.where(cells.is_sent(self.count), 0, self.count)
        return both.take(pa.array(index_N))

    def side_of(self, name: str, i: int) -> RawSide | None:
        """Return the side table from which a row has its value of a raw column; None if the request sends it."""
        return None if i in self.cells[name].sent_rows else self._lookup.side_of(name)

    def value(self, name: str, i: int) -> Any:
        """Return the value of a raw column in a row, of the request or of a side table."""
        array = self.array(name)
        return array[i if len(array) > 1 else 0].as_py()

    def missing(self) -> list[str]:
        """Return the raw columns of these owners that neither the request nor a table has."""
        keys = {name for side in self._sides_used() for name in side.reads}
        return [
            name
            for name, column in self._columns.items()
            if column.of in self._owners
            and not self.cells[name].sent_rows
            and self._lookup.side_of(name) is None
            and (column.features or name in keys)
        ]

    def unknown(self) -> dict[str, float]:
        """Return, by side table, the share of the rows that need its values although it does not have their key."""
        shares = {}
        for side in self._sides_used():
            is_complete_N = np.ones(self.count, np.bool_)
            for name in self._side_columns(side):
                is_complete_N &= self.cells[name].is_sent(self.count)
            is_unknown_N = np.broadcast_to(self._find_rows(side) == UNKNOWN, self.count)
            if share := float((is_unknown_N & ~is_complete_N).mean()):
                shares[side.name] = share
        return shares

    def rates_as_of(self) -> list[str]:
        """Return the days for whose rows the values of the side tables hold that have filled a column of these rows."""
        return [day for side in self._sides_used() if (day := self._lookup.as_of(side)) is not None]

    def _find_rows(self, side: RawSide) -> NDArray[np.int64]:
        if side.name not in self._rows_by_side:
            cells = {name: self.cells[name] for name in side.reads}
            arrays = {name: self.array(name) for name in side.reads}
            self._rows_by_side[side.name] = self._lookup.find_rows(side, cells, arrays)
        return self._rows_by_side[side.name]

    def _sides_used(self) -> list[RawSide]:
        """Return the side tables that have filled a column of these rows."""
        sides = {name: self._lookup.side_of(name) for name in self._columns}
        used = {side.name: side for side in sides.values() if side is not None and side.name in self._rows_by_side}
        return list(used.values())

    def _side_columns(self, side: RawSide) -> list[str]:
        return [name for owner in self._owners for name in self._lookup.columns_of(side, owner)]


def broadcast(array: pa.Array, rows: int) -> pa.Array:
    """Return an array with a value for each row; a single value is repeated."""
    return array if len(array) == rows else array.take(pa.array(np.zeros(rows, np.int64)))


def find_misfit(form: RawForm, info: SideTableInfo, engine: QueryEngine) -> str | None:
    """Return why a side table cannot fill the columns of a model; None if it can.

    Args:
        form: Raw form of the model.
        info: Description of the table.
        engine: Engine that computes keys.
    """
    side = next(side for side in form.sides if side.name == info.name)
    kinds = {column.name: column.type for column in form.columns}
    if info.key_columns != side.key_columns:
        return f"its keys are {', '.join(info.key_columns)}, and the model's {', '.join(side.key_columns)}"
    empty = {name: pa.array([], arrow_type(kinds[name])) for name in side.reads}
    for name, array in zip(side.key_columns, engine.keys(side, empty, 0), strict=True):
        if is_text(array.type) != (info.columns.get(name) == "string"):
            return f"its key {name} is {info.columns.get(name)}, and the model's {array.type}"
    if info.rates != side.rates:
        return "its rates are not those of the model, such as their windows"
    if info.history != side.history:
        return "its history is not that of the model, such as its items or its delay"
    for name in side.columns:
        if info.columns.get(name) != (kind := kinds[f"{side.name}.{name}"]):
            return f"the model reads the column {name} as {kind}, and it has {info.columns.get(name, 'no such column')}"
    return None


def check_size(cells: Mapping[str, Cells], kinds: Mapping[str, RawType], rows: int) -> None:
    """Refuse values with too many items of lists or characters of texts in all rows that a query reads.

    Args:
        cells: Values that the request sends, by raw column that the query reads.
        kinds: Types of the raw columns.
        rows: Number of rows.

    Raises:
        RequestError: There are too many items, or characters.
    """
    items, characters = 0, 0
    for name, each in cells.items():
        holds_floats = kinds[name] in FLOAT_LISTS
        copies = 1 if len(each.values) == rows else rows
        for i, value in enumerate(each.values):
            if isinstance(value, list):
                if holds_floats:
                    characters += copies * len(value)
                else:
                    items += copies * len(value)
                    characters += copies * sum(len(item) for item in value if isinstance(item, str))
            elif isinstance(value, str):
                characters += copies * len(value)
            if items > MAX_VALUES:
                rule = f"the lists of a request have at most {MAX_VALUES:,} values; one in `user` counts once per item"
                raise RequestError(each.field_of(i), None, rule, counted=f"{items:,} values up to here")
            if characters > MAX_TEXT:
                rule = (
                    f"texts and lists of floats have at most {MAX_TEXT:,} characters and numbers in all; one in `user` "
                    "counts once per item"
                )
                raise RequestError(each.field_of(i), None, rule, counted=f"{characters:,} characters up to here")


def check_array_sizes(arrays: Mapping[str, pa.Array], rows: int) -> None:
    """Refuse columns of side tables with too many items of lists or characters of texts in all rows that a query reads.

    Args:
        arrays: Values of these columns, by name.
        rows: Number of rows; an array with one value is repeated for each.

    Raises:
        RequestError: There are too many items, or characters.
    """
    items, characters = 0, 0
    for name, array in arrays.items():
        copies = 1 if len(array) == rows else rows
        values = array.flatten() if pa.types.is_list(array.type) else array
        if pa.types.is_floating(values.type):
            characters += copies * len(values) if values is not array else 0
        else:
            items += copies * len(values) if values is not array else 0
        if is_text(values.type):
            characters += copies * (pc.sum(pc.utf8_length(values)).as_py() or 0)
        if items > MAX_TABLE_VALUES or characters > MAX_TEXT:
            rule = (
                f"the lists of side tables hold at most {MAX_TABLE_VALUES:,} values for a request, and their texts "
                f"{MAX_TEXT:,} characters; send fewer items"
            )
            raise RequestError("body", None, rule, counted=f"{items:,} values, {characters:,} characters up to {name}")
