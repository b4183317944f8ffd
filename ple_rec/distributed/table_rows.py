"""Reader of the rows of sharded tables: their squared norms, and whether training has changed them.

The table statistics of a run are computed from these (`ple_rec/training/table_health.py`). The reader yields blocks of
consecutive rows, so its memory does not grow with the tables.

Shape suffixes: R rows of a shard or of a block, D columns of a shard, 2 statistics (squared norm, changed or not).
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

# Number of values of a block, about. These are 1 MiB of int64, so dozens of passes over a block stay in a core's cache.
_BLOCK_VALUES = 1 << 17


@dataclass(frozen=True)
class TableOrigin:
    """All that determines the initial values of a table; see `table_init.uniform_rows_`.

    Args:
        table: Name of the table.
        rows: Number of rows allocated for the table.
        dim: Number of columns.
        seed: Seed of the run.
        scale: Configured factor of the bound; see `table_init.initial_bound`.
    """

    table: str
    rows: int
    dim: int
    seed: int
    scale: float


class RowBlock(NamedTuple):
    """Statistics of consecutive rows of a table.

    Args:
        first_row: Index of the first row in the whole table.
        square_R: Squared norm of each row, in fp64.
        changed_R: True for each row of which a value differs from its initial value.
    """

    first_row: int
    square_R: Tensor
    changed_R: Tensor


@dataclass(frozen=True)
class _Shard:
    values_RD: Tensor
    first_row: int
    first_column: int

    def rows(self, start: int, stop: int) -> _Shard:
        """Return those rows of the shard that are rows start to stop - 1 of the whole table; there may be none."""
        first = min(max(start - self.first_row, 0), len(self.values_RD))
        last = min(max(stop - self.first_row, first), len(self.values_RD))
        return _Shard(self.values_RD[first:last], self.first_row + first, self.first_column)

    def block(self, origin: TableOrigin) -> RowBlock:
        """Return the statistics of the shard's rows, over the columns of the shard only."""
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
    """Reader of the tables of a sharded model, in blocks of rows.

    The constructor and `blocks` are collectives, so every rank must call them in the same order.

    Args:
        model: Sharded model.
        origins: Origin of every table by table name, the same and in the same order on every rank.
        device: Device on which the process group reduces tensors.
    """

    def __init__(self, model: nn.Module, origins: Mapping[str, TableOrigin], device: torch.device) -> None:
        self._origins, self._device = origins, device
        self._shards: dict[str, list[_Shard]] = defaultdict(list)
        for table, values_RD, row, column, _ in local_shards(model):
            self._shards[table].append(_Shard(values_RD, row, column))
        # A rank without a shard of a table does not know whether the other ranks' shards have all columns.
        has_narrow_shards = [
            any(shard.values_RD.size(1) < origin.dim for shard in self._shards[table])
            for table, origin in origins.items()
        ]
        is_column_sharded = torch.tensor(has_narrow_shards, dtype=torch.int32, device=device)
        dist.all_reduce(is_column_sharded, op=dist.ReduceOp.MAX)
        self._is_column_sharded = dict(zip(origins, is_column_sharded.tolist(), strict=True))

    def blocks(self, table: str) -> Iterator[RowBlock]:
        """Yield blocks that together, over all ranks, hold every row of a table once.

        A rank yields the rows of its shards. If the table is sharded by column, the ranks add up their statistics of
        each block, and rank 0 yields all rows. This is a collective, so every rank must iterate to the end.
        """
        origin = self._origins[table]
        step = max(1, _BLOCK_VALUES // origin.dim)
        if self._is_column_sharded[table]:
            yield from self._summed_blocks(origin, step)
            return
        for shard in self._shards[table]:
            end = shard.first_row + len(shard.values_RD)
            for start in range(shard.first_row, end, step):
                yield shard.rows(start, start + step).block(origin)

    def _summed_blocks(self, origin: TableOrigin, step: int) -> Iterator[RowBlock]:
        for start in range(0, origin.rows, step):
            stop = min(start + step, origin.rows)
            sums_2R = torch.zeros(2, stop - start, dtype=torch.float64, device=self._device)
            for shard in self._shards[origin.table]:
                block = shard.rows(start, stop).block(origin)
                inside = slice(block.first_row - start, block.first_row - start + len(block.square_R))
                sums_2R[0, inside] += block.square_R
                sums_2R[1, inside] += block.changed_R
            dist.all_reduce(sums_2R)
            if dist.get_rank() == 0:
                yield RowBlock(start, sums_2R[0], sums_2R[1] > 0)
