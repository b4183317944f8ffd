"""Planner that decides how each embedding table is sharded over the ranks, by TorchRec's planner and cost model.

It needs neither a process group nor a GPU, so a plan can be made on any machine for any cluster. A plan (`PlanFile`)
gives each table a sharding, a kernel (the code that stores and reads the table) and ranks.

`layouts.search_spaces` lists search spaces from small to large, and the planner stops at the first space in which it
finds a plan that fits. For GPUs, the first spaces have only kernels that keep a table in HBM (the memory of the GPU).
The last space also has the kernels whose tables lie in host memory (UVM), and its search takes several times as long.

TorchRec's cost model does not know that each sharding type in a plan adds collectives and host work of its own to a
step. So in each space the planner searches several times: once for each sharding type, which then every table has that
may have it, and once with all types. It takes the plan whose `PlanFile.tables_ms`, the estimated milliseconds of a
step's work for tables, is the smallest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from torch import nn
from torchrec.distributed.planner.types import ParameterConstraints, Perf, ShardingOption
from torchrec.modules.embedding_configs import BaseEmbeddingConfig

from ple_rec.config.plan import PLAN_VERSION, PlanFile, reserved_memory
from ple_rec.config.plan_table import Costs, placement_keys
from ple_rec.distributed.capacity import DoesNotFitError, LeastMemory, MemoryShortfall
from ple_rec.distributed.layouts import (
    ProposalCallback,
    SearchSpace,
    check_table_hosts,
    search_spaces,
    table_constraints,
)
from ple_rec.distributed.plan_search import search_plan
from ple_rec.distributed.planning_inputs import PlanningInputs, all_tables, dtype_of, embedding_collections, is_unpooled

# For each parameter outside the tables, a rank stores five fp32 values of four bytes: the weight, the gradient, the
# gradient's copy in the flat tensor of the all-reduce, and two moments of Adam.
_BYTES_PER_DENSE = 20
# The costs in a plan's file, in milliseconds, are rounded to this many decimals, so that equal plans have equal files.
_DIGITS = 6


@dataclass(frozen=True)
class ModelSizes:
    """Sizes of a model, computed from the configuration alone, before any layer is built.

    Args:
        tables: Configurations of all embedding tables.
        dense_parameters: Lower bound of the number of parameters outside the tables.
    """

    tables: Sequence[BaseEmbeddingConfig]
    dense_parameters: int


def dense_bytes(module: nn.Module) -> int:
    """Return the bytes that the parameters outside the tables take on each rank, with gradients and optimizer."""
    tables = {id(p) for collection in embedding_collections(module).values() for p in collection.parameters()}
    return _BYTES_PER_DENSE * sum(p.numel() for p in module.parameters() if id(p) not in tables)


def make_plan(module: nn.Module, inputs: PlanningInputs, on_proposal: ProposalCallback | None = None) -> PlanFile:
    """Make a plan, which gives every table of `module` a sharding, a kernel and ranks.

    Args:
        module: Model whose embedding collections are on the meta device.
        inputs: Cluster, batch and constraints to plan for.
        on_proposal: Function that is called during the search with the number of proposals tried so far, or None.

    Returns:
        Plan with the smallest `tables_ms` that the searches have found in the first search space with a plan that fits;
        a plan without tables for a model without tables.

    Raises:
        DoesNotFitError: No plan can fit, or every plan that was tried exceeds the memory of some rank.
        UserError: The configuration forces a layout that the cluster cannot have.
    """
    check_table_hosts(inputs.embeddings, inputs.cluster)
    tables = all_tables(module)
    empty_plan = _plan_without_tables(inputs, dense_bytes(module))
    if not tables:
        return empty_plan
    shortfall = None
    proposals = count(1)

    def count_proposal(_: int) -> None:
        # The argument counts the proposals of one search alone, but `on_proposal` gets the number over all searches.
        if on_proposal is not None:
            on_proposal(next(proposals))

    for space in search_spaces(inputs.cluster):
        constraints = _constraints(tables, inputs, space)
        memory = _least_memory(empty_plan, tables, constraints)
        shortfall = memory.certain_shortfall()
        # In this space, no plan can fit, so a search would be in vain.
        if shortfall is not None:
            continue
        searches = [
            search_plan(module, empty_plan, inputs, each, count_proposal)
            for each in (*_single_types(constraints), constraints)
        ]
        plans = [
            _plan_from(empty_plan, tables, {option.name: option for option in options}, inputs)
            for options in searches
            if options is not None
        ]
        if plans:
            return min(plans, key=lambda plan: plan.tables_ms)
        # The tables might fit, but no plan that was tried does.
        shortfall = memory.unplaced_shortfall()
    assert shortfall is not None  # There is at least one search space.
    raise DoesNotFitError.from_shortfall(shortfall)


def check_sizes(sizes: ModelSizes, inputs: PlanningInputs) -> None:
    """Raise an error if a model is too large for the cluster under every plan.

    This check comes before the model is built. A model of absurd size cannot be built even on the meta device: its
    numbers of elements overflow 64 bits, and lists of its columns exhaust the memory.

    Args:
        sizes: Sizes of the model.
        inputs: Cluster, batch and constraints to plan for.

    Raises:
        DoesNotFitError: The tables or the layers outside them exceed the memory of the ranks.
        UserError: The configuration forces a layout that the cluster cannot have.
    """
    check_table_hosts(inputs.embeddings, inputs.cluster)
    empty_plan = _plan_without_tables(inputs, _BYTES_PER_DENSE * sizes.dense_parameters)
    if not sizes.tables:
        cuda = inputs.cluster.cuda
        if (empty_plan.allowed_hbm if cuda else empty_plan.allowed_host) > 0:
            return
        raise DoesNotFitError.from_shortfall(
            MemoryShortfall(
                table="",
                layout="",
                is_single_table=False,
                memory="HBM" if cuda else "host memory",
                needed=empty_plan.reserved.dense_bytes,
                allowed=0,
                plan=empty_plan,
            )
        )
    shortfall = None
    for space in search_spaces(inputs.cluster):
        constraints = _constraints(sizes.tables, inputs, space)
        shortfall = _least_memory(empty_plan, sizes.tables, constraints).certain_shortfall()
        if shortfall is None:
            return
    assert shortfall is not None
    raise DoesNotFitError.from_shortfall(shortfall)


def is_hopeless(sizes: ModelSizes, inputs: PlanningInputs) -> bool:
    """Return True if a model is certainly too large for the cluster. This is fast, since the planner is not called.

    Args:
        sizes: Sizes of the model.
        inputs: Cluster, batch and constraints to plan for.

    Raises:
        UserError: The configuration forces a layout that the cluster cannot have.
    """
    try:
        check_sizes(sizes, inputs)
    except DoesNotFitError:
        return True
    return False


def _plan_without_tables(inputs: PlanningInputs, dense_bytes: int) -> PlanFile:
    """Return a plan without tables, which holds the cluster and the memory that tables cannot use."""
    return PlanFile(
        version=PLAN_VERSION,
        cluster=inputs.cluster,
        batch_size_per_rank=inputs.batch_size_per_rank,
        optimizer=inputs.optimizer,
        reserved=reserved_memory(inputs.cluster, dense_bytes, inputs.frozen_bytes),
        tables=(),
    )


def _constraints(
    tables: Sequence[BaseEmbeddingConfig], inputs: PlanningInputs, space: SearchSpace
) -> dict[str, ParameterConstraints]:
    """Return TorchRec's constraints by table name: the layouts that each table may have in a search space."""
    return {
        t.name: table_constraints(
            inputs.embeddings,
            t.name,
            t.num_embeddings,
            t.embedding_dim,
            inputs.mean_ids(t),
            inputs.cluster,
            space,
            unpooled=is_unpooled(t),
        )
        for t in tables
    }


