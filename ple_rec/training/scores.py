"""From logits to what is said of a row: probabilities and predictions.

Shape suffixes: B batch, K tasks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ple_rec.config.schema import Task


def binary_of(tasks: Sequence[Task]) -> Tensor:
    """Which of the tasks are binary, (K,) bool."""
    return torch.tensor([task.kind == "binary" for task in tasks])


def scores_of(logits_BK: Tensor, binary_K: Tensor) -> Tensor:
    """The probability sigmoid(z) of a binary task, the prediction z of a regression; (B, K) float32, on the CPU.

    Args:
        logits_BK: z.
        binary_K: Of the tasks, as `binary_of` gives it.
    """
    logits = logits_BK.double().cpu()  # so that few probabilities are rounded to the same one
    return torch.where(binary_K, logits.sigmoid(), logits).float()
