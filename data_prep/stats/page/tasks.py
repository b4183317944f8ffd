"""Sections of the statistics page on tasks: their labels, and the correlations of labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from data_prep.stats.correlation import ENOUGH, ENOUGH_OF_A_CLASS, comparable, wilson
from data_prep.stats.page.columns import Estimate, estimates
from data_prep.stats.page.view import View, cut, figure, percent, signed
from data_prep.stats.page.view import figure as number
from ple_rec.config.schema import Task
from ple_rec.reports.drawing import scale_over
from ple_rec.reports.page import Panel

RARE = 1000  # If there are fewer positives or negatives, a rate is shown with its interval.


def tasks(view: View) -> dict[str, Any]:
    """Return a row for each task and split, and warnings about sample spaces."""
    splits = view.splits()
    rows = [
        _row(view, task, split, place, last=place + 1 == len(splits))
        for task in view.schema.tasks
        for place, split in enumerate(splits)
    ]
    return {
        "rare": RARE,
        "odd": [odd for task in view.schema.tasks for odd in _space_warnings(view, task)],
        "rows": rows,
    }


def _row(view: View, task: Task, split: str, place: int, *, last: bool) -> dict[str, Any]:
    stats = view.stats["tasks"][task.name][split]
    space = "all rows" if task.space is None else f"where {view.space(task)}"
    positives, samples = stats.get("positives"), stats["samples"]
    notes = []
    if positives is not None and samples and min(positives, samples - positives) < RARE:
        low, high = wilson(positives, samples)
        notes.append(f"{percent(low)} to {percent(high)}")
    if stats.get("std") is not None:
        notes.append(f"sd {figure(stats['std'])}, at most {figure(stats['max'])}")
    return {
        "kind": " ".join(filter(None, ("minor" * (place > 0), "joined" * (not last)))),
        "name": task.name if place == 0 else "",
        "detail": f"{task.kind}, {space}" if place == 1 else "",
        "split": split,
        "samples": samples,
        "share": percent(samples / view.stats["rows"][split], digits=1),
        "positives": positives,
        "mean": figure(stats["mean"]) if positives is None else percent(stats["mean"]),
        "notes": notes,
        "outside": None if task.space is None else stats["outside"]["positives"],
    }


def _space_warnings(view: View, task: Task) -> list[dict[str, Any]]:
    """Return warnings about the space of a binary task: it leaves out positives, or has none in train."""
    if task.kind != "binary":
        return []
    splits = view.stats["tasks"][task.name]
    lost = sum(stats["outside"]["positives"] for stats in splits.values())
    every = lost + sum(stats.get("positives", 0) for stats in splits.values())
    out: list[dict[str, Any]] = []
    if lost:
        share = percent(lost / every)
        out.append({"task": task.name, "lost": lost, "positives": every, "share": share, "space": view.space(task)})
    if not splits["train"].get("positives"):
        out.append({"task": task.name, "lost": 0})
    return out


_MAX_DRAWN, _MAX_LISTED, _VALUES = 3, 12, 12  # Shifts that are drawn, shifts that are not folded, values of a drawing.

Entry = Mapping[str, Any]


def correlation(view: View) -> dict[str, Any] | None:
    """Return the matrices of the splits, and the shifts, the surest first; None for a single task."""
    tasks = [task.name for task in view.schema.tasks]
    if len(tasks) < 2:
        return None
    absolute = [abs(e["r"]) for split in view.splits() for e in view.stats["correlation"][split] if e["r"] is not None]
    full = _full(max(absolute, default=1.0))
    shifts_by_column = [(column, shift) for column in view.stats["slices"] for shift in column["shift"]]
    shifts_by_column.sort(key=lambda pair: (-pair[1]["interval"][0], pair[0]["column"], pair[1]["a"], pair[1]["b"]))
    why = "no column was sliced" if not view.stats["slices"] else "no two parts have enough samples"
    shifts = [_shift(view, column, shift) for column, shift in shifts_by_column]
    return {
        "full": f"{full:g}",
        "matrices": [(split, _matrix(view.stats["correlation"][split], tasks, full)) for split in view.splits()],
        "absent": "" if shifts_by_column else f"Not known: {why}.",
        "enough": ENOUGH,
        "enough_of_a_class": ENOUGH_OF_A_CLASS,
        "panels": [_drawing(view, column, shift) for column, shift in shifts_by_column[:_MAX_DRAWN]],
        "scale": scale_over([0.0, *(r for shift in shifts for r in shift["known"])], least=-1.0, greatest=1.0),
        "shifts": shifts[:_MAX_LISTED],
        "more": shifts[_MAX_LISTED:],
        "tasks": tasks,
        "parts": [_parts(view, column) for column in view.stats["slices"] if column["values"]],
    }


def _full(greatest: float) -> float:
    """Return the least of 1, 2, 5 times a power of ten that no |r| exceeds."""
    power = 10.0 ** math.floor(math.log10(greatest)) if greatest else 1.0
    return min(1.0, next(step * power for step in (1, 2, 5, 10) if step * power >= greatest * (1 - 1e-9)))


def _matrix(entries: Sequence[Entry], tasks: Sequence[str], full: float) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return a row for each task but the first, which ends before the task itself."""
    pairs = {(entry["a"], entry["b"]): entry for entry in entries}
    return [(b, [_cell(pairs[a, b], full) for a in tasks[:row]]) for row, b in enumerate(tasks[1:], start=1)]


