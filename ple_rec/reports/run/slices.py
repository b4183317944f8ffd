"""The section on the metrics of parts of a split: a table per column and task, beside the whole split's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ple_rec.config.metrics import METRICS, Metric
from ple_rec.reports.numbers import DASH
from ple_rec.reports.run.meanings import meanings
from ple_rec.reports.run.numbers import count
from ple_rec.reports.strips import Scale, scale_over
from ple_rec.runs.read import RunFiles
from ple_rec.runs.results import (
    FEW,
    FEW_OF_A_CLASS,
    caution,
    entries,
    mapping,
    number,
    present,
    slice_name,
    split_tasks,
)
from ple_rec.text.units import metric_text

_MANY_TABLES = 6  # more than this: one fold per column, the first open
_MAIN = ("auc", "rmse", "mse", "ne", "logloss")  # the first of these that is there is drawn
_GREATEST = {"auc": 1.0}  # what a drawn metric can be at most; none is below 0

Values = Mapping[str, Any]


def slices(run: RunFiles) -> dict[str, Any]:
    """Return metrics by the values of every column that the configuration names."""
    split, recorded = run.evaluated("slices")
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
        "folded": sum(len(column["tables"]) for column in sliced) > _MANY_TABLES,
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
    """Return the slices of one column for one task; the first metric is the one that is drawn."""
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
    """Return a slice's metrics for one task; `samples` is the task's own count where it has one."""
    values = dict(mapping(mapping(entry.get("tasks")).get(task)))
    values.setdefault("samples", entry.get("samples"))
    return values


def _scale(slices: Sequence[Values], main: str | None, reference: float | None) -> Scale | None:
    """Return an axis over the whole split and the slices that can be trusted, else over all."""
    known = [(values, value) for values in slices if main and (value := number(values.get(main))) is not None]
    kept = [value for values, value in known if not caution(values)] or [value for _, value in known]
    if not kept:
        return None
    kept += [] if reference is None else [reference]
    return scale_over(kept, least=0.0, greatest=_GREATEST.get(main or "", math.inf))


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
    found = ((column, number(values.get(column.key))) for column in shown)
    cells = [DASH if value is None else column.text(value) for column, value in found]
    return {"samples": count(values.get("samples")), "cells": cells}
