"""Which ranks hold which table: a strip a table, its colour the share of the table that a rank holds."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any, NamedTuple

from markupsafe import Markup, escape

from ple_rec.config.plan import Plan
from ple_rec.config.plan_table import TablePlan
from ple_rec.reports.plan.axis import RULER, RankAxis
from ple_rec.reports.plan.bars import runs
from ple_rec.reports.plan.words import percent, span
from ple_rec.text.units import joined_spans

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
