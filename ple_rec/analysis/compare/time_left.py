"""Estimate how long the remaining training runs of a comparison will take, from the runs that have finished.

A comparison trains runs of several variants (configurations of a model), a fixed number of them at the same time.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from heapq import heapreplace
from itertools import islice
from statistics import fmean
from typing import Any

from ple_rec.analysis.compare.workers import Outcome
from ple_rec.text.units import short_duration


class TimeLeft:
    """Estimate of the time until the last run has ended.

    A run is expected to take the mean time of the finished runs of its variant. If no run of its variant has finished,
    it is expected to take the mean time of all finished runs. Runs start in the order in which they were submitted.

    Args:
        jobs: Greatest number of runs that train at the same time.
    """

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._seconds: dict[str, list[float]] = {}
        self._begun: dict[Future[Any], float] = {}

    def note_running(self, waiting: Iterable[Future[Any]]) -> None:
        """Record the current time as the start of each run that has just started.

        Runs start in order, so the first `jobs` runs that have not ended are the ones that are training.

        Args:
            waiting: Runs that have not ended, in the order in which they were submitted.
        """
        for future in islice(waiting, self._jobs):
            self._begun.setdefault(future, time.monotonic())

    def note_ended(self, variant: str, outcome: Outcome) -> None:
        """Record how long a run has taken; a failed run is ignored, since it may have ended early."""
        if not outcome.code:
            self._seconds.setdefault(variant, []).append(outcome.seconds)

    def text(self, waiting: Mapping[Future[Any], str], later: Sequence[str] = ()) -> str:
        """Return the estimate as text, such as ` (about 3 min 20 s to go)`.

        The text is empty if no run is left, or if no run has finished without a failure.

        Args:
            waiting: Variant of each run that was submitted and has not ended, in the order of submission.
            later: Variant of each run that has not been submitted yet.
        """
        self.note_running(waiting)
        every = [seconds for of_variant in self._seconds.values() for seconds in of_variant]
        if not every or not (waiting or later):
            return ""
        now = time.monotonic()
        left = [
            max(0.0, fmean(self._seconds.get(variant, every)) - (now - self._begun.get(future, now)))
            for future, variant in waiting.items()
        ]
        left += [fmean(self._seconds.get(variant, every)) for variant in later]
        return f" (about {short_duration(side_by_side(left, self._jobs))} to go)"


def side_by_side(seconds: Iterable[float], jobs: int) -> float:
    """Return the seconds until all runs have ended. Each starts, in order, as soon as fewer than `jobs` are training.

    Args:
        seconds: Time that each run takes.
        jobs: Greatest number of runs that train at the same time.
    """
    free = [0.0] * jobs
    for each in seconds:
        heapreplace(free, free[0] + each)
    return max(free)
