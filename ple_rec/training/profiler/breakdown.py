"""Breakdown of a training step by region, from the measurements of all ranks.

A region is a kind of work in a step, such as "lookup". `breakdown` returns the measurements for `step.json`, to which
`session.StepProfile` adds settings, notes, and the result of `advice`, a text that names the first thing to change.
`format_breakdown` turns all this into the text of `step.txt`. `StepProfile` writes both files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ple_rec.config.run import PipelineKind, RunConfig
from ple_rec.text import align_columns
from ple_rec.text.units import short_count
from ple_rec.training.profiler.regions import REGIONS, Region

# Ranks are uneven if the slowest has at least this many times the work of the fastest.
_UNEVEN = 1.25


def format_breakdown(summary: Mapping[str, Any]) -> str:
    """Return the text of a breakdown: regions, rates and operators, notes, and advice.

    Args:
        summary: Content of `step.json`.
    """
    has_peers, traced = summary["world_size"] > 1, summary["traced_steps"]
    first, last = summary["first_step"], summary["first_step"] + summary["steps"] - 1
    rank_note = (
        f", rank {summary['rank']} on {summary['host']}, which has the most work of {summary['world_size']} ranks"
        * has_peers
    )
    parts = [
        f"where a step goes: steps {first:,} to {last:,}{rank_note}",
        "\n".join(align_columns(_regions(summary, has_peers))),
        _rates(summary),
        f"most expensive operators, of steps {last + 1:,} to {last + traced:,} in the profiler, by the time of "
        f"{summary['operators_of']}\n" + "\n".join(align_columns(_operators(summary))),
        "\n".join(summary["notes"]),
        f"look at: {summary['advice']}",
        f"trace: {summary['traces'][0]}{', and one of every other rank' * has_peers}; open it at https://ui.perfetto.dev",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _regions(summary: Mapping[str, Any], has_peers: bool) -> list[list[str]]:
    lines = [["", "ms", "share", *(["min ms", "max ms"] if has_peers else [])]]
    for region, values in summary["regions"].items():
        if region == "copy to device" and summary["device"] == "cpu":
            continue
        ends = [f"{values['min_ms']:.2f}", f"{values['max_ms']:.2f}"] if has_peers else []
        lines.append([f"  {region}", f"{values['ms']:.2f}", f"{100 * values['share']:.1f} %", *ends])
    total = sum(values["share"] for values in summary["regions"].values())
    lines.append(["  step", f"{summary['step_ms']:.2f}", f"{100 * total:.1f} %", *(["", ""] if has_peers else [])])
    return lines


def _operators(summary: Mapping[str, Any]) -> list[list[str]]:
    lines = [["", "ms a step", "of all", "calls a step"]]
    for operator in summary["operators"]:
        share = f"{100 * operator['share']:.1f} %"
        lines.append([f"  {operator['name']}", f"{operator['ms']:.2f}", share, f"{operator['calls']:.0f}"])
    return lines


def _rates(summary: Mapping[str, Any]) -> str:
    rates = summary["samples_per_second"]
    timed, before, traced = (rates[key] and short_count(round(rates[key])) for key in ("timed", "before", "traced"))
    text = f"{timed} samples/s in these steps, {traced} in the profiler"
    text += f", {before} in the steps before, without timing and profiler" if before else ""
    return f"{text}; {summary['cores_busy']:.1f} cores busy"


def advice(summary: Mapping[str, Any], config: RunConfig, pipeline: PipelineKind) -> str:
    """Return a text that names the first thing to change, by the shares of the regions in a step.

    Args:
        summary: Result of `breakdown`.
        config: Configuration of the run.
        pipeline: Pipeline of the run, which `train.pipeline` = "auto" leaves to the device.
    """
    share = {region: values["share"] for region, values in summary["regions"].items()}
    exchange = sum(share[region] for region in EXCHANGES)
    tables = share["lookup"] + share["table update"]
    dense = share["dense forward"] + share["dense backward"]
    own_ms = [rank["own_ms"] for rank in summary["ranks"]]
    train = config.train

    if share["data wait"] >= 0.1:
        return (
            f"data wait is {_percent(share['data wait'])}: the reading thread does not keep up; prepare larger row "
            "groups, give a rank one more core than threads, or, if only some steps wait, raise data.prefetch (now "
            f"{config.data.prefetch})"
        )
    if (ratio := max(own_ms) / min(own_ms)) >= _UNEVEN:
        return (
            f"rank {summary['rank']} on {summary['host']} has {ratio:.2f} times the work of the rank that has least, "
            f"and the others wait for it, up to {summary['step_ms'] - min(own_ms):.0f} ms a step: look at its host, "
            "and at the tables that are placed there (plan.json)"
        )
    if exchange >= 0.2:
        overlap = 'set train.pipeline = "sparse_dist", ' if pipeline == "none" else ""
        return (
            f"exchanges are {_percent(exchange)}: {overlap}send fewer bytes (embeddings.qcomms), or raise the batch, "
            "since the waits for other ranks do not grow with it"
        )
    if share["logging"] >= 0.05:
        return f"logging is {_percent(share['logging'])}: raise train.report_every (now {train.report_every})"
    if share["metrics"] >= 0.1:
        return f"metrics are {_percent(share['metrics'])}: they cost time for each sample and task; choose fewer tasks"
    if share["optimizers"] >= 0.15:
        return (
            f"optimizers are {_percent(share['optimizers'])}: they cost time for each parameter and not for each "
            "sample; raise the batch"
        )
    if share["copy to device"] >= 0.1 and pipeline == "none":
        return f'copies to the device are {_percent(share["copy to device"])}: set train.pipeline = "sparse_dist"'
    if tables >= 0.3:
        return (
            f"lookup and table update are {_percent(tables)}: they read and write one row per id, so shorter bags, "
            "narrower rows (embeddings.dim) and memory nearer to the rank help"
        )
    if share["other"] >= 0.2:
        return (
            f"other is {_percent(share['other'])}: Python code that takes the same time at any batch; raise the batch"
        )
    precision_hint = ', the precision (train.precision = "auto" measures it)' if train.precision == "fp32" else ""
    return (
        f"the dense layers are {_percent(dense)}, where the time should go: what is left to change is their "
        f"size{precision_hint} and the threads (runtime.threads)"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


# Regions in which a rank waits for other ranks, so that their time says little about its own work.
EXCHANGES: tuple[Region, ...] = ("input distribution", "output distribution", "gradient exchange")


@dataclass(frozen=True)
class Span:
    """Consecutive steps of a rank: their number, samples and seconds."""

    steps: int
    samples: int
    seconds: float


@dataclass(frozen=True)
class Operator:
    """Time of one operator over the traced steps of a rank, without the operators that it called."""

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
        seconds: Seconds of each region over the timed steps.
        cpu_seconds: CPU seconds of all threads of the process over the timed steps.
        traced: Steps under the profiler.
        before: Second half of the warm-up, without timing or profiler; no steps if the warm-up is a single step.
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
        """Seconds of the rank's own work: those of all regions but the exchanges and "other"."""
        return sum(seconds for region, seconds in self.seconds.items() if region not in (*EXCHANGES, "other"))


