"""Charts of a comparison: gains, seesaw, learning curves, relations of tasks, and use of experts.

A comparison trains variants of a model with several seeds. The MTL gain of a variant on a task is the improvement of
the metric over a baseline, so that a positive gain is better for every metric. The name of a variant stands beside its
mark, so that colour alone never distinguishes two variants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, groupby
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ple_rec.analysis.result import Gate
from ple_rec.errors import UserError
from ple_rec.reports.gate_bars import WIDTH, bars_height, draw_gate
from ple_rec.reports.lines import Curve, Curves, draw_lines, name_points, spread_apart
from ple_rec.reports.svg import INK, LIGHT, MUTED, RULE, TRAIN, VALID, Chart, Paint, save_figure, themed_figure
from ple_rec.runs.read import read_run

# Heights in CSS pixels: of the row of a variant, and of all that surrounds the rows.
_ROW_HEIGHT, _FRAME_HEIGHT = 20, 56


def gain_chart(task: str, metric: str, baseline: str, variants: Mapping[str, Mapping[str, Any] | None]) -> Chart | None:
    """Draw the MTL gain of every variant on a task with its 95 % interval over seeds; None without a gain.

    Args:
        task: Name of the task.
        metric: Metric of the gain.
        baseline: Name of the baseline.
        variants: `gain` of compare.json by the variant's name; None for a variant without one, which is left out.
    """
    known = [(name, gain) for name, gain in variants.items() if gain is not None]
    if not known:
        return None

    def draw(axes: Axes, paint: Paint) -> None:
        axes.axvline(0, color=paint(MUTED), linewidth=1)
        for y, (_, gain) in enumerate(known):
            if (interval := gain["seed_interval"]) is not None:
                axes.plot(interval, [y, y], color=paint(TRAIN), linewidth=2.4, solid_capstyle="butt")
            # The strokes of the seeds are higher than the bar of the interval, so they stay visible on it.
            seeds = list(gain["values"].values())
            axes.plot(seeds, [y] * len(seeds), "|", color=paint(INK), markersize=9, markeredgewidth=1, zorder=3)
            axes.plot([gain["mean"]], [y], "o", color=paint(TRAIN), markersize=6, zorder=4)
        axes.set_yticks(range(len(known)), [name for name, _ in known])
        axes.set(ylim=(len(known) - 0.4, -0.6), xlabel=f"gain in {metric.upper()} over {baseline}, right is better")
        axes.tick_params(axis="y", labelcolor=paint(INK))
        # The labels of more ticks would touch one another.
        axes.locator_params(axis="x", nbins=6)
        axes.grid(visible=False, axis="y")

    note = "mean and 95 % over seeds, a stroke each"
    return Chart(f"gain-{task}", f"MTL gain on {task}", note, draw, (420, _FRAME_HEIGHT + _ROW_HEIGHT * len(known)))


def seesaw_chart(first: str, second: str, baseline: str, gains: Mapping[str, tuple[float, float]]) -> Chart | None:
    """Draw the gain on one task against that on another, as Fig. 5 and 6 of the PLE paper; None without a gain on both.

    The four quadrants are named. In two of them the seesaw phenomenon shows: one task gains and the other one loses.

    Args:
        first: Task of the x axis.
        second: Task of the y axis.
        baseline: Name of the baseline.
        gains: Mean gains on the first and the second task, by variant.
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
        # The labels of more ticks would touch one another.
        axes.locator_params(axis="x", nbins=6)
        axes.set(xlabel=f"gain on {first}", ylabel=f"gain on {second}")
        name_points(axes, paint, {**gains, baseline: (0.0, 0.0)})

    note = "mean gain over seeds; right and up are better"
    return Chart(f"seesaw-{first}-{second}", f"{first} against {second}", note, draw, (460, 340))


