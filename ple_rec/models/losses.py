"""Losses over sample spaces (Eq. 8-10), normalised by the global count of samples.

    L_k = sum_i s_i d_ik loss_k(i) / max(sum_i s_i d_ik, tiny)     sums over the global batch, s weight, d space
    L = sum_k w_k(t) L_k,    w_k(t) = w_k0 gamma_k^t

DDP and TorchRec average gradients over the W ranks, so each rank backpropagates W * its part of the sum.
Shape suffixes: B batch, K tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ple_rec.config.run import TaskConfig

_TINY = 1e-12  # a task without a sample in the global batch has sum 0 and count 0: its loss is 0, not NaN


def cross_entropy(logit_B: Tensor, label_B: Tensor) -> Tensor:
    """Binary cross-entropy of logits, in nats: `-y log sigmoid(z) - (1 - y) log sigmoid(-z)`."""
    return F.binary_cross_entropy_with_logits(logit_B, label_B, reduction="none")


def mse(prediction_B: Tensor, label_B: Tensor) -> Tensor:
    """Squared error `(z - y)^2`."""
    return F.mse_loss(prediction_B, label_B, reduction="none")


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"cross_entropy": cross_entropy, "mse": mse}


def weight_BK(in_space_BK: Tensor, sample_weight_B: Tensor | None) -> Tensor:
    """s_i d_ik."""
    return in_space_BK if sample_weight_B is None else in_space_BK * sample_weight_B.unsqueeze(1)


def loss_sums_K(losses: Sequence[str], logits_BK: Tensor, labels_BK: Tensor, weights_BK: Tensor) -> Tensor:
    """sum_i s_i d_ik loss_k(i) of this rank, one per task.

    A sample of weight 0 contributes exactly zero, to the sum and to every gradient, whatever its label and even where
    its loss is not finite.
    """
    sums = []
    for k, name in enumerate(losses):
        counts_B = weights_BK[:, k] > 0
        logit_B = torch.where(counts_B, logits_BK[:, k], 0.0)
        label_B = torch.where(counts_B, labels_BK[:, k], 0.0).to(logit_B.dtype)
        sums.append((LOSSES[name](logit_B, label_B) * weights_BK[:, k]).sum())
    return torch.stack(sums)


def total_loss(sums_K: Tensor, counts_K: Tensor, task_weights_K: Tensor, world_size: int) -> Tensor:
    """This rank's part of L, times the world size: what it backpropagates.

    Args:
        sums_K: `loss_sums_K` of this rank.
        counts_K: sum_i s_i d_ik over all ranks.
        task_weights_K: w_k(t).
        world_size: W.
    """
    return world_size * (task_weights_K * sums_K / counts_K.clamp(min=_TINY)).sum()


def task_weights(tasks: Sequence[TaskConfig], t: int) -> list[float]:
    """w_k(t) = w_k0 gamma_k^t (Eq. 10)."""
    return [task.weight * task.decay**t for task in tasks]
