"""Huber's loss (1964): the square of small errors, the size of large ones.

    loss = (z - y)^2 / 2                       where |z - y| <= delta
           delta (|z - y| - delta / 2)         elsewhere

It bounds what one wild label (a watch time of ten hours) adds to the gradient: |dloss/dz| <= delta. The two pieces meet
with one slope. For errors below delta it is half of `mse`.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ple_rec.config.run import TaskConfig
from ple_rec.models.losses.sums import Loss

DEFAULT_DELTA = 1.0


def huber(task: TaskConfig) -> Loss:
    """The loss of a regression task with outliers; delta = `task.huber_delta`, in the unit of the label."""
    delta = DEFAULT_DELTA if task.huber_delta is None else task.huber_delta

    def loss(prediction_B: Tensor, label_B: Tensor) -> Tensor:
        return F.huber_loss(prediction_B, label_B, reduction="none", delta=delta)

    return loss
