"""Whether a plan that was made before is of this model on these ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from ple_rec.config.plan import Plan, column_wise_remarks, reserved_of
from ple_rec.config.plan_table import TableOptimizer, TablePlan
from ple_rec.config.run import EmbeddingsConfig, TableConfig
from ple_rec.distributed.capacity import gib
from ple_rec.distributed.planner import PlanningInputs, collections, dtype_of
from ple_rec.errors import UserError

_SHOWN = 5


class GivenPlan(NamedTuple):
    """A plan that was made before.

    Args:
        plan: As read.
        place: Its file.
        insist: Whether it must fit; else it is used where it does, as that of a run that goes on.
    """

    plan: Plan
    place: str
    insist: bool


def usable(given: GivenPlan, module: nn.Module, request: PlanningInputs) -> Plan | None:
    """The plan, or None where it need not fit and does not.

    Args:
        given: The plan.
        module: With the collection that is to be sharded.
        request: What this run would plan for.

    Raises:
        UserError: another configuration or cluster was planned for, with every difference.
    """
    found = list(_differences(given.plan, module, request))
    if not found:
        return given.plan
    if not given.insist and not column_wise_remarks(given.plan):
        return None  # any other cut loads what this one has saved
    raise _refusal(given, found)


def _refusal(given: GivenPlan, found: Sequence[str]) -> UserError:
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return UserError(
        given.place,
        "; ".join(found[:_SHOWN]) + more,
        "a plan is of one set of tables, their constraints, a batch size and a cluster, and is used as it is or not",
        "plan again with this configuration and cluster, or change them back",
    )


def _differences(plan: Plan, module: nn.Module, request: PlanningInputs) -> Iterator[str]:
    cluster, before = request.cluster, plan.cluster
    shape = (cluster.hosts, cluster.ranks_per_host, cluster.cuda)
    if shape != (before.hosts, before.ranks_per_host, before.cuda):
        yield f"planned for {before.describe()}, {before.world_size} rank(s); this run has {cluster.describe()}"
    tables = [c for m in collections(module).values() for c in m.embedding_bag_configs()]
    yield from table_differences(plan, tables, request.embeddings, request.optimizer, request.batch_size_per_rank)
    if shape == (before.hosts, before.ranks_per_host, before.cuda):
        yield from _too_large(plan, request)


def check_tables(
    given: GivenPlan,
    tables: Sequence[EmbeddingBagConfig],
    embeddings: EmbeddingsConfig,
    optimizer: TableOptimizer,
    batch_size_per_rank: int,
    world_size: int,
) -> None:
    """Refuse a plan of other tables, another batch or another number of ranks, before there are ranks.

    Raises:
        UserError: with every difference.
    """
    found = []
    if world_size != given.plan.cluster.world_size:
        was = f"planned for {given.plan.cluster.describe()}, {given.plan.cluster.world_size} rank(s)"
        found.append(f"{was}; this run has {world_size}")
    found += table_differences(given.plan, tables, embeddings, optimizer, batch_size_per_rank)
    if found:
        raise _refusal(given, found)


def table_differences(
    plan: Plan,
    tables: Sequence[EmbeddingBagConfig],
    embeddings: EmbeddingsConfig,
    optimizer: TableOptimizer,
    batch_size_per_rank: int,
) -> Iterator[str]:
    """What differs between a plan and what a run would plan for, the cluster aside."""
    for what, then, now in (
        ("the batch size per rank", plan.batch_size_per_rank, batch_size_per_rank),
        ("the tables' optimizer", plan.optimizer, optimizer),
    ):
        if then != now:
            yield f"{what} was {then}, is {now}"
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
        yield from _disobeyed(table, embeddings, plan)


def _disobeyed(table: TablePlan, embeddings: EmbeddingsConfig, plan: Plan) -> Iterator[str]:
    """What the configuration asks for and the plan does not keep, or the reverse."""
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


def _too_large(plan: Plan, request: PlanningInputs) -> Iterator[str]:
    """Memory that this cluster's ranks may not use."""
    reserved = reserved_of(request.cluster, plan.reserved.dense_bytes)
    here = plan.model_copy(update={"cluster": request.cluster, "reserved": reserved})
    for what, allowed, taken in (
        ("HBM", here.allowed_hbm, max(memory.hbm for memory in plan.memory)),
        ("host memory", here.allowed_host, max(memory.host for memory in plan.memory)),
    ):
        if taken > allowed:
            yield f"a rank of the plan takes {gib(taken)} of {what}; here {gib(allowed)} are allowed"
