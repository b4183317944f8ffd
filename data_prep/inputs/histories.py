"""Histories of the rows of raw logs to be predicted.

The events are those of the dataset that the model was trained on, and those of the log on later days. So a row has the
history that it would have if its day were appended to the dataset. Events and offsets are computed once for a log and
not for each batch. Only events that rows of the log can see are kept.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import ibis.expr.types as ir
import pyarrow as pa

from data_prep.engines.base import Engine
from data_prep.expressions.times import days_since_1970
from data_prep.sources.files import POSITION
from data_prep.transforms.arithmetic import date_text, seconds_of_count
from data_prep.transforms.columns import DAY, REASON
from data_prep.transforms.histories import event_offsets, log_events, row_moments
from data_prep.transforms.history_append import StoredEvents, add_events, visible_events
from data_prep.transforms.history_values import EVENT_KEY, EVENT_TIME, event_order, item_column, with_missing
from data_prep.transforms.resolve import Resolved
from data_prep.transforms.rows import derive
from ple_rec.config.load import load_schema
from ple_rec.config.prep import PrepConfig
from ple_rec.config.schema import HISTORIES_DIR, LOG_TIME
from ple_rec.data.integrity import Digests
from ple_rec.errors import DataError, overrides_text
from ple_rec.storage import Location

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LogHistories:
    """Histories of the rows of a log.

    Args:
        offsets: Results of `event_offsets` by name of the history.
        events: Events by name of the history, in any order.
    """

    offsets: Mapping[str, ir.Table]
    events: Mapping[str, ir.Table]


def read_stored_events(engine: Engine, dataset: Location, config: PrepConfig) -> StoredEvents:
    """Open the events of a dataset.

    Args:
        engine: Engine that reads the files.
        dataset: Directory of the dataset.
        config: Configuration of the inputs, with the histories that are read.

    Raises:
        DataError: A file is missing or has changed.
    """
    digests = Digests.read(dataset)
    files = {each.name: digests.local_copy(f"{HISTORIES_DIR}/{each.name}.parquet") for each in config.histories}
    return StoredEvents.read(engine, config, files)


def compute_histories(
    engine: Engine, resolved: Resolved, rows: ir.Table, stored: StoredEvents, dataset: Location
) -> LogHistories:
    """Return the events that the rows of a log can see, and the offsets of each row.

    Args:
        engine: Engine that computes them.
        resolved: Configuration of the inputs.
        rows: All rows of the log, joined to the side tables and to the rates.
        stored: Events of the dataset.
        dataset: Directory of the dataset, for messages.

    Raises:
        DataError: A row is earlier than the day that was appended to the dataset, which lacks events that the row sees;
            or a key or an item has another type than in the dataset.
    """
    derived = derive(rows, resolved, split=False, histories=True).table
    names = [name for name in derived.columns if name.startswith(("raw__", "__history_"))]
    derived = engine.materialize("history_rows", derived.select(POSITION, DAY, REASON, *names))
    first_log_day = _first_log_day(engine, resolved, derived, stored, dataset)
    offsets, events = {}, {}
    for i, history in enumerate(resolved.config.histories):
        moments = row_moments(engine, derived, i)
        later = log_events(engine, derived, resolved, i, stored.last_day, None)
        all_events = add_events(resolved, i, stored.tables[history.name], later).semi_join(moments, EVENT_KEY)
        # If no row has a day, none has a time, either, so `moments` and `all_events` are empty.
        visible = all_events if first_log_day is None else visible_events(resolved, i, all_events, first_log_day)
        events[history.name] = engine.materialize(f"events_{history.name}", visible)
        row_offsets = event_offsets(moments, events[history.name], history, resolved)
        offsets[history.name] = engine.materialize(f"offsets_{history.name}", row_offsets)
    return LogHistories(offsets, events)


def fetch_events(engine: Engine, resolved: Resolved, name: str, events: ir.Table) -> pa.Table:
    """Return the events of a history in the order by which offsets count them.

    Args:
        engine: Engine that sorts them.
        resolved: Configuration of the inputs.
        name: Name of the history.
        events: Events of the history.

    Returns:
        Column `LOG_TIME` with the time of each event, in seconds since 1970-01-01 UTC, and the raw values of each item
        under the name of its feature.
    """
    assert resolved.config.time is not None
    (history,) = (history for history in resolved.config.histories if history.name == name)
    ordered = with_missing(events, history).order_by(event_order(history))
    seconds = seconds_of_count(ordered[EVENT_TIME], resolved.config.time.unit).cast("int64")
    items = {item: ordered[item_column(item)] for item in history.items}
    return engine.fetch(ordered.select(**{LOG_TIME: seconds}, **items))


def _first_log_day(
    engine: Engine, resolved: Resolved, rows: ir.Table, stored: StoredEvents, dataset: Location
) -> int | None:
    """Return the first day of a log, in days from 1970-01-01; None if no row has a day.

    Warn if there are days between those of the dataset and the later ones of the log.

    Raises:
        DataError: A row is earlier than the day that was appended to the dataset.
    """
    days = rows.drop_null(DAY)
    later = days if stored.last_day is None else days.filter(days[DAY] > stored.last_day)
    first_log_day: int | None = engine.fetch(days.aggregate(day=days[DAY].min()))["day"][0].as_py()
    first_later_day: int | None = engine.fetch(later.aggregate(day=later[DAY].min()))["day"][0].as_py()
    schema = load_schema(dataset)
    # A dataset of an appended day has no events that only rows of earlier days can see, so their histories would be too
    # short. `schema.day`, the last training day, is the appended day; a dataset without a parent has all events.
    if schema.parent is not None and schema.day is not None:
        early = days.filter(days[DAY] < days_since_1970(schema.day)).order_by(POSITION).limit(1)
        for row in engine.fetch(early.select(position=POSITION, day=DAY)).to_pylist():
            raise DataError(
                resolved.tables["log"].locate(row["position"]),
                f"is of {date_text(row['day'])}",
                f"histories of a row need the events before it, and {dataset}, to which days were appended, has those "
                f"for rows from {schema.day} on",
                f"predict earlier rows with the parent dataset: {overrides_text('data.path=PARENT')}",
            )
    if first_later_day is not None and stored.last_day is not None and first_later_day > stored.last_day + 1:
        logger.warning(
            "histories of rows of %s: %s has the events until %s, and the log has none of the days between, so they "
            "are missing in the histories. Fix: append these days, and set data.path to the dataset of the last one",
            date_text(first_later_day),
            dataset,
            date_text(stored.last_day),
        )
    return first_log_day
