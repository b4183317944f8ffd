"""MTL gain (Eq. 11 of the PLE paper): what a model has over single-task, positive where it is better.

    gain = AUC - AUC_single        of a binary task
    gain = MSE_single - MSE        of a regression

A run is compared with the baseline's run of the same seed: both began with the same tables and saw the samples in the
same order, so what is left is the model's.
"""

from __future__ import annotations

from collections.abc import Mapping

from ple_rec.config.base import TaskKind

METRICS: dict[TaskKind, str] = {"binary": "auc", "regression": "mse"}
SIGNS: dict[TaskKind, int] = {"binary": 1, "regression": -1}


def gains(kind: TaskKind, values: Mapping[int, float], baseline: Mapping[int, float]) -> dict[int, float]:
    """Gain by seed, of the seeds that both have.

    Args:
        kind: Of the task.
        values: `METRICS[kind]` of the model, by seed.
        baseline: Of the baseline.
    """
    return {seed: SIGNS[kind] * (value - baseline[seed]) for seed, value in values.items() if seed in baseline}
