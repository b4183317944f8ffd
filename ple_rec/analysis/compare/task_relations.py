"""How the tasks of a comparison go together: their gradients over training, what they share, their labels.

Of each variant, over its finished runs; a run that recorded nothing of it, as one of an earlier version, is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ple_rec.analysis.compare.gain import mean_sd
from ple_rec.analysis.correlation import label_correlations
from ple_rec.analysis.test_rows import read_rows
from ple_rec.analysis.utilisation import recorded_gates, utilisation
from ple_rec.errors import UserError
from ple_rec.runs.layout import ANALYSIS
from ple_rec.runs.read import read_run
from ple_rec.runs.results import entries, items, mapping, number

KINDS = ("parameters", "inputs")  # what a cosine is on

Pair = tuple[str, ...]
Recorded = dict[Pair, dict[int, Mapping[str, Any]]]  # by tasks and step, as `Conflict.record` made it


def conflict_of(runs: Sequence[Path]) -> list[dict[str, Any]]:
    """Gradient conflict of a variant at the steps that all its runs have recorded, a mean over the runs.

    Args:
        runs: Directories of its finished runs.

    Returns:
        Of each pair `{"tasks", "seeds": number of runs, "step": [..], "parameters", "parameters_sd", "inputs",
        "inputs_sd"}`, a value for each step; None where no run has one, a standard deviation too where only one has.
    """
    recorded = [found for run in runs if (found := _recorded(run))]
    pairs = dict.fromkeys(pair for found in recorded for pair in found)
    return [_over_runs(pair, [found[pair] for found in recorded if pair in found]) for pair in pairs]


def _over_runs(pair: Pair, runs: Sequence[Mapping[int, Mapping[str, Any]]]) -> dict[str, Any]:
    steps = sorted(set.intersection(*(set(run) for run in runs)))
    told: dict[str, Any] = {"tasks": list(pair), "seeds": len(runs), "step": steps}
    for kind in KINDS:
        means = [[number(mapping(run[step].get(kind)).get("mean")) for run in runs] for step in steps]
        summaries = [mean_sd([value for value in values if value is not None]) for values in means]
        told[kind] = [summary["mean"] for summary in summaries]
        told[f"{kind}_sd"] = [summary["sd"] for summary in summaries]
    return told


def _recorded(run: Path) -> Recorded:
    """At every evaluation of training; of a run that was not asked for it, at the checkpoints of its analysis."""
    try:
        records = read_run(run).log.splits.get("valid", [])
    except UserError:  # its files are gone
        return {}
    at = [(int(record["step"]), entries(record.get("gradient_conflict"))) for record in records]
    if not any(pairs for _, pairs in at):
        checkpoints = entries(mapping(_analysis(run).get("gradient_conflict")).get("checkpoints"))
        steps = ((number(each.get("step")), entries(each.get("pairs"))) for each in checkpoints)
        at = [(int(step), pairs) for step, pairs in steps if step is not None]
    found: Recorded = {}
    for step, pairs in at:
        for pair in pairs:
            found.setdefault(tuple(map(str, items(pair.get("tasks")))), {})[step] = pair
    return found


def _analysis(run: Path) -> Mapping[str, Any]:
    try:
        return mapping(json.loads((run / ANALYSIS).read_text()))
    except (OSError, ValueError, RecursionError):
        return {}


def sharing_of(runs: Iterable[Mapping[str, Any]], tasks: Sequence[str]) -> list[dict[str, Any]]:
    """How differently a variant's tasks use what they share (`utilisation.Difference`), mean and sd over its runs.

    Args:
        runs: `metrics.json` of each.
        tasks: By name.

    Returns:
        Of each pair and level `{"tasks", "level", "among_shared": {"mean", "sd"}, "shared_and_own": {"mean", "sd"}}`.
    """
    by_place: dict[tuple[Pair, int], list[tuple[float | None, float | None]]] = {}
    for metrics in runs:
        for each in utilisation(recorded_gates(metrics), tasks).differences:
            by_place.setdefault((each.tasks, each.level), []).append((each.among_shared, each.shared_and_own))
    return [
        {"tasks": list(pair), "level": level}
        | {
            reading: mean_sd([value for value in values if value is not None])
            for reading, values in zip(("among_shared", "shared_and_own"), zip(*found, strict=True), strict=True)
        }
        for (pair, level), found in by_place.items()
    ]


def correlations_of(runs: Iterable[Path], tasks: Sequence[str]) -> list[dict[str, Any]] | None:
    """Of the labels of every pair of tasks on the test split, which all runs share; None without rows of any run.

    Args:
        runs: Directories of finished runs; the first that can be read is.
        tasks: By name.
    """
    rows = next((found for run in runs if (found := read_rows(run, tasks)) is not None), None)
    return (
        None if rows is None else [asdict(each) for each in label_correlations(tasks, rows["labels"], rows["weights"])]
    )
