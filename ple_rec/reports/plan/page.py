"""`plan.html`: where the tables of a plan lie and what a step costs, on one page.

A section is a function from `Plan` to a view, listed in `SECTIONS`, and the block of its name in
`templates/plan.html.j2`; equal plans give equal bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean
from typing import Any

from ple_rec.config.cluster import Hardware
from ple_rec.config.plan import Estimate, Plan
from ple_rec.config.plan_table import Costs, Memory
from ple_rec.errors import Option
from ple_rec.reports.page import Fact, KeyFigure, Part, render, write_document
from ple_rec.reports.plan.sections import by_size, memory, percent, placement, ranks_of, rooms, short_ms, step
from ple_rec.storage import Location
from ple_rec.text.units import joined_spans, short_bytes, short_count, short_duration


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


_MANY = 60  # more than this are folded away


def tables(plan: Plan) -> dict[str, Any]:
    """Return the tables, the largest first, with a total; bytes are of all shards together."""
    entries = [(entry, plan.of_table(entry)) for entry in by_size(plan)]
    kinds = {"weights": "weights", "optimizer state": "optimizer", "cache": "hbm_cache", "batch": "batch"}
    if not any(held.hbm_cache for _, held in entries):
        del kinds["cache"]
    total = Memory()
    for _, held in entries:
        total = total.plus(held)
    return {
        "kinds": list(kinds),
        "tables": [
            {
                "plan": entry,
                "sizes": [getattr(held, kind) for kind in kinds.values()],
                "ranks": joined_spans(ranks_of(plan, entry)),
                "ms": short_ms(entry.costs_ms.total()).removesuffix(" ms"),
            }
            for entry, held in entries
        ],
        "total": "1 table" if len(entries) == 1 else f"{len(entries)} tables",
        "rows": sum(entry.rows for entry, _ in entries),
        "sizes": [getattr(total, kind) for kind in kinds.values()],
        "folded": len(entries) > _MANY,
    }


def plan_page(plan: Plan, title: str) -> str:
    """Return the page of a plan as HTML.

    Args:
        plan: Plan with or without an estimate.
        title: Name of what is planned; any text.
    """
    parts = [Part(anchor, heading, view(plan)) for anchor, heading, view in SECTIONS]
    return render("plan", parts, name=title, facts=facts(plan), figures=key_figures(plan))


def write_page(path: Location, plan: Plan, title: str) -> None:
    """Write the page of a plan; it appears under its name only when complete.

    Args:
        path: HTML file.
        plan: Plan with or without an estimate.
        title: Name of what is planned; any text.

    Raises:
        UserError: The file cannot be written.
    """
    rule = "the page of a plan is a file beside plan.json"
    write_document(
        plan_page(plan, title), path, rule, f"free disk space, make the path writable, or give another {Option.OUT}"
    )


def _assumptions(plan: Plan) -> dict[str, object]:
    """Return every figure of the cluster's hardware, under the name that `[topology]` has for it."""
    hardware = plan.cluster.hardware
    shown = [
        (name, f"{value:,.12g}" if isinstance(value, float) else value, field.description)
        for name, field in Hardware.model_fields.items()
        if (value := getattr(hardware, name)) != 0
    ]
    return {"cluster": plan.cluster.describe(), "figures": shown}


SECTIONS: tuple[tuple[str, str, Callable[[Plan], object]], ...] = (
    ("memory", "Memory per rank", memory),
    ("placement", "Tables on ranks", placement),
    ("step", "Time of a step", step),
    ("tables", "Tables", tables),
    ("hardware", "Assumptions", _assumptions),
)
