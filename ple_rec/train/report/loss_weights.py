"""The section on the tasks' loss weights over time: shown where one changes, or is not 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from ple_rec.html.markup import figure, pairs, table, text
from ple_rec.train.report.charts import EvenTicks, bucket, step_axis
from ple_rec.train.report.run_files import RunFiles, Series
from ple_rec.train.report.svg import BEST, INK, TEST, TRAIN, VALID, panel, render
from ple_rec.train.results import mapping

_WIDTH, _HEIGHT = 460, 240  # CSS pixels
_LABEL, _FRAME = 15, 50  # CSS pixels of the height: one label's line, and what is not the plot itself
_LOGARITHMIC = 20  # ratio of weights above which the axis is logarithmic
_CLOSE = 0.2  # share of the greatest weight below which their spread fills the axis, which else starts at 0
_NAME = 22  # characters of a label beside its line
_COLOURS = (TRAIN, VALID, TEST, BEST, INK)
_DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 2)),
    (0, (1.5, 1.5)),
    (0, (7, 2, 1.5, 2)),
)  # with the colours, 20 kinds of line


class _Line(NamedTuple):
    """The tasks whose weights are the same at every step, and these weights."""

    tasks: list[str]
    series: Series

    @property
    def ends(self) -> tuple[float, float]:
        known = self.series.values[np.isfinite(self.series.values)]
        return float(known[0]), float(known[-1])

    @property
    def changes(self) -> bool:
        spread = np.nanmax(self.series.values) - np.nanmin(self.series.values)
        return bool(spread > 1e-9 * np.nanmax(np.abs(self.series.values)))


def loss_weights(run: RunFiles) -> str:
    """A line per task, or one sentence where every weight stays as it is; empty where all of them are 1."""
    lines = _lines(run)
    if not any(line.changes or line.ends[0] != 1 for line in lines):
        return ""
    if not any(line.changes for line in lines):
        lead = "<p>Constant over the run.</p>"
        return lead + pairs((task, f"{line.ends[0]:.4g}") for line in lines for task in line.tasks)
    learned = mapping(run.config.get("train")).get("loss_weighting") == "uncertainty"
    lead = "The weight w_k of each task's loss in the sum that is trained"
    lead += ", learned from the tasks' uncertainty." if learned else ", by its schedule."
    lines.sort(key=lambda line: -line.ends[1])
    svg = _chart("loss-weights", "Loss weights over training steps", lines)
    note = "at each report step" + ("; the axis does not start at 0" if _close(_weights(lines)) else "")
    return f'<p>{lead}</p><div class="beside">{figure("Weight", note, svg)}{_ends(lines)}</div>'


def _lines(run: RunFiles) -> list[_Line]:
    lines: list[_Line] = []
    for task in run.log.tasks():
        series = run.log.series("train", "tasks", task, "weight")
        if not series:
            continue
        same = (line for line in lines if np.array_equal(line.series.values, series.values, equal_nan=True))
        line = next(same, None)
        if line is None:
            lines.append(_Line([task], series))
        else:
            line.tasks.append(task)
    return lines


def _ends(lines: Sequence[_Line]) -> str:
    head = ['<th class="text" scope="col">task</th><th scope="col">first</th><th scope="col">last</th>']
    body = [
        f'<tr><th class="text" scope="row">{text(task)}</th><td>{line.ends[0]:.4g}</td><td>{line.ends[1]:.4g}</td></tr>'
        for line in lines
        for task in line.tasks
    ]
    content = table(head, body)
    if len(body) <= 12:
        return content
    return f"<details><summary>{len(body)} tasks, first and last weight</summary>{content}</details>"


def _chart(key: str, title: str, lines: Sequence[_Line]) -> str:
    """Lines that carry their names at the right end; equal weights share a line."""
    values = _weights(lines)
    last = float(max(line.series.steps[-1] for line in lines))
    height = max(_HEIGHT, _LABEL * len(lines) + _FRAME)
    with panel(height, _WIDTH) as axes:
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
                margin = max(0.06 * (high - low), 1e-3 * high)  # a change of less than a thousandth may look flat
                axes.set_ylim(low - margin, high + margin)
            else:
                axes.set_ylim(min(0.0, low), 1.06 * high or 1.0)
            axes.yaxis.set_major_formatter(EvenTicks())
        ends = [(0.0, line.ends[1]) for line in lines]
        wanted = (axes.transScale + axes.transLimits).transform(ends)[:, 1]
        places = _apart(wanted, _LABEL / (height - _FRAME))
        for index, (line, place) in enumerate(zip(lines, places, strict=True)):
            colour = _COLOURS[index % len(_COLOURS)]
            steps, mean, _, _ = bucket(line.series)
            single = np.isfinite(mean).sum() == 1
            axes.plot(
                steps,
                mean,
                color=colour,
                linestyle=_DASHES[index % len(_DASHES)],
                dash_capstyle="butt",
                marker="o" if single else "",
            )
            axes.annotate(
                _name(line.tasks),
                xy=(last, line.ends[1]),
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


def _weights(lines: Sequence[_Line]) -> NDArray[np.float64]:
    """All weights that are known, (N,)."""
    values: NDArray[np.float64] = np.concatenate([line.series.values for line in lines])
    return values[np.isfinite(values)]


def _close(values: NDArray[np.float64]) -> bool:
    """Whether weights differ so little that on an axis from 0 they would be one flat line."""
    return bool(values.min() > 0 and np.ptp(values) < _CLOSE * values.max())


def _apart(wanted: NDArray[np.float64], distance: float) -> list[float]:
    """Heights between 0 and 1 near the wanted ones, each at least `distance` from the next where there is room."""
    order = np.argsort(wanted, kind="stable")
    places = [0.0] * len(order)
    below = -distance
    for index in order:
        below = places[index] = max(float(wanted[index]), below + distance)
    above = 1.0 + distance
    for index in order[::-1]:
        above = places[index] = min(places[index], above - distance)
    return places


def _name(tasks: Sequence[str]) -> str:
    """The label of a line: its tasks, else how many they are."""
    name = ", ".join(tasks)
    if len(name) <= _NAME:
        return name
    return f"{len(tasks)} tasks" if len(tasks) > 1 else f"{name[: _NAME - 3]}..."
