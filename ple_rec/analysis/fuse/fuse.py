"""Search for the exponents of a run's fusion on one split, and metrics of the result on another split.

A fusion computes one score for each candidate, the product of the predictions of all tasks, each raised to an exponent.
The score orders the lists of candidates in the log. `ple-rec fuse` calls `search_fusion`, and writes its result to
`fusion.toml` and `fusion.json`.

Shape suffixes: N rows, K factors of the score.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ple_rec.analysis.fuse.arguments import RowValue, needed_scales, with_row_values
from ple_rec.analysis.fuse.rows import Floats, FusionRows, LogColumns, RunPredictions, SplitLog, users_by_list
from ple_rec.config.base import Split
from ple_rec.config.fusion import FusionConfig, LengthConfig, TaskFusionConfig
from ple_rec.errors import UserError
from ple_rec.ranking.calibration import fit_isotonic, fit_platt
from ple_rec.ranking.counterfactual import propensity_weights
from ple_rec.ranking.evaluation import Evaluation, Evaluations, MetricValue
from ple_rec.ranking.fusion import Factors, compute_factors, exponent_array, with_exponents
from ple_rec.ranking.lists import CandidateLists
from ple_rec.ranking.losses import FUSION_FILE, RECORD_FILE
from ple_rec.ranking.metrics import MetricName, build_metric
from ple_rec.ranking.search import Constraint, ExponentRange, SearchResult, search
from ple_rec.runtime.host import usable_cores
from ple_rec.storage import Location

logger = logging.getLogger(__name__)

Calibrate = Literal["none", "platt", "isotonic"]
# Largest numbers of settings of the Pareto front, and of exponents on each sensitivity curve, in `fusion.json`; and
# largest number of places for which it has the share of rows that stay at the top.
_FRONT_POINTS, _SENSITIVITY_POINTS, _TOP_PLACES = 200, 21, 10


@dataclass(frozen=True)
class FusionSearch:
    """Ranges, targets and constraints of a search. A setting is one choice of all exponents.

    Args:
        start: Fusion that the search starts from, with its exponents clipped to the ranges. It is also the baseline of
            all gains, with its exponents as they are.
        ranges: Range of every factor's exponent.
        targets: Metrics to maximise.
        constraints: Bounds of metrics.
        further_metrics: Metrics to report, beside those of targets and constraints.
        grid: Number of settings that are drawn at random, by a Sobol sequence.
        trials: Number of settings that the sampler proposes after the random ones.
        seed: Seed of the random settings, of the sampler, and of the resamples of confidence intervals.
        options: Options of the command, for `fusion.json`.
    """

    start: FusionConfig
    ranges: Sequence[ExponentRange]
    targets: Sequence[MetricName]
    constraints: Sequence[Constraint]
    further_metrics: Sequence[MetricName]
    grid: int
    trials: int
    seed: int
    options: Mapping[str, Any]


@dataclass(frozen=True)
class FusionLogs:
    """Columns of the dataset's Parquet files that metrics of a fusion need beside the predictions.

    Args:
        columns: Names of the columns.
        logs: Lists, users and propensities of the rows, by split.
        features: Feature (N,) of each product TASK*FEATURE of `--value`, by split and product.
    """

    columns: LogColumns
    logs: Mapping[Split, SplitLog]
    features: Mapping[Split, Mapping[RowValue, Floats]]


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
        """True if the exponents are better than those of the start on the split of the results.

        This is so if the whole interval of the gain of some target is above 0, or if the start breaks a constraint.
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
    """Return a fusion with exponent 1 for every task, and with calibrations that are fitted to rows.

    Args:
        predictions: Predictions of the run.
        tasks: Names of the tasks to fuse.
        length: Factor of the video's length, with its exponent; None to fuse without a length.
        calibrate: Kind of the calibration of all binary tasks; "none" to use their probabilities as they are.
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
    predictions: RunPredictions, logs: FusionLogs, plan: FusionSearch, search_split: Split, report_split: Split
) -> FusionResult:
    """Search on one split, and compute the metrics of the result on another.

    Args:
        predictions: Predictions on both splits.
        logs: Lists, users, propensities and features of the rows of both splits.
        plan: Ranges, targets and constraints of the search.
        search_split: Split of the search.
        report_split: Split of the results. If it is the split of the search, the results are too optimistic.

    Raises:
        UserError: A metric is defined on no list, or no setting keeps the constraints.
    """
    metrics = list(dict.fromkeys([*plan.targets, *(c.metric for c in plan.constraints), *plan.further_metrics]))
    search_evaluation, factors, clipped = _evaluate_split(predictions, logs, plan.start, metrics, search_split)
    lists, constant_K = search_evaluation.parts[0].lists, search_evaluation.parts[0].constant_K()
    # The exponent of a factor that is constant in every list changes no order, so it is not searched.
    ranges = [span.neutral() if constant else span for span, constant in zip(plan.ranges, constant_K, strict=True)]
    logger.info(
        f"{len(lists.size_L):,} lists of 2 rows or more with {len(lists.row_N):,} rows in {search_split}; "
        f"{plan.grid:,} settings at random, then {plan.trials:,} by the sampler"
    )
    start_K = exponent_array(plan.start)
    searched_factors = [span.name for span in plan.ranges if span.low != 0 or span.high != 0]
    result = search(
        search_evaluation,
        ranges,
        plan.targets,
        plan.constraints,
        start_K=start_K,
        grid=plan.grid,
        trials=plan.trials,
        seed=plan.seed,
    )
    best_K = result.exponents_WK[result.best]
    report_evaluation = search_evaluation
    if report_split != search_split:
        report_evaluation, _, clipped = _evaluate_split(predictions, logs, plan.start, metrics, report_split)
    values = report_evaluation.values(best_K, start_K, plan.seed)
    # The gain of a metric is its difference from the start.
    start_values = {metric: np.array(value.value - (value.gain or 0.0)) for metric, value in values.items()}
    record = {
        "format": 1,
        "run": predictions.run.config.name,
        "options": dict(plan.options),
        "checkpoint": predictions.checkpoint,
        "searched_on": search_split,
        "told_on": report_split,
        "factors": list(factors.names),
        "clipped": dict(factors.clipped),
        "scales_needed": needed_scales(
            plan.start,
            predictions.run.kinds,
            predictions.rows[search_split].predictions,
            factors,
            searched=searched_factors,
        ),
        "constant": [
            name for name, same in zip(factors.names, constant_K, strict=True) if same and name in searched_factors
        ],
        "settings": len(result.exponents_WK),
        "listed_by": logs.columns.by or predictions.run.lists,
        "resampled": logs.columns.users or predictions.run.group or logs.columns.by,
        "values": {value.name: f"{value.task} * {value.feature}" for value in logs.features[search_split]},
        "counterfactual": _counterfactual(logs.columns, clipped),
        "targets": [str(target) for target in plan.targets],
        "constraints": [str(constraint) for constraint in plan.constraints],
        "start_breaks": [str(c) for c in plan.constraints if c.violation(start_values[c.metric]) > 0],
        "not_kept": [str(c) for c in plan.constraints if c.violation(np.array(values[c.metric].value)) > 0],
        "start": dict(zip(factors.names, start_K.tolist(), strict=True)),
        "exponents": dict(zip(factors.names, best_K.tolist(), strict=True)),
        "metrics": {str(metric): _metric_entry(value) for metric, value in values.items()},
        "kept_at_top": {str(k): report_evaluation.kept_at_top(best_K, start_K, k) for k in (1, 3, _TOP_PLACES)},
        "front": _front_points(result, factors.names, metrics),
        "sensitivity": _sensitivity(report_evaluation, ranges, best_K),
    }
    return FusionResult(with_exponents(plan.start, best_K), record)


def _evaluate_split(
    predictions: RunPredictions, logs: FusionLogs, fusion: FusionConfig, metrics: Sequence[MetricName], split: Split
) -> tuple[Evaluations, Factors, float]:
    """Prepare the evaluation of metrics on the lists of a split.

    Returns:
        The evaluation, the factors of the rows, and the share of the rows whose inverse propensity was clipped; the
        share is 0 without a metric value@K.
    """
    rows, log = predictions.rows[split], logs.logs[split]
    labels = with_row_values(rows.labels, logs.features[split])
    factors = compute_factors(fusion, predictions.run.kinds, rows.predictions, rows.length_N)
    # A `SplitLog` has both lists and users, or neither. Without them, the groups of the dataset give both.
    list_N, user_N = (rows.list_N, rows.group_N) if log.list_N is None else (log.list_N, log.user_N)
    assert list_N is not None, "a run without a group column is refused if no column is named"
    assert user_N is not None
    clipped = 0.0

    def evaluation(lists: CandidateLists, names: Sequence[MetricName], weight_N: Floats | None = None) -> Evaluation:
        by_name = {m: build_metric(m, lists, labels[m.task][lists.row_N], weight_N) for m in names}
        return Evaluation(lists, factors, by_name, threads=usable_cores(), user_L=users_by_list(lists, user_N))

    place = f"{predictions.run.config.data.path}/{split}, lists by {logs.columns.by or predictions.run.lists}"
    lists, values = CandidateLists.from_groups(list_N, place), [metric for metric in metrics if metric.kind == "value"]
    parts = [evaluation(lists, [metric for metric in metrics if metric.kind != "value"])]
    if values:
        if log.random_N is not None:
            lists = CandidateLists.from_groups(np.where(log.random_N, list_N, -1), place)
        propensity_N = np.ones(len(list_N)) if log.propensity_N is None else log.propensity_N
        weights = propensity_weights(propensity_N[lists.row_N], logs.columns.clip)
        clipped = weights.clipped
        parts.append(evaluation(lists, values, weights.weight_N))
    return Evaluations(parts), factors, clipped


def _counterfactual(columns: LogColumns, clipped: float) -> dict[str, Any] | None:
    """Return a description of the estimator of value@K; None if no value@K is computed.

    Args:
        columns: Columns of propensities and of rows shown at random; one of them is named if a value@K is computed.
        clipped: Share of the rows whose inverse propensity was clipped.
    """
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


def _metric_entry(value: MetricValue) -> dict[str, Any]:
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


def _front_points(result: SearchResult, names: Sequence[str], metrics: Sequence[MetricName]) -> list[dict[str, Any]]:
    """Return the settings on the Pareto front; if there are very many, some that are spread over it."""
    count = min(_FRONT_POINTS, len(result.front))
    places = np.unique(np.linspace(0, len(result.front) - 1, count).round().astype(int))
    return [
        {
            "exponents": dict(zip(names, result.exponents_WK[w].tolist(), strict=True)),
            "metrics": {str(metric): float(result.values[metric][w]) for metric in metrics},
        }
        for w in (result.front[place] for place in places.tolist())
    ]


def _sensitivity(
    evaluation: Evaluations, ranges: Sequence[ExponentRange], best_K: Floats
) -> dict[str, Mapping[str, Any]]:
    by_factor: dict[str, Mapping[str, Any]] = {}
    for k, span in enumerate(ranges):
        if span.low < span.high:
            exponents = np.linspace(span.low, span.high, _SENSITIVITY_POINTS)
            curves = evaluation.sensitivity(best_K, k, exponents)
            metrics = {str(metric): values.tolist() for metric, values in curves.items()}
            by_factor[span.name] = {"exponent": exponents.tolist(), "metrics": metrics}
    return by_factor


def check_output_folder(out: Location, options: Mapping[str, Any]) -> None:
    """Refuse a folder with a fusion that was searched with other options, since it would be replaced.

    Args:
        out: Folder for `fusion.toml` and `fusion.json`.
        options: Options of the fusion to be written, as `fusion.json` will have them.

    Raises:
        UserError: The folder holds a fusion that was searched with other options.
    """
    if not (out / FUSION_FILE).exists():
        return
    try:
        before = json.loads((out / RECORD_FILE).read_text(encoding="utf-8"))["options"]
    except (OSError, ValueError, LookupError, TypeError):
        before = None
    # An option that an earlier version did not have is missing in its record, and counts as None.
    changed = [key for key in options if before is None or before.get(key) != options[key]]
    if changed:
        difference = "unknown options" if before is None else f"another {', '.join(changed)}"
        rule = "only a fusion with the same options is replaced unasked"
        raise UserError(str(out), f"holds a fusion with {difference}", rule, "pass --overwrite, or give another --out")
