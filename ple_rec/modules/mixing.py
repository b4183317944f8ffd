"""Mixings of experts: the weights A_oe with which output o of a level of the network mixes the experts e of the level.

A level reads input streams. x is the input of the whole network. An edge is a pair of an output and an expert that it
reads.

Shape suffixes: B batch, E experts, O outputs, H width of an expert's output. `SoftmaxGates`: G gated outputs, N edges
of gated outputs. `SubspaceMixing`: E and O number the subspaces of all experts and outputs, V width of a subspace.
`LevelMixing`: L levels.
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
    """Mixing `y_o = sum_e A_oe h_e` with A_oe = 0 unless output o of the routing reads expert e. Subclasses define A.

    Args:
        routing: Routing of the level.
        output_widths: Width of each output.
    """

    def __init__(self, routing: Routing, output_widths: Sequence[int]) -> None:
        super().__init__()
        self.widths = list(output_widths)
        self.gate_labels = GateLabels(routing.mixing, routing.outputs, routing.experts, routing.edges_OE)

    @abstractmethod
    def forward(self, h_BEH: Tensor, streams: Sequence[Inputs]) -> tuple[list[Tensor], Tensor]:
        """Mix the experts.

        Args:
            h_BEH: Outputs of the experts.
            streams: Input streams s of the level, (B, width_s) each, and x last.

        Returns:
            O outputs, (B, width_o) each, and A_BOE, whose rows and columns are named in `gate_labels`.
        """

    @abstractmethod
    def flops_per_sample(self) -> int:
        """Return the forward FLOPs of the matrix products for one sample, two per multiply-add."""


def expand_to_batch(a_OE: Tensor, h_BEH: Tensor) -> Tensor:
    """Return A for each sample of a batch, as a view of the common A."""
    return a_OE.expand(h_BEH.shape[0], -1, -1)


class SumMixing(Mixing):
    """Sum of the experts that output o reads: `A_oe = 1` for each of them."""

    edges_OE: Tensor

    def __init__(self, routing: Routing, stream_widths: Sequence[int]) -> None:
        super().__init__(routing, [routing.width] * len(routing.outputs))
        self.register_buffer("edges_OE", torch.tensor(routing.edges_OE).float(), persistent=False)
        self.flops = 2 * self.edges_OE.numel() * routing.width

    def _a_OE(self) -> Tensor:
        return self.edges_OE

    def forward(self, h_BEH: Tensor, streams: Sequence[Inputs]) -> tuple[list[Tensor], Tensor]:
        """See `Mixing.forward`."""
        a_OE = self._a_OE()
        y_BOH = torch.einsum("oe,beh->boh", a_OE.to(h_BEH.dtype), h_BEH)
        return list(y_BOH.unbind(1)), expand_to_batch(a_OE, h_BEH)

    def flops_per_sample(self) -> int:
        """Return the forward FLOPs of the matrix products for one sample, two per multiply-add."""
        return self.flops


class MeanMixing(SumMixing):
    """Mean of the n_o experts that output o reads: `A_oe = 1 / n_o` for each of them."""

    def _a_OE(self) -> Tensor:
        # The buffer has 0 and 1 rather than 1 / n_o, so that a model converted to fp64 computes 1 / n_o in fp64.
        return self.edges_OE / self.edges_OE.sum(1, keepdim=True)


class ConcatMixing(Mixing):
    """Concatenation of the n_o experts that output o reads, in their order on the level.

    An output has the width n_o H. In `y_o = sum_e A_oe h_e`, A_oe is the (n_o H) x H matrix that copies h_e to its
    columns of the output; the returned A_BOE has 1 for this matrix.
    """

    a_OE: Tensor

    def __init__(self, routing: Routing, stream_widths: Sequence[int]) -> None:
        super().__init__(routing, [sum(row) * routing.width for row in routing.edges_OE])
        self.experts_by_output = [[e for e, read in enumerate(row) if read] for row in routing.edges_OE]
        self.register_buffer("a_OE", torch.tensor(routing.edges_OE).float(), persistent=False)

    def forward(self, h_BEH: Tensor, streams: Sequence[Inputs]) -> tuple[list[Tensor], Tensor]:
        """See `Mixing.forward`."""
        h = h_BEH.unbind(1)
        y = [torch.cat([h[e] for e in row], dim=1) if len(row) > 1 else h[row[0]] for row in self.experts_by_output]
        return y, expand_to_batch(self.a_OE, h_BEH)

    def flops_per_sample(self) -> int:
        """Return 0, because concatenation multiplies nothing."""
        return 0


class SoftmaxGates(Mixing):
    """Softmax gates: `A_o = softmax(W_o x_selector(o))` over the experts that output o reads, without a bias.

    The equations are 2 to 4 and 7 of the PLE paper (Tang et al., 2020).

    An output that reads a single expert returns the expert's value (A = 1) and has no gate, because the parameters of a
    softmax over one value have no effect. A selector stream is an input stream from which gates are computed; the gates
    of one such stream are rows of one matrix. The softmax is computed in fp32 even if the products run in a lower
    precision.

    Args:
        routing: Routing of the level.
        stream_widths: Width of each input stream, and of x last, at the index `SELECT_BY_X`, -1.
    """

    edges: Tensor
    gated: Tensor
    constant_OE: Tensor

    def __init__(self, routing: Routing, stream_widths: Sequence[int]) -> None:
        super().__init__(routing, [routing.width] * len(routing.outputs))
        self.outputs, self.experts = len(routing.outputs), len(routing.experts)
        reads = [[e for e, read in enumerate(row) if read] for row in routing.edges_OE]
        self.single_expert_by_output = {o: row[0] for o, row in enumerate(reads) if len(row) == 1}
        # Gated outputs in the order of their selector streams, so that each stream's gates are consecutive rows.
        gated = sorted((o for o, row in enumerate(reads) if len(row) > 1), key=lambda o: routing.selector_O[o])
        self.gate_by_output = {o: gate for gate, o in enumerate(gated)}
        self.is_in_output_order = gated == list(range(self.outputs))
        self.has_all_edges = all(len(reads[o]) == self.experts for o in gated)
        self.selectors = sorted({routing.selector_O[o] for o in gated})
        self.weights = nn.ParameterList()
        for stream in self.selectors:
            rows = sum(len(reads[o]) for o in gated if routing.selector_O[o] == stream)
            limit = stream_widths[stream] ** -0.5
            self.weights.append(nn.init.uniform_(torch.empty(rows, stream_widths[stream]), -limit, limit))
        # Position of each logit in the flattened matrix (G, E) of gated outputs and experts.
        edges = [gate * self.experts + e for gate, o in enumerate(gated) for e in reads[o]]
        self.register_buffer("edges", torch.tensor(edges, dtype=torch.long), persistent=False)
        self.register_buffer("gated", torch.tensor(gated, dtype=torch.long), persistent=False)
        constant = [
            [float(self.single_expert_by_output.get(o) == e) for e in range(self.experts)] for o in range(self.outputs)
        ]
        self.register_buffer("constant_OE", torch.tensor(constant), persistent=False)
        self.width = routing.width

    def _weights_BGE(self, streams: Sequence[Inputs]) -> Tensor:
        pieces = [linear(streams[stream], weight) for stream, weight in zip(self.selectors, self.weights, strict=True)]
        logits_BN = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)
        if logits_BN.dtype in (torch.bfloat16, torch.float16):
            logits_BN = logits_BN.float()
        if not self.has_all_edges:
            masked_BN = logits_BN.new_full((logits_BN.shape[0], len(self.gate_by_output) * self.experts), float("-inf"))
            logits_BN = masked_BN.index_copy(1, self.edges, logits_BN)
        logits_BGE = logits_BN.view(-1, len(self.gate_by_output), self.experts)
        return torch.softmax(logits_BGE, dim=-1)

    def forward(self, h_BEH: Tensor, streams: Sequence[Inputs]) -> tuple[list[Tensor], Tensor]:
        """See `Mixing.forward`; A_BOE has the precision of the softmax."""
        constant_BOE = self.constant_OE.expand(h_BEH.shape[0], -1, -1)
        if not self.gate_by_output:
            return [h_BEH[:, e] for e in self.single_expert_by_output.values()], constant_BOE
        a_BGE = self._weights_BGE(streams)
        mixed = torch.bmm(a_BGE.to(h_BEH.dtype), h_BEH).unbind(1)
        y = [
            mixed[self.gate_by_output[o]] if o in self.gate_by_output else h_BEH[:, self.single_expert_by_output[o]]
            for o in range(self.outputs)
        ]
        if self.is_in_output_order:
            return y, a_BGE
        return y, constant_BOE.to(a_BGE.dtype).index_copy(1, self.gated, a_BGE)

    def flops_per_sample(self) -> int:
        """Return the forward FLOPs of the matrix products for one sample, two per multiply-add."""
        mixing = 2 * len(self.gate_by_output) * self.experts * self.width
        gates: int = sum(2 * weight.numel() for weight in self.weights)
        return mixing + gates


# Initial weight of a task's own expert in cross-stitch; the other experts have the remaining 0.1 together.
_OWN_EXPERT_WEIGHT = 0.9


def _initial_matrix(size: int) -> Tensor:
    """Return a (size, size) matrix with 0.9 on the diagonal and 0.1 spread over the rest of each row; 1 for size 1."""
    if size == 1:
        return torch.ones(1, 1)
    return torch.full((size, size), (1 - _OWN_EXPERT_WEIGHT) / (size - 1)).fill_diagonal_(_OWN_EXPERT_WEIGHT)


class SubspaceMixing(Mixing):
    """Mixing of sluice networks (Ruder et al., 2019): a learned matrix over all subspaces of all experts.

        y_(o,a) = sum_e sum_b A_(o,a),(e,b) h_(e,b)        h_e = [h_(e,1), .., h_(e,G)]

    With G subspaces of each of the experts, A is a square matrix of G rows for each output and G columns for each
    expert. At the start of training it has 0.9 on the diagonal and 0.1 spread over the rest of each row. With G = 1
    this is the cross-stitch unit (Misra et al., 2016).

    Raises:
        ValueError: There is not one output per expert, an output does not read all experts, or G does not divide H.
    """

    def __init__(self, routing: Routing, stream_widths: Sequence[int]) -> None:
        super().__init__(routing, [routing.width] * len(routing.outputs))
        _check_routing(routing)
        self.subspaces = routing.subspaces
        self.width = routing.width
        self.weight = nn.Parameter(_initial_matrix(len(routing.experts) * routing.subspaces))
        outputs, experts = (_subspace_names(names, routing.subspaces) for names in (routing.outputs, routing.experts))
        self.gate_labels = GateLabels(routing.mixing, outputs, experts, ((True,) * len(experts),) * len(outputs))

    def forward(self, h_BEH: Tensor, streams: Sequence[Inputs]) -> tuple[list[Tensor], Tensor]:
        """See `Mixing.forward`; the rows and columns of A are subspaces."""
        parts_BEV = h_BEH.flatten(1).unflatten(1, (self.weight.shape[0], -1))
        y_BOV = torch.einsum("oe,bev->bov", self.weight.to(h_BEH.dtype), parts_BEV)
        y_BOH = y_BOV.flatten(1).unflatten(1, (-1, self.width))
        return list(y_BOH.unbind(1)), expand_to_batch(self.weight, h_BEH)

    def flops_per_sample(self) -> int:
        """Return the forward FLOPs of the matrix products for one sample, two per multiply-add."""
        return 2 * self.weight.numel() * self.width // self.subspaces


class ChannelStitch(Mixing):
    """Cross-stitch with a scalar per channel: `y_o = sum_e a_oe * h_e`, a_oe a learned vector of H values.

    The returned A_BOE has the mean of a_oe over its channels. All channels begin with the value that A_oe has in
    `SubspaceMixing` with G = 1. The errors are those of `SubspaceMixing`.
    """

    def __init__(self, routing: Routing, stream_widths: Sequence[int]) -> None:
        super().__init__(routing, [routing.width] * len(routing.outputs))
        _check_routing(routing)
        start_OE = _initial_matrix(len(routing.experts))
        self.weight = nn.Parameter(start_OE.unsqueeze(2).repeat(1, 1, routing.width))

    def forward(self, h_BEH: Tensor, streams: Sequence[Inputs]) -> tuple[list[Tensor], Tensor]:
        """See `Mixing.forward`."""
        # An einsum would compute H products of tiny matrices, which takes two to three times as long on a CPU.
        y = [(weight_EH.to(h_BEH.dtype) * h_BEH).sum(1) for weight_EH in self.weight.unbind(0)]
        return y, expand_to_batch(self.weight.mean(2), h_BEH)

    def flops_per_sample(self) -> int:
        """Return 0, because there is no matrix product."""
        return 0


class LevelMixing(nn.Module):
    """Mixing of levels for the towers: `z_o = sum_l B_ol y_(l,o)`, `B_o = softmax(b_o)`, b learned, 0 at the start.

    Args:
        outputs: Names of the outputs, the same on every level.
        levels: Number of levels L.
    """

    def __init__(self, outputs: Sequence[str], levels: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(len(outputs), levels))
        names = tuple(f"level {i + 1}" for i in range(levels))
        self.gate_labels = GateLabels("levels", tuple(outputs), names, ((True,) * levels,) * len(outputs))

    def forward(self, levels: Sequence[Sequence[Tensor]]) -> tuple[list[Tensor], Tensor]:
        """Return the mixed outputs, and B for every sample, from the outputs (B, H) of every level, bottom first."""
        b_OL = F.softmax(self.logits, dim=1)
        mixed = []
        for o in range(self.logits.shape[0]):
            y_BLH = torch.stack([outputs[o] for outputs in levels], dim=1)
            mixed.append(torch.einsum("l,blh->bh", b_OL[o].to(y_BLH.dtype), y_BLH))
        return mixed, expand_to_batch(b_OL, levels[0][0])

    def flops_per_sample(self, width: int) -> int:
        """Return the forward FLOPs for one sample with outputs of `width`, two per multiply-add."""
        return 2 * self.logits.numel() * width


def _check_routing(routing: Routing) -> None:
    if len(routing.outputs) != len(routing.experts) or not all(all(row) for row in routing.edges_OE):
        raise ValueError(
            f"mixing {routing.mixing!r} needs one output per expert, each reading all; got outputs {routing.outputs} "
            f"over experts {routing.experts}"
        )
    if routing.width % routing.subspaces:
        raise ValueError(f"{routing.subspaces} subspaces do not divide a width of {routing.width}")


def _subspace_names(names: Sequence[str], subspaces: int) -> tuple[str, ...]:
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
