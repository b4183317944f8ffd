"""The section on how the labels of the tasks go together, and how that shifts between sub-populations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from data_prep.stats.correlation import ENOUGH, ENOUGH_OF_A_CLASS, comparable
from data_prep.stats.page.plots import Estimate, estimates
from data_prep.stats.page.view import View, cut, percent, signed
from data_prep.stats.page.view import figure as number
from ple_rec.reports.numbers import DASH
from ple_rec.reports.page import Panel
from ple_rec.reports.strips import Scale, scale_over

_DRAWN, _LISTED, _VALUES = 3, 12, 12  # shifts that are drawn, and listed before the fold; values of a drawing

Entry = Mapping[str, Any]


class Cell(NamedTuple):
    """A correlation in a matrix; its share of the full colour in percent, empty where it is not known."""

    title: str
    text: str
    share: str
    negative: bool


class Matrix(NamedTuple):
    """The correlations of a split: a row for each task but the first, which ends before the task itself."""

    split: str
    heads: Sequence[str]
    rows: list[tuple[str, list[Cell]]]


class Shift(NamedTuple):
    """How the correlation of two tasks moves between the values of a column.

    Args:
        tasks: The two.
        column: Column of the values.
        values: Correlation at each of them.
        whole: Correlation on all of train.
        words: Number and range of the values.
        shift: Greatest less least correlation.
        interval: Ends of the interval of the shift.
        least: Value of the least correlation, and this.
        greatest: Value of the greatest correlation, and this.
    """

    tasks: str
    column: str
    values: list[float]
    whole: float | None
    words: str
    shift: str
    interval: str
    least: tuple[str, str]
    greatest: tuple[str, str]


class Fold(NamedTuple):
    """Every value of a column: its rows, the mean labels, and the correlations, of which some rest on too few rows."""

    column: str
    pairs: list[tuple[str, str]]
    rows: list[tuple[str, str, list[str], list[tuple[str, bool]]]]


class Correlations(NamedTuple):
    """Matrices of the splits, then the shifts, the surest first.

    Args:
        full: The correlation of full colour.
        matrices: One for each split.
        absent: Why no shift is known.
        enough: Samples from which a correlation is compared.
        enough_of_a_class: Samples of each class from which it is.
        panels: The surest shifts, drawn.
        scale: Axis of the correlations of all shifts.
        shifts: Shifts before the fold.
        more: Shifts in it.
        tasks: Names of all tasks.
        folds: Every part in figures, by column.
    """

    full: str
    matrices: list[Matrix]
    absent: str
    enough: int
    enough_of_a_class: int
    panels: list[Panel]
    scale: Scale
    shifts: list[Shift]
    more: list[Shift]
    tasks: list[str]
    folds: list[Fold]


def correlation(view: View) -> Correlations | None:
    """Return the correlations of the labels; None of a single task."""
    tasks = [task.name for task in view.schema.tasks]
    if len(tasks) < 2:
        return None
    known = [abs(e["r"]) for split in view.splits() for e in view.stats["correlation"][split] if e["r"] is not None]
    full = _full(max(known, default=1.0))
    found = [(column, shift) for column in view.stats["slices"] for shift in column["shift"]]
    found.sort(key=lambda pair: (-pair[1]["interval"][0], pair[0]["column"], pair[1]["a"], pair[1]["b"]))
    why = "no column was sliced" if not view.stats["slices"] else "no two parts have enough samples"
    shifts = [_shift(view, column, shift) for column, shift in found]
    return Correlations(
        full=f"{full:g}",
        matrices=[_matrix(split, view.stats["correlation"][split], tasks, full) for split in view.splits()],
        absent="" if found else f"Not known: {why}.",
        enough=ENOUGH,
        enough_of_a_class=ENOUGH_OF_A_CLASS,
        panels=[_drawing(view, column, shift) for column, shift in found[:_DRAWN]],
        scale=scale_over([0.0, *(r for shift in shifts for r in shift.values)], least=-1.0, greatest=1.0),
        shifts=shifts[:_LISTED],
        more=shifts[_LISTED:],
        tasks=tasks,
        folds=[_fold(view, column) for column in view.stats["slices"] if column["values"]],
    )


def _full(greatest: float) -> float:
    """Return the least of 1, 2, 5 times a power of ten that no |r| exceeds."""
    power = 10.0 ** math.floor(math.log10(greatest)) if greatest else 1.0
    return min(1.0, next(step * power for step in (1, 2, 5, 10) if step * power >= greatest * (1 - 1e-9)))


def _matrix(split: str, found: Sequence[Entry], tasks: Sequence[str], full: float) -> Matrix:
    pairs = {(entry["a"], entry["b"]): entry for entry in found}
    rows = [(b, [_cell(pairs[a, b], full) for a in tasks[:row]]) for row, b in enumerate(tasks[1:], start=1)]
    return Matrix(split, tasks[:-1], rows)


def _cell(entry: Entry, full: float) -> Cell:
    r = entry["r"]
    title = f"{entry['a']} and {entry['b']}: {entry['samples']:,} samples, {entry['fewest']:,} of the rarest class"
    if r is None:
        return Cell(title, DASH, "", negative=False)
    return Cell(title, signed(r), f"{100 * min(abs(r) / full, 1.0):.1f}", r < 0)


def _entries(column: Entry, shift: Entry) -> list[Entry]:
    return [next(e for e in v["correlation"] if (e["a"], e["b"]) == (shift["a"], shift["b"])) for v in column["values"]]


def _whole(view: View, shift: Entry) -> float | None:
    found = view.stats["correlation"]["train"]
    r: float | None = next(e["r"] for e in found if (e["a"], e["b"]) == (shift["a"], shift["b"]))
    return r


def _drawing(view: View, column: Entry, shift: Entry) -> Panel:
    kept = [
        Estimate(view.value(column["column"], value["value"]), entry["r"], entry["samples"])
        for value, entry in zip(column["values"], _entries(column, shift), strict=True)
        if comparable(entry)
    ]
    chosen = sorted(kept, key=lambda e: e.r)
    if len(chosen) > _VALUES:
        chosen = [*chosen[: _VALUES // 2], *chosen[-_VALUES // 2 :]]
    caption = f"{shift['a']} and {shift['b']} by {column['column']}"
    note = f"shift {shift['shift']:.3f}" + (f", {_VALUES} of {len(kept)} values" if len(kept) > _VALUES else "")
    return Panel(caption, note, estimates(chosen, _whole(view, shift), caption))


def _shift(view: View, column: Entry, shift: Entry) -> Shift:
    entries = _entries(column, shift)
    values = [entry["r"] for entry in entries if comparable(entry)]
    ends = {value["value"]: entry["r"] for value, entry in zip(column["values"], entries, strict=True)}
    least, greatest = (
        (cut(view.value(column["column"], shift[end]), 24), signed(ends[shift[end]])) for end in ("low", "high")
    )
    a, b = shift["interval"]
    return Shift(
        f"{shift['a']} and {shift['b']}",
        column["column"],
        values,
        _whole(view, shift),
        f"{len(values)} values from {min(values):.3f} to {max(values):.3f}",
        f"{shift['shift']:.3f}",
        f"{signed(a)} to {signed(b)}",
        least,
        greatest,
    )


def _fold(view: View, column: Entry) -> Fold:
    kinds = {task.name: task.kind for task in view.schema.tasks}
    rows = []
    for value in column["values"]:
        means = value["means"]
        rows.append(
            (
                cut(view.value(column["column"], value["value"]), 32),
                f"{value['samples']:,}",
                [percent(means[task]) if kind == "binary" else number(means[task]) for task, kind in kinds.items()],
                [(signed(entry["r"]), not comparable(entry)) for entry in value["correlation"]],
            )
        )
    return Fold(column["column"], [(e["a"], e["b"]) for e in column["values"][0]["correlation"]], rows)
