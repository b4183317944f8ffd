"""Numbers of a run's files as the cells of its page have them."""

from __future__ import annotations

from ple_rec.reports.numbers import DASH
from ple_rec.runs.results import number


def count(value: object) -> str:
    """Return a whole number with its thousands apart; a dash where `value` is no number."""
    found = number(value)
    return DASH if found is None else f"{found:,.0f}"
