"""Charts of the run report: learning curves, quantities over steps, calibration, ROC and loss weights.

Each function draws numbers as an `<svg>` element for the page, or returns None if there is nothing to draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import Formatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from ple_rec.reports.svg import BEST, INK, MUTED, PAGE, TEST, TRAIN, VALID, panel_axes, render_svg
from ple_rec.runs.log import Series
from ple_rec.text.units import short_count

# A panel has no room for more points. A longer series is divided into buckets of neighbours, which are drawn as the
# line of their means over an area from their least to their greatest values.
_MAX_POINTS = 240
# If the median prediction is lower, a calibration plot is logarithmic: on linear axes, its dots would lie in a corner.
_TINY_RATE = 0.02
# Lengths are CSS pixels. Height and width of a panel with a square plot, side of the plot, left and bottom margin.
_SQUARE, _SIDE, _LEFT, _BOTTOM = (240, 256), 190, 56, 42
# Width and least height of the chart of loss weights, height of a label in it, and height outside its plot.
_WEIGHTS_WIDTH, _WEIGHTS_HEIGHT = 460, 240
_LABEL_HEIGHT, _FRAME_HEIGHT = 15, 50
# The axis of weights is logarithmic if the greatest is more than this many times the least.
_LOGARITHMIC_RATIO = 20
# If the range of the weights is a smaller share of the greatest one, their axis does not start at 0.
_CLOSE_RANGE = 0.2
# Largest number of characters in the label of a line of weights.
_MAX_NAME_LENGTH = 22
# Line i takes colour i modulo 5 and dashes i modulo 4, so 20 lines differ.
_COLOURS = (TRAIN, VALID, TEST, BEST, INK)
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (7, 2, 1.5, 2)))
# The distance of ticks is one of these numbers times a power of ten, which makes their labels easy to read.
_TICK_STEPS = [1, 2, 2.5, 5, 10]

Floats = NDArray[np.float64]
# One line of the chart of loss weights: the tasks that share it, since their weights equal each other at every step,
# and these weights.
WeightLine = tuple[list[str], Series]


def learning_curve(key: str, title: str, train: Series, valid: Series, best_step: float | None) -> Markup | None:
    """Draw training and validation values over steps, with the best checkpoint; None if neither has a finite value.

    Args:
        key: Id prefix, unique in the page.
        title: Text for screen readers.
        train: Values of the training records, drawn as a line, or in buckets if there are many.
        valid: Values of the evaluations, drawn as a line, with dots if there are few.
        best_step: Step of the best checkpoint, marked by a dashed line, and by a hollow diamond if it was evaluated;
            None if it is not known.
    """
    if not train and not valid:  # A series is true if it has a finite value.
        return None
    with panel_axes() as axes:
        _draw_buckets(axes, train, TRAIN)
        finite = np.isfinite(valid.values)
        marker = "o" if finite.sum() <= 40 else ""
        axes.plot(valid.steps[finite], valid.values[finite], color=VALID, marker=marker, markersize=3.5, zorder=3)
        if best_step is not None:
            axes.axvline(best_step, color=BEST, linewidth=1, linestyle=(0, (3, 2)), zorder=1)
            value = valid.at(best_step)
            if value is not None:
                axes.plot(
                    [best_step], [value], "D", markerfacecolor="none", markeredgecolor=BEST, markersize=7.5, zorder=4
                )
        _robust_limits(axes, train, valid)
        axes.set_xlim(0, 1.02 * max(series.steps[-1] for series in (train, valid) if series) or 1)
        step_axis(axes)
        axes.yaxis.set_major_formatter(EvenTicks())
        return render_svg(axes, key, title)


def step_chart(key: str, title: str, series: Series, *, percent: bool = False) -> Markup | None:
    """Draw one quantity of the training log over steps, from zero up; None if it has no finite value.

    Args:
        key: Id prefix, unique in the page.
        title: Text for screen readers.
        series: Values of the quantity; shares of 1 if `percent`.
        percent: True to label the axis in percent.
    """
    if not series:  # A series is true if it has a finite value.
        return None
    with panel_axes() as axes:
        _draw_buckets(axes, Series(series.steps, series.values * (100 if percent else 1)), TRAIN)
        axes.set(xlim=(0, 1.02 * series.steps[-1] or 1), ylim=(0, None))
        step_axis(axes)
        axes.yaxis.set_major_formatter(EvenTicks(" %" if percent else ""))
        return render_svg(axes, key, title)


def calibration_plot(
    key: str, title: str, predicted: Sequence[float], observed: Sequence[float], weight: Sequence[float]
) -> Markup | None:
    """Draw the mean label against the mean prediction of each bucket of samples; None without a bucket.

    Perfect predictions are on the diagonal. The area of a dot grows with its bucket's weight. If the median prediction
    is below 2 %, all predictions are above 0 and no label is negative, both axes are logarithmic, and a bucket without
    a positive label is a hollow triangle at the lower edge. A bucket with a value that is not finite is left out.

    Args:
        key: Id prefix, unique in the page.
        title: Text for screen readers.
        predicted: Mean prediction of each bucket.
        observed: Mean label of each bucket.
        weight: Weight of each bucket.
    """
    x, y, size = (np.asarray(values, dtype=float) for values in (predicted, observed, weight))
    finite = np.isfinite(x) & np.isfinite(y) & np.isfinite(size)
    x, y, size = x[finite], y[finite], size[finite]
    if not x.size:
        return None
    coordinates = np.concatenate([x, y])
    logarithmic = bool((x > 0).all() and (y >= 0).all() and np.median(x) < _TINY_RATE)
    area = 14 + 90 * size / max(size.max(), 1e-300)
    with panel_axes(*_SQUARE) as axes:
        if logarithmic:
            positive = coordinates[coordinates > 0]
            low, high = positive.min() / 1.6, positive.max() * 1.6
            axes.set_xscale("log")
            axes.set_yscale("log")
            # On a short axis, powers of ten alone would leave few labels, or none.
            subs = (1.0, 2.0, 5.0) if high < 30 * low else (1.0,)
            for axis, ticks in ((axes.xaxis, 4), (axes.yaxis, 6)):
                axis.set_major_locator(LogLocator(subs=subs, numticks=ticks))
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                axis.set_minor_formatter(NullFormatter())
        else:
            margin = 0.05 * (coordinates.max() - coordinates.min() or 1.0)
            low, high = coordinates.min() - margin, coordinates.max() + margin
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(MaxNLocator(5, steps=_TICK_STEPS))
                axis.set_major_formatter(EvenTicks())
        axes.plot([low, high], [low, high], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        is_dot = (y > 0) | (not logarithmic)
        axes.plot(x[is_dot], y[is_dot], color=TEST, linewidth=1, alpha=0.5, zorder=2)
        axes.scatter(x[is_dot], y[is_dot], s=area[is_dot], color=TEST, edgecolor=PAGE, linewidth=0.8, zorder=3)
        axes.scatter(
            x[~is_dot],
            np.full((~is_dot).sum(), low * 1.15),
            s=30,
            marker="v",
            facecolor="none",
            edgecolor=TEST,
            zorder=3,
        )
        axes.set(xlim=(low, high), ylim=(low, high), xlabel="predicted", ylabel="observed")
        _place_square_plot(axes)
        return render_svg(axes, key, title)


def roc_curve(key: str, title: str, points: Sequence[Sequence[float]]) -> Markup | None:
    """Draw the true-positive rate against the false-positive rate; None for fewer than two points.

    Args:
        key: Id prefix, unique in the page.
        title: Text for screen readers.
        points: Pairs of false-positive and true-positive rate, (N, 2).
    """
    if len(points) < 2:
        return None
    curve = np.asarray(points, dtype=float)
    # A panel has no room for more than 400 points.
    indices = np.unique(np.linspace(0, len(curve) - 1, 400).round().astype(int))
    x, y = curve[indices].T
    with panel_axes(*_SQUARE) as axes:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        axes.fill_between(x, y, color=TEST, alpha=0.08, linewidth=0)
        axes.plot(x, y, color=TEST, zorder=3)
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel="false-positive rate", ylabel="true-positive rate")
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", ".25", ".5", ".75", "1"])
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", ".25", ".5", ".75", "1"])
        _place_square_plot(axes)
        return render_svg(axes, key, title)


def _place_square_plot(axes: Axes) -> None:
    """Set size and place of the plot, whatever the width of its labels, so that the panels of a row line up."""
    height, width = _SQUARE
    axes.set_position((_LEFT / width, _BOTTOM / height, _SIDE / width, _SIDE / height))


def bucket_series(series: Series, limit: int = _MAX_POINTS) -> tuple[Floats, Floats, Floats, Floats]:
    """Divide a series into buckets of neighbours: mean step, and mean, least and greatest value of each bucket, (N,).

    A series of at most `limit` finite values keeps them all. Values that are not finite are left out, since they would
    break the line.
    """
    finite = np.isfinite(series.values)
    steps, values = series.steps[finite], series.values[finite]
    if steps.size <= limit:
        return steps, values, values, values
    parts = np.array_split(np.arange(steps.size), limit)
    reduced = [[reduce(values[part]) for part in parts if part.size] for reduce in (np.mean, np.min, np.max)]
    mean, low, high = np.array(reduced)
    return np.array([steps[part].mean() for part in parts if part.size]), mean, low, high


def _draw_buckets(axes: Axes, series: Series, color: str) -> None:
    steps, mean, low, high = bucket_series(series)
    # A short series has no buckets, so its three arrays are the same object.
    if low is not mean:
        axes.fill_between(steps, low, high, color=color, alpha=0.18, linewidth=0)
    axes.plot(steps, mean, color=color, linewidth=1.3, marker="o" if mean.size == 1 else "", zorder=2)


def _robust_limits(axes: Axes, train: Series, valid: Series) -> None:
    """Set limits of the y axis that leave out early values, since the steep start of a curve would flatten the rest.

    The axis has every evaluation after the first tenth of the steps, and the 2nd to 98th percentile of training there.
    """
    last = max(series.steps[-1] for series in (train, valid) if series)
    late_train, late_valid = (_finite_from(last / 10, series) for series in (train, valid))
    ends = np.concatenate([np.percentile(late_train, [2, 98]) if late_train.size else late_train, late_valid])
    if not ends.size:
        return
    low, high = ends.min(), ends.max()
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    axes.set_ylim(low - margin, high + margin)


def _finite_from(step: float, series: Series) -> Floats:
    return series.values[(series.steps >= step) & np.isfinite(series.values)]


def step_axis(axes: Axes) -> None:
    """Set the style of every chart over steps: few round ticks, and horizontal grid lines only."""
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=_TICK_STEPS))
    axes.xaxis.set_major_formatter(EvenTicks())
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=_TICK_STEPS))
    axes.grid(visible=False, axis="x")
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("step")


class EvenTicks(Formatter):
    """Tick labels of an axis with the same number of decimals, and thousands as `k`: `0.85 0.90 0.95`, `0 5 k 10 k`."""

    def __init__(self, suffix: str = "") -> None:
        self.suffix = suffix

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        """Return the labels of all ticks together."""
        # A tick at 0 may have been computed with a rounding error.
        ticks = [0.0 if abs(value) < 1e-12 * max(map(abs, values)) else float(value) for value in values]
        # Fewest decimals that show every tick.
        digits = next((d for d in range(8) if all(abs(round(v, d) - v) <= 1e-6 * abs(v) for v in ticks)), None)
        if digits is None:
            return [f"{value:.3g}{self.suffix}" for value in ticks]
        return [(_short_tick(v) if abs(v) >= 1000 else f"{v:.{digits}f}" if v else "0") + self.suffix for v in ticks]

    def __call__(self, value: float, pos: int | None = None) -> str:
        """Return the label of one tick alone."""
        return self.format_ticks([value])[0]


def _short_tick(value: float) -> str:
    """Return a large tick without trailing zeros: `20 k`, `1.5 k`."""
    digits, _, unit = short_count(value).partition(" ")
    return f"{digits.rstrip('0').rstrip('.') if '.' in digits else digits} {unit}"


def weight_chart(key: str, title: str, lines: Sequence[WeightLine]) -> Markup:
    """Draw loss weights as lines with their names at the right end.

    Args:
        key: Id prefix, unique in the page.
        title: Text for screen readers.
        lines: Names of the tasks of each line, and their weights, of which at least one is finite.
    """
    values = _finite_weights(lines)
    last = float(max(series.steps[-1] for _, series in lines))
    height = max(_WEIGHTS_HEIGHT, _LABEL_HEIGHT * len(lines) + _FRAME_HEIGHT)
    with panel_axes(height, _WEIGHTS_WIDTH) as axes:
        axes.set_xlim(0, last or 1)
        step_axis(axes)
        if values.min() > 0 and values.max() > _LOGARITHMIC_RATIO * values.min():
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(numticks=6))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.set_ylim(values.min() / 1.15, values.max() * 1.15)
        else:
            low, high = float(values.min()), float(values.max())
            if _are_close(values):
                # The axis extends a thousandth of the weight up and down, so that noise does not look like a change.
                margin = max(0.06 * (high - low), 1e-3 * high)
                axes.set_ylim(low - margin, high + margin)
            else:
                axes.set_ylim(min(0.0, low), 1.06 * high or 1.0)
            axes.yaxis.set_major_formatter(EvenTicks())
        # Last weight of each line. The x coordinate does not matter: only heights, as shares of the axes, are computed.
        ends = [(0.0, float(series.values[np.isfinite(series.values)][-1])) for _, series in lines]
        heights = (axes.transScale + axes.transLimits).transform(ends)[:, 1]
        places = _spread_heights(heights, _LABEL_HEIGHT / (height - _FRAME_HEIGHT))
        for index, ((tasks, series), (_, end), place) in enumerate(zip(lines, ends, places, strict=True)):
            colour = _COLOURS[index % len(_COLOURS)]
            steps, mean, _, _ = bucket_series(series)
            axes.plot(
                steps,
                mean,
                color=colour,
                linestyle=_DASHES[index % len(_DASHES)],
                dash_capstyle="butt",
                marker="o" if mean.size == 1 else "",
            )
            axes.annotate(
                _line_label(tasks),
                xy=(last, end),
                xytext=(1.05, place),
                textcoords="axes fraction",
                verticalalignment="center",
                annotation_clip=False,
                arrowprops={
                    "arrowstyle": "-",
                    "color": colour,
                    "linewidth": 0.9,
                    "relpos": (0, 0.5),
                    "shrinkA": 2,
                    "shrinkB": 0,
                },
            )
        return render_svg(axes, key, title)


def _finite_weights(lines: Sequence[WeightLine]) -> NDArray[np.float64]:
    """Return all finite weights, (N,)."""
    values: NDArray[np.float64] = np.concatenate([series.values for _, series in lines])
    return values[np.isfinite(values)]


def are_weights_close(lines: Sequence[WeightLine]) -> bool:
    """Return True if the weights differ so little that the axis of `weight_chart` does not start at 0."""
    return _are_close(_finite_weights(lines))


def _are_close(values: NDArray[np.float64]) -> bool:
    """Return True if weights differ so little that they would be one flat line on an axis from 0."""
    return bool(values.min() > 0 and np.ptp(values) < _CLOSE_RANGE * values.max())


def _spread_heights(heights: NDArray[np.float64], distance: float) -> list[float]:
    """Move heights in 0 to 1 so that neighbours are at least `distance` apart, if there is room for that."""
    order = np.argsort(heights, kind="stable")
    places = [0.0] * len(order)
    below = -distance
    for index in order:
        below = places[index] = max(float(heights[index]), below + distance)
    above = 1.0 + distance
    for index in order[::-1]:
        above = places[index] = min(places[index], above - distance)
    return places


def _line_label(tasks: Sequence[str]) -> str:
    """Return the label of a line: its tasks, or their number if the names are too long."""
    name = ", ".join(tasks)
    if len(name) <= _MAX_NAME_LENGTH:
        return name
    return f"{len(tasks)} tasks" if len(tasks) > 1 else f"{name[: _MAX_NAME_LENGTH - 3]}..."
