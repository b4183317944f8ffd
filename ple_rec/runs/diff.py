"""`ple-rec diff`: how two runs differ in configuration, environment and metrics. Needs no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from ple_rec.config.diff import Difference, differences
from ple_rec.config.load import load_config
from ple_rec.config.metrics import METRICS, Metric
from ple_rec.config.run import RunConfig
from ple_rec.config.words import toml_value
from ple_rec.errors import UserError
from ple_rec.runs.layout import CHECKPOINTS, CONFIG, INIT
from ple_rec.runs.record import RunRecord, TaskMetrics, read_mapping
from ple_rec.runs.results import MISSING, mapping, number
from ple_rec.text import printable
from ple_rec.text.plain import fitted, json_text, wrapped
from ple_rec.text.units import short_count

SIZES = {
    "dense_parameters": "dense parameters",
    "table_parameters": "table parameters",
    "flops_per_sample": "FLOPs/sample",
    "samples_per_second": "samples/s",
}


class Compared(NamedTuple):
    """One metric of both runs.

    Args:
        a: None where run a lacks it.
        b: None where run b lacks it.
        bound: By how much `b - a` may be off: an AUC came from a histogram, or a GAUC, within its interval, from a
            sample. 0 where both are exact, infinite where nothing can be said.
        better: The better run; None where they are equal, within the bound, or one is absent.
    """

    a: float | None
    b: float | None
    bound: float
    better: Literal["a", "b"] | None

    @property
    def difference(self) -> float | None:
        """`b - a`, where both are there; None, too, beyond every float."""
        return None if self.a is None or self.b is None else number(self.b - self.a)

    @property
    def within_bound(self) -> bool:
        """Whether the difference may be none but for histograms and samples."""
        return self.difference is not None and self.bound > 0 and abs(self.difference) <= self.bound


@dataclass(frozen=True)
class RunDiff:
    """How run b differs from run a.

    Args:
        runs: a and b.
        configuration: (key, value in a, value in b); None where one of the configurations cannot be read.
        environment: The same of dataset, world size, precision, first weights and versions, as far as both are
            recorded.
        split: Whose metrics are compared.
        tasks: By task and metric.
        sizes: Parameters, FLOPs per sample, samples per second, of a and of b.
        notes: What is compared in the place of something else, and what is not compared.
    """

    runs: tuple[RunRecord, RunRecord]
    configuration: list[Difference] | None
    environment: list[Difference]
    split: str
    tasks: dict[str, dict[str, Compared]]
    sizes: dict[str, tuple[float | None, float | None]]
    notes: list[str]

    def verdict(self) -> str | None:
        """The configurations in one sentence; None where there is more to say."""
        if self.configuration is None:
            return None
        other = [key for key, _, _ in self.configuration if key != "name"]
        if not other:
            return "same configuration" + (" but for the name" if self.configuration else "")
        if other != ["seed"]:
            return None
        # Another dataset, library or number of steps has effects of its own.
        alone = not self.environment and all(run.status == "finished" for run in self.runs)
        noise = ": the difference is noise of the seed" if alone else ""
        return f"same configuration but for the seed{noise}"


def compare_runs(a: RunRecord, b: RunRecord, split: str = "test") -> RunDiff:
    """Compare two runs, finished or not.

    Args:
        a: The one run.
        b: The other run.
        split: Whose final metrics; the validation split where a run has none on it.
    """
    notes: list[str] = []
    configuration = _configuration(a, b, notes)
    split, left, right = _metrics(a, b, split, notes)
    here, there = _environment(a), _environment(b)
    keys = [key for key in dict.fromkeys([*here, *there]) if key in here and key in there]
    environment = [(key, here[key], there[key]) for key in keys if here[key] != there[key]]
    same = all(key != "dataset_fingerprint" for key, _, _ in environment)
    tasks = {t: _compare(left.get(t, {}), right.get(t, {}), judge=same) for t in dict.fromkeys([*left, *right])}
    sizes = {key: pair for key in SIZES if any(pair := (_size(a, key), _size(b, key)))}
    for letter, run in (("a", a), ("b", b)):
        if run.damaged:
            notes.append(f"{letter}: damaged, and left out: {', '.join(run.damaged)}")
    if not same:
        notes.append("the datasets differ: the metrics are not over the same samples")
    if unfinished := [letter for letter, run in (("a", a), ("b", b)) if run.status != "finished"]:
        notes.append(f"{' and '.join(unfinished)}: parameters, FLOPs and versions are recorded when a run finishes")
    return RunDiff((a, b), configuration, environment, split, tasks, sizes, notes)


def _configuration(a: RunRecord, b: RunRecord, notes: list[str]) -> list[Difference] | None:
    configs = []
    for letter, run in (("a", a), ("b", b)):
        try:
            configs.append(load_config(RunConfig, run.path / CONFIG))
        except (UserError, OSError, ValueError, RecursionError) as error:  # damaged, or with keys of another version
            notes.append(f"{letter}: the configurations are not compared: {' '.join(str(error).split())}")
    return differences(*configs) if len(configs) == 2 else None


def _metrics(a: RunRecord, b: RunRecord, split: str, notes: list[str]) -> tuple[str, TaskMetrics, TaskMetrics]:
    """The split whose metrics are compared, and those of both runs: like with like."""
    if a.tasks(split) and b.tasks(split):
        return split, a.tasks(split), b.tasks(split)
    found = []
    for letter, run in (("a", a), ("b", b)):
        final, last = run.tasks("valid"), run.last_validation
        if not final and last:
            notes.append(f"{letter} ({run.status}): its last validation record, of step {run.valid['step']:,}")
        elif not final:
            notes.append(f"{letter} ({run.status}): not evaluated yet, there are no metrics")
        found.append(final or last)
    if split != "valid":
        notes.append(f"the validation split is compared, since not both runs have metrics on {split}")
    return "valid", found[0], found[1]


def _compare(a: Mapping[str, float | None], b: Mapping[str, float | None], *, judge: bool) -> dict[str, Compared]:
    """Compare the metrics of a task; which one is better is said where `judge` is true, over the same samples."""
    compared = {}
    for metric in METRICS:
        left, right = a.get(metric.key), b.get(metric.key)
        if left is None and right is None:
            continue
        one = Compared(left, right, _bound(metric.key, a, b), None)
        compared[metric.key] = (
            one if one.within_bound or not judge else one._replace(better=_better(metric, left, right))
        )
    return compared


def _bound(metric: str, a: Mapping[str, float | None], b: Mapping[str, float | None]) -> float:
    bounds = [values.get(f"{metric}_error_bound") for values in (a, b)]
    return sum(bound or 0.0 for bound in bounds) if None not in bounds else 0.0


def _better(metric: Metric, a: float | None, b: float | None) -> Literal["a", "b"] | None:
    if a is None or b is None:
        return None
    rank_a, rank_b = metric.rank_key(a), metric.rank_key(b)
    if rank_a is None or rank_b is None or rank_a == rank_b:
        return None
    return "a" if rank_a < rank_b else "b"


def _environment(run: RunRecord) -> dict[str, Any]:
    """Return dataset, world size, precision, first weights, versions; of an unfinished run as its checkpoint says."""
    damaged: list[str] = []  # a run can be compared without these
    manifest: Mapping[str, Any] = {}
    if not run.metrics and (latest := _latest(run)):
        manifest = read_mapping(run.path / CHECKPOINTS / latest / "manifest.json", json.loads, damaged)
    written_by = mapping(manifest.get("written_by"))
    start = read_mapping(run.path / INIT, json.loads, damaged)
    found = {
        "dataset_fingerprint": run.metrics.get("dataset_fingerprint", written_by.get("dataset")),
        "world_size": run.metrics.get("world_size", written_by.get("ranks")),
    }
    precision = mapping(run.metrics.get("precision", written_by.get("precision")))
    found["precision"] = precision.get("used")  # which `auto` decides on each machine
    found["init_from"] = f"{start.get('run')}:{start.get('checkpoint')}" if start else "random weights"
    found |= {f"versions.{name}": value for name, value in mapping(run.metrics.get("versions")).items()}
    return {key: value for key, value in found.items() if isinstance(value, str | int | float)}


def _latest(run: RunRecord) -> str:
    try:
        return (run.path / CHECKPOINTS / "latest").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _size(run: RunRecord, key: str) -> float | None:
    if key == "samples_per_second":
        return run.samples_per_second
    if key == "flops_per_sample":
        return number(run.metrics.get(key))
    return number(mapping(run.metrics.get("parameters")).get("dense" if key == "dense_parameters" else "tables"))


def format_diff(diff: RunDiff, width: int) -> str:
    """Return the differences as plain text, without a trailing newline.

    Args:
        diff: Differences of two runs.
        width: Characters that a line may have: what is longer goes on in the next line, and names of tasks are cut.
    """
    heads = [_head(letter, run) for letter, run in zip("ab", diff.runs, strict=True)]
    blocks = ["\n".join(wrapped(printable(head), width, "   ") for head in heads)]
    if verdict := diff.verdict():
        blocks.append(wrapped(verdict, width))
    if diff.configuration:
        blocks.append(_changes("configuration", diff.configuration, toml_value, width))
    if diff.environment:
        blocks.append(_changes("environment", diff.environment, str, width))
    if diff.notes:
        blocks.append("\n".join(wrapped(printable(note), width) for note in diff.notes))
    if diff.tasks:
        blocks.append(fitted(_metric_rows(diff), width))
    if diff.sizes:
        rows = [_size_row(heading, *diff.sizes[key]) for key, heading in SIZES.items() if key in diff.sizes]
        blocks.append(fitted([["size and speed", "a", "b", "b / a"], *rows], width))
    return "\n\n".join(blocks)


def diff_json(diff: RunDiff) -> str:
    """Return the differences as JSON.

    `{"a": {"path", "status", "step"}, "b": .., "verdict", "configuration": [{"key", "a", "b"}] | null, "environment":
    [{"key", "a", "b"}], "split", "tasks": {task: {metric: {"a", "b", "difference", "bound", "within_bound",
    "better"}}}, "sizes": {name: {"a", "b", "ratio"}}, "notes"}`; a key that a side lacks is null there, and so is
    what is no JSON number, such as the bound of a difference of which nothing can be said.
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
                    metric: {**one._asdict(), "difference": one.difference, "within_bound": one.within_bound}
                    for metric, one in metrics.items()
                }
                for task, metrics in diff.tasks.items()
            },
            "sizes": {key: {"a": a, "b": b, "ratio": _ratio(a, b)} for key, (a, b) in diff.sizes.items()},
            "notes": diff.notes,
        }
    )


