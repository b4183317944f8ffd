"""Computation of dense layers on a CPU in blocks of rows of the batch, each of which is computed by one thread.

If a whole batch is computed at once, every layer reads and writes its values for all rows in memory, and all threads
wait for each other after every operation. With blocks, each thread runs the forward and the backward pass of one block
after another, on fewer values and without waiting. The backward pass of a block needs dL/dsums_K, the derivative of the
objective L, before the sums of the task losses over the whole batch are known. L is affine in the sums (`Weighting`),
so the derivative depends only on the counts of samples.

    sums_K = sum_blocks s_K(block)        dL/dtheta = sum_blocks (dL/dsums_K) ds_K(block)/dtheta

Each thread adds up its own blocks in order, and then the sums of the threads are added in order, so the same number of
threads gives the same bits. Samples of one request may be in several blocks (`GroupedInputs`); the gradient of its
shared columns is the sum of the gradients of these blocks, in the same order.

Shape suffixes: B batch, R rows of a block, K tasks, D width of x.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from ple_rec.models.losses import StepLoss
from ple_rec.modules.grouped import Inputs, input_tensors, replace_tensors, slice_inputs
from ple_rec.runtime.threads import single_threaded_pool

T = TypeVar("T")

# On the reference workload, blocks of 256 to 2,048 rows are equally fast; 1,024 rows need 40 MB of activations a
# thread.
BLOCK_ROWS = 1024
# Smaller batches are computed on one thread, because several would be slower.
MIN_ROWS_FOR_THREADS = 128


class Network(Protocol):
    """Dense layers of a model, from x to logits.

    Attributes:
        autocast: True if matrix products run in bfloat16.
    """

    autocast: bool

    def logits(self, x_BD: Inputs) -> tuple[Tensor, list[Tensor]]:
        """Return logits_BK and A_BOE of every level."""
        ...

    def network_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that `logits` uses."""
        ...


