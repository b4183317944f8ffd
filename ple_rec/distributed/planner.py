"""Which rank holds which rows: TorchRec's planner and cost model, without a process group and without a GPU.

Kernels that keep a table in HBM are tried first. Only where no such plan fits are those added whose tables lie in the
host's memory (UVM): that search takes several times as long. `layouts.choices` has the order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.constants import DEFAULT_PERF_ESTIMATOR
from torchrec.distributed.planner.enumerators import EmbeddingEnumerator
from torchrec.distributed.planner.estimator import EmbeddingPerfEstimatorFactory
from torchrec.distributed.planner.proposers import GreedyProposer, GridSearchProposer, UniformProposer
from torchrec.distributed.planner.shard_estimators import EmbeddingStorageEstimator
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import (
    ParameterConstraints,
    Perf,
    PlannerError,
    Proposer,
    SharderDataMap,
    ShardingOption,
    Storage,
)
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from ple_rec.config.cluster import Cluster
from ple_rec.config.plan import PLAN_VERSION, Plan, reserved_of
from ple_rec.config.plan_table import Costs, Dtype, TableOptimizer, shard_memory, where_of
from ple_rec.config.run import EmbeddingsConfig
from ple_rec.distributed.capacity import DoesNotFitError, MemoryShortfall, largest_shortfall
from ple_rec.distributed.layouts import (
    Choice,
    HostPartitioner,
    TableSharder,
    Watch,
    check_hosts,
    choices,
    constraints_of,
)
from ple_rec.distributed.qcomms import codecs_of
from ple_rec.distributed.topology import torchrec_topology

_BYTES_PER_DENSE = 20  # fp32 weight, gradient, its bucket in the all-reduce, and two values of Adam
_DIGITS = 6  # of a millisecond
_COMBINATIONS = 20_000  # that are tried on one rank; on W ranks, each of which makes a trial longer, a W-th


@dataclass(frozen=True)
class PlanningInputs:
    """What to plan for.

    Args:
        embeddings: Constraints, per table or for all.
        optimizer: Of the tables.
        cluster: Hosts and ranks.
        batch_size_per_rank: B.
        ids_per_sample: By feature; 1 where it is not named.
    """

    embeddings: EmbeddingsConfig
    optimizer: TableOptimizer
    cluster: Cluster
    batch_size_per_rank: int
    ids_per_sample: Mapping[str, float]

    def ids(self, table: EmbeddingBagConfig) -> tuple[float, ...]:
        """A sample's ids of each feature that reads the table."""
        own = self.embeddings.tables.get(table.name)
        given = own.ids_per_sample if own is not None else None
        return tuple(given or self.ids_per_sample.get(name, 1.0) or 1.0 for name in table.feature_names)


@dataclass(frozen=True)
class ModelSizes:
    """Sizes of a model that follow from the configuration, so that no layer is built to know them.

    Args:
        tables: Every embedding table.
        dense_parameters: Number of values that the layers outside the tables have at least.
    """

    tables: Sequence[EmbeddingBagConfig]
    dense_parameters: int


def collections(module: nn.Module) -> dict[str, EmbeddingBagCollection]:
    """The unsharded embedding collections in `module`, by dotted name."""
    return {name: m for name, m in module.named_modules() if isinstance(m, EmbeddingBagCollection)}


def dense_bytes(module: nn.Module) -> int:
    """Bytes that the parameters outside the tables take on every rank, optimizer and gradients included."""
    tables = {id(p) for collection in collections(module).values() for p in collection.parameters()}
    return _BYTES_PER_DENSE * sum(p.numel() for p in module.parameters() if id(p) not in tables)


def make_plan(module: nn.Module, request: PlanningInputs, watch: Watch | None = None) -> Plan:
    """Decide a sharding, kernel and ranks for every table of `module`.

    Args:
        module: Holds the collection, on the meta device.
        request: What to plan for.
        watch: Told of every proposal that is tried.

    Returns:
        The plan with the least estimated time of the busiest rank, of those that the planner tried.

    Raises:
        DoesNotFitError: no plan keeps every rank below its memory.
        UserError: the configuration forces what cannot be.
    """
    check_hosts(request.embeddings, request.cluster)
    tables = [c for m in collections(module).values() for c in m.embedding_bag_configs()]
    empty = _without_tables(request, dense_bytes(module))
    if not tables:
        return empty
    lacking = None
    for choice in choices(request.cluster):
        constraints, lacking = _limits(empty, tables, request, choice)
        options = None if lacking.certain else _search(module, empty, request, constraints, watch)
        if options is not None:
            found = {option.name: option for option in options}
            placed = [_table_plan(t, found[t.name], request) for t in sorted(tables, key=lambda t: t.name)]
            plan = Plan.model_validate({**dict(empty), "tables": tuple(placed)})  # which copies would not check
            _check_shards(plan, found)
            return plan
    assert lacking is not None
    raise DoesNotFitError.of(lacking)


