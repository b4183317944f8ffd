"""Escapes for control characters, so that no terminal obeys what data and names of files hold."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return `text` with an escape for each control character, line end and turn of direction."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _escape(c) for c in text)


def printable_lines(text: str) -> str:
    """Return `printable` text that keeps its line ends."""
    return "\n".join(map(printable, text.split("\n")))


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
