"""Operators of a training step and the host's time for them, by region of the step.

`count_steps` trains with the real training loop, and its profile counts. Each operator that computes or copies is a
launch on a GPU, which costs the host a few microseconds; an operator that returns a view or an empty tensor launches
nothing and does not count. The regions are those of `ple_rec.training.profiler.regions`.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from ple_rec.data.batch import Batch
from ple_rec.runs.directory import RunDirectory
from ple_rec.training.context import TrainContext
from ple_rec.training.loop import train_steps
from ple_rec.training.profiler.regions import REGIONS, Region, RegionClocks, TableRegionHooks
from ple_rec.training.profiler.session import NoProfile

# The first steps create states of optimizers and caches of kernels.
_WARM_UP_STEPS = 4
# Operators that read one value on the host, which waits for the device.
_HOST_READS = ("aten::_local_scalar_dense", "aten::nonzero")
# Operators that compute and copy nothing.
_NO_LAUNCH = ("aten::empty", "aten::new_empty", "aten::detach", "aten::lift", "aten::is_", "prim::", "profiler::")


@dataclass
class StepCounts:
    """Counts and times of some training steps.

    Args:
        operators: Operators of each counted step, by region and name.
        host_reads: Values that the host read in each counted step, by region.
        seconds: Seconds of each timed step, by region. On a GPU they are the time of the host, which launches the work.
    """

    operators: list[Counter[tuple[str, str]]] = field(default_factory=list)
    host_reads: list[Counter[str]] = field(default_factory=list)
    seconds: list[dict[Region, float]] = field(default_factory=list)

    def by_region(self, step: int) -> Counter[str]:
        """Return the number of operators of one counted step in each region.

        Args:
            step: Index of the step among the counted ones.
        """
        counts: Counter[str] = Counter()
        for (region, _), count in self.operators[step].items():
            counts[region] += count
        return counts

    def mean_by_region(self) -> dict[Region, float]:
        """Return the mean number of operators of a counted step in each region."""
        steps = [self.by_region(step) for step in range(len(self.operators))]
        return {region: statistics.fmean(step[region] for step in steps) for region in REGIONS}

    def median_seconds(self, region: Region) -> float:
        """Return the median over the timed steps of the seconds in one region."""
        return statistics.median(seconds[region] for seconds in self.seconds)

    def host_seconds(self) -> list[float]:
        """Return the host's seconds of each timed step, ascending, without its waiting for data."""
        return sorted(sum(seconds.values()) - seconds["data wait"] for seconds in self.seconds)


def count_steps(context: TrainContext, run: Path, *, counted: int, timed: int = 0) -> StepCounts:
    """Train some steps with the training loop of a run, and return their counts and times (a collective).

    Args:
        context: Context of the run, with steps left when the last timed step is done.
        run: Empty directory for the log of the run.
        counted: Number of steps whose operators are counted, after a few steps to warm up.
        timed: Number of further steps that are timed, without counting.
    """
    profile = _CountingProfile(context, counted, timed)
    try:
        train_steps(context, RunDirectory(run, run), resume=False, profile=profile)
    except _AllStepsDoneError:
        return profile.counts
    raise ValueError(f"the run ended before {counted} counted and {timed} timed steps")


class _AllStepsDoneError(Exception):
    """End of the training loop, before it evaluates and saves."""


class _HostClocks(RegionClocks):
    """Clocks of the host's time, which never wait for the device."""

    def now(self) -> float:
        """Return the time."""
        return time.perf_counter()


class _CountingMode(TorchDispatchMode):
    """Mode that counts the operators that run inside it.

    Args:
        clocks: Clocks that know the current region.
    """

    def __init__(self, clocks: RegionClocks) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._clocks = clocks
        self.operators: Counter[tuple[str, str]] = Counter()
        self.host_reads: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Count an operator and run it."""
        name = func.name()
        if name.startswith(_HOST_READS):
            self.host_reads[self._clocks.current] += 1
        elif not name.startswith(_NO_LAUNCH) and not _returns_view(func):
            self.operators[self._clocks.current, name] += 1
        return func(*args, **(kwargs or {}))


class _CountingProfile(NoProfile):
    """Profile that counts the operators of some steps, times some further steps, and then ends the training loop."""

    def __init__(self, context: TrainContext, counted: int, timed: int) -> None:
        self.regions: RegionClocks = _HostClocks(context.ranks.device)
        self.counts = StepCounts()
        self._context, self._counted, self._timed = context, counted, timed
        self._hooks: TableRegionHooks | None = None
        self._stack = ExitStack()
        self._mode: _CountingMode | None = None
        self._steps = 0

    def begin(self, steps_done: int, remaining_steps: int, is_interrupted_after: Callable[[int], bool]) -> None:
        """Open the regions of the tables."""
        self._hooks = TableRegionHooks(self._context.model, self.regions)

    def step(self, batch: Batch) -> float:
        """Take the counts or times of the step that has just ended, and begin those of the next one."""
        self._steps += 1
        if self._mode is not None:
            self.counts.operators.append(self._mode.operators)
            self.counts.host_reads.append(self._mode.host_reads)
            self._end_mode()
        elif self._steps > _WARM_UP_STEPS:
            self.counts.seconds.append(self.regions.end())
        done = self._steps - _WARM_UP_STEPS
        if done == self._counted + self._timed:
            raise _AllStepsDoneError
        if done >= 0:
            self.regions.begin("timed")
        if 0 <= done < self._counted:
            self._mode = _CountingMode(self.regions)
            self._stack.enter_context(self._mode)
        return 0.0

    def close(self) -> None:
        """Stop counting and remove the hooks."""
        self._end_mode()
        self.regions.begin(None)
        if self._hooks is not None:
            self._hooks.remove()

    def _end_mode(self) -> None:
        self._stack.close()
        self._mode = None


def _returns_view(func: OpOverload) -> bool:
    """Return True if an operator returns a view of an argument, and does not write to it."""
    aliases = (result.alias_info for result in func._schema.returns)
    return any(alias is not None and not alias.is_write for alias in aliases)
