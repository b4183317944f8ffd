"""Sections on the results of a run: metrics, metrics of slices, calibration, and the placement of its tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ple_rec.config.metrics import METRICS, Metric
from ple_rec.reports.cells import DASH
from ple_rec.reports.charts import calibration_plot, roc_curve
from ple_rec.reports.drawing import Scale, scale_over
from ple_rec.reports.page import Panel
from ple_rec.reports.run.format import count, meanings
from ple_rec.runs.metrics import RecordedCurves, by_kind, paper_sources, present, split_tasks
from ple_rec.runs.read import RunFiles
from ple_rec.runs.results import FEW, FEW_OF_A_CLASS, caution, few_samples, slice_name
from ple_rec.text.json_values import entries, items, mapping, number
from ple_rec.text.units import joined_spans, metric_text, short_bytes

# More tables than this are folded away.
_MANY_TABLES = 24
# Headings of numbers that are no metrics, and have tables of their own.
_MORE = {
    "mean_label": "mean label",
    "mean_prediction": "mean prediction",
    "gauc_groups": "groups",
    "gauc_excluded_groups": "groups of one class",
    "gauc_oversized_groups": "groups too large",
    "gauc_ungrouped": "rows of no group",
}
_SPLIT_ORDER = ("test", "valid", "train")
_POSITIVES = Metric("positives", "positives", text="{:,.0f}".format)
# A page of 1,100 pixels has room for these columns and the papers' figures.
_COLUMNS = (*METRICS, _POSITIVES)


def results(run: RunFiles) -> dict[str, Any]:
    """Return the final results, or those of the last evaluation in the log if there are none."""
    if any(split_tasks(run.metrics, split) for split in run.metrics):
        return _results_of(run.metrics)
    last = run.log.last("valid")
    return _results_of({"valid": last}, f"{last['step']:,}") if last else _results_of({})


def _results_of(metrics: Mapping[str, Any], last_step: str = "") -> dict[str, Any]:
    """Return tables of metrics and of other numbers, for binary tasks and for regressions, and notes."""
    splits = {split: tasks for split in _results_splits(metrics) if (tasks := split_tasks(metrics, split))}
    merged: dict[str, Mapping[str, Any]] = {}
    for tasks in splits.values():
        for name, values in tasks.items():
            merged[name] = {**merged.get(name, {}), **values}
    papers = mapping(metrics.get("paper"))
    tables, others = [], []
    headings: dict[str, str] = {}
    for group in by_kind(merged):
        rows = [tasks[name] for tasks in splits.values() for name in group if name in tasks]
        known, rest = present(_COLUMNS, rows), _other_columns(rows)
        tables.append(_results_table(group, splits, known, papers))
        others += [_results_table(group, splits, rest, {})] if rest else []
        headings |= {column.key: column.heading for column in (*known, *rest)}
    sources = paper_sources(metrics, list(merged))
    notes = [source + ("" if len(sources) == 1 else f" ({', '.join(names)})") for source, names in sources.items()]
    few = [f"{split}: {line}" for split, tasks in splits.items() for line in few_samples(tasks)]
    return {
        "last_step": last_step,
        "tables": tables,
        "papers": "; ".join(notes),
        "few": few,
        "others": others,
        "meanings": meanings(headings),
    }


def _results_splits(metrics: Mapping[str, Any]) -> list[str]:
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
        papers: Metrics in papers, by task.
    """
    compared = {column.key for column in columns for name in tasks if column.key in mapping(papers.get(name))}
    heads = [head for column in columns for head in (column.heading, *["paper"] * (column.key in compared))]
    rows = []
    for name in tasks:
        shown = [split for split in splits if name in splits[split]]
        for place, split in enumerate(shown):
            values, paper = splits[split][name], mapping(papers.get(name)) if split == "test" else {}
            cells = []
            for column in columns:
                cells.append(_metric_cell(column, values))
                cells += [_metric_cell(column, paper)] * (column.key in compared)
            kind = "minor" * (place > 0) + " joined" * (place + 1 < len(shown))
            rows.append({"kind": kind.strip(), "task": "" if place else name, "split": split, "cells": cells})
    return {"heads": heads, "rows": rows}


