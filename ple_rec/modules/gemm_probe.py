"""How fast one matrix product really runs in a given precision: measured, since CPU flags do not tell."""

from __future__ import annotations

import time

import torch

# M rows, K inner, N columns: the size of an expert layer on a CPU, large enough to fill an accelerator elsewhere.
_CPU_MKN = (1024, 512, 512)
_ACCELERATOR_MKN = (4096, 4096, 4096)


def gemm_gflops(dtype: torch.dtype, device: torch.device | str, seconds: float = 0.3) -> float:
    """Measured speed of `C_MN = A_MK B_KN` in `dtype` on `device`, with the current number of threads.

    speed = 2 M K N repetitions / elapsed, in GFLOP/s (1e9 floating-point operations a second).

    Args:
        dtype: Precision of both factors and of the result.
        device: Where to run.
        seconds: How long to measure; a warm-up of one product, and at least one measured product, come on top.

    Returns:
        GFLOP/s.

    Raises:
        ValueError: where `seconds` is not positive.
        RuntimeError: by torch, where the device has no product in this precision.

    Example:
        >>> gemm_gflops(torch.float32, "cpu", seconds=0.01) > 0
        True
    """
    if seconds <= 0:
        raise ValueError(f"seconds = {seconds}; it must be > 0")
    device = torch.device(device)
    rows, inner, columns = _CPU_MKN if device.type == "cpu" else _ACCELERATOR_MKN
    a_MK = torch.ones(rows, inner, dtype=dtype, device=device)
    b_KN = torch.ones(inner, columns, dtype=dtype, device=device)
    c_MN = torch.empty(rows, columns, dtype=dtype, device=device)
    torch.mm(a_MK, b_KN, out=c_MN)
    _wait(device)
    repetitions, start = 0, time.perf_counter()
    elapsed = 0.0
    while elapsed < seconds:
        torch.mm(a_MK, b_KN, out=c_MN)
        _wait(device)
        repetitions += 1
        elapsed = time.perf_counter() - start
    return 2.0 * rows * inner * columns * repetitions / elapsed / 1e9


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
