"""Reference workload of the benchmarks: the recipe `bench-feed`, a two-level PLE with 4.1 MFLOP per sample.

`open_context` and `Steps` run it in the process of a benchmark, and `TrainRun` runs `ple-rec train` as a child process.
A benchmark measures several cases in turn; a turn of a case is one measured pass of its work.
"""

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
# Steps per report. The default is 100; a turn is measured between two reports, so they are more frequent here, and the
# time that they take counts as time of training.
REPORT_EVERY = 5
_NEVER = 10**9  # A step that no run reaches.
_POLL_SECONDS = 0.01


def run_overrides(data: Path | str, threads: int, *more: str) -> list[str]:
    """Return overrides of the recipe for a run on the CPU that neither ends, evaluates nor saves checkpoints.

    Args:
        data: Dataset directory.
        threads: Number of threads of each rank.
        *more: Further overrides `key=value`.
    """
    return [
        f"data.path={data}",
        f"runtime.threads={threads}",
        "runtime.device=cpu",
        # The run is paused while other cases make their passes, which must not count as a hang.
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
    """Build the run in this process, which is one of its ranks; see `run_overrides`."""
    config = load_config(RunConfig, RECIPE, run_overrides(data, threads, *more))
    with process_group(config.runtime) as ranks:
        yield build_context(config, ranks)


class Steps:
    """Endless training: each call of `run` makes further steps, epoch after epoch."""

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
        """Make `count` training steps, and return the number of samples of this rank."""
        samples = 0
        for _ in range(count):
            batch = self.next_batch()
            train_step(self.job, self._guard, batch, self._step, task_weights(self.job.tasks, self._step))
            samples += batch.rows
            self._step += 1
        self.job.ranks.watch.suspend()  # The time until the next call must not count as a hang.
        return samples


def train_command(run_dir: Path, overrides: Sequence[str], ranks: int = 1) -> list[str]:
    """Return the command that trains the recipe in a run directory, and replaces an old run there."""
    command = [sys.executable, "-m", "ple_rec", "train", "--config", RECIPE, "--overwrite", "--run-dir", str(run_dir)]
    command += ["--ranks", str(ranks)] if ranks > 1 else []
    return command + [word for override in overrides for word in ("--set", override)]


class TrainRun:
    """Process of `ple-rec train`, which is paused (SIGSTOP) between turns.

    Unlike `Steps`, it also computes the metrics of the reports and writes the log.

    The run writes a record to `train.jsonl` every `REPORT_EVERY` steps. A turn is measured from one record to another,
    by the clock of the run.

    Args:
        command: Command that trains.
        log: Path of the `train.jsonl` of the run.
        batch_size: Number of samples of a step, of all ranks together.
    """

    def __init__(self, command: Sequence[str], log: Path, batch_size: int) -> None:
        self._batch_size, self._log, self._records_read = batch_size, log, 0
        self._log.unlink(missing_ok=True)
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        try:
            # The first record shows that the model is built and has made its first steps.
            self._wait_for_records(1)
            self._stop()
        except BaseException:
            self.close()
            raise

    def run_turn(self, steps: int) -> PassResult:
        """Let the run make at least `steps` steps; return its samples and seconds from its first record to its last.

        Steps of the turn before its first record do not count.
        """
        self._signal(signal.SIGCONT)
        records = self._wait_for_records(1 + -(-steps // REPORT_EVERY))
        self._stop()
        first, last = records[0], records[-1]
        samples = (last["step"] - first["step"]) * self._batch_size
        return PassResult(samples, last["seconds"] - first["seconds"], self.peak_bytes())

    def peak_bytes(self) -> int:
        """Return the largest resident memory of each process of the run, added up, in bytes."""
        return sum(peak_bytes(process) for process in self.processes())

    def close(self) -> None:
        """Kill the run, which has nothing to save."""
        processes = self.processes()
        self._signal(signal.SIGKILL)
        self._process.wait()
        while any(is_running(process) for process in processes):
            time.sleep(_POLL_SECONDS)

    def _wait_for_records(self, count: int) -> list[dict[str, Any]]:
        """Wait until the log has `count` more records, and return all new ones."""
        while True:
            lines = self._log.read_bytes().split(b"\n")[:-1] if self._log.exists() else []
            if len(lines) >= self._records_read + count:
                records = [json.loads(line) for line in lines[self._records_read :]]
                self._records_read = len(lines)
                return records
            if self._process.poll() is not None:
                raise RuntimeError(f"ple-rec train ended with {self._process.returncode}")
            time.sleep(_POLL_SECONDS)

    def _stop(self) -> None:
        self._signal(signal.SIGSTOP)
        while any(is_running(process) for process in self.processes()):
            time.sleep(_POLL_SECONDS)
        # A record that was written while the run was being stopped belongs to this turn, so the next turn skips it.
        self._records_read = len(self._log.read_bytes().split(b"\n")) - 1

    def _signal(self, number: signal.Signals) -> None:
        for process in self.processes():
            with suppress(ProcessLookupError):
                os.kill(process, number)

    def processes(self) -> list[int]:
        """Return the ids of the process of the run and of all its descendants, parents first."""
        processes = [self._process.pid]
        for process in processes:  # The list grows in the loop, so that children of children are found.
            with suppress(OSError):
                for task in Path(f"/proc/{process}/task").iterdir():
                    processes += [int(child) for child in (task / "children").read_text().split()]
        return processes


def is_running(process: int) -> bool:
    """Return whether the process with this id exists and is neither stopped nor a zombie."""
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "TtZ"
