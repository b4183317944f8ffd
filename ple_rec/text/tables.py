"""Tables as plain text for terminals and files: aligned columns, and names shortened to fit the line.

rich is not used for tables: on a narrow terminal, it would fold numbers within their cells or cut off their ends.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from ple_rec.text.escapes import printable

MIN_CUT_LENGTH = 12  # Characters that `cut_middle` keeps at least, however narrow the terminal.
_ELLIPSIS = "..."


def align_columns(rows: Sequence[Sequence[str]], left_columns: Collection[int] = (0,)) -> list[str]:
    """Return the lines of a table whose columns are two spaces apart.

    Args:
        rows: Cells of each row, the heading first; every row has the same number of cells.
        left_columns: Indices of the columns that are flush left; the others are flush right.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i in left_columns else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def fit_table(rows: Iterable[Sequence[str]], width: int, left_columns: Collection[int] = (0,)) -> str:
    """Return rows as a table. If a line exceeds `width`, the cells of the first column are shortened in the middle.

    Shortened cells keep at least 12 characters, so a line may still exceed a small `width`.

    Args:
        rows: Cells of each row, the heading among them; every row has the same number of cells.
        width: Characters of a line.
        left_columns: Indices of the columns that are flush left; the others are flush right.
    """
    safe = [[printable(cell) for cell in row] for row in rows]
    lines = align_columns(safe, left_columns)
    excess = max(map(len, lines)) - width
    if excess > 0:
        max_length = max(len(row[0]) for row in safe) - excess
        lines = align_columns([[cut_middle(row[0], max_length), *row[1:]] for row in safe], left_columns)
    return "\n".join(lines)


def cut_middle(text: str, max_length: int) -> str:
    """Return a text, with `...` for its middle if it exceeds `max_length` (or 12 if that is more): `rep...seed-0`."""
    max_length = max(max_length, MIN_CUT_LENGTH)
    if len(text) <= max_length:
        return text
    end = (max_length - len(_ELLIPSIS)) // 2
    return f"{text[: max_length - len(_ELLIPSIS) - end]}{_ELLIPSIS}{text[-end:]}"
