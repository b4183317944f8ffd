"""How far a column of the test split is from that of the train split."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_prep.stats.dense import Pairs
from data_prep.stats.ids import KEPT, Lookups
from data_prep.stats.moments import Integers, Numbers, rate

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
    places = np.searchsorted(np.array(edges, np.float64), pairs.values, side="left")
    counts = np.zeros(len(edges) + 1, np.int64)
    np.add.at(counts, places, pairs.counts)
    found: list[int] = counts.tolist()
    return found


def kolmogorov_smirnov(train: Pairs, test: Pairs) -> float | None:
    """Greatest distance of the two distribution functions; null where a split has no value."""
    n, m = int(train.counts.sum()), int(test.counts.sum())
    if not n or not m:
        return None
    values = np.union1d(train.values, test.values)
    a, b = (_reached(pairs, values) for pairs in (train, test))
    if n * m < 2**63:
        worst = int(np.abs(a * m - b * n).max())
    else:
        worst = max(abs(x * m - y * n) for x, y in zip(a.tolist(), b.tolist(), strict=True))
    return worst / (n * m)


def _reached(pairs: Pairs, values: Numbers) -> Integers:
    """How many samples lie at or below each value."""
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(pairs.counts)])
    return ends[np.searchsorted(pairs.values, values, side="right")]


def sparse_drift(train: Lookups, test: Lookups) -> dict[str, Any]:
    """PSI over the most frequent rows of the train split and all the others, and the look-ups of row 0 in test."""
    rows = [row for row, _ in train.top(KEPT)]
    counts = []
    for found in (train, test):
        known = [found.counts.get(row, 0) for row in rows]
        counts.append([*known, found.total - sum(known)])
    return psi(*counts) | {"oov": rate(test.missed, test.total)}
