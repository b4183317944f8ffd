"""Exact arithmetic on the texts of decimals.

DuckDB and Spark round differently when they divide decimals or convert them to numbers, but both write all digits of a
decimal as text.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Any

import ibis

from data_prep.expressions import kinds as k

MAX_EXPONENT = 18  # 10 ** 18 is the largest power of ten in int64.
_DECIMAL_TEXT = r"^ *[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+) *\z"


def power_of_ten(text: str) -> int | None:
    """Return the exponent of a power of ten from its text: 0 for `1`, 2 for `100`, -2 for `0.01`.

    The result is None for a text that is no power of ten, or one beyond 10 ** 18 or below 10 ** -18.
    """
    try:
        number = Decimal(text).normalize()
    except InvalidOperation:
        return None
    sign, digits, exponent = number.as_tuple()
    is_power = isinstance(exponent, int) and (sign, digits) == (0, (1,)) and abs(exponent) <= MAX_EXPONENT
    return int(exponent) if is_power else None


def units(x: Any, exponent: int) -> Any:
    """Return how many units of 10 ** exponent a decimal, an integer or the text of one is, exactly, as int64.

    The result is null if a text is no number, or if the number of units is not whole or exceeds int64.
    """
    text = (x if k.kind_of(x) == "string" else x.cast("string")).strip()
    digits = text.re_replace("^[+-]", "")
    whole, fraction = digits.re_replace("[.].*", ""), digits.re_replace("^[0-9]*[.]?", "")
    if exponent <= 0:
        fraction = fraction + "0" * -exponent if exponent else fraction
        unit_digits = whole + fraction.substr(0, -exponent) if exponent else whole
        rest = fraction.substr(-exponent)
    else:
        padded = "0" * exponent + whole
        unit_digits = padded.substr(0, padded.length() - exponent)
        rest = padded.right(exponent) + fraction
    number = (ibis.ifelse(text.startswith("-"), "-0", "0") + unit_digits).try_cast("int64")
    return ibis.cases((text.re_search(_DECIMAL_TEXT) & ~rest.re_search("[1-9]"), number))
