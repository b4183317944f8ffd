"""The one extraction network of every model: levels of experts and mixings, each two lines.

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
    """One level: its outputs are the input streams of the next.

    Args:
        routing: Who reads whom, and how they are mixed.
        widths: Width of each input stream.
        width: D, the width of x.
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
        """Streams (B, width_s) and x -> outputs (B, width_o), one per output of the routing, and A_BOE."""
        h_BEH = self.experts(streams)
        y, a_BOE = self.mixing(h_BEH, [*streams, x_BD])
        return y, a_BOE

    def penalty(self) -> Tensor | None:
        """What the routing adds to the loss; None where it adds nothing."""
        if not self.routing.orthogonality:
            return None
        return self.routing.orthogonality * self.experts.orthogonality(self.routing.subspaces)


class ExtractionNetwork(nn.Module):
    """The levels one after the other; the first reads x as its only stream.

    Args:
        routings: One per level, bottom first.
        width: D, the width of x.
        activation: Activation of the experts.
        dropout: Dropout of the experts.
        bank: Class of the experts.

    Raises:
        ValueError: levels are to be mixed whose outputs have other names or widths.
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
        legends = []
        for i, routing in enumerate(routings):
            level = ExtractionLevel(routing, widths, width, activation, dropout, bank)
            self.levels.append(level)
            widths = level.mixing.widths
            legends.append(replace(level.mixing.legend, level=i + 1))
        self.widths = widths
        self.level_mixing = _level_mixing(routings)
        if self.level_mixing is not None:
            legends.append(self.level_mixing.legend)
        self.legends: tuple[GateLabels, ...] = tuple(legends)

    def forward(self, x_BD: Inputs) -> tuple[list[Tensor], list[Tensor]]:
        """x_BD -> what the towers read, (B, width_o) each, and one A_BOE per `legends` (the expert utilisation)."""
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
        """What the levels add to the loss; None where they add nothing."""
        terms = [level.penalty() for level in self.levels]  # type: ignore[operator]
        kept = [term for term in terms if term is not None]
        return torch.stack(kept).sum() if kept else None

    def flops_per_sample(self) -> int:
        """Forward FLOPs of the matrix products, two per multiply-add."""
        levels: int = sum(level.experts.flops_per_sample() + level.mixing.flops_per_sample() for level in self.levels)  # type: ignore[union-attr, operator]
        return levels + (0 if self.level_mixing is None else self.level_mixing.flops_per_sample(self.widths[0]))


def _level_mixing(routings: Sequence[Routing]) -> LevelMixing | None:
    if not any(routing.mix_levels for routing in routings):
        return None
    last = routings[-1]
    for i, routing in enumerate(routings, start=1):
        if routing.mix_levels != (i == len(routings)) or (routing.outputs, routing.width) != (last.outputs, last.width):
            raise ValueError("mix_levels stands on the last level, and all levels have its outputs and its width")
    return LevelMixing(last.outputs, len(routings))
