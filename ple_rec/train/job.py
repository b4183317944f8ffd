"""Everything a run needs, assembled on every rank: dataset, loaders, sharded model, optimizers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torchrec.distributed.model_parallel import DistributedModelParallel

from ple_rec.config.base import Split, TaskKind
from ple_rec.config.run import RunConfig, TaskConfig
from ple_rec.data.columns import Selection
from ple_rec.data.dataset import Dataset
from ple_rec.data.loader import Loader
from ple_rec.errors import UserError
from ple_rec.models.build import build_model
from ple_rec.models.losses import LOSSES
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.modules.routing import Routing
from ple_rec.parallel.optimizers import Optimizers, attach_table_optimizer
from ple_rec.parallel.process_group import Ranks
from ple_rec.parallel.sharding import describe_plan, shard

_META = torch.device("meta")
_BYTES = {"fp32": 4, "fp16": 2}
# The metrics by which a checkpoint can be the best; all but AUC are errors, of which less is better.
SCORES: dict[TaskKind, tuple[str, ...]] = {"binary": ("auc", "ne", "logloss"), "regression": ("mse", "rmse", "mae")}
_DEFAULT_LOSS = {"binary": "cross_entropy", "regression": "mse"}


@dataclass(frozen=True)
class Job:
    """The parts of a run on one rank."""

    config: RunConfig
    ranks: Ranks
    dataset: Dataset
    selection: Selection
    tasks: tuple[TaskConfig, ...]
    losses: tuple[str, ...]
    batch_size: int
    loader: Loader
    total_steps: int
    model: DistributedModelParallel
    bare: MultiTaskModel
    optimizers: Optimizers
    plan: dict[str, Any]

    @property
    def routings(self) -> list[Routing]:
        """Of every extraction level."""
        return [level.routing for level in self.bare.extraction.levels]  # type: ignore[misc]

    def evaluation_loader(self, split: Split) -> Loader:
        """Batches of a split in file order, every row once."""
        return Loader(
            self.dataset,
            split,
            self.selection,
            batch_size=self.batch_size,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
            virtual_shards=self.ranks.world_size,
            shuffle=False,
            prefetch=self.config.data.prefetch,
            pin=self.ranks.device.type == "cuda",
        )


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


def assemble(config: RunConfig, ranks: Ranks) -> Job:
    """Open the dataset, shard the model, make the optimizers (a collective).

    Raises:
        UserError: configuration and dataset, or configuration and cluster, do not fit.
        DataError: the dataset is damaged.
    """
    dataset = Dataset(config.data.path)
    selection = select(config, dataset)
    tasks = chosen_tasks(config, selection)
    losses = losses_of(config, selection, tasks)
    batch_size = global_batch_size(config, ranks.world_size)
    loader = Loader(
        dataset,
        "train",
        selection,
        batch_size=batch_size,
        rank=ranks.rank,
        world_size=ranks.world_size,
        virtual_shards=config.data.virtual_shards,
        seed=config.seed,
        prefetch=config.data.prefetch,
        pin=ranks.device.type == "cuda",
    )
    total_steps = config.train.steps or loader.steps * (config.train.epochs or 1)
    bare = build_model(
        config,
        tasks=[task.name for task in tasks],
        sparse=selection.sparse,
        dense=selection.dense,
        table_rows=selection.table_rows,
        statistics=dataset.statistics() if selection.dense else {},
        device=ranks.device,
        table_device=_META,
    )
    tables = {} if bare.embeddings is None else {c.name: c for c in bare.embeddings.embedding_bag_configs()}
    attach_table_optimizer(bare, config.table_optimizer, ranks.device)
    model = shard(bare, config.embeddings, ranks, batch_size // ranks.world_size, config.seed)
    width = _BYTES[config.embeddings.dtype]
    plan = {
        "version": 1,
        "world_size": ranks.world_size,
        "tables": describe_plan(model, {n: (c.num_embeddings, c.embedding_dim, width) for n, c in tables.items()}),
    }
    torch.manual_seed(config.seed + 1 + ranks.rank)  # dropout differs between ranks; the model is made already
    optimizers = Optimizers(model, config.dense_optimizer, config.table_optimizer, config.schedule, total_steps)
    return Job(
        config, ranks, dataset, selection, tasks, losses, batch_size, loader, total_steps, model, bare, optimizers, plan
    )
