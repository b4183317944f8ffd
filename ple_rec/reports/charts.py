"""Charts of the run report: SVG of one panel each, from plain numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import Formatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from ple_rec.reports.svg import BEST, INK, MUTED, PAGE, TEST, TRAIN, VALID, panel, render
from ple_rec.runs.log import Series
from ple_rec.text.units import short_count

# A panel has no room for more points; longer series are drawn as mean and range of buckets.
_MAX_POINTS = 240
# If rates are lower, all dots of a calibration plot would lie in its corner.
_TINY_RATE = 0.02
# Lengths are CSS pixels. Height and width of a panel with two equal axes, side of its plot, and its margins.
_SQUARE, _SIDE, _LEFT, _BELOW = (240, 256), 190, 56, 42
# Size of the chart of loss weights, height of a label in it, and height outside its plot.
_WEIGHTS_WIDTH, _WEIGHTS_HEIGHT = 460, 240
_LABEL, _FRAME = 15, 50
# The axis of weights is logarithmic if their ratio is greater.
_LOGARITHMIC = 20
# The axis of weights starts at 0 unless their range is a smaller share of the greatest one.
_CLOSE = 0.2
_NAME_LETTERS = 22
# Colours and dashes give 20 kinds of line.
_COLOURS = (TRAIN, VALID, TEST, BEST, INK)
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (7, 2, 1.5, 2)))
# Distances of ticks are these times a power of ten, since such labels are easy to read.
_STEPS = [1, 2, 2.5, 5, 10]

Floats = NDArray[np.float64]
# Tasks of the same weights, and these weights.
WeightLine = tuple[list[str], Series]


def learning_curve(key: str, title: str, train: Series, valid: Series, best_step: float | None) -> Markup | None:
    """Draw train and validation values over steps, the best checkpoint marked; None if neither has a finite value.

    Args:
        key: Id prefix, unique in the page.
        title: Text for screen readers.
        train: Values of the report steps, drawn as a line, or as mean and range of buckets of steps if there are many.
        valid: Values of the evaluations, drawn as a line with dots.
        best_step: Step of the best checkpoint, marked by a hollow diamond; None if it is not known.
    """
    if not train and not valid:
        return None
    with panel() as axes:
        _bucketed(axes, train, TRAIN)
        known = np.isfinite(valid.values)
        marker = "o" if known.sum() <= 40 else ""
        axes.plot(valid.steps[known], valid.values[known], color=VALID, marker=marker, markersize=3.5, zorder=3)
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
        return render(axes, key, title)


def over_steps(key: str, title: str, series: Series, *, percent: bool = False) -> Markup | None:
    """Draw one quantity of the training log over steps, from zero up; None if it has no finite value.

    Args:
        key: Id prefix, unique in the page.
        title: Text for screen readers.
        series: Values of the quantity; shares of 1 if `percent`.
        percent: True to label the axis in percent.
    """
    if not series:
        return None
    with panel() as axes:
        _bucketed(axes, Series(series.steps, series.values * (100 if percent else 1)), TRAIN)
        axes.set(xlim=(0, 1.02 * series.steps[-1] or 1), ylim=(0, None))
        step_axis(axes)
        axes.yaxis.set_major_formatter(EvenTicks(" %" if percent else ""))
        return render(axes, key, title)


def calibration_plot(
    key: str, title: str, predicted: Sequence[float], observed: Sequence[float], weight: Sequence[float]
) -> Markup | None:
    """Draw observed against predicted mean per bucket, the diagonal being perfect; None without a bucket.

    The area of a dot is proportional to its bucket's weight. If the median prediction is below 2 %, both axes are
    logarithmic, and a bucket without a positive is a hollow triangle at the lower edge.

    Args:
        key: Id prefix, unique in the page.
        title: Text for screen readers.
        predicted: Mean prediction of each bucket.
        observed: Mean label of each bucket.
        weight: Weight of each bucket.
    """
    x, y, size = (np.asarray(values, dtype=float) for values in (predicted, observed, weight))
    known = np.isfinite(x) & np.isfinite(y) & np.isfinite(size)
    x, y, size = x[known], y[known], size[known]
    if not x.size:
        return None
    both = np.concatenate([x, y])
    logarithmic = bool((x > 0).all() and (y >= 0).all() and np.median(x) < _TINY_RATE)
    area = 14 + 90 * size / max(size.max(), 1e-300)
    with panel(*_SQUARE) as axes:
        if logarithmic:
            positive = both[both > 0]
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
            margin = 0.05 * (both.max() - both.min() or 1.0)
            low, high = both.min() - margin, both.max() + margin
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(MaxNLocator(5, steps=_STEPS))
                axis.set_major_formatter(EvenTicks())
        axes.plot([low, high], [low, high], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        shown = (y > 0) | (not logarithmic)
        axes.plot(x[shown], y[shown], color=TEST, linewidth=1, alpha=0.5, zorder=2)
        axes.scatter(x[shown], y[shown], s=area[shown], color=TEST, edgecolor=PAGE, linewidth=0.8, zorder=3)
        axes.scatter(
            x[~shown], np.full((~shown).sum(), low * 1.15), s=30, marker="v", facecolor="none", edgecolor=TEST, zorder=3
        )
        axes.set(xlim=(low, high), ylim=(low, high), xlabel="predicted", ylabel="observed")
        _square(axes)
        return render(axes, key, title)


def roc_curve(key: str, title: str, points: Sequence[Sequence[float]]) -> Markup | None:
    """Draw the true-positive rate over false-positive rate, `points` being (N, 2); None for fewer than two points."""
    if len(points) < 2:
        return None
    curve = np.asarray(points, dtype=float)
    points_drawn = np.unique(np.linspace(0, len(curve) - 1, 400).round().astype(int))
    x, y = curve[points_drawn].T
    with panel(*_SQUARE) as axes:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        axes.fill_between(x, y, color=TEST, alpha=0.08, linewidth=0)
        axes.plot(x, y, color=TEST, zorder=3)
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel="false-positive rate", ylabel="true-positive rate")
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", ".25", ".5", ".75", "1"])
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", ".25", ".5", ".75", "1"])
        _square(axes)
        return render(axes, key, title)


def _square(axes: Axes) -> None:
    """Set size and place of the plot independently of its labels, so that the panels of a row line up."""
    height, width = _SQUARE
    axes.set_position((_LEFT / width, _BELOW / height, _SIDE / width, _SIDE / height))


def bucket(series: Series, limit: int = _MAX_POINTS) -> tuple[Floats, Floats, Floats, Floats]:
    """Return a series in at most `limit` buckets of neighbours: mean step, mean, least and greatest value, (N,) each.

    Records without a finite value are left out, since the line through the others would be broken.
    """
    known = np.isfinite(series.values)
    steps, values = series.steps[known], series.values[known]
    if steps.size <= limit:
        return steps, values, values, values
    parts = np.array_split(np.arange(steps.size), limit)
    reduced = [[reduce(values[part]) for part in parts if part.size] for reduce in (np.mean, np.min, np.max)]
    mean, low, high = np.array(reduced)
    return np.array([steps[part].mean() for part in parts if part.size]), mean, low, high


def _bucketed(axes: Axes, series: Series, color: str) -> None:
    steps, mean, low, high = bucket(series)
    if low is not mean:
        axes.fill_between(steps, low, high, color=color, alpha=0.18, linewidth=0)
    axes.plot(steps, mean, color=color, linewidth=1.3, marker="o" if mean.size == 1 else "", zorder=2)


def _robust_limits(axes: Axes, train: Series, valid: Series) -> None:
    """Set limits that leave out early values, since the steep start of a curve would flatten the rest.

    After the first tenth of the steps, the frame has every evaluation and the 2nd to 98th percentile of training.
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
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=_STEPS))
    axes.xaxis.set_major_formatter(EvenTicks())
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=_STEPS))
    axes.grid(visible=False, axis="x")
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("step")


