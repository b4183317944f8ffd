"""Extraction network of every model: levels of experts, whose outputs are mixed into the inputs of the next level.

A level has experts e, each of which reads one of the level's input streams, and outputs o:

    h_e = f_e(x_source(e))
    y_o = sum_e A_oe h_e          the gate weights A are computed by the level's mixing, for example a softmax

The input streams are the input x of the network on the first level, and the outputs of the level below on the others.

Shape suffixes: B batch, E experts, O outputs, D width of x, H width of an expert's output, L levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ple_rec.modules.experts import ExpertBank
from ple_rec.modules.grouped import Inputs
from ple_rec.modules.mixing import MIXINGS, LevelMixing
from ple_rec.modules.routing import GateLabels, Routing


class ExtractionLevel(nn.Module):
    """One level, whose outputs are the input streams of the next level.

    Args:
        routing: Routing of the level.
        widths: Width of each input stream.
        width: Width D of the network's input x, which a gate may read at any level.
        activation: Activation of the experts.
        dropout: Dropout of the experts.
        bank: Class that computes the experts.
    """

    def __init__(
        self,
        routing: Routing,
        widths: Sequence[int],
        width: int,
        activation: str,
        dropout: float,
        bank: type[ExpertBank] = ExpertBank,
    ) -> None:
        super().__init__()
        self.routing = routing
        self.experts = bank(routing, widths, activation, dropout)
        self.mixing = MIXINGS[routing.mixing](routing, [*widths, width])

    def forward(self, streams: Sequence[Inputs], x_BD: Inputs) -> tuple[list[Tensor], Tensor]:
        """Return y_o, (B, width_o), for each output o of the routing, and A_BOE.

        Args:
            streams: Input streams, (B, width_s) each.
            x_BD: Input x of the network.
        """
        h_BEH = self.experts(streams)
        y, a_BOE = self.mixing(h_BEH, [*streams, x_BD])
        return y, a_BOE

    def penalty(self) -> Tensor | None:
        """Return the penalty that the level adds to the loss; None if it has none."""
        if not self.routing.orthogonality:
            return None
        return self.routing.orthogonality * self.experts.orthogonality(self.routing.subspaces)


class ExtractionNetwork(nn.Module):
    """Levels of extraction, one after another. The first level reads x as its only stream.

    Args:
        routings: Routing of each level, bottom first.
        width: Width D of x.
        activation: Activation of the experts.
        dropout: Dropout of the experts.
        bank: Class that computes the experts.

    Attributes:
        widths: Width of each output of the last level.
        level_mixing: Mixing of all levels for the towers; None if the towers read the last level.
        gate_labels: Names of the outputs and experts of each level, and of `level_mixing` last.

    Raises:
        ValueError: A routing has `mix_levels`, but it is not that of the last level, or the levels differ in outputs or
            width.
    """

    def __init__(
        self,
        routings: Sequence[Routing],
        width: int,
        activation: str,
        dropout: float,
        bank: type[ExpertBank] = ExpertBank,
    ) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        widths = [width]
        gate_labels = []
        for i, routing in enumerate(routings):
            level = ExtractionLevel(routing, widths, width, activation, dropout, bank)
            self.levels.append(level)
            widths = level.mixing.widths
            gate_labels.append(replace(level.mixing.gate_labels, level=i + 1))
        self.widths = widths
        self.level_mixing = _level_mixing(routings)
        if self.level_mixing is not None:
            gate_labels.append(self.level_mixing.gate_labels)
        self.gate_labels: tuple[GateLabels, ...] = tuple(gate_labels)

    def forward(self, x_BD: Inputs) -> tuple[list[Tensor], list[Tensor]]:
        """Return the inputs of the towers, (B, width_o) each, and the gate weights A_BOE for each of `gate_labels`."""
        streams: list[Any] = [x_BD]
        gates, outputs = [], []
        for level in self.levels:
            streams, a_BOE = level(streams, x_BD)
            gates.append(a_BOE)
            outputs.append(streams)
        if self.level_mixing is not None:
            streams, b_BOL = self.level_mixing(outputs)
            gates.append(b_BOL)
        return streams, gates

    def penalty(self) -> Tensor | None:
        """Return the penalty that the levels add to the loss; None if they have none."""
        terms = [level.penalty() for level in self.levels]  # type: ignore[operator]
        penalties = [term for term in terms if term is not None]
        return torch.stack(penalties).sum() if penalties else None

    def flops_per_sample(self) -> int:
        """Return the forward FLOPs of the matrix products for one sample, two per multiply-add."""
        levels: int = sum(level.experts.flops_per_sample() + level.mixing.flops_per_sample() for level in self.levels)  # type: ignore[union-attr, operator]
        return levels + (0 if self.level_mixing is None else self.level_mixing.flops_per_sample(self.widths[0]))


def _level_mixing(routings: Sequence[Routing]) -> LevelMixing | None:
    if not any(routing.mix_levels for routing in routings):
        return None
    last = routings[-1]
    for i, routing in enumerate(routings, start=1):
        if routing.mix_levels != (i == len(routings)) or (routing.outputs, routing.width) != (last.outputs, last.width):
            raise ValueError("only the last level has mix_levels, and then all levels need its outputs and its width")
    return LevelMixing(last.outputs, len(routings))
