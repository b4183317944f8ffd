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
import warnings
from collections.abc import Callable, Hashable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ple_rec.models.scorer import Scorer
from ple_rec.modules.experts import ExpertBank
from ple_rec.modules.fused_linear import packed
from ple_rec.modules.grouped import Grouped, Inputs, SharedColumns, parts_of
from ple_rec.modules.script import scripted

_Graph = Callable[..., tuple[Tensor, ...]]
_GRAPHS: dict[Hashable, _Graph] = {}
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
        of_B, first_R = torch.tensor([0, 0, 1]), torch.tensor([0, 2])
        with torch.no_grad(), _TRACING, ExitStack() as stack:
            for module in scorer.modules() if scorer.autocast else ():
                if isinstance(module, ExpertBank):
                    stack.enter_context(module.put_together())
            parts = _Parts(columns, [*scorer.parameters()])
            self._weights = [*scorer.parameters(), *scorer.buffers(), *parts.tensors]
            shapes = tuple(tuple(weight.shape) for weight in self._weights)
            key = (architecture, scorer.autocast, columns.shared_D, shapes)
            self._whole = _graph((*key, "whole"), scorer, self._weights, whole_BD)
            grouped = replace(Grouped.of(whole_BD, of_B, first_R, columns), columns=parts)
            self._grouped = _graph((*key, "grouped"), scorer, self._weights, grouped)
        if scorer.autocast:
            self._cast_ahead()
        self._held = scripted(_Held(self._weights))

    def __call__(self, x_BD: Inputs) -> tuple[Tensor, list[Tensor]]:
        """x_BD -> logits_BK and A_BOE of every level; without gradients."""
        graph = self._whole if isinstance(x_BD, Tensor) else self._grouped
        given = _tensors(x_BD)
        logits_BK, *more = graph(*given, *self._weights)
        return logits_BK, more[: -len(given)]

    def _cast_ahead(self) -> None:
        """Weights that the graphs only ever cast to bfloat16 are cast here: the cast in the graph does nothing then.

        Those that it then only multiplies by in `LinearRelu` are packed for that too.
        """
        uses = [_uses(graph, len(self._weights)) for graph in (self._whole, self._grouped)]
        for i, (weight, *each) in enumerate(zip(self._weights, *uses, strict=True)):
            if all(use.cast for use in each):
                then = [fused for use in each for fused in use.fused]
                self._weights[i] = packed(weight.bfloat16()) if then and all(then) else weight.bfloat16()


class _Held(nn.Module):
    """Refers to tensors from outside of the interpreter, once it is a script."""

    def __init__(self, tensors: list[Tensor]) -> None:
        super().__init__()
        self.tensors = torch.jit.Attribute(tensors, list[Tensor])

    def forward(self) -> int:
        return len(self.tensors)


class _Use(NamedTuple):
    """What a graph does with a weight.

    Args:
        cast: Whether that is nothing but a cast to bfloat16.
        fused: Of each use of what comes of that, whether it is as the weight of a function of `LinearRelu`.
    """

    cast: bool
    fused: list[bool]


def _uses(graph: Any, weights: int) -> list[_Use]:
    bfloat16 = 15  # c10::ScalarType

    def is_cast(use: Any) -> bool:
        node = use.user
        return bool(node.kind() == "aten::to" and [*node.inputs()][1].toIValue() == bfloat16)

    def is_weight(use: Any) -> bool:
        return bool(use.user.kind() == "prim::CallFunction" and use.offset == 2)  # after the function and x

    found = []
    for value in [*graph.graph.inputs()][-weights:]:
        cast = all(map(is_cast, value.uses()))
        made = [use.user.output() for use in value.uses()] if cast else []
        found.append(_Use(cast, [is_weight(use) for each in made for use in each.uses()]))
    return found


class _Parts(SharedColumns):
    """The parts of weights that multiply x are made once, and not in every call.

    Args:
        columns: Of x.
        weights: Those as wide as x may multiply it.
    """

    def __init__(self, columns: SharedColumns, weights: Sequence[Tensor]) -> None:
        super().__init__(columns.shared_D)
        with torch.no_grad():
            wide = [weight for weight in weights if weight.ndim == 2 and weight.shape[1] == columns.width]
            self._made = {id(weight): super(_Parts, self).parts(weight) for weight in wide}

    @property
    def tensors(self) -> list[Tensor]:
        return [part for parts in self._made.values() for part in parts]

    def parts(self, x_ND: Tensor) -> tuple[Tensor, Tensor]:
        return self._made.get(id(x_ND)) or super().parts(x_ND)


def _graph(key: Hashable, scorer: Scorer, weights: Sequence[Tensor], x_BD: Inputs) -> _Graph:
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

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        graph: Any = torch.jit.trace(flat, (*given, *weights), check_trace=False)
    graph._torchdynamo_inline = None  # `flat`, which holds the scorer
    for _ in range(_WARM):
        graph(*given, *weights)
    found: _Graph = graph
    _GRAPHS[key] = found
    return found


def _tensors(x_BD: Inputs) -> tuple[Any, ...]:
    return parts_of(x_BD) if isinstance(x_BD, Tensor) else (*parts_of(x_BD), x_BD.of_B, x_BD.first_R)
