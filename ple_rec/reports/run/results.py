"""Sections on the results of a run: metrics, metrics of slices, calibration, and placement of the embedding tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ple_rec.config.metrics import METRICS, Metric
from ple_rec.reports.cells import DASH
from ple_rec.reports.charts import calibration_plot, roc_curve
from ple_rec.reports.drawing import Scale, linear_scale
from ple_rec.reports.page import Panel
from ple_rec.reports.run.format import count_text, meanings
from ple_rec.runs.metrics import RecordedCurves, group_by_kind, paper_sources, present_columns, split_tasks
from ple_rec.runs.read import RunFiles
from ple_rec.runs.results import FEW_OF_A_CLASS, FEW_SAMPLES, caution, few_sample_notes, slice_name
from ple_rec.text.json_values import as_list, as_mapping, as_mappings, as_number
from ple_rec.text.units import join_spans, metric_text, short_bytes

# More tables than this are folded away.
_MANY_TABLES = 24
# Headings of numbers that are not metrics, which are in a second table.
_OTHER_HEADINGS = {
    "mean_label": "mean label",
    "mean_prediction": "mean prediction",
    "gauc_groups": "groups",
    "gauc_excluded_groups": "groups of one class",
    "gauc_oversized_groups": "groups too large",
    "gauc_ungrouped": "rows of no group",
    "subgroup_gauc_groups": "subgroups",
    "subgroup_gauc_excluded_groups": "subgroups of one class",
    "subgroup_gauc_oversized_groups": "subgroups too large",
    "subgroup_gauc_ungrouped": "rows of no subgroup",
}
_SPLIT_ORDER = ("test", "valid", "train")
_POSITIVES = Metric("positives", "positives", format_value="{:,.0f}".format)
# Columns of the main table; a page of 1,100 pixels has room for them and for the figures of papers.
_COLUMNS = (*METRICS, _POSITIVES)


def results(run: RunFiles) -> dict[str, Any]:
    """Return the final results, or those of the last evaluation in the log if there are none."""
    if any(split_tasks(run.metrics, split) for split in run.metrics):
        return _results_view(run.metrics)
    last = run.log.last("valid")
    return _results_view({"valid": last}, f"{last['step']:,}") if last else _results_view({})


def _results_view(metrics: Mapping[str, Any], last_step: str = "") -> dict[str, Any]:
    """Return tables of metrics and of other numbers, for binary tasks and for regressions, and notes.

    Args:
        metrics: Content of `metrics.json`, or one evaluation of the log under its split.
        last_step: Step of that evaluation as text; empty for final results.
    """
    splits = {split: tasks for split in _ordered_splits(metrics) if (tasks := split_tasks(metrics, split))}
    merged: dict[str, Mapping[str, Any]] = {}
    for tasks in splits.values():
        for name, values in tasks.items():
            merged[name] = {**merged.get(name, {}), **values}
    papers = as_mapping(metrics.get("paper"))
    tables, others = [], []
    headings: dict[str, str] = {}
    for group in group_by_kind(merged):
        rows = [tasks[name] for tasks in splits.values() for name in group if name in tasks]
        known, rest = present_columns(_COLUMNS, rows), _other_columns(rows)
        tables.append(_results_table(group, splits, known, papers))
        others += [_results_table(group, splits, rest, {})] if rest else []
        headings |= {column.key: column.heading for column in (*known, *rest)}
    sources = paper_sources(metrics, list(merged))
    notes = [source + ("" if len(sources) == 1 else f" ({', '.join(names)})") for source, names in sources.items()]
    few = [f"{split}: {line}" for split, tasks in splits.items() for line in few_sample_notes(tasks)]
    return {
        "last_step": last_step,
        "tables": tables,
        "papers": "; ".join(notes),
        "sample_notes": few,
        "others": others,
        "meanings": meanings(headings),
    }


def _ordered_splits(metrics: Mapping[str, Any]) -> list[str]:
    others = [name for name in metrics if name not in _SPLIT_ORDER and split_tasks(metrics, name)]
    return [*_SPLIT_ORDER, *others]


def _results_table(
    tasks: Sequence[str],
    splits: Mapping[str, Mapping[str, Mapping[str, Any]]],
    columns: Sequence[Metric],
    papers: Mapping[str, Any],
) -> dict[str, Any]:
    """Return a row per task and split, with the papers' figures beside the metrics that they have.

    Args:
        tasks: Names of the tasks.
        splits: Metrics by split and task.
        columns: Metrics in the order of the columns.
        papers: Metrics in papers, by task; they are shown beside those of the test split.
    """
    compared = {column.key for column in columns for name in tasks if column.key in as_mapping(papers.get(name))}
    heads = [head for column in columns for head in (column.heading, *["paper"] * (column.key in compared))]
    rows = []
    for name in tasks:
        task_splits = [split for split in splits if name in splits[split]]
        for place, split in enumerate(task_splits):
            values, paper = splits[split][name], as_mapping(papers.get(name)) if split == "test" else {}
            cells = []
            for column in columns:
                cells.append(_metric_cell(column, values))
                cells += [_metric_cell(column, paper)] * (column.key in compared)
            css_class = "minor" * (place > 0) + " joined" * (place + 1 < len(task_splits))
            rows.append({"css_class": css_class.strip(), "task": "" if place else name, "split": split, "cells": cells})
    return {"heads": heads, "rows": rows}


def _other_columns(rows: Sequence[Mapping[str, Any]]) -> list[Metric]:
    """Return columns for the numbers beside the metrics: those of `_OTHER_HEADINGS`, then all others."""
    metrics = {column.key for column in _COLUMNS} | {"auc_error_bound"}
    present_keys = {key for row in rows for key in row if key not in metrics and as_number(row[key]) is not None}
    unknown = dict.fromkeys(key for row in rows for key in row if key in present_keys and key not in _OTHER_HEADINGS)
    keys = [*(key for key in _OTHER_HEADINGS if key in present_keys), *unknown]
    return [Metric(key, _OTHER_HEADINGS.get(key, key.replace("_", " ")), format_value=_number_text) for key in keys]


def _number_text(value: float) -> str:
    return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e15 else metric_text(value)


def _metric_cell(column: Metric, values: Mapping[str, Any]) -> tuple[str, str]:
    """Return the text of a metric and of its margin: a dash if it is recorded as undefined, empty if it is absent."""
    value = as_number(values.get(column.key))
    if value is None:
        return DASH if column.key in values else "", ""
    return column.format_value(value), _margin(column.key, values)


def _margin(key: str, values: Mapping[str, Any]) -> str:
    """Return the error bound of AUC, or the interval of a GAUC; empty if it is not recorded."""
    bound = as_number(values.get("auc_error_bound")) if key == "auc" else None
    if bound:
        return f"\u00b1{bound:.0e}"
    ends = [as_number(end) for end in as_list(values.get(f"{key}_interval"))]
    low, high = ends if len(ends) == 2 else (None, None)
    return "" if low is None or high is None else f"{metric_text(low)}\u2013{metric_text(high)}"


def placement(run: RunFiles) -> dict[str, Any]:
    """Return size, sharding and ranks of every embedding table, the largest first, with a total."""
    tables = as_mappings(run.plan.get("tables"))
    tables.sort(key=lambda entry: -(as_number(entry.get("bytes")) or 0))
    rows, size = (sum(as_number(entry.get(key)) or 0 for entry in tables) for key in ("rows", "bytes"))
    return {
        "planned": bool(run.plan),
        "tables": [_table_row(entry) for entry in tables],
        "total": "1 table" if len(tables) == 1 else f"{len(tables)} tables",
        "rows": f"{rows:,.0f}",
        "size": size,
        "folded": len(tables) > _MANY_TABLES,
    }


def _table_row(entry: Mapping[str, Any]) -> dict[str, Any]:
    size = as_number(entry.get("bytes"))
    return {
        **{key: entry.get(key, "") for key in ("table", "sharding", "kernel")},
        "rows": count_text(entry.get("rows")),
        "dim": count_text(entry.get("dim")),
        "size": DASH if size is None else short_bytes(size),
        "ranks": _ranks_text(entry.get("ranks")),
    }


def _ranks_text(value: object) -> str:
    """Return rank numbers with neighbours joined: `0-3, 8`."""
    if not isinstance(value, list):
        return "" if value is None else str(value)
    return join_spans(rank for rank in value if isinstance(rank, int))


# More tables of slices than this are folded by column, with the first column open.
_MANY_SLICES = 6
# The first of these metrics that is recorded is drawn.
_DRAWN_METRICS = ("auc", "rmse", "mse", "ne", "logloss")
# Greatest possible values of drawn metrics; the least possible value of all of them is 0.
_UPPER_BOUNDS = {"auc": 1.0}

# JSON object of a column of slices, of one slice in it, or of the metrics of a task.
Values = Mapping[str, Any]


def slices(run: RunFiles) -> dict[str, Any]:
    """Return metrics of slices, the rows with one value of a column, for every column in `evaluation.slices`."""
    split, recorded = run.evaluation_part("slices")
    columns = [column for column in as_mappings(recorded) if as_mappings(column.get("values"))]
    metrics_by_task = split_tasks(run.metrics, split)
    values = [entry for column in columns for entry in as_mappings(column.get("values"))]
    metrics = present_columns(
        METRICS, [as_mapping(task) for entry in values for task in as_mapping(entry.get("tasks")).values()]
    )
    sliced = [_column_view(column, metrics_by_task) for column in columns]
    return {
        "configured": bool(as_mapping(run.config.get("evaluation")).get("slices")),
        "split": split,
        "few_samples": FEW_SAMPLES,
        "few_of_a_class": FEW_OF_A_CLASS,
        "others": any(entry.get("other") for entry in values),
        "meanings": meanings({column.key: column.heading for column in metrics}),
        "columns": sliced,
        "folded": sum(len(column["tables"]) for column in sliced) > _MANY_SLICES,
    }


def _column_view(column: Values, metrics_by_task: Mapping[str, Values]) -> dict[str, Any]:
    values = as_mappings(column.get("values"))
    tasks = dict.fromkeys(name for entry in values for name in as_mapping(entry.get("tasks")))
    return {
        "title": f"By {column.get('column', 'an unnamed column')}",
        "size": f"{len(values)} values, {len(tasks)} tasks",
        "tables": [_task_table(column, name, metrics_by_task.get(name, {})) for name in tasks],
    }


def _task_table(column: Values, task: str, split_metrics: Values) -> dict[str, Any]:
    """Return a table with the metrics of one task by the values of one column; one metric is also drawn."""
    slices = [(entry, _slice_metrics(entry, task)) for entry in as_mappings(column.get("values"))]
    all_values = [split_metrics, *(values for _, values in slices)]
    drawn_metric = next((key for key in _DRAWN_METRICS if any(key in values for values in all_values)), None)
    columns = [c for c in present_columns(METRICS, [values for _, values in slices]) if c.key != "samples"]
    columns.sort(key=lambda c: c.key != drawn_metric)
    reference = as_number(split_metrics.get(drawn_metric)) if drawn_metric else None
    scale = _scale([values for _, values in slices], drawn_metric, reference)
    total = {"label": "whole split", "has_no_value": False, "caution": "", **_slice_cells(split_metrics, columns)}
    return {
        "task": task,
        "column": column.get("column", "value"),
        "heads": [c.heading for c in columns],
        "scale": scale,
        "ticks": _ticks(scale),
        "reference": reference,
        "rows": [_slice_row(entry, values, columns, drawn_metric, reference) for entry, values in slices],
        "whole_split": total if split_metrics else None,
    }


def _slice_metrics(entry: Values, task: str) -> Values:
    """Return the metrics of one task on a slice; `samples` is the number of the task if it is recorded."""
    values = dict(as_mapping(as_mapping(entry.get("tasks")).get(task)))
    values.setdefault("samples", entry.get("samples"))
    return values


def _scale(slices: Sequence[Values], drawn_metric: str | None, reference: float | None) -> Scale | None:
    """Return an axis for the whole split and the slices with reliable metrics, or for all slices if none has them."""
    known = [
        (values, value)
        for values in slices
        if drawn_metric and (value := as_number(values.get(drawn_metric))) is not None
    ]
    points = [value for values, value in known if not caution(values)] or [value for _, value in known]
    if not points:
        return None
    points += [] if reference is None else [reference]
    return linear_scale(points, least=0.0, greatest=_UPPER_BOUNDS.get(drawn_metric or "", math.inf))


def _ticks(scale: Scale | None) -> list[tuple[float, str]]:
    if scale is None:
        return []
    digits = 3 if scale.high - scale.low >= 0.02 else 4
    return [(value, f"{value:.{digits}f}") for value in (scale.low, scale.high)]


def _slice_row(
    entry: Values, values: Values, columns: Sequence[Metric], drawn_metric: str | None, reference: float | None
) -> dict[str, Any]:
    value = as_number(values.get(drawn_metric)) if drawn_metric else None
    name = "undefined" if value is None else metric_text(value)
    name += "" if reference is None else f"; whole split {metric_text(reference)}"
    return {
        "label": slice_name(entry),
        "has_no_value": entry.get("value") in (None, ""),
        "caution": caution(values),
        "value": value,
        "name": name,
        **_slice_cells(values, columns),
    }


def _slice_cells(values: Values, columns: Sequence[Metric]) -> dict[str, Any]:
    numbers = ((column, as_number(values.get(column.key))) for column in columns)
    cells = [DASH if value is None else column.format_value(value) for column, value in numbers]
    return {"samples": count_text(values.get("samples")), "cells": cells}


def calibration(run: RunFiles) -> dict[str, Any]:
    """Draw a calibration plot and an ROC curve for each task, with its calibration or AUC in the caption."""
    split, recorded = run.evaluation_part("curves")
    tasks = split_tasks(run.metrics, split)
    panels = []
    for index, (task, value) in enumerate(as_mapping(recorded).items()):
        curves, task_metrics = RecordedCurves.read(value), tasks.get(task, {})
        bins = [(each.predicted, each.observed, each.weight) for each in curves.calibration]
        # A number that is not recorded is NaN.
        x, y, weight = np.array(bins, dtype=float).reshape(-1, 3).T.tolist()
        plot = calibration_plot(f"calibration-{index}", f"Calibration of {task}", x, y, weight)
        roc = roc_curve(f"roc-{index}", f"ROC curve of {task}", curves.roc_points)
        panels += [] if plot is None else [Panel(task, _caption_note("calibration", task_metrics, "calibration"), plot)]
        panels += [] if roc is None else [Panel(task, _caption_note("ROC, AUC", task_metrics, "auc"), roc)]
    return {"panels": panels, "meanings": meanings({"calibration": "calibration", "auc": "AUC"})}


def _caption_note(name: str, task_metrics: Mapping[str, Any], key: str) -> str:
    """Return `name` with the value of a metric; without the value, only what stands before a comma in `name`."""
    value = as_number(task_metrics.get(key))
    return name.partition(",")[0] if value is None else f"{name} {metric_text(value)}"
