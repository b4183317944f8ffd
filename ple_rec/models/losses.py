"""Losses of tasks: cross-entropy, squared error and Huber loss, as sums over the rows of a task's sample space.

The losses of a batch are summed, not averaged, because the divisor, the total weight of the samples, is known only
after an all-reduce over the ranks (`ple_rec.models.objective`). Notation: s_i is the weight of sample i; d_ik is 1 if
sample i is in the sample space of task k, else 0.

Shape suffixes: B samples of a batch, R rows of a block of the batch, K tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ple_rec.config.base import TaskKind
from ple_rec.config.run import TaskConfig

# Function of the logits (B,) and labels (B,) of a task, which returns the loss of each sample, (B,).
Loss = Callable[[Tensor, Tensor], Tensor]
# Delta of the Huber loss, in the unit of the label.
DEFAULT_DELTA = 1.0


def loss_weights_BK(in_space_BK: Tensor, sample_weight_B: Tensor | None) -> Tensor:
    """Return the weight s_i d_ik of each sample in each task's loss; without sample weights, s_i = 1."""
    return in_space_BK if sample_weight_B is None else in_space_BK * sample_weight_B.unsqueeze(1)


def loss_sums_K(losses: Sequence[Loss], logits_BK: Tensor, labels_BK: Tensor, weights_BK: Tensor) -> Tensor:
    """Return sum_i s_i d_ik loss_k(i) over the given samples, one sum for each task.

    A sample of weight 0 adds exactly 0 to the sum and to every gradient, even if its label or its loss is not finite.
    """
    has_weight_BK = weights_BK > 0
    # A CPU uses vector instructions only for the values of a task that are contiguous in memory.
    logits_KB = torch.where(has_weight_BK, logits_BK, 0.0).t().contiguous()
    labels_KB = torch.where(has_weight_BK, labels_BK, 0.0).to(logits_BK.dtype).t().contiguous()
    tasks = zip(losses, logits_KB.unbind(), labels_KB.unbind(), weights_BK.unbind(1), strict=True)
    return torch.stack([(loss(logit_B, label_B) * weight_B).sum() for loss, logit_B, label_B, weight_B in tasks])


@dataclass
class StepLoss:
    """Loss of a training step on the samples of this rank.

    Args:
        losses: Loss function of each task.
        labels_BK: Labels of each sample and task.
        weights_BK: Weights s_i d_ik.
        factors: Function that returns the derivative dL/dsums_K of the objective L, which is affine in the sums.
        backward_seconds: Seconds of the backward passes that a CPU ran during the forward pass, as a mean over threads.
    """

    losses: Sequence[Loss]
    labels_BK: Tensor
    weights_BK: Tensor
    factors: Callable[[], Tensor]
    backward_seconds: float = 0.0

    def sums_K(self, logits_RK: Tensor, rows: slice = slice(None)) -> Tensor:
        """Return `loss_sums_K` of some rows of the batch from their logits."""
        return loss_sums_K(self.losses, logits_RK, self.labels_BK[rows], self.weights_BK[rows])


def cross_entropy(task: TaskConfig) -> Loss:
    """Return cross-entropy, a loss of binary tasks; the PLE paper uses it for VTR, CTR, share and comment."""

    def loss(logit_B: Tensor, label_B: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logit_B, label_B, reduction="none")

    return loss


def mse(task: TaskConfig) -> Loss:
    """Return the squared error, a loss of regression tasks; the PLE paper uses it for the view completion ratio."""

    def loss(prediction_B: Tensor, label_B: Tensor) -> Tensor:
        return F.mse_loss(prediction_B, label_B, reduction="none")

    return loss


def huber(task: TaskConfig) -> Loss:
    """Return the Huber loss, a loss of regression tasks with outliers; delta = `task.huber_delta`, in the label's unit.

        loss = (z - y)^2 / 2                   if |z - y| <= delta
               delta (|z - y| - delta / 2)     otherwise

    A single outlier, such as a watch time of ten hours, adds at most delta to the gradient, since |dloss/dz| <= delta.
    The slope is continuous at |z - y| = delta. For errors below delta the loss is half of `mse`.
    """
    delta = DEFAULT_DELTA if task.huber_delta is None else task.huber_delta

    def loss(prediction_B: Tensor, label_B: Tensor) -> Tensor:
        return F.huber_loss(prediction_B, label_B, reduction="none", delta=delta)

    return loss


# Constructors of losses by name; each takes the configuration of a task.
LOSSES: dict[str, Callable[[TaskConfig], Loss]] = {"cross_entropy": cross_entropy, "mse": mse, "huber": huber}

# Kinds of task that each loss is for. The first loss of a kind is its default.
TASK_KINDS_BY_LOSS: dict[str, tuple[TaskKind, ...]] = {
    "cross_entropy": ("binary",),
    "mse": ("regression",),
    "huber": ("regression",),
}

# Factor c_k of each loss under `loss_weighting = "uncertainty"` (`ple_rec.models.weighting.Uncertainty`).
UNCERTAINTY_FACTORS: dict[str, float] = {"cross_entropy": 1.0, "mse": 0.5, "huber": 1.0}
