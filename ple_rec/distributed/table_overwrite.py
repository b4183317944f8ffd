"""Overwriting of single rows of sharded tables, after a checkpoint has been loaded into a state.

An embedding table reuses rows and fills free ones, so rows of a checkpoint may belong to values that the checkpoint has
never seen. A run that trains further gives such rows their initial values (`reset_rows`). An evaluation reads the row
of unknown values in their place (`copy_rows`). Both change the tensors of a state dictionary between `load_state` and
`load_state_dict`. The state has all rows of a table, also those that a kernel later keeps in a cache of the GPU.

Shape suffixes: R overwritten rows of a table, N of them in one shard, S distinct source rows, D columns of a shard.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torchrec.distributed.types import ShardedTensor

from ple_rec.distributed.sharding import shards_of_state, table_of_key
from ple_rec.distributed.table_init import initial_bound, initial_rows
from ple_rec.distributed.table_rows import TableOrigin

# Number of initial values that are drawn at once. They take 20 bytes each.
_CHUNK_VALUES = 1 << 20


class RowSources(NamedTuple):
    """Rows of a table, and for each the row whose weights it gets.

    Args:
        row_R: Rows to overwrite, ascending.
        source_R: Row that is read in the place of each; none of them is overwritten.
    """

    row_R: NDArray[np.int32]
    source_R: NDArray[np.int32]


@torch.no_grad()
def reset_rows(
    model: Mapping[str, Any],
    optimizer: Mapping[str, Any],
    rows_R: Mapping[str, NDArray[np.int32]],
    origins: Mapping[str, TableOrigin],
) -> None:
    """Give rows of tables their initial weights, and set the state of their optimizer to zero, on this rank's shards.

    The counter of the iterations of an optimizer belongs to no row, so it stays.

    Args:
        model: State of the model, which is changed in place.
        optimizer: State of the optimizers by parameter (the entry `state` of their state), which is changed in place.
        rows_R: Rows by name of the table, ascending.
        origins: Origin of each table by its name, which determines its initial weights.
    """
    for table, shard_RD, first_row, first_column, dim in shards_of_state(model):
        if table in rows_R:
            origin, columns = origins[table], shard_RD.size(1)
            bound = initial_bound(origin.rows, origin.scale)
            _, local_N = _rows_of_shard(rows_R[table], first_row, shard_RD)
            for part_N in local_N.split(max(1, _CHUNK_VALUES // columns)):
                shard_RD[part_N] = initial_rows(
                    part_N + first_row,
                    columns,
                    bound,
                    seed=origin.seed,
                    table=table,
                    first_column=first_column,
                    dim=dim,
                ).to(shard_RD.dtype)
    for key, state in optimizer.items():
        for value in state.values():
            if isinstance(value, ShardedTensor) and (table := table_of_key(key)) in rows_R:
                for piece in value.local_shards():
                    # Row-wise Adagrad has one value for each row of each column shard. In its state, the rows of one
                    # column shard follow those of another, so the offset modulo the number of rows is the row.
                    first_row = piece.metadata.shard_offsets[0] % origins[table].rows
                    _, local_N = _rows_of_shard(rows_R[table], first_row, piece.tensor)
                    piece.tensor[local_N] = 0


@torch.no_grad()
def copy_rows(
    model: Mapping[str, Any], sources: Mapping[str, RowSources], dims: Mapping[str, int], device: torch.device
) -> None:
    """Overwrite rows of tables by the weights of other rows (a collective).

    Args:
        model: State of the model, which is changed in place.
        sources: Rows and their sources by name of the table; the mapping is the same on every rank.
        dims: Number of columns of each table by its name.
        device: Device on which the process group reduces tensors.
    """
    shards = list(shards_of_state(model))
    for table, (row_R, source_R) in sources.items():
        distinct_S, place_R = np.unique(source_R, return_inverse=True)
        own = [(shard_RD, row, column) for name, shard_RD, row, column, _ in shards if name == table]
        value_SD = torch.zeros(len(distinct_S), dims[table], device=device)
        for shard_RD, first_row, first_column in own:
            place_N, local_N = _rows_of_shard(distinct_S, first_row, shard_RD)
            columns = slice(first_column, first_column + shard_RD.size(1))
            value_SD[place_N, columns] = shard_RD[local_N].to(device, torch.float32)
        # Each value is on one rank, and zero on all others.
        dist.all_reduce(value_SD)
        for shard_RD, first_row, first_column in own:
            place_N, local_N = _rows_of_shard(row_R, first_row, shard_RD)
            columns = slice(first_column, first_column + shard_RD.size(1))
            source_N = torch.from_numpy(place_R[place_N]).to(device)
            shard_RD[local_N] = value_SD[source_N, columns].to(shard_RD.device, shard_RD.dtype)


def _rows_of_shard(rows_R: NDArray[np.int32], first_row: int, shard: Tensor) -> tuple[slice, Tensor]:
    """Return which of some ascending rows lie in a shard: their places, and their rows in the shard on its device."""
    place_N = slice(*np.searchsorted(rows_R, (first_row, first_row + len(shard))))
    return place_N, torch.from_numpy(rows_R[place_N].astype(np.int64)).to(shard.device) - first_row
