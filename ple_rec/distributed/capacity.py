"""Lower bounds of the memory that embedding tables need, and the error for tables that no plan can place.

The planner calls `LeastMemory` before its search, which it skips if no plan can exist. A plan gives each table a layout
and ranks. A layout is a sharding, which says how the table is cut into shards, and a kernel, which says whether the
weights lie in GPU memory (HBM) or in host memory. With W ranks, L of them on each host, the largest shard of a table
has

    table_wise       the whole table
    row_wise         1 / W of the rows
    table_row_wise   1 / L of the rows
    column_wise      all rows of some columns

No plan exists if a table's largest shard exceeds the memory of a rank in every layout that the table may have. Nor does
one exist if the sum of the least bytes of all tables exceeds the memory of all ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torchrec.distributed.planner import ParameterConstraints
from torchrec.modules.embedding_configs import BaseEmbeddingConfig

from ple_rec.config.cluster import GIB
from ple_rec.config.plan import PlanFile
from ple_rec.config.plan_table import Dtype, Memory, shard_memory
from ple_rec.distributed.planning_inputs import is_unpooled
from ple_rec.errors import UserError

_BOTH = "HBM and host memory"


@dataclass(frozen=True)
class MemoryShortfall:
    """Memory limit that prevents the placement of a model's tables on the ranks.

    Args:
        table: Table that exceeds the limit by itself, or the largest of all tables if their sum is too large; empty for
            a model without tables.
        layout: Sharding and kernel in which that table takes the least memory, or is nearest to the limit.
        is_single_table: True if the table exceeds the limit by itself.
        memory: Kind of memory that the limit is for: `HBM`, `host memory`, or both together.
        needed: Bytes of the table's largest shard if `is_single_table`; else the bytes of all tables, divided by the
            number of ranks; for a model without tables, the bytes of its dense layers.
        allowed: Bytes that the tables may take on each rank.
        plan: Plan without tables, which describes the cluster and the memory that tables cannot use.
    """

    table: str
    layout: str
    is_single_table: bool
    memory: str
    needed: int
    allowed: int
    plan: PlanFile

    @property
    def is_certain(self) -> bool:
        """True if no plan can exist, since even the lower bound `needed` exceeds the limit."""
        return self.needed > self.allowed

    @property
    def is_due_to_dense_layers(self) -> bool:
        """True if the dense layers, which are all layers but the tables, leave no memory to the tables."""
        return self.needed > 0 and self.allowed == 0

    def value(self) -> str:
        """Return the error message's value: which tables exceed the limit, and by how many bytes."""
        if self.is_due_to_dense_layers:
            dense = gib(self.plan.reserved.dense_bytes)
            return f"the dense layers, which read all embeddings, take at least {dense} of {self.memory} on each rank"
        limit = f"{gib(self.needed)} of {self.memory} on each rank, of {gib(self.allowed)} allowed"
        over = f": {gib(self.needed - self.allowed)} too much" if self.is_certain else ""
        if self.is_single_table:
            return f"table {self.table} takes {limit}{over} ({self.layout}, its smallest layout)"
        if self.is_certain:
            return f"all tables take {limit}{over}; the largest is {self.table} ({self.layout})"
        return (
            f"all tables take {limit} on average, but no assignment of their shards was found that keeps every rank "
            f"within this limit; the largest is {self.table} ({self.layout})"
        )

    def rule(self) -> str:
        """Return the error message's rule, that the shards of a rank must fit its memory, with the cluster's sizes."""
        cluster, reserved = self.plan.cluster, self.plan.reserved
        hbm, host = (cluster.hbm_bytes, reserved.hbm_bytes), (cluster.ddr_bytes, reserved.host_bytes)
        both = (hbm[0] + host[0], hbm[1] + host[1])
        total, in_reserve = {"HBM": hbm, "host memory": host, _BOTH: both}[self.memory]
        dense = (
            ""
            if cluster.cuda and self.memory == "host memory"
            else f" and {gib(reserved.dense_bytes)} for the dense layers"
        )
        return (
            f"weights, optimizer state and batch of a rank's shards must fit its {gib(total)} of {self.memory} less "
            f"{gib(in_reserve)} in reserve{dense} ({cluster.describe()})"
        )


class DoesNotFitError(UserError):
    """Error for a model whose tables no plan places within the memory of every rank.

    `shortfall` is the memory limit in question.
    """

    shortfall: MemoryShortfall | None = None

    @classmethod
    def from_shortfall(cls, shortfall: MemoryShortfall) -> DoesNotFitError:
        """Return the error for a shortfall, with its attribute `shortfall` set."""
        place = "embeddings.dim"
        fix = "use more ranks, a smaller embeddings.dim, fp16 tables or a smaller batch; `ple-rec plan` tries them"
        # Every rank has a copy of all dense layers, so more ranks do not help.
        if shortfall.is_due_to_dense_layers:
            place = "embeddings.dim, model"
            fix = "use a smaller embeddings.dim, or narrower layers in [model]"
        error = cls(place, shortfall.value(), shortfall.rule(), fix)
        error.shortfall = shortfall
        return error


def gib(count: int) -> str:
    """Return a number of bytes as text, in GiB, or in MiB if it is below a tenth of a GiB."""
    if abs(count) >= GIB // 10:
        return f"{count / GIB:,.2f} GiB"
    return f"{count / (1 << 20):,.1f} MiB"


