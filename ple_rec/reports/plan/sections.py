"""Sections of the page of a plan: memory of ranks, placement of tables, and the time of a step."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any, NamedTuple

from markupsafe import Markup, escape

from ple_rec.config.plan import BUSY, PARTS, Estimate, Plan
from ple_rec.config.plan_table import Memory, TablePlan
from ple_rec.reports.plan.bars import RULER, Layer, Look, Mark, RankAxis, rank_bars, runs, ticks
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


_HIDDEN = 5.0  # a cap beyond so many times the fullest rank leaves bars too low to read: it is named, not drawn
_FEW = 4  # up to so many ranks, figures stand beside their chart
_UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B"))
_KINDS = ("weights", "optimizer", "cache", "batch")
_NAMES = {"optimizer": "optimizer state"}


@dataclass(frozen=True)
class Room:
    """One of the two memories of a rank, in bytes."""

    name: str
    layers: tuple[Layer, ...]
    allowed: int
    total: int
    reserve: int
    dense: int

    @property
    def taken(self) -> list[int]:
        """By the tables of every rank."""
        return [int(sum(values)) for values in zip(*(layer.values for layer in self.layers), strict=True)]


def rooms(plan: Plan) -> list[Room]:
    """Return HBM and the host's memory, each where tables are in it."""
    reserved, cluster = plan.reserved, plan.cluster
    dense = reserved.dense_bytes
    found = []
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
        found += [Room(name, used, allowed, total, reserve, dense_bytes)] * bool(used)
    return found


def _layer(memory: Sequence[Memory], prefix: str, kind: str) -> Layer:
    return Layer(_NAMES.get(kind, kind), kind, [getattr(rank, f"{prefix}_{kind}") for rank in memory])


def memory(plan: Plan) -> list[dict[str, Any]]:
    """Return a chart and a summary for each of the two memories that tables use."""
    return [_view(plan, room) for room in rooms(plan)]


def _view(plan: Plan, room: Room) -> dict[str, Any]:
    """Return the chart, and what the least, the middle and the fullest rank hold of each layer and of all together."""
    taken = room.taken
    parts = [(layer.name, layer.values) for layer in room.layers] + [("together", taken)]
    return {
        "room": room,
        "over": sum(each > room.allowed for each in taken),
        "few": plan.cluster.world_size <= _FEW,
        "layers": room.layers,
        "chart": _chart(plan, room),
        "rows": [(name, [each(values) for each in (min, median, max)]) for name, values in parts],
        "shares": [percent(each(taken) / room.allowed) for each in (min, median, max)] if room.allowed else [],
    }


def _chart(plan: Plan, room: Room) -> Markup:
    taken = room.taken
    most, world = max(taken), plan.cluster.world_size
    visible = room.allowed <= _HIDDEN * most
    ends = [most, room.total if visible else 0, room.allowed if visible else 0]
    times = room.allowed / most
    where = (
        f"{short_bytes(room.allowed)} allowed: {f'{times:.3g}' if times < 100 else f'{times:,.0f}'} x the fullest rank"
    )
    look = Look(
        f"{room.name} of {world} ranks: {_between(taken)} of {short_bytes(room.allowed)} allowed",
        short_bytes,
        next(unit for unit in _UNITS if unit[0] * 0.9995 <= max(ends)),
        max(ends) * (1.02 if visible else 1.1),
        "" if visible else where,
        (room.total - room.reserve, room.total) if visible and room.reserve else None,
    )
    marks = []
    if visible:
        marks.append(Mark(room.allowed, f"{short_bytes(room.allowed)} allowed", "cap"))
        marks.append(Mark(room.total, f"{short_bytes(room.total)} in all", "whole"))
    return rank_bars(plan.cluster, room.layers, marks, look)


def _between(taken: Sequence[int]) -> str:
    low, high = short_bytes(min(taken)), short_bytes(max(taken))
    return low if low == high else f"{low} to {high}"


SHOWN = 60
_WIDTH, _HEIGHT = 560.0, 22.0  # CSS pixels
_LEAST, _LABELLED = 2.5, 76.0  # widths: the least of a run, so that one rank of many is seen; the least with a label
_EDGED = 12.0  # least width of a run that edges of hosts cross; they would change the colour of a thinner one
_POINTED = 1200  # more runs than this have no tooltips, and a path a colour
_BOUNDS = (0.002, 0.01, 0.05, 0.2, 0.5, 1.0)  # of the colours
_SLACK = 1.02  # rows that do not divide by the ranks leave shares just above a bound


class Run(NamedTuple):
    """Neighbouring ranks that hold the same share of a table, each."""

    first: int
    last: int
    share: float


def ranks_of(plan: Plan, entry: TablePlan) -> list[int]:
    """Return the ranks that hold rows of a table."""
    return sorted({shard.rank for shard in entry.shards(plan.cluster) if shard.rows})


def runs_of(plan: Plan, entry: TablePlan) -> list[Run]:
    """Return who holds how much of a table; ranks without a row are left out. Shares times ranks add up to 1."""
    values = [0] * plan.cluster.world_size
    for shard in entry.shards(plan.cluster):
        values[shard.rank] += shard.rows * shard.columns
    whole = entry.rows * entry.dim
    return [Run(first, last, value / whole) for first, last, value in runs(values) if value]


def by_size(plan: Plan) -> list[TablePlan]:
    """Return the tables, the largest first."""
    return sorted(plan.tables, key=lambda entry: (-entry.bytes, entry.table))


