"""Measurement of the speed of matrix products in fp32, bf16 or fp16, which the feature flags of a CPU do not reveal.

`ple-rec doctor` measures one large product; `train.precision = "auto"` measures the first layer of the model.

Shape suffixes: M rows, K inner, N columns. A linear layer has B samples, D width in, N width out.
"""

from __future__ import annotations

import time

import torch
from torch.nn import functional as F

# (M, K, N): on a CPU the size of an expert layer; on an accelerator large enough to use all of it.
_CPU_MKN = (1024, 512, 512)
_ACCELERATOR_MKN = (4096, 4096, 4096)
# A layer is measured with few rows first, and on a CPU with a limited width, because in a precision without hardware
# support a whole batch would take minutes.
_FIRST_ROWS, _GROWTH = 64, 4
_CPU_MAX_WIDTH = 1024


def gemm_gflops(dtype: torch.dtype, device: torch.device | str, *, seconds: float) -> float:
    """Measure the speed of `C_MN = A_MK B_KN` with the current number of threads.

    speed = 2 M K N repetitions / elapsed, in GFLOP/s (1e9 floating-point operations a second).

    Args:
        dtype: Precision of both factors and of the result.
        device: Device to measure.
        seconds: Duration of the measurement; at least one product is measured, after one product as a warm-up.

    Returns:
        Speed in GFLOP/s.

    Raises:
        ValueError: `seconds` is not positive.
        RuntimeError: The device has no product in this precision. Torch raises the error.

    Example:
        >>> gemm_gflops(torch.float32, "cpu", seconds=0.01) > 0
        True
    """
    _check_seconds(seconds)
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
    """Measure the speed of a linear layer in training: its product, and the two products of its backward pass.

        y_BN = x_BD w_ND^T      dx_BD = dy_BN w_ND      dw_ND = dy_BN^T x_BD

    The speed of a library depends on the layout of the factors, so the three products are called as autograd calls
    them. The number of rows grows from a few up to B, as long as a pass takes at most half of the time. The fastest
    pass counts, because other processes can only slow a pass down.

    Args:
        dtype: Precision of both factors and of the result.
        device: Device to measure.
        shape: Sizes (B, D, N) of the layer; on a CPU, D and N above 1,024 count as 1,024.
        seconds: Duration of the measurement; it is exceeded only if two passes of 64 rows take longer.

    Returns:
        Speed in GFLOP/s.

    Raises:
        ValueError: `seconds` is not positive.
        RuntimeError: The device has no product in this precision. Torch raises the error.
    """
    _check_seconds(seconds)
    device = torch.device(device)
    batch, width, columns = shape
    if device.type == "cpu":
        width, columns = min(width, _CPU_MAX_WIDTH), min(columns, _CPU_MAX_WIDTH)
    x_BD = torch.ones(batch, width, dtype=dtype, device=device)
    w_ND = torch.ones(columns, width, dtype=dtype, device=device)
    y_BN = torch.ones(batch, columns, dtype=dtype, device=device)

    def time_pass(rows: int) -> float:
        started_at = time.perf_counter()
        F.linear(x_BD[:rows], w_ND)
        torch.mm(y_BN[:rows], w_ND)
        torch.mm(y_BN[:rows].t(), x_BD[:rows])
        _wait(device)
        return time.perf_counter() - started_at

    end = time.perf_counter() + seconds
    rows = min(_FIRST_ROWS, batch)
    # The first pass loads libraries and allocates memory, so it is not measured.
    time_pass(rows)
    best = time_pass(rows)
    while rows < batch and best * _GROWTH <= seconds / 2:
        rows = min(rows * _GROWTH, batch)
        best = time_pass(rows)
    while time.perf_counter() < end:
        best = min(best, time_pass(rows))
    return 6.0 * rows * width * columns / max(best, 1e-9) / 1e9


def _check_seconds(seconds: float) -> None:
    if seconds <= 0:
        raise ValueError(f"seconds = {seconds}; it must be > 0")


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