@dataclass(frozen=True)
class _Layout:
    """Memory of one table in one layout.

    Args:
        name: Sharding and kernel, for example `row_wise, fused`.
        largest: Memory of the largest shard.
        hbm: Bytes of all shards in HBM.
        host: Bytes of all shards in host memory.
    """

    name: str
    largest: Memory
    hbm: int
    host: int


class LeastMemory:
    """Least memory that tables take on a cluster, over all layouts that they may have.

    Args:
        empty_plan: Plan without tables, which describes the cluster and the memory that tables cannot use.
        tables: Tables to place.
        constraints: TorchRec's constraints by table name: the shardings and kernels that each table may have.
        dtype_by_table: Data type of each table's weights, by table name.
    """

    def __init__(
        self,
        empty_plan: PlanFile,
        tables: Sequence[BaseEmbeddingConfig],
        constraints: Mapping[str, ParameterConstraints],
        dtype_by_table: Mapping[str, Dtype],
    ) -> None:
        self._empty_plan = empty_plan
        self._layouts = {t.name: _layouts(empty_plan, t, constraints[t.name], dtype_by_table[t.name]) for t in tables}
        hbm, host = empty_plan.allowed_hbm, empty_plan.allowed_host
        self._allowed = {"HBM": hbm, "host memory": host, _BOTH: hbm + host}
        self._smallest = {
            table: min(layouts, key=lambda layout: layout.hbm + layout.host) for table, layouts in self._layouts.items()
        }
        self._sums = {
            "HBM": sum(min(layout.hbm for layout in layouts) for layouts in self._layouts.values()),
            "host memory": sum(min(layout.host for layout in layouts) for layouts in self._layouts.values()),
            _BOTH: sum(layout.hbm + layout.host for layout in self._smallest.values()),
        }

    def certain_shortfall(self) -> MemoryShortfall | None:
        """Return a limit that every plan exceeds, or None if the lower bounds do not rule out a plan."""
        hbm, host = self._allowed["HBM"], self._allowed["host memory"]

        def excess(layout: _Layout) -> int:
            """Return the bytes by which the largest shard exceeds its tighter limit; at most 0 if it fits both."""
            return max(layout.largest.hbm - hbm, layout.largest.host - host)

        for table, layouts in self._layouts.items():
            best = min(layouts, key=excess)
            if excess(best) > 0:
                in_hbm = best.largest.hbm - hbm >= best.largest.host - host
                memory = "HBM" if in_hbm else "host memory"
                needed = best.largest.hbm if in_hbm else best.largest.host
                return MemoryShortfall(table, best.name, True, memory, needed, self._allowed[memory], self._empty_plan)
        for memory, total in self._sums.items():
            if total > self._allowed[memory] * self._empty_plan.cluster.world_size:
                return self._shortfall_of_all(memory)
        return None

    def unplaced_shortfall(self) -> MemoryShortfall:
        """Return the limit to report if `certain_shortfall` finds none, but the planner cannot assign all shards."""
        memory = "host memory" if not self._empty_plan.cluster.cuda else "HBM" if self._sums["HBM"] else _BOTH
        return self._shortfall_of_all(memory)

    def _shortfall_of_all(self, memory: str) -> MemoryShortfall:
        """Return the shortfall of all tables together, with the largest table as an example."""
        largest = max(self._smallest, key=lambda table: self._smallest[table].hbm + self._smallest[table].host)
        layout = self._smallest[largest].name
        average = -(-self._sums[memory] // self._empty_plan.cluster.world_size)
        return MemoryShortfall(largest, layout, False, memory, average, self._allowed[memory], self._empty_plan)


def _layouts(
    empty_plan: PlanFile, table: BaseEmbeddingConfig, constraint: ParameterConstraints, dtype: Dtype
) -> list[_Layout]:
    """Return the memory of a table in each layout that its constraints allow."""
    cluster, rows, dim = empty_plan.cluster, table.num_embeddings, table.embedding_dim
    layouts = []
    for sharding in constraint.sharding_types or ():
        width = constraint.min_partition or dim
        shard_count, rows_each, columns_each = {
            "row_wise": (cluster.world_size, -(-rows // cluster.world_size), dim),
            "table_row_wise": (cluster.ranks_per_host, -(-rows // cluster.ranks_per_host), dim),
            "column_wise": (dim // width, rows, width),
        }.get(sharding, (1, rows, dim))
        for kernel in constraint.compute_kernels or ():
            arguments: dict[str, Any] = {"rows": rows_each, "columns": columns_each, "dtype": dtype}
            largest = shard_memory(
                **arguments,
                ids_per_sample=tuple(constraint.pooling_factors),
                sharding=sharding,
                kernel=kernel,
                cache_load_factor=constraint.cache_params.load_factor if constraint.cache_params else None,
                optimizer=empty_plan.optimizer,
                cluster=cluster,
                batch_size_per_rank=empty_plan.batch_size_per_rank,
                unpooled=is_unpooled(table),
            )
            # The rows of the largest shard are rounded up, so `shard_count` shards of its size may have more rows than
            # the table. `spare` is the share of these rows that the table does not have.
            spare = 1 - rows / (rows_each * shard_count) if sharding in ("row_wise", "table_row_wise") else 0.0
            hbm, host = (int(count * shard_count * (1 - spare)) for count in (largest.hbm, largest.host))
            layouts.append(_Layout(f"{sharding}, {kernel}", largest, hbm, host))
    return layouts
