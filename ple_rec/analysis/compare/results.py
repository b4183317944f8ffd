"""`compare.json`: what the finished runs of a comparison tell, per variant and task.

    {"format": 1, "name", "data", "dataset_fingerprint", "match", "reference", "baseline", "seeds", "missing",
     "remarks", "tasks": {task: {"kind", "metric"}},
     "variants": {name: {"model", "sizes", "cost", "seeds", "failed", "gates",
         "tasks": {task: {"values": {seed: value}, "mean", "sd", "gain"}}}},
     "verdict"}

`gain` is None for the baseline and where no seed has both, else {"values", "mean", "sd", "seed_interval",
"row_interval"}; `gates` are the expert weights on the test split, of the first seed that finished.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ple_rec.analysis.compare.cost import sizes_of
from ple_rec.analysis.compare.gain import METRICS, SIGNS, gains
from ple_rec.analysis.compare.intervals import (
    Floats,
    Interval,
    TaskRows,
    drawn_metrics,
    row_interval,
    seed_interval,
)
from ple_rec.analysis.compare.matrix import Matrix, Variant
from ple_rec.analysis.compare.runs import Done
from ple_rec.analysis.compare.verdict import verdict
from ple_rec.analysis.utilisation import recorded_gates, utilisation
from ple_rec.config.schema import Task
from ple_rec.errors import UserError
from ple_rec.train.report.run_files import read_run
from ple_rec.train.results import number, split_tasks
from ple_rec.train.run_dir import TEST_ROWS

_FORMAT = 1
Metrics = Mapping[int, Mapping[str, Any]]  # `metrics.json` by seed


def results_of(matrix: Matrix, done: Done, root: Path) -> dict[str, Any]:
    """What compare.json holds.

    Args:
        matrix: The comparison.
        done: Its finished and failed runs.
        root: Its directory.
    """
    drawn = _Drawn(root)
    results: dict[str, Any] = {
        "format": _FORMAT,
        "name": matrix.name,
        "data": matrix.variants[matrix.reference].config.data.path,
        "dataset_fingerprint": matrix.dataset,
        "match": matrix.match,
        "reference": matrix.reference,
        "baseline": matrix.baseline,
        "seeds": list(matrix.seeds),
        "missing": done.missing,
        "remarks": list(matrix.remarks),
        "tasks": {task.name: {"kind": task.kind, "metric": METRICS[task.kind]} for task in matrix.tasks},
        "variants": {
            name: _variant(matrix, variant, done, root / name, drawn) for name, variant in matrix.variants.items()
        },
    }
    return results | {"verdict": verdict(results)}


class _Drawn:
    """`drawn_metrics` of runs, each computed once.

    Args:
        root: Directory of the comparison.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._found: dict[tuple[str, int, str], Floats | None] = {}

    def interval(self, task: Task, variant: str, baseline: str, seeds: Iterable[int]) -> Interval | None:
        """Over rows, of the gain of a variant on a task; None where a run has no rows."""
        pairs = [(self._of(variant, seed, task), self._of(baseline, seed, task)) for seed in seeds]
        both = [(own, its) for own, its in pairs if own is not None and its is not None]
        if len(both) < len(pairs):
            return None
        return row_interval([own for own, _ in both], [its for _, its in both], SIGNS[task.kind])

    def _of(self, variant: str, seed: int, task: Task) -> Floats | None:
        key = (variant, seed, task.name)
        if key not in self._found:
            rows = TaskRows.read(self._root / variant / f"seed-{seed}" / TEST_ROWS, task.name, task.kind)
            self._found[key] = None if rows is None else drawn_metrics(rows)
        return self._found[key]


def _variant(matrix: Matrix, variant: Variant, done: Done, own: Path, drawn: _Drawn) -> dict[str, Any]:
    runs: Metrics = done.metrics.get(variant.name, {})
    names = [task.name for task in matrix.tasks]
    first = next(iter(runs.values()), {})
    base: Metrics = {} if variant.name == matrix.baseline else done.metrics.get(matrix.baseline, {})
    tasks = {}
    for task in matrix.tasks:
        if values := _values(task, runs):
            tasks[task.name] = _summary(values) | {"gain": None}
            if paired := gains(task.kind, values, _values(task, base)):
                tasks[task.name]["gain"] = _summary(paired) | {
                    "seed_interval": seed_interval(list(paired.values())),
                    "row_interval": drawn.interval(task, variant.name, matrix.baseline, paired),
                }
    return {
        "model": variant.config.model.variant,
        "sizes": {key: list(sizes) for key, sizes in sizes_of(variant.config).items()},
        "cost": {
            "flops_per_sample": variant.cost.flops_per_sample,
            "dense_parameters": variant.cost.dense_parameters,
            "samples_per_second": _rate(runs),
            "peak_bytes": _peak(own, runs),
        },
        "seeds": list(runs),
        "failed": {str(seed): message for seed, message in done.failed.get(variant.name, {}).items()},
        "gates": utilisation(recorded_gates(first), names).record() if first else None,
        "tasks": tasks,
    }


def _summary(values: Mapping[int, float]) -> dict[str, Any]:
    """Of values by seed."""
    return {
        "values": {str(seed): value for seed, value in values.items()},
        "mean": statistics.fmean(values.values()),
        "sd": statistics.stdev(values.values()) if len(values) > 1 else None,
    }


def _values(task: Task, runs: Metrics) -> dict[int, float]:
    metric = METRICS[task.kind]
    tested = {seed: split_tasks(metrics, "test").get(task.name, {}) for seed, metrics in runs.items()}
    found = {seed: number(values.get(metric)) for seed, values in tested.items()}
    return {seed: value for seed, value in found.items() if value is not None}


def _rate(runs: Metrics) -> float | None:
    """Mean over seeds."""
    rates = [rate for metrics in runs.values() if (rate := number(metrics.get("samples_per_second"))) is not None]
    return statistics.fmean(rates) if rates else None


def _peak(own: Path, runs: Metrics) -> int | None:
    """The most resident memory of any run, as its log has it."""
    peaks = []
    for seed in runs:
        try:
            series = read_run(own / f"seed-{seed}").log.series("train", "peak_bytes")
        except UserError:
            continue
        peaks += [float(value) for value in series.values if np.isfinite(value)]
    return int(max(peaks)) if peaks else None
