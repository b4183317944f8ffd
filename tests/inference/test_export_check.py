"""Whether an export says what the run said: differences of scores by task, and what of them is let through."""

from __future__ import annotations

import math
from contextlib import nullcontext

import numpy as np
import pytest

from ple_rec.config.choices import TablePrecision
from ple_rec.errors import UserError
from ple_rec.inference.export_check import ErrorBounds, TaskCheck, auc, check_bounds, compare_scores
from ple_rec.inference.held_out import HeldOutRows


@pytest.mark.parametrize("lost", [TaskCheck(math.nan, 0.0, None, None), TaskCheck(0.0, 0.0, 0.5, math.nan)])
def test_a_loss_that_is_no_number_is_never_let_through(lost: TaskCheck) -> None:
    with pytest.raises(UserError, match=r"nan .*\. Fix: find the weights of the model that are not finite$"):
        check_bounds({"like": lost}, "fp32", "fp32", ErrorBounds(1.0, 1.0))


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1], 0.75), ([1, 1, 1], [1, 0, 1], 0.5), ([1, 2], [1, 1], None)],
)
def test_auc(scores: list[float], labels: list[int], expected: float | None) -> None:
    assert auc(np.array(scores), np.array(labels) > 0) == expected


def held_out(scores_NK: list[list[float]], labels_NK: list[list[float]]) -> HeldOutRows:
    scores, labels = np.array(scores_NK, np.float32), np.array(labels_NK, np.float32)
    return HeldOutRows("test", {}, {}, len(labels), scores, labels, np.ones_like(labels, bool), None)


@pytest.mark.parametrize("mean", [0.0, 30_000.0])
@pytest.mark.parametrize("deviation", [1e-3, 1.0, 1e3, 1e5])
@pytest.mark.parametrize(
    ("precision", "moved", "fits"), [("fp32", 1e-6, True), ("int8", 0.02, True), ("int8", 4, False)]
)
def test_a_regression_is_compared_in_standard_deviations_of_its_label(
    mean: float, deviation: float, precision: TablePrecision, moved: float, fits: bool
) -> None:
    """Whatever its unit. What fp32 rounds of a mean of 30,000 is many of the smallest one, and nothing to refuse."""
    label_NK = mean + deviation * np.array([[-1.0], [1.0], [-1.0], [1.0]])
    rows = held_out(label_NK.tolist(), label_NK.tolist())
    rounded = np.spacing(np.float32(mean)) * np.array([[2.0], [-2.0], [1.0], [0.0]])  # sums in another order
    scores_NK = (rows.scores_NK + deviation * moved + rounded).astype(np.float32)
    checks = compare_scores(rows, scores_NK, {"watch": "regression"})
    too_fine = mean > 0 and deviation < 1e-2  # for any number in fp32
    with nullcontext() if fits or too_fine else pytest.raises(UserError, match=r"a score differs by [34]"):
        check_bounds(checks, precision, "fp32", ErrorBounds.from_options(precision, "fp32", None, None))


def test_a_difference_that_is_finite_is_not_called_infinite() -> None:
    rows = held_out([[30_000.0], [30_001.0]], [[30_000.0], [30_001.0]])
    for add, fix in (
        (2.0, "rounding in fp32 makes smaller differences, or allow it by --tolerance 3"),
        (math.nan, "find the weights of the model that are not finite$"),
    ):
        checks = compare_scores(rows, rows.scores_NK + np.float32(add), {"watch": "regression"})
        with pytest.raises(UserError, match=fix):
            check_bounds(checks, "fp32", "fp32", ErrorBounds.from_options("fp32", "fp32", None, None))


def test_a_few_pairs_may_change_places_where_each_is_worth_more_than_the_bound() -> None:
    scores, labels = [[i / 100] for i in range(100)], [[float(i % 2)] for i in range(100)]
    rows = held_out(scores, labels)
    swapped = rows.scores_NK.copy()
    swapped[[40, 41]] = swapped[[41, 40]]
    checks = compare_scores(rows, swapped, {"click": "binary"})
    assert checks["click"].auc_loss == pytest.approx(1 / 2500)
    check_bounds(checks, "fp16", "fp32", ErrorBounds.from_options("fp16", "fp32", 1.0, None))
    with pytest.raises(UserError, match=r"0\.0004 of AUC is lost; a loss of at most 0 is allowed"):
        check_bounds(checks, "fp16", "fp32", ErrorBounds.from_options("fp16", "fp32", 1.0, 0.0))