def _other_columns(rows: Sequence[Mapping[str, Any]]) -> list[Metric]:
    """Return columns for the numbers of tasks beside metrics: those of `_MORE`, then all others."""
    metrics = {column.key for column in _COLUMNS} | {"auc_error_bound"}
    present_keys = {key for row in rows for key in row if key not in metrics and number(row[key]) is not None}
    unknown = dict.fromkeys(key for row in rows for key in row if key in present_keys and key not in _MORE)
    keys = [*(key for key in _MORE if key in present_keys), *unknown]
    return [Metric(key, _MORE.get(key, key.replace("_", " ")), text=_plain) for key in keys]


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e15 else metric_text(value)


def _metric_cell(column: Metric, values: Mapping[str, Any]) -> tuple[str, str]:
    """Return the text of a metric and its margin; a dash if it is recorded as undefined."""
    value = number(values.get(column.key))
    if value is None:
        return DASH if column.key in values else "", ""
    return column.text(value), _margin(column.key, values)


def _margin(key: str, values: Mapping[str, Any]) -> str:
    """Return the error bound of AUC, or the interval of GAUC; empty if it is not recorded."""
    bound = number(values.get("auc_error_bound")) if key == "auc" else None
    if bound:
        return f"\u00b1{bound:.0e}"
    ends = [number(end) for end in items(values.get("gauc_interval"))] if key == "gauc" else []
    low, high = ends if len(ends) == 2 else (None, None)
    return "" if low is None or high is None else f"{metric_text(low)}\u2013{metric_text(high)}"


def placement(run: RunFiles) -> dict[str, Any]:
    """Return size and ranks of every embedding table, the largest first, with a total."""
    tables = entries(run.plan.get("tables"))
    tables.sort(key=lambda entry: -(number(entry.get("bytes")) or 0))
    rows, size = (sum(number(entry.get(key)) or 0 for entry in tables) for key in ("rows", "bytes"))
    return {
        "planned": bool(run.plan),
        "tables": [_placement(entry) for entry in tables],
        "total": "1 table" if len(tables) == 1 else f"{len(tables)} tables",
        "rows": f"{rows:,.0f}",
        "size": size,
        "folded": len(tables) > _MANY_TABLES,
    }


def _placement(entry: Mapping[str, Any]) -> dict[str, Any]:
    size = number(entry.get("bytes"))
    return {
        **{key: entry.get(key, "") for key in ("table", "sharding", "kernel")},
        "rows": count(entry.get("rows")),
        "dim": count(entry.get("dim")),
        "size": DASH if size is None else short_bytes(size),
        "ranks": _ranks(entry.get("ranks")),
    }


def _ranks(value: object) -> str:
    """Return rank numbers with neighbours joined: `0-3, 8`."""
    if not isinstance(value, list):
        return "" if value is None else str(value)
    return joined_spans(rank for rank in value if isinstance(rank, int))


# More tables than this are folded by column, with the first column open.
_MANY_SLICES = 6
# The first of these that is recorded is drawn.
_MAIN = ("auc", "rmse", "mse", "ne", "logloss")
# Upper bounds of these metrics; none is below 0.
_GREATEST = {"auc": 1.0}

Values = Mapping[str, Any]


def slices(run: RunFiles) -> dict[str, Any]:
    """Return metrics by the values of every column in `evaluation.slices`."""
    split, recorded = run.evaluation_part("slices")
    columns = [column for column in entries(recorded) if entries(column.get("values"))]
    whole = split_tasks(run.metrics, split)
    values = [entry for column in columns for entry in entries(column.get("values"))]
    shown = present(METRICS, [mapping(task) for entry in values for task in mapping(entry.get("tasks")).values()])
    sliced = [_column(column, whole) for column in columns]
    return {
        "configured": bool(mapping(run.config.get("evaluation")).get("slices")),
        "split": split,
        "few": FEW,
        "few_of_a_class": FEW_OF_A_CLASS,
        "others": any(entry.get("other") for entry in values),
        "meanings": meanings({column.key: column.heading for column in shown}),
        "columns": sliced,
        "folded": sum(len(column["tables"]) for column in sliced) > _MANY_SLICES,
    }


def _column(column: Values, whole: Mapping[str, Values]) -> dict[str, Any]:
    values = entries(column.get("values"))
    tasks = dict.fromkeys(name for entry in values for name in mapping(entry.get("tasks")))
    return {
        "title": f"By {column.get('column', 'an unnamed column')}",
        "size": f"{len(values)} values, {len(tasks)} tasks",
        "tables": [_task_table(column, name, whole.get(name, {})) for name in tasks],
    }


