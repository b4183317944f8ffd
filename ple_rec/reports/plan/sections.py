"""Sections of the page of a plan: memory of ranks, placement of tables, and the time of a step."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any, NamedTuple

from markupsafe import Markup, escape

from ple_rec.config.plan import PARTS, SEQUENTIAL_PARTS, PlanFile, StepEstimate
from ple_rec.config.plan_table import Memory, TablePlan
from ple_rec.reports.plan.bars import RULER, BarStyle, Layer, Mark, RankAxis, equal_neighbours, rank_bars, ticks
from ple_rec.text.units import joined_spans, short_bytes


def short_ms(value: float) -> str:
    """Return milliseconds in three digits: `13.6 ms`, `0.0297 ms`, `1,240 ms`."""
    if value >= 99.95:
        return f"{value:,.0f} ms"
    return f"{value:.3g} ms" if value >= 1e-3 else "0 ms" if value == 0 else "< 0.001 ms"


def percent(share: float) -> str:
    """Return a share of 1 in three digits: `12.5 %`, `0.0977 %`, `< 0.001 %`."""
    hundredths = 100 * share
    if 0 < hundredths < 1e-3:
        return "< 0.001 %"
    return f"{hundredths:.0f} %" if hundredths >= 99.95 else f"{hundredths:.3g} %"


def span(first: int, last: int) -> str:
    """Return `rank 3`, `ranks 0-7`."""
    return f"rank {first}" if first == last else f"ranks {first}-{last}"


# A limit of more than so many times the fullest rank is written and not drawn, since bars would be too low to read.
_HIDDEN = 5.0
# Up to so many ranks, figures stand beside their chart.
_FEW = 4
_UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B"))
_KINDS = ("weights", "optimizer", "cache", "batch")
_NAMES = {"optimizer": "optimizer state"}


@dataclass(frozen=True)
class MemoryUse:
    """Use of one of the two memories of a rank, in bytes.

    Args:
        name: Name of the memory.
        layers: Bytes of every rank for weights, optimizer state, cache and batch, without layers that are empty.
        allowed: Bytes that tables may take on a rank.
        total: Bytes of the memory.
        reserve: Bytes that the plan keeps free.
        dense: Bytes of the dense layers.
    """

    name: str
    layers: tuple[Layer, ...]
    allowed: int
    total: int
    reserve: int
    dense: int

    @property
    def used(self) -> list[int]:
        """Bytes that tables take on every rank."""
        return [int(sum(values)) for values in zip(*(layer.values for layer in self.layers), strict=True)]


def memories_in_use(plan: PlanFile) -> list[MemoryUse]:
    """Return HBM and host memory, each only if tables use it."""
    reserved, cluster = plan.reserved, plan.cluster
    dense = reserved.dense_bytes
    memories = []
    for prefix, name, allowed, total, reserve, dense_bytes in (
        ("hbm", "HBM", plan.allowed_hbm, cluster.hbm_bytes, reserved.hbm_bytes, dense),
        (
            "host",
            "Host memory",
            plan.allowed_host,
            cluster.ddr_bytes,
            reserved.host_bytes,
            0 if cluster.cuda else dense,
        ),
    ):
        layers = [_layer(plan.memory, prefix, kind) for kind in _KINDS if f"{prefix}_{kind}" in Memory._fields]
        used = tuple(layer for layer in layers if any(layer.values))
        memories += [MemoryUse(name, used, allowed, total, reserve, dense_bytes)] * bool(used)
    return memories


def _layer(memory: Sequence[Memory], prefix: str, kind: str) -> Layer:
    return Layer(_NAMES.get(kind, kind), kind, [getattr(rank, f"{prefix}_{kind}") for rank in memory])


def memory(plan: PlanFile) -> list[dict[str, Any]]:
    """Return a chart and a summary for each of the two memories that tables use."""
    return [_view(plan, room) for room in memories_in_use(plan)]


def _view(plan: PlanFile, room: MemoryUse) -> dict[str, Any]:
    """Return the chart, and the least, median and greatest bytes of a rank for each layer and for all together."""
    used = room.used
    parts = [(layer.name, layer.values) for layer in room.layers] + [("together", used)]
    return {
        "room": room,
        "over": sum(each > room.allowed for each in used),
        "few": plan.cluster.world_size <= _FEW,
        "layers": room.layers,
        "chart": _chart(plan, room),
        "rows": [(name, [each(values) for each in (min, median, max)]) for name, values in parts],
        "shares": [percent(each(used) / room.allowed) for each in (min, median, max)] if room.allowed else [],
    }


def _chart(plan: PlanFile, room: MemoryUse) -> Markup:
    used = room.used
    most, world = max(used), plan.cluster.world_size
    visible = room.allowed <= _HIDDEN * most
    ends = [most, room.total if visible else 0, room.allowed if visible else 0]
    times = room.allowed / most
    limit = (
        f"{short_bytes(room.allowed)} allowed: {f'{times:.3g}' if times < 100 else f'{times:,.0f}'} x the fullest rank"
    )
    style = BarStyle(
        f"{room.name} of {world} ranks: {_between(used)} of {short_bytes(room.allowed)} allowed",
        short_bytes,
        next(unit for unit in _UNITS if unit[0] * 0.9995 <= max(ends)),
        max(ends) * (1.02 if visible else 1.1),
        "" if visible else limit,
        (room.total - room.reserve, room.total) if visible and room.reserve else None,
    )
    marks = []
    if visible:
        marks.append(Mark(room.allowed, f"{short_bytes(room.allowed)} allowed", "cap"))
        marks.append(Mark(room.total, f"{short_bytes(room.total)} in all", "whole"))
    return rank_bars(plan.cluster, room.layers, marks, style)


def _between(used: Sequence[int]) -> str:
    low, high = short_bytes(min(used)), short_bytes(max(used))
    return low if low == high else f"{low} to {high}"


SHOWN = 60
# Lengths are CSS pixels.
_WIDTH, _HEIGHT = 560.0, 22.0
# A run is drawn at least so wide that one rank of many can be seen; a wider one has room for a label.
_LEAST_WIDTH, _LABELLED_WIDTH = 2.5, 76.0
# Edges of hosts would change the colour of thinner runs, so they do not cross these.
_EDGED_WIDTH = 12.0
# More runs than this have no tooltips, and are drawn as one path for each colour.
_MOST_TOOLTIPS = 1200
# A colour stands for the shares up to its bound.
_BOUNDS = (0.002, 0.01, 0.05, 0.2, 0.5, 1.0)
# If rows do not divide by the ranks, shares lie just above a bound.
_SLACK = 1.02


class RankRun(NamedTuple):
    """Neighbouring ranks, each of which holds the same share of a table."""

    first: int
    last: int
    share: float


def ranks_of(plan: PlanFile, entry: TablePlan) -> list[int]:
    """Return the ranks that hold rows of a table."""
    return sorted({shard.rank for shard in entry.shards(plan.cluster) if shard.rows})


def runs_of(plan: PlanFile, entry: TablePlan) -> list[RankRun]:
    """Return the share of a table on each rank that has rows of it; the shares of all ranks add up to 1."""
    values = [0] * plan.cluster.world_size
    for shard in entry.shards(plan.cluster):
        values[shard.rank] += shard.rows * shard.columns
    whole = entry.rows * entry.dim
    return [RankRun(first, last, value / whole) for first, last, value in equal_neighbours(values) if value]


def by_size(plan: PlanFile) -> list[TablePlan]:
    """Return the tables, the largest first."""
    return sorted(plan.tables, key=lambda entry: (-entry.bytes, entry.table))


def placement(plan: PlanFile) -> dict[str, Any]:
    """Draw the map of the largest tables, and list the others."""
    entries = by_size(plan)
    axis = RankAxis(plan.cluster, 0.0, _WIDTH / plan.cluster.world_size)
    runs_by_table = [(entry, runs_of(plan, entry)) for entry in entries[:SHOWN]]
    tooltips = sum(len(each) for _, each in runs_by_table) <= _MOST_TOOLTIPS
    rest = entries[SHOWN:]
    return {
        # Every strip refers to these edges of hosts.
        "edges": "".join(f"M{x:.1f} 0V{_HEIGHT:.0f}" for x in axis.edges()),
        "bounds": [f"{100 * bound:g} %" for bound in _BOUNDS],
        "height": f"{RULER if plan.cluster.hosts > 1 else 16.0:.0f}",
        "ruler": axis.ruler(0),
        "tables": [
            (entry, _strip(axis, ranks_of(plan, entry), each, tooltips=tooltips)) for entry, each in runs_by_table
        ],
        "rest": [(entry, joined_spans(ranks_of(plan, entry))) for entry in rest],
        "rest_bytes": sum(entry.bytes for entry in rest),
        "rest_rows": sum(entry.rows for entry in rest),
    }


def _strip(axis: RankAxis, ranks: list[int], rank_runs: list[RankRun], *, tooltips: bool) -> Markup:
    name = escape(f"{span_words(ranks)}: {_shares(rank_runs)}")
    draw = _rects if tooltips else _paths
    wide = [run for run in rank_runs if _extent(axis, run)[1] >= _EDGED_WIDTH]
    thin = [run for run in rank_runs if _extent(axis, run)[1] < _EDGED_WIDTH]
    edges = '<use href="#edges"/>' if axis.edges() else ""
    labels = "".join(_label(axis, run) for run in rank_runs)
    elements = draw(axis, wide) + edges + draw(axis, thin) + labels
    return Markup(
        f'<svg viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" aria-label="{name}">'
        f'<rect class="none" width="{_WIDTH:.0f}" height="{_HEIGHT:.0f}"/>{elements}</svg>'
    )


def span_words(ranks: list[int]) -> str:
    """Return `rank 3`, `ranks 0-7, 12`."""
    return f"rank{'s' * (len(ranks) > 1)} {joined_spans(ranks)}"


def _shares(rank_runs: list[RankRun]) -> str:
    low, high = (percent(each(run.share for run in rank_runs)) for each in (min, max))
    return f"{low} each" if low == high else f"{low} to {high} each"


def _rects(axis: RankAxis, rank_runs: list[RankRun]) -> str:
    parts = []
    for run in rank_runs:
        x, width = _extent(axis, run)
        parts.append(
            f'<rect class="s{_colour(run.share)}" x="{x:.1f}" width="{width:.1f}" height="{_HEIGHT:.0f}">'
            f"<title>{span(run.first, run.last)}: {escape(_words(run))}</title></rect>"
        )
    return "".join(parts)


def _label(axis: RankAxis, run: RankRun) -> str:
    x, width = _extent(axis, run)
    if width < _LABELLED_WIDTH:
        return ""
    place = f'x="{x + width / 2:.1f}" y="15" text-anchor="middle"'
    return f'<text class="s{_colour(run.share)}" {place}>{escape(_words(run))}</text>'


def _words(run: RankRun) -> str:
    return percent(run.share) + " each" * (run.last > run.first)


def _paths(axis: RankAxis, rank_runs: list[RankRun]) -> str:
    pieces: dict[int, list[str]] = {}
    for run in rank_runs:
        x, width = _extent(axis, run)
        pieces.setdefault(_colour(run.share), []).append(f"M{x:.1f} 0h{width:.1f}v{_HEIGHT:.0f}h-{width:.1f}z")
    return "".join(f'<path class="s{colour}" d="{"".join(each)}"/>' for colour, each in sorted(pieces.items()))


def _extent(axis: RankAxis, run: RankRun) -> tuple[float, float]:
    """Return start and width of a run, which is wide enough to see and lies inside the strip."""
    width = max(axis.pitch * (run.last - run.first + 1), _LEAST_WIDTH)
    return min(axis.place(run.first), _WIDTH - width), width


def _colour(share: float) -> int:
    return min(bisect_left(_BOUNDS, share / _SLACK), len(_BOUNDS) - 1)


# Lengths are CSS pixels.
_STEP_WIDTH, _LEFT, _RIGHT, _BAR, _THIN = 1072.0, 72.0, 2.0, 34.0, 12.0
_LETTER_WIDTH = 8.0


def step(plan: PlanFile) -> dict[str, Any]:
    """Return the breakdown of the estimate if the plan has one, and a chart over ranks if tables take time."""
    return {"breakdown": _breakdown(plan.estimate) if plan.estimate else None, "over_ranks": _over_ranks(plan)}


def _breakdown(estimate: StepEstimate) -> dict[str, Any]:
    times = {name: estimate.part_ms(name) for name in PARTS}
    return {
        "step": short_ms(estimate.step_ms),
        "bound": estimate.bound,
        "largest": short_ms(times[estimate.bound]),
        "layers": [Layer(name, name, [ms]) for name, ms in times.items()],
        "chart": _bars(estimate),
        "parts": [
            {
                "name": name,
                "ms": short_ms(ms).removesuffix(" ms"),
                "share": percent(ms / estimate.step_ms) if estimate.step_ms else "",
                "what": StepEstimate.model_fields[f"{name}_ms"].description,
            }
            for name, ms in times.items()
        ],
    }


def _bars(estimate: StepEstimate) -> Markup:
    """Draw the parts that follow each other above, the loader below, on one axis in milliseconds."""
    high = max(estimate.step_ms, estimate.loader_ms, 1e-6) * 1.0001
    scale = (_STEP_WIDTH - _LEFT - _RIGHT) / high
    x, top, thin = _LEFT, 4.0, 4.0 + _BAR + 5
    elements = []
    for name in SEQUENTIAL_PARTS:
        value = estimate.part_ms(name)
        width = value * scale
        elements.append(_piece(name, x, top, width, _BAR, value) if value else "")
        x += width
    elements.append(_waiting(estimate, x, _LEFT + estimate.loader_ms * scale - x, top))
    elements.append(_piece("loader", _LEFT, thin, estimate.loader_ms * scale, _THIN, estimate.loader_ms))
    foot = thin + _THIN + 5
    elements.append(f'<line class="base" x1="{_LEFT}" x2="{_STEP_WIDTH - _RIGHT}" y1="{foot}" y2="{foot}"/>')
    for value in ticks(high, 1.0):
        at, anchor = _LEFT + value * scale, "middle"
        if at > _STEP_WIDTH - 24:
            at, anchor = _STEP_WIDTH - _RIGHT, "end"
        elements.append(
            f'<text x="{at:.1f}" y="{foot + 15}" text-anchor="{anchor}">{f"{value:g} ms" if value else "0"}</text>'
        )
    for label, y in (("rank", top + _BAR / 2), ("loader", thin + _THIN / 2)):
        elements.append(f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{label}</text>')
    words = ", ".join(f"{name} {short_ms(estimate.part_ms(name))}" for name in PARTS)
    title = escape(f"A step of {short_ms(estimate.step_ms)}: {words}; bound by {estimate.bound}")
    return Markup(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_STEP_WIDTH:.0f} {foot + 20:.0f}" role="img" '
        f'class="wide" aria-label="{title}"><title>{title}</title>{"".join(elements)}</svg>'
    )


def _waiting(estimate: StepEstimate, x: float, width: float, top: float) -> str:
    """Draw the time that a step waits for the loader, if this takes longer than all other parts."""
    rest = estimate.loader_ms - sum(estimate.part_ms(name) for name in SEQUENTIAL_PARTS)
    if rest <= 0:
        return ""
    words = escape(f"waits {short_ms(rest)} for the loader")
    place = f'x="{x:.1f}" y="{top}" width="{width:.1f}" height="{_BAR}"'
    rect = f'<rect class="hatched" {place}><title>{words}</title></rect>'
    if width < _LETTER_WIDTH * len(words):
        return rect
    middle = f'x="{x + width / 2:.1f}" y="{top + _BAR / 2 + 4}" text-anchor="middle"'
    return f'{rect}<text class="boxed" {middle}>{words}</text>'


def _piece(name: str, x: float, y: float, width: float, height: float, value: float) -> str:
    words = f"{name} {short_ms(value)}"
    rect = (
        f'<rect class="layer {name}" x="{x:.1f}" y="{y}" width="{max(width, 0.5):.1f}" height="{height}">'
        f"<title>{escape(words)}</title></rect>"
    )
    if height < _BAR or width < _LETTER_WIDTH * len(words):
        return rect
    middle = f'x="{x + width / 2:.1f}" y="{y + height / 2 + 4}" text-anchor="middle"'
    return f'{rect}<text class="on {name}" {middle}>{escape(words)}</text>'


def _over_ranks(plan: PlanFile) -> dict[str, Any] | None:
    layers = [
        Layer("lookup", "lookup", [costs.lookup_ms() for costs in plan.costs]),
        Layer("communication", "communication", [costs.communication_ms() for costs in plan.costs]),
    ]
    times = [a + b for a, b in zip(*(layer.values for layer in layers), strict=True)]
    most, mean = max(times), fmean(times)
    if not most:
        return None
    style = BarStyle(
        f"Time of the tables on {len(times)} ranks: {short_ms(min(times))} to {short_ms(most)}, mean {short_ms(mean)}",
        short_ms,
        (1.0, "ms"),
        most * 1.1,
    )
    chart = rank_bars(plan.cluster, layers, [Mark(mean, f"{short_ms(mean)} mean", "cap")], style)
    note = f"busiest rank {times.index(most)}: {short_ms(most)}, {most / mean:.2f} x the mean"
    return {"note": note, "layers": layers, "chart": chart}
