"""Numbers as the cells of a page have them."""

from __future__ import annotations

from ple_rec.runs.results import MISSING

DASH = "\u2013"  # stands for a number that there is not


def true_minus(text: str) -> str:
    """Return a number with the sign that is as wide as a digit."""
    return text.replace("-", "\u2212")


def page_cell(text: str) -> str:
    """Return a cell of a table on the terminal as a page has it, with a dash and a sign of its own."""
    return ", ".join(DASH if part == MISSING else part.replace("+-", "\u00b1") for part in text.split(", "))
