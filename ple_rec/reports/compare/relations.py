"""Figures of how tasks go together: gradient conflict over training, gain against the correlation of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from ple_rec.reports.figures import Chart
from ple_rec.reports.lines import Curve, Curves, Paint, draw_lines, spread
from ple_rec.reports.svg import MUTED

ON = {"inputs": "inputs", "parameters": "shared weights"}  # what a cosine is on, in words
_PAIR_POINTS = 8.0  # size of the name of a pair
_NARROW = 0.05  # of the width, that names of pairs are apart at least


def conflict_chart(kind: str, tasks: Sequence[str], curves: Curves, absent: Sequence[str]) -> Chart | None:
    """Draw the mean cosine of two tasks' gradients over training, a line a variant; None without any.

    Args:
        kind: Key of `ON`.
        tasks: The two tasks.
        curves: Steps and cosines of every variant; none of one that has no line.
        absent: Variants without a line since these tasks share nothing there.
    """
    if not any(len(steps) for steps, _ in curves.values()):
        return None

    def draw(axes: Axes, paint: Paint) -> None:
        axes.axhline(0, color=paint(MUTED), linewidth=1)
        draw_lines(axes, paint, curves, from_zero=True)
        axes.set(xlabel="step", ylabel=f"cosine on the {ON[kind]}")

    first, second = tasks
    note = "mean over seeds" + (f"; none in {', '.join(absent)}" if absent else "")
    return Chart(f"conflict-{kind}-{first}-{second}", f"{first} / {second}, {ON[kind]}", note, draw, (460, 260))


def correlation_chart(
    metric: str, baseline: str, pairs: Mapping[str, float], gains: Mapping[str, Mapping[str, float]]
) -> Chart | None:
    """Draw the mean MTL gain of two tasks against the correlation of their labels, a line a variant; None without any.

    Args:
        metric: Metric of all tasks here, so that a mean of gains means something.
        baseline: Variant that gains are over.
        pairs: Correlation by the pair's name.
        gains: Gains of every variant, by pair.
    """
    named = sorted(pairs, key=pairs.__getitem__)
    curves: dict[str, Curve] = {}
    for variant, of_pairs in gains.items():
        found = [(pairs[pair], of_pairs[pair]) for pair in named if pair in of_pairs]
        curves[variant] = np.array([x for x, _ in found]), np.array([y for _, y in found])
    if not any(len(x) for x, _ in curves.values()):
        return None

    def draw(axes: Axes, paint: Paint) -> None:
        middle, half = _range(list(pairs.values()))
        axes.set_xlim(middle - half, middle + half)
        axes.axhline(0, color=paint(MUTED), linewidth=1)
        draw_lines(axes, paint, curves)
        places = spread([pairs[pair] for pair in named], 2 * half * _NARROW)
        for pair, place in zip(named, places, strict=True):
            axes.axvline(pairs[pair], color=paint(MUTED), linewidth=0.6, linestyle=(0, (1, 3)), zorder=0)
            axes.annotate(
                pair,
                (place, 1.0),
                (0, 3),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                rotation=90 if len(named) > 1 else 0,
                ha="center",
                va="bottom",
                color=paint(MUTED),
                fontsize=_PAIR_POINTS,
            )
        axes.set(xlabel="correlation of the labels", ylabel=f"mean gain in {metric.upper()} over {baseline}")

    note = "of each pair of tasks: the mean of both gains, over seeds"
    return Chart(
        f"gain-correlation-{metric}", f"MTL gain in {metric.upper()} by label correlation", note, draw, (520, 340)
    )


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Return middle and half the width of an axis that holds them, with room at its ends."""
    low, high = min(values), max(values)
    return (low + high) / 2, max(0.6 * (high - low), 0.05)
