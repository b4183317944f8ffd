"""Arithmetic on Ibis columns with the same results on DuckDB and Spark: hashes, integer division, days and hours.

Days are numbers of days since 1970-01-01.
"""

from __future__ import annotations

from datetime import timedelta

import ibis
import ibis.expr.types as ir

from data_prep.expressions import times
from data_prep.expressions.times import EPOCH, PER_SECOND, days_since_1970
from data_prep.expressions.times import quotient as quotient  # For rooms that may not import expressions.
from ple_rec.config.prep import TimeConfig
from ple_rec.errors import UserError

_DIGITS = 8  # Number of hexadecimal digits of a digest (32 bits) that are compared with a share.
_ROW_DIGITS = 7  # Number of digits that choose a hash row. 28 bits keep the arithmetic within int64.
_INT64_LITERAL = 2**40  # Any number beyond int32, with which `hashed_number` computes in int64.
_HEX = "0123456789abcdef"


def hashed_text(value: ir.Value) -> ir.StringValue:
    """Return the text by which a value is hashed: a text itself, or a number in decimal."""
    return value.cast("string")


def hash_is_below(text: ir.StringValue, share: float) -> ir.BooleanValue:
    """Return True where the MD5 of a text, as a fraction in [0, 1), is below `share`, with a precision of 2 ** -32."""
    limit = round(share * 16**_DIGITS)
    if limit >= 16**_DIGITS:
        return ibis.literal(True)
    # As texts, the whole digest is below the digits of the limit exactly if its first digits are.
    return text.hexdigest("md5") < f"{limit:0{_DIGITS}x}"


def hash_row(value: ir.Value, capacity: int, hash_rows: int) -> ir.IntegerValue:
    """Return the row of a value outside the vocabulary: capacity - hash_rows + (H mod hash_rows).

    Such values share the last `hash_rows` rows of a table, which has `capacity` rows in all. H is the number whose
    hexadecimal digits are the first 7 of the MD5 of the value's text, as in `ple_rec.data.lookup`.
    """
    number = hashed_number(hashed_text(value), _ROW_DIGITS)
    return (number % hash_rows + (capacity - hash_rows)).cast("int32")


def hashed_number(text: ir.StringValue, digits: int) -> ir.IntegerValue:
    """Return the first `digits` hexadecimal digits, at most 15, of the MD5 of a text as an int64."""
    digest = text.hexdigest("md5")
    # Spark computes text positions and small literals in int32, even if Ibis types them as int64. Adding and
    # subtracting a large literal makes them int64.
    values = [ibis.literal(_HEX).find(digest.substr(i, 1)) + _INT64_LITERAL - _INT64_LITERAL for i in range(digits)]
    number = values[0]
    for digit in values[1:]:
        number = number * 16 + digit
    return number


_SECONDS_PER_DAY, _HOURS_PER_DAY = 86_400, 24
_INT64 = 2**63 - 1
_LOCAL_DATE = "write the local date: a date, text YYYY-MM-DD or an integer YYYYMMDD"


def day_number(day: int | str, day_1: int | None) -> int:
    """Return the days from 1970-01-01 to a day of the configuration.

    Args:
        day: Date such as `2022-05-08`, or a number, where 1 is day 1.
        day_1: Days from 1970-01-01 to day 1, from which the configuration counts; needed only for a number.
    """
    if isinstance(day, str):
        return days_since_1970(day)
    assert day_1 is not None
    return day_1 + day - 1


def date_text(day: int) -> str:
    """Return the date, such as `2022-05-08`, that is `day` days after 1970-01-01."""
    return (EPOCH + timedelta(days=day)).isoformat()


def date_to_day(value: ir.Value, place: str, zoned_fix: str = _LOCAL_DATE) -> ir.IntegerValue:
    """Return the days since 1970-01-01 of a date, of text that begins with YYYY-MM-DD, or of an integer YYYYMMDD.

    A timestamp without a time zone counts as a date. A timestamp with a time zone is refused: it is a point in time,
    whose date differs between time zones. A value that is no date of the years 1900 to 2999 gives null.

    Args:
        value: Column of dates.
        place: Name of the column in messages.
        zoned_fix: Fix in the message for a timestamp with a time zone.

    Raises:
        UserError: `value` is a timestamp with a time zone, or has another type.
    """
    if isinstance(value, ir.TimestampValue) and value.type().timezone is not None:
        raise UserError(
            place,
            "a timestamp with a time zone",
            "it is a point in time, whose date depends on the time zone",
            zoned_fix,
        )
    if isinstance(value, ir.DateValue | ir.TimestampValue):
        return _civil(value.year().cast("int64"), value.month().cast("int64"), value.day().cast("int64"))
    if isinstance(value, ir.IntegerValue):
        number = value.cast("int64")
        return _civil(quotient(number, 10_000), quotient(number, 100) % 100, number % 100)
    if isinstance(value, ir.StringValue):
        digits = [value.substr(start, length).try_cast("int64") for start, length in ((0, 4), (5, 2), (8, 2))]
        return _civil(*digits)
    rule = "a day is a date, text that begins with YYYY-MM-DD or an integer YYYYMMDD"
    raise UserError(place, f"type {value.type()}", rule, "write the column as one of these")


