"""Arithmetic with equal results on every engine: decisions by a hash, and the day and hour of a row."""

from __future__ import annotations

from datetime import date, timedelta

import ibis
import ibis.expr.types as ir

from ple_rec.config.prep import TimeConfig
from ple_rec.errors import UserError

_DIGITS = 8  # A share is compared with so many hexadecimal digits of the digest, 32 bits.
_ROW_DIGITS = 7  # With 28 bits of the digest, the choice of a row stays within int64.
_WIDE = 2**40  # A literal beyond int32.
_HEX = "0123456789abcdef"


def hashed_text(value: ir.Value) -> ir.StringValue:
    """Return the text of a value that is hashed; a number is written in decimal."""
    return value.cast("string")


def hash_is_below(text: ir.StringValue, share: float) -> ir.BooleanValue:
    """Return True where the MD5 of a text, as a fraction of its range, is below `share` (to 2 ** -32)."""
    limit = round(share * 16**_DIGITS)
    if limit >= 16**_DIGITS:
        return ibis.literal(True)
    return text.hexdigest("md5").substr(0, _DIGITS) < f"{limit:0{_DIGITS}x}"


def hashed_row(value: ir.Value, capacity: int, hash_rows: int) -> ir.IntegerValue:
    """Return the hash row of a value that has no row of its own: capacity - hash_rows + H mod hash_rows.

    H is the first 7 hexadecimal digits of the MD5 of the value's text.
    """
    number = hashed_number(hashed_text(value), _ROW_DIGITS)
    return (number % hash_rows + (capacity - hash_rows)).cast("int32")


def hashed_number(text: ir.StringValue, digits: int) -> ir.IntegerValue:
    """Return the first hexadecimal digits of the MD5 of a text as an `int64`, which holds at most 15 digits."""
    digest = text.hexdigest("md5")
    # Spark computes text positions and small literals in int32, whatever Ibis says; a large literal forces int64.
    values = [ibis.literal(_HEX).find(digest.substr(i, 1)) + _WIDE - _WIDE for i in range(digits)]
    number = values[0]
    for digit in values[1:]:
        number = number * 16 + digit
    return number


EPOCH = date(1970, 1, 1)
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_SECONDS_PER_DAY, _HOURS_PER_DAY = 86_400, 24
_INT64 = 2**63 - 1
_LOCAL_DATE = "write the local date: a date, text YYYY-MM-DD or an integer YYYYMMDD"
_THURSDAY = 3  # The weekday of 1970-01-01, counted from Monday = 0.


def days_since_1970(day: str) -> int:
    """Return the days from 1970-01-01 to a date such as `2022-05-08`."""
    return (date.fromisoformat(day) - EPOCH).days


def day_number(day: int | str, day_1: int | None) -> int:
    """Return the days from 1970-01-01 to a day of the configuration: a date, or a number that counts from day 1."""
    if isinstance(day, str):
        return days_since_1970(day)
    assert day_1 is not None
    return day_1 + day - 1


def date_text(day: int) -> str:
    """Return the date, such as `2022-05-08`, that is `day` days after 1970-01-01."""
    return (EPOCH + timedelta(days=day)).isoformat()


def day_of(value: ir.Value, place: str, zoned: str = _LOCAL_DATE) -> ir.IntegerValue:
    """Return the days since 1970-01-01 of a date, text that begins with YYYY-MM-DD, or the integer YYYYMMDD.

    A timestamp without a time zone counts as a date. A timestamp with a zone is a moment, whose date depends on the
    place: a file keeps it in UTC, where midnight in Shanghai lies on the day before. A text or an integer that is no
    date of the calendar gives null.

    Args:
        value: Column of dates.
        place: Name of the column in messages.
        zoned: Fix that a message gives for a timestamp with a zone.

    Raises:
        UserError: `value` has another type.
    """
    if isinstance(value, ir.TimestampValue) and value.type().timezone is not None:
        raise UserError(
            place,
            "a timestamp with a time zone",
            "it is a moment, whose day depends on the place",
            zoned,
        )
    if isinstance(value, ir.DateValue | ir.TimestampValue):
        return _civil(value.year().cast("int64"), value.month().cast("int64"), value.day().cast("int64"))
    if isinstance(value, ir.IntegerValue):
        number = value.cast("int64")
        return _civil(quotient(number, 10_000), quotient(number, 100) % 100, number % 100)
    if isinstance(value, ir.StringValue):
        digits = [value.substr(start, length).try_cast("int64") for start, length in ((0, 4), (5, 2), (8, 2))]
        return _civil(*digits)
    rule = "a day is a date, text YYYY-MM-DD or an integer YYYYMMDD"
    raise UserError(place, f"type {value.type()}", rule, "write the column as one of these")