def _single_types(constraints: Mapping[str, ParameterConstraints]) -> list[dict[str, ParameterConstraints]]:
    """Return changed constraints for each sharding type: every table that may have this type must have it.

    Other tables keep their constraints. The list is empty if each table may have one type only.
    """
    types = {kind: None for each in constraints.values() for kind in each.sharding_types or ()}
    if all(len(each.sharding_types or ()) == 1 for each in constraints.values()):
        return []
    return [
        {
            name: replace(each, sharding_types=[kind]) if kind in (each.sharding_types or ()) else each
            for name, each in constraints.items()
        }
        for kind in types
    ]


def _least_memory(
    empty_plan: PlanFile, tables: Sequence[BaseEmbeddingConfig], constraints: Mapping[str, ParameterConstraints]
) -> LeastMemory:
    """Return the least memory that the tables take under their constraints."""
    return LeastMemory(empty_plan, tables, constraints, {t.name: dtype_of(t) for t in tables})


def _plan_from(
    empty_plan: PlanFile,
    tables: Sequence[BaseEmbeddingConfig],
    options: Mapping[str, ShardingOption],
    inputs: PlanningInputs,
) -> PlanFile:
    """Return the plan in which each table has the sharding option that TorchRec has chosen.

    Args:
        empty_plan: Plan without tables.
        tables: Configurations of all embedding tables.
        options: Chosen sharding options by table name.
        inputs: Inputs of the planner.
    """
    placed = [_table_plan(t, options[t.name], inputs) for t in sorted(tables, key=lambda t: t.name)]
    # `model_copy(update=...)` would add the tables without validating them.
    plan = PlanFile.model_validate({**dict(empty_plan), "tables": tuple(placed)})
    _check_shards(plan, options)
    return plan


