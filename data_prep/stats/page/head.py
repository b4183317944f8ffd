"""The head of the page: which dataset, and its sizes."""

from __future__ import annotations

from data_prep.stats.page.view import View
from ple_rec.html.markup import text
from ple_rec.text.units import short_count


def header(view: View) -> str:
    """Name, fingerprint and parent."""
    schema = view.schema
    facts = [("fingerprint", schema.fingerprint), ("parent", schema.parent)]
    shown = "".join(
        f'<span>{name} <strong title="{text(value)}">{text(value[:12])}</strong></span>'
        for name, value in facts
        if value
    )
    eyebrow = '<p class="eyebrow">Dataset</p>'
    return f'<header>{eyebrow}<h1>{text(schema.name)}</h1><p class="facts">{shown}</p></header>\n'


def key_figures(view: View) -> str:
    """Rows of the splits, days, columns and tables."""
    stats, schema = view.stats, view.schema
    total = sum(stats["rows"].values())
    figures = [("Rows", short_count(total), f"{total:,}")]
    for split, rows in stats["rows"].items():
        share = f"{100 * rows / total:.1f} %" if total else ""
        days = [day["day"] for day in stats["days"] if day["rows"].get(split)]
        span = days[0] if days and days[0] == days[-1] else f"{days[0]} to {days[-1]}" if days else ""
        figures.append((split.capitalize(), short_count(rows), ", ".join(filter(None, (share, span)))))
    bags = sum(feature.bag for feature in schema.sparse)
    figures.append(("Sparse columns", str(len(schema.sparse)), f"{bags} of them bags" if bags else ""))
    figures.append(("Dense columns", str(len(schema.dense)), ""))
    allocated = sum(table.allocated for table in schema.tables)
    figures.append(("Table rows", short_count(allocated), f"in {len(schema.tables)} tables"))
    cells = "".join(
        f"<div><dt>{label}</dt><dd>{text(value)}<small>{text(note)}</small></dd></div>"
        for label, value, note in figures
    )
    return f'<dl class="figures">{cells}</dl>'
