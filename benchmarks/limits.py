"""Limits of this machine, which benchmarks measure beside their own cases: fastest matrix product, copy of memory.

Shape suffixes: M rows, K inner dimension and N columns of a matrix product.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from benchmarks.harness import Pass, PassResult, time_work

# Two shapes of the reference workload (all experts of the first level in one matrix, and one layer of an expert), and a
# large square.
_GEMM_MKN = ((4096, 392, 2560), (1024, 512, 512), (2048, 2048, 2048))
# Several times the size of a processor's caches.
_COPY_BYTES = 256 << 20
_PRODUCTS, _COPIES = 20, 5  # Number of products of each shape, and of copies, in a pass.


@contextmanager
def fastest_matrix_product(dtype: torch.dtype, threads: int) -> Iterator[Pass]:
    """Multiply matrices of a few shapes in each pass; only the fastest shape counts. The amount of work is in GFLOP."""
    torch.set_num_threads(threads)

    def multiply(rows: int, inner: int, columns: int) -> PassResult:
        a_MK, b_KN = torch.rand(rows, inner).to(dtype), torch.rand(inner, columns).to(dtype)
        c_MN = torch.empty(rows, columns, dtype=dtype)
        torch.mm(a_MK, b_KN, out=c_MN)  # The first product of a shape takes longer.

        def work() -> None:
            for _ in range(_PRODUCTS):
                torch.mm(a_MK, b_KN, out=c_MN)

        return time_work(work, 2e-9 * rows * inner * columns * _PRODUCTS)

    yield lambda: max((multiply(*shape) for shape in _GEMM_MKN), key=lambda done: done.amount / done.seconds)


@contextmanager
def memory_copy(threads: int) -> Iterator[Pass]:
    """Copy a tensor in each pass. The amount is in GB; each byte counts twice, since it is read and written."""
    torch.set_num_threads(threads)
    source, target = torch.ones(_COPY_BYTES, dtype=torch.uint8), torch.empty(_COPY_BYTES, dtype=torch.uint8)

    def work() -> None:
        for _ in range(_COPIES):
            target.copy_(source)

    yield lambda: time_work(work, 2e-9 * _COPY_BYTES * _COPIES)
