"""How far a column of valid and test, taken together, is from that of the train split.

Together, for `valid_share` deals the users of the same days out to the two: each alone lacks half of them, which looks
like a drift of every column that says who the user is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from data_prep.stats.dense import Integers, Numbers, Pairs, rate
from data_prep.stats.ids import KEPT, Lookups

BINS = 10  # of a dense column, of equal size in train
MODERATE, LARGE = 0.1, 0.25  # the usual thresholds of PSI


@dataclass(frozen=True)
class Groups:
    """A split that deals out whole groups of rows, such as those of a user.

    Args:
        by: Expression whose values are the groups.
        columns: Columns that tell the group, so that no value of theirs is in train and later too.
        train: Groups of train, as many of equal size as let a figure scatter like these.
        later: The same of valid and test.
    """

    by: str
    columns: tuple[str, ...]
    train: float
    later: float

    def to_json(self) -> dict[str, Any]:
        """`groups` of `stats.json`."""
        return asdict(self) | {"columns": list(self.columns)}


def psi(train: Sequence[int], later: Sequence[int], *, groups: Groups | None = None) -> dict[str, float | None]:
    """Return the population stability index over bins, and what chance alone gives on average.

        psi = sum (q - p) ln(q / p)        p, q = (count + 1/2) / (total + bins / 2)
        chance = (bins - 1) (1 / n_train + 1 / n_later)

    n counts rows that are drawn one by one. Where a split deals out whole groups, it counts groups: as if all rows of a
    group were alike, an upper bound.

    Args:
        train: Rows of train by bin.
        later: Rows of valid and test by bin. Bins that are empty in both are left out.
        groups: Groups that the split deals out whole.

    Returns:
        `psi` and `chance`; None where one side has no rows.
    """
    kept = [(a, b) for a, b in zip(train, later, strict=True) if a or b]
    n, m = sum(train), sum(later)
    if not n or not m:
        return {"psi": None, "chance": None}
    terms = []
    for a, b in kept:
        p, q = (a + 0.5) / (n + len(kept) / 2), (b + 0.5) / (m + len(kept) / 2)
        terms.append((q - p) * math.log(q / p))
    sizes = (n, m) if groups is None else (groups.train, groups.later)
    return {"psi": math.fsum(terms), "chance": (len(kept) - 1) * (1 / sizes[0] + 1 / sizes[1])}


def verdict(psi: float, chance: float) -> str:
    """Return the word for a PSI: `stable` where chance alone gives half as much."""
    if psi < MODERATE or psi < 2 * chance:
        return "stable"
    return "moderate" if psi < LARGE else "large"


def dense_drift(
    train: Pairs,
    later: Pairs,
    nulls: tuple[int, int],
    deciles: Sequence[float] | None,
    groups: Groups | None = None,
) -> dict[str, Any]:
    """Return the PSI over the tenths of the train split and the nulls, and the Kolmogorov-Smirnov distance.

    Args:
        train: Values of train.
        later: Values of valid and test.
        nulls: Missing values of both.
        deciles: Edges between the tenths of train.
        groups: Groups that the split deals out whole.
    """
    edges = sorted(set(deciles or ()))
    counts = [[*_binned(pairs, edges), missing] for pairs, missing in zip((train, later), nulls, strict=True)]
    return psi(*counts, groups=groups) | {"ks": kolmogorov_smirnov(train, later)}


def _binned(pairs: Pairs, edges: Sequence[float]) -> list[int]:
    places = np.searchsorted(np.array(edges, np.float64), pairs.values, side="left")
    counts = np.zeros(len(edges) + 1, np.int64)
    np.add.at(counts, places, pairs.counts)
    found: list[int] = counts.tolist()
    return found


def kolmogorov_smirnov(train: Pairs, later: Pairs) -> float | None:
    """Return the greatest distance of the two distribution functions; None where one side has no value."""
    n, m = int(train.counts.sum()), int(later.counts.sum())
    if not n or not m:
        return None
    values = np.union1d(train.values, later.values)
    a, b = (_reached(pairs, values) for pairs in (train, later))
    if n * m < 2**63:
        worst = int(np.abs(a * m - b * n).max())
    else:
        worst = max(abs(x * m - y * n) for x, y in zip(a.tolist(), b.tolist(), strict=True))
    return worst / (n * m)


def _reached(pairs: Pairs, values: Numbers) -> Integers:
    """How many samples lie at or below each value."""
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(pairs.counts)])
    return ends[np.searchsorted(pairs.values, values, side="right")]


def sparse_drift(train: Lookups, *later: Lookups, groups: Groups | None = None) -> dict[str, Any]:
    """Return the PSI over the most frequent rows of train and all the others, and the share of row 0 in valid and test.

    Args:
        train: Look-ups of train.
        later: Look-ups of valid and of test.
        groups: Groups that the split deals out whole.
    """
    rows = [row for row, _ in train.top(KEPT)]
    counts = []
    for splits in ((train,), later):
        known = [sum(found.counts.get(row, 0) for found in splits) for row in rows]
        counts.append([*known, sum(found.total for found in splits) - sum(known)])
    return psi(*counts, groups=groups) | {"oov": rate(sum(found.missed for found in later), sum(counts[1]))}
