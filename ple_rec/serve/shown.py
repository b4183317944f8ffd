"""Values of a request in a message: as JSON writes them, and no further than a message is long."""

from __future__ import annotations

import json
from collections.abc import Iterator

_LONGEST = 80  # characters


def shorten(text: str) -> str:
    """Return the text, or its beginning where it is long."""
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def shown(value: object) -> str:
    """Return a JSON value as text, or its beginning where that is long; what comes later is not looked at."""
    text = ""
    for piece in _pieces(value):
        text += piece
        if len(text) > _LONGEST:
            break
    return shorten(text)


def _pieces(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield json.dumps(value[:_LONGEST], ensure_ascii=False)
    elif isinstance(value, dict):
        yield "{"
        for i, (name, each) in enumerate(value.items()):
            yield ", " * (i > 0) + json.dumps(name[:_LONGEST], ensure_ascii=False) + ": "
            yield from _pieces(each)
        yield "}"
    elif isinstance(value, list):
        yield "["
        for i, each in enumerate(value):
            yield ", " * (i > 0)
            yield from _pieces(each)
        yield "]"
    else:
        yield json.dumps(value)
