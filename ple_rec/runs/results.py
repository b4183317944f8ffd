"""Final metrics of a run as tables of plain text, and the limits below which a metric is unreliable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ple_rec.config.metrics import GAUCS, METRICS, SAMPLES, Metric
from ple_rec.runs.metrics import group_by_kind, paper_sources, present_columns, split_tasks
from ple_rec.runs.warnings import LABEL_SCALE_FIX, Dominant
from ple_rec.text import align_columns, cut_middle, printable
from ple_rec.text.json_values import as_mapping, as_number
from ple_rec.text.units import metric_text

# Text of a missing value.
MISSING = "-"
# With fewer samples, the metrics of a task are too uncertain, on a split or on a slice of it.
FEW_SAMPLES = 100
# With fewer positives or negatives, AUC is too uncertain.
FEW_OF_A_CLASS = 20
# With fewer groups, GAUC is too uncertain.
FEW_GROUPS = 30
# Heading of each GAUC by its key.
_GAUC_HEADINGS = {metric.key: metric.heading for metric in METRICS if metric.key in GAUCS}
# A task gets a warning if its loss is more than this many times that of the best constant prediction.
_WORSE_RATIO = 1.01
# Largest number of characters of a name; a longer one is cut.
LONGEST_NAME = 40
_ADVICE = (
    "look at its curves in report.html: where valid rises while train falls, stop earlier (early_stopping) or take a "
    "smaller embeddings.dim; where both still fall, train longer; where it jumps, lower the learning rates"
)


def format_results(metrics: Mapping[str, Any], split: str = "test", dominant: Dominant | None = None) -> str:
    """Return the results of one split as aligned plain text, one line per task.

        test            AUC   paper      NE  log loss  calibration  samples
        income       0.9583  0.9522  0.5712    0.1216       1.0041   49,881
        paper: PLE, Table 5

    Binary tasks and regressions have separate blocks. An undefined metric is `-`, for example AUC of a single class.
    The paper's figure is in the column after its metric. Notes follow, and metrics of slices, which are the rows with
    one value of a column: a block for each column.

    Args:
        metrics: Content of `metrics.json`; any part may be missing.
        split: Split to show.
        dominant: Task that was nearly the whole loss at the end of training; None if there was none.

    Returns:
        Text without a trailing newline; one sentence if the split has no metrics.
    """
    tasks = split_tasks(metrics, split)
    if not tasks:
        return f"{split}: no metrics"
    # The paper reports figures on test data only.
    paper = {name: as_mapping(entry) for name, entry in as_mapping(metrics.get("paper")).items() if split == "test"}
    blocks = []
    for group in group_by_kind(tasks):
        rows = [tasks[name] for name in group]
        papers = [paper.get(name, {}) for name in group]
        cells = [[split], *([plain_name(name)] for name in group)]
        for column in present_columns(METRICS, rows):
            _append_column(cells, column.heading, column, rows)
            if any(column.key in paper for paper in papers):
                _append_column(cells, "paper", column, papers)
        blocks.append("\n".join(align_columns(cells)))
    slices = [
        f"\n{_slice_block(as_mapping(entry), tasks)}" for entry in as_mapping(metrics.get(split)).get("slices") or []
    ]
    notes = [
        *_footnotes(paper, tasks, as_mapping(metrics.get("gauc_by"))),
        *few_sample_notes(tasks),
        *slices,
        *_worse_than_constant(tasks, split, dominant),
    ]
    return "\n".join(["\n\n".join(blocks), *notes])


def few_sample_notes(tasks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a note for each task whose metrics are unreliable, or whose GAUC has too few groups."""
    lines = []
    for name, values in tasks.items():
        if reason := caution(values):
            lines.append(f"{plain_name(name)}: {reason}; its figures say little")
            continue
        for key, heading in _GAUC_HEADINGS.items():
            groups = as_number(values.get(f"{key}_groups")) if as_number(values.get(key)) is not None else None
            if groups is not None and groups < FEW_GROUPS:
                lines.append(f"{plain_name(name)}: few groups: {groups:,.0f}; its {heading} says little")
    return lines


def _worse_than_constant(tasks: Mapping[str, Mapping[str, Any]], split: str, dominant: Dominant | None) -> list[str]:
    """Return a warning for each task whose loss exceeds that of the best constant prediction by more than 1 %.

    If one task is nearly the whole loss, the others hardly learn, so the warning suggests another scale of its label.
    Only final results are checked, since early in training the loss of a rare task is far above that of a constant.
    """
    fix = _ADVICE
    if dominant is not None:
        fix = f"{plain_name(dominant.name)} is {dominant.share:.2%} of the loss: {LABEL_SCALE_FIX}"
    warnings = []
    for name, values in tasks.items():
        if "mse" in values:
            metric, loss, constant, r2 = "MSE", as_number(values["mse"]), "mean", as_number(values.get("r2"))
            ratio = None if r2 is None else 1 - r2
        else:
            metric, loss, constant = "log loss", as_number(values.get("logloss")), "rate"
            ratio = as_number(values.get("ne"))
        if ratio is not None and loss is not None and ratio > _WORSE_RATIO:
            own, best = metric_text(loss), metric_text(loss / ratio)
            warnings.append(
                f"warning: {plain_name(name)}: {metric} {own} on {split} is above the {best} of always predicting its "
                f"{constant} there. Fix: {fix}"
            )
    return warnings


