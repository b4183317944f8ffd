"""Names of the columns of a dataset's parts, and of the columns that exist only inside the pipeline."""

from __future__ import annotations

from ple_rec.config.prep import PrepConfig, TaskSpec

DAY_COLUMN = "log_day"
GROUP_COLUMN = "group"
WEIGHT_COLUMN = "sample_weight"
NO_GROUP = -1  # Readers see this group for a row without one.
SPLIT, DAY, REASON = "__split", "__day", "__reason"
TIMES = "__times"  # The column counts the rows of the log that are joined to a row of a side table.
SPLIT_KEY = "__dealt"  # The column holds the value whose rows a split keeps together.


def label_column(task: TaskSpec) -> str:
    """Return the name of the column of a task's label."""
    return f"label_{task.name}"


def space_columns(config: PrepConfig) -> dict[str, str]:
    """Return the column of the sample space of each task that has one; tasks of the same space share a column."""
    first: dict[str, str] = {}
    for task in config.tasks:
        if task.space is not None:
            first.setdefault(task.space, f"space_{task.name}")
    return {task.name: first[task.space] for task in config.tasks if task.space is not None}


def weights_column(feature: str) -> str:
    """Return the name of the column of a bag's weights."""
    return f"{feature}_weights"
