"""`ple-rec train --profile`: some steps of a run timed region by region, a few traced, then training as always."""

from __future__ import annotations

import gzip
import os
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch._C._profiler import _ExperimentalConfig
from torch.profiler import ProfilerActivity, profile

from ple_rec.data.batch import Batch
from ple_rec.distributed.collectives import run_on_rank_zero
from ple_rec.errors import UserError
from ple_rec.runs.directory import RunDirectory
from ple_rec.runs.layout import PROFILE, write_bytes, write_json, write_text, writing
from ple_rec.storage import Location, make_directory
from ple_rec.training.context import TrainContext
from ple_rec.training.profiler.breakdown import Operator, RankProfile, Span, advice, breakdown, format_breakdown
from ple_rec.training.profiler.regions import OFF, RegionClocks, Regions, TableMarks
from ple_rec.training.profiler.schedule import Schedule, check_steps, schedule

_OPERATORS = 5  # shown in the text
_BLOCKS = "_Blocked"  # waits while other threads compute, whose operators are listed instead


class Unprofiled:
    """The profile of a run that has none: what the loop calls does nothing."""

    regions: Regions = OFF

    def begin(self, done: int, left: int, pauses: Callable[[int], bool]) -> None:
        """Plan the profile when the loop begins (a collective).

        Args:
            done: Steps done before.
            left: Steps that follow.
            pauses: Returns whether an evaluation or a checkpoint follows a step.
        """

    def step(self, batch: Batch) -> float:
        """Count a step, once it is done and reported (a collective), and return the seconds that this call took."""
        return 0.0

    def close(self) -> None:
        """End with the loop, wherever it ended."""


UNPROFILED = Unprofiled()


class _Stopwatch:
    """Steps, samples and seconds since it was made, without pauses.

    Args:
        clocks: Clocks that know the pauses.
    """

    def __init__(self, clocks: RegionClocks) -> None:
        self._clocks = clocks
        self._steps = self._samples = 0
        self._begun, self._paused, self._cpu = clocks.now(), clocks.paused_seconds, time.process_time()

    def step(self, batch: Batch) -> None:
        """Count a step."""
        self._steps += 1
        self._samples += batch.rows

    def span(self) -> Span:
        """Return the steps since then."""
        seconds = self._clocks.now() - self._begun - (self._clocks.paused_seconds - self._paused)
        return Span(self._steps, self._samples, seconds)

    def cpu_seconds(self) -> float:
        """Return the CPU seconds of all threads of the process since then."""
        return time.process_time() - self._cpu


