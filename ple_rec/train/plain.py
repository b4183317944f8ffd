"""Text from data and from file names, made safe for a terminal."""

from __future__ import annotations

SHORTEST = 12  # characters that a name keeps, however narrow the terminal
_CUT = "..."


def printable(text: str) -> str:
    """`text` with an escape in the place of what is not printed: control characters, line ends, turns of direction."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def cut(text: str, most: int) -> str:
    """`text` in at most `most` (and at least 12) characters, by leaving out its middle: `repeat/ce...seed-0`."""
    most = max(most, SHORTEST)
    if len(text) <= most:
        return text
    end = (most - len(_CUT)) // 2
    return f"{text[: most - len(_CUT) - end]}{_CUT}{text[-end:]}"
