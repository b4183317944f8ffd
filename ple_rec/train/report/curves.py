"""The sections of the run report that draw the log over steps: learning curves, and throughput."""

from __future__ import annotations

import numpy as np

from ple_rec.html.markup import absent, figure, text
from ple_rec.text.units import metric_text
from ple_rec.train.report.charts import learning_curve, over_steps
from ple_rec.train.report.meanings import meanings
from ple_rec.train.report.run_files import RunFiles, Series

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


def learning_curves(run: RunFiles) -> str:
    """Training and validation metrics of every task over steps, the best checkpoint marked."""
    best = run.best_step()
    groups: list[str] = []
    headings: dict[str, str] = {}
    for index, task in enumerate(run.log.tasks()):
        panels = []
        for caption, train_key, valid_keys in CURVES:
            train = run.log.series("train", "tasks", task, train_key)
            if train_key == "loss" and _same(train, run.log.series("train", "tasks", task, "mse")):
                continue
            candidates = [run.log.series("valid", "tasks", task, key) for key in valid_keys]
            valid = next((series for series in candidates if series), candidates[0])
            title = f"{caption} of {task} over training steps"
            svg = learning_curve(f"curve-{index}-{caption.lower()}", title, train, valid, best)
            panels.append(figure(caption, _reached(valid, best), svg))
            headings |= {train_key: caption} if svg else {}
        if any(panels):
            groups.append(f'<h3>{text(task)}</h3><div class="panels">{"".join(panels)}</div>')
    if not groups:
        return absent("Not recorded: the log has no metrics per task.")
    best_key = '<span class="best">best checkpoint</span>' if best is not None else ""
    legend = f'<p class="legend"><span class="train">train</span><span class="valid">valid</span>{best_key}</p>'
    return legend + meanings(headings) + "".join(groups)


def _same(loss: Series, mse: Series) -> bool:
    """Whether a task's loss is its MSE, which has a panel of its own; sums of other precisions differ a little."""
    return bool(mse) and np.allclose(loss.values, mse.values, rtol=1e-3, equal_nan=True)


def _reached(valid: Series, best: float | None) -> str:
    value = valid.at(best)
    if value is not None:
        return f"valid {metric_text(value)} at best"
    return f"valid {metric_text(float(valid.values[np.isfinite(valid.values)][-1]))}" if valid else ""


def throughput(run: RunFiles) -> str:
    """Speed, waiting for data, and learning rate over steps."""
    panels = [
        figure(caption, note, over_steps(key.replace("_", "-"), caption, run.log.series("train", key), percent=percent))
        for caption, note, key, percent in (
            ("Samples per second", "", "samples_per_second", False),
            ("Data wait", "share of step time", "data_wait", True),
            ("Learning rate", "", "learning_rate", False),
        )
    ]
    return f'<div class="panels">{"".join(panels)}</div>' if any(panels) else absent("Not recorded.")
