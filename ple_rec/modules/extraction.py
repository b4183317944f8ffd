"""Extraction network of every model: levels of experts and mixings. A level computes two lines.

    h_e = f_e(x_source(e))
    y_o = sum_e A_oe h_e

Shape suffixes: B batch, E experts, O outputs, D width in, H width out.
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
    """One level, whose outputs are the input streams of the next.

    Args:
        routing: Routing of the level.
        widths: Width of each input stream.
        width: Width D of x.
        activation: Activation of the experts.
        dropout: Dropout of the experts.
        bank: Class of the experts.
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
        """Return the outputs (B, width_o), one for each output of the routing, and A_BOE.

        Args:
            streams: Input streams, (B, width_s) each.
            x_BD: Input x of the network.
        """
        h_BEH = self.experts(streams)
        y, a_BOE = self.mixing(h_BEH, [*streams, x_BD])
        return y, a_BOE

    def penalty(self) -> Tensor | None:
        """Return the penalty that the level adds to the loss, or None if there is none."""
        if not self.routing.orthogonality:
            return None
        return self.routing.orthogonality * self.experts.orthogonality(self.routing.subspaces)


class ExtractionNetwork(nn.Module):
    """All levels, one after the other. The first reads x as its only stream.

    Args:
        routings: Routing of each level, bottom first.
        width: Width D of x.
        activation: Activation of the experts.
        dropout: Dropout of the experts.
        bank: Class of the experts.

    Raises:
        ValueError: Levels are to be mixed, but their outputs differ in names or widths.
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
        """Return the inputs of the towers, (B, width_o) each, and an A_BOE for each of `gate_labels`.

        The A_BOE are the expert utilisation.
        """
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
        """Return the penalty that the levels add to the loss, or None if there is none."""
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
