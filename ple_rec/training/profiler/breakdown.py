"""The measurements of all ranks in one summary: `step.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ple_rec.training.profiler.regions import REGIONS, Region

# Regions in which a rank waits for others, so that their time says little of its own work.
EXCHANGES: tuple[Region, ...] = ("input distribution", "output distribution", "gradient exchange")


@dataclass(frozen=True)
class Span:
    """Steps of a rank one after the other: how many, their samples and their seconds."""

    steps: int
    samples: int
    seconds: float


@dataclass(frozen=True)
class Operator:
    """Time of one operator over the traced steps of a rank, without that of the operators that it called."""

    name: str
    seconds: float
    calls: int


@dataclass(frozen=True)
class RankProfile:
    """Measurements of one rank.

    Args:
        rank: Number of the rank.
        host: Host that it runs on.
        timed: Steps whose regions were timed.
        seconds: Seconds of each region over those steps.
        cpu_seconds: CPU seconds of all threads of the process over the same steps.
        traced: Steps under the profiler.
        before: Earlier steps with neither; none of them in a short run.
        operators: Most expensive operators over the traced steps.
        operators_seconds: Seconds of all operators over the traced steps.
    """

    rank: int
    host: str
    timed: Span
    seconds: Mapping[Region, float]
    cpu_seconds: float
    traced: Span
    before: Span
    operators: tuple[Operator, ...]
    operators_seconds: float

    @property
    def own_seconds(self) -> float:
        """Seconds of the rank's own work: all regions but the exchanges and what no region holds."""
        return sum(seconds for region, seconds in self.seconds.items() if region not in (*EXCHANGES, "other"))


def rate(spans: Sequence[Span]) -> float | None:
    """Return the samples a second over all ranks; None where a rank has no such steps."""
    if not all(span.steps and span.seconds > 0 for span in spans):
        return None
    return sum(span.samples for span in spans) / max(span.seconds for span in spans)


def breakdown(ranks: Sequence[RankProfile]) -> dict[str, Any]:
    """Return a step of the slowest rank, region by region, and how far the ranks lie apart.

    The ranks of a step end together, so the slowest one is that with the most work of its own: the others wait for it.
    """
    slowest = max(ranks, key=lambda one: one.own_seconds)
    whole = sum(slowest.seconds.values())
    regions = {}
    for region in REGIONS:
        each = [1e3 * one.seconds[region] / one.timed.steps for one in ranks]
        own = slowest.seconds[region]
        regions[region] = {
            "ms": 1e3 * own / slowest.timed.steps,
            "share": own / whole,
            "min_ms": min(each),
            "max_ms": max(each),
        }
    traced = slowest.traced
    return {
        "rank": slowest.rank,
        "host": slowest.host,
        "world_size": len(ranks),
        "steps": slowest.timed.steps,
        "step_ms": 1e3 * whole / slowest.timed.steps,
        "wall_ms": 1e3 * slowest.timed.seconds / slowest.timed.steps,
        "regions": regions,
        "cores_busy": slowest.cpu_seconds / whole,
        "samples_per_second": {
            "timed": rate([one.timed for one in ranks]),
            "traced": rate([one.traced for one in ranks]),
            "before": rate([one.before for one in ranks]),
        },
        "operators": [
            {
                "name": operator.name,
                "ms": 1e3 * operator.seconds / traced.steps,
                "share": operator.seconds / slowest.operators_seconds,
                "calls": operator.calls / traced.steps,
            }
            for operator in slowest.operators
        ],
        "ranks": [
            {
                "rank": one.rank,
                "host": one.host,
                "ms": {region: 1e3 * one.seconds[region] / one.timed.steps for region in REGIONS},
                "own_ms": 1e3 * one.own_seconds / one.timed.steps,
            }
            for one in ranks
        ],
    }
