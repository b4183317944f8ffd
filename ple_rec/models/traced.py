"""A scorer as one graph of torch, for prediction alone.

The graph runs without the interpreter, so that threads that score blocks side by side never wait for its lock: as
separate operations, two threads of a small block hand it to one another hundreds of times. Operations and their order
are those of the scorer, and so are the bits.

It is TorchScript's (`ple_rec.modules.script`). Without a graph the server answers the same, later.

A tensor that the interpreter knows takes its lock whenever the references to it from outside go from one to none or
back (pytorch#167564): with weights that a graph alone refers to, some fifty times a block. So weights are held from
outside too, and a graph gives back what it was given, which ends its references after it.

Torch keeps every graph until the process ends. So weights are arguments of a graph, and scorers of one architecture,
such as the versions that a server takes one after the other, share it.

Shape suffixes: B batch, R requests, D width of x.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ple_rec.models.folded import Folded, fold
from ple_rec.models.scorer import Scorer
from ple_rec.modules.fused_linear import packed
from ple_rec.modules.grouped import Grouped, Inputs, SharedColumns, parts_of
from ple_rec.modules.script import scripted

_GRAPHS: dict[Hashable, Folded] = {}
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
        whole_BD = torch.zeros(3, columns.width)
        grouped = Grouped.of(whole_BD, torch.tensor([0, 0, 1]), torch.tensor([0, 2]), columns)
        weights = [*scorer.parameters(), *scorer.buffers()]
        shapes = tuple(tuple(weight.shape) for weight in weights)
        key = (architecture, scorer.autocast, columns.shared_D, shapes)
        kept = _Kept()
        with torch.no_grad(), _TRACING:
            self._whole = _Prepared(_graph((*key, "whole"), scorer, weights, whole_BD), weights, kept)
            self._grouped = _Prepared(_graph((*key, "grouped"), scorer, weights, grouped), weights, kept)

    def __call__(self, x_BD: Inputs) -> tuple[Tensor, list[Tensor]]:
        """x_BD -> logits_BK and A_BOE of every level; without gradients."""
        graph = self._whole if isinstance(x_BD, Tensor) else self._grouped
        given = _tensors(x_BD)
        logits_BK, *more = graph(given)
        return logits_BK, more[: -len(given)]


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


class _Prepared:
    """A graph with its weights."""

    def __init__(self, graph: Folded, weights: Sequence[Tensor], kept: _Kept) -> None:
        self._rest = graph.rest
        prepared = zip(graph.prepare(*weights), graph.multiplied, strict=True)
        self.weights = [kept.once(tensor.detach(), multiplied=multiplied) for tensor, multiplied in prepared]
        self._held = scripted(_Held(self.weights))

    def __call__(self, given: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return self._rest(*given, *self.weights)


class _Held(nn.Module):
    """Refers to tensors from outside of the interpreter, once it is a script."""

    def __init__(self, tensors: list[Tensor]) -> None:
        super().__init__()
        self.tensors = torch.jit.Attribute(tensors, list[Tensor])

    def forward(self) -> int:
        return len(self.tensors)


def _graph(key: Hashable, scorer: Scorer, weights: Sequence[Tensor], x_BD: Inputs) -> Folded:
    if key in _GRAPHS:
        return _GRAPHS[key]
    given = _tensors(x_BD)

    def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
        # Of what follows x nothing is used: the tracer knows the scorer's weights for those arguments.
        x: Inputs = tensors[0]
        if isinstance(x_BD, Grouped):
            shared_RU, own_BI, of_B, first_R = tensors[:4]
            x = Grouped(shared_RU, own_BI, of_B, first_R, x_BD.columns)
        logits_BK, gates = scorer(x)
        return logits_BK, *gates, *tensors[: len(given)]

    graph = fold(flat, given, weights)
    prepared = graph.prepare(*weights)
    for _ in range(_WARM):
        graph.rest(*given, *prepared)
    _GRAPHS[key] = graph
    return graph


def _tensors(x_BD: Inputs) -> tuple[Any, ...]:
    return parts_of(x_BD) if isinstance(x_BD, Tensor) else (*parts_of(x_BD), x_BD.of_B, x_BD.first_R)
