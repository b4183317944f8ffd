"""An embedding table in a sharding plan: its placement by one of four shardings, its shards, and the memory of each.

A plan saves the placement and no shards: `TablePlan.shards` computes them as TorchRec does. A shard takes memory for
four purposes, in bytes. It has r rows and d columns of w bytes a value, and lies on one of W ranks, L of which are on
its host; the batch of a rank has B samples. F features read the table, with n ids a sample together.

    weights    r d w
    optimizer  4 r (row-wise Adagrad), 4 r d (Adagrad), 8 r d (Adam), 0 (SGD); fp32 whatever the weights are
    batch      ids: 8 bytes each, pooled rows: 4 bytes a value, as TorchRec counts them;
               table- and column-wise  8 B W n + 4 B W F d
               row-wise                8 B n   + 4 B W F d
               table-row-wise          8 B W n / L + 4 B W F d
               unpooled tables return a row for each id: table- and column-wise  8 B W n + 4 B W n d
                                                         row-wise                8 B n   + 4 B n d
    cache      fused_uvm_caching with load factor c: c r d w of cached rows, and r (4 + 16 c) of bookkeeping

On a GPU all of it lies in HBM (the GPU's memory), except that the UVM kernels (fused_uvm, fused_uvm_caching) keep
weights in the host's memory, and optimizer state too; FBGEMM keeps only the state of row-wise Adagrad in HBM. On a CPU
everything lies in the host's memory.
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

BYTES_PER_VALUE: Mapping[Dtype, int] = {"fp32": 4, "fp16": 2}
_STATE_BYTES_PER_VALUE: Mapping[TableOptimizer, int] = {"rowwise_adagrad": 0, "adagrad": 4, "sgd": 0, "adam": 8}
_STATE_BYTES_PER_ROW, _BYTES_PER_ID, _BYTES_PER_OUTPUT_VALUE = 4, 8, 4
_CACHE_BYTES_PER_ROW, _CACHE_BYTES_PER_CACHED_ROW = 4, 16


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
        """Bytes of the weights in both memories, without the copies in a cache."""
        return self.hbm_weights + self.host_weights

    @property
    def optimizer(self) -> int:
        """Bytes of the optimizer state in both memories."""
        return self.hbm_optimizer + self.host_optimizer

    @property
    def batch(self) -> int:
        """Bytes of a batch's ids and of the rows, pooled or not, that are returned, in both memories."""
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
    unpooled: bool = False,
) -> Memory:
    """Return the memory of one shard by the formulas at the top of this module."""
    if rows == 0:
        return Memory()
    world, ids, features = cluster.world_size, sum(ids_per_sample), len(ids_per_sample)
    # Batches of one rank whose ids reach the shard: those of all ranks, divided among the shards of rows.
    id_batches = {"row_wise": 1.0, "table_row_wise": world / cluster.ranks_per_host}.get(sharding, float(world))
    id_bytes = _BYTES_PER_ID * batch_size_per_rank * id_batches * ids
    returned_rows = id_batches * ids if unpooled else world * features
    batch = math.ceil(id_bytes) + math.ceil(_BYTES_PER_OUTPUT_VALUE * batch_size_per_rank * returned_rows * columns)
    weights = rows * columns * BYTES_PER_VALUE[dtype]
    row_state = _STATE_BYTES_PER_ROW * rows if optimizer == "rowwise_adagrad" else 0
    state = _STATE_BYTES_PER_VALUE[optimizer] * rows * columns
    if not cluster.cuda:
        return Memory(host_weights=weights, host_optimizer=row_state + state, host_batch=batch)
    if kernel == "fused":
        return Memory(hbm_weights=weights, hbm_optimizer=row_state + state, hbm_batch=batch)
    cached_share = cache_load_factor if kernel == "fused_uvm_caching" and cache_load_factor else 0.0
    cache = (
        math.ceil(cached_share * weights)
        + math.ceil(rows * (_CACHE_BYTES_PER_ROW + cached_share * _CACHE_BYTES_PER_CACHED_ROW))
        if cached_share
        else 0
    )
    return Memory(hbm_optimizer=row_state, hbm_cache=cache, hbm_batch=batch, host_weights=weights, host_optimizer=state)


_COLUMN_MULTIPLE = 4  # The columns of a column-wise shard are a multiple of this number.


