"""Charts over ranks: a shared axis with rank 0 on the left, and a stacked bar for each rank."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from ple_rec.config.cluster import Cluster

# Lengths in this file are CSS pixels. The ruler has the labels of ranks, and the bands of hosts below.
RULER = 34.0
# Least distances of two labels, and least width of a band.
_LABEL, _HOST_LABEL, _BAND = 30.0, 58.0, 6.0
_ROUND = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


@dataclass(frozen=True)
class RankAxis:
    """Places of ranks in CSS pixels.

    Args:
        cluster: Cluster of the ranks.
        left: Start of rank 0.
        pitch: Width of a rank.
    """

    cluster: Cluster
    left: float
    pitch: float

    @property
    def width(self) -> float:
        """Width of all ranks."""
        return self.pitch * self.cluster.world_size

    def place(self, rank: float) -> float:
        """Return the x coordinate at which a rank begins; its middle is `place(rank + .5)`."""
        return self.left + self.pitch * rank

    def label_every(self) -> int:
        """Return the number of ranks from one label to the next: whole hosts, or an equal part of a host."""
        ranks, hosts = self.cluster.ranks_per_host, self.cluster.hosts
        steps = _ROUND if hosts == 1 else range(1, ranks)
        parts = [n for n in steps if n < ranks and (hosts == 1 or ranks % n == 0)]
        return _first_wide([*parts, *(ranks << n for n in range(11))], self.pitch, _LABEL)

    def band_hosts(self) -> int:
        """Return the number of hosts in a band: one, unless bands would be too thin to see."""
        return _first_wide([1 << n for n in range(11)], self.pitch * self.cluster.ranks_per_host, _BAND)

    def edges(self) -> list[float]:
        """Return the x coordinates at which one band ends and the next begins."""
        step = self.band_hosts() * self.cluster.ranks_per_host
        return [self.place(rank) for rank in range(step, self.cluster.world_size, step)]

    def ruler(self, top: float) -> Markup:
        """Draw labels of ranks, and below them the bands of hosts if there are several."""
        world, every = self.cluster.world_size, self.label_every()
        marks = [
            f'<text x="{self.place(rank + 0.5):.1f}" y="{top + 12}" text-anchor="middle">{rank}</text>'
            for rank in range(0, world, every)
        ]
        return Markup("".join(marks) + (self._bands(top + 18) if self.cluster.hosts > 1 else ""))

    def _bands(self, top: float) -> str:
        together, hosts, ranks = self.band_hosts(), self.cluster.hosts, self.cluster.ranks_per_host
        parts = []
        for shade in (0, 1):
            pieces = "".join(
                f"M{self.place(host * ranks):.1f} {top}H{self.place(min(host + together, hosts) * ranks):.1f}v3"
                f"H{self.place(host * ranks):.1f}z"
                for host in range(shade * together, hosts, 2 * together)
            )
            parts.append(f'<path class="band{shade}" d="{pieces}"/>')
        wide = ranks * self.pitch
        every = _first_wide([together << n for n in range(11)], wide, _HOST_LABEL)
        for host in range(0, hosts, every):
            middle = self.place((host + min(together, hosts - host) / 2) * ranks)
            start = wide * together < _HOST_LABEL and host == 0
            at, anchor = (self.place(0), "start") if start else (middle, "middle")
            parts.append(f'<text x="{at:.1f}" y="{top + 14}" text-anchor="{anchor}">host {host}</text>')
        return "".join(parts)


def _first_wide(steps: list[int], pitch: float, least: float) -> int:
    return next((step for step in steps if step * pitch >= least), steps[-1])


# The width is that of the page.
_WIDTH, _LEFT, _TOP, _HEIGHT, _RIGHT = 1072.0, 72.0, 26.0, 210.0, 112.0
# Least width of all bars together, and greatest width of one.
_NARROW, _THICKEST = 320.0, 140.0
# Largest width of a rank, and the least widths for gaps between bars, for totals, and for labels inside bars.
_WIDEST, _APART, _TOTAL, _INSIDE = 118.0, 6.0, 56.0, 70.0
_LINE = 15.0
# With more ranks than this, each host has one tooltip.
_MOST_TOOLTIPS = 64


@dataclass(frozen=True)
class Layer:
    """One part of every bar, with its CSS class `kind` and its value on every rank."""

    name: str
    kind: str
    values: Sequence[float]


@dataclass(frozen=True)
class Mark:
    """A line across the bars at `value`, of CSS class `kind`; beyond the axis it is left out."""

    value: float
    label: str
    kind: str


@dataclass(frozen=True)
class BarStyle:
    """Name, unit and axis of a chart.

    Args:
        name: Text for a screen reader.
        show: Function that formats a value.
        unit: Size of a tick's unit, and its name.
        high: End of the axis.
        beyond: Text of a line at the upper edge, for a value above the axis.
        hatched: Ends of the part whose background is hatched.
    """

    name: str
    show: Callable[[float], str]
    unit: tuple[float, str]
    high: float
    beyond: str = ""
    hatched: tuple[float, float] | None = None


def rank_bars(cluster: Cluster, layers: Sequence[Layer], marks: Sequence[Mark], style: BarStyle) -> Markup:
    """Return the chart as an `<svg>` element; the first layer lies at the bottom."""
    world = cluster.world_size
    axis = RankAxis(cluster, _LEFT, min((_WIDTH - _LEFT - _RIGHT) / world, max(_WIDEST, _NARROW / world)))
    sums = _cumulated(layers, world)
    base = _TOP + _HEIGHT
    elements = [_grid(axis, style), _hatch(axis, style)]
    elements += [
        f'<path class="layer {layer.kind}" d="{_outline(axis, heights, style)}"/>'
        for layer, heights in zip(reversed(layers), reversed(sums), strict=True)
        if any(layer.values)
    ]
    elements.append(f'<line class="base" x1="{_LEFT}" x2="{axis.place(world):.1f}" y1="{base}" y2="{base}"/>')
    elements += [_marks(axis, marks, style), _beyond(axis, style.beyond)]
    elements += [_inside(axis, layers, sums, style), _totals(axis, sums, style), axis.ruler(base + 4)]
    elements += [f'<text x="{_LEFT - 8}" y="{base + 16}" text-anchor="end">rank</text>']
    elements += _tooltips(axis, layers, sums, style)
    width, height = axis.place(world) + _RIGHT, base + RULER + 6
    name = escape(style.name)
    kind = 'class="wide"' if width > 0.9 * _WIDTH else f'style="max-width:{width:.0f}px"'
    return Markup(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img" {kind} '
        f'aria-label="{name}"><title>{name}</title>{"".join(elements)}</svg>'
    )


def ticks(high: float, unit: float) -> list[float]:
    """Return round values from 0 to `high`, seven at most: 1, 2, 2.5 or 5 times a power of ten of the unit apart."""
    raw = high / unit / 6
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * n for n in (1, 2, 2.5, 5, 10) if power * n >= raw * 0.999) * unit
    return [step * n for n in range(math.floor(high / step + 1e-9) + 1)]


def _cumulated(layers: Sequence[Layer], world: int) -> list[list[float]]:
    """Return the upper end of each layer in the bar of every rank."""
    sums, below = [], [0.0] * world
    for layer in layers:
        below = [a + b for a, b in zip(below, layer.values, strict=True)]
        sums.append(below)
    return sums


def _y(value: float, style: BarStyle) -> float:
    return _TOP + _HEIGHT * (1 - min(value / style.high, 1.0))


def _outline(axis: RankAxis, heights: Sequence[float], style: BarStyle) -> str:
    """Outline a layer from the axis up to the heights; equal neighbours are one step. Higher layers lie behind."""
    base = f"{_TOP + _HEIGHT:.0f}"
    if axis.pitch < _APART:
        steps = "".join(
            f"V{_y(height, style):.1f}H{axis.place(last + 1):.1f}"
            for _, last, height in equal_neighbours(heights)
            if last >= 0
        )
        return f"M{_LEFT:.0f} {base}{steps}V{base}z"
    width = min(axis.pitch - max(1.0, 0.18 * axis.pitch), _THICKEST)
    gap = (axis.pitch - width) / 2
    return "".join(
        f"M{axis.place(rank) + gap:.1f} {base}V{_y(height, style):.1f}h{width:.1f}V{base}z"
        for rank, height in enumerate(heights)
        if height
    )


def equal_neighbours(values: Sequence[float]) -> Iterator[tuple[int, int, float]]:
    """Yield neighbours of the same value: the first, the last, the value."""
    first = 0
    for place in range(1, len(values) + 1):
        if place == len(values) or values[place] != values[first]:
            yield first, place - 1, values[first]
            first = place


def _grid(axis: RankAxis, style: BarStyle) -> str:
    size, unit = style.unit
    end, parts = axis.place(axis.cluster.world_size), []
    for value in ticks(style.high, size):
        y = _y(value, style)
        if value:
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{end:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        label = f"{value / size:g} {unit}" if value else "0"
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 3.5 * bool(value):.1f}" text-anchor="end">{escape(label)}</text>')
    return "".join(parts)


def _hatch(axis: RankAxis, style: BarStyle) -> str:
    if style.hatched is None:
        return ""
    low, high = (_y(value, style) for value in style.hatched)
    return f'<rect class="hatched" x="{_LEFT}" y="{high:.1f}" width="{axis.width:.1f}" height="{low - high:.1f}"/>'


def _totals(axis: RankAxis, sums: Sequence[Sequence[float]], style: BarStyle) -> str:
    if axis.pitch < _TOTAL:
        return ""
    return "".join(
        f'<text class="total" x="{axis.place(rank + 0.5):.1f}" y="{_y(total, style) - 5:.1f}" text-anchor="middle">'
        f"{escape(style.show(total))}</text>"
        for rank, total in enumerate(sums[-1])
    )


def _inside(axis: RankAxis, layers: Sequence[Layer], sums: Sequence[Sequence[float]], style: BarStyle) -> str:
    """Write the value of every layer that is high enough, if bars are wide enough."""
    if axis.pitch < _INSIDE:
        return ""
    parts = []
    for layer, heights in zip(layers, sums, strict=True):
        for rank, (value, top) in enumerate(zip(layer.values, heights, strict=True)):
            low, high = _y(top - value, style), _y(top, style)
            if low - high >= _LINE:
                parts.append(
                    f'<text class="on {layer.kind}" x="{axis.place(rank + 0.5):.1f}" y="{(low + high) / 2 + 4:.1f}" '
                    f'text-anchor="middle">{escape(style.show(value))}</text>'
                )
    return "".join(parts)


def _marks(axis: RankAxis, marks: Sequence[Mark], style: BarStyle) -> str:
    """Draw lines with their labels to the right; a label that would overlap the one before is left out."""
    end, parts, last_label = axis.place(axis.cluster.world_size), [], -_LINE
    for mark in marks:
        if mark.value > style.high:
            continue
        y = _y(mark.value, style)
        parts.append(f'<line class="mark {mark.kind}" x1="{_LEFT}" x2="{end:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        if abs(y - last_label) >= _LINE:
            parts.append(f'<text class="mark" x="{end + 6:.1f}" y="{y + 4:.1f}">{escape(mark.label)}</text>')
            last_label = y
    return "".join(parts)


def _beyond(axis: RankAxis, label: str) -> str:
    if not label:
        return ""
    end = axis.place(axis.cluster.world_size)
    return (
        f'<path class="arrow" d="M{_LEFT} 12l5 -8l5 8z"/>'
        f'<text class="mark" x="{_LEFT + 16}" y="12">{escape(label)}</text>'
        f'<line class="mark" x1="{_LEFT}" x2="{end:.1f}" y1="16" y2="16"/>'
    )


def _tooltips(
    axis: RankAxis, layers: Sequence[Layer], sums: Sequence[Sequence[float]], style: BarStyle
) -> Iterator[str]:
    """Yield a transparent column over every rank, or over every host if there are many ranks."""
    cluster = axis.cluster
    together = 1 if cluster.world_size <= _MOST_TOOLTIPS else cluster.ranks_per_host
    for first in range(0, cluster.world_size, together):
        inside = slice(first, first + together)
        if together == 1:
            parts = [f"{layer.name} {style.show(layer.values[first])}" for layer in layers if layer.values[first]]
            words = f"rank {first}: {', '.join([*parts, f'in all {style.show(sums[-1][first])}'])}"
        else:
            low, high = min(sums[-1][inside]), max(sums[-1][inside])
            each = style.show(high) if low == high else f"{style.show(low)} to {style.show(high)}"
            words = f"host {first // together}, ranks {first}-{first + together - 1}: {each}"
        yield (
            f'<rect class="over" x="{axis.place(first):.1f}" y="{_TOP:.0f}" width="{axis.pitch * together:.1f}" '
            f'height="{_HEIGHT:.0f}"><title>{escape(words)}</title></rect>'
        )
