"""How far a column of the test split is from that of the train split."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from data_prep.stats.dense import Pairs
from data_prep.stats.ids import KEPT, Lookups
from data_prep.stats.moments import rate

BINS = 10  # of a dense column, of equal size in train
MODERATE, LARGE = 0.1, 0.25  # the usual thresholds of PSI


def psi(train: Sequence[int], test: Sequence[int]) -> dict[str, float | None]:
    """Population stability index over bins, and what chance alone gives on average.

        psi = sum (q - p) ln(q / p)        p, q = (count + 1/2) / (total + bins / 2)
        chance = (bins - 1) (1 / n_train + 1 / n_test)

    Bins that are empty in both are left out; null where a split is empty.
    """
    kept = [(a, b) for a, b in zip(train, test, strict=True) if a or b]
    n, m = sum(train), sum(test)
    if not n or not m:
        return {"psi": None, "chance": None}
    terms = []
    for a, b in kept:
        p, q = (a + 0.5) / (n + len(kept) / 2), (b + 0.5) / (m + len(kept) / 2)
        terms.append((q - p) * math.log(q / p))
    return {"psi": math.fsum(terms), "chance": (len(kept) - 1) * (1 / n + 1 / m)}


def dense_drift(train: Pairs, test: Pairs, nulls: tuple[int, int], deciles: Sequence[float] | None) -> dict[str, Any]:
    """PSI over the tenths of the train split and the nulls, and the Kolmogorov-Smirnov distance."""
    edges = sorted(set(deciles or ()))
    counts = [[*_binned(pairs, edges), missing] for pairs, missing in zip((train, test), nulls, strict=True)]
    return psi(*counts) | {"ks": kolmogorov_smirnov(train, test)}


def _binned(pairs: Pairs, edges: Sequence[float]) -> list[int]:
    counts = [0] * (len(edges) + 1)
    for value, count in zip(pairs.values, pairs.counts, strict=True):
        counts[bisect_left(edges, value)] += count
    return counts


def kolmogorov_smirnov(train: Pairs, test: Pairs) -> float | None:
    """Greatest distance of the two distribution functions; null where a split has no value."""
    n, m = sum(train.counts), sum(test.counts)
    if not n or not m:
        return None
    first, second = (dict(zip(pairs.values, pairs.counts, strict=True)) for pairs in (train, test))
    a = b = worst = 0
    for value in sorted(first.keys() | second.keys()):
        a, b = a + first.get(value, 0), b + second.get(value, 0)
        worst = max(worst, abs(a * m - b * n))
    return worst / (n * m)


def sparse_drift(train: Lookups, test: Lookups) -> dict[str, Any]:
    """PSI over the most frequent rows of the train split and all the others, and the look-ups of row 0 in test."""
    rows = [row for row, _ in train.top(KEPT)]
    counts = []
    for found in (train, test):
        known = [found.counts.get(row, 0) for row in rows]
        counts.append([*known, found.total - sum(known)])
    return psi(*counts) | {"oov": rate(test.missed, test.total)}