class StepProfile(Unprofiled):
    """Times and traces the steps of `schedule`, prints on rank 0 and writes below `profile/` of the run directory.

    Args:
        job: Run that is profiled.
        run: Directory of the run.
        say: Prints a line.
        strict: True to refuse a run with too few steps; else it is trained without a profile.
    """

    def __init__(
        self, job: TrainContext, run: RunDirectory, say: Callable[[str], None], *, strict: bool = True
    ) -> None:
        self.regions: RegionClocks = RegionClocks(job.ranks.device)
        self._job, self._say, self._strict = job, say, strict
        self._run, self._dir = run, run / PROFILE
        self._schedule: Schedule | None = None
        self._marks: TableMarks | None = None
        self._profiler: Any = None
        self._finished = False

    def begin(self, done: int, left: int, pauses: Callable[[int], bool]) -> None:
        """Plan the profile when the loop begins (a collective).

        Raises:
            UserError: there are too few steps, or no file can be written.
        """
        try:
            check_steps(left)
        except UserError as error:
            if self._strict:
                raise
            self._print(f"no profile: {error.value}; {error.rule}")
            return
        run_on_rank_zero(self._make_room)
        self._schedule = schedule(done, left, pauses)
        if self._schedule.is_short:
            self._print(
                f"profile: {left} step(s) are too few for a good one: {self._schedule.timed - done} to warm up, "
                f"{self._schedule.traced - self._schedule.timed} timed, {self._schedule.end - self._schedule.traced} "
                "traced"
            )
        self._done, self._watch = done, _Stopwatch(self.regions)

    def step(self, batch: Batch) -> float:
        """Count a step, once it is done and reported (a collective), and return the seconds that this call took."""
        if self._schedule is None or self._finished:
            return 0.0
        begun = time.perf_counter()
        self._done += 1
        self._watch.step(batch)
        if self._profiler is not None:
            self._profiler.step()
        if self._done == self._schedule.pace:
            self._watch = _Stopwatch(self.regions)
        if self._done == self._schedule.timed:
            self._before = self._watch.span()
            self._marks = TableMarks(self._job.model, self.regions)
            self._watch = _Stopwatch(self.regions)
            self.regions.begin("timed")
        elif self._done == self._schedule.traced:
            self._cpu_seconds, self._timed = self._watch.cpu_seconds(), self._watch.span()
            self._seconds = self.regions.end()
            self._start_profiler()
            self.regions.begin("traced")
            self._watch = _Stopwatch(self.regions)
        elif self._done == self._schedule.end:
            self._finish()
        return time.perf_counter() - begun

    def close(self) -> None:
        """End with the loop, and say so where the profile is not whole by then."""
        self.regions.begin(None)
        self._stop()
        if self._schedule is not None and not self._finished:
            self._print(
                f"no profile: training ended at step {self._done:,}, and it would have been whole at step "
                f"{self._schedule.end:,}"
            )

    def _print(self, text: str) -> None:
        if self._job.ranks.is_main:
            self._say(text)

    def _make_room(self) -> None:
        self._run.remove([PROFILE])  # An earlier profile may be of more ranks.
        with writing(self._dir):
            make_directory(self._dir)

    def _start_profiler(self) -> None:
        os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # or each process writes when it starts and stops
        cuda = self._job.ranks.device.type == "cuda"
        self._profiler = profile(
            activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])],
            experimental_config=_ExperimentalConfig(profile_all_threads=True),  # those that take blocks of rows too
        )
        self._profiler.start()

    def _finish(self) -> None:
        traced = self._watch.span()
        self.regions.begin(None)
        profiler = self._profiler
        self._stop()
        self._finished = True
        job, cuda = self._job, self._job.ranks.device.type == "cuda"
        job.ranks.watch.mark(f"the profile of step {self._done}")
        failed = self._write_trace(profiler)
        operators, total = _operators(profiler, cuda=cuda)
        own = RankProfile(
            job.ranks.rank,
            socket.gethostname(),
            self._timed,
            self._seconds,
            self._cpu_seconds,
            traced,
            self._before,
            operators,
            total,
        )
        every: list[Any] = [None] * job.ranks.world_size
        dist.all_gather_object(every, (own, failed))
        if job.ranks.is_main:
            self._report([one for one, _ in every], [error for _, error in every if error])

    def _stop(self) -> None:
        if self._marks is not None:
            self._marks.remove()
        if self._profiler is not None:
            self._profiler.stop()
        self._marks = self._profiler = None

    def _trace(self, rank: int) -> Location:
        return self._dir / f"trace-rank{rank}.json.gz"

    def _write_trace(self, profiler: Any) -> str | None:
        """Write the trace of this rank; return what kept it from being written, if anything did."""
        try:
            with tempfile.TemporaryDirectory() as folder:
                plain = Path(folder) / "trace.json"
                profiler.export_chrome_trace(str(plain))
                write_bytes(self._trace(self._job.ranks.rank), gzip.compress(plain.read_bytes(), compresslevel=6))
        except (UserError, OSError) as error:
            return f"rank {self._job.ranks.rank}: {error}"
        return None

    def _report(self, ranks: list[RankProfile], failed: list[str]) -> None:
        """Print and write the summary; a full disk ends no training that has begun."""
        assert self._schedule is not None
        job, cuda = self._job, self._job.ranks.device.type == "cuda"
        summary = breakdown(ranks)
        summary |= {
            "first_step": self._schedule.timed + 1,
            "traced_steps": self._schedule.end - self._schedule.traced,
            "device": job.ranks.device.type,
            "threads": job.ranks.threads,
            "clock": "device-synchronised" if cuda else "host",
            "operators_of": "the device" if cuda else "the host",
            "notes": self._notes(cuda=cuda),
            "advice": advice(summary, job.config),
            "traces": [str(self._trace(one.rank)) for one in ranks],
        }
        text = format_breakdown(summary)
        self._say(f"\n{text}")
        try:
            write_json(self._dir / "step.json", summary)
            write_text(self._dir / "step.txt", text)
        except UserError as error:
            failed.append(str(error))
        for error_text in failed:
            self._say(f"the profile is not whole, training goes on: {error_text}")

    def _notes(self, *, cuda: bool) -> list[str]:
        assert self._schedule is not None
        notes = []
        if cuda:
            notes.append(
                "times are device-synchronised: the device is waited for where a region begins and ends, so that what "
                "overlaps in other steps, exchanges and copies above all, stands in full length here"
            )
        every = self._job.config.train.report_every
        reports = sum(step % every == 0 for step in range(self._schedule.timed + 1, self._schedule.traced + 1))
        steps = self._schedule.traced - self._schedule.timed
        if reports * every > 2 * steps or (reports == 0 and every <= 1000):
            notes.append(
                f"logging is that of {reports} report(s) in {steps} steps; the run has one in {every} "
                "(train.report_every), and one at each checkpoint"
            )
        return notes


def _operators(profiler: Any, *, cuda: bool) -> tuple[tuple[Operator, ...], float]:
    """Return the most expensive operators, and the seconds of all."""

    def seconds(event: Any) -> float:
        return 1e-6 * float(event.self_device_time_total if cuda else event.self_cpu_time_total)

    events = [e for e in profiler.key_averages() if not e.is_user_annotation and e.key != _BLOCKS]
    most = sorted(events, key=seconds, reverse=True)[:_OPERATORS]
    return tuple(Operator(e.key, seconds(e), e.count) for e in most), sum(map(seconds, events)) or 1.0
