"""Cells of tables on a page: numbers, and the axes of small plots, which `templates/strips.html.j2` draws."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ple_rec.runs.results import MISSING

DASH = "\u2013"  # stands for a number that there is not


def true_minus(text: str) -> str:
    """Return a number with the sign that is as wide as a digit."""
    return text.replace("-", "\u2212")


def page_cell(text: str) -> str:
    """Return a cell of a table on the terminal as a page has it, with a dash and a sign of its own."""
    return ", ".join(DASH if part == MISSING else part.replace("+-", "\u00b1") for part in text.split(", "))


_WIDTH, _MARGIN = 160, 6  # CSS pixels


@dataclass(frozen=True)
class Scale:
    """The axis that the strips of one table share, from `low` to `high`."""

    low: float
    high: float
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Return where `value` stands, in pixels to a tenth; a value beyond an end stands at the end."""
        if self.logarithmic:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(_MARGIN + (_WIDTH - 2 * _MARGIN) * min(max(share, 0.0), 1.0), 1)

    def outside(self, value: float) -> int:
        """Return -1 below the axis, 1 beyond it, else 0."""
        return (value > self.high) - (value < self.low)


def scale_over(values: Iterable[float], *, least: float = -math.inf, greatest: float = math.inf) -> Scale:
    """Return a linear axis over the values with a margin, within what the quantity can be.

    Args:
        values: Values on the axis, one at least.
        least: Least value of the quantity.
        greatest: Greatest value of the quantity.
    """
    kept = list(values)
    low, high = min(kept), max(kept)
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return Scale(max(low - margin, min(low, least)), min(high + margin, max(high, greatest)))
