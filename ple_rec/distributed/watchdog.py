"""Watchdog that ends a job whose ranks make no progress, and names the rank that the others wait for.

A collective waits for all its ranks, so one rank that is stuck (in a read, a kernel, a debugger, a stopped process)
blocks all of them silently. Before each operation that may block, a rank calls `StallWatch.mark`, which counts the
operations; all ranks run the same ones in the same order. A thread of each rank regularly publishes this count and the
name of the operation in the store of the process group.

If a rank makes no progress for the time-out, its thread asks for a diagnosis. Ranks with the same count share one,
which the first of them that asks makes. It reads the status of all ranks twice, and finds the culprits, whose count is
behind the others' or whose thread has stopped publishing. It then publishes the diagnosis. If no rank at all makes
progress, every rank prints a diagnosis and exits. A rank past its time-out also exits if the store does not answer.
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

# A tick is the interval at which the thread of a rank publishes its status: a fraction of the time-out, within a limit.
_LONGEST_TICK_SECONDS = 5.0
_TICKS_PER_TIMEOUT = 8
# The rank that makes the diagnosis reads the status of all ranks twice, this many ticks apart. It also waits this many
# ticks before it exits, so that the other ranks can read the diagnosis.
_COMPARISON_TICKS = 2
# The other ranks wait at most this many ticks for the diagnosis, and then make it themselves.
_PATIENCE_TICKS = 6
_EXIT_CODE = 1
# A message names at most this many ranks.
_MAX_LISTED = 5


@dataclass(frozen=True)
class RankStatus:
    """Status that a rank publishes in the store.

    Args:
        rank: Rank of the process.
        host: Name of its host.
        count: Number of calls of `mark` and `suspend` so far.
        beat: Number of times that the thread of the rank has published a status.
        activity: Activity that the last mark names, such as "reading the batch of step 3".
        seconds: Seconds since the last call of `mark` or `touch`; None while the time-out is suspended.
    """

    rank: int
    host: str
    count: int
    beat: int
    activity: str
    seconds: float | None


@dataclass(frozen=True)
class Diagnosis:
    """Reason why a rank makes no progress.

    Args:
        text: Cause in words; empty if the job is not stalled, since another rank still makes progress, or if the watch
            was closed before a diagnosis was made.
        culprits: Ranks that the others wait for.
        seconds_since_progress: Seconds since the most recent progress of any rank if `text` is empty; else 0.
    """

    text: str
    culprits: tuple[int, ...] = ()
    seconds_since_progress: float = 0.0


class StallWatch:
    """Watchdog of one rank. It does nothing before `start`, or if the world size is 1.

    The time-out runs from the first call of `mark`. `suspend` stops it until the next one.

    Args:
        rank: Rank of this process.
        world_size: Number of ranks of the job.
        timeout_seconds: Seconds without a call of `mark` or `touch` on any rank after which the job ends.
    """

    def __init__(self, rank: int = 0, world_size: int = 1, timeout_seconds: float = 600.0) -> None:
        self.rank, self.world_size, self.timeout_seconds = rank, world_size, timeout_seconds
        self._tick = min(_LONGEST_TICK_SECONDS, timeout_seconds / _TICKS_PER_TIMEOUT)
        self._count, self._beat, self._activity = 0, 0, "its start"
        # Time of the last call of `mark` or `touch`; None while the time-out is suspended.
        self._progress_time: float | None = None
        # Number of diagnoses that this rank has asked for.
        self._rounds = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._store: Any = None

    def start(self) -> None:
        """Publish the first status, and start the thread that publishes further ones and looks for a stall."""
        if self.world_size == 1:
            return
        # A connection serves one call at a time, and the main thread may be blocked in a call, so this is another one.
        self._store = dist.distributed_c10d._get_default_store().clone()  # type: ignore[attr-defined]  # torch's stub lacks it
        self._store.set_timeout(timedelta(seconds=max(1.0, self._tick)))
        self._publish()
        self._thread = threading.Thread(target=self._watch, name="stall-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread, so that this rank no longer ends the job."""
        self._stop.set()
        if self._thread is not None:
            # If the process of the store has ended, the thread may wait for it for long. It is a daemon thread, so it
            # does not keep this process alive.
            self._thread.join(1.0)

    def mark(self, activity: str) -> None:
        """Record what this rank is about to do. All ranks must make the same marks in the same order."""
        self._count, self._activity, self._progress_time = self._count + 1, activity, time.monotonic()

    def touch(self) -> None:
        """Record that the marked activity makes progress."""
        if self._progress_time is not None:
            self._progress_time = time.monotonic()

    def suspend(self) -> None:
        """Suspend the time-out until the next mark."""
        self._count, self._progress_time = self._count + 1, None

    def mark_each(self, items: Iterable[T], activity: str) -> Iterator[T]:
        """Yield the items; mark the activity before each item is produced, and suspend the time-out after the last."""
        iterator = iter(items)
        while True:
            self.mark(activity)
            try:
                item = next(iterator)
            except StopIteration:
                self.suspend()
                return
            yield item

    def _watch(self) -> None:
        while self._wait_tick():
            try:
                self._publish()
                if self._has_timed_out():
                    self._act_on(self._diagnosis())
            except Exception as error:  # A store that does not answer raises errors of several classes; it may recover.
                if self._has_timed_out():
                    text = " ".join(str(error).split())[:100]
                    self._end(Diagnosis(f"the store, on the host of rank 0, does not answer ({text})"))

    def _wait_tick(self) -> bool:
        """Wait for one tick, and restart the time-out if the wait took far longer. Return False after `close`."""
        start = time.monotonic()
        closed = self._stop.wait(self._tick)
        # If the wait took much longer than a tick, this process itself was stopped or had no CPU, so the time that has
        # passed is no evidence that the other ranks stall.
        if time.monotonic() - start > 2 * self._tick + 1 and self._progress_time is not None:
            self._progress_time = time.monotonic()
        return not closed

    def _has_timed_out(self) -> bool:
        return self._progress_time is not None and time.monotonic() - self._progress_time > self.timeout_seconds

    def _publish(self) -> None:
        self._beat += 1
        seconds = None if self._progress_time is None else round(time.monotonic() - self._progress_time, 1)
        status = json.dumps([os.uname().nodename, self._count, self._beat, self._activity, seconds])
        self._call_store(lambda: self._store.set(f"stall/{self.rank}", status))

    def _call_store(self, call: Callable[[], T]) -> T:
        """Run a call to the store on another thread, since the call never returns if the store's process is stopped.

        Raises:
            TimeoutError: The store has not answered within about two ticks.
        """
        answers: list[T] = []
        failures: list[Exception] = []

        def run() -> None:
            try:
                answers.append(call())
            except Exception as error:  # The thread that asked raises it.
                failures.append(error)

        thread = threading.Thread(target=run, name="stall-question", daemon=True)
        thread.start()
        thread.join(2 * self._tick + 1)
        if failures:
            raise failures[0]
        if not answers:
            raise TimeoutError("no answer in time")
        return answers[0]

    def _diagnosis(self) -> Diagnosis:
        """Return the diagnosis of the rank that asked first; make it here if this is that rank, or that rank is slow.

        After `close`, the diagnosis is empty.
        """
        # Ranks with the same count and round share a diagnosis. A later request has a new round, and so a new key.
        self._rounds += 1
        key = f"stall/{self._count}/{self._rounds}"
        diagnosing_rank = self._call_store(lambda: self._store.compare_set(f"{key}/judge", "", str(self.rank))).decode()
        for _ in range(_PATIENCE_TICKS if diagnosing_rank != str(self.rank) else 0):
            if self._call_store(lambda: self._store.check([key])):
                text, culprits, seconds_since_progress = json.loads(self._call_store(lambda: self._store.get(key)))
                return Diagnosis(text, tuple(culprits), seconds_since_progress)
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
            lambda: self._store.set(
                key, json.dumps([diagnosis.text, diagnosis.culprits, diagnosis.seconds_since_progress])
            )
        )
        if diagnosis.text:
            # The store may be in this process, so give the other ranks time to read the diagnosis before it exits.
            self._stop.wait(_COMPARISON_TICKS * self._tick)
        return diagnosis

    def _statuses(self) -> list[RankStatus]:
        keys = [f"stall/{rank}" for rank in range(self.world_size)]
        texts = self._call_store(lambda: self._store.multi_get(keys))
        return [RankStatus(rank, *json.loads(text)) for rank, text in enumerate(texts)]

    def _act_on(self, diagnosis: Diagnosis) -> None:
        if diagnosis.text:
            self._end(diagnosis)
        elif self._has_timed_out():
            # Another rank makes progress, so restart the time-out of this rank from that progress.
            self._progress_time = time.monotonic() - min(diagnosis.seconds_since_progress, self.timeout_seconds / 2)

    def _end(self, diagnosis: Diagnosis) -> None:
        # A diagnosis takes several ticks, in which this rank may have made progress or closed the watch.
        if self._stop.is_set() or not self._has_timed_out():
            return
        self._report_and_exit(diagnosis)

    def _report_and_exit(self, diagnosis: Diagnosis) -> NoReturn:
        head = f"ple-rec: rank {self.rank}: "
        sys.stderr.write(f"{head}exits, since no rank made progress for {self.timeout_seconds:g} s: {diagnosis.text}\n")
        if self.rank in diagnosis.culprits:
            sys.stderr.write(f"{head}stacks of its threads:\n")
            sys.stderr.flush()
            faulthandler.dump_traceback(sys.stderr)
        sys.stderr.flush()
        if folder := os.environ.get(AGENT_FOLDER):
            # Tells the agent that started this rank that the reason for the exit has been printed.
            (Path(folder) / STALLED).touch()
        # The main thread waits in a collective, so an exception would not end the process.
        os._exit(_EXIT_CODE)