def _cell(entry: Entry, full: float) -> dict[str, Any]:
    r = entry["r"]
    title = f"{entry['a']} and {entry['b']}: {entry['samples']:,} samples, {entry['fewest']:,} of the rarest class"
    share = "" if r is None else f"{100 * min(abs(r) / full, 1.0):.1f}"
    return {"title": title, "text": signed(r), "share": share, "negative": r is not None and r < 0}


def _entries(column: Entry, shift: Entry) -> list[Entry]:
    return [next(e for e in v["correlation"] if (e["a"], e["b"]) == (shift["a"], shift["b"])) for v in column["values"]]


def _whole(view: View, shift: Entry) -> float | None:
    entries = view.stats["correlation"]["train"]
    r: float | None = next(e["r"] for e in entries if (e["a"], e["b"]) == (shift["a"], shift["b"]))
    return r


def _drawing(view: View, column: Entry, shift: Entry) -> Panel:
    parts = [
        Estimate(view.value(column["column"], value["value"]), entry["r"], entry["samples"])
        for value, entry in zip(column["values"], _entries(column, shift), strict=True)
        if comparable(entry)
    ]
    chosen = sorted(parts, key=lambda e: e.r)
    if len(chosen) > _VALUES:
        chosen = [*chosen[: _VALUES // 2], *chosen[-_VALUES // 2 :]]
    caption = f"{shift['a']} and {shift['b']} by {column['column']}"
    note = f"shift {shift['shift']:.3f}" + (f", {_VALUES} of {len(parts)} values" if len(parts) > _VALUES else "")
    return Panel(caption, note, estimates(chosen, _whole(view, shift), caption))


def _shift(view: View, column: Entry, shift: Entry) -> dict[str, Any]:
    entries = _entries(column, shift)
    values = [entry["r"] for entry in entries if comparable(entry)]
    ends = {value["value"]: entry["r"] for value, entry in zip(column["values"], entries, strict=True)}
    a, b = shift["interval"]
    return {
        "tasks": f"{shift['a']} and {shift['b']}",
        "column": column["column"],
        "known": values,
        "whole": _whole(view, shift),
        "words": f"{len(values)} values from {min(values):.3f} to {max(values):.3f}",
        "shift": f"{shift['shift']:.3f}",
        "interval": f"{signed(a)} to {signed(b)}",
        "ends": [
            (cut(view.value(column["column"], shift[end]), 24), signed(ends[shift[end]])) for end in ("low", "high")
        ],
    }


def _parts(view: View, column: Entry) -> dict[str, Any]:
    """Return the rows, the mean labels and the correlations of every value of a column."""
    kinds = {task.name: task.kind for task in view.schema.tasks}
    rows = []
    for value in column["values"]:
        means = value["means"]
        rows.append(
            (
                cut(view.value(column["column"], value["value"]), 32),
                value["samples"],
                [percent(means[task]) if kind == "binary" else number(means[task]) for task, kind in kinds.items()],
                [(signed(entry["r"]), not comparable(entry)) for entry in value["correlation"]],
            )
        )
    pairs = [(entry["a"], entry["b"]) for entry in column["values"][0]["correlation"]]
    return {"column": column["column"], "pairs": pairs, "rows": rows}
