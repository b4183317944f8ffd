"""Parts of the statistics page on the dataset as a whole: its head, origin, days, and drift between splits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data_prep.stats.correlation import wilson
from data_prep.stats.drift import LARGE, MODERATE, verdict
from data_prep.stats.page.columns import over_days, rows_over_days
from data_prep.stats.page.tasks import RARE
from data_prep.stats.page.view import View, percent
from data_prep.stats.page.view import figure as number
from ple_rec.config.schema import Task
from ple_rec.reports.cells import DASH, Scale
from ple_rec.reports.page import Fact, KeyFigure, Panel
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


def days(view: View) -> dict[str, Any] | None:
    """Return rows and labels by day; None where rows have no time."""
    found = view.stats["days"]
    if not found:
        return None
    names = [day["day"] for day in found]
    panels = [Panel("Rows", "", rows_over_days(names, [day["rows"] for day in found], _count, "Rows by day"))]
    panels += [_panel(task, names, [day["tasks"][task.name] for day in found]) for task in view.schema.tasks]
    means = [[_mean(task, day["tasks"][task.name]) for task in view.schema.tasks] for day in found]
    tasks = [task.name for task in view.schema.tasks]
    return {"panels": panels, "tasks": tasks, "rare": RARE, "days": list(zip(found, means, strict=True))}


def _panel(task: Task, names: list[str], each: list[dict[str, Any]]) -> Panel:
    binary = task.kind == "binary"
    intervals = [wilson(e["positives"], e["samples"]) if binary and e["samples"] else None for e in each]
    least = min(e["samples"] for e in each)
    note = f"{'rate' if binary else 'mean'}, {short_count(least)} samples a day or more"
    show = _percent if binary else _plain
    return Panel(task.name, note, over_days(names, [e["mean"] for e in each], intervals, show, task.name))


def _mean(task: Task, each: dict[str, Any]) -> tuple[int, str, int | None]:
    """Return samples, mean label, and the positives where they are few."""
    if task.kind != "binary":
        return each["samples"], number(each["mean"]), None
    return each["samples"], percent(each["mean"]), each["positives"] if each["positives"] < RARE else None


def _count(value: float) -> str:
    digits, _, unit = short_count(value).partition(" ")
    return f"{digits.rstrip('0').rstrip('.') if '.' in digits else digits} {unit}".strip()


def _percent(value: float) -> str:
    return f"{100 * value:.4g} %"


def _plain(value: float) -> str:
    return f"{value:.4g}"


_LISTED = 15  # columns before the fold


def drift(view: View) -> dict[str, Any]:
    """Return the columns by their population stability index, the largest first."""
    found: Mapping[str, Mapping[str, Any]] = view.stats["drift"]
    known = sorted((name for name in found if found[name]["psi"] is not None), key=lambda name: -found[name]["psi"])
    most = max([1.0, *(found[name]["psi"] for name in known)])
    scale = Scale(0.001, 1.2 * most, logarithmic=True)
    ticks = [(0.001, "0.001"), (0.01, "0.01"), (MODERATE, f"{MODERATE}"), (1.0, "1")]
    rows = [_row(name, found[name], scale) for name in known]
    return {
        "moderate": MODERATE,
        "large": LARGE,
        "groups": view.stats.get("groups"),
        "scale": scale,
        "ticks": ticks if most < 5 else [*ticks, (10.0, "10")],
        "rows": rows[:_LISTED],
        "more": rows[_LISTED:],
    }


def _row(name: str, found: Mapping[str, Any], scale: Scale) -> dict[str, Any]:
    psi, chance = found["psi"], found["chance"]
    word = verdict(psi, chance)
    ks = DASH if found.get("ks") is None else f"{found['ks']:.3f}"
    return {
        "name": name,
        "place": max(psi, scale.low),
        "psi": f"{psi:.4f}",
        "chance": f"{chance:.4f}",
        "verdict": word,
        "ks": ks if "ks" in found else "",
        "unknown": percent(found["oov"]) if "oov" in found else "",
    }
