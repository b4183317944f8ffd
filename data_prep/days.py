"""Days and hours of a row, by integer arithmetic that every engine does alike."""

from __future__ import annotations

from datetime import date, timedelta

import ibis
import ibis.expr.types as ir

from ple_rec.config.prep import TimeConfig
from ple_rec.errors import UserError

EPOCH = date(1970, 1, 1)
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_DAY, _HOUR = 86_400, 3_600
_THURSDAY = 3  # weekday of 1970-01-01, where Monday is 0


def number_of(day: str) -> int:
    """Days from 1970-01-01 to a date."""
    return (date.fromisoformat(day) - EPOCH).days


def text_of(day: int) -> str:
    """The date that is so many days after 1970-01-01."""
    return (EPOCH + timedelta(days=day)).isoformat()


def day_of(value: ir.Value, place: str) -> ir.IntegerValue:
    """Days since 1970-01-01 of a date: a date or timestamp, text that begins with YYYY-MM-DD, or the integer YYYYMMDD.

    Null where a text or an integer is no date. A date that the calendar lacks counts on into the next month.

    Raises:
        UserError: `value` is of another type.
    """
    if isinstance(value, ir.DateValue | ir.TimestampValue):
        return _civil(value.year().cast("int64"), value.month().cast("int64"), value.day().cast("int64"))
    if isinstance(value, ir.IntegerValue):
        number = value.cast("int64")
        return _civil(quotient(number, 10_000), quotient(number, 100) % 100, number % 100)
    if isinstance(value, ir.StringValue):
        digits = [value.substr(start, length).try_cast("int64") for start, length in ((0, 4), (5, 2), (8, 2))]
        return _civil(*digits)
    raise UserError(place, f"type {value.type()}", "a day is a date, text YYYY-MM-DD or an integer YYYYMMDD", "cast it")


def _civil(year: ir.IntegerValue, month: ir.IntegerValue, day: ir.IntegerValue) -> ir.IntegerValue:
    """Days since 1970-01-01 of a date of the Gregorian calendar; null where a part is out of its range."""
    sane = year.between(1900, 2999) & month.between(1, 12) & day.between(1, 31)
    shifted = ibis.ifelse(month <= 2, year - 1, year)
    era = quotient(shifted, 400)
    of_era = shifted - era * 400
    of_year = quotient(153 * ibis.ifelse(month > 2, month - 3, month + 9) + 2, 5) + day - 1
    number = era * 146_097 + of_era * 365 + quotient(of_era, 4) - quotient(of_era, 100) + of_year - 719_468
    return ibis.ifelse(sane, number, ibis.null("int64")).cast("int64")


def quotient(value: ir.IntegerValue, divisor: int) -> ir.IntegerValue:
    """`value / divisor` of int64 with a positive divisor, cut toward zero, exact.

    Engines divide integers as floats; what is left when the remainder is taken off divides without one, and rounding
    takes off the error of values beyond 2 ** 53.
    """
    multiple = value - value % divisor
    return (multiple.cast("float64") / float(divisor)).round().cast("int64")


class LocalTime:
    """The time of a row.

    Args:
        value: As `config` says.
        config: Unit, offset, range.
        place: For messages.

    Raises:
        UserError: `value` has a type that `config.unit` does not fit.
    """

    def __init__(self, value: ir.Value, config: TimeConfig, place: str) -> None:
        self.hour: ir.IntegerValue | None = None
        if config.unit == "date":
            self.day = day_of(value, place)
        elif config.unit == "timestamp":
            if not isinstance(value, ir.TimestampValue):
                raise UserError(
                    place, f"type {value.type()}", 'unit = "timestamp" needs a Parquet timestamp', "say the unit"
                )
            self._cut(value.truncate("s").epoch_seconds().cast("int64"), 1, config)
        else:
            if not isinstance(value, ir.IntegerValue):
                raise UserError(
                    place,
                    f"type {value.type()}",
                    f"unit = {config.unit!r} counts from 1970-01-01 in integers",
                    'use unit = "timestamp" or "date" for such columns, or cast it',
                )
            self._cut(value.cast("int64"), PER_SECOND[config.unit], config)
        self.weekday = (self.day + _THURSDAY) % 7
        first, last = number_of(config.earliest), number_of(config.latest)
        self.sane = self.day.between(first, last).fill_null(False)

    def _cut(self, value: ir.IntegerValue, per_second: int, config: TimeConfig) -> None:
        # Values before 1970 are cut toward zero; `earliest` lies after them. Far values would overflow when the offset
        # is added, and are no time anyway.
        bound = (number_of("2999-12-31") + 1) * _DAY * per_second
        local = (
            ibis.ifelse(value.between(-bound, bound), value, ibis.null("int64")) + config.offset_seconds * per_second
        )
        self.day = quotient(local, _DAY * per_second)
        self.hour = quotient(local - self.day * (_DAY * per_second), _HOUR * per_second)
