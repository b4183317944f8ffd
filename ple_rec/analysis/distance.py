"""Jensen-Shannon distance between distributions over a few outcomes.

    m = (p + q) / 2        distance(p, q) = sqrt( 1/2 sum_i p_i log2(p_i / m_i) + 1/2 sum_i q_i log2(q_i / m_i) )

It is a metric, 0 where p = q and 1 where no outcome has weight in both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def jensen_shannon(p: Sequence[float], q: Sequence[float]) -> float | None:
    """The distance between two lists of weights, each of which is divided by its sum; None where one has none.

    Args:
        p: Weights of each outcome, not negative.
        q: Of the same outcomes.
    """
    p_N, q_N = np.asarray(p, dtype=float), np.asarray(q, dtype=float)
    if not p_N.sum() > 0 or not q_N.sum() > 0:
        return None
    p_N, q_N = p_N / p_N.sum(), q_N / q_N.sum()
    m_N = (p_N + q_N) / 2
    return float(np.sqrt(max(0.0, (_information(p_N, m_N) + _information(q_N, m_N)) / 2)))


def _information(p_N: NDArray[np.float64], m_N: NDArray[np.float64]) -> float:
    """Kullback-Leibler divergence in bits; an outcome without weight adds nothing."""
    there = p_N > 0
    return float((p_N[there] * np.log2(p_N[there] / m_N[there])).sum())
