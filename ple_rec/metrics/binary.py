"""AUC, NE, log loss and calibration of binary tasks.

Shapes: B batch, K tasks, H histogram bins, C rows in the buffer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn.functional import softplus

from ple_rec.metrics import accumulator, scores
from ple_rec.metrics.accumulator import Accumulator, Curves, Result, Rows, State, all_reduce, joined

EXACT_LIMIT = 1 << 20
BINS = 1 << 16
LOGIT_RANGE = 16.0  # bins cover [-16, 16] evenly, 4.9e-4 each; the two end bins also take what lies beyond


class BinaryAccumulator(Accumulator):
    """AUC, NE, log loss and calibration of K binary tasks over all ranks, in bounded memory.

    With weights w, labels y in {0, 1}, predictions p = sigmoid(logit) and all sums over the rows in the sample space:

        logloss     = sum w (-y log p - (1 - y) log(1 - p)) / sum w
        ne          = logloss / (-m log m - (1 - m) log(1 - m)),  m = sum w y / sum w   (nats; 1 = as good as m)
        calibration = sum w p / sum w y
        auc         = sum over pairs (i positive, j negative) w_i w_j [logit_i > logit_j] / sum over pairs w_i w_j
                      with [equal] = 1/2

    AUC is exact, on logits in float32, as long as all ranks together were fed at most `exact_limit` rows; rows outside
    the sample space and padding count towards that limit, because counting the others would wait for the device. Up to
    there a rank keeps (logit, signed weight) of every row, `+w` for a positive and `-w` for a negative: 8 bytes per row
    and task. Beyond, AUC comes from a histogram per class of 2^16 even bins over logits in [-16, 16] (the end bins take
    what lies outside), 1 MiB a task, and the truth lies within `auc_error_bound` of it.

    Results are `samples` (rows in the space), `positives` (rows, weights aside), `auc`, `auc_error_bound` (0.0: exact),
    `ne`, `logloss`, `calibration`, `mean_label`, `mean_prediction`; None where undefined (no weight at all, or a class
    is missing). Curves are, from the histogram, `calibration` and `roc`, at most 200 points.
    """

    SUMS = ("samples", "refused", "positives", "positive_weight", "negative_weight", "prediction", "loss")

    def __init__(self, names: Sequence[str], device: torch.device | str, *, exact_limit: int = EXACT_LIMIT) -> None:
        super().__init__(names, device)
        if exact_limit < 0:
            raise ValueError(f"exact_limit: got {exact_limit}; must be >= 0 (0: histogram only)")
        self.exact_limit = exact_limit
        self._first_bin_K = torch.arange(len(self.names), device=self.device) * (2 * BINS)
        self._histogram: Tensor | None = None  # (K, 2, H), negatives first; None as long as there is a buffer
        self._buffer: Tensor | None = None  # (C, K, 2), of which `rows` rows are in use
        self.reset()

    def reset(self) -> None:
        """Forget every sample."""
        super().reset()
        if self.exact_limit == 0 and self._histogram is not None:
            self._histogram.zero_()
        elif self.exact_limit == 0:
            self._histogram = self._empty_histogram()
        else:
            self._histogram, self._buffer = None, self._zeros(0, len(self.names), 2, dtype=torch.float32)

    def _terms(self, rows: Rows) -> list[Tensor]:
        logit_BK, label_BK, weight_BK = rows
        # softplus with the sign of the label loses no digits; past its threshold exp(-40) is below float64's last bit
        loss_BK = softplus((1 - 2 * label_BK) * logit_BK, threshold=40.0)
        positive_BK = weight_BK * label_BK
        return [
            label_BK,
            positive_BK,
            weight_BK - positive_BK,
            weight_BK * logit_BK.sigmoid(),
            weight_BK * loss_BK,
        ]

    def _keep(self, rows: Rows) -> None:
        logit_BK, label_BK, weight_BK = rows
        count = logit_BK.shape[0]
        if self._buffer is not None and self.rows + count > self.exact_limit:
            self._drop_buffer()
        if self._buffer is None:
            self._count(self._histogram_in_use(), logit_BK.float(), label_BK > 0.5, weight_BK)
        else:
            self._append(torch.stack([logit_BK, (2 * label_BK - 1) * weight_BK], dim=2))

    def _append(self, pairs: Tensor) -> None:
        assert self._buffer is not None
        end = self.rows + pairs.shape[0]
        if end > self._buffer.shape[0]:
            capacity = min(self.exact_limit, max(end, 2 * self._buffer.shape[0]))
            grown = self._zeros(capacity, *self._buffer.shape[1:], dtype=torch.float32)
            grown[: self.rows] = self._buffer[: self.rows]
            self._buffer = grown
        self._buffer[self.rows : end] = pairs

    def _count(self, histogram: Tensor, logit_BK: Tensor, positive_BK: Tensor, weight_BK: Tensor) -> None:
        bin_BK = ((logit_BK + LOGIT_RANGE) * (BINS / (2 * LOGIT_RANGE))).clamp(0, BINS - 1).long()
        bin_BK += self._first_bin_K + positive_BK * BINS
        histogram.view(-1).index_add_(0, bin_BK.flatten(), weight_BK.flatten())

    def _drop_buffer(self) -> None:
        if self._buffer is not None:
            self._histogram, self._buffer = self.histogram(), None

    def _empty_histogram(self) -> Tensor:
        return self._zeros(len(self.names), 2, BINS, dtype=torch.float64)

    def _histogram_in_use(self) -> Tensor:
        assert self._histogram is not None
        return self._histogram

    def held(self) -> int:
        """Rows in the buffer; -1 once it is dropped."""
        return -1 if self._buffer is None else self.rows

    def histogram(self) -> Tensor:
        """A copy of this rank's histogram, (K, 2, H): weight of negatives, of positives per bin of the logit."""
        if self._buffer is None:
            return self._histogram_in_use().clone()
        histogram = self._empty_histogram()
        logit_CK, signed_CK = self._buffer[: self.rows].unbind(2)
        self._count(histogram, logit_CK, signed_CK > 0, signed_CK.abs().double())
        return histogram

    def results(
        self, sums: Mapping[str, Sequence[float]], held: Sequence[int], group: ProcessGroup | None
    ) -> list[Result]:
        """Per task the metrics from the global sums; one more all-reduce, of buffers or of histograms."""
        areas = self._areas(held, group)
        return [_result({name: values[k] for name, values in sums.items()}, area) for k, area in enumerate(areas)]

    def _areas(self, held: Sequence[int], group: ProcessGroup | None) -> list[tuple[float, float] | None]:
        """AUC and its error bound per task; None where a class is missing. Every rank takes the same branch."""
        if min(held) >= 0 and sum(held) <= self.exact_limit:
            assert self._buffer is not None
            logit_KC, signed_KC = joined(self._buffer[: self.rows], held, group).cpu().permute(2, 1, 0)
            found = [
                scores.auc(*scores.tie_groups(logit_C, signed_C))
                for logit_C, signed_C in zip(logit_KC, signed_KC, strict=True)
            ]
            return [area and (area[0], 0.0) for area in found]
        self._drop_buffer()
        histogram = all_reduce(self.histogram(), group).cpu()
        return [scores.auc(positive_H, negative_H) for negative_H, positive_H in histogram]

    def curves(self, histogram: Tensor) -> list[Curves]:
        """Per task calibration (a bin's prediction is that of its middle: within 6.2e-5) and ROC points."""
        middle_H = (torch.arange(BINS, dtype=torch.float64) + 0.5) * (2 * LOGIT_RANGE / BINS) - LOGIT_RANGE
        result: list[Curves] = []
        for negative_H, positive_H in histogram:
            weight_H = negative_H + positive_H
            calibration = scores.calibration_bins(weight_H, weight_H * middle_H.sigmoid(), positive_H)
            result.append({"calibration": calibration, "roc": scores.roc_points(positive_H, negative_H)})
        return result

    def state_dict(self) -> State:
        """A copy of this rank's state; `buffer` or `histogram` has no rows, whichever is not in use."""
        no_buffer = self._zeros(0, len(self.names), 2, dtype=torch.float32)
        no_histogram = self._zeros(0, 2, BINS, dtype=torch.float64)
        return super().state_dict() | {
            "buffer": no_buffer if self._buffer is None else self._buffer[: self.rows].clone(),
            "histogram": no_histogram if self._histogram is None else self._histogram.clone(),
        }

    def merge_state_dict(self, state: Mapping[str, Tensor | int]) -> None:
        """Add the state of another rank or run; AUC stays exact while all rows together fit in the buffer.

        Raises:
            UserError: if the state is that of other tasks or another version.
        """
        self.check(state)
        buffer = accumulator.tensor_of(state, "buffer").to(self.device)
        histogram = accumulator.tensor_of(state, "histogram").to(self.device)
        if histogram.shape[0] or self.rows + buffer.shape[0] > self.exact_limit:
            self._drop_buffer()
        if self._buffer is not None:
            self._append(buffer)
        else:
            in_use = self._histogram_in_use()
            if histogram.shape[0]:
                in_use += histogram
            logit_CK, signed_CK = buffer.unbind(2)
            self._count(in_use, logit_CK, signed_CK > 0, signed_CK.abs().double())
        super().merge_state_dict(state)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return super()._shapes() | {"buffer": (len(self.names), 2), "histogram": (2, BINS)}


def _result(sums: Mapping[str, float], area: tuple[float, float] | None) -> Result:
    """One task's metrics from its global sums."""
    weight = sums["positive_weight"] + sums["negative_weight"]
    mean_label = accumulator.ratio(sums["positive_weight"], weight)
    logloss = accumulator.ratio(sums["loss"], weight)
    ne = None
    if mean_label and logloss is not None and (mean_other := sums["negative_weight"] / weight):
        ne = logloss / -(mean_label * math.log(mean_label) + mean_other * math.log(mean_other))
    return {
        "samples": int(sums["samples"]),
        "positives": int(sums["positives"]),
        "auc": area[0] if area else None,
        "auc_error_bound": area[1] if area else None,
        "ne": ne,
        "logloss": logloss,
        "calibration": accumulator.ratio(sums["prediction"], sums["positive_weight"]),
        "mean_label": mean_label,
        "mean_prediction": accumulator.ratio(sums["prediction"], weight),
    }
