"""A that is never trained: sum, mean and concatenation (asymmetric and customized sharing).

Shape suffixes: B batch, E experts, O outputs, H width of an expert's output.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ple_rec.modules.grouped import Inputs
from ple_rec.modules.mixing.base import Mixing, expand
from ple_rec.modules.routing import Routing


class SumMixing(Mixing):
    """`A_oe = 1` where output o reads expert e."""

    reads_OE: Tensor

    def __init__(self, routing: Routing, widths: Sequence[int]) -> None:
        super().__init__(routing, [routing.width] * len(routing.outputs))
        self.register_buffer("reads_OE", torch.tensor(routing.reads_OE).float(), persistent=False)
        self.flops = 2 * self.reads_OE.numel() * routing.width

    def _a_OE(self) -> Tensor:
        return self.reads_OE

    def forward(self, h_BEH: Tensor, streams: Sequence[Inputs]) -> tuple[list[Tensor], Tensor]:
        """See `Mixing.forward`."""
        a_OE = self._a_OE()
        y_BOH = torch.einsum("oe,beh->boh", a_OE.to(h_BEH.dtype), h_BEH)
        return list(y_BOH.unbind(1)), expand(a_OE, h_BEH)

    def flops_per_sample(self) -> int:
        """Forward FLOPs of the matrix products, two per multiply-add."""
        return self.flops


class MeanMixing(SumMixing):
    """`A_oe = 1 / n_o` where output o reads expert e, n_o the number that it reads."""

    def _a_OE(self) -> Tensor:
        # Divided here, so that a model in fp64 does not hold a third as fp32 has it.
        return self.reads_OE / self.reads_OE.sum(1, keepdim=True)


class ConcatMixing(Mixing):
    """The experts that output o reads, side by side in their order on the level.

    A_oe is the (n_o H) x H matrix that puts h_e in its place; the width of an output is n_o H. In A_BOE such a block
    stands as 1.
    """

    a_OE: Tensor

    def __init__(self, routing: Routing, widths: Sequence[int]) -> None:
        super().__init__(routing, [sum(row) * routing.width for row in routing.reads_OE])
        self.reads = [[e for e, read in enumerate(row) if read] for row in routing.reads_OE]
        self.register_buffer("a_OE", torch.tensor(routing.reads_OE).float(), persistent=False)

    def forward(self, h_BEH: Tensor, streams: Sequence[Inputs]) -> tuple[list[Tensor], Tensor]:
        """See `Mixing.forward`."""
        h = h_BEH.unbind(1)
        y = [torch.cat([h[e] for e in row], dim=1) if len(row) > 1 else h[row[0]] for row in self.reads]
        return y, expand(self.a_OE, h_BEH)

    def flops_per_sample(self) -> int:
        """Concatenation multiplies nothing."""
        return 0
