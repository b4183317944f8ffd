"""Logger on a thread of its own, behind a bounded queue, so that it can neither stop a run nor make it wait."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice

from ple_rec.training.loggers.base import Ending, LoggerUnavailableError, Record, RunLogger, TimedRecord

logger = logging.getLogger(__name__)

# Number of records that one call hands over at most; several records a call let a slow server catch up.
_BATCH = 100
# Number of characters of an error that a log line repeats.
_MOST_SHOWN = 200


class BackgroundLogger:
    """Thread that hands records to a logger in order, and logs its first error.

    Records stay in the queue and are sent again while the logger is unavailable. Records that the logger refuses by
    another error, and records that come while the queue is full, are dropped and counted.

    Args:
        run_logger: Logger, called by the thread alone from now on.
        limit: Largest number of records in the queue.
        retry_seconds: Seconds between two attempts while the logger is unavailable.
    """

    def __init__(self, run_logger: RunLogger, *, limit: int = 10_000, retry_seconds: float = 10.0) -> None:
        self.run_logger, self.limit, self.retry_seconds = run_logger, limit, retry_seconds
        self._queue: deque[TimedRecord] = deque()
        self._changed = threading.Condition()
        self._begin: Callable[[], None] | None = None
        self._ending: Ending | None = None
        self._lost = 0
        self._error_logged = self._started = self._done = False
        self._thread = threading.Thread(target=self._run, name=f"watch-{run_logger.name}", daemon=True)

    def begin(self, step: int, past_records: Sequence[Record]) -> None:
        """Start the thread, which first calls the logger's `begin` with these arguments, and return at once.

        Args:
            step: Number of steps done.
            past_records: Records of `train.jsonl` up to that step.
        """
        self._begin = partial(self.run_logger.begin, step, past_records)
        self._start()

    def log(self, record: Record) -> None:
        """Append a record to the queue, and return at once."""
        with self._changed:
            if len(self._queue) < self.limit:
                self._queue.append(TimedRecord(time.time(), record))
            else:
                self._lost += 1
            self._changed.notify()

    def end(self, ending: Ending) -> None:
        """Let the thread send the remaining records and then call the logger's `end`, and return at once."""
        with self._changed:
            self._ending = ending
            self._changed.notify()
        self._start()

    def wait(self, seconds: float) -> None:
        """Wait until the logger has received all records, and log how many are lost.

        Args:
            seconds: Largest number of seconds to wait.
        """
        self._thread.join(max(0.0, seconds))
        with self._changed:
            records = self._lost + len(self._queue)
            missing = [f"{records:,} record(s)"] * (records > 0) + ["the end of the run"] * (not self._done)
        if missing:
            logger.info(f"{self.run_logger.name}: did not receive {' and '.join(missing)}; {self.run_logger.recovery}")

    def _start(self) -> None:
        if not self._started:
            self._started = True
            self._thread.start()

    def _run(self) -> None:
        try:
            if self._begin is not None:
                self._try(self._begin)
            while records := self._next():
                is_logged = self._try(partial(self.run_logger.log, records))
                with self._changed:
                    self._lost += 0 if is_logged else len(records)
                    for _ in records:
                        self._queue.popleft()
            assert self._ending is not None
            self._done = self._try(partial(self.run_logger.end, self._ending))
        except LoggerUnavailableError:
            # The run is over, and `wait` logs how many records are lost.
            return

    def _next(self) -> list[TimedRecord]:
        """Wait for records, and return the oldest; empty if the run has ended and the queue is empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._ending is not None)
            return list(islice(self._queue, _BATCH))

    def _try(self, call: Callable[[], None]) -> bool:
        """Call until the logger is available, and return True if the call succeeded.

        Raises:
            LoggerUnavailableError: The logger was unavailable in an attempt that began after the end of the run.
        """
        while True:
            is_last = self._ending is not None
            try:
                call()
            except LoggerUnavailableError as error:
                self._log_error(error, "and the missing records are sent once it answers")
                if is_last:
                    raise
                with self._changed:
                    self._changed.wait_for(lambda: self._ending is not None, self.retry_seconds)
            except Exception as error:  # No error of a logger may stop a training.
                self._log_error(error, "but some records may be missing there")
                return False
            else:
                return True

    def _log_error(self, error: Exception, consequence: str) -> None:
        """Log the first error and its consequence; later ones are not logged."""
        if not self._error_logged:
            self._error_logged = True
            cause = " ".join(f"{type(error).__name__}: {error}".split()).removeprefix("LoggerUnavailableError: ")
            logger.info(f"{self.run_logger.name}: {cause[:_MOST_SHOWN]}; training goes on, {consequence}")