class EvenTicks(Formatter):
    """Tick labels of one axis with equally many decimals, thousands as `k`: `0.85 0.90 0.95`, `0 5 k 10 k`."""

    def __init__(self, suffix: str = "") -> None:
        self.suffix = suffix

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        """Return the labels of all ticks together."""
        ticks = [0.0 if abs(value) < 1e-12 * max(map(abs, values)) else float(value) for value in values]
        digits = next((d for d in range(8) if all(abs(round(v, d) - v) <= 1e-6 * abs(v) for v in ticks)), None)
        if digits is None:
            return [f"{value:.3g}{self.suffix}" for value in ticks]
        return [(_thousands(v) if abs(v) >= 1000 else f"{v:.{digits}f}" if v else "0") + self.suffix for v in ticks]

    def __call__(self, value: float, pos: int | None = None) -> str:
        """Return the label of one tick alone."""
        return self.format_ticks([value])[0]


def _thousands(value: float) -> str:
    """Return a large tick without trailing zeros: `20 k`, `1.5 k`."""
    digits, _, unit = short_count(value).partition(" ")
    return f"{digits.rstrip('0').rstrip('.') if '.' in digits else digits} {unit}"


def weight_lines(key: str, title: str, lines: Sequence[WeightLine]) -> Markup:
    """Draw loss weights as lines with their names at the right end.

    Args:
        key: Id prefix, unique in the page.
        title: Text for screen readers.
        lines: Tasks of the same weights, and these weights, for each line.
    """
    values = _weights(lines)
    last = float(max(series.steps[-1] for _, series in lines))
    height = max(_WEIGHTS_HEIGHT, _LABEL * len(lines) + _FRAME)
    with panel(height, _WEIGHTS_WIDTH) as axes:
        axes.set_xlim(0, last or 1)
        step_axis(axes)
        if values.min() > 0 and values.max() > _LOGARITHMIC * values.min():
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(numticks=6))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.set_ylim(values.min() / 1.15, values.max() * 1.15)
        else:
            low, high = float(values.min()), float(values.max())
            if _close(values):
                # A change of less than a thousandth may look flat.
                margin = max(0.06 * (high - low), 1e-3 * high)
                axes.set_ylim(low - margin, high + margin)
            else:
                axes.set_ylim(min(0.0, low), 1.06 * high or 1.0)
            axes.yaxis.set_major_formatter(EvenTicks())
        ends = [(0.0, float(series.values[np.isfinite(series.values)][-1])) for _, series in lines]
        heights = (axes.transScale + axes.transLimits).transform(ends)[:, 1]
        places = _apart(heights, _LABEL / (height - _FRAME))
        for index, ((tasks, series), (_, end), place) in enumerate(zip(lines, ends, places, strict=True)):
            colour = _COLOURS[index % len(_COLOURS)]
            steps, mean, _, _ = bucket(series)
            axes.plot(
                steps,
                mean,
                color=colour,
                linestyle=_DASHES[index % len(_DASHES)],
                dash_capstyle="butt",
                marker="o" if mean.size == 1 else "",
            )
            axes.annotate(
                _name(tasks),
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
        return render(axes, key, title)


def _weights(lines: Sequence[WeightLine]) -> NDArray[np.float64]:
    """Return all finite weights, (N,)."""
    values: NDArray[np.float64] = np.concatenate([series.values for _, series in lines])
    return values[np.isfinite(values)]


def hardly_differ(lines: Sequence[WeightLine]) -> bool:
    """Return True if weights differ so little that their axis does not start at 0."""
    return _close(_weights(lines))


def _close(values: NDArray[np.float64]) -> bool:
    """Return True if weights differ so little that they would be one flat line on an axis from 0."""
    return bool(values.min() > 0 and np.ptp(values) < _CLOSE * values.max())


def _apart(heights: NDArray[np.float64], distance: float) -> list[float]:
    """Return heights in 0 to 1 near those of the argument, but at least `distance` apart if there is room."""
    order = np.argsort(heights, kind="stable")
    places = [0.0] * len(order)
    below = -distance
    for index in order:
        below = places[index] = max(float(heights[index]), below + distance)
    above = 1.0 + distance
    for index in order[::-1]:
        above = places[index] = min(places[index], above - distance)
    return places


def _name(tasks: Sequence[str]) -> str:
    """Return the label of a line: its tasks, or their number if the names are too long."""
    name = ", ".join(tasks)
    if len(name) <= _NAME_LETTERS:
        return name
    return f"{len(tasks)} tasks" if len(tasks) > 1 else f"{name[: _NAME_LETTERS - 3]}..."
