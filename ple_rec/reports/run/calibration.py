"""The section on the predicted rates of every binary task: calibration, and ROC curve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ple_rec.reports.charts import calibration_plot, roc_curve
from ple_rec.reports.page import Panel
from ple_rec.reports.run.meanings import meanings
from ple_rec.text.units import metric_text
from ple_rec.train.results import entries, items, mapping, number, split_tasks
from ple_rec.train.run_files import RunFiles


def calibration(run: RunFiles) -> dict[str, Any]:
    """Draw two panels per task, with the figure that each of them comes to in its caption."""
    split, recorded = run.evaluated("curves")
    tasks = split_tasks(run.metrics, split)
    panels = []
    for index, (task, value) in enumerate(mapping(recorded).items()):
        curves, reached = mapping(value), tasks.get(task, {})
        buckets = entries(curves.get("calibration"))
        columns = [[number(bucket.get(key)) for bucket in buckets] for key in ("predicted", "observed", "weight")]
        x, y, weight = ([np.nan if v is None else v for v in column] for column in columns)
        plot = calibration_plot(f"calibration-{index}", f"Calibration of {task}", x, y, weight)
        roc = roc_curve(f"roc-{index}", f"ROC curve of {task}", _points(curves.get("roc")))
        panels += [] if plot is None else [Panel(task, _note("calibration", reached, "calibration"), plot)]
        panels += [] if roc is None else [Panel(task, _note("ROC, AUC", reached, "auc"), roc)]
    return {"panels": panels, "meanings": meanings({"calibration": "calibration", "auc": "AUC"})}


def _points(value: object) -> list[list[float]]:
    """Return the (false-positive, true-positive) pairs of a recorded ROC curve, those that are whole."""
    pairs = [[found for entry in items(point) if (found := number(entry)) is not None] for point in items(value)]
    return [pair for pair in pairs if len(pair) == 2]


def _note(name: str, reached: Mapping[str, Any], key: str) -> str:
    value = number(reached.get(key))
    return name.partition(",")[0] if value is None else f"{name} {metric_text(value)}"
