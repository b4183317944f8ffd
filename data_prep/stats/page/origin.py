"""The sections on where the rows came from, and which of them were left out."""

from __future__ import annotations

from typing import Any

from data_prep.stats.page.view import View, percent

_MANY = 12  # files above which they are folded away


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


def source(view: View) -> dict[str, Any] | None:
    """Return the raw files with a total; None where none were read."""
    found = view.stats["source"]
    if not found:
        return None
    return {
        "files": found,
        "total": "1 file" if len(found) == 1 else f"{len(found)} files",
        "rows": sum(file.get("rows") or 0 for file in found),
        "bytes": sum(file.get("bytes") or 0 for file in found),
        "folded": len(found) > _MANY,
    }