def check_sizes(sizes: ModelSizes, request: PlanningInputs) -> None:
    """Refuse a model that no plan can hold, by sizes alone.

    A model that is too large must be refused before it is built: even on the meta device its layers are counted in
    64 bits, and lists of its columns take memory.

    Args:
        sizes: Sizes of the model.
        request: Cluster, batch and constraints that a plan would be made for.

    Raises:
        DoesNotFitError: the tables or the dense layers exceed the memory of the ranks.
        UserError: the configuration forces what cannot be.
    """
    check_hosts(request.embeddings, request.cluster)
    empty = _without_tables(request, _BYTES_PER_DENSE * sizes.dense_parameters)
    if not sizes.tables:
        cuda = request.cluster.cuda
        if (empty.allowed_hbm if cuda else empty.allowed_host) > 0:
            return
        raise DoesNotFitError.of(
            MemoryShortfall(
                certain=True,
                table="",
                layout="",
                alone=False,
                memory="HBM" if cuda else "host memory",
                needed=empty.reserved.dense_bytes,
                allowed=0,
                plan=empty,
            )
        )
    lacking = [_limits(empty, sizes.tables, request, choice)[1] for choice in choices(request.cluster)]
    if all(each.certain for each in lacking):
        raise DoesNotFitError.of(lacking[-1])


def is_hopeless(sizes: ModelSizes, request: PlanningInputs) -> bool:
    """Return True if no plan can exist, by sizes alone; the planner is not asked.

    Args:
        sizes: Sizes of the model.
        request: Cluster, batch and constraints that a plan would be made for.

    Raises:
        UserError: the configuration forces what cannot be.
    """
    try:
        check_sizes(sizes, request)
    except DoesNotFitError:
        return True
    return False


def _without_tables(request: PlanningInputs, dense_bytes: int) -> Plan:
    """Return the plan before any table is placed."""
    return Plan(
        version=PLAN_VERSION,
        cluster=request.cluster,
        batch_size_per_rank=request.batch_size_per_rank,
        optimizer=request.optimizer,
        reserved=reserved_of(request.cluster, dense_bytes),
        tables=(),
    )


def _limits(
    empty: Plan, tables: Sequence[EmbeddingBagConfig], request: PlanningInputs, choice: Choice
) -> tuple[dict[str, ParameterConstraints], MemoryShortfall]:
    """Constraints of every table, and what they lack most."""
    constraints = {
        t.name: constraints_of(
            request.embeddings, t.name, t.num_embeddings, t.embedding_dim, request.ids(t), request.cluster, choice
        )
        for t in tables
    }
    return constraints, largest_shortfall(empty, tables, constraints, {t.name: dtype_of(t) for t in tables})


def dtype_of(table: EmbeddingBagConfig) -> Dtype:
    """Of a table's rows."""
    return "fp16" if table.data_type == DataType.FP16 else "fp32"


