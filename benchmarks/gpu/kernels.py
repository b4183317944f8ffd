"""Stage: forward and backward pass of one table by FBGEMM's kernels, against the same computation in torch on the CPU.

Shape suffixes: N ids, B bags, R rows of the table, D values of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType, SparseType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import Tensor
from torch.nn import functional as F

from benchmarks.gpu.page import row_line, table_lines
from benchmarks.gpu.stage import Deadline, PartFailures, StageLines, StageSettings

_ROWS, _DIM, _BAGS, _STEPS = 1000, 16, 256, 3
_RATE, _EPS = 0.05, 1e-8
# Largest error that is no fault, relative to the largest value. Rows of fp16 are rounded at random at each step.
_MAX_ERROR = {"fp32": 1e-4, "fp16": 5e-3}
_KINDS = {
    "rowwise_adagrad": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
    "adagrad": EmbOptimType.EXACT_ADAGRAD,
    "sgd": EmbOptimType.EXACT_SGD,
    "adam": EmbOptimType.ADAM,
}
_LOCATIONS = {
    "cuda": {
        "HBM": EmbeddingLocation.DEVICE,
        "host (UVM)": EmbeddingLocation.MANAGED,
        "host, cached": EmbeddingLocation.MANAGED_CACHING,
    },
    "cpu": {"host": EmbeddingLocation.HOST},
}
# Optimizers whose kernels a CPU lacks.
_CUDA_ONLY = ("adam",)


class LookedUp(NamedTuple):
    """Batch of a table: ids_N, begin of each bag in ids_N, and gradient_BD of the pooled rows."""

    ids_N: Tensor
    offsets: Tensor
    gradient_BD: Tensor


def compare_optimizers(settings: StageSettings, deadline: Deadline) -> StageLines:
    """Compare the kernels of each optimizer, precision and place of the table.

    Raises:
        RuntimeError: A kernel raises an error, or computes something else.
    """
    batches = list(_batches())
    failures, count = PartFailures(), 0
    yield from table_lines("optimizer", "rows", "memory", "error forward", f"error after {_STEPS} updates")
    for kind in _KINDS:
        if settings.device == "cpu" and kind in _CUDA_ONLY:
            continue
        for precision in _MAX_ERROR:
            for memory, location in _LOCATIONS[settings.device].items():
                name = f"{kind}, {precision}, {memory}"
                with failures.collect(name):
                    errors = _compare(kind, precision, location, batches, settings.device)
                    count += 1
                    yield row_line(kind, precision, memory, *(f"{error:.1e}" for error in errors))
                    if max(errors) > _MAX_ERROR[precision]:
                        raise ValueError(f"errors {errors[0]:.1e} and {errors[1]:.1e}")
    failures.raise_if_any()
    return f"{count} kernels compute what torch computes on the CPU"


def _compare(
    kind: str, precision: str, location: EmbeddingLocation, batches: list[LookedUp], device: str
) -> tuple[float, float]:
    """Return the largest errors of the pooled rows and of the table at the end, relative to the largest value."""
    dtype = torch.float16 if precision == "fp16" else torch.float32
    expected_RD = torch.linspace(-1, 1, _ROWS * _DIM).reshape(_ROWS, _DIM).to(dtype).float()
    table = SplitTableBatchedEmbeddingBagsCodegen(
        [(_ROWS, _DIM, location, ComputeDevice.CUDA if device == "cuda" else ComputeDevice.CPU)],
        optimizer=_KINDS[kind],
        learning_rate=_RATE,
        eps=_EPS,
        weights_precision=SparseType.FP16 if precision == "fp16" else SparseType.FP32,
        cache_load_factor=0.5,
        device=torch.device("cuda", 0) if device == "cuda" else torch.device("cpu"),
    )
    table.split_embedding_weights()[0].copy_(expected_RD)
    update = _updates()[kind]
    forward_error = 0.0
    for batch in batches:
        expected_BD = F.embedding_bag(batch.ids_N, expected_RD, batch.offsets[:-1], mode="sum")
        pooled_BD = table(batch.ids_N.to(device), batch.offsets.to(device))
        pooled_BD.backward(batch.gradient_BD.to(device))
        forward_error = max(forward_error, _error(pooled_BD.detach().float().cpu(), expected_BD))
        bag_of_id_N = torch.repeat_interleave(torch.arange(_BAGS), batch.offsets.diff())
        gradient_RD = torch.zeros_like(expected_RD).index_add_(0, batch.ids_N, batch.gradient_BD[bag_of_id_N])
        update(expected_RD, gradient_RD)
    if location == EmbeddingLocation.MANAGED_CACHING:
        table.flush()
    return forward_error, _error(table.split_embedding_weights()[0].float().cpu(), expected_RD)


def _error(values: Tensor, expected: Tensor) -> float:
    return float((values - expected).abs().max() / expected.abs().max())


def _batches() -> Iterator[LookedUp]:
    """Yield random batches in which ids occur several times and some bags are empty."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(_STEPS):
        lengths = torch.randint(0, 6, (_BAGS,), generator=generator)
        ids_N = torch.randint(0, _ROWS // 2, (int(lengths.sum()),), generator=generator)
        yield LookedUp(ids_N, F.pad(lengths.cumsum(0), (1, 0)), torch.randn(_BAGS, _DIM, generator=generator))


def _updates() -> dict[str, Callable[[Tensor, Tensor], None]]:
    """Return for each optimizer a function that updates rows_RD by gradient_RD, and that has a state of its own."""
    squares: dict[str, Tensor] = {}
    moments: dict[str, Tensor] = {}
    steps = 0

    def sgd(rows_RD: Tensor, gradient_RD: Tensor) -> None:
        rows_RD -= _RATE * gradient_RD

    def adagrad(rows_RD: Tensor, gradient_RD: Tensor) -> None:
        squares["sum"] = squares.get("sum", 0) + gradient_RD**2
        rows_RD -= _RATE * gradient_RD / (squares["sum"].sqrt() + _EPS)

    def rowwise_adagrad(rows_RD: Tensor, gradient_RD: Tensor) -> None:
        squares["sum"] = squares.get("sum", 0) + (gradient_RD**2).mean(1, keepdim=True)
        rows_RD -= _RATE * gradient_RD / (squares["sum"].sqrt() + _EPS)

    def adam(rows_RD: Tensor, gradient_RD: Tensor) -> None:
        nonlocal steps
        steps += 1
        is_read_R1 = gradient_RD.any(1, keepdim=True)
        zeros = torch.zeros_like(rows_RD)
        first, second = moments.get("first", zeros), moments.get("second", zeros)
        # Rows that the batch does not read keep their moments.
        first = torch.where(is_read_R1, 0.9 * first + 0.1 * gradient_RD, first)
        second = torch.where(is_read_R1, 0.999 * second + 0.001 * gradient_RD**2, second)
        moments.update(first=first, second=second)
        change = (first / (1 - 0.9**steps)) / ((second / (1 - 0.999**steps)).sqrt() + _EPS)
        rows_RD -= torch.where(is_read_R1, _RATE * change, zeros)

    return {"sgd": sgd, "adagrad": adagrad, "rowwise_adagrad": rowwise_adagrad, "adam": adam}
