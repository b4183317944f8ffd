"""Sections on the course of a run: learning curves, throughput, loss weights, and health of the embedding tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ple_rec.reports.charts import are_weights_close, learning_curve, step_chart, weight_chart
from ple_rec.reports.drawing import Scale, linear_scale
from ple_rec.reports.page import Panel
from ple_rec.reports.run.format import count_text, meanings
from ple_rec.runs.log import Series
from ple_rec.runs.metrics import TableHealth
from ple_rec.runs.read import RunFiles
from ple_rec.text.json_values import as_mapping
from ple_rec.text.units import metric_text

# Caption of a panel, key in the training records, and keys in the evaluations; the first recorded of these is drawn.
# Evaluations have no Huber loss, so its panel has no validation curve. A loss that is an MSE is drawn in the MSE panel.
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
            if train_key == "loss" and _is_mse(train, run.log.series("train", "tasks", task, "mse")):
                continue
            candidates = [run.log.series("valid", "tasks", task, key) for key in valid_keys]
            valid = next((series for series in candidates if series), candidates[0])
            title = f"{caption} of {task} over training steps"
            svg = learning_curve(f"curve-{index}-{caption.lower()}", title, train, valid, best)
            if svg is not None:
                tasks.setdefault(task, []).append(Panel(caption, _value_note(valid, best), svg))
                headings[train_key] = caption
    return {"tasks": tasks, "best": best is not None, "meanings": meanings(headings)}


def _is_mse(loss: Series, mse: Series) -> bool:
    """Return True if a task's loss is its MSE, which has a panel of its own; rounding lets them differ a little."""
    return bool(mse) and np.allclose(loss.values, mse.values, rtol=1e-3, equal_nan=True)


def _value_note(valid: Series, best: float | None) -> str:
    """Return the validation value at the best checkpoint, or else the last one; empty if there is none."""
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
        svg = step_chart(key.replace("_", "-"), caption, run.log.series("train", key), percent=percent)
        panels += [] if svg is None else [Panel(caption, note, svg)]
    return panels


# The weights of more tasks than this are folded away.
_MANY_TASKS = 12


class _WeightCurve(NamedTuple):
    """Tasks whose weights are the same at every step, and these weights."""

    tasks: list[str]
    series: Series

    @property
    def first_and_last(self) -> tuple[float, float]:
        known = self.series.values[np.isfinite(self.series.values)]
        return float(known[0]), float(known[-1])

    @property
    def is_changing(self) -> bool:
        value_range = np.nanmax(self.series.values) - np.nanmin(self.series.values)
        return bool(value_range > 1e-9 * np.nanmax(np.abs(self.series.values)))


def loss_weights(run: RunFiles) -> dict[str, Any] | None:
    """Return first and last weight of each task, and a chart if a weight changes; None if no weight differs from 1."""
    lines = _weight_curves(run)
    changes = any(line.is_changing for line in lines)
    if not changes and not any(line.first_and_last[0] != 1 for line in lines):
        return None
    learned = as_mapping(run.config.get("train")).get("loss_weighting") == "uncertainty"
    panel = None
    if changes:
        lines.sort(key=lambda line: -line.first_and_last[1])
        curves = [(line.tasks, line.series) for line in lines]
        note = "at each report step" + ("; the axis does not start at 0" if are_weights_close(curves) else "")
        panel = Panel("Weight", note, weight_chart("loss-weights", "Loss weights over training steps", curves))
    ends = [(task, *line.first_and_last) for line in lines for task in line.tasks]
    return {"panel": panel, "learned": learned, "ends": ends, "folded": len(ends) > _MANY_TASKS}


def _weight_curves(run: RunFiles) -> list[_WeightCurve]:
    lines: list[_WeightCurve] = []
    for task in run.log.tasks():
        series = run.log.series("train", "tasks", task, "weight")
        if not series:
            continue
        matching = (line for line in lines if np.array_equal(line.series.values, series.values, equal_nan=True))
        line = next(matching, None)
        if line is None:
            lines.append(_WeightCurve([task], series))
        else:
            line.tasks.append(task)
    return lines


