"""Multi-layer perceptrons, and expert banks, which compute the experts of a level together.

A stream is an input of a level: x of the network, or an output of the level below.

Shape suffixes: B batch, E experts, I width in, H width out, N outputs of several experts side by side; of an `Mlp`, D
width in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ple_rec.modules.grouped import Inputs, linear
from ple_rec.modules.routing import Routing

# Activation functions by their names in the configuration.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": nn.functional.gelu,
    "silu": nn.functional.silu,
    "tanh": torch.tanh,
}


class Mlp(nn.Module):
    """Multi-layer perceptron. Activation and dropout follow each hidden layer, but not the output layer.

    Under autocast, the output layer still runs in the precision of its weights. A logit in bfloat16 has 8 significant
    bits, so tens of thousands of samples would share a few dozen scores.

    Args:
        width: Input width.
        hidden: Sizes of the hidden layers, possibly none.
        outputs: Output width.
        activation: Key of `ACTIVATIONS`.
        dropout: Probability of zeroing a hidden value in training.
    """

    def __init__(self, width: int, hidden: Sequence[int], outputs: int, activation: str, dropout: float) -> None:
        super().__init__()
        sizes = [width, *hidden, outputs]
        self.sizes = sizes
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.activation = ACTIVATIONS[activation]
        self.dropout = dropout

    def forward(self, x_BD: Tensor) -> Tensor:
        """Return the outputs (B, outputs) of x (B, width)."""
        for layer in self.layers[:-1]:
            x_BD = nn.functional.dropout(self.activation(layer(x_BD)), self.dropout, self.training)
        with torch.autocast(x_BD.device.type, enabled=False):
            out: Tensor = self.layers[-1](x_BD.to(self.layers[-1].weight.dtype))  # type: ignore[arg-type]
        return out

    def flops_per_sample(self) -> int:
        """Return the forward FLOPs of the matrix products for one sample, two per multiply-add."""
        return sum(2 * a * b for a, b in pairwise(self.sizes))


def _uniform_(parameter: Tensor, fan_in: int) -> Tensor:
    """Fill a parameter from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), the initialisation of `nn.Linear`."""
    # `kaiming_uniform_` would compute a wrong fan-in for a stacked weight.
    with torch.no_grad():
        return parameter.uniform_(-1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))


class ExpertBank(nn.Module):
    """Experts of one level. Expert e is the MLP `h_e = act(W_L ... act(W_1 x_source(e) + b_1) ... + b_L)`.

    The first layers of the experts of one stream are one matrix; the deeper layers of all experts are stacked.

    Args:
        routing: Routing of the level, with the stream of each expert and the layer sizes.
        widths: Width of each input stream.
        activation: Key of `ACTIVATIONS`.
        dropout: Probability of zeroing a value after each activation in training.
    """

    def __init__(self, routing: Routing, widths: Sequence[int], activation: str, dropout: float) -> None:
        super().__init__()
        self.counts = [routing.count_experts_reading(stream) for stream in range(len(widths))]
        self.hidden = routing.hidden
        self.activation = ACTIVATIONS[activation]
        self.dropout = dropout
        first, experts = routing.hidden[0], len(routing.experts)
        self.first_weights = nn.ParameterList(
            _uniform_(torch.empty(count * first, width), width)
            for count, width in zip(self.counts, widths, strict=True)
            if count
        )
        self.first_biases = nn.ParameterList(
            _uniform_(torch.empty(count * first), width)
            for count, width in zip(self.counts, widths, strict=True)
            if count
        )
        sizes = list(pairwise(routing.hidden))
        self.deep_weights = nn.ParameterList(_uniform_(torch.empty(experts, out, width), width) for width, out in sizes)
        self.deep_biases = nn.ParameterList(_uniform_(torch.empty(experts, out), width) for width, out in sizes)

    def _activate(self, x: Tensor) -> Tensor:
        return F.dropout(self.activation(x), self.dropout, self.training)

    def forward(self, streams: Sequence[Inputs]) -> Tensor:
        """Return h_BEH, with the experts in the routing's order, from the streams s, (B, width_s) each."""
        read_streams = [x_BI for x_BI, count in zip(streams, self.counts, strict=True) if count]
        pieces = [
            linear(x_BI, weight_NI, bias_N)
            for x_BI, weight_NI, bias_N in zip(read_streams, self.first_weights, self.first_biases, strict=True)
        ]
        joined_BN = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)
        h_BEH: Tensor = self._activate(joined_BN).view(-1, sum(self.counts), self.hidden[0])
        for weight_EHI, bias_EH in zip(self.deep_weights, self.deep_biases, strict=True):
            h_BEH = self._activate(_stacked_linear(h_BEH, weight_EHI, bias_EH))
        return h_BEH

    def orthogonality(self, subspaces: int) -> Tensor:
        """Return `sum_e sum_(a < b) ||W_ea^T W_eb||_F^2`, the redundancy of subspaces (Ruder et al., 2019).

        W_ea, of shape (I, H / G), are the columns of the last layer of expert e that compute subspace a of G. Biases do
        not count.

        Args:
            subspaces: Number of subspaces G.
        """
        last = [self.deep_weights[-1]] if len(self.deep_weights) else list(self.first_weights)
        width = self.hidden[-1]
        total: Tensor = last[0].new_zeros(())
        for weight in last:
            weight_EHI = weight.view(-1, width, weight.shape[-1])
            squares_EHH = torch.bmm(weight_EHI, weight_EHI.transpose(1, 2)).square()
            blocks = squares_EHH.view(-1, subspaces, width // subspaces, subspaces, width // subspaces)
            total = total + blocks.sum((2, 4)).triu(diagonal=1).sum()
        return total

    def flops_per_sample(self) -> int:
        """Return the forward FLOPs of the matrix products for one sample, two per multiply-add."""
        return sum(2 * weight.numel() for weight in (*self.first_weights, *self.deep_weights))


def _stacked_linear(x_BEI: Tensor, weight_EHI: Tensor, bias_EH: Tensor) -> Tensor:
    """Apply the linear layer of each expert: (B, E, I) -> (B, E, H)."""
    if x_BEI.is_cuda:
        return torch.baddbmm(bias_EH.unsqueeze(1), x_BEI.transpose(0, 1), weight_EHI.transpose(1, 2)).transpose(0, 1)
    # On a CPU, the backward pass of a batched product is several times slower than that of one product per expert.
    layers = zip(x_BEI.unbind(1), weight_EHI.unbind(0), bias_EH.unbind(0), strict=True)
    return torch.stack([F.linear(x_BI, weight_HI, bias_H) for x_BI, weight_HI, bias_H in layers], dim=1)
