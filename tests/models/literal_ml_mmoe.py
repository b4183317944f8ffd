"""Multi-level MMoE as a reader would write it down: one nn.Linear per layer, one expert and one gate at a time.

    level 1: h_e = f_e(x)
    level j: h_e = f_e(sum_i softmax(W_e x)_i h_i), i over all experts of level j - 1, a W_e per expert e
    task k:  y_k = t_k(sum_i softmax(W_k x)_i h_i), i over all experts of the last level

Every gate has the same selector, the raw x.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tests.models.literal import Literal, LiteralExpert, Mixes, fuse, literal_towers


class _Level(nn.Module):
    def __init__(self, width: int, selector: int, experts: int, hidden: Sequence[int], outputs: Sequence[str]) -> None:
        super().__init__()
        self.experts = nn.ModuleDict({"shared": nn.ModuleList(LiteralExpert(width, hidden) for _ in range(experts))})
        gates = [nn.Linear(selector, experts, bias=False) for _ in outputs]
        inner = outputs[0].startswith("shared.")
        self.gates = nn.ModuleDict(
            {"shared": nn.ModuleList(gates)} if inner else dict(zip(outputs, gates, strict=True))
        )


class LiteralMlMmoe(Literal):
    def __init__(
        self, tasks: Sequence[str], levels: Sequence[tuple[int, Sequence[int]]], width: int, tower: Sequence[int]
    ) -> None:
        super().__init__()
        self.tasks = tasks
        self.levels = nn.ModuleList()
        reads = width
        for j, (experts, hidden) in enumerate(levels):
            above = [f"shared.{e}" for e in range(levels[j + 1][0])] if j + 1 < len(levels) else tasks
            self.levels.append(_Level(reads, width, experts, hidden, above))
            reads = hidden[-1]
        self.towers = literal_towers(dict.fromkeys(tasks, reads), tower)

    def forward(self, x: Tensor) -> Tensor:
        self.mixes = []
        streams: list[Tensor] | None = None
        for level in self.levels:
            assert isinstance(level, _Level)
            experts = level.get_submodule("experts.shared")
            assert isinstance(experts, nn.ModuleList)
            h = {f"shared.{e}": f(x if streams is None else streams[e]) for e, f in enumerate(experts)}
            streams = []
            mixes: Mixes = {}
            for name, gate in level.gates.named_modules():
                if isinstance(gate, nn.Linear):
                    fused, weights = fuse(gate, x, h)
                    streams.append(fused)
                    mixes |= {(name, expert): weight for expert, weight in weights.items()}
            self.mixes.append(mixes)
        assert streams is not None
        return torch.cat([self.towers[task](y) for task, y in zip(self.tasks, streams, strict=True)], dim=1)
