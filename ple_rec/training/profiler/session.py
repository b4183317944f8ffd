"""Profile of a training run: measurements of what takes the time of a step, made in a few steps of the training.

The time of a step is divided into regions, for example "data wait", "lookup" or "dense backward"; the module `regions`
lists them. After some steps to warm up, clocks time the regions of about 20 steps. Then `torch.profiler` traces 3
steps, and training goes on without measurements. The module `schedule` chooses these steps, fewer in a short run. The
results are written to `profile/` of the run directory: a summary of all ranks in `step.json` and `step.txt`, and a
trace of each rank.

Every rank has to call a method that is marked as a collective.
"""

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
from ple_rec.runs.layout import PROFILE, explain_write_errors, write_bytes, write_json, write_text
from ple_rec.storage import Location, make_directory
from ple_rec.training.context import TrainContext
from ple_rec.training.profiler.breakdown import Operator, RankProfile, Span, advice, breakdown, format_breakdown
from ple_rec.training.profiler.regions import NO_REGIONS, RegionClocks, Regions, TableRegionHooks
from ple_rec.training.profiler.schedule import Schedule, check_steps, choose_steps

# Number of operators that the summary lists.
_OPERATORS = 5
# Autograd function of the dense layers on a CPU, which waits for other threads. It is not listed, because the operators
# on those threads are, and their time would count twice.
_BLOCKS = "_Blocked"


class NoProfile:
    """Profile that does nothing, for a run that is not profiled; also the interface of a profile."""

    regions: Regions = NO_REGIONS

    def begin(self, steps_done: int, remaining_steps: int, is_interrupted_after: Callable[[int], bool]) -> None:
        """Choose the steps to profile, when the training loop begins (a collective).

        Args:
            steps_done: Number of steps done before the loop begins.
            remaining_steps: Number of steps that the loop will train.
            is_interrupted_after: Function of the number of steps done, which returns True if an evaluation or a
                checkpoint follows.
        """

    def step(self, batch: Batch) -> float:
        """Count a step after it has been trained and reported, and return the seconds of this call (a collective).

        The training loop does not count these seconds as training time.
        """
        return 0.0

    def close(self) -> None:
        """End the profile when the training loop ends, even if the loop raised an error."""


NO_PROFILE = NoProfile()


class _Stopwatch:
    """Counter of steps, samples and seconds since its creation, without the time of evaluations and checkpoints.

    Args:
        clocks: Clocks of the regions, which also count the seconds of the pauses.
    """

    def __init__(self, clocks: RegionClocks) -> None:
        self._clocks = clocks
        self._steps = self._samples = 0
        self._started, self._paused, self._cpu = clocks.now(), clocks.paused_seconds, time.process_time()

    def step(self, batch: Batch) -> None:
        """Count a step."""
        self._steps += 1
        self._samples += batch.rows

    def span(self) -> Span:
        """Return the number of steps, samples and seconds since the creation."""
        seconds = self._clocks.now() - self._started - (self._clocks.paused_seconds - self._paused)
        return Span(self._steps, self._samples, seconds)

    def cpu_seconds(self) -> float:
        """Return the CPU seconds of all threads of the process since the creation."""
        return time.process_time() - self._cpu


