"""Histories: the last events with the key of a row before its time. Events are stored once, and a row has two offsets.

The events of a history are sorted by key, time and the raw values of their items, and numbered from 0 in this order.
The history of a row is a range of these numbers, since the events of its key that are earlier than its time follow one
another. It ends before the first event that is not early enough, and begins at most `length` events before its end.

    log_events      rows of the log that are events: key, time, raw values of the items  -> `histories/` of the dataset
    event_offsets   number of the first event of each row's history, and of the one after its last
    with_histories  both for all histories of a configuration; the offsets are joined to the rows of the log

Offsets are integers that one sort by key and time gives, so they do not depend on the engine, on threads or on the
order of files. Times are compared in the resolution of `[time]` (seconds for timestamps). An event at the time of a row
is not early enough, so the order of events with the same time has no influence on offsets.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

import ibis
import ibis.expr.types as ir

from data_prep.engines.base import Engine
from data_prep.sources.files import POSITION
from data_prep.transforms.arithmetic import day_number, units_of_seconds
from data_prep.transforms.columns import DAY, REASON
from data_prep.transforms.history_append import StoredEvents, add_events, visible_events
from data_prep.transforms.history_values import (
    EVENT_KEY,
    EVENT_TIME,
    ROW_TIME,
    event_column,
    item_column,
    key_column,
    row_offsets,
)
from data_prep.transforms.rate_append import tell_of_counted_rows
from data_prep.transforms.resolve import Resolved
from data_prep.transforms.rows import LogRows, derive
from ple_rec.config.prep import DaySplit, HashSplit, HeldOutSplit, HistorySpec

logger = logging.getLogger(__name__)

# Column: 1 in an event, 0 in a row whose history is wanted. At the same time, rows are sorted before events.
_IS_EVENT = "__is_event"


def with_histories(
    rows: LogRows,
    day_1: int | None,
    *,
    is_complete: bool = True,
    earlier: StoredEvents | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[LogRows, StoredEvents]:
    """Return the rows of a log with the offsets of all histories, and the events of the histories.

    Both are computed here, once for all passes. The columns of the offsets are those of `row_offsets`; they are null in
    a row without a key or without a time.

    Args:
        rows: Rows of the log, joined to the side tables and to the rates.
        day_1: Days from 1970-01-01 to day 1 of the split; None if the split needs none.
        is_complete: False if `rows` are a sample of the log, so that there is no warning of a history without events.
        earlier: Events of the parent, if a day is appended. Only rows of later days are added to them.
        say: Function that tells the user how many rows are of days whose events the parent has.

    Raises:
        UserError: A key or a condition has a wrong type.
        DataError: The same, for an expression that is just the name of a column; or a key or an item has another type
            than in the parent.
    """
    engine, resolved = rows.engine, rows.resolved
    derived = engine.create_view(derive(rows.joined(), resolved, day_1, histories=True).table)
    after, last_day = None if earlier is None else earlier.last_day, last_named_day(resolved, day_1)
    if is_complete and after is not None:
        tell_of_counted_rows(engine, engine.select_columns(derived, [DAY]), after, say, "histories")
    events, offsets = {}, {}
    for i, history in enumerate(resolved.config.histories):
        all_events = log_events(engine, derived, resolved, i, after, last_day)
        if earlier is not None:
            assert last_day is not None  # An appended day is the only day that its split names.
            all_events = add_events(resolved, i, earlier.tables[history.name], all_events)
            all_events = visible_events(resolved, i, all_events, last_day)
        events[history.name] = engine.materialize(f"events_{history.name}", all_events)
        moments = row_moments(engine, derived, i)
        # The sort and the join each have the whole memory of the engine, since the offsets are stored in between.
        of_rows = event_offsets(moments, events[history.name], history, resolved)
        offsets[history.name] = engine.materialize(f"offsets_{history.name}", of_rows)
        _warn_of_split(resolved, i)
        if is_complete:
            _warn_if_empty(engine, events[history.name], i, resolved)
    # `linked` has the rows with the columns of side tables and of rates, if these were joined before.
    rows_without_offsets = rows.scan() if rows.linked is None else rows.linked
    joined = engine.materialize("with_histories", join_offsets(rows_without_offsets, offsets))
    if last_day is None:
        days = _used_rows(engine.select_columns(derived, [DAY, REASON]), resolved)
        last_day = engine.fetch(days.aggregate(last=days[DAY].max()))["last"][0].as_py()
    last_days = [day for day in (last_day, after) if day is not None]
    return replace(rows, linked=joined), StoredEvents(events, max(last_days, default=None))


def last_named_day(resolved: Resolved, day_1: int | None) -> int | None:
    """Return the last day that the split names, in days from 1970-01-01; None for a split that names no day.

    Args:
        resolved: Configuration with its expressions.
        day_1: Days from 1970-01-01 to day 1 of the split; None if the split needs none.
    """
    split = resolved.config.split
    if not isinstance(split, DaySplit | HeldOutSplit):
        return None
    return max(day_number(day, day_1) for day in split.named_days())


def log_events(
    engine: Engine, derived: ir.Table, resolved: Resolved, i: int, after: int | None, last_day: int | None
) -> ir.Table:
    """Return the events of `histories[i]` in a log, in any order: `EVENT_KEY`, `EVENT_TIME` and `item_column` of each.

    An event is a row of any split or of no split that fulfils the condition of the history and has a key. Rows that
    `log.where` leaves out are no events, nor are bad rows that are dropped.

    Args:
        engine: Engine that computes the rows.
        derived: View of the rows of `derive(..., histories=True)`.
        resolved: Configuration with its expressions.
        i: Index of the history.
        after: Day, in days from 1970-01-01, after which events begin: rows of this day itself are no events. None if
            rows of all days up to `last_day` are.
        last_day: Last day of events, in days from 1970-01-01: rows of this day itself are events. None if rows of all
            days after `after` are.
    """
    config = resolved.config
    history = config.histories[i]
    items = {item_column(name): f"raw__{name}" for name in history.items}
    names = {EVENT_KEY: key_column(i), EVENT_TIME: ROW_TIME} | items
    columns = [*names.values(), event_column(i), DAY, REASON]
    rows = engine.select_columns(derived, list(dict.fromkeys(columns)))
    rows = rows.filter(rows[event_column(i)].fill_null(False), rows[key_column(i)].notnull(), rows[DAY].notnull())
    rows = _used_rows(rows, resolved)
    if after is not None:
        rows = rows.filter(rows[DAY] > after)
    if last_day is not None:
        rows = rows.filter(rows[DAY] <= last_day)
    return rows.select(**{name: rows[column] for name, column in names.items()})


def _used_rows(rows: ir.Table, resolved: Resolved) -> ir.Table:
    """Return rows without the bad rows that are dropped."""
    return rows.filter(rows[REASON] == 0) if resolved.config.on_bad_row == "drop" else rows


def row_moments(engine: Engine, derived: ir.Table, i: int) -> ir.Table:
    """Return `POSITION`, `EVENT_KEY` and `EVENT_TIME` of the rows that have a key of `histories[i]` and a time.

    Args:
        engine: Engine that computes the rows.
        derived: View of the rows of `derive(..., histories=True)`.
        i: Index of the history.
    """
    rows = engine.select_columns(derived, [POSITION, key_column(i), ROW_TIME]).drop_null()
    return rows.select(POSITION, **{EVENT_KEY: rows[key_column(i)], EVENT_TIME: rows[ROW_TIME]})


def event_offsets(moments: ir.Table, events: ir.Table, history: HistorySpec, resolved: Resolved) -> ir.Table:
    """Return `POSITION` and the columns of `row_offsets` of rows whose key has an event; other rows have no history.

    Offsets count all of `events`, sorted by key, time and items. A row sees the events of its key that are earlier than
    its time minus the delay. To count them, rows are placed among the events at this time: both are sorted together by
    key and time, and the number of events of the key before a row's place is the number of those that it sees.

    Args:
        moments: `POSITION`, `EVENT_KEY` and `EVENT_TIME` of rows, none of them null.
        events: Events of the history; only `EVENT_KEY` and `EVENT_TIME` are read.
        history: Configuration of the history.
        resolved: Configuration with its expressions.
    """
    assert resolved.config.time is not None
    delay = units_of_seconds(history.delay_seconds, resolved.config.time.unit)
    # A time is not below 0, so the difference stays within int64.
    rows = moments.select(
        POSITION, EVENT_KEY, **{EVENT_TIME: moments[EVENT_TIME] - delay, _IS_EVENT: ibis.literal(0, "int64")}
    )
    counted_events = events.select(
        **{POSITION: ibis.null("int64"), EVENT_KEY: events[EVENT_KEY]},
        **{EVENT_TIME: events[EVENT_TIME], _IS_EVENT: ibis.literal(1, "int64")},
    )
    both = ibis.union(rows, counted_events, distinct=False)
    window = ibis.cumulative_window(group_by=EVENT_KEY, order_by=[EVENT_TIME, _IS_EVENT])
    counted = both.mutate(before=both[_IS_EVENT].sum().over(window))
    counted = counted.filter(counted[POSITION].notnull())
    by_key = events.group_by(__key=events[EVENT_KEY]).aggregate(events=events.count())
    sum_up_to = by_key["events"].sum().over(ibis.cumulative_window(order_by="__key"))
    starts = by_key.select("__key", start=sum_up_to - by_key["events"])
    joined = counted.join(starts, counted[EVENT_KEY] == starts["__key"])
    start, end = joined["start"], joined["start"] + joined["before"]
    begin_column, end_column = row_offsets(history.name).values()
    begin = ibis.greatest(end - history.length, start)
    return joined.select(POSITION, **{begin_column: begin.cast("int64"), end_column: end.cast("int64")})


def join_offsets(rows: ir.Table, offsets: Mapping[str, ir.Table]) -> ir.Table:
    """Return rows with the offsets of their histories, which are null in rows without any.

    Args:
        rows: Rows of the log with `POSITION`.
        offsets: Results of `event_offsets` by name of the history.
    """
    names = list(rows.columns)
    for history, table in offsets.items():
        position = f"__position_{history}"
        table = table.rename({position: POSITION})
        rows = rows.left_join(table, rows[POSITION] == table[position])
        names += row_offsets(history).values()
    return rows.select(*names)


def _warn_of_split(resolved: Resolved, i: int) -> None:
    """Warn of a split by hash that may separate the events of a history from its rows."""
    key, split = f"histories[{i}].key", "split.value"
    if isinstance(resolved.config.split, HashSplit) and resolved.parsed[key].text != resolved.parsed[split].text:
        logger.warning(
            '%s: split.by = "hash" of %s with a history by %s (histories[%d]): rows of valid and test are events of '
            'later training rows, so metrics may be too good. Fix: split.by = "day", or split by the key of the '
            "history",
            resolved.place,
            resolved.parsed[split].text,
            resolved.parsed[key].text,
            i,
        )


def _warn_if_empty(engine: Engine, events: ir.Table, i: int, resolved: Resolved) -> None:
    """Warn of a history without any event."""
    if not engine.fetch(events.limit(1)).num_rows:
        history = resolved.config.histories[i]
        logger.warning(
            "%s: histories[%d] (%s): no row of the log is an event, so the history is empty in all rows. Fix: correct "
            "where and key, or remove the history",
            resolved.place,
            i,
            history.name,
        )
