"""Watchdog that ends a job whose ranks stand still, and names the rank that the others wait for.

A collective waits for all its ranks, so one rank that is stuck (in a read, a kernel, a debugger, a stopped process)
stops all of them silently. Before each thing that may block, a rank calls `mark`. A thread of each rank publishes its
marks in the process group's store. All ranks make the same marks. If no rank has made progress for the time-out, the
culprit is a rank that is behind the others, or whose thread publishes nothing more. One rank compares all ranks and
publishes a diagnosis; the others print it, too, and end.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch.distributed as dist

from ple_rec.runtime.exits import AGENT_FOLDER, STALLED

T = TypeVar("T")

_LONGEST_TICK_SECONDS = 5.0
_TICKS_PER_TIMEOUT = 8
# The rank that diagnoses reads the status of all ranks twice, this many ticks apart.
_COMPARISON_TICKS = 2
# The others wait this many ticks for the diagnosis.
_PATIENCE_TICKS = 6
_EXIT_CODE = 1
# A message names this many ranks.
_SHOWN = 5


@dataclass(frozen=True)
class RankStatus:
    """Status that a rank publishes.

    Args:
        rank: Rank of the process.
        host: Name of its host.
        count: Number of its marks so far.
        beat: Number of times that its thread has published.
        activity: Activity that the last mark names, such as "reading the batch of step 3".
        seconds: Seconds since its last mark or touch; None if it is at rest.
    """

    rank: int
    host: str
    count: int
    beat: int
    activity: str
    seconds: float | None


@dataclass(frozen=True)
class Diagnosis:
    """Answer to the question why this rank makes no progress.

    Args:
        text: Cause in words; empty if another rank still makes progress.
        culprits: Ranks that the others wait for.
        moved: Seconds since the most recent progress of any rank, if one still makes progress.
    """

    text: str
    culprits: tuple[int, ...] = ()
    moved: float = 0.0


class StallWatch:
    """Watchdog of one rank. It does nothing before `start`, nor at a world size of 1.

    Args:
        rank: Rank of this process.
        world_size: Number of ranks of the job.
        timeout_seconds: Seconds without a mark or a touch of any rank after which the job ends.
    """

    def __init__(self, rank: int = 0, world_size: int = 1, timeout_seconds: float = 600.0) -> None:
        self.rank, self.world_size, self.timeout_seconds = rank, world_size, timeout_seconds
        self._tick = min(_LONGEST_TICK_SECONDS, timeout_seconds / _TICKS_PER_TIMEOUT)
        self._count, self._beat, self._activity = 0, 0, "its start"
        # Time of the last mark or touch; None at rest.
        self._progress_time: float | None = None
        self._rounds = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._store: Any = None

    def start(self) -> None:
        """Begin to watch."""
        if self.world_size == 1:
            return
        # The main thread may be waiting on its own connection, so the watch has another.
        self._store = dist.distributed_c10d._get_default_store().clone()  # type: ignore[attr-defined]  # torch's stub lacks it
        self._store.set_timeout(timedelta(seconds=max(1.0, self._tick)))
        self._publish()
        self._thread = threading.Thread(target=self._watch, name="stall-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._stop.set()
        if self._thread is not None:
            # The thread may be waiting for a store that is gone, so it is not waited for any longer.
            self._thread.join(1.0)

    def mark(self, activity: str) -> None:
        """Record what this rank is about to do. All ranks make the same marks in the same order."""
        self._count, self._activity, self._progress_time = self._count + 1, activity, time.monotonic()

    def touch(self) -> None:
        """Record that the marked activity makes progress."""
        if self._progress_time is not None:
            self._progress_time = time.monotonic()

    def rest(self) -> None:
        """Suspend the time-out until the next mark."""
        self._count, self._progress_time = self._count + 1, None

    def each(self, items: Iterable[T], activity: str) -> Iterator[T]:
        """Yield the items, with a mark before each of them and a rest after the last."""
        iterator = iter(items)
        while True:
            self.mark(activity)
            try:
                item = next(iterator)
            except StopIteration:
                self.rest()
                return
            yield item

    def _watch(self) -> None:
        while self._wait_tick():
            try:
                self._publish()
                if self._is_stalled():
                    self._act_on(self._diagnosis())
            except Exception as error:
                if self._is_stalled():
                    text = " ".join(str(error).split())[:100]
                    self._end(Diagnosis(f"the store, on the host of rank 0, does not answer ({text})"))

    def _wait_tick(self) -> bool:
        """Wait for a tick; return False once the watch is closed."""
        start = time.monotonic()
        closed = self._stop.wait(self._tick)
        # After such a long wait this process was stopped or got no processor, so its clock proves no stall.
        if time.monotonic() - start > 2 * self._tick + 1 and self._progress_time is not None:
            self._progress_time = time.monotonic()
        return not closed

    def _is_stalled(self) -> bool:
        return self._progress_time is not None and time.monotonic() - self._progress_time > self.timeout_seconds

    def _publish(self) -> None:
        self._beat += 1
        seconds = None if self._progress_time is None else round(time.monotonic() - self._progress_time, 1)
        status = json.dumps([os.uname().nodename, self._count, self._beat, self._activity, seconds])
        self._call_store(lambda: self._store.set(f"stall/{self.rank}", status))

    def _call_store(self, call: Callable[[], T]) -> T:
        """Run a call to the store on a thread, since torch never returns if the store's process is stopped.

        Raises:
            TimeoutError: The store does not answer within about two ticks.
        """
        answers: list[T] = []
        failures: list[Exception] = []

        def run() -> None:
            try:
                answers.append(call())
            except Exception as error:
                failures.append(error)

        thread = threading.Thread(target=run, name="stall-question", daemon=True)
        thread.start()
        thread.join(2 * self._tick + 1)
        if failures:
            raise failures[0]
        if not answers:
            raise TimeoutError("it is silent")
        return answers[0]

    def _diagnosis(self) -> Diagnosis:
        """Return the diagnosis of the rank that asks first; if that rank does not answer, diagnose here."""
        self._rounds += 1
        key = f"stall/{self._count}/{self._rounds}"
        judge = self._call_store(lambda: self._store.compare_set(f"{key}/judge", "", str(self.rank))).decode()
        for _ in range(_PATIENCE_TICKS if judge != str(self.rank) else 0):
            if self._call_store(lambda: self._store.check([key])):
                text, culprits, moved = json.loads(self._call_store(lambda: self._store.get(key)))
                return Diagnosis(text, tuple(culprits), moved)
            if not self._wait_tick():
                return Diagnosis("")
            self._publish()
        before = self._statuses()
        for _ in range(_COMPARISON_TICKS):
            if not self._wait_tick():
                return Diagnosis("")
            self._publish()
        diagnosis = diagnose(before, self._statuses(), self.rank, self.timeout_seconds)
        self._call_store(
            lambda: self._store.set(key, json.dumps([diagnosis.text, diagnosis.culprits, diagnosis.moved]))
        )
        if diagnosis.text:
            # The store may be in this process, and the others need time to read the diagnosis before it ends.
            self._stop.wait(_COMPARISON_TICKS * self._tick)
        return diagnosis

    def _statuses(self) -> list[RankStatus]:
        keys = [f"stall/{rank}" for rank in range(self.world_size)]
        texts = self._call_store(lambda: self._store.multi_get(keys))
        return [RankStatus(rank, *json.loads(text)) for rank, text in enumerate(texts)]

    def _act_on(self, diagnosis: Diagnosis) -> None:
        if diagnosis.text:
            self._end(diagnosis)
        elif self._is_stalled():
            # Other ranks make progress, so this one has waited no longer than they have.
            self._progress_time = time.monotonic() - min(diagnosis.moved, self.timeout_seconds / 2)

    def _end(self, diagnosis: Diagnosis) -> None:
        # The rank may have made progress, or the watch may be closed, since the diagnosis began.
        if self._stop.is_set() or not self._is_stalled():
            return
        self._report_and_exit(diagnosis)

    def _report_and_exit(self, diagnosis: Diagnosis) -> NoReturn:
        head = f"ple-rec: rank {self.rank}: "
        sys.stderr.write(f"{head}stops, since nothing has moved for {self.timeout_seconds:g} s: {diagnosis.text}\n")
        if self.rank in diagnosis.culprits:
            sys.stderr.write(f"{head}the stacks of its threads are:\n")
            sys.stderr.flush()
            faulthandler.dump_traceback(sys.stderr)
        sys.stderr.flush()
        if folder := os.environ.get(AGENT_FOLDER):
            (Path(folder) / STALLED).touch()
        # The main thread waits in a collective, so an exception would not end the process.
        os._exit(_EXIT_CODE)


def diagnose(before: Sequence[RankStatus], now: Sequence[RankStatus], own: int, timeout_seconds: float) -> Diagnosis:
    """Return the ranks that the others wait for, from two readings of all ranks' statuses.

    Args:
        before: Status of every rank at the first reading.
        now: Status of every rank some ticks later.
        own: Rank that reads.
        timeout_seconds: Seconds without progress of any rank that count as a stall.
    """
    silent = [b for a, b in zip(before, now, strict=True) if a.beat == b.beat and b.rank != own]
    alive = [status for status in now if status not in silent]
    moved = min(0.0 if status.seconds is None else status.seconds for status in alive)
    if moved < timeout_seconds:
        return Diagnosis("", moved=moved)
    first = max(status.count for status in now)
    behind = [status for status in now if status.count < first]
    culprits = [status for status in silent if status in behind] or silent or behind
    if not culprits:
        activity = now[own].activity
        return Diagnosis(f"no rank is behind, all are in {activity}; a link or a device that they wait for has failed")
    texts = [
        f"rank {s.rank} on {s.host} "
        + (
            f"gives no sign of life, last in {s.activity}"
            if s in silent
            else f"is behind, for {s.seconds:.0f} s in {s.activity}"
        )
        for s in culprits[:_SHOWN]
    ]
    more = f"; and {len(culprits) - _SHOWN} more" if len(culprits) > _SHOWN else ""
    return Diagnosis("; ".join(texts) + more, tuple(status.rank for status in culprits))
