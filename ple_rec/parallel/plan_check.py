"""Whether a plan that was made before is of this model on these ranks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import nn

from ple_rec.config.plan import Plan, TablePlan
from ple_rec.config.run import TableConfig
from ple_rec.errors import UserError
from ple_rec.parallel.planner import Request, collections, dtype_of
from ple_rec.parallel.shortfall import gib

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


def usable(given: GivenPlan, module: nn.Module, request: Request) -> Plan | None:
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
    if not given.insist:
        return None
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    raise UserError(
        given.place,
        "; ".join(found[:_SHOWN]) + more,
        "a plan is of one set of tables, their constraints, a batch size and a cluster, and is used as it is or not",
        "plan again with this configuration and cluster, or change them back",
    )


def _differences(plan: Plan, module: nn.Module, request: Request) -> Iterator[str]:
    cluster, before = request.cluster, plan.cluster
    shape = (cluster.hosts, cluster.ranks_per_host, cluster.cuda)
    if shape != (before.hosts, before.ranks_per_host, before.cuda):
        yield f"planned for {before.describe()}, {before.world_size} rank(s); this run has {cluster.describe()}"
    for what, then, now in (
        ("the batch size per rank", plan.batch_size_per_rank, request.batch_size_per_rank),
        ("the tables' optimizer", plan.optimizer, request.optimizer),
    ):
        if then != now:
            yield f"{what} was {then}, is {now}"
    planned = {table.table: table for table in plan.tables}
    needed = {c.name: c for m in collections(module).values() for c in m.embedding_bag_configs()}
    for name in dict.fromkeys([*planned, *needed]):
        if name not in needed or name not in planned:
            yield f"table {name} is {'new' if name in needed else 'gone'}"
            continue
        table, config = planned[name], needed[name]
        was = f"{table.rows:,} x {table.dim} {table.dtype}"
        size = f"{config.num_embeddings:,} x {config.embedding_dim} {dtype_of(config)}"
        if was != size:
            yield f"table {name} was {was}, is {size}"
        yield from _disobeyed(table, request)
    if shape == (before.hosts, before.ranks_per_host, before.cuda):
        yield from _too_large(plan, request)


def _disobeyed(table: TablePlan, request: Request) -> Iterator[str]:
    """Constraints of the configuration that the plan does not keep."""
    own = request.embeddings.tables.get(table.table, TableConfig())
    for key, planned in (("sharding", table.sharding), ("kernel", table.kernel)):
        forced = getattr(own, key)
        if forced is not None and forced != planned:
            yield f"embeddings.tables.{table.table}.{key} is {forced}, the plan has {planned}"
    kernel = request.embeddings.kernel
    if own.kernel is None and kernel is not None and kernel != table.kernel:
        yield f"embeddings.kernel is {kernel}, the plan has {table.kernel} for table {table.table}"
    hosts = request.cluster.hosts_of(table.ranks)
    if own.hosts is not None and not set(hosts) <= set(own.hosts):
        yield f"embeddings.tables.{table.table}.hosts is {list(own.hosts)}, the plan has hosts {list(hosts)}"


def _too_large(plan: Plan, request: Request) -> Iterator[str]:
    """Memory that this cluster's ranks do not have at all."""
    for what, there, taken in (
        ("HBM", request.cluster.hbm_bytes, max(memory.hbm for memory in plan.memory)),
        ("host memory", request.cluster.ddr_bytes, max(memory.host for memory in plan.memory)),
    ):
        if taken > there:
            yield f"a rank of the plan takes {gib(taken)} of {what}; here it has {gib(there)}"
