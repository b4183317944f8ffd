"""Weights by homoscedastic uncertainty (Kendall, Gal, Cipolla, CVPR 2018).

    L = sum_k w_k(t) (c_k exp(-s_k) L_k + s_k / 2)          s_k = log sigma_k^2, learned, 0 at the start

c_k is 1/2 for mse: with it the term is the negative log-likelihood of labels with Gaussian noise of variance sigma_k^2.
huber holds that 1/2 already (of small errors it is half of mse), so its c_k is 1; so is that of cross-entropy, of which
exp(-s_k) is the inverse of a temperature. At a minimum over s_k the weight c_k exp(-s_k) is 1 / (2 L_k): tasks count by
the relative, not by the absolute, decrease of their loss. The schedule w_k(t) stays in front, so that priorities can be
given: it multiplies both terms, and so leaves that minimum where it is.

Shape suffixes: K tasks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ple_rec.models.weighting.base import Weighting

FACTORS = {"cross_entropy": 1.0, "mse": 0.5, "huber": 1.0}  # c_k by the name of the loss


class Uncertainty(Weighting):
    """A learned log-variance per task.

    Args:
        losses: Name of every task's loss.
    """

    factor_K: Tensor

    def __init__(self, losses: Sequence[str]) -> None:
        super().__init__()
        self.log_variance_K = nn.Parameter(torch.zeros(len(losses)))
        self.register_buffer("factor_K", torch.tensor([FACTORS[name] for name in losses]), persistent=False)

    def weights(self, scheduled_K: Tensor) -> Tensor:
        """w_k(t) c_k exp(-s_k)."""
        return scheduled_K * self.factor_K * torch.exp(-self.log_variance_K)

    def forward(self, losses_K: Tensor, scheduled_K: Tensor, present_K: Tensor) -> Tensor:
        """See `Weighting.forward`."""
        priors_K = scheduled_K * present_K * self.log_variance_K / 2
        return (self.weights(scheduled_K) * losses_K + priors_K).sum()
