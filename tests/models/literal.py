"""Eq. 2-7 of the paper as a reader would write them down: one nn.Linear per layer, one expert and one gate at a time.

    g_k(x) = w_k(x) S_k(x)              w_k(x) = softmax(W_k x)              Eq. 2, 3
    S_k(x) = [own experts of task k, shared experts]                         Eq. 4
    y_k = t_k(g_k(x))                                                        Eq. 5
    level j: the same on g_{k,j-1}, and a shared gate over all experts       Eq. 6, 7

The modules know nothing of the program's; `literal_copy` says which part of its parameters is which of theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ple_rec.config.model import LevelConfig

Mixes = dict[tuple[str, str], Tensor]  # by output and expert, the factor that one has in the other, (B,) or ()


class Literal(nn.Module):
    """What is common to all: `mixes` holds the factors of the last forward, one table per level."""

    mixes: list[Mixes]

    def penalty(self) -> Tensor:
        """What the definition adds to the loss."""
        return torch.zeros((), dtype=torch.float64)


class LiteralExpert(nn.Module):
    def __init__(self, width: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise([width, *hidden]))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


def literal_towers(widths: dict[str, int], hidden: Sequence[int]) -> nn.ModuleDict:
    """A tower per task, from the width that it reads to a logit."""
    towers = nn.ModuleDict()
    for task, width in widths.items():
        layers: list[nn.Module] = []
        for a, b in pairwise([width, *hidden]):
            layers += [nn.Linear(a, b), nn.ReLU()]
        towers[task] = nn.Sequential(*layers, nn.Linear([width, *hidden][-1], 1))
    return towers


def fuse(gate: nn.Module, selector: Tensor, experts: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """The mixture of the named experts' outputs by a softmax gate, and each one's weight."""
    weight = torch.softmax(gate(selector), dim=1)
    assert weight.shape[1] == len(experts)
    fused = torch.zeros_like(next(iter(experts.values())))
    for i, value in enumerate(experts.values()):
        fused = fused + weight[:, i : i + 1] * value
    return fused, {name: weight[:, i] for i, name in enumerate(experts)}


class LiteralLevel(nn.Module):
    def __init__(self, tasks: Sequence[str], level: LevelConfig, width: int, *, last: bool) -> None:
        super().__init__()
        owners = {**{task: level.own_experts(task) for task in tasks}, "shared": level.shared_experts}
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

    def _experts(self) -> Iterator[tuple[str, Iterable[nn.Module]]]:
        for owner, experts in self.experts.items():
            assert isinstance(experts, nn.ModuleList)
            yield owner, experts

    def forward(self, stream: dict[str, Tensor]) -> tuple[dict[str, Tensor], Mixes]:
        h = {f"{o}.{i}": expert(stream[o]) for o, experts in self._experts() for i, expert in enumerate(experts)}
        out: dict[str, Tensor] = {}
        mixes: Mixes = {}
        for output, gate in self.gates.items():
            owners = {*self.experts} if output == "shared" else {output, "shared"}
            read = {name: value for name, value in h.items() if name.split(".")[0] in owners}
            out[output], weights = fuse(gate, stream[output], read)
            mixes |= {(output, name): weight for name, weight in weights.items()}
        return out, mixes


class LiteralPle(Literal):
    """PLE; of one level it is CGC, and without own experts MMoE."""

    def __init__(self, tasks: Sequence[str], levels: Sequence[LevelConfig], width: int, tower: Sequence[int]) -> None:
        super().__init__()
        self.tasks = tasks
        self.levels = nn.ModuleList()
        for j, level in enumerate(levels):
            self.levels.append(LiteralLevel(tasks, level, width, last=j == len(levels) - 1))
            width = level.expert_hidden[-1]
        self.towers = literal_towers(dict.fromkeys(tasks, width), tower)

    def forward(self, x: Tensor) -> Tensor:
        stream = dict.fromkeys([*self.tasks, "shared"], x)
        self.mixes = []
        for level in self.levels:
            stream, mixes = level(stream)
            self.mixes.append(mixes)
        return torch.cat([self.towers[task](stream[task]) for task in self.tasks], dim=1)
