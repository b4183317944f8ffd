"""The paper's weights: `L = sum_k w_k(t) L_k`, `w_k(t) = w_k0 gamma_k^t` (Eq. 8, 10).

Shape suffixes: K tasks.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ple_rec.config.run import TaskConfig
from ple_rec.models.weighting.base import Weighting


def task_weights(tasks: Sequence[TaskConfig], t: int) -> list[float]:
    """w_k(t) = w_k0 gamma_k^t (Eq. 10)."""
    return [task.weight * task.decay**t for task in tasks]


class Scheduled(Weighting):
    """No more than the schedule.

    Args:
        losses: Name of every task's loss; it does not matter here.
    """

    def __init__(self, losses: Sequence[str]) -> None:
        super().__init__()

    def weights(self, scheduled_K: Tensor) -> Tensor:
        """w_k(t)."""
        return scheduled_K

    def forward(self, losses_K: Tensor, scheduled_K: Tensor, present_K: Tensor) -> Tensor:
        """See `Weighting.forward`."""
        return (scheduled_K * losses_K).sum()
