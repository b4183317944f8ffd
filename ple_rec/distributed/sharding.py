"""A plan put to work: the model with its tables sharded by it, and the shards of this rank."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
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
from ple_rec.config.plan import Plan
from ple_rec.config.plan_table import TablePlan
from ple_rec.config.run import QcommsConfig
from ple_rec.distributed.collectives import run_on_rank_zero
from ple_rec.distributed.layouts import TableSharder
from ple_rec.distributed.plan_check import GivenPlan, usable
from ple_rec.distributed.planner import PlanningInputs, collections, make_plan
from ple_rec.distributed.process_group import Ranks
from ple_rec.distributed.qcomms import codecs_of
from ple_rec.distributed.table_init import initial_bound, uniform_rows_

FP32 = QcommsConfig()


def agreed_plan(module: nn.Module, request: PlanningInputs, given: GivenPlan | None = None) -> Plan:
    """The plan that rank 0 was given, where it is one of this run, or makes; on every rank (a collective).

    Args:
        module: With the collection that is to be sharded.
        request: What to plan for, as rank 0 sees it.
        given: Made before.

    Raises:
        UserError: no plan fits, or the given one does not; a PeerError on the other ranks.
    """

    def decide() -> Plan:
        plan = None if given is None else usable(given, module, request)
        return plan or make_plan(module, request)

    decided = [run_on_rank_zero(decide)]
    dist.broadcast_object_list(decided, src=0)
    assert decided[0] is not None
    return decided[0]


def sharding_plan(module: nn.Module, plan: Plan) -> ShardingPlan:
    """Return the plan as TorchRec's wrapper takes it: by the path of the collection that has the table."""
    tables = {table.table: table for table in plan.tables}
    found: dict[str, EmbeddingModuleShardingPlan] = {}
    for path, collection in collections(module).items():
        found[path] = EmbeddingModuleShardingPlan()
        for table in collection.embedding_bag_configs():
            found[path][table.name] = _parameter_sharding(tables[table.name], plan.cluster)
    return ShardingPlan(found)


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
    plan: Plan,
    ranks: Ranks,
    *,
    init_scale: float,
    seed: int,
    qcomms: QcommsConfig = FP32,
    prefetched: bool = False,
) -> DistributedModelParallel:
    """`module` with its tables sharded by the plan and the rest data-parallel; tables initialised from the seed.

    Args:
        module: Its collection on the meta device, with the optimizer attached to its parameters.
        plan: Of these ranks.
        ranks: The cluster.
        init_scale: Of the initial rows.
        seed: Of the run.
        qcomms: Precision of the exchanges.
        prefetched: Whether rows are to be fetched into the caches of tables that have one ahead of their step.

    Raises:
        UserError: int8 with a batch that does not divide into its rows.
    """
    rows = {table.table: table.rows for table in plan.tables}
    codecs = codecs_of(qcomms, plan.batch_size_per_rank, [table.dim for table in plan.tables], ranks.world_size)
    with _Undrawn():
        model = DistributedModelParallel(
            module,
            device=ranks.device,
            plan=sharding_plan(module, plan),
            sharders=[TableSharder({table.sharding for table in plan.tables}, codecs, prefetched=prefetched)],
            # Not static: a rank whose batches hold no sample of a task runs the same graph, and evaluation runs none.
            data_parallel_wrapper=DefaultDataParallelWrapper(static_graph=False),
        )
    initialise_tables(model, rows, init_scale, seed)
    return model


class _Undrawn(TorchFunctionMode):
    """Rows are not drawn where they come to lie: all of them are written once more, by `initialise_tables`.

    TorchRec's fused kernels draw whatever `init_fn` a table has, which takes about as long as to hash the rows.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func is torch.Tensor.uniform_ else func(*args, **(kwargs or {}))


def local_shards(model: nn.Module) -> Iterator[tuple[str, torch.Tensor, int, int, int]]:
    """(table, local storage, first row, first column, dim) of every table shard that this rank holds."""
    for key, value in model.state_dict().items():
        if isinstance(value, ShardedTensor):
            for piece in value.local_shards():
                row, column = piece.metadata.shard_offsets
                yield key.split(".")[-2], piece.tensor, row, column, value.size(1)


def initialise_tables(model: nn.Module, rows: Mapping[str, int], scale: float, seed: int) -> None:
    """Fill every table with U(-scale/sqrt(rows), scale/sqrt(rows)), the same values at every world size and plan."""
    with torch.no_grad():
        for table, shard_RD, row, column, dim in local_shards(model):
            bound = initial_bound(rows[table], scale)
            uniform_rows_(shard_RD, bound, seed=seed, table=table, first_row=row, first_column=column, dim=dim)
