"""Error of a request that cannot be answered; it names the field, the wrong value and the rule that the value breaks.

The readers of requests raise it, and the server answers with status 422. The value is written as JSON, shortened to the
length of a message.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# Largest number of characters of a value in a message.
_MAX_CHARACTERS = 80


class RequestError(Exception):
    """Error of a request that cannot be answered.

    Args:
        field: Field of the body, for example "items[3].video_id".
        value: JSON value of the field.
        rule: Rule for values of that field.
        counted: Text in place of the value if its size is wrong, for example "2,001 objects"; None to show the value.
    """

    def __init__(self, field: str, value: object, rule: str, *, counted: str | None = None) -> None:
        self.field, self.rule = field, rule
        self.value = json_excerpt(value) if counted is None else counted
        super().__init__(f"{field}: got {self.value}; {rule}")


def require_object(value: object, field: str, keys: Sequence[str] | None = None) -> Mapping[str, Any]:
    """Return a value that has to be a JSON object.

    Args:
        value: JSON value.
        field: Field of the body, for messages; "body" for all of it.
        keys: Keys that the object may have; None for any keys.

    Raises:
        RequestError: The value is no object, or has another key.
    """
    if not isinstance(value, dict):
        permitted = "" if keys is None else f" with {', '.join(keys)}"
        raise RequestError(field, value, f"an object{permitted}")
    if keys is not None:
        for key in value:
            if key not in keys:
                place = shorten(key) if field == "body" else f"{field}.{shorten(key)}"
                raise RequestError(place, value[key], f"no such key; keys: {', '.join(keys)}")
    return value


def shorten(text: str) -> str:
    """Return the text, or its beginning if it is long."""
    return text if len(text) <= _MAX_CHARACTERS else text[: _MAX_CHARACTERS - 3] + "..."


def json_excerpt(value: object) -> str:
    """Return a JSON value as text, or its beginning if it is long, without reading the rest of the value."""
    text = ""
    for piece in _json_pieces(value):
        text += piece
        if len(text) > _MAX_CHARACTERS:
            break
    return shorten(text)


def _json_pieces(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield json.dumps(value[:_MAX_CHARACTERS], ensure_ascii=False)
    elif isinstance(value, dict):
        yield "{"
        for i, (name, each) in enumerate(value.items()):
            yield ", " * (i > 0) + json.dumps(name[:_MAX_CHARACTERS], ensure_ascii=False) + ": "
            yield from _json_pieces(each)
        yield "}"
    elif isinstance(value, list):
        yield "["
        for i, each in enumerate(value):
            yield ", " * (i > 0)
            yield from _json_pieces(each)
        yield "]"
    else:
        yield json.dumps(value, default=repr)
