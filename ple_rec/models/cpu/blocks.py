"""The dense layers on a CPU in blocks of rows: a thread takes a block forward and backward while it is in its cache.

A whole batch walks through memory once per layer and direction, and all threads meet after every operation. A block
does neither. It needs the derivative of the loss by the tasks' sums before it has the sums of the batch: since
L is linear in them (`Weighting`), that is known as soon as the counts are.

    sums_K = sum_blocks s_K(block)        dL/dtheta = sum_blocks (dL/dsums_K) ds_K(block)/dtheta

Each thread adds up its own blocks in their order, and the threads' sums are added in theirs: the same number of threads
gives the same bits. A request (`Grouped`) that several blocks read has the sum of their gradients, in the same order.

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

ROWS = 1024  # of a block: of 256 to 2,048 as fast as any on the reference workload; some 40 MB of activations a thread
FEW = 128  # rows: fewer are not worth another thread


class Network(Protocol):
    """Dense layers of a model, from x to logits.

    Args:
        autocast: True if matrix products run in bfloat16.
    """

    autocast: bool

    def logits(self, x_BD: Inputs) -> tuple[Tensor, list[Tensor]]:
        """Return logits_BK, and A_BOE of every level."""
        ...

    def network_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that `logits` uses."""
        ...


class Blocks:
    """Dense layers that run block by block, in threads of their own if there are several.

    Args:
        network: Dense layers, whose parameters all threads read.
        rows: Largest number of rows of a block.
        threads: Number of threads; the process's own number of threads stays as it is.
    """

    def __init__(self, network: Network, rows: int, threads: int) -> None:
        self._network, self._rows, self._threads = network, rows, threads
        self._pool = threads_of_one(threads, "block") if threads > 1 else None

    def train(self, x_BD: Inputs, loss: StepLoss) -> tuple[Tensor, Tensor]:
        """Return logits_BK and sums_K. Only sums_K has a gradient, and that must be what `loss.factors` says."""
        parameters = self._network.network_parameters()
        trained: tuple[Tensor, Tensor] = _Blocked.apply(self, loss, x_BD, *parts_of(x_BD), *parameters)  # type: ignore[no-untyped-call]
        return trained

    def score(self, x_BD: Inputs) -> tuple[Tensor, list[Tensor]]:
        """Return logits_BK and A_BOE of every level, without gradients."""

        def run(blocks: Sequence[slice]) -> list[tuple[Tensor, list[Tensor]]]:
            with torch.no_grad():
                return [self._network.logits(cut(x_BD, block)[0]) for block in blocks]

        parts = list(
            chain.from_iterable(self._run(run, self._cuts(len(x_BD), 1 if len(x_BD) < FEW else self._threads)))
        )
        gates = zip(*(gates for _, gates in parts), strict=True)
        return torch.cat([logits_RK for logits_RK, _ in parts]), [torch.cat(level) for level in gates]

    def step(self, x_BD: Inputs, loss: StepLoss, factors_K: Tensor, *, wanted: Sequence[bool]) -> _Done:
        """Run forward and backward of every block.

        Args:
            x_BD: Inputs of the batch.
            loss: Loss of its rows.
            factors_K: dL/dsums_K.
            wanted: Flags of the parts of x whose gradient is needed.
        """
        parts, parameters = parts_of(x_BD), self._network.network_parameters()
        logits_BK = parts[-1].new_empty(loss.labels_BK.shape)
        x_grads = [torch.zeros_like(part) if want else None for part, want in zip(parts, wanted, strict=True)]

        def run(blocks: Sequence[slice]) -> _ThreadDone:
            sums_K, seconds = torch.zeros_like(factors_K), 0.0
            totals = [torch.zeros_like(p) for p in parameters]
            shared: list[tuple[slice, Tensor]] = []  # gradients of what other blocks, and threads, read too
            # Threads share the cache of autocast, so results would depend on their timing: it is disabled.
            autocast = torch.autocast("cpu", torch.bfloat16, self._network.autocast, cache_enabled=False)
            with torch.enable_grad(), autocast:
                for rows in blocks:
                    x_RD, places = cut(x_BD, rows)
                    leaves = [p.detach().requires_grad_(w) for p, w in zip(parts_of(x_RD), wanted, strict=True)]
                    logits_RK, _ = self._network.logits(with_parts(x_RD, leaves))
                    own_K = loss.sums_K(logits_RK, rows)
                    begun = time.perf_counter()
                    grads = _gradients(own_K, [*parameters, *leaves], factors_K)
                    seconds += time.perf_counter() - begun
                    sums_K += own_K.detach()
                    logits_BK[rows] = logits_RK.detach()
                    for total, grad in zip(totals, grads, strict=False):
                        if grad is not None:
                            total += grad
                    *of_requests, own = grads[len(parameters) :]
                    if (x_grad := x_grads[-1]) is not None and own is not None:
                        x_grad[rows] = own
                    shared += [
                        (place, grad) for place, grad in zip(places, of_requests, strict=False) if grad is not None
                    ]
            return _ThreadDone(sums_K, seconds, totals, shared)

        done = self._run(run, self._cuts(len(x_BD), self._threads))
        loss.backward_seconds += sum(each.seconds for each in done) / len(done)
        for x_grad in x_grads[:-1]:
            if x_grad is not None:
                for place, grad in chain.from_iterable(each.shared for each in done):
                    x_grad[place] += grad
        grads = done[0].grads
        for each in done[1:]:
            torch._foreach_add_(grads, each.grads)
        return _Done(logits_BK, torch.stack([each.sums_K for each in done]).sum(0), x_grads, grads)

    def _cuts(self, rows: int, threads: int) -> list[list[slice]]:
        """Return blocks of nearly equal size, those of each thread; without rows one empty block."""
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
    """Return the gradient of each tensor; None where it needs none, or the sums do not depend on it."""
    needed = [tensor for tensor in tensors if tensor.requires_grad]
    grads = iter(torch.autograd.grad(sums_K, needed, factors_K, allow_unused=True))
    return [next(grads) if tensor.requires_grad else None for tensor in tensors]


@dataclass(frozen=True)
class _ThreadDone:
    sums_K: Tensor
    seconds: float
    grads: list[Tensor]
    shared: list[tuple[slice, Tensor]]


@dataclass(frozen=True)
class _Done:
    logits_BK: Tensor
    sums_K: Tensor
    x_grads: list[Tensor | None]
    grads: list[Tensor]


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, blocks: Blocks, loss: StepLoss, x_BD: Inputs, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        factors_K = loss.factors()
        wanted = ctx.needs_input_grad[3 : 3 + len(parts_of(x_BD))]
        done = blocks.step(x_BD, loss, factors_K, wanted=wanted)
        ctx.factors_K, ctx.grads = factors_K, (*done.x_grads, *done.grads)
        ctx.mark_non_differentiable(done.logits_BK)
        return done.logits_BK, done.sums_K

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        assert torch.allclose(grads[1], ctx.factors_K, equal_nan=True), "the loss is not what the blocks were told"
        return (None, None, None, *ctx.grads)
