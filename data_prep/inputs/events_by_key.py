"""Events of a history by key, for servers that look up the history of a request.

Shape suffixes: E events of the dataset, K keys with events.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_prep.expressions.times import PER_SECOND, days_since_1970
from data_prep.inputs.rates_by_key import check_lineage
from data_prep.transforms.arithmetic import date_text, day_number, units_of_seconds
from data_prep.transforms.history_values import item_column
from ple_rec.config.load import load_config
from ple_rec.config.prep import PREP_FILE, DaySplit, HeldOutSplit, HistorySpec, PrepConfig
from ple_rec.config.raw_form import EVENT_KEY, EVENT_TIME, RawSide
from ple_rec.config.schema import HISTORIES_DIR
from ple_rec.config.side_table import SideValues
from ple_rec.data.integrity import Digests
from ple_rec.errors import Option, UserError
from ple_rec.storage import Location, location

_SECONDS_PER_DAY = 86_400


def read_events(folder: Location, side: RawSide, dataset: str) -> tuple[pa.Table, SideValues]:
    """Return the events of a history with one row for each key, as of the day after the last one of a dataset.

    A key has enough events for the history of any row of that day or of a later one: the last `length` events that a
    row at the beginning of the day sees, and all events that the delay still hides from this row.

    Args:
        folder: Folder with the `schema.toml` of the dataset that the model was trained on.
        side: Side table of the history.
        dataset: Directory or address of that dataset, or of one with days that were appended to it.

    Returns:
        Table with the key, as int64 or text, and lists of the times and of the raw values of each item, the oldest
        event first; and the day of its values.

    Raises:
        UserError: There is no such dataset, it has another history, or it was not made by appending to the model's
            dataset.
        DataError: A file of the dataset is missing or has changed.
    """
    assert side.history is not None
    path = location(dataset)
    check_lineage(folder, path, "events")
    digests = Digests.read(path)
    digests.check(PREP_FILE)
    config = load_config(PrepConfig, path / PREP_FILE)
    if side.history not in config.histories:
        raise UserError(
            Option.DATASET,
            f"{path} has no history {side.name!r} like that of the model",
            "key, items, where, length, delay and ages are those with which the model was trained",
            "prepare the dataset with this history, or train on it, and export",
        )
    events = pq.read_table(digests.local_copy(f"{HISTORIES_DIR}/{side.name}.parquet"), memory_map=False)
    assert config.time is not None  # Histories need `[time]`.
    time, per_day, offset = config.time, 1, 0
    if time.unit != "date":
        per_second = PER_SECOND.get(time.unit, 1)
        per_day, offset = _SECONDS_PER_DAY * per_second, time.offset_seconds * per_second
    if isinstance(config.split, DaySplit | HeldOutSplit):
        day_1 = None if config.day_1 is None else days_since_1970(config.day_1)
        day = max(day_number(each, day_1) for each in config.split.named_days()) + 1
    else:
        day = ((pc.max(events[EVENT_TIME]).as_py() or 0) + offset) // per_day + 1
    visible_before = day * per_day - offset - units_of_seconds(side.history.delay_seconds, time.unit)
    table = _lists_by_key(events, side.history, visible_before)
    return table, SideValues(as_of=date_text(day), utc_offset=time.utc_offset, history=side.history)


def _lists_by_key(events: pa.Table, history: HistorySpec, visible_before: int) -> pa.Table:
    """Return the key, and lists of the other columns, of the last events of each key.

    Args:
        events: Events, sorted by key and time.
        history: Configuration of the history.
        visible_before: Time before which an event is visible to a row at the beginning of the day. The last `length`
            visible events of each key stay, and so do all later events.
    """
    keys = events[EVENT_KEY].combine_chunks()
    starts_K = _starts(keys)
    ends_K = np.append(starts_K[1:], len(keys)).astype(np.int64)
    # The events of a key are in the order of time, so the visible ones come first, and of these only the last `length`
    # stay. The number of a key's visible events is the difference of a cumulative sum at its end and at its start.
    is_visible_E = events[EVENT_TIME].to_numpy() < visible_before
    visible_sums = np.concatenate([[0], np.cumsum(is_visible_E)])
    visible_K = visible_sums[ends_K] - visible_sums[starts_K]
    begin_K = starts_K + np.maximum(visible_K - history.length, 0)
    lengths_K = ends_K - begin_K
    offsets = np.concatenate([[0], np.cumsum(lengths_K)])
    # Numbers of the events that stay, key after key.
    places = pa.array(np.repeat(begin_K - offsets[:-1], lengths_K) + np.arange(offsets[-1]))
    columns = {EVENT_TIME: EVENT_TIME} | {item: item_column(item) for item in history.items}
    # Offsets of 32 bits, which save memory, are enough for fewer than 2^31 events.
    kind, offset_type = (pa.ListArray, pa.int32()) if offsets[-1] < 2**31 else (pa.LargeListArray, pa.int64())
    lists = {
        name: kind.from_arrays(pa.array(offsets, offset_type), events[column].take(places).combine_chunks())
        for name, column in columns.items()
    }
    return pa.table({EVENT_KEY: keys.take(pa.array(starts_K)), **lists})


def _starts(keys: pa.Array) -> NDArray[np.int64]:
    """Return the index of the first event of each key."""
    if not len(keys):
        return np.empty(0, np.int64)
    differs = pc.not_equal(keys[1:], keys[:-1]).to_numpy(zero_copy_only=False)
    return np.concatenate([[0], np.flatnonzero(differs) + 1])
