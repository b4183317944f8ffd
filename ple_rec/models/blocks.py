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

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ple_rec.models.losses.sums import Loss, loss_sums_K
from ple_rec.models.scorer import Scorer
from ple_rec.models.traced import TracedScorer
from ple_rec.modules.grouped import Inputs, cut, parts_of, with_parts
from ple_rec.threads import threads_of_one

ROWS = 1024  # of a block: of 256 to 2,048 as fast as any on the reference workload; some 40 MB of activations a thread
FEW = 128  # rows: fewer are not worth another thread


@dataclass
class StepLoss:
    """What a step minimises, as far as it depends on the samples.

    Args:
        losses: Of the tasks.
        labels_BK: Labels.
        weights_BK: s_i d_ik.
        factors: Gives dL/dsums_K.
        backward_seconds: Of the forward pass, that went into the backward passes of blocks.
    """

    losses: Sequence[Loss]
    labels_BK: Tensor
    weights_BK: Tensor
    factors: Callable[[], Tensor]
    backward_seconds: float = 0.0

    def sums_K(self, logits_RK: Tensor, rows: slice = slice(None)) -> Tensor:
        """`loss_sums_K` of some rows."""
        return loss_sums_K(self.losses, logits_RK, self.labels_BK[rows], self.weights_BK[rows])


