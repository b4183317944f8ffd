"""Which of two values of a metric is the better one: for the best checkpoint and for comparing runs. Needs no torch."""

from __future__ import annotations

HIGHER = ("auc", "gauc")
LOWER = ("ne", "logloss", "mse", "rmse", "mae")


def badness(metric: str, value: float) -> float | None:
    """A number that is the lower the better `value` is; None for what is neither good nor bad, such as `samples`.

    AUC, GAUC and R^2 are better the higher, errors the lower, calibration the nearer to 1.
    """
    if metric in (*HIGHER, "r2"):  # R^2 ranks checkpoints as the mean squared error does
        return -value
    if metric in LOWER:
        return value
    return abs(value - 1) if metric == "calibration" else None
