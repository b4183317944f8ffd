"""Context of a run on one rank: dataset, loaders, sharded model and optimizers.

`build_evaluation_context` and `build_context` return it for an evaluation and for a training. They are
collectives, because the ranks agree on a sharding plan of the embedding tables.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torchrec.distributed.model_parallel import DistributedModelParallel

from ple_rec.config.base import Split
from ple_rec.config.plan import PlanFile
from ple_rec.config.run import PipelineKind, RunConfig
from ple_rec.data.loader import Loader
from ple_rec.data.slices import Slicing
from ple_rec.distributed.collectives import run_on_rank_zero
from ple_rec.distributed.optimizers import Optimizers, attach_table_optimizer
from ple_rec.distributed.plan_check import SavedPlan
from ple_rec.distributed.planner import check_sizes
from ple_rec.distributed.planning_inputs import PlanningInputs
from ple_rec.distributed.process_group import Ranks
from ple_rec.distributed.sharding import agreed_plan, shard
from ple_rec.distributed.topology import detect_cluster
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.modules.routing import GateLabels
from ple_rec.training.batch_feeder import choose_pipeline
from ple_rec.training.compilation import eager_reason
from ple_rec.training.model import build_unsharded_model, first_layer_shape, model_sizes
from ple_rec.training.precision import Precision, choose_precision
from ple_rec.training.prepared import PreparedRun, prepare_run


@dataclass(frozen=True)
class EvaluationContext(PreparedRun):
    """Fields of `PreparedRun`, and the sharded model of an evaluation on one rank.

    Args:
        ranks: Place of this process among the ranks.
        model: Sharded model.
        unwrapped_model: Module that `model` wraps.
        plan: Sharding plan of the embedding tables.
        precision: Precision of the dense layers' matrix products.
    """

    ranks: Ranks
    model: DistributedModelParallel
    unwrapped_model: MultiTaskModel
    plan: PlanFile
    precision: Precision

    @property
    def gate_labels(self) -> tuple[GateLabels, ...]:
        """Names of outputs and experts of each gate, in the order of the gates that the model returns."""
        return self.unwrapped_model.extraction.gate_labels

    def evaluation_loader(self, split: Split, slices: tuple[Slicing, ...] = ()) -> Loader:
        """Return this rank's part of the batches of a split, in file order; over all ranks, every row comes once.

        Args:
            split: Split to read.
            slices: Columns by whose values metrics are sliced; the batches also hold the codes of their values.
        """
        world_size = self.world_size
        # A loader needs a batch size that the number of ranks divides, so the batch size of the run is rounded up.
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
    """Fields of `EvaluationContext`, and the training batches and optimizers on one rank.

    Args:
        loader: Batches of the training split, for this rank.
        total_steps: Number of steps of the run.
        optimizers: Optimizers of the tables and of the dense layers.
        eager_reason: Reason why the dense layers of a training step are not compiled; None if they are.
        pipeline: Work of later steps that overlaps with a step, as `choose_pipeline` returns it.
    """

    loader: Loader
    total_steps: int
    optimizers: Optimizers
    eager_reason: str | None
    pipeline: PipelineKind


def build_evaluation_context(
    config: RunConfig,
    ranks: Ranks,
    saved_plan: SavedPlan | None = None,
    initial_precision: Precision | None = None,
    prepared_run: PreparedRun | None = None,
    *,
    prefetched: bool = False,
) -> EvaluationContext:
    """Build the context of an evaluation: open the dataset and shard the model (a collective).

    Args:
        config: Configuration of the run.
        ranks: Place of this process among the ranks.
        saved_plan: Sharding plan of the tables; None to plan them now.
        initial_precision: Precision that the run began with; None if it begins now, or its checkpoint records none.
        prepared_run: The run with its open dataset, if this process has prepared it; None to prepare it now.
        prefetched: True for the pipeline "prefetch", which fetches rows into the GPU's cache one step ahead.

    Raises:
        UserError: The configuration does not fit the dataset or the cluster.
        DataError: The dataset is damaged.
    """
    prepared_run = prepare_run(config, ranks.world_size) if prepared_run is None else prepared_run
    selection = prepared_run.selection
    planning_inputs = PlanningInputs(
        config.embeddings,
        config.table_optimizer.kind,
        detect_cluster(ranks, config.topology),
        prepared_run.batch_size_per_rank,
        prepared_run.dataset.ids_per_sample(selection.sparse),
        selection.frozen_bytes,
    )
    run_on_rank_zero(lambda: check_sizes(model_sizes(config, selection), planning_inputs))
    # A precision that is not configured is chosen by the speed of the first dense layer, so its shape is needed.
    precision = choose_precision(
        config, ranks, (prepared_run.batch_size_per_rank, *first_layer_shape(config, selection)), initial_precision
    )
    statistics = prepared_run.dataset.statistics() if selection.dense or selection.vectors else {}
    unwrapped_model = build_unsharded_model(config, selection, statistics, ranks.device, precision.name)
    # The kernels of the tables run this optimizer, so it is attached before sharding; training builds on this context.
    attach_table_optimizer(unwrapped_model, config.table_optimizer, ranks.device)
    plan = agreed_plan(unwrapped_model, planning_inputs, saved_plan)
    embeddings = config.embeddings
    model = shard(
        unwrapped_model,
        plan,
        ranks,
        init_scale=embeddings.init_scale,
        seed=config.seed,
        qcomms=embeddings.qcomms,
        prefetched=prefetched,
    )
    return EvaluationContext(
        **vars(prepared_run), ranks=ranks, model=model, unwrapped_model=unwrapped_model, plan=plan, precision=precision
    )


def build_context(
    config: RunConfig,
    ranks: Ranks,
    saved_plan: SavedPlan | None = None,
    initial_precision: Precision | None = None,
    prepared_run: PreparedRun | None = None,
) -> TrainContext:
    """Build the context of a training: that of an evaluation, the training batches and the optimizers (a collective).

    Args:
        config: Configuration of the run.
        ranks: Place of this process among the ranks.
        saved_plan: Sharding plan of the tables; None to plan them now.
        initial_precision: Precision that the run began with; None if it begins now, or its checkpoint records none.
        prepared_run: The run with its open dataset, if this process has prepared it; None to prepare it now.

    Raises:
        UserError: The configuration does not fit the dataset or the cluster.
        DataError: The dataset is damaged.
    """
    pipeline = choose_pipeline(config.train.pipeline, ranks.device)
    evaluation_context = build_evaluation_context(
        config, ranks, saved_plan, initial_precision, prepared_run, prefetched=pipeline == "prefetch"
    )
    loader = evaluation_context.training_loader(ranks.rank)
    loader.pin = ranks.device.type == "cuda"
    steps = evaluation_context.count_steps(loader)
    # Weight decay would pull the learned log-variances towards 0.
    undecayed = evaluation_context.unwrapped_model.weighting.parameters()
    optimizers = Optimizers(
        evaluation_context.model, config.dense_optimizer, config.table_optimizer, config.schedule, steps, undecayed
    )
    reason = eager_reason(config.train.compile, ranks.device, by_request=bool(evaluation_context.selection.requests))
    if reason is None:
        evaluation_context.unwrapped_model.compile_training()
    # The model has been initialised with the same seed on all ranks; dropout needs a different seed on each rank.
    torch.manual_seed(config.seed + 1 + ranks.rank)
    return TrainContext(
        **vars(evaluation_context),
        loader=loader,
        total_steps=steps,
        optimizers=optimizers,
        eager_reason=reason,
        pipeline=pipeline,
    )
