"""Pearson correlation of the labels of two tasks, from integer sums, and its confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

from data_prep.stats.cells import Pair, Tally
from ple_rec.config.schema import Task

# Quantile of the normal distribution for a two-sided 95 % interval.
Z = 1.959963984540054
# Least numbers of samples, and of samples of either class, with which the correlation of a slice is compared.
MIN_SAMPLES, MIN_CLASS_SAMPLES = 200, 20


def correlations(tally: Tally, tasks: Sequence[Task]) -> list[dict[str, Any]]:
    """Return entries of `correlation` in `stats.json`: r of every two tasks over the rows in both sample spaces.

    `r` is None if a label is constant. `fewest` is the number of samples of the rarest class of the two tasks; for two
    regressions it equals `samples`.
    """
    kinds = {task.name: task.kind for task in tasks}
    order = {task.name: index for index, task in enumerate(tasks)}
    out = []
    for (a, b), pair in sorted(tally.pairs.items(), key=lambda item: (order[item[0][0]], order[item[0][1]])):
        counts = [total for name, total in ((a, pair.a), (b, pair.b)) if kinds[name] == "binary"]
        fewest = min([pair.samples, *(min(count, pair.samples - count) for count in counts)])
        out.append({"a": a, "b": b, "samples": pair.samples, "r": pearson(pair), "fewest": fewest})
    return out


def pearson(pair: Pair) -> float | None:
    """Return Pearson's r; None if a label is constant.

    r = (n ab - a b) / sqrt((n aa - a^2) (n bb - b^2)), with exact integers in the differences.
    """
    n = pair.samples
    a, b = n * pair.aa - pair.a**2, n * pair.bb - pair.b**2
    if a <= 0 or b <= 0:
        return None
    return min(1.0, max(-1.0, (n * pair.ab - pair.a * pair.b) / (math.sqrt(a) * math.sqrt(b))))


def fisher(r: float, samples: int, z: float = Z) -> tuple[float, float]:
    """Return the confidence interval of a correlation by Fisher's transformation.

    The interval is approximate for labels that are far from normally distributed. It is [-1, 1] for 3 samples or fewer.

    Args:
        r: Correlation.
        samples: Number of samples.
        z: Half width of the interval in standard errors of atanh(r); the default gives a 95 % interval.
    """
    if samples <= 3:
        return -1.0, 1.0
    if abs(r) == 1:
        return r, r
    half = z / math.sqrt(samples - 3)
    return math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)


def has_enough_samples(entry: Mapping[str, Any]) -> bool:
    """Return True if the correlation of a slice, an entry of `correlations`, may be compared with others."""
    return entry["r"] is not None and entry["samples"] >= MIN_SAMPLES and entry["fewest"] >= MIN_CLASS_SAMPLES


def shift(values: Sequence[Mapping[str, Any]], a: str, b: str, comparisons: int = 1) -> dict[str, Any] | None:
    """Return the shift of a correlation: the greatest less the least r of two tasks over the values of a column.

    The confidence interval of the shift combines two Fisher intervals (Zou 2007). They are widened (Sidak), since the
    two values are the extremes of m pairs of values: the quantile is that of (1 + 0.95^(1/m)) / 2 in place of 0.975. If
    r is equal for all values, the interval lies above 0 for at most about one of twenty columns. With `comparisons`
    greater than 1, this holds for the most significant of that many shifts, so for about one of twenty datasets.

    Args:
        values: Entries `values` of a slice in `stats.json`.
        a: Name of a task.
        b: Name of the other task.
        comparisons: Number of shifts, over columns and pairs of tasks, of which this one is the most significant.

    Returns:
        Entry of `shift` in `stats.json`; None if fewer than two values have enough samples.
    """
    known = []
    for value in values:
        entry = next(e for e in value["correlation"] if (e["a"], e["b"]) == (a, b))
        if has_enough_samples(entry):
            known.append((entry["r"], entry["samples"], value["value"]))
    if len(known) < 2:
        return None
    low, high = min(known, key=lambda k: k[0]), max(known, key=lambda k: k[0])
    z = NormalDist().inv_cdf((1 + 0.95 ** (1 / (comparisons * math.comb(len(known), 2)))) / 2)
    (low_lower, low_upper), (high_lower, high_upper) = fisher(*low[:2], z), fisher(*high[:2], z)
    difference = high[0] - low[0]
    interval = [
        difference - math.hypot(high[0] - high_lower, low_upper - low[0]),
        difference + math.hypot(high_upper - high[0], low[0] - low_lower),
    ]
    return {"a": a, "b": b, "shift": difference, "interval": interval, "low": low[2], "high": high[2]}


def wilson(positives: int, samples: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a rate by Wilson's score; 0 to 1 without samples."""
    if not samples:
        return 0.0, 1.0
    p, z2 = positives / samples, Z * Z
    middle = (p + z2 / (2 * samples)) / (1 + z2 / samples)
    half = Z / (1 + z2 / samples) * math.sqrt(p * (1 - p) / samples + z2 / (4 * samples * samples))
    return max(0.0, middle - half), min(1.0, middle + half)
