"""When a run ends before its last step: its evaluations no longer improve."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.distributed as dist

from ple_rec.config.run import EarlyStoppingConfig, RunConfig


@dataclass
class Stopping:
    """The count of evaluations that did not improve; saved with every checkpoint.

    Args:
        score: Of the last evaluation that improved, higher is better.
        step: Its step.
        stale: Evaluations since.
    """

    score: float = -math.inf
    step: int = 0
    stale: int = 0

    def judge(self, score: float, step: int, min_delta: float) -> None:
        """Count an evaluation: it improves where score - self.score > min_delta, else it is one more stale one."""
        if score - self.score > min_delta:
            self.score, self.step, self.stale = score, step, 0
        else:
            self.stale += 1

    def over(self, config: EarlyStoppingConfig) -> bool:
        """Whether the run is to end."""
        return self.stale >= config.patience


def stopping_metric(config: RunConfig) -> str | None:
    """The metric that is judged, in the words of `train.best_metric`; None where a run goes to its last step."""
    if config.early_stopping is None:
        return None
    return config.early_stopping.metric or config.train.best_metric


def of_rank_0(score: float, device: torch.device) -> float:
    """Rank 0's value, so that all ranks decide the same even where theirs differ in a last bit (a collective)."""
    value = torch.tensor(score, dtype=torch.float64, device=device)
    dist.broadcast(value, 0)
    return float(value)


def describe_stop(config: RunConfig, stopping: Stopping, step: int) -> str:
    """The line that says why a run ends at `step`."""
    assert config.early_stopping is not None
    metric, asked = stopping_metric(config), config.early_stopping
    evaluations = f"{stopping.stale} evaluation{'s' if stopping.stale > 1 else ''}"
    return (
        f"stops early at step {step}: {metric} has not improved by more than {asked.min_delta} for {evaluations}; "
        f"best {abs(stopping.score):.4f} at step {stopping.step}"
    )
