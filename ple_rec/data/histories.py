"""Histories of a dataset: the events that are stored once for all rows, and the history of each row of a row group.

A history is the last events with the same key before the time of a row, the oldest first. Parts store of it only the
numbers of its first event and of the one after its last, and the time of the row; so a history takes 24 bytes of memory
a row, whatever its length is. `gather_histories` looks up the ids of the events when a batch is made. The files of
events are mapped into memory, so that the ranks of a host share them in the page cache of the kernel.

Shape suffixes: N rows of a row group, R rows of a batch without padding, V events of the histories of R rows.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ple_rec.config.schema import HISTORIES_DIR, LOG_TIME, SCHEMA_FILE, HistoryFeature, history_offsets
from ple_rec.data.arrow import BoolArray, IdArray, IntArray, RowGroupColumns, first_bad_id
from ple_rec.data.hash_index import mix_bits
from ple_rec.data.integrity import Digests
from ple_rec.errors import DataError
from ple_rec.storage import Location

_FIX = "prepare the dataset again"
# Odd factors that spread the numbers of events and the times of rows over 64 bits.
_EVENT_FACTOR, _TIME_FACTOR = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1B54A32D192ED03)


class HistoryEvents:
    """Events of a history. A file is mapped into memory and checked when it is first used, once for all threads.

    Args:
        digests: Digests of the dataset with the events.
        history: History with all its items.
        table_rows: Number of rows of each embedding table, by its name.
    """

    def __init__(self, digests: Digests, history: HistoryFeature, table_rows: Mapping[str, int]) -> None:
        self.history = history
        self._digests, self._table_rows = digests, table_rows
        self._arrays: dict[str, NDArray[Any]] = {}
        self._lock = threading.Lock()

    def times(self) -> IntArray:
        """Return the time of each event, in seconds since 1970-01-01 UTC.

        Raises:
            DataError: The file is missing or damaged, or does not fit `schema.toml`.
            UserError: The store of the file cannot be read.
        """
        return self._mapped_column(LOG_TIME, np.dtype("<i8"))

    def ids(self, feature: str) -> IdArray:
        """Return the row of the table of an item for each event.

        Args:
            feature: Name of the item's feature.

        Raises:
            DataError: The file is missing or damaged, or does not fit `schema.toml`.
            UserError: The store of the file cannot be read.
        """
        return self._mapped_column(feature, np.dtype("<i4"))

    def check(self) -> None:
        """Read and check the files of all columns.

        Raises:
            DataError: A file is missing or damaged, or does not fit `schema.toml`.
            UserError: The store of a file cannot be read.
        """
        self.times()
        for item in self.history.items:
            self.ids(item.feature)

    def file(self, column: str) -> Location:
        """Return the file of a column: that of an item's feature, or of the times."""
        return self._digests.folder / self._name(column)

    def _name(self, column: str) -> str:
        return f"{HISTORIES_DIR}/{self.history.name}/{column}.npy"

    def _mapped_column(self, column: str, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return a column, whose file is opened by the first call."""
        with self._lock:
            if column not in self._arrays:
                self._arrays[column] = self._open_column(column, dtype)
            return self._arrays[column]

    def _open_column(self, column: str, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Map the file of a column into memory, and check it."""
        place, events = str(self.file(column)), self.history.events
        try:
            # The view of the plain class saves NumPy's bookkeeping for `memmap` at every operation.
            array = np.asarray(np.load(self._digests.local_copy(self._name(column)), mmap_mode="r"))
        except (OSError, ValueError, EOFError) as error:
            raise DataError(
                place, f"unreadable ({error})", "it has a column of the events of a history", _FIX
            ) from error
        if array.dtype != dtype or array.shape != (events,):
            actual = f"type {array.dtype} and shape {array.shape}"
            rule = f"it must have type {dtype} and shape ({events},), since {SCHEMA_FILE} says {events} events"
            raise DataError(place, actual, rule, _FIX)
        for item in self.history.items:
            if item.feature == column and (bad := first_bad_id(array, self._table_rows[item.table])) is not None:
                rule = f"table {item.table!r} has rows 0 to {self._table_rows[item.table] - 1}"
                raise DataError(f"{place}, event {bad}", f"id {array[bad]}", rule, _FIX)
        return array


@dataclass(frozen=True)
class HistoryDropout:
    """Id dropout of the items of histories (`id_dropout.py`).

    Args:
        seed: Seed of the run.
        epoch: Number of the epoch, from 0.
        shares: Share of the ids to replace by row 0, by name of the column; other columns keep their ids.
    """

    seed: int
    epoch: int
    shares: Mapping[str, float]

    def drop(self, column: str, ids_V: IdArray, event_V: IntArray, row_time_V: IntArray) -> IdArray:
        """Return the ids of a column, some of them replaced by 0.

        The draw of an id depends on the event and on the time of the row. So rows of one time draw the same, as the
        rows of a request must, and a batch draws the same whatever other rows it has.

        Args:
            column: Name of the column.
            ids_V: Ids of the events.
            event_V: Number of each event.
            row_time_V: Time of the row of each event.
        """
        if (share := self.shares.get(column, 0.0)) == 0:
            return ids_V
        key = np.random.SeedSequence([self.seed, self.epoch, zlib.crc32(column.encode())]).generate_state(1, np.uint64)
        bits_V = event_V.view(np.uint64) * _EVENT_FACTOR + mix_bits(row_time_V.view(np.uint64) * _TIME_FACTOR + key)
        uniform_V = (mix_bits(bits_V) >> np.uint64(11)) * 2.0**-53
        return ids_V * (uniform_V >= share)


@dataclass(frozen=True)
class HistoryColumn:
    """History of each row of a row group: the events `begin_N` to `end_N` - 1.

    Args:
        history: History with the items that the run reads.
        events: Events of all rows.
        begin_N: Number of the first event of each row.
        end_N: Number of the event after the last one.
        time_N: Time of each row, in seconds since 1970-01-01 UTC.
        dropout: Id dropout, or None.
    """

    history: HistoryFeature
    events: HistoryEvents
    begin_N: IntArray
    end_N: IntArray
    time_N: IntArray
    dropout: HistoryDropout | None = None

    @property
    def nbytes(self) -> int:
        """Size of the column in bytes, without the events."""
        return self.begin_N.nbytes + self.end_N.nbytes + self.time_N.nbytes

    def take(self, rows: IntArray | slice) -> HistoryColumn:
        """Return the rows with these indices, in this order."""
        return replace(self, begin_N=self.begin_N[rows], end_N=self.end_N[rows], time_N=self.time_N[rows])


def read_history(
    source: RowGroupColumns, history: HistoryFeature, events_by_history: Mapping[str, HistoryEvents]
) -> HistoryColumn:
    """Return the history of each row of a row group.

    Args:
        source: Columns of the row group.
        history: History with the items that the run reads.
        events_by_history: Events of each history, by its name.

    Raises:
        DataError: A number of an event is outside the stored events, a history is longer than its feature says, a time
            is null or earlier than the last event, or a file of events is damaged.
    """
    events = events_by_history[history.name]
    begin, end = history_offsets(history.name)
    begin_N, end_N, time_N = (source.required_integers(name) for name in (begin, end, LOG_TIME))

    def check(bad_N: BoolArray, column: str, value: str, rule: str) -> None:
        if bad_N.any():
            row = int(bad_N.argmax())
            numbers = {"begin": begin_N[row], "end": end_N[row], "time": time_N[row]}
            raise DataError(source.cell_place(column, row), value.format(**numbers), rule, _FIX)

    check(begin_N < 0, begin, "event {begin}", "events are numbered from 0")
    check(end_N < begin_N, end, "event {end}", f"it is not below {begin}, the first event of the row")
    check(end_N > history.events, end, "event {end}", f"{SCHEMA_FILE} says {history.events} events")
    lengths_N = end_N - begin_N
    rule = f"a history of {history.name!r} has at most {history.length} events"
    check(lengths_N > history.length, end, "events {begin} to {end}, exclusive", rule)
    # The events of a row ascend in time, so a comparison with the last one is enough.
    filled_N = np.flatnonzero(lengths_N)
    too_early_N = np.zeros(len(time_N), np.bool_)
    too_early_N[filled_N] = time_N[filled_N] < events.times()[end_N[filled_N] - 1]
    rule = f"a row must not be earlier than the last event of its history {history.name!r}"
    check(too_early_N, LOG_TIME, "time {time}", rule)
    return HistoryColumn(history, events, begin_N, end_N, time_N)


def gather_histories(
    columns: Sequence[HistoryColumn], starts_R: BoolArray | None = None
) -> tuple[IntArray, list[IdArray]]:
    """Return the number of events of each row of a batch, and ids of all events for each of `HistoryFeature.columns`.

    Args:
        columns: Column of a history in the rows of a batch, cut into consecutive pieces, at least one.
        starts_R: True in the first row of each request, False in the others, which then get no events: the rows of a
            request share the history. None to look up the history of every row.
    """
    first = columns[0]
    begin_R, end_R, time_R = (
        np.concatenate([getattr(column, name) for column in columns]) for name in ("begin_N", "end_N", "time_N")
    )
    lengths_R: IntArray = end_R - begin_R
    if starts_R is not None:
        lengths_R = lengths_R * starts_R
    ends_R = np.cumsum(lengths_R)
    event_V = np.arange(ends_R[-1] if len(ends_R) else 0) + np.repeat(begin_R - (ends_R - lengths_R), lengths_R)
    row_time_V = np.repeat(time_R, lengths_R)
    age_V = row_time_V - first.events.times()[event_V]
    buckets_V = np.searchsorted(first.history.age_edges, age_V, side="right").astype(np.int32) + np.int32(1)
    ids = [first.events.ids(item.feature)[event_V] for item in first.history.items] + [buckets_V]
    if first.dropout is not None:
        names = [column.name for column in first.history.columns()]
        ids = [first.dropout.drop(name, ids_V, event_V, row_time_V) for name, ids_V in zip(names, ids, strict=True)]
    return lengths_R, ids