def curve_chart(task: str, metric: str, curves: Curves) -> Chart | None:
    """Draw a metric on the validation split over training steps, with a line for each variant; None without values.

    Args:
        task: Name of the task.
        metric: Name of the metric.
        curves: Steps and mean values over seeds of each variant; both are empty for a variant without values.
    """
    if not any(len(steps) for steps, _ in curves.values()):
        return None

    def draw(axes: Axes, paint: Paint) -> None:
        draw_lines(axes, paint, curves, from_zero=True)
        axes.set(xlabel="step", ylabel=metric.upper())
        axes.spines["bottom"].set_color(paint(RULE))

    return Chart(f"curve-{task}", f"{task} on the validation split", "mean over seeds", draw, (460, 280))


# Label of each kind of gradients in `conflict` of compare.json: what the gradients are taken with respect to.
GRADIENT_LABELS = {"inputs": "inputs", "parameters": "shared weights"}
# Size of the names of pairs in points.
_PAIR_FONT_SIZE = 8.0
# Names of pairs are at least this share of the axis apart.
_NAME_DISTANCE = 0.05


def conflict_chart(kind: str, tasks: Sequence[str], curves: Curves, absent: Sequence[str]) -> Chart | None:
    """Draw the cosine of two tasks' gradients over training, with a line for each variant; None without values.

    Args:
        kind: Kind of the gradients, a key of `GRADIENT_LABELS`.
        tasks: Names of the two tasks.
        curves: Steps and mean cosines over seeds of each variant; both are empty for a variant without cosines.
        absent: Variants without a line, since these tasks share no expert there.
    """
    if not any(len(steps) for steps, _ in curves.values()):
        return None

    def draw(axes: Axes, paint: Paint) -> None:
        axes.axhline(0, color=paint(MUTED), linewidth=1)
        draw_lines(axes, paint, curves, from_zero=True)
        axes.set(xlabel="step", ylabel=f"cosine on the {GRADIENT_LABELS[kind]}")

    first, second = tasks
    note = "mean over seeds" + (f"; none in {', '.join(absent)}" if absent else "")
    return Chart(
        f"conflict-{kind}-{first}-{second}", f"{first} / {second}, {GRADIENT_LABELS[kind]}", note, draw, (460, 260)
    )


def correlation_chart(
    metric: str, baseline: str, pairs: Mapping[str, float], gains: Mapping[str, Mapping[str, float]]
) -> Chart | None:
    """Draw the mean MTL gain of two tasks against the correlation of their labels, with a line for each variant.

    Args:
        metric: Metric of all tasks in the chart, so that gains can be averaged.
        baseline: Name of the baseline.
        pairs: Correlation of the labels, by the pair's name.
        gains: Gains of every variant, by pair.

    Returns:
        The chart; None if no variant has a gain.
    """
    names = sorted(pairs, key=pairs.__getitem__)
    curves: dict[str, Curve] = {}
    for variant, gain_by_pair in gains.items():
        points = [(pairs[pair], gain_by_pair[pair]) for pair in names if pair in gain_by_pair]
        curves[variant] = np.array([x for x, _ in points]), np.array([y for _, y in points])
    if not any(len(x) for x, _ in curves.values()):
        return None

    def draw(axes: Axes, paint: Paint) -> None:
        middle, half = _middle_and_half_width(list(pairs.values()))
        axes.set_xlim(middle - half, middle + half)
        axes.axhline(0, color=paint(MUTED), linewidth=1)
        draw_lines(axes, paint, curves)
        places = spread_apart([pairs[pair] for pair in names], 2 * half * _NAME_DISTANCE)
        for pair, place in zip(names, places, strict=True):
            axes.axvline(pairs[pair], color=paint(MUTED), linewidth=0.6, linestyle=(0, (1, 3)), zorder=0)
            axes.annotate(
                pair,
                (place, 1.0),
                (0, 3),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                rotation=90 if len(names) > 1 else 0,
                ha="center",
                va="bottom",
                color=paint(MUTED),
                fontsize=_PAIR_FONT_SIZE,
            )
        axes.set(xlabel="correlation of the labels", ylabel=f"mean gain in {metric.upper()} over {baseline}")

    note = "of each pair of tasks: the mean of both gains, over seeds"
    return Chart(
        f"gain-correlation-{metric}", f"MTL gain in {metric.upper()} by label correlation", note, draw, (520, 340)
    )


