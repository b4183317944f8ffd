"""Which column of a log tells when a row happened, and in which unit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from data_prep.init.column import Column
from ple_rec.config.prep import TimeConfig

_TIME = {"time", "timestamp", "ts", "datetime", "date", "day", "dt", "created", "at"}
_OF_OTHERS = {  # words of a time that is not the row's own
    *("expire", "expires", "expired", "expiry", "end", "until", "updated", "modified", "published", "publish"),
    *("upload", "uploaded", "registered", "signup", "joined", "birth", "birthday", "release", "released"),
    *("ingest", "ingested", "load", "loaded", "processed"),
}
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_DAY = 86_400  # seconds
_MOST = 0.9  # least share of the rows that have a time in the years that prep takes
_EPOCH = date(1970, 1, 1)
_FIRST, _LAST = (date.fromisoformat(TimeConfig.model_fields[name].default) for name in ("earliest", "latest"))
_LOW, _HIGH = (_FIRST - _EPOCH).days * _DAY, ((_LAST - _EPOCH).days + 1) * _DAY - 1


@dataclass(frozen=True)
class Time:
    """A time that a column holds.

    Args:
        column: The column.
        unit: Its unit, as `time.unit`.
        share: Share of its values that lie in the years that prep takes.
        distinct: Share of the rows that it tells apart.
        latest: Latest of its values in those years, in seconds since 1970.
    """

    column: Column
    unit: str
    share: float
    distinct: float
    latest: int

    @property
    def value(self) -> str:
        """The expression of the time."""
        is_float = self.column.kind == "number" and not pa.types.is_integer(self.column.type)
        return f"floor({self.column.expression})" if is_float else self.column.expression

    @property
    def why(self) -> str:
        """Reason of the guess."""
        if self.column.kind == "time":
            return f"its type is {self.column.type}"
        return "its values are dates" if self.unit == "date" else f"its values are {self.unit} since 1970"

    @property
    def needed(self) -> str:
        """The condition that a row has a time; empty where all have."""
        if self.share < 1 and self.column.kind == "number":
            if self.unit == "date":
                return f"{self.value} between {_FIRST:%Y%m%d} and {_LAST:%Y%m%d}"
            scale = _PER_SECOND[self.unit]
            return f"{self.value} between {(_LOW + _DAY) * scale} and {(_HIGH - _DAY) * scale}"  # whatever the offset
        return f"{self.value} is not null" if self.column.nulls else ""

    @property
    def drops(self) -> bool:
        """True where rows whose time lies in other years must be dropped, for no condition can tell them."""
        return self.share < 1 and self.column.kind != "number"


def time_of(column: Column, ids: Iterable[str], entities: Iterable[str]) -> Time | None:
    """Return the time that a column looks like; None where it looks like none.

    Args:
        column: The column.
        ids: Words of the name of an id.
        entities: Words of what has ids, such as a user; alone they name an id too.
    """
    if column.kind not in ("time", "number", "text") or not column.words.isdisjoint(ids):
        return None
    named = column.kind == "time" or not column.words.isdisjoint(_TIME)
    if not named and not column.words.isdisjoint(entities):
        return None
    if not len(column.values) or column.has_decimal_commas:
        return None
    for unit in _units(column):
        seconds = _seconds(column.values, unit)
        inside = seconds.filter(pc.and_(pc.greater_equal(seconds, _LOW), pc.less_equal(seconds, _HIGH)))
        share = len(inside) / len(column.values)
        if len(inside) and share >= (_MOST if named else 1):
            return Time(column, unit, share, column.distinct / column.rows, pc.max(inside).as_py())
    return None


def _units(column: Column) -> tuple[str, ...]:
    if column.kind == "time":
        return ("date",) if pa.types.is_date(column.type) else ("timestamp",)
    if column.kind == "text":
        return ("date",)
    return ("date", *_PER_SECOND) if pa.types.is_integer(column.type) else tuple(_PER_SECOND)


def _seconds(values: pa.Array, unit: str) -> pa.Array:
    """Return the seconds since 1970 of times; null of what is none."""
    if pa.types.is_temporal(values.type):
        return values.cast(pa.timestamp("s", getattr(values.type, "tz", None)), safe=False).cast(pa.int64())
    if unit == "date":
        text, form = values.cast(pa.string()), "%Y%m%d"
        if pa.types.is_string(values.type):
            text, form = pc.utf8_slice_codeunits(text, 0, 10), "%Y-%m-%d"
        return pc.strptime(text, form, "s", error_is_null=True).cast(pa.int64())
    if pa.types.is_floating(values.type):
        values = pc.floor(values.filter(pc.less(pc.abs(values), 9e18)))
    return pc.divide(values.cast(pa.int64(), safe=False), _PER_SECOND[unit])


def row_time(times: Iterable[Time], entities: Iterable[str]) -> Time | None:
    """Return which of the times of a row tells most exactly when it happened.

    Args:
        times: The times.
        entities: Words of what has times of its own, such as a user.
    """
    others = _OF_OTHERS.union(entities)

    def order(time: Time) -> tuple[float, ...]:
        words = time.column.words
        named = not words.isdisjoint(_TIME)
        date_only, distinct = time.unit == "date", round(time.distinct, 1)
        return (date_only, not words.isdisjoint(others), -distinct, not named, -time.latest, time.column.place)

    enough = (time for time in times if time.share * (time.column.rows - time.column.nulls) >= _MOST * time.column.rows)
    return min(enough, key=order, default=None)


def days_of(times: pa.Array, unit: str, offset: timedelta = timedelta()) -> list[date]:
    """Return the days of times, each once, in the years that prep takes; what is no time has none.

    Args:
        times: The times.
        unit: Their unit, as `time.unit`.
        offset: Offset from UTC of all but dates.
    """
    seconds = _seconds(times.drop_null(), unit).drop_null()
    if unit != "date" and offset:
        seconds = pc.add(seconds, int(offset.total_seconds()))
    seconds = seconds.filter(pc.and_(pc.greater_equal(seconds, _LOW), pc.less_equal(seconds, _HIGH)))
    days = pc.divide(seconds, _DAY).unique().to_pylist()
    return [datetime.fromtimestamp(day * _DAY, UTC).date() for day in days]
