"""Requests in the raw form, whose rows have the columns of the log in place of the features computed from them.

    {"form": "raw", "user": {"user_id": 7, "time_ms": 1714557600000}, "items": [{"video_id": "v9", "video.plays": 40}]}

`RawReader` turns the values into Arrow arrays (`raw_values.py`), computes the features by the queries of the version
(`raw_query.py`), and looks their table rows up. The features of the user are computed once for all items.

A short body must not cost much time, so before a query runs, the lists of its rows have at most `MAX_VALUES` items and
their texts at most `MAX_TEXT` characters. A value of `user` counts once for each item whose features read it.

Shape suffixes: N rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ple_rec.config.raw_form import RawForm, RawQuery
from ple_rec.data.encode import Encoder
from ple_rec.inference.feature_parsing import MAX_VALUES, FeatureIds, FieldOf, Schema
from ple_rec.inference.raw_query import QueryEngine, QueryError
from ple_rec.inference.raw_values import to_array, value_schema
from ple_rec.inference.request_error import RequestError
from ple_rec.inference.request_rows import RequestRows
from ple_rec.inference.signature import InputFeature, Owner, Signature

MAX_TEXT = 1 << 22


@dataclass(frozen=True)
class FeatureColumns:
    """Columns of the features of a request.

    Args:
        ids: Table rows of every sparse feature.
        dense: Numbers of every dense feature, with NaN for missing ones.
        missing: Raw columns that no part of the request has, not even as null.
    """

    ids: Mapping[str, FeatureIds]
    dense: Mapping[str, NDArray[np.float32]]
    missing: tuple[str, ...]


@dataclass(frozen=True)
class _Cells:
    """JSON values of a raw column.

    Args:
        values: Values, one for each row; a single one if all rows share it.
        field_of: Function that returns the path of a row's value in the request.
        is_sent: True if some part of the request has the column, even as null.
    """

    values: Sequence[Any]
    field_of: FieldOf
    is_sent: bool = True


class RawReader:
    """Reader of raw columns for one model.

    Args:
        form: Raw columns and queries of the model.
        signature: Signature of the model.
        encoder: Encoder of its sparse features.
    """

    def __init__(self, form: RawForm, signature: Signature, encoder: Encoder) -> None:
        self._form, self._signature, self._encoder = form, signature, encoder
        self._engine = QueryEngine()
        self.columns = {column.name: column for column in form.columns if column.features}

    def names(self, owner: Owner | None = None) -> list[str]:
        """Return the names of the raw columns, of one owner if it is given."""
        return [name for name, column in self.columns.items() if owner in (None, column.of)]

    def schemas(self) -> dict[str, Schema]:
        """Return the JSON schema of a value of each raw column."""
        return {name: value_schema(column.type) for name, column in self.columns.items()}

    def read_rank(self, user: Mapping[str, Any], items: RequestRows) -> FeatureColumns:
        """Return the features of a ranking: those of the user with one row, those of the items with a row for each.

        Args:
            user: Values of the user's columns, and of items' columns that all items share.
            items: Values of the items' columns.

        Raises:
            RequestError: A value does not fit the type of its column, or the features of a row cannot be computed.
        """
        cells = {name: _cells_of_rank(name, user, items) for name in self.columns}
        tables = (self._compute(self._form.user, cells, 1), self._compute(self._form.item, cells, items.count))
        return self._encode(tables, cells)

    def read_score(self, rows: RequestRows) -> FeatureColumns:
        """Return the features of rows, each of which has all columns.

        Args:
            rows: Values of the columns.

        Raises:
            RequestError: A value does not fit the type of its column, or the features of a row cannot be computed.
        """
        cells = {name: _cells_of_rows(name, rows) for name in self.columns}
        tables = (self._compute(query, cells, rows.count) for query in (self._form.user, self._form.item))
        return self._encode(tables, cells)

    def _compute(self, query: RawQuery | None, cells: Mapping[str, _Cells], rows: int) -> pa.Table:
        """Return the feature columns of a query for a number of rows."""
        if query is None:
            return pa.table({})
        read = {name: cells[name] for name in query.columns}
        _check_size(read, rows)
        columns = {}
        for name, each in read.items():
            array = to_array(self.columns[name].type, each.values, each.field_of)
            columns[name] = array if len(array) == rows else array.take(np.zeros(rows, np.int64))
        try:
            return self._engine.features(query, columns, rows)
        except QueryError as error:
            raise self._request_error(error, read) from error

    def _request_error(self, error: QueryError, cells: Mapping[str, _Cells]) -> RequestError:
        """Return the error of a request whose features cannot be computed; it names a raw value that they read."""
        names = error.columns or [
            name for name in cells if error.feature is None or error.feature in self.columns[name].features
        ]
        each = cells[names[0]]
        i = error.row if len(each.values) > 1 else 0
        rule = error.rule if len(names) == 1 else f"{error.rule}; it is computed from {', '.join(names)}"
        return RequestError(each.field_of(i), each.values[i], rule)

    def _encode(self, tables: Iterable[pa.Table], cells: Mapping[str, _Cells]) -> FeatureColumns:
        results = {
            name: column for table in tables for name, column in zip(table.column_names, table.columns, strict=True)
        }
        ids = {each.name: self._read_ids(each, results) for each in self._signature.sparse}
        bags = sum(len(each.values_V) for each in ids.values() if each.offsets_N is not None)
        if bags > MAX_VALUES:
            raise RequestError(
                "body",
                None,
                f"the bags of a request have at most {MAX_VALUES:,} values",
                counted=f"{bags:,} values in bags",
            )
        dense = {
            each.name: results[each.name].to_numpy().astype(np.float32, copy=False) for each in self._signature.dense
        }
        return FeatureColumns(ids, dense, tuple(name for name, each in cells.items() if not each.is_sent))

    def _read_ids(self, feature: InputFeature, results: Mapping[str, pa.ChunkedArray]) -> FeatureIds:
        """Return the table rows of a sparse feature."""
        rows = self._encoder.rows(feature.name, results[f"raw__{feature.name}"], feature.name)
        if not feature.bag:
            return FeatureIds(rows.to_numpy(zero_copy_only=False))
        weights_V = None
        if feature.weighted:
            weights_V = results[f"weights__{feature.name}"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        values_V = rows.flatten().to_numpy(zero_copy_only=False)
        return FeatureIds(values_V, rows.offsets.to_numpy(zero_copy_only=False), weights_V)


def _cells_of_rank(name: str, user: Mapping[str, Any], items: RequestRows) -> _Cells:
    """Return the values of a raw column for the items of a ranking; an item without a value gets that of the user."""
    indices = items.rows_with(name)
    if not indices:
        return _Cells([user.get(name)], lambda _: f"user.{name}", name in user)
    if len(indices) == items.count:
        return _Cells(items.columns[name], lambda i: items.field(name, i))
    values, own = [user.get(name)] * items.count, set(indices)
    for i in indices:
        values[i] = items.columns[name][i]
    return _Cells(values, lambda i: items.field(name, i) if i in own else f"user.{name}")


def _cells_of_rows(name: str, rows: RequestRows) -> _Cells:
    is_sent = name in rows.columns
    return _Cells(rows.columns[name] if is_sent else [None], lambda i: rows.field(name, i), is_sent)


def _check_size(cells: Mapping[str, _Cells], rows: int) -> None:
    """Refuse values whose lists have too many items, or whose texts are too long, in the rows that a query reads."""
    items, characters = 0, 0
    for each in cells.values():
        copies = 1 if len(each.values) == rows else rows
        for i, value in enumerate(each.values):
            if isinstance(value, list):
                items += copies * len(value)
                characters += copies * sum(len(item) for item in value if isinstance(item, str))
            elif isinstance(value, str):
                characters += copies * len(value)
            if items > MAX_VALUES:
                rule = f"the lists of a request have at most {MAX_VALUES:,} values; one in `user` counts once per item"
                raise RequestError(each.field_of(i), None, rule, counted=f"{items:,} values up to here")
            if characters > MAX_TEXT:
                rule = f"texts have at most {MAX_TEXT:,} characters in all; one in `user` counts once per item"
                raise RequestError(each.field_of(i), None, rule, counted=f"{characters:,} characters up to here")
