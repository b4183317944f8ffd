"""Small plots that stand in the row of a table: SVG by hand, since a page may hold hundreds of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ple_rec.html.markup import text

_WIDTH, _HEIGHT, _MARGIN = 160, 28, 6  # CSS pixels; the height is that of a table row of one line
_BEYOND = (
    60  # CSS pixels by which guides run on above and below, so that they join up in higher rows; the cell cuts them
)


@dataclass(frozen=True)
class Scale:
    """The axis that the strips of one table share, from `low` to `high`."""

    low: float
    high: float
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Where `value` stands, in pixels; beyond the ends, at the end."""
        if self.logarithmic:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return _MARGIN + (_WIDTH - 2 * _MARGIN) * min(max(share, 0.0), 1.0)

    def outside(self, value: float) -> int:
        """-1 below the axis, 1 beyond it, else 0."""
        return (value > self.high) - (value < self.low)


def scale_over(values: Iterable[float], *, least: float = -math.inf, greatest: float = math.inf) -> Scale:
    """A linear axis over the values with a margin, which ends at what the quantity can be at `least` and `greatest`."""
    kept = list(values)
    low, high = min(kept), max(kept)
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return Scale(max(low - margin, min(low, least)), min(high + margin, max(high, greatest)))


def axis_strip(scale: Scale, labels: Iterable[tuple[float, str]]) -> str:
    """The head of a column of strips: a line with labelled ticks. The cells hold the figures, so it has no name."""
    marks = []
    for value, label in labels:
        x = scale.place(value)
        anchor = "start" if x < _WIDTH / 4 else "end" if x > _WIDTH * 3 / 4 else "middle"
        at = {"start": x - 3, "middle": x, "end": x + 3}[anchor]
        marks.append(f'<line class="guide" x1="{x:.1f}" x2="{x:.1f}" y1="16" y2="20"/>')
        marks.append(f'<text x="{at:.1f}" y="12" text-anchor="{anchor}">{text(label)}</text>')
    line = f'<line class="guide" x1="{_MARGIN}" x2="{_WIDTH - _MARGIN}" y1="20" y2="20"/>'
    return f'<svg class="strip axis" viewBox="0 0 {_WIDTH} 20" aria-hidden="true">{line}{"".join(marks)}</svg>'


def range_strip(scale: Scale, outer: tuple[float, float], inner: tuple[float, float], middle: float, name: str) -> str:
    """A thin line over `outer`, a thick one over `inner` and a tick at `middle`."""
    y = _HEIGHT / 2
    a, b, c, d, m = map(scale.place, (*outer, *inner, middle))
    return _strip(
        name,
        f'<line class="thin" x1="{a:.1f}" x2="{b:.1f}" y1="{y}" y2="{y}"/>'
        f'<line class="thick" x1="{c:.1f}" x2="{d:.1f}" y1="{y}" y2="{y}"/>'
        f'<line class="middle" x1="{m:.1f}" x2="{m:.1f}" y1="{y - 7}" y2="{y + 7}"/>',
    )


def dot_strip(scale: Scale, value: float | None, reference: float | None, name: str, *, faint: bool = False) -> str:
    """A dot at `value`, joined to a dashed guide at `reference`; hollow where `faint`, a triangle beyond the axis."""
    y = _HEIGHT / 2
    guide = stem = mark = ""
    if reference is not None:
        r = scale.place(reference)
        guide = f'<line class="guide dashed" x1="{r:.1f}" x2="{r:.1f}" y1="{-_BEYOND}" y2="{_HEIGHT + _BEYOND}"/>'
    if value is not None:
        x, side = scale.place(value), scale.outside(value)
        kind = "faint" if faint else "dot"
        if reference is not None and not faint:
            stem = f'<line class="stem" x1="{r:.1f}" x2="{x:.1f}" y1="{y}" y2="{y}"/>'
        mark = f'<circle class="{kind}" cx="{x:.1f}" cy="{y}" r="4"/>'
        if side:
            mark = f'<path class="{kind}" d="M{x + 5 * side:.1f} {y}l{-8 * side} -5v10z"/>'
    return _strip(name, guide + stem + mark)


def share_strip(share: float, name: str) -> str:
    """A bar of a share between 0 and 1, in a frame that stands for the whole."""
    width = 48
    return (
        f'<svg class="strip share" viewBox="0 0 {width} 8" role="img" aria-label="{text(name)}">'
        f'<rect class="whole" width="{width}" height="8" rx="2"/>'
        f'<rect class="part" width="{width * min(max(share, 0.0), 1.0):.1f}" height="8" rx="2"/></svg>'
    )


def _strip(name: str, content: str) -> str:
    label = text(name)
    return (
        f'<svg class="strip" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">'
        f"<title>{label}</title>{content}</svg>"
    )


def dots_strip(scale: Scale, values: Iterable[float], reference: float | None, name: str) -> str:
    """A dot at every value on the line from the least to the greatest, and a dashed guide at `reference`."""
    y, places = _HEIGHT / 2, sorted(map(scale.place, values))
    content = ""
    if reference is not None:
        r = scale.place(reference)
        content = f'<line class="guide dashed" x1="{r:.1f}" x2="{r:.1f}" y1="{-_BEYOND}" y2="{_HEIGHT + _BEYOND}"/>'
    if places:
        content += f'<line class="stem" x1="{places[0]:.1f}" x2="{places[-1]:.1f}" y1="{y}" y2="{y}"/>'
        content += "".join(f'<circle class="dot" cx="{x:.1f}" cy="{y}" r="3.5"/>' for x in places)
    return _strip(name, content)


def bars_strip(heights: Sequence[float], name: str) -> str:
    """Bars side by side, the highest as high as the strip; a thin line below them."""
    most, width = max([*heights, 0.0]) or 1.0, (_WIDTH - 2 * _MARGIN) / max(1, len(heights))
    bars = "".join(
        f"M{_MARGIN + i * width:.1f} {_HEIGHT - 3}v{-(_HEIGHT - 6) * height / most:.1f}h{width:.1f}V{_HEIGHT - 3}z"
        for i, height in enumerate(heights)
        if height
    )
    y = _HEIGHT - 3
    line = f'<line class="guide" x1="{_MARGIN}" x2="{_WIDTH - _MARGIN}" y1="{y}" y2="{y}"/>'
    return _strip(name, f'<path class="part" d="{bars}"/>{line}')