def _task_table(column: Values, task: str, whole: Values) -> dict[str, Any]:
    """Return the slices of one column for one task; the first metric is drawn."""
    slices = [(entry, _values(entry, task)) for entry in entries(column.get("values"))]
    all_values = [whole, *(values for _, values in slices)]
    main = next((key for key in _MAIN if any(key in values for values in all_values)), None)
    shown = [c for c in present(METRICS, [values for _, values in slices]) if c.key != "samples"]
    shown.sort(key=lambda c: c.key != main)
    reference = number(whole.get(main)) if main else None
    scale = _scale([values for _, values in slices], main, reference)
    total = {"label": "whole split", "none": False, "caution": "", **_cells(whole, shown)}
    return {
        "task": task,
        "column": column.get("column", "value"),
        "heads": [c.heading for c in shown],
        "scale": scale,
        "ticks": _ticks(scale),
        "reference": reference,
        "rows": [_row(entry, values, shown, main, reference) for entry, values in slices],
        "whole": total if whole else None,
    }


def _values(entry: Values, task: str) -> Values:
    """Return a slice's metrics for one task; `samples` is the task's own count if it has one."""
    values = dict(mapping(mapping(entry.get("tasks")).get(task)))
    values.setdefault("samples", entry.get("samples"))
    return values


def _scale(slices: Sequence[Values], main: str | None, reference: float | None) -> Scale | None:
    """Return an axis over the whole split and the slices without caution, or over all slices if none is."""
    known = [(values, value) for values in slices if main and (value := number(values.get(main))) is not None]
    points = [value for values, value in known if not caution(values)] or [value for _, value in known]
    if not points:
        return None
    points += [] if reference is None else [reference]
    return scale_over(points, least=0.0, greatest=_GREATEST.get(main or "", math.inf))


def _ticks(scale: Scale | None) -> list[tuple[float, str]]:
    if scale is None:
        return []
    digits = 3 if scale.high - scale.low >= 0.02 else 4
    return [(value, f"{value:.{digits}f}") for value in (scale.low, scale.high)]


def _row(
    entry: Values, values: Values, shown: Sequence[Metric], main: str | None, reference: float | None
) -> dict[str, Any]:
    value = number(values.get(main)) if main else None
    name = "undefined" if value is None else metric_text(value)
    name += "" if reference is None else f"; whole split {metric_text(reference)}"
    return {
        "label": slice_name(entry),
        "none": entry.get("value") in (None, ""),
        "caution": caution(values),
        "value": value,
        "name": name,
        **_cells(values, shown),
    }


def _cells(values: Values, shown: Sequence[Metric]) -> dict[str, Any]:
    numbers = ((column, number(values.get(column.key))) for column in shown)
    cells = [DASH if value is None else column.text(value) for column, value in numbers]
    return {"samples": count(values.get("samples")), "cells": cells}


def calibration(run: RunFiles) -> dict[str, Any]:
    """Draw a calibration plot and an ROC curve for each task, with calibration or AUC in the caption."""
    split, recorded = run.evaluation_part("curves")
    tasks = split_tasks(run.metrics, split)
    panels = []
    for index, (task, value) in enumerate(mapping(recorded).items()):
        curves, reached = RecordedCurves.read(value), tasks.get(task, {})
        bins = [(each.predicted, each.observed, each.weight) for each in curves.calibration]
        # A number that is not recorded is NaN.
        x, y, weight = np.array(bins, dtype=float).reshape(-1, 3).T.tolist()
        plot = calibration_plot(f"calibration-{index}", f"Calibration of {task}", x, y, weight)
        roc = roc_curve(f"roc-{index}", f"ROC curve of {task}", curves.roc_points)
        panels += [] if plot is None else [Panel(task, _note("calibration", reached, "calibration"), plot)]
        panels += [] if roc is None else [Panel(task, _note("ROC, AUC", reached, "auc"), roc)]
    return {"panels": panels, "meanings": meanings({"calibration": "calibration", "auc": "AUC"})}


def _note(name: str, reached: Mapping[str, Any], key: str) -> str:
    value = number(reached.get(key))
    return name.partition(",")[0] if value is None else f"{name} {metric_text(value)}"
