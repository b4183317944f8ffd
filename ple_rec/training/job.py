"""Everything a run needs, assembled on every rank: dataset, loaders, sharded model, optimizers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torchrec.distributed.model_parallel import DistributedModelParallel

from ple_rec.config.base import Split
from ple_rec.config.plan import Plan
from ple_rec.config.run import RunConfig, TaskConfig
from ple_rec.data.columns import Selection
from ple_rec.data.dataset import Dataset
from ple_rec.data.loader import Loader
from ple_rec.data.slices import Slicing
from ple_rec.models.losses import LOSSES, Loss
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.modules.routing import Legend
from ple_rec.parallel.optimizers import Optimizers, attach_table_optimizer
from ple_rec.parallel.plan_check import GivenPlan
from ple_rec.parallel.planner import Request
from ple_rec.parallel.process_group import Ranks
from ple_rec.parallel.sharding import agreed_plan, shard
from ple_rec.parallel.topology import cluster_of
from ple_rec.training.checks import chosen_tasks, global_batch_size, losses_of, select
from ple_rec.training.model import first_layer, model_of
from ple_rec.training.pipeline import check_pipeline
from ple_rec.training.precision import Precision, settle_precision


@dataclass(frozen=True)
class EvaluationJob:
    """What an evaluation needs, on one rank."""

    config: RunConfig
    ranks: Ranks
    dataset: Dataset
    selection: Selection
    tasks: tuple[TaskConfig, ...]
    batch_size: int
    model: DistributedModelParallel
    bare: MultiTaskModel
    plan: Plan
    precision: Precision

    @property
    def legends(self) -> tuple[Legend, ...]:
        """Of every A that the model gives."""
        return self.bare.extraction.legends

    def evaluation_loader(self, split: Split, slices: tuple[Slicing, ...] = ()) -> Loader:
        """Batches of a split in file order, every row once, with the codes of `slices`."""
        world_size = self.ranks.world_size
        return Loader(
            self.dataset,
            split,
            replace(self.selection, slices=slices),
            batch_size=-(-self.batch_size // world_size) * world_size,
            rank=self.ranks.rank,
            world_size=world_size,
            virtual_shards=world_size,
            shuffle=False,
            prefetch=self.config.data.prefetch,
            buffer_bytes=self.config.data.buffer_mib << 20,
            pin=self.ranks.device.type == "cuda",
        )


@dataclass(frozen=True)
class Job(EvaluationJob):
    """What a training run needs, on one rank."""

    losses: tuple[Loss, ...]
    loader: Loader
    total_steps: int
    optimizers: Optimizers


def assemble_evaluation(
    config: RunConfig,
    ranks: Ranks,
    given: GivenPlan | None = None,
    began: Precision | None = None,
    *,
    prefetched: bool = False,
) -> EvaluationJob:
    """Open the dataset and shard the model (a collective); the training split is not touched.

    Args:
        config: The run.
        ranks: The cluster.
        given: Where the tables go; None: as planned now.
        began: With which the run began, where it does not begin now.
        prefetched: Whether a pipeline fetches rows into the GPU's cache.

    Raises:
        UserError: configuration and dataset, or configuration and cluster, do not fit.
        DataError: the dataset is damaged.
    """
    dataset = Dataset(config.data.path)
    selection = select(config, dataset)
    tasks = chosen_tasks(config, selection)
    batch_size = global_batch_size(config, ranks.world_size)
    batch_size_per_rank = -(-batch_size // ranks.world_size)
    precision = settle_precision(config, ranks, (batch_size_per_rank, *first_layer(config, selection)), began)
    statistics = dataset.statistics() if selection.dense else {}
    bare = model_of(config, selection, statistics, ranks.device, precision.used)
    attach_table_optimizer(bare, config.table_optimizer, ranks.device)
    request = Request(
        config.embeddings,
        config.table_optimizer.kind,
        cluster_of(ranks, config.topology),
        batch_size_per_rank,
        dataset.ids_per_sample(selection.sparse),
    )
    plan = agreed_plan(bare, request, given)
    tables = config.embeddings
    model = shard(
        bare,
        plan,
        ranks,
        init_scale=tables.init_scale,
        seed=config.seed,
        qcomms=tables.qcomms,
        prefetched=prefetched,
    )
    return EvaluationJob(config, ranks, dataset, selection, tasks, batch_size, model, bare, plan, precision)


def training_loader(config: RunConfig, dataset: Dataset, selection: Selection, rank: int, world_size: int) -> Loader:
    """Batches of the training split in the order of the seed; a task with `samples = "all"` has no sample space there.

    Raises:
        UserError: more ranks than row groups, or sizes that do not divide.
    """
    everywhere = {task.name for task in config.tasks if task.samples == "all"}
    tasks = (t.model_copy(update={"space": None}) if t.name in everywhere else t for t in selection.tasks)
    return Loader(
        dataset,
        "train",
        replace(selection, tasks=tuple(tasks)),
        batch_size=global_batch_size(config, world_size),
        rank=rank,
        world_size=world_size,
        virtual_shards=config.data.virtual_shards,
        seed=config.seed,
        by_request=config.data.shuffle == "requests",
        prefetch=config.data.prefetch,
        buffer_bytes=config.data.buffer_mib << 20,
    )


def losses_of_job(job: EvaluationJob) -> tuple[Loss, ...]:
    """Of the tasks, in the order of the logits.

    Raises:
        UserError: a loss that is not for its task.
    """
    names = losses_of(job.config, job.selection, job.tasks)
    return tuple(LOSSES[name](task) for name, task in zip(names, job.tasks, strict=True))


def total_steps(config: RunConfig, loader: Loader) -> int:
    """Steps of the run."""
    return config.train.steps or loader.steps * (config.train.epochs or 1)


def assemble(config: RunConfig, ranks: Ranks, given: GivenPlan | None = None, began: Precision | None = None) -> Job:
    """`assemble_evaluation`, with the training batches and the optimizers (a collective).

    Raises:
        UserError: configuration and dataset, or configuration and cluster, do not fit.
        DataError: the dataset is damaged.
    """
    check_pipeline(config.train.pipeline, ranks.device)
    base = assemble_evaluation(config, ranks, given, began, prefetched=config.train.pipeline == "prefetch")
    loader = training_loader(config, base.dataset, base.selection, ranks.rank, ranks.world_size)
    loader.pin = ranks.device.type == "cuda"
    steps = total_steps(config, loader)
    losses = losses_of_job(base)
    # Decay would pull the log-variances to 0, away from where the losses put them.
    learned = base.bare.weighting.parameters()
    optimizers = Optimizers(base.model, config.dense_optimizer, config.table_optimizer, config.schedule, steps, learned)
    torch.manual_seed(config.seed + 1 + ranks.rank)  # dropout differs between ranks; the model is made already
    return Job(**vars(base), losses=losses, loader=loader, total_steps=steps, optimizers=optimizers)
