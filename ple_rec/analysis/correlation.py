"""Pearson's correlation of the labels of two tasks on the test split (for binary labels, the phi coefficient).

It is computed over the rows on which both labels exist, which are in the sample spaces of both tasks. Each row counts
once, whatever its sample weight.

Shape suffixes: N rows, K tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ple_rec.analysis.result import Correlation


def label_correlations(
    tasks: Sequence[str], labels_NK: NDArray[Any], weights_NK: NDArray[Any]
) -> tuple[Correlation, ...]:
    """Return the correlation of the labels of every pair of tasks; its value is None if one of the labels is constant.

    Args:
        tasks: Names of the tasks.
        labels_NK: Labels of the tasks.
        weights_NK: Weights of the rows; 0 outside of a task's sample space.
    """
    correlations = []
    for a, b in combinations(range(len(tasks)), 2):
        both_N = (weights_NK[:, a] > 0) & (weights_NK[:, b] > 0)
        labels_a, labels_b = (labels_NK[both_N, k].astype(float) for k in (a, b))
        value = None
        if len(labels_a) and np.ptp(labels_a) > 0 and np.ptp(labels_b) > 0:
            value = float(np.corrcoef(labels_a, labels_b)[0, 1])
        correlations.append(Correlation((tasks[a], tasks[b]), int(both_N.sum()), value))
    return tuple(correlations)