def _search(
    module: nn.Module,
    empty: Plan,
    request: PlanningInputs,
    constraints: Mapping[str, ParameterConstraints],
    watch: Watch | None,
) -> list[ShardingOption] | None:
    """The best plan as TorchRec has it, which keeps it to itself; None where none fits."""
    topology = torchrec_topology(request.cluster, empty.allowed_hbm, empty.allowed_host)
    limits = dict(constraints)
    dtypes = {c.name: dtype_of(c) for m in collections(module).values() for c in m.embedding_bag_configs()}
    hosts = {name: own.hosts for name, own in request.embeddings.tables.items() if own.hosts is not None}
    enumerator = EmbeddingEnumerator(
        topology=topology,
        batch_size=request.batch_size_per_rank,
        constraints=limits,
        estimator=[
            EmbeddingPerfEstimatorFactory.create(DEFAULT_PERF_ESTIMATOR, topology=topology, constraints=limits),
            _ShardStorage(topology, request, dtypes),
        ],
    )
    planner = EmbeddingShardingPlanner(
        topology=topology,
        batch_size=request.batch_size_per_rank,
        enumerator=enumerator,
        storage_reservation=FixedPercentageStorageReservation(0.0),  # the topology has only what is allowed
        proposer=_proposers(request.cluster),
        partitioner=HostPartitioner(hosts, request.cluster.ranks_per_host, watch),
        constraints=limits,
        stats=[],
        debug=False,
    )
    asked_for = {sharding for limit in limits.values() for sharding in limit.sharding_types or ()}
    dims = [c.embedding_dim for m in collections(module).values() for c in m.embedding_bag_configs()]
    codecs = codecs_of(request.embeddings.qcomms, request.batch_size_per_rank, dims, request.cluster.world_size)
    try:
        planner.plan(module, [TableSharder(asked_for, codecs)])
    except PlannerError:
        return None
    best = planner._best_plan
    assert best is not None
    return best


def _proposers(cluster: Cluster) -> list[Proposer]:
    """TorchRec's own, of which the one that tries every combination does so while that takes seconds."""
    return [
        GridSearchProposer(max_proposals=_COMBINATIONS // cluster.world_size),
        GreedyProposer(),
        GreedyProposer(use_depth=False),
        UniformProposer(),
    ]


class _ShardStorage(EmbeddingStorageEstimator):
    """Bytes of a shard as this project counts them, in the place of TorchRec's own count."""

    def __init__(self, topology: Topology, request: PlanningInputs, dtypes: Mapping[str, Dtype]) -> None:
        super().__init__(topology=topology)
        self._request, self._dtypes = request, dtypes

    def estimate(self, sharding_options: list[ShardingOption], sharder_data_map: SharderDataMap) -> None:
        """Set the storage of every shard of every option."""
        for option in sharding_options:
            for shard in option.shards:
                rows, columns = shard.size
                memory = shard_memory(
                    rows=rows,
                    columns=columns,
                    dtype=self._dtypes[option.name],
                    ids_per_sample=tuple(option.input_lengths),
                    sharding=option.sharding_type,
                    kernel=option.compute_kernel,
                    cache_load_factor=option.cache_load_factor,
                    optimizer=self._request.optimizer,
                    cluster=self._request.cluster,
                    batch_size_per_rank=self._request.batch_size_per_rank,
                )
                shard.storage = Storage(hbm=memory.hbm, ddr=memory.host, ssd=0)


def _table_plan(table: EmbeddingBagConfig, option: ShardingOption, request: PlanningInputs) -> dict[str, Any]:
    cached = option.compute_kernel == "fused_uvm_caching"
    ranks = tuple(shard.rank for shard in option.shards)
    return {
        "table": table.name,
        "rows": table.num_embeddings,
        "dim": table.embedding_dim,
        "dtype": dtype_of(table),
        "ids_per_sample": request.ids(table),
        "sharding": option.sharding_type,
        **where_of(option.sharding_type, ranks, request.cluster.ranks_per_host),
        "kernel": option.compute_kernel,
        "cache_load_factor": option.cache_load_factor if cached else None,
        "costs_ms": _costs(max((shard.perf for shard in option.shards), key=lambda perf: perf.total)),
    }


def _check_shards(plan: Plan, found: Mapping[str, ShardingOption]) -> None:
    """Hold the shards that follow from a plan to those that TorchRec has planned."""
    for table in plan.tables:
        planned = [(s.rank, s.offset[0], s.size[0], s.offset[1], s.size[1]) for s in found[table.table].shards]
        assert list(table.shards(plan.cluster)) == planned, f"{table.table}: TorchRec has other shards, {planned}"


def _costs(perf: Perf) -> Costs:
    return Costs(
        ids=round(perf.input_dist_comms, _DIGITS),
        lookup=round(perf.fwd_compute, _DIGITS),
        output=round(perf.fwd_comms, _DIGITS),
        gradient=round(perf.bwd_comms, _DIGITS),
        update=round(perf.bwd_compute, _DIGITS),
        prefetch=round(perf.prefetch_compute, _DIGITS),
    )
