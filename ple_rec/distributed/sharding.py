"""Sharding of a model by a plan, and the table shards of this rank."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torch.overrides import TorchFunctionMode
from torchrec.distributed.model_parallel import DefaultDataParallelWrapper, DistributedModelParallel
from torchrec.distributed.sharding_plan import placement
from torchrec.distributed.types import (
    CacheParams,
    EmbeddingModuleShardingPlan,
    EnumerableShardingSpec,
    ParameterSharding,
    ShardingPlan,
    ShardMetadata,
)

from ple_rec.config.cluster import Cluster
from ple_rec.config.plan import PlanFile
from ple_rec.config.plan_table import TablePlan
from ple_rec.config.run import QcommsConfig
from ple_rec.distributed.collectives import broadcast, run_on_rank_zero
from ple_rec.distributed.layouts import TableSharder
from ple_rec.distributed.plan_check import SavedPlan, fitting_plan
from ple_rec.distributed.planner import PlanningInputs, collections, make_plan
from ple_rec.distributed.process_group import Ranks
from ple_rec.distributed.qcomms import codecs_of
from ple_rec.distributed.table_init import initial_bound, uniform_rows_

FP32 = QcommsConfig()


def agreed_plan(module: nn.Module, inputs: PlanningInputs, saved_plan: SavedPlan | None = None) -> PlanFile:
    """Return the plan of rank 0 on every rank (a collective): the saved one if it fits this run, else a new one.

    Args:
        module: Model with the embedding collection that is to be sharded.
        inputs: Cluster, batch and constraints to plan for; those of rank 0 count.
        saved_plan: Plan that was read from a file, if there is one; that of rank 0 counts.

    Raises:
        UserError: No plan fits, or the saved one must fit and does not. The other ranks raise PeerError.
    """

    def decide() -> PlanFile:
        plan = None if saved_plan is None else fitting_plan(saved_plan, module, inputs)
        return plan or make_plan(module, inputs)

    plan = broadcast(run_on_rank_zero(decide))
    assert plan is not None
    return plan


def sharding_plan(module: nn.Module, plan: PlanFile) -> ShardingPlan:
    """Return the plan in TorchRec's form: a sharding for each table, below the path of its collection."""
    tables = {table.table: table for table in plan.tables}
    plan_of: dict[str, EmbeddingModuleShardingPlan] = {}
    for path, collection in collections(module).items():
        plan_of[path] = EmbeddingModuleShardingPlan()
        for table in collection.embedding_bag_configs():
            plan_of[path][table.name] = _parameter_sharding(tables[table.name], plan.cluster)
    return ShardingPlan(plan_of)


def _parameter_sharding(table: TablePlan, cluster: Cluster) -> ParameterSharding:
    device, shards = "cuda" if cluster.cuda else "cpu", table.shards(cluster)
    metadata = [
        ShardMetadata(
            shard_sizes=[shard.rows, shard.columns],
            shard_offsets=[shard.row, shard.column],
            placement=placement(device, shard.rank, cluster.ranks_per_host),
        )
        for shard in shards
    ]
    cached = table.cache_load_factor is not None
    return ParameterSharding(
        sharding_type=table.sharding,
        compute_kernel=table.kernel,
        ranks=[shard.rank for shard in shards],
        sharding_spec=EnumerableShardingSpec(metadata),
        cache_params=CacheParams(load_factor=table.cache_load_factor) if cached else None,
    )


def shard(
    module: nn.Module,
    plan: PlanFile,
    ranks: Ranks,
    *,
    init_scale: float,
    seed: int,
    qcomms: QcommsConfig = FP32,
    prefetched: bool = False,
) -> DistributedModelParallel:
    """Return the model with tables sharded by the plan and initialised from the seed, and data-parallel dense layers.

    Args:
        module: Model whose embedding collection is on the meta device and has its optimizer attached.
        plan: Plan of the tables for these ranks.
        ranks: Place of this process among the ranks.
        init_scale: Scale of the initial rows; see `table_init.initial_bound`.
        seed: Seed of the run.
        qcomms: Precision of the exchanges.
        prefetched: True if rows are fetched ahead of their step into the caches of the tables that have one.

    Raises:
        UserError: The precision is int8, and a batch does not fill whole rows of its codec.
    """
    rows = {table.table: table.rows for table in plan.tables}
    codecs = codecs_of(qcomms, plan.batch_size_per_rank, [table.dim for table in plan.tables], ranks.world_size)
    with _SkipUniform():
        model = DistributedModelParallel(
            module,
            device=ranks.device,
            plan=sharding_plan(module, plan),
            sharders=[TableSharder({table.sharding for table in plan.tables}, codecs, prefetched=prefetched)],
            # Every rank runs the same graph in each step, even without a sample of some task. But evaluation has no
            # backward pass, which a static graph would expect.
            data_parallel_wrapper=DefaultDataParallelWrapper(static_graph=False),
        )
    initialise_tables(model, rows, init_scale, seed)
    return model


class _SkipUniform(TorchFunctionMode):
    """Mode in which `Tensor.uniform_` does nothing, since `initialise_tables` overwrites every row.

    TorchRec's fused kernels draw random rows whatever `init_fn` a table has. That takes about as long as
    `initialise_tables` itself.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func is torch.Tensor.uniform_ else func(*args, **(kwargs or {}))


def local_shards(model: nn.Module) -> Iterator[tuple[str, torch.Tensor, int, int, int]]:
    """Yield (table, local storage, first row, first column, dim) of every table shard of this rank."""
    for key, value in model.state_dict().items():
        if isinstance(value, ShardedTensor):
            for piece in value.local_shards():
                row, column = piece.metadata.shard_offsets
                yield key.split(".")[-2], piece.tensor, row, column, value.size(1)


def initialise_tables(model: nn.Module, rows: Mapping[str, int], scale: float, seed: int) -> None:
    """Fill every table with U(-scale/sqrt(rows), scale/sqrt(rows)); world size and plan do not change the values."""
    with torch.no_grad():
        for table, shard_RD, row, column, dim in local_shards(model):
            bound = initial_bound(rows[table], scale)
            uniform_rows_(shard_RD, bound, seed=seed, table=table, first_row=row, first_column=column, dim=dim)
