"""Score fusion (Eq. 1 of the PLE paper, Tang et al., RecSys 2020), in logarithms.

    score_i = prod_k p_ik^w_k * f(length_i)^v        log score_i = sum_k w_k log p_ik + v log f(length_i)

The exponents are w_k for each task, and v for f, a transform of one dense feature, such as the length of the video.
p_ik is the probability of a binary task, calibrated if the configuration says so, or the prediction of a regression,
divided by its scale and passed through its link, if it has these. p_ik is clipped to [1e-6, 1], so that no logarithm is
infinite, and no video gets the last place because one probability was rounded to 0. f is clipped to 1e-6 from below,
too. A factor can hardly distinguish rows at a bound; `Factors.clipped` has their share.

Why a product: the weights of a sum would depend on the rates of the tasks. If shares are a thousand times as rare as
views, their weight has to be a thousand times as large, and has to change when the rate of shares does. In a product,
a constant factor on the probabilities of one task adds a constant to every log score, which changes no order.

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
from ple_rec.ranking.calibration import calibrate

Floats = NDArray[np.float64]
# Lower bound of every factor.
LEAST_FACTOR = 1e-6
# A task's factor from this value on counts as clipped to 1, since its logarithm is about 0.
FULL_FACTOR = 1.0 - 1e-3
# Name of the factor f among the factors.
LENGTH_FACTOR = "length"


@dataclass(frozen=True)
class Factors:
    """Factors of the score as logarithms.

    Args:
        names: Names of the K factors.
        log_NK: Logarithms log p_ik, and log f if there is a length.
        clipped: Share of rows in which a factor is at a bound, by name: 1e-6, or for a task .999 and above.
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
        UserError: A task or feature does not exist, a setting does not fit the kind of its task, or `check_length`
            refuses the fusion.
    """
    check_length(tuple(fusion.tasks), fusion.length is not None, place)
    for name, task in fusion.tasks.items():
        where = f"{place}: tasks.{name}"
        if name not in kinds:
            raise UserError(where, "no task of the model", f"it has {', '.join(kinds)}", "name tasks of the model")
        if kinds[name] == "binary" and task.link is not None:
            rule = "a binary task has a probability already; links are for regressions"
            raise UserError(f"{where}.link", f'"{task.link}" on a binary task', rule, "leave it out")
        if kinds[name] == "binary" and task.scale is not None:
            rule = "a binary task has a probability already; scales are for regressions"
            raise UserError(f"{where}.scale", f"{task.scale:g} on a binary task", rule, "leave it out")
        if kinds[name] == "regression" and task.calibration is not None:
            rule = "calibration corrects probabilities, and a regression predicts none"
            raise UserError(f"{where}.calibration", f"{task.calibration.kind} on a regression", rule, "leave it out")
    if fusion.length is not None and fusion.length.feature not in dense:
        known = f"the dense features of the dataset are {', '.join(dense) or 'none'}"
        raise UserError(f"{place}: length.feature", f'got "{fusion.length.feature}"', known, "name a dense feature")


def check_length(tasks: Sequence[str], has_length: bool, place: str) -> None:
    """Refuse a fusion that has both a length factor and a task with the name "length".

    Args:
        tasks: Names of the tasks.
        has_length: True if the fusion has a length factor.
        place: File or option of the fusion, for messages.

    Raises:
        UserError: The fusion has such a task and a length factor.
    """
    if has_length and LENGTH_FACTOR in tasks:
        rule = "the factor of the video's length has that name, too"
        raise UserError(
            place, f'fuses a task "{LENGTH_FACTOR}" and a length', rule, "leave one out, or rename the task"
        )


def compute_factors(
    fusion: FusionConfig, kinds: Mapping[str, TaskKind], predictions: Mapping[str, Floats], length_N: Floats | None
) -> Factors:
    """Return the factors of Eq. 1.

    Args:
        fusion: Configuration with scales, links, calibrations and f.
        kinds: Kind of each task, by task name.
        predictions: Probabilities of a binary task or predictions of a regression, (N,), by task name.
        length_N: Values of the feature of `fusion.length`, NaN for a missing value; None if the fusion has no length.

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
                "a score needs finite predictions",
                "train the model anew: its weights, or the row's features, are not finite",
            )
        clipped_N, share = _clip(_linked_or_calibrated(values_N, kinds[name], task))
        names.append(name)
        columns.append(np.log(clipped_N))
        clipped[name] = share
    if fusion.length is not None:
        assert length_N is not None, "the feature is read where there is a length"
        known_N = np.where(np.isnan(length_N), fusion.length.missing, length_N)
        clipped_N, share = _clip(transform_length(fusion.length.transform, known_N), high=None, full=np.inf)
        names.append(LENGTH_FACTOR)
        columns.append(np.log(clipped_N))
        clipped[LENGTH_FACTOR] = share
    return Factors(tuple(names), np.stack(columns, axis=1), clipped)


def exponent_array(fusion: FusionConfig) -> Floats:
    """Return the exponents of a fusion, (K,), in the order of `Factors.names`."""
    exponents = [task.exponent for task in fusion.tasks.values()]
    return np.array([*exponents, fusion.length.exponent] if fusion.length is not None else exponents)


def exponents_text(fusion: FusionConfig) -> str:
    """Return the exponents as text: `click 1.2, watch 0.5, length -0.3`."""
    exponents = {name: task.exponent for name, task in fusion.tasks.items()}
    if fusion.length is not None:
        exponents[LENGTH_FACTOR] = fusion.length.exponent
    return ", ".join(f"{name} {exponent:.4g}" for name, exponent in exponents.items())


def with_exponents(fusion: FusionConfig, exponents_K: Floats) -> FusionConfig:
    """Return the fusion with other exponents, which are in the order of `Factors.names`."""
    values = [float(value) for value in exponents_K]
    # The exponent of a length, which comes last, has no task.
    tasks = {
        name: task.model_copy(update={"exponent": value})
        for (name, task), value in zip(fusion.tasks.items(), values, strict=False)
    }
    length = fusion.length and fusion.length.model_copy(update={"exponent": values[-1]})
    return fusion.model_copy(update={"tasks": tasks, "length": length})


def transform_length(
    transform: IdentityTransform | LogTransform | SigmoidTransform | PowerTransform | QuantilesTransform, x_N: Floats
) -> Floats:
    """Return f(x) of each length x, before f is clipped to 1e-6 from below."""
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


def _linked_or_calibrated(values_N: Floats, kind: TaskKind, task: TaskFusionConfig) -> Floats:
    """Return the predictions of a regression, scaled and linked; or those of a binary task, calibrated."""
    if kind == "regression":
        scaled_N = values_N / (task.scale or 1.0)
        return np.asarray(expit(scaled_N)) if task.link == "sigmoid" else scaled_N
    return values_N if task.calibration is None else calibrate(task.calibration, values_N)


def _clip(values_N: Floats, high: float | None = 1.0, full: float = FULL_FACTOR) -> tuple[Floats, float]:
    """Clip values to [1e-6, high]; return them, and the share of values that were clipped or are at least `full`."""
    clipped_N = np.clip(values_N, LEAST_FACTOR, high)
    at_bound_N = (clipped_N != values_N) | (clipped_N >= full)
    return clipped_N, float(np.mean(at_bound_N)) if len(values_N) else 0.0