class Blocks:
    """Computation of dense layers block by block, on a pool of threads if there is more than one.

    Args:
        network: Dense layers, whose parameters all threads read.
        rows: Maximum number of rows of a block.
        threads: Number of threads; torch's own number of threads does not change.
    """

    def __init__(self, network: Network, rows: int, threads: int) -> None:
        self._network, self._rows, self._threads = network, rows, threads
        self._pool = single_threaded_pool(threads, "block") if threads > 1 else None

    def train(self, x_BD: Inputs, loss: StepLoss) -> tuple[Tensor, Tensor]:
        """Return logits_BK and sums_K of a training step.

        This forward pass also computes the gradients, with `loss.factors()` as the gradient of sums_K. The backward
        pass checks that sums_K gets this gradient, and returns the gradients.
        """
        parameters = self._network.network_parameters()
        trained: tuple[Tensor, Tensor] = _Blocked.apply(self, loss, x_BD, *input_tensors(x_BD), *parameters)  # type: ignore[no-untyped-call]
        return trained

    def score(self, x_BD: Inputs) -> tuple[Tensor, list[Tensor]]:
        """Return logits_BK and A_BOE of every level, without gradients."""

        def run(blocks: Sequence[slice]) -> list[tuple[Tensor, list[Tensor]]]:
            with torch.no_grad():
                return [self._network.logits(slice_inputs(x_BD, block)[0]) for block in blocks]

        threads = 1 if len(x_BD) < MIN_ROWS_FOR_THREADS else self._threads
        parts = list(chain.from_iterable(self._run(run, self._blocks_by_thread(len(x_BD), threads))))
        gates = zip(*(gates for _, gates in parts), strict=True)
        return torch.cat([logits_RK for logits_RK, _ in parts]), [torch.cat(level) for level in gates]

    def step(self, x_BD: Inputs, loss: StepLoss, factors_K: Tensor, *, needs_grad: Sequence[bool]) -> _StepResult:
        """Run the forward and backward passes of all blocks.

        Args:
            x_BD: Inputs of the batch.
            loss: Loss of the batch's rows.
            factors_K: Derivatives dL/dsums_K.
            needs_grad: True for each tensor of `input_tensors(x_BD)` whose gradient is needed.
        """
        parts, parameters = input_tensors(x_BD), self._network.network_parameters()
        logits_BK = parts[-1].new_empty(loss.labels_BK.shape)
        x_grads = [torch.zeros_like(part) if needed else None for part, needed in zip(parts, needs_grad, strict=True)]

        def run(blocks: Sequence[slice]) -> _ThreadResult:
            sums_K, seconds = torch.zeros_like(factors_K), 0.0
            parameter_grads = [torch.zeros_like(p) for p in parameters]
            # Gradients of requests are added after all blocks, because several threads may read the same request.
            request_grads: list[tuple[slice, Tensor]] = []
            # Autocast's cache is disabled: threads would share it, and results would depend on their timing.
            autocast = torch.autocast("cpu", torch.bfloat16, self._network.autocast, cache_enabled=False)
            with torch.enable_grad(), autocast:
                for rows in blocks:
                    x_RD, part_slices = slice_inputs(x_BD, rows)
                    leaves = [
                        part.detach().requires_grad_(needed)
                        for part, needed in zip(input_tensors(x_RD), needs_grad, strict=True)
                    ]
                    logits_RK, _ = self._network.logits(replace_tensors(x_RD, leaves))
                    block_sums_K = loss.sums_K(logits_RK, rows)
                    started_at = time.perf_counter()
                    grads = _gradients(block_sums_K, [*parameters, *leaves], factors_K)
                    seconds += time.perf_counter() - started_at
                    sums_K += block_sums_K.detach()
                    logits_BK[rows] = logits_RK.detach()
                    for total, grad in zip(parameter_grads, grads, strict=False):
                        if grad is not None:
                            total += grad
                    # The last input tensor has a row for each sample, and a tensor before it a row for each request.
                    *block_request_grads, own_grad = grads[len(parameters) :]
                    if (x_grad := x_grads[-1]) is not None and own_grad is not None:
                        x_grad[rows] = own_grad
                    request_grads += [
                        (requests, grad)
                        for requests, grad in zip(part_slices, block_request_grads, strict=False)
                        if grad is not None
                    ]
            return _ThreadResult(sums_K, seconds, parameter_grads, request_grads)

        results = self._run(run, self._blocks_by_thread(len(x_BD), self._threads))
        loss.backward_seconds += sum(result.seconds for result in results) / len(results)
        for x_grad in x_grads[:-1]:
            if x_grad is not None:
                for requests, grad in chain.from_iterable(result.request_grads for result in results):
                    x_grad[requests] += grad
        grads = results[0].grads
        for result in results[1:]:
            torch._foreach_add_(grads, result.grads)
        return _StepResult(logits_BK, torch.stack([result.sums_K for result in results]).sum(0), x_grads, grads)

    def _blocks_by_thread(self, rows: int, threads: int) -> list[list[slice]]:
        """Divide the rows into blocks of nearly equal size for each thread; without rows, return one empty block."""
        threads = max(1, min(threads, rows))
        blocks_per_thread = max(1, -(-rows // (threads * self._rows)))
        ends = [i * rows // (threads * blocks_per_thread) for i in range(threads * blocks_per_thread + 1)]
        blocks = [slice(begin, end) for begin, end in pairwise(ends)]
        return [blocks[i * blocks_per_thread : (i + 1) * blocks_per_thread] for i in range(threads)]

    def _run(self, run: Callable[[Sequence[slice]], T], blocks_by_thread: Sequence[Sequence[slice]]) -> list[T]:
        if self._pool is None:
            return [run(blocks_by_thread[0])]
        return list(self._pool.map(run, blocks_by_thread))


def _gradients(sums_K: Tensor, tensors: Sequence[Tensor], factors_K: Tensor) -> list[Tensor | None]:
    """Return the gradient of each tensor; None if it does not require one, or the sums do not depend on it."""
    needed = [tensor for tensor in tensors if tensor.requires_grad]
    grads = iter(torch.autograd.grad(sums_K, needed, factors_K, allow_unused=True))
    return [next(grads) if tensor.requires_grad else None for tensor in tensors]


@dataclass(frozen=True)
class _ThreadResult:
    sums_K: Tensor
    seconds: float
    grads: list[Tensor]
    request_grads: list[tuple[slice, Tensor]]


@dataclass(frozen=True)
class _StepResult:
    logits_BK: Tensor
    sums_K: Tensor
    x_grads: list[Tensor | None]
    grads: list[Tensor]


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, blocks: Blocks, loss: StepLoss, x_BD: Inputs, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        factors_K = loss.factors()
        needs_grad = ctx.needs_input_grad[3 : 3 + len(input_tensors(x_BD))]
        results = blocks.step(x_BD, loss, factors_K, needs_grad=needs_grad)
        ctx.factors_K, ctx.grads = factors_K, (*results.x_grads, *results.grads)
        ctx.mark_non_differentiable(results.logits_BK)
        return results.logits_BK, results.sums_K

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        assert torch.allclose(grads[1], ctx.factors_K, equal_nan=True), "the gradient of sums_K is not loss.factors()"
        return (None, None, None, *ctx.grads)
