"""The sections on where the rows came from, and which of them were left out."""

from __future__ import annotations

from typing import NamedTuple

from data_prep.stats.page.view import View, percent
from ple_rec.html.units import short_bytes

_MANY = 12  # files above which they are folded away


class Source(NamedTuple):
    """The raw files.

    Args:
        files: Path, table, rows and bytes of each.
        total: How many there are.
        rows: Rows of all files.
        size: Bytes of all files.
        folded: Whether they are folded away, since they are many.
    """

    files: list[tuple[object, object, str, str]]
    total: str
    rows: str
    size: str
    folded: bool


def dropped(view: View) -> list[tuple[str, str, str, str]]:
    """Return reason, split, number and share of the rows that were left out, the most first."""
    found = sorted((entry for entry in view.stats["dropped"] if entry["rows"]), key=lambda entry: -entry["rows"])
    kept = [view.stats["rows"].get(entry["split"]) for entry in found]
    return [
        (
            entry["reason"],
            entry["split"],
            f"{entry['rows']:,}",
            "" if rest is None else percent(entry["rows"] / (entry["rows"] + rest)),
        )
        for entry, rest in zip(found, kept, strict=True)
    ]


def source(view: View) -> Source | None:
    """Return the raw files; None where none were read."""
    found = view.stats["source"]
    if not found:
        return None
    rows, size = (sum(file.get(key) or 0 for file in found) for key in ("rows", "bytes"))
    return Source(
        [
            (file.get("file", ""), file.get("table", ""), _count(file.get("rows")), _size(file.get("bytes")))
            for file in found
        ],
        "1 file" if len(found) == 1 else f"{len(found)} files",
        f"{rows:,}",
        short_bytes(size),
        len(found) > _MANY,
    )


def _count(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else ""


def _size(value: object) -> str:
    return short_bytes(value) if isinstance(value, int) else ""
