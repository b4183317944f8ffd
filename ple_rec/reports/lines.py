"""Lines and points of charts with their names beside them instead of a legend.

A name has the text colour of the page, so that it can be read in light, dark and print. A thin leader in the style of
the line joins name and line. Styles follow the order of the curves, so a variant has the same style in all charts that
have the variants in the same order.
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
# A line with at most this many points has a dot at each of them.
_FEW_POINTS = 12
# Size of a name in points, and height of its line as a multiple of the size.
_LINE_FONT_SIZE = 10.5
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
            marker = "o" if len(x) <= _FEW_POINTS else ""
            axes.plot(x, y, color=paint(style.colour), linestyle=style.dashes, marker=marker, markersize=3.5)
            ends.append((float(x[-1]), float(y[-1]), name, style))
    if from_zero and ends:
        axes.set_xlim(0, 1.03 * max(x for x, *_ in ends))
    _label_lines(axes, paint, sorted(ends, key=lambda end: end[1]))


def _label_lines(axes: Axes, paint: Paint, ends: Sequence[tuple[float, float, str, LineStyle]]) -> None:
    """Write the names of lines in a column right of the axes, each near the end of its line.

    Args:
        axes: Axes with the lines.
        paint: Function from a placeholder to a colour.
        ends: Last x, last y, name and style of each line, with y ascending.
    """
    if not ends:
        return
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    figure = axes.figure
    axes_height = 72 * figure.get_figure(root=True).get_figheight() * axes.get_position().height
    name_places = spread_apart([y for _, y, _, _ in ends], (high - low) * _LINE_HEIGHT * _LINE_FONT_SIZE / axes_height)
    column = right + 0.03 * (right - left)
    for place, (x, y, name, style) in zip(name_places, ends, strict=True):
        axes.plot(
            [x, column], [y, place], color=paint(style.colour), linestyle=style.dashes, linewidth=0.7, clip_on=False
        )
        axes.text(column, place, f" {name}", color=paint(INK), fontsize=_LINE_FONT_SIZE, va="center", clip_on=False)
    axes.set(xlim=(left, right), ylim=(low, high))


def spread_apart(ascending: Sequence[float], distance: float) -> list[float]:
    """Move values so that neighbours are at least a distance apart, with the least sum of squared moves.

    Once `distance` times its position is subtracted, a value only has to be at least as large as the one before.
    Neighbours for which that does not hold are replaced by their mean (isotonic regression by pooling adjacent
    violators).

    Args:
        ascending: Values in ascending order.
        distance: Least distance of neighbours.
    """
    # Each pool has a mean and a size.
    pools: list[tuple[float, int]] = []
    for position, value in enumerate(ascending):
        mean, size = value - position * distance, 1
        while pools and pools[-1][0] > mean:
            before, others = pools.pop()
            mean, size = (before * others + mean * size) / (others + size), others + size
        pools.append((mean, size))
    flat = [mean for mean, size in pools for _ in range(size)]
    return [mean + position * distance for position, mean in enumerate(flat)]


# Lengths are points of 1/72 inch; the width of a letter is a share of the font size.
_POINT_FONT_SIZE, _LETTER_WIDTH = 10.0, 0.6
# Half the width of a dot.
_DOT = 4.0
# A name should be nearer to its own dot than to every other dot, by at least this length.
_CLEARANCE = 3.0
# Possible places of a name, the best ones first: side of the dot (1 is right), and number of lines above it.
_PLACES = [*product((1, -1), (0.0, -1.1, 0.9, -2.0, 1.8))]

# Left, bottom, right and top of a rectangle.
Box = tuple[float, float, float, float]


def name_points(axes: Axes, paint: Paint, points: Mapping[str, tuple[float, float]]) -> None:
    """Write the names of points beside them, where they overlap least with one another and with the points.

    The caller has to set limits, labels and titles of the axes before, since they change the size of the plot.

    Args:
        axes: Axes that hold the points.
        paint: Function from a placeholder to a colour.
        points: Place of each point, by its name.
    """
    figure = axes.figure.get_figure(root=True)
    # The layout places the axes only when the figure is drawn.
    figure.draw_without_rendering()
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    width, height = (72 * size for size in figure.get_size_inches() * axes.get_position().size)
    inside = (0.0, 0.0, width, height)
    dots = {
        name: (width * (x - left) / (right - left), height * (y - low) / (high - low))
        for name, (x, y) in points.items()
    }
    occupied: list[Box] = [(x - _DOT, y - _DOT, x + _DOT, y + _DOT) for x, y in dots.values()]
    for name, (x, y) in dots.items():
        boxes = [_box(name, x, y, side, lines) for side, lines in _PLACES]
        others = [other for other in dots.values() if other != (x, y)]
        # The cost of a place is the area that overlaps other boxes, or is outside the plot, and the whole area if the
        # name could be read as that of another dot.
        costs = [
            sum(_overlap(box, other) for other in occupied)
            + _area(box)
            * any(_distance_to_box(box, *other) < _distance_to_box(box, x, y) + _CLEARANCE for other in others)
            + _area(box)
            - _overlap(box, inside)
            for box in boxes
        ]
        best = costs.index(min(costs))
        occupied.append(boxes[best])
        side, lines = _PLACES[best]
        axes.annotate(
            name,
            points[name],
            (side * (_DOT + 2), (lines + 0.4) * _POINT_FONT_SIZE),
            textcoords="offset points",
            color=paint(INK),
            fontsize=_POINT_FONT_SIZE,
            ha="left" if side > 0 else "right",
        )


def _box(name: str, x: float, y: float, side: int, lines: float) -> Box:
    width, bottom = _POINT_FONT_SIZE * _LETTER_WIDTH * len(name), y + (lines + 0.3) * _POINT_FONT_SIZE
    start = x + side * (_DOT + 2)
    return min(start, start + side * width), bottom, max(start, start + side * width), bottom + 1.1 * _POINT_FONT_SIZE


def _overlap(a: Box, b: Box) -> float:
    """Return the area that two boxes have in common."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)


def _distance_to_box(box: Box, x: float, y: float) -> float:
    """Return the distance from a point to a box."""
    return math.hypot(max(box[0] - x, 0.0, x - box[2]), max(box[1] - y, 0.0, y - box[3]))


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
