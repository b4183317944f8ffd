"""The shards that each sharding has, as TorchRec builds them: any others would send ids to ranks without their rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from ple_rec.config.plan_memory import Sharding

_COLUMNS = 4  # of which a column-wise shard has a multiple

Rectangle = tuple[int, int, int, int, int]  # rank, first row, rows, first column, columns


class HasShards(Protocol):
    """A table and its shards."""

    @property
    def table(self) -> str:
        """Its name."""

    @property
    def rows(self) -> int:
        """Of it."""

    @property
    def dim(self) -> int:
        """Of it."""

    @property
    def sharding(self) -> Sharding:
        """Its layout."""


def layout_problems(
    table: HasShards, shards: Sequence[Rectangle], ranks_per_host: int, world_size: int
) -> Iterator[str]:
    """What is wrong with the shards of a table; nothing where TorchRec builds them like this.

    table_wise      one shard, the whole table
    row_wise        rank i has rows i b to (i + 1) b, b = ceil(rows / W)
    table_row_wise  the i-th rank of one host has rows i b to (i + 1) b, b = ceil(rows / L)
    column_wise     all rows of columns side by side, each shard a multiple of 4 of them
    """
    where = f"table {table.table!r}"
    if not shards:
        yield f"{where} has no shard"
        return
    if (last := max(rank for rank, *_ in shards)) >= world_size:
        yield f"{where} has a shard on rank {last}; the cluster has {world_size} ranks"
        return
    if table.sharding == "column_wise":
        yield from _column_problems(table, shards, where)
        return
    first = shards[0][0]
    expected = {
        "table_wise": [(first, 0, table.rows, 0, table.dim)],
        "row_wise": blocks(table.rows, table.dim, range(world_size)),
        "table_row_wise": blocks(table.rows, table.dim, range(first, first + ranks_per_host)),
    }[table.sharding]
    if table.sharding == "table_row_wise" and first % ranks_per_host:
        yield f"{where} begins on rank {first}; a host's ranks begin at a multiple of {ranks_per_host}"
    if list(shards) != expected:
        i = next(
            (i for i, (a, b) in enumerate(zip(shards, expected, strict=False)) if a != b),
            min(len(shards), len(expected)),
        )
        found, right = (_told(each[i]) if i < len(each) else "nothing more" for each in (shards, expected))
        yield f"{where}, {table.sharding}: shard {i} is {found}; it must be {right}"


def blocks(rows: int, dim: int, ranks: range) -> list[Rectangle]:
    """Blocks of ceil(rows / ranks) rows, one a rank; the last has the rest."""
    size = -(-rows // len(ranks))
    return [(rank, min(i * size, rows), max(0, min(size, rows - i * size)), 0, dim) for i, rank in enumerate(ranks)]


def _column_problems(table: HasShards, shards: Sequence[Rectangle], where: str) -> Iterator[str]:
    column = 0
    for i, shard in enumerate(shards):
        _, row, rows, first, columns = shard
        if (row, rows, first) != (0, table.rows, column) or columns % _COLUMNS or columns < 1:
            yield (
                f"{where}, column_wise: shard {i} is {_told(shard)}; it must be rows 0 to {table.rows}, columns from "
                f"{column} on, {_COLUMNS} or a multiple of them"
            )
            return
        column += columns
    if column != table.dim:
        yield f"{where}, column_wise: its shards have {column} columns, of {table.dim}"


def _told(shard: Rectangle) -> str:
    rank, row, rows, column, columns = shard
    return f"rows {row} to {row + rows}, columns {column} to {column + columns} on rank {rank}"
