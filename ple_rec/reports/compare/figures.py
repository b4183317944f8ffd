"""The figures of a comparison: gains, seesaw, learning curves.

Variants are told apart by their names beside what is drawn, never by colour alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ple_rec.reports.figures import Chart
from ple_rec.reports.lines import Curves, Paint, draw_lines
from ple_rec.reports.points import name_points
from ple_rec.reports.svg import INK, MUTED, RULE, TRAIN, VALID

_ROW, _FRAME = 20, 56  # pixels of a line of a chart, of its frame


def gain_chart(task: str, metric: str, baseline: str, variants: Mapping[str, Mapping[str, Any] | None]) -> Chart | None:
    """Draw the MTL gain of every variant on a task with its 95 % interval over seeds; None where there is no gain.

    Args:
        task: Name of the task.
        metric: Metric of the gain.
        baseline: Variant that gains are over.
        variants: `gain` of compare.json by the variant's name.
    """
    found = [(name, gain) for name, gain in variants.items() if gain is not None]
    if not found:
        return None

    def draw(axes: Axes, paint: Paint) -> None:
        axes.axvline(0, color=paint(MUTED), linewidth=1)
        for y, (_, gain) in enumerate(found):
            if (interval := gain["seed_interval"]) is not None:
                axes.plot(interval, [y, y], color=paint(TRAIN), linewidth=2.4, solid_capstyle="butt")
            seeds = list(gain["values"].values())  # strokes, which stand out of the interval's bar
            axes.plot(seeds, [y] * len(seeds), "|", color=paint(INK), markersize=9, markeredgewidth=1, zorder=3)
            axes.plot([gain["mean"]], [y], "o", color=paint(TRAIN), markersize=6, zorder=4)
        axes.set_yticks(range(len(found)), [name for name, _ in found])
        axes.set(ylim=(len(found) - 0.4, -0.6), xlabel=f"gain in {metric.upper()} over {baseline}, right is better")
        axes.tick_params(axis="y", labelcolor=paint(INK))
        axes.locator_params(axis="x", nbins=6)  # more would touch one another
        axes.grid(visible=False, axis="y")

    note = "mean and 95 % over seeds, a stroke each"
    return Chart(f"gain-{task}", f"MTL gain on {task}", note, draw, (420, _FRAME + _ROW * len(found)))


def seesaw_chart(first: str, second: str, baseline: str, gains: Mapping[str, tuple[float, float]]) -> Chart | None:
    """Draw gain on one task against gain on another, quadrants named (as Fig. 5 and 6); None without a gain on both.

    Args:
        first: The task of the x axis.
        second: The task of the y axis.
        baseline: Variant that gains are over.
        gains: Both gains by variant.
    """
    if not gains:
        return None

    def draw(axes: Axes, paint: Paint) -> None:
        points = np.array([*gains.values(), (0.0, 0.0)])
        low, high = points.min(0), points.max(0)
        room = np.maximum(high - low, 1e-5) * 0.35
        axes.set(xlim=(low[0] - room[0], high[0] + room[0]), ylim=(low[1] - room[1], high[1] + room[1]))
        axes.axvline(0, color=paint(MUTED), linewidth=1)
        axes.axhline(0, color=paint(MUTED), linewidth=1)
        corners = (
            (0.99, 0.99, "both gain"),
            (0.01, 0.99, f"seesaw: {second} at the cost of {first}"),
            (0.01, 0.01, "both lose"),
            (0.99, 0.01, f"seesaw: {first} at the cost of {second}"),
        )
        for x, y, words in corners:
            side, edge = ("right" if x > 0.5 else "left"), ("top" if y > 0.5 else "bottom")
            axes.text(x, y, words, transform=axes.transAxes, ha=side, va=edge, color=paint(MUTED), fontsize=9)
        axes.plot([0], [0], "s", color=paint(INK), markersize=5)
        for x, y in gains.values():
            axes.plot([x], [y], "o", color=paint(TRAIN if x >= 0 and y >= 0 else VALID), markersize=6, zorder=3)
        axes.locator_params(axis="x", nbins=6)  # more would touch one another
        axes.set(xlabel=f"gain on {first}", ylabel=f"gain on {second}")
        name_points(axes, paint, {**gains, baseline: (0.0, 0.0)})

    note = "mean gain over seeds; right and up are better"
    return Chart(f"seesaw-{first}-{second}", f"{first} against {second}", note, draw, (460, 340))


def curve_chart(task: str, metric: str, curves: Curves) -> Chart | None:
    """Draw a metric on the validation split over training steps, mean over seeds, a line a variant; None without any.

    Args:
        task: Name of the task.
        metric: Metric that is drawn.
        curves: Steps and values of every variant; none of one that has no line.
    """
    if not any(len(steps) for steps, _ in curves.values()):
        return None

    def draw(axes: Axes, paint: Paint) -> None:
        draw_lines(axes, paint, curves, from_zero=True)
        axes.set(xlabel="step", ylabel=metric.upper())
        axes.spines["bottom"].set_color(paint(RULE))

    return Chart(f"curve-{task}", f"{task} on the validation split", "mean over seeds", draw, (460, 280))
