"""Sections of the page of a plan: memory of ranks, placement of tables, and the time of a step.

Each of `memory`, `placement` and `step` returns the view of its section: the values that `templates/plan.html.j2`
shows.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any, NamedTuple

from markupsafe import Markup, escape

from ple_rec.config.cluster import Cluster
from ple_rec.config.plan import STEP_PARTS, PlanFile, StepEstimate, StepPart, sequential_parts
from ple_rec.config.plan_table import Memory, TablePlan
from ple_rec.reports.plan.bars import (
    RULER,
    BarStyle,
    Layer,
    RankAxis,
    ReferenceLine,
    equal_neighbours,
    rank_bars,
    ticks,
)
from ple_rec.text.units import join_spans, short_bytes


def short_ms(value: float) -> str:
    """Return milliseconds with three digits, or an integer from 100 on: `0.0297 ms`, `13.6 ms`, `1,240 ms`."""
    if value >= 99.95:
        return f"{value:,.0f} ms"
    return f"{value:.3g} ms" if value >= 1e-3 else "0 ms" if value == 0 else "< 0.001 ms"


def percent(share: float) -> str:
    """Return a share of 1 in percent with three digits: `12.5 %`, `0.0977 %`, `< 0.001 %`."""
    hundredths = 100 * share
    if 0 < hundredths < 1e-3:
        return "< 0.001 %"
    return f"{hundredths:.0f} %" if hundredths >= 99.95 else f"{hundredths:.3g} %"


def rank_text(first: int, last: int) -> str:
    """Return the ranks of a span as text: `rank 3`, `ranks 0-7`."""
    return f"rank {first}" if first == last else f"ranks {first}-{last}"


# If the allowed memory is more than this many times what tables use on the fullest rank, the lines of the allowed
# and of the total memory are left out, since the bars would be too low to read. A label at the upper edge has the
# number.
_MAX_DRAWN_LIMIT = 5.0
# Up to this many ranks, the table of numbers is beside the chart.
_FEW_RANKS = 4
# Units of the memory axis, the largest first: bytes and name.
_UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B"))
# What tables store in a memory. Each kind is a layer of the stacked bars, and the end of a field name of `Memory`, such
# as `hbm_weights`; not every memory has every kind.
_KINDS = ("weights", "optimizer", "cache", "batch")
# Names that differ from the kind.
_NAMES = {"optimizer": "optimizer state"}


@dataclass(frozen=True)
class MemoryUse:
    """Use of one of the two memories of a rank, HBM or host memory, in bytes.

    Args:
        name: Name of the memory.
        layers: Bytes on every rank of weights, optimizer state, cache and batch, each only if a rank has any.
        allowed: Bytes that tables may take on a rank: `total` without `reserve` and `dense`, at least 0.
        total: Size of the memory of a rank.
        reserve: Bytes of a rank that the plan keeps free of tables and dense layers.
        dense: Bytes of the dense layers; 0 in host memory if the ranks have GPUs.
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
            reserved.host_bytes + (reserved.frozen_bytes or 0),
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
    return [_memory_view(plan, use) for use in memories_in_use(plan)]


def _memory_view(plan: PlanFile, use: MemoryUse) -> dict[str, Any]:
    """Return the view of a memory.

    It has the chart, the least, median and greatest bytes of a rank for each layer and for all together, the same of
    all together as shares of the allowed bytes, and the number of ranks above these.
    """
    used = use.used
    parts = [(layer.name, layer.values) for layer in use.layers] + [("together", used)]
    return {
        "use": use,
        "ranks_above_allowed": sum(bytes_of_rank > use.allowed for bytes_of_rank in used),
        "has_few_ranks": plan.cluster.world_size <= _FEW_RANKS,
        "layers": use.layers,
        "chart": _memory_chart(plan, use),
        "sizes_by_layer": [(name, [statistic(values) for statistic in (min, median, max)]) for name, values in parts],
        "shares_of_allowed": [percent(statistic(used) / use.allowed) for statistic in (min, median, max)]
        if use.allowed
        else [],
    }


