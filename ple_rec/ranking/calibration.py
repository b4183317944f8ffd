"""Calibration of a binary task's probabilities to observed frequencies, before they become factors of a ranking score.

A fusion computes this score: the product of the predictions of several tasks, each raised to an exponent.

    platt               p' = sigmoid(a logit(p) + b)        a, b by maximum likelihood (Platt, 1999)
    isotonic            p' non-decreasing in p              least squares (pool adjacent violators)
    negative_sampling   p' = p / (p + (1 - p) / kept)       exact if the model was trained on a random share `kept` of
                                                            the negatives (He et al., ADKDD 2014)

Calibration keeps the order of one task's predictions, except that isotonic can make some equal. It changes the order of
rows by the product of several tasks, unless it multiplies the probabilities of each task by a constant. So exponents
that were found for calibrated probabilities do not suit uncalibrated ones.

Shape suffixes: N rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression  # type: ignore[import-untyped]  # scipy has no stubs
from scipy.special import expit, logit  # type: ignore[import-untyped]  # scipy has no stubs

from ple_rec.config.fusion import IsotonicConfig, NegativeSamplingConfig, PlattConfig
from ple_rec.errors import UserError

Floats = NDArray[np.float64]
# Probabilities are kept this far from 0 and 1, so that their logits are finite.
_EPS = 1e-12
# Newton's method ends after _STEPS steps, or once a step changes both parameters by less than _CLOSE.
_STEPS, _CLOSE = 100, 1e-10
# Largest number of knots of an isotonic curve.
_KNOTS = 1_000


def calibrate(calibration: PlattConfig | IsotonicConfig | NegativeSamplingConfig, p_N: Floats) -> Floats:
    """Return the calibrated probabilities."""
    match calibration:
        case PlattConfig():
            return np.asarray(expit(calibration.slope * _logit(p_N) + calibration.intercept))
        case IsotonicConfig():
            return np.interp(p_N, calibration.scores, calibration.values)
        case NegativeSamplingConfig():
            return np.asarray(p_N / (p_N + (1.0 - p_N) / calibration.kept))


def fit_platt(task: str, p_N: Floats, label_N: Floats, weight_N: Floats) -> PlattConfig:
    """Return the slope and intercept that minimise the weighted log loss, found by Newton's method.

    Args:
        task: Name of the task, for messages.
        p_N: Probabilities of rows that the model was not trained on.
        label_N: Labels, 0 or 1.
        weight_N: Weights of the rows; a row with weight 0 is left out.

    Raises:
        UserError: There is only one class, or the slope is not above 0: greater predictions go with fewer positives.
    """
    p_N, label_N, weight_N = _weighted_rows(task, p_N, label_N, weight_N)
    logit_N = _logit(p_N)
    slope, intercept = 1.0, 0.0
    for _ in range(_STEPS):
        fitted_N = expit(slope * logit_N + intercept)
        error_N = weight_N * (fitted_N - label_N)
        curve_N = weight_N * fitted_N * (1.0 - fitted_N)
        gradient = np.array([error_N @ logit_N, error_N.sum()])
        cross = curve_N @ logit_N
        hessian = np.array([[curve_N @ (logit_N * logit_N), cross], [cross, curve_N.sum()]])
        # If all predictions are equal, the Hessian is singular, and least squares picks a slope.
        step = np.linalg.lstsq(hessian, gradient, rcond=None)[0]
        # A step of at most 2 does not overshoot where the likelihood is almost flat.
        step *= min(1.0, 2.0 / max(1e-300, float(np.abs(step).max())))
        slope, intercept = slope - float(step[0]), intercept - float(step[1])
        if np.abs(step).max() < _CLOSE:
            break
    if slope <= 0:
        raise UserError(
            f"calibration of {task}",
            f"slope {slope:.3g}",
            "the slope has to be positive: greater predictions go with more positives",
            "look at the task's AUC, which is about one half or less; do not fuse its predictions as they are",
        )
    return PlattConfig(kind="platt", slope=slope, intercept=intercept)


def fit_isotonic(task: str, p_N: Floats, label_N: Floats, weight_N: Floats) -> IsotonicConfig:
    """Return the non-decreasing curve of least squares as at most 1,000 knots, between which it is linear.

    Args:
        task: Name of the task, for messages.
        p_N: Probabilities of rows that the model was not trained on.
        label_N: Labels, 0 or 1.
        weight_N: Weights of the rows; a row with weight 0 is left out.

    Raises:
        UserError: There is only one class.
    """
    p_N, label_N, weight_N = _weighted_rows(task, p_N, label_N, weight_N)
    scores, group_N = np.unique(p_N, return_inverse=True)
    weights = np.bincount(group_N, weight_N)
    means = np.bincount(group_N, weight_N * label_N) / weights
    fitted = np.asarray(isotonic_regression(means, weights=weights).x)
    if len(scores) > _KNOTS:
        # The knots that stay have about the same weight of rows between them.
        mass = np.cumsum(weights) / weights.sum()
        knots = np.unique(np.searchsorted(mass, np.linspace(0.0, 1.0, _KNOTS)).clip(max=len(scores) - 1))
        scores, fitted = scores[knots], fitted[knots]
    return IsotonicConfig(kind="isotonic", scores=tuple(scores.tolist()), values=tuple(fitted.clip(0, 1).tolist()))


def _weighted_rows(task: str, p_N: Floats, label_N: Floats, weight_N: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the rows whose weight is above 0; raise UserError if they have only one class."""
    rows_N = weight_N > 0
    p_N, label_N, weight_N = (np.asarray(x[rows_N], np.float64) for x in (p_N, label_N, weight_N))
    positives = int((label_N > 0).sum())
    if positives in (0, len(label_N)):
        raise UserError(
            f"calibration of {task}",
            f"{positives:,} positives in {len(label_N):,} rows",
            "a calibration needs rows of both classes",
            "fit it on more rows, or leave the task uncalibrated",
        )
    return p_N, label_N, weight_N


def _logit(p_N: Floats) -> Floats:
    return np.asarray(logit(np.clip(p_N, _EPS, 1.0 - _EPS)))
