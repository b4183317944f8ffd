"""Warnings from the records of a training run: it becomes slow, or one task dominates the loss."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from ple_rec.runtime.host import usable_cores

# A rate below this share of the best rate so far is slow.
_FALL = 0.5
# A report over fewer seconds gives no reliable rate.
_SHORTEST = 1.0
# If a task has a larger share of the sum of weighted losses, the others hardly change shared weights.
_DOMINANT = 0.99
# A slow rate is explained by a larger share of waiting for data, or by a larger load for each core.
_WAITS, _BUSY = 0.5, 1.25
SCALE = (
    "prepare its label in a larger unit, so that its size is near 1, or train it with a smaller weight (tasks.weight)"
)


class Dominant(NamedTuple):
    """Task that is nearly the whole loss, with its share."""

    name: str
    share: float


class SlowdownMonitor:
    """Monitor that compares the training rate of each report with the best one of this process.

    Args:
        threads: CPU threads of a rank.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._best = self._until = 0.0
        self._slow = False

    def warning(self, record: Mapping[str, Any]) -> str | None:
        """Return a warning if the rate has fallen by half; it is not repeated until the rate has risen again.

        Args:
            record: Record of `train.jsonl` of the steps since the last report.
        """
        seconds, self._until = record["seconds"] - self._until, record["seconds"]
        if seconds < _SHORTEST:
            return None
        rate = record["samples_per_second"]
        self._best = max(self._best, rate)
        before, self._slow = self._slow, rate < _FALL * self._best
        if before or not self._slow:
            return None
        return f"warning: {rate:,.0f} samples/s, after {self._best:,.0f}: {self._cause(record['data_wait'])}"

    def _cause(self, data_wait: float) -> str:
        """Return the probable cause of slow training, and a fix.

        Args:
            data_wait: Share of the time that ranks wait for data.
        """
        load, cores = os.getloadavg()[0], usable_cores()
        if data_wait > _WAITS:
            return f"{data_wait:.0%} of the time ranks wait for data; look at the storage, or raise data.prefetch"
        if load > _BUSY * cores:
            busy = f"other programs use the cores (load {load:.1f} on {cores}); end them"
            fewer = ", or train with runtime.threads = 1, which loses least beside them"
            return f"{busy}{fewer if self._threads > 1 else ', or train when they have ended'}"
        return "no other program keeps the cores busy, and data come in time; `train --profile` says where a step goes"


def dominance_warning(record: Mapping[str, Any]) -> str | None:
    """Return a warning if a task has more than 99 % of the sum of weighted losses.

    Args:
        record: Record of `train.jsonl` of the steps since the last report.
    """
    dominant = dominant_task(record)
    if dominant is None:
        return None
    return f"warning: {dominant.name} is {dominant.share:.2%} of the loss; the other tasks hardly learn. Fix: {SCALE}"


def dominant_task(record: Mapping[str, Any]) -> Dominant | None:
    """Return the task that has more than 99 % of the sum of weighted losses, if the run has several tasks.

    Args:
        record: Record of `train.jsonl` of the steps since the last report.
    """
    parts = {name: abs(task["weight"] * task["loss"]) for name, task in record["tasks"].items()}
    total = sum(parts.values())
    name = max(parts, key=lambda each: parts[each])
    if len(parts) < 2 or not parts[name] > _DOMINANT * total:
        return None
    return Dominant(name, parts[name] / total)
