"""Tables as plain text: cells in columns, and names cut to what fits."""

from __future__ import annotations

from collections.abc import Collection, Sequence

SHORTEST = 12  # characters that a name keeps, however narrow the terminal
_CUT = "..."


def aligned(lines: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> list[str]:
    """Return lines with cells in columns, two spaces apart: those of `left` flush left, the others flush right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def cut(text: str, most: int) -> str:
    """Return `text` in at most `most` (and at least 12) characters, its middle left out: `repeat/ce...seed-0`."""
    most = max(most, SHORTEST)
    if len(text) <= most:
        return text
    end = (most - len(_CUT)) // 2
    return f"{text[: most - len(_CUT) - end]}{_CUT}{text[-end:]}"
