"""Drift of the distribution of each column from train to valid and test, by the population stability index (PSI).

Valid and test are taken together, since the setting `valid_share` may divide the users of the same days between them.
Either split alone lacks the users of the other, which would look like a drift of every column that determines the user.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from data_prep.stats.dense import ColumnCounts, Integers, Numbers, rate
from data_prep.stats.ids import TOP_ROWS, Lookups

BINS = 10  # Bins of a dense column, which hold equal numbers of rows of train.
MODERATE, LARGE = 0.1, 0.25  # Usual thresholds of the PSI.


@dataclass(frozen=True)
class Groups:
    """Groups of rows, such as those of a user, which a split assigns as a whole.

    Args:
        by: Expression whose value is the group of a row.
        columns: Columns that determine the group, so train shares none of their values with valid and test.
        train: Effective number of groups in train: the number of groups of equal size with which figures would have the
            same variance.
        later: Effective number of groups in valid and test together.
    """

    by: str
    columns: tuple[str, ...]
    train: float
    later: float

    def to_json(self) -> dict[str, Any]:
        """Return the entry `groups` of `stats.json`."""
        return asdict(self) | {"columns": list(self.columns)}


def psi(train: Sequence[int], later: Sequence[int], *, groups: Groups | None = None) -> dict[str, float | None]:
    """Return the population stability index over bins, and the mean that it would have without drift.

        psi = sum (q - p) ln(q / p)        p, q = (count + 1/2) / (total + bins / 2)
        chance = (bins - 1) (1 / n_train + 1 / n_later)

    n counts rows if the split assigns single rows, and groups if it assigns whole groups. For groups, `chance` is an
    upper bound, which assumes that all rows of a group are equal.

    Args:
        train: Number of rows of train in each bin.
        later: Number of rows of valid and test in each bin. Bins that are empty in both are left out.
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
    """Return `stable`, `moderate` or `large` for a PSI.

    It is `stable` below 0.1, and below twice `chance`, the mean without drift. Otherwise it is `moderate` below 0.25,
    and `large` from 0.25 on.
    """
    if psi < MODERATE or psi < 2 * chance:
        return "stable"
    return "moderate" if psi < LARGE else "large"


def dense_drift(
    train: ColumnCounts,
    later: ColumnCounts,
    nulls: tuple[int, int],
    deciles: Sequence[float] | None,
    groups: Groups | None = None,
) -> dict[str, Any]:
    """Return the PSI over ten bins of values and one of nulls, and the Kolmogorov-Smirnov distance (`ks`).

    Args:
        train: Values of train.
        later: Values of valid and test.
        nulls: Number of nulls in train, and in valid and test together.
        deciles: Deciles of train, which are the edges of the bins; None if train has no values.
        groups: Groups of rows that the split assigns as a whole; None if there are none.
    """
    edges = sorted(set(deciles or ()))
    counts = [
        [*_bin_counts(column_counts, edges), null_count]
        for column_counts, null_count in zip((train, later), nulls, strict=True)
    ]
    return psi(*counts, groups=groups) | {"ks": kolmogorov_smirnov(train, later)}


def _bin_counts(column_counts: ColumnCounts, edges: Sequence[float]) -> list[int]:
    places = np.searchsorted(np.array(edges, np.float64), column_counts.values, side="left")
    counts = np.zeros(len(edges) + 1, np.int64)
    np.add.at(counts, places, column_counts.counts)
    binned: list[int] = counts.tolist()
    return binned


def kolmogorov_smirnov(train: ColumnCounts, later: ColumnCounts) -> float | None:
    """Return the greatest distance between two cumulative distribution functions; None if one side has no value."""
    n, m = int(train.counts.sum()), int(later.counts.sum())
    if not n or not m:
        return None
    values = np.union1d(train.values, later.values)
    a, b = (_counts_up_to(column_counts, values) for column_counts in (train, later))
    if n * m < 2**63:  # The products fit int64; else Python's integers are used.
        worst = int(np.abs(a * m - b * n).max())
    else:
        worst = max(abs(x * m - y * n) for x, y in zip(a.tolist(), b.tolist(), strict=True))
    return worst / (n * m)


def _counts_up_to(column_counts: ColumnCounts, values: Numbers) -> Integers:
    """Return the number of samples at or below each value."""
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(column_counts.counts)])
    return ends[np.searchsorted(column_counts.values, values, side="right")]


def sparse_drift(train: Lookups, *later: Lookups, groups: Groups | None = None) -> dict[str, Any]:
    """Return the PSI of a sparse column, and the share of row 0 (unknown or missing) in valid and test.

    The bins of the PSI are the most frequent rows of the embedding table in train, and one bin for all other rows.

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
    return psi(*counts, groups=groups) | {"oov": rate(sum(lookups.oov for lookups in later), sum(counts[1]))}
