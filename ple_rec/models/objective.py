"""Objective that a training step minimises: the weighted losses of the tasks, and the penalty of the model.

    L = weighting(L_1 .. L_K) + penalty        L_k = sum_i s_i d_ik loss_k(i) / sum_i s_i d_ik

s_i is the weight of sample i of the batch of all ranks; d_ik is 1 if the sample is in the sample space of task k, else
0. loss_k(i) is the loss of task k on the sample.

Shape suffixes: K tasks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ple_rec.models.multitask import MultiTaskModel

# A task without a sample in the global batch has sum 0 and count 0. Its loss is 0 / TINY = 0, not NaN.
TINY = 1e-12


def objective(model: MultiTaskModel, sums_K: Tensor, counts_K: Tensor, scheduled_K: Tensor, ranks: int = 1) -> Tensor:
    """Return L, or one rank's contribution, which it backpropagates; the mean of the contributions over ranks is L.

    Args:
        model: Model with the weighting and the penalty.
        sums_K: Sums sum_i s_i d_ik loss_k(i) of this rank; those over all ranks if `ranks` is 1.
        counts_K: Counts sum_i s_i d_ik over all ranks.
        scheduled_K: Scheduled weights w_k(t).
        ranks: Number of ranks W if the sums are those of one rank; else 1. The contribution of a rank is multiplied by
            W, since gradients are averaged over ranks, those of tables by TorchRec.
    """
    losses_K = ranks * sums_K / counts_K.clamp(min=TINY)
    total: Tensor = model.weighting(losses_K, scheduled_K, counts_K > 0)
    penalty = model.extraction.penalty()
    return total if penalty is None else total + penalty


def loss_factors_K(model: MultiTaskModel, counts_K: Tensor, scheduled_K: Tensor, ranks: int = 1) -> Tensor:
    """Return dL/dsums_K, the same bits that the backward pass of `objective` computes.

    L is affine in the sums, so its derivative does not depend on them and can be computed before the forward pass ends.

    Args:
        model: Model with the weighting.
        counts_K: Counts sum_i s_i d_ik over all ranks.
        scheduled_K: Scheduled weights w_k(t).
        ranks: Number of ranks W if the sums are those of one rank; else 1.
    """
    with torch.enable_grad():
        sums_K = torch.zeros_like(counts_K, requires_grad=True)
        losses_K = ranks * sums_K / counts_K.clamp(min=TINY)
        (factors_K,) = torch.autograd.grad(model.weighting(losses_K, scheduled_K, counts_K > 0), sums_K)
    return factors_K
