"""The head of the page: which dataset, and its sizes."""

from __future__ import annotations

from data_prep.stats.page.view import View
from ple_rec.reports.page import Fact, KeyFigure
from ple_rec.text.units import short_count


def facts(view: View) -> list[Fact]:
    """Return fingerprint and parent, as far as they are known."""
    schema = view.schema
    return [Fact(name, value) for name in ("fingerprint", "parent") if (value := getattr(schema, name))]


def key_figures(view: View) -> list[KeyFigure]:
    """Return rows of the splits, days, columns and tables."""
    stats, schema = view.stats, view.schema
    total = sum(stats["rows"].values())
    figures = [KeyFigure("Rows", short_count(total), f"{total:,}")]
    for split, rows in stats["rows"].items():
        share = f"{100 * rows / total:.1f} %" if total else ""
        days = [day["day"] for day in stats["days"] if day["rows"].get(split)]
        span = days[0] if days and days[0] == days[-1] else f"{days[0]} to {days[-1]}" if days else ""
        figures.append(KeyFigure(split.capitalize(), short_count(rows), ", ".join(filter(None, (share, span)))))
    bags = sum(feature.bag for feature in schema.sparse)
    allocated = sum(table.allocated for table in schema.tables)
    return [
        *figures,
        KeyFigure("Sparse columns", str(len(schema.sparse)), f"{bags} of them bags" if bags else ""),
        KeyFigure("Dense columns", str(len(schema.dense))),
        KeyFigure("Table rows", short_count(allocated), f"in {len(schema.tables)} tables"),
    ]
