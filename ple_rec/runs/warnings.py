"""Warnings that a training run becomes slow, or that one task dominates its loss, from its records in `train.jsonl`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from ple_rec.runtime.host import usable_cores

# Training is slow if its rate is below this share of the best rate so far.
_SLOW_SHARE = 0.5
# The rate over fewer seconds is not reliable.
_MIN_SECONDS = 1.0
# If one task has a larger share of the sum of weighted losses, the others hardly change the shared weights.
_DOMINANT_SHARE = 0.99
# Slow training is explained by a larger share of the time spent waiting for data, or by a larger load of each core.
_WAIT_SHARE, _LOAD_PER_CORE = 0.5, 1.25
# Fix for a task that dominates the loss.
LABEL_SCALE_FIX = (
    "prepare its label in a larger unit, so that its size is near 1, or train it with a smaller weight (tasks.weight)"
)


class Dominant(NamedTuple):
    """Name of a task that is nearly the whole loss, and its share of the loss."""

    name: str
    share: float


class SlowdownMonitor:
    """Monitor that compares the training rate of each report with the best one of this process.

    Args:
        threads: CPU threads of a rank.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._best_rate = self._last_seconds = 0.0
        self._is_slow = False

    def warning(self, record: Mapping[str, Any]) -> str | None:
        """Return a warning if the rate has fallen below half of the best one; None otherwise.

        It is not repeated until the rate has risen again. Rates over less than a second are ignored.

        Args:
            record: Record of `train.jsonl` of the steps since the last report.
        """
        seconds, self._last_seconds = record["seconds"] - self._last_seconds, record["seconds"]
        if seconds < _MIN_SECONDS:
            return None
        rate = record["samples_per_second"]
        self._best_rate = max(self._best_rate, rate)
        was_slow, self._is_slow = self._is_slow, rate < _SLOW_SHARE * self._best_rate
        if was_slow or not self._is_slow:
            return None
        return f"warning: {rate:,.0f} samples/s, after {self._best_rate:,.0f}: {self._cause(record['data_wait'])}"

    def _cause(self, data_wait: float) -> str:
        """Return the probable cause of slow training, and a fix.

        Args:
            data_wait: Share of the time that ranks wait for data.
        """
        load, cores = os.getloadavg()[0], usable_cores()
        if data_wait > _WAIT_SHARE:
            return f"{data_wait:.0%} of the time ranks wait for data; look at the storage, or raise data.prefetch"
        if load > _LOAD_PER_CORE * cores:
            cause = f"other programs use the cores (load {load:.1f} on {cores}); end them"
            fewer = ", or train with runtime.threads = 1, which is slowed least by them"
            return f"{cause}{fewer if self._threads > 1 else ', or train when they have ended'}"
        return (
            "no other program keeps the cores busy, and data arrive in time; "
            "`train --profile` shows what takes the time of a step"
        )


def dominance_warning(record: Mapping[str, Any]) -> str | None:
    """Return a warning if one of several tasks has more than 99 % of the sum of weighted losses; None otherwise.

    Args:
        record: Record of `train.jsonl` of the steps since the last report.
    """
    dominant = dominant_task(record)
    if dominant is None:
        return None
    return (
        f"warning: {dominant.name} is {dominant.share:.2%} of the loss; the other tasks hardly learn. "
        f"Fix: {LABEL_SCALE_FIX}"
    )


def dominant_task(record: Mapping[str, Any]) -> Dominant | None:
    """Return the task that has more than 99 % of the sum of weighted losses; None without one, or for a single task.

    Args:
        record: Record of `train.jsonl` of the steps since the last report.
    """
    losses = {name: abs(task["weight"] * task["loss"]) for name, task in record["tasks"].items()}
    total = sum(losses.values())
    name = max(losses, key=lambda each: losses[each])
    if len(losses) < 2 or not losses[name] > _DOMINANT_SHARE * total:
        return None
    return Dominant(name, losses[name] / total)