def _civil(year: ir.IntegerValue, month: ir.IntegerValue, day: ir.IntegerValue) -> ir.IntegerValue:
    """Return the days since 1970-01-01 of a date of the Gregorian calendar; null where the calendar lacks it."""
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    length = ibis.ifelse(month == 2, ibis.ifelse(leap, 29, 28), 30 + (month + quotient(month, 8)) % 2)
    in_calendar = year.between(1900, 2999) & month.between(1, 12) & (day >= 1) & (day <= length)
    shifted = ibis.ifelse(month <= 2, year - 1, year)
    era = quotient(shifted, 400)
    of_era = shifted - era * 400
    of_year = quotient(153 * ibis.ifelse(month > 2, month - 3, month + 9) + 2, 5) + day - 1
    number = era * 146_097 + of_era * 365 + quotient(of_era, 4) - quotient(of_era, 100) + of_year - 719_468
    return ibis.ifelse(in_calendar, number, ibis.null("int64")).cast("int64")


def quotient(value: ir.IntegerValue, divisor: int) -> ir.IntegerValue:
    """Return `value // divisor`, exact for an int64 of at least 0 and a positive divisor below 2 ** 53.

    Engines divide integers as floats, so the powers of two in the divisor are shifted out first. Then the numerator is
    below 2 ** 53, and the float64 quotient has the right integer part: consecutive quotients are 1 / odd apart.
    """
    shift = (divisor & -divisor).bit_length() - 1
    shifted, odd = value >> shift if shift else value, divisor >> shift
    return shifted if odd == 1 else (shifted.cast("float64") / float(odd)).floor().cast("int64")


class LocalTime:
    """Local day and hour of each row.

    Args:
        value: Column of times, in the unit of `config`.
        config: Unit, UTC offset and range of the times.
        place: Name of the column in messages.

    Attributes:
        count: Units since 1970-01-01 UTC: seconds for a timestamp, days for a date.
        in_range: True where the day lies in the range of `config`.
        day: Days from 1970-01-01 to the local day; null outside the range.
        hour: Local hour; null outside the range. None if the times are dates.

    Raises:
        UserError: `value` has a type that `config.unit` does not fit.
    """

    def __init__(self, value: ir.Value, config: TimeConfig, place: str) -> None:
        self.count, self._per_day = _units(value, config, place)
        self._offset = config.offset_seconds * self._per_day // _SECONDS_PER_DAY
        first, last = days_since_1970(config.earliest), days_since_1970(config.latest)
        low, high = first * self._per_day - self._offset, (last + 1) * self._per_day - 1 - self._offset
        high = min(high, _INT64 - max(self._offset, 0))  # Adding the offset must not overflow.
        self.in_range = self.count.between(min(low, _INT64), high).fill_null(False)
        local = ibis.ifelse(self.in_range, self.count, ibis.null("int64"))
        local = local + self._offset if self._offset else local
        self.day = quotient(local, self._per_day)
        self.hour = None if config.unit == "date" else quotient(local, self._per_day // _HOURS_PER_DAY) % _HOURS_PER_DAY

    def day_at(self, count: int) -> int:
        """Return the `day` of a row in the range whose `count` is this one; both ascend together."""
        return (count + self._offset) // self._per_day


def weekday_of(day: ir.IntegerValue) -> ir.IntegerValue:
    """Return the weekday of a day, counted from Monday = 0."""
    return (day + _THURSDAY) % 7


def _integer_fix(value: ir.Value, text: str) -> str:
    """Return the fix for a time that is no integer although its unit counts in integers."""
    if isinstance(value, ir.TimestampValue):
        return 'set time.unit = "timestamp"'
    if isinstance(value, ir.DateValue):
        return 'set time.unit = "date"'
    cast_fix = f"write cast({text} as bigint)"
    if isinstance(value, ir.StringValue):
        return f'{cast_fix}, or set time.unit = "date" for text that begins with YYYY-MM-DD'
    return cast_fix if isinstance(value, ir.FloatingValue) else "name a column of integers"


def _units(value: ir.Value, config: TimeConfig, place: str) -> tuple[ir.IntegerValue, int]:
    """Return the units of a time since 1970-01-01, and the units of a day."""
    if config.unit == "date":
        return day_of(value, place, f'use unit = "timestamp" and utc_offset, or {_LOCAL_DATE}'), 1
    if config.unit == "timestamp":
        if not isinstance(value, ir.TimestampValue):
            raise UserError(
                place,
                f"type {value.type()}",
                'unit = "timestamp" needs a timestamp',
                'write the column as one, as pandas.to_datetime makes it; of integers say the unit: "s", "ms", "us" or '
                '"ns"; of dates, "date"',
            )
        return value.truncate("s").epoch_seconds().cast("int64"), _SECONDS_PER_DAY
    if not isinstance(value, ir.IntegerValue):
        rule = f"unit = {config.unit!r} counts from 1970-01-01 in integers"
        raise UserError(place, f"type {value.type()}", rule, _integer_fix(value, config.value))
    return value.cast("int64"), PER_SECOND[config.unit] * _SECONDS_PER_DAY
