"""Sections of the statistics page on tasks: their labels, and the correlations of labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from data_prep.stats.correlation import MIN_CLASS_SAMPLES, MIN_SAMPLES, has_enough_samples, wilson
from data_prep.stats.page.columns import Estimate, draw_estimates
from data_prep.stats.page.view import View, figure, percent, shorten, signed
from ple_rec.config.schema import Task
from ple_rec.reports.drawing import linear_scale
from ple_rec.reports.page import Panel

RARE = 1000  # If there are fewer positives or negatives, a rate is shown with its interval.


def tasks(view: View) -> dict[str, Any]:
    """Return the values of the section on tasks: a row for each task and split, and warnings about sample spaces."""
    splits = view.splits()
    rows = [
        _row(view, task, split, index, is_last=index + 1 == len(splits))
        for task in view.schema.tasks
        for index, split in enumerate(splits)
    ]
    return {
        "rare": RARE,
        "warnings": [warning for task in view.schema.tasks for warning in _space_warnings(view, task)],
        "rows": rows,
    }


def _row(view: View, task: Task, split: str, index: int, *, is_last: bool) -> dict[str, Any]:
    """Return the row of a task and a split, which has the given index (from 0) among the rows of the task."""
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
        # The name of a task is in its first row, the detail below it in the second row, or in the only one.
        "css_class": " ".join(filter(None, ("minor" * (index > 0), "joined" * (not is_last)))),
        "name": task.name if index == 0 else "",
        "detail": f"{task.kind}, {space}" if index == 1 or (index == 0 and is_last) else "",
        "split": split,
        "samples": samples,
        "share": percent(samples / view.stats["rows"][split], digits=1),
        "positives": positives,
        "mean": figure(stats["mean"]) if positives is None else percent(stats["mean"]),
        "notes": notes,
        "outside": None if task.space is None else stats["outside"]["positives"],
    }


def _space_warnings(view: View, task: Task) -> list[dict[str, Any]]:
    """Return warnings about the sample space of a binary task: positives lie outside of it, or train has none in it."""
    if task.kind != "binary":
        return []
    splits = view.stats["tasks"][task.name]
    outside = sum(stats["outside"]["positives"] for stats in splits.values())
    positives = outside + sum(stats.get("positives", 0) for stats in splits.values())
    out: list[dict[str, Any]] = []
    if outside:
        share = percent(outside / positives)
        out.append(
            {
                "task": task.name,
                "outside": outside,
                "positives": positives,
                "share": share,
                "space": view.space(task),
            }
        )
    if not splits["train"].get("positives"):
        out.append({"task": task.name, "outside": 0})  # The template knows this warning by the 0.
    return out


# A shift is the greatest less the least correlation of two tasks over the values of a column. These numbers limit the
# shifts that are drawn, the shifts that are listed without a click, and the values in a drawing.
_MAX_DRAWN, _MAX_LISTED, _MAX_DRAWN_VALUES = 3, 12, 12

# An entry of `stats.json` (see `data_prep.stats`): of `correlation` (two tasks), of `slices` (a column and its values),
# or of `shift` of a column.
Entry = Mapping[str, Any]


def correlation(view: View) -> dict[str, Any] | None:
    """Return the values of the section on correlations; None for a single task.

    They are a matrix for each split, and the shifts of the correlations over the values of each column, in descending
    order of the lower end of their intervals.
    """
    tasks = [task.name for task in view.schema.tasks]
    if len(tasks) < 2:
        return None
    absolute = [abs(e["r"]) for split in view.splits() for e in view.stats["correlation"][split] if e["r"] is not None]
    scale_end = _scale_end(max(absolute, default=1.0))
    column_shifts = [(column, shift) for column in view.stats["slices"] for shift in column["shift"]]
    column_shifts.sort(key=lambda pair: (-pair[1]["interval"][0], pair[0]["column"], pair[1]["a"], pair[1]["b"]))
    reason = (
        "no column slices the rows" if not view.stats["slices"] else "no two values of a column have enough samples"
    )
    shifts = [_shift_row(view, column, shift) for column, shift in column_shifts]
    return {
        "scale_end": f"{scale_end:g}",
        "matrices": [(split, _matrix(view.stats["correlation"][split], tasks, scale_end)) for split in view.splits()],
        "reason_for_no_shifts": "" if column_shifts else f"Not known: {reason}.",
        "min_samples": MIN_SAMPLES,
        "min_class_samples": MIN_CLASS_SAMPLES,
        "panels": [_draw_shift(view, column, shift) for column, shift in column_shifts[:_MAX_DRAWN]],
        "scale": linear_scale([0.0, *(r for shift in shifts for r in shift["correlations"])], least=-1.0, greatest=1.0),
        "shifts": shifts[:_MAX_LISTED],
        "hidden_shifts": shifts[_MAX_LISTED:],
        "tasks": tasks,
        "slices": [_slice_table(view, column) for column in view.stats["slices"] if column["values"]],
    }


def _scale_end(greatest: float) -> float:
    """Return the end of the scale of |r|: the least 1, 2 or 5 times a power of ten that no |r| exceeds, at most 1."""
    power = 10.0 ** math.floor(math.log10(greatest)) if greatest else 1.0
    return min(1.0, next(step * power for step in (1, 2, 5, 10) if step * power >= greatest * (1 - 1e-9)))


def _matrix(entries: Sequence[Entry], tasks: Sequence[str], scale_end: float) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return the lower triangle of the matrix: a row for each task but the first, with a cell per task before it."""
    pairs = {(entry["a"], entry["b"]): entry for entry in entries}
    return [(b, [_cell(pairs[a, b], scale_end) for a in tasks[:row]]) for row, b in enumerate(tasks[1:], start=1)]