class StepProfile(NoProfile):
    """Profile of a few steps, printed on rank 0 and written to `profile/` of the run directory.

    Args:
        context: Context of the run.
        run: Directory of the run.
        say: Function that prints a text.
        strict: True to raise an error for a run with too few steps; False to train it without a profile.
    """

    def __init__(
        self, context: TrainContext, run: RunDirectory, say: Callable[[str], None], *, strict: bool = True
    ) -> None:
        self.regions: RegionClocks = RegionClocks(context.ranks.device)
        self._context, self._say, self._strict = context, say, strict
        self._run, self._dir = run, run / PROFILE
        self._schedule: Schedule | None = None
        self._hooks: TableRegionHooks | None = None
        self._profiler: Any = None
        self._finished = False

    def begin(self, steps_done: int, remaining_steps: int, is_interrupted_after: Callable[[int], bool]) -> None:
        """Choose the steps to profile, when the training loop begins, and empty the folder `profile/` (a collective).

        Raises:
            UserError: There are too few steps and `strict` is True, or the folder of the profile cannot be written.
        """
        try:
            check_steps(remaining_steps)
        except UserError as error:
            if self._strict:
                raise
            self._print(f"no profile: {error.value}; {error.rule}")
            return
        run_on_rank_zero(self._replace_folder)
        self._schedule = choose_steps(steps_done, remaining_steps, is_interrupted_after)
        if self._schedule.is_short:
            self._print(
                f"profile: {remaining_steps} step(s) are too few for a full profile: "
                f"{self._schedule.timed_start - steps_done} to warm up, "
                f"{self._schedule.traced_start - self._schedule.timed_start} timed, "
                f"{self._schedule.end - self._schedule.traced_start} traced"
            )
        self._done, self._stopwatch = steps_done, _Stopwatch(self.regions)

    def step(self, batch: Batch) -> float:
        """Count a step, start or end a phase of the profile, and return the seconds of this call (a collective)."""
        if self._schedule is None or self._finished:
            return 0.0
        started = time.perf_counter()
        self._done += 1
        self._stopwatch.step(batch)
        if self._profiler is not None:
            self._profiler.step()
        # The speed without any profiling is measured in the second half of the warm-up.
        if self._done == self._schedule.baseline:
            self._stopwatch = _Stopwatch(self.regions)
        if self._done == self._schedule.timed_start:
            self._before = self._stopwatch.span()
            self._hooks = TableRegionHooks(self._context.model, self.regions)
            self._stopwatch = _Stopwatch(self.regions)
            self.regions.begin("timed")
        elif self._done == self._schedule.traced_start:
            self._cpu_seconds, self._timed = self._stopwatch.cpu_seconds(), self._stopwatch.span()
            self._seconds = self.regions.end()
            self._start_profiler()
            self.regions.begin("traced")
            self._stopwatch = _Stopwatch(self.regions)
        elif self._done == self._schedule.end:
            self._finish()
        return time.perf_counter() - started

    def close(self) -> None:
        """End the profile when the training loop ends, and print a line if the profile is not complete."""
        self.regions.begin(None)
        self._stop()
        if self._schedule is not None and not self._finished:
            self._print(
                f"no profile: training ended at step {self._done:,}, before the profile's last step, "
                f"{self._schedule.end:,}"
            )

    def _print(self, text: str) -> None:
        if self._context.ranks.is_main:
            self._say(text)

    def _replace_folder(self) -> None:
        # An earlier profile of this run may have traces of more ranks, which must not be mixed with the new ones.
        self._run.remove([PROFILE])
        with explain_write_errors(self._dir):
            make_directory(self._dir)

    def _start_profiler(self) -> None:
        # Without this variable, the profiler of each process prints lines when it starts and stops.
        os.environ.setdefault("KINETO_LOG_LEVEL", "6")
        cuda = self._context.ranks.device.type == "cuda"
        self._profiler = profile(
            activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])],
            # On a CPU, other threads compute the dense layers, each for some rows of the batch.
            experimental_config=_ExperimentalConfig(profile_all_threads=True),
        )
        self._profiler.start()

    def _finish(self) -> None:
        """Write the trace of this rank; gather the measurements of all ranks and report them on rank 0."""
        traced = self._stopwatch.span()
        self.regions.begin(None)
        profiler = self._profiler
        self._stop()
        self._finished = True
        context, cuda = self._context, self._context.ranks.device.type == "cuda"
        context.ranks.watch.mark(f"the profile of step {self._done}")
        trace_error = self._write_trace(profiler)
        operators, total = _operators(profiler, cuda=cuda)
        own_profile = RankProfile(
            context.ranks.rank,
            socket.gethostname(),
            self._timed,
            self._seconds,
            self._cpu_seconds,
            traced,
            self._before,
            operators,
            total,
        )
        gathered: list[Any] = [None] * context.ranks.world_size
        dist.all_gather_object(gathered, (own_profile, trace_error))
        if context.ranks.is_main:
            self._report([rank_profile for rank_profile, _ in gathered], [error for _, error in gathered if error])

    def _stop(self) -> None:
        if self._hooks is not None:
            self._hooks.remove()
        if self._profiler is not None:
            self._profiler.stop()
        self._hooks = self._profiler = None

    def _trace(self, rank: int) -> Location:
        return self._dir / f"trace-rank{rank}.json.gz"

    def _write_trace(self, profiler: Any) -> str | None:
        """Write the trace of this rank; return the text of the error if it cannot be written, else None."""
        try:
            with tempfile.TemporaryDirectory() as folder:
                plain = Path(folder) / "trace.json"
                profiler.export_chrome_trace(str(plain))
                write_bytes(self._trace(self._context.ranks.rank), gzip.compress(plain.read_bytes(), compresslevel=6))
        except (UserError, OSError) as error:
            return f"rank {self._context.ranks.rank}: {error}"
        return None

    def _report(self, ranks: list[RankProfile], errors: list[str]) -> None:
        """Print the summary of all ranks and write it.

        Errors of writing are only printed, since a profile must not end the training.

        Args:
            ranks: Measurements of each rank.
            errors: Messages of the ranks whose trace could not be written.
        """
        assert self._schedule is not None
        context, cuda = self._context, self._context.ranks.device.type == "cuda"
        summary = breakdown(ranks)
        summary |= {
            "first_step": self._schedule.timed_start + 1,
            "traced_steps": self._schedule.end - self._schedule.traced_start,
            "device": context.ranks.device.type,
            "threads": context.ranks.threads,
            "clock": "device-synchronised" if cuda else "host",
            "operators_of": "the device" if cuda else "the host",
            "notes": self._notes(cuda=cuda),
            "advice": advice(summary, context.config, context.pipeline),
            "traces": [str(self._trace(rank_profile.rank)) for rank_profile in ranks],
        }
        text = format_breakdown(summary)
        self._say(f"\n{text}")
        try:
            write_json(self._dir / "step.json", summary)
            write_text(self._dir / "step.txt", text)
        except UserError as error:
            errors.append(str(error))
        for error_text in errors:
            self._say(f"a file of the profile is missing, training goes on: {error_text}")

    def _notes(self, *, cuda: bool) -> list[str]:
        """Return notes on how the times of this profile differ from those of other steps."""
        assert self._schedule is not None
        notes = []
        if cuda:
            notes.append(
                "times are device-synchronised: the host waits for the device where a region begins and ends, so "
                "exchanges and copies, which overlap with other work in normal steps, count in full here"
            )
        every = self._context.config.train.report_every
        reports = sum(
            step % every == 0 for step in range(self._schedule.timed_start + 1, self._schedule.traced_start + 1)
        )
        steps = self._schedule.traced_start - self._schedule.timed_start
        # With no report in the timed steps, or with more than twice as many as on average, the time of logging differs
        # from its average over the run. With fewer than one report in 1,000 steps, that average is negligible.
        if reports * every > 2 * steps or (reports == 0 and every <= 1000):
            notes.append(
                f"the time of logging is that of {reports} report(s) in {steps} steps; the run has one report in "
                f"{every} steps (train.report_every), and one at each checkpoint"
            )
        return notes


def _operators(profiler: Any, *, cuda: bool) -> tuple[tuple[Operator, ...], float]:
    """Return the operators that took most time, and the seconds of all operators, by which shares are computed.

    These seconds are never 0: if no operator took any time, they are 1.
    """

    def seconds(event: Any) -> float:
        return 1e-6 * float(event.self_device_time_total if cuda else event.self_cpu_time_total)

    events = [e for e in profiler.key_averages() if not e.is_user_annotation and e.key != _BLOCKS]
    most = sorted(events, key=seconds, reverse=True)[:_OPERATORS]
    return tuple(Operator(e.key, seconds(e), e.count) for e in most), sum(map(seconds, events)) or 1.0
