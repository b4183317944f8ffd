"""A run that fits its training samples better and better, and other samples worse: read from its log."""

from __future__ import annotations

import numpy as np

from ple_rec.runs.read import Series

_EVALUATIONS = 4  # fewer have no halves to speak of
_RISE = 0.01  # share of the lowest validation loss; less is what a loss moves by chance


def overfitting_warning(train: Series, valid: Series, *, stops_early: bool) -> str | None:
    """Return a warning if the training loss has fallen while the validation loss rose for half of the evaluations.

    That is so where the lowest validation loss lies in the first half of the evaluations, the last one is more than 1 %
    above it, and the mean training loss after that step is below the training loss at that step.

    Args:
        train: Loss of the training records.
        valid: Loss of the evaluations; one at step 0, of weights of another run, does not count.
        stops_early: True for a run with early stopping, which the warning then does not advise.
    """
    known = np.isfinite(valid.values) & (valid.steps > 0)
    steps, losses = valid.steps[known], valid.values[known]
    if len(losses) < _EVALUATIONS:
        return None
    lowest = int(losses.argmin())
    known = np.isfinite(train.values)
    before = train.values[known & (train.steps <= steps[lowest])]
    after = train.values[known & (train.steps > steps[lowest])]
    rose = 2 * (lowest + 1) <= len(losses) and losses[-1] > (1 + _RISE) * losses[lowest]
    if not rose or not before.size or not after.size or after.mean() >= before[-1]:
        return None
    rise = f"from {losses[lowest]:.4f} at step {steps[lowest]:.0f} to {losses[-1]:.4f}"
    earlier = "" if stops_early else "end the run earlier (early_stopping.patience), or "
    return (
        f"warning: the model overfits: the validation loss rose {rise}, while the training loss fell. Fix: {earlier}"
        "raise model.dropout, model.input_dropout or dense_optimizer.weight_decay"
    )
