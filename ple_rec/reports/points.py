"""Points of a chart with their names beside them, each where it covers least, and nearest to its own point."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product

from matplotlib.axes import Axes

from ple_rec.reports.lines import Paint
from ple_rec.reports.svg import INK

_NAME, _WIDE = 10.0, 0.6  # size of a name, in points; width of a letter, as a share of it
_DOT = 4.0  # half the width of a point, in points
_CLEAR = 3.0  # that another point is further from a name than its own, in points
_PLACES = [*product((1, -1), (0.0, -1.1, 0.9, -2.0, 1.8))]  # side, and raised by so many lines; the first are the best

Box = tuple[float, float, float, float]  # left, bottom, right, top


def name_points(axes: Axes, paint: Paint, points: Mapping[str, tuple[float, float]]) -> None:
    """Write the names; limits, labels and titles of the axes are set before, as they decide how wide it is.

    Args:
        axes: Axes that hold the points.
        paint: Function from a placeholder to a colour.
        points: Place of each point, by its name.
    """
    figure = axes.figure.get_figure(root=True)
    figure.draw_without_rendering()  # before, the axes have not their place
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    wide, tall = (72 * size for size in figure.get_size_inches() * axes.get_position().size)
    inside = (0.0, 0.0, wide, tall)
    at = {
        name: (wide * (x - left) / (right - left), tall * (y - low) / (high - low)) for name, (x, y) in points.items()
    }
    taken: list[Box] = [(x - _DOT, y - _DOT, x + _DOT, y + _DOT) for x, y in at.values()]
    for name, (x, y) in at.items():
        boxes = [_box(name, x, y, side, lines) for side, lines in _PLACES]
        others = [other for other in at.values() if other != (x, y)]
        costs = [
            sum(_common(box, other) for other in taken)
            + _area(box) * any(_gap(box, *other) < _gap(box, x, y) + _CLEAR for other in others)  # whose would it be?
            + _area(box)
            - _common(box, inside)
            for box in boxes
        ]
        best = costs.index(min(costs))
        taken.append(boxes[best])
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
    width, bottom = _NAME * _WIDE * len(name), y + (lines + 0.3) * _NAME
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
