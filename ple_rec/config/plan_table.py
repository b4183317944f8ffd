"""A table of a plan: one of four placements, from which its shards follow as TorchRec builds them.

No shard is written down, so none can lie where TorchRec would not look for it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from ple_rec.config.base import Config, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from ple_rec.config.cluster import Cluster
from ple_rec.config.plan_memory import WIDTH, Dtype, Kernel, Sharding

_COLUMNS = 4  # a column-wise shard has a multiple of so many


class Costs(Config):
    """Milliseconds of a shard in a step, as TorchRec's cost model estimates them."""

    ids: NonNegativeFloat = Field(description="distribution of the ids")
    lookup: NonNegativeFloat = Field(description="look-up, forward")
    output: NonNegativeFloat = Field(description="distribution of the pooled rows, forward")
    gradient: NonNegativeFloat = Field(description="distribution of their gradients, backward")
    update: NonNegativeFloat = Field(description="backward and optimizer of the rows")
    prefetch: NonNegativeFloat = Field(0.0, description="of a cached table, from the host's memory")

    def lookup_ms(self) -> float:
        """Return the time of the rows: read, updated, fetched into a cache."""
        return self.lookup + self.update + self.prefetch

    def communication_ms(self) -> float:
        """Return the time of what a rank exchanges: ids, pooled rows, their gradients."""
        return self.ids + self.output + self.gradient

    def total(self) -> float:
        """Return the sum."""
        return self.ids + self.lookup + self.output + self.gradient + self.update + self.prefetch


class Shard(NamedTuple):
    """A rectangle of a table on one rank; it may have no rows."""

    rank: int
    row: int
    rows: int
    column: int
    columns: int


class TablePlan(Config):
    """A table wherever it lies; the classes below say where."""

    table: str
    rows: PositiveInt
    dim: PositiveInt
    dtype: Dtype
    ids_per_sample: tuple[PositiveFloat, ...] = Field(description="of each feature that reads the table")
    sharding: Sharding
    kernel: Kernel
    cache_load_factor: Annotated[float, Field(gt=0, lt=1)] | None = None
    costs_ms: Costs = Field(description="of the costliest shard")

    @property
    def bytes(self) -> int:
        """Bytes of the weights."""
        return self.rows * self.dim * WIDTH[self.dtype]

    @abstractmethod
    def shards(self, cluster: Cluster) -> tuple[Shard, ...]:
        """Return the shards on the ranks of a cluster, in TorchRec's order."""

    def problems(self, cluster: Cluster) -> Iterator[str]:
        """Yield what is wrong with the table on this cluster."""
        where = f"table {self.table!r}"
        if (last := max(shard.rank for shard in self.shards(cluster))) >= cluster.world_size:
            yield f"{where} has a shard on rank {last}; the cluster has {cluster.world_size} ranks"
        if self.kernel != "fused" and not cluster.cuda:
            yield f"{where}: kernel {self.kernel} on CPU hosts, which have fused alone"
        if (self.kernel == "fused_uvm_caching") != (self.cache_load_factor is not None):
            yield f"{where}: cache_load_factor goes with kernel fused_uvm_caching alone"

    def _blocks(self, ranks: range) -> tuple[Shard, ...]:
        """Return blocks of ceil(rows / ranks) rows, one a rank; the last has the rest."""
        size = -(-self.rows // len(ranks))
        starts = [min(i * size, self.rows) for i in range(len(ranks) + 1)]
        return tuple(
            Shard(rank, start, end - start, 0, self.dim)
            for rank, start, end in zip(ranks, starts, starts[1:], strict=False)
        )


class TableWise(TablePlan):
    """The whole table on one rank."""

    sharding: Literal["table_wise"]
    rank: NonNegativeInt

    def shards(self, cluster: Cluster) -> tuple[Shard, ...]:
        """Return the one shard."""
        return (Shard(self.rank, 0, self.rows, 0, self.dim),)


class RowWise(TablePlan):
    """A block of rows on every rank."""

    sharding: Literal["row_wise"]

    def shards(self, cluster: Cluster) -> tuple[Shard, ...]:
        """Return a shard for each rank."""
        return self._blocks(range(cluster.world_size))


class TableRowWise(TablePlan):
    """A block of rows on every rank of one host."""

    sharding: Literal["table_row_wise"]
    host: NonNegativeInt

    def shards(self, cluster: Cluster) -> tuple[Shard, ...]:
        """Return a shard for each rank of the host."""
        first = self.host * cluster.ranks_per_host
        return self._blocks(range(first, first + cluster.ranks_per_host))


class ColumnWise(TablePlan):
    """All rows on each of some ranks, of equally many columns side by side; a rank may have several of these."""

    sharding: Literal["column_wise"]
    ranks: tuple[NonNegativeInt, ...] = Field(min_length=1)

    def shards(self, cluster: Cluster) -> tuple[Shard, ...]:
        """Return a shard for each rank that is named."""
        width = self.dim // len(self.ranks)
        return tuple(Shard(rank, 0, self.rows, i * width, width) for i, rank in enumerate(self.ranks))

    def problems(self, cluster: Cluster) -> Iterator[str]:
        """Yield what is wrong with the table on this cluster, columns that do not divide among others."""
        yield from super().problems(cluster)
        if self.dim % (_COLUMNS * len(self.ranks)):
            yield (
                f"table {self.table!r}, column_wise: {self.dim} columns in {len(self.ranks)} shard(s); each has as "
                f"many as the others, {_COLUMNS} or a multiple of them"
            )


AnyTablePlan = Annotated[TableWise | RowWise | TableRowWise | ColumnWise, Field(discriminator="sharding")]


def where_of(sharding: str, ranks: Sequence[int], ranks_per_host: int) -> dict[str, Any]:
    """Return the keys that say where a table lies.

    Args:
        sharding: One of the four shardings.
        ranks: Rank of each shard, in their order.
        ranks_per_host: Ranks of a host.
    """
    where: dict[str, dict[str, Any]] = {
        "table_wise": {"rank": ranks[0]},
        "table_row_wise": {"host": ranks[0] // ranks_per_host},
        "column_wise": {"ranks": ranks},
    }
    return where.get(sharding, {})
