"""AUC with its error bound, ROC points and calibration bins from weights of groups of samples. Pure functions, on CPU.

Shapes: N samples, G groups of samples in ascending order of the score. A group has one score, or is a histogram bin.
All weights are float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

CALIBRATION_BINS = 20
ROC_POINTS = 200


def auc(positive_G: Tensor, negative_G: Tensor) -> tuple[float, float] | None:
    """Return the weighted area under the ROC curve, in which a pair inside one group counts 1/2, and its error bound.

        auc   = sum_g p_g (n_1 + ... + n_(g-1) + n_g / 2) / (P N)
        bound = sum_g p_g n_g / (2 P N)

    If each group has one score, `auc` is exact, because ties do count 1/2, and the bound does not apply. If a group is
    a bin of different scores, the true share of its p_g n_g pairs lies in [0, 1], so the true AUC is within `bound` of
    `auc`.

    Args:
        positive_G: Weight of the positives of each group; P is its sum.
        negative_G: Weight of the negatives of each group; N is its sum.

    Returns:
        `(auc, bound)`, or None if P N is 0.
    """
    pairs = float(positive_G.sum() * negative_G.sum())
    if not pairs > 0:
        return None
    below_G = negative_G.cumsum(0) - negative_G
    area = float((positive_G * (below_G + negative_G / 2)).sum())
    return area / pairs, 0.5 * float((positive_G * negative_G).sum()) / pairs


def tie_groups(score_N: Tensor, signed_weight_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights of the positives and of the negatives of each distinct score, in ascending order of the score.

    Args:
        score_N: Finite scores.
        signed_weight_N: Sample weights: `+w` for a positive, `-w` for a negative, 0 for a row that does not count.

    Returns:
        `positive_G`, `negative_G` for `auc`.
    """
    order_N = score_N.argsort()
    ordered_N = signed_weight_N[order_N].double()
    distinct_G, group_N = torch.unique_consecutive(score_N[order_N], return_inverse=True)
    empty_G = torch.zeros(distinct_G.numel(), dtype=torch.float64)
    positive_G = empty_G.index_add(0, group_N, ordered_N.clamp(min=0))
    negative_G = empty_G.index_add(0, group_N, (-ordered_N).clamp(min=0))
    return positive_G, negative_G


def roc_points(positive_G: Tensor, negative_G: Tensor) -> list[list[float]]:
    """Return at most `ROC_POINTS` corners `[false positive rate, true positive rate]` of the ROC curve.

    They go from (0, 0) to (1, 1), evenly spread over fpr + tpr, so that steep and flat parts both have points. The list
    is empty if a class is missing.
    """
    positives, negatives = positive_G.sum(), negative_G.sum()
    if not positives > 0 or not negatives > 0:
        return []
    start = torch.zeros(1, dtype=torch.float64)
    true_rate = torch.cat([start, positive_G.flip(0).cumsum(0) / positives]).clamp(max=1)
    false_rate = torch.cat([start, negative_G.flip(0).cumsum(0) / negatives]).clamp(max=1)
    distance = true_rate + false_rate
    targets = torch.linspace(0, float(distance[-1]), ROC_POINTS, dtype=torch.float64)
    corner = torch.unique_consecutive(torch.searchsorted(distance, targets).clamp(max=distance.numel() - 1))
    points: list[list[float]] = torch.stack([false_rate[corner], true_rate[corner]], dim=1).tolist()
    # The sums may differ from 1 by rounding.
    points[-1] = [1.0, 1.0]
    return points


def calibration_bins(weight_G: Tensor, predicted_G: Tensor, observed_G: Tensor) -> list[dict[str, float]]:
    """Return mean prediction, mean label and weight of up to `CALIBRATION_BINS` bins of about equal weight.

    Args:
        weight_G: Weight of each group, in ascending order of the prediction.
        predicted_G: Sum of weight times prediction of each group.
        observed_G: Sum of weight times label of each group.

    Returns:
        `[{"predicted": .., "observed": .., "weight": ..}, ...]`, ascending. A group is never split, so heavy groups
        lead to fewer bins.
    """
    total = weight_G.sum()
    if not total > 0:
        return []
    middle_G = weight_G.cumsum(0) - weight_G / 2
    bin_G = (CALIBRATION_BINS * middle_G / total).long().clamp(0, CALIBRATION_BINS - 1)
    sums = torch.zeros(3, CALIBRATION_BINS, dtype=torch.float64)
    sums.index_add_(1, bin_G, torch.stack([weight_G, predicted_G, observed_G]))
    return [
        {"predicted": predicted / weight, "observed": observed / weight, "weight": weight}
        for weight, predicted, observed in sums.T.tolist()
        if weight > 0
    ]
