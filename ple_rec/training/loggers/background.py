"""A logger on a thread of its own, behind a bounded queue: it can neither stop a run nor make it wait."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice

from ple_rec.training.loggers.base import Ending, Record, RunLogger, TimedRecord, UnavailableError

logger = logging.getLogger(__name__)

_AT_ONCE = 100  # records of one call, so that a slow server catches up
_SHOWN = 200  # characters of a cause that a warning repeats


class BackgroundLogger:
    """Hands a logger what it is to log, in order, and says once when it fails.

    What finds the logger unavailable stays in the queue and is tried again; what it refuses otherwise, and what comes
    while the queue is full, is lost to it and counted.

    Args:
        logger: Called by the thread alone from here on.
        limit: Records that may wait.
        retry_seconds: Between two tries while it is unavailable.
    """

    def __init__(self, run_logger: RunLogger, *, limit: int = 10_000, retry_seconds: float = 10.0) -> None:
        self.run_logger, self.limit, self.retry_seconds = run_logger, limit, retry_seconds
        self._queue: deque[TimedRecord] = deque()
        self._changed = threading.Condition()
        self._first: Callable[[], None] | None = None
        self._ending: Ending | None = None
        self._lost = 0
        self._warned = self._begun = self._done = False
        self._thread = threading.Thread(target=self._run, name=f"watch-{run_logger.name}", daemon=True)

    def begin(self, step: int, past: Sequence[Record]) -> None:
        """The run starts after `step` steps."""
        self._first = partial(self.run_logger.begin, step, past)
        self._start()

    def log(self, record: Record) -> None:
        """Take a record; returns at once."""
        with self._changed:
            if len(self._queue) < self.limit:
                self._queue.append(TimedRecord(time.time(), record))
            else:
                self._lost += 1
            self._changed.notify()

    def end(self, ending: Ending) -> None:
        """The run has ended; returns at once."""
        with self._changed:
            self._ending = ending
            self._changed.notify()
        self._start()

    def wait(self, seconds: float) -> None:
        """Wait for the logger to take all that is left, but no longer than this, and say what it did not take."""
        self._thread.join(max(0.0, seconds))
        with self._changed:
            records = self._lost + len(self._queue)
            missing = [f"{records:,} record(s)"] * (records > 0) + ["the end of the run"] * (not self._done)
        if missing:
            logger.info(f"{self.run_logger.name}: did not get {' and '.join(missing)}; {self.run_logger.recovery}")

    def _start(self) -> None:
        if not self._begun:
            self._begun = True
            self._thread.start()

    def _run(self) -> None:
        try:
            if self._first is not None:
                self._try(self._first)
            while records := self._next():
                taken = self._try(partial(self.run_logger.log, records))
                with self._changed:
                    self._lost += 0 if taken else len(records)
                    for _ in records:
                        self._queue.popleft()
            assert self._ending is not None
            self._done = self._try(partial(self.run_logger.end, self._ending))
        except UnavailableError:
            return  # the run is over; `wait` says what is left

    def _next(self) -> list[TimedRecord]:
        """The oldest records, once there are any; empty where the run has ended and none is left."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._ending is not None)
            return list(islice(self._queue, _AT_ONCE))

    def _try(self, call: Callable[[], None]) -> bool:
        """Whether a call succeeded, after as many tries as it needs while the run goes on and one once it has ended.

        Raises:
            UnavailableError: at that last one.
        """
        while True:
            last = self._ending is not None
            try:
                call()
            except UnavailableError as error:
                self._warn(error, "what it misses is sent once it answers")
                if last:
                    raise
                with self._changed:
                    self._changed.wait_for(lambda: self._ending is not None, self.retry_seconds)
            except Exception as error:  # whatever a logger breaks at is not worth a training run
                self._warn(error, "it may lack a part")
                return False
            else:
                return True

    def _warn(self, error: Exception, consequence: str) -> None:
        if not self._warned:
            self._warned = True
            cause = " ".join(f"{type(error).__name__}: {error}".split()).removeprefix("UnavailableError: ")
            logger.info(f"{self.run_logger.name}: {cause[:_SHOWN]}; training goes on, {consequence}")
