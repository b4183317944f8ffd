"""Pool of processes that train the runs of a comparison in parallel.

A comparison trains several models, each with several seeds; each training is a run. A `Worker` has one process, which
trains one run after another. `Workers` is the pool: for each worker, a thread sends requests to the process and waits
for the answers. If a process is killed during a run, that run has failed, and the worker starts a new process for its
next run.

The process executes `ple_rec/cli/comparison_worker.py`. The module lies in `ple_rec.cli`, because it also draws the
HTML pages of a run, and `ple_rec.analysis` must not import the code that draws pages.
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

_COMMAND = (sys.executable, "-W", "ignore", "-m", "ple_rec.cli.comparison_worker")
# After a worker is stopped, its run has this much time to save a checkpoint before the process is killed.
_GRACE_SECONDS = 60.0


def wait_for_some(futures: Iterable[Future[Any]]) -> list[Future[Any]]:
    """Wait until at least one future is done, and return the futures that are done, in the order of the argument."""
    futures = list(futures)
    ended = wait(futures, return_when=FIRST_COMPLETED).done
    return [future for future in futures if future in ended]


@dataclass(frozen=True)
class Outcome:
    """Outcome of a run.

    Args:
        code: Exit code: 0 after a success, that of the error after a failure, 128 + s if signal s ended the process.
        message: Reason of a failure; empty after a success.
        seconds: Duration of the run itself in seconds; 0 if its process ended during the run.
        start: Time in seconds between the request and the start of the run. For the first run of a process it includes
            the start of the process and its imports.
    """

    code: int
    message: str = ""
    seconds: float = field(default=0.0, compare=False)
    start: float = field(default=0.0, compare=False)


class Worker:
    """One process that trains runs one after another. The process is started by the first call of `run`.

    Args:
        command: Command of the process.
        device: Value of CUDA_VISIBLE_DEVICES for the process, which names the one GPU that it sees; None to let the
            process see every GPU that this process sees.
    """

    def __init__(self, command: Sequence[str] = _COMMAND, device: str | None = None) -> None:
        self._command = list(command)
        self._environment = os.environ | ({} if device is None else {"CUDA_VISIBLE_DEVICES": device})
        self._process: subprocess.Popen[str] | None = None
        self._stopped, self._starting = False, threading.Lock()

    def run(self, config: Path, run_dir: Path, log: Path) -> Outcome:
        """Train one run in the process, and wait until the run ends.

        Args:
            config: Configuration file of the run.
            run_dir: Directory of the run.
            log: File for the output of the run.

        Returns:
            Outcome of the run. A failed run raises no error here.
        """
        begun = time.monotonic()
        # Start a process for the first run, and also if the old process was killed between two runs.
        if self._process is None or self._process.poll() is not None:
            self.close()
            with self._starting:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    encoding="locale",
                    env=self._environment,
                    # In its own session, the process does not get Ctrl-C from the terminal. `stop` sends it SIGTERM.
                    start_new_session=True,
                )
                # `stop` may have been called before the process existed.
                if self._stopped:
                    self._process.terminate()
        process = self._process
        # They are pipes, so neither is None.
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps({"config": str(config), "run_dir": str(run_dir), "log": str(log)}) + "\n")
            process.stdin.flush()
        if answer := process.stdout.readline():
            outcome = Outcome(**json.loads(answer))
            # A process that was asked to stop ends after this answer, so it cannot train another run.
            if outcome.code == PreemptedError.exit_code:
                process.wait()
                self.close()
            return replace(outcome, start=time.monotonic() - begun - outcome.seconds)
        self._process, code = None, process.wait()
        _close(process)
        if code < 0:
            return Outcome(128 - code, f"killed by {signal.Signals(-code).name}; {log} has its output")
        return Outcome(code or 1, f"its process ended with {code}; {log} has its output")

    def stop(self) -> None:
        """Send SIGTERM to the process, so that it saves a checkpoint of its run and ends; return at once."""
        with self._starting:
            self._stopped = True
            if self._process is not None:
                self._process.terminate()

    def wait(self, deadline: float) -> None:
        """Wait for the process to end, and kill it if it is still running at the time `deadline` (`time.monotonic`)."""
        process = self._process
        if process is None:
            return
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def close(self) -> None:
        """Close the pipes to the process, which must have ended, and forget the process."""
        if self._process is not None:
            _close(self._process)
            self._process = None


def _close(process: subprocess.Popen[str]) -> None:
    """Close the pipes to a process. A request that was not yet flushed into the pipe is lost."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()


class Workers:
    """Pool of workers, to be used in a `with` statement. At the end of the block every worker is stopped.

    Args:
        workers: Workers, each of which trains one run at a time.
        save_files: Function without arguments that the scheduler calls after it has recorded the outcome of a run, for
            example to upload the run's files to an object store.
    """

    def __init__(self, workers: Sequence[Worker], save_files: Callable[[], None] = lambda: None) -> None:
        self._workers, self.save_files = list(workers), save_files
        self._free: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._free.put(worker)
        self._pool = ThreadPoolExecutor(len(self._workers), "runs")

    @property
    def parallel_runs(self) -> int:
        """Number of runs that are trained in parallel."""
        return len(self._workers)

    def submit(self, config: Path, run_dir: Path, log: Path, deadline: float | None = None) -> Future[Outcome | None]:
        """Queue a run, which is trained as soon as a worker is free.

        Args:
            config: Configuration file of the run.
            run_dir: Directory of the run.
            log: File for the output of the run.
            deadline: Time (`time.monotonic`) after which the run is not started; None for no limit.

        Returns:
            Future of the outcome. The outcome is None if no worker was free before `deadline`.
        """

        def run() -> Outcome | None:
            worker = self._free.get()
            try:
                late = deadline is not None and time.monotonic() >= deadline
                return None if late else worker.run(config, run_dir, log)
            finally:
                self._free.put(worker)

        return self._pool.submit(run)

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.stop()
        deadline = time.monotonic() + _GRACE_SECONDS
        for worker in self._workers:
            worker.wait(deadline)
        self._pool.shutdown()
        for worker in self._workers:
            worker.close()
