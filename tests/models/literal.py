"""Eq. 2-7 of the paper as a reader would write them down: one nn.Linear per layer, one expert and one gate at a time.

    g_k(x) = w_k(x) S_k(x)              w_k(x) = softmax(W_k x)              Eq. 2, 3
    S_k(x) = [own experts of task k, shared experts]                         Eq. 4
    y_k = t_k(g_k(x))                                                        Eq. 5
    level j: the same on g_{k,j-1}, and a shared gate over all experts       Eq. 6, 7

The modules know nothing of the program's; `slices` says which part of its parameters is which of theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ple_rec.config.model import LevelConfig
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.modules.extraction import ExtractionLevel
from ple_rec.modules.mlp import Mlp

Extract = Callable[[Tensor], Tensor]


class LiteralExpert(nn.Module):
    def __init__(self, width: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise([width, *hidden]))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


class LiteralLevel(nn.Module):
    def __init__(self, tasks: Sequence[str], level: LevelConfig, width: int, *, last: bool) -> None:
        super().__init__()
        self.tasks = tasks
        owners = {**{task: level.own(task) for task in tasks}, "shared": level.shared_experts}
        self.experts = nn.ModuleDict(
            {
                owner: nn.ModuleList(LiteralExpert(width, level.expert_hidden) for _ in range(count))
                for owner, count in owners.items()
            }
        )
        reads = {task: owners[task] + owners["shared"] for task in tasks}
        if not last:
            reads["shared"] = sum(owners.values())
        self.gates = nn.ModuleDict({output: nn.Linear(width, count, bias=False) for output, count in reads.items()})

    def _experts(self) -> Iterator[tuple[str, nn.ModuleList]]:
        for owner, experts in self.experts.items():
            assert isinstance(experts, nn.ModuleList)
            yield owner, experts

    def forward(self, stream: dict[str, Tensor]) -> dict[str, Tensor]:
        h = {owner: [expert(stream[owner]) for expert in experts] for owner, experts in self._experts()}
        out = {}
        for output, gate in self.gates.items():
            if output == "shared":
                selected = [value for task in self.tasks for value in h[task]] + h["shared"]
            else:
                selected = h[output] + h["shared"]
            weight = torch.softmax(gate(stream[output]), dim=1)
            fused = torch.zeros_like(selected[0])
            for i, value in enumerate(selected):
                fused = fused + weight[:, i : i + 1] * value
            out[output] = fused
        return out


class LiteralPle(nn.Module):
    """PLE; of one level it is CGC, and without own experts MMoE."""

    def __init__(self, tasks: Sequence[str], levels: Sequence[LevelConfig], width: int, tower: Sequence[int]) -> None:
        super().__init__()
        self.tasks = tasks
        self.levels = nn.ModuleList()
        for j, level in enumerate(levels):
            self.levels.append(LiteralLevel(tasks, level, width, last=j == len(levels) - 1))
            width = level.expert_hidden[-1]
        self.towers = nn.ModuleDict()
        for task in tasks:
            layers: list[nn.Module] = []
            for a, b in pairwise([width, *tower]):
                layers += [nn.Linear(a, b), nn.ReLU()]
            self.towers[task] = nn.Sequential(*layers, nn.Linear([width, *tower][-1], 1))

    def forward(self, x: Tensor) -> Tensor:
        stream = dict.fromkeys([*self.tasks, "shared"], x)
        for level in self.levels:
            stream = level(stream)
        return torch.cat([self.towers[task](stream[task]) for task in self.tasks], dim=1)


def slices(model: MultiTaskModel, of: Extract = lambda p: p) -> dict[str, Tensor]:
    """Every parameter of `model` cut into the literal's, by the literal's name.

    Args:
        model: Of any variant.
        of: What to cut: a parameter, or its gradient.
    """
    out: dict[str, Tensor] = {}
    for j, level in enumerate(model.extraction.levels):
        assert isinstance(level, ExtractionLevel)
        _experts(out, f"levels.{j}", level, of)
        _gates(out, f"levels.{j}", level, of)
    for task, tower in zip(model.tasks, model.towers, strict=True):
        assert isinstance(tower, Mlp)
        for i, layer in enumerate(tower.layers):
            assert isinstance(layer, nn.Linear)
            out[f"towers.{task}.{2 * i}.weight"] = of(layer.weight)
            out[f"towers.{task}.{2 * i}.bias"] = of(layer.bias)
    return out


def _experts(out: dict[str, Tensor], place: str, level: ExtractionLevel, of: Extract) -> None:
    """First layers: per stream one matrix, its experts below one another. Deeper layers: one stack."""
    routing, bank = level.routing, level.experts
    names = [f"{place}.experts.{name}.layers" for name in routing.experts]
    first = routing.hidden[0]
    weights, biases = (
        [piece for matrix in matrices for piece in of(matrix).split(first)]
        for matrices in (bank.first_weights, bank.first_biases)
    )
    for name, weight, bias in zip(names, weights, biases, strict=True):
        out[f"{name}.0.weight"], out[f"{name}.0.bias"] = weight, bias
    for i, (stack, bias_stack) in enumerate(zip(bank.deep_weights, bank.deep_biases, strict=True), start=1):
        for name, weight, bias in zip(names, of(stack), of(bias_stack), strict=True):
            out[f"{name}.{i}.weight"], out[f"{name}.{i}.bias"] = weight, bias


def _gates(out: dict[str, Tensor], place: str, level: ExtractionLevel, of: Extract) -> None:
    """Per selector stream one matrix, its gates below one another; none where an output reads a single expert."""
    routing, mixing = level.routing, level.mixing
    gated = {
        output: (selector, sum(row))
        for output, row, selector in zip(routing.outputs, routing.reads_OE, routing.selector_O, strict=True)
        if sum(row) > 1
    }
    streams = sorted({selector for selector, _ in gated.values()})
    for stream, matrix in zip(streams, mixing.weights, strict=True):
        here = {output: rows for output, (selector, rows) in gated.items() if selector == stream}
        for output, weight in zip(here, of(matrix).split(list(here.values())), strict=True):
            out[f"{place}.gates.{output}.weight"] = weight


def copy_into(literal: LiteralPle, model: MultiTaskModel) -> set[str]:
    """Give the literal the model's weights; the names of the literal's parameters that the model does not have."""
    own = dict(literal.named_parameters())
    with torch.no_grad():
        for name, value in slices(model).items():
            own.pop(name).copy_(value)
    return set(own)
