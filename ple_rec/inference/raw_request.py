"""Requests in the raw form, whose rows have the columns of the log in place of the features computed from them.

    {"form": "raw", "user": {"user_id": 7, "time_ms": 1714557600000}, "items": [{"video_id": "v9", "video.plays": 40}]}

`RawReader` turns the values into Arrow arrays (`raw_values.py`), fills columns from side tables (`raw_columns.py`),
computes the features by the queries of the version (`raw_query.py`), and looks their table rows up. The features of the
user are computed once for all items. A request has a history as in the form of features, or the keys by which its
events are looked up (`history_lookup.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ple_rec.config.raw_form import RawForm, RawQuery
from ple_rec.config.side_table import SideTableInfo
from ple_rec.data.encode import Encoder
from ple_rec.inference.feature_parsing import MAX_VALUES, FeatureIds, HistoryIds, too_many_values
from ple_rec.inference.history_lookup import HistoryLookup, find_event_misfit, join_histories
from ple_rec.inference.history_parsing import HistoryParser
from ple_rec.inference.raw_columns import (
    Cells,
    RowSet,
    SideLookup,
    broadcast,
    cells_of_items,
    cells_of_rows,
    cells_of_user,
    check_array_sizes,
    check_size,
    find_misfit,
)
from ple_rec.inference.raw_query import QueryEngine, QueryError
from ple_rec.inference.raw_values import arrow_type, value_schema
from ple_rec.inference.request_error import RequestError, json_excerpt
from ple_rec.inference.request_rows import RequestRows
from ple_rec.inference.side_table import SideTable
from ple_rec.inference.signature import OWNERS, InputFeature, Owner, Signature
from ple_rec.inference.value_types import Schema


@dataclass(frozen=True)
class FeatureColumns:
    """Values of the features of a request.

    Args:
        ids: Table rows of every sparse feature, and of every column of a history.
        dense: Numbers of every dense feature (N,) and of every vector (N, width), with NaN for missing ones.
        missing: Names of the features, or raw columns, that neither a part of the request, as null or otherwise, nor a
            side table has.
        unknown: Share of the rows whose values are missing, or a default, because a side table does not have their key,
            by table.
        rates_as_of: Day, YYYY-MM-DD, for whose rows the rates of side tables hold; the oldest of several. None if no
            rate was looked up.
        events_as_of: Day, YYYY-MM-DD, before which the events are that were looked up; the oldest of several. None if
            no history was looked up.
    """

    ids: Mapping[str, FeatureIds]
    dense: Mapping[str, NDArray[np.float32]]
    missing: tuple[str, ...]
    unknown: Mapping[str, float] = field(default_factory=dict)
    rates_as_of: str | None = None
    events_as_of: str | None = None


class RawReader:
    """Reader of raw columns for one model.

    Args:
        form: Raw columns and queries of the model.
        signature: Signature of the model.
        encoder: Encoder of its sparse features.
        tables: Side tables that fill columns, by name; each fits the form.
        engine: Engine that runs the queries; None for a new one.

    Attributes:
        columns: Raw columns that a request may have, by name.
    """

    def __init__(
        self,
        form: RawForm,
        signature: Signature,
        encoder: Encoder,
        tables: Mapping[str, SideTable] | None = None,
        engine: QueryEngine | None = None,
    ) -> None:
        self._form, self._signature, self._encoder = form, signature, encoder
        self._engine = QueryEngine() if engine is None else engine
        if engine is None:  # The first request need not wait until its queries are planned.
            types = {column.name: arrow_type(column.type) for column in form.columns}
            for query in filter(None, (form.user, form.item, *(history.query for history in form.histories))):
                self._engine.select(query.sql, {name: pa.array([], types[name]) for name in query.columns}, 0)
        self._lookup = SideLookup(form, tables or {}, self._engine)
        # Without its side table, a column that only keys read is useless, so a client that sends it is told.
        self.columns = {
            column.name: column for column in form.columns if column.features or column.name in self._lookup.key_columns
        }
        self._histories = {
            each.name: HistoryParser(each, each.events, encoder) for each in signature.histories if each.events
        }
        self._raw_histories = {history.name: history for history in form.histories}
        self._history_lookups = {
            name: HistoryLookup(parser.feature, self._raw_histories[name], encoder, tables[name])
            for name, parser in self._histories.items()
            if tables and name in tables
        }

    def with_tables(self, tables: Mapping[str, SideTable]) -> RawReader:
        """Return a reader with other side tables, which shares everything else."""
        return RawReader(self._form, self._signature, self._encoder, tables, self._engine)

    def find_misfit(self, info: SideTableInfo) -> str | None:
        """Return why a side table of the model cannot fill its columns; None if it can."""
        misfit = find_misfit(self._form, info, self._engine)
        if misfit is None and info.name in self._histories:
            return find_event_misfit(self._histories[info.name].feature, info)
        return misfit

    def names(self, owner: Owner | None = None) -> list[str]:
        """Return the names of the raw columns and histories of an owner; of both if it is None."""
        columns = [name for name, column in self.columns.items() if owner in (None, column.of)]
        return columns + [name for name, parser in self._histories.items() if owner in (None, parser.feature.of)]

    def schemas(self) -> dict[str, Schema]:
        """Return the JSON schema of a value of each raw column and of each history."""
        columns = {name: value_schema(column.type) for name, column in self.columns.items()}
        return columns | {name: parser.schema for name, parser in self._histories.items()}

    def read_rank(self, user: Mapping[str, Any], items: RequestRows) -> FeatureColumns:
        """Return the features of a ranking; those of the user have one row, those of items a row for each item.

        Args:
            user: Values of the user's columns, and of items' columns that all items share.
            items: Values of the items' columns.

        Raises:
            RequestError: A value does not fit the type of its column, or the features of a row cannot be computed.
        """
        of_user = {name: cells_of_user(name, user) for name in self.columns}
        of_items = {name: cells_of_items(name, user, items) for name in self.columns}
        sets: dict[Owner, RowSet] = {
            "user": RowSet(self.columns, of_user, 1, ["user"], self._lookup),
            "item": RowSet(self.columns, of_items, items.count, ["item"], self._lookup),
        }
        histories = {
            name: cells_of_user(name, user) if parser.feature.of == "user" else cells_of_items(name, user, items)
            for name, parser in self._histories.items()
        }
        return self._compute_features(sets, histories)

    def read_score(self, rows: RequestRows) -> FeatureColumns:
        """Return the features of rows, each of which has all columns.

        Args:
            rows: Values of the columns.

        Raises:
            RequestError: A value does not fit the type of its column, or the features of a row cannot be computed.
        """
        cells = {name: cells_of_rows(name, rows) for name in self.columns}
        row_set = RowSet(self.columns, cells, rows.count, OWNERS, self._lookup)
        histories = {name: cells_of_rows(name, rows) for name in self._histories}
        return self._compute_features({"user": row_set, "item": row_set}, histories)

    def _compute_features(self, sets: Mapping[Owner, RowSet], histories: Mapping[str, Cells]) -> FeatureColumns:
        """Return the features of a request.

        Args:
            sets: Rows by owner.
            histories: Values that the request sends for histories, by name.
        """
        queries: dict[Owner, RawQuery | None] = {"user": self._form.user, "item": self._form.item}
        tables = [
            self._compute(query, {name: sets[self.columns[name].of] for name in query.columns}, sets[owner].count)
            for owner, query in queries.items()
            if query
        ]
        results = {
            name: column for table in tables for name, column in zip(table.column_names, table.columns, strict=True)
        }
        row_sets = list(dict.fromkeys(sets.values()))
        absent = {name for each in row_sets for name in each.missing()}
        unknown: dict[str, float] = {}
        for each in row_sets:
            for side, share in each.unknown().items():
                unknown[side] = max(share, unknown.get(side, 0.0))
        ids, dense = self._encode(results)
        days = [day for each in row_sets for day in each.rates_as_of()]
        event_days: list[str] = []
        values_in_bags = sum(len(each.values_V) for each in ids.values() if each.offsets_N is not None)
        for name, cells in histories.items():
            row_set, lookup = sets[self._histories[name].feature.of], self._history_lookups.get(name)
            column, unknown_share = self._read_history(name, cells, row_set)
            ids |= column.columns
            values_in_bags += int(column.offsets_N[-1])
            if unknown_share:
                unknown[name] = unknown_share
            if lookup is None:
                absent |= set() if cells.sent_rows else {name}
            elif len(cells.sent_rows) < row_set.count:
                keys = self._raw_histories[name].query.columns
                absent |= {key for key in keys if not row_set.cells[key].sent_rows and not self._lookup.side_of(key)}
                event_days += [lookup.as_of] if lookup.as_of is not None else []
        if values_in_bags > MAX_VALUES:
            raise too_many_values(values_in_bags, "body")
        missing = tuple(name for name in (*self.columns, *histories) if name in absent)
        as_of = (min(each, default=None) for each in (days, event_days))
        return FeatureColumns(ids, dense, missing, unknown, *as_of)

    def _read_history(self, name: str, cells: Cells, row_set: RowSet) -> tuple[HistoryIds, float]:
        """Return the column of a history, and the share of the rows whose key the side table does not have.

        Args:
            name: Name of the history.
            cells: Values that the request sends for it.
            row_set: Rows of its owner.
        """
        sent = self._histories[name].parse(cells.values, cells.field_of)
        index_N = np.arange(row_set.count) if len(cells.values) == row_set.count else np.zeros(row_set.count, np.int64)
        (unsent_N,) = (~cells.is_sent(row_set.count)).nonzero()
        if name not in self._history_lookups or not len(unsent_N):
            # A history in `user` counts once for each item that gets it.
            if (count := int(np.diff(sent.offsets_N)[index_N].sum())) > MAX_VALUES:
                raise too_many_values(count, cells.field_of(0))
            return sent.take(index_N), 0.0
        query = self._raw_histories[name].query
        rows = self._compute(query, dict.fromkeys(query.columns, row_set), row_set.count, unsent_N)
        looked_up, is_unknown = self._history_lookups[name].find(rows)
        index_N[unsent_N] = len(cells.values) + np.arange(len(unsent_N))
        return join_histories([sent, looked_up]).take(index_N), float(is_unknown.sum()) / row_set.count

    def _compute(
        self, query: RawQuery, read: Mapping[str, RowSet], rows: int, chosen_N: NDArray[np.int64] | None = None
    ) -> pa.Table:
        """Return the columns of a query for a number of rows.

        Args:
            query: Query of the features of one owner, or of a history.
            read: Rows from which each column of the query is read.
            rows: Number of rows of the request.
            chosen_N: Indices of the rows of the result; None for all.
        """
        check_size(
            {name: each.cells[name] for name, each in read.items()},
            {name: self.columns[name].type for name in read},
            rows,
        )
        arrays = {name: each.array(name) for name, each in read.items()}
        check_array_sizes({name: arrays[name] for name in arrays if self._lookup.side_of(name)}, rows)
        arrays = {name: broadcast(each, rows) for name, each in arrays.items()}
        if chosen_N is not None:
            arrays = {name: each.take(pa.array(chosen_N)) for name, each in arrays.items()}
        try:
            return self._engine.features(query, arrays, rows if chosen_N is None else len(chosen_N))
        except QueryError as error:
            if chosen_N is not None:
                error.row = int(chosen_N[error.row])
            raise self._request_error(error, read) from error

    def _request_error(self, error: QueryError, read: Mapping[str, RowSet]) -> RequestError:
        """Return the error of a request whose features cannot be computed; it names a raw value that they need.

        If the value is that of a side table, the error names the key that the request has sent, and cites the value.
        """
        names = error.columns or [
            name for name in read if error.feature is None or error.feature in self.columns[name].features
        ]
        rule = error.rule if len(names) == 1 else f"{error.rule}; it is computed from {', '.join(names)}"
        name, row_set = names[0], read[names[0]]
        i = error.row if row_set.count > 1 else 0
        if (side := row_set.side_of(name, i)) is not None:
            value = json_excerpt(row_set.value(name, i))
            rule += f"; the side table {side.name} has {name} = {value} for this key"
            name = side.reads[0]
        cells = row_set.cells[name]
        value_index = i if len(cells.values) > 1 else 0
        if name == names[0] and self.columns[name].required and cells.values[value_index] is None:
            rule = f"every row needs a value; {rule}"
        return RequestError(cells.field_of(value_index), cells.values[value_index], rule)

    def _encode(
        self, results: Mapping[str, pa.ChunkedArray]
    ) -> tuple[dict[str, FeatureIds], dict[str, NDArray[np.float32]]]:
        """Return the table rows of all sparse features, and the numbers of all dense features and vectors."""
        ids = {each.name: self._read_ids(each, results) for each in self._signature.sparse}
        dense = {
            each.name: results[each.name].to_numpy().astype(np.float32, copy=False) for each in self._signature.dense
        }
        vectors = {
            each.name: _read_vectors(results[each.name], each.vector)
            for each in self._signature.vectors
            if each.vector is not None
        }
        return ids, dense | vectors

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


def _read_vectors(lists: pa.ChunkedArray, width: int) -> NDArray[np.float32]:
    """Return lists of `width` numbers, or nulls, as an array (N, width), with NaN for null."""
    vectors_NW = np.full((len(lists), width), np.nan, np.float32)
    is_valid_N = lists.is_valid().to_numpy()
    vectors_NW[is_valid_N] = lists.combine_chunks().flatten().to_numpy().reshape(-1, width)
    return vectors_NW
