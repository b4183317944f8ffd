"""The warning of a run that overfits, from its records."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ple_rec.runs.log import Series
from ple_rec.runs.overfitting import overfitting_warning


def every(step: int, values: list[float]) -> Series:
    return Series(np.arange(1, len(values) + 1, dtype=float) * step, np.array(values))


FALLING = every(50, [0.7, 0.6, 0.55, 0.5, 0.45, 0.4, 0.36, 0.33, 0.3, 0.28, 0.26, 0.25])


@pytest.mark.parametrize("valid", [[0.6, 0.5, 0.52, 0.51, 0.54, 0.55], [0.6, 0.5, 0.51, 0.55], [0.5, 0.52, 0.53, 0.6]])
def test_a_validation_loss_that_rises_for_half_of_the_run_is_told(valid: list[float]) -> None:
    found = overfitting_warning(FALLING, every(100, valid), stops_early=False)
    assert found is not None
    assert f"rose from 0.5000 at step {100 * (1 + valid.index(0.5))} to {valid[-1]:.4f}, while the training" in found
    assert found.endswith("model.dropout, model.input_dropout or dense_optimizer.weight_decay")


@pytest.mark.parametrize(
    ("train", "valid"),
    [
        (FALLING, [0.6, 0.55, 0.5, 0.48, 0.47, 0.46]),  # falls
        (FALLING, [0.6, 0.55, 0.5, 0.48, 0.53, 0.54]),  # has risen for less than half
        (FALLING, [0.6, 0.5, 0.502, 0.501, 0.503, 0.504]),  # by less than 1 %
        (FALLING, [0.5, 0.6, 0.7]),  # has too few evaluations
        (FALLING, [math.nan] * 6),
        (every(50, [0.5] * 12), [0.6, 0.5, 0.52, 0.53, 0.54, 0.55]),  # has not fallen: the data changed, or it diverges
        (every(50, []), [0.6, 0.5, 0.52, 0.53, 0.54, 0.55]),
    ],
)
def test_other_runs_are_not_warned_of(train: Series, valid: list[float]) -> None:
    assert overfitting_warning(train, every(100, valid), stops_early=False) is None


def test_weights_that_a_run_starts_from_are_no_evaluation_of_it() -> None:
    valid = Series(np.array([0.0, 100, 200, 300, 400]), np.array([0.4, 0.6, 0.58, 0.56, 0.54]))
    assert overfitting_warning(FALLING, valid, stops_early=False) is None


def test_a_run_that_stops_early_is_not_told_to() -> None:
    found = overfitting_warning(FALLING, every(100, [1.0, 1.1, 1.2, 1.3]), stops_early=True)
    assert found is not None
    assert found.endswith("Fix: raise model.dropout, model.input_dropout or dense_optimizer.weight_decay")
