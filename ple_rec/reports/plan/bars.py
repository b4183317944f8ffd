"""Bar charts over the ranks of a plan, as SVG: an axis of ranks, and a stacked bar for each rank.

The page of a plan draws the memory of each rank, and the time of its tables, with `rank_bars`. `RankAxis` also places
the ranks in the map of tables. Below the labels of ranks, bands in two alternating shades show which ranks share a
host.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from ple_rec.config.cluster import Cluster

# Lengths in this file are CSS pixels.
# Height of the labels of ranks together with the bands of hosts below them.
RULER = 34.0
# Least distance of two labels of ranks, and of two labels of hosts, and least width of a band.
_LABEL_DISTANCE, _HOST_LABEL_DISTANCE, _BAND_WIDTH = 30.0, 58.0, 6.0
# On a single host, labels are one of these numbers of ranks apart.
_ROUND_STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


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

    def ranks_per_label(self) -> int:
        """Return the number of ranks from one label to the next.

        On a single host it is a round number, or all ranks. On several hosts it divides the ranks of a host, or spans
        1, 2, 4, ... hosts.
        """
        ranks, hosts = self.cluster.ranks_per_host, self.cluster.hosts
        steps = _ROUND_STEPS if hosts == 1 else range(1, ranks)
        parts = [n for n in steps if n < ranks and (hosts == 1 or ranks % n == 0)]
        return _first_wide_enough([*parts, *(ranks << n for n in range(11))], self.pitch, _LABEL_DISTANCE)

    def hosts_per_band(self) -> int:
        """Return the number of hosts in a band: one, unless bands would be too thin to see."""
        return _first_wide_enough([1 << n for n in range(11)], self.pitch * self.cluster.ranks_per_host, _BAND_WIDTH)

    def band_edges(self) -> list[float]:
        """Return the x coordinates at which one band ends and the next begins."""
        step = self.hosts_per_band() * self.cluster.ranks_per_host
        return [self.place(rank) for rank in range(step, self.cluster.world_size, step)]

    def ruler(self, top: float) -> Markup:
        """Draw labels of ranks, and below them the bands of hosts if there are several."""
        world, every = self.cluster.world_size, self.ranks_per_label()
        marks = [
            f'<text x="{self.place(rank + 0.5):.1f}" y="{top + 12}" text-anchor="middle">{rank}</text>'
            for rank in range(0, world, every)
        ]
        return Markup("".join(marks) + (self._bands(top + 18) if self.cluster.hosts > 1 else ""))

    def _bands(self, top: float) -> str:
        band_hosts, hosts, ranks = self.hosts_per_band(), self.cluster.hosts, self.cluster.ranks_per_host
        parts = []
        for shade in (0, 1):
            pieces = "".join(
                f"M{self.place(host * ranks):.1f} {top}H{self.place(min(host + band_hosts, hosts) * ranks):.1f}v3"
                f"H{self.place(host * ranks):.1f}z"
                for host in range(shade * band_hosts, hosts, 2 * band_hosts)
            )
            parts.append(f'<path class="band{shade}" d="{pieces}"/>')
        host_width = ranks * self.pitch
        every = _first_wide_enough([band_hosts << n for n in range(11)], host_width, _HOST_LABEL_DISTANCE)
        for host in range(0, hosts, every):
            middle = self.place((host + min(band_hosts, hosts - host) / 2) * ranks)
            start = host_width * band_hosts < _HOST_LABEL_DISTANCE and host == 0
            label_x, anchor = (self.place(0), "start") if start else (middle, "middle")
            parts.append(f'<text x="{label_x:.1f}" y="{top + 14}" text-anchor="{anchor}">host {host}</text>')
        return "".join(parts)


def _first_wide_enough(steps: list[int], pitch: float, least: float) -> int:
    return next((step for step in steps if step * pitch >= least), steps[-1])


# Width of the page, left margin, top and height of the bars, and margin to the right of them.
_WIDTH, _LEFT, _TOP, _HEIGHT, _RIGHT = 1072.0, 72.0, 26.0, 210.0, 112.0
# Least width of all bars together, and greatest width of one.
_MIN_TOTAL_WIDTH, _MAX_BAR_WIDTH = 320.0, 140.0
# Largest width of a rank, and the least widths for gaps between bars, for totals, and for labels inside bars.
_MAX_PITCH, _GAP_PITCH, _TOTAL_PITCH, _LABEL_PITCH = 118.0, 6.0, 56.0, 70.0
# Height of a line of text.
_LINE_HEIGHT = 15.0
# With more ranks than this, each host has one tooltip.
_MAX_TOOLTIPS = 64


@dataclass(frozen=True)
class Layer:
    """One segment of every stacked bar, with its CSS class `kind` and its value on every rank."""

    name: str
    kind: str
    values: Sequence[float]


@dataclass(frozen=True)
class ReferenceLine:
    """A line across the bars at `value`, of CSS class `kind`; it is left out if the value is above the axis."""

    value: float
    label: str
    kind: str


@dataclass(frozen=True)
class BarStyle:
    """Name, unit and axis of a chart.

    Args:
        name: Text for a screen reader.
        format_value: Function that formats a value.
        unit: Unit of the tick labels: its size and its name.
        axis_end: Greatest value on the axis.
        upper_edge_label: Label of a line at the upper edge, which stands for a value above the axis; empty for no line.
        hatched: Least and greatest value of a range whose background is hatched; None for no such range.
    """

    name: str
    format_value: Callable[[float], str]
    unit: tuple[float, str]
    axis_end: float
    upper_edge_label: str = ""
    hatched: tuple[float, float] | None = None


def rank_bars(
    cluster: Cluster, layers: Sequence[Layer], reference_lines: Sequence[ReferenceLine], style: BarStyle
) -> Markup:
    """Return the chart as an `<svg>` element; the first layer is at the bottom of the bars."""
    world = cluster.world_size
    axis = RankAxis(cluster, _LEFT, min((_WIDTH - _LEFT - _RIGHT) / world, max(_MAX_PITCH, _MIN_TOTAL_WIDTH / world)))
    sums = _layer_tops(layers, world)
    base = _TOP + _HEIGHT
    elements = [_grid(axis, style), _hatch(axis, style)]
    elements += [
        f'<path class="layer {layer.kind}" d="{_outline(axis, heights, style)}"/>'
        for layer, heights in zip(reversed(layers), reversed(sums), strict=True)
        if any(layer.values)
    ]
    elements.append(f'<line class="base" x1="{_LEFT}" x2="{axis.place(world):.1f}" y1="{base}" y2="{base}"/>')
    elements += [_lines_across(axis, reference_lines, style), _upper_edge(axis, style.upper_edge_label)]
    elements += [_layer_values(axis, layers, sums, style), _totals(axis, sums, style), axis.ruler(base + 4)]
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


def _layer_tops(layers: Sequence[Layer], world: int) -> list[list[float]]:
    """Return the upper end of each layer in the bar of every rank."""
    sums, below = [], [0.0] * world
    for layer in layers:
        below = [a + b for a, b in zip(below, layer.values, strict=True)]
        sums.append(below)
    return sums


def _y(value: float, style: BarStyle) -> float:
    return _TOP + _HEIGHT * (1 - min(value / style.axis_end, 1.0))


def _outline(axis: RankAxis, heights: Sequence[float], style: BarStyle) -> str:
    """Outline a layer from the axis up to its upper end in each bar; it is drawn over the foot of higher layers."""
    base = f"{_TOP + _HEIGHT:.0f}"
    if axis.pitch < _GAP_PITCH:
        steps = "".join(
            f"V{_y(height, style):.1f}H{axis.place(last + 1):.1f}"
            for _, last, height in equal_neighbours(heights)
            if last >= 0
        )
        return f"M{_LEFT:.0f} {base}{steps}V{base}z"
    width = min(axis.pitch - max(1.0, 0.18 * axis.pitch), _MAX_BAR_WIDTH)
    gap = (axis.pitch - width) / 2
    return "".join(
        f"M{axis.place(rank) + gap:.1f} {base}V{_y(height, style):.1f}h{width:.1f}V{base}z"
        for rank, height in enumerate(heights)
        if height
    )


def equal_neighbours(values: Sequence[float]) -> Iterator[tuple[int, int, float]]:
    """Yield each run of equal neighbours: its first index, its last index and their value."""
    first = 0
    for index in range(1, len(values) + 1):
        if index == len(values) or values[index] != values[first]:
            yield first, index - 1, values[first]
            first = index


def _grid(axis: RankAxis, style: BarStyle) -> str:
    size, unit = style.unit
    end, parts = axis.place(axis.cluster.world_size), []
    for value in ticks(style.axis_end, size):
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
    if axis.pitch < _TOTAL_PITCH:
        return ""
    return "".join(
        f'<text class="total" x="{axis.place(rank + 0.5):.1f}" y="{_y(total, style) - 5:.1f}" text-anchor="middle">'
        f"{escape(style.format_value(total))}</text>"
        for rank, total in enumerate(sums[-1])
    )


def _layer_values(axis: RankAxis, layers: Sequence[Layer], sums: Sequence[Sequence[float]], style: BarStyle) -> str:
    """Write the value of a layer into its segment of each bar, if the segment has room for it."""
    if axis.pitch < _LABEL_PITCH:
        return ""
    parts = []
    for layer, heights in zip(layers, sums, strict=True):
        for rank, (value, top) in enumerate(zip(layer.values, heights, strict=True)):
            low, high = _y(top - value, style), _y(top, style)
            if low - high >= _LINE_HEIGHT:
                parts.append(
                    f'<text class="on {layer.kind}" x="{axis.place(rank + 0.5):.1f}" y="{(low + high) / 2 + 4:.1f}" '
                    f'text-anchor="middle">{escape(style.format_value(value))}</text>'
                )
    return "".join(parts)


def _lines_across(axis: RankAxis, reference_lines: Sequence[ReferenceLine], style: BarStyle) -> str:
    """Draw lines with their labels to the right; a label that would overlap the label before it is left out."""
    end, parts, last_label = axis.place(axis.cluster.world_size), [], -_LINE_HEIGHT
    for line in reference_lines:
        if line.value > style.axis_end:
            continue
        y = _y(line.value, style)
        parts.append(f'<line class="mark {line.kind}" x1="{_LEFT}" x2="{end:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        if abs(y - last_label) >= _LINE_HEIGHT:
            parts.append(f'<text class="mark" x="{end + 6:.1f}" y="{y + 4:.1f}">{escape(line.label)}</text>')
            last_label = y
    return "".join(parts)


def _upper_edge(axis: RankAxis, label: str) -> str:
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
    """Yield a transparent column with a tooltip for every rank, or for every host if there are many ranks."""
    cluster = axis.cluster
    ranks_per_tooltip = 1 if cluster.world_size <= _MAX_TOOLTIPS else cluster.ranks_per_host
    for first in range(0, cluster.world_size, ranks_per_tooltip):
        ranks = slice(first, first + ranks_per_tooltip)
        if ranks_per_tooltip == 1:
            parts = [
                f"{layer.name} {style.format_value(layer.values[first])}" for layer in layers if layer.values[first]
            ]
            words = f"rank {first}: {', '.join([*parts, f'in all {style.format_value(sums[-1][first])}'])}"
        else:
            low, high = min(sums[-1][ranks]), max(sums[-1][ranks])
            each = (
                style.format_value(high) if low == high else f"{style.format_value(low)} to {style.format_value(high)}"
            )
            words = f"host {first // ranks_per_tooltip}, ranks {first}-{first + ranks_per_tooltip - 1}: {each}"
        yield (
            f'<rect class="over" x="{axis.place(first):.1f}" y="{_TOP:.0f}" '
            f'width="{axis.pitch * ranks_per_tooltip:.1f}" height="{_HEIGHT:.0f}"><title>{escape(words)}</title></rect>'
        )
