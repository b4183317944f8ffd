"""Why no plan fits: which table, or which sum of tables, is larger than which memory, and by how much.

A table's least bytes on a rank follow from its shardings: all of it (table-wise), a W-th (row-wise), an L-th of it on
the ranks of one host (table-row-wise). Their sum over tables, divided by the ranks, is what no plan can go below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torchrec.distributed.planner import ParameterConstraints
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from ple_rec.config.cluster import GIB
from ple_rec.config.plan import Plan
from ple_rec.config.plan_table import Dtype, Memory, shard_memory
from ple_rec.errors import UserError

_BOTH = "HBM and host memory"


@dataclass(frozen=True)
class MemoryShortfall:
    """What stands against a plan.

    Args:
        certain: Whether no plan can exist, whatever the planner tries.
        table: That breaks a limit by itself, or the largest of those that break it together.
        layout: Its sharding and kernel that take the least.
        alone: Whether it breaks the limit by itself.
        memory: `HBM`, `host memory`, or both together.
        needed: Bytes on a rank: of that table, or the mean over ranks of all.
        allowed: Bytes of a rank.
        plan: With the cluster, what is reserved, and no tables.
    """

    certain: bool
    table: str
    layout: str
    alone: bool
    memory: str
    needed: int
    allowed: int
    plan: Plan

    @property
    def by_dense_layers(self) -> bool:
        """Flag that the dense layers leave no memory to the tables."""
        return self.needed > 0 and self.allowed == 0

    def value(self) -> str:
        """Return which table breaks which limit by how much."""
        if self.by_dense_layers:
            dense = gib(self.plan.reserved.dense_bytes)
            return f"the dense layers, which read all embeddings, take at least {dense} of {self.memory} on each rank"
        limit = f"{gib(self.needed)} of {self.memory} on each rank, of {gib(self.allowed)} allowed"
        over = f": {gib(self.needed - self.allowed)} too much" if self.needed > self.allowed else ""
        if self.alone:
            return f"table {self.table} takes {limit}{over} ({self.layout}, its smallest layout)"
        if self.needed > self.allowed:
            return f"all tables take {limit}{over}; the largest is {self.table} ({self.layout})"
        return (
            f"all tables take {limit} on average, but no assignment of their shards was found that keeps every rank "
            f"below it; the largest is {self.table} ({self.layout})"
        )

    def rule(self) -> str:
        """What a rank may use, and of what."""
        cluster, reserved = self.plan.cluster, self.plan.reserved
        hbm, host = (cluster.hbm_bytes, reserved.hbm_bytes), (cluster.ddr_bytes, reserved.host_bytes)
        both = (hbm[0] + host[0], hbm[1] + host[1])
        total, share = {"HBM": hbm, "host memory": host, _BOTH: both}[self.memory]
        dense = (
            ""
            if cluster.cuda and self.memory == "host memory"
            else f" and {gib(reserved.dense_bytes)} for the dense layers"
        )
        return (
            f"weights, optimizer state and batch of a rank's shards fit its {gib(total)} of {self.memory} less "
            f"{gib(share)} in reserve{dense} ({cluster.describe()})"
        )


class DoesNotFitError(UserError):
    """No plan keeps every rank below its memory; `lacking` says why."""

    lacking: MemoryShortfall | None = None

    @classmethod
    def of(cls, lacking: MemoryShortfall) -> DoesNotFitError:
        """Return the error.

        Args:
            lacking: Memory that is missing.
        """
        place = "embeddings.dim"
        fix = "use more ranks, a smaller embeddings.dim, fp16 tables or a smaller batch; `ple-rec plan` tries them"
        if lacking.by_dense_layers:  # every rank has all of them, so more ranks do not help
            place = "embeddings.dim, model"
            fix = "use a smaller embeddings.dim, or narrower layers in [model]"
        error = cls(place, lacking.value(), lacking.rule(), fix)
        error.lacking = lacking
        return error


def gib(count: int) -> str:
    """Bytes for people."""
    if abs(count) >= GIB // 10:
        return f"{count / GIB:,.2f} GiB"
    return f"{count / (1 << 20):,.1f} MiB"


@dataclass(frozen=True)
class _Layout:
    """A table in one sharding and kernel: bytes of its largest shard, and of all its shards."""

    name: str
    largest: Memory
    hbm: int
    host: int


def largest_shortfall(
    empty: Plan,
    tables: Sequence[EmbeddingBagConfig],
    constraints: Mapping[str, ParameterConstraints],
    dtype_of: Mapping[str, Dtype],
) -> MemoryShortfall:
    """What the tables lack most on this cluster, under these constraints.

    Args:
        empty: A plan without tables.
        tables: To place.
        constraints: Of each.
        dtype_of: Type of the rows of each.
    """
    layouts = {t.name: _layouts(empty, t, constraints[t.name], dtype_of[t.name]) for t in tables}
    hbm, host, world = empty.allowed_hbm, empty.allowed_host, empty.cluster.world_size

    allowed = {"HBM": hbm, "host memory": host, _BOTH: hbm + host}

    def lacking(certain: bool, layout: _Layout, table: str, alone: bool, memory: str, needed: int) -> MemoryShortfall:
        return MemoryShortfall(certain, table, layout.name, alone, memory, needed, allowed[memory], empty)

    def excess(layout: _Layout) -> int:
        return max(layout.largest.hbm - hbm, layout.largest.host - host)

    for table, found in layouts.items():
        best = min(found, key=excess)
        if excess(best) > 0:
            in_hbm = best.largest.hbm - hbm >= best.largest.host - host
            needed = best.largest.hbm if in_hbm else best.largest.host
            return lacking(True, best, table, True, "HBM" if in_hbm else "host memory", needed)
    least = {table: min(found, key=lambda layout: layout.hbm + layout.host) for table, found in layouts.items()}
    largest = max(least, key=lambda table: least[table].hbm + least[table].host)
    sums = {
        "HBM": sum(min(layout.hbm for layout in found) for found in layouts.values()),
        "host memory": sum(min(layout.host for layout in found) for found in layouts.values()),
        _BOTH: sum(layout.hbm + layout.host for layout in least.values()),
    }
    for memory, total in sums.items():
        if total > allowed[memory] * world:
            return lacking(True, least[largest], largest, False, memory, -(-total // world))
    memory = "host memory" if not empty.cluster.cuda else "HBM" if sums["HBM"] else _BOTH
    return lacking(False, least[largest], largest, False, memory, -(-sums[memory] // world))


def _layouts(empty: Plan, table: EmbeddingBagConfig, limits: ParameterConstraints, dtype: Dtype) -> list[_Layout]:
    cluster, rows, dim = empty.cluster, table.num_embeddings, table.embedding_dim
    found = []
    for sharding in limits.sharding_types or ():
        width = limits.min_partition or dim
        ways, rows_each, columns_each = {
            "row_wise": (cluster.world_size, -(-rows // cluster.world_size), dim),
            "table_row_wise": (cluster.ranks_per_host, -(-rows // cluster.ranks_per_host), dim),
            "column_wise": (dim // width, rows, width),
        }.get(sharding, (1, rows, dim))
        for kernel in limits.compute_kernels or ():
            arguments: dict[str, Any] = {"rows": rows_each, "columns": columns_each, "dtype": dtype}
            largest = shard_memory(
                **arguments,
                ids_per_sample=tuple(limits.pooling_factors),
                sharding=sharding,
                kernel=kernel,
                cache_load_factor=limits.cache_params.load_factor if limits.cache_params else None,
                optimizer=empty.optimizer,
                cluster=cluster,
                batch_size_per_rank=empty.batch_size_per_rank,
            )
            # Shards are rounded up; a table's rows are not.
            spare = 1 - rows / (rows_each * ways) if sharding in ("row_wise", "table_row_wise") else 0.0
            hbm, host = (int(count * ways * (1 - spare)) for count in (largest.hbm, largest.host))
            found.append(_Layout(f"{sharding}, {kernel}", largest, hbm, host))
    return found
