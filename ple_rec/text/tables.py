"""Tables as plain text: cells in columns, and names cut to what fits.

They are plain on terminals too: rich draws the same table with a rule under its heading where there is room, and folds
numbers within their cells, or cuts their ends, where there is not.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ple_rec.text.escapes import printable

SHORTEST = 12  # characters that a name keeps, however narrow the terminal
_CUT = "..."


def aligned(lines: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> list[str]:
    """Return lines with printable cells in columns, two spaces apart.

    Args:
        lines: Cells of each line, as many in every line; heading and rows alike.
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


def cut(text: str, most: int) -> str:
    """Return `text` in at most `most` (and at least 12) characters, its middle left out: `repeat/ce...seed-0`."""
    most = max(most, SHORTEST)
    if len(text) <= most:
        return text
    end = (most - len(_CUT)) // 2
    return f"{text[: most - len(_CUT) - end]}{_CUT}{text[-end:]}"
