"""Table of the metrics of a task: names, formats, and which direction is better.

Results, reports, comparisons of runs and the choice of the best checkpoint read the table, without torch. A new metric
is computed in `ple_rec/metrics` and gets an entry here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ple_rec.config.base import TaskKind
from ple_rec.text.units import metric_text

_ALL_KINDS: tuple[TaskKind, ...] = ("binary", "regression")


@dataclass(frozen=True)
class Metric:
    """Metric of a task.

    Args:
        key: Key in `metrics.json` and `train.jsonl`.
        heading: Heading of its column.
        task_kinds: Kinds of tasks that have the metric.
        better: Direction of better values; None if no value is better than another, as for a count of rows.
        meaning: Explanation for the HTML pages.
        format_value: Function from a value to its text.
        can_select: True if the metric may select the best checkpoint and stop a run early.
        needs_both_classes: True for a metric that is undefined on a split of only positives, or of only negatives.
    """

    key: str
    heading: str
    task_kinds: tuple[TaskKind, ...] = _ALL_KINDS
    better: Literal["higher", "lower", "nearer to 1"] | None = None
    meaning: str = ""
    format_value: Callable[[float], str] = metric_text
    can_select: bool = False
    needs_both_classes: bool = False

    def rank_key(self, value: float) -> float | None:
        """Return a number that is lower for better values of the metric; None if no value is better than another."""
        if self.better is None:
            return None
        if self.better == "nearer to 1":
            return abs(value - 1)
        return -value if self.better == "higher" else value


# Keys of GAUC by group, such as the user, and by subgroup, such as the user's day.
GAUC, SUBGROUP_GAUC = GAUCS = ("gauc", "subgroup_gauc")
SAMPLES = Metric("samples", "samples", meaning="rows that count for the task.", format_value="{:,.0f}".format)
# The order is that of the columns in tables.
METRICS = (
    Metric(
        "auc",
        "AUC",
        ("binary",),
        "higher",
        "how often a random positive is predicted above a random negative; 1 is perfect, 0.5 is chance. "
        "\u00b1 bounds the error of a value that comes from a histogram.",
        can_select=True,
        needs_both_classes=True,
    ),
    Metric(
        GAUC,
        "GAUC",
        ("binary",),
        "higher",
        "AUC inside each group (the rows of one user or one request), averaged by the groups' rows: whether one user's "
        "list is well ordered. Small figures are the interval of an estimate.",
        can_select=True,
        needs_both_classes=True,
    ),
    Metric(
        SUBGROUP_GAUC,
        "subgroup GAUC",
        ("binary",),
        "higher",
        "GAUC inside subgroups, such as the rows of one user on one day. Users click more on some days than on "
        "others, so GAUC by user over several days may fall for a model that orders every day better.",
        can_select=True,
        needs_both_classes=True,
    ),
    Metric(
        "ne",
        "NE",
        ("binary",),
        "lower",
        "normalised entropy: log loss divided by that of always predicting the mean label; less is better, and "
        "1 or more is no better than that constant.",
        can_select=True,
        needs_both_classes=True,
    ),
    Metric(
        "logloss",
        "log loss",
        ("binary",),
        "lower",
        "mean of -log of the probability that was given to what happened, in nats; less is better, and only values "
        "over the same rows can be compared.",
        can_select=True,
    ),
    Metric(
        "mse",
        "MSE",
        ("regression",),
        "lower",
        "mean of the squared difference between prediction and label; less is better.",
        can_select=True,
    ),
    Metric(
        "rmse",
        "RMSE",
        ("regression",),
        "lower",
        "root of the MSE, in the unit of the label; less is better.",
        can_select=True,
    ),
    Metric(
        "mae",
        "MAE",
        ("regression",),
        "lower",
        "mean of the absolute difference between prediction and label, in the unit of the label; less is better.",
        can_select=True,
    ),
    # R2 cannot select: it ranks checkpoints as the MSE does, which can.
    Metric(
        "r2",
        "R\u00b2",
        ("regression",),
        "higher",
        "1 - MSE divided by that of always predicting the mean label; 1 is perfect, 0 is no better than that.",
    ),
    Metric(
        "calibration",
        "calibration",
        _ALL_KINDS,
        "nearer to 1",
        "sum of the predictions divided by the sum of the labels; 1 is right on average, above 1 the model promises "
        "too much. It says nothing about the order. A task trained by Huber's loss aims between the mean and the "
        "median, so it stays below 1 where a few labels are very large.",
    ),
    SAMPLES,
)
_BY_KEY = {metric.key: metric for metric in METRICS}


def selection_metrics(kind: TaskKind) -> list[str]:
    """Return the keys of the metrics that can select the best checkpoint by a task of a kind."""
    return [metric.key for metric in METRICS if metric.can_select and kind in metric.task_kinds]


def needs_both_classes(key: str) -> bool:
    """Return True if a metric is undefined on a split of only positives, or of only negatives.

    Args:
        key: Key of the metric; the result is False for an unknown key.
    """
    return key in _BY_KEY and _BY_KEY[key].needs_both_classes


def is_higher_better(name: str) -> bool:
    """Return True if higher values of a metric are better; False for a loss and for an unknown metric.

    Args:
        name: Name of the metric: `loss`, `TASK.METRIC`, `mean.auc` or a key.
    """
    key = name.rpartition(".")[2]
    return key in _BY_KEY and _BY_KEY[key].better == "higher"
