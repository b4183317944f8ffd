"""Histories of requests in the raw form: lists of events that a request sends, or those of its key in a side table.

A request in the raw form may send a history as the same list of events as a request in the form of features has
(`history_parsing.py`). If it sends none, and the side table with the events is in memory, the history of a row is the
last `length` events of its key whose time is earlier than the time of the row minus the delay, as in the preparation of
a dataset. The items of events are raw values, which are encoded here, so one table serves all versions of a model.

Shape suffixes: N rows, E events of these rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ple_rec.config.raw_form import EVENT_KEY, EVENT_TIME, RawHistory
from ple_rec.config.side_table import SideTableInfo
from ple_rec.data.encode import Encoder, RawKind
from ple_rec.inference.feature_parsing import FeatureIds, HistoryIds
from ple_rec.inference.history_parsing import history_ids
from ple_rec.inference.key_index import UNKNOWN
from ple_rec.inference.side_table import SideTable
from ple_rec.inference.signature import InputFeature

_LIST_TYPES: Mapping[RawKind, str] = {"int": "list<int64>", "text": "list<string>", "number": "list<double>"}


class HistoryLookup:
    """Look-up of the histories of keys in the side table of a history. Several threads may use it.

    Args:
        feature: Input feature of the model that is the history.
        raw: History as requests in the raw form have it.
        encoder: Encoder of the items.
        table: Side table with the events, which fits the feature (`find_event_misfit`).
    """

    def __init__(self, feature: InputFeature, raw: RawHistory, encoder: Encoder, table: SideTable) -> None:
        assert feature.events is not None
        self._feature, self._events, self._raw = feature, feature.events, raw
        self._encoder, self._table = encoder, table

    @property
    def as_of(self) -> str | None:
        """Day before which the events are."""
        return self._table.info.as_of

    def find(self, rows: pa.Table) -> tuple[HistoryIds, NDArray[np.bool_]]:
        """Return the histories of rows, and a flag of each row, True if the table does not have its key.

        Args:
            rows: Key and time of each row, in the columns `EVENT_KEY` and `EVENT_TIME`.
        """
        key = rows[EVENT_KEY].combine_chunks()
        row_N = self._table.find([key.cast(pa.int64()) if pa.types.is_integer(key.type) else key])
        time_N = rows[EVENT_TIME].to_numpy().astype(np.int64)
        lists = self._table.take(EVENT_TIME, row_N)
        lengths_N = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        time_E = lists.flatten().to_numpy()
        # The times of a row ascend, so its events that are early enough come first.
        row_E = np.repeat(np.arange(len(time_N)), lengths_N)
        seen_N = np.bincount(row_E[time_E < (time_N - self._raw.delay)[row_E]], minlength=len(time_N))
        read_N = np.minimum(seen_N, self._events.length)
        offsets_N = np.concatenate([[0], np.cumsum(read_N)])
        # Lists lie one after the other. A row reads the last `read_N` of the first `seen_N` events of its list.
        first_N = np.cumsum(lengths_N) - lengths_N + seen_N - read_N
        places_E = np.repeat(first_N - offsets_N[:-1], read_N) + np.arange(offsets_N[-1])
        ages_E = self._raw.seconds(np.repeat(time_N, read_N)) - self._raw.seconds(time_E[places_E])
        ids = {}
        for item in self._events.items:
            values = self._table.take(item.name, row_N).flatten().take(pa.array(places_E))
            ids[item.name] = self._encoder.rows(item.name, values, item.name).to_numpy(zero_copy_only=False)
        return history_ids(self._feature, self._events, offsets_N, ids, ages_E), row_N == UNKNOWN


def find_event_misfit(feature: InputFeature, info: SideTableInfo) -> str | None:
    """Return why a side table cannot have the events of a history; None if it can."""
    assert feature.events is not None
    for item in feature.events.items:
        if (kind := info.columns.get(item.name)) != (expected := _LIST_TYPES[item.type]):
            return f"the model reads the item {item.name} as {expected}, and it has {kind or 'no such column'}"
    return None


def join_histories(parts: Sequence[HistoryIds]) -> HistoryIds:
    """Return the rows of several columns of a history, one after the other."""
    columns = {}
    for name in parts[0].columns:
        ids = [part.columns[name] for part in parts]
        lengths_N = np.concatenate([np.diff(part.offsets_N) for part in parts])
        offsets_N = np.concatenate([[0], np.cumsum(lengths_N)])
        columns[name] = FeatureIds(np.concatenate([each.values_V for each in ids]), offsets_N)
    return HistoryIds(columns)