def _table_plan(table: BaseEmbeddingConfig, option: ShardingOption, inputs: PlanningInputs) -> dict[str, Any]:
    """Return a table's entry in a plan; its costs are those of its slowest shard."""
    cached = option.compute_kernel == "fused_uvm_caching"
    ranks = tuple(shard.rank for shard in option.shards)
    return {
        "table": table.name,
        "rows": table.num_embeddings,
        "dim": table.embedding_dim,
        "dtype": dtype_of(table),
        "ids_per_sample": inputs.mean_ids(table),
        "sharding": option.sharding_type,
        **placement_keys(option.sharding_type, ranks, inputs.cluster.ranks_per_host),
        "kernel": option.compute_kernel,
        "cache_load_factor": option.cache_load_factor if cached else None,
        "unpooled": is_unpooled(table),
        "costs_ms": _costs(
            max((shard.perf for shard in option.shards), key=lambda perf: perf.total), inputs.cluster.world_size
        ),
    }


def _check_shards(plan: PlanFile, options: Mapping[str, ShardingOption]) -> None:
    """Assert that the shards computed from a plan's entries are the shards of TorchRec's options."""
    for table in plan.tables:
        planned = [(s.rank, s.offset[0], s.size[0], s.offset[1], s.size[1]) for s in options[table.table].shards]
        assert list(table.shards(plan.cluster)) == planned, f"{table.table}: TorchRec has other shards, {planned}"


def _costs(perf: Perf, world_size: int) -> Costs:
    """Return TorchRec's time estimates of a shard, in milliseconds, as the costs of a plan.

    TorchRec counts an exchange even if there is only one rank, which exchanges nothing.
    """
    is_exchanged = world_size > 1
    return Costs(
        ids=round(perf.input_dist_comms, _DIGITS) * is_exchanged,
        lookup=round(perf.fwd_compute, _DIGITS),
        output=round(perf.fwd_comms, _DIGITS) * is_exchanged,
        gradient=round(perf.bwd_comms, _DIGITS) * is_exchanged,
        update=round(perf.bwd_compute, _DIGITS),
        prefetch=round(perf.prefetch_compute, _DIGITS),
    )
