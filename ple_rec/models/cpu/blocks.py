"""Computation of the dense layers on a CPU by blocks of rows: forward and backward of a block fit into a core's cache.

If a whole batch is computed at once, every layer reads and writes memory, and all threads wait for each other after
every operation. Blocks avoid both. The backward pass of a block needs dL/dsums_K before the sums of the whole batch are
known. Since L is linear in the sums (`Weighting`), this derivative depends only on the counts.

    sums_K = sum_blocks s_K(block)        dL/dtheta = sum_blocks (dL/dsums_K) ds_K(block)/dtheta

Each thread adds up its own blocks in order, and then the sums of the threads are added in order, so the same number of
threads gives the same bits. A request (`Grouped`) that several blocks read gets the sum of their gradients, in the same
order.

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
from ple_rec.modules.grouped import Inputs, cut, parts_of, with_parts
from ple_rec.runtime.threads import threads_of_one

T = TypeVar("T")

# On the reference workload, 256 to 2,048 rows of a block are equally fast; 1,024 need 40 MB of activations a thread.
ROWS = 1024
# A further thread does not pay for smaller batches.
MIN_ROWS_FOR_THREADS = 128


class Network(Protocol):
    """Dense layers of a model, from x to logits.

    Args:
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
    """Dense layers that are computed block by block, by a pool of threads if there are several.

    Args:
        network: Dense layers, whose parameters all threads read.
        rows: Maximum number of rows of a block.
        threads: Number of threads; torch's own number of threads does not change.
    """

    def __init__(self, network: Network, rows: int, threads: int) -> None:
        self._network, self._rows, self._threads = network, rows, threads
        self._pool = threads_of_one(threads, "block") if threads > 1 else None

    def train(self, x_BD: Inputs, loss: StepLoss) -> tuple[Tensor, Tensor]:
        """Return logits_BK and sums_K. Only sums_K has a gradient; in the backward pass it must be `loss.factors()`."""
        parameters = self._network.network_parameters()
        trained: tuple[Tensor, Tensor] = _Blocked.apply(self, loss, x_BD, *parts_of(x_BD), *parameters)  # type: ignore[no-untyped-call]
        return trained

    def score(self, x_BD: Inputs) -> tuple[Tensor, list[Tensor]]:
        """Return logits_BK and A_BOE of every level, without gradients."""

        def run(blocks: Sequence[slice]) -> list[tuple[Tensor, list[Tensor]]]:
            with torch.no_grad():
                return [self._network.logits(cut(x_BD, block)[0]) for block in blocks]

        threads = 1 if len(x_BD) < MIN_ROWS_FOR_THREADS else self._threads
        parts = list(chain.from_iterable(self._run(run, self._cuts(len(x_BD), threads))))
        gates = zip(*(gates for _, gates in parts), strict=True)
        return torch.cat([logits_RK for logits_RK, _ in parts]), [torch.cat(level) for level in gates]

    def step(self, x_BD: Inputs, loss: StepLoss, factors_K: Tensor, *, needs_grad: Sequence[bool]) -> _StepResult:
        """Run the forward and backward passes of all blocks.

        Args:
            x_BD: Inputs of the batch.
            loss: Loss of the batch's rows.
            factors_K: Derivatives dL/dsums_K.
            needs_grad: Flag of each part of x, True if its gradient is needed.
        """
        parts, parameters = parts_of(x_BD), self._network.network_parameters()
        logits_BK = parts[-1].new_empty(loss.labels_BK.shape)
        x_grads = [torch.zeros_like(part) if needed else None for part, needed in zip(parts, needs_grad, strict=True)]

        def run(blocks: Sequence[slice]) -> _ThreadResult:
            sums_K, seconds = torch.zeros_like(factors_K), 0.0
            totals = [torch.zeros_like(p) for p in parameters]
            # Gradients of requests are added at the end, because other blocks and threads may read the same requests.
            shared: list[tuple[slice, Tensor]] = []
            # Threads would share the cache of autocast, and results would depend on their timing, so it is disabled.
            autocast = torch.autocast("cpu", torch.bfloat16, self._network.autocast, cache_enabled=False)
            with torch.enable_grad(), autocast:
                for rows in blocks:
                    x_RD, places = cut(x_BD, rows)
                    leaves = [p.detach().requires_grad_(w) for p, w in zip(parts_of(x_RD), needs_grad, strict=True)]
                    logits_RK, _ = self._network.logits(with_parts(x_RD, leaves))
                    block_sums_K = loss.sums_K(logits_RK, rows)
                    started_at = time.perf_counter()
                    grads = _gradients(block_sums_K, [*parameters, *leaves], factors_K)
                    seconds += time.perf_counter() - started_at
                    sums_K += block_sums_K.detach()
                    logits_BK[rows] = logits_RK.detach()
                    for total, grad in zip(totals, grads, strict=False):
                        if grad is not None:
                            total += grad
                    *request_grads, own_grad = grads[len(parameters) :]
                    if (x_grad := x_grads[-1]) is not None and own_grad is not None:
                        x_grad[rows] = own_grad
                    shared += [
                        (place, grad) for place, grad in zip(places, request_grads, strict=False) if grad is not None
                    ]
            return _ThreadResult(sums_K, seconds, totals, shared)

        results = self._run(run, self._cuts(len(x_BD), self._threads))
        loss.backward_seconds += sum(each.seconds for each in results) / len(results)
        for x_grad in x_grads[:-1]:
            if x_grad is not None:
                for place, grad in chain.from_iterable(each.shared for each in results):
                    x_grad[place] += grad
        grads = results[0].grads
        for each in results[1:]:
            torch._foreach_add_(grads, each.grads)
        return _StepResult(logits_BK, torch.stack([each.sums_K for each in results]).sum(0), x_grads, grads)

    def _cuts(self, rows: int, threads: int) -> list[list[slice]]:
        """Return the blocks of each thread, all of nearly equal size. Without rows, there is one empty block."""
        threads = max(1, min(threads, rows))
        each = max(1, -(-rows // (threads * self._rows)))
        ends = [i * rows // (threads * each) for i in range(threads * each + 1)]
        blocks = [slice(begin, end) for begin, end in pairwise(ends)]
        return [blocks[i * each : (i + 1) * each] for i in range(threads)]

    def _run(self, run: Callable[[Sequence[slice]], T], cuts: Sequence[Sequence[slice]]) -> list[T]:
        if self._pool is None:
            return [run(cuts[0])]
        return list(self._pool.map(run, cuts))


def _gradients(sums_K: Tensor, tensors: Sequence[Tensor], factors_K: Tensor) -> list[Tensor | None]:
    """Return the gradient of each tensor, or None if it needs none or the sums do not depend on it."""
    needed = [tensor for tensor in tensors if tensor.requires_grad]
    grads = iter(torch.autograd.grad(sums_K, needed, factors_K, allow_unused=True))
    return [next(grads) if tensor.requires_grad else None for tensor in tensors]


@dataclass(frozen=True)
class _ThreadResult:
    sums_K: Tensor
    seconds: float
    grads: list[Tensor]
    shared: list[tuple[slice, Tensor]]


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
        needs_grad = ctx.needs_input_grad[3 : 3 + len(parts_of(x_BD))]
        results = blocks.step(x_BD, loss, factors_K, needs_grad=needs_grad)
        ctx.factors_K, ctx.grads = factors_K, (*results.x_grads, *results.grads)
        ctx.mark_non_differentiable(results.logits_BK)
        return results.logits_BK, results.sums_K

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        assert torch.allclose(grads[1], ctx.factors_K, equal_nan=True), "the gradient of sums_K is not loss.factors()"
        return (None, None, None, *ctx.grads)
