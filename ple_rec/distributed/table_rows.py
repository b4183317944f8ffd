"""Rows of a sharded table, read in blocks: their squared norms, and whether training has changed them.

Shape suffixes: R rows of a block, D columns of a shard.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ple_rec.distributed.sharding import local_shards
from ple_rec.distributed.table_init import initial_bound, uniform_rows_

# A block has about this many values: 1 MiB of int64, so that dozens of passes over it stay in a core's cache.
_VALUES = 1 << 17


@dataclass(frozen=True)
class TableOrigin:
    """Table with everything that determines its initial rows; `rows` and `dim` are its size."""

    table: str
    rows: int
    dim: int
    seed: int
    scale: float


class RowBlock(NamedTuple):
    """Consecutive rows of a table.

    Args:
        first_row: Global index of the first row.
        square_R: Squared norm of each row in fp64.
        moved_R: Flag of each row, true if a value differs from its initial one.
    """

    first_row: int
    square_R: Tensor
    moved_R: Tensor


@dataclass(frozen=True)
class _Shard:
    values_RD: Tensor
    first_row: int
    first_column: int

    def rows(self, start: int, stop: int) -> _Shard:
        """Return the part with global rows from `start` to `stop`, which may have no rows."""
        first = min(max(start - self.first_row, 0), len(self.values_RD))
        last = min(max(stop - self.first_row, first), len(self.values_RD))
        return _Shard(self.values_RD[first:last], self.first_row + first, self.first_column)

    def block(self, origin: TableOrigin) -> RowBlock:
        """Return the shard's rows as a block that counts the shard's columns alone."""
        initial_RD = torch.empty_like(self.values_RD)
        uniform_rows_(
            initial_RD,
            initial_bound(origin.rows, origin.scale),
            seed=origin.seed,
            table=origin.table,
            first_row=self.first_row,
            first_column=self.first_column,
            dim=origin.dim,
        )
        square_R = self.values_RD.double().square_().sum(dim=1)
        return RowBlock(self.first_row, square_R, (self.values_RD != initial_RD).any(dim=1))


class TableRows:
    """Reader of a sharded model's tables, whose memory does not grow with the tables.

    Every rank makes a reader and iterates over its blocks (collectives).

    Args:
        model: Model after sharding.
        origins: Origin of every table by table name, the same on every rank and in the same order.
        device: Device on which the process group reduces tensors.
    """

    def __init__(self, model: nn.Module, origins: Mapping[str, TableOrigin], device: torch.device) -> None:
        self._origins, self._device = origins, device
        self._shards: dict[str, list[_Shard]] = defaultdict(list)
        for table, values_RD, row, column, _ in local_shards(model):
            self._shards[table].append(_Shard(values_RD, row, column))
        # A rank without a shard of a table cannot tell by itself whether the others hold whole rows of it.
        narrow = [
            any(shard.values_RD.size(1) < origin.dim for shard in self._shards[table])
            for table, origin in origins.items()
        ]
        split = torch.tensor(narrow, dtype=torch.int32, device=device)
        dist.all_reduce(split, op=dist.ReduceOp.MAX)
        self._split = dict(zip(origins, split.tolist(), strict=True))

    def blocks(self, table: str) -> Iterator[RowBlock]:
        """Yield blocks that together, over all ranks, hold every row of a table once. Every rank must read to the end.

        A rank yields the rows of its shards. If the table is split by column, the ranks sum up their parts of each
        block, and rank 0 yields all rows.
        """
        origin = self._origins[table]
        step = max(1, _VALUES // origin.dim)
        if self._split[table]:
            yield from self._joined(origin, step)
            return
        for shard in self._shards[table]:
            end = shard.first_row + len(shard.values_RD)
            for start in range(shard.first_row, end, step):
                yield shard.rows(start, start + step).block(origin)

    def _joined(self, origin: TableOrigin, step: int) -> Iterator[RowBlock]:
        for start in range(0, origin.rows, step):
            stop = min(start + step, origin.rows)
            sums_2R = torch.zeros(2, stop - start, dtype=torch.float64, device=self._device)
            for shard in self._shards[origin.table]:
                part = shard.rows(start, stop).block(origin)
                inside = slice(part.first_row - start, part.first_row - start + len(part.square_R))
                sums_2R[0, inside] += part.square_R
                sums_2R[1, inside] += part.moved_R
            dist.all_reduce(sums_2R)
            if dist.get_rank() == 0:
                yield RowBlock(start, sums_2R[0], sums_2R[1] > 0)
