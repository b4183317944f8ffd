"""Tables as plain text: cells in columns, and names cut to fit.

Terminals get plain text too. On a narrow terminal, rich would fold numbers within their cells or cut their ends.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from ple_rec.text.escapes import printable

SHORTEST = 12  # Characters that a name keeps, however narrow the terminal.
_CUT = "..."


def aligned(lines: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> list[str]:
    """Return the lines of a table whose columns are two spaces apart.

    Args:
        lines: Cells of the heading and of each row, as many in every line.
        left: Columns that are flush left; the others are flush right.
    """
    lines = [[printable(cell) for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def fitted(rows: Iterable[Sequence[str]], width: int, left: Collection[int] = (0,)) -> str:
    """Return rows as a table of at most `width` characters a line, if cutting the first cells can achieve that.

    Args:
        rows: Cells of each row, as many in every row.
        width: Characters of a line.
        left: Columns that are flush left; the others are flush right.
    """
    safe = [[printable(cell) for cell in row] for row in rows]
    lines = aligned(safe, left)
    excess = max(map(len, lines)) - width
    if excess > 0:
        most = max(len(row[0]) for row in safe) - excess
        lines = aligned([[cut(row[0], most), *row[1:]] for row in safe], left)
    return "\n".join(lines)


def cut(text: str, most: int) -> str:
    """Return a text without its middle, in at most `most` characters, or 12 if that is more: `repeat/ce...seed-0`."""
    most = max(most, SHORTEST)
    if len(text) <= most:
        return text
    end = (most - len(_CUT)) // 2
    return f"{text[: most - len(_CUT) - end]}{_CUT}{text[-end:]}"
