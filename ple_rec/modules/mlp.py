"""Multi-layer perceptron and its non-linearities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

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
