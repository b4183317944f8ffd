"""The charts of compare.json, by the section of the page that they stand in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from ple_rec.errors import UserError
from ple_rec.reports.compare.figures import curve_chart, gain_chart, seesaw_chart
from ple_rec.reports.compare.relations import ON, conflict_chart, correlation_chart
from ple_rec.reports.figures import Chart
from ple_rec.reports.lines import Curve
from ple_rec.runs.read import read_run

Results = Mapping[str, Any]

_PAIRS = 6  # of tasks at most that get charts of their own


def charts_of(results: Results, root: Path) -> dict[str, list[Chart]]:
    """Return all of them.

    Args:
        results: Content of compare.json.
        root: Directory of the comparison, whose runs have the learning curves.
    """
    charts = {
        "gains": _gains(results),
        "seesaw": _seesaws(results),
        "curves": _curves(results, root),
        "conflict": _conflicts(results),
        "correlation": _correlations(results),
    }
    return {section: [chart for chart in found if chart is not None] for section, found in charts.items()}


def _gains(results: Results) -> list[Chart | None]:
    charts = []
    for task, facts in results["tasks"].items():
        found = {name: variant["tasks"].get(task) for name, variant in results["variants"].items()}
        gains = {name: values["gain"] for name, values in found.items() if values is not None}
        charts.append(gain_chart(task, facts["metric"], results["baseline"], gains))
    return charts


def _gain(variant: Mapping[str, Any], task: str) -> float | None:
    found = variant["tasks"].get(task)
    return None if found is None or found["gain"] is None else float(found["gain"]["mean"])


def _both_gains(results: Results, first: str, second: str) -> dict[str, tuple[float, float]]:
    """Return the gains of the variants that have both."""
    gains = {}
    for name, variant in results["variants"].items():
        x, y = _gain(variant, first), _gain(variant, second)
        if x is not None and y is not None:
            gains[name] = (x, y)
    return gains


def _seesaws(results: Results) -> list[Chart | None]:
    pairs = list(combinations(results["tasks"], 2))[:_PAIRS]
    return [seesaw_chart(a, b, results["baseline"], _both_gains(results, a, b)) for a, b in pairs]


def _curves(results: Results, root: Path) -> list[Chart | None]:
    charts = []
    for task, facts in results["tasks"].items():
        curves = {}
        for name, variant in results["variants"].items():
            runs = [root / name / f"seed-{seed}" for seed in variant["seeds"]]
            curves[name] = _mean_curve(runs, task, facts["metric"])
        charts.append(curve_chart(task, facts["metric"], curves))
    return charts


def _mean_curve(runs: list[Path], task: str, metric: str) -> Curve:
    """Return the mean over seeds at the steps that all of them were evaluated at."""
    series = []
    for run in runs:
        try:
            series.append(read_run(run).log.series("valid", "tasks", task, metric))
        except UserError:  # its files are gone; its metrics were there
            continue
    if not series:
        return np.empty(0), np.empty(0)
    steps = series[0].steps
    for other in series[1:]:
        steps = np.intersect1d(steps, other.steps)
    values = np.array([[found.at(step) for found in series] for step in steps.tolist()], dtype=np.float64)
    values = values.reshape(len(steps), len(series))  # of no step, too
    kept = np.isfinite(values).all(axis=1)  # what was undefined is NaN
    return steps[kept], values[kept].mean(axis=1)


def _conflicts(results: Results) -> list[Chart | None]:
    """Draw, for each pair of tasks, a chart for the inputs and one for the shared weights."""
    charts = []
    for tasks in list(combinations(results["tasks"], 2))[:_PAIRS]:
        for kind in ON:
            curves, absent = {}, []
            for name, variant in results["variants"].items():
                found = next((pair for pair in variant["conflict"] if set(pair["tasks"]) == set(tasks)), None)
                curves[name] = _known([], []) if found is None else _known(found["step"], found[kind])
                if found is not None and not len(curves[name][0]):
                    absent.append(name)
            charts.append(conflict_chart(kind, tasks, curves, absent))
    return charts


def _known(steps: Sequence[int], values: Sequence[float | None]) -> Curve:
    found = [(step, value) for step, value in zip(steps, values, strict=True) if value is not None]
    return np.array([step for step, _ in found], dtype=float), np.array([value for _, value in found], dtype=float)


def _correlations(results: Results) -> list[Chart | None]:
    """Draw one for each metric: of the pairs of tasks that have it both."""
    charts = []
    for metric in dict.fromkeys(facts["metric"] for facts in results["tasks"].values()):
        pairs: dict[str, float] = {}
        gains: dict[str, dict[str, float]] = {name: {} for name in results["variants"]}
        for found in results["label_correlations"] or ():
            first, second = found["tasks"]
            if found["value"] is None or any(results["tasks"][task]["metric"] != metric for task in found["tasks"]):
                continue
            pairs[pair := f"{first} / {second}"] = found["value"]
            for name, both in _both_gains(results, first, second).items():
                gains[name][pair] = sum(both) / 2
        charts.append(correlation_chart(metric, results["baseline"], pairs, gains))
    return charts