def _head(letter: str, run: RunRecord) -> str:
    of = f" of {run.total_steps:,}" if run.total_steps not in (None, run.step) else ""
    step = f", step {run.step:,}{of}" if run.step is not None else ""
    best = f", best {run.best_step:,}" if run.best_step not in (None, run.step) else ""
    return f"{letter}  {run.path}: {run.variant or 'variant unknown'}, {run.status}{step}{best}"


def _changes(heading: str, found: Sequence[Difference], text: Callable[[Any], str], width: int) -> str:
    """Return a line `key: value in a -> value in b` for each difference; what is too long goes on below."""
    shown = ([key, *(MISSING if value is None else text(value) for value in pair)] for key, *pair in found)
    lines = (printable(f"{key}: {a} -> {b}") for key, a, b in shown)
    return "\n".join([f"{heading}, a -> b", *(wrapped(f"  {line}", width, "      ") for line in lines)])


def _metric_rows(diff: RunDiff) -> list[list[str]]:
    rows = [[diff.split, "a", "b", "b - a", "better"]]
    for task, metrics in diff.tasks.items():
        for column in METRICS:
            one = metrics.get(column.key)
            if one is None or (column.key == "samples" and not one.difference):
                continue
            values = [MISSING if value is None else column.text(value) for value in (one.a, one.b)]
            rows.append([f"{task} {column.heading}", *values, _signed(one.difference, column.text), _word(one)])
    return rows


def _signed(difference: float | None, text: Callable[[float], str]) -> str:
    if not difference:
        return MISSING if difference is None else "0"
    return ("+" if difference > 0 else "-") + text(abs(difference))


def _word(one: Compared) -> str:
    if one.within_bound and math.isinf(one.bound):
        return "not certain"
    if one.within_bound:
        return f"within the bound {one.bound:.1e}"
    return one.better or ("same" if one.difference == 0 else MISSING)


def _size_row(heading: str, a: float | None, b: float | None) -> list[str]:
    ratio = _ratio(a, b)
    values = [MISSING if value is None else short_count(round(value)) for value in (a, b)]
    return [heading, *values, MISSING if ratio is None else f"{ratio:.2f}"]


def _ratio(a: float | None, b: float | None) -> float | None:
    return number(b / a) if a and b is not None else None


def _keyed(found: Sequence[Difference]) -> list[dict[str, Any]]:
    return [{"key": key, "a": a, "b": b} for key, a, b in found]
