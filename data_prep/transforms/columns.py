"""Names of columns: of a dataset's parts, from its configuration, and of the rows on their way there."""

from __future__ import annotations

from ple_rec.config.prep import PrepConfig, TaskSpec

DAY_COLUMN = "log_day"
GROUP_COLUMN = "group"
WEIGHT_COLUMN = "sample_weight"
SPLIT, DAY, REASON = "__split", "__day", "__reason"  # inside the pipeline
DEALT = "__dealt"  # likewise, of a split that deals out whole groups of rows: what decides on a row


def label_column(task: TaskSpec) -> str:
    """Column of a task's label."""
    return f"label_{task.name}"


def space_columns(config: PrepConfig) -> dict[str, str]:
    """Column of the sample space by task, where it has one; tasks of the same space share it."""
    first: dict[str, str] = {}
    for task in config.tasks:
        if task.space is not None:
            first.setdefault(task.space, f"space_{task.name}")
    return {task.name: first[task.space] for task in config.tasks if task.space is not None}


def weights_column(feature: str) -> str:
    """Column of a bag's weights."""
    return f"{feature}_weights"
