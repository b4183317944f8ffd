"""Measure the contenders on one workload in turn. If memory does not hold all of them, they run in groups that fit."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.peers.child import Child, Contender
from benchmarks.peers.workload import Workload
from ple_rec.errors import PleRecError
from ple_rec.text.units import gib_text

# Estimated memory of a contender without its tables: 1.5 GiB.
BASE_BYTES = 3 << 29
# Share of the available memory that the contenders of a group may take together.
_MAX_MEMORY_SHARE = 0.9


@dataclass(frozen=True)
class RacePlan:
    """Length of a race.

    Args:
        turns: Number of measured turns of each mode of each contender.
        steps: Largest number of steps of a turn.
        seconds: Approximate duration of a turn, which has at least one step.
    """

    turns: int
    steps: int
    seconds: float

    def steps_per_turn(self, step_seconds: float) -> int:
        """Return the number of steps of a turn, for a contender whose step takes `step_seconds`."""
        return max(1, min(self.steps, round(self.seconds / step_seconds)))


@dataclass
class RateSeries:
    """Rates of one mode of a contender, that is, of one way to feed it with batches.

    Args:
        mode: Name of the mode, such as "own loop".
        rates: Samples per second of each turn.
        steps: Number of steps of a turn.
    """

    mode: str
    rates: list[float] = field(default_factory=list)
    steps: int = 0

    @property
    def median(self) -> float:
        """Median rate of the turns."""
        return statistics.median(self.rates)


@dataclass
class ContenderResult:
    """Measured rates of a contender at one number of users.

    Args:
        contender: Contender that was measured.
        series: Rates of each of its modes; empty if it was not measured.
        peak_bytes: Largest resident memory.
        versions: Versions of its packages, by name.
        reason: Reason why it was not measured; empty if it was.
        failed: True if the reason is an error of the contender.
    """

    contender: Contender
    series: list[RateSeries] = field(default_factory=list)
    peak_bytes: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    reason: str = ""
    failed: bool = False

    @property
    def best(self) -> RateSeries | None:
        """Rates of the fastest mode, which count for the contender; None if it was not measured."""
        return max(self.series, key=lambda series: series.median, default=None)

    def record(self) -> dict[str, Any]:
        """Return the results as JSON values."""
        modes = {
            series.mode: {
                "rates": series.rates,
                "median": series.median,
                "min": min(series.rates),
                "max": max(series.rates),
                "steps": series.steps,
            }
            for series in self.series
        }
        best = self.best
        return {
            "title": self.contender.title,
            "best": best.mode if best else None,
            "modes": modes,
            "peak_bytes": self.peak_bytes,
            "versions": self.versions,
            "reason": self.reason,
        }


def needed_bytes(contender: Contender, work: Workload) -> int:
    """Return the estimated memory of a contender."""
    return int(contender.table_copies * work.table_bytes) + BASE_BYTES


def group_by_memory(needs: Sequence[int], available: int) -> tuple[list[list[int]], list[int]]:
    """Group contenders by which of them are in memory together.

    Args:
        needs: Estimated bytes of each contender.
        available: Available bytes.

    Returns:
        Indices of the contenders of each group, and those of the contenders that do not fit at all.
    """
    room = available * _MAX_MEMORY_SHARE
    groups: list[list[int]] = []
    for i, need in enumerate(needs):
        if need > room:
            continue
        if groups and sum(needs[j] for j in groups[-1]) + need <= room:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups, [i for i, need in enumerate(needs) if need > room]


def available_bytes() -> int:
    """Return the memory that processes can still take without swapping."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/meminfo has no MemAvailable")


def race(
    contenders: Sequence[Contender], work: Workload, plan: RacePlan, root: Path, say: Callable[[str], None]
) -> list[ContenderResult]:
    """Measure the contenders, in groups that fit into memory together.

    A contender that does not fit alone, or that fails, has a result with the reason.
    """
    folder = Path(work.folder)
    work.write(folder / "workload.json")
    available = available_bytes()
    needs = [needed_bytes(contender, work) for contender in contenders]
    groups, too_large = group_by_memory(needs, available)
    results = [ContenderResult(contender) for contender in contenders]
    for i in too_large:
        results[i].reason = f"needs about {gib_text(needs[i])}, and {gib_text(available)} are available"
        say(f"  {contenders[i].title}: left out, {results[i].reason}")
    for group in groups:
        if len(groups) > 1:
            say(f"  in memory now: {', '.join(contenders[i].title for i in group)}")
        _race_group([results[i] for i in group], work, plan, root, say)
    return results


def _race_group(
    results: Sequence[ContenderResult], work: Workload, plan: RacePlan, root: Path, say: Callable[[str], None]
) -> None:
    folder = Path(work.folder)
    with ExitStack() as stack:
        running: list[tuple[ContenderResult, Child]] = []
        # Contenders start one after the other, since each is busy with reading its rows and filling its tables.
        for result in results:
            child = Child(
                result.contender, folder / "workload.json", folder / f"{result.contender.name}.log", work.threads, root
            )
            stack.enter_context(child)
            if _attempt(result, partial(_warm_up, result, child, work, plan), say):
                running.append((result, child))
                steps = ", ".join(f"{series.mode} {series.steps}" for series in result.series)
                say(f"  {result.contender.title}: ready, steps a turn: {steps}")
        for turn in range(1, plan.turns + 1):
            for result, child in list(running):
                if not _attempt(result, partial(_run_turn, result, child, plan), say):
                    running.remove((result, child))
            rates = [
                f"{r.contender.name} {'/'.join(f'{series.rates[-1]:,.0f}' for series in r.series)}" for r, _ in running
            ]
            say(f"  turn {turn} of {plan.turns}, samples/s: {'; '.join(rates)}")


def _attempt(result: ContenderResult, attempt: Callable[[], None], say: Callable[[str], None]) -> bool:
    """Run a part of the race of one contender. If it fails, record the failure and return False; the others go on."""
    try:
        attempt()
    except PleRecError as error:
        result.series, result.reason, result.failed = [], str(error), True
        say(f"  {result.contender.title}: failed, {error}")
        return False
    return True


def _warm_up(result: ContenderResult, child: Child, work: Workload, plan: RacePlan) -> None:
    """Make one step in each mode, then two more, whose duration determines the number of steps of a turn."""
    ready = child.receive()
    result.versions = ready["versions"]
    for mode in ready["ready"]:
        child.run(mode, 1, 0)
        answer = child.run(mode, 2, 0)
        step_seconds = answer["seconds"] / (answer["samples"] / work.batch_size)
        result.series.append(RateSeries(mode, steps=plan.steps_per_turn(step_seconds)))


def _run_turn(result: ContenderResult, child: Child, plan: RacePlan) -> None:
    for series in result.series:
        # A step warms up, unless steps are so slow that a turn has fewer than `plan.steps` of them.
        answer = child.run(series.mode, series.steps, 1 if series.steps == plan.steps else 0)
        series.rates.append(answer["samples"] / answer["seconds"])
        result.peak_bytes = answer["peak_bytes"]
