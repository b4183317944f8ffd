"""Initial rows of an embedding table as a function of (seed, table, row, column), whatever shard holds the row.

Shape suffixes: R rows, D columns.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from ple_rec.runtime.threads import threads_of_one

# Values hashed at a time. On a CPU, so few that the dozens of passes over them stay in its cache, and so many that the
# threads, each with rows of its own to the end, rarely ask for the interpreter at the same time. A GPU needs more of
# them to be busy.
_CHUNK, _CUDA_CHUNK = 1 << 18, 1 << 22
_WORTH_THREADS = 1 << 20  # values


def _signed(value: int) -> int:
    """The int64 with the bits of an unsigned 64-bit value."""
    return value - (1 << 64) if value >= 1 << 63 else value


def _shifted(x: Tensor, bits: int, out: Tensor) -> Tensor:
    """Logical right shift of int64, into `out`."""
    return torch.bitwise_right_shift(x, bits, out=out).bitwise_and_((1 << (64 - bits)) - 1)


def _splitmix64_(x: Tensor, scratch: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele et al., OOPSLA 2014), in place: a bijection of 64 bits that mixes them well.

    Args:
        x: int64.
        scratch: Of the same shape; it is overwritten.
    """
    x.add_(_signed(0x9E3779B97F4A7C15))
    x.bitwise_xor_(_shifted(x, 30, scratch)).mul_(_signed(0xBF58476D1CE4E5B9))
    x.bitwise_xor_(_shifted(x, 27, scratch)).mul_(_signed(0x94D049BB133111EB))
    return x.bitwise_xor_(_shifted(x, 31, scratch))


def initial_bound(rows: int, scale: float) -> float:
    """Half the width of the distribution that a table's rows start from: scale / sqrt(rows), `rows` the allocated ones.

    So it stays the same while more and more of them are put to use.
    """
    return scale * rows**-0.5


def uniform_rows_(
    shard_RD: Tensor, bound: float, *, seed: int, table: str, first_row: int, first_column: int, dim: int
) -> None:
    """Fill a shard in place with U(-bound, bound), a hash of (seed, table, global row, global column).

    Args:
        shard_RD: The shard's storage, any floating type, any device.
        bound: Half the width of the distribution.
        seed: The run's seed.
        table: The table's name.
        first_row: Global row of the shard's row 0.
        first_column: Global column of its column 0.
        dim: Columns of the whole table.
    """
    digest = hashlib.sha256(f"{seed}/{table}".encode()).digest()
    key = _signed(int.from_bytes(digest[:8], "little"))
    column_D = torch.arange(first_column, first_column + shard_RD.shape[1], device=shard_RD.device)

    def fill(start: int, stop: int) -> None:
        with torch.no_grad():  # which a thread does not inherit
            _fill(shard_RD[start:stop], column_D, first_row + start, dim, key, bound)

    rows = len(shard_RD)
    threads = torch.get_num_threads() if not shard_RD.is_cuda and shard_RD.numel() >= _WORTH_THREADS else 1
    if threads == 1:
        fill(0, rows)
        return
    edges = [rows * i // threads for i in range(threads + 1)]
    with threads_of_one(threads, "rows") as pool:
        list(pool.map(fill, edges[:-1], edges[1:]))  # raises what a thread raised


def _fill(shard_RD: Tensor, column_D: Tensor, first_row: int, dim: int, key: int, bound: float) -> None:
    """Fill consecutive rows, chunk by chunk."""
    rows, columns = shard_RD.shape
    step = max(1, min(rows, (_CUDA_CHUNK if shard_RD.is_cuda else _CHUNK) // max(1, columns)))
    # Of one chunk each, and used again by every other: pages that are new to the process cost more than the hash.
    place_RD = torch.arange(step, device=shard_RD.device)[:, None] * dim + column_D
    bits_RD, scratch_RD = torch.empty_like(place_RD), torch.empty_like(place_RD)
    unit_RD = torch.empty_like(place_RD, dtype=torch.float32)
    for start in range(0, rows, step):
        part_RD = shard_RD[start : start + step]
        place, bits, scratch, unit = (x[: len(part_RD)] for x in (place_RD, bits_RD, scratch_RD, unit_RD))
        torch.add(place, (first_row + start) * dim, out=bits)
        _splitmix64_(_splitmix64_(bits, scratch).bitwise_xor_(key), scratch)
        unit.copy_(_shifted(bits, 40, scratch)).mul_(2.0**-24)  # 24 bits: every value is exact in fp32
        part_RD.copy_(unit.mul_(2).sub_(1).mul_(bound))
