"""`plan.json`: where every row of every table lives, and what that takes. Pure data; `parallel` makes and uses it."""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ple_rec.config.base import Config, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from ple_rec.config.cluster import Cluster
from ple_rec.config.plan_memory import WIDTH, Dtype, Kernel, Memory, Sharding, TableOptimizer, shard_memory

PLAN_VERSION = 2


class Costs(Config):
    """Milliseconds of a shard in a step, as TorchRec's cost model estimates them."""

    ids: NonNegativeFloat = Field(description="distribution of the ids")
    lookup: NonNegativeFloat = Field(description="look-up, forward")
    output: NonNegativeFloat = Field(description="distribution of the pooled rows, forward")
    gradient: NonNegativeFloat = Field(description="distribution of their gradients, backward")
    update: NonNegativeFloat = Field(description="backward and optimizer of the rows")
    prefetch: NonNegativeFloat = Field(0.0, description="of a cached table, from the host's memory")

    def total(self) -> float:
        """The sum."""
        return self.ids + self.lookup + self.output + self.gradient + self.update + self.prefetch


class Shard(Config):
    """A rectangle of a table on one rank."""

    rank: NonNegativeInt
    row: NonNegativeInt = Field(description="first row")
    rows: NonNegativeInt
    column: NonNegativeInt = Field(description="first column")
    columns: PositiveInt


class TablePlan(Config):
    """A table and its shards."""

    table: str
    rows: PositiveInt
    dim: PositiveInt
    dtype: Dtype
    ids_per_sample: tuple[PositiveFloat, ...] = Field(description="of each feature that reads the table")
    sharding: Sharding
    kernel: Kernel
    cache_load_factor: Annotated[float, Field(gt=0, lt=1)] | None = None
    costs: Costs = Field(description="of the costliest shard")
    shards: tuple[Shard, ...]

    @model_validator(mode="after")
    def _every_row_once(self) -> TablePlan:
        problems = _cover_problems(self)
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def bytes(self) -> int:
        """Of the weights."""
        return self.rows * self.dim * WIDTH[self.dtype]

    @property
    def ranks(self) -> tuple[int, ...]:
        """Of the shards, in their order."""
        return tuple(shard.rank for shard in self.shards)

    def columns_read(self) -> int:
        """F, the number of features that read it."""
        return len(self.ids_per_sample)


class Estimate(Config):
    """What a step takes, and what follows; formulas in docs/planning.md. Milliseconds."""

    lookup: NonNegativeFloat = Field(description="look-up, update and prefetch of the rows, busiest rank")
    communication: NonNegativeFloat = Field(description="ids, pooled rows and gradients, busiest rank")
    dense: NonNegativeFloat = Field(description="forward and backward of the dense layers")
    gradients: NonNegativeFloat = Field(description="all-reduce of the dense gradients beyond their backward")
    loader: NonNegativeFloat = Field(description="reading a batch, which overlaps with all else")
    step: NonNegativeFloat
    bound: Literal["lookup", "communication", "dense", "gradients", "loader"] = Field(description="the largest part")
    samples_per_second: PositiveFloat
    epoch_samples: PositiveInt
    epoch_seconds: PositiveFloat


class Reserved(Config):
    """Bytes of a rank that tables do not get."""

    share: NonNegativeInt = Field(description="the reserve of the topology")
    host_share: NonNegativeInt = Field(description="the same of the host's memory")
    dense: NonNegativeInt = Field(description="dense parameters, gradients, optimizer and their buckets")


class Plan(Config):
    """Every table of a run on every rank of a cluster."""

    version: Literal[2]
    cluster: Cluster
    batch_size_per_rank: PositiveInt
    optimizer: TableOptimizer
    reserved: Reserved
    tables: tuple[TablePlan, ...]
    estimate: Estimate | None = None

    @model_validator(mode="after")
    def _ranks_exist(self) -> Plan:
        world = self.cluster.world_size
        for table in self.tables:
            if (last := max(table.ranks)) >= world:
                raise ValueError(f"table {table.table!r} has a shard on rank {last}; the cluster has {world} ranks")
        return self

    @cached_property
    def memory(self) -> tuple[Memory, ...]:
        """Of every rank."""
        found = [Memory()] * self.cluster.world_size
        for table in self.tables:
            for shard in table.shards:
                found[shard.rank] = found[shard.rank].plus(self.of_shard(table, shard))
        return tuple(found)

    def of_shard(self, table: TablePlan, shard: Shard) -> Memory:
        """Bytes of one shard."""
        return shard_memory(
            rows=shard.rows,
            columns=shard.columns,
            dtype=table.dtype,
            ids_per_sample=table.ids_per_sample,
            sharding=table.sharding,
            kernel=table.kernel,
            cache_load_factor=table.cache_load_factor,
            optimizer=self.optimizer,
            cluster=self.cluster,
            batch_size_per_rank=self.batch_size_per_rank,
        )

    def of_table(self, table: TablePlan) -> Memory:
        """Bytes of all shards of a table."""
        total = Memory()
        for shard in table.shards:
            total = total.plus(self.of_shard(table, shard))
        return total

    @cached_property
    def costs(self) -> tuple[Costs, ...]:
        """Of every rank: the sums over its shards."""
        sums = [dict.fromkeys(Costs.model_fields, 0.0) for _ in range(self.cluster.world_size)]
        for table in self.tables:
            for shard in table.shards:
                for name, value in table.costs if shard.rows else ():
                    sums[shard.rank][name] += value
        return tuple(Costs.model_validate(each) for each in sums)

    @property
    def allowed_hbm(self) -> int:
        """HBM of a rank that tables and their batches may take; 0 on a CPU."""
        return max(0, self.cluster.hbm_bytes - self.reserved.share - self.reserved.dense) if self.cluster.cuda else 0

    @property
    def allowed_host(self) -> int:
        """The same of its part of the host's memory."""
        dense = 0 if self.cluster.cuda else self.reserved.dense
        return max(0, self.cluster.ddr_bytes - self.reserved.host_share - dense)


def reserved_of(cluster: Cluster, dense_bytes: int) -> Reserved:
    """What tables do not get on a rank of this cluster."""
    share = cluster.hardware.reserve
    return Reserved(share=int(share * cluster.hbm_bytes), host_share=int(share * cluster.ddr_bytes), dense=dense_bytes)


def _cover_problems(table: TablePlan) -> list[str]:
    """Whether the shards are disjoint rectangles that hold every value of the table."""
    inside = [
        f"shard of rank {s.rank}: rows {s.row} to {s.row + s.rows}, columns {s.column} to {s.column + s.columns} "
        f"of a table of {table.rows} x {table.dim}"
        for s in table.shards
        if s.row + s.rows > table.rows or s.column + s.columns > table.dim
    ]
    if inside:
        return inside
    held = sum(s.rows * s.columns for s in table.shards)
    boxes = sorted((s.column, s.row, s.columns, s.rows) for s in table.shards if s.rows)
    apart = all(
        after_column >= column + columns or (after_column == column and after_row >= row + rows)
        for (column, row, columns, rows), (after_column, after_row, *_) in pairwise(boxes)
    )
    if held != table.rows * table.dim or not apart:
        return [
            f"table {table.table!r}: its shards hold {held} values, of {table.rows * table.dim}, "
            f"{'each at most once' if apart else 'some of them twice'}; every value belongs to one shard"
        ]
    return []
