"""The head of the page of a plan: what is planned on which cluster, and the figures to look at first."""

from __future__ import annotations

from statistics import fmean

from ple_rec.config.plan import Costs, Estimate, Plan
from ple_rec.html.markup import text
from ple_rec.planning.page.memory import rooms
from ple_rec.planning.page.words import percent, short_ms
from ple_rec.text.units import short_bytes, short_count, short_duration


def header(plan: Plan, title: str) -> str:
    """Title, cluster, tables with their rows and bytes, batch and optimizer."""
    rows, size = (sum(getattr(entry, name) for entry in plan.tables) for name in ("rows", "bytes"))
    cluster, count = plan.cluster, len(plan.tables)
    facts = (
        ("", cluster.describe()),
        ("", f"{count} table{'s' * (count != 1)}"),
        ("rows", short_count(rows)),
        ("weights", short_bytes(size)),
        ("batch", f"{plan.batch_size_per_rank:,} a rank"),
        ("optimizer of tables", plan.optimizer),
        *([("rows of", plan.rows_of)] if plan.rows_of else []),
    )
    spans = "".join(f"<span>{f'{name} ' if name else ''}<strong>{text(value)}</strong></span>" for name, value in facts)
    return f'<header><p class="eyebrow">Sharding plan</p><h1>{text(title)}</h1><p class="facts">{spans}</p></header>\n'


def key_figures(plan: Plan) -> str:
    """Time of a step and what bounds it, speed, the fullest rank and the busiest one."""
    figures = [*(_estimated(plan.estimate) if plan.estimate else ()), *_memory(plan), *_imbalance(plan)]
    return f'<dl class="figures">{"".join(figures)}</dl>' if figures else ""


def _estimated(found: Estimate) -> tuple[str, ...]:
    largest = found.part_ms(found.bound)
    return (
        _figure("Step", short_ms(found.step_ms), "estimated"),
        _figure("Samples per second", short_count(found.samples_per_second), "all ranks together"),
        _figure("Epoch", short_duration(found.epoch_seconds), f"{short_count(found.epoch_samples)} samples"),
        _figure("Bound by", found.bound, f"{short_ms(largest)} of {short_ms(found.step_ms)}"),
    )


def _memory(plan: Plan) -> list[str]:
    figures = []
    for room in rooms(plan):
        most = max(room.taken)
        share = f", {percent(most / room.allowed)}" if room.allowed else ""
        note = f"rank {room.taken.index(most)}; {short_bytes(room.allowed)} allowed{share}"
        figures.append(
            _figure(
                f"Peak {room.name[0].lower() if room.name != 'HBM' else 'H'}{room.name[1:]} of a rank",
                short_bytes(most),
                note,
            )
        )
    return figures


def _imbalance(plan: Plan) -> list[str]:
    times = [Costs.total(costs) for costs in plan.costs]
    mean, most = fmean(times), max(times)
    if not mean:
        return []
    note = f"rank {times.index(most)}: {short_ms(most)}, mean {short_ms(mean)}"
    return [_figure("Busiest rank over mean", f"{most / mean:.2f}", note)]


def _figure(label: str, value: str, note: str) -> str:
    return f"<div><dt>{text(label)}</dt><dd>{text(value)}<small>{text(note)}</small></dd></div>"
