"""Sums of losses over sample spaces (Eq. 9): `sum_i s_i d_ik loss_k(i)`, s the sample weight, d the space.

Shape suffixes: B batch, K tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def weight_BK(in_space_BK: Tensor, sample_weight_B: Tensor | None) -> Tensor:
    """s_i d_ik."""
    return in_space_BK if sample_weight_B is None else in_space_BK * sample_weight_B.unsqueeze(1)


def loss_sums_K(losses: Sequence[Loss], logits_BK: Tensor, labels_BK: Tensor, weights_BK: Tensor) -> Tensor:
    """sum_i s_i d_ik loss_k(i) of this rank, one per task.

    A sample of weight 0 contributes exactly zero, to the sum and to every gradient, whatever its label and even where
    its loss is not finite.
    """
    sums = []
    for k, loss in enumerate(losses):
        counts_B = weights_BK[:, k] > 0
        logit_B = torch.where(counts_B, logits_BK[:, k], 0.0)
        label_B = torch.where(counts_B, labels_BK[:, k], 0.0).to(logit_B.dtype)
        sums.append((loss(logit_B, label_B) * weights_BK[:, k]).sum())
    return torch.stack(sums)


@dataclass
class StepLoss:
    """The loss of a training step, as far as it depends on the samples of this rank.

    Args:
        losses: Loss of each task.
        labels_BK: Labels.
        weights_BK: Weights s_i d_ik.
        factors: Function that returns dL/dsums_K, which is known before the sums are.
        backward_seconds: Seconds of backward passes that were done within the forward pass.
    """

    losses: Sequence[Loss]
    labels_BK: Tensor
    weights_BK: Tensor
    factors: Callable[[], Tensor]
    backward_seconds: float = 0.0

    def sums_K(self, logits_RK: Tensor, rows: slice = slice(None)) -> Tensor:
        """Return `loss_sums_K` of some rows."""
        return loss_sums_K(self.losses, logits_RK, self.labels_BK[rows], self.weights_BK[rows])
