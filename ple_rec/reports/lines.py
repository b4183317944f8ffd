"""Lines of a chart, one a variant: each has its name at its end, and a style of its own beside its colour.

A name stands in the ink of the page, so that it can be read in light, dark and print; a leader in the look of the line
joins the two. A variant has the same look in every chart whose curves are given in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from ple_rec.reports.svg import BEST, INK, TEST, TRAIN, VALID

Paint = Callable[[str], str]
Draw = Callable[[Axes, Paint], None]
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
