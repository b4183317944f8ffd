"""The section on the tasks: sizes of their sample spaces, positives, and labels that a space leaves out."""

from __future__ import annotations

from typing import NamedTuple

from data_prep.stats.correlation import wilson
from data_prep.stats.page.view import View, figure, percent
from ple_rec.config.schema import Task

RARE = 1000  # positives, or negatives, below which a rate is shown with its interval


class Odd(NamedTuple):
    """What is odd about the space of a task: positives that it leaves out (empty: it has none in train)."""

    task: str
    lost: str = ""
    positives: str = ""
    share: str = ""
    space: str = ""


class Row(NamedTuple):
    """A task on a split.

    Args:
        kind: CSS classes of the row.
        name: Name of the task, in its first row.
        detail: Kind and space of the task, in its second row.
        split: Split of the figures.
        samples: Rows in the space.
        share: Their share of all rows.
        positives: Rows with label 1, of a binary task.
        mean: Mean label.
        notes: Interval of a rare rate, or spread of a label.
        outside: Positives outside the space, where it is not all rows.
    """

    kind: str
    name: str
    detail: str
    split: str
    samples: str
    share: str
    positives: str
    mean: str
    notes: list[str]
    outside: str


class Tasks(NamedTuple):
    """A row per task and split, under what is odd about the spaces."""

    rare: str
    odd: list[Odd]
    rows: list[Row]


def tasks(view: View) -> Tasks:
    """Return every task on every split."""
    splits = view.splits()
    rows = [
        _row(view, task, split, place, last=place + 1 == len(splits))
        for task in view.schema.tasks
        for place, split in enumerate(splits)
    ]
    return Tasks(f"{RARE:,}", [odd for task in view.schema.tasks for odd in _odd(view, task)], rows)


def _row(view: View, task: Task, split: str, place: int, *, last: bool) -> Row:
    found = view.stats["tasks"][task.name][split]
    space = "all rows" if task.space is None else f"where {view.space(task)}"
    positives, samples = found.get("positives"), found["samples"]
    notes = []
    if positives is not None and samples and min(positives, samples - positives) < RARE:
        low, high = wilson(positives, samples)
        notes.append(f"{percent(low)} to {percent(high)}")
    if found.get("std") is not None:
        notes.append(f"sd {figure(found['std'])}, at most {figure(found['max'])}")
    return Row(
        " ".join(filter(None, ("minor" * (place > 0), "joined" * (not last)))),
        task.name if place == 0 else "",
        f"{task.kind}, {space}" if place == 1 else "",
        split,
        f"{samples:,}",
        percent(samples / view.stats["rows"][split], digits=1),
        "" if positives is None else f"{positives:,}",
        figure(found["mean"]) if positives is None else percent(found["mean"]),
        notes,
        "" if task.space is None else f"{found['outside']['positives']:,}",
    )


def _odd(view: View, task: Task) -> list[Odd]:
    if task.kind != "binary":
        return []
    splits = view.stats["tasks"][task.name]
    lost = sum(found["outside"]["positives"] for found in splits.values())
    every = lost + sum(found.get("positives", 0) for found in splits.values())
    odd = [Odd(task.name, f"{lost:,}", f"{every:,}", percent(lost / every), view.space(task))] if lost else []
    return odd + ([] if splits["train"].get("positives") else [Odd(task.name)])
