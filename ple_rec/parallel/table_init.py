"""Initial rows of an embedding table as a function of (seed, table, row, column), whatever shard holds the row.

Shape suffixes: R rows, D columns.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

_CHUNK = 1 << 22  # values hashed at a time: 32 MiB of int64


def _signed(value: int) -> int:
    """The int64 with the bits of an unsigned 64-bit value."""
    return value - (1 << 64) if value >= 1 << 63 else value


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _splitmix64(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele et al., OOPSLA 2014): a bijection of 64 bits that mixes them well."""
    x = x + _signed(0x9E3779B97F4A7C15)
    x = (x ^ _shifted(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shifted(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shifted(x, 31)


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
    rows, columns = shard_RD.shape
    column_D = torch.arange(first_column, first_column + columns, device=shard_RD.device)
    step = max(1, _CHUNK // max(1, columns))
    for start in range(0, rows, step):
        stop = min(rows, start + step)
        row_R = torch.arange(first_row + start, first_row + stop, device=shard_RD.device)
        bits_RD = _splitmix64(_splitmix64(row_R[:, None] * dim + column_D) ^ key)
        unit_RD = _shifted(bits_RD, 40).to(torch.float32) * 2.0**-24  # 24 bits: every value is exact in fp32
        shard_RD[start:stop] = (unit_RD * 2 - 1) * bound
