"""The section on the predicted rates of every binary task: calibration, and ROC curve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ple_rec.reports.charts import calibration_plot, roc_curve
from ple_rec.reports.page import Panel
from ple_rec.reports.run.meanings import meanings
from ple_rec.runs.metrics import Curves
from ple_rec.runs.read import RunFiles
from ple_rec.runs.results import mapping, number, split_tasks
from ple_rec.text.units import metric_text


def calibration(run: RunFiles) -> dict[str, Any]:
    """Draw two panels per task, with the figure that each of them comes to in its caption."""
    split, recorded = run.evaluated("curves")
    tasks = split_tasks(run.metrics, split)
    panels = []
    for index, (task, value) in enumerate(mapping(recorded).items()):
        curves, reached = Curves.read(value), tasks.get(task, {})
        bins = [(each.predicted, each.observed, each.weight) for each in curves.calibration]
        x, y, weight = np.array(bins, dtype=float).reshape(-1, 3).T.tolist()  # NaN where one is not recorded
        plot = calibration_plot(f"calibration-{index}", f"Calibration of {task}", x, y, weight)
        roc = roc_curve(f"roc-{index}", f"ROC curve of {task}", curves.roc_points)
        panels += [] if plot is None else [Panel(task, _note("calibration", reached, "calibration"), plot)]
        panels += [] if roc is None else [Panel(task, _note("ROC, AUC", reached, "auc"), roc)]
    return {"panels": panels, "meanings": meanings({"calibration": "calibration", "auc": "AUC"})}


def _note(name: str, reached: Mapping[str, Any], key: str) -> str:
    value = number(reached.get(key))
    return name.partition(",")[0] if value is None else f"{name} {metric_text(value)}"
