"""`compare.json`: results of the finished runs of a comparison, per variant and task, in numbers and sentences.

The rule (`RULE`): each task's gain is judged by its 95 % intervals, over seeds and over the rows of the test split. It
is *better* if all its intervals lie above 0, *worse* if all lie below 0, else *noise*; without any interval it is *not
judged*. A variant is then

    better        every task better                             beats the baseline on all tasks
    seesaw        one task better, another worse                one task gains at the cost of another
    negative      some task worse, none better                  negative transfer; a seesaw is one too
    some          some task better, none worse
    noise         no task better or worse
    not judged    a task has no interval, and the others show neither seesaw nor negative transfer

    {"format": 1, "name", "data", "dataset_fingerprint", "match", "reference", "baseline", "seeds", "missing",
     "remarks", "tasks": {task: {"kind", "metric", "reachable"}}, "label_correlations": [{"tasks", "rows", "value"}],
     "variants": {name: {"model", "sizes", "cost", "seeds", "failed", "gates", "conflict", "sharing",
         "tasks": {task: {"values": {seed: value}, "mean", "sd", "gap", "gain"}}}},
     "pairs": {"a over b": {task: gain}}, "verdict"}

`reachable` is the metric of the probabilities from which labels were drawn, known for synthetic data alone, and `gap`
the distance of the mean from it. `gain` is None for the baseline and if no seed has both values, else {"values",
"mean", "sd", "seed_interval", "row_interval"}. `gates` are the expert weights of the first finished seed on the test
split. task_relations.py describes `conflict`, `sharing` and `label_correlations`.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ple_rec.analysis.compare.equal_cost import sizes_of
from ple_rec.analysis.compare.gain import METRICS, Interval, gain, gain_entry, mean_sd
from ple_rec.analysis.compare.matrix import Matrix, Variant
from ple_rec.analysis.compare.resampling import Floats, groups_of, resampled_metrics, row_interval
from ple_rec.analysis.compare.runs import RunOutcomes
from ple_rec.analysis.compare.task_relations import conflict_of, correlations_of, sharing_of
from ple_rec.analysis.test_rows import read_rows
from ple_rec.analysis.utilisation import recorded_gates, utilisation
from ple_rec.config.schema import Task
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.runs.metrics import split_tasks
from ple_rec.runs.read import RunFiles
from ple_rec.text.json_values import number

RULE = (
    "A gain is the metric's difference to {baseline} at the same seed, positive where better (AUC up, MSE down). It "
    "counts as better, or worse, only where every 95 % interval there is, over seeds (Student's t) and over the test "
    "split's groups (bootstrap), lies above, or below, 0; else it is noise. Beats {baseline}: every task better. "
    "Negative transfer: some task worse. Seesaw: one task better and another worse."
)
# The paper claims that each of these models is better than the ones beside it.
_OVER = {"ple": ("mmoe", "ml_mmoe"), "cgc": ("mmoe",)}

Document = Mapping[str, Any]


def pairs_of(document: Document) -> list[tuple[str, str]]:
    """Return the pairs of variants of which the paper claims that the first is better than the second."""
    models = {name: variant["model"] for name, variant in document["variants"].items()}
    return [(a, b) for a in models for b in models if models[b] in _OVER.get(models[a], ())]


def pair_key(a: str, b: str) -> str:
    """Return the key of a pair of variants in `pairs`."""
    return f"{a} over {b}"


def verdict_of(document: Document) -> dict[str, Any]:
    """Return the verdict on every variant and pair.

    Args:
        document: Content of `compare.json` without `verdict`. Its `pairs` hold the gain of every task by `pair_key`; a
            pair that is missing is computed from the seeds' values, without row intervals.

    Returns:
        `{"rule", "variants": {name: judgement}, "pairs": {key: judgement}, "sentences": [..]}`; a judgement is
        `{"verdict": one of the words above, "tasks": {task: "better" | "worse" | "noise" | "not judged"}, "beats":
        bool, "negative_transfer": [tasks], "seesaw": bool, "sentence"}`. The baseline is not among the variants.
    """
    baseline, metrics = document["baseline"], {task: entry["metric"] for task, entry in document["tasks"].items()}
    variants = {
        name: _judgement(
            name, baseline, {task: variant["tasks"].get(task, {}).get("gain") for task in metrics}, metrics
        )
        for name, variant in document["variants"].items()
        if name != baseline
    }
    for name, variant in document["variants"].items():
        if variant.get("failed") and name in variants:
            seeds = ", ".join(variant["failed"])
            variants[name]["sentence"] += f" Failed and left out: seed {seeds}."
    pairs = {}
    for a, b in pairs_of(document):
        gains = document.get("pairs", {}).get(pair_key(a, b)) or _pair_gains(document, a, b)
        # A task without a gain cannot be judged, but it is listed.
        entries = {task: gains.get(task) for task in metrics}
        pairs[pair_key(a, b)] = _judgement(a, b, entries, metrics)
    sentences = [judgement["sentence"] for judgement in (*variants.values(), *pairs.values())]
    number = sum(word != "not judged" for judgement in variants.values() for word in judgement["tasks"].values())
    if number:
        sentences.append(
            f"{number} gains over {baseline} were judged, each by itself at 95 %: were there no differences at all, up "
            f"to about {number / 20:.1f} of them would still pass for one."
        )
    if failed := document["variants"].get(baseline, {}).get("failed"):
        sentences.append(f"{baseline}, the baseline, failed with seed {', '.join(failed)}: no gain has those seeds.")
    return {"rule": RULE.format(baseline=baseline), "variants": variants, "pairs": pairs, "sentences": sentences}


def _pair_gains(document: Document, a: str, b: str) -> dict[str, Any]:
    tasks = [document["variants"][name]["tasks"] for name in (a, b)]
    return {
        task: gain_entry(entry["metric"], *(values.get(task, {}).get("values", {}) for values in tasks))
        for task, entry in document["tasks"].items()
    }


def judged_task(entry: Mapping[str, Any] | None) -> str:
    """Return "better", "worse", "noise" or "not judged", by all intervals of a gain."""
    intervals = [entry[key] for key in ("seed_interval", "row_interval") if entry and entry.get(key) is not None]
    if not intervals:
        return "not judged"
    if all(low > 0 for low, _ in intervals):
        return "better"
    return "worse" if all(high < 0 for _, high in intervals) else "noise"


def _judgement(
    name: str, other: str, entries: Mapping[str, Mapping[str, Any] | None], metrics: Mapping[str, str]
) -> dict[str, Any]:
    tasks = {task: judged_task(entry) for task, entry in entries.items()}
    words = set(tasks.values())
    verdict = _word(words)
    statement = {
        "better": f"{name} beats {other} on all tasks",
        "seesaw": f"{name} shows the seesaw against {other}: better on {_named(tasks, 'better')}, worse on "
        f"{_named(tasks, 'worse')}",
        "negative": f"{name} shows negative transfer against {other}: worse on {_named(tasks, 'worse')}, better on "
        "none",
        "some": f"{name} is better than {other} on {_named(tasks, 'better')}, and within noise on "
        f"{_named(tasks, 'noise')}",
        "noise": f"{name} is within noise of {other} on all tasks",
        "not judged": f"{name} cannot be judged against {other} on {_named(tasks, 'not judged')}",
    }[verdict]
    numbers = "; ".join(_numbers(task, entries[task], metrics[task]) for task in tasks)
    return {
        "verdict": verdict,
        "tasks": tasks,
        "beats": verdict == "better",
        "negative_transfer": [task for task, word in tasks.items() if word == "worse"],
        "seesaw": verdict == "seesaw",
        "sentence": f"{statement}: {numbers}.",
    }


def _word(words: set[str]) -> str:
    if "worse" in words:
        return "seesaw" if "better" in words else "negative"
    if "not judged" in words or not words:
        return "not judged"
    if words == {"better"}:
        return "better"
    return "some" if "better" in words else "noise"


def _named(tasks: Mapping[str, str], word: str) -> str:
    names = [task for task, judgement in tasks.items() if judgement == word]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _numbers(task: str, entry: Mapping[str, Any] | None, metric: str) -> str:
    """Return `income +0.0021 AUC (+0.001 to +0.0032 over 10 seeds, +0.0004 to +0.0038 over test rows)`."""
    if not entry or entry["mean"] is None:
        return f"{task} no {metric.upper()} gain (no seed has the metric on both sides)"
    seeds = len(entry["values"])
    over = [
        _range(entry["seed_interval"], f"over {seeds} seeds") if entry["seed_interval"] else "one seed: no interval",
        *([_range(entry["row_interval"], "over test rows")] if entry.get("row_interval") else []),
    ]
    return f"{task} {_signed(entry['mean'])} {metric.upper()} ({', '.join(over)})"


def _range(interval: Sequence[float], over: str) -> str:
    return f"{_signed(interval[0])} to {_signed(interval[1])} {over}"


def _signed(value: float) -> str:
    return f"{value:+.2g}"


_FORMAT = 1
# Content of `metrics.json` by seed.
Metrics = Mapping[int, Mapping[str, Any]]


def results_of(matrix: Matrix, outcomes: RunOutcomes, root: Path) -> dict[str, Any]:
    """Return the content of compare.json.

    Args:
        matrix: The comparison.
        outcomes: Outcomes of its runs.
        root: Directory of the comparison.
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
        "missing": outcomes.missing,
        "remarks": list(matrix.remarks),
        "tasks": _tasks(matrix),
        "label_correlations": correlations_of(
            (root / name / f"seed-{seed}" for name, seeds in outcomes.metrics.items() for seed in seeds),
            [task.name for task in matrix.tasks],
        ),
        "variants": {
            name: _variant(matrix, variant, outcomes, root / name, resampled)
            for name, variant in matrix.variants.items()
        },
    }
    _add_gaps(results)
    results["pairs"] = {pair_key(a, b): _gains(matrix, outcomes, a, b, resampled) for a, b in pairs_of(results)}
    return results | {"verdict": verdict_of(results)}


