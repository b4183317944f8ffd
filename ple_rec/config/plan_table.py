"""Table of a plan: one of four placements, its shards as TorchRec builds them, and the bytes of each shard.

Shards are not saved. They follow from the placement, so none can lie where TorchRec would not expect it. A shard of r
rows and d columns with w bytes a value, on one of W ranks, L of them on its host, with B samples a rank, takes

    weights    r d w
    optimizer  4 r (row-wise Adagrad), 4 r d (Adagrad), 8 r d (Adam), 0 (SGD); fp32 whatever the weights are
    batch      ids: 8 bytes each, pooled rows: 4 bytes a value, as TorchRec counts them;
               table- and column-wise  8 B W n + 4 B W F d     n ids a sample over the F features of the table
               row-wise                8 B n   + 4 B W F d
               table-row-wise          8 B W n / L + 4 B W F d
    cache      fused_uvm_caching with load factor c: c r d w rows of it, and r (4 + 16 c) of bookkeeping

in HBM. Weights of the UVM kernels lie in the host's memory, and so does their optimizer state, unless it is one value a
row, which FBGEMM keeps in HBM. On a CPU everything lies in the host's memory.
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
    """Bytes that one rank or one shard takes, by memory and purpose."""

    hbm_weights: int = 0
    hbm_optimizer: int = 0
    hbm_cache: int = 0
    hbm_batch: int = 0
    host_weights: int = 0
    host_optimizer: int = 0
    host_batch: int = 0

    def plus(self, other: Memory) -> Memory:
        """Return the sum of two memories, field by field."""
        return Memory(*(a + b for a, b in zip(self, other, strict=True)))

    @property
    def hbm(self) -> int:
        """Bytes in HBM."""
        return self.hbm_weights + self.hbm_optimizer + self.hbm_cache + self.hbm_batch

    @property
    def host(self) -> int:
        """Bytes in the host's memory."""
        return self.host_weights + self.host_optimizer + self.host_batch

    @property
    def weights(self) -> int:
        """Bytes of the weights in either memory; a cache holds copies, which do not count."""
        return self.hbm_weights + self.host_weights

    @property
    def optimizer(self) -> int:
        """Bytes of the optimizer state in either memory."""
        return self.hbm_optimizer + self.host_optimizer

    @property
    def batch(self) -> int:
        """Bytes of a batch's ids and pooled rows in either memory."""
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
    """Return the memory of one shard by the formulas at the top of this module."""
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


_COLUMNS = 4  # The columns of a column-wise shard are a multiple of this number.


class Costs(Config):
    """Milliseconds of a shard in a step, estimated by TorchRec's cost model."""

    ids: NonNegativeFloat = Field(description="exchange of the ids")
    lookup: NonNegativeFloat = Field(description="look-up of the rows in forward")
    output: NonNegativeFloat = Field(description="exchange of the pooled rows in forward")
    gradient: NonNegativeFloat = Field(description="exchange of their gradients in backward")
    update: NonNegativeFloat = Field(description="backward and optimizer step of the rows")
    prefetch: NonNegativeFloat = Field(0.0, description="fetch of a cached table's rows from the host's memory")

    def lookup_ms(self) -> float:
        """Return the time of reading and updating rows, and of fetching them into a cache."""
        return self.lookup + self.update + self.prefetch

    def communication_ms(self) -> float:
        """Return the time of exchanging ids, pooled rows and their gradients."""
        return self.ids + self.output + self.gradient

    def total(self) -> float:
        """Return the sum of all costs."""
        return self.ids + self.lookup + self.output + self.gradient + self.update + self.prefetch


class Shard(NamedTuple):
    """Rectangle of a table on one rank, from `row` and `column` on; it may have no rows."""

    rank: int
    row: int
    rows: int
    column: int
    columns: int


