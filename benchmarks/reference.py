"""Reference workload: the recipe `bench-feed`, a two-level PLE of 4.1 MFLOP a sample, on one process or several."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks.harness import PassResult, peak_bytes
from ple_rec.config.load import load_config
from ple_rec.config.run import RunConfig
from ple_rec.data.batch import Batch
from ple_rec.distributed.process_group import process_group
from ple_rec.models.weighting import task_weights
from ple_rec.training.context import TrainContext, build_context
from ple_rec.training.non_finite_guard import NonFiniteGuard
from ple_rec.training.step import train_step

RECIPE = "bench-feed"
# A report every 5 steps costs our run more than the default of every 100.
REPORT_EVERY = 5
_NEVER = 10**9
_POLL_SECONDS = 0.01


def settings(data: Path | str, threads: int, *more: str) -> list[str]:
    """Return overrides of the recipe: a run on a dataset directory that neither ends nor evaluates."""
    return [
        f"data.path={data}",
        f"runtime.threads={threads}",
        "runtime.device=cpu",
        # The run stands still while others have their turn.
        f"runtime.timeout_seconds={24 * 3600.0}",
        "checkpoint.every_minutes=1000000000",
        "train.epochs=",
        f"train.steps={_NEVER}",
        f"train.evaluate_every={_NEVER}",
        f"train.report_every={REPORT_EVERY}",
        *more,
    ]


@contextmanager
def open_context(data: Path, threads: int, *more: str) -> Iterator[TrainContext]:
    """Open the run in this process, which is one of its ranks."""
    config = load_config(RunConfig, RECIPE, settings(data, threads, *more))
    with process_group(config.runtime) as ranks:
        yield build_context(config, ranks)


class Steps:
    """Training steps on the batches of epoch after epoch."""

    def __init__(self, job: TrainContext) -> None:
        self.job, self._step = job, 0
        self._guard = NonFiniteGuard([task.name for task in job.selection.tasks], job.ranks.device)
        self._batches = self._epochs()
        job.model.train()

    def _epochs(self) -> Iterator[Batch]:
        for epoch in itertools.count():
            with closing(self.job.loader.epoch(epoch)) as batches:
                yield from batches

    def next_batch(self) -> Batch:
        """Return the next batch, on the device."""
        return next(self._batches).to(self.job.ranks.device)

    def run(self, count: int) -> int:
        """Make steps; return the samples of this rank."""
        samples = 0
        for _ in range(count):
            batch = self.next_batch()
            train_step(self.job, self._guard, batch, self._step, task_weights(self.job.tasks, self._step))
            samples += batch.rows
            self._step += 1
        self.job.ranks.watch.rest()
        return samples


def train_command(run_dir: Path, overrides: Sequence[str], ranks: int = 1) -> list[str]:
    """Return the command that trains the recipe in a run directory, whose old run it replaces."""
    command = [sys.executable, "-m", "ple_rec", "train", "--config", RECIPE, "--overwrite", "--run-dir", str(run_dir)]
    command += ["--ranks", str(ranks)] if ranks > 1 else []
    return command + [word for override in overrides for word in ("--set", override)]


class TrainRun:
    """`ple-rec train` itself, from Parquet and with metrics. It stands still while others have their turn.

    A turn measures whole windows of `train.jsonl` that begin and end within it, by the run's own clock.

    Args:
        command: Command that trains.
        log: Its `train.jsonl`.
        batch_size: Samples of a step, of all ranks together.
    """

    def __init__(self, command: Sequence[str], log: Path, batch_size: int) -> None:
        self._batch_size, self._log, self._read = batch_size, log, 0
        self._log.unlink(missing_ok=True)
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        try:
            # The first record shows that the model is built and has made its first steps.
            self._records(1)
            self._stop()
        except BaseException:
            self.close()
            raise

    def turn(self, steps: int) -> PassResult:
        """Let it make at least `steps` steps. The first window does not count, since it began before the turn."""
        self._signal(signal.SIGCONT)
        records = self._records(1 + -(-steps // REPORT_EVERY))
        self._stop()
        first, last = records[0], records[-1]
        samples = (last["step"] - first["step"]) * self._batch_size
        return PassResult(samples, last["seconds"] - first["seconds"], self.peak_bytes())

    def peak_bytes(self) -> int:
        """Return the largest resident memory of all its processes together."""
        return sum(peak_bytes(process) for process in self.processes())

    def close(self) -> None:
        """Kill the run, which has nothing to save."""
        processes = self.processes()
        self._signal(signal.SIGKILL)
        self._process.wait()
        while any(is_running(process) for process in processes):
            time.sleep(_POLL_SECONDS)

    def _records(self, count: int) -> list[dict[str, Any]]:
        """Wait for the next records of the log."""
        while True:
            lines = self._log.read_bytes().split(b"\n")[:-1] if self._log.exists() else []
            if len(lines) >= self._read + count:
                records = [json.loads(line) for line in lines[self._read :]]
                self._read = len(lines)
                return records
            if self._process.poll() is not None:
                raise RuntimeError(f"ple-rec train ended with {self._process.returncode}")
            time.sleep(_POLL_SECONDS)

    def _stop(self) -> None:
        self._signal(signal.SIGSTOP)
        while any(is_running(process) for process in self.processes()):
            time.sleep(_POLL_SECONDS)
        # A report may have been written meanwhile.
        self._read = len(self._log.read_bytes().split(b"\n")) - 1

    def _signal(self, number: signal.Signals) -> None:
        for process in self.processes():
            with suppress(ProcessLookupError):
                os.kill(process, number)

    def processes(self) -> list[int]:
        """Return the process of the run and all its descendants, parents first."""
        processes = [self._process.pid]
        for process in processes:
            with suppress(OSError):
                for task in Path(f"/proc/{process}/task").iterdir():
                    processes += [int(child) for child in (task / "children").read_text().split()]
        return processes


def is_running(process: int) -> bool:
    """Return True if a process exists and is not stopped."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "TtZ"
