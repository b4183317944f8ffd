"""The figures of a comparison, each for the page and as files of its own (SVG, PNG): gains, seesaw, learning curves.

A figure is a function that draws on axes in colours that it asks a palette for: the placeholders of the page, or those
of paper. Variants are told apart by their names beside what is drawn (lines.py), never by colour alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ple_rec.analysis.compare.lines import Curves, Draw, Paint, draw_lines
from ple_rec.analysis.compare.points import name_points
from ple_rec.reports.svg import INK, LIGHT, MUTED, PAGE, RULE, TRAIN, VALID, panel, render

_ROW, _FRAME, _DOTS = 20, 56, 144  # pixels of a line of a chart, of its frame; dots per inch of a PNG


@dataclass(frozen=True)
class Chart:
    """A figure.

    Args:
        key: Of its files and ids.
        caption: Above it.
        note: Beside the caption.
        draw: Draws it.
        size: Width and height in CSS pixels.
    """

    key: str
    caption: str
    note: str
    draw: Draw
    size: tuple[int, int]

    def svg(self) -> str:
        """For the page."""
        width, height = self.size
        with panel(height, width) as axes:
            self.draw(axes, lambda colour: colour)
            return render(axes, self.key, self.caption)

    def save(self, folder: Path) -> None:
        """`<key>.svg` and `<key>.png`, on white."""
        width, height = self.size
        with panel(height, width, LIGHT) as axes:
            figure = axes.figure
            assert isinstance(figure, Figure)
            figure.suptitle(self.caption, fontsize=11, x=0.01, ha="left")  # above all that stands over the axes
            self.draw(axes, lambda colour: LIGHT.get(colour, colour))
            save_figure(figure, folder, self.key)


def save_figure(figure: Figure, folder: Path, key: str) -> None:
    """`<key>.svg` and `<key>.png`, on white; equal figures give equal bytes."""
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(folder / f"{key}.svg", facecolor=LIGHT[PAGE], metadata=nothing)
    figure.savefig(folder / f"{key}.png", facecolor=LIGHT[PAGE], dpi=_DOTS, metadata={"Software": None})


def gain_chart(task: str, metric: str, baseline: str, variants: Mapping[str, Mapping[str, Any] | None]) -> Chart | None:
    """MTL gain of every variant on a task with its 95 % interval over seeds; None where there is no gain.

    Args:
        task: Its name.
        metric: Whose gain.
        baseline: That gains are over.
        variants: By name: `gain` of compare.json.
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
    """Gain on one task against gain on another, quadrants named (as Fig. 5 and 6); None without a gain on both.

    Args:
        first: The task of the x axis.
        second: Of the y axis.
        baseline: That gains are over.
        gains: Of both, by variant.
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
    """A metric on the validation split over training steps, mean over seeds, a line a variant; None without any.

    Args:
        task: Its name.
        metric: Which.
        curves: Steps and values of every variant; none of one that has no line.
    """
    if not any(len(steps) for steps, _ in curves.values()):
        return None

    def draw(axes: Axes, paint: Paint) -> None:
        draw_lines(axes, paint, curves, from_zero=True)
        axes.set(xlabel="step", ylabel=metric.upper())
        axes.spines["bottom"].set_color(paint(RULE))

    return Chart(f"curve-{task}", f"{task} on the validation split", "mean over seeds", draw, (460, 280))