def _memory_chart(plan: PlanFile, use: MemoryUse) -> Markup:
    used = use.used
    most, world = max(used), plan.cluster.world_size
    visible = use.allowed <= _MAX_DRAWN_LIMIT * most
    ends = [most, use.total if visible else 0, use.allowed if visible else 0]
    times = use.allowed / most
    limit = (
        f"{short_bytes(use.allowed)} allowed: {f'{times:.3g}' if times < 100 else f'{times:,.0f}'} x the fullest rank"
    )
    style = BarStyle(
        name=f"{use.name} of {world} ranks: {_range_text(used)} of {short_bytes(use.allowed)} allowed",
        format_value=short_bytes,
        # As in `short_bytes`, a size that rounds to 1 GiB is shown in GiB.
        unit=next(unit for unit in _UNITS if unit[0] * 0.9995 <= max(ends)),
        axis_end=max(ends) * (1.02 if visible else 1.1),
        upper_edge_label="" if visible else limit,
        hatched=(use.total - use.reserve, use.total) if visible and use.reserve else None,
    )
    lines = []
    if visible:
        lines.append(ReferenceLine(use.allowed, f"{short_bytes(use.allowed)} allowed", kind="cap"))
        lines.append(ReferenceLine(use.total, f"{short_bytes(use.total)} in all", kind="whole"))
    return rank_bars(plan.cluster, use.layers, lines, style)


def _range_text(used: Sequence[int]) -> str:
    low, high = short_bytes(min(used)), short_bytes(max(used))
    return low if low == high else f"{low} to {high}"


# The largest tables are drawn, and further ones are listed.
MAX_DRAWN_TABLES = 60
# Lengths are CSS pixels.
_WIDTH, _HEIGHT = 560.0, 22.0
# Least width of a span of ranks, so that one rank of many can be seen, and least width of a span with a label.
_LEAST_WIDTH, _LABELLED_WIDTH = 2.5, 76.0
# Lines between hosts would hide most of a span that is narrower than this, so it is painted over them.
_EDGED_WIDTH = 12.0
# More spans than this have no tooltips, and are drawn as one path for each colour.
_MAX_TOOLTIPS = 1200
# Colour i is for shares up to bound i.
_BOUNDS = (0.002, 0.01, 0.05, 0.2, 0.5, 1.0)
# A share may exceed its bound by this factor: if ranks do not divide the rows evenly, some shards are slightly larger.
_SLACK = 1.02


class RankSpan(NamedTuple):
    """Neighbouring ranks, each of which holds the same share of a table."""

    first: int
    last: int
    share: float


def ranks_with_rows(plan: PlanFile, entry: TablePlan) -> list[int]:
    """Return the ranks that hold rows of a table."""
    return sorted({shard.rank for shard in entry.shards(plan.cluster) if shard.rows})


def rank_spans(plan: PlanFile, entry: TablePlan) -> list[RankSpan]:
    """Return the share of a table on each rank that holds rows of it, in spans of neighbours with equal shares."""
    values = [0] * plan.cluster.world_size
    for shard in entry.shards(plan.cluster):
        values[shard.rank] += shard.rows * shard.columns
    whole = entry.rows * entry.dim
    return [RankSpan(first, last, value / whole) for first, last, value in equal_neighbours(values) if value]


def tables_by_size(plan: PlanFile) -> list[TablePlan]:
    """Return the tables, the largest first."""
    return sorted(plan.tables, key=lambda entry: (-entry.bytes, entry.table))


def placement(plan: PlanFile) -> dict[str, Any]:
    """Draw a strip for each of the largest tables, coloured by the share of each rank, and list the other tables."""
    entries = tables_by_size(plan)
    axis = RankAxis(plan.cluster, 0.0, _WIDTH / plan.cluster.world_size)
    spans_by_table = [(entry, rank_spans(plan, entry)) for entry in entries[:MAX_DRAWN_TABLES]]
    tooltips = sum(len(spans) for _, spans in spans_by_table) <= _MAX_TOOLTIPS
    rest = entries[MAX_DRAWN_TABLES:]
    return {
        # Lines between hosts, which the page defines once and every strip refers to.
        "edges": "".join(f"M{x:.1f} 0V{_HEIGHT:.0f}" for x in axis.band_edges()),
        "bounds": [f"{100 * bound:g} %" for bound in _BOUNDS],
        "ruler_height": f"{RULER if plan.cluster.hosts > 1 else 16.0:.0f}",
        "ruler": axis.ruler(0),
        "tables": [
            (entry, _strip(axis, ranks_with_rows(plan, entry), spans, tooltips=tooltips))
            for entry, spans in spans_by_table
        ],
        "rest": [(entry, join_spans(ranks_with_rows(plan, entry))) for entry in rest],
        "rest_bytes": sum(entry.bytes for entry in rest),
        "rest_rows": sum(entry.rows for entry in rest),
    }


