"""Texts from the content of files: strict JSON, paragraphs that fit the terminal, and short lists of names."""

from __future__ import annotations

import datetime
import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from ple_rec.text import MIN_CUT_LENGTH, cut_middle, printable

_MAX_DEPTH = 16  # Levels of nested lists and objects that are kept; files of a run have at most half as many.
_MAX_BITS = 1024  # Bits of an integer that is kept. Larger ones exceed every float, and parsers may refuse them.
_MAX_NAMES = 8


def json_text(value: Any) -> str:
    """Return a value as strict JSON.

    NaN, infinity, integers of more than 1024 bits, and lists and objects inside 16 others become null; dates and times
    become text.
    """
    return json.dumps(_json_value(value), indent=1, allow_nan=False)


def _json_value(value: Any, depth: int = 0) -> Any:
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        return value if value.bit_length() <= _MAX_BITS else None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime.date | datetime.time):  # A datetime is a date, too.
        return value.isoformat()
    if depth == _MAX_DEPTH:
        return None
    if isinstance(value, Mapping):
        return {str(key): _json_value(part, depth + 1) for key, part in value.items()}
    return [_json_value(part, depth + 1) for part in value]


def wrap_text(text: str, width: int, indent: str = "  ") -> str:
    """Return a paragraph in lines of at most `width` characters, or 24 if that is more; `indent` begins all but one."""
    return "\n".join(
        textwrap.wrap(text, max(width, 2 * MIN_CUT_LENGTH), subsequent_indent=indent, break_on_hyphens=False)
    )


def first_names_text(names: Sequence[str], width: int) -> str:
    """Return the first eight names and the number of the others: `a, b and 3 more`.

    Args:
        names: Names to list.
        width: Characters of a line; each name is cut to half of them, or 12 if that is more.
    """
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(cut_middle(printable(name), width // 2) for name in names[:_MAX_NAMES]) + more
