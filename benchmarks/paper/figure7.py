"""Fig. 7: gain of models over single-task at several correlations of two regressions.

An MTL gain is the improvement of a task over the single-task model, here in MSE. The paper reports by how much the mean
gain of PLE exceeds that of MMoE, (mean_PLE - mean_MMoE) / mean_MMoE, with means over both tasks and all correlations.
This number is defined only if the mean gain of MMoE is positive.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ple_rec.reports.lines import Curve, draw_lines, line_styles
from ple_rec.reports.svg import MUTED, Chart, Paint
from ple_rec.text import align_columns

# Content of compare.json, which `ple-rec compare` writes.
Results = Mapping[str, Any]
_PAPER_GAIN = 0.872  # Gain of PLE over MMoE that the paper reports.


def charts(points: Sequence[tuple[float, Results]]) -> list[Chart]:
    """Return a chart of the MTL gain in MSE for each task, with a line over the correlations for each variant.

    Args:
        points: Correlation and compare.json of each comparison, in ascending order of correlation.
    """
    tasks = points[0][1]["tasks"]
    return [_chart(task, points) for task in tasks]


def summary(points: Sequence[tuple[float, Results]]) -> str:
    """Return the mean gain of each variant over tasks and correlations, and the gain of PLE over MMoE, as text.

    Correlations whose comparison lacks a run are left out.
    """
    points, point_count = [point for point in points if _is_complete(point[1])], len(points)
    if not points:
        return "no correlation has all its runs yet"
    means = {name: mean for name in points[0][1]["variants"] if (mean := _mean_gain(name, points)) is not None}
    lines = [["", "mean MTL gain in MSE"], *([name, f"{mean:+.5f}"] for name, mean in means.items())]
    text = "\n".join(align_columns(lines))
    if len(points) < point_count:
        text += f"\nof the correlations that have all their runs: {', '.join(f'{p:g}' for p, _ in points)}"
    if not {"ple", "mmoe"} <= means.keys():
        return text
    ple, mmoe = means["ple"], means["mmoe"]
    if mmoe <= 0:
        return f"{text}\nPLE over MMoE: undefined, since MMoE gains {mmoe:+.5f} (the paper: {_PAPER_GAIN:+.1%})"
    return f"{text}\nPLE over MMoE: {(ple - mmoe) / mmoe:+.1%} (the paper: {_PAPER_GAIN:+.1%})"


def mse_table(points: Sequence[tuple[float, Results]]) -> str:
    """Return a table of the test MSE of each variant and task at each correlation."""
    lines = [["variant, task", *(f"p = {p:g}" for p, _ in points)]]
    first = points[0][1]
    for name in first["variants"]:
        for task in first["tasks"]:
            cells = [results["variants"][name]["tasks"].get(task) for _, results in points]
            lines.append([f"{name}, {task}", *("-" if value is None else f"{value['mean']:.5f}" for value in cells)])
    return "\n".join(align_columns(lines))


def _is_complete(results: Results) -> bool:
    """Return whether all runs of a comparison have finished. Means are taken only over such comparisons."""
    return not results["missing"] and not any(variant["failed"] for variant in results["variants"].values())


def _mean_gain(name: str, points: Sequence[tuple[float, Results]]) -> float | None:
    """Return the mean gain of a variant over tasks and correlations; None if it has none, as the single-task model."""
    tasks = (task for _, results in points for task in results["variants"][name]["tasks"].values())
    gains = [task["gain"]["mean"] for task in tasks if task["gain"] is not None]
    return statistics.fmean(gains) if gains else None


def _chart(task: str, points: Sequence[tuple[float, Results]]) -> Chart:
    def draw(axes: Axes, paint: Paint) -> None:
        axes.axhline(0, color=paint(MUTED), linewidth=1)
        curves: dict[str, Curve] = {}
        for name, style in zip(points[0][1]["variants"], line_styles(), strict=False):
            cells = [(p, results["variants"][name]["tasks"].get(task)) for p, results in points]
            gains = [(p, value["gain"]) for p, value in cells if value is not None and value["gain"] is not None]
            curves[name] = np.array([p for p, _ in gains]), np.array([gain["mean"] for _, gain in gains])
            for p, gain in gains:
                if gain["seed_interval"] is not None:
                    axes.plot([p, p], gain["seed_interval"], color=paint(style.colour), linewidth=1, alpha=0.6)
        draw_lines(axes, paint, curves)
        axes.set(xlabel="correlation p of the tasks' weights", ylabel="MTL gain in MSE")

    return Chart(f"fig7-{task}", f"Fig. 7, {task}", "mean over seeds with 95 % intervals", draw, (520, 320))
