"""A graph whose last arguments are weights, taken apart: what depends on weights alone is not computed in every call.

    graph(x, *weights)  =  rest(x, *prepare(*weights))

So weights may be cast, cut and joined wherever a module needs them so, at no cost where they stay as they are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

Graph = Callable[..., tuple[Tensor, ...]]


class Folded(NamedTuple):
    """The two parts, of TorchScript.

    Args:
        prepare: Weights -> tensors.
        rest: Takes those in place of the weights.
        multiplied: Of each of them, whether the rest only reads it as the weight of functions (`LinearRelu`).
    """

    prepare: Graph
    rest: Graph
    multiplied: tuple[bool, ...]


def fold(function: Graph, given: Sequence[Tensor], weights: Sequence[Tensor]) -> Folded:
    """Trace a function, and take its graph apart.

    Args:
        function: Of tensors.
        given: Its first arguments, of any size.
        weights: The others.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        traced: Any = torch.jit.trace(function, (*given, *weights), check_trace=False)
    traced._torchdynamo_inline = None  # `function`, and what it refers to: torch keeps a graph until the process ends
    places = {value.debugName(): place for place, value in enumerate(_values(traced.graph))}
    read = [places[value.debugName()] for value in _read_of_weights(traced.graph, len(given))]
    prepare, rest = traced.graph.copy(), traced.graph.copy()
    values = _values(prepare)
    prepare.eraseOutput(0)
    prepared = prepare.appendNode(prepare.create("prim::TupleConstruct", [values[place] for place in read], 1))
    prepared.output().setType(torch._C.TupleType([torch._C.TensorType.get()] * len(read)))
    prepare.registerOutput(prepared.output())
    values = _values(rest)
    multiplied = tuple(all(map(_is_weight, values[place].uses())) for place in read)
    for place in read:
        values[place].replaceAllUsesWith(rest.addInput())
    for node in reversed([*prepare.nodes()]):  # torch's pass would keep what writes in place
        if not any(value.uses() for value in node.outputs()):
            node.destroy()
    torch._C._jit_pass_dce(rest)
    ours = range(len(given), len(given) + len(weights))
    return Folded(_function(prepare, range(len(given))), _function(rest, ours), multiplied)


def _read_of_weights(graph: Any, given: int) -> list[Any]:
    """Tensors that depend on weights alone, and that something else reads."""
    fixed = {value.debugName() for value in [*graph.inputs()][given:]}
    constant: set[str] = set()
    rest = [graph.return_node()]
    written = {next(node.inputs()).debugName() for node in graph.nodes() if node.kind().endswith("_")}
    for node in graph.nodes():
        kind, outputs = node.kind(), {value.debugName() for value in node.outputs()}
        read = {value.debugName() for value in node.inputs()}
        if kind == "prim::Constant" or (kind == "prim::ListConstruct" and read <= constant):
            constant |= outputs
        elif _is_pure(kind) and read <= fixed | constant and not outputs & written:
            fixed |= outputs
        else:
            rest.append(node)
    found: dict[str, Any] = {}

    def read_by(nodes: Sequence[Any]) -> None:
        for value in [value for node in nodes for value in node.inputs() if value.debugName() in fixed]:
            if value.type().kind() == "TensorType":
                found.setdefault(value.debugName(), value)
            else:  # a list, or a size: the rest makes it too
                read_by([value.node()])

    read_by(rest)
    return [*found.values()]


def _is_pure(kind: str) -> bool:
    return (kind.startswith("aten::") and not kind.endswith("_")) or kind in ("prim::ListConstruct", "prim::ListUnpack")


def _is_weight(use: Any) -> bool:
    return bool(use.user.kind() == "prim::CallFunction" and use.offset == 2)  # after the function and x


def _values(graph: Any) -> list[Any]:
    return [value for node in (graph.param_node(), *graph.nodes()) for value in node.outputs()]


def _function(graph: Any, unread: range) -> Graph:
    """Without those of the arguments."""
    for i in reversed(unread):
        graph.eraseInput(i)
    function: Graph = torch._C._create_function_from_graph("flat", graph)
    return function
