"""Score fusion (the paper's Eq. 1), in logarithms.

    score_i = prod_k p_ik^w_k * f(length_i)^v        log score_i = sum_k w_k log p_ik + v log f(length_i)

p_ik is the probability of a binary task, calibrated if the configuration says so, or the prediction of a regression,
divided by its scale and mapped to (0, 1] by its link. It is clipped to [1e-6, 1], so that no logarithm is infinite and
a task cannot veto a video by rounding. f is clipped at 1e-6, too. `Factors.clipped` counts the rows at a bound, which a
factor can hardly distinguish.

A weighted sum would depend on the rates of the tasks. A share is a thousand times as rare as a view, so its weight
would have to be a thousand times as large, and to change whenever the rate of shares drifts. In a product, a constant
factor of one task's probabilities adds a constant to every log score, which changes no order.

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
    IdentityTransform,
    LogTransform,
    PowerTransform,
    QuantilesTransform,
    SigmoidTransform,
    TaskFusionConfig,
)
from ple_rec.errors import UserError
from ple_rec.ranking.calibration import calibrated

Floats = NDArray[np.float64]
FLOOR = 1e-6
# From this p on a task's factor counts as being at its upper bound, since its logarithm is within .001 of 0.
FULL = 1.0 - 1e-3
# The factor f has this name among the factors.
LENGTH = "length"


@dataclass(frozen=True)
class Factors:
    """Factors of the score as logarithms.

    Args:
        names: Names of the K factors.
        log_NK: Logarithms log p_ik, and log f if there is a length.
        clipped: Share of rows in which a factor is at a bound, by name: clipped to 1e-6, or from .999 on for a task.
    """

    names: tuple[str, ...]
    log_NK: Floats
    clipped: Mapping[str, float]

    def scores(self, exponents_WK: Floats) -> Floats:
        """Return the log scores of all rows under all settings, (W, N)."""
        return np.asarray(exponents_WK @ self.log_NK.T)


def check_fusion(fusion: FusionConfig, kinds: Mapping[str, TaskKind], dense: Mapping[str, object], place: str) -> None:
    """Refuse a fusion that does not fit a model.

    Args:
        fusion: Configuration of the fusion.
        kinds: Kind of each task of the model, by task name.
        dense: Dense features of the model's dataset, by name.
        place: File of the fusion, for messages.

    Raises:
        UserError: A task or feature does not exist, or a setting does not fit the kind of its task.
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
    """Refuse a task with the name that f has among the factors.

    Raises:
        UserError: The fusion has a task of that name and a length.
    """
    if length and LENGTH in tasks:
        rule = "the factor of the video's length has that name, too"
        raise UserError(place, f'fuses a task "{LENGTH}" and a length', rule, "leave one out, or rename the task")


def factors_of(
    fusion: FusionConfig, kinds: Mapping[str, TaskKind], predictions: Mapping[str, Floats], length_N: Floats | None
) -> Factors:
    """Return the factors of Eq. 1.

    Args:
        fusion: Configuration with scales, links, calibrations and f.
        kinds: Kind of each task, by task name.
        predictions: Probabilities of a binary task or predictions of a regression, (N,), by task name.
        length_N: Values of the feature of `fusion.length`, NaN for a missing value.

    Raises:
        UserError: A prediction is not finite.
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
        clipped_N, share = _clip(_linked(values_N, kinds[name], task))
        names.append(name)
        columns.append(np.log(clipped_N))
        clipped[name] = share
    if fusion.length is not None:
        assert length_N is not None, "the feature is read where there is a length"
        known_N = np.where(np.isnan(length_N), fusion.length.missing, length_N)
        clipped_N, share = _clip(transformed(fusion.length.transform, known_N), high=None, full=np.inf)
        names.append(LENGTH)
        columns.append(np.log(clipped_N))
        clipped[LENGTH] = share
    return Factors(tuple(names), np.stack(columns, axis=1), clipped)


def exponents_of(fusion: FusionConfig) -> Floats:
    """Return the exponents of a fusion, (K,), in the order of `Factors.names`."""
    exponents = [task.exponent for task in fusion.tasks.values()]
    return np.array([*exponents, fusion.length.exponent] if fusion.length is not None else exponents)


def exponents_text(fusion: FusionConfig) -> str:
    """Return the exponents as text: `click 1.2, watch 0.5, length -0.3`."""
    exponents = {name: task.exponent for name, task in fusion.tasks.items()}
    if fusion.length is not None:
        exponents[LENGTH] = fusion.length.exponent
    return ", ".join(f"{name} {exponent:.4g}" for name, exponent in exponents.items())


def with_exponents(fusion: FusionConfig, exponents_K: Floats) -> FusionConfig:
    """Return the fusion with other exponents, which are in the order of `Factors.names`."""
    values = [float(value) for value in exponents_K]
    tasks = {
        name: task.model_copy(update={"exponent": value})
        for (name, task), value in zip(fusion.tasks.items(), values, strict=False)
    }
    length = fusion.length and fusion.length.model_copy(update={"exponent": values[-1]})
    return fusion.model_copy(update={"tasks": tasks, "length": length})


def transformed(
    transform: IdentityTransform | LogTransform | SigmoidTransform | PowerTransform | QuantilesTransform, x_N: Floats
) -> Floats:
    """Return f of the lengths, not yet clipped."""
    match transform:
        case IdentityTransform():
            return x_N
        case LogTransform():
            return np.log1p(np.maximum(x_N, 0.0) / transform.unit)
        case SigmoidTransform():
            return np.asarray(expit((x_N - transform.center) / transform.width))
        case PowerTransform():
            return np.asarray(np.clip(x_N, transform.low, transform.high) ** transform.power)
        case QuantilesTransform():
            return np.array(transform.values)[np.searchsorted(transform.edges, x_N, side="right")]


def _linked(values_N: Floats, kind: TaskKind, task: TaskFusionConfig) -> Floats:
    """Return a task's predictions, scaled and linked if it is a regression, or calibrated."""
    if kind == "regression":
        scaled_N = values_N / (task.scale or 1.0)
        return np.asarray(expit(scaled_N)) if task.link == "sigmoid" else scaled_N
    return values_N if task.calibration is None else calibrated(task.calibration, values_N)


def _clip(values_N: Floats, high: float | None = 1.0, full: float = FULL) -> tuple[Floats, float]:
    """Clip values to [1e-6, high]; return them, and the share that was clipped or is at least `full`."""
    clipped_N = np.clip(values_N, FLOOR, high)
    at_bound_N = (clipped_N != values_N) | (clipped_N >= full)
    return clipped_N, float(np.mean(at_bound_N)) if len(values_N) else 0.0
