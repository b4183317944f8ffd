"""What this machine can do at most, measured by the process that is measured, with its threads.

Each gives the rate of one measurement; who asks takes turns with what is measured, as the machine's speed changes.

Shape suffixes: M rows, K inner, N columns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

# Products of the reference workload (all experts of the first level in one matrix, an expert layer) and a large square.
GEMM_MKN = ((4096, 392, 2560), (1024, 512, 512), (2048, 2048, 2048))
COPY_BYTES = 256 << 20  # of a tensor: several times the caches of the processors that this runs on


@dataclass(frozen=True)
class GemmPeak:
    """The fastest of a few products.

    Args:
        gflops: Of it, 2 M K N operations a product.
        shape: M, K, N of it.
    """

    gflops: float
    shape: tuple[int, int, int]


def gemm_peak(dtype: torch.dtype, seconds: float = 0.2, shapes: Sequence[tuple[int, int, int]] = GEMM_MKN) -> GemmPeak:
    """Speed of `C_MN = A_MK B_KN` by `torch.mm(out=)`, the best over `shapes`.

    Args:
        dtype: Of all three.
        seconds: To measure each shape, of which one product is not counted; one product at least is.
        shapes: M, K, N.
    """
    return max((_gemm(dtype, shape, seconds) for shape in shapes), key=lambda peak: peak.gflops)


def _gemm(dtype: torch.dtype, shape: tuple[int, int, int], seconds: float) -> GemmPeak:
    rows, inner, columns = shape
    generator = torch.Generator().manual_seed(0)
    a_MK = torch.rand(rows, inner, generator=generator).to(dtype)
    b_KN = torch.rand(inner, columns, generator=generator).to(dtype)
    c_MN = torch.empty(rows, columns, dtype=dtype)

    def product() -> None:
        torch.mm(a_MK, b_KN, out=c_MN)

    return GemmPeak(2e-9 * rows * inner * columns / _seconds_each(product, seconds), shape)


def copy_bandwidth(seconds: float = 0.3, nbytes: int = COPY_BYTES) -> float:
    """GB/s of `a.copy_(b)`, where a copied byte counts twice: read once, written once.

    That the processor reads what it is about to overwrite is not counted.

    Args:
        seconds: To measure; the first copy, which touches the pages, is not counted, and one at least is.
        nbytes: Of each tensor.
    """
    source, target = torch.ones(nbytes, dtype=torch.uint8), torch.empty(nbytes, dtype=torch.uint8)
    return 2e-9 * nbytes / _seconds_each(lambda: target.copy_(source), seconds)


def _seconds_each(work: Callable[[], object], seconds: float) -> float:
    """Of the mean repetition, after one that is not counted."""
    work()
    repetitions, begun = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - begun) < seconds or not repetitions:
        work()
        repetitions += 1
    return elapsed / repetitions
