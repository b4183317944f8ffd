"""Keys, events and times that histories are made from, as columns of the rows of a log."""

from __future__ import annotations

import ibis
import ibis.expr.types as ir

from data_prep.transforms.arithmetic import seconds_of_count
from data_prep.transforms.expression_scope import ColumnBuilder, local_time
from data_prep.transforms.rate_values import build_key
from ple_rec.config.prep import HistorySpec
from ple_rec.config.schema import LOG_TIME, history_offsets

# Columns of events: the key (int64 or text), and the time in the resolution of `[time]` (int64: units since 1970-01-01
# UTC, seconds for a timestamp, days for a date). `item_column` names the other columns.
EVENT_KEY, EVENT_TIME = "key", "time"
# Column of rows: their time, as in `EVENT_TIME`; null outside the range of `[time]`.
ROW_TIME = "__history_time"
# Column: number with a binary digit for each item of an event, which is 1 if the item is null. One engine sorts nulls
# first and another one last. Events are sorted by this number before they are sorted by their items, so a null is only
# ever compared with a null, and all engines have the same order.
MISSING = "__missing"
# Prefixes of columns: `__history_key<i>` is the key of `histories[i]` in a row, and `__history_event<i>` is true if the
# row is an event.
_KEY, _EVENT = "__history_key", "__history_event"


def item_column(feature: str) -> str:
    """Return the name of the column of events with the raw value of an item, the value of a sparse feature."""
    return f"item_{feature}"


def with_missing(events: ir.Table, history: HistorySpec) -> ir.Table:
    """Return events with the column `MISSING`."""
    missing: ir.IntegerValue = ibis.literal(0, "int64")
    for i, item in enumerate(history.items):
        missing = missing + events[item_column(item)].isnull().cast("int64") * 2**i
    return events.mutate(**{MISSING: missing})


def event_order(history: HistorySpec) -> list[str]:
    """Return the columns of `with_missing` by which events are sorted and numbered."""
    return [EVENT_KEY, EVENT_TIME, MISSING, *map(item_column, history.items)]


def key_column(i: int) -> str:
    """Return the name of the column with the key of `histories[i]`, int64 or text."""
    return f"{_KEY}{i}"


def event_column(i: int) -> str:
    """Return the name of the column that is true if a row fulfils the condition of the events of `histories[i]`."""
    return f"{_EVENT}{i}"


def row_offsets(history: str) -> dict[str, str]:
    """Return, by column of the dataset, the column of the rows of a log that has the offset of a history."""
    return {name: f"__{name}" for name in history_offsets(history)}


def add_history_offsets(builder: ColumnBuilder) -> None:
    """Add the columns that a dataset has for its histories: the time of a row, and the offsets once they are joined."""
    if not builder.config.histories:
        return
    assert builder.config.time is not None
    local = local_time(builder.values, builder.resolved)
    count = ibis.cases((local.in_range, local.count))
    builder.columns[LOG_TIME] = seconds_of_count(count, builder.config.time.unit)
    for history in builder.config.histories:
        for name, column in row_offsets(history.name).items():
            if column in builder.rows.columns:
                builder.columns[name] = builder.rows[column].fill_null(0)


def add_event_values(builder: ColumnBuilder) -> None:
    """Add the columns that events are made from: the time of the row, and each history's key and condition.

    The dataset does not have these columns; `histories.py` computes events and offsets from them.

    Raises:
        UserError: A key is neither integer nor text, or a condition is neither boolean nor numeric.
        DataError: The same, for an expression that is just the name of a column.
    """
    local = local_time(builder.values, builder.resolved)
    builder.columns[ROW_TIME] = ibis.cases((local.in_range, local.count))
    for i, history in enumerate(builder.config.histories):
        builder.columns[key_column(i)] = build_key(builder, f"histories[{i}].key")
        is_event = ibis.literal(True) if history.where is None else builder.boolean(f"histories[{i}].where")
        builder.columns[event_column(i)] = is_event
