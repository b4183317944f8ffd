"""A scorer as one graph of torch, for prediction alone.

The graph runs without the interpreter, so that threads that score blocks side by side never wait for its lock: as
separate operations, two threads of a small block hand it to one another hundreds of times. Operations and their order
are those of the scorer, and so are the bits, but for products with packed weights (`ple_rec.modules.fused_linear`):
these may sum in another order, in fp32 and in bfloat16, and differ by what their precision rounds.

What depends on weights alone is computed once, and what depends on the shared columns of a request once for it
(`ple_rec.models.stages`). Torch keeps every graph until the process ends. So weights are arguments of a graph, and
scorers of one architecture, such as the versions that a server takes one after the other, share it.

Shape suffixes: B batch, R requests, D width of x.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from ple_rec.models.scorer import Scorer
from ple_rec.models.stages import Graph, Held, Stage, stages
from ple_rec.modules import fused_linear
from ple_rec.modules.fused_linear import packed
from ple_rec.modules.grouped import Grouped, Inputs, SharedColumns

_GRAPHS: dict[Hashable, Sequence[Stage]] = {}
_TRACING = threading.Lock()
_WARM = 2  # calls in which a graph is still being prepared


class TracedScorer:
    """Scores as a scorer whose parameters stay where they are. Several threads may call it.

    Args:
        scorer: In evaluation.
        columns: Of x.
        architecture: What, beside shapes, tells what the scorer computes.
    """

    def __init__(self, scorer: Scorer, columns: SharedColumns, architecture: Hashable) -> None:
        x_BD = torch.zeros(3, columns.width)
        x = Grouped.of(x_BD, torch.tensor([0, 0, 1]), torch.tensor([0, 2]), columns)
        weights = [*scorer.parameters(), *scorer.buffers()]
        shapes = tuple(tuple(weight.shape) for weight in weights)
        key = (architecture, scorer.autocast, columns.shared_D, shapes)

        def whole(*tensors: Tensor) -> tuple[Tensor, ...]:
            # Of the weights nothing is used: the tracer knows the scorer's own for those arguments.
            logits_BK, gates = scorer(tensors[-1])
            return logits_BK, *gates

        def grouped(*tensors: Tensor) -> tuple[Tensor, ...]:
            shared_RU, own_BI, of_B = tensors[-3:]
            logits_BK, gates = scorer(Grouped(shared_RU, own_BI, of_B, x.first_R, columns))  # first_R is for gradients
            return logits_BK, *gates

        kept = _Kept()
        with torch.no_grad(), _TRACING:
            self._whole = _Prepared((*key, "whole"), whole, weights, [[x_BD]], kept)
            self._grouped = _Prepared((*key, "grouped"), grouped, weights, [[x.shared_RU], [x.own_BI, x.of_B]], kept)
            for requests in (1, 3):
                self._check_products(requests, x.shared_RU.shape[1])

    def __call__(self, x: Inputs) -> tuple[Tensor, list[Tensor]]:
        """x_BD -> logits_BK and A_BOE of every level; without gradients."""
        if isinstance(x, Tensor):
            logits_BK, *gates = self._whole.last([x])
        else:
            products = self.products(x.shared_RU) if x.products is None else x.products
            logits_BK, *gates = self._grouped.last([x.own_BI, x.of_B], products)
        return logits_BK, gates

    def products(self, shared_RU: Tensor) -> tuple[Tensor, ...]:
        """What depends on the shared columns alone: tensors with a row for each request (`Grouped.products`)."""
        return tuple(self._grouped.stages[1]([shared_RU], self._grouped.weights))

    def _check_products(self, requests: int, width: int) -> None:
        found = [tuple(product.shape) for product in self.products(torch.zeros(requests, width))]
        assert all(shape[:1] == (requests,) for shape in found), f"products of {requests} requests: {found}"


class _Prepared:
    """A graph with its weights."""

    def __init__(
        self,
        key: Hashable,
        function: Graph,
        weights: Sequence[Tensor],
        groups: Sequence[Sequence[Tensor]],
        kept: _Kept,
    ) -> None:
        known = _GRAPHS.get(key)
        self.stages = known or stages(function, weights, *groups, multiply=fused_linear.names())
        prepared = zip(self.stages[0](weights, ()), self.stages[0].multiplied, strict=True)
        self.weights = [kept.once(tensor.detach(), multiplied=multiplied) for tensor, multiplied in prepared]
        self._held = Held(self.weights)
        if known is None:
            for _ in range(_WARM):
                values = list(self.weights)
                for stage, own in zip(self.stages[1:], groups, strict=True):
                    values += stage(own, values)
            _GRAPHS[key] = self.stages

    def last(self, own: Sequence[Tensor], values: Sequence[Tensor] = ()) -> list[Tensor]:
        """What the function returns.

        Args:
            own: Arguments of the last stage.
            values: Of those between the first and it.
        """
        return self.stages[-1](own, [*self.weights, *values])


class _Kept:
    """Tensors, each of them once."""

    def __init__(self) -> None:
        self._tensors: list[tuple[bool, Tensor, Tensor]] = []

    def once(self, tensor: Tensor, *, multiplied: bool) -> Tensor:
        """It, or its equal from before; packed, where it is a weight that `LinearRelu` alone reads."""
        for packs, other, kept in self._tensors:
            if packs == multiplied and other.dtype == tensor.dtype and torch.equal(other, tensor):
                return kept
        kept = packed(tensor) if multiplied else tensor
        self._tensors.append((multiplied, tensor, kept))
        return kept
