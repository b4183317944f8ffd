"""Guess which column of a raw log holds the time of each row, and in which unit.

`ple-rec init` writes the guess into prep.toml, the configuration of `ple-rec prep`. The units are the values of
`time.unit` in that file: `s`, `ms`, `us` and `ns` count from 1970, `date` is a day such as 20240131 or "2024-01-31",
and `timestamp` is a column of that type. Prep accepts times in the years 2000 to 2099 by default.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from data_prep.init.column import Column
from ple_rec.config.prep import TimeConfig

# Words that name a time.
_TIME_WORDS = {"time", "timestamp", "ts", "datetime", "date", "day", "dt", "created", "at"}
# Words that name the time of another event than the logged one, such as the expiry of an offer.
_OTHER_EVENT_WORDS = {
    *("expire", "expires", "expired", "expiry", "end", "until", "updated", "modified", "published", "publish"),
    *("upload", "uploaded", "registered", "signup", "joined", "birth", "birthday", "release", "released"),
    *("ingest", "ingested", "load", "loaded", "processed"),
}
# Number of units in a second, by unit.
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_DAY = 86_400  # Seconds in a day.
_MIN_SHARE = 0.9  # Smallest share of accepted times in a column that may hold the time of each row.
_EPOCH = date(1970, 1, 1)
# First and last day that prep accepts, and the same bounds in seconds since 1970.
_FIRST, _LAST = (date.fromisoformat(TimeConfig.model_fields[name].default) for name in ("earliest", "latest"))
_LOW, _HIGH = (_FIRST - _EPOCH).days * _DAY, ((_LAST - _EPOCH).days + 1) * _DAY - 1


@dataclass(frozen=True)
class Time:
    """Column that may hold the time of each row.

    Args:
        column: Column of the log.
        unit: Unit of the column's values, one of those of `time.unit`.
        share: Share of the values, nulls excluded, that lie in the years that prep accepts.
        distinct: Number of distinct values, divided by the number of rows.
        latest: Latest time in the accepted years, in seconds since 1970.
    """

    column: Column
    unit: str
    share: float
    distinct: float
    latest: int

    @property
    def value(self) -> str:
        """Expression of the time for `time.value` in prep.toml; it rounds floats down to integers."""
        is_float = self.column.kind == "number" and not pa.types.is_integer(self.column.type)
        return f"floor({self.column.expression})" if is_float else self.column.expression

    @property
    def why(self) -> str:
        """Reason for the guess, written as a comment into prep.toml."""
        if self.column.kind == "time":
            return f"its type is {self.column.type}"
        return "its values are dates" if self.unit == "date" else f"its values are {self.unit} since 1970"

    @property
    def row_condition(self) -> str:
        """Condition of the rows to keep, for `log.where` in prep.toml; empty if it would keep every row.

        If some numbers lie outside the accepted years, only the numbers inside are kept. Otherwise only nulls are left
        out.
        """
        if self.share < 1 and self.column.kind == "number":
            if self.unit == "date":
                return f"{self.value} between {_FIRST:%Y%m%d} and {_LAST:%Y%m%d}"
            scale = _PER_SECOND[self.unit]
            # The UTC offset, which is not known here, moves a time by less than a day. A time that is a day away from
            # both bounds is therefore accepted at every offset.
            return f"{self.value} between {(_LOW + _DAY) * scale} and {(_HIGH - _DAY) * scale}"
        return f"{self.value} is not null" if self.column.nulls else ""

    @property
    def must_drop_rows(self) -> bool:
        """True if prep must drop the rows whose times it does not accept.

        `row_condition` can exclude such rows only from a column of numbers.
        """
        return self.share < 1 and self.column.kind != "number"


def guess_time(column: Column, ids: Iterable[str], entities: Iterable[str]) -> Time | None:
    """Return a column as a possible time, with its unit; None if its name or its values rule that out.

    In a column that is named or typed as a time, up to 10 % of the values may lie outside the accepted years; in any
    other column, none may.

    Args:
        column: Column of the log.
        ids: Words that mark the name of an id, such as "id".
        entities: Words for entities that have ids, such as "user". A column with such a word in its name, and no word
            for a time, holds ids.
    """
    if column.kind not in ("time", "number", "text") or not column.words.isdisjoint(ids):
        return None
    is_named_time = column.kind == "time" or not column.words.isdisjoint(_TIME_WORDS)
    if not is_named_time and not column.words.isdisjoint(entities):
        return None
    if not len(column.values) or column.has_decimal_commas:
        return None
    for unit in _units(column):
        seconds = _seconds(column.values, unit)
        inside = seconds.filter(pc.and_(pc.greater_equal(seconds, _LOW), pc.less_equal(seconds, _HIGH)))
        share = len(inside) / len(column.values)
        if len(inside) and share >= (_MIN_SHARE if is_named_time else 1):
            return Time(column, unit, share, column.distinct / column.rows, pc.max(inside).as_py())
    return None


def _units(column: Column) -> tuple[str, ...]:
    """Return the units that a column may have by its type, in the order in which they are tried."""
    if column.kind == "time":
        return ("date",) if pa.types.is_date(column.type) else ("timestamp",)
    if column.kind == "text":
        return ("date",)
    return ("date", *_PER_SECOND) if pa.types.is_integer(column.type) else tuple(_PER_SECOND)


def _seconds(values: pa.Array, unit: str) -> pa.Array:
    """Return times in seconds since 1970.

    With the unit `date`, a text or integer that is no date becomes null. Floats that int64 cannot hold are removed, so
    the result may be shorter than the input.
    """
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


def choose_row_time(times: Iterable[Time], entities: Iterable[str]) -> Time | None:
    """Return the column that tells best when the event of a row happened; None if no column has enough times.

    A column has enough times if 90 % of all rows have an accepted one. These criteria decide, in this order: times of
    day rather than dates; a name without a word for another event; many distinct values; a name with a word for a time;
    a late latest time; an early place in the log.

    Args:
        times: Columns that may hold the time of a row.
        entities: Words for entities that have times of their own, such as "user", which may be the time of a sign-up.
    """
    others = _OTHER_EVENT_WORDS.union(entities)

    def sort_key(time: Time) -> tuple[float, ...]:
        words = time.column.words
        is_named_time = not words.isdisjoint(_TIME_WORDS)
        date_only, distinct = time.unit == "date", round(time.distinct, 1)
        return (date_only, not words.isdisjoint(others), -distinct, not is_named_time, -time.latest, time.column.number)

    enough = (
        time for time in times if time.share * (time.column.rows - time.column.nulls) >= _MIN_SHARE * time.column.rows
    )
    return min(enough, key=sort_key, default=None)


def distinct_days(times: pa.Array, unit: str, offset: timedelta = timedelta()) -> list[date]:
    """Return the distinct days of a column, without those outside the years that prep accepts.

    Values that are no times are ignored.

    Args:
        times: Values of a column.
        unit: Unit of the values, a value of `time.unit`.
        offset: UTC offset of the time zone whose midnight begins a day; it does not apply to the unit `date`.
    """
    seconds = _seconds(times.drop_null(), unit).drop_null()
    if unit != "date" and offset:
        seconds = pc.add(seconds, int(offset.total_seconds()))
    seconds = seconds.filter(pc.and_(pc.greater_equal(seconds, _LOW), pc.less_equal(seconds, _HIGH)))
    days = pc.divide(seconds, _DAY).unique().to_pylist()
    return [datetime.fromtimestamp(day * _DAY, UTC).date() for day in days]