def rate(spans: Sequence[Span]) -> float | None:
    """Return the samples a second over all ranks; None if a rank has no steps in its span, or no time passed."""
    if not all(span.steps and span.seconds > 0 for span in spans):
        return None
    return sum(span.samples for span in spans) / max(span.seconds for span in spans)


def breakdown(ranks: Sequence[RankProfile]) -> dict[str, Any]:
    """Return the measurements of a mean step of the slowest rank, by region, with minima and maxima over all ranks.

    All ranks end a step together, so the slowest rank is the one with the most work of its own; the others wait for it.
    Regions are measured in the timed steps, and operators in the traced steps. The samples a second are given for the
    timed steps, for the traced steps, and for the steps before.
    """
    slowest = max(ranks, key=lambda profile: profile.own_seconds)
    total_seconds = sum(slowest.seconds.values())
    regions = {}
    for region in REGIONS:
        ms_by_rank = [1e3 * profile.seconds[region] / profile.timed.steps for profile in ranks]
        seconds = slowest.seconds[region]
        regions[region] = {
            "ms": 1e3 * seconds / slowest.timed.steps,
            "share": seconds / total_seconds,
            "min_ms": min(ms_by_rank),
            "max_ms": max(ms_by_rank),
        }
    traced = slowest.traced
    return {
        "rank": slowest.rank,
        "host": slowest.host,
        "world_size": len(ranks),
        "steps": slowest.timed.steps,
        "step_ms": 1e3 * total_seconds / slowest.timed.steps,
        "wall_ms": 1e3 * slowest.timed.seconds / slowest.timed.steps,
        "regions": regions,
        "cores_busy": slowest.cpu_seconds / total_seconds,
        "samples_per_second": {
            "timed": rate([profile.timed for profile in ranks]),
            "traced": rate([profile.traced for profile in ranks]),
            "before": rate([profile.before for profile in ranks]),
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
                "rank": profile.rank,
                "host": profile.host,
                "ms": {region: 1e3 * profile.seconds[region] / profile.timed.steps for region in REGIONS},
                "own_ms": 1e3 * profile.own_seconds / profile.timed.steps,
            }
            for profile in ranks
        ],
    }