def diagnose(
    before: Sequence[RankStatus], now: Sequence[RankStatus], own_rank: int, timeout_seconds: float
) -> Diagnosis:
    """Return the diagnosis that follows from two readings of the status of all ranks.

    A rank is silent if it published nothing between the readings, and behind if another rank has a larger count. The
    culprits are the silent ranks that are behind, or else all silent ranks, or else all ranks that are behind. A rank
    whose time-out is suspended counts as making progress.

    Args:
        before: Status of every rank at the first reading.
        now: Status of every rank at the second reading, some ticks later.
        own_rank: Rank that makes the diagnosis, which is never silent.
        timeout_seconds: Seconds without progress of any rank that count as a stall.
    """
    silent = [b for a, b in zip(before, now, strict=True) if a.beat == b.beat and b.rank != own_rank]
    alive = [status for status in now if status not in silent]
    seconds_since_progress = min(0.0 if status.seconds is None else status.seconds for status in alive)
    if seconds_since_progress < timeout_seconds:
        return Diagnosis("", seconds_since_progress=seconds_since_progress)
    max_count = max(status.count for status in now)
    behind = [status for status in now if status.count < max_count]
    culprits = [status for status in silent if status in behind] or silent or behind
    if not culprits:
        activity = now[own_rank].activity
        return Diagnosis(f"all ranks are in the same operation, {activity}; a network link or a device may have failed")
    texts = [
        f"rank {s.rank} on {s.host} "
        + (
            f"does not respond; its last operation was {s.activity}"
            if s in silent
            else f"is behind the others: it has been in {s.activity} for {s.seconds:.0f} s"
        )
        for s in culprits[:_MAX_LISTED]
    ]
    more = f"; and {len(culprits) - _MAX_LISTED} more" if len(culprits) > _MAX_LISTED else ""
    return Diagnosis("; ".join(texts) + more, tuple(status.rank for status in culprits))
