"""Limits of this machine: the fastest matrix product, and a copy of memory.

Shape suffixes: M rows, K inner, N columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from benchmarks.harness import Pass, PassResult, timed

# Shapes of the reference workload: all experts of the first level in one matrix, an expert layer, a large square.
_GEMM_MKN = ((4096, 392, 2560), (1024, 512, 512), (2048, 2048, 2048))
# The tensor is several times as large as the caches of our processors.
_COPY_BYTES = 256 << 20
_PRODUCTS, _COPIES = 20, 5


@contextmanager
def gemm(dtype: torch.dtype, threads: int) -> Iterator[Pass]:
    """Multiply matrices of a few shapes, and return the work of the fastest in GFLOP."""
    torch.set_num_threads(threads)

    def product(rows: int, inner: int, columns: int) -> PassResult:
        a_MK, b_KN = torch.rand(rows, inner).to(dtype), torch.rand(inner, columns).to(dtype)
        c_MN = torch.empty(rows, columns, dtype=dtype)
        torch.mm(a_MK, b_KN, out=c_MN)

        def work() -> None:
            for _ in range(_PRODUCTS):
                torch.mm(a_MK, b_KN, out=c_MN)

        return timed(work, 2e-9 * rows * inner * columns * _PRODUCTS)

    yield lambda: max((product(*shape) for shape in _GEMM_MKN), key=lambda done: done.amount / done.seconds)


@contextmanager
def copy(threads: int) -> Iterator[Pass]:
    """Copy a tensor; the work is in GB, and a copied byte counts twice since it is read and written."""
    torch.set_num_threads(threads)
    source, target = torch.ones(_COPY_BYTES, dtype=torch.uint8), torch.empty(_COPY_BYTES, dtype=torch.uint8)

    def work() -> None:
        for _ in range(_COPIES):
            target.copy_(source)

    yield lambda: timed(work, 2e-9 * _COPY_BYTES * _COPIES)
