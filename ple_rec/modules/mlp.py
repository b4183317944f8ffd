"""Multi-layer perceptron and its non-linearities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ple_rec.modules.fused_linear import LinearRelu, linear_relu

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": nn.functional.gelu,
    "silu": nn.functional.silu,
    "tanh": torch.tanh,
}


class Mlp(nn.Module):
    """`width` -> hidden layers, each followed by the activation and dropout -> `outputs` without either.

    Under autocast the last layer still runs in the precision of its weights: a logit in bfloat16 has 8 significant
    bits, and tens of thousands of samples would share a few dozen scores.

    Args:
        width: Input width.
        hidden: Hidden layer sizes, may be empty.
        outputs: Output width.
        activation: A key of `ACTIVATIONS`.
        dropout: Probability of zeroing a hidden value while training.
    """

    def __init__(self, width: int, hidden: Sequence[int], outputs: int, activation: str, dropout: float) -> None:
        super().__init__()
        sizes = [width, *hidden, outputs]
        self.sizes = sizes
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.activation = ACTIVATIONS[activation]
        self.dropout = dropout

    def forward(self, x_BD: Tensor) -> Tensor:
        """(B, width) -> (B, outputs)."""
        for layer in self.layers[:-1]:
            x_BD = nn.functional.dropout(self.activation(layer(x_BD)), self.dropout, self.training)
        with torch.autocast(x_BD.device.type, enabled=False):
            out: Tensor = self.layers[-1](x_BD.to(self.layers[-1].weight.dtype))  # type: ignore[arg-type]
        return out

    def flops_per_sample(self) -> int:
        """Forward FLOPs of the matrix products, two per multiply-add."""
        return sum(2 * a * b for a, b in pairwise(self.sizes))


def side_by_side(mlps: Sequence[Mlp], xs: Sequence[Tensor]) -> Tensor:
    """(B, K): the one output of each of several, of an x of its own.

    Without gradients, ReLU layers of one size are computed together where that is one operation.

    Args:
        mlps: K.
        xs: (B, width) of each.
    """
    if (fused := _together(mlps, xs)) is None:
        return torch.cat([mlp(x_BD) for mlp, x_BD in zip(mlps, xs, strict=True)], dim=1)
    *hidden, last = zip(*(mlp.layers for mlp in mlps), strict=True)
    h_BN = torch.cat(list(xs), dim=1)
    for layers in hidden:
        weight_KHI = torch.stack([layer.weight.to(h_BN.dtype) for layer in layers])
        bias_KH = torch.stack([layer.bias.to(h_BN.dtype) for layer in layers])
        h_BN = fused.stacked(h_BN, weight_KHI, bias_KH).flatten(1)
    weight_KH = torch.cat([layer.weight for layer in last])
    h_BKH: Tensor = h_BN.unflatten(1, (len(mlps), -1)).to(weight_KH.dtype)
    return (h_BKH * weight_KH).sum(-1) + torch.cat([layer.bias for layer in last])


def _together(mlps: Sequence[Mlp], xs: Sequence[Tensor]) -> LinearRelu | None:
    alike = len({tuple(mlp.sizes) for mlp in mlps}) == 1 < min(len(mlps), len(mlps[0].layers))
    drawn = torch.is_grad_enabled() or any(mlp.dropout and mlp.training for mlp in mlps)
    of_one = mlps[0].activation is torch.relu and xs[0].device.type == "cpu" and xs[0].dtype == torch.bfloat16
    return linear_relu(xs[0].dtype) if alike and of_one and not drawn else None
