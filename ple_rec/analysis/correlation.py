"""How tasks' labels go together on the test split: Pearson's correlation, which of two binary labels is phi.

Over the rows that lie in both tasks' sample spaces, each counting once whatever its sample weight.

Shape suffixes: N rows, K tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Correlation:
    """Of the labels of two tasks.

    Args:
        tasks: The two.
        rows: In both sample spaces.
        value: None where one of the labels is the same on all of these rows.
    """

    tasks: tuple[str, str]
    rows: int
    value: float | None


def label_correlations(
    tasks: Sequence[str], labels_NK: NDArray[Any], weights_NK: NDArray[Any]
) -> tuple[Correlation, ...]:
    """Of every pair of tasks.

    Args:
        tasks: By name.
        labels_NK: Their labels.
        weights_NK: 0 outside of a task's sample space.
    """
    found = []
    for a, b in combinations(range(len(tasks)), 2):
        both_N = (weights_NK[:, a] > 0) & (weights_NK[:, b] > 0)
        of_a, of_b = (labels_NK[both_N, k].astype(float) for k in (a, b))
        value = None
        if len(of_a) and np.ptp(of_a) > 0 and np.ptp(of_b) > 0:
            value = float(np.corrcoef(of_a, of_b)[0, 1])
        found.append(Correlation((tasks[a], tasks[b]), int(both_N.sum()), value))
    return tuple(found)
