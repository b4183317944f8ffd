"""Search for the best sharding of tables by TorchRec's planner and cost model, under given constraints.

The bytes of a shard come from this project's `shard_memory`, and the time of a shard from TorchRec's cost model.
"""

from __future__ import annotations

from collections.abc import Mapping

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
    PlannerError,
    Proposer,
    SharderDataMap,
    ShardingOption,
    Storage,
)

from ple_rec.config.cluster import Cluster
from ple_rec.config.plan import PlanFile
from ple_rec.config.plan_table import Dtype, shard_memory
from ple_rec.distributed.layouts import HostPartitioner, ProposalCallback, table_sharders
from ple_rec.distributed.planning_inputs import PlanningInputs, all_tables, dtype_of, is_unpooled
from ple_rec.distributed.qcomms import qcomm_codecs
from ple_rec.distributed.topology import torchrec_topology

# Number of combinations of the tables' layouts that the grid search tries on one rank. The time of a trial grows with
# the number of ranks, so on W ranks the search tries this number divided by W.
_COMBINATIONS = 20_000


def search_plan(
    module: nn.Module,
    empty_plan: PlanFile,
    inputs: PlanningInputs,
    constraints: Mapping[str, ParameterConstraints],
    on_proposal: ProposalCallback | None,
) -> list[ShardingOption] | None:
    """Search for the fastest plan that fits, by TorchRec's planner.

    Args:
        module: Model whose embedding collections are on the meta device.
        empty_plan: Plan without tables, which says how much memory tables may use.
        inputs: Cluster, batch and constraints to plan for.
        constraints: Layouts that each table may have, by table name.
        on_proposal: Function that is called with the number of proposals that this search has tried so far, or None.

    Returns:
        Sharding option of each table in the best plan, with estimates of time and memory; None if no plan fits.
    """
    topology = torchrec_topology(inputs.cluster, empty_plan.allowed_hbm, empty_plan.allowed_host)
    constraint_dict = dict(constraints)
    tables = all_tables(module)
    dtypes = {table.name: dtype_of(table) for table in tables}
    hosts = {name: config.hosts for name, config in inputs.embeddings.tables.items() if config.hosts is not None}
    enumerator = EmbeddingEnumerator(
        topology=topology,
        batch_size=inputs.batch_size_per_rank,
        constraints=constraint_dict,
        estimator=[
            EmbeddingPerfEstimatorFactory.create(
                DEFAULT_PERF_ESTIMATOR, topology=topology, constraints=constraint_dict
            ),
            _ShardStorage(topology, inputs, dtypes),
        ],
    )
    planner = EmbeddingShardingPlanner(
        topology=topology,
        batch_size=inputs.batch_size_per_rank,
        enumerator=enumerator,
        # The memory in the topology is already without the reserved memory, so TorchRec need not reserve any.
        storage_reservation=FixedPercentageStorageReservation(0.0),
        proposer=_proposers(inputs.cluster),
        partitioner=HostPartitioner(hosts, inputs.cluster.ranks_per_host, on_proposal),
        constraints=constraint_dict,
        stats=[],
        debug=False,
    )
    sharding_types = {
        sharding for constraint in constraint_dict.values() for sharding in constraint.sharding_types or ()
    }
    dims = [table.embedding_dim for table in tables if not is_unpooled(table)]
    codecs = qcomm_codecs(inputs.embeddings.qcomms, inputs.batch_size_per_rank, dims, inputs.cluster.world_size)
    try:
        planner.plan(module, table_sharders(sharding_types, codecs))
    except PlannerError:
        return None
    # The return value of `planner.plan` has no estimates of time, but the private attribute has them.
    best = planner._best_plan
    assert best is not None  # `plan` raises an error if it has no plan.
    return best


def _proposers(cluster: Cluster) -> list[Proposer]:
    """Return TorchRec's default proposers, with a limit that keeps the grid search to seconds."""
    return [
        GridSearchProposer(max_proposals=_COMBINATIONS // cluster.world_size),
        GreedyProposer(),
        GreedyProposer(use_depth=False),
        UniformProposer(),
    ]


class _ShardStorage(EmbeddingStorageEstimator):
    """Estimator of a shard's bytes that replaces TorchRec's formula by `shard_memory` of this project.

    Args:
        topology: TorchRec's topology of the cluster.
        inputs: Cluster, batch and optimizer of the tables.
        dtypes: Type of each table's values, by table name.
    """

    def __init__(self, topology: Topology, inputs: PlanningInputs, dtypes: Mapping[str, Dtype]) -> None:
        super().__init__(topology=topology)
        self._inputs, self._dtypes = inputs, dtypes

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
                    optimizer=self._inputs.optimizer,
                    cluster=self._inputs.cluster,
                    batch_size_per_rank=self._inputs.batch_size_per_rank,
                    unpooled=not option.is_pooled,
                )
                shard.storage = Storage(hbm=memory.hbm, ddr=memory.host, ssd=0)
