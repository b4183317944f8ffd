"""The table of `ple-rec runs`, in the width of a terminal."""

from __future__ import annotations

from ple_rec.runs.listing import NEWEST, NOT_FINAL, Column, Listing, columns_of
from ple_rec.text import cut, printable
from ple_rec.text.plain import fitted, some_of, wrapped

_WORDS = ("run", "status", "variant")  # columns that read from the left
_LONGEST = 24  # characters of a cell, but for the run's name
_GAP = 2  # characters between columns


def format_runs(listing: Listing, width: int) -> str:
    """Return a line for each run, aligned, and footnotes on what the table does not show.

    Args:
        listing: Runs in their order.
        width: Characters that a line may have; columns that do not fit are left out, and named; then names are cut.

    Returns:
        Text without a trailing newline; one sentence where there are no runs.
    """
    lines, notes = list[str](), list[str]()
    if listing.runs:
        lines, left_out = _table(listing, width)
        if any(f" {NOT_FINAL}" in line for line in lines):
            notes.append(f"{NOT_FINAL} last validation record of a run without final metrics on {listing.split}")
        if left_out:
            notes.append(f"left out, beyond {width} characters: {some_of(left_out, width)}; --json has all")
    else:
        place, text = printable(str(listing.directory)), printable(listing.text)
        notes.append(f'no run in {place} contains "{text}"' if text else f"no runs in {place}")
    if damaged := [f"{listing.name(run)}/{name}" for run in listing.runs for name in run.damaged]:
        notes.append(f"damaged, and left out: {some_of(damaged, width)}")
    if listing.unreadable:
        notes.append(f"not readable, and left out: {some_of(list(map(str, listing.unreadable)), width)}")
    return "\n".join([*lines, *(wrapped(note, width) for note in notes)])


def _table(listing: Listing, width: int) -> tuple[list[str], list[str]]:
    """Return two lines of heading and one for each run, and the keys of the columns for which there is no room."""
    always = {"run", "status", listing.sort} - {NEWEST}
    shown: list[Column] = []
    texts: list[list[str]] = []
    left_out, used = [], -_GAP
    for column in columns_of(listing):
        # A task's name stands above the first of its columns alone.
        task = "" if shown and shown[-1].task == column.task else cut(printable(column.task), _LONGEST)
        most = width // 2 if column.key == "run" else _LONGEST
        cells = [task, column.heading, *(cut(printable(column.cell(run)), most) for run in listing.runs)]
        needed = _GAP + max(map(len, cells))
        if column.key in always or used + needed <= width:
            shown.append(column)
            texts.append(cells)
            used += needed
        else:
            left_out.append(column.key)
    texts[0][0] = listing.split
    left = [i for i, column in enumerate(shown) if column.key in _WORDS]
    return fitted(list(zip(*texts, strict=True)), width, left).split("\n"), left_out