class Costs(Config):
    """Milliseconds of a shard in a step, estimated by TorchRec's cost model."""

    ids: NonNegativeFloat = Field(description="exchange of the ids")
    lookup: NonNegativeFloat = Field(description="look-up of the rows in forward")
    output: NonNegativeFloat = Field(description="exchange of the rows, pooled or not, in forward")
    gradient: NonNegativeFloat = Field(description="exchange of the gradients of these rows in backward")
    update: NonNegativeFloat = Field(description="backward and optimizer step of the rows")
    prefetch: NonNegativeFloat = Field(0.0, description="fetch of a cached table's rows from the host's memory")

    def lookup_part_ms(self) -> float:
        """Return the time of look-up, update and prefetch, which count as the part `lookup` of a step."""
        return self.lookup + self.update + self.prefetch

    def communication_part_ms(self) -> float:
        """Return the time of exchanging ids, pooled rows and gradients: the part `communication` of a step."""
        return self.ids + self.output + self.gradient

    def total(self) -> float:
        """Return the sum of all costs."""
        return self.ids + self.lookup + self.output + self.gradient + self.update + self.prefetch

    def scaled(self, lookup: float, exchange: float) -> Costs:
        """Return costs with the look-up and update, and the exchanges, multiplied by factors."""
        changed = {"lookup": self.lookup * lookup, "update": self.update * lookup}
        changed |= {name: getattr(self, name) * exchange for name in ("ids", "output", "gradient")}
        return self.model_copy(update=changed)


class Shard(NamedTuple):
    """Block of a table on one rank: `rows` rows from `row` on, `columns` columns from `column` on; `rows` may be 0."""

    rank: int
    row: int
    rows: int
    column: int
    columns: int


class TablePlan(Config):
    """An embedding table in a plan. Each sharding has a subclass, with the keys of its placement."""

    table: str
    rows: PositiveInt
    dim: PositiveInt
    dtype: Dtype
    ids_per_sample: tuple[PositiveFloat, ...] = Field(description="mean ids of each feature that reads the table")
    sharding: Sharding
    kernel: Kernel
    cache_load_factor: Annotated[float, Field(gt=0, lt=1)] | None = None
    unpooled: bool = Field(
        False, exclude_if=lambda unpooled: not unpooled, description="the row of each id is returned, not their sum"
    )
    costs_ms: Costs = Field(description="costs of the costliest shard")

    @property
    def bytes(self) -> int:
        """Bytes of the weights."""
        return self.rows * self.dim * BYTES_PER_VALUE[self.dtype]

    @abstractmethod
    def shards(self, cluster: Cluster) -> tuple[Shard, ...]:
        """Return the shards on the ranks of a cluster, in TorchRec's order."""

    def problems(self, cluster: Cluster) -> Iterator[str]:
        """Yield the problems of the table on a cluster."""
        where = f"table {self.table!r}"
        if (highest_rank := max(shard.rank for shard in self.shards(cluster))) >= cluster.world_size:
            yield f"{where} has a shard on rank {highest_rank}; the cluster has {cluster.world_size} ranks"
        if self.kernel != "fused" and not cluster.cuda:
            yield f"{where}: kernel {self.kernel} on CPU hosts, which have only fused"
        if self.unpooled and self.sharding == "table_row_wise":
            yield f"{where}: unpooled and table_row_wise; TorchRec cannot shard it so"
        if (self.kernel == "fused_uvm_caching") != (self.cache_load_factor is not None):
            yield f"{where}: cache_load_factor is for kernel fused_uvm_caching, which needs it"

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
    """Shards of all rows and the same number of columns; a rank may have several of them."""

    sharding: Literal["column_wise"]
    ranks: tuple[NonNegativeInt, ...] = Field(min_length=1)

    def shards(self, cluster: Cluster) -> tuple[Shard, ...]:
        """Return a shard for each entry of `ranks`."""
        width = self.dim // len(self.ranks)
        return tuple(Shard(rank, 0, self.rows, i * width, width) for i, rank in enumerate(self.ranks))

    def problems(self, cluster: Cluster) -> Iterator[str]:
        """Yield the problems of the table on a cluster, also columns that cannot be divided among the shards."""
        yield from super().problems(cluster)
        if self.dim % (_COLUMN_MULTIPLE * len(self.ranks)):
            yield (
                f"table {self.table!r}, column_wise: {self.dim} columns in {len(self.ranks)} shard(s); all shards have "
                f"the same number of columns, a multiple of {_COLUMN_MULTIPLE}"
            )


AnyTablePlan = Annotated[TableWise | RowWise | TableRowWise | ColumnWise, Field(discriminator="sharding")]


def placement_keys(sharding: str, ranks: Sequence[int], ranks_per_host: int) -> dict[str, Any]:
    """Return the key that places a table, with its value: `rank`, `host` or `ranks`; empty for row-wise sharding.

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
