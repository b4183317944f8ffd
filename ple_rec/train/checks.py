"""What a configuration asks of its dataset, checked before anything is built."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ple_rec.config.base import TaskKind
from ple_rec.config.run import RunConfig, TaskConfig
from ple_rec.data.columns import Selection
from ple_rec.data.dataset import Dataset
from ple_rec.errors import UserError
from ple_rec.models.losses import LOSSES

# The metrics by which a checkpoint can be the best; all but AUC are errors, of which less is better.
SCORES: dict[TaskKind, tuple[str, ...]] = {"binary": ("auc", "ne", "logloss"), "regression": ("mse", "rmse", "mae")}
_DEFAULT_LOSS = {"binary": "cross_entropy", "regression": "mse"}
_LARGEST_LOG_WEIGHT = 60.0  # e^60: far from the limit of fp32, far beyond any use


def chosen_tasks(config: RunConfig, selection: Selection) -> tuple[TaskConfig, ...]:
    """The run's tasks with their weights, in the order of the logits."""
    return config.tasks or tuple(TaskConfig(name=task.name) for task in selection.tasks)


def select(config: RunConfig, dataset: Dataset) -> Selection:
    """What the run reads of its dataset.

    Raises:
        UserError: the configuration names a feature, task, expert owner or metric that the dataset lacks.
    """
    selection = dataset.select(drop=config.data.drop, tasks=[task.name for task in config.tasks])
    names = [task.name for task in selection.tasks]
    levels = getattr(config.model, "levels", (config.model,))
    for i, level in enumerate(levels):
        counts = getattr(level, "task_experts", None)
        if isinstance(counts, dict) and sorted(counts) != sorted(names):
            raise UserError(
                f"model.levels[{i}].task_experts" if hasattr(config.model, "levels") else "model.task_experts",
                f"got counts for {', '.join(counts)}",
                f"it has one count for each task of the run: {', '.join(names)}",
                "name every task once, or give one number for all",
            )
    _check_best_metric(config.train.best_metric, selection)
    return selection


def _check_best_metric(metric: str, selection: Selection) -> None:
    task, _, name = metric.rpartition(".")
    kinds = {described.name: described.kind for described in selection.tasks}
    known = [f"{key}.{value}" for key, kind in kinds.items() for value in SCORES[kind]]
    known += [f"mean.{value}" for value in dict.fromkeys(value for kind in kinds.values() for value in SCORES[kind])]
    if metric != "loss" and f"{task}.{name}" not in known:
        raise UserError(
            "train.best_metric",
            f"got {metric!r}",
            f"it is one of loss, {', '.join(known)}",
            "use one of these",
        )


def losses_of(config: RunConfig, selection: Selection, tasks: Sequence[TaskConfig]) -> tuple[str, ...]:
    """The loss of every task.

    Raises:
        UserError: cross-entropy on a regression task.
    """
    names = []
    for task, described in zip(tasks, selection.tasks, strict=True):
        name = task.loss or _DEFAULT_LOSS[described.kind]
        assert name in LOSSES
        if name == "cross_entropy" and described.kind == "regression":
            raise UserError(
                f"tasks.{task.name}.loss",
                'got "cross_entropy" on a regression task',
                "cross-entropy needs labels 0 and 1",
                'set loss = "mse"',
            )
        names.append(name)
    return tuple(names)


def global_batch_size(config: RunConfig, world_size: int) -> int:
    """G, samples per step over all ranks."""
    if config.train.batch_size is not None:
        return config.train.batch_size
    assert config.train.batch_size_per_rank is not None
    return config.train.batch_size_per_rank * world_size


def check_loss_weights(config: RunConfig, tasks: Sequence[TaskConfig], steps: int, epochs: int) -> None:
    """Refuse loss weights w_k0 gamma_k^t that would overflow before the run ends.

    Raises:
        UserError: one would.
    """
    last = epochs if config.train.weight_schedule == "epoch" else steps
    for task in tasks:
        exponent = math.log(task.weight) + last * math.log(task.decay)
        if exponent > _LARGEST_LOG_WEIGHT:
            raise UserError(
                f"tasks.{task.name}.decay",
                f"got {task.decay}; after {last} {config.train.weight_schedule}s the weight is e^{exponent:.0f}",
                f"a loss weight stays below e^{_LARGEST_LOG_WEIGHT:.0f}",
                'use a decay of at most 1, or train.weight_schedule = "epoch"',
            )
