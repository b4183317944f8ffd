"""Estimate of the time until all training runs of a comparison have ended, from the runs that have finished.

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

    A run is expected to take the mean time of the runs of its variant that have finished without a failure. If there is
    none, it is expected to take the mean time of all runs, of any variant, that have finished without a failure. Runs
    start in the order in which they were submitted.

    Args:
        jobs: Greatest number of runs that train at the same time.
    """

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._seconds: dict[str, list[float]] = {}
        self._begun: dict[Future[Any], float] = {}

    def note_running(self, unfinished: Iterable[Future[Any]]) -> None:
        """Record the current time as the start of each training run whose start is not recorded yet.

        Runs start in order, so the first `jobs` runs that have not ended are the ones that are training.

        Args:
            unfinished: Runs that have not ended, in the order in which they were submitted.
        """
        for future in islice(unfinished, self._jobs):
            self._begun.setdefault(future, time.monotonic())

    def note_ended(self, variant: str, outcome: Outcome) -> None:
        """Record how long a run has taken; a failed run is ignored, since it may have ended early."""
        if not outcome.code:
            self._seconds.setdefault(variant, []).append(outcome.seconds)

    def text(self, unfinished: Mapping[Future[Any], str], variants_to_come: Sequence[str] = ()) -> str:
        """Return the estimate as text, such as ` (about 3 min 20 s to go)`.

        The text is empty if no run is left, or if no run has finished without a failure. The method also records the
        runs that have just started, as `note_running` does.

        Args:
            unfinished: Variant of each run that was submitted and has not ended, in the order of submission.
            variants_to_come: Variant of each run that has not been submitted yet.
        """
        self.note_running(unfinished)
        all_seconds = [seconds for variant_seconds in self._seconds.values() for seconds in variant_seconds]
        if not all_seconds or not (unfinished or variants_to_come):
            return ""
        now = time.monotonic()
        seconds_left = [
            max(0.0, fmean(self._seconds.get(variant, all_seconds)) - (now - self._begun.get(future, now)))
            for future, variant in unfinished.items()
        ]
        seconds_left += [fmean(self._seconds.get(variant, all_seconds)) for variant in variants_to_come]
        return f" (about {short_duration(makespan(seconds_left, self._jobs))} to go)"


def makespan(seconds: Iterable[float], jobs: int) -> float:
    """Return the seconds until all runs have ended, if they start in order and at most `jobs` of them at a time.

    Args:
        seconds: Time that each run takes from now on, or from its start if it has not started.
        jobs: Greatest number of runs that train at the same time.
    """
    free_at = [0.0] * jobs
    for each in seconds:
        heapreplace(free_at, free_at[0] + each)
    return max(free_at)
