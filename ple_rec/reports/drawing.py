"""Strips, which are small plots in the rows of a table, written as SVG text.

Strips with an axis share the `Scale` of their column; `axis_strip` draws it in the head of the column. Templates call
the functions in `STRIPS`, whose argument `name`, if any, is the text for screen readers. Matplotlib, which draws
figures with axes (`svg.py`), would take too long for a plot in each row. Coordinates are CSS pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

# Width, height and margin of a strip; left and right end of its axis, and y coordinate of its middle.
_WIDTH, _HEIGHT, _MARGIN = 160, 28, 6
_LEFT, _RIGHT, _MIDDLE = _MARGIN, _WIDTH - _MARGIN, _HEIGHT // 2


def drawing(css_class: str, width: float, height: float, name: str, content: str) -> Markup:
    """Return an `<svg>` element.

    Args:
        css_class: Class of the element.
        width: Width in the coordinates of the content.
        height: Height in the coordinates of the content.
        name: Text for screen readers and the tooltip.
        content: SVG elements inside it.
    """
    label = escape(name)
    return Markup(
        f'<svg class="{css_class}" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{label}">'
        f"<title>{label}</title>{content}</svg>"
    )


@dataclass(frozen=True)
class Scale:
    """The axis that the strips of one column share, from `low` to `high`; a logarithmic one needs `low` above 0."""

    low: float
    high: float
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Return the x coordinate of `value`, in pixels to a tenth; a value outside the axis is moved to its end."""
        if self.logarithmic:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(_LEFT + (_RIGHT - _LEFT) * min(max(share, 0.0), 1.0), 1)

    def side_of(self, value: float) -> int:
        """Return -1 for a value below the range of the axis, 1 for a value above it, and 0 for a value inside."""
        return (value > self.high) - (value < self.low)


def linear_scale(values: Iterable[float], *, least: float = -math.inf, greatest: float = math.inf) -> Scale:
    """Return a linear axis over the values, widened by a margin, but not beyond the least and greatest possible value.

    Args:
        values: Values on the axis, one at least.
        least: Least possible value of the quantity.
        greatest: Greatest possible value of the quantity.
    """
    values = list(values)
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return Scale(max(low - margin, min(low, least)), min(high + margin, max(high, greatest)))


def axis_strip(scale: Scale, labels: Sequence[tuple[float, str]]) -> Markup:
    """Draw the axis in the head of a column of strips, with ticks at `labels`, which are values and their texts.

    Screen readers skip it, since the cells have the numbers.
    """
    content = _line("guide", _LEFT, _RIGHT, 20, 20)
    for value, label in labels:
        x = scale.place(value)
        anchor, shift = ("start", -3) if x < 40 else ("end", 3) if x > 120 else ("middle", 0)
        text = f'<text x="{round(x + shift, 1)}" y="12" text-anchor="{anchor}">{escape(label)}</text>'
        content += _line("guide", x, x, 16, 20) + text
    return Markup(f'<svg class="strip axis" viewBox="0 0 {_WIDTH} 20" aria-hidden="true">{content}</svg>')


def range_strip(
    scale: Scale, outer: tuple[float, float], inner: tuple[float, float], middle: float, name: str
) -> Markup:
    """Draw a thin line over `outer`, a thick one over `inner` and a tick at `middle`."""
    x = scale.place(middle)
    content = _line("thin", scale.place(outer[0]), scale.place(outer[1]), _MIDDLE, _MIDDLE)
    content += _line("thick", scale.place(inner[0]), scale.place(inner[1]), _MIDDLE, _MIDDLE)
    return _strip(name, content + _line("middle", x, x, 7, 21))


def dot_strip(scale: Scale, value: float | None, reference: float | None, name: str, faint: bool = False) -> Markup:
    """Draw a dashed line at `reference` and a dot at `value`, each unless it is None, and join them.

    If `faint`, the dot is hollow and not joined. A value outside the axis is a triangle that points outwards.
    """
    content = _guide(scale, reference)
    if value is not None:
        x, side, css_class = scale.place(value), scale.side_of(value), "faint" if faint else "dot"
        if reference is not None and not faint:
            content += _line("stem", scale.place(reference), x, _MIDDLE, _MIDDLE)
        if side:
            content += f'<path class="{css_class}" d="M{round(x + 5 * side, 1)} {_MIDDLE}l{-8 * side} -5v10z"/>'
        else:
            content += f'<circle class="{css_class}" cx="{x}" cy="{_MIDDLE}" r="4"/>'
    return _strip(name, content)


def dots_strip(scale: Scale, values: Sequence[float], reference: float | None, name: str) -> Markup:
    """Draw a dot at every value, a line from the least to the greatest, and a dashed line at `reference`, if any."""
    content = _guide(scale, reference)
    places = [scale.place(value) for value in sorted(values)]
    if places:
        content += _line("stem", places[0], places[-1], _MIDDLE, _MIDDLE)
    return _strip(name, content + "".join(f'<circle class="dot" cx="{x}" cy="{_MIDDLE}" r="3.5"/>' for x in places))


def bars_strip(heights: Sequence[float], name: str) -> Markup:
    """Draw bars side by side over a thin line; the highest one has the height of the strip."""
    width, greatest = (_RIGHT - _LEFT) / len(heights), max(heights) or 1
    bars = "".join(
        f"M{round(_LEFT + i * width, 1)} 25v{round(-22 * height / greatest, 1)}h{round(width, 1)}V25z"
        for i, height in enumerate(heights)
        if height
    )
    return _strip(name, f'<path class="part" d="{bars}"/>{_line("guide", _LEFT, _RIGHT, 25, 25)}')


def share_strip(share: float, name: str) -> Markup:
    """Draw a share between 0 and 1 as the filled part of a bar."""
    bar = '<rect class="{}" width="{}" height="8" rx="2"/>'
    content = bar.format("whole", 48) + bar.format("part", round(48 * min(max(share, 0.0), 1.0), 1))
    return Markup(f'<svg class="strip share" viewBox="0 0 48 8" role="img" aria-label="{escape(name)}">{content}</svg>')


# `page.py` makes these functions known to templates by their names.
STRIPS = (axis_strip, range_strip, dot_strip, dots_strip, bars_strip, share_strip)


def _strip(name: str, content: str) -> Markup:
    return drawing("strip", _WIDTH, _HEIGHT, name, content)


def _guide(scale: Scale, value: float | None) -> str:
    """Return a dashed vertical line at `value`, or an empty text if `value` is None.

    The line is longer than the strip is high, so that the lines of neighbouring rows join up.
    """
    return "" if value is None else _line("guide dashed", scale.place(value), scale.place(value), -60, 88)


def _line(css_class: str, x1: float, x2: float, y1: float, y2: float) -> str:
    return f'<line class="{css_class}" x1="{x1}" x2="{x2}" y1="{y1}" y2="{y2}"/>'
