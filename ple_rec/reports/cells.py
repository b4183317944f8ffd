"""Texts of numbers in cells of tables, on pages and on the terminal."""

from __future__ import annotations

from ple_rec.runs.results import MISSING

# On pages, this dash stands for a missing number; on the terminal, `MISSING` does.
DASH = "\u2013"


def true_minus(text: str) -> str:
    """Return the text of a number with a minus sign that is as wide as a digit."""
    return text.replace("-", "\u2212")


def mean_with_sd(mean: float | None, sd: float | None = None) -> str:
    """Return a mean with its standard deviation, if known, with three decimals: `0.250 +- 0.010`, `0.250`, or `-`."""
    if mean is None:
        return MISSING
    return f"{mean:.3f}" if sd is None else f"{mean:.3f} +- {sd:.3f}"


def page_cell(text: str) -> str:
    """Convert the text of a cell on the terminal for a page, with a dash for a missing number and a plus-minus sign."""
    return ", ".join(DASH if part == MISSING else part.replace("+-", "\u00b1") for part in text.split(", "))
