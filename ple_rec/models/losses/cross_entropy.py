"""Binary cross-entropy of logits, in nats: `-y log sigmoid(z) - (1 - y) log sigmoid(-z)`."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ple_rec.config.run import TaskConfig
from ple_rec.models.losses.sums import Loss


def cross_entropy(task: TaskConfig) -> Loss:
    """The loss of a binary task; the paper's for VTR, CTR, share and comment."""

    def loss(logit_B: Tensor, label_B: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logit_B, label_B, reduction="none")

    return loss
