"""How the tasks' losses become one, by name: `train.loss_weighting`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ple_rec.models.weighting.base import Weighting
from ple_rec.models.weighting.schedule import Scheduled, task_weights
from ple_rec.models.weighting.uncertainty import Uncertainty

__all__ = ["WEIGHTINGS", "Weighting", "task_weights"]

# Each is made from the name of every task's loss.
WEIGHTINGS: dict[str, Callable[[Sequence[str]], Weighting]] = {"schedule": Scheduled, "uncertainty": Uncertainty}
