"""Sections of the statistics page on the dataset as a whole: key figures, days, drift, rows left out, raw files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data_prep.stats.correlation import wilson
from data_prep.stats.drift import LARGE, MODERATE, verdict
from data_prep.stats.page.columns import draw_over_days, draw_rows_over_days
from data_prep.stats.page.tasks import RARE
from data_prep.stats.page.view import View, figure, percent
from ple_rec.config.schema import Task
from ple_rec.reports.cells import DASH
from ple_rec.reports.drawing import Scale
from ple_rec.reports.page import Fact, KeyFigure, Panel
from ple_rec.text.units import short_count


def facts(view: View) -> list[Fact]:
    """Return the fingerprints of the dataset and of its parent, if they are known."""
    schema = view.schema
    return [Fact(name, value) for name in ("fingerprint", "parent") if (value := getattr(schema, name))]


def key_figures(view: View) -> list[KeyFigure]:
    """Return the key figures: rows and days of the splits, and numbers of columns and table rows."""
    stats, schema = view.stats, view.schema
    total = sum(stats["rows"].values())
    figures = [KeyFigure("Rows", short_count(total), f"{total:,}")]
    for split, rows in stats["rows"].items():
        share = f"{100 * rows / total:.1f} %" if total else ""
        days = [day["day"] for day in stats["days"] if day["rows"].get(split)]
        span = days[0] if days and days[0] == days[-1] else f"{days[0]} to {days[-1]}" if days else ""
        figures.append(KeyFigure(split.capitalize(), short_count(rows), ", ".join(filter(None, (share, span)))))
    bags = sum(feature.bag for feature in schema.sparse)
    allocated = sum(table.allocated_rows for table in schema.tables)
    return [
        *figures,
        KeyFigure("Sparse columns", str(len(schema.sparse)), f"{bags} of them bags" if bags else ""),
        KeyFigure("Dense columns", str(len(schema.dense))),
        *([KeyFigure("Vectors", str(len(schema.vectors)))] if schema.vectors else []),
        *([KeyFigure("Histories", str(len(schema.histories)))] if schema.histories else []),
        KeyFigure("Table rows", short_count(allocated), f"in {len(schema.tables)} tables"),
    ]


_MAX_UNFOLDED = 12  # With more files, the page hides their list until a click.


def dropped(view: View) -> list[tuple[str, str, str, str]]:
    """Return reason, split, number and share (of the split, if any) of the rows left out, the largest number first."""
    entries = sorted((entry for entry in view.stats["dropped"] if entry["rows"]), key=lambda entry: -entry["rows"])
    remaining = [view.stats["rows"].get(entry["split"]) for entry in entries]
    return [
        (
            entry["reason"],
            entry["split"],
            f"{entry['rows']:,}",
            "" if rest is None else percent(entry["rows"] / (entry["rows"] + rest)),
        )
        for entry, rest in zip(entries, remaining, strict=True)
    ]


def source(view: View) -> dict[str, Any] | None:
    """Return the values of the section on raw files; None if no raw files were read."""
    files = view.stats["source"]
    if not files:
        return None
    return {
        "files": files,
        "total": "1 file" if len(files) == 1 else f"{len(files)} files",
        "rows": sum(file.get("rows") or 0 for file in files),
        "bytes": sum(file.get("bytes") or 0 for file in files),
        "folded": len(files) > _MAX_UNFOLDED,
    }


def days(view: View) -> dict[str, Any] | None:
    """Return the values of the section on days; None if the rows have no time."""
    stats_of_days = view.stats["days"]
    if not stats_of_days:
        return None
    names = [day["day"] for day in stats_of_days]
    panels = [
        Panel(
            "Rows", "", draw_rows_over_days(names, [day["rows"] for day in stats_of_days], _format_count, "Rows by day")
        )
    ]
    panels += [_panel(task, names, [day["tasks"][task.name] for day in stats_of_days]) for task in view.schema.tasks]
    means = [[_day_figures(task, day["tasks"][task.name]) for task in view.schema.tasks] for day in stats_of_days]
    tasks = [task.name for task in view.schema.tasks]
    return {"panels": panels, "tasks": tasks, "rare": RARE, "days": list(zip(stats_of_days, means, strict=True))}


def _panel(task: Task, days: list[str], stats_by_day: list[dict[str, Any]]) -> Panel:
    """Draw the rate or the mean label of a task over days."""
    binary = task.kind == "binary"
    intervals = [wilson(e["positives"], e["samples"]) if binary and e["samples"] else None for e in stats_by_day]
    least = min(e["samples"] for e in stats_by_day)
    note = f"{'rate' if binary else 'mean'}, {short_count(least)} samples a day or more"
    show = _format_percent if binary else _format_plain
    return Panel(task.name, note, draw_over_days(days, [e["mean"] for e in stats_by_day], intervals, show, task.name))


def _day_figures(task: Task, stats: dict[str, Any]) -> tuple[int, str, int | None]:
    """Return the number of samples, the mean label, and the number of positives if they are few, else None."""
    if task.kind != "binary":
        return stats["samples"], figure(stats["mean"]), None
    return stats["samples"], percent(stats["mean"]), stats["positives"] if stats["positives"] < RARE else None


def _format_count(value: float) -> str:
    digits, _, unit = short_count(value).partition(" ")
    return f"{digits.rstrip('0').rstrip('.') if '.' in digits else digits} {unit}".strip()


def _format_percent(value: float) -> str:
    return f"{100 * value:.4g} %"


def _format_plain(value: float) -> str:
    return f"{value:.4g}"


_MAX_LISTED = 15  # Columns that the section on drift shows; it hides the others until a click.


def drift(view: View) -> dict[str, Any]:
    """Return the values of the section on drift: the columns by their population stability index, the largest first.

    Columns whose index is unknown are left out.
    """
    drifts: Mapping[str, Mapping[str, Any]] = view.stats["drift"]
    known = sorted((name for name in drifts if drifts[name]["psi"] is not None), key=lambda name: -drifts[name]["psi"])
    most = max([1.0, *(drifts[name]["psi"] for name in known)])
    scale = Scale(0.001, 1.2 * most, logarithmic=True)
    ticks = [(0.001, "0.001"), (0.01, "0.01"), (MODERATE, f"{MODERATE}"), (1.0, "1")]
    rows = [_row(name, drifts[name], scale) for name in known]
    return {
        "moderate": MODERATE,
        "large": LARGE,
        "groups": view.stats.get("groups"),
        "scale": scale,
        "ticks": ticks if most < 5 else [*ticks, (10.0, "10")],
        "rows": rows[:_MAX_LISTED],
        "hidden_rows": rows[_MAX_LISTED:],
    }


def _row(name: str, entry: Mapping[str, Any], scale: Scale) -> dict[str, Any]:
    psi, chance = entry["psi"], entry["chance"]
    drift_verdict = verdict(psi, chance)
    ks = DASH if entry.get("ks") is None else f"{entry['ks']:.3f}"
    return {
        "name": name,
        "shown_psi": max(psi, scale.low),
        "psi": f"{psi:.4f}",
        "chance": f"{chance:.4f}",
        "verdict": drift_verdict,
        "ks": ks if "ks" in entry else "",
        "unknown": percent(entry["oov"]) if "oov" in entry else "",
    }
