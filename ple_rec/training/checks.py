"""What a configuration asks of its dataset, checked before anything is built."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from ple_rec.config.metrics import choosing_metrics, needs_both_classes
from ple_rec.config.run import RunConfig, TaskConfig
from ple_rec.config.words import suggestion
from ple_rec.data.columns import Selection
from ple_rec.data.dataset import Dataset
from ple_rec.errors import UserError
from ple_rec.models.losses import KINDS
from ple_rec.text.suggest import did_you_mean

_LARGEST_LOG_WEIGHT = 60.0  # e^60: far from the limit of fp32, far beyond any use


def chosen_tasks(config: RunConfig, selection: Selection) -> tuple[TaskConfig, ...]:
    """The run's tasks with their weights, in the order of the logits."""
    return config.tasks or tuple(TaskConfig(name=task.name) for task in selection.tasks)


class Selects(Protocol):
    """A dataset, or the description of one."""

    def select(self, *, drop: Sequence[str], tasks: Sequence[str]) -> Selection:
        """What a run reads."""


def select(config: RunConfig, dataset: Selects) -> Selection:
    """What the run reads of its dataset.

    Raises:
        UserError: the configuration names a feature, task, expert owner or metric that the dataset lacks.
    """
    selection = dataset.select(drop=config.data.drop, tasks=[task.name for task in config.tasks])
    selection = replace(selection, requests=_request_features(config, selection))
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
    _check_donors(config, names)
    _check_metric("train.best_metric", config.train.best_metric, selection)
    if config.early_stopping is not None and config.early_stopping.metric is not None:
        _check_metric("early_stopping.metric", config.early_stopping.metric, selection)
    return selection


def _request_features(config: RunConfig, selection: Selection) -> tuple[str, ...]:
    read = [*(feature.name for feature in selection.sparse), *(feature.name for feature in selection.dense)]
    for name in config.data.request_features:
        if name not in read:
            dropped = name in config.data.drop
            raise UserError(
                "data.request_features",
                f'got "{name}"',
                "data.drop names it too" if dropped else f"it is no feature of the run; {suggestion(name, read)}",
                "take it out of one of them" if dropped else "name features of the dataset that the model reads",
            )
    return config.data.request_features


def _check_donors(config: RunConfig, tasks: Sequence[str]) -> None:
    for task, donors in getattr(config.model, "donors", {}).items():
        for name in (task, *donors):
            if name not in tasks:
                raise UserError(
                    f"model.donors.{task}",
                    f'got "{name}"',
                    f"it is no task of the run; {suggestion(name, tasks)}",
                    "name tasks of the run, or add the task to it",
                )


def _check_metric(place: str, metric: str, selection: Selection) -> None:
    task, _, name = metric.rpartition(".")
    kinds = {described.name: described.kind for described in selection.tasks}
    known = [f"{key}.{value}" for key, kind in kinds.items() for value in choosing_metrics(kind)]
    every = dict.fromkeys(value for kind in kinds.values() for value in choosing_metrics(kind))
    known += [f"mean.{value}" for value in every]
    if selection.group is None and name == "gauc" and metric in known:
        raise UserError(
            place,
            f"got {metric!r}",
            "GAUC is AUC inside groups, and the dataset has no group column",
            f"name the column of users or requests by `group` in the dataset's schema.toml, or use {task}.auc",
        )
    if selection.group is None:
        known = [score for score in known if not score.endswith(".gauc")]
    if metric != "loss" and f"{task}.{name}" not in known:
        raise UserError(
            place,
            f"got {metric!r}",
            f"it is one of loss, {', '.join(known)}",
            did_you_mean(metric, known, '"', cutoff=0.85) or "use one of these",
        )


def check_defined(config: RunConfig, dataset: Dataset, selection: Selection) -> None:
    """Refuse to choose by a metric that needs both classes where the validation split has one of them only.

    Raises:
        UserError: `stats.json` says so.
    """
    counts = dataset.label_counts("valid")
    early = config.early_stopping
    for place, metric in (
        ("train.best_metric", config.train.best_metric),
        ("early_stopping.metric", None if early is None else early.metric),
    ):
        task, _, name = (metric or "").rpartition(".")
        for described in selection.tasks if needs_both_classes(name) else ():
            samples, positives = counts.get(described.name, (1, None))
            if task in (described.name, "mean") and positives in (0, samples):
                raise UserError(
                    place,
                    f"got {metric!r}",
                    f"it needs positives and negatives, and of the {samples:,} samples of {described.name} in the "
                    f"validation split {positives:,} are positive",
                    "use another metric, such as loss, or split the dataset otherwise",
                )


def losses_of(config: RunConfig, selection: Selection, tasks: Sequence[TaskConfig]) -> tuple[str, ...]:
    """The name of every task's loss.

    Raises:
        UserError: a loss that is not for the task's kind.
    """
    names = []
    for task, described in zip(tasks, selection.tasks, strict=True):
        known = [name for name, kinds in KINDS.items() if described.kind in kinds]
        name = task.loss or known[0]
        if name not in known:
            raise UserError(
                f"tasks.{task.name}.loss",
                f'got "{name}" on a {described.kind} task',
                f"{name} is for {' and '.join(KINDS[name])} tasks",
                f"use {' or '.join(known)}",
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
