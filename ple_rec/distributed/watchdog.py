"""Ranks that stand still: found by the others, named with what they were doing, instead of a job that hangs.

A collective waits for all its ranks, so one that is stuck (in a read, a kernel, a debugger, a stopped process) stops
all of them, silently. Every rank therefore says what it is about to do, `mark`, and a thread of it tells the others
through the process group's store. All ranks go through the same marks; where none of them has moved for the time-out,
the one that is stuck is the one that is behind, or whose thread has gone silent, too. One rank looks at all and
judges; the others say and do what it found.
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

from ple_rec.runtime.exits import SAID, STALLED

T = TypeVar("T")

_LONGEST_TICK_SECONDS = 5.0
_TICKS = 8  # of a time-out
_LOOK_TICKS = 2  # between two looks at the others
_PATIENCE_TICKS = 6  # with the rank that judges
_EXIT_CODE = 1
_SHOWN = 5  # ranks that a message names


@dataclass(frozen=True)
class Sign:
    """What a rank has told the others.

    Args:
        rank: Which.
        host: Its name.
        count: Marks so far.
        beat: Ticks of its thread so far.
        doing: Of the last mark.
        seconds: Since it moved: since the last mark or touch; None at rest.
    """

    rank: int
    host: str
    count: int
    beat: int
    doing: str
    seconds: float | None


@dataclass(frozen=True)
class Verdict:
    """What keeps the ranks waiting.

    Args:
        text: In words; empty where they move after all.
        culprits: The ranks that do.
        moved: Seconds since the rank moved that moved last, where they move.
    """

    text: str
    culprits: tuple[int, ...] = ()
    moved: float = 0.0


class StallWatch:
    """Watches the ranks of a job; until `start`, and at a world size of 1, it does nothing.

    Args:
        rank: Of this process.
        world_size: Of the job.
        timeout_seconds: Without a mark or a touch of any rank, after which the job ends.
    """

    def __init__(self, rank: int = 0, world_size: int = 1, timeout_seconds: float = 600.0) -> None:
        self.rank, self.world_size, self.timeout_seconds = rank, world_size, timeout_seconds
        self._tick = min(_LONGEST_TICK_SECONDS, timeout_seconds / _TICKS)
        self._count, self._beat, self._doing = 0, 0, "its start"
        self._at: float | None = None  # of the last mark or touch; None: at rest
        self._rounds = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._store: Any = None

    def start(self) -> None:
        """Begin to watch."""
        if self.world_size == 1:
            return
        # A connection of its own: the main thread's may be waiting.
        self._store = dist.distributed_c10d._get_default_store().clone()  # type: ignore[attr-defined]  # torch's stub lacks it
        self._store.set_timeout(timedelta(seconds=max(1.0, self._tick)))
        self._tell()
        self._thread = threading.Thread(target=self._watch, name="stall-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(1.0)  # it may be asking a store that is gone

    def mark(self, doing: str) -> None:
        """Say what this rank is about to do, as all ranks do in the same order."""
        self._count, self._doing, self._at = self._count + 1, doing, time.monotonic()

    def touch(self) -> None:
        """Say that what was marked last goes on."""
        if self._at is not None:
            self._at = time.monotonic()

    def rest(self) -> None:
        """No time-out until the next mark."""
        self._count, self._at = self._count + 1, None

    def each(self, items: Iterable[T], doing: str) -> Iterator[T]:
        """`items`, with a mark before each is asked for, and rest after the last."""
        found = iter(items)
        while True:
            self.mark(doing)
            try:
                item = next(found)
            except StopIteration:
                self.rest()
                return
            yield item

    def _watch(self) -> None:
        while self._pause():
            try:
                self._tell()
                if self._still():
                    self._act(self._verdict())
            except Exception as error:
                if self._still():
                    text = " ".join(str(error).split())[:100]
                    self._end(Verdict(f"the store, on the host of rank 0, does not answer ({text})"))

    def _pause(self) -> bool:
        """Wait for a tick; whether to go on."""
        begun = time.monotonic()
        stopped = self._stop.wait(self._tick)
        if time.monotonic() - begun > 2 * self._tick + 1 and self._at is not None:
            self._at = time.monotonic()  # this process was stopped, or got no processor: its own clock proves nothing
        return not stopped

    def _still(self) -> bool:
        return self._at is not None and time.monotonic() - self._at > self.timeout_seconds

    def _tell(self) -> None:
        self._beat += 1
        seconds = None if self._at is None else round(time.monotonic() - self._at, 1)
        sign = json.dumps([os.uname().nodename, self._count, self._beat, self._doing, seconds])
        self._ask(lambda: self._store.set(f"stall/{self.rank}", sign))

    def _ask(self, question: Callable[[], T]) -> T:
        """An answer of the store; a store whose process is stopped leaves torch waiting for ever.

        Raises:
            TimeoutError: there is none in time.
        """
        answers: list[T] = []
        failures: list[Exception] = []

        def ask() -> None:
            try:
                answers.append(question())
            except Exception as error:
                failures.append(error)

        thread = threading.Thread(target=ask, name="stall-question", daemon=True)
        thread.start()
        thread.join(2 * self._tick + 1)
        if failures:
            raise failures[0]
        if not answers:
            raise TimeoutError("it is silent")
        return answers[0]

    def _verdict(self) -> Verdict:
        """Of the rank that was the first to ask here; of this one, where that one does not answer."""
        self._rounds += 1
        place = f"stall/{self._count}/{self._rounds}"
        judge = self._ask(lambda: self._store.compare_set(f"{place}/judge", "", str(self.rank))).decode()
        for _ in range(_PATIENCE_TICKS if judge != str(self.rank) else 0):
            if self._ask(lambda: self._store.check([place])):
                text, culprits, moved = json.loads(self._ask(lambda: self._store.get(place)))
                return Verdict(text, tuple(culprits), moved)
            if not self._pause():
                return Verdict("")
            self._tell()
        before = self._read()
        for _ in range(_LOOK_TICKS):
            if not self._pause():
                return Verdict("")
            self._tell()
        found = verdict(before, self._read(), self.rank, self.timeout_seconds)
        self._ask(lambda: self._store.set(place, json.dumps([found.text, found.culprits, found.moved])))
        if found.text:
            self._stop.wait(_LOOK_TICKS * self._tick)  # that the others hear it, whose store this rank may keep
        return found

    def _read(self) -> list[Sign]:
        keys = [f"stall/{rank}" for rank in range(self.world_size)]
        return [
            Sign(rank, *json.loads(text)) for rank, text in enumerate(self._ask(lambda: self._store.multi_get(keys)))
        ]

    def _act(self, found: Verdict) -> None:
        if found.text:
            self._end(found)
        elif self._still():  # others move
            self._at = time.monotonic() - min(found.moved, self.timeout_seconds / 2)

    def _end(self, found: Verdict) -> None:
        if self._stop.is_set() or not self._still():
            return  # it has gone on while this was found out
        self._say_and_end(found)

    def _say_and_end(self, found: Verdict) -> NoReturn:
        head = f"ple-rec: rank {self.rank}: "
        sys.stderr.write(f"{head}stops, since nothing has moved for {self.timeout_seconds:g} s: {found.text}\n")
        if self.rank in found.culprits:
            sys.stderr.write(f"{head}this is where it is:\n")
            sys.stderr.flush()
            faulthandler.dump_traceback(sys.stderr)
        sys.stderr.flush()
        if folder := os.environ.get(SAID):
            (Path(folder) / STALLED).touch()
        os._exit(_EXIT_CODE)  # the main thread waits in a collective


def verdict(before: Sequence[Sign], now: Sequence[Sign], own: int, timeout_seconds: float) -> Verdict:
    """What two looks at the signs of all ranks say.

    Args:
        before: Of every rank.
        now: The same, some ticks later.
        own: The rank that looks.
        timeout_seconds: Without which no rank has moved.
    """
    silent = [b for a, b in zip(before, now, strict=True) if a.beat == b.beat and b.rank != own]
    heard = [sign for sign in now if sign not in silent]
    moved = min(0.0 if sign.seconds is None else sign.seconds for sign in heard)
    if moved < timeout_seconds:
        return Verdict("", moved=moved)
    first = max(sign.count for sign in now)
    behind = [sign for sign in now if sign.count < first]
    guilty = [sign for sign in silent if sign in behind] or silent or behind
    if not guilty:
        doing = now[own].doing
        return Verdict(f"no rank is behind, all are in {doing}; a link or a device that they wait for has failed")
    texts = [
        f"rank {s.rank} on {s.host} "
        + (
            f"gives no sign of life, last in {s.doing}"
            if s in silent
            else f"is behind, for {s.seconds:.0f} s in {s.doing}"
        )
        for s in guilty[:_SHOWN]
    ]
    more = f"; and {len(guilty) - _SHOWN} more" if len(guilty) > _SHOWN else ""
    return Verdict("; ".join(texts) + more, tuple(sign.rank for sign in guilty))
