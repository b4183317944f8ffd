"""95 % interval of a mean over seeds, by Student's t, without scipy.

The gains of S seeds are S independent draws of what training by chance does to a model on this
test split; their mean has S - 1 degrees of freedom. What another test split would say is `resampling`'s question.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

Interval = tuple[float, float]

LEVEL = 0.95


def seed_interval(gains: Sequence[float]) -> Interval | None:
    """`mean +- t sd / sqrt(S)`, t the 97.5 % quantile for S - 1 degrees of freedom; None for fewer than two seeds."""
    if len(gains) < 2:
        return None
    mean = statistics.fmean(gains)
    half = student_quantile((1 + LEVEL) / 2, len(gains) - 1) * statistics.stdev(gains) / math.sqrt(len(gains))
    return mean - half, mean + half


def student_quantile(probability: float, freedom: int) -> float:
    """The value that Student's t stays below with `probability`, of at least 1/2, for a whole number of degrees.

    P(|t| < sqrt(n) tan theta) is a finite sum in sin and cos of theta (Abramowitz and Stegun, 26.7.3 and 26.7.4); theta
    is found by halving [0, pi/2] until its ends are neighbouring numbers.
    """
    if not (0.5 <= probability < 1 and freedom >= 1):
        raise ValueError(f"got probability {probability}, freedom {freedom}; needs one in [0.5, 1), the other >= 1")
    wanted = 2 * probability - 1
    low, high = 0.0, math.pi / 2
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if _within(middle, freedom) < wanted else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _within(theta: float, freedom: int) -> float:
    """P(|t| < sqrt(n) tan theta)."""
    odd = freedom % 2
    cos, sin = math.cos(theta), math.sin(theta)
    term = sin * cos if odd else sin  # then times 2/3 cos^2, 4/5 cos^2, .. or 1/2 cos^2, 3/4 cos^2, ..
    total = 0.0
    for k in range(2 if odd else 1, freedom, 2):
        total += term
        term *= k / (k + 1) * cos * cos
    return (theta + total) * 2 / math.pi if odd else total