# A table has a warning if training never touched a greater share of its rows than this.
_UNTOUCHED_LIMIT = 0.5
# A table with at least _SKEW_MIN_ROWS rows has a warning if more than _SKEW_LIMIT of its look-ups fall on the 1 % of
# its rows that are looked up most.
_SKEW_LIMIT, _SKEW_MIN_ROWS = 0.9, 1000
# A table has a warning if the greatest norm of its rows is more than this many times their 99 % quantile.
_FAR_RATIO = 10
# In a smaller table the 99 % quantile is interpolated with the greatest norm, so the median takes its place.
_FEW_ROWS = 100
# The axis of norms is logarithmic if the greatest is more than this many times the least.
_LOGARITHMIC_RATIO = 8
# More tables than this are folded away, except the worst.
_MANY_TABLES, _WORST = 24, 5
# More warnings than this are folded away.
_MANY_WARNINGS = 12


def table_health(run: RunFiles) -> dict[str, Any]:
    """Return a row per table, that with the most rows first, and the warnings about tables."""
    tables = sorted(TableHealth.read_all(run.metrics.get("table_health")), key=lambda entry: -(entry.rows or 0))
    scale = _norm_scale(tables)
    rows = [_health_row(entry, scale) for entry in tables]
    order = sorted(range(len(tables)), key=lambda index: _badness(tables[index]), reverse=True)
    warnings = [(entry.table, text) for entry in tables for text in _warnings(entry)]
    return {
        "has_results": bool(run.metrics),
        "scale": scale,
        "ticks": _ticks(scale),
        "warnings": warnings[:_MANY_WARNINGS],
        "more_warnings": warnings[_MANY_WARNINGS:],
        "worst": [rows[index] for index in order[:_WORST]] if len(tables) > _MANY_TABLES else [],
        "tables": rows,
        "unrecorded": _unrecorded(tables),
    }


def _badness(entry: TableHealth) -> tuple[float, ...]:
    """Return a sort key, greater for worse tables: warnings, share of untouched rows, relative greatest norm."""
    return len(_warnings(entry)), _untouched_share(entry) or 0.0, _largest_norm_ratio(entry)[1]


def _quantile(entry: TableHealth, share: float) -> float | None:
    """Return one quantile of the norms of a table's rows; None if it is not recorded or not finite."""
    return next((norm for known, norm in (entry.norms or {}).items() if math.isclose(known, share)), None)


def _norm_scale(tables: Sequence[TableHealth]) -> Scale | None:
    """Return the axis of all norms, from zero or logarithmic if they differ much; None if none is recorded."""
    ends = [value for entry in tables for share in (0.01, 0.99) if (value := _quantile(entry, share)) is not None]
    if not ends:
        return None
    positive = [value for value in ends if value > 0]
    if positive and max(positive) > _LOGARITHMIC_RATIO * min(positive):
        return Scale(min(positive) / 1.25, max(positive) * 1.25, logarithmic=True)
    return linear_scale([0.0, *ends], least=0.0)


def _ticks(scale: Scale | None) -> list[tuple[float, str]]:
    if scale is None:
        return []
    if not scale.logarithmic:
        return [(value, f"{value:.2g}") for value in (0.0, scale.high)]
    powers = range(math.floor(math.log10(scale.low)), math.floor(math.log10(scale.high)) + 1)
    steps = (1, 2, 5) if scale.high < 100 * scale.low else (1,)
    ticks = [tick for power in powers for step in steps if scale.low <= (tick := step * 10.0**power) <= scale.high]
    return [(tick, f"{tick:g}") for tick in ticks[:: max(1, math.ceil(len(ticks) / 4))]]


def _health_row(entry: TableHealth, scale: Scale | None) -> dict[str, Any]:
    return {
        "table": entry.table,
        "rows": count_text(entry.rows),
        "dim": count_text(entry.dim),
        "never_touched": count_text(entry.never_touched),
        "untouched": _untouched_share(entry),
        "norms": None if scale is None else _norms(entry),
        "no_norms": "not finite" if _has_non_finite_norm(entry) else "not recorded",
        "lookups": entry.lookups,
        "top": entry.top_share,
    }


