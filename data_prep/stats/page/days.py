"""The section on how rows and labels change from day to day."""

from __future__ import annotations

from typing import Any

from data_prep.stats.correlation import wilson
from data_prep.stats.page.plots import over_days, rows_over_days
from data_prep.stats.page.tasks import RARE
from data_prep.stats.page.view import View, percent
from data_prep.stats.page.view import figure as number
from ple_rec.config.schema import Task
from ple_rec.reports.page import Panel
from ple_rec.text.units import short_count


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
