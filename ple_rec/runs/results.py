"""`metrics.json` of a run: readers of its parts, and the final metrics as a table of plain text.

A file may be of another version, or damaged. So a field that is absent, or not what it should be, has its default, and
a number that is not finite is None.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)

from ple_rec.config.metrics import METRICS, SAMPLES, Metric
from ple_rec.runs.warnings import SCALE, Dominant
from ple_rec.text import aligned, cut, printable
from ple_rec.text.units import metric_text

MISSING = "-"
FEW = 100  # samples below which a slice's metrics say little
FEW_OF_A_CLASS = 20  # positives, or negatives, below which they say little: the error of AUC is theirs
FEW_GROUPS = 30  # groups below which GAUC says little
_WORSE = 1.01  # times the loss of a constant, above which a task is told of
LONGEST_NAME = 40  # characters
_BETTER = (
    "look at its curves in report.html: where valid rises while train falls, stop earlier (early_stopping) or take a "
    "smaller embeddings.dim; where both still fall, train longer; where it jumps, lower the learning rates"
)


def mapping(value: object) -> Mapping[str, Any]:
    """`value` where it is a mapping, else an empty one: a part of `metrics.json` may be absent or null."""
    return value if isinstance(value, Mapping) else {}


def number(value: object) -> float | None:
    """`value` where it is a finite number, else None: a metric is null where it is undefined (one class only)."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        found = float(value)
    except OverflowError:  # an integer beyond every float
        return None
    return found if math.isfinite(found) else None


def items(value: object) -> list[Any]:
    """Return the elements of a list; none where `value` is no list, as in a damaged file."""
    return list(value) if isinstance(value, list) else []


def entries(value: object) -> list[Mapping[str, Any]]:
    """Return the elements of a list as mappings, an odd one being empty; none where `value` is no list."""
    return [mapping(element) for element in items(value)]


def split_tasks(metrics: Mapping[str, Any], split: str) -> dict[str, Mapping[str, Any]]:
    """The metrics of every task on one split, in the order of `metrics.json`."""
    return {name: mapping(values) for name, values in mapping(mapping(metrics.get(split)).get("tasks")).items()}


