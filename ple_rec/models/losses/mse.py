"""Squared error `(z - y)^2`."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ple_rec.config.run import TaskConfig
from ple_rec.models.losses.sums import Loss


def mse(task: TaskConfig) -> Loss:
    """The loss of a regression task; the paper's for the view completion ratio."""

    def loss(prediction_B: Tensor, label_B: Tensor) -> Tensor:
        return F.mse_loss(prediction_B, label_B, reduction="none")

    return loss
