"""Content of files, made safe to print: strict JSON, and lines that fit the terminal."""

from __future__ import annotations

import datetime
import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from ple_rec.text import SHORTEST, cut, printable

_MAX_DEPTH = 16  # Nested lists and tables; files of a run have half as many levels.
_MAX_BITS = 1024  # The largest float has as many; parsers may refuse larger integers.
_MAX_NAMES = 8  # Names in a footnote.


def json_text(value: Any) -> str:
    """Return a value as strict JSON. Numbers that JSON cannot hold become null, and dates and times become text."""
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


def wrapped(text: str, width: int, indent: str = "  ") -> str:
    """Return a paragraph in lines of at most `width` (but at least 24) characters, all but the first indented."""
    return "\n".join(textwrap.wrap(text, max(width, 2 * SHORTEST), subsequent_indent=indent, break_on_hyphens=False))


def some_of(names: Sequence[str], width: int) -> str:
    """Return the first eight names, each cut to half a line, and the number of the others: `a, b and 3 more`."""
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(cut(printable(name), width // 2) for name in names[:_MAX_NAMES]) + more
