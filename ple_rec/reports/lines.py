"""Charts whose lines and points have their names beside them.

A name has the text colour of the page, so that it can be read in light, dark and print. A leader in the style of the
line joins name and line. A variant has the same style in every chart whose curves are in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, product
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from ple_rec.reports.svg import BEST, INK, TEST, TRAIN, VALID, Paint

# The x and y coordinates of points.
Curve = tuple[NDArray[np.float64], NDArray[np.float64]]
# Curve of each variant.
Curves = Mapping[str, Curve]

# Most are colours of Okabe and Ito, which colour-blind readers can distinguish.
_COLOURS = (TRAIN, VALID, TEST, "#cc79a7", "#b8860b", BEST, "#7f7f7f", INK)
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))
# The points of a line with at most so many are marked.
_FEW = 12
_NAME_POINTS = 10.5
_LINE_HEIGHT = 1.25


class LineStyle(NamedTuple):
    """Colour and dashes of a line; the colour may be a placeholder."""

    colour: str
    dashes: Any


def line_styles() -> Iterator[LineStyle]:
    """Yield styles without end; the first 32 differ, and neighbours differ in both colour and dashes."""
    for i in count():
        colours = len(_COLOURS)
        yield LineStyle(_COLOURS[i % colours], _DASHES[(i + i // colours) % len(_DASHES)])


def draw_lines(axes: Axes, paint: Paint, curves: Curves, *, from_zero: bool = False) -> None:
    """Draw every curve and write its name at its end; a curve without points takes a style, but is not drawn.

    Args:
        axes: Axes to draw on.
        paint: Function from a placeholder to a colour.
        curves: Curve of each variant, x ascending.
        from_zero: True to begin the x axis at 0. A single point then lies at the right end, where the leader of its
            name does not look like a line.
    """
    ends = []
    for (name, (x, y)), style in zip(curves.items(), line_styles(), strict=False):
        if len(x):
            marker = "o" if len(x) <= _FEW else ""
            axes.plot(x, y, color=paint(style.colour), linestyle=style.dashes, marker=marker, markersize=3.5)
            ends.append((float(x[-1]), float(y[-1]), name, style))
    if from_zero and ends:
        axes.set_xlim(0, 1.03 * max(x for x, *_ in ends))
    _label(axes, paint, sorted(ends, key=lambda end: end[1]))


def _label(axes: Axes, paint: Paint, ends: Sequence[tuple[float, float, str, LineStyle]]) -> None:
    """Write names in a column right of the axes, around where the lines end, from the lowest end up."""
    if not ends:
        return
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    figure = axes.figure
    tall = 72 * figure.get_figure(root=True).get_figheight() * axes.get_position().height
    at = spread([y for _, y, _, _ in ends], (high - low) * _LINE_HEIGHT * _NAME_POINTS / tall)
    column = right + 0.03 * (right - left)
    for place, (x, y, name, style) in zip(at, ends, strict=True):
        axes.plot(
            [x, column], [y, place], color=paint(style.colour), linestyle=style.dashes, linewidth=0.7, clip_on=False
        )
        axes.text(column, place, f" {name}", color=paint(INK), fontsize=_NAME_POINTS, va="center", clip_on=False)
    axes.set(xlim=(left, right), ylim=(low, high))


def spread(ascending: Sequence[float], apart: float) -> list[float]:
    """Return the places that are nearest to some values by least squares, with neighbours a least distance apart.

    After `apart` times the rank is subtracted, places only have to ascend. Neighbours that do not are replaced by their
    mean, again and again (isotonic regression by pooling adjacent violators).

    Args:
        ascending: Values in ascending order.
        apart: Least distance of neighbours.
    """
    # Each pool has a mean and a size.
    pools: list[tuple[float, int]] = []
    for rank, value in enumerate(ascending):
        mean, size = value - rank * apart, 1
        while pools and pools[-1][0] > mean:
            before, others = pools.pop()
            mean, size = (before * others + mean * size) / (others + size), others + size
        pools.append((mean, size))
    flat = [mean for mean, size in pools for _ in range(size)]
    return [mean + rank * apart for rank, mean in enumerate(flat)]


# Lengths are points of 1/72 inch; the width of a letter is a share of its size.
_NAME, _LETTER_WIDTH = 10.0, 0.6
# Half the width of a dot.
_DOT = 4.0
# Another dot is at least this much further from a name than its own.
_CLEAR = 3.0
# Side of a name, and lines by which it is raised; the first places are the best.
_PLACES = [*product((1, -1), (0.0, -1.1, 0.9, -2.0, 1.8))]

# Left, bottom, right and top.
Box = tuple[float, float, float, float]


def name_points(axes: Axes, paint: Paint, points: Mapping[str, tuple[float, float]]) -> None:
    """Write the names of points beside them. The caller has set limits, labels and titles, which change the width.

    Args:
        axes: Axes that hold the points.
        paint: Function from a placeholder to a colour.
        points: Place of each point, by its name.
    """
    figure = axes.figure.get_figure(root=True)
    # The layout places the axes only when the figure is drawn.
    figure.draw_without_rendering()
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    wide, tall = (72 * size for size in figure.get_size_inches() * axes.get_position().size)
    inside = (0.0, 0.0, wide, tall)
    at = {
        name: (wide * (x - left) / (right - left), tall * (y - low) / (high - low)) for name, (x, y) in points.items()
    }
    occupied: list[Box] = [(x - _DOT, y - _DOT, x + _DOT, y + _DOT) for x, y in at.values()]
    for name, (x, y) in at.items():
        boxes = [_box(name, x, y, side, lines) for side, lines in _PLACES]
        others = [other for other in at.values() if other != (x, y)]
        # A place costs the area that overlaps, that lies outside, or that is nearer to another dot.
        costs = [
            sum(_common(box, other) for other in occupied)
            + _area(box) * any(_gap(box, *other) < _gap(box, x, y) + _CLEAR for other in others)
            + _area(box)
            - _common(box, inside)
            for box in boxes
        ]
        best = costs.index(min(costs))
        occupied.append(boxes[best])
        side, lines = _PLACES[best]
        axes.annotate(
            name,
            points[name],
            (side * (_DOT + 2), (lines + 0.4) * _NAME),
            textcoords="offset points",
            color=paint(INK),
            fontsize=_NAME,
            ha="left" if side > 0 else "right",
        )


def _box(name: str, x: float, y: float, side: int, lines: float) -> Box:
    width, bottom = _NAME * _LETTER_WIDTH * len(name), y + (lines + 0.3) * _NAME
    start = x + side * (_DOT + 2)
    return min(start, start + side * width), bottom, max(start, start + side * width), bottom + 1.1 * _NAME


def _common(a: Box, b: Box) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)


def _gap(box: Box, x: float, y: float) -> float:
    """Return the distance from a point to a box."""
    return math.hypot(max(box[0] - x, 0.0, x - box[2]), max(box[1] - y, 0.0, y - box[3]))


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
