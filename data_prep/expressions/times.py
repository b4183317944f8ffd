"""Dates and times as integers: Ibis values with the same results on DuckDB and on Spark.

Days are numbers of days since 1970-01-01. A time is a point in time. Its *local microseconds* are the microseconds from
1970-01-01 00:00 to its local date and clock time, which is UTC plus an offset. A date stands for its midnight. So
dates, timestamps and ISO texts of the years 1900 to 2999 all become local microseconds; any other value is null.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Any

import ibis
import ibis.expr.types as ir

from data_prep.expressions import kinds as k

EPOCH = date(1970, 1, 1)
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_MICROSECONDS = 10**6
_DAY_SECONDS = 86_400
_MINUTE, _HOUR, _DAY = 60 * _MICROSECONDS, 3_600 * _MICROSECONDS, _DAY_SECONDS * _MICROSECONDS
_FIRST_YEAR, _LAST_YEAR = 1900, 2999
_FIRST_DAY, _LAST_DAY = (date(_FIRST_YEAR, 1, 1) - EPOCH).days, (date(_LAST_YEAR, 12, 31) - EPOCH).days
_MONDAY = (date(1899, 12, 25) - EPOCH).days * _DAY  # A Monday before 1900, so that differences to it are positive.
_THURSDAY = 3  # The weekday of 1970-01-01, counted from Monday = 0.
_CLOCK = r"[T ]([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9]([.][0-9]+)?)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])?"
_ISO_TEXT = rf"^(19|2[0-9])[0-9]{{2}}-[0-9]{{2}}-[0-9]{{2}}({_CLOCK})?"
_CLOCK_LENGTH, _ZONE_LENGTH = 16, 6  # Numbers of characters of `2024-05-01T07:30` and of `+08:00`.


def days_since_1970(day: str) -> int:
    """Return the days from 1970-01-01 to a date such as `2022-05-08`."""
    return (date.fromisoformat(day) - EPOCH).days


def quotient(value: ir.IntegerValue, divisor: int) -> ir.IntegerValue:
    """Return `value // divisor` for values of at least 0 and a positive divisor.

    Engines divide integers as floats, so the factors of two in the divisor are removed first, by a shift of both
    numbers. The result is exact if the shifted value is below 2 ** 53.
    """
    shift = (divisor & -divisor).bit_length() - 1
    shifted, odd = value >> shift if shift else value, divisor >> shift
    return shifted if odd == 1 else (shifted.cast("float64") / float(odd)).floor().cast("int64")


def weekday_of(day: ir.IntegerValue) -> ir.IntegerValue:
    """Return the weekday of a day that is not before 1970, counted from Monday = 0."""
    return (day + _THURSDAY) % 7


def local_micros(value: Any, offset_seconds: int) -> ir.IntegerValue:
    """Return the local microseconds of a date, a time or an ISO text; null outside the years 1900 to 2999.

    Args:
        value: Dates, timestamps, or texts. A text is a local date, `2024-05-01`, or a time with a blank or a T,
            `2024-05-01T07:30:00.5+08:00`, in which seconds, fraction and offset may be missing. A time without an
            offset is UTC.
        offset_seconds: Local time minus UTC, in seconds.
    """
    kind = k.kind_of(value)
    if kind == "date":
        # Spark counts days by timestamps, which cannot hold every date.
        in_range = ibis.cases((value.year().between(_FIRST_YEAR, _LAST_YEAR), value))
        return in_range.epoch_days().cast("int64") * _DAY
    if kind == "string":
        return _micros_of_text(value, offset_seconds * _MICROSECONDS)
    # Times at the ends of int64 are infinite in DuckDB, where their text has no digits, and Spark cannot truncate them.
    # The year may be that of another time zone, so one year more is left at both ends.
    value = ibis.cases((value.year().between(_FIRST_YEAR - 1, _LAST_YEAR + 1), value))
    # The engines round differently when they convert a time to a number, so the fraction is read from its text.
    second = value.truncate("s").epoch_seconds().cast("int64")
    in_range = second.between(_FIRST_DAY * _DAY_SECONDS, (_LAST_DAY + 1) * _DAY_SECONDS - 1)
    micros = ibis.cases((in_range, second)) * _MICROSECONDS + value.strftime("%f").cast("int64")
    return micros + offset_seconds * _MICROSECONDS if offset_seconds else micros


def _micros_of_text(text: ir.StringValue, offset: int) -> ir.IntegerValue:
    """Return the local microseconds of ISO texts, by the positions of their parts; null for any other text."""
    length = text.length()
    # The engines agree on the date of a text of this form. Any other text has no date, so the sum below is null.
    day = ibis.cases((text.re_search(_ISO_TEXT + r"\z"), text.substr(0, 10))).try_cast("date").epoch_days()

    def number(part: ir.StringValue, start: int) -> ir.IntegerValue:
        return part.substr(start, 2).try_cast("int64")

    clock = number(text, 11) * _HOUR + number(text, 14) * _MINUTE
    second = ibis.cases((text.substr(16, 1) == ":", number(text, 17)), else_=k.ZERO) * _MICROSECONDS
    digits = (text.substr(20, 6).re_replace("[^0-9].*", "") + "000000").substr(0, 6)
    fraction = ibis.cases((text.substr(19, 1) == ".", digits.try_cast("int64")), else_=k.ZERO)
    zone = ibis.cases((length >= _CLOCK_LENGTH + _ZONE_LENGTH, text.right(_ZONE_LENGTH)), else_="")
    zone_offset = number(zone, 1) * _HOUR + number(zone, 4) * _MINUTE
    sign = zone.substr(0, 1)
    utc = ibis.cases((sign == "+", -zone_offset), (sign == "-", zone_offset), else_=k.ZERO)
    micros_of_day = ibis.cases((length >= _CLOCK_LENGTH, clock + second + fraction + utc + offset), else_=k.ZERO)
    return day.cast("int64") * _DAY + micros_of_day


def micros_of_literal(text: str, offset_seconds: int) -> int | None:
    """Return the local microseconds of a constant text, as `local_micros` computes them; None if it is no ISO text."""
    if not re.fullmatch(_ISO_TEXT, text):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    elapsed = moment - datetime(1970, 1, 1, tzinfo=UTC)
    micros = (elapsed.days * 86_400 + elapsed.seconds) * _MICROSECONDS + elapsed.microseconds
    if len(text) >= _CLOCK_LENGTH:
        micros += offset_seconds * _MICROSECONDS
    return micros


def days_between(later: ir.IntegerValue, earlier: ir.IntegerValue) -> ir.FloatingValue:
    """Return the days from one time to another, both in local microseconds, as a float."""
    return (later - earlier).cast("float64") / k.floating(float(_DAY))


def hours_between(later: ir.IntegerValue, earlier: ir.IntegerValue) -> ir.FloatingValue:
    """Return the hours from one time to another, both in local microseconds, as a float."""
    return (later - earlier).cast("float64") / k.floating(float(_HOUR))


def hour_at(micros: ir.IntegerValue) -> ir.IntegerValue:
    """Return the hour, 0 to 23, of local microseconds."""
    return (quotient(micros - _MONDAY, _HOUR) % 24).cast("int64")


def weekday_at(micros: ir.IntegerValue) -> ir.IntegerValue:
    """Return the weekday, from Monday = 0, of local microseconds."""
    return (quotient(micros - _MONDAY, _DAY) % 7).cast("int64")


def month_at(micros: ir.IntegerValue) -> ir.IntegerValue:
    """Return the month, 1 to 12, of local microseconds."""
    return date_at(micros).month().cast("int64")


def date_at(micros: ir.IntegerValue) -> ir.DateValue:
    """Return the date of local microseconds."""
    epoch = ibis.literal("1970-01-01 00:00:00").cast("timestamp")
    return (epoch + micros.as_interval("us")).cast("date")


def date_of_day(day: ir.IntegerValue) -> ir.DateValue:
    """Return the date of a number of days since 1970-01-01."""
    return date_at(day * _DAY)


def time_of_count(count: ir.IntegerValue, unit: str) -> ir.TimestampValue:
    """Return the times of numbers of units since 1970-01-01 UTC; null outside the years 1900 to 2999.

    Args:
        count: Numbers of units; nanoseconds are rounded down to microseconds.
        unit: A key of `PER_SECOND`.
    """
    per_second = PER_SECOND[unit]
    first, last = _FIRST_DAY * _DAY_SECONDS * per_second, (_LAST_DAY + 1) * _DAY_SECONDS * per_second - 1
    in_range = ibis.cases((count.between(k.integer(max(first, k.INT64_MIN)), k.integer(min(last, k.INT64_MAX))), count))
    if per_second > _MICROSECONDS:
        factor = per_second // _MICROSECONDS
        micros = k.truncated_quotient(in_range - (in_range % factor + factor) % factor, k.integer(factor))
    else:
        micros = in_range * k.integer(_MICROSECONDS // per_second)
    epoch = ibis.literal("1970-01-01 00:00:00+00:00").cast("timestamp('UTC')")
    return epoch + micros.as_interval("us")
