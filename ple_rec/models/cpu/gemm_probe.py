"""How fast matrix products really run in a given precision: measured, since CPU flags do not tell.

Shape suffixes: M rows, K inner, N columns; of a linear layer: B samples, D width in, N width out.
"""

from __future__ import annotations

import time

import torch
from torch.nn import functional as F

# M rows, K inner, N columns: the size of an expert layer on a CPU, large enough to fill an accelerator elsewhere.
_CPU_MKN = (1024, 512, 512)
_ACCELERATOR_MKN = (4096, 4096, 4096)
_FIRST_ROWS, _GROWTH = 64, 4  # of a layer's probe: a slow precision must not take minutes over the whole batch
_CPU_WIDEST = 1024  # no wider layer is probed on a CPU, for the same reason


def gemm_gflops(dtype: torch.dtype, device: torch.device | str, *, seconds: float) -> float:
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
    _check(seconds)
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


def layer_gflops(
    dtype: torch.dtype, device: torch.device | str, shape: tuple[int, int, int], seconds: float = 0.4
) -> float:
    """Measured speed of what training asks of a linear layer: its product, and the two of its backward.

        y_BN = x_BD w_ND^T      dx_BD = dy_BN w_ND      dw_ND = dy_BN^T x_BD

    Libraries differ by the layout of the factors, so the three are called as autograd calls them. A few rows come
    first, and more, up to B, as long as they fit into half of the time. The best pass counts: neighbours only ever
    slow one.

    Args:
        dtype: Precision of both factors and of the result.
        device: Where to run.
        shape: (B, D, N); on a CPU, D and N above 1,024 count as 1,024.
        seconds: How long to measure; longer only where two passes of 64 rows take longer.

    Returns:
        GFLOP/s.

    Raises:
        ValueError: where `seconds` is not positive.
        RuntimeError: by torch, where the device has no product in this precision.
    """
    _check(seconds)
    device = torch.device(device)
    batch, width, columns = shape
    if device.type == "cpu":
        width, columns = min(width, _CPU_WIDEST), min(columns, _CPU_WIDEST)
    x_BD = torch.ones(batch, width, dtype=dtype, device=device)
    w_ND = torch.ones(columns, width, dtype=dtype, device=device)
    y_BN = torch.ones(batch, columns, dtype=dtype, device=device)

    def timed(rows: int) -> float:
        begun = time.perf_counter()
        F.linear(x_BD[:rows], w_ND)
        torch.mm(y_BN[:rows], w_ND)
        torch.mm(y_BN[:rows].t(), x_BD[:rows])
        _wait(device)
        return time.perf_counter() - begun

    end = time.perf_counter() + seconds
    rows = min(_FIRST_ROWS, batch)
    timed(rows)  # the first pass loads libraries and finds its memory
    best = timed(rows)
    while rows < batch and best * _GROWTH <= seconds / 2:
        rows = min(rows * _GROWTH, batch)
        best = timed(rows)
    while time.perf_counter() < end:
        best = min(best, timed(rows))
    return 6.0 * rows * width * columns / max(best, 1e-9) / 1e9


def _check(seconds: float) -> None:
    if seconds <= 0:
        raise ValueError(f"seconds = {seconds}; it must be > 0")


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
