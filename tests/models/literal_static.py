"""The models that mix experts alike for every sample, each as its definition says, one nn.Linear per layer.

asymmetric    y_k = t_k(c([f_i(x): i is k or a donor of k, in the order of the tasks])), c concat, sum or mean
customized    y_k = t_k([f_k(x), f_shared(x)])
cross-stitch  z_(l,k) = sum_i alpha_(l,k,i) f_(l,i)(z_(l-1,i)), alpha a scalar, or a vector over the channels
              (Misra et al., 2016)
sluice        h = [h_1 .. h_G] for every expert; z_(l,k,a) = sum_i sum_b alpha_(l,k,a,i,b) h_(l,i,b), z_l,k all
              its parts side by side; the tower reads sum_l softmax(beta_k)_l z_(l,k) (Ruder et al., 2019)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tests.models.literal import Literal, LiteralExpert, Mixes, literal_towers


def _spread(own: bool, others: int) -> float:
    """The start of a factor: .9 for one's own, .1 divided by the others, 1 where there is no other."""
    if others == 0:
        return 1.0
    return 0.9 if own else 0.1 / others


def _bottoms(owners: Sequence[str], width: int, hidden: Sequence[int]) -> nn.ModuleDict:
    return nn.ModuleDict({owner: nn.ModuleList([LiteralExpert(width, hidden)]) for owner in owners})


def _run(experts: nn.ModuleDict, owner: str, x: Tensor) -> Tensor:
    h: Tensor = experts.get_submodule(f"{owner}.0")(x)
    return h


class _OneLevel(nn.Module):
    def __init__(self, experts: nn.ModuleDict) -> None:
        super().__init__()
        self.experts = experts