def _tasks(matrix: Matrix) -> dict[str, dict[str, Any]]:
    """Return kind and metric of each task, and the best reachable value on the test split if it is known."""
    best = DatasetDirectory(matrix.variants[matrix.baseline].config.data.path).reachable("test")
    return {
        task.name: {
            "kind": task.kind,
            "metric": METRICS[task.kind],
            "reachable": best.get(task.name, {}).get(METRICS[task.kind]),
        }
        for task in matrix.tasks
    }


class _Resampled:
    """Metrics of runs on the resamples of the test split, each computed once.

    Args:
        matrix: The comparison.
        root: Directory of the comparison.
    """

    def __init__(self, matrix: Matrix, root: Path) -> None:
        self._names = [task.name for task in matrix.tasks]
        self._metrics = [METRICS[task.kind] for task in matrix.tasks]
        self._root = root
        self._cache: dict[tuple[str, int], tuple[Floats, list[int]] | None] = {}

    def interval(self, task: str, variant: str, baseline: str, seeds: Iterable[int]) -> Interval | None:
        """Return the interval over test rows of a variant's gain over another on a task; None if a run has no rows."""
        pairs = [(self._of(variant, seed), self._of(baseline, seed)) for seed in seeds]
        both = [(run, base) for run, base in pairs if run is not None and base is not None]
        if not both or len(both) < len(pairs):
            return None
        k = self._names.index(task)
        runs, baselines = [metrics[k] for (metrics, _), _ in both], [metrics[k] for _, (metrics, _) in both]
        (_, groups), _ = both[0]
        return row_interval(self._metrics[k], runs, baselines, groups[k])

    def _of(self, variant: str, seed: int) -> tuple[Floats, list[int]] | None:
        """Return metrics (K, R) of a run, and the number of groups of each task."""
        if (variant, seed) not in self._cache:
            self._cache[variant, seed] = self._read(self._root / variant / f"seed-{seed}")
        return self._cache[variant, seed]

    def _read(self, run: Path) -> tuple[Floats, list[int]] | None:
        rows = read_rows(run, self._names)
        if rows is None:
            return None
        return resampled_metrics(rows, self._metrics), [groups_of(rows, k) for k in range(len(self._names))]


