"""Warning of overfitting, from the training and validation losses of a run."""

from __future__ import annotations

import numpy as np

from ple_rec.runs.log import Series

# Fewer evaluations do not show a trend.
_MIN_EVALUATIONS = 4
# A rise by less than this share of the lowest validation loss may be chance.
_MIN_RISE = 0.01


def overfitting_warning(train: Series, valid: Series, *, stops_early: bool) -> str | None:
    """Return a warning if the training loss has fallen while the validation loss has risen; None otherwise.

    Four conditions must hold. There are at least four evaluations. The lowest validation loss is in the first half of
    them. The last validation loss is more than 1 % above the lowest. The mean training loss after the step of the
    lowest validation loss is below the training loss at that step.

    Args:
        train: Loss of the training records.
        valid: Loss of the evaluations. A loss at step 0 is ignored, since another run has trained these weights.
        stops_early: True if the run has early stopping; otherwise the warning suggests it.
    """
    known = np.isfinite(valid.values) & (valid.steps > 0)
    steps, losses = valid.steps[known], valid.values[known]
    if len(losses) < _MIN_EVALUATIONS:
        return None
    lowest = int(losses.argmin())
    known = np.isfinite(train.values)
    before = train.values[known & (train.steps <= steps[lowest])]
    after = train.values[known & (train.steps > steps[lowest])]
    has_risen = 2 * (lowest + 1) <= len(losses) and losses[-1] > (1 + _MIN_RISE) * losses[lowest]
    if not has_risen or not before.size or not after.size or after.mean() >= before[-1]:
        return None
    rise = f"from {losses[lowest]:.4f} at step {steps[lowest]:.0f} to {losses[-1]:.4f}"
    earlier = "" if stops_early else "end the run earlier (early_stopping.patience), or "
    return (
        f"warning: the model overfits: the validation loss rose {rise}, while the training loss fell. Fix: {earlier}"
        "raise model.dropout, model.input_dropout or dense_optimizer.weight_decay"
    )
