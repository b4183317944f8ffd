"""Page of a sharding plan, `plan.html`: memory of ranks, placement of tables, time of a step, and assumptions.

Each section in `SECTIONS` has a function that turns a `PlanFile` into a view, and a block of its name in
`templates/plan.html.j2`. Equal plans give equal bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean
from typing import Any

from ple_rec.config.cluster import Hardware, assumed_figures
from ple_rec.config.plan import PlanFile, StepEstimate
from ple_rec.config.plan_table import Costs, Memory
from ple_rec.errors import Option
from ple_rec.reports.page import Fact, KeyFigure, Section, render_page, write_document
from ple_rec.reports.plan.sections import (
    memories_in_use,
    memory,
    percent,
    placement,
    ranks_with_rows,
    short_ms,
    step,
    step_range,
    tables_by_size,
)
from ple_rec.storage import Location
from ple_rec.text.units import join_spans, short_bytes, short_count, short_duration


def facts(plan: PlanFile) -> list[Fact]:
    """Return cluster, number of tables with their rows and bytes, batch, optimizer, and where the rows come from."""
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


def key_figures(plan: PlanFile) -> list[KeyFigure]:
    """Return estimated time, rate and bound of a step, memory of the fullest rank, and imbalance, each if known."""
    return [
        *(_estimate_figures(plan.estimate) if plan.estimate else ()),
        *_memory_figures(plan),
        *_imbalance_figures(plan),
    ]


def _estimate_figures(estimate: StepEstimate) -> list[KeyFigure]:
    """Return the figures of a step."""
    range_text = step_range(estimate)
    step = KeyFigure("Step", short_ms(estimate.step_ms), f"estimated{f', {range_text}' if range_text else ''}")
    largest = f"{short_ms(estimate.part_ms(estimate.bound))} of {short_ms(estimate.step_ms)}"
    bound = KeyFigure("Bound by", estimate.bound, largest)
    rate = KeyFigure("Samples per second", short_count(estimate.samples_per_second), "all ranks together")
    epoch = KeyFigure("Epoch", short_duration(estimate.epoch_seconds), f"{short_count(estimate.epoch_samples)} samples")
    return [step, rate, epoch, bound]


def _memory_figures(plan: PlanFile) -> list[KeyFigure]:
    figures = []
    for use in memories_in_use(plan):
        most = max(use.used)
        share = f", {percent(most / use.allowed)}" if use.allowed else ""
        note = f"rank {use.used.index(most)}; {short_bytes(use.allowed)} allowed{share}"
        figures.append(
            KeyFigure(
                f"Peak {use.name[0].lower() if use.name != 'HBM' else 'H'}{use.name[1:]} of a rank",
                short_bytes(most),
                note,
            )
        )
    return figures


def _imbalance_figures(plan: PlanFile) -> list[KeyFigure]:
    times = [Costs.total(costs) for costs in plan.costs]
    mean, most = fmean(times), max(times)
    if not mean:
        return []
    note = f"rank {times.index(most)}: {short_ms(most)}, mean {short_ms(mean)}"
    return [KeyFigure("Busiest rank over mean", f"{most / mean:.2f}", note)]


# More tables than this are folded away.
_MANY_TABLES = 60


def tables(plan: PlanFile) -> dict[str, Any]:
    """Return the tables, the largest first, with a total; bytes are the sum over all shards."""
    entries = [(entry, plan.memory_of_table(entry)) for entry in tables_by_size(plan)]
    kinds = {"weights": "weights", "optimizer state": "optimizer", "cache": "hbm_cache", "batch": "batch"}
    if not any(usage.hbm_cache for _, usage in entries):
        del kinds["cache"]
    total = Memory()
    for _, usage in entries:
        total = total.plus(usage)
    return {
        "kinds": list(kinds),
        "tables": [
            {
                "plan": entry,
                "sizes": [getattr(usage, kind) for kind in kinds.values()],
                "ranks": join_spans(ranks_with_rows(plan, entry)),
                "ms": short_ms(entry.costs_ms.total()).removesuffix(" ms"),
            }
            for entry, usage in entries
        ],
        "total": "1 table" if len(entries) == 1 else f"{len(entries)} tables",
        "rows": sum(entry.rows for entry, _ in entries),
        "sizes": [getattr(total, kind) for kind in kinds.values()],
        "folded": len(entries) > _MANY_TABLES,
    }


def plan_page(plan: PlanFile, title: str) -> str:
    """Return the page of a plan as HTML.

    Args:
        plan: Plan with or without an estimate.
        title: Name of the plan's dataset or configuration; any text.
    """
    sections = [Section(anchor, heading, view(plan)) for anchor, heading, view in SECTIONS]
    return render_page("plan", sections, name=title, facts=facts(plan), figures=key_figures(plan))


def write_page(path: Location, plan: PlanFile, title: str) -> None:
    """Write the page of a plan; it appears under its name only when complete.

    Args:
        path: HTML file.
        plan: Plan with or without an estimate.
        title: Name of the plan's dataset or configuration; any text.

    Raises:
        UserError: The file cannot be written.
    """
    rule = "the page of a plan is a file beside plan.json"
    write_document(
        plan_page(plan, title), path, rule, f"free disk space, make the path writable, or give another {Option.OUT}"
    )


def _assumptions(plan: PlanFile) -> dict[str, object]:
    """Return the cluster, the source of measured figures, and the figures of its hardware that are not 0.

    A figure has its key in `[topology]`, its value, the range that is expected if nobody has measured it, and its
    meaning.
    """
    hardware = plan.cluster.hardware
    ranges = {key: f"{_number(f.slow)} to {_number(f.fast)}" for key, f in assumed_figures(hardware).items()}
    figures = [
        (name, _number(value) if isinstance(value, float) else value, ranges.get(name, ""), field.description)
        for name, field in Hardware.model_fields.items()
        if (value := getattr(hardware, name)) != 0
    ]
    return {"cluster": plan.cluster.describe(), "calibration": plan.cluster.calibration, "figures": figures}


def _number(value: float) -> str:
    return f"{value:,.12g}"


SECTIONS: tuple[tuple[str, str, Callable[[PlanFile], object]], ...] = (
    ("memory", "Memory per rank", memory),
    ("placement", "Tables on ranks", placement),
    ("step", "Time of a step", step),
    ("tables", "Tables", tables),
    ("hardware", "Assumptions", _assumptions),
)