class Blocks:
    """Runs a scorer block by block, in threads of its own where there is more than one.

    Args:
        scorer: Its parameters are shared with a replica per thread, which has gradients of its own.
        rows: Of a block, at most.
        threads: How many; the process's own number of threads stays as it is.
    """

    def __init__(self, scorer: Scorer, rows: int, threads: int) -> None:
        self._scorer, self._rows, self._threads = scorer, rows, threads
        self._replicas = [_Replica(scorer) for _ in range(threads)]
        self._pool = threads_of_one(threads, "block") if threads > 1 else None
        self.traced: TracedScorer | None = None  # scores instead of the scorer, whose parameters stay as they are

    def train(self, x_BD: Inputs, loss: StepLoss) -> tuple[Tensor, Tensor]:
        """logits_BK and sums_K. Of these only sums_K has a gradient, and that must be what `loss.factors` says."""
        parameters = list(self._scorer.parameters())
        trained: tuple[Tensor, Tensor] = _Blocked.apply(self, loss, x_BD, *parts_of(x_BD), *parameters)  # type: ignore[no-untyped-call]
        return trained

    def score(self, x_BD: Inputs) -> tuple[Tensor, list[Tensor]]:
        """As the scorer; without gradients."""
        return self.begin_score(len(x_BD), lambda rows: cut(x_BD, rows)[0])()

    def begin_score(self, rows: int, piece: Callable[[slice], Inputs]) -> Callable[[], tuple[Tensor, list[Tensor]]]:
        """Give the blocks to the threads; what is returned waits for them. Of several batches the blocks queue.

        Args:
            rows: B.
            piece: x of some of them, made by the thread that scores it.
        """

        def run(replica: _Replica, blocks: Sequence[slice]) -> list[tuple[Tensor, list[Tensor]]]:
            with torch.no_grad():
                if self.traced is not None:
                    return [self.traced(piece(block)) for block in blocks]
                with replica.ready(self._scorer):
                    return [replica.scorer(piece(block)) for block in blocks]

        wait = self._begin(run, self._cuts(rows, 1 if rows < FEW else self._threads))

        def result() -> tuple[Tensor, list[Tensor]]:
            parts = [part for parts in wait() for part in parts]
            gates = zip(*(gates for _, gates in parts), strict=True)
            return torch.cat([logits_RK for logits_RK, _ in parts]), [torch.cat(level) for level in gates]

        return result

    def step(self, x_BD: Inputs, loss: StepLoss, factors_K: Tensor, *, wanted: Sequence[bool]) -> _Done:
        """Forward and backward of every block.

        Args:
            x_BD: The batch.
            loss: Of its rows.
            factors_K: dL/dsums_K.
            wanted: Whether the gradient of each part of x is.
        """
        parts = parts_of(x_BD)
        logits_BK = parts[-1].new_empty(loss.labels_BK.shape)
        x_grads = [torch.empty_like(part) if want else None for part, want in zip(parts, wanted, strict=True)]

        def run(replica: _Replica, blocks: Sequence[slice]) -> tuple[Tensor, float, list[tuple[slice, Tensor]]]:
            sums_K, seconds = torch.zeros_like(factors_K), 0.0
            shared: list[tuple[slice, Tensor]] = []  # gradients of what other blocks, and threads, read too
            with torch.enable_grad(), replica.ready(self._scorer):
                for rows in blocks:
                    x_RD, places = cut(x_BD, rows)
                    leaves = [p.detach().requires_grad_(w) for p, w in zip(parts_of(x_RD), wanted, strict=True)]
                    logits_RK, _ = replica.scorer(with_parts(x_RD, leaves))
                    own_K = loss.sums_K(logits_RK, rows)
                    begun = time.perf_counter()
                    own_K.backward(factors_K)
                    seconds += time.perf_counter() - begun
                    sums_K += own_K.detach()
                    logits_BK[rows] = logits_RK.detach()
                    if (x_grad := x_grads[-1]) is not None and leaves[-1].grad is not None:
                        x_grad[rows] = leaves[-1].grad
                    shared += [
                        (place, p.grad) for place, p in zip(places[:-1], leaves, strict=False) if p.grad is not None
                    ]
            return sums_K, seconds, shared

        cuts = self._cuts(len(x_BD), self._threads)
        sums, seconds, shared = zip(*self._begin(run, cuts)(), strict=True)
        loss.backward_seconds += sum(seconds) / len(seconds)
        for x_grad in x_grads[:-1]:
            if x_grad is not None:
                x_grad.zero_()
                for place, grad in chain.from_iterable(shared):
                    x_grad[place] += grad
        grads = [replica.take() for replica in self._replicas[: len(cuts)]]
        for more in grads[1:]:
            torch._foreach_add_(grads[0], more)
        return _Done(logits_BK, torch.stack(sums).sum(0), x_grads, grads[0])

    def _cuts(self, rows: int, threads: int) -> list[list[slice]]:
        """Return blocks of nearly equal size, those of each thread; without rows one empty block."""
        threads = max(1, min(threads, rows))
        each = max(1, -(-rows // (threads * self._rows)))
        ends = [i * rows // (threads * each) for i in range(threads * each + 1)]
        blocks = [slice(begin, end) for begin, end in pairwise(ends)]
        return [blocks[i * each : (i + 1) * each] for i in range(threads)]

    def _begin(
        self, run: Callable[[_Replica, Sequence[slice]], Any], cuts: list[list[slice]]
    ) -> Callable[[], list[Any]]:
        """Each thread's part; without threads it is done by who waits."""
        if self._pool is None:
            return lambda: [run(self._replicas[0], cuts[0])]
        asked = [self._pool.submit(run, replica, own) for replica, own in zip(self._replicas, cuts, strict=False)]
        return lambda: [each.result() for each in asked]


@dataclass(frozen=True)
class _Done:
    logits_BK: Tensor
    sums_K: Tensor
    x_grads: list[Tensor | None]
    grads: list[Tensor]


class _Replica:
    """A scorer whose parameters have the storage of another's, and gradients of their own."""

    def __init__(self, scorer: Scorer) -> None:
        shared: dict[int, Any] = {id(p): nn.Parameter(p.detach()) for p in scorer.parameters()}
        shared |= {id(buffer): buffer for buffer in scorer.buffers()}
        self.scorer = copy.deepcopy(scorer, shared)

    def ready(self, scorer: Scorer) -> torch.autocast:
        """Follow `scorer`; a context in which what is cast for one block is kept for the next."""
        if self.scorer.extraction.training != scorer.extraction.training:
            self.scorer.train(scorer.extraction.training)
        for own, its in zip(self.scorer.parameters(), scorer.parameters(), strict=True):
            own.data, own.grad = its.data, None
        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=scorer.autocast)

    def take(self) -> list[Tensor]:
        """The gradients, which are given away."""
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.scorer.parameters()]
        for parameter in self.scorer.parameters():
            parameter.grad = None
        return grads


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
