"""Suggestions for misspelt names in messages: `did you mean 'click'?`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from ple_rec.text.escapes import printable


def nearest_name(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the known name that is most similar to a word, ignoring case; None if none is similar enough.

    Args:
        word: Word that is not known.
        known: Known names.
        cutoff: Least similarity that counts, from 0 to 1, as `difflib` measures it.
    """
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), by_lower, 1, cutoff)
    return by_lower[close[0]] if close else None


def did_you_mean(word: str, known: Iterable[str], quote: str = "'", *, suffix: str = "", cutoff: float = 0.6) -> str:
    """Return the question `did you mean 'name'?`; empty if no known name is similar enough.

    Args:
        word: Word that is not known.
        known: Known names.
        quote: Quotation mark before and after the name.
        suffix: Text after the question, if there is one.
        cutoff: Least similarity that counts, from 0 to 1, as `difflib` measures it.
    """
    name = nearest_name(word, known, cutoff)
    return "" if name is None else f"did you mean {quote}{printable(name)}{quote}?{suffix}"
