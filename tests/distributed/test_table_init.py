"""Initial rows are a function of (seed, table, row, column), uniform and independent, whatever shard holds them."""

from __future__ import annotations

import hashlib
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from ple_rec.distributed import table_init
from ple_rec.distributed.table_init import initial_rows, uniform_rows_

ROWS, DIM, BOUND = 1000, 12, 0.25


def _shard(
    rows: range = range(ROWS), columns: range = range(DIM), *, seed: int = 0, table: str = "item", dtype: object = None
) -> Tensor:
    shard_RD = torch.full((len(rows), len(columns)), float("nan"), dtype=dtype or torch.float32)  # type: ignore[call-overload]
    uniform_rows_(shard_RD, BOUND, seed=seed, table=table, first_row=rows.start, first_column=columns.start, dim=DIM)
    return shard_RD


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_shards_by_rows_are_parts_of_the_whole(parts: int) -> None:
    edges = [i * ROWS // parts for i in range(parts + 1)]
    joined = torch.cat([_shard(range(a, b)) for a, b in pairwise(edges)])
    assert torch.equal(joined, _shard())


def test_shards_by_columns_are_parts_of_the_whole() -> None:
    joined = torch.cat([_shard(columns=range(0, 8)), _shard(columns=range(8, 12))], dim=1)
    assert torch.equal(joined, _shard())


def test_single_rows_are_those_of_the_whole() -> None:
    rows_R, columns = torch.tensor([999, 0, 7, 8]), range(4, 12)
    drawn_RD = initial_rows(rows_R, len(columns), BOUND, seed=0, table="item", first_column=columns.start, dim=DIM)
    assert torch.equal(drawn_RD, _shard()[rows_R, 4:])


def test_a_shard_without_rows_is_left_alone() -> None:
    assert _shard(range(0)).shape == (0, DIM)


def test_the_size_of_a_chunk_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _shard()
    monkeypatch.setattr(table_init, "_CHUNK", 100)
    assert torch.equal(_shard(), whole)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_number_of_threads_does_not_matter(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    whole = _shard()
    monkeypatch.setattr(table_init, "_MIN_THREADED_VALUES", 1)
    monkeypatch.setattr(table_init, "_CHUNK", 100)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert torch.equal(_shard(), whole)
    assert torch.equal(_shard(range(2)), whole[:2])  # fewer rows than threads
    assert torch.equal(_shard(dtype=torch.float16), whole.half())


def test_a_table_that_is_trained_is_filled_without_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _shard()
    monkeypatch.setattr(table_init, "_MIN_THREADED_VALUES", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    shard_RD = torch.nn.Parameter(torch.zeros(ROWS, DIM))
    uniform_rows_(shard_RD, BOUND, seed=0, table="item", first_row=0, first_column=0, dim=DIM)
    assert torch.equal(shard_RD, whole)
    assert shard_RD.grad_fn is None


def _splitmix64(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return x ^ x >> 31


def test_values_are_the_hash_in_whole_numbers() -> None:
    """A run that is repeated by a later version starts from the same tables."""
    key = int.from_bytes(hashlib.sha256(b"7/item").digest()[:8], "little")
    expected = [
        [(2 * (_splitmix64(_splitmix64(row * DIM + column) ^ key) >> 40) / 2**24 - 1) * BOUND for column in range(DIM)]
        for row in range(990, ROWS)
    ]
    assert _shard(range(990, ROWS), seed=7).tolist() == expected


def test_another_seed_or_table_gives_other_values() -> None:
    whole = _shard()
    for other in (_shard(seed=1), _shard(table="user")):
        assert (other == whole).float().mean() < 0.001
        assert abs(np.corrcoef(other.flatten(), whole.flatten())[0, 1]) < 0.05


def _ks(value_N: Tensor) -> float:
    """Kolmogorov-Smirnov statistic against U(-BOUND, BOUND), times sqrt(N): above 1.95 with probability .001."""
    sorted_N = value_N.double().sort().values
    cdf_N = (sorted_N + BOUND) / (2 * BOUND)
    n = len(cdf_N)
    above_N, below_N = torch.arange(1, n + 1) / n - cdf_N, cdf_N - torch.arange(n) / n
    return float(torch.maximum(above_N, below_N).max() * n**0.5)


def test_values_are_uniform() -> None:
    whole = _shard()
    assert whole.abs().max() <= BOUND
    assert _ks(whole.flatten()) < 1.95
    for column in range(DIM):
        assert _ks(whole[:, column]) < 1.95
    assert _ks(whole[500]) < 1.95


def test_rows_and_columns_are_independent() -> None:
    whole = _shard().double() / BOUND
    correlation_DD = torch.corrcoef(whole.T) - torch.eye(DIM)
    neighbours = torch.corrcoef(torch.stack([whole[:-1].flatten(), whole[1:].flatten()]))[0, 1]
    assert correlation_DD.abs().max() < 4.5 / ROWS**0.5
    assert abs(neighbours) < 4.5 / (ROWS * DIM) ** 0.5


def test_half_precision_rows_are_the_rounded_ones() -> None:
    assert torch.equal(_shard(dtype=torch.float16), _shard().half())
