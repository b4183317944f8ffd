"""Time of a step: its parts one after the other with the loader beside them, and the tables' part of every rank."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from markupsafe import Markup, escape

from ple_rec.config.plan import BUSY, PARTS, Estimate, Plan
from ple_rec.reports.plan.bars import Layer, Look, Mark, rank_bars, ticks
from ple_rec.reports.plan.words import percent, short_ms

_WIDTH, _LEFT, _RIGHT, _BAR, _THIN = 1072.0, 72.0, 2.0, 34.0, 12.0  # CSS pixels
_LABEL = 8.0  # width of a letter


def step(plan: Plan) -> dict[str, Any]:
    """Return the breakdown of the estimate, where there is one, and a chart over ranks, where tables take time."""
    return {"breakdown": _breakdown(plan.estimate) if plan.estimate else None, "over_ranks": _over_ranks(plan)}


def _breakdown(found: Estimate) -> dict[str, Any]:
    times = {name: found.part_ms(name) for name in PARTS}
    return {
        "step": short_ms(found.step_ms),
        "bound": found.bound,
        "largest": short_ms(times[found.bound]),
        "layers": [Layer(name, name, [ms]) for name, ms in times.items()],
        "chart": _bars(found),
        "parts": [
            {
                "name": name,
                "ms": short_ms(ms).removesuffix(" ms"),
                "share": percent(ms / found.step_ms) if found.step_ms else "",
                "what": Estimate.model_fields[f"{name}_ms"].description,
            }
            for name, ms in times.items()
        ],
    }


def _bars(found: Estimate) -> Markup:
    """Draw the parts that follow each other above, the loader below, on one axis in milliseconds."""
    high = max(found.step_ms, found.loader_ms, 1e-6) * 1.0001
    scale = (_WIDTH - _LEFT - _RIGHT) / high
    x, top, thin = _LEFT, 4.0, 4.0 + _BAR + 5
    drawn = []
    for name in BUSY:
        value = found.part_ms(name)
        width = value * scale
        drawn.append(_piece(name, x, top, width, _BAR, value) if value else "")
        x += width
    drawn.append(_waiting(found, x, _LEFT + found.loader_ms * scale - x, top))
    drawn.append(_piece("loader", _LEFT, thin, found.loader_ms * scale, _THIN, found.loader_ms))
    foot = thin + _THIN + 5
    drawn.append(f'<line class="base" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{foot}" y2="{foot}"/>')
    for value in ticks(high, 1.0):
        at, anchor = _LEFT + value * scale, "middle"
        if at > _WIDTH - 24:
            at, anchor = _WIDTH - _RIGHT, "end"
        drawn.append(
            f'<text x="{at:.1f}" y="{foot + 15}" text-anchor="{anchor}">{f"{value:g} ms" if value else "0"}</text>'
        )
    for label, y in (("rank", top + _BAR / 2), ("loader", thin + _THIN / 2)):
        drawn.append(f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{label}</text>')
    words = ", ".join(f"{name} {short_ms(found.part_ms(name))}" for name in PARTS)
    told = escape(f"A step of {short_ms(found.step_ms)}: {words}; bound by {found.bound}")
    return Markup(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH:.0f} {foot + 20:.0f}" role="img" '
        f'class="wide" aria-label="{told}"><title>{told}</title>{"".join(drawn)}</svg>'
    )


def _waiting(found: Estimate, x: float, width: float, top: float) -> str:
    """Draw the rest of a step whose loader takes longer than all else."""
    rest = found.loader_ms - sum(found.part_ms(name) for name in BUSY)
    if rest <= 0:
        return ""
    words = escape(f"waits {short_ms(rest)} for the loader")
    place = f'x="{x:.1f}" y="{top}" width="{width:.1f}" height="{_BAR}"'
    rect = f'<rect class="hatched" {place}><title>{words}</title></rect>'
    if width < _LABEL * len(words):
        return rect
    middle = f'x="{x + width / 2:.1f}" y="{top + _BAR / 2 + 4}" text-anchor="middle"'
    return f'{rect}<text class="boxed" {middle}>{words}</text>'


def _piece(name: str, x: float, y: float, width: float, height: float, value: float) -> str:
    words = f"{name} {short_ms(value)}"
    rect = (
        f'<rect class="layer {name}" x="{x:.1f}" y="{y}" width="{max(width, 0.5):.1f}" height="{height}">'
        f"<title>{escape(words)}</title></rect>"
    )
    if height < _BAR or width < _LABEL * len(words):
        return rect
    middle = f'x="{x + width / 2:.1f}" y="{y + height / 2 + 4}" text-anchor="middle"'
    return f'{rect}<text class="on {name}" {middle}>{escape(words)}</text>'


def _over_ranks(plan: Plan) -> dict[str, Any] | None:
    layers = [
        Layer("lookup", "lookup", [costs.lookup_ms() for costs in plan.costs]),
        Layer("communication", "communication", [costs.communication_ms() for costs in plan.costs]),
    ]
    times = [a + b for a, b in zip(*(layer.values for layer in layers), strict=True)]
    most, mean = max(times), fmean(times)
    if not most:
        return None
    look = Look(
        f"Time of the tables on {len(times)} ranks: {short_ms(min(times))} to {short_ms(most)}, mean {short_ms(mean)}",
        short_ms,
        (1.0, "ms"),
        most * 1.1,
    )
    chart = rank_bars(plan.cluster, layers, [Mark(mean, f"{short_ms(mean)} mean", "cap")], look)
    note = f"busiest rank {times.index(most)}: {short_ms(most)}, {most / mean:.2f} x the mean"
    return {"note": note, "layers": layers, "chart": chart}
