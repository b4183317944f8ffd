"""Check whether a saved sharding plan fits the tables, the batch size and the ranks of a run.

`ple_rec/distributed/sharding.py` calls `fitting_plan` before a model is sharded. `ple_rec/training/preflight.py` calls
`check_tables` before any rank starts, to find those errors that can be found without the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import nn
from torchrec.modules.embedding_configs import BaseEmbeddingConfig

from ple_rec.config.plan import PlanFile, column_wise_remarks, reserved_memory
from ple_rec.config.plan_table import TableOptimizer, TablePlan
from ple_rec.config.run import EmbeddingsConfig, TableConfig
from ple_rec.distributed.capacity import gib
from ple_rec.distributed.planning_inputs import PlanningInputs, all_tables, dtype_of, is_unpooled
from ple_rec.errors import UserError

# An error names at most this many differences.
_MAX_LISTED = 5


class SavedPlan(NamedTuple):
    """Plan that was read from a file.

    Args:
        plan: Plan as it was read.
        place: File of the plan, for messages.
        strict: True if a plan that does not fit is an error; False if a new one may replace it, as when a run is
            resumed on other ranks. A plan with a column-wise table is never replaced.
    """

    plan: PlanFile
    place: str
    strict: bool


def fitting_plan(saved_plan: SavedPlan, module: nn.Module, inputs: PlanningInputs) -> PlanFile | None:
    """Return the plan if it fits this run, or None if it does not fit and a new plan may replace it.

    Args:
        saved_plan: Plan that was read from a file.
        module: Model with the embedding collections that are to be sharded.
        inputs: Cluster, batch and constraints of this run.

    Raises:
        UserError: The plan does not fit and may not be replaced, since it is strict or has a column-wise table. The
            message lists the differences.
    """
    differences = list(_differences(saved_plan.plan, module, inputs))
    if not differences:
        return saved_plan.plan
    # Column-wise sharding changes the optimizer, so the checkpoints of such a plan do not load into other plans.
    if not saved_plan.strict and not column_wise_remarks(saved_plan.plan):
        return None
    raise _refusal(saved_plan, differences)


def _refusal(saved_plan: SavedPlan, differences: Sequence[str]) -> UserError:
    more = f"; and {len(differences) - _MAX_LISTED} more" if len(differences) > _MAX_LISTED else ""
    return UserError(
        saved_plan.place,
        "; ".join(differences[:_MAX_LISTED]) + more,
        "a plan can be used only with the tables, constraints, batch size and cluster that it was made for",
        "make a new plan with this configuration and cluster, or change them back",
    )


def _differences(plan: PlanFile, module: nn.Module, inputs: PlanningInputs) -> Iterator[str]:
    cluster, before = inputs.cluster, plan.cluster
    same_ranks = (cluster.hosts, cluster.ranks_per_host, cluster.cuda) == (
        before.hosts,
        before.ranks_per_host,
        before.cuda,
    )
    if not same_ranks:
        yield f"planned for {before.describe()}, {before.world_size} rank(s); this run has {cluster.describe()}"
    tables = all_tables(module)
    yield from table_differences(plan, tables, inputs.embeddings, inputs.optimizer, inputs.batch_size_per_rank)
    if same_ranks:
        yield from _too_large(plan, inputs)


def check_tables(
    saved_plan: SavedPlan,
    tables: Sequence[BaseEmbeddingConfig],
    embeddings: EmbeddingsConfig,
    optimizer: TableOptimizer,
    batch_size_per_rank: int,
    world_size: int,
) -> None:
    """Raise an error if a plan does not fit a run, as far as this shows without the model.

    Compared are tables, optimizer, constraints, batch size and number of ranks. `strict` is not considered, so this is
    only for a plan that may not be replaced.

    Raises:
        UserError: The plan does not fit; the message lists the differences.
    """
    differences = []
    if world_size != saved_plan.plan.cluster.world_size:
        was = f"planned for {saved_plan.plan.cluster.describe()}, {saved_plan.plan.cluster.world_size} rank(s)"
        differences.append(f"{was}; this run has {world_size}")
    differences += table_differences(saved_plan.plan, tables, embeddings, optimizer, batch_size_per_rank)
    if differences:
        raise _refusal(saved_plan, differences)


def table_differences(
    plan: PlanFile,
    tables: Sequence[BaseEmbeddingConfig],
    embeddings: EmbeddingsConfig,
    optimizer: TableOptimizer,
    batch_size_per_rank: int,
) -> Iterator[str]:
    """Yield the differences in batch size, optimizer, tables and constraints, but not in the cluster."""
    for setting, before, now in (
        ("the batch size per rank", plan.batch_size_per_rank, batch_size_per_rank),
        ("the tables' optimizer", plan.optimizer, optimizer),
    ):
        if before != now:
            yield f"{setting} was {before}, is {now}"
    planned = {table.table: table for table in plan.tables}
    needed = {table.name: table for table in tables}
    for name in dict.fromkeys([*planned, *needed]):
        if name not in needed or name not in planned:
            yield f"table {name} is {'new' if name in needed else 'gone'}"
            continue
        table, config = planned[name], needed[name]
        was = f"{table.rows:,} x {table.dim} {table.dtype}"
        size = f"{config.num_embeddings:,} x {config.embedding_dim} {dtype_of(config)}"
        if was != size:
            yield f"table {name} was {was}, is {size}"
        if table.unpooled != is_unpooled(config):
            change = "was unpooled, is pooled" if table.unpooled else "was pooled, is unpooled"
            yield f"table {name} {change} (model.history)"
        if len(config.feature_names) != len(table.ids_per_sample):
            yield f"table {name} was read by {len(table.ids_per_sample)} feature(s), now by {len(config.feature_names)}"
        yield from _broken_constraints(table, embeddings, plan)


def _broken_constraints(table: TablePlan, embeddings: EmbeddingsConfig, plan: PlanFile) -> Iterator[str]:
    """Yield the settings of the configuration that a table's entry in the plan contradicts."""
    name, table_config = table.table, embeddings.tables.get(table.table, TableConfig())
    for key, planned in (("sharding", table.sharding), ("kernel", table.kernel)):
        forced = getattr(table_config, key)
        if forced is not None and forced != planned:
            yield f"embeddings.tables.{name}.{key} is {forced}, the plan has {planned}"
    kernel, factor = embeddings.kernel, table.cache_load_factor
    if table_config.kernel is None and kernel is not None and kernel != table.kernel:
        yield f"embeddings.kernel is {kernel}, the plan has {table.kernel} for table {name}"
    if factor is not None and factor != embeddings.cache_load_factor:
        yield f"embeddings.cache_load_factor is {embeddings.cache_load_factor}, the plan has {factor} for table {name}"
    if table_config.ids_per_sample is not None and set(table.ids_per_sample) != {table_config.ids_per_sample}:
        yield (
            f"embeddings.tables.{name}.ids_per_sample is {table_config.ids_per_sample}, the plan has "
            f"{table.ids_per_sample}"
        )
    if table.sharding == "column_wise" and "column_wise" not in (table_config.sharding, embeddings.sharding):
        yield (
            f"the plan shards table {name} column-wise, which changes its optimizer, but the configuration does not "
            f"ask for it (embeddings.tables.{name}.sharding)"
        )
    hosts = plan.cluster.hosts_of_ranks(plan.ranks_of(table))
    if table_config.hosts is not None and not set(hosts) <= set(table_config.hosts):
        yield f"embeddings.tables.{name}.hosts is {list(table_config.hosts)}, the plan has hosts {list(hosts)}"


def _too_large(plan: PlanFile, inputs: PlanningInputs) -> Iterator[str]:
    """Yield a message for each kind of memory of which the plan needs more than a rank of this cluster may use."""
    reserved = reserved_memory(inputs.cluster, plan.reserved.dense_bytes, inputs.frozen_bytes)
    on_cluster = plan.model_copy(update={"cluster": inputs.cluster, "reserved": reserved})
    for memory, allowed, needed in (
        ("HBM", on_cluster.allowed_hbm, max(rank.hbm for rank in plan.memory)),
        ("host memory", on_cluster.allowed_host, max(rank.host for rank in plan.memory)),
    ):
        if needed > allowed:
            yield f"a rank of the plan takes {gib(needed)} of {memory}; on this cluster, {gib(allowed)} are allowed"
