"""Bytes of a shard of an embedding table: weights, optimizer state, cache and batch.

A shard of r rows and d columns, w bytes a value, on a rank of W, L of them on its host, B samples a rank:

    weights    r d w
    optimizer  4 r (row-wise Adagrad), 4 r d (Adagrad), 8 r d (Adam), 0 (SGD); fp32 whatever the weights are
    batch      ids: 8 bytes each, pooled rows: 4 bytes a value, as TorchRec counts them;
               table- and column-wise  8 B W n + 4 B W F d     n ids a sample over the F features of the table
               row-wise                8 B n   + 4 B W F d
               table-row-wise          8 B W n / L + 4 B W F d
    cache      fused_uvm_caching with load factor c: c r d w rows of it, and r (4 + 16 c) of bookkeeping

They lie in HBM; weights of the UVM kernels in the host's memory, with an optimizer state that is not one value a row
(FBGEMM keeps that in HBM); everything in the host's memory on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

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
