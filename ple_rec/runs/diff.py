"""Differences of two runs in configuration, environment and metrics, for `ple-rec diff`.

`compare_runs` returns a `RunDiff`, which `format_diff` and `diff_json` turn into text. The module does not import
torch, so the command starts fast.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from ple_rec.checkpoint.listing import find_checkpoint
from ple_rec.checkpoint.manifest import read_manifest
from ple_rec.config.diff import Difference, differences
from ple_rec.config.load import load_config
from ple_rec.config.metrics import METRICS, Metric
from ple_rec.config.run import RunConfig
from ple_rec.config.words import toml_value
from ple_rec.errors import PleRecError, UserError
from ple_rec.runs.layout import CONFIG, configured_checkpoint_place
from ple_rec.runs.read import RunFiles
from ple_rec.runs.record import RunRecord, TaskMetrics
from ple_rec.runs.results import MISSING
from ple_rec.text import fit_table, printable
from ple_rec.text.json_values import as_mapping, as_number
from ple_rec.text.plain import json_text, wrap_text
from ple_rec.text.units import short_count

# Heading of each size or speed that is compared, by its key in the JSON text.
SIZES = {
    "dense_parameters": "dense parameters",
    "table_parameters": "table parameters",
    "flops_per_sample": "FLOPs/sample",
    "samples_per_second": "samples/s",
}


class MetricDifference(NamedTuple):
    """Values of one metric in two runs.

    Args:
        a: Value of run a; None if the run lacks it.
        b: Value of run b; None if the run lacks it.
        bound: Largest error of `b - a`, from an AUC of a histogram or a GAUC of a sample; 0 for exact values and for
            metrics without a recorded error, infinite if the error is unknown.
        better: Better run; None if the values are equal or differ within the bound, one is missing, the metric has no
            better direction, or the runs were evaluated on different datasets.
    """

    a: float | None
    b: float | None
    bound: float
    better: Literal["a", "b"] | None

    @property
    def difference(self) -> float | None:
        """Value of `b - a`; None if a value is missing or the difference is not finite."""
        return None if self.a is None or self.b is None else as_number(self.b - self.a)

    @property
    def within_bound(self) -> bool:
        """True if errors of histograms or samples may explain the whole difference."""
        return self.difference is not None and self.bound > 0 and abs(self.difference) <= self.bound


@dataclass(frozen=True)
class RunDiff:
    """Differences of run b from run a.

    Args:
        runs: Runs a and b.
        configuration: Differing keys: (key, value in a, value in b); None if a configuration cannot be read.
        environment: Differences in dataset, world size, precision, first weights and versions that both runs record,
            in the same form.
        split: Split whose metrics are compared.
        tasks: Compared metrics, by task and metric.
        sizes: Parameters, FLOPs per sample and samples per second of a and of b, by name.
        notes: Remarks on substitutes and on parts that are not compared.
    """

    runs: tuple[RunRecord, RunRecord]
    configuration: list[Difference] | None
    environment: list[Difference]
    split: str
    tasks: dict[str, dict[str, MetricDifference]]
    sizes: dict[str, tuple[float | None, float | None]]
    notes: list[str]

    def verdict(self) -> str | None:
        """Return a sentence if the configurations differ in nothing but name and seed; None if not, or if unknown."""
        if self.configuration is None:
            return None
        other = [key for key, _, _ in self.configuration if key != "name"]
        if not other:
            return "same configuration" + (" but for the name" if self.configuration else "")
        if other != ["seed"]:
            return None
        # Another dataset, library or number of steps may change the metrics too.
        only_seed = not self.environment and all(run.status == "finished" for run in self.runs)
        noise = ": the difference is noise of the seed" if only_seed else ""
        return f"same configuration but for the seed{noise}"


def compare_runs(a: RunRecord, b: RunRecord, split: str = "test") -> RunDiff:
    """Compare two runs, finished or not.

    Args:
        a: First run.
        b: Second run.
        split: Split whose final metrics are compared. If a run has none on it, the validation split replaces it, with
            the last validation record of a run that has no final metrics there either.
    """
    notes: list[str] = []
    configuration = _configuration(a, b, notes)
    split, left, right = _metrics(a, b, split, notes)
    environment_a, environment_b = _environment(a), _environment(b)
    environment = [
        (key, value, environment_b[key])
        for key, value in environment_a.items()
        if key in environment_b and value != environment_b[key]
    ]
    same_dataset = all(key != "dataset_fingerprint" for key, _, _ in environment)
    tasks = {t: _compare(left.get(t, {}), right.get(t, {}), judge=same_dataset) for t in dict.fromkeys([*left, *right])}
    sizes = {key: pair for key in SIZES if any(pair := (_size_value(a, key), _size_value(b, key)))}
    for letter, run in (("a", a), ("b", b)):
        if run.damaged:
            notes.append(f"{letter}: damaged, and left out: {', '.join(run.damaged)}")
    if not same_dataset:
        notes.append("the datasets differ: the metrics are not over the same samples")
    if unfinished := [letter for letter, run in (("a", a), ("b", b)) if run.status != "finished"]:
        notes.append(f"{' and '.join(unfinished)}: parameters, FLOPs and versions are recorded when a run finishes")
    return RunDiff((a, b), configuration, environment, split, tasks, sizes, notes)


def _configuration(a: RunRecord, b: RunRecord, notes: list[str]) -> list[Difference] | None:
    """Return the differing keys; None, with a remark appended to `notes`, if a configuration cannot be read."""
    configs = []
    for letter, run in (("a", a), ("b", b)):
        try:
            configs.append(load_config(RunConfig, run.path / CONFIG))
        except (UserError, OSError, ValueError, RecursionError) as error:
            # The configuration is damaged, or has keys of another version.
            notes.append(f"{letter}: the configurations are not compared: {' '.join(str(error).split())}")
    return differences(*configs) if len(configs) == 2 else None


def _metrics(a: RunRecord, b: RunRecord, split: str, notes: list[str]) -> tuple[str, TaskMetrics, TaskMetrics]:
    """Return the split that is compared, the metrics of run a and those of run b; append remarks to `notes`."""
    if a.tasks(split) and b.tasks(split):
        return split, a.tasks(split), b.tasks(split)
    metrics = []
    for letter, run in (("a", a), ("b", b)):
        final, last = run.tasks("valid"), run.last_validation
        if not final and last:
            notes.append(f"{letter} ({run.status}): its last validation record, of step {run.valid['step']:,}")
        elif not final:
            notes.append(f"{letter} ({run.status}): not evaluated yet, there are no metrics")
        metrics.append(final or last)
    if split != "valid":
        notes.append(f"the validation split is compared, since not both runs have metrics on {split}")
    return "valid", metrics[0], metrics[1]


def _compare(
    a: Mapping[str, float | None], b: Mapping[str, float | None], *, judge: bool
) -> dict[str, MetricDifference]:
    """Compare the metrics of a task; `judge` is True to name the better run, which needs the same samples."""
    compared = {}
    for metric in METRICS:
        left, right = a.get(metric.key), b.get(metric.key)
        if left is None and right is None:
            continue
        difference = MetricDifference(left, right, _error_bound(metric.key, a, b), None)
        if judge and not difference.within_bound:
            difference = difference._replace(better=_better(metric, left, right))
        compared[metric.key] = difference
    return compared


def _error_bound(metric: str, a: Mapping[str, float | None], b: Mapping[str, float | None]) -> float:
    errors = [values.get(f"{metric}_error_bound") for values in (a, b)]
    return sum(error or 0.0 for error in errors) if None not in errors else 0.0


def _better(metric: Metric, a: float | None, b: float | None) -> Literal["a", "b"] | None:
    if a is None or b is None:
        return None
    key_a, key_b = metric.rank_key(a), metric.rank_key(b)
    if key_a is None or key_b is None or key_a == key_b:
        return None
    # The better value has the smaller key.
    return "a" if key_a < key_b else "b"


def _environment(run: RunRecord) -> dict[str, Any]:
    """Return dataset, world size, precision, first weights and versions of a run.

    Dataset, world size and precision come from the results of a finished run, and from the latest checkpoint of another
    one. The first weights come from `init_from.json`. Only results have versions. Unknown values are left out.
    """
    metrics, start = run.metrics, RunFiles(run.path).start
    written_by = {} if metrics else _written_by(run)
    precision = as_mapping(metrics.get("precision", written_by.get("precision")))
    environment = {
        "dataset_fingerprint": metrics.get("dataset_fingerprint", written_by.get("dataset")),
        "world_size": metrics.get("world_size", written_by.get("ranks")),
        # With "auto", each machine decides on the precision.
        "precision": precision.get("used"),
        "init_from": f"{start.get('run')}:{start.get('checkpoint')}" if start else "random weights",
        **{f"versions.{name}": value for name, value in as_mapping(metrics.get("versions")).items()},
    }
    return {key: value for key, value in environment.items() if isinstance(value, str | int | float)}


def _written_by(run: RunRecord) -> Mapping[str, Any]:
    """Return `written_by` of the latest checkpoint: dataset, ranks and precision; empty if it cannot be read."""
    with suppress(PleRecError):
        latest = find_checkpoint(configured_checkpoint_place(run.path), "latest")
        return {} if latest is None else read_manifest(latest).written_by
    return {}


def _size_value(run: RunRecord, key: str) -> float | None:
    if key == "samples_per_second":
        return run.samples_per_second
    if key == "flops_per_sample":
        return as_number(run.metrics.get(key))
    return as_number(as_mapping(run.metrics.get("parameters")).get("dense" if key == "dense_parameters" else "tables"))


def format_diff(diff: RunDiff, width: int) -> str:
    """Return the differences as plain text, without a trailing newline.

    Args:
        diff: Differences of two runs.
        width: Largest number of characters of a line; longer lines are wrapped, and names of tasks are cut.
    """
    heads = [_head(letter, run) for letter, run in zip("ab", diff.runs, strict=True)]
    blocks = ["\n".join(wrap_text(printable(head), width, "   ") for head in heads)]
    if verdict := diff.verdict():
        blocks.append(wrap_text(verdict, width))
    if diff.configuration:
        blocks.append(_change_lines("configuration", diff.configuration, toml_value, width))
    if diff.environment:
        blocks.append(_change_lines("environment", diff.environment, str, width))
    if diff.notes:
        blocks.append("\n".join(wrap_text(printable(note), width) for note in diff.notes))
    if diff.tasks:
        blocks.append(fit_table(_metric_rows(diff), width))
    if diff.sizes:
        rows = [_size_row(heading, *diff.sizes[key]) for key, heading in SIZES.items() if key in diff.sizes]
        blocks.append(fit_table([["size and speed", "a", "b", "b / a"], *rows], width))
    return "\n\n".join(blocks)


def diff_json(diff: RunDiff) -> str:
    """Return the differences as JSON.

    `{"a": {"path", "status", "step"}, "b": .., "verdict", "configuration": [{"key", "a", "b"}] | null, "environment":
    [{"key", "a", "b"}], "split", "tasks": {task: {metric: {"a", "b", "difference", "bound", "within_bound",
    "better"}}}, "sizes": {name: {"a", "b", "ratio"}}, "notes"}`. A value that a run lacks is null, and so is a number
    that JSON cannot represent, such as an infinite bound.
    """
    return json_text(
        {
            **{
                letter: {"path": str(run.path), "status": run.status, "step": run.step}
                for letter, run in zip("ab", diff.runs, strict=True)
            },
            "verdict": diff.verdict(),
            "configuration": None if diff.configuration is None else _keyed(diff.configuration),
            "environment": _keyed(diff.environment),
            "split": diff.split,
            "tasks": {
                task: {
                    metric: {**each._asdict(), "difference": each.difference, "within_bound": each.within_bound}
                    for metric, each in metrics.items()
                }
                for task, metrics in diff.tasks.items()
            },
            "sizes": {key: {"a": a, "b": b, "ratio": _ratio(a, b)} for key, (a, b) in diff.sizes.items()},
            "notes": diff.notes,
        }
    )


def _head(letter: str, run: RunRecord) -> str:
    total = f" of {run.total_steps:,}" if run.total_steps not in (None, run.step) else ""
    step = f", step {run.step:,}{total}" if run.step is not None else ""
    best = f", best {run.best_step:,}" if run.best_step not in (None, run.step) else ""
    return f"{letter}  {run.path}: {run.variant or 'variant unknown'}, {run.status}{step}{best}"


def _change_lines(heading: str, changes: Sequence[Difference], text: Callable[[Any], str], width: int) -> str:
    """Return a line `key: value in a -> value in b` for each difference; long lines are wrapped."""
    texts = ([key, *(MISSING if value is None else text(value) for value in pair)] for key, *pair in changes)
    lines = (printable(f"{key}: {a} -> {b}") for key, a, b in texts)
    return "\n".join([f"{heading}, a -> b", *(wrap_text(f"  {line}", width, "      ") for line in lines)])


def _metric_rows(diff: RunDiff) -> list[list[str]]:
    rows = [[diff.split, "a", "b", "b - a", "better"]]
    for task, metrics in diff.tasks.items():
        for column in METRICS:
            metric = metrics.get(column.key)
            if metric is None or (column.key == "samples" and not metric.difference):
                continue
            values = [MISSING if value is None else column.format_value(value) for value in (metric.a, metric.b)]
            difference = _signed(metric.difference, column.format_value)
            rows.append([f"{task} {column.heading}", *values, difference, _better_text(metric)])
    return rows


def _signed(difference: float | None, text: Callable[[float], str]) -> str:
    if not difference:
        return MISSING if difference is None else "0"
    return ("+" if difference > 0 else "-") + text(abs(difference))


def _better_text(metric: MetricDifference) -> str:
    if metric.within_bound and math.isinf(metric.bound):
        return "not certain"
    if metric.within_bound:
        return f"within the bound {metric.bound:.1e}"
    return metric.better or ("same" if metric.difference == 0 else MISSING)


def _size_row(heading: str, a: float | None, b: float | None) -> list[str]:
    ratio = _ratio(a, b)
    values = [MISSING if value is None else short_count(round(value)) for value in (a, b)]
    return [heading, *values, MISSING if ratio is None else f"{ratio:.2f}"]


def _ratio(a: float | None, b: float | None) -> float | None:
    return as_number(b / a) if a and b is not None else None


def _keyed(changes: Sequence[Difference]) -> list[dict[str, Any]]:
    return [{"key": key, "a": a, "b": b} for key, a, b in changes]
