"""Numbers as the cells of a page have them."""

from __future__ import annotations

DASH = "\u2013"  # stands for a number that there is not


def true_minus(text: str) -> str:
    """Return a number with the sign that is as wide as a digit."""
    return text.replace("-", "\u2212")