def plain_name(name: object) -> str:
    """Return a name from data as printable text of at most `LONGEST_NAME` characters."""
    return cut_middle(printable(str(name)), LONGEST_NAME)


_NO_VALUE = {"missing": "(missing)", "other": "(other)", "null": "(no value)", "empty": "(empty text)"}


def slice_name(entry: Mapping[str, Any]) -> str:
    """Return the text of a slice's value: `(missing)`, `(other)`, `(no value)`, `(empty text)` or its `plain_name`.

    A value that equals one of these texts, or begins with a quote, is put in quotes.
    """
    for flag in ("missing", "other"):
        if entry.get(flag):
            return _NO_VALUE[flag]
    value = entry.get("value")
    if value is None or value == "":
        return _NO_VALUE["null" if value is None else "empty"]
    text = plain_name(str(value).lower() if isinstance(value, bool) else value)
    return f'"{text}"' if text in _NO_VALUE.values() or text[0] == '"' else text


def _slice_block(slices: Mapping[str, Any], tasks: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a table, such as `by sex  samples  income AUC`: a row for each value of a column of the dataset.

    A row has the number of samples and the first metric of every task. A star marks an unreliable metric.
    """
    values = [as_mapping(entry) for entry in slices.get("values") or []]
    cells = [[f"by {plain_name(slices.get('column'))}"], *([slice_name(entry)] for entry in values)]
    _append_column(cells, "samples", SAMPLES, values)
    for name, task_metrics in tasks.items():
        for column in present_columns(METRICS, [task_metrics])[:1]:
            rows = [as_mapping(as_mapping(entry.get("tasks")).get(name)) for entry in values]
            _append_column(cells, f"{plain_name(name)} {column.heading}", column, rows)
            marks = [
                "*" if line[-1] != MISSING and caution(row) else "" for line, row in zip(cells[1:], rows, strict=True)
            ]
            for line, mark in zip(cells[1:], marks, strict=True):
                line[-1] += mark or " " * any(marks)
    lines = align_columns(cells)
    if any("*" in cell for line in cells[1:] for cell in line[2:]):
        lines.append(f"* fewer than {FEW_SAMPLES} samples, or than {FEW_OF_A_CLASS} of a class: says little")
    return "\n".join(lines)


def caution(values: Mapping[str, Any]) -> str:
    """Return the reason why the metrics of a task are unreliable; empty if they are reliable."""
    samples, positives = as_number(values.get("samples")), as_number(values.get("positives"))
    if samples == 0:
        return "no samples"
    if positives is not None and positives in (0, samples):
        return "one class only"
    if "auc" in values and as_number(values["auc"]) is None:
        return "AUC undefined"
    if samples is not None and samples < FEW_SAMPLES:
        return "few samples"
    if samples is not None and positives is not None and min(positives, samples - positives) < FEW_OF_A_CLASS:
        rare, name = min((positives, "positive"), (samples - positives, "negative"))
        return f"few samples: {rare:.0f} {name}{'s' * (rare != 1)}"
    return ""


def _append_column(cells: list[list[str]], heading: str, column: Metric, rows: Sequence[Mapping[str, Any]]) -> None:
    cells[0].append(heading)
    for line, row in zip(cells[1:], rows, strict=True):
        value = as_number(row.get(column.key))
        line.append(MISSING if value is None else column.format_value(value))


def _footnotes(
    paper: Mapping[str, Any], tasks: Mapping[str, Mapping[str, Any]], gauc_by: Mapping[str, Any]
) -> list[str]:
    sources = paper_sources({"paper": paper}, list(tasks))
    notes = [
        f"paper: {printable(source)}" + (f" ({', '.join(map(plain_name, names))})" if len(sources) > 1 else "")
        for source, names in sources.items()
    ]
    errors = {name: as_number(values.get("auc_error_bound")) or 0.0 for name, values in tasks.items()}
    inexact = [f"{plain_name(name)} +-{error:.1e}" for name, error in errors.items() if error > 0]
    if inexact:
        notes.append(f"AUC from a histogram, error at most: {', '.join(inexact)}")
    for key, heading in _GAUC_HEADINGS.items():
        grouped = [
            f"{plain_name(name)} {_groups(values, key)}" for name, values in tasks.items() if f"{key}_groups" in values
        ]
        if grouped:
            by = f" by {printable(str(gauc_by[key]))}" if key in gauc_by else ""
            notes.append(f"{heading}{by} over groups with both classes: {'; '.join(grouped)}")
    return notes


def _groups(values: Mapping[str, Any], metric: str) -> str:
    """Return `1,203 (without 17 of one class and 4 rows of no group), within 0.6100 to 0.6300` for a task.

    Args:
        values: Metrics of the task.
        metric: Key of a GAUC.
    """
    reasons = (
        (f"{metric}_excluded_groups", "of one class"),
        (f"{metric}_oversized_groups", "too large for the sample"),
        (f"{metric}_ungrouped", "rows of no group"),
    )
    left_out = [f"{as_number(values.get(key)):,.0f} {reason}" for key, reason in reasons if as_number(values.get(key))]
    text = f"{as_number(values[f'{metric}_groups']) or 0:,.0f}" + (
        f" (without {' and '.join(left_out)})" if left_out else ""
    )
    span = values.get(f"{metric}_interval")
    return text + (f", within {metric_text(span[0])} to {metric_text(span[1])}" if span else "")
