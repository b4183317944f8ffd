"""The head of the page of a plan: what is planned on which cluster, and the figures to look at first."""

from __future__ import annotations

from statistics import fmean

from ple_rec.config.plan import Estimate, Plan
from ple_rec.config.plan_table import Costs
from ple_rec.reports.page import Fact, KeyFigure
from ple_rec.reports.plan.memory import rooms
from ple_rec.reports.plan.words import percent, short_ms
from ple_rec.text.units import short_bytes, short_count, short_duration


def facts(plan: Plan) -> list[Fact]:
    """Return cluster, tables with their rows and bytes, batch and optimizer."""
    rows, size = (sum(getattr(entry, name) for entry in plan.tables) for name in ("rows", "bytes"))
    tables = len(plan.tables)
    return [
        Fact("", plan.cluster.describe()),
        Fact("", f"{tables} table{'s' * (tables != 1)}"),
        Fact("rows", short_count(rows)),
        Fact("weights", short_bytes(size)),
        Fact("batch", f"{plan.batch_size_per_rank:,} a rank"),
        Fact("optimizer of tables", plan.optimizer),
        *([Fact("rows of", plan.rows_of)] if plan.rows_of else []),
    ]


def key_figures(plan: Plan) -> list[KeyFigure]:
    """Return time of a step and what bounds it, speed, the fullest rank and the busiest one."""
    return [*(_estimated(plan, plan.estimate) if plan.estimate else ()), *_memory(plan), *_imbalance(plan)]


def _estimated(plan: Plan, estimate: Estimate) -> list[KeyFigure]:
    """Return the figures of a step; the rate and what follows from it only where the batch of a rank allows one."""
    step = KeyFigure("Step", short_ms(estimate.step_ms), "estimated")
    largest = f"{short_ms(estimate.part_ms(estimate.bound))} of {short_ms(estimate.step_ms)}"
    bound = KeyFigure("Bound by", estimate.bound, largest)
    if plan.rate is None:
        return [step, bound]
    rate = KeyFigure("Samples per second", short_count(plan.rate), "all ranks together")
    epoch = KeyFigure("Epoch", short_duration(estimate.epoch_seconds), f"{short_count(estimate.epoch_samples)} samples")
    return [step, rate, epoch, bound]


def _memory(plan: Plan) -> list[KeyFigure]:
    figures = []
    for room in rooms(plan):
        most = max(room.taken)
        share = f", {percent(most / room.allowed)}" if room.allowed else ""
        note = f"rank {room.taken.index(most)}; {short_bytes(room.allowed)} allowed{share}"
        figures.append(
            KeyFigure(
                f"Peak {room.name[0].lower() if room.name != 'HBM' else 'H'}{room.name[1:]} of a rank",
                short_bytes(most),
                note,
            )
        )
    return figures


def _imbalance(plan: Plan) -> list[KeyFigure]:
    times = [Costs.total(costs) for costs in plan.costs]
    mean, most = fmean(times), max(times)
    if not mean:
        return []
    note = f"rank {times.index(most)}: {short_ms(most)}, mean {short_ms(mean)}"
    return [KeyFigure("Busiest rank over mean", f"{most / mean:.2f}", note)]
