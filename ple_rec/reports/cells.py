"""Numbers in cells of tables, on pages and on the terminal."""

from __future__ import annotations

from ple_rec.runs.results import MISSING

# The dash stands for a missing number.
DASH = "\u2013"


def true_minus(text: str) -> str:
    """Return the text of a number with a minus sign that is as wide as a digit."""
    return text.replace("-", "\u2212")


def mean_text(mean: float | None, sd: float | None = None) -> str:
    """Return a mean with its standard deviation for the terminal, to three digits: `0.250 +- 0.010`, `0.250`, `-`."""
    if mean is None:
        return MISSING
    return f"{mean:.3f}" if sd is None else f"{mean:.3f} +- {sd:.3f}"


def page_cell(text: str) -> str:
    """Return the text of a cell on the terminal with the dash and the plus-minus sign of a page."""
    return ", ".join(DASH if part == MISSING else part.replace("+-", "\u00b1") for part in text.split(", "))
