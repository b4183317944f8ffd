"""Events of histories that a dataset of an appended day takes over from its parent.

The events of the log on later days are added to those of the parent, so a row of the appended day has the history that
one preparation of all days would give it. A dataset of an appended day keeps only the events that rows of this day or
of a later one can see.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import ibis
import ibis.expr.types as ir

from data_prep.engines.base import Engine
from data_prep.expressions.times import days_since_1970
from data_prep.transforms.arithmetic import date_text, units_of_seconds
from data_prep.transforms.history_values import EVENT_KEY, EVENT_TIME, item_column
from data_prep.transforms.resolve import Resolved
from ple_rec.config.prep import PrepConfig
from ple_rec.errors import DataError

_DAY_SECONDS = 86_400


@dataclass(frozen=True)
class StoredEvents:
    """Events of a dataset, with which the histories of later rows go on.

    Args:
        tables: Events by name of the history, with the columns of the files `histories/<history>.parquet`.
        last_day: Last day whose rows are events, in days from 1970-01-01; None if no row has a day and the split names
            none.
    """

    tables: Mapping[str, ir.Table]
    last_day: int | None

    @classmethod
    def read(cls, engine: Engine, config: PrepConfig, files: Mapping[str, Path]) -> StoredEvents:
        """Return the events of a dataset.

        Args:
            engine: Engine that reads the files.
            config: Configuration of the dataset, with its `[found]` values.
            files: Files of the events on this machine, by name of the history.
        """
        last_day = config.found.histories_last_day
        tables = {name: engine.read([file]) for name, file in files.items()}
        return cls(tables, None if last_day is None else days_since_1970(last_day))

    def dates(self) -> dict[str, str | None]:
        """Return the last day as a value of `[found]`."""
        return {"histories_last_day": None if self.last_day is None else date_text(self.last_day)}


def add_events(resolved: Resolved, i: int, earlier: ir.Table, later: ir.Table) -> ir.Table:
    """Return the events of a dataset and those of later days.

    Args:
        resolved: Configuration with its expressions.
        i: Index of the history.
        earlier: Events of the dataset.
        later: Events of later days, with the same columns.

    Raises:
        DataError: A key or an item has another type than in the dataset.
    """
    _check_types(resolved, i, earlier, later)
    return ibis.union(earlier.select(later.columns), later, distinct=False)


def visible_events(resolved: Resolved, i: int, events: ir.Table, day: int) -> ir.Table:
    """Return the events that are in the history of any row from a day on.

    These are the last `length` events of each key that a row at the beginning of the day would see, and all later ones.
    Events of a key with the same time stay together: if one is among the last `length`, all are returned, so a key may
    have more than `length` events before the day.

    Args:
        resolved: Configuration with its expressions.
        i: Index of the history.
        events: Events of the history.
        day: Day, in days from 1970-01-01.
    """
    history, time = resolved.config.histories[i], resolved.config.time
    assert time is not None
    begin = units_of_seconds(day * _DAY_SECONDS - time.offset_seconds - history.delay_seconds, time.unit)
    is_before = events[EVENT_TIME] < begin
    newest_first = ibis.window(group_by=[EVENT_KEY, is_before], order_by=ibis.desc(EVENT_TIME))
    # `rank`, which begins at 0, is the number of newer events; events with the same time have the same rank.
    ranked = events.mutate(__newer_events=ibis.rank().over(newest_first))
    is_visible = (ranked[EVENT_TIME] >= begin) | (ranked["__newer_events"] < history.length)
    return ranked.filter(is_visible).drop("__newer_events")


def _check_types(resolved: Resolved, i: int, earlier: ir.Table, later: ir.Table) -> None:
    """Check that the key and the items of a history have the types that they have in a dataset.

    Raises:
        DataError: A column was an integer and is a text now, or the other way round.
    """
    history = resolved.config.histories[i]
    features = [feature.name for feature in resolved.config.sparse]
    keys = {EVENT_KEY: f"histories[{i}].key"}
    keys |= {item_column(item): f"sparse[{features.index(item)}].value" for item in history.items}
    for column, key in keys.items():
        old, new = (rows[column].type().copy(nullable=True) for rows in (earlier, later))
        if old != new:
            raise DataError(
                f"{resolved.place}: {key}",
                f"{resolved.parsed[key].text} now of type {new}, but {old} in the events of history {history.name!r}",
                "later events have the types of the earlier ones",
                "write the files with the types of the first days",
            )
