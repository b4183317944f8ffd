"""A table of a plan: one of four placements, its shards as TorchRec builds them, and the bytes of each shard.

The shards are not written down: they follow from the placement, so none can lie where TorchRec would not look for it.
A shard of r rows and d columns, w bytes a value, on a rank of W, L of them on its host, B samples a rank, takes

    weights    r d w
    optimizer  4 r (row-wise Adagrad), 4 r d (Adagrad), 8 r d (Adam), 0 (SGD); fp32 whatever the weights are
    batch      ids: 8 bytes each, pooled rows: 4 bytes a value, as TorchRec counts them;
               table- and column-wise  8 B W n + 4 B W F d     n ids a sample over the F features of the table
               row-wise                8 B n   + 4 B W F d
               table-row-wise          8 B W n / L + 4 B W F d
    cache      fused_uvm_caching with load factor c: c r d w rows of it, and r (4 + 16 c) of bookkeeping

in HBM. Weights of the UVM kernels lie in the host's memory, with an optimizer state that is not one value a row (FBGEMM
keeps that in HBM). On a CPU everything lies in the host's memory.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from ple_rec.config.base import Config, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from ple_rec.config.cluster import Cluster

Kernel = Literal["fused", "fused_uvm", "fused_uvm_caching"]
Sharding = Literal["table_wise", "row_wise", "table_row_wise", "column_wise"]
TableOptimizer = Literal["rowwise_adagrad", "adagrad", "sgd", "adam"]
Dtype = Literal["fp32", "fp16"]

WIDTH: Mapping[Dtype, int] = {"fp32": 4, "fp16": 2}
_STATE_PER_VALUE: Mapping[TableOptimizer, int] = {"rowwise_adagrad": 0, "adagrad": 4, "sgd": 0, "adam": 8}
_ROW_STATE, _ID, _POOLED = 4, 8, 4
_CACHE_ROW, _CACHE_SLOT = 4, 16


class Memory(NamedTuple):
    """Bytes of one rank, or of one shard; `host` is its part of the host's memory."""

    hbm_weights: int = 0
    hbm_optimizer: int = 0
    hbm_cache: int = 0
    hbm_batch: int = 0
    host_weights: int = 0
    host_optimizer: int = 0
    host_batch: int = 0

    def plus(self, other: Memory) -> Memory:
        """Field by field."""
        return Memory(*(a + b for a, b in zip(self, other, strict=True)))

    @property
    def hbm(self) -> int:
        """All that is in HBM."""
        return self.hbm_weights + self.hbm_optimizer + self.hbm_cache + self.hbm_batch

    @property
    def host(self) -> int:
        """All that is in the host's memory."""
        return self.host_weights + self.host_optimizer + self.host_batch

    @property
    def weights(self) -> int:
        """Weights, wherever they are; a cache holds copies."""
        return self.hbm_weights + self.host_weights

    @property
    def optimizer(self) -> int:
        """Optimizer state, wherever it is."""
        return self.hbm_optimizer + self.host_optimizer

    @property
    def batch(self) -> int:
        """Ids and pooled rows of a batch."""
        return self.hbm_batch + self.host_batch


def shard_memory(
    *,
    rows: int,
    columns: int,
    dtype: Dtype,
    ids_per_sample: tuple[float, ...],
    sharding: Sharding,
    kernel: Kernel,
    cache_load_factor: float | None,
    optimizer: TableOptimizer,
    cluster: Cluster,
    batch_size_per_rank: int,
) -> Memory:
    """Bytes of one shard, by the formulas of this module's head."""
    if rows == 0:
        return Memory()
    world, ids, features = cluster.world_size, sum(ids_per_sample), len(ids_per_sample)
    senders = {"row_wise": 1.0, "table_row_wise": world / cluster.ranks_per_host}.get(sharding, float(world))
    batch = math.ceil(_ID * batch_size_per_rank * senders * ids) + _POOLED * batch_size_per_rank * world * (
        features * columns
    )
    weights = rows * columns * WIDTH[dtype]
    row_state = _ROW_STATE * rows if optimizer == "rowwise_adagrad" else 0
    state = _STATE_PER_VALUE[optimizer] * rows * columns
    if not cluster.cuda:
        return Memory(host_weights=weights, host_optimizer=row_state + state, host_batch=batch)
    if kernel == "fused":
        return Memory(hbm_weights=weights, hbm_optimizer=row_state + state, hbm_batch=batch)
    share = cache_load_factor if kernel == "fused_uvm_caching" and cache_load_factor else 0.0
    cache = math.ceil(share * weights) + math.ceil(rows * (_CACHE_ROW + share * _CACHE_SLOT)) if share else 0
    return Memory(hbm_optimizer=row_state, hbm_cache=cache, hbm_batch=batch, host_weights=weights, host_optimizer=state)


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
