"""Processes that train runs of a comparison (worker.py), as many side by side as are asked for.

A run that is killed takes no other with it: its process is started anew for the next one.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from ple_rec.errors import PreemptedError

_COMMAND = (sys.executable, "-W", "ignore", "-m", "ple_rec.analysis.compare.worker")
_GRACE_SECONDS = 60.0  # for a run to save what it has


def wait_for_some(futures: Iterable[Future[Any]]) -> list[Future[Any]]:
    """Wait until some have ended; these, in the order that they were given in."""
    given = list(futures)
    ended = wait(given, return_when=FIRST_COMPLETED).done
    return [future for future in given if future in ended]


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Args:
        code: 0, or the exit code of what went wrong; 128 + s where signal s ended the process.
        message: Why it failed.
        seconds: Seconds of the run itself, as far as its process came to tell.
        start: Seconds before it, in which the process imported everything where this was its first run.
    """

    code: int
    message: str = ""
    seconds: float = field(default=0.0, compare=False)
    start: float = field(default=0.0, compare=False)


class Worker:
    """One process, started with its first run.

    Args:
        command: Of the process.
        device: The GPU that it sees alone, as CUDA_VISIBLE_DEVICES names it; None: all.
    """

    def __init__(self, command: Sequence[str] = _COMMAND, device: str | None = None) -> None:
        self._command = list(command)
        self._environment = os.environ | ({} if device is None else {"CUDA_VISIBLE_DEVICES": device})
        self._process: subprocess.Popen[str] | None = None
        self._stopped, self._starting = False, threading.Lock()

    def run(self, config: Path, run_dir: Path, log: Path) -> Outcome:
        """Train a configuration file's run; returns when it has ended."""
        begun = time.monotonic()
        if self._process is None or self._process.poll() is not None:  # killed while it had nothing to do
            self.close()
            with self._starting:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env=self._environment,
                    start_new_session=True,  # a Ctrl-C is this process's to pass on, by `stop`
                )
                if self._stopped:  # meanwhile
                    self._process.terminate()
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps({"config": str(config), "run_dir": str(run_dir), "log": str(log)}) + "\n")
            process.stdin.flush()
        if answer := process.stdout.readline():
            outcome = Outcome(**json.loads(answer))
            if outcome.code == PreemptedError.exit_code:  # the last answer: the process ends, and takes no more runs
                process.wait()
                self.close()
            return replace(outcome, start=time.monotonic() - begun - outcome.seconds)
        self._process, code = None, process.wait()
        _close(process)
        if code < 0:
            return Outcome(128 - code, f"killed by {signal.Signals(-code).name}; {log} has what it printed")
        return Outcome(code or 1, f"its process ended with {code}; {log} has what it printed")

    def stop(self) -> None:
        """Ask a run that goes on to save what it has, and the process to end; does not wait."""
        with self._starting:
            self._stopped = True
            if self._process is not None:
                self._process.terminate()

    def wait(self, until: float) -> None:
        """Until the process has ended; it is killed at a time (`time.monotonic`)."""
        process = self._process
        if process is None:
            return
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def close(self) -> None:
        """Close the pipes to a process that has ended."""
        if self._process is not None:
            _close(self._process)
            self._process = None


def _close(process: subprocess.Popen[str]) -> None:
    """Close its pipes; what it did not read is lost."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()


class Workers:
    """Runs side by side; a context.

    Args:
        workers: A run at a time each.
        keep: Function that is called once a run has ended and is recorded, to keep what it has made.
    """

    def __init__(self, workers: Sequence[Worker], keep: Callable[[], None] = lambda: None) -> None:
        self._workers, self.keep = list(workers), keep
        self._free: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._free.put(worker)
        self._pool = ThreadPoolExecutor(len(self._workers), "runs")

    @property
    def jobs(self) -> int:
        """Number of runs side by side."""
        return len(self._workers)

    def submit(self, config: Path, run_dir: Path, log: Path, until: float | None = None) -> Future[Outcome | None]:
        """Train a run when a worker is free; None where that is after a time (`time.monotonic`)."""

        def run() -> Outcome | None:
            worker = self._free.get()
            try:
                late = until is not None and time.monotonic() >= until
                return None if late else worker.run(config, run_dir, log)
            finally:
                self._free.put(worker)

        return self._pool.submit(run)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.stop()
        until = time.monotonic() + _GRACE_SECONDS
        for worker in self._workers:
            worker.wait(until)
        self._pool.shutdown()
        for worker in self._workers:
            worker.close()
