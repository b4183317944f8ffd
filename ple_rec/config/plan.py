"""`plan.json`: where every row of every table lives, and what that takes. Pure data; `parallel` makes and uses it."""

from __future__ import annotations

from functools import cached_property
from typing import Final, Literal, get_args

from pydantic import Field, model_validator

from ple_rec.config.base import Config, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from ple_rec.config.cluster import Cluster
from ple_rec.config.plan_memory import Memory, TableOptimizer, shard_memory
from ple_rec.config.plan_table import AnyTablePlan, Costs, Shard, TablePlan

PLAN_VERSION: Final = 3
_MOST_RANKS = 1 << 16
FEWEST_SAMPLES = 64  # Of a rank. With fewer, most of a step is latency, which no estimate counts.

Part = Literal["lookup", "communication", "dense", "gradients", "loader"]
PARTS: tuple[Part, ...] = get_args(Part)  # of a step
BUSY = PARTS[:-1]  # one after the other; the loader is beside them


class Estimate(Config):
    """What a step takes, and what follows; formulas in docs/planning.md. Milliseconds."""

    lookup_ms: NonNegativeFloat = Field(description="look-up, update and prefetch of the rows, busiest rank")
    communication_ms: NonNegativeFloat = Field(description="ids, pooled rows and gradients, busiest rank")
    dense_ms: NonNegativeFloat = Field(description="forward and backward of the dense layers")
    gradients_ms: NonNegativeFloat = Field(description="all-reduce of the dense gradients beyond their backward")
    loader_ms: NonNegativeFloat = Field(description="reading a batch, which overlaps with all else")
    step_ms: NonNegativeFloat
    bound: Part = Field(description="the largest part")
    samples_per_second: PositiveFloat
    epoch_samples: PositiveInt
    epoch_seconds: PositiveFloat

    def part_ms(self, name: str) -> float:
        """Return the milliseconds of a part, or of `step`."""
        return float(getattr(self, f"{name}_ms"))


class Reserved(Config):
    """Bytes of a rank that tables do not get."""

    hbm_bytes: NonNegativeInt = Field(description="the reserve of the topology")
    host_bytes: NonNegativeInt = Field(description="the same of the host's memory")
    dense_bytes: NonNegativeInt = Field(description="dense parameters, gradients, optimizer and their buckets")


class Plan(Config):
    """Every table of a run on every rank of a cluster."""

    version: Literal[3]
    cluster: Cluster
    batch_size_per_rank: PositiveInt
    optimizer: TableOptimizer
    reserved: Reserved
    rows_of: str = Field("", description="where the rows of the tables stand: a dataset directory, or a schema")
    tables: tuple[AnyTablePlan, ...]
    estimate: Estimate | None = None

    @model_validator(mode="after")
    def _can_be_built(self) -> Plan:
        cluster, names = self.cluster, [table.table for table in self.tables]
        if cluster.world_size > _MOST_RANKS:
            raise ValueError(f"cluster: {cluster.world_size:,} ranks; a plan has at most {_MOST_RANKS:,}")
        problems = [f"table {name!r} stands there twice" for name in sorted({n for n in names if names.count(n) > 1})]
        for table in self.tables:
            problems += table.problems(cluster)
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @cached_property
    def memory(self) -> tuple[Memory, ...]:
        """Bytes of every rank."""
        found = [Memory()] * self.cluster.world_size
        for table in self.tables:
            for shard in table.shards(self.cluster):
                found[shard.rank] = found[shard.rank].plus(self.of_shard(table, shard))
        return tuple(found)

    def ranks_of(self, table: TablePlan) -> tuple[int, ...]:
        """Return the rank of each shard of a table, in their order."""
        return tuple(shard.rank for shard in table.shards(self.cluster))

    def of_shard(self, table: TablePlan, shard: Shard) -> Memory:
        """Return the bytes of one shard."""
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
        """Return the bytes of all shards of a table."""
        total = Memory()
        for shard in table.shards(self.cluster):
            total = total.plus(self.of_shard(table, shard))
        return total

    @cached_property
    def costs(self) -> tuple[Costs, ...]:
        """Milliseconds of every rank: the sums over its shards."""
        sums = [dict.fromkeys(Costs.model_fields, 0.0) for _ in range(self.cluster.world_size)]
        for table in self.tables:
            for shard in table.shards(self.cluster):
                for name, value in table.costs_ms if shard.rows else ():
                    sums[shard.rank][name] += value
        return tuple(Costs.model_validate(each) for each in sums)

    @property
    def rate(self) -> float | None:
        """Estimated samples a second of all ranks; None if a rank has too few samples for a rate."""
        too_few = self.batch_size_per_rank < FEWEST_SAMPLES
        return None if too_few or self.estimate is None else self.estimate.samples_per_second

    @property
    def allowed_hbm(self) -> int:
        """HBM of a rank that tables and their batches may take; 0 on a CPU."""
        return (
            max(0, self.cluster.hbm_bytes - self.reserved.hbm_bytes - self.reserved.dense_bytes)
            if self.cluster.cuda
            else 0
        )

    @property
    def allowed_host(self) -> int:
        """The same of its part of the host's memory."""
        dense = 0 if self.cluster.cuda else self.reserved.dense_bytes
        return max(0, self.cluster.ddr_bytes - self.reserved.host_bytes - dense)


def reserved_of(cluster: Cluster, dense_bytes: int) -> Reserved:
    """Return what tables do not get on a rank of this cluster."""
    share = cluster.hardware.reserve
    return Reserved(
        hbm_bytes=int(share * cluster.hbm_bytes), host_bytes=int(share * cluster.ddr_bytes), dense_bytes=dense_bytes
    )


def column_wise_remarks(plan: Plan) -> list[str]:
    """Return the remark on tables that are cut by columns while their optimizer has a state for each row."""
    cut = [table.table for table in plan.tables if table.sharding == "column_wise"]
    if not cut or plan.optimizer != "rowwise_adagrad":
        return []
    some = ", ".join(cut[:4]) + (f" and {len(cut) - 4} more" if len(cut) > 4 else "")
    return [
        f"column_wise with rowwise_adagrad is another optimizer: every shard of {some} keeps its own state of a "
        "row, and checkpoints fit the same cut only"
    ]
