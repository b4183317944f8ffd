"""The figure of a tuning: the metric of every trial, and the best so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ple_rec.config.metrics import is_higher_better
from ple_rec.reports.figures import Chart
from ple_rec.reports.lines import Curve, Paint, draw_lines, looks

_WORST = 0.2  # share of the trials that need not lie within the axis

Results = Mapping[str, Any]


def tuning_charts(results: Results) -> list[Chart]:
    """Draw the metric of every trial and the best so far, a line a variant; none where nothing was tuned."""
    if "tune" not in results:
        return []
    metric = results["tune"]["metric"]
    higher = is_higher_better(metric)
    trials = {name: variant["trials"]["values"] for name, variant in results["variants"].items()}
    every = [value for values in trials.values() for value in values if value is not None]
    if not every:
        return []

    def draw(axes: Axes, paint: Paint) -> None:
        curves: dict[str, Curve] = {}
        shown = [float(np.quantile(every, _WORST if higher else 1 - _WORST))]
        for (name, values), look in zip(trials.items(), looks(), strict=False):
            known = [np.nan if value is None else value for value in values]
            axes.plot(range(len(values)), known, ".", color=paint(look.colour), alpha=0.4)
            best = best_so_far(values, higher=higher)
            curves[name] = np.array([n for n, _ in best], float), np.array([value for _, value in best])
            shown += [value for _, value in best]
        room = 0.05 * max(max(shown) - min(shown), 1e-5)
        axes.set_ylim(min(shown) - room, max(shown) + room)  # a trial that all but diverged would leave no room
        draw_lines(axes, paint, curves)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="trial, 0 as written", ylabel=f"{metric} on the validation split")

    note = f"points: trials, of which up to {_WORST:.0%} may lie beyond the axis; lines: the best so far"
    return [Chart("tuning", "Trials", note, draw, (460, 280))]


def best_so_far(values: Sequence[float | None], *, higher: bool) -> list[tuple[int, float]]:
    """Return number and best metric up to it, from the first trial that finished to the last of all."""
    found: list[tuple[int, float]] = []
    for number, value in enumerate(values):
        if value is not None:
            better = max if higher else min
            found.append((number, better(value, found[-1][1]) if found else value))
        elif found:
            found.append((number, found[-1][1]))
    return found
