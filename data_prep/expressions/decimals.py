"""Exact arithmetic on decimals, through their texts, which DuckDB and Spark write in the same way.

The engines round differently where they divide decimals or convert them to numbers, but both write all digits.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Any

import ibis

from data_prep.expressions import kinds as k

MAX_EXPONENT = 18  # The largest power of ten that fits into int64.
_DECIMAL_TEXT = r"^ *[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+) *\z"


def power_of_ten(text: str) -> int | None:
    """Return n for the text of a power of ten, `1`, `100` or `0.01`, that is 10 ** n; None for any other text."""
    try:
        number = Decimal(text).normalize()
    except InvalidOperation:
        return None
    sign, digits, exponent = number.as_tuple()
    is_power = isinstance(exponent, int) and (sign, digits) == (0, (1,)) and abs(exponent) <= MAX_EXPONENT
    return int(exponent) if is_power else None


def units(x: Any, exponent: int) -> Any:
    """Return the exact number of units of 10 ** exponent in a decimal, an integer or the text of one, as int64.

    It is null for a text that is no number, where it is not whole, and beyond int64.
    """
    text = (x if k.kind_of(x) == "string" else x.cast("string")).strip()
    digits = text.re_replace("^[+-]", "")
    whole, fraction = digits.re_replace("[.].*", ""), digits.re_replace("^[0-9]*[.]?", "")
    if exponent <= 0:
        fraction = fraction + "0" * -exponent if exponent else fraction
        counted = whole + fraction.substr(0, -exponent) if exponent else whole
        rest = fraction.substr(-exponent)
    else:
        padded = "0" * exponent + whole
        counted = padded.substr(0, padded.length() - exponent)
        rest = padded.right(exponent) + fraction
    number = (ibis.ifelse(text.startswith("-"), "-0", "0") + counted).try_cast("int64")
    return ibis.cases((text.re_search(_DECIMAL_TEXT) & ~rest.re_search("[1-9]"), number))
