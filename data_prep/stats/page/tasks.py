"""The section on the tasks: sizes of their sample spaces, positives, and labels that a space leaves out."""

from __future__ import annotations

from typing import Any

from data_prep.stats.correlation import wilson
from data_prep.stats.page.view import View, figure, percent
from ple_rec.config.schema import Task

RARE = 1000  # positives, or negatives, below which a rate is shown with its interval


def tasks(view: View) -> dict[str, Any]:
    """Return a row per task and split, and what is odd about the spaces."""
    splits = view.splits()
    rows = [
        _row(view, task, split, place, last=place + 1 == len(splits))
        for task in view.schema.tasks
        for place, split in enumerate(splits)
    ]
    return {"rare": RARE, "odd": [odd for task in view.schema.tasks for odd in _odd(view, task)], "rows": rows}


def _row(view: View, task: Task, split: str, place: int, *, last: bool) -> dict[str, Any]:
    found = view.stats["tasks"][task.name][split]
    space = "all rows" if task.space is None else f"where {view.space(task)}"
    positives, samples = found.get("positives"), found["samples"]
    notes = []
    if positives is not None and samples and min(positives, samples - positives) < RARE:
        low, high = wilson(positives, samples)
        notes.append(f"{percent(low)} to {percent(high)}")
    if found.get("std") is not None:
        notes.append(f"sd {figure(found['std'])}, at most {figure(found['max'])}")
    return {
        "kind": " ".join(filter(None, ("minor" * (place > 0), "joined" * (not last)))),
        "name": task.name if place == 0 else "",
        "detail": f"{task.kind}, {space}" if place == 1 else "",
        "split": split,
        "samples": samples,
        "share": percent(samples / view.stats["rows"][split], digits=1),
        "positives": positives,
        "mean": figure(found["mean"]) if positives is None else percent(found["mean"]),
        "notes": notes,
        "outside": None if task.space is None else found["outside"]["positives"],
    }


def _odd(view: View, task: Task) -> list[dict[str, Any]]:
    """Return what is odd about the space of a binary task: positives that it leaves out, and none in train."""
    if task.kind != "binary":
        return []
    splits = view.stats["tasks"][task.name]
    lost = sum(found["outside"]["positives"] for found in splits.values())
    every = lost + sum(found.get("positives", 0) for found in splits.values())
    odd: list[dict[str, Any]] = []
    if lost:
        share = percent(lost / every)
        odd.append({"task": task.name, "lost": lost, "positives": every, "share": share, "space": view.space(task)})
    if not splits["train"].get("positives"):
        odd.append({"task": task.name, "lost": 0})
    return odd
