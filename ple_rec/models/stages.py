"""A function whose arguments change at different times, in stages, each of which runs as often as its arguments change.

    f(weights, request, block)        values = stage_0(weights)               once
                                      values += stage_1(request, values)      for every request
                                      f = stage_2(block, values)              for every block

So weights may be cast, cut and joined wherever a module needs them so, at no cost where they stay as they are.

Stages are TorchScript. A tensor that the interpreter knows takes its lock whenever the references to it from outside go
from one to none or back (pytorch#167564): in the midst of a graph, where nothing else refers to it. So a stage gives
back what it was given, which ends its references after it; what the first stage has made it does not give back, and
somebody else has to refer to that from outside (`Held`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ple_rec.modules.script import scripted

Graph = Callable[..., tuple[Tensor, ...]]


class Stage(NamedTuple):
    """One of them.

    Args:
        graph: Takes arguments of its own, then values; returns what it makes, then what it was given but for values of
            the first stage.
        reads: Places of those values among all that were made before.
        makes: Number of values; of the last stage what the function returns.
        multiplied: Of each of them, whether later stages only read it as the second argument of `multiply`.
    """

    graph: Graph
    reads: tuple[int, ...]
    makes: int
    multiplied: tuple[bool, ...]

    def __call__(self, own: Sequence[Tensor], values: Sequence[Tensor]) -> list[Tensor]:
        """What it makes.

        Args:
            own: Arguments.
            values: All that were made before.
        """
        return list(self.graph(*own, *[values[place] for place in self.reads])[: self.makes])


class Held:
    """Refers to tensors from outside of the interpreter."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._script = scripted(_Held(list(tensors)))


class _Held(nn.Module):
    def __init__(self, tensors: list[Tensor]) -> None:
        super().__init__()
        self.tensors = torch.jit.Attribute(tensors, list[Tensor])

    def forward(self) -> int:
        return len(self.tensors)


def stages(function: Graph, *groups: Sequence[Tensor], multiply: Collection[str] = ()) -> list[Stage]:
    """Trace a function, and take its graph apart.

    What is drawn, or written in place, with all that shares its memory, is of the last stage.

    Args:
        function: Returns a tuple of tensors. Scripts that it calls write to nothing that they are given.
        groups: Its arguments, those first that change least often.
        multiply: Qualified names of scripts, of whose second argument `Stage.multiplied` tells.

    Raises:
        ValueError: it writes to an argument that is not of the last group.
    """
    trace = _Trace(function, groups, multiply)
    last = len(groups) - 1
    reads = [trace.read_by(level) for level in range(len(groups))]
    found, before = [], list[str]()
    for level, read in enumerate(reads):
        later = dict.fromkeys(name for more in reads[level + 1 :] for name in more)
        makes = [name for name in later if trace.levels[name] == level]
        graph, count = trace.part(level, read, None if level == last else makes)
        multiplied = tuple(trace.only_multiplied(name, level) for name in makes)
        found.append(Stage(graph, tuple(map(before.index, read)), count, multiplied))
        before += makes
    return found


