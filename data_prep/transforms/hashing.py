"""Decisions by a hash that every engine computes alike, and Python too."""

from __future__ import annotations

import ibis
import ibis.expr.types as ir

_DIGITS = 8  # hexadecimal, of the digest: 32 bits
_ROW_DIGITS = 7  # of the digest that chooses a row: below 2 ** 28, so that all arithmetic stays in int64
_WIDE = 2**40  # beyond int32
_HEX = "0123456789abcdef"


def hashed_text(value: ir.Value) -> ir.StringValue:
    """The text that is hashed: a number in decimal."""
    return value.cast("string")


def below(text: ir.StringValue, share: float) -> ir.BooleanValue:
    """Whether the MD5 of a text, as a fraction of its range, is below `share` (to 2 ** -32)."""
    limit = round(share * 16**_DIGITS)
    if limit >= 16**_DIGITS:
        return ibis.literal(True)
    return text.hexdigest("md5").substr(0, _DIGITS) < f"{limit:0{_DIGITS}x}"


def hashed_row(value: ir.Value, capacity: int, hash_rows: int) -> ir.IntegerValue:
    """Row of a value that has none of its own: capacity - hash_rows + H mod hash_rows.

    H is the first 7 hexadecimal digits of the MD5 of the value's text.
    """
    number = hashed_number(hashed_text(value), _ROW_DIGITS)
    return (number % hash_rows + (capacity - hash_rows)).cast("int32")


def hashed_number(text: ir.StringValue, digits: int) -> ir.IntegerValue:
    """The first hexadecimal digits of the MD5 of a text as a number, 15 at most so that it is an `int64`."""
    digest = text.hexdigest("md5")
    # Spark takes a place in a text and small literals for int32, whatever Ibis says: with a large one it adds int64.
    digits_of = [ibis.literal(_HEX).find(digest.substr(i, 1)) + _WIDE - _WIDE for i in range(digits)]
    number = digits_of[0]
    for digit in digits_of[1:]:
        number = number * 16 + digit
    return number
