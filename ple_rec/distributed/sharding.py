"""Sharding of a model's embedding tables over the ranks by a plan, with initial values that do not depend on the plan.

A run calls `agreed_plan`, by which all ranks get the same plan, and then `shard`. `local_shards` finds the shards of
this rank in a sharded model.

Shape suffixes: R rows and D columns of a shard.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torch.overrides import TorchFunctionMode
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.sharding_plan import placement
from torchrec.distributed.types import (
    CacheParams,
    EmbeddingModuleShardingPlan,
    EnumerableShardingSpec,
    ParameterSharding,
    ShardingPlan,
    ShardMetadata,
)
from torchrec.optim.optimizers import in_backward_optimizer_filter

from ple_rec.config.cluster import Cluster
from ple_rec.config.plan import PlanFile
from ple_rec.config.plan_table import TablePlan
from ple_rec.config.run import QcommsConfig
from ple_rec.distributed.collectives import broadcast, run_on_rank_zero
from ple_rec.distributed.gradients import broadcast_parameters
from ple_rec.distributed.layouts import table_sharders
from ple_rec.distributed.plan_check import SavedPlan, fitting_plan
from ple_rec.distributed.planner import make_plan
from ple_rec.distributed.planning_inputs import PlanningInputs, collection_tables, embedding_collections
from ple_rec.distributed.process_group import Ranks
from ple_rec.distributed.qcomms import qcomm_codecs
from ple_rec.distributed.table_init import initial_bound, uniform_rows_

FP32 = QcommsConfig()  # Default precision of the exchanges.


def agreed_plan(module: nn.Module, inputs: PlanningInputs, saved_plan: SavedPlan | None = None) -> PlanFile:
    """Return the same plan on every rank (a collective): the saved plan if it fits this run, or else a new one.

    Rank 0 decides, so `inputs` and `saved_plan` of the other ranks are ignored.

    Args:
        module: Model with the embedding collections that are to be sharded.
        inputs: Cluster, batch and constraints to plan for.
        saved_plan: Plan that was read from a file; None if there is none.

    Raises:
        UserError: On rank 0, if no plan fits, or if the saved plan does not fit and may not be replaced.
        PeerError: On the other ranks, if rank 0 fails.
    """

    def decide() -> PlanFile:
        plan = None if saved_plan is None else fitting_plan(saved_plan, module, inputs)
        return plan or make_plan(module, inputs)

    plan = broadcast(run_on_rank_zero(decide))
    assert plan is not None  # `broadcast` returns the value of rank 0, where `decide` was run.
    return plan


def sharding_plan(module: nn.Module, plan: PlanFile) -> ShardingPlan:
    """Return the plan in TorchRec's form: the sharding of each table, by path of its collection and table name."""
    tables = {table.table: table for table in plan.tables}
    plan_by_path: dict[str, EmbeddingModuleShardingPlan] = {}
    for path, collection in embedding_collections(module).items():
        plan_by_path[path] = EmbeddingModuleShardingPlan()
        for table in collection_tables(collection):
            plan_by_path[path][table.name] = _parameter_sharding(tables[table.name], plan.cluster)
    return ShardingPlan(plan_by_path)


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
    """Return the model with tables sharded by the plan and initialised from the seed, and equal dense layers.

    Args:
        module: Model whose embedding collections are on the meta device and have their optimizer attached.
        plan: Plan of the tables for these ranks.
        ranks: This process among the ranks of the run.
        init_scale: Scale of the initial rows; see `table_init.initial_bound`.
        seed: Seed of the run.
        qcomms: Precision of the exchanges.
        prefetched: True if the rows of the next step are fetched into the GPU's caches during the current step.

    Raises:
        UserError: The exchange precision is int8, and the batch size per rank is not a multiple that its codec needs.
    """
    rows = {table.table: table.rows for table in plan.tables}
    dims = [table.dim for table in plan.tables if not table.unpooled]
    codecs = qcomm_codecs(qcomms, plan.batch_size_per_rank, dims, ranks.world_size)
    with _SkipUniform():
        model = DistributedModelParallel(
            module,
            device=ranks.device,
            plan=sharding_plan(module, plan),
            sharders=table_sharders({table.sharding for table in plan.tables}, codecs, prefetched=prefetched),
            # `Optimizers` averages the gradients of the dense layers, without DistributedDataParallel.
            init_data_parallel=False,
        )
    if ranks.world_size > 1:
        broadcast_parameters([parameter for _, parameter in in_backward_optimizer_filter(model.named_parameters())])
    initialise_tables(model, rows, init_scale, seed)
    return model


class _SkipUniform(TorchFunctionMode):
    """Mode in which `Tensor.uniform_` does nothing, since `initialise_tables` overwrites every row afterwards.

    TorchRec's fused kernels draw random rows even if a table has an `init_fn` of its own. This would take about as long
    as `initialise_tables` itself.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func is torch.Tensor.uniform_ else func(*args, **(kwargs or {}))


def local_shards(model: nn.Module) -> Iterator[tuple[str, torch.Tensor, int, int, int]]:
    """Yield each table shard of this rank: table name, values, first row, first column, columns of the whole table.

    The values share the memory of the model, so writing to them changes the model.
    """
    return shards_of_state(model.state_dict())


def shards_of_state(state: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor, int, int, int]]:
    """Yield each table shard of this rank as `local_shards` does, from the `state_dict` of a model."""
    for key, value in state.items():
        if isinstance(value, ShardedTensor):
            for piece in value.local_shards():
                row, column = piece.metadata.shard_offsets
                yield table_of_key(key), piece.tensor, row, column, value.size(1)


def table_of_key(key: str) -> str:
    """Return the name of the table of a parameter, such as `user` for `embeddings.embedding_bags.user.weight`.

    The keys of unpooled tables are such as `sequences.embeddings.user.weight`.
    """
    return key.split(".")[-2]


def initialise_tables(model: nn.Module, rows: Mapping[str, int], scale: float, seed: int) -> None:
    """Fill the shards of this rank with initial values, uniform on [-b, b) with b = scale / sqrt(rows of the table).

    The values depend on neither the number of ranks nor the plan.

    Args:
        model: Sharded model.
        rows: Number of rows allocated for each table, by its name.
        scale: Configured factor of the bound.
        seed: Seed of the run.
    """
    with torch.no_grad():
        for table, shard_RD, row, column, dim in local_shards(model):
            bound = initial_bound(rows[table], scale)
            uniform_rows_(shard_RD, bound, seed=seed, table=table, first_row=row, first_column=column, dim=dim)
