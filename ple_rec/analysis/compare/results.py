"""`compare.json`: what the finished runs of a comparison tell, per variant and task.

    {"format": 1, "name", "data", "dataset_fingerprint", "match", "reference", "baseline", "seeds", "missing",
     "remarks", "tasks": {task: {"kind", "metric", "reachable"}}, "label_correlations": [{"tasks", "rows", "value"}],
     "variants": {name: {"model", "sizes", "cost", "seeds", "failed", "gates", "conflict", "sharing",
         "tasks": {task: {"values": {seed: value}, "mean", "sd", "gap", "gain"}}}},
     "pairs": {"a over b": {task: gain}}, "verdict"}

`reachable` is the metric of the probabilities that the labels were drawn by, None but for synthetic data, and `gap`
what the mean is short of it. `gain` is None for the baseline and where no seed has both, else {"values", "mean", "sd",
"seed_interval", "row_interval"}; `gates` are the expert weights on the test split, of the first seed that finished.
What `conflict`, `sharing` and `label_correlations` hold, task_relations.py says.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ple_rec.analysis.compare.cost import sizes_of
from ple_rec.analysis.compare.gain import METRICS, gain, gain_entry, mean_sd
from ple_rec.analysis.compare.intervals import Interval
from ple_rec.analysis.compare.matrix import Matrix, Variant
from ple_rec.analysis.compare.resampling import Floats, groups_of, resampled_metrics, row_interval
from ple_rec.analysis.compare.runs import Done
from ple_rec.analysis.compare.task_relations import conflict_of, correlations_of, sharing_of
from ple_rec.analysis.compare.verdict import pair_key, pairs_of, verdict_of
from ple_rec.analysis.test_rows import read_rows
from ple_rec.analysis.utilisation import recorded_gates, utilisation
from ple_rec.config.schema import Task
from ple_rec.data.dataset import Dataset
from ple_rec.errors import UserError
from ple_rec.runs.read import read_run
from ple_rec.runs.results import number, split_tasks

_FORMAT = 1
Metrics = Mapping[int, Mapping[str, Any]]  # `metrics.json` by seed


def results_of(matrix: Matrix, done: Done, root: Path) -> dict[str, Any]:
    """What compare.json holds.

    Args:
        matrix: The comparison.
        done: Its finished and failed runs.
        root: Its directory.
    """
    resampled = _Resampled(matrix, root)
    results: dict[str, Any] = {
        "format": _FORMAT,
        "name": matrix.name,
        "data": matrix.variants[matrix.baseline].config.data.path,
        "dataset_fingerprint": matrix.dataset,
        "match": matrix.match,
        "reference": matrix.reference,
        "baseline": matrix.baseline,
        "seeds": list(matrix.seeds),
        "missing": done.missing,
        "remarks": list(matrix.remarks),
        "tasks": _tasks(matrix),
        "label_correlations": correlations_of(
            (root / name / f"seed-{seed}" for name, seeds in done.metrics.items() for seed in seeds),
            [task.name for task in matrix.tasks],
        ),
        "variants": {
            name: _variant(matrix, variant, done, root / name, resampled) for name, variant in matrix.variants.items()
        },
    }
    _add_gaps(results)
    results["pairs"] = {pair_key(a, b): _gains(matrix, done, a, b, resampled) for a, b in pairs_of(results)}
    return results | {"verdict": verdict_of(results)}


def _tasks(matrix: Matrix) -> dict[str, dict[str, Any]]:
    """What is measured of each task, and the best that there is to reach on the test split where that is known."""
    best = Dataset(matrix.variants[matrix.baseline].config.data.path).reachable("test")
    return {
        task.name: {
            "kind": task.kind,
            "metric": METRICS[task.kind],
            "reachable": best.get(task.name, {}).get(METRICS[task.kind]),
        }
        for task in matrix.tasks
    }


class _Resampled:
    """The metrics of runs on the resamples of the test split, each computed once.

    Args:
        matrix: The comparison.
        root: Its directory.
    """

    def __init__(self, matrix: Matrix, root: Path) -> None:
        self._names = [task.name for task in matrix.tasks]
        self._metrics = [METRICS[task.kind] for task in matrix.tasks]
        self._root = root
        self._found: dict[tuple[str, int], tuple[Floats, list[int]] | None] = {}

    def interval(self, task: str, variant: str, baseline: str, seeds: Iterable[int]) -> Interval | None:
        """Over rows, of what a variant has over another on a task; None where a run has no rows."""
        pairs = [(self._of(variant, seed), self._of(baseline, seed)) for seed in seeds]
        both = [(own, its) for own, its in pairs if own is not None and its is not None]
        if not both or len(both) < len(pairs):
            return None
        k = self._names.index(task)
        own, its = [own[0][k] for own, _ in both], [its[0][k] for _, its in both]
        return row_interval(self._metrics[k], own, its, both[0][0][1][k])

    def _of(self, variant: str, seed: int) -> tuple[Floats, list[int]] | None:
        """Metrics (K, R), and the groups of each task."""
        if (variant, seed) not in self._found:
            self._found[variant, seed] = self._read(self._root / variant / f"seed-{seed}")
        return self._found[variant, seed]

    def _read(self, run: Path) -> tuple[Floats, list[int]] | None:
        rows = read_rows(run, self._names)
        if rows is None:  # damaged: there is no interval
            return None
        return resampled_metrics(rows, self._metrics), [groups_of(rows, k) for k in range(len(self._names))]


def _variant(matrix: Matrix, variant: Variant, done: Done, own: Path, resampled: _Resampled) -> dict[str, Any]:
    runs: Metrics = done.metrics.get(variant.name, {})
    names = [task.name for task in matrix.tasks]
    first = next(iter(runs.values()), {})
    alone = variant.name == matrix.baseline
    gains = {} if alone else _gains(matrix, done, variant.name, matrix.baseline, resampled)
    tasks = {}
    for task in matrix.tasks:
        if values := _values(task, runs):
            summary = {"values": values, **mean_sd(list(values.values()))}
            tasks[task.name] = summary | {"gain": gains.get(task.name)}
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
        "conflict": conflict_of([own / f"seed-{seed}" for seed in runs]),
        "sharing": sharing_of(runs.values(), names),
        "tasks": tasks,
    }


def _add_gaps(results: dict[str, Any]) -> None:
    """What the mean of each variant is short of the best reachable metric, under `gap`; None where it is not known."""
    for variant in results["variants"].values():
        for task, found in variant["tasks"].items():
            metric, best = (results["tasks"][task][key] for key in ("metric", "reachable"))
            found["gap"] = None if best is None else gain(metric, best, found["mean"])


def _gains(matrix: Matrix, done: Done, name: str, other: str, resampled: _Resampled) -> dict[str, dict[str, Any]]:
    """What a variant has over another, of the tasks on which a seed has both."""
    gains = {}
    for task in matrix.tasks:
        values, others = (_values(task, done.metrics.get(which, {})) for which in (name, other))
        if both := [seed for seed in values if seed in others]:
            over_rows = resampled.interval(task.name, name, other, map(int, both))
            gains[task.name] = gain_entry(METRICS[task.kind], values, others, over_rows)
    return gains


def _values(task: Task, runs: Metrics) -> dict[str, float]:
    """The task's metric by seed, as JSON has it."""
    metric = METRICS[task.kind]
    tested = {seed: split_tasks(metrics, "test").get(task.name, {}) for seed, metrics in runs.items()}
    found = {seed: number(values.get(metric)) for seed, values in tested.items()}
    return {str(seed): value for seed, value in found.items() if value is not None}


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
