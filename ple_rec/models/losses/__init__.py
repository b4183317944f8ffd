"""Losses of a task, by name: `(logit_B, label_B) -> loss_B`."""

from __future__ import annotations

from collections.abc import Callable

from ple_rec.config.base import TaskKind
from ple_rec.config.run import TaskConfig
from ple_rec.models.losses.cross_entropy import cross_entropy
from ple_rec.models.losses.huber import huber
from ple_rec.models.losses.mse import mse
from ple_rec.models.losses.sums import Loss

__all__ = ["KINDS", "LOSSES", "Loss"]

# Each makes a task's loss from its configuration.
LOSSES: dict[str, Callable[[TaskConfig], Loss]] = {"cross_entropy": cross_entropy, "mse": mse, "huber": huber}

# The kinds of task that a loss is for; the first loss of a kind is its default.
KINDS: dict[str, tuple[TaskKind, ...]] = {
    "cross_entropy": ("binary",),
    "mse": ("regression",),
    "huber": ("regression",),
}
