"""Mixing of experts: the weights with which each output of a level reads the experts of that level.

Shape suffixes: B batch, S streams, E experts, O outputs, D width in, H width of an expert's output. Of gates: G gated
outputs, N edges of gated outputs. Of subspaces: G subspaces of an expert, V H / G.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ple_rec.modules.grouped import Inputs, linear
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
        self.legend = GateLabels(routing.mixing, routing.outputs, routing.experts, routing.edges_OE)

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
    """Return A for each sample of a batch, as a view of the one A."""
    return a_OE.expand(h_BEH.shape[0], -1, -1)


class SumMixing(Mixing):
    """`A_oe = 1` where output o reads expert e."""

    edges_OE: Tensor

    def __init__(self, routing: Routing, widths: Sequence[int]) -> None:
        super().__init__(routing, [routing.width] * len(routing.outputs))
        self.register_buffer("edges_OE", torch.tensor(routing.edges_OE).float(), persistent=False)
        self.flops = 2 * self.edges_OE.numel() * routing.width

    def _a_OE(self) -> Tensor:
        return self.edges_OE

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
        return self.edges_OE / self.edges_OE.sum(1, keepdim=True)


class ConcatMixing(Mixing):
    """The experts that output o reads, side by side in their order on the level.

    A_oe is the (n_o H) x H matrix that puts h_e in its place; the width of an output is n_o H. In A_BOE such a block
    stands as 1.
    """

    a_OE: Tensor

    def __init__(self, routing: Routing, widths: Sequence[int]) -> None:
        super().__init__(routing, [sum(row) * routing.width for row in routing.edges_OE])
        self.reads = [[e for e, read in enumerate(row) if read] for row in routing.edges_OE]
        self.register_buffer("a_OE", torch.tensor(routing.edges_OE).float(), persistent=False)

    def forward(self, h_BEH: Tensor, streams: Sequence[Inputs]) -> tuple[list[Tensor], Tensor]:
        """See `Mixing.forward`."""
        h = h_BEH.unbind(1)
        y = [torch.cat([h[e] for e in row], dim=1) if len(row) > 1 else h[row[0]] for row in self.reads]
        return y, expand(self.a_OE, h_BEH)

    def flops_per_sample(self) -> int:
        """Concatenation multiplies nothing."""
        return 0


class SoftmaxGates(Mixing):
    """Softmax gates (Eq. 2-4, 7): `A_o = softmax(W_o x_selector(o))` over the experts that output o reads, no bias.

    An output that reads a single expert passes it on (A = 1) and has no gate: a softmax over one value is a dead
    parameter. The gates of one selector stream stand side by side in one matrix. The softmax is fp32
    also where the products run in a lower precision.

    Args:
        routing: Edges and selectors.
        widths: Width of each input stream, and of x last.
    """

    edges: Tensor
    gated: Tensor
    constant_OE: Tensor

    def __init__(self, routing: Routing, widths: Sequence[int]) -> None:
        super().__init__(routing, [routing.width] * len(routing.outputs))
        self.outputs, self.experts = len(routing.outputs), len(routing.experts)
        reads = [[e for e, read in enumerate(row) if read] for row in routing.edges_OE]
        self.single = {o: row[0] for o, row in enumerate(reads) if len(row) == 1}
        # Gated outputs in the order of their selector streams, so that each stream's gates are consecutive rows.
        gated = sorted((o for o, row in enumerate(reads) if len(row) > 1), key=lambda o: routing.selector_O[o])
        self.slot = {o: slot for slot, o in enumerate(gated)}
        self.in_order = gated == list(range(self.outputs))
        self.full = all(len(reads[o]) == self.experts for o in gated)
        self.selectors = sorted({routing.selector_O[o] for o in gated})
        self.weights = nn.ParameterList()
        for stream in self.selectors:
            rows = sum(len(reads[o]) for o in gated if routing.selector_O[o] == stream)
            bound = widths[stream] ** -0.5
            self.weights.append(nn.init.uniform_(torch.empty(rows, widths[stream]), -bound, bound))
        edges = [slot * self.experts + e for slot, o in enumerate(gated) for e in reads[o]]
        self.register_buffer("edges", torch.tensor(edges, dtype=torch.long), persistent=False)
        self.register_buffer("gated", torch.tensor(gated, dtype=torch.long), persistent=False)
        constant = [[float(self.single.get(o) == e) for e in range(self.experts)] for o in range(self.outputs)]
        self.register_buffer("constant_OE", torch.tensor(constant), persistent=False)
        self.width = routing.width

    def _weights_BGE(self, streams: Sequence[Inputs]) -> Tensor:
        pieces = [linear(streams[stream], weight) for stream, weight in zip(self.selectors, self.weights, strict=True)]
        logits_BN = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)
        if logits_BN.dtype in (torch.bfloat16, torch.float16):
            logits_BN = logits_BN.float()
        if not self.full:
            nothing = logits_BN.new_full((logits_BN.shape[0], len(self.slot) * self.experts), float("-inf"))
            logits_BN = nothing.index_copy(1, self.edges, logits_BN)
        logits_BGE = logits_BN.view(-1, len(self.slot), self.experts)
        return torch.softmax(logits_BGE, dim=-1)

    def forward(self, h_BEH: Tensor, streams: Sequence[Inputs]) -> tuple[list[Tensor], Tensor]:
        """See `Mixing.forward`; A_BOE has the precision of the softmax."""
        constant_BOE = self.constant_OE.expand(h_BEH.shape[0], -1, -1)
        if not self.slot:
            return [h_BEH[:, e] for e in self.single.values()], constant_BOE
        a_BGE = self._weights_BGE(streams)
        mixed = torch.bmm(a_BGE.to(h_BEH.dtype), h_BEH).unbind(1)
        y = [mixed[self.slot[o]] if o in self.slot else h_BEH[:, self.single[o]] for o in range(self.outputs)]
        if self.in_order:
            return y, a_BGE
        return y, constant_BOE.to(a_BGE.dtype).index_copy(1, self.gated, a_BGE)

    def flops_per_sample(self) -> int:
        """Forward FLOPs of the matrix products, two per multiply-add."""
        mixing = 2 * len(self.slot) * self.experts * self.width
        gates: int = sum(2 * weight.numel() for weight in self.weights)
        return mixing + gates


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
    if len(routing.outputs) != len(routing.experts) or not all(all(row) for row in routing.edges_OE):
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


# Constructors of mixings by name; each takes the routing of a level and the widths of its input streams, x last.
MIXINGS: dict[str, Callable[[Routing, Sequence[int]], Mixing]] = {
    "softmax": SoftmaxGates,
    "concat": ConcatMixing,
    "sum": SumMixing,
    "mean": MeanMixing,
    "stitch": SubspaceMixing,
    "stitch_channels": ChannelStitch,
    "subspaces": SubspaceMixing,
}