class TablePlan(Config):
    """Table of a plan; its subclasses add the placement."""

    table: str
    rows: PositiveInt
    dim: PositiveInt
    dtype: Dtype
    ids_per_sample: tuple[PositiveFloat, ...] = Field(description="mean ids of each feature that reads the table")
    sharding: Sharding
    kernel: Kernel
    cache_load_factor: Annotated[float, Field(gt=0, lt=1)] | None = None
    costs_ms: Costs = Field(description="costs of the costliest shard")

    @property
    def bytes(self) -> int:
        """Bytes of the weights."""
        return self.rows * self.dim * WIDTH[self.dtype]

    @abstractmethod
    def shards(self, cluster: Cluster) -> tuple[Shard, ...]:
        """Return the shards on the ranks of a cluster, in TorchRec's order."""

    def problems(self, cluster: Cluster) -> Iterator[str]:
        """Yield the problems of the table on a cluster."""
        where = f"table {self.table!r}"
        if (last := max(shard.rank for shard in self.shards(cluster))) >= cluster.world_size:
            yield f"{where} has a shard on rank {last}; the cluster has {cluster.world_size} ranks"
        if self.kernel != "fused" and not cluster.cuda:
            yield f"{where}: kernel {self.kernel} on CPU hosts, which have fused alone"
        if (self.kernel == "fused_uvm_caching") != (self.cache_load_factor is not None):
            yield f"{where}: cache_load_factor goes with kernel fused_uvm_caching alone"

    def _blocks(self, ranks: range) -> tuple[Shard, ...]:
        """Return blocks of ceil(rows / ranks) rows, one on each rank; the last ones may have fewer rows or none."""
        size = -(-self.rows // len(ranks))
        starts = [min(i * size, self.rows) for i in range(len(ranks) + 1)]
        return tuple(
            Shard(rank, start, end - start, 0, self.dim)
            for rank, start, end in zip(ranks, starts, starts[1:], strict=False)
        )


class TableWise(TablePlan):
    """Whole table on one rank."""

    sharding: Literal["table_wise"]
    rank: NonNegativeInt

    def shards(self, cluster: Cluster) -> tuple[Shard, ...]:
        """Return the one shard."""
        return (Shard(self.rank, 0, self.rows, 0, self.dim),)


class RowWise(TablePlan):
    """Blocks of rows, one on every rank."""

    sharding: Literal["row_wise"]

    def shards(self, cluster: Cluster) -> tuple[Shard, ...]:
        """Return a shard for each rank."""
        return self._blocks(range(cluster.world_size))


class TableRowWise(TablePlan):
    """Blocks of rows, one on every rank of one host."""

    sharding: Literal["table_row_wise"]
    host: NonNegativeInt

    def shards(self, cluster: Cluster) -> tuple[Shard, ...]:
        """Return a shard for each rank of the host."""
        first = self.host * cluster.ranks_per_host
        return self._blocks(range(first, first + cluster.ranks_per_host))


class ColumnWise(TablePlan):
    """Equally many columns of all rows in each shard; a rank may have several shards."""

    sharding: Literal["column_wise"]
    ranks: tuple[NonNegativeInt, ...] = Field(min_length=1)

    def shards(self, cluster: Cluster) -> tuple[Shard, ...]:
        """Return a shard for each entry of `ranks`."""
        width = self.dim // len(self.ranks)
        return tuple(Shard(rank, 0, self.rows, i * width, width) for i, rank in enumerate(self.ranks))

    def problems(self, cluster: Cluster) -> Iterator[str]:
        """Yield the problems of the table on a cluster, columns that do not divide included."""
        yield from super().problems(cluster)
        if self.dim % (_COLUMNS * len(self.ranks)):
            yield (
                f"table {self.table!r}, column_wise: {self.dim} columns in {len(self.ranks)} shard(s); each has as "
                f"many as the others, {_COLUMNS} or a multiple of them"
            )


AnyTablePlan = Annotated[TableWise | RowWise | TableRowWise | ColumnWise, Field(discriminator="sharding")]


def placement_keys(sharding: str, ranks: Sequence[int], ranks_per_host: int) -> dict[str, Any]:
    """Return the keys of a table's placement: `rank`, `host`, `ranks` or none.

    Args:
        sharding: Sharding of the table.
        ranks: Rank of each shard, in the order of the shards.
        ranks_per_host: Number of ranks of a host.
    """
    keys: dict[str, dict[str, Any]] = {
        "table_wise": {"rank": ranks[0]},
        "table_row_wise": {"host": ranks[0] // ranks_per_host},
        "column_wise": {"ranks": ranks},
    }
    return keys.get(sharding, {})