def by_kind(tasks: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Task names in groups that share columns: first those with binary metrics, then regressions; no empty group."""
    regressions = [name for name, values in tasks.items() if "mse" in values]
    binaries = [name for name in tasks if name not in regressions]
    return [group for group in (binaries, regressions) if group]


def present(columns: Sequence[Metric], rows: Sequence[Mapping[str, Any]]) -> list[Metric]:
    """The columns that at least one row knows of, even where its value is null."""
    return [column for column in columns if any(column.key in row for row in rows)]


def paper_sources(metrics: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, list[str]]:
    """Where the paper's figures come from ("PLE, Table 5"), each with the tasks that it serves."""
    sources: dict[str, list[str]] = {}
    for name in tasks:
        entry = mapping(mapping(metrics.get("paper")).get(name))
        parts = [str(entry[key]) for key in ("model", "table") if entry.get(key)]
        if parts:
            sources.setdefault(", ".join(parts), []).append(name)
    return sources


def format_results(metrics: Mapping[str, Any], split: str = "test", dominant: Dominant | None = None) -> str:
    """The results of one split as aligned plain text, one line per task.

        test            AUC   paper      NE  log loss  calibration  samples
        income       0.9583  0.9522  0.5712    0.1216       1.0041   49,881
        paper: PLE, Table 5

    Binary and regression tasks stand in blocks of their own; a metric that is undefined (one class only) is `-`. The
    paper's figure stands to the right of the metric that it compares with. Slices follow, a block for each column.

    Args:
        metrics: The content of `metrics.json`; any part may be absent.
        split: Which split to show.
        dominant: Task that was nearly the whole loss at the end of training, where one was.

    Returns:
        Text without a trailing newline; one sentence where the split has no metrics.
    """
    tasks = split_tasks(metrics, split)
    if not tasks:
        return f"{split}: no metrics"
    # The paper's figures are of its test data.
    paper = {name: mapping(entry) for name, entry in mapping(metrics.get("paper")).items() if split == "test"}
    blocks = []
    for group in by_kind(tasks):
        rows = [tasks[name] for name in group]
        papers = [paper.get(name, {}) for name in group]
        cells = [[split], *([plain_name(name)] for name in group)]
        for column in present(METRICS, rows):
            _append(cells, column.heading, column, rows)
            if any(column.key in paper for paper in papers):
                _append(cells, "paper", column, papers)
        blocks.append("\n".join(aligned(cells)))
    slices = [f"\n{_slice_block(mapping(entry), tasks)}" for entry in mapping(metrics.get(split)).get("slices") or []]
    notes = [*_footnotes(paper, tasks), *few_samples(tasks), *slices, *_worse_than_constant(tasks, split, dominant)]
    return "\n".join(["\n\n".join(blocks), *notes])


def few_samples(tasks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a line for each task whose figures say little, with the reason."""
    found = []
    for name, values in tasks.items():
        groups = number(values.get("gauc_groups")) if number(values.get("gauc")) is not None else None
        if reason := caution(values):
            found.append(f"{plain_name(name)}: {reason}; its figures say little")
        elif groups is not None and groups < FEW_GROUPS:
            found.append(f"{plain_name(name)}: few groups: {groups:,.0f}; its GAUC says little")
    return found


def _worse_than_constant(tasks: Mapping[str, Mapping[str, Any]], split: str, dominant: Dominant | None) -> list[str]:
    """Warn of each task whose loss exceeds that of the best constant prediction by more than 1 %.

    Where one task is nearly the whole loss, the others have hardly learnt: the scale of its label is what to mend. Only
    final results are held to it: a task of rare positives, or of a mean far from 0, begins far above its constant.
    """
    fix = _BETTER
    if dominant is not None:
        fix = f"{plain_name(dominant.name)} is {dominant.share:.2%} of the loss: {SCALE}"
    warnings = []
    for name, values in tasks.items():
        if "mse" in values:
            what, loss, constant, r2 = "MSE", number(values["mse"]), "mean", number(values.get("r2"))
            ratio = None if r2 is None else 1 - r2
        else:
            what, loss, constant = "log loss", number(values.get("logloss")), "rate"
            ratio = number(values.get("ne"))
        if ratio is not None and loss is not None and ratio > _WORSE:
            own, best = metric_text(loss), metric_text(loss / ratio)
            warnings.append(
                f"warning: {plain_name(name)}: {what} {own} on {split} is above the {best} of always predicting its "
                f"{constant} there. Fix: {fix}"
            )
    return warnings


def plain_name(name: object) -> str:
    """A name from data as `printable` text of at most `LONGEST_NAME` characters."""
    return cut(printable(str(name)), LONGEST_NAME)


_NO_VALUE = {"missing": "(missing)", "other": "(other)", "null": "(no value)", "empty": "(empty text)"}


def slice_name(entry: Mapping[str, Any]) -> str:
    """How the value of a slice reads: as `plain_name`; what is no value in parentheses, a value like that in quotes."""
    for flag in ("missing", "other"):
        if entry.get(flag):
            return _NO_VALUE[flag]
    value = entry.get("value")
    if value is None or value == "":
        return _NO_VALUE["null" if value is None else "empty"]
    text = plain_name(str(value).lower() if isinstance(value, bool) else value)
    return f'"{text}"' if text in _NO_VALUE.values() or text[0] == '"' else text


def _slice_block(slices: Mapping[str, Any], tasks: Mapping[str, Mapping[str, Any]]) -> str:
    """The first metric of every task by the values of one column, e.g. `by sex  samples  income AUC`."""
    values = [mapping(entry) for entry in slices.get("values") or []]
    cells = [[f"by {plain_name(slices.get('column'))}"], *([slice_name(entry)] for entry in values)]
    _append(cells, "samples", SAMPLES, values)
    for name, whole in tasks.items():
        for column in present(METRICS, [whole])[:1]:
            rows = [mapping(mapping(entry.get("tasks")).get(name)) for entry in values]
            _append(cells, f"{plain_name(name)} {column.heading}", column, rows)
            marks = [
                "*" if line[-1] != MISSING and caution(row) else "" for line, row in zip(cells[1:], rows, strict=True)
            ]
            for line, mark in zip(cells[1:], marks, strict=True):
                line[-1] += mark or " " * any(marks)
    lines = aligned(cells)
    if any("*" in cell for line in cells[1:] for cell in line[2:]):
        lines.append(f"* fewer than {FEW} samples, or than {FEW_OF_A_CLASS} of a class: says little")
    return "\n".join(lines)


def caution(values: Mapping[str, Any]) -> str:
    """Why a task's metrics on a slice say little; empty where they do say something."""
    samples, positives = number(values.get("samples")), number(values.get("positives"))
    if samples == 0:
        return "no samples"
    if positives is not None and positives in (0, samples):
        return "one class only"
    if "auc" in values and number(values["auc"]) is None:
        return "AUC undefined"
    if samples is not None and samples < FEW:
        return "few samples"
    if samples is not None and positives is not None and min(positives, samples - positives) < FEW_OF_A_CLASS:
        rare, name = min((positives, "positive"), (samples - positives, "negative"))
        return f"few samples: {rare:.0f} {name}{'s' * (rare != 1)}"
    return ""


def _append(cells: list[list[str]], heading: str, column: Metric, rows: Sequence[Mapping[str, Any]]) -> None:
    cells[0].append(heading)
    for line, row in zip(cells[1:], rows, strict=True):
        value = number(row.get(column.key))
        line.append(MISSING if value is None else column.text(value))


def _footnotes(paper: Mapping[str, Any], tasks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    sources = paper_sources({"paper": paper}, list(tasks))
    notes = [
        f"paper: {printable(source)}" + (f" ({', '.join(map(plain_name, names))})" if len(sources) > 1 else "")
        for source, names in sources.items()
    ]
    bounds = {name: number(values.get("auc_error_bound")) or 0.0 for name, values in tasks.items()}
    inexact = [f"{plain_name(name)} +-{bound:.1e}" for name, bound in bounds.items() if bound > 0]
    if inexact:
        notes.append(f"AUC from a histogram, error at most: {', '.join(inexact)}")
    if grouped := [f"{plain_name(name)} {_groups(found)}" for name, found in tasks.items() if "gauc_groups" in found]:
        notes.append(f"GAUC over groups with both classes: {'; '.join(grouped)}")
    return notes


def _groups(values: Mapping[str, Any]) -> str:
    """`1,203 (without 17 of one class and 4 rows of no group), within 0.6100 to 0.6300`."""
    reasons = (
        ("gauc_excluded_groups", "of one class"),
        ("gauc_oversized_groups", "too large for the sample"),
        ("gauc_ungrouped", "rows of no group"),
    )
    left_out = [f"{number(values.get(key)):,.0f} {what}" for key, what in reasons if number(values.get(key))]
    text = f"{number(values['gauc_groups']) or 0:,.0f}" + (f" (without {' and '.join(left_out)})" if left_out else "")
    span = values.get("gauc_interval")
    return text + (f", within {metric_text(span[0])} to {metric_text(span[1])}" if span else "")


Number = Annotated[float | None, BeforeValidator(number)]
Names = Annotated[list[str], BeforeValidator(lambda value: list(map(str, items(value))))]
Numbers = Annotated[list[Number], BeforeValidator(items)]
Rows = Annotated[list[Numbers], BeforeValidator(items)]


class Recorded(BaseModel):
    """A part of a file that a run wrote."""

    model_config = ConfigDict(frozen=True)

    @field_validator("*", mode="wrap")
    @classmethod
    def _or_default(cls, value: object, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> object:
        try:
            return handler(value)
        except ValidationError:
            assert info.field_name is not None
            return cls.model_fields[info.field_name].get_default(call_default_factory=True)

    @classmethod
    def read(cls, value: object) -> Self:
        """Return the part that a value is; one without anything where it is no object."""
        return cls.model_validate(mapping(value))

    @classmethod
    def read_all(cls, value: object) -> list[Self]:
        """Return the parts of a list; none where the value is no list."""
        return [cls.model_validate(entry) for entry in entries(value)]


class TableHealth(Recorded):
    """What training did to the rows of an embedding table; `training/table_health.py` says what each number is."""

    table: str = ""
    rows: Number = None
    dim: Number = None
    never_touched: Number = None
    norms: dict[float, Number] | None = None
    lookups: Number = None
    top_share: Number = None


class GateLevel(Recorded):
    """The weights A of one level: (outputs, experts), None where an output does not read an expert."""

    level: int | str = ""
    mixing: str = "softmax"
    outputs: Names = []
    experts: Names = []
    mean: Rows = []
    std: Rows = []


class CalibrationBin(Recorded):
    """A bin of predictions: their mean, the mean of the labels, and the weight of the rows."""

    predicted: Number = None
    observed: Number = None
    weight: Number = None


class Curves(Recorded):
    """The curves of a binary task."""

    calibration: Annotated[list[CalibrationBin], BeforeValidator(entries)] = []
    roc: Rows = []

    @property
    def roc_points(self) -> list[list[float]]:
        """Pairs of false-positive and true-positive rate, those that are whole."""
        points = [[value for value in point if value is not None] for point in self.roc]
        return [point for point in points if len(point) == 2]
