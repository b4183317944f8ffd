"""A fusion for a run: calibrated and searched on one split, told of on another that the search has not seen."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ple_rec.analysis.fuse.arguments import Valued, needed_scales, with_values
from ple_rec.analysis.fuse.rows import Floats, FusionRows, Log, LogColumns, Predicted, users_of
from ple_rec.analysis.fuse.text import head
from ple_rec.config.base import Split
from ple_rec.config.fusion import FusionConfig, LengthConfig, TaskFusionConfig
from ple_rec.config.load import dump_toml
from ple_rec.errors import UserError
from ple_rec.ranking.calibration import fit_isotonic, fit_platt
from ple_rec.ranking.counterfactual import weights_of
from ple_rec.ranking.evaluation import Evaluation, Evaluations, Value
from ple_rec.ranking.fusion import Factors, exponents_of, factors_of, with_exponents
from ple_rec.ranking.lists import Lists
from ple_rec.ranking.losses import FUSION_FILE, RECORD_FILE
from ple_rec.ranking.metrics import Measured, metric_of
from ple_rec.ranking.search import Constraint, Found, Range, search
from ple_rec.reports.fusion import write_page
from ple_rec.runs.layout import write_text, writing
from ple_rec.runtime.host import usable_cores
from ple_rec.storage import Location, make_directory
from ple_rec.text.plain import json_text

logger = logging.getLogger(__name__)

Calibrate = Literal["none", "platt", "isotonic"]
_FRONT, _STEPS, _TOP = 200, 21, 10  # points of the front that are told, of a sensitivity, places of the top


@dataclass(frozen=True)
class Asked:
    """What is searched.

    Args:
        start: Factors, scales, links, calibrations, and the exponents that gains are told over; the search begins with
            them, brought within the ranges.
        ranges: Of every factor.
        targets: What is to be greatest.
        constraints: What has to be kept.
        also: Further metrics that are told.
        grid: Settings at random.
        trials: Settings that the sampler asks for.
        seed: Of both.
        options: What was asked for, for `fusion.json`.
    """

    start: FusionConfig
    ranges: Sequence[Range]
    targets: Sequence[Measured]
    constraints: Sequence[Constraint]
    also: Sequence[Measured]
    grid: int
    trials: int
    seed: int
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Logged:
    """What the dataset's parts say beside what a model reads.

    Args:
        columns: Asked for.
        logs: By split.
        factors: By split and what `--value` names, its feature, (N,).
    """

    columns: LogColumns
    logs: Mapping[Split, Log]
    factors: Mapping[Split, Mapping[Valued, Floats]]


@dataclass(frozen=True)
class Fused:
    """The outcome.

    Args:
        fusion: With the best exponents.
        record: For `fusion.json`.
    """

    fusion: FusionConfig
    record: dict[str, Any]


def start_of(
    predicted: Predicted, tasks: Sequence[str], length: LengthConfig | None, calibrate: Calibrate, rows: FusionRows
) -> FusionConfig:
    """A fusion of tasks, exponents 1, with calibrations that are fitted to rows.

    Raises:
        UserError: a calibration cannot be fitted.
    """

    def of(task: str) -> TaskFusionConfig:
        given = (task, rows.predictions[task], rows.labels[task], rows.weights[task])
        if predicted.run.kinds[task] != "binary" or calibrate == "none":
            return TaskFusionConfig(exponent=1.0)
        return TaskFusionConfig(
            exponent=1.0, calibration=fit_platt(*given) if calibrate == "platt" else fit_isotonic(*given)
        )

    return FusionConfig(tasks={task: of(task) for task in tasks}, length=length)


def fused(predicted: Predicted, logged: Logged, asked: Asked, on: Split, told_on: Split) -> Fused:
    """Search on one split and tell of another.

    Args:
        predicted: With both splits.
        logged: Of both splits.
        asked: What is searched.
        on: The split of the search.
        told_on: The split of the results; the same one is allowed, and said.

    Raises:
        UserError: a metric that no list defines, or constraints that nothing keeps.
    """
    wanted = list(
        dict.fromkeys([*asked.targets, *(constraint.measured for constraint in asked.constraints), *asked.also])
    )
    searched, factors, clipped = _evaluation(predicted, logged, asked.start, wanted, on)
    lists, constant_K = searched.parts[0].lists, searched.parts[0].constant_K()
    ranges = [given.neutral() if same else given for given, same in zip(asked.ranges, constant_K, strict=True)]
    logger.info(
        f"{len(lists.size_L):,} lists of 2 rows or more with {len(lists.row_N):,} rows in {on}; "
        f"{asked.grid:,} settings at random, then {asked.trials:,} by the sampler"
    )
    start_K = exponents_of(asked.start)
    used = [given.name for given in asked.ranges if given.low != 0 or given.high != 0]
    found = search(
        searched,
        ranges,
        asked.targets,
        asked.constraints,
        start_K=start_K,
        grid=asked.grid,
        trials=asked.trials,
        seed=asked.seed,
    )
    best_K = found.exponents_WK[found.best]
    results = searched
    if told_on != on:
        results, _, clipped = _evaluation(predicted, logged, asked.start, wanted, told_on)
    values = results.values(best_K, start_K, asked.seed)
    start_values = {measured: np.array(value.value - (value.gain or 0.0)) for measured, value in values.items()}
    record = {
        "format": 1,
        "run": predicted.run.config.name,
        "options": dict(asked.options),
        "checkpoint": predicted.checkpoint,
        "searched_on": on,
        "told_on": told_on,
        "factors": list(factors.names),
        "clipped": dict(factors.clipped),
        "scales_needed": needed_scales(
            asked.start, predicted.run.kinds, predicted.rows[on].predictions, factors, searched=used
        ),
        "constant": [name for name, same in zip(factors.names, constant_K, strict=True) if same and name in used],
        "settings": len(found.exponents_WK),
        "listed_by": logged.columns.by or predicted.run.group,
        "resampled": logged.columns.users or predicted.run.group or logged.columns.by,
        "values": {valued.name: f"{valued.task} * {valued.feature}" for valued in logged.factors[on]},
        "counterfactual": _counterfactual(logged.columns, clipped),
        "targets": [str(target) for target in asked.targets],
        "constraints": [str(constraint) for constraint in asked.constraints],
        "start_breaks": [str(c) for c in asked.constraints if c.lacks(start_values[c.measured]) > 0],
        "not_kept": [str(c) for c in asked.constraints if c.lacks(np.array(values[c.measured].value)) > 0],
        "start": dict(zip(factors.names, start_K.tolist(), strict=True)),
        "exponents": dict(zip(factors.names, best_K.tolist(), strict=True)),
        "metrics": {str(measured): _value(value) for measured, value in values.items()},
        "kept_at_top": {str(k): results.kept_at_top(best_K, start_K, k) for k in (1, 3, _TOP)},
        "front": _front(found, factors.names, wanted),
        "sensitivity": _sensitivity(results, ranges, best_K),
    }
    return Fused(with_exponents(asked.start, best_K), record)


def _evaluation(
    predicted: Predicted, logged: Logged, fusion: FusionConfig, wanted: Sequence[Measured], split: Split
) -> tuple[Evaluations, Factors, float]:
    """Of a split, with its factors and the share of the rows whose weight was clipped."""
    rows, log = predicted.rows[split], logged.logs[split]
    labels = with_values(rows.labels, logged.factors[split])
    factors = factors_of(fusion, predicted.run.kinds, rows.predictions, rows.length_N)
    list_N, user_N = (rows.group_N if x_N is None else x_N for x_N in (log.list_N, log.user_N))
    assert list_N is not None, "a run without a group column is refused where no column is named"
    assert user_N is not None
    clipped = 0.0

    def evaluation(lists: Lists, own: Sequence[Measured], weight_N: Floats | None = None) -> Evaluation:
        metrics = {m: metric_of(m, lists, labels[m.task][lists.row_N], weight_N) for m in own}
        return Evaluation(lists, factors, metrics, threads=usable_cores(), user_L=users_of(lists, user_N))

    place = f"{predicted.run.config.data.path}/{split}, lists by {logged.columns.by or predicted.run.group}"
    lists, values = Lists.of(list_N, place), [measured for measured in wanted if measured.kind == "value"]
    parts = [evaluation(lists, [measured for measured in wanted if measured.kind != "value"])]
    if values:
        if log.random_N is not None:
            lists = Lists.of(np.where(log.random_N, list_N, -1), place)
        propensity_N = np.ones(len(list_N)) if log.propensity_N is None else log.propensity_N
        weights = weights_of(propensity_N[lists.row_N], logged.columns.clip)
        clipped = weights.clipped
        parts.append(evaluation(lists, values, weights.weight_N))
    return Evaluations(parts), factors, clipped


def _counterfactual(columns: LogColumns, clipped: float) -> dict[str, Any] | None:
    """How values are estimated; None where none are."""
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


def _value(value: Value) -> dict[str, Any]:
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


def _front(found: Found, names: Sequence[str], wanted: Sequence[Measured]) -> list[dict[str, Any]]:
    """Its points, of many some that are spread over it."""
    places = np.unique(np.linspace(0, len(found.front) - 1, min(_FRONT, len(found.front))).round().astype(int))
    return [
        {
            "exponents": dict(zip(names, found.exponents_WK[w].tolist(), strict=True)),
            "metrics": {str(measured): float(found.values[measured][w]) for measured in wanted},
        }
        for w in (found.front[place] for place in places.tolist())
    ]


def _sensitivity(results: Evaluations, ranges: Sequence[Range], best_K: Floats) -> dict[str, Mapping[str, Any]]:
    told: dict[str, Mapping[str, Any]] = {}
    for k, given in enumerate(ranges):
        if given.low < given.high:
            values = np.linspace(given.low, given.high, _STEPS)
            over = results.sensitivity(best_K, k, values)
            metrics = {str(measured): found.tolist() for measured, found in over.items()}
            told[given.name] = {"exponent": values.tolist(), "metrics": metrics}
    return told


def check_out(out: Location, options: Mapping[str, Any]) -> None:
    """Refuse a folder that holds the fusion of other options.

    Args:
        out: Folder of the files.
        options: Options of the fusion to be written, as `fusion.json` will have them.

    Raises:
        UserError: the folder holds the fusion of other options.
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
        what = "unknown options" if before is None else f"another {', '.join(changed)}"
        rule = "a fusion is replaced unasked by one of the same options alone"
        raise UserError(str(out), f"holds a fusion of {what}", rule, "pass --overwrite, or give another --out")


def write_fusion(out: Location, done: Fused, *, report_only: bool = False) -> Location:
    """Write the files and return that of the page.

    Args:
        out: Folder of the files.
        done: Outcome of the search.
        report_only: True to write no `fusion.toml`, which `export` and `predict` would take.

    Raises:
        UserError: the folder cannot be written.
    """
    with writing(out):
        make_directory(out)
    if not report_only:
        write_text(out / FUSION_FILE, head(done.record) + dump_toml(done.fusion))
    write_text(out / RECORD_FILE, json_text(done.record) + "\n")
    return write_page(done.record, out)
