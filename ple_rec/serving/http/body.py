"""The JSON of a body: counted before it is parsed, so that no request holds the thread that reads for long.

What takes time is not the bytes, of which a long text has as many as a thousand small lists, but the values: each is an
object of Python. Every value but the first of an object or list stands behind a comma, and the first behind a bracket.
"""

from __future__ import annotations

import re

import orjson

from ple_rec.inference.request_error import shorten
from ple_rec.serving.http.errors import RefusedError

MAX_PIECES = 1 << 17  # commas and opening brackets: 2,000 items of 64 features have as many
_NUMBER = re.compile(r"[-+.0-9eE]{1,100}")


def parse(body: bytes) -> object:
    """Return the document.

    Raises:
        RefusedError: 413 where it has too many values, 400 where it is no JSON or has a number that no double holds.
    """
    pieces = sum(map(body.count, (b",", b"[", b"{")))
    if pieces > MAX_PIECES:
        rule = f"at most {MAX_PIECES:,}, within texts too; send fewer items at a time"
        raise RefusedError(413, "body", f"{pieces:,} commas and opening brackets", rule, reason="size")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        if "infinity" in error.msg and (number := _NUMBER.match(error.doc, error.pos)) is not None:
            rule = f"a number is at most 1.8e308 ({place}); an integer may stand as text"
            raise RefusedError(400, "body", shorten(number[0]), rule) from error
        raise RefusedError(400, "body", place, f"it is no JSON: {error.msg}") from error
