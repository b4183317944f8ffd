"""A warning where one task is nearly the whole loss, so that the others hardly learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MOST = 0.99  # share of the sum of weighted losses, above which the others hardly move what tasks share


def dominance_warning(record: Mapping[str, Any]) -> str | None:
    """Return a warning where a task has more than 99 % of the sum of weighted losses.

    Args:
        record: Record of `train.jsonl` of the steps since the last report.
    """
    parts = {name: abs(task["weight"] * task["loss"]) for name, task in record["tasks"].items()}
    total = sum(parts.values())
    name = max(parts, key=lambda each: parts[each])
    if len(parts) < 2 or not parts[name] > _MOST * total:
        return None
    return (
        f"warning: {name} is {parts[name] / total:.2%} of the loss; the other tasks hardly learn. Fix: prepare its "
        f"label in a larger unit, so that its size is near 1, or train it with a smaller weight (tasks.weight)"
    )