def _civil(year: ir.IntegerValue, month: ir.IntegerValue, day: ir.IntegerValue) -> ir.IntegerValue:
    """Return the days since 1970-01-01 of a date of the Gregorian calendar, 1900 to 2999; null if it does not exist.

    The algorithm counts years from March, so that a leap day is the last of its year, and in eras of 400 years, which
    have 146,097 days each (Hinnant, "chrono-Compatible Low-Level Date Algorithms", `days_from_civil`).
    """
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    days_in_month = ibis.ifelse(month == 2, ibis.ifelse(leap, 29, 28), 30 + (month + quotient(month, 8)) % 2)
    in_calendar = year.between(1900, 2999) & month.between(1, 12) & (day >= 1) & (day <= days_in_month)
    shifted = ibis.ifelse(month <= 2, year - 1, year)
    era = quotient(shifted, 400)
    year_of_era = shifted - era * 400
    day_of_year = quotient(153 * ibis.ifelse(month > 2, month - 3, month + 9) + 2, 5) + day - 1
    number = (
        era * 146_097
        + year_of_era * 365
        + quotient(year_of_era, 4)
        - quotient(year_of_era, 100)
        + day_of_year
        - 719_468
    )
    return ibis.ifelse(in_calendar, number, ibis.null("int64")).cast("int64")


def seconds_of_count(count: ir.IntegerValue, unit: str) -> ir.IntegerValue:
    """Return the whole seconds since 1970-01-01 UTC of times that are counted as `LocalTime.count` is.

    Args:
        count: Times from 1970 on; days for dates, which stand for their midnight.
        unit: Value of `time.unit`.
    """
    if unit == "date":
        return count * _SECONDS_PER_DAY
    return quotient(count, PER_SECOND.get(unit, 1))


def units_of_seconds(seconds: int, unit: str) -> int:
    """Return a duration in the unit of `LocalTime.count`; for dates, it is a whole number of days."""
    return seconds // _SECONDS_PER_DAY if unit == "date" else seconds * PER_SECOND.get(unit, 1)


class LocalTime:
    """Local day and hour of each row.

    Args:
        value: Column of times, in the unit of `config`.
        config: Unit, UTC offset and range of the times.
        place: Name of the column in messages.

    Attributes:
        count: Units since 1970-01-01 UTC: the unit of `config`, or seconds for a timestamp and days for a date.
        in_range: True where the local day is one of `config.earliest` to `config.latest`.
        day: Days from 1970-01-01 to the local day; null outside the range.
        hour: Local hour; null outside the range. None, instead of a column, if the times are dates.
        time: Time as a timestamp, or as a date if the times are dates; null outside the range.

    Raises:
        UserError: The type of `value` does not match `config.unit`.
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
        self.time: ir.Value
        if config.unit == "date":
            self.time = times.date_of_day(self.day)
        elif config.unit == "timestamp":
            self.time = ibis.cases((self.in_range, value))
        else:
            self.time = times.time_of_count(ibis.cases((self.in_range, self.count)), config.unit)

    def day_at(self, count: int) -> int:
        """Return the local day of a time in the range, given as its `count`."""
        return (count + self._offset) // self._per_day


def _integer_fix(value: ir.Value, text: str) -> str:
    """Return the fix for a time that is not an integer although its unit needs integers."""
    if isinstance(value, ir.TimestampValue):
        return 'set time.unit = "timestamp"'
    if isinstance(value, ir.DateValue):
        return 'set time.unit = "date"'
    cast_fix = f"write cast({text} as bigint)"
    if isinstance(value, ir.StringValue):
        return f'{cast_fix}, or set time.unit = "date" for text that begins with YYYY-MM-DD'
    return cast_fix if isinstance(value, ir.FloatingValue) else "use a column of integers"


def _units(value: ir.Value, config: TimeConfig, place: str) -> tuple[ir.IntegerValue, int]:
    """Return the times as numbers of units since 1970-01-01, and the number of units in a day."""
    if config.unit == "date":
        return date_to_day(value, place, f'set time.unit = "timestamp", or {_LOCAL_DATE}'), 1
    if config.unit == "timestamp":
        if not isinstance(value, ir.TimestampValue):
            raise UserError(
                place,
                f"type {value.type()}",
                'unit = "timestamp" needs a timestamp',
                'write the column as timestamps, for example by pandas.to_datetime; for integers set time.unit to "s", '
                '"ms", "us" or "ns", for dates to "date"',
            )
        return value.truncate("s").epoch_seconds().cast("int64"), _SECONDS_PER_DAY
    if not isinstance(value, ir.IntegerValue):
        rule = f"unit = {config.unit!r} needs integers, counted from 1970-01-01"
        raise UserError(place, f"type {value.type()}", rule, _integer_fix(value, config.value))
    return value.cast("int64"), PER_SECOND[config.unit] * _SECONDS_PER_DAY