def _variant(
    matrix: Matrix, variant: Variant, outcomes: RunOutcomes, own: Path, resampled: _Resampled
) -> dict[str, Any]:
    runs: Metrics = outcomes.metrics.get(variant.name, {})
    names = [task.name for task in matrix.tasks]
    first = next(iter(runs.values()), {})
    alone = variant.name == matrix.baseline
    gains = {} if alone else _gains(matrix, outcomes, variant.name, matrix.baseline, resampled)
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
        "failed": {str(seed): message for seed, message in outcomes.failed.get(variant.name, {}).items()},
        "gates": utilisation(recorded_gates(first), names).record() if first else None,
        "conflict": conflict_of([own / f"seed-{seed}" for seed in runs]),
        "sharing": sharing_of(runs.values(), names),
        "tasks": tasks,
    }


def _add_gaps(results: dict[str, Any]) -> None:
    """Add `gap`, the distance of each variant's mean from the best reachable metric; None if that is not known."""
    for variant in results["variants"].values():
        for task, entry in variant["tasks"].items():
            metric, best = (results["tasks"][task][key] for key in ("metric", "reachable"))
            entry["gap"] = None if best is None else gain(metric, best, entry["mean"])


def _gains(
    matrix: Matrix, outcomes: RunOutcomes, name: str, other: str, resampled: _Resampled
) -> dict[str, dict[str, Any]]:
    """Return the gains of a variant over another, for the tasks on which a seed has both values."""
    gains = {}
    for task in matrix.tasks:
        values, others = (_values(task, outcomes.metrics.get(which, {})) for which in (name, other))
        if both := [seed for seed in values if seed in others]:
            over_rows = resampled.interval(task.name, name, other, map(int, both))
            gains[task.name] = gain_entry(METRICS[task.kind], values, others, over_rows)
    return gains


def _values(task: Task, runs: Metrics) -> dict[str, float]:
    """Return the task's metric by seed, whose keys are text as in JSON."""
    metric = METRICS[task.kind]
    by_seed = {seed: split_tasks(metrics, "test").get(task.name, {}) for seed, metrics in runs.items()}
    numbers = {seed: number(values.get(metric)) for seed, values in by_seed.items()}
    return {str(seed): value for seed, value in numbers.items() if value is not None}


def _rate(runs: Metrics) -> float | None:
    """Return the mean samples per second over seeds."""
    rates = [rate for metrics in runs.values() if (rate := number(metrics.get("samples_per_second"))) is not None]
    return statistics.fmean(rates) if rates else None


def _peak(own: Path, runs: Metrics) -> int | None:
    """Return the largest resident memory of any run, from its log."""
    peaks = []
    for seed in runs:
        series = RunFiles(own / f"seed-{seed}").log.series("train", "peak_bytes")
        peaks += [float(value) for value in series.values if np.isfinite(value)]
    return int(max(peaks)) if peaks else None
