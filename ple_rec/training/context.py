"""Context of a run on one rank: dataset, loaders, sharded model and optimizers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torchrec.distributed.model_parallel import DistributedModelParallel

from ple_rec.config.base import Split
from ple_rec.config.plan import PlanFile
from ple_rec.config.run import RunConfig
from ple_rec.data.loader import Loader
from ple_rec.data.slices import Slicing
from ple_rec.distributed.collectives import run_on_rank_zero
from ple_rec.distributed.optimizers import Optimizers, attach_table_optimizer
from ple_rec.distributed.plan_check import SavedPlan
from ple_rec.distributed.planner import PlanningInputs, check_sizes
from ple_rec.distributed.process_group import Ranks
from ple_rec.distributed.sharding import agreed_plan, shard
from ple_rec.distributed.topology import cluster_of
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.modules.routing import GateLabels
from ple_rec.training.batch_feeder import check_pipeline
from ple_rec.training.model import first_layer, model_of, sizes_of
from ple_rec.training.precision import Precision, choose_precision
from ple_rec.training.prepared import PreparedRun, prepare_run


@dataclass(frozen=True)
class EvaluationContext(PreparedRun):
    """Dataset and sharded model of an evaluation, on one rank.

    Args:
        ranks: Place of this process among the ranks.
        model: Sharded model.
        bare: Module that `model` wraps.
        plan: Plan of the tables.
        precision: Precision of the dense layers' matrix products.
    """

    ranks: Ranks
    model: DistributedModelParallel
    bare: MultiTaskModel
    plan: PlanFile
    precision: Precision

    @property
    def gate_labels(self) -> tuple[GateLabels, ...]:
        """Labels of the weights of each gate, in the order of the model's output."""
        return self.bare.extraction.gate_labels

    def evaluation_loader(self, split: Split, slices: tuple[Slicing, ...] = ()) -> Loader:
        """Return the batches of a split in file order, every row once.

        Args:
            split: Split to read.
            slices: Columns whose codes the batches have, for metrics by slice.
        """
        world_size = self.world_size
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
class TrainContext(EvaluationContext):
    """Dataset, sharded model and optimizers of a training, on one rank.

    Args:
        loader: Batches of the training split.
        total_steps: Number of steps of the run.
        optimizers: Optimizers of the tables and of the dense layers.
    """

    loader: Loader
    total_steps: int
    optimizers: Optimizers


def build_evaluation(
    config: RunConfig,
    ranks: Ranks,
    given_plan: SavedPlan | None = None,
    initial: Precision | None = None,
    prepared: PreparedRun | None = None,
    *,
    prefetched: bool = False,
) -> EvaluationContext:
    """Open the dataset and shard the model (a collective); the training split is not read.

    Args:
        config: Configuration of the run.
        ranks: Place of this process among the ranks.
        given_plan: Plan of the tables; None to plan them now.
        initial: Precision that the run began with; None if it begins now, or its checkpoint records none.
        prepared: The run as `preflight.check` has prepared it for this process; None to prepare it now.
        prefetched: True if a pipeline fetches rows into the GPU's cache.

    Raises:
        UserError: The configuration does not fit the dataset or the cluster.
        DataError: The dataset is damaged.
    """
    run = prepare_run(config, ranks.world_size) if prepared is None else prepared
    selection = run.selection
    request = PlanningInputs(
        config.embeddings,
        config.table_optimizer.kind,
        cluster_of(ranks, config.topology),
        run.batch_size_per_rank,
        run.dataset.ids_per_sample(selection.sparse),
    )
    run_on_rank_zero(lambda: check_sizes(sizes_of(config, selection), request))
    precision = choose_precision(config, ranks, (run.batch_size_per_rank, *first_layer(config, selection)), initial)
    statistics = run.dataset.statistics() if selection.dense else {}
    bare = model_of(config, selection, statistics, ranks.device, precision.used)
    attach_table_optimizer(bare, config.table_optimizer, ranks.device)
    plan = agreed_plan(bare, request, given_plan)
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
    return EvaluationContext(**vars(run), ranks=ranks, model=model, bare=bare, plan=plan, precision=precision)


def build_context(
    config: RunConfig,
    ranks: Ranks,
    given_plan: SavedPlan | None = None,
    initial: Precision | None = None,
    prepared: PreparedRun | None = None,
) -> TrainContext:
    """Build the evaluation's context, and add the training batches and the optimizers (a collective).

    Args:
        config: Configuration of the run.
        ranks: Place of this process among the ranks.
        given_plan: Plan of the tables; None to plan them now.
        initial: Precision that the run began with; None if it begins now, or its checkpoint records none.
        prepared: The run as `preflight.check` has prepared it for this process; None to prepare it now.

    Raises:
        UserError: The configuration does not fit the dataset or the cluster.
        DataError: The dataset is damaged.
    """
    check_pipeline(config.train.pipeline, ranks.device)
    base = build_evaluation(
        config, ranks, given_plan, initial, prepared, prefetched=config.train.pipeline == "prefetch"
    )
    loader = base.training_loader(ranks.rank)
    loader.pin = ranks.device.type == "cuda"
    steps = base.steps_of(loader)
    # Weight decay would pull the learned log-variances towards 0.
    undecayed = base.bare.weighting.parameters()
    optimizers = Optimizers(
        base.model, config.dense_optimizer, config.table_optimizer, config.schedule, steps, undecayed
    )
    # The model is initialised by now with one seed for all ranks; dropout needs a seed for each.
    torch.manual_seed(config.seed + 1 + ranks.rank)
    return TrainContext(**vars(base), loader=loader, total_steps=steps, optimizers=optimizers)
