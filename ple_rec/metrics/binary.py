"""AUC, normalised entropy (NE), log loss and calibration of binary tasks.

A row counts for a task if it is in the task's sample space, for example only clicked impressions for a conversion rate.
Other rows and padding come with logit, label and weight 0.

Shapes: B rows of a batch, K tasks, H histogram bins, C rows in the buffer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn.functional import softplus

from ple_rec.metrics import accumulator, scores
from ple_rec.metrics.accumulator import Accumulator, Result, ScoredRows, State, TaskCurves, all_reduce, join_rows

# Default of `exact_limit`, the number of rows over all ranks up to which AUC is exact.
EXACT_LIMIT = 1 << 20
# Number of bins of the histogram of one class.
BINS = 1 << 16
# Bins of width 4.9e-4 cover the logits in [-16, 16]. Logits beyond fall into the first and the last bin.
LOGIT_RANGE = 16.0


class BinaryAccumulator(Accumulator):
    """AUC, NE, log loss and calibration of K binary tasks over all ranks, in bounded memory.

    With weights w, labels y in {0, 1}, predictions p = sigmoid(logit) and all sums over the rows in the sample space:

        logloss     = sum w (-y log p - (1 - y) log(1 - p)) / sum w                  (in nats)
        ne          = logloss / (-m log m - (1 - m) log(1 - m)),  m = sum w y / sum w   (1 = as good as m)
        calibration = sum w p / sum w y
        auc         = sum over pairs (i positive, j negative) w_i w_j [logit_i > logit_j] / sum over pairs w_i w_j
                      with [equal] = 1/2

    AUC is exact, on logits in float32, as long as all ranks together have at most `exact_limit` rows. Rows outside the
    sample space and padding count towards that limit, because counting only the others would wait for the device. Up to
    the limit, a rank buffers (logit, signed weight) of every row, 8 bytes per row and task; the signed weight is `+w`
    for a positive and `-w` for a negative. Beyond it, AUC comes from one histogram per class with 2^16 even bins over
    the logits in [-16, 16], 1 MiB a task. The true AUC is then within `auc_error_bound` of `auc`.

    Results are `samples` (rows in the sample space), `positives` (number of rows, without weights), `auc`,
    `auc_error_bound` (0.0 if exact), `ne`, `logloss`, `calibration`, `mean_label` and `mean_prediction`. A value is
    None if it is undefined, because there is no weight or a class is missing. The curves `calibration` and `roc` come
    from the histogram; `roc` has at most 200 points.
    """

    # The base class sums the first two.
    SUMS = ("samples", "invalid", "positives", "positive_weight", "negative_weight", "prediction", "loss")

    def __init__(self, names: Sequence[str], device: torch.device | str, *, exact_limit: int = EXACT_LIMIT) -> None:
        super().__init__(names, device)
        if exact_limit < 0:
            raise ValueError(f"exact_limit: got {exact_limit}; must be >= 0 (0: histogram only)")
        self.exact_limit = exact_limit
        self._first_bin_K = torch.arange(len(self.names), device=self.device) * (2 * BINS)
        # (K, 2, H): weights of negatives, then of positives; None as long as there is a buffer.
        self._histogram: Tensor | None = None
        # (C, K, 2): logit and signed weight; the first `self.rows` rows are in use.
        self._buffer: Tensor | None = None
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

    def _terms(self, rows: ScoredRows) -> list[Tensor]:
        """Return the terms (B, K) of each of `SUMS[2:]`."""
        logit_BK, label_BK, weight_BK = rows
        # Softplus of the signed logit loses no digits. Beyond the threshold, exp(-40) is below float64's precision.
        loss_BK = softplus((1 - 2 * label_BK) * logit_BK, threshold=40.0)
        positive_BK = weight_BK * label_BK
        return [
            label_BK,
            positive_BK,
            weight_BK - positive_BK,
            weight_BK * logit_BK.sigmoid(),
            weight_BK * loss_BK,
        ]

    def _store_rows(self, rows: ScoredRows) -> None:
        logit_BK, label_BK, weight_BK = rows
        count = logit_BK.shape[0]
        if self._buffer is not None and self.rows + count > self.exact_limit:
            self._drop_buffer()
        if self._buffer is None:
            self._add_to_histogram(self._histogram_in_use(), logit_BK.float(), label_BK > 0.5, weight_BK)
        else:
            self._append_to_buffer(torch.stack([logit_BK, (2 * label_BK - 1) * weight_BK], dim=2))

    def _append_to_buffer(self, pairs: Tensor) -> None:
        assert self._buffer is not None
        end = self.rows + pairs.shape[0]
        if end > self._buffer.shape[0]:
            capacity = min(self.exact_limit, max(end, 2 * self._buffer.shape[0]))
            grown = self._zeros(capacity, *self._buffer.shape[1:], dtype=torch.float32)
            grown[: self.rows] = self._buffer[: self.rows]
            self._buffer = grown
        self._buffer[self.rows : end] = pairs

    def _add_to_histogram(self, histogram: Tensor, logit_BK: Tensor, positive_BK: Tensor, weight_BK: Tensor) -> None:
        bin_BK = ((logit_BK + LOGIT_RANGE) * (BINS / (2 * LOGIT_RANGE))).clamp(0, BINS - 1).long()
        bin_BK += self._first_bin_K + positive_BK * BINS
        histogram.view(-1).index_add_(0, bin_BK.flatten(), weight_BK.flatten())

    def _drop_buffer(self) -> None:
        """Replace the buffer, if there is one, by its histogram."""
        if self._buffer is not None:
            self._histogram, self._buffer = self.histogram(), None

    def _empty_histogram(self) -> Tensor:
        return self._zeros(len(self.names), 2, BINS, dtype=torch.float64)

    def _histogram_in_use(self) -> Tensor:
        assert self._histogram is not None
        return self._histogram

    def buffered_rows(self) -> int:
        """Return the number of rows in the buffer, or -1 if this rank has a histogram instead."""
        return -1 if self._buffer is None else self.rows

    def histogram(self) -> Tensor:
        """Return a copy of this rank's histogram, (K, 2, H): weights of negatives and of positives by bin of the logit.

        If the rank has a buffer, the histogram is computed from it.
        """
        if self._buffer is None:
            return self._histogram_in_use().clone()
        histogram = self._empty_histogram()
        logit_CK, signed_CK = self._buffer[: self.rows].unbind(2)
        self._add_to_histogram(histogram, logit_CK, signed_CK > 0, signed_CK.abs().double())
        return histogram

    def results(
        self, sums: Mapping[str, Sequence[float]], buffered_rows: Sequence[int], group: ProcessGroup | None
    ) -> list[Result]:
        """Return the metrics of each task. This is a collective.

        It joins the buffers of all ranks, or adds their histograms; past the limit, this rank drops its buffer.

        Args:
            sums: Sums over all ranks, one value per task, by name in `SUMS`.
            buffered_rows: Result of `buffered_rows()` of each rank.
            group: Process group of the ranks.
        """
        aucs = self._aucs(buffered_rows, group)
        return [
            _result({name: values[k] for name, values in sums.items()}, auc_and_bound)
            for k, auc_and_bound in enumerate(aucs)
        ]

    def _aucs(self, buffered_rows: Sequence[int], group: ProcessGroup | None) -> list[tuple[float, float] | None]:
        """Return AUC and its error bound for each task, or None if a class is missing.

        All ranks take the same branch, so their collectives match.
        """
        if min(buffered_rows) >= 0 and sum(buffered_rows) <= self.exact_limit:
            assert self._buffer is not None
            logit_KC, signed_KC = join_rows(self._buffer[: self.rows], buffered_rows, group).cpu().permute(2, 1, 0)
            # A group holds equal logits only, so the AUC is exact.
            aucs_and_bounds = [
                scores.auc(*scores.tie_groups(logit_C, signed_C))
                for logit_C, signed_C in zip(logit_KC, signed_KC, strict=True)
            ]
            return [auc_and_bound and (auc_and_bound[0], 0.0) for auc_and_bound in aucs_and_bounds]
        self._drop_buffer()
        histogram = all_reduce(self.histogram(), group).cpu()
        return [scores.auc(positive_H, negative_H) for negative_H, positive_H in histogram]

    def curves(self, histogram: Tensor) -> list[TaskCurves]:
        """Return the calibration bins and ROC points of each task from a histogram over all ranks.

        The prediction of a bin of the histogram is that of its middle, from which those in it differ by at most 6.2e-5.
        """
        middle_H = (torch.arange(BINS, dtype=torch.float64) + 0.5) * (2 * LOGIT_RANGE / BINS) - LOGIT_RANGE
        result: list[TaskCurves] = []
        for negative_H, positive_H in histogram:
            weight_H = negative_H + positive_H
            calibration = scores.calibration_bins(weight_H, weight_H * middle_H.sigmoid(), positive_H)
            result.append({"calibration": calibration, "roc": scores.roc_points(positive_H, negative_H)})
        return result

    def state_dict(self) -> State:
        """Return a copy of this rank's state; either `buffer` or `histogram` has no rows, as only one is in use."""
        no_buffer = self._zeros(0, len(self.names), 2, dtype=torch.float32)
        no_histogram = self._zeros(0, 2, BINS, dtype=torch.float64)
        return super().state_dict() | {
            "buffer": no_buffer if self._buffer is None else self._buffer[: self.rows].clone(),
            "histogram": no_histogram if self._histogram is None else self._histogram.clone(),
        }

    def merge_state_dict(self, state: Mapping[str, Tensor | int]) -> None:
        """Add the state of another rank or run. AUC stays exact if all rows together fit into the buffer.

        Raises:
            UserError: The state belongs to other tasks or to another version.
        """
        self.check_state(state)
        buffer = accumulator.tensor_of(state, "buffer").to(self.device)
        histogram = accumulator.tensor_of(state, "histogram").to(self.device)
        if histogram.shape[0] or self.rows + buffer.shape[0] > self.exact_limit:
            self._drop_buffer()
        if self._buffer is not None:
            self._append_to_buffer(buffer)
        else:
            in_use = self._histogram_in_use()
            if histogram.shape[0]:
                in_use += histogram
            logit_CK, signed_CK = buffer.unbind(2)
            self._add_to_histogram(in_use, logit_CK, signed_CK > 0, signed_CK.abs().double())
        super().merge_state_dict(state)

    def _state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every tensor in the state, of `buffer` and `histogram` without the first dimension."""
        return super()._state_shapes() | {"buffer": (len(self.names), 2), "histogram": (2, BINS)}


def _result(sums: Mapping[str, float], auc_and_bound: tuple[float, float] | None) -> Result:
    """Return the metrics of one task from its sums over all ranks and its AUC with error bound."""
    weight = sums["positive_weight"] + sums["negative_weight"]
    mean_label = accumulator.ratio(sums["positive_weight"], weight)
    logloss = accumulator.ratio(sums["loss"], weight)
    ne = None
    if mean_label and logloss is not None and (mean_other := sums["negative_weight"] / weight):
        ne = logloss / -(mean_label * math.log(mean_label) + mean_other * math.log(mean_other))
    return {
        "samples": int(sums["samples"]),
        "positives": int(sums["positives"]),
        "auc": auc_and_bound[0] if auc_and_bound else None,
        "auc_error_bound": auc_and_bound[1] if auc_and_bound else None,
        "ne": ne,
        "logloss": logloss,
        "calibration": accumulator.ratio(sums["prediction"], sums["positive_weight"]),
        "mean_label": mean_label,
        "mean_prediction": accumulator.ratio(sums["prediction"], weight),
    }
