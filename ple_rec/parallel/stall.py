"""Ranks that stand still: found by the others, named with what they were doing, instead of a job that hangs.

A collective waits for all its ranks, so one that is stuck (in a read, a kernel, a debugger, a stopped process) stops
all of them, silently. Every rank therefore says what it is about to do, `mark`, and a thread of it tells the others
through the process group's store. All ranks go through the same marks; where nothing has moved for the time-out, the
one that is stuck is the one that is behind, or whose thread has gone silent, too.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

T = TypeVar("T")

_LONGEST_TICK_SECONDS = 5.0
_TICKS = 8  # of a time-out
_EXIT_CODE = 1
_SHOWN = 100  # characters of a message of the store


@dataclass(frozen=True)
class Sign:
    """What a rank has told the others.

    Args:
        rank: Which.
        host: Its name.
        count: Marks so far.
        beat: Ticks of its thread so far.
        doing: Of the last mark.
        seconds: Since then.
    """

    rank: int
    host: str
    count: int
    beat: int
    doing: str
    seconds: float


class StallWatch:
    """Watches the ranks of a job; until `start`, and at a world size of 1, it does nothing.

    Args:
        rank: Of this process.
        world_size: Of the job.
        timeout_seconds: Without a mark or a touch, after which the job ends.
    """

    def __init__(self, rank: int = 0, world_size: int = 1, timeout_seconds: float = 600.0) -> None:
        self.rank, self.world_size, self.timeout_seconds = rank, world_size, timeout_seconds
        self._tick = min(_LONGEST_TICK_SECONDS, timeout_seconds / _TICKS)
        self._count, self._beat, self._doing = 0, 0, "its start"
        self._at: float | None = None  # of the last mark or touch; None: at rest
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._store: Any = None

    def start(self) -> None:
        """Begin to watch."""
        if self.world_size == 1:
            return
        # A connection of its own: the main thread's may be waiting. Short: the store is on a host that may be gone.
        self._store = dist.distributed_c10d._get_default_store().clone()  # type: ignore[attr-defined]
        self._store.set_timeout(timedelta(seconds=max(1.0, 2 * self._tick)))
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
        """`items`, with a mark before each is asked for."""
        found = iter(items)
        while True:
            self.mark(doing)
            try:
                item = next(found)
            except StopIteration:
                return
            yield item

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._stop.wait(self._tick):
            now = time.monotonic()
            if now - last > 2 * self._tick + 1 and self._at is not None:
                self._at = now  # this process was stopped, or got no processor: its own clock proves nothing
            last, self._beat = now, self._beat + 1
            try:
                self._tell()
                if self._still():
                    self._end(*self._judge())
            except Exception as error:
                if self._still():
                    text = " ".join(str(error).split())[:_SHOWN]
                    self._end(f"the store, on the host of rank 0, does not answer ({text})")

    def _still(self) -> bool:
        return self._at is not None and time.monotonic() - self._at > self.timeout_seconds

    def _tell(self) -> None:
        seconds = 0.0 if self._at is None else time.monotonic() - self._at
        sign = [os.uname().nodename, self._count, self._beat, self._doing, round(seconds, 1)]
        self._store.set(f"stall/{self.rank}", json.dumps(sign))

    def _read(self) -> list[Sign]:
        keys = [f"stall/{rank}" for rank in range(self.world_size)]
        return [Sign(rank, *json.loads(text)) for rank, text in enumerate(self._store.multi_get(keys))]

    def _judge(self) -> tuple[str, list[int]]:
        before = self._read()
        self._stop.wait(2 * self._tick)
        self._tell()
        return verdict(before, self._read(), self.rank)

    def _end(self, found: str, culprits: Sequence[int] = ()) -> None:
        if self._stop.is_set() or not self._still():
            return  # it has gone on while this was found out
        head = f"ple-rec: rank {self.rank}: "
        sys.stderr.write(f"{head}stops, since nothing has moved for {self.timeout_seconds:g} s: {found}\n")
        if self.rank in culprits:
            sys.stderr.write(f"{head}this is where it is:\n")
            sys.stderr.flush()
            faulthandler.dump_traceback(sys.stderr)
        sys.stderr.flush()
        os._exit(_EXIT_CODE)  # the main thread waits in a collective


def verdict(before: list[Sign], now: list[Sign], own: int) -> tuple[str, list[int]]:
    """What keeps the ranks waiting, by two looks at their signs, and which of them it is.

    Args:
        before: Of every rank.
        now: Two ticks later.
        own: The rank that looks.
    """
    first = max(sign.count for sign in now)
    silent = [b for a, b in zip(before, now, strict=True) if a.beat == b.beat and b.rank != own]
    if silent and now[own].count == first:  # else they have ended, because of this one
        texts = [f"rank {s.rank} on {s.host} gives no sign of life, last in {s.doing}" for s in silent]
        return "; ".join(texts), [s.rank for s in silent]
    behind = [sign for sign in now if sign.count < first]
    if behind:
        texts = [f"rank {s.rank} on {s.host} is behind, for {s.seconds:.0f} s in {s.doing}" for s in behind]
        return "; ".join(texts), [s.rank for s in behind]
    return f"no rank is behind, all are in {now[own].doing}; a link or a device that they wait for has failed", []
