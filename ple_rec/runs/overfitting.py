"""Warning of overfitting, from the training and validation losses of a run."""

from __future__ import annotations

import numpy as np

from ple_rec.runs.log import Series

# With fewer evaluations, half of them show no trend.
_EVALUATIONS = 4
# A rise by a smaller share of the lowest validation loss may be chance.
_RISE = 0.01


def overfitting_warning(train: Series, valid: Series, *, stops_early: bool) -> str | None:
    """Return a warning if the training loss has fallen while the validation loss rose for half of the evaluations.

    The warning needs three conditions. The lowest validation loss is in the first half of the evaluations, the last one
    is more than 1 % above it, and the mean training loss after that step is below the training loss at that step.

    Args:
        train: Loss of the training records.
        valid: Loss of the evaluations; that at step 0, of the weights of another run, does not count.
        stops_early: True for a run with early stopping, which the warning then does not suggest.
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
