"""Comparison of a saved plan with the model and ranks of a run that is to use it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from ple_rec.config.plan import PlanFile, column_wise_remarks, reserved_of
from ple_rec.config.plan_table import TableOptimizer, TablePlan
from ple_rec.config.run import EmbeddingsConfig, TableConfig
from ple_rec.distributed.capacity import gib
from ple_rec.distributed.planner import PlanningInputs, collections, dtype_of
from ple_rec.errors import UserError

# A refusal names this many differences.
_SHOWN = 5


class SavedPlan(NamedTuple):
    """Plan that was read from a file.

    Args:
        plan: Plan as it was read.
        place: File of the plan, for messages.
        strict: True to refuse a plan that does not fit. The plan of a resumed run is used if it fits, else replaced.
    """

    plan: PlanFile
    place: str
    strict: bool


def fitting_plan(saved_plan: SavedPlan, module: nn.Module, inputs: PlanningInputs) -> PlanFile | None:
    """Return the plan if it fits this run, or None if it does not and may be replaced.

    Args:
        saved_plan: Plan that was read from a file.
        module: Model with the embedding collection that is to be sharded.
        inputs: Cluster, batch and constraints of this run.

    Raises:
        UserError: The plan was made for another configuration or cluster; the message names the differences.
    """
    differences = list(_differences(saved_plan.plan, module, inputs))
    if not differences:
        return saved_plan.plan
    # A plan by columns means another optimizer, whose checkpoints load into no other plan. Other plans may be replaced.
    if not saved_plan.strict and not column_wise_remarks(saved_plan.plan):
        return None
    raise _refusal(saved_plan, differences)


def _refusal(saved_plan: SavedPlan, differences: Sequence[str]) -> UserError:
    more = f"; and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
    return UserError(
        saved_plan.place,
        "; ".join(differences[:_SHOWN]) + more,
        "a plan fits only its own tables, constraints, batch size and cluster",
        "plan again with this configuration and cluster, or change them back",
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
    tables = [c for m in collections(module).values() for c in m.embedding_bag_configs()]
    yield from table_differences(plan, tables, inputs.embeddings, inputs.optimizer, inputs.batch_size_per_rank)
    if same_ranks:
        yield from _too_large(plan, inputs)


def check_tables(
    saved_plan: SavedPlan,
    tables: Sequence[EmbeddingBagConfig],
    embeddings: EmbeddingsConfig,
    optimizer: TableOptimizer,
    batch_size_per_rank: int,
    world_size: int,
) -> None:
    """Refuse a plan of other tables, another batch or another number of ranks, before any rank is started.

    Raises:
        UserError: The plan does not fit; the message names the differences.
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
    tables: Sequence[EmbeddingBagConfig],
    embeddings: EmbeddingsConfig,
    optimizer: TableOptimizer,
    batch_size_per_rank: int,
) -> Iterator[str]:
    """Yield the differences between a plan and a run, apart from their clusters."""
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
        if len(config.feature_names) != len(table.ids_per_sample):
            yield f"table {name} was read by {len(table.ids_per_sample)} feature(s), is by {len(config.feature_names)}"
        yield from _broken_constraints(table, embeddings, plan)


def _broken_constraints(table: TablePlan, embeddings: EmbeddingsConfig, plan: PlanFile) -> Iterator[str]:
    """Yield the settings of the configuration that the plan of a table does not follow."""
    name, own = table.table, embeddings.tables.get(table.table, TableConfig())
    for key, planned in (("sharding", table.sharding), ("kernel", table.kernel)):
        forced = getattr(own, key)
        if forced is not None and forced != planned:
            yield f"embeddings.tables.{name}.{key} is {forced}, the plan has {planned}"
    kernel, factor = embeddings.kernel, table.cache_load_factor
    if own.kernel is None and kernel is not None and kernel != table.kernel:
        yield f"embeddings.kernel is {kernel}, the plan has {table.kernel} for table {name}"
    if factor is not None and factor != embeddings.cache_load_factor:
        yield f"embeddings.cache_load_factor is {embeddings.cache_load_factor}, the plan has {factor} for table {name}"
    if own.ids_per_sample is not None and set(table.ids_per_sample) != {own.ids_per_sample}:
        yield f"embeddings.tables.{name}.ids_per_sample is {own.ids_per_sample}, the plan has {table.ids_per_sample}"
    if table.sharding == "column_wise" and "column_wise" not in (own.sharding, embeddings.sharding):
        yield (
            f"the plan cuts table {name} by columns, which is another optimizer; the configuration does not ask for it "
            f"(embeddings.tables.{name}.sharding)"
        )
    hosts = plan.cluster.hosts_of(plan.ranks_of(table))
    if own.hosts is not None and not set(hosts) <= set(own.hosts):
        yield f"embeddings.tables.{name}.hosts is {list(own.hosts)}, the plan has hosts {list(hosts)}"


def _too_large(plan: PlanFile, inputs: PlanningInputs) -> Iterator[str]:
    """Yield the kinds of memory of which the plan takes more than a rank of this cluster may use."""
    reserved = reserved_of(inputs.cluster, plan.reserved.dense_bytes)
    on_cluster = plan.model_copy(update={"cluster": inputs.cluster, "reserved": reserved})
    for memory, allowed, needed in (
        ("HBM", on_cluster.allowed_hbm, max(rank.hbm for rank in plan.memory)),
        ("host memory", on_cluster.allowed_host, max(rank.host for rank in plan.memory)),
    ):
        if needed > allowed:
            yield f"a rank of the plan takes {gib(needed)} of {memory}; here {gib(allowed)} are allowed"
