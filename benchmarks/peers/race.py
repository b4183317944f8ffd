"""Contenders of one number of users by turns, as many of them in memory at a time as fit."""

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
from ple_rec.text.units import gib

BASE_BYTES = 3 << 29  # of a contender beside its tables
_TOUCHED = 0.9  # of the memory that is available


@dataclass(frozen=True)
class Plan:
    """How long to measure.

    Args:
        turns: That count, of each way of each contender.
        steps: Of a turn, where they fit `seconds`.
        seconds: Of a turn, roughly; one step at least.
    """

    turns: int
    steps: int
    seconds: float

    def steps_of(self, step_seconds: float) -> int:
        """Of a turn."""
        return max(1, min(self.steps, round(self.seconds / step_seconds)))


@dataclass
class Series:
    """What one way of a contender showed.

    Args:
        mode: Which way.
        rates: Samples per second of each turn.
        steps: Of a turn.
    """

    mode: str
    rates: list[float] = field(default_factory=list)
    steps: int = 0

    @property
    def median(self) -> float:
        """Of the turns."""
        return statistics.median(self.rates)


@dataclass
class Result:
    """What a contender showed at one number of users.

    Args:
        contender: Which.
        series: By way; empty where it was not measured.
        peak_bytes: The most resident memory.
        versions: Of its packages.
        reason: Why it was not measured.
        failed: Whether that is an error of the contender.
    """

    contender: Contender
    series: list[Series] = field(default_factory=list)
    peak_bytes: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    reason: str = ""
    failed: bool = False

    @property
    def best(self) -> Series | None:
        """The way that counts."""
        return max(self.series, key=lambda series: series.median, default=None)

    def record(self) -> dict[str, Any]:
        """For JSON."""
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
    """Memory of a contender, as estimated."""
    return int(contender.table_copies * work.table_bytes) + BASE_BYTES


def groups_of(needs: Sequence[int], available: int) -> tuple[list[list[int]], list[int]]:
    """Which are in memory together, and which do not fit at all, as indices.

    Args:
        needs: Bytes of each.
        available: Bytes.
    """
    room = available * _TOUCHED
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
    """Memory that processes can still take without swapping."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/meminfo has no MemAvailable")


def race(
    contenders: Sequence[Contender], work: Workload, plan: Plan, root: Path, say: Callable[[str], None]
) -> list[Result]:
    """Measure all that fit; the others say why not."""
    folder = Path(work.folder)
    work.write(folder / "workload.json")
    available = available_bytes()
    needs = [needed_bytes(contender, work) for contender in contenders]
    groups, out = groups_of(needs, available)
    results = [Result(contender) for contender in contenders]
    for i in out:
        results[i].reason = f"needs about {gib(needs[i])}, and {gib(available)} are available"
        say(f"  {contenders[i].title}: left out, {results[i].reason}")
    for group in groups:
        if len(groups) > 1:
            say(f"  in memory now: {', '.join(contenders[i].title for i in group)}")
        _race_group([results[i] for i in group], work, plan, root, say)
    return results


def _race_group(results: Sequence[Result], work: Workload, plan: Plan, root: Path, say: Callable[[str], None]) -> None:
    folder = Path(work.folder)
    with ExitStack() as stack:
        running: list[tuple[Result, Child]] = []
        for result in results:  # one after the other: what they read and fill is much
            child = Child(
                result.contender, folder / "workload.json", folder / f"{result.contender.name}.log", work.threads, root
            )
            stack.enter_context(child)
            if _attempt(result, partial(_warm_up, result, child, work, plan), say):
                running.append((result, child))
                told = ", ".join(f"{series.mode} {series.steps}" for series in result.series)
                say(f"  {result.contender.title}: ready, steps a turn: {told}")
        for turn in range(1, plan.turns + 1):
            for result, child in list(running):
                if not _attempt(result, partial(_turn, result, child, plan), say):
                    running.remove((result, child))
            rates = [
                f"{r.contender.name} {'/'.join(f'{series.rates[-1]:,.0f}' for series in r.series)}" for r, _ in running
            ]
            say(f"  turn {turn} of {plan.turns}, samples/s: {'; '.join(rates)}")


def _attempt(result: Result, attempt: Callable[[], None], say: Callable[[str], None]) -> bool:
    """Whether it did not fail; a contender that fails does not end the others."""
    try:
        attempt()
    except PleRecError as error:
        result.series, result.reason, result.failed = [], str(error), True
        say(f"  {result.contender.title}: failed, {error}")
        return False
    return True


def _warm_up(result: Result, child: Child, work: Workload, plan: Plan) -> None:
    """One step of each way, and a few more that say how many are a turn."""
    ready = child.receive()
    result.versions = ready["versions"]
    for mode in ready["ready"]:
        child.run(mode, 1, 0)
        answer = child.run(mode, 2, 0)
        step_seconds = answer["seconds"] / (answer["samples"] / work.batch_size)
        result.series.append(Series(mode, steps=plan.steps_of(step_seconds)))


def _turn(result: Result, child: Child, plan: Plan) -> None:
    for series in result.series:
        answer = child.run(series.mode, series.steps, 1 if series.steps == plan.steps else 0)
        series.rates.append(answer["samples"] / answer["seconds"])
        result.peak_bytes = answer["peak_bytes"]
