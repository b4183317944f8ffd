"""A that is trained and the same for every sample: cross-stitch units and sluice networks.

Shape suffixes: B batch, E experts, O outputs, H width of an expert's output, G subspaces of an expert, V H / G.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ple_rec.modules.grouped import Inputs
from ple_rec.modules.mixing.base import Mixing, expand
from ple_rec.modules.routing import GateLabels, Routing

OWN = 0.9  # the start of cross-stitch: .9 of one's own, .1 spread over the others


def _mostly_own(size: int) -> Tensor:
    """(size, size): OWN on the diagonal, the rest spread over the other columns; 1 where there is no other."""
    if size == 1:
        return torch.ones(1, 1)
    return torch.full((size, size), (1 - OWN) / (size - 1)).fill_diagonal_(OWN)


class SubspaceMixing(Mixing):
    """Sluice networks (Ruder et al., 2019): a learned matrix over all subspaces of all experts.

        y_(o,a) = sum_e sum_b A_(o,a),(e,b) h_(e,b)        h_e = [h_(e,1), .., h_(e,G)]

    A is (O G) x (E G), at the start .9 on the diagonal and .1 spread over the rest of each row. With G = 1 this is
    the cross-stitch unit (Misra et al., 2016).

    Raises:
        ValueError: the outputs are not one per expert, one of them does not read all, or G does not divide H.
    """

    def __init__(self, routing: Routing, widths: Sequence[int]) -> None:
        super().__init__(routing, [routing.width] * len(routing.outputs))
        _check(routing)
        self.subspaces = routing.subspaces
        self.width = routing.width
        self.weight = nn.Parameter(_mostly_own(len(routing.experts) * routing.subspaces))
        outputs, experts = (_numbered(names, routing.subspaces) for names in (routing.outputs, routing.experts))
        self.legend = GateLabels(routing.mixing, outputs, experts, ((True,) * len(experts),) * len(outputs))

    def forward(self, h_BEH: Tensor, streams: Sequence[Inputs]) -> tuple[list[Tensor], Tensor]:
        """See `Mixing.forward`; the rows and columns of A are subspaces."""
        parts_BEV = h_BEH.flatten(1).unflatten(1, (self.weight.shape[0], -1))
        y_BOV = torch.einsum("oe,bev->bov", self.weight.to(h_BEH.dtype), parts_BEV)
        y_BOH = y_BOV.flatten(1).unflatten(1, (-1, self.width))
        return list(y_BOH.unbind(1)), expand(self.weight, h_BEH)

    def flops_per_sample(self) -> int:
        """Forward FLOPs of the matrix products, two per multiply-add."""
        return 2 * self.weight.numel() * self.width // self.subspaces


class ChannelStitch(Mixing):
    """Cross-stitch with a scalar per channel: `y_o = sum_e a_oe * h_e`, a_oe a learned vector of H values.

    In A_BOE stands the mean of a_oe over its channels. The start and the errors are those of `SubspaceMixing`.
    """

    def __init__(self, routing: Routing, widths: Sequence[int]) -> None:
        super().__init__(routing, [routing.width] * len(routing.outputs))
        _check(routing)
        start_OE = _mostly_own(len(routing.experts))
        self.weight = nn.Parameter(start_OE.unsqueeze(2).repeat(1, 1, routing.width))

    def forward(self, h_BEH: Tensor, streams: Sequence[Inputs]) -> tuple[list[Tensor], Tensor]:
        """See `Mixing.forward`."""
        # As an einsum it would be H products of tiny matrices, two to three times slower on a CPU.
        y = [(weight_EH.to(h_BEH.dtype) * h_BEH).sum(1) for weight_EH in self.weight.unbind(0)]
        return y, expand(self.weight.mean(2), h_BEH)

    def flops_per_sample(self) -> int:
        """There is no matrix product."""
        return 0


class LevelMixing(nn.Module):
    """What a tower reads of all levels: `z_o = sum_l B_ol y_(l,o)`, `B_o = softmax(b_o)`, b learned, 0 at the start.

    Args:
        outputs: Names of the outputs, the same on every level.
        levels: L, their number.
    """

    def __init__(self, outputs: Sequence[str], levels: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(len(outputs), levels))
        names = tuple(f"level {i + 1}" for i in range(levels))
        self.legend = GateLabels("levels", tuple(outputs), names, ((True,) * levels,) * len(outputs))

    def forward(self, levels: Sequence[Sequence[Tensor]]) -> tuple[list[Tensor], Tensor]:
        """The outputs of every level, (B, H) each, bottom first -> the mixed outputs, and B for every sample."""
        b_OL = F.softmax(self.logits, dim=1)
        mixed = []
        for o in range(self.logits.shape[0]):
            y_BLH = torch.stack([outputs[o] for outputs in levels], dim=1)
            mixed.append(torch.einsum("l,blh->bh", b_OL[o].to(y_BLH.dtype), y_BLH))
        return mixed, expand(b_OL, levels[0][0])

    def flops_per_sample(self, width: int) -> int:
        """Forward FLOPs for outputs of `width`, two per multiply-add."""
        return 2 * self.logits.numel() * width


def _check(routing: Routing) -> None:
    if len(routing.outputs) != len(routing.experts) or not all(all(row) for row in routing.reads_OE):
        raise ValueError(
            f"mixing {routing.mixing!r} needs one output per expert, each reading all; got outputs {routing.outputs} "
            f"over experts {routing.experts}"
        )
    if routing.width % routing.subspaces:
        raise ValueError(f"{routing.subspaces} subspaces do not divide a width of {routing.width}")


def _numbered(names: Sequence[str], subspaces: int) -> tuple[str, ...]:
    if subspaces == 1:
        return tuple(names)
    return tuple(f"{name}[{part}]" for name in names for part in range(subspaces))