def placement(plan: Plan) -> dict[str, Any]:
    """Draw the map of the largest tables, and list the others."""
    entries = by_size(plan)
    axis = RankAxis(plan.cluster, 0.0, _WIDTH / plan.cluster.world_size)
    found = [(entry, runs_of(plan, entry)) for entry in entries[:SHOWN]]
    pointed = sum(len(each) for _, each in found) <= _POINTED
    rest = entries[SHOWN:]
    return {
        "edges": "".join(f"M{x:.1f} 0V{_HEIGHT:.0f}" for x in axis.edges()),  # of hosts; every strip refers to them
        "bounds": [f"{100 * bound:g} %" for bound in _BOUNDS],
        "height": f"{RULER if plan.cluster.hosts > 1 else 16.0:.0f}",
        "ruler": axis.ruler(0),
        "tables": [(entry, _strip(axis, ranks_of(plan, entry), each, pointed=pointed)) for entry, each in found],
        "rest": [(entry, joined_spans(ranks_of(plan, entry))) for entry in rest],
        "rest_bytes": sum(entry.bytes for entry in rest),
        "rest_rows": sum(entry.rows for entry in rest),
    }


def _strip(axis: RankAxis, ranks: list[int], found: list[Run], *, pointed: bool) -> Markup:
    name = escape(f"{span_words(ranks)}: {_shares(found)}")
    draw = _rects if pointed else _paths
    wide = [run for run in found if _extent(axis, run)[1] >= _EDGED]
    thin = [run for run in found if _extent(axis, run)[1] < _EDGED]
    edges = '<use href="#edges"/>' if axis.edges() else ""
    labels = "".join(_label(axis, run) for run in found)
    drawn = draw(axis, wide) + edges + draw(axis, thin) + labels
    return Markup(
        f'<svg viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" aria-label="{name}">'
        f'<rect class="none" width="{_WIDTH:.0f}" height="{_HEIGHT:.0f}"/>{drawn}</svg>'
    )


def span_words(ranks: list[int]) -> str:
    """Return `rank 3`, `ranks 0-7, 12`."""
    return f"rank{'s' * (len(ranks) > 1)} {joined_spans(ranks)}"


def _shares(found: list[Run]) -> str:
    low, high = (percent(each(run.share for run in found)) for each in (min, max))
    return f"{low} each" if low == high else f"{low} to {high} each"


def _rects(axis: RankAxis, found: list[Run]) -> str:
    parts = []
    for run in found:
        x, width = _extent(axis, run)
        parts.append(
            f'<rect class="s{_colour(run.share)}" x="{x:.1f}" width="{width:.1f}" height="{_HEIGHT:.0f}">'
            f"<title>{span(run.first, run.last)}: {escape(_words(run))}</title></rect>"
        )
    return "".join(parts)


def _label(axis: RankAxis, run: Run) -> str:
    x, width = _extent(axis, run)
    if width < _LABELLED:
        return ""
    place = f'x="{x + width / 2:.1f}" y="15" text-anchor="middle"'
    return f'<text class="s{_colour(run.share)}" {place}>{escape(_words(run))}</text>'


def _words(run: Run) -> str:
    return percent(run.share) + " each" * (run.last > run.first)


def _paths(axis: RankAxis, found: list[Run]) -> str:
    pieces: dict[int, list[str]] = {}
    for run in found:
        x, width = _extent(axis, run)
        pieces.setdefault(_colour(run.share), []).append(f"M{x:.1f} 0h{width:.1f}v{_HEIGHT:.0f}h-{width:.1f}z")
    return "".join(f'<path class="s{colour}" d="{"".join(each)}"/>' for colour, each in sorted(pieces.items()))


def _extent(axis: RankAxis, run: Run) -> tuple[float, float]:
    """Return where a run is drawn; never too thin to see, and inside the strip."""
    width = max(axis.pitch * (run.last - run.first + 1), _LEAST)
    return min(axis.place(run.first), _WIDTH - width), width


def _colour(share: float) -> int:
    return min(bisect_left(_BOUNDS, share / _SLACK), len(_BOUNDS) - 1)


_STEP_WIDTH, _LEFT, _RIGHT, _BAR, _THIN = 1072.0, 72.0, 2.0, 34.0, 12.0  # CSS pixels
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
    scale = (_STEP_WIDTH - _LEFT - _RIGHT) / high
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
    drawn.append(f'<line class="base" x1="{_LEFT}" x2="{_STEP_WIDTH - _RIGHT}" y1="{foot}" y2="{foot}"/>')
    for value in ticks(high, 1.0):
        at, anchor = _LEFT + value * scale, "middle"
        if at > _STEP_WIDTH - 24:
            at, anchor = _STEP_WIDTH - _RIGHT, "end"
        drawn.append(
            f'<text x="{at:.1f}" y="{foot + 15}" text-anchor="{anchor}">{f"{value:g} ms" if value else "0"}</text>'
        )
    for label, y in (("rank", top + _BAR / 2), ("loader", thin + _THIN / 2)):
        drawn.append(f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{label}</text>')
    words = ", ".join(f"{name} {short_ms(found.part_ms(name))}" for name in PARTS)
    told = escape(f"A step of {short_ms(found.step_ms)}: {words}; bound by {found.bound}")
    return Markup(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_STEP_WIDTH:.0f} {foot + 20:.0f}" role="img" '
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