def _cell(entry: Entry, scale_end: float) -> dict[str, Any]:
    """Return a cell of the matrix; `share` is |r| in percent of the scale, by which the cell is shaded."""
    r = entry["r"]
    title = f"{entry['a']} and {entry['b']}: {entry['samples']:,} samples, {entry['fewest']:,} of the rarest class"
    share = "" if r is None else f"{100 * min(abs(r) / scale_end, 1.0):.1f}"
    return {"title": title, "text": signed(r), "share": share, "negative": r is not None and r < 0}


def _task_pair_entries(column: Entry, shift: Entry) -> list[Entry]:
    """Return the correlation of the two tasks of a shift for each value of the column."""
    return [next(e for e in v["correlation"] if (e["a"], e["b"]) == (shift["a"], shift["b"])) for v in column["values"]]


def _overall_r(view: View, shift: Entry) -> float | None:
    """Return the correlation of the two tasks of a shift over all of train."""
    entries = view.stats["correlation"]["train"]
    r: float | None = next(e["r"] for e in entries if (e["a"], e["b"]) == (shift["a"], shift["b"]))
    return r


def _draw_shift(view: View, column: Entry, shift: Entry) -> Panel:
    """Draw the correlation of the tasks of a shift for each value of a column.

    If there are more than `_MAX_DRAWN_VALUES` values, half of the drawn ones have the lowest correlations, and half the
    highest.
    """
    estimates = [
        Estimate(view.value(column["column"], value["value"]), entry["r"], entry["samples"])
        for value, entry in zip(column["values"], _task_pair_entries(column, shift), strict=True)
        if has_enough_samples(entry)
    ]
    chosen = sorted(estimates, key=lambda e: e.r)
    if len(chosen) > _MAX_DRAWN_VALUES:
        chosen = [*chosen[: _MAX_DRAWN_VALUES // 2], *chosen[-_MAX_DRAWN_VALUES // 2 :]]
    caption = f"{shift['a']} and {shift['b']} by {column['column']}"
    note = f"shift {shift['shift']:.3f}" + (
        f", {_MAX_DRAWN_VALUES} of {len(estimates)} values" if len(estimates) > _MAX_DRAWN_VALUES else ""
    )
    return Panel(caption, note, draw_estimates(chosen, _overall_r(view, shift), caption))


def _shift_row(view: View, column: Entry, shift: Entry) -> dict[str, Any]:
    entries = _task_pair_entries(column, shift)
    values = [entry["r"] for entry in entries if has_enough_samples(entry)]
    r_by_value = {value["value"]: entry["r"] for value, entry in zip(column["values"], entries, strict=True)}
    interval_low, interval_high = shift["interval"]
    return {
        "tasks": f"{shift['a']} and {shift['b']}",
        "column": column["column"],
        "correlations": values,
        "overall": _overall_r(view, shift),
        "description": f"{len(values)} values from {min(values):.3f} to {max(values):.3f}",
        "shift": f"{shift['shift']:.3f}",
        "interval": f"{signed(interval_low)} to {signed(interval_high)}",
        "ends": [
            (shorten(view.value(column["column"], shift[end]), 24), signed(r_by_value[shift[end]]))
            for end in ("low", "high")
        ],
    }


def _slice_table(view: View, column: Entry) -> dict[str, Any]:
    """Return a table of the values of a column: their numbers of rows, mean labels and correlations.

    A correlation is a pair of its text and whether it has too few samples.
    """
    kinds = {task.name: task.kind for task in view.schema.tasks}
    rows = []
    for value in column["values"]:
        means = value["means"]
        rows.append(
            (
                shorten(view.value(column["column"], value["value"]), 32),
                value["samples"],
                [percent(means[task]) if kind == "binary" else figure(means[task]) for task, kind in kinds.items()],
                [(signed(entry["r"]), not has_enough_samples(entry)) for entry in value["correlation"]],
            )
        )
    pairs = [(entry["a"], entry["b"]) for entry in column["values"][0]["correlation"]]
    return {"column": column["column"], "pairs": pairs, "rows": rows}
