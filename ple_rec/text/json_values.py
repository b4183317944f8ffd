"""Type checks for values of JSON files, which may be damaged or of another version.

Each function returns the value if it has the type, else an empty one (None for a number), so that readers need no
checks of their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def as_mapping(value: object) -> Mapping[str, Any]:
    """Return the value if it is an object, else an empty object."""
    return value if isinstance(value, Mapping) else {}


def as_number(value: object) -> float | None:
    """Return the value as a float if it is a finite number, else None: also for null, an undefined metric in JSON."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        real = float(value)
    except OverflowError:  # An integer may be larger than every float.
        return None
    return real if math.isfinite(real) else None


def as_list(value: object) -> list[Any]:
    """Return the elements of the value if it is a list, else an empty list."""
    return list(value) if isinstance(value, list) else []


def as_mappings(value: object) -> list[Mapping[str, Any]]:
    """Return the elements of a list, or none of any other value; an element that is no object becomes an empty one."""
    return [as_mapping(element) for element in as_list(value)]
