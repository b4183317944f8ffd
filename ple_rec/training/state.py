"""Progress of a run: steps, best score and early stopping."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ple_rec.training.context import TrainContext
from ple_rec.training.early_stopping import EarlyStopping


@dataclass
class TrainState:
    """Progress of a run, saved with every checkpoint.

    Args:
        step: Number of steps done.
        best_score: Score of the best evaluation; higher is better. Minus infinity before the first score.
        best_step: Number of steps done at the best evaluation; 0 before the first.
        seconds: Seconds in the training loop, without evaluations and checkpoints.
        stopping: State of early stopping: best score of its metric, which may be another than that of `best_score`, the
            step of that score, and the number of evaluations since; None for a run without early stopping.
        evaluation_pending: True if a stop signal interrupted the evaluation of `step`.
    """

    step: int = 0
    best_score: float = -math.inf
    best_step: int = 0
    seconds: float = 0.0
    stopping: EarlyStopping | None = None
    evaluation_pending: bool = False

    def state_dict(self) -> dict[str, Any]:
        """Return the values that a checkpoint saves together with its tensors.

        `evaluation_pending` is not among them, since it is in the manifest.
        """
        plain = {key: value for key, value in vars(self).items() if key not in ("stopping", "evaluation_pending")}
        return plain | ({} if self.stopping is None else {"stopping": vars(self.stopping).copy()})

    @classmethod
    def from_state_dict(cls, values: Mapping[str, Any]) -> TrainState:
        """Return the progress that a checkpoint holds, with `evaluation_pending` False.

        Args:
            values: Result of `state_dict`.

        Raises:
            ValueError: No run can have these values, for example a best step after the last one.
        """
        stopping = values.get("stopping")
        state = cls(**{**values, "stopping": None if stopping is None else EarlyStopping(**stopping)})
        early = state.stopping or EarlyStopping()
        # There is at most one evaluation for each step, so `stale` cannot exceed the number of steps.
        steps = (state.best_step, early.step, early.stale)
        scores = (state.best_score, early.score)
        possible = all(0 <= step <= state.step for step in steps) and not any(map(math.isnan, scores))
        if not possible or not 0 <= state.seconds < math.inf:
            raise ValueError(f"it says {values}")
        return state


def initial_state(context: TrainContext) -> TrainState:
    """Return the progress of a run before its first step."""
    return TrainState(stopping=None if context.config.early_stopping is None else EarlyStopping())
