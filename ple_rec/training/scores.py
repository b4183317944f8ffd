"""Scores of rows from their logits: probabilities for binary tasks, predictions for regressions.

Shape suffixes: B batch, K tasks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ple_rec.config.schema import Task


def binary_mask(tasks: Sequence[Task]) -> Tensor:
    """Return a (K,) bool tensor that is True for binary tasks."""
    return torch.tensor([task.kind == "binary" for task in tasks])


def scores_from_logits(logits_BK: Tensor, binary_K: Tensor) -> Tensor:
    """Return sigmoid(z) for binary tasks and z for regressions, as a (B, K) float32 tensor on the CPU.

    Args:
        logits_BK: Logits z.
        binary_K: True for binary tasks, from `binary_mask`.
    """
    # A sigmoid in double precision rounds fewer logits to the same probability.
    logits = logits_BK.double().cpu()
    return torch.where(binary_K, logits.sigmoid(), logits).float()
