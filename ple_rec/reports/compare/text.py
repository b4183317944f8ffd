"""Tables and sentences that `ple-rec compare` prints about its results, and cells that its HTML page shares with them.

A comparison trains several variants of a model, each with several seeds, and writes their results to `compare.json`.
`ple_rec/analysis/compare/results.py` describes the keys of that file. The functions here turn its content into text.
For each task, the gain of a variant (MTL gain) is its AUC minus the AUC of the baseline, or the MSE of the baseline
minus its MSE, so a larger gain is better. A dash stands for a missing value.

Synthetic data is generated from known probabilities. For such data, `compare.json` has the metric of a model that
predicts exactly these probabilities, the best metric that any model can reach. The gap of a variant is the distance of
its mean metric from this best metric.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ple_rec.config.compare import MATCHES
from ple_rec.config.words import toml_value
from ple_rec.reports.cells import mean_with_sd
from ple_rec.runs.results import MISSING
from ple_rec.text import align_columns
from ple_rec.text.units import mean_sd_text, metric_text, short_bytes, short_count

# Parsed content of compare.json.
Results = Mapping[str, Any]

GAIN_HEADS = ("MTL gain", "95 % over seeds", "95 % over rows")
# Heading of the column of gaps to the best reachable metric, for synthetic data only.
GAP_HEAD = "short of the best"
# Keys of `conflict`: gradients of the losses by the parameters that the tasks share, and by the inputs of the model.
GRADIENT_KINDS = ("parameters", "inputs")
TUNING_CAUTION = (
    "This metric chose the best of several trials, so it is too good for that trial. Compare tuned models on the test "
    "split, on which no trial was evaluated."
)


def format_results(results: Results) -> str:
    """Return the whole text: a table for each task, the tables of relations, tuning and costs, and the verdict."""
    parts = [_task_table(results, task) for task in results["tasks"]]
    parts += ["\n".join(align_columns([*gauc_table(results, task)])) for task in gauc_tasks(results)]
    parts += [text for text in (relations_table(results), tuning_text(results), _cost_table(results)) if text]
    return "\n\n".join([*parts, "\n".join(results["verdict"]["sentences"])])


def _task_table(results: Results, task: str) -> str:
    """Return the table of a task, with a row for each variant."""
    heads = [f"{task}, {results['tasks'][task]['metric'].upper()}", "seeds", "mean +- sd", *GAIN_HEADS]
    return "\n".join(align_columns([heads + [GAP_HEAD] * has_gap(results, task), *task_rows(results, task)]))


def task_rows(results: Results, task: str) -> list[list[str]]:
    """Return the rows of a task's table, one for each variant.

    A row has the name of the variant, the number of its seeds, mean and standard deviation of the metric, the gain and
    its two intervals, and the gap if the best reachable metric is known.
    """
    known = has_gap(results, task)
    rows = []
    for name, variant in results["variants"].items():
        entry = variant["tasks"].get(task)
        if entry is None:
            rows.append([name, "0", *[MISSING] * (5 if known else 4)])
            continue
        gain = entry["gain"] or {}
        rows.append(
            [
                name,
                str(len(entry["values"])),
                mean_sd_text(entry["mean"], entry["sd"]),
                signed_text(gain.get("mean")),
                interval_text(gain.get("seed_interval")),
                interval_text(gain.get("row_interval")),
                *([f"{entry['gap']:.5f}"] if known else []),
            ]
        )
    return rows


def gauc_tasks(results: Results) -> list[str]:
    """Return the tasks that have GAUC by group and by subgroup."""
    return [task for task in results["tasks"] if any(task in v.get("gauc", {}) for v in results["variants"].values())]


def gauc_table(results: Results, task: str) -> list[list[str]]:
    """Return the heads and the rows of a table with both GAUCs of a task side by side, a row for each variant."""
    names = results["gauc_by"]
    lines = [[f"{task}, GAUC", *(head for name in names.values() for head in (f"by {name}", "MTL gain", "verdict"))]]
    for name, variant in results["variants"].items():
        verdicts = results["verdict"]["variants"].get(name, {}).get("gauc", {}).get(task, {})
        cells = [name]
        for metric in names:
            entry = variant.get("gauc", {}).get(task, {}).get(metric)
            if entry is None:
                cells += [MISSING] * 3
                continue
            gain = (entry["gain"] or {}).get("mean")
            cells += [mean_sd_text(entry["mean"], entry["sd"]), signed_text(gain), verdicts.get(metric, MISSING)]
        lines.append(cells)
    return lines


def has_gap(results: Results, task: str) -> bool:
    """Return whether the best metric that a model can reach on a task is known, as it is for synthetic data."""
    return results["tasks"][task].get("reachable") is not None


def _cost_table(results: Results) -> str:
    """Return the table of costs, and the sentence that says how the costs of the variants were made equal."""
    heads = ["cost", "FLOPs/sample", "dense parameters", "samples/s", "peak memory"]
    return "\n".join(
        [*align_columns([heads, *cost_rows(results)]), MATCHES[results["match"]].format(results["reference"])]
    )


def cost_rows(results: Results) -> list[list[str]]:
    """Return the rows of the table of costs: name, FLOPs per sample, dense parameters, speed and peak memory."""
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


def signed_text(value: float | None) -> str:
    """Return a gain as a signed number, or a dash if it is None."""
    return MISSING if value is None else f"{value:+.5f}"


def interval_text(interval: Sequence[float] | None) -> str:
    """Return the interval of a gain as two signed numbers, or a dash if it is None."""
    return MISSING if interval is None else f"{interval[0]:+.5f} to {interval[1]:+.5f}"


def relations_table(results: Results) -> str:
    """Return a table with one pair of tasks for each variant: the pair whose input gradients agree least.

    Agreement is the cosine of the two tasks' gradients. A pair without recorded gradients is shown only if no pair has
    them. The HTML page has a table of all pairs. The text is empty if no variant has a pair.
    """
    lines = [["between tasks", "pair that agrees least", "cosine, weights", "cosine, inputs", "JS by level"]]
    for name, variant in results["variants"].items():
        pairs = dict.fromkeys(tuple(each["tasks"]) for each in (*variant["conflict"], *variant["sharing"]))
        if not pairs:
            continue
        cosines = ((last_cosine(variant, pair, "inputs")["mean"], pair) for pair in pairs)
        _, pair = min((math.inf if cosine is None else cosine, pair) for cosine, pair in cosines)
        lines.append(
            [
                name,
                " / ".join(pair),
                *(mean_with_sd(**last_cosine(variant, pair, kind)) for kind in GRADIENT_KINDS),
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
    return "\n".join([*align_columns(lines, left_columns=(0, 1)), note])


def last_cosine(variant: Mapping[str, Any], pair: Sequence[str], kind: str) -> dict[str, float | None]:
    """Return the cosine of two tasks' gradients at the last recorded step: mean and standard deviation over seeds.

    Args:
        variant: Entry of a variant in compare.json.
        pair: Names of the two tasks.
        kind: Kind of the gradients, one of `GRADIENT_KINDS`.

    Returns:
        Keys `mean` and `sd`; a value that was not recorded is None.
    """
    conflict = next((each for each in variant["conflict"] if tuple(each["tasks"]) == tuple(pair)), None)
    if conflict is None or not conflict["step"]:
        return {"mean": None, "sd": None}
    return {"mean": conflict[kind][-1], "sd": conflict[f"{kind}_sd"][-1]}


def distances_text(variant: Mapping[str, Any], pair: Sequence[str], distance_key: str) -> str:
    """Return the distances between two tasks in their use of experts: a number for each level, first level first.

    Each task has a gate that weights the experts of a level. The distance is the Jensen-Shannon distance of two tasks'
    mean weights: 0 if both use the same experts alike, 1 if they use no expert together.

    Args:
        variant: Entry of a variant in compare.json.
        pair: Names of the two tasks.
        distance_key: Key of the distance: `among_shared` compares the weights of the shared experts alone,
            `shared_and_own` counts all other experts as one more expert.
    """
    means = [each[distance_key]["mean"] for each in variant["sharing"] if tuple(each["tasks"]) == tuple(pair)]
    return ", ".join(map(mean_with_sd, means)) or MISSING


def tuning_text(results: Results) -> str:
    """Return the table of the tuning with a warning below it, or an empty text if the comparison tuned nothing."""
    if "tune" not in results:
        return ""
    head, rows = tuning_table(results)
    return "\n".join([*align_columns([head, *rows]), TUNING_CAUTION])


def tuning_table(results: Results) -> tuple[list[str], list[list[str]]]:
    """Return the head and the rows of the table of the tuning.

    A row has the name of a variant, the number of its trials and of the failed ones, the metric of the first trial,
    which has the values as written in the configuration, the best metric, and the tuned value of each key.
    """
    tune = results["tune"]
    keys = list(tune["space"])
    head = [f"tuning, {tune['metric']} on validation", "trials", "failed", "as written", "best", *keys]
    rows = []
    for name, variant in results["variants"].items():
        trials, tuned = variant["trials"], variant["tuned"] or {}
        metrics = [MISSING if trials[key] is None else metric_text(trials[key]) for key in ("first", "best")]
        values = [_value_text(tuned[key]) if key in tuned else MISSING for key in keys]
        rows.append([name, str(trials["number"]), str(trials["failed"]), *metrics, *values])
    return head, rows


def _value_text(value: Any) -> str:
    """Return a tuned value as text, a float with three significant digits."""
    return f"{value:.3g}" if isinstance(value, float) else toml_value(value)
