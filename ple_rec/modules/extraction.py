"""The one extraction network of every model: levels of experts and mixings, each two lines.

    h_e = f_e(x_source(e))
    y_o = sum_e A_oe h_e

Shape suffixes: B batch, E experts, O outputs, D width in, H width out.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ple_rec.modules.experts import ExpertBank
from ple_rec.modules.mixing import MIXINGS
from ple_rec.modules.routing import Routing


class ExtractionLevel(nn.Module):
    """One level: its outputs are the input streams of the next.

    Args:
        routing: Who reads whom, and how they are mixed.
        widths: Width of each input stream.
        width: D, the width of x.
        activation: Of the experts.
        dropout: Of the experts.
    """

    def __init__(self, routing: Routing, widths: Sequence[int], width: int, activation: str, dropout: float) -> None:
        super().__init__()
        self.routing = routing
        self.experts = ExpertBank(routing, widths, activation, dropout)
        self.mixing = MIXINGS[routing.mixing](routing, [*widths, width])

    def forward(self, streams: Sequence[Tensor], x_BD: Tensor) -> tuple[list[Tensor], Tensor]:
        """Streams (B, width_s) and x -> outputs (B, H), one per output of the routing, and A_BOE."""
        h_BEH = self.experts(streams)
        y, a_BOE = self.mixing(h_BEH, [*streams, x_BD])
        return y, a_BOE


class ExtractionNetwork(nn.Module):
    """The levels one after the other; the first reads x as its only stream.

    Args:
        routings: One per level, bottom first.
        width: D, the width of x.
        activation: Of the experts.
        dropout: Of the experts.
    """

    def __init__(self, routings: Sequence[Routing], width: int, activation: str, dropout: float) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        widths = [width]
        for routing in routings:
            level = ExtractionLevel(routing, widths, width, activation, dropout)
            self.levels.append(level)
            widths = level.mixing.widths
        self.widths = widths

    def forward(self, x_BD: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """x_BD -> the last level's outputs, (B, H) each, and A_BOE of every level (the expert utilisation)."""
        streams, gates = [x_BD], []
        for level in self.levels:
            streams, a_BOE = level(streams, x_BD)
            gates.append(a_BOE)
        return streams, gates

    def flops_per_sample(self) -> int:
        """Forward FLOPs of the matrix products, two per multiply-add."""
        return sum(level.experts.flops_per_sample() + level.mixing.flops_per_sample() for level in self.levels)  # type: ignore[union-attr, operator]
