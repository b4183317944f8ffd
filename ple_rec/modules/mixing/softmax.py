"""A made by softmax gates: MMoE, CGC, PLE, ML-MMoE.

Shape suffixes: B batch, S streams, E experts, O outputs, G gated outputs, N edges of gated outputs, D width in,
H width out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ple_rec.modules.grouped import Inputs, linear
from ple_rec.modules.mixing.base import Mixing
from ple_rec.modules.routing import Routing


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
        reads = [[e for e, read in enumerate(row) if read] for row in routing.reads_OE]
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
