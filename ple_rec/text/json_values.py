"""Values of JSON files that may be damaged or of another version. A value of an unexpected type counts as empty."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def mapping(value: object) -> Mapping[str, Any]:
    """Return the value if it is an object, else an empty object."""
    return value if isinstance(value, Mapping) else {}


def number(value: object) -> float | None:
    """Return the value if it is a finite number, else None. An undefined metric is null in the file."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        real = float(value)
    except OverflowError:  # An integer may be larger than every float.
        return None
    return real if math.isfinite(real) else None


def items(value: object) -> list[Any]:
    """Return the elements of the value if it is a list, else an empty list."""
    return list(value) if isinstance(value, list) else []


def entries(value: object) -> list[Mapping[str, Any]]:
    """Return the elements of a list of objects; an element of another type becomes an empty object."""
    return [mapping(element) for element in items(value)]
