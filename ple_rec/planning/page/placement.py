"""Which ranks hold which table: a strip a table, its colour the share of the table that a rank holds."""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple

from ple_rec.config.plan import Plan, TablePlan
from ple_rec.html.markup import absent, table, text
from ple_rec.planning.page.axis import RULER, RankAxis
from ple_rec.planning.page.bars import runs
from ple_rec.planning.page.words import percent, span
from ple_rec.text.units import joined_spans, short_bytes, short_count

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


def ranks_of(entry: TablePlan) -> list[int]:
    """The ranks that hold rows of a table."""
    return sorted({shard.rank for shard in entry.shards if shard.rows})


def runs_of(plan: Plan, entry: TablePlan) -> list[Run]:
    """Who holds how much of a table; ranks without a row are left out. Shares times ranks add up to 1."""
    values = [0] * plan.cluster.world_size
    for shard in entry.shards:
        values[shard.rank] += shard.rows * shard.columns
    whole = entry.rows * entry.dim
    return [Run(first, last, value / whole) for first, last, value in runs(values) if value]


def by_size(plan: Plan) -> list[TablePlan]:
    """The tables, the largest first."""
    return sorted(plan.tables, key=lambda entry: (-entry.bytes, entry.table))


def placement(plan: Plan) -> str:
    """The map of the largest tables; the others are listed in a fold."""
    if not plan.tables:
        return absent("The model has no embedding tables.")
    entries = by_size(plan)
    axis = RankAxis(plan.cluster, 0.0, _WIDTH / plan.cluster.world_size)
    found = [(entry, runs_of(plan, entry)) for entry in entries[:SHOWN]]
    pointed = sum(len(each) for _, each in found) <= _POINTED
    head = [
        '<th class="text" scope="col">table</th><th scope="col">size</th>'
        f'<th class="map text" scope="col">rank{_ruler(axis)}</th>',
        '<th class="text" scope="col">sharding</th><th class="text" scope="col">kernel</th>',
    ]
    body = [
        f'<tr><th class="text" scope="row" title="{text(entry.table)}">{text(entry.table)}</th>'
        f'<td>{short_bytes(entry.bytes)}</td><td class="map">{_strip(axis, entry, each, pointed=pointed)}</td>'
        f'<td class="text">{entry.sharding}</td><td class="text">{entry.kernel}</td></tr>'
        for entry, each in found
    ]
    return (
        _defined(axis)
        + _legend()
        + f'<div class="placed">{table(head, body, plotted=True)}</div>'
        + _rest(entries[SHOWN:])
    )


def _defined(axis: RankAxis) -> str:
    """The edges of hosts, which every strip refers to."""
    edges = "".join(f"M{x:.1f} 0V{_HEIGHT:.0f}" for x in axis.edges())
    return f'<svg class="defined" aria-hidden="true"><defs><path id="edges" d="{edges}"/></defs></svg>' if edges else ""


def _legend() -> str:
    steps = "".join(
        f'<span><svg viewBox="0 0 16 10"><rect class="s{n}" width="16" height="10"/></svg>{100 * bound:g} %</span>'
        for n, bound in enumerate(_BOUNDS)
    )
    return f'<p class="shares">Share of the table that a rank holds, up to {steps}</p>'


def _ruler(axis: RankAxis) -> str:
    height = RULER if axis.cluster.hosts > 1 else 16.0
    return f'<svg class="ruler" viewBox="0 0 {_WIDTH:.0f} {height:.0f}" aria-hidden="true">{axis.ruler(0)}</svg>'


def _strip(axis: RankAxis, entry: TablePlan, found: list[Run], *, pointed: bool) -> str:
    name = text(f"{span_words(ranks_of(entry))}: {_shares(found)}")
    draw = _rects if pointed else _paths
    wide = [run for run in found if _extent(axis, run)[1] >= _EDGED]
    thin = [run for run in found if _extent(axis, run)[1] < _EDGED]
    edges = '<use href="#edges"/>' if axis.edges() else ""
    labels = "".join(_label(axis, run) for run in found)
    drawn = draw(axis, wide) + edges + draw(axis, thin) + labels
    return (
        f'<svg viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" aria-label="{name}">'
        f'<rect class="none" width="{_WIDTH:.0f}" height="{_HEIGHT:.0f}"/>{drawn}</svg>'
    )


def span_words(ranks: list[int]) -> str:
    """`rank 3`, `ranks 0-7, 12`."""
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
            f"<title>{span(run.first, run.last)}: {text(_words(run))}</title></rect>"
        )
    return "".join(parts)


def _label(axis: RankAxis, run: Run) -> str:
    x, width = _extent(axis, run)
    if width < _LABELLED:
        return ""
    place = f'x="{x + width / 2:.1f}" y="15" text-anchor="middle"'
    return f'<text class="s{_colour(run.share)}" {place}>{text(_words(run))}</text>'


def _words(run: Run) -> str:
    return percent(run.share) + " each" * (run.last > run.first)


def _paths(axis: RankAxis, found: list[Run]) -> str:
    pieces: dict[int, list[str]] = {}
    for run in found:
        x, width = _extent(axis, run)
        pieces.setdefault(_colour(run.share), []).append(f"M{x:.1f} 0h{width:.1f}v{_HEIGHT:.0f}h-{width:.1f}z")
    return "".join(f'<path class="s{colour}" d="{"".join(each)}"/>' for colour, each in sorted(pieces.items()))


def _extent(axis: RankAxis, run: Run) -> tuple[float, float]:
    """Where a run is drawn; never too thin to see, and inside the strip."""
    width = max(axis.pitch * (run.last - run.first + 1), _LEAST)
    return min(axis.place(run.first), _WIDTH - width), width


def _colour(share: float) -> int:
    return min(bisect_left(_BOUNDS, share / _SLACK), len(_BOUNDS) - 1)


def _rest(entries: list[TablePlan]) -> str:
    if not entries:
        return ""
    columns = ("table", "rows", "sharding", "kernel", "ranks")
    head = [f'<th{"" if name == "rows" else " class=text"} scope="col">{name}</th>' for name in columns]
    body = [
        f'<tr><th class="text" scope="row">{text(entry.table)}</th><td>{entry.rows:,}</td>'
        f'<td class="text">{entry.sharding}</td>'
        f'<td class="text">{entry.kernel}</td><td class="text wrap">{joined_spans(ranks_of(entry))}</td></tr>'
        for entry in entries
    ]
    size, rows = sum(entry.bytes for entry in entries), sum(entry.rows for entry in entries)
    tables = "1 smaller table" if len(entries) == 1 else f"{len(entries)} smaller tables"
    summary = f"{tables}, {short_bytes(size)}, {short_count(rows)} rows"
    return f"<details><summary>{summary}</summary>{table(head, body)}</details>"
