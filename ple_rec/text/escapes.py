"""Escapes for control characters, so that no terminal executes them when it shows data or names of files."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return a text with an escape for each character that is not printable, line ends among them."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _escape(c) for c in text)


def printable_lines(text: str) -> str:
    """Return a text with an escape for each character that is not printable, except line ends."""
    return "\n".join(map(printable, text.split("\n")))


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
