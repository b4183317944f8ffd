"""MSE, RMSE, MAE, R^2 and calibration of regression tasks.

A row counts for a task if it is in the task's sample space, for example only clicked impressions for a watch time.

Shapes: B rows of a batch, K tasks, H histogram bins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from ple_rec.metrics import accumulator, scores
from ple_rec.metrics.accumulator import Accumulator, Result, ScoredRows, State, TaskCurves

# Labels count as equal if their variation is less than this share of their sum of squares, a rounding error.
_ROUNDING = 1e-9
# A bin is given by the leading 16 bits of a float32: sign, exponent and 7 bits of the mantissa.
BINS = 1 << 16


class RegressionAccumulator(Accumulator):
    """MSE, RMSE, MAE and calibration of K regression tasks over all ranks, in bounded memory.

    With weights w, labels y, predictions p and all sums over the rows in the sample space:

        mse = sum w (p - y)^2 / sum w        rmse = sqrt(mse)        mae = sum w |p - y| / sum w
        calibration = sum w p / sum w y

    Results are `samples` (rows in the sample space), `mse`, `rmse`, `mae`, `calibration`, `mean_label` and
    `mean_prediction`. A value is None if it is undefined: all but `samples` if the sum of weights is 0, `calibration`
    if the mean label is 0.

    The calibration curve comes from a histogram of 1.5 MiB a task. A prediction's bin is the leading half of its
    float32, mapped to ascending order: 128 bins an octave over all finite values, so no range has to be chosen and
    nothing is clipped. A bin has the sums of weight, prediction and label, so means over bins are exact; only which
    predictions share a bin depends on rounding, to 2^-7 relative.
    """

    SUMS: ClassVar[tuple[str, ...]] = ("samples", "invalid", "weight", "label", "prediction", "squared", "absolute")

    def __init__(self, names: Sequence[str], device: torch.device | str) -> None:
        super().__init__(names, device)
        self._histogram = self._zeros(len(self.names), 3, BINS, dtype=torch.float64)
        self._first_bin_K = torch.arange(len(self.names), device=self.device) * (3 * BINS)

    def reset(self) -> None:
        """Forget every sample."""
        super().reset()
        self._histogram.zero_()

    def _terms(self, rows: ScoredRows) -> list[Tensor]:
        prediction_BK, label_BK, weight_BK = rows
        error_BK = prediction_BK - label_BK
        weighted_BK = weight_BK * error_BK
        return [
            weight_BK,
            weight_BK * label_BK,
            weight_BK * prediction_BK,
            weighted_BK * error_BK,
            weighted_BK.abs(),
        ]

    def _store_rows(self, rows: ScoredRows) -> None:
        prediction_BK, label_BK, weight_BK = rows
        bits_BK = prediction_BK.float().view(torch.int32)
        # As integers, negative floats descend. With their lower bits flipped, all ascend, from -2^15 as 16-bit numbers.
        ascending_BK = bits_BK ^ ((bits_BK >> 31) & 0x7FFFFFFF)
        bin_BK = (ascending_BK >> 16) + BINS // 2 + self._first_bin_K
        flat = self._histogram.view(-1)
        for k, value_BK in enumerate((weight_BK, weight_BK * prediction_BK, weight_BK * label_BK)):
            flat.index_add_(0, (bin_BK + k * BINS).flatten(), value_BK.flatten())

    def histogram(self) -> Tensor:
        """Return a copy of this rank's histogram, (K, 3, H): the sums of weight, prediction and label of each bin."""
        return self._histogram.clone()

    def results(
        self, sums: Mapping[str, Sequence[float]], buffered_rows: Sequence[int], group: ProcessGroup | None
    ) -> list[Result]:
        """Return the metrics of each task from the sums over all ranks, without another collective."""
        return [_result({name: values[k] for name, values in sums.items()}) for k in range(len(self.names))]

    def curves(self, histogram: Tensor) -> list[TaskCurves]:
        """Return the calibration bins of each task."""
        return [{"calibration": scores.calibration_bins(*sums_3H)} for sums_3H in histogram]

    def state_dict(self) -> State:
        """Return a copy of this rank's state."""
        return super().state_dict() | {"histogram": self._histogram.clone()}

    def merge_state_dict(self, state: Mapping[str, Tensor | int]) -> None:
        """Add the state of another rank or run.

        Raises:
            UserError: The state belongs to other tasks or to another version.
        """
        super().merge_state_dict(state)
        self._histogram += accumulator.tensor_of(state, "histogram").to(self.device)

    def _state_shapes(self) -> dict[str, tuple[int, ...]]:
        return super()._state_shapes() | {"histogram": tuple(self._histogram.shape)}


class R2Accumulator(RegressionAccumulator):
    """Regression metrics with R^2, `r2`, for evaluations. Checkpoints have the sums of `RegressionAccumulator` only."""

    SUMS = (*RegressionAccumulator.SUMS, "squared_label")

    def _terms(self, rows: ScoredRows) -> list[Tensor]:
        return [*super()._terms(rows), rows.weight * rows.label.square()]


def _result(sums: Mapping[str, float]) -> Result:
    """Return the metrics of one task from its sums over all ranks."""
    mse = accumulator.ratio(sums["squared"], sums["weight"])
    result: Result = {
        "samples": int(sums["samples"]),
        "mse": mse,
        "rmse": None if mse is None else math.sqrt(mse),
        "mae": accumulator.ratio(sums["absolute"], sums["weight"]),
        "calibration": accumulator.ratio(sums["prediction"], sums["label"]),
        "mean_label": accumulator.ratio(sums["label"], sums["weight"]),
        "mean_prediction": accumulator.ratio(sums["prediction"], sums["weight"]),
    }
    if "squared_label" in sums:
        result["r2"] = _r2(sums)
    return result


def _r2(sums: Mapping[str, float]) -> float | None:
    """Return 1 - MSE / variance of the labels, or None if all labels are equal up to rounding."""
    variation = sums["squared_label"] - sums["label"] ** 2 / (sums["weight"] or 1)
    return 1 - sums["squared"] / variation if variation > _ROUNDING * sums["squared_label"] else None