def _untouched_share(entry: TableHealth) -> float | None:
    rows, untouched = entry.rows, entry.never_touched
    # Row 0, for unknown values, is not counted.
    return None if rows is None or untouched is None or rows < 2 else untouched / (rows - 1)


def _norms(entry: TableHealth) -> dict[str, Any] | None:
    """Return the quantiles of the norms as numbers to plot, in words, and as cells; None if one is not known."""
    shares = (0.01, 0.1, 0.5, 0.9, 0.99)
    quantiles = [value for share in shares if (value := _quantile(entry, share)) is not None]
    if len(quantiles) < len(shares):
        return None
    low, lower, middle, upper, high = quantiles
    least, greatest = (_quantile(entry, share) for share in (0.0, 1.0))
    name = f"norms of {entry.table}: 1 % {low:.3g}, 10 % {lower:.3g}, median {middle:.3g}"
    name += f", 90 % {upper:.3g}, 99 % {high:.3g}"
    name += "" if least is None or greatest is None else f"; least {least:.3g}, greatest {greatest:.3g}"
    return {
        "outer": (low, high),
        "inner": (lower, upper),
        "middle": middle,
        "name": name,
        "median": _norm_text(middle),
        "span": f"{_norm_text(low)}\u2013{_norm_text(high)}",
    }


def _norm_text(norm: float) -> str:
    """Return three significant digits with trailing zeros, so that a column lines up: `0.0200`."""
    return f"{norm:#.3g}".removesuffix(".") if norm < 1000 else f"{norm:.3g}"


def _largest_norm_ratio(entry: TableHealth) -> tuple[str, float]:
    """Return a description of a usual norm, and the greatest norm divided by it; the ratio is 0 if one is not known."""
    has_few_rows = (entry.rows or math.inf) <= _FEW_ROWS
    usual, greatest = _quantile(entry, 0.5 if has_few_rows else 0.99), _quantile(entry, 1.0)
    words = "the median of its rows" if has_few_rows else "what 99 % of its rows stay below"
    return words, greatest / usual if usual and greatest is not None else 0.0


def _warnings(entry: TableHealth) -> list[str]:
    warnings, untouched, top = [], _untouched_share(entry), entry.top_share
    greatest, (usual, times) = _quantile(entry, 1.0), _largest_norm_ratio(entry)
    if entry.lookups == 0:
        warnings.append("the training split never looks it up.")
    elif untouched is not None and untouched >= 1:
        warnings.append("no row was trained; every one still holds its initial values.")
    elif untouched is not None and untouched > _UNTOUCHED_LIMIT:
        warnings.append(
            f"{100 * untouched:.0f} % of its rows were never touched; they hold random initial values. A higher "
            "frequency threshold in data preparation, or longer training, would leave fewer."
        )
    if _has_non_finite_norm(entry):
        warnings.append("some rows are not finite.")
    elif greatest == 0:
        warnings.append("every row is zero.")
    elif greatest is not None and times > _FAR_RATIO:
        warnings.append(f"its longest row has norm {greatest:.3g}, {times:.0f} times {usual}.")
    if top is not None and top > _SKEW_LIMIT and (entry.rows or 0) >= _SKEW_MIN_ROWS:
        warnings.append(f"{100 * top:.0f} % of its look-ups fall on 1 % of the rows; most rows see few samples.")
    return warnings


def _has_non_finite_norm(entry: TableHealth) -> bool:
    """Return True if a recorded quantile of the norms is None, which means that the norm of a row is not finite."""
    return any(norm is None for norm in (entry.norms or {}).values())


def _unrecorded(tables: Sequence[TableHealth]) -> list[str]:
    """Return the columns that show dashes since a table has no such record, with the reasons."""
    reasons = {
        "never_touched": "never touched (not compared with the initial values)",
        "norms": "norms",
        "lookups": "look-ups and top 1 % (the dataset has no counts for the table's vocabulary)",
    }
    return [words for key, words in reasons.items() if any(getattr(entry, key) is None for entry in tables)]