def _strip(axis: RankAxis, ranks: list[int], spans: list[RankSpan], *, tooltips: bool) -> Markup:
    name = escape(f"{ranks_text(ranks)}: {_shares_text(spans)}")
    draw = _rects if tooltips else _paths
    wide = [span for span in spans if _extent(axis, span)[1] >= _EDGED_WIDTH]
    thin = [span for span in spans if _extent(axis, span)[1] < _EDGED_WIDTH]
    edges = '<use href="#edges"/>' if axis.band_edges() else ""
    labels = "".join(_label(axis, span) for span in spans)
    elements = draw(axis, wide) + edges + draw(axis, thin) + labels
    return Markup(
        f'<svg viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" aria-label="{name}">'
        f'<rect class="none" width="{_WIDTH:.0f}" height="{_HEIGHT:.0f}"/>{elements}</svg>'
    )


def ranks_text(ranks: list[int]) -> str:
    """Return a list of ranks as text: `rank 3`, `ranks 0-7, 12`."""
    return f"rank{'s' * (len(ranks) > 1)} {join_spans(ranks)}"


def _shares_text(spans: list[RankSpan]) -> str:
    low, high = (percent(end(span.share for span in spans)) for end in (min, max))
    return f"{low} each" if low == high else f"{low} to {high} each"


def _rects(axis: RankAxis, spans: list[RankSpan]) -> str:
    parts = []
    for span in spans:
        x, width = _extent(axis, span)
        parts.append(
            f'<rect class="s{_colour(span.share)}" x="{x:.1f}" width="{width:.1f}" height="{_HEIGHT:.0f}">'
            f"<title>{rank_text(span.first, span.last)}: {escape(_share_text(span))}</title></rect>"
        )
    return "".join(parts)


def _label(axis: RankAxis, span: RankSpan) -> str:
    x, width = _extent(axis, span)
    if width < _LABELLED_WIDTH:
        return ""
    place = f'x="{x + width / 2:.1f}" y="15" text-anchor="middle"'
    return f'<text class="s{_colour(span.share)}" {place}>{escape(_share_text(span))}</text>'


def _share_text(span: RankSpan) -> str:
    return percent(span.share) + " each" * (span.last > span.first)


def _paths(axis: RankAxis, spans: list[RankSpan]) -> str:
    pieces: dict[int, list[str]] = {}
    for span in spans:
        x, width = _extent(axis, span)
        pieces.setdefault(_colour(span.share), []).append(f"M{x:.1f} 0h{width:.1f}v{_HEIGHT:.0f}h-{width:.1f}z")
    return "".join(f'<path class="s{colour}" d="{"".join(paths)}"/>' for colour, paths in sorted(pieces.items()))


def _extent(axis: RankAxis, span: RankSpan) -> tuple[float, float]:
    """Return left end and width of a span, at least wide enough to see and inside the strip."""
    width = max(axis.pitch * (span.last - span.first + 1), _LEAST_WIDTH)
    return min(axis.place(span.first), _WIDTH - width), width


def _colour(share: float) -> int:
    return min(bisect_left(_BOUNDS, share / _SLACK), len(_BOUNDS) - 1)


# Lengths are CSS pixels: width of the chart of a step, its left and right margin, height of the bar of the parts that
# run one after another, and height of the loader's thin bar.
_STEP_WIDTH, _LEFT, _RIGHT, _BAR, _THIN = 1072.0, 72.0, 2.0, 34.0, 12.0
# A text is drawn in a bar that has this width for each of its letters.
_LETTER_WIDTH = 8.0


def step(plan: PlanFile) -> dict[str, Any]:
    """Return the breakdown of the estimate if the plan has one, and a chart over ranks if tables take time."""
    breakdown = _breakdown(plan.cluster, plan.estimate) if plan.estimate else None
    return {"breakdown": breakdown, "over_ranks": _over_ranks(plan)}


def step_range(estimate: StepEstimate) -> str:
    """Return the range of a step as text, such as `1.5 ms to 9.2 ms`; empty if it is not known or has no width."""
    fastest, slowest = estimate.fastest_ms, estimate.slowest_ms
    if fastest is None or slowest is None or fastest == slowest:
        return ""
    return f"{short_ms(fastest)} to {short_ms(slowest)}"


# Work of the parts that run at the same time as the others.
_BESIDE = {"host": "the host issues operators", "loader": "the loader reads the next batch"}


def _breakdown(cluster: Cluster, estimate: StepEstimate) -> dict[str, Any]:
    times = {name: estimate.part_ms(name) for name in STEP_PARTS}
    sequential = sequential_parts(cluster)
    return {
        "step": short_ms(estimate.step_ms),
        "range": step_range(estimate),
        "beside": ", ".join(text for name, text in _BESIDE.items() if name not in sequential),
        "bound": estimate.bound,
        "bound_time": short_ms(times[estimate.bound]),
        "layers": [Layer(name, name, [ms]) for name, ms in times.items()],
        "chart": _step_chart(sequential, estimate),
        "parts": [
            {
                "name": name,
                "ms": short_ms(ms).removesuffix(" ms"),
                "share": percent(ms / estimate.step_ms) if estimate.step_ms else "",
                "meaning": StepEstimate.model_fields[f"{name}_ms"].description,
            }
            for name, ms in times.items()
        ],
    }


