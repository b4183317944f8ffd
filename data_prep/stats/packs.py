"""Columns of few values, counted together: one scan and one grouping by several columns, and their sums afterwards."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

COMBINATIONS = 4096  # of the values of columns that are grouped by together, at most


def packs(names: Sequence[str], values: Mapping[str, int], most: int = COMBINATIONS) -> list[list[str]]:
    """The columns in groups of at most `most` combinations of values; a column of more values stands alone.

    Args:
        names: Of the columns.
        values: How many values each can have.
        most: Combinations.
    """
    out: list[list[str]] = []
    for name in sorted(names, key=lambda name: values[name]):
        if out and math.prod(values[key] for key in out[-1]) * values[name] <= most:
            out[-1].append(name)
        else:
            out.append([name])
    return out
