"""The sections of the run report that draw the log over steps: learning curves, and throughput."""

from __future__ import annotations

from typing import Any

import numpy as np

from ple_rec.reports.charts import learning_curve, over_steps
from ple_rec.reports.page import Panel
from ple_rec.reports.run.meanings import meanings
from ple_rec.runs.read import RunFiles, Series
from ple_rec.text.units import metric_text

# Caption, key in the training records, keys in the evaluations of which the first present is drawn. An evaluation knows
# no Huber loss: a regression's loss stands beside an MSE only where it is one.
CURVES = (
    ("Loss", "loss", ("loss", "logloss")),
    ("MSE", "mse", ("mse",)),
    ("NE", "ne", ("ne",)),
    ("AUC", "auc", ("auc",)),
    ("RMSE", "rmse", ("rmse",)),
    ("MAE", "mae", ("mae",)),
)


def learning_curves(run: RunFiles) -> dict[str, Any]:
    """Draw training and validation metrics of every task over steps, the best checkpoint marked."""
    best = run.best_step()
    tasks: dict[str, list[Panel]] = {}
    headings: dict[str, str] = {}
    for index, task in enumerate(run.log.tasks()):
        for caption, train_key, valid_keys in CURVES:
            train = run.log.series("train", "tasks", task, train_key)
            if train_key == "loss" and _same(train, run.log.series("train", "tasks", task, "mse")):
                continue
            candidates = [run.log.series("valid", "tasks", task, key) for key in valid_keys]
            valid = next((series for series in candidates if series), candidates[0])
            title = f"{caption} of {task} over training steps"
            svg = learning_curve(f"curve-{index}-{caption.lower()}", title, train, valid, best)
            if svg is not None:
                tasks.setdefault(task, []).append(Panel(caption, _reached(valid, best), svg))
                headings[train_key] = caption
    return {"tasks": tasks, "best": best is not None, "meanings": meanings(headings)}


def _same(loss: Series, mse: Series) -> bool:
    """Tell whether a task's loss is its MSE, which has a panel of its own; sums of other precisions differ a little."""
    return bool(mse) and np.allclose(loss.values, mse.values, rtol=1e-3, equal_nan=True)


def _reached(valid: Series, best: float | None) -> str:
    value = valid.at(best)
    if value is not None:
        return f"valid {metric_text(value)} at best"
    return f"valid {metric_text(float(valid.values[np.isfinite(valid.values)][-1]))}" if valid else ""


def throughput(run: RunFiles) -> list[Panel]:
    """Draw speed, waiting for data, and learning rate over steps."""
    panels = []
    for caption, note, key, percent in (
        ("Samples per second", "", "samples_per_second", False),
        ("Data wait", "share of step time", "data_wait", True),
        ("Learning rate", "", "learning_rate", False),
    ):
        svg = over_steps(key.replace("_", "-"), caption, run.log.series("train", key), percent=percent)
        panels += [] if svg is None else [Panel(caption, note, svg)]
    return panels
