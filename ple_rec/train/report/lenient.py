"""Lenient readers of what the run's files hold, for the sections of the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ple_rec.html.markup import DASH
from ple_rec.train.results import mapping, number


def count(value: object) -> str:
    """A whole number with its thousands apart, a dash where there is none."""
    found = number(value)
    return DASH if found is None else f"{found:,.0f}"


def items(value: object) -> list[Any]:
    """The elements of a list; none where `value` is no list, as in a damaged file."""
    return list(value) if isinstance(value, list) else []


def entries(value: object) -> list[Mapping[str, Any]]:
    """The elements of a list as mappings, an odd one being empty; none where `value` is no list."""
    return [mapping(element) for element in items(value)]
