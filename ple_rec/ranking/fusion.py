"""Score fusion (the paper's Eq. 1), in logarithms.

    score_i = prod_k p_ik^w_k * f(length_i)^v        log score_i = sum_k w_k log p_ik + v log f(length_i)

p_ik is the probability of a binary task, calibrated where that is asked for, or a regression's prediction, divided by
its scale and brought into (0, 1] by its link; each is kept within [1e-6, 1], so that no logarithm is infinite and a
task cannot veto a video by rounding. f is kept above 1e-6 likewise. Rows in which a factor is at a bound are counted:
it hardly tells them apart.

Exponents, not a weighted sum: a share is a thousand times as rare as a view, so in a sum its weight would have to be
a thousand times as large, and would have to follow whenever the rate of shares drifts. In a product, to multiply
one task's probabilities by a constant adds a constant to every log score and moves no video.

Shape suffixes: N rows, K factors (tasks, then the length), W settings of the exponents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit  # type: ignore[import-untyped]  # scipy has no stubs

from ple_rec.config.base import TaskKind
from ple_rec.config.fusion import (
    FusionConfig,
    IdentityConfig,
    LogConfig,
    PowerConfig,
    QuantilesConfig,
    SigmoidConfig,
    TaskFusionConfig,
)
from ple_rec.errors import UserError
from ple_rec.ranking.calibration import calibrated

Floats = NDArray[np.float64]
FLOOR = 1e-6
FULL = 1.0 - 1e-3  # p from which a task's factor counts as at its upper bound: such logarithms are within .001 of 0
LENGTH = "length"  # the factor of f


@dataclass(frozen=True)
class Factors:
    """What is raised to exponents, as logarithms.

    Args:
        names: Of the K factors.
        log_NK: log p_ik, and log f.
        clipped: Share of rows in which each factor is at a bound: brought to 1e-6, or a task's from .999 on.
    """

    names: tuple[str, ...]
    log_NK: Floats
    clipped: Mapping[str, float]

    def scores(self, exponents_WK: Floats) -> Floats:
        """Log scores, (W, N)."""
        return np.asarray(exponents_WK @ self.log_NK.T)


def check_fusion(fusion: FusionConfig, kinds: Mapping[str, TaskKind], dense: Mapping[str, object], place: str) -> None:
    """Refuse a fusion that a model cannot have.

    Args:
        fusion: To be checked.
        kinds: Of the model's tasks, by name.
        dense: By name, the dense features of its dataset.
        place: The file, for messages.

    Raises:
        UserError: a task or feature that is not there, or what does not fit a task's kind.
    """
    check_length(tuple(fusion.tasks), fusion.length is not None, place)
    for name, task in fusion.tasks.items():
        at = f"{place}: tasks.{name}"
        if name not in kinds:
            raise UserError(at, "no task of the model", f"it has {', '.join(kinds)}", "name tasks of the model")
        if kinds[name] == "binary" and task.link is not None:
            rule = "a binary task has a probability already; links are for regressions"
            raise UserError(f"{at}.link", f'"{task.link}" on a binary task', rule, "leave it out")
        if kinds[name] == "binary" and task.scale is not None:
            rule = "a binary task has a probability already; scales are for regressions"
            raise UserError(f"{at}.scale", f"{task.scale:g} on a binary task", rule, "leave it out")
        if kinds[name] == "regression" and task.calibration is not None:
            rule = "calibration makes probabilities frequencies, and a regression has none"
            raise UserError(f"{at}.calibration", f"{task.calibration.kind} on a regression", rule, "leave it out")
    if fusion.length is not None and fusion.length.feature not in dense:
        known = f"it names one of {', '.join(dense) or 'none: the dataset has no dense feature'}"
        raise UserError(f"{place}: length.feature", f'got "{fusion.length.feature}"', known, "name a dense feature")


def check_length(tasks: Sequence[str], length: bool, place: str) -> None:
    """Refuse a task of the name that f has among the factors.

    Raises:
        UserError: there are both.
    """
    if length and LENGTH in tasks:
        rule = "f of the video's length has that name among the factors, which exponents are given by"
        raise UserError(place, f'fuses a task "{LENGTH}" and a length', rule, "leave one out, or rename the task")


def factors_of(
    fusion: FusionConfig, kinds: Mapping[str, TaskKind], predictions: Mapping[str, Floats], length_N: Floats | None
) -> Factors:
    """The factors of Eq. 1.

    Args:
        fusion: Scales, links, calibrations and f.
        kinds: Of the tasks.
        predictions: By task, (N,): the probability of a binary task, the prediction of a regression.
        length_N: The feature of `fusion.length`, NaN where it is missing.

    Raises:
        UserError: a prediction is not finite.
    """
    names, columns, clipped = [], [], {}
    for name, task in fusion.tasks.items():
        values_N = np.asarray(predictions[name], np.float64)
        if not np.isfinite(values_N).all():
            row = int(np.argmin(np.isfinite(values_N)))
            raise UserError(
                f"prediction of {name}, row {row}",
                f"{values_N[row]}",
                "a score is made of finite predictions",
                "train the model anew: its weights, or the row's features, are not finite",
            )
        kept_N, share = _kept(_linked(values_N, kinds[name], task))
        names.append(name)
        columns.append(np.log(kept_N))
        clipped[name] = share
    if fusion.length is not None:
        assert length_N is not None, "the feature is read where there is a length"
        known_N = np.where(np.isnan(length_N), fusion.length.missing, length_N)
        kept_N, share = _kept(transformed(fusion.length.transform, known_N), high=None, full=np.inf)
        names.append(LENGTH)
        columns.append(np.log(kept_N))
        clipped[LENGTH] = share
    return Factors(tuple(names), np.stack(columns, axis=1), clipped)


def exponents_of(fusion: FusionConfig) -> Floats:
    """Those of the configuration, (K,) in the order of `Factors.names`."""
    found = [task.exponent for task in fusion.tasks.values()]
    return np.array([*found, fusion.length.exponent] if fusion.length is not None else found)


def exponents_text(fusion: FusionConfig) -> str:
    """Return the exponents for people: `click 1.2, watch 0.5, length -0.3`."""
    exponents = {name: task.exponent for name, task in fusion.tasks.items()}
    if fusion.length is not None:
        exponents[LENGTH] = fusion.length.exponent
    return ", ".join(f"{name} {exponent:.4g}" for name, exponent in exponents.items())


def with_exponents(fusion: FusionConfig, exponents_K: Floats) -> FusionConfig:
    """The fusion with other exponents, in the order of `Factors.names`."""
    values = [float(value) for value in exponents_K]
    tasks = {
        name: task.model_copy(update={"exponent": value})
        for (name, task), value in zip(fusion.tasks.items(), values, strict=False)
    }
    length = fusion.length and fusion.length.model_copy(update={"exponent": values[-1]})
    return fusion.model_copy(update={"tasks": tasks, "length": length})


def transformed(
    transform: IdentityConfig | LogConfig | SigmoidConfig | PowerConfig | QuantilesConfig, x_N: Floats
) -> Floats:
    """What f makes of lengths, not yet kept above 0."""
    match transform:
        case IdentityConfig():
            return x_N
        case LogConfig():
            return np.log1p(np.maximum(x_N, 0.0) / transform.unit)
        case SigmoidConfig():
            return np.asarray(expit((x_N - transform.center) / transform.width))
        case PowerConfig():
            return np.asarray(np.clip(x_N, transform.low, transform.high) ** transform.power)
        case QuantilesConfig():
            return np.array(transform.values)[np.searchsorted(transform.edges, x_N, side="right")]


def _linked(values_N: Floats, kind: TaskKind, task: TaskFusionConfig) -> Floats:
    if kind == "regression":
        scaled_N = values_N / (task.scale or 1.0)
        return np.asarray(expit(scaled_N)) if task.link == "sigmoid" else scaled_N
    return values_N if task.calibration is None else calibrated(task.calibration, values_N)


def _kept(values_N: Floats, high: float | None = 1.0, full: float = FULL) -> tuple[Floats, float]:
    """Bring values within bounds; return them, and the share that is at a bound."""
    kept_N = np.clip(values_N, FLOOR, high)
    at_bound_N = (kept_N != values_N) | (kept_N >= full)
    return kept_N, float(np.mean(at_bound_N)) if len(values_N) else 0.0
