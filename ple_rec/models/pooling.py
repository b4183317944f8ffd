"""Mean pooling: the tables always sum, and the model divides, each rank the bags of its own samples.

    sum       x = sum_i w_i r_i                        r_i the rows of the bag, w_i their weights (1 without weights)
    mean      x = sum_i w_i r_i / sum_i w_i            without weights: sum_i r_i / n

A mean is 0 where sum_i w_i = 0, as of an empty bag. TorchRec is not asked for means: what it divides by depends on how
a table is sharded, and a plan of several shardings divides twice.

Shape suffixes: B batch (with padding), F features in the order of the batch's keys, D pooled columns of every feature.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor


def bag_totals(sparse: KeyedJaggedTensor) -> Tensor:
    """sum_i w_i of every bag, in fp32: how many ids it has, where `sparse` holds no weights.

    Args:
        sparse: The ids of this rank's samples.

    Returns:
        totals_FB. A padding row's are 0. No gradient.
    """
    weights = sparse.weights_or_none()
    if weights is None:
        totals: Tensor = sparse.lengths().float()
    else:  # Not sparse[feature]: it asks the device how many ids a feature has.
        totals = torch.segment_reduce(weights.detach().float(), "sum", offsets=sparse.offsets(), unsafe=True)
    return totals.view(len(sparse.keys()), sparse.stride())


def divide_bags(
    summed_BD: Tensor, widths: Mapping[str, int], sparse: KeyedJaggedTensor, mean_bags: Collection[str]
) -> Tensor:
    """The sums of some features turned into means; the columns of all others pass as they are.

    Args:
        summed_BD: sum_i w_i r_i of every feature side by side.
        widths: Columns of every feature by name, in the order of `summed_BD`, which need not be that of the keys.
        sparse: What was summed, before any rank saw the ids of another.
        mean_bags: The features to divide.

    Returns:
        x_BD. Where a divisor is 0, x and its gradient are 0.
    """
    if not mean_bags:
        return summed_BD
    totals = dict(zip(sparse.keys(), bag_totals(sparse), strict=True))
    blocks = zip(widths, summed_BD.split(list(widths.values()), dim=1), strict=True)
    return torch.cat(
        [quotient(block, totals[name][:, None]) if name in mean_bags else block for name, block in blocks], dim=1
    )


def quotient(summed_BH: Tensor, total_B1: Tensor) -> Tensor:
    """The mean of each bag from its sum and its total; 0 where that is 0."""
    none_B1 = total_B1 == 0
    return (summed_BH / total_B1.masked_fill(none_B1, 1)).masked_fill(none_B1, 0)
