"""Early stopping: a run ends before its last step once a metric of its evaluations no longer improves.

The score of an evaluation is the value of this metric. Metrics for which lower is better, such as the loss, are
negated, so a higher score is always better.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.distributed as dist

from ple_rec.config.run import EarlyStoppingConfig, RunConfig


@dataclass
class EarlyStopping:
    """Best score so far and the number of evaluations since then, saved with every checkpoint.

    Args:
        score: Score of the last evaluation that was an improvement; minus infinity before the first.
        step: Number of steps done at that evaluation.
        stale: Number of evaluations without improvement since then; those in which the metric is undefined do not
            count.
    """

    score: float = -math.inf
    step: int = 0
    stale: int = 0

    def update(self, score: float, step: int, min_delta: float) -> None:
        """Update the best score, or count the evaluation as stale if its score is no improvement.

        Args:
            score: Score of the evaluation. The caller leaves out evaluations in which the metric is undefined.
            step: Number of steps done at the evaluation.
            min_delta: Number by which the score has to exceed the best score to be an improvement.
        """
        if score - self.score > min_delta:
            self.score, self.step, self.stale = score, step, 0
        else:
            self.stale += 1

    def is_exhausted(self, config: EarlyStoppingConfig) -> bool:
        """Return True if `patience` evaluations in a row were no improvement, so that the run has to end."""
        return self.stale >= config.patience


def stopping_metric(config: RunConfig) -> str | None:
    """Return the metric that early stopping watches, for example `ctr.auc`; None if the run has no early stopping."""
    if config.early_stopping is None:
        return None
    return config.early_stopping.metric or config.train.best_metric


def broadcast_score(score: float, device: torch.device) -> float:
    """Return the score of rank 0 on every rank (a collective).

    The scores of the ranks may differ in the last bit, and all ranks have to take the same decision.
    """
    value = torch.tensor(score, dtype=torch.float64, device=device)
    dist.broadcast(value, 0)
    return float(value)


def describe_stop(config: RunConfig, stopping: EarlyStopping, step: int) -> str:
    """Return the message that says why a run ends before its last step.

    Args:
        config: Configuration of the run, which has early stopping.
        stopping: Best score and number of evaluations since then.
        step: Number of steps done when the run ends.
    """
    assert config.early_stopping is not None
    metric, min_delta = stopping_metric(config), config.early_stopping.min_delta
    evaluations = f"{stopping.stale} evaluation{'s' if stopping.stale > 1 else ''}"
    # The score of a metric for which lower is better is the negated metric; the message has the metric itself.
    return (
        f"stops early at step {step}: {metric} has not improved by more than {min_delta} for {evaluations}; "
        f"best {abs(stopping.score):.4f} at step {stopping.step}"
    )