def _step_chart(sequential: Sequence[StepPart], estimate: StepEstimate) -> Markup:
    """Draw the parts of a step that follow one another as one bar, and below it each part that runs beside them."""
    beside = [name for name in STEP_PARTS if name not in sequential]
    high = max(estimate.step_ms, *(estimate.part_ms(name) for name in beside), 1e-6) * 1.0001
    scale = (_STEP_WIDTH - _LEFT - _RIGHT) / high
    x, top = _LEFT, 4.0
    elements = []
    for name in sequential:
        value = estimate.part_ms(name)
        width = value * scale
        elements.append(_part_bar(name, x, top, width, _BAR, value) if value else "")
        x += width
    elements.append(_waiting_bar(sequential, estimate, x, _LEFT + estimate.step_ms * scale - x, top))
    labels = [("rank", top + _BAR / 2)]
    y = top + _BAR + 5
    for name in beside:
        value = estimate.part_ms(name)
        elements.append(_part_bar(name, _LEFT, y, value * scale, _THIN, value) if value else "")
        labels.append((name, y + _THIN / 2))
        y += _THIN + 5
    foot = y
    elements.append(f'<line class="base" x1="{_LEFT}" x2="{_STEP_WIDTH - _RIGHT}" y1="{foot}" y2="{foot}"/>')
    for value in ticks(high, 1.0):
        label_x, anchor = _LEFT + value * scale, "middle"
        if label_x > _STEP_WIDTH - 24:
            label_x, anchor = _STEP_WIDTH - _RIGHT, "end"
        elements.append(
            f'<text x="{label_x:.1f}" y="{foot + 15}" text-anchor="{anchor}">{f"{value:g} ms" if value else "0"}</text>'
        )
    for label, y in labels:
        elements.append(f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{label}</text>')
    words = ", ".join(f"{name} {short_ms(estimate.part_ms(name))}" for name in STEP_PARTS)
    title = escape(f"A step of {short_ms(estimate.step_ms)}: {words}; bound by {estimate.bound}")
    return Markup(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_STEP_WIDTH:.0f} {foot + 20:.0f}" role="img" '
        f'class="wide" aria-label="{title}"><title>{title}</title>{"".join(elements)}</svg>'
    )


def _waiting_bar(sequential: Sequence[StepPart], estimate: StepEstimate, x: float, width: float, top: float) -> str:
    """Draw the time that a step waits for the host or the loader, if one of them takes longer than the other parts."""
    if estimate.bound in sequential:
        return ""
    rest = estimate.step_ms - sum(estimate.part_ms(name) for name in sequential)
    words = escape(f"waits {short_ms(rest)} for the {estimate.bound}")
    place = f'x="{x:.1f}" y="{top}" width="{width:.1f}" height="{_BAR}"'
    rect = f'<rect class="hatched" {place}><title>{words}</title></rect>'
    if width < _LETTER_WIDTH * len(words):
        return rect
    middle = f'x="{x + width / 2:.1f}" y="{top + _BAR / 2 + 4}" text-anchor="middle"'
    return f'{rect}<text class="boxed" {middle}>{words}</text>'


def _part_bar(name: str, x: float, y: float, width: float, height: float, value: float) -> str:
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
        Layer("lookup", "lookup", [costs.lookup_part_ms() for costs in plan.costs]),
        Layer("communication", "communication", [costs.communication_part_ms() for costs in plan.costs]),
    ]
    times = [a + b for a, b in zip(*(layer.values for layer in layers), strict=True)]
    most, mean = max(times), fmean(times)
    if not most:
        return None
    style = BarStyle(
        name=f"Time of the tables on {len(times)} ranks: {short_ms(min(times))} to {short_ms(most)}, "
        f"mean {short_ms(mean)}",
        format_value=short_ms,
        unit=(1.0, "ms"),
        axis_end=most * 1.1,
    )
    chart = rank_bars(plan.cluster, layers, [ReferenceLine(mean, f"{short_ms(mean)} mean", kind="cap")], style)
    note = f"busiest rank {times.index(most)}: {short_ms(most)}, {most / mean:.2f} x the mean"
    return {"note": note, "layers": layers, "chart": chart}
