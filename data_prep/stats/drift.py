"""Drift of the columns from train to valid and test together.

Valid and test are not compared alone, since `valid_share` assigns the users of the same days to one of them. Each alone
lacks the other users, which would look like a drift of every column that determines the user.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from data_prep.stats.dense import Integers, Numbers, Pairs, rate
from data_prep.stats.ids import TOP_ROWS, Lookups

BINS = 10  # Bins of a dense column, of equal size in train.
MODERATE, LARGE = 0.1, 0.25  # The usual thresholds of PSI.


@dataclass(frozen=True)
class Groups:
    """Groups of rows, such as those of a user, which a split assigns as a whole.

    Args:
        by: Expression whose values are the groups.
        columns: Columns that determine the group, so that train shares none of their values with valid and test.
        train: Effective number of groups in train: as many groups of equal size would give figures the same variance.
        later: Effective number of groups in valid and test.
    """

    by: str
    columns: tuple[str, ...]
    train: float
    later: float

    def to_json(self) -> dict[str, Any]:
        """Return `groups` of `stats.json`."""
        return asdict(self) | {"columns": list(self.columns)}


def psi(train: Sequence[int], later: Sequence[int], *, groups: Groups | None = None) -> dict[str, float | None]:
    """Return the population stability index over bins, and its mean without drift.

        psi = sum (q - p) ln(q / p)        p, q = (count + 1/2) / (total + bins / 2)
        chance = (bins - 1) (1 / n_train + 1 / n_later)

    n counts rows if rows are assigned to splits one by one, and groups if whole groups are assigned. Then `chance` is
    an upper bound, which assumes that all rows of a group are equal.

    Args:
        train: Rows of train by bin.
        later: Rows of valid and test by bin. Bins that are empty in both are left out.
        groups: Groups of rows that the split assigns as a whole; None if there are none.

    Returns:
        `psi` and `chance`; both are None if one side has no rows.
    """
    bins = [(a, b) for a, b in zip(train, later, strict=True) if a or b]
    n, m = sum(train), sum(later)
    if not n or not m:
        return {"psi": None, "chance": None}
    terms = []
    for a, b in bins:
        p, q = (a + 0.5) / (n + len(bins) / 2), (b + 0.5) / (m + len(bins) / 2)
        terms.append((q - p) * math.log(q / p))
    sizes = (n, m) if groups is None else (groups.train, groups.later)
    return {"psi": math.fsum(terms), "chance": (len(bins) - 1) * (1 / sizes[0] + 1 / sizes[1])}


def verdict(psi: float, chance: float) -> str:
    """Return the word for a PSI. It is `stable` if the PSI is below twice its mean without drift."""
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
        groups: Groups of rows that the split assigns as a whole; None if there are none.
    """
    edges = sorted(set(deciles or ()))
    counts = [[*_bin_counts(pairs, edges), missing] for pairs, missing in zip((train, later), nulls, strict=True)]
    return psi(*counts, groups=groups) | {"ks": kolmogorov_smirnov(train, later)}


def _bin_counts(pairs: Pairs, edges: Sequence[float]) -> list[int]:
    places = np.searchsorted(np.array(edges, np.float64), pairs.values, side="left")
    counts = np.zeros(len(edges) + 1, np.int64)
    np.add.at(counts, places, pairs.counts)
    binned: list[int] = counts.tolist()
    return binned


def kolmogorov_smirnov(train: Pairs, later: Pairs) -> float | None:
    """Return the greatest distance of the two distribution functions; None if one side has no value."""
    n, m = int(train.counts.sum()), int(later.counts.sum())
    if not n or not m:
        return None
    values = np.union1d(train.values, later.values)
    a, b = (_counts_up_to(pairs, values) for pairs in (train, later))
    if n * m < 2**63:
        worst = int(np.abs(a * m - b * n).max())
    else:
        worst = max(abs(x * m - y * n) for x, y in zip(a.tolist(), b.tolist(), strict=True))
    return worst / (n * m)


def _counts_up_to(pairs: Pairs, values: Numbers) -> Integers:
    """Return the number of samples at or below each value."""
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(pairs.counts)])
    return ends[np.searchsorted(pairs.values, values, side="right")]


def sparse_drift(train: Lookups, *later: Lookups, groups: Groups | None = None) -> dict[str, Any]:
    """Return the PSI over the most frequent rows of train and all the others, and the share of row 0 in valid and test.

    Args:
        train: Look-ups of train.
        later: Look-ups of valid and of test.
        groups: Groups of rows that the split assigns as a whole; None if there are none.
    """
    rows = [row for row, _ in train.top(TOP_ROWS)]
    counts = []
    for splits in ((train,), later):
        known = [sum(lookups.counts.get(row, 0) for lookups in splits) for row in rows]
        counts.append([*known, sum(lookups.total for lookups in splits) - sum(known)])
    return psi(*counts, groups=groups) | {"oov": rate(sum(lookups.missed for lookups in later), sum(counts[1]))}
