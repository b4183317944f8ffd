"""95 % interval of a mean over seeds, by Student's t.

The gains of S seeds are S independent draws of what training by chance does to a model on this
test split; their mean has S - 1 degrees of freedom. What another test split would say is `resampling`'s question.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from scipy.special import stdtrit  # type: ignore[import-untyped]  # scipy has no stubs

Interval = tuple[float, float]

LEVEL = 0.95


def seed_interval(gains: Sequence[float]) -> Interval | None:
    """Return `mean +- t sd / sqrt(S)`, t being the 97.5 % quantile for S - 1 degrees of freedom.

    Args:
        gains: Gain of each seed; fewer than two give None.
    """
    if len(gains) < 2:
        return None
    mean = statistics.fmean(gains)
    quantile = float(stdtrit(len(gains) - 1, (1 + LEVEL) / 2))
    half = quantile * statistics.stdev(gains) / math.sqrt(len(gains))
    return mean - half, mean + half
