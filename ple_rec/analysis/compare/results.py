"""`compare.json`: results of the finished runs of a comparison, per variant and task, in numbers and sentences.

A variant is one model configuration. The gain of a variant on a task is the difference of its metric to that of the
baseline at the same seed (gain.py).

The rule (`RULE`): each task's gain is judged by its 95 % intervals, over seeds and over the rows of the test split. The
gain is *better* if all its intervals lie above 0, *worse* if all lie below 0, else *noise*. A gain without any interval
is *not judged*. The verdict on a variant follows from its tasks:

    better        every task is better: the variant beats the baseline
    seesaw        one task is better, another worse: one task gains at the cost of another
    negative      some task is worse, none better: negative transfer (a seesaw has negative transfer, too)
    some          some task is better, none worse, none not judged, and not all are better
    noise         every task is noise
    not judged    some task is not judged, and none is worse

`compare.json` is:

    {"format": 1, "name", "data", "dataset_fingerprint", "match", "reference", "baseline", "seeds", "missing",
     "remarks", "tasks": {task: {"kind", "metric", "reachable"}}, "label_correlations": [{"tasks", "rows", "value"}],
     "variants": {name: {"model", "sizes", "cost", "seeds", "failed", "gates", "conflict", "sharing",
         "tasks": {task: {"values": {seed: value}, "mean", "sd", "gap", "gain"}}}},
     "pairs": {"a over b": {task: gain}}, "verdict"}

Datasets with subgroups also have "gauc_by": {metric: name}, and each variant "gauc": {task: {metric: {"values", "mean",
"sd", "gain"}}}, where the metrics are the keys of GAUC by group and by subgroup; grouped.py describes them.

`reachable` is the metric of the probabilities from which the labels were drawn, which is known only for synthetic data.
`gap` is the distance of the mean from `reachable`. `gain` is None for the baseline, and if the variant and the baseline
have values for no common seed; else it is {"values", "mean", "sd", "seed_interval", "row_interval"}. `gates` are the
expert weights of the first finished seed on the test split. `missing` is the number of runs that have neither finished
nor failed, and `pairs` has the pairs about which the PLE paper makes a claim. task_relations.py describes `conflict`,
`sharing` and `label_correlations`.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ple_rec.analysis.compare.equal_cost import layer_sizes
from ple_rec.analysis.compare.gain import METRICS, gain, gain_entry, mean_sd
from ple_rec.analysis.compare.grouped import disagreements, find_gauc_names, judge_gauc
from ple_rec.analysis.compare.matrix import Matrix, Variant
from ple_rec.analysis.compare.resampling import ResampledMetrics
from ple_rec.analysis.compare.runs import RunOutcomes
from ple_rec.analysis.compare.task_relations import average_conflict, average_sharing, compute_label_correlations
from ple_rec.analysis.utilisation import compute_utilisation, read_gate_levels
from ple_rec.config.metrics import GAUCS
from ple_rec.config.schema import Task
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.runs.metrics import split_tasks
from ple_rec.runs.read import RunFiles
from ple_rec.text.json_values import as_number

RULE = (
    "A gain is the metric's difference to {baseline} at the same seed, positive where better (AUC up, MSE down). It "
    "counts as better, or worse, only where every 95 % interval there is, over seeds (Student's t) and over the test "
    "split's groups (bootstrap), lies above, or below, 0; else it is noise. Beats {baseline}: every task better. "
    "Negative transfer: some task worse. Seesaw: one task better and another worse."
)
# The PLE paper (Tang et al., RecSys 2020) claims that the model in the key is better than each model in the value.
_CLAIMED_WORSE = {"ple": ("mmoe", "ml_mmoe"), "cgc": ("mmoe",)}

# Content of compare.json.
Document = Mapping[str, Any]


def claimed_pairs(document: Document) -> list[tuple[str, str]]:
    """Return the pairs of variants of which the PLE paper claims that the first is better than the second."""
    models = {name: variant["model"] for name, variant in document["variants"].items()}
    return [(a, b) for a in models for b in models if models[b] in _CLAIMED_WORSE.get(models[a], ())]


def pair_key(a: str, b: str) -> str:
    """Return the key of a pair of variants in the object `pairs` of compare.json."""
    return f"{a} over {b}"


def judge_comparison(document: Document) -> dict[str, Any]:
    """Return the verdict on every variant and pair.

    Args:
        document: Content of `compare.json` without `verdict`. Its `pairs` hold the gain of every task by `pair_key`.
            The gains of a missing pair are computed from the values of the seeds, without intervals over rows.

    Returns:
        `{"rule", "variants": {name: judgement}, "pairs": {key: judgement}, "sentences": [..]}`. A judgement is
        `{"verdict", "tasks": {task: "better" | "worse" | "noise" | "not judged"}, "beats": bool, "negative_transfer":
        [tasks], "seesaw": bool, "sentence"}`; the docstring of the module lists the verdicts. The baseline is not among
        the variants. With subgroups, that of a variant also has "gauc": {task: {metric: verdict}}.
    """
    baseline, metrics = document["baseline"], {task: entry["metric"] for task, entry in document["tasks"].items()}
    variants = {
        name: _judge_variant(
            name, baseline, {task: variant["tasks"].get(task, {}).get("gain") for task in metrics}, metrics
        )
        for name, variant in document["variants"].items()
        if name != baseline
    }
    about_gauc = []
    for name, variant in document["variants"].items():
        if variant.get("failed") and name in variants:
            seeds = ", ".join(variant["failed"])
            variants[name]["sentence"] += f" Failed and left out: seed {seeds}."
        if document.get("gauc_by") and name in variants:
            variants[name]["gauc"] = judge_gauc(variant, judge_task)
            about_gauc += disagreements(name, baseline, variant, variants[name]["gauc"], document["gauc_by"])
    pairs = {}
    for a, b in claimed_pairs(document):
        gains = document.get("pairs", {}).get(pair_key(a, b)) or _pair_gains(document, a, b)
        # A task without a gain is listed as "not judged".
        entries = {task: gains.get(task) for task in metrics}
        pairs[pair_key(a, b)] = _judge_variant(a, b, entries, metrics)
    sentences = [*(judgement["sentence"] for judgement in (*variants.values(), *pairs.values())), *about_gauc]
    number = sum(verdict != "not judged" for judged in variants.values() for verdict in judged["tasks"].values())
    if number:
        sentences.append(
            f"{number} gains over {baseline} were judged, each by itself at 95 %: if there were no differences at all, "
            f"up to about {number / 20:.1f} of them would still look like one."
        )
    if failed := document["variants"].get(baseline, {}).get("failed"):
        sentences.append(
            f"{baseline}, the baseline, failed with seed {', '.join(failed)}: gains leave these seeds out."
        )
    return {"rule": RULE.format(baseline=baseline), "variants": variants, "pairs": pairs, "sentences": sentences}


def _pair_gains(document: Document, a: str, b: str) -> dict[str, Any]:
    tasks = [document["variants"][name]["tasks"] for name in (a, b)]
    return {
        task: gain_entry(entry["metric"], *(values.get(task, {}).get("values", {}) for values in tasks))
        for task, entry in document["tasks"].items()
    }


def judge_task(entry: Mapping[str, Any] | None) -> str:
    """Return the verdict on a gain by all of its intervals: "better", "worse", "noise" or "not judged".

    Args:
        entry: Gain of a task as `compare.json` has it; None if the task has no gain.
    """
    intervals = [entry[key] for key in ("seed_interval", "row_interval") if entry and entry.get(key) is not None]
    if not intervals:
        return "not judged"
    if all(low > 0 for low, _ in intervals):
        return "better"
    return "worse" if all(high < 0 for _, high in intervals) else "noise"


def _judge_variant(
    name: str, other: str, entries: Mapping[str, Mapping[str, Any] | None], metrics: Mapping[str, str]
) -> dict[str, Any]:
    tasks = {task: judge_task(entry) for task, entry in entries.items()}
    task_verdicts = set(tasks.values())
    verdict = _variant_verdict(task_verdicts)
    statement = {
        "better": f"{name} beats {other} on all tasks",
        "seesaw": f"{name} shows the seesaw against {other}: better on {_task_list(tasks, 'better')}, worse on "
        f"{_task_list(tasks, 'worse')}",
        "negative": f"{name} shows negative transfer against {other}: worse on {_task_list(tasks, 'worse')}, better on "
        "none",
        "some": f"{name} is better than {other} on {_task_list(tasks, 'better')}, and within noise on "
        f"{_task_list(tasks, 'noise')}",
        "noise": f"{name} is within noise of {other} on all tasks",
        "not judged": f"{name} cannot be judged against {other} on {_task_list(tasks, 'not judged')}",
    }[verdict]
    numbers = "; ".join(_gain_text(task, entries[task], metrics[task]) for task in tasks)
    return {
        "verdict": verdict,
        "tasks": tasks,
        "beats": verdict == "better",
        "negative_transfer": [task for task, task_verdict in tasks.items() if task_verdict == "worse"],
        "seesaw": verdict == "seesaw",
        "sentence": f"{statement}: {numbers}.",
    }


def _variant_verdict(task_verdicts: set[str]) -> str:
    if "worse" in task_verdicts:
        return "seesaw" if "better" in task_verdicts else "negative"
    if "not judged" in task_verdicts or not task_verdicts:
        return "not judged"
    if task_verdicts == {"better"}:
        return "better"
    return "some" if "better" in task_verdicts else "noise"


def _task_list(tasks: Mapping[str, str], verdict: str) -> str:
    names = [task for task, own_verdict in tasks.items() if own_verdict == verdict]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _gain_text(task: str, entry: Mapping[str, Any] | None, metric: str) -> str:
    """Return a gain as text: `income +0.0021 AUC (+0.001 to +0.0032 over 10 seeds, +0.0004 to +0.0038 over test rows)`.

    Args:
        task: Name of the task.
        entry: Gain of the task as `compare.json` has it; None if there is none.
        metric: "auc" or "mse".
    """
    if not entry or entry["mean"] is None:
        return f"{task} no {metric.upper()} gain (no seed has the metric on both sides)"
    seeds = len(entry["values"])
    intervals = [
        _interval_text(entry["seed_interval"], f"over {seeds} seeds")
        if entry["seed_interval"]
        else "one seed: no interval",
        *([_interval_text(entry["row_interval"], "over test rows")] if entry.get("row_interval") else []),
    ]
    return f"{task} {_signed(entry['mean'])} {metric.upper()} ({', '.join(intervals)})"


def _interval_text(interval: Sequence[float], over: str) -> str:
    return f"{_signed(interval[0])} to {_signed(interval[1])} {over}"


def _signed(value: float) -> str:
    return f"{value:+.2g}"


_FORMAT = 1
# Content of `metrics.json` by seed.
MetricsBySeed = Mapping[int, Mapping[str, Any]]


def compute_results(matrix: Matrix, outcomes: RunOutcomes, root: Path) -> dict[str, Any]:
    """Return the content of compare.json.

    Args:
        matrix: Variants, seeds and tasks of the comparison.
        outcomes: Outcomes of its runs.
        root: Directory of the comparison.
    """
    gauc_names = find_gauc_names([metrics for runs in outcomes.metrics.values() for metrics in runs.values()])
    resampled = ResampledMetrics(matrix, root, with_gauc=bool(gauc_names))
    results: dict[str, Any] = {
        "format": _FORMAT,
        "name": matrix.name,
        "data": matrix.variants[matrix.baseline].config.data.path,
        "dataset_fingerprint": matrix.dataset_fingerprint,
        "match": matrix.match,
        "reference": matrix.reference,
        "baseline": matrix.baseline,
        "seeds": list(matrix.seeds),
        "missing": outcomes.missing,
        "remarks": list(matrix.remarks),
        "tasks": _task_entries(matrix),
        **({"gauc_by": gauc_names} if gauc_names else {}),
        "label_correlations": compute_label_correlations(
            (root / name / f"seed-{seed}" for name, seeds in outcomes.metrics.items() for seed in seeds),
            [task.name for task in matrix.tasks],
        ),
        "variants": {
            name: _variant_entry(matrix, variant, outcomes, root / name, resampled)
            for name, variant in matrix.variants.items()
        },
    }
    _add_gaps(results)
    results["pairs"] = {pair_key(a, b): _gains(matrix, outcomes, a, b, resampled) for a, b in claimed_pairs(results)}
    return results | {"verdict": judge_comparison(results)}


def _task_entries(matrix: Matrix) -> dict[str, dict[str, Any]]:
    """Return the kind and metric of each task, and the best reachable value on the test split if it is known."""
    best = DatasetDirectory(matrix.variants[matrix.baseline].config.data.path).reachable_metrics("test")
    return {
        task.name: {
            "kind": task.kind,
            "metric": METRICS[task.kind],
            "reachable": best.get(task.name, {}).get(METRICS[task.kind]),
        }
        for task in matrix.tasks
    }


def _variant_entry(
    matrix: Matrix, variant: Variant, outcomes: RunOutcomes, variant_folder: Path, resampled: ResampledMetrics
) -> dict[str, Any]:
    runs: MetricsBySeed = outcomes.metrics.get(variant.name, {})
    names = [task.name for task in matrix.tasks]
    first = next(iter(runs.values()), {})
    is_baseline = variant.name == matrix.baseline
    gains = {} if is_baseline else _gains(matrix, outcomes, variant.name, matrix.baseline, resampled)
    tasks = {}
    for task in matrix.tasks:
        if values := _metric_by_seed(task, METRICS[task.kind], runs):
            summary = {"values": values, **mean_sd(list(values.values()))}
            tasks[task.name] = summary | {"gain": gains.get(task.name)}
    grouped = _gauc_entries(matrix, outcomes, variant.name, resampled)
    return {
        "model": variant.config.model.variant,
        "sizes": {key: list(sizes) for key, sizes in layer_sizes(variant.config).items()},
        "cost": {
            "flops_per_sample": variant.cost.flops_per_sample,
            "dense_parameters": variant.cost.dense_parameters,
            "samples_per_second": _mean_samples_per_second(runs),
            "peak_bytes": _peak_bytes(variant_folder, runs),
        },
        "seeds": list(runs),
        "failed": {str(seed): message for seed, message in outcomes.failed.get(variant.name, {}).items()},
        "gates": compute_utilisation(read_gate_levels(first), names).record() if first else None,
        "conflict": average_conflict([variant_folder / f"seed-{seed}" for seed in runs]),
        "sharing": average_sharing(runs.values(), names),
        "tasks": tasks,
        **({"gauc": grouped} if grouped else {}),
    }


def _add_gaps(results: dict[str, Any]) -> None:
    """Add `gap`, the distance of each variant's mean from the best reachable metric; None if that is not known."""
    for variant in results["variants"].values():
        for task, entry in variant["tasks"].items():
            metric, best = (results["tasks"][task][key] for key in ("metric", "reachable"))
            entry["gap"] = None if best is None else gain(metric, best, entry["mean"])


