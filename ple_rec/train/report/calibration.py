"""The section on the predicted rates of every binary task: calibration, and ROC curve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ple_rec.html.markup import absent, figure
from ple_rec.text.units import metric_text
from ple_rec.train.report.charts import calibration_plot, roc_curve
from ple_rec.train.report.lenient import entries, items
from ple_rec.train.report.meanings import meanings
from ple_rec.train.report.run_files import RunFiles
from ple_rec.train.results import mapping, number, split_tasks

_LEAD = (
    "<p>Calibration: each dot is a bucket of predictions, its area the bucket's weight; the dashed diagonal is "
    "perfect. Where rates are tiny the axes are logarithmic, and a hollow triangle is a bucket without a positive. "
    "ROC: the dashed diagonal is chance.</p>"
)


def calibration(run: RunFiles) -> str:
    """Two panels per task, with the figure that each of them comes to in its caption."""
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
        panels += [
            figure(task, _note("calibration", reached, "calibration"), plot),
            figure(task, _note("ROC, AUC", reached, "auc"), roc),
        ]
    if not any(panels):
        return absent("Not recorded.")
    explained = meanings({"calibration": "calibration", "auc": "AUC"})
    return f'{_LEAD}{explained}<div class="panels square">{"".join(panels)}</div>'


def _points(value: object) -> list[list[float]]:
    """The (false-positive, true-positive) pairs of a recorded ROC curve, those that are whole."""
    pairs = [[found for entry in items(point) if (found := number(entry)) is not None] for point in items(value)]
    return [pair for pair in pairs if len(pair) == 2]


def _note(name: str, reached: Mapping[str, Any], key: str) -> str:
    value = number(reached.get(key))
    return name.partition(",")[0] if value is None else f"{name} {metric_text(value)}"
