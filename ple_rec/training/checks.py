"""Checks that a configuration fits its dataset, made before the model is built.

Training, evaluation and planning use them to select the columns, tasks and losses of a run; a plan may be made from the
description of a dataset that does not exist yet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from ple_rec.config.metrics import SUBGROUP_GAUC, needs_both_classes, selection_metrics
from ple_rec.config.run import RunConfig, TaskConfig
from ple_rec.config.words import suggestion
from ple_rec.data.columns import Selection
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.errors import UserError
from ple_rec.models.losses import TASK_KINDS_BY_LOSS
from ple_rec.text.suggest import did_you_mean

# e^60 is far below the largest fp32 number (e^88), and far above any useful weight.
_LARGEST_LOG_WEIGHT = 60.0


def chosen_tasks(config: RunConfig, selection: Selection) -> tuple[TaskConfig, ...]:
    """Return the tasks of a run in the order of the logits; without `tasks`, all tasks of the dataset with weight 1."""
    return config.tasks or tuple(TaskConfig(name=task.name) for task in selection.tasks)


class Selectable(Protocol):
    """Dataset, or the description of one, whose columns can be selected."""

    def select(self, *, drop: Sequence[str], tasks: Sequence[str], vectors: Sequence[str] | None = None) -> Selection:
        """Return the columns that remain without the features of `drop`, for these tasks (all if empty).

        Only the vector features in `vectors` are read; None stands for all of them.
        """


def select_run_columns(config: RunConfig, dataset: Selectable) -> Selection:
    """Return the columns that a run reads of its dataset, and refuse names of the configuration that do not fit them.

    Args:
        config: Configuration of the run.
        dataset: Dataset of the run, or its description.

    Raises:
        UserError: The configuration names a feature, task or metric that the run does not have, or counts experts for
            other tasks than those of the run.
    """
    selection = dataset.select(
        drop=config.data.drop, tasks=[task.name for task in config.tasks], vectors=config.data.vectors
    )
    selection = replace(selection, requests=_request_features(config, selection))
    names = [task.name for task in selection.tasks]
    levels = getattr(config.model, "levels", (config.model,))
    for i, level in enumerate(levels):
        counts = getattr(level, "task_experts", None)
        if isinstance(counts, dict) and sorted(counts) != sorted(names):
            raise UserError(
                f"model.levels[{i}].task_experts" if hasattr(config.model, "levels") else "model.task_experts",
                f"got counts for {', '.join(counts)}",
                f"it needs one count for each task of the run: {', '.join(names)}",
                "name every task once, or give one number for all tasks",
            )
    _check_donors(config, names)
    _check_metric("train.best_metric", config.train.best_metric, selection)
    if config.early_stopping is not None and config.early_stopping.metric is not None:
        _check_metric("early_stopping.metric", config.early_stopping.metric, selection)
    return selection


def _request_features(config: RunConfig, selection: Selection) -> tuple[str, ...]:
    features = selection.features()
    for name in config.data.request_features:
        if name not in features:
            dropped = name in config.data.drop
            raise UserError(
                "data.request_features",
                f'got "{name}"',
                "data.drop names it too" if dropped else f"it is no feature of the run; {suggestion(name, features)}",
                "remove it from one of the two keys"
                if dropped
                else "name features of the dataset that the model reads",
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
                    "name tasks of the run, or add this task to `tasks`",
                )


def _check_metric(place: str, metric: str, selection: Selection) -> None:
    task, _, name = metric.rpartition(".")
    kinds = {dataset_task.name: dataset_task.kind for dataset_task in selection.tasks}
    known = [f"{key}.{value}" for key, kind in kinds.items() for value in selection_metrics(kind)]
    metrics = dict.fromkeys(value for kind in kinds.values() for value in selection_metrics(kind))
    known += [f"mean.{value}" for value in metrics]
    if selection.group is None and name == "gauc" and metric in known:
        raise UserError(
            place,
            f"got {metric!r}",
            "GAUC is AUC inside groups, and the dataset has no group column",
            f"name the column of users or requests by `group` in the dataset's schema.toml, or use {task}.auc",
        )
    if selection.subgroup is None and name == SUBGROUP_GAUC and metric in known:
        fix = 'prepare the dataset with a list, such as group = ["user_id", "time.day"], or use '
        raise UserError(
            place,
            f"got {metric!r}",
            "subgroup GAUC is AUC inside subgroups, and the dataset has no subgroup column",
            fix + (f"{task}.auc" if selection.group is None else f"{task}.gauc"),
        )
    absent = {"gauc": selection.group is None, SUBGROUP_GAUC: selection.subgroup is None}
    known = [score for score in known if not absent.get(score.rpartition(".")[2])]
    if metric != "loss" and f"{task}.{name}" not in known:
        raise UserError(
            place,
            f"got {metric!r}",
            f"it is one of loss, {', '.join(known)}",
            did_you_mean(metric, known, '"', cutoff=0.85) or "use one of these",
        )


def check_metrics_defined(config: RunConfig, dataset: DatasetDirectory, selection: Selection) -> None:
    """Refuse to choose the best checkpoint, or to stop early, by a metric that is undefined on the validation split.

    Args:
        config: Configuration of the run.
        dataset: Dataset of the run, whose `stats.json` has the counts of positives.
        selection: Columns that the run reads.

    Raises:
        UserError: The metric needs positives and negatives, and the labels of the split are of one class.
    """
    counts = dataset.label_counts("valid")
    early = config.early_stopping
    for place, metric in (
        ("train.best_metric", config.train.best_metric),
        ("early_stopping.metric", None if early is None else early.metric),
    ):
        task, _, name = (metric or "").rpartition(".")
        for dataset_task in selection.tasks if needs_both_classes(name) else ():
            # Without counts in `stats.json` a metric is not refused; None is neither 0 nor the number of samples.
            samples, positives = counts.get(dataset_task.name, (1, None))
            if task in (dataset_task.name, "mean") and positives in (0, samples):
                raise UserError(
                    place,
                    f"got {metric!r}",
                    f"it needs positives and negatives, and of the {samples:,} samples of {dataset_task.name} in the "
                    f"validation split {positives:,} are positive",
                    "use another metric, such as loss, or split the dataset differently",
                )


def loss_names(config: RunConfig, selection: Selection, tasks: Sequence[TaskConfig]) -> tuple[str, ...]:
    """Return the name of the loss of each task; the default is the first loss for the kind of the task.

    Args:
        config: Configuration of the run.
        selection: Columns that the run reads, with the kinds of the tasks.
        tasks: Tasks of the run, in the order of the selection.

    Raises:
        UserError: A loss does not suit the kind of its task.
    """
    names = []
    for task, dataset_task in zip(tasks, selection.tasks, strict=True):
        known = [name for name, kinds in TASK_KINDS_BY_LOSS.items() if dataset_task.kind in kinds]
        name = task.loss or known[0]
        if name not in known:
            raise UserError(
                f"tasks.{task.name}.loss",
                f'got "{name}" on a {dataset_task.kind} task',
                f"{name} is for {' and '.join(TASK_KINDS_BY_LOSS[name])} tasks",
                f"use {' or '.join(known)}",
            )
        names.append(name)
    return tuple(names)


def global_batch_size(config: RunConfig, world_size: int) -> int:
    """Return the number of samples of a step over all ranks."""
    if config.train.batch_size is not None:
        return config.train.batch_size
    assert config.train.batch_size_per_rank is not None
    return config.train.batch_size_per_rank * world_size


def check_loss_weights(config: RunConfig, tasks: Sequence[TaskConfig], steps: int, epochs: int) -> None:
    """Refuse loss weights w_k0 gamma_k^t (task k at step or epoch t) that would exceed e^60 before the run ends.

    Args:
        config: Configuration of the run.
        tasks: Tasks with their weights and decays.
        steps: Number of steps of the run.
        epochs: Number of epochs of the run.

    Raises:
        UserError: A weight would exceed e^60.
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
