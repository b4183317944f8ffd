"""Initial values of embedding tables, which do not depend on how the tables are sharded.

Each value comes from a hash of the seed, the name of the table, and the row and column in the whole table. So a rank
can fill its shard without the other ranks, and the initial tables are the same for every number of ranks and sharding
plan.

Shape suffixes: R rows of a shard or of a chunk of it, D columns of a shard.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from ple_rec.runtime.threads import single_threaded_pool

# Number of values that are hashed at a time on a CPU. A hash takes dozens of passes over the values. A chunk has to be
# small for the passes to stay in the cache, but not so small that the threads often wait for Python's global
# interpreter lock between passes.
_CHUNK = 1 << 18
# The same on a GPU, where each chunk takes 34 kernel launches. A launch keeps the host busy for some 10 microseconds,
# so a kernel should take longer. With 2^23 values it moves at least 134 MB, which takes 40 microseconds at the
# 3.35 TB/s of an H100. A table of 46.9 M x 16 values takes 3,060 launches, and one of 46.9 M x 64 takes 12,172. The
# buffers of a chunk have 28 bytes for each value, 235 MB in all. Larger chunks would be no faster.
_CUDA_CHUNK = 1 << 23
# A shard with fewer values than this is filled by one thread, since starting more would take longer.
_MIN_THREADED_VALUES = 1 << 20


def _signed(value: int) -> int:
    """Return the int64 with the same bits as an unsigned 64-bit integer, since torch computes with int64."""
    return value - (1 << 64) if value >= 1 << 63 else value


def _shifted(x: Tensor, distance: int, out: Tensor) -> Tensor:
    """Write the logical right shift of an int64 tensor by `distance` bits into `out`, and return `out`."""
    return torch.bitwise_right_shift(x, distance, out=out).bitwise_and_((1 << (64 - distance)) - 1)


def _splitmix64_(x: Tensor, scratch: Tensor) -> Tensor:
    """Hash int64 values in place by one step of SplitMix64 (Steele et al., OOPSLA 2014), and return them.

    The hash is a bijection of the 64-bit integers, in which every bit of the result depends on all bits of the value.

    Args:
        x: Tensor of int64, which the hashes overwrite.
        scratch: Tensor of the same shape and type for intermediate results, which overwrite its values.
    """
    x.add_(_signed(0x9E3779B97F4A7C15))
    x.bitwise_xor_(_shifted(x, 30, scratch)).mul_(_signed(0xBF58476D1CE4E5B9))
    x.bitwise_xor_(_shifted(x, 27, scratch)).mul_(_signed(0x94D049BB133111EB))
    return x.bitwise_xor_(_shifted(x, 31, scratch))


def initial_bound(rows: int, scale: float) -> float:
    """Return the bound b = scale / sqrt(rows) of a table, whose initial values are uniform on [-b, b).

    Args:
        rows: Number of rows allocated for the table, including those that no id uses yet. So the bound stays the same
            when the vocabulary grows and uses more of them.
        scale: Configured factor of the bound.
    """
    return scale * rows**-0.5


def uniform_rows_(
    shard_RD: Tensor, bound: float, *, seed: int, table: str, first_row: int, first_column: int, dim: int
) -> None:
    """Fill a shard in place with its initial values, which are uniform on [-bound, bound).

    Args:
        shard_RD: Weights of the shard, of any floating type and on any device.
        bound: Bound of the absolute values, see `initial_bound`.
        seed: Seed of the run.
        table: Name of the table.
        first_row: Row of the whole table that is row 0 of the shard.
        first_column: Column of the whole table that is column 0 of the shard.
        dim: Number of columns of the whole table.
    """
    key = _table_key(seed, table)
    column_D = torch.arange(first_column, first_column + shard_RD.shape[1], device=shard_RD.device)

    def fill(start: int, stop: int) -> None:
        # `no_grad` holds only in the thread that enters it, so each thread of the pool enters it here.
        with torch.no_grad():
            _fill(shard_RD[start:stop], column_D, first_row + start, dim, key, bound)

    rows = len(shard_RD)
    threads = torch.get_num_threads() if not shard_RD.is_cuda and shard_RD.numel() >= _MIN_THREADED_VALUES else 1
    if threads == 1:
        fill(0, rows)
        return
    edges = [rows * i // threads for i in range(threads + 1)]
    with single_threaded_pool(threads, "rows") as pool:  # `threads` threads, each of which runs torch on one thread.
        # `map` raises the error of a thread only when its results are read, as `list` does.
        list(pool.map(fill, edges[:-1], edges[1:]))


def initial_rows(
    rows_R: Tensor, columns: int, bound: float, *, seed: int, table: str, first_column: int, dim: int
) -> Tensor:
    """Return the initial values of some rows of a table in fp32, the same as those that `uniform_rows_` writes.

    Args:
        rows_R: Numbers of the rows in the whole table, int64.
        columns: Number of columns to return.
        bound: Bound of the absolute values, see `initial_bound`.
        seed: Seed of the run.
        table: Name of the table.
        first_column: Column of the whole table that is column 0 of the result.
        dim: Number of columns of the whole table.
    """
    column_D = torch.arange(first_column, first_column + columns, device=rows_R.device)
    hash_RD = rows_R[:, None] * dim + column_D
    unit_RD = torch.empty_like(hash_RD, dtype=torch.float32)
    return _draws(hash_RD, torch.empty_like(hash_RD), unit_RD, _table_key(seed, table), bound)


def _fill(shard_RD: Tensor, column_D: Tensor, first_row: int, dim: int, key: int, bound: float) -> None:
    """Fill consecutive rows of a shard, chunk by chunk.

    Args:
        shard_RD: Rows to fill.
        column_D: Index in the whole table of each column of `shard_RD`.
        first_row: Row of the whole table that is row 0 of `shard_RD`.
        dim: Number of columns of the whole table.
        key: Hash of the seed and the name of the table.
        bound: Bound of the absolute values.
    """
    rows, columns = shard_RD.shape
    step = max(1, min(rows, (_CUDA_CHUNK if shard_RD.is_cuda else _CHUNK) // max(1, columns)))
    # All chunks share these buffers, since the first use of newly allocated memory would take longer than the hash.
    # `offset_RD` is the row-major position of each value in the whole table, minus that of the chunk's first row.
    offset_RD = torch.arange(step, device=shard_RD.device)[:, None] * dim + column_D
    hash_RD, scratch_RD = torch.empty_like(offset_RD), torch.empty_like(offset_RD)
    unit_RD = torch.empty_like(offset_RD, dtype=torch.float32)
    for start in range(0, rows, step):
        part_RD = shard_RD[start : start + step]
        offset, hashes, scratch, unit = (x[: len(part_RD)] for x in (offset_RD, hash_RD, scratch_RD, unit_RD))
        torch.add(offset, (first_row + start) * dim, out=hashes)
        part_RD.copy_(_draws(hashes, scratch, unit, key, bound))


def _table_key(seed: int, table: str) -> int:
    """Return the hash of a seed and the name of a table, as an int64."""
    digest = hashlib.sha256(f"{seed}/{table}".encode()).digest()
    return _signed(int.from_bytes(digest[:8], "little"))


def _draws(hash_RD: Tensor, scratch_RD: Tensor, unit_RD: Tensor, key: int, bound: float) -> Tensor:
    """Write the initial values of a chunk into `unit_RD`, and return `unit_RD`.

    Args:
        hash_RD: Row-major position of each value in the whole table, int64, which its hash overwrites.
        scratch_RD: Tensor of the same shape and type for intermediate results.
        unit_RD: Tensor of the same shape in fp32 for the result.
        key: Hash of the seed and the name of the table.
        bound: Bound of the absolute values.
    """
    _splitmix64_(_splitmix64_(hash_RD, scratch_RD).bitwise_xor_(key), scratch_RD)
    # The upper 24 bits of a hash become a number in [0, 1), since float32 has an exact value for each of them.
    unit_RD.copy_(_shifted(hash_RD, 40, scratch_RD)).mul_(2.0**-24)
    return unit_RD.mul_(2).sub_(1).mul_(bound)
