"""Search for the fusion of a run on one split, and its metrics on another split that the search has not seen."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ple_rec.analysis.fuse.arguments import RowValue, needed_scales, with_values
from ple_rec.analysis.fuse.rows import Floats, FusionRows, LogColumns, RunPredictions, SplitLog, users_of
from ple_rec.config.base import Split
from ple_rec.config.fusion import FusionConfig, LengthConfig, TaskFusionConfig
from ple_rec.errors import UserError
from ple_rec.ranking.calibration import fit_isotonic, fit_platt
from ple_rec.ranking.counterfactual import weights_of
from ple_rec.ranking.evaluation import Evaluation, Evaluations, MetricValue
from ple_rec.ranking.fusion import Factors, exponents_of, factors_of, with_exponents
from ple_rec.ranking.lists import CandidateLists
from ple_rec.ranking.losses import FUSION_FILE, RECORD_FILE
from ple_rec.ranking.metrics import MetricName, metric_of
from ple_rec.ranking.search import Constraint, ExponentRange, SearchResult, search
from ple_rec.runtime.host import usable_cores
from ple_rec.storage import Location

logger = logging.getLogger(__name__)

Calibrate = Literal["none", "platt", "isotonic"]
_FRONT_POINTS, _SENSITIVITY_POINTS, _TOP_PLACES = 200, 21, 10


@dataclass(frozen=True)
class FusionSearch:
    """Space, targets and constraints of a search.

    Args:
        start: Fusion whose exponents, moved into the ranges, begin the search; gains are over them as they are.
        ranges: Range of every factor's exponent.
        targets: Metrics to maximise.
        constraints: Bounds of metrics.
        also: Further metrics to report.
        grid: Number of settings that are drawn at random.
        trials: Number of settings that the sampler proposes after these.
        seed: Seed of the draws and the sampler.
        options: Options of the command, for `fusion.json`.
    """

    start: FusionConfig
    ranges: Sequence[ExponentRange]
    targets: Sequence[MetricName]
    constraints: Sequence[Constraint]
    also: Sequence[MetricName]
    grid: int
    trials: int
    seed: int
    options: Mapping[str, Any]


@dataclass(frozen=True)
class FusionLogs:
    """Columns of the dataset's parts that a fusion needs and the model does not read.

    Args:
        columns: Names of the columns.
        logs: Lists, users and propensities of the rows, by split.
        factors: Feature (N,) of each product of `--value`, by split and product.
    """

    columns: LogColumns
    logs: Mapping[Split, SplitLog]
    factors: Mapping[Split, Mapping[RowValue, Floats]]


@dataclass(frozen=True)
class FusionResult:
    """The result of a search.

    Args:
        fusion: Fusion with the best exponents.
        record: Content of `fusion.json`.
    """

    fusion: FusionConfig
    record: dict[str, Any]

    @property
    def shows_gain(self) -> bool:
        """True if the exponents are better than the start on rows that the search has not seen.

        They are if the whole interval of a target's gain is above 0, or if the start breaks a constraint.
        """
        gains = [self.record["metrics"][target]["gain_interval"] for target in self.record["targets"]]
        return bool(self.record["start_breaks"]) or any(low > 0 for low, _ in gains)


def initial_fusion(
    predictions: RunPredictions,
    tasks: Sequence[str],
    length: LengthConfig | None,
    calibrate: Calibrate,
    rows: FusionRows,
) -> FusionConfig:
    """Return a fusion whose exponents are 1, with calibrations that are fitted to rows.

    Args:
        predictions: Predictions of the run.
        tasks: Names of the tasks to fuse.
        length: Factor of the video's length; None for none.
        calibrate: Calibration of the binary tasks.
        rows: Rows to which calibrations are fitted.

    Raises:
        UserError: A calibration cannot be fitted.
    """

    def task_config(task: str) -> TaskFusionConfig:
        if predictions.run.kinds[task] != "binary" or calibrate == "none":
            return TaskFusionConfig(exponent=1.0)
        fit = fit_platt if calibrate == "platt" else fit_isotonic
        calibration = fit(task, rows.predictions[task], rows.labels[task], rows.weights[task])
        return TaskFusionConfig(exponent=1.0, calibration=calibration)

    return FusionConfig(tasks={task: task_config(task) for task in tasks}, length=length)


def search_fusion(
    predictions: RunPredictions, logs: FusionLogs, plan: FusionSearch, on: Split, report_on: Split
) -> FusionResult:
    """Search on one split, and compute the metrics of the result on another.

    Args:
        predictions: Predictions on both splits.
        logs: Columns of both splits that the model does not read.
        plan: Space, targets and constraints of the search.
        on: Split of the search.
        report_on: Split of the results; if it is the same one, `fusion.json` shows that.

    Raises:
        UserError: No list defines one of the metrics, or no setting keeps the constraints.
    """
    metrics = list(dict.fromkeys([*plan.targets, *(c.metric for c in plan.constraints), *plan.also]))
    searched, factors, clipped = _evaluation(predictions, logs, plan.start, metrics, on)
    lists, constant_K = searched.parts[0].lists, searched.parts[0].constant_K()
    ranges = [own.neutral() if constant else own for own, constant in zip(plan.ranges, constant_K, strict=True)]
    logger.info(
        f"{len(lists.size_L):,} lists of 2 rows or more with {len(lists.row_N):,} rows in {on}; "
        f"{plan.grid:,} settings at random, then {plan.trials:,} by the sampler"
    )
    start_K = exponents_of(plan.start)
    used = [own.name for own in plan.ranges if own.low != 0 or own.high != 0]
    result = search(
        searched,
        ranges,
        plan.targets,
        plan.constraints,
        start_K=start_K,
        grid=plan.grid,
        trials=plan.trials,
        seed=plan.seed,
    )
    best_K = result.exponents_WK[result.best]
    reported = searched
    if report_on != on:
        reported, _, clipped = _evaluation(predictions, logs, plan.start, metrics, report_on)
    values = reported.values(best_K, start_K, plan.seed)
    start_values = {metric: np.array(value.value - (value.gain or 0.0)) for metric, value in values.items()}
    record = {
        "format": 1,
        "run": predictions.run.config.name,
        "options": dict(plan.options),
        "checkpoint": predictions.checkpoint,
        "searched_on": on,
        "told_on": report_on,
        "factors": list(factors.names),
        "clipped": dict(factors.clipped),
        "scales_needed": needed_scales(
            plan.start, predictions.run.kinds, predictions.rows[on].predictions, factors, searched=used
        ),
        "constant": [name for name, same in zip(factors.names, constant_K, strict=True) if same and name in used],
        "settings": len(result.exponents_WK),
        "listed_by": logs.columns.by or predictions.run.group,
        "resampled": logs.columns.users or predictions.run.group or logs.columns.by,
        "values": {value.name: f"{value.task} * {value.feature}" for value in logs.factors[on]},
        "counterfactual": _counterfactual(logs.columns, clipped),
        "targets": [str(target) for target in plan.targets],
        "constraints": [str(constraint) for constraint in plan.constraints],
        "start_breaks": [str(c) for c in plan.constraints if c.violation(start_values[c.metric]) > 0],
        "not_kept": [str(c) for c in plan.constraints if c.violation(np.array(values[c.metric].value)) > 0],
        "start": dict(zip(factors.names, start_K.tolist(), strict=True)),
        "exponents": dict(zip(factors.names, best_K.tolist(), strict=True)),
        "metrics": {str(metric): _value(value) for metric, value in values.items()},
        "kept_at_top": {str(k): reported.kept_at_top(best_K, start_K, k) for k in (1, 3, _TOP_PLACES)},
        "front": _front(result, factors.names, metrics),
        "sensitivity": _sensitivity(reported, ranges, best_K),
    }
    return FusionResult(with_exponents(plan.start, best_K), record)


def _evaluation(
    predictions: RunPredictions, logs: FusionLogs, fusion: FusionConfig, metrics: Sequence[MetricName], split: Split
) -> tuple[Evaluations, Factors, float]:
    """Return the evaluation of metrics on a split, its factors, and the share of the rows whose weight was clipped."""
    rows, log = predictions.rows[split], logs.logs[split]
    labels = with_values(rows.labels, logs.factors[split])
    factors = factors_of(fusion, predictions.run.kinds, rows.predictions, rows.length_N)
    list_N, user_N = (rows.group_N if x_N is None else x_N for x_N in (log.list_N, log.user_N))
    assert list_N is not None, "a run without a group column is refused if no column is named"
    assert user_N is not None
    clipped = 0.0

    def evaluation(lists: CandidateLists, names: Sequence[MetricName], weight_N: Floats | None = None) -> Evaluation:
        by_name = {m: metric_of(m, lists, labels[m.task][lists.row_N], weight_N) for m in names}
        return Evaluation(lists, factors, by_name, threads=usable_cores(), user_L=users_of(lists, user_N))

    place = f"{predictions.run.config.data.path}/{split}, lists by {logs.columns.by or predictions.run.group}"
    lists, values = CandidateLists.of(list_N, place), [metric for metric in metrics if metric.kind == "value"]
    parts = [evaluation(lists, [metric for metric in metrics if metric.kind != "value"])]
    if values:
        if log.random_N is not None:
            lists = CandidateLists.of(np.where(log.random_N, list_N, -1), place)
        propensity_N = np.ones(len(list_N)) if log.propensity_N is None else log.propensity_N
        weights = weights_of(propensity_N[lists.row_N], logs.columns.clip)
        clipped = weights.clipped
        parts.append(evaluation(lists, values, weights.weight_N))
    return Evaluations(parts), factors, clipped


def _counterfactual(columns: LogColumns, clipped: float) -> dict[str, Any] | None:
    """Return a description of the estimator of value@K; None if no value@K is computed."""
    if columns.propensity is None and columns.random is None:
        return None
    name, weight = ("self-normalised inverse propensity", "1 / propensity") if columns.propensity else ("replay", "1")
    return {
        "estimator": name,
        "equation": f"sum of w y / sum of w over the rows at the first K places, w = {weight}",
        "propensity": columns.propensity,
        "random": columns.random,
        "clip": columns.clip,
        "clipped": clipped,
    }


def _value(value: MetricValue) -> dict[str, Any]:
    return {
        "value": value.value,
        "interval": value.interval,
        "lists": value.lists,
        "users": value.users,
        "weighted_rows": value.weighted_rows,
        "effective_rows": value.effective_rows,
        "gain": value.gain,
        "gain_interval": value.gain_interval,
    }


def _front(result: SearchResult, names: Sequence[str], metrics: Sequence[MetricName]) -> list[dict[str, Any]]:
    """Return the points of the front, or some that are spread over it if there are many."""
    count = min(_FRONT_POINTS, len(result.front))
    places = np.unique(np.linspace(0, len(result.front) - 1, count).round().astype(int))
    return [
        {
            "exponents": dict(zip(names, result.exponents_WK[w].tolist(), strict=True)),
            "metrics": {str(metric): float(result.values[metric][w]) for metric in metrics},
        }
        for w in (result.front[place] for place in places.tolist())
    ]


def _sensitivity(results: Evaluations, ranges: Sequence[ExponentRange], best_K: Floats) -> dict[str, Mapping[str, Any]]:
    by_factor: dict[str, Mapping[str, Any]] = {}
    for k, own in enumerate(ranges):
        if own.low < own.high:
            exponents = np.linspace(own.low, own.high, _SENSITIVITY_POINTS)
            curves = results.sensitivity(best_K, k, exponents)
            metrics = {str(metric): values.tolist() for metric, values in curves.items()}
            by_factor[own.name] = {"exponent": exponents.tolist(), "metrics": metrics}
    return by_factor


def check_out(out: Location, options: Mapping[str, Any]) -> None:
    """Refuse a folder that holds the fusion of other options.

    Args:
        out: Folder of the files.
        options: Options of the fusion to be written, as `fusion.json` will have them.

    Raises:
        UserError: The folder holds the fusion of other options.
    """
    if not (out / FUSION_FILE).exists():
        return
    try:
        before = json.loads((out / RECORD_FILE).read_text(encoding="utf-8"))["options"]
    except (OSError, ValueError, LookupError, TypeError):
        before = None
    # An option that an earlier version did not have is None.
    changed = [key for key in options if before is None or before.get(key) != options[key]]
    if changed:
        difference = "unknown options" if before is None else f"another {', '.join(changed)}"
        rule = "a fusion is replaced unasked by one of the same options alone"
        raise UserError(str(out), f"holds a fusion of {difference}", rule, "pass --overwrite, or give another --out")
