"""The table of `ple-rec runs`, in the width of a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ple_rec.analysis.listing import ALWAYS, NOT_FINAL, Column, Listing, columns_of
from ple_rec.analysis.plain import fitted, some_of, wrapped
from ple_rec.text import cut, printable

_WORDS = ("variant", "status")  # columns that read from the left
_LONGEST = 24  # characters of a cell, but for the run's name
_GAP = 2  # characters between columns


class _Texts(NamedTuple):
    """A column with its texts, each made once, however many columns are then left out.

    Args:
        column: The column.
        task: The upper line of its heading, which stands above the first column of a task alone.
        below: The lower line, then a cell for each run.
    """

    column: Column
    task: str
    below: list[str]


def format_runs(listing: Listing, width: int) -> str:
    """A line for each run, aligned, and footnotes on what the table does not show.

    Args:
        listing: The runs.
        width: Characters that a line may have; columns that do not fit are left out, and named; then names are cut.

    Returns:
        Text without a trailing newline; one sentence where there are no runs.
    """
    lines, notes = [], []
    if listing.runs:
        columns = [_texts(listing, column, width) for column in columns_of(listing)]
        shown, left_out = _chosen(columns, width)
        lines = _table(listing, shown, width)
        if any(_unfinished(texts) for texts in shown):
            notes.append(f"{NOT_FINAL} last validation record of a run without final metrics on {listing.split}")
        if left_out:
            notes.append(f"left out, beyond {width} characters: {some_of(left_out, width)}; --json has all")
        names = (printable(listing.name(run)) for run in listing.runs)
        if not all(line.startswith(name) for line, name in zip(lines[2:], names, strict=True)):
            notes.append("names are cut to fit; --json has them whole")
    else:
        place = printable(str(listing.directory))
        text = printable(listing.text)
        notes.append(f'no run in {place} contains "{text}"' if text else f"no runs in {place}")
    if damaged := [f"{listing.name(run)}/{name}" for run in listing.runs for name in run.damaged]:
        notes.append(f"damaged, and left out: {some_of(damaged, width)}")
    if listing.unreadable:
        notes.append(f"not readable, and left out: {some_of(list(map(str, listing.unreadable)), width)}")
    return "\n".join([*lines, *(wrapped(note, width) for note in notes)])


def _texts(listing: Listing, column: Column, width: int) -> _Texts:
    most = width // 2 if column.key == "run" else _LONGEST
    task, heading = column.headings
    cells = [cut(printable(column.cell(run)), most) for run in listing.runs]
    if task and any(text.endswith(NOT_FINAL) for text in cells):  # digits stay below digits
        cells = [text if text.endswith(NOT_FINAL) else f"{text} " for text in cells]
    below = [heading, *cells]
    if column.key in _WORDS:
        below = [text.ljust(max(map(len, below))) for text in below]
    return _Texts(column, cut(printable(task), _LONGEST), below)


def _unfinished(texts: _Texts) -> bool:
    return bool(texts.task) and any(text.endswith(NOT_FINAL) for text in texts.below)


def _chosen(columns: Sequence[_Texts], width: int) -> tuple[list[_Texts], list[str]]:
    """The columns that fit, and the keys of the others, the most important first."""
    shown, left_out = list(columns), list[str]()
    below = {texts.column.key: max(map(len, texts.below)) for texts in columns}
    while True:
        widths = [max(below[texts.column.key], len(task)) for texts, task in zip(shown, _tasks(shown), strict=True)]
        last = max(shown, key=lambda texts: texts.column.rank)
        if sum(widths) + _GAP * (len(widths) - 1) <= width or last.column.rank == ALWAYS:
            return shown, left_out[::-1]
        shown.remove(last)
        left_out.append(last.column.key)


def _tasks(shown: Sequence[_Texts]) -> list[str]:
    """The upper line of the heading: a task's name stands above the first of its columns."""
    before = ["", *(texts.task for texts in shown)]
    return ["" if texts.task == above else texts.task for texts, above in zip(shown, before, strict=False)]


def _table(listing: Listing, shown: Sequence[_Texts], width: int) -> list[str]:
    """Two lines of heading, then one for each run."""
    rows = [_tasks(shown), *map(list, zip(*(texts.below for texts in shown), strict=True))]
    rows[0][0] = listing.split
    return [line.rstrip() for line in fitted(rows, width).split("\n")]
