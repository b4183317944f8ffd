"""Relations between the tasks of a comparison: conflict of gradients, use of shared experts, correlation of labels.

Conflict and use of experts are averaged over the finished runs of each variant. A run without such records, such as one
of an earlier version of this package, is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ple_rec.analysis.compare.gain import mean_sd
from ple_rec.analysis.correlation import label_correlations
from ple_rec.analysis.test_rows import read_rows
from ple_rec.analysis.utilisation import compute_utilisation, read_gate_levels
from ple_rec.runs.read import RunFiles
from ple_rec.text.json_values import as_list, as_mapping, as_mappings, as_number

# Keys of the output of `Conflict.record` that hold cosines of gradients.
KINDS = ("parameters", "inputs")

Pair = tuple[str, ...]
# Output of `Conflict.record` by pair of tasks and by step.
ConflictBySteps = dict[Pair, dict[int, Mapping[str, Any]]]


def average_conflict(runs: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the gradient conflict of a variant, averaged over its runs at the steps that all of them have recorded.

    Args:
        runs: Directories of the variant's finished runs.

    Returns:
        For each pair `{"tasks", "seeds": number of runs, "step": [..], "parameters", "parameters_sd", "inputs",
        "inputs_sd"}` with a value for each step. A mean is None if no run has a value, a standard deviation if fewer
        than two have.
    """
    records = [record for run in runs if (record := _read_conflict(run))]
    pairs = dict.fromkeys(pair for record in records for pair in record)
    return [_average_pair(pair, [record[pair] for record in records if pair in record]) for pair in pairs]


def _average_pair(pair: Pair, runs: Sequence[Mapping[int, Mapping[str, Any]]]) -> dict[str, Any]:
    steps = sorted(set.intersection(*(set(run) for run in runs)))
    result: dict[str, Any] = {"tasks": list(pair), "seeds": len(runs), "step": steps}
    for kind in KINDS:
        means = [[as_number(as_mapping(run[step].get(kind)).get("mean")) for run in runs] for step in steps]
        summaries = [mean_sd([value for value in values if value is not None]) for values in means]
        result[kind] = [summary["mean"] for summary in summaries]
        result[f"{kind}_sd"] = [summary["sd"] for summary in summaries]
    return result


def _read_conflict(run: Path) -> ConflictBySteps:
    """Return the conflict at every evaluation during training; if none is recorded, at the analysed checkpoints."""
    records = RunFiles(run).log.splits.get("valid", [])
    by_step = [(int(record["step"]), as_mappings(record.get("gradient_conflict"))) for record in records]
    if not any(pairs for _, pairs in by_step):
        checkpoints = as_mappings(as_mapping(RunFiles(run).analysis.get("gradient_conflict")).get("checkpoints"))
        steps = ((as_number(each.get("step")), as_mappings(each.get("pairs"))) for each in checkpoints)
        by_step = [(int(step), pairs) for step, pairs in steps if step is not None]
    by_tasks: ConflictBySteps = {}
    for step, pairs in by_step:
        for pair in pairs:
            by_tasks.setdefault(tuple(map(str, as_list(pair.get("tasks")))), {})[step] = pair
    return by_tasks


def average_sharing(runs: Iterable[Mapping[str, Any]], tasks: Sequence[str]) -> list[dict[str, Any]]:
    """Return how differently tasks use shared experts (`GateDifference`): mean and sd of the distances over runs.

    Args:
        runs: Content of `metrics.json` of each run.
        tasks: Names of the tasks.

    Returns:
        For each pair and level `{"tasks", "level", "among_shared": {"mean", "sd"}, "shared_and_own": {"mean", "sd"}}`.
    """
    by_pair_and_level: dict[tuple[Pair, int], list[tuple[float | None, float | None]]] = {}
    for metrics in runs:
        for each in compute_utilisation(read_gate_levels(metrics), tasks).differences:
            by_pair_and_level.setdefault((each.tasks, each.level), []).append((each.among_shared, each.shared_and_own))
    return [
        {"tasks": list(pair), "level": level}
        | {
            distance: mean_sd([value for value in values if value is not None])
            for distance, values in zip(("among_shared", "shared_and_own"), zip(*distances, strict=True), strict=True)
        }
        for (pair, level), distances in by_pair_and_level.items()
    ]


def compute_label_correlations(runs: Iterable[Path], tasks: Sequence[str]) -> list[dict[str, Any]] | None:
    """Return the correlation of labels of every pair of tasks on the test split; None if no run has its rows.

    Args:
        runs: Directories of finished runs; all have the same labels, so the first readable one is enough.
        tasks: Names of the tasks.
    """
    readable = (rows for run in runs if (rows := read_rows(run, tasks)) is not None)
    rows = next(readable, None)
    if rows is None:
        return None
    return [asdict(correlation) for correlation in label_correlations(tasks, rows["labels"], rows["weights"])]
