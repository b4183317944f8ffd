"""Weights of the tasks' losses in the total loss: fixed, by a schedule, or learned as uncertainties.

Shape suffixes: K tasks.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ple_rec.config.run import TaskConfig
from ple_rec.models.losses import UNCERTAINTY_FACTORS


class Weighting(nn.Module):
    """Total loss L from the losses L_k of the tasks. Its parameters, if any, are trained with the dense layers."""

    @abstractmethod
    def weights(self, scheduled_K: Tensor) -> Tensor:
        """Return the current weight dL/dL_k of each task's loss, for logs."""

    @abstractmethod
    def forward(self, losses_K: Tensor, scheduled_K: Tensor, present_K: Tensor) -> Tensor:
        """Return L.

        Args:
            losses_K: Losses L_k of the global batch; in training, W times this rank's part of each L_k, for W ranks.
                Their mean over ranks is L_k. L is affine in L_k, so the mean of L over ranks, which data parallelism
                computes, is the L of the batch.
            scheduled_K: Scheduled weights w_k(t), see `task_weights`.
            present_K: True for each task with a sample of the global batch in its sample space. L_k of the others is 0;
                terms without L_k must leave these tasks out, so that they add 0 to L.
        """


def task_weights(tasks: Sequence[TaskConfig], t: int) -> list[float]:
    """Return w_k(t) = w_k0 gamma_k^t of each task (Eq. 10 of the PLE paper).

    Args:
        tasks: Tasks with their initial weights w_k0 and their decays gamma_k.
        t: Number of steps done, or of epochs if `train.weight_schedule` says so.
    """
    return [task.weight * task.decay**t for task in tasks]


class Scheduled(Weighting):
    """Weights by the schedule alone: L = sum_k w_k(t) L_k.

    Args:
        losses: Name of each task's loss, which this weighting does not use.
    """

    def __init__(self, losses: Sequence[str]) -> None:
        super().__init__()

    def weights(self, scheduled_K: Tensor) -> Tensor:
        """Return w_k(t)."""
        return scheduled_K

    def forward(self, losses_K: Tensor, scheduled_K: Tensor, present_K: Tensor) -> Tensor:
        """Return L as described in `Weighting.forward`."""
        return (scheduled_K * losses_K).sum()


class Uncertainty(Weighting):
    """Weights by a learned log-variance of each task (Kendall et al., CVPR 2018), times the schedule.

        L = sum_k w_k(t) (c_k exp(-s_k) L_k + s_k / 2)          s_k = log sigma_k^2, learned, 0 at the start

    c_k is 1/2 for mse: the term is then the negative log-likelihood of labels with Gaussian noise of variance
    sigma_k^2. It is 1 for huber, which is half of mse for small errors, and 1 for cross-entropy, for which exp(-s_k) is
    the inverse of a temperature. At a minimum over s_k, the weight c_k exp(-s_k) is 1 / (2 L_k), so tasks count by the
    relative decrease of their losses. The schedule multiplies both terms, so it sets priorities without moving that
    minimum.

    Args:
        losses: Name of each task's loss.
    """

    factor_K: Tensor

    def __init__(self, losses: Sequence[str]) -> None:
        super().__init__()
        self.log_variance_K = nn.Parameter(torch.zeros(len(losses)))
        self.register_buffer("factor_K", torch.tensor([UNCERTAINTY_FACTORS[name] for name in losses]), persistent=False)

    def weights(self, scheduled_K: Tensor) -> Tensor:
        """Return w_k(t) c_k exp(-s_k)."""
        return scheduled_K * self.factor_K * torch.exp(-self.log_variance_K)

    def forward(self, losses_K: Tensor, scheduled_K: Tensor, present_K: Tensor) -> Tensor:
        """Return L as described in `Weighting.forward`."""
        log_sigmas_K = scheduled_K * present_K * self.log_variance_K / 2
        return (self.weights(scheduled_K) * losses_K + log_sigmas_K).sum()


# Constructors of weightings by name; each takes the names of the tasks' losses.
WEIGHTINGS: dict[str, Callable[[Sequence[str]], Weighting]] = {"schedule": Scheduled, "uncertainty": Uncertainty}
