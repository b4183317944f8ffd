"""How long runs that stand side by side will still take, by those of them that have finished."""

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
    """The time until the last of some runs has ended.

    A run takes as long as the finished runs of its variant took on average, or as all finished runs where its variant
    has none. Runs begin in the order in which they were submitted.

    Args:
        jobs: Number of runs side by side.
    """

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._seconds: dict[str, list[float]] = {}
        self._begun: dict[Future[Any], float] = {}

    def note_running(self, waiting: Iterable[Future[Any]]) -> None:
        """Note when a run has begun: the first ones of those that have not ended, as many as stand side by side."""
        for future in islice(waiting, self._jobs):
            self._begun.setdefault(future, time.monotonic())

    def note_ended(self, variant: str, outcome: Outcome) -> None:
        """Note how long a run has taken; one that failed says nothing of those that will not."""
        if not outcome.code:
            self._seconds.setdefault(variant, []).append(outcome.seconds)

    def text(self, waiting: Mapping[Future[Any], str], later: Sequence[str] = ()) -> str:
        """Return ` (about 3 min 20 s to go)`; nothing where no run is left, or none has finished.

        Args:
            waiting: Variants of the runs that have not ended, in the order in which they were submitted.
            later: Variants of the runs that have not been submitted yet.
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
    """Return the time until the last of some runs has ended, each begun as soon as a place is free, in their order."""
    free = [0.0] * jobs
    for each in seconds:
        heapreplace(free, free[0] + each)
    return max(free)
