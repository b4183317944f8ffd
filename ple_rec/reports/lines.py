"""Charts whose lines and points have their names beside them.

A name stands in the ink of the page, so that it can be read in light, dark and print; a leader in the look of the line
joins the two. A variant has the same look in every chart whose curves are given in the same order.
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

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]  # x and y
Curves = Mapping[str, Curve]  # by variant

_COLOURS = (TRAIN, VALID, TEST, "#cc79a7", "#b8860b", BEST, "#7f7f7f", INK)  # most of Okabe and Ito's
_STYLES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))
_FEW = 12  # points of a line that are marked
_NAME_POINTS = 10.5
_APART = 1.25  # line height of names


class Look(NamedTuple):
    """Of a line; the colour may be a placeholder."""

    colour: str
    style: Any


def looks() -> Iterator[Look]:
    """Yield one after the other, without end; the first 32 differ, and neighbours in both."""
    for i in count():
        of_colours = len(_COLOURS)
        yield Look(_COLOURS[i % of_colours], _STYLES[(i + i // of_colours) % len(_STYLES)])


def draw_lines(axes: Axes, paint: Paint, curves: Curves, *, from_zero: bool = False) -> None:
    """Draw every curve and write its name at its end; one without points keeps its look, and is not drawn.

    Args:
        axes: Axes to draw on.
        paint: Function from a placeholder to a colour.
        curves: Curve of each variant, x ascending.
        from_zero: Begin the x axis at 0, as of steps: one evaluation alone then stands at its right end, where the
            leader of its name is not taken for a line.
    """
    ends = []
    for (name, (x, y)), look in zip(curves.items(), looks(), strict=False):
        if len(x):
            marker = "o" if len(x) <= _FEW else ""
            axes.plot(x, y, color=paint(look.colour), linestyle=look.style, marker=marker, markersize=3.5)
            ends.append((float(x[-1]), float(y[-1]), name, look))
    if from_zero and ends:
        axes.set_xlim(0, 1.03 * max(x for x, *_ in ends))
    _label(axes, paint, sorted(ends, key=lambda end: end[1]))


def _label(axes: Axes, paint: Paint, ends: Sequence[tuple[float, float, str, Look]]) -> None:
    """Write names in a column right of the axes, around where the lines end, from the lowest end up."""
    if not ends:
        return
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    figure = axes.figure
    tall = 72 * figure.get_figure(root=True).get_figheight() * axes.get_position().height
    at = spread([y for _, y, _, _ in ends], (high - low) * _APART * _NAME_POINTS / tall)
    column = right + 0.03 * (right - left)
    for place, (x, y, name, look) in zip(at, ends, strict=True):
        axes.plot([x, column], [y, place], color=paint(look.colour), linestyle=look.style, linewidth=0.7, clip_on=False)
        axes.text(column, place, f" {name}", color=paint(INK), fontsize=_NAME_POINTS, va="center", clip_on=False)
    axes.set(xlim=(left, right), ylim=(low, high))


def spread(ascending: Sequence[float], apart: float) -> list[float]:
    """Return the places nearest to the given ones, by least squares, of which neighbours are at least so far apart.

    Less `apart` times their rank they only have to ascend: neighbours that do not are put on their mean, again and
    again (isotonic regression by pooling adjacent violators).
    """
    pools: list[tuple[float, int]] = []  # mean and size
    for rank, value in enumerate(ascending):
        mean, size = value - rank * apart, 1
        while pools and pools[-1][0] > mean:
            before, others = pools.pop()
            mean, size = (before * others + mean * size) / (others + size), others + size
        pools.append((mean, size))
    flat = [mean for mean, size in pools for _ in range(size)]
    return [mean + rank * apart for rank, mean in enumerate(flat)]


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
