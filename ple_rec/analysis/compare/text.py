"""What `ple-rec compare` prints: variants and their cost, gains, and what happens between tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ple_rec.analysis.compare.equal_cost import sizes_of
from ple_rec.analysis.compare.matrix import Matrix
from ple_rec.analysis.compare.task_relations import KINDS
from ple_rec.analysis.compare.tuning.report import tuning_text
from ple_rec.runs.results import MISSING
from ple_rec.text import aligned
from ple_rec.text.units import metric_text, short_bytes, short_count

MATCHES = {
    "flops": "FLOPs a sample are those of {}, within 1 %",
    "params": "dense parameters are those of {}, within 1 %",
    "none": "each as its own configuration has it: costs are not made equal",
}

GAIN_HEADS = ("MTL gain", "95 % over seeds", "95 % over rows")
GAP = "short of the best"  # reachable metric


def format_costs(matrix: Matrix) -> str:
    """A line for each variant: its model, its experts' sizes and what they cost."""
    lines = [["", "model", "layer sizes", "FLOPs/sample", "dense parameters"]]
    for variant in matrix.variants.values():
        sizes = " ".join(str(hidden) for hidden in sizes_of(variant.config).values())
        flops, parameters = variant.cost.flops_per_sample, variant.cost.dense_parameters
        lines.append([variant.name, variant.config.model.variant, sizes, f"{flops:,}", f"{parameters:,}"])
    return "\n".join([*aligned(lines, left=(0, 1, 2)), MATCHES[matrix.match].format(matrix.reference)])


def format_results(results: Mapping[str, Any]) -> str:
    """A table for each task, what happens between tasks, what the variants cost, and the verdict."""
    parts = [_task_table(results, task) for task in results["tasks"]]
    parts += [found for found in (relations_table(results), tuning_text(results), _cost_table(results)) if found]
    return "\n\n".join([*parts, "\n".join(results["verdict"]["sentences"])])


def _task_table(results: Mapping[str, Any], task: str) -> str:
    heads = [f"{task}, {results['tasks'][task]['metric'].upper()}", "seeds", "mean +- sd", *GAIN_HEADS]
    return "\n".join(aligned([heads + [GAP] * gap_known(results, task), *task_rows(results, task)]))


def task_rows(results: Mapping[str, Any], task: str) -> list[list[str]]:
    """Return, for each variant, its name, runs, metric and gains on a task, and what it lacks where that is known."""
    known = gap_known(results, task)
    rows = []
    for name, variant in results["variants"].items():
        found = variant["tasks"].get(task)
        if found is None:
            rows.append([name, "0", *[MISSING] * (5 if known else 4)])
            continue
        gain = found["gain"] or {}
        rows.append(
            [
                name,
                str(len(found["values"])),
                mean_sd_text(found),
                signed_text(gain.get("mean")),
                interval_text(gain.get("seed_interval")),
                interval_text(gain.get("row_interval")),
                *([f"{found['gap']:.5f}"] if known else []),
            ]
        )
    return rows


def gap_known(results: Mapping[str, Any], task: str) -> bool:
    """Return whether the best reachable metric of a task is known."""
    return results["tasks"][task].get("reachable") is not None


def _cost_table(results: Mapping[str, Any]) -> str:
    heads = ["cost", "FLOPs/sample", "dense parameters", "samples/s", "peak memory"]
    return "\n".join([*aligned([heads, *cost_rows(results)]), MATCHES[results["match"]].format(results["reference"])])


def cost_rows(results: Mapping[str, Any]) -> list[list[str]]:
    """Return, for each variant, its name, FLOPs of a sample, dense parameters, speed and peak memory."""
    rows = []
    for name, variant in results["variants"].items():
        cost = variant["cost"]
        speed, peak = cost["samples_per_second"], cost["peak_bytes"]
        rows.append(
            [
                name,
                f"{cost['flops_per_sample']:,}",
                f"{cost['dense_parameters']:,}",
                MISSING if speed is None else short_count(speed),
                MISSING if peak is None else short_bytes(peak),
            ]
        )
    return rows


def mean_sd_text(found: Mapping[str, Any], between: str = "+-") -> str:
    """Mean and standard deviation of a task's values; the mean alone of a single seed."""
    mean = metric_text(found["mean"])
    return mean if found["sd"] is None else f"{mean} {between} {found['sd']:.4f}"


def signed_text(value: float | None) -> str:
    """A gain."""
    return MISSING if value is None else f"{value:+.5f}"


def interval_text(interval: Sequence[float] | None) -> str:
    """An interval of a gain."""
    return MISSING if interval is None else f"{interval[0]:+.5f} to {interval[1]:+.5f}"


def relations_table(results: Mapping[str, Any]) -> str:
    """Of each variant the pair of tasks whose gradients on the inputs agree least; the page has the others."""
    lines = [["between tasks", "pair that agrees least", "cosine, weights", "cosine, inputs", "JS by level"]]
    for name, variant in results["variants"].items():
        pairs = dict.fromkeys(tuple(each["tasks"]) for each in (*variant["conflict"], *variant["sharing"]))
        if not pairs:
            continue
        cosines = ((at_end(variant, pair, "inputs")["mean"], pair) for pair in pairs)
        _, pair = min((math.inf if cosine is None else cosine, pair) for cosine, pair in cosines)
        lines.append(
            [
                name,
                " / ".join(pair),
                *(number_text(at_end(variant, pair, kind)) for kind in KINDS),
                distances_text(variant, pair, "shared_and_own"),
            ]
        )
    if len(lines) == 1:
        return ""
    note = (
        "cosine of the tasks' gradients on the weights that they share and on the inputs, at the last evaluation of "
        "training; JS: Jensen-Shannon\ndistance of their mean gate weights, shared experts and all others as one, "
        "0 alike to 1 disjoint"
    )
    return "\n".join([*aligned(lines, left=(0, 1)), note])


def at_end(variant: Mapping[str, Any], pair: Sequence[str], kind: str) -> dict[str, float | None]:
    """Mean and sd over seeds of two tasks' cosine at the last step that is told.

    Args:
        variant: Of compare.json.
        pair: The two.
        kind: On what, one of `KINDS`.
    """
    found = next((each for each in variant["conflict"] if tuple(each["tasks"]) == tuple(pair)), None)
    if found is None or not found["step"]:
        return {"mean": None, "sd": None}
    return {"mean": found[kind][-1], "sd": found[f"{kind}_sd"][-1]}


def distances_text(variant: Mapping[str, Any], pair: Sequence[str], reading: str) -> str:
    """How differently two tasks use what they share, level by level from the first."""
    found = [each[reading] for each in variant["sharing"] if tuple(each["tasks"]) == tuple(pair)]
    return ", ".join(number_text(each | {"sd": None}) for each in found) or MISSING


def number_text(found: Mapping[str, float | None]) -> str:
    """Return a mean and its standard deviation, to three digits; of a single value it alone."""
    if found["mean"] is None:
        return MISSING
    return f"{found['mean']:.3f}" + ("" if found["sd"] is None else f" +- {found['sd']:.3f}")