def _gains(
    matrix: Matrix, outcomes: RunOutcomes, name: str, other: str, resampled: ResampledMetrics
) -> dict[str, dict[str, Any]]:
    """Return the gains of a variant over another, for the tasks on which some seed has a value of both variants."""
    gains = {task.name: _gain(task, METRICS[task.kind], outcomes, name, other, resampled) for task in matrix.tasks}
    return {task: entry for task, entry in gains.items() if entry is not None}


def _gain(
    task: Task, metric: str, outcomes: RunOutcomes, name: str, other: str, resampled: ResampledMetrics
) -> dict[str, Any] | None:
    """Return the gain of a variant over another on a task; None if no seed has values of both."""
    values, others = (_metric_by_seed(task, metric, outcomes.metrics.get(which, {})) for which in (name, other))
    both = [int(seed) for seed in values if seed in others]
    return (
        gain_entry(metric, values, others, resampled.interval(task.name, metric, name, other, both)) if both else None
    )


def _gauc_entries(
    matrix: Matrix, outcomes: RunOutcomes, name: str, resampled: ResampledMetrics
) -> dict[str, dict[str, Any]]:
    """Return both GAUCs of a variant and their gains over the baseline, for the tasks that have both."""
    entries = {}
    for task in matrix.tasks:
        values = {metric: _metric_by_seed(task, metric, outcomes.metrics.get(name, {})) for metric in GAUCS}
        if all(values.values()):
            is_baseline = name == matrix.baseline
            entries[task.name] = {
                metric: {
                    "values": by_seed,
                    **mean_sd(list(by_seed.values())),
                    "gain": None if is_baseline else _gain(task, metric, outcomes, name, matrix.baseline, resampled),
                }
                for metric, by_seed in values.items()
            }
    return entries


def _metric_by_seed(task: Task, metric: str, runs: MetricsBySeed) -> dict[str, float]:
    """Return a metric of the task by seed, whose keys are text as in JSON."""
    by_seed = {seed: split_tasks(metrics, "test").get(task.name, {}) for seed, metrics in runs.items()}
    numbers = {seed: as_number(values.get(metric)) for seed, values in by_seed.items()}
    return {str(seed): value for seed, value in numbers.items() if value is not None}


def _mean_samples_per_second(runs: MetricsBySeed) -> float | None:
    """Return the mean samples per second over seeds."""
    rates = [rate for metrics in runs.values() if (rate := as_number(metrics.get("samples_per_second"))) is not None]
    return statistics.fmean(rates) if rates else None


def _peak_bytes(variant_folder: Path, runs: MetricsBySeed) -> int | None:
    """Return the largest memory in bytes that the training logs of the runs have recorded; None without a record."""
    peaks = []
    for seed in runs:
        series = RunFiles(variant_folder / f"seed-{seed}").log.series("train", "peak_bytes")
        peaks += [float(value) for value in series.values if np.isfinite(value)]
    return int(max(peaks)) if peaks else None
