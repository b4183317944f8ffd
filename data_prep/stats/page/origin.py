"""The sections on where the rows came from, and which of them were left out."""

from __future__ import annotations

from data_prep.stats.page.view import View, percent
from ple_rec.html.markup import absent, table, text
from ple_rec.text.units import short_bytes

_MANY = 12  # files above which they are folded away


def dropped(view: View) -> str:
    """Rows that were left out, by reason."""
    found = [entry for entry in view.stats["dropped"] if entry["rows"]]
    if not found:
        return absent("None.")
    head = [
        '<th class="text" scope="col">reason</th><th class="text" scope="col">split</th><th scope="col">rows</th>'
        '<th scope="col">of the split</th>'
    ]
    body = []
    for entry in sorted(found, key=lambda entry: -entry["rows"]):
        kept = view.stats["rows"].get(entry["split"])
        share = "" if kept is None else percent(entry["rows"] / (entry["rows"] + kept))
        body.append(
            f'<tr><th class="text wrap" scope="row">{text(entry["reason"])}</th>'
            f'<td class="text">{text(entry["split"])}</td>'
            f"<td>{entry['rows']:,}</td><td>{share}</td></tr>"
        )
    return table(head, body)


def source(view: View) -> str:
    """The raw files."""
    found = view.stats["source"]
    if not found:
        return ""
    head = [
        '<th class="text" scope="col">file</th><th class="text" scope="col">table</th><th scope="col">rows</th>'
        '<th scope="col">size</th>'
    ]
    body = [
        f'<tr><th class="text wrap" scope="row">{text(file.get("file", ""))}</th>'
        f'<td class="text">{text(file.get("table", ""))}</td>'
        f"<td>{_count(file.get('rows'))}</td><td>{_size(file.get('bytes'))}</td></tr>"
        for file in found
    ]
    rows, size = (sum(file.get(key) or 0 for file in found) for key in ("rows", "bytes"))
    count = "1 file" if len(found) == 1 else f"{len(found)} files"
    foot = f'<tr><th class="text" scope="row">{count}</th><td></td><td>{rows:,}</td><td>{short_bytes(size)}</td></tr>'
    content = table(head, body, foot if len(found) > 1 else "")
    if len(found) <= _MANY:
        return content
    return f"<details><summary>{count}, {rows:,} rows, {short_bytes(size)}</summary>{content}</details>"


def _count(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else ""


def _size(value: object) -> str:
    return short_bytes(value) if isinstance(value, int) else ""
