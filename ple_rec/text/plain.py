"""What files say, made safe to hand on: JSON that every parser reads, text that no terminal obeys, lines that fit."""

from __future__ import annotations

import datetime
import json
import math
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from ple_rec.text import SHORTEST, aligned, cut, printable

_DEEPEST = 16  # lists and tables inside one another; what a run writes has half as many
_LARGEST_BITS = 1024  # of an integer: those of the largest float
_NAMED = 8  # names in a footnote


def json_text(value: Any) -> str:
    """`value` as strict JSON: null for what no JSON number can be, and dates and times of TOML as text."""
    return json.dumps(_plain(value), indent=1, allow_nan=False)


def _plain(value: Any, depth: int = 0) -> Any:
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        return value if value.bit_length() <= _LARGEST_BITS else None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime.date | datetime.time):  # a datetime is a date
        return value.isoformat()
    if depth == _DEEPEST:
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(part, depth + 1) for key, part in value.items()}
    return [_plain(part, depth + 1) for part in value]


def wrapped(text: str, width: int, indent: str = "  ") -> str:
    """One paragraph in lines of at most `width` (and at least 24) characters; all but the first are indented."""
    return "\n".join(textwrap.wrap(text, max(width, 2 * SHORTEST), subsequent_indent=indent, break_on_hyphens=False))


def some_of(names: Sequence[str], width: int) -> str:
    """The first of many names, each at most half as long as a line, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(cut(printable(name), width // 2) for name in names[:_NAMED]) + more


def fitted(rows: Iterable[Sequence[str]], width: int, left: Collection[int] = (0,)) -> str:
    """Return rows as `aligned` has them; their first cells are cut to what the others leave of a line."""
    safe = [[printable(cell) for cell in row] for row in rows]
    lines = aligned(safe, left)
    over = max(map(len, lines)) - width
    if over > 0:
        most = max(len(row[0]) for row in safe) - over
        lines = aligned([[cut(row[0], most), *row[1:]] for row in safe], left)
    return "\n".join(lines)