class _Trace:
    """A graph, and of each of its values the last group of arguments that it depends on; -1: none."""

    def __init__(self, function: Graph, groups: Sequence[Sequence[Tensor]], multiply: Collection[str]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            traced: Any = torch.jit.trace(function, tuple(x for group in groups for x in group), check_trace=False)
        traced._torchdynamo_inline = None  # `function`, with what it refers to: torch keeps a graph to the end
        self._graph = traced.graph
        torch._C._jit_pass_cse(self._graph)
        of_inputs = [level for level, group in enumerate(groups) for _ in group]
        self._last, self._multiply = len(groups) - 1, multiply
        self.levels = {v.debugName(): level for v, level in zip(self._graph.inputs(), of_inputs, strict=True)}
        self._nodes: list[list[Any]] = [[] for _ in groups]
        written = _written(self._graph)
        if any(level < self._last and name in written for name, level in self.levels.items()):
            raise ValueError("the function writes to an argument that is not of the last group")
        for node in self._graph.nodes():
            outputs = [value.debugName() for value in node.outputs()]
            level = self._level(node) if written.isdisjoint(outputs) else self._last
            self.levels |= dict.fromkeys(outputs, level)
            if level >= 0:
                self._nodes[level].append(node)
        self._nodes[self._last].append(self._graph.return_node())
        self._places = {value.debugName(): place for place, value in enumerate(_values(self._graph))}

    def _level(self, node: Any) -> int:
        kind, read = node.kind(), [self.levels[value.debugName()] for value in node.inputs()]
        if kind in ("prim::Constant", "prim::ListConstruct"):
            return max(read, default=-1)
        pure = kind in ("prim::ListUnpack", "prim::NumToTensor") or (kind.startswith("aten::") and not _is_drawn(node))
        return max(read) if pure and max(read, default=-1) >= 0 else self._last

    def read_by(self, level: int) -> list[str]:
        """Names of tensors of earlier levels that nodes of one read."""
        found: dict[str, None] = {}

        def look(nodes: Sequence[Any]) -> None:
            for value in (value for node in nodes for value in node.inputs()):
                if 0 <= self.levels[value.debugName()] < level:
                    if value.type().kind() == "TensorType":
                        found[value.debugName()] = None
                    else:  # a list, or a size: this level makes it too
                        look([value.node()])

        look(self._nodes[level])
        return [*found]

    def only_multiplied(self, name: str, level: int) -> bool:
        """Whether what is not of the level itself only reads it as the second argument of `multiply`."""
        uses = [use for use in _values(self._graph)[self._places[name]].uses() if not self._inside(use.user, level)]
        return bool(uses) and all(
            use.user.kind() == "prim::CallFunction"
            and use.offset == 2  # the function comes first
            and str(next(use.user.inputs()).type()) in self._multiply
            for use in uses
        )

    def _inside(self, node: Any, level: int) -> bool:
        return node.kind() != "prim::Return" and all(
            self.levels[value.debugName()] <= level and value.type().kind() == "TensorType" for value in node.outputs()
        )

    def part(self, level: int, reads: Sequence[str], makes: Sequence[str] | None) -> tuple[Graph, int]:
        """What one level computes, and how many values that is.

        Args:
            level: Which.
            reads: Of earlier levels.
            makes: For later ones; None: what the function returns.
        """
        graph = self._graph.copy()
        values = _values(graph)
        inputs = [*graph.inputs()]
        own = [place for place, value in enumerate(self._graph.inputs()) if self.levels[value.debugName()] == level]
        back = [inputs[place] for place in own] if level else []
        for name in reads:
            values[self._places[name]].replaceAllUsesWith(new := graph.addInput())
            back += [new] if self.levels[name] else []
        returned = (
            [*next(graph.outputs()).node().inputs()] if makes is None else [values[self._places[n]] for n in makes]
        )
        graph.eraseOutput(0)
        outputs = graph.appendNode(graph.create("prim::TupleConstruct", [*returned, *back], 1)).output()
        outputs.setType(torch._C.TupleType([torch._C.TensorType.get()] * len([*returned, *back])))
        graph.registerOutput(outputs)
        if makes is None:
            torch._C._jit_pass_dce(graph)
        else:  # the pass would keep what later stages write in place
            for node in reversed([*graph.nodes()]):
                if not any(value.uses() for value in node.outputs()):
                    node.destroy()
        for place in reversed(range(len(inputs))):
            if place not in own:
                graph.eraseInput(place)
        function: Graph = torch._C._create_function_from_graph("flat", graph)
        return function, len(returned)


def _is_drawn(node: Any) -> bool:
    schema = torch._C.parse_schema(node.schema())
    overloads = getattr(torch.ops.aten, schema.name.removeprefix("aten::"), None)
    operation = getattr(overloads, schema.overload_name or "default", None)  # scripts have some that it has not
    return torch.Tag.nondeterministic_seeded in getattr(operation, "tags", ())


def _written(graph: Any) -> set[str]:
    """Names of values that share memory with what some node writes to."""
    same: dict[str, set[str]] = {value.debugName(): {value.debugName()} for value in _values(graph)}
    written: set[str] = set()
    for node in graph.nodes():
        inputs, outputs = ([value.debugName() for value in values] for values in (node.inputs(), node.outputs()))
        if node.kind().startswith("aten::"):
            arguments = torch._C.parse_schema(node.schema()).arguments
            infos = [(name, each.alias_info) for name, each in zip(inputs, arguments, strict=True)]
            aliased = [name for name, info in infos if info is not None]
            written |= {name for name, info in infos if info is not None and info.is_write}
        else:
            aliased = inputs if node.kind() == "prim::ListUnpack" else []
        if aliased:
            together = set[str]().union(*(same[name] for name in (*aliased, *outputs)))
            same |= dict.fromkeys(together, together)
    return set[str]().union(*(same[name] for name in written))


def _values(graph: Any) -> list[Any]:
    return [value for node in (graph.param_node(), *graph.nodes()) for value in node.outputs()]
