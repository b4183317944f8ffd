"""What every mixing is: a map from the experts' outputs to the level's outputs.

Shape suffixes: B batch, S streams, E experts, O outputs, H width of an expert's output.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from ple_rec.modules.grouped import Inputs
from ple_rec.modules.routing import GateLabels, Routing


class Mixing(nn.Module):
    """`y_o = sum_e A_oe h_e`, A_oe = 0 unless the routing's output o reads expert e; subclasses say what A is.

    Args:
        routing: Edges and selectors.
        widths: Width of each output.
    """

    def __init__(self, routing: Routing, widths: Sequence[int]) -> None:
        super().__init__()
        self.widths = list(widths)
        self.legend = GateLabels(routing.mixing, routing.outputs, routing.experts, routing.reads_OE)

    @abstractmethod
    def forward(self, h_BEH: Tensor, streams: Sequence[Inputs]) -> tuple[list[Tensor], Tensor]:
        """Mix the experts.

        Args:
            h_BEH: The experts' outputs.
            streams: The level's S input streams, (B, width_s) each, and x last.

        Returns:
            The O outputs, (B, width_o) each, and A_BOE, whose rows and columns `legend` names.
        """

    @abstractmethod
    def flops_per_sample(self) -> int:
        """Forward FLOPs of the matrix products, two per multiply-add."""


def expand(a_OE: Tensor, h_BEH: Tensor) -> Tensor:
    """The same A for every sample, as a view."""
    return a_OE.expand(h_BEH.shape[0], -1, -1)