def _middle_and_half_width(values: Sequence[float]) -> tuple[float, float]:
    """Return the middle and half the width of an axis that contains the values, with a margin at both ends."""
    low, high = min(values), max(values)
    return (low + high) / 2, max(0.6 * (high - low), 0.05)


# Largest number of panels side by side.
_PANELS_ACROSS = 3
# Heights in CSS pixels of the title of the figure with the line below it, and of the title of a panel.
_FIGURE_TITLE_HEIGHT, _PANEL_TITLE_HEIGHT = 64, 30


def axis_limit(gates: Sequence[Gate]) -> float:
    """Return the right end of the axis that all gates of a figure share."""
    return 1.05 * max(min(1.0, expert.mean + expert.std) for gate in gates for expert in gate.experts)


def save_utilisation(variant: str, gates: Sequence[Gate], folder: Path) -> None:
    """Draw the mean weights of the experts in every gate of a variant, as `utilisation-<variant>.svg` and `.png`.

    Args:
        variant: Name of the variant.
        gates: Gates of the variant, one at least.
        folder: Folder of the files.
    """
    rows = panel_rows(gates)
    heights = [_PANEL_TITLE_HEIGHT + max(bars_height(len(gate.experts)) for gate in row) for row in rows]
    across = max(len(row) for row in rows)
    with themed_figure(_FIGURE_TITLE_HEIGHT + sum(heights), WIDTH * across, LIGHT) as figure:
        grid = figure.add_gridspec(len(rows), across, height_ratios=heights)
        for r, row in enumerate(rows):
            for c, gate in enumerate(row):
                axes = figure.add_subplot(grid[r, c])
                draw_gate(axes, gate, axis_limit(gates), lambda colour: LIGHT.get(colour, colour))
                axes.set_title(f"level {gate.level}, gate of {gate.output}", fontsize=11, loc="left")
        figure.suptitle(f"Expert utilisation of {variant}", fontsize=12, x=0.01, ha="left")
        words = "mean weight over the test split; line: standard deviation; hatched: shared"
        figure.supxlabel(words, fontsize=10, color=LIGHT[MUTED], x=0.01, ha="left")
        save_figure(figure, folder, f"utilisation-{variant}")


def panel_rows(gates: Sequence[Gate]) -> list[list[Gate]]:
    """Return the gates of each row of panels in a figure; each level begins a new row, and a large one has several."""
    rows = []
    for _, level_gates in groupby(gates, key=lambda gate: gate.level):
        level = list(level_gates)
        rows += [level[i : i + _PANELS_ACROSS] for i in range(0, len(level), _PANELS_ACROSS)]
    return rows


# Content of compare.json.
Results = Mapping[str, Any]

# Only the first pairs of tasks, in the order of the tasks, have charts of their own.
_MAX_PAIRS = 6


def charts_by_section(results: Results, root: Path) -> dict[str, list[Chart]]:
    """Return the charts of a comparison, by the section of the page that shows them.

    Args:
        results: Content of compare.json.
        root: Directory of the comparison, whose runs have the learning curves.
    """
    charts = {
        "gains": _gain_charts(results),
        "seesaw": _seesaw_charts(results),
        "curves": _curve_charts(results, root),
        "conflict": _conflict_charts(results),
        "correlation": _correlation_charts(results),
    }
    return {section: [chart for chart in group if chart is not None] for section, group in charts.items()}


def _gain_charts(results: Results) -> list[Chart | None]:
    charts = []
    for task, facts in results["tasks"].items():
        entries = {name: variant["tasks"].get(task) for name, variant in results["variants"].items()}
        gains = {name: entry["gain"] for name, entry in entries.items() if entry is not None}
        charts.append(gain_chart(task, facts["metric"], results["baseline"], gains))
    return charts


