"""Numbers as the cells of a page have them."""

from __future__ import annotations

from ple_rec.train.results import number

DASH = "\u2013"  # stands for a number that there is not


def count(value: object) -> str:
    """Return a whole number with its thousands apart; a dash where `value` is no number."""
    found = number(value)
    return DASH if found is None else f"{found:,.0f}"


def true_minus(text: str) -> str:
    """Return a number with the sign that is as wide as a digit."""
    return text.replace("-", "\u2212")
