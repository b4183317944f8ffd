"""Calibrations: what they are fitted to comes back, order stays, frequencies agree."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize  # type: ignore[import-untyped]

from ple_rec.config.fusion import NegativeSamplingConfig
from ple_rec.errors import UserError
from ple_rec.ranking.calibration import calibrate, fit_isotonic, fit_platt

Floats = NDArray[np.float64]
N = 20_000


def sample(slope: float, intercept: float) -> tuple[Floats, Floats, Floats]:
    """Probabilities of a model that is wrong by a known line in the logit, labels, weights."""
    rng = np.random.default_rng(0)
    logit = rng.normal(-1, 1.5, N)
    truth = 1 / (1 + np.exp(-(slope * logit + intercept)))
    return 1 / (1 + np.exp(-logit)), (rng.random(N) < truth).astype(float), rng.integers(0, 3, N).astype(float)


def test_platt_is_the_maximum_of_likelihood() -> None:
    p, label, weight = sample(0.5, -0.7)
    found = fit_platt("vtr", p, label, weight)
    logit = np.log(p) - np.log1p(-p)

    def loss(x: Floats) -> float:
        z = x[0] * logit + x[1]
        return float(np.sum(weight * (np.logaddexp(0, z) - label * z)))

    best = minimize(loss, [1.0, 0.0], method="BFGS").x
    assert (found.slope, found.intercept) == pytest.approx(best, abs=1e-4)
    assert (found.slope, found.intercept) == pytest.approx((0.5, -0.7), abs=0.06)
    after = calibrate(found, p)
    assert np.average(after, weights=weight) == pytest.approx(np.average(label, weights=weight), abs=1e-9)
    assert (np.argsort(after, kind="stable") == np.argsort(p, kind="stable")).all()


def test_isotonic_never_falls_and_agrees_on_average() -> None:
    p, label, weight = sample(0.5, -0.7)
    found = fit_isotonic("vtr", p, label, weight)
    assert len(found.scores) <= 1_000
    after = calibrate(found, p)
    assert (np.diff(after[np.argsort(p)]) >= 0).all()
    assert np.average(after, weights=weight) == pytest.approx(np.average(label, weights=weight), abs=2e-3)
    truth = 1 / (1 + np.exp(-(0.5 * (np.log(p) - np.log1p(-p)) - 0.7)))
    assert np.abs(after - truth).mean() < 0.02 < np.abs(p - truth).mean()


def test_isotonic_of_few_scores_is_pooled_exactly() -> None:
    p, label = np.array([0.1, 0.2, 0.2, 0.3, 0.4]), np.array([0.0, 1.0, 1.0, 0.0, 1.0])
    found = fit_isotonic("vtr", p, label, np.ones(5))
    assert found.scores == (0.1, 0.2, 0.3, 0.4)
    assert found.values == pytest.approx((0.0, 2 / 3, 2 / 3, 1.0))


def test_negatives_that_were_left_out_come_back() -> None:
    truth = np.array([0.001, 0.02, 0.5])
    kept = 0.1
    seen = truth / (truth + kept * (1 - truth))  # what a perfect model says of the sampled rows
    assert calibrate(NegativeSamplingConfig(kind="negative_sampling", kept=kept), seen) == pytest.approx(truth)


def test_one_class_and_an_order_upside_down_are_refused() -> None:
    p, label, weight = sample(1.0, 0.0)
    for fit in (fit_platt, fit_isotonic):
        with pytest.raises(UserError, match=r"calibration of vtr: 0 positives in .* rows"):
            fit("vtr", p, np.zeros(N), weight)
    with pytest.raises(UserError, match="the slope has to be positive"):
        fit_platt("vtr", p, 1 - label, weight)
