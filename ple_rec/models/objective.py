"""What a step minimises: the weighted losses of the tasks, and what the model itself asks for.

    L = weighting(L_1 .. L_K) + penalty

Shape suffixes: K tasks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ple_rec.models.multitask import MultiTaskModel

TINY = 1e-12  # a task without a sample in the global batch has sum 0 and count 0: its loss is 0, not NaN


def objective(model: MultiTaskModel, sums_K: Tensor, counts_K: Tensor, scheduled_K: Tensor, ranks: int = 1) -> Tensor:
    """L; of a rank's own sums, the part that it backpropagates: the mean over ranks is L.

    Args:
        model: Its weighting and its penalty count.
        sums_K: `loss_sums_K` of this rank, or of all ranks with `ranks = 1`.
        counts_K: sum_i s_i d_ik over all ranks.
        scheduled_K: w_k(t).
        ranks: W, where the sums are those of one rank: DDP and TorchRec average gradients over the ranks.
    """
    losses_K = ranks * sums_K / counts_K.clamp(min=TINY)
    total: Tensor = model.weighting(losses_K, scheduled_K, counts_K > 0)
    penalty = model.extraction.penalty()
    return total if penalty is None else total + penalty


def loss_factors_K(model: MultiTaskModel, counts_K: Tensor, scheduled_K: Tensor, ranks: int = 1) -> Tensor:
    """dL/dsums_K, to the bit that of `objective`: L is linear in the sums, so that it does not depend on them.

    Args:
        model: Its weighting counts.
        counts_K: As of `objective`.
        scheduled_K: As of `objective`.
        ranks: As of `objective`.
    """
    with torch.enable_grad():
        sums_K = torch.zeros_like(counts_K, requires_grad=True)
        losses_K = ranks * sums_K / counts_K.clamp(min=TINY)
        (factors_K,) = torch.autograd.grad(model.weighting(losses_K, scheduled_K, counts_K > 0), sums_K)
    return factors_K
