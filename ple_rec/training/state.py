"""How far a run is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ple_rec.training.context import TrainContext
from ple_rec.training.early_stopping import Stopping


@dataclass
class TrainState:
    """How far a run is; saved with every checkpoint.

    Args:
        step: Steps done.
        best_score: Of the best evaluation, higher is better.
        best_step: Its step.
        seconds: Time in the loop, evaluations and checkpoints excluded.
        stopping: Count of early stopping, of a run that may end early.
        evaluation_pending: Flag that the evaluation of `step` is still to be made: a stop signal interrupted it.
    """

    step: int = 0
    best_score: float = -math.inf
    best_step: int = 0
    seconds: float = 0.0
    stopping: Stopping | None = None
    evaluation_pending: bool = False

    def saved(self) -> dict[str, Any]:
        """Return what a checkpoint holds: `stopping` where there is one; the manifest has `evaluation_pending`."""
        plain = {key: value for key, value in vars(self).items() if key not in ("stopping", "evaluation_pending")}
        return plain | ({} if self.stopping is None else {"stopping": vars(self.stopping).copy()})

    @classmethod
    def of_saved(cls, saved: Mapping[str, Any]) -> TrainState:
        """Return the inverse of `saved`.

        Raises:
            ValueError: no run gets there.
        """
        stopping = saved.get("stopping")
        found = cls(**{**saved, "stopping": None if stopping is None else Stopping(**stopping)})
        counted = found.stopping or Stopping()
        steps = (found.best_step, counted.step, counted.stale)  # an evaluation takes a step at least
        scores = (found.best_score, counted.score)
        possible = all(0 <= step <= found.step for step in steps) and not any(map(math.isnan, scores))
        if not possible or not 0 <= found.seconds < math.inf:
            raise ValueError(f"it says {saved}")
        return found


def initial_state(job: TrainContext) -> TrainState:
    """Of a run that has done nothing."""
    return TrainState(stopping=None if job.config.early_stopping is None else Stopping())