class LiteralReading(Literal):
    """One bottom per owner, of which each task reads some: asymmetric and customized sharing."""

    def __init__(
        self,
        reads: Mapping[str, Sequence[str]],
        combine: str,
        bottom: Sequence[int],
        width: int,
        tower: Sequence[int],
        shared: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.reads, self.combine = reads, combine
        self.levels = nn.ModuleList([_OneLevel(_bottoms([*reads, *shared], width, bottom))])
        widths = {k: bottom[-1] * (len(read) if combine == "concat" else 1) for k, read in reads.items()}
        self.towers = literal_towers(widths, tower)

    def forward(self, x: Tensor) -> Tensor:
        (level,) = self.levels
        assert isinstance(level, _OneLevel)
        mixes: Mixes = {}
        logits = []
        for task, read in self.reads.items():
            h = [_run(level.experts, owner, x) for owner in read]
            if self.combine == "concat":
                y = torch.cat(h, dim=1)
            else:
                y = torch.zeros_like(h[0])
                for value in h:
                    y = y + value
                if self.combine == "mean":
                    y = y / len(h)
            factor = 1 / len(h) if self.combine == "mean" else 1.0
            mixes |= {(task, f"{owner}.0"): torch.tensor(factor, dtype=x.dtype) for owner in read}
            logits.append(self.towers[task](y))
        self.mixes = [mixes]
        return torch.cat(logits, dim=1)


def literal_asymmetric(
    tasks: Sequence[str],
    donors: Mapping[str, Sequence[str]],
    combine: str,
    bottom: Sequence[int],
    width: int,
    tower: Sequence[int],
) -> LiteralReading:
    reads = {k: [i for i in tasks if i == k or i in donors.get(k, ())] for k in tasks}
    return LiteralReading(reads, combine, bottom, width, tower)


def literal_customized(tasks: Sequence[str], bottom: Sequence[int], width: int, tower: Sequence[int]) -> LiteralReading:
    return LiteralReading({k: [k, "shared"] for k in tasks}, "concat", bottom, width, tower, shared=["shared"])


class _StitchLevel(nn.Module):
    def __init__(self, tasks: Sequence[str], width: int, hidden: Sequence[int], channels: int | None) -> None:
        super().__init__()
        self.experts = _bottoms(tasks, width, hidden)
        shape = () if channels is None else (channels,)
        self.alpha = nn.ModuleDict(
            {k: nn.ParameterDict({i: torch.full(shape, _spread(i == k, len(tasks) - 1)) for i in tasks}) for k in tasks}
        )


class LiteralCrossStitch(Literal):
    def __init__(
        self,
        tasks: Sequence[str],
        levels: Sequence[Sequence[int]],
        width: int,
        tower: Sequence[int],
        *,
        per_channel: bool,
    ) -> None:
        super().__init__()
        self.tasks = tasks
        self.levels = nn.ModuleList()
        for hidden in levels:
            self.levels.append(_StitchLevel(tasks, width, hidden, hidden[-1] if per_channel else None))
            width = hidden[-1]
        self.towers = literal_towers(dict.fromkeys(tasks, width), tower)

    def forward(self, x: Tensor) -> Tensor:
        z = dict.fromkeys(self.tasks, x)
        self.mixes = []
        for level in self.levels:
            assert isinstance(level, _StitchLevel)
            h = {task: _run(level.experts, task, z[task]) for task in self.tasks}
            mixes: Mixes = {}
            for k in self.tasks:
                z[k] = torch.zeros_like(h[k])
                for i in self.tasks:
                    alpha = level.alpha.get_parameter(f"{k}.{i}")
                    z[k] = z[k] + alpha * h[i]
                    mixes[k, f"{i}.0"] = alpha.mean()
            self.mixes.append(mixes)
        return torch.cat([self.towers[task](z[task]) for task in self.tasks], dim=1)


class _SluiceLevel(nn.Module):
    def __init__(self, tasks: Sequence[str], width: int, hidden: Sequence[int], subspaces: int) -> None:
        super().__init__()
        self.experts = _bottoms(tasks, width, hidden)
        others, parts = len(tasks) * subspaces - 1, range(subspaces)
        self.alpha = nn.ModuleDict(
            {
                k: nn.ModuleList(
                    nn.ModuleDict(
                        {
                            i: nn.ParameterList(torch.tensor(_spread((i, b) == (k, a), others)) for b in parts)
                            for i in tasks
                        }
                    )
                    for a in parts
                )
                for k in tasks
            }
        )


class LiteralSluice(Literal):
    def __init__(
        self,
        tasks: Sequence[str],
        levels: Sequence[Sequence[int]],
        subspaces: int,
        weight: float,
        width: int,
        tower: Sequence[int],
    ) -> None:
        super().__init__()
        self.tasks, self.subspaces, self.weight = tasks, subspaces, weight
        self.levels = nn.ModuleList()
        for hidden in levels:
            self.levels.append(_SluiceLevel(tasks, width, hidden, subspaces))
            width = hidden[-1]
        self.part = width // subspaces
        self.beta = nn.ModuleDict({k: nn.ParameterList(torch.zeros(()) for _ in levels) for k in tasks})
        self.towers = literal_towers(dict.fromkeys(tasks, width), tower)

    def _slice(self, a: int) -> slice:
        return slice(a * self.part, (a + 1) * self.part)

    def _name(self, name: str, a: int) -> str:
        return name if self.subspaces == 1 else f"{name}[{a}]"

    def forward(self, x: Tensor) -> Tensor:
        z = dict.fromkeys(self.tasks, x)
        below: list[dict[str, Tensor]] = []
        self.mixes = []
        for level in self.levels:
            assert isinstance(level, _SluiceLevel)
            h = {task: _run(level.experts, task, z[task]) for task in self.tasks}
            mixes: Mixes = {}
            for k in self.tasks:
                parts = []
                for a in range(self.subspaces):
                    part = torch.zeros_like(h[k][:, self._slice(0)])
                    for i in self.tasks:
                        for b in range(self.subspaces):
                            alpha = level.alpha.get_parameter(f"{k}.{a}.{i}.{b}")
                            part = part + alpha * h[i][:, self._slice(b)]
                            mixes[self._name(k, a), self._name(f"{i}.0", b)] = alpha
                    parts.append(part)
                z[k] = torch.cat(parts, dim=1)
            self.mixes.append(mixes)
            below.append(dict(z))
        return torch.cat([self.towers[task](y) for task, y in self._mix(below).items()], dim=1)

    def _mix(self, below: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        mixed: dict[str, Tensor] = {}
        mixes: Mixes = {}
        for k in self.tasks:
            powers = [self.beta.get_parameter(f"{k}.{j}").exp() for j in range(len(below))]
            total = sum(powers, torch.zeros_like(powers[0]))
            mixed[k] = torch.zeros_like(below[0][k])
            for j, power in enumerate(powers):
                mixed[k] = mixed[k] + power / total * below[j][k]
                mixes[k, f"level {j + 1}"] = power / total
        if len(below) > 1:
            self.mixes.append(mixes)
        return mixed

    def penalty(self) -> Tensor:
        """`lambda sum_l sum_k sum_(a < b) ||W_lka^T W_lkb||_F^2`, W inputs x outputs of the last layer."""
        total = torch.zeros((), dtype=torch.float64)
        for level in self.levels:
            for k in self.tasks:
                layers = level.get_submodule(f"experts.{k}.0.layers")
                assert isinstance(layers, nn.ModuleList)
                last = layers[-1]
                assert isinstance(last, nn.Linear)
                w = last.weight.T
                for a in range(self.subspaces):
                    for b in range(a + 1, self.subspaces):
                        total = total + ((w[:, self._slice(a)].T @ w[:, self._slice(b)]) ** 2).sum()
        return self.weight * total