def _mean_gain(variant: Mapping[str, Any], task: str) -> float | None:
    entry = variant["tasks"].get(task)
    return None if entry is None or entry["gain"] is None else float(entry["gain"]["mean"])


def _both_gains(results: Results, first: str, second: str) -> dict[str, tuple[float, float]]:
    """Return the gains on two tasks by variant; variants without a gain on both are left out."""
    gains = {}
    for name, variant in results["variants"].items():
        x, y = _mean_gain(variant, first), _mean_gain(variant, second)
        if x is not None and y is not None:
            gains[name] = (x, y)
    return gains


def _seesaw_charts(results: Results) -> list[Chart | None]:
    pairs = list(combinations(results["tasks"], 2))[:_MAX_PAIRS]
    return [seesaw_chart(a, b, results["baseline"], _both_gains(results, a, b)) for a, b in pairs]


def _curve_charts(results: Results, root: Path) -> list[Chart | None]:
    charts = []
    for task, facts in results["tasks"].items():
        curves = {}
        for name, variant in results["variants"].items():
            runs = [root / name / f"seed-{seed}" for seed in variant["seeds"]]
            curves[name] = _mean_curve(runs, task, facts["metric"])
        charts.append(curve_chart(task, facts["metric"], curves))
    return charts


def _mean_curve(runs: list[Path], task: str, metric: str) -> Curve:
    """Return the mean of a metric over the runs of all seeds, at the steps at which each of them was evaluated."""
    series = []
    for run in runs:
        try:
            series.append(read_run(run).log.series("valid", "tasks", task, metric))
        # The files of the run were removed after compare.json was written.
        except UserError:
            continue
    if not series:
        return np.empty(0), np.empty(0)
    steps = series[0].steps
    for other in series[1:]:
        steps = np.intersect1d(steps, other.steps)
    values = np.array([[each.at(step) for each in series] for step in steps.tolist()], dtype=np.float64)
    # Without a step, the array would have one dimension.
    values = values.reshape(len(steps), len(series))
    # An undefined value is NaN.
    known = np.isfinite(values).all(axis=1)
    return steps[known], values[known].mean(axis=1)


def _conflict_charts(results: Results) -> list[Chart | None]:
    """Draw, for each of the first pairs of tasks, a chart for the inputs and one for the shared weights."""
    charts = []
    for tasks in list(combinations(results["tasks"], 2))[:_MAX_PAIRS]:
        for kind in GRADIENT_LABELS:
            curves, absent = {}, []
            for name, variant in results["variants"].items():
                conflict = next((pair for pair in variant["conflict"] if set(pair["tasks"]) == set(tasks)), None)
                curves[name] = (
                    _known_points([], []) if conflict is None else _known_points(conflict["step"], conflict[kind])
                )
                if conflict is not None and not len(curves[name][0]):
                    absent.append(name)
            charts.append(conflict_chart(kind, tasks, curves, absent))
    return charts


def _known_points(steps: Sequence[int], values: Sequence[float | None]) -> Curve:
    points = [(step, value) for step, value in zip(steps, values, strict=True) if value is not None]
    return np.array([step for step, _ in points], dtype=float), np.array([value for _, value in points], dtype=float)


def _correlation_charts(results: Results) -> list[Chart | None]:
    """Draw a chart for each metric, over the pairs of tasks that both have it."""
    charts = []
    for metric in dict.fromkeys(facts["metric"] for facts in results["tasks"].values()):
        pairs: dict[str, float] = {}
        gains: dict[str, dict[str, float]] = {name: {} for name in results["variants"]}
        for each in results["label_correlations"] or ():
            first, second = each["tasks"]
            if each["value"] is None or any(results["tasks"][task]["metric"] != metric for task in each["tasks"]):
                continue
            pairs[pair := f"{first} / {second}"] = each["value"]
            for name, both in _both_gains(results, first, second).items():
                gains[name][pair] = sum(both) / 2
        charts.append(correlation_chart(metric, results["baseline"], pairs, gains))
    return charts
