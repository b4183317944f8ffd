"""Names of the columns of a dataset's Parquet files, and of the columns that exist only during a preparation.

The names of the latter begin with two underscores. A side table is a table, such as one of users, that is joined to the
log. A bag is a feature with a list of values per row.
"""

from __future__ import annotations

from ple_rec.config.prep import PrepConfig, TaskSpec
from ple_rec.config.schema import LOG_TIME, history_offsets

DAY_COLUMN = "log_day"  # Days since 1970-01-01, as `DAY` below, but as int32 in the files of the dataset.
GROUP_COLUMN = "group"
SUBGROUP_COLUMN = "subgroup"  # Number of the rows that are equal in all entries of `group`; only if there are several.
WEIGHT_COLUMN = "sample_weight"
NO_GROUP = -1  # Readers of a dataset use this value as the group of a row whose group is null.
SPLIT = "__split"  # Index of the row's split in `SPLITS`; see `splits.py`.
DAY = "__day"  # Day of the row: days since 1970-01-01.
REASON = "__reason"  # Number, from 1, of the first rule that the row breaks (`rows.py`); 0 in a good row.
LOG_ROW_COUNT = "__times"  # For a row of a side table: number of training rows that it is joined to.
SPLIT_KEY = "__dealt"  # Value, such as a user: rows with the same value are in the same split.


def label_column(task: TaskSpec) -> str:
    """Return the name of the column of a task's label."""
    return f"label_{task.name}"


def space_columns(config: PrepConfig) -> dict[str, str]:
    """Return, by task, the column that marks the rows of its sample space, from which the task is learned.

    Tasks with the same condition share a column. Tasks that are learned from all rows have none.
    """
    column_by_condition: dict[str, str] = {}
    for task in config.tasks:
        if task.space is not None:
            column_by_condition.setdefault(task.space, f"space_{task.name}")
    return {task.name: column_by_condition[task.space] for task in config.tasks if task.space is not None}


def history_columns(config: PrepConfig) -> list[str]:
    """Return the names of the columns of histories: the time of the row, and two offsets of each history."""
    offsets = [name for history in config.histories for name in history_offsets(history.name)]
    return [LOG_TIME, *offsets] if offsets else []


def weights_column(feature: str) -> str:
    """Return the name of the column of a bag's weights."""
    return f"{feature}_weights"
