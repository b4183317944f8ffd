"""Metrics of fusions on held-out lists: many settings of the exponents at once, intervals, and what changes at the top.

Intervals are of resamples of users, for the lists of one user are alike: where lists are requests, resamples of lists
would take them for independent ones, and be too narrow.

Shape suffixes: K factors, L lists, U users, N rows of lists, W settings, R resamples, S sums.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ple_rec.ranking.fusion import Factors
from ple_rec.ranking.lists import Floats, Ints, Lists, Order
from ple_rec.ranking.metrics import ListMetric, Measured

RESAMPLES = 1_000
_LOW, _HIGH = 2.5, 97.5  # percentiles
Interval = tuple[float, float]
T = TypeVar("T")


@dataclass(frozen=True)
class Value:
    """A metric of one fusion.

    Args:
        value: Over the lists where it is defined.
        interval: 95 %, over resamples of the users.
        lists: Where it is defined.
        users: Of those lists.
        weighted_rows: That it weights; None where it weights none.
        effective_rows: Kish's effective number of them.
        gain: Over the fusion that it is compared with; None where there is none.
        gain_interval: 95 %, of the difference on the same resamples.
    """

    value: float
    interval: Interval
    lists: int
    users: int
    weighted_rows: int | None
    effective_rows: float | None
    gain: float | None
    gain_interval: Interval | None


class Evaluation:
    """Of fusions of the same factors on the same lists.

    Args:
        lists: Of the rows.
        factors: Of all rows, in the order of the log.
        metrics: By what they measure.
        threads: That order lists side by side.
        user_L: Whose each list is; None: each is another one's.
    """

    def __init__(
        self,
        lists: Lists,
        factors: Factors,
        metrics: Mapping[Measured, ListMetric],
        threads: int = 1,
        user_L: Ints | None = None,
    ) -> None:
        self.lists, self.metrics, self.threads = lists, dict(metrics), threads
        self.user_L = np.arange(len(lists.size_L)) if user_L is None else user_L
        self._log_KN = np.ascontiguousarray(factors.log_NK[lists.row_N].T, np.float32)

    def __call__(self, exponents_WK: Floats) -> dict[Measured, Floats]:
        """Every metric of every setting, (W,) each."""
        chunks = list(self.lists.chunks(len(exponents_WK)))

        def of(chunk: slice) -> list[Floats]:
            ordered = self._ordered(exponents_WK[chunk])
            return [metric.mean(ordered) for metric in self.metrics.values()]

        if self.threads > 1 and len(chunks) > 1:
            with ThreadPoolExecutor(self.threads) as pool:
                found = list(pool.map(of, chunks))
        else:
            found = [of(chunk) for chunk in chunks]
        joined = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return dict(zip(self.metrics, joined, strict=True))

    def values(self, exponents_K: Floats, before_K: Floats | None = None, seed: int = 0) -> dict[Measured, Value]:
        """Every metric of one setting with its intervals, and what it gains over another.

        Args:
            exponents_K: The setting.
            before_K: The other one; None: there is none.
            seed: Of the resamples, which are the same for both and for all metrics of as many users.
        """
        ordered = self._ordered(exponents_K[None])
        before = None if before_K is None else self._ordered(before_K[None])
        found = {}
        for measured, metric in self.metrics.items():
            sides = [ordered] if before is None else [ordered, before]
            sums_SL = np.concatenate([row for side in sides for row in metric.sums(side)])  # above and below each bar
            sums_US = _of_users(sums_SL, self.user_L[metric.defined_L])
            drawn_RS = _drawn(sums_US, seed)
            drawn = drawn_RS[:, ::2] / drawn_RS[:, 1::2]
            totals_S = sums_SL.sum(axis=1)
            means = (totals_S[::2] / totals_S[1::2]).tolist()
            effective = metric.effective(ordered)
            found[measured] = Value(
                value=means[0],
                interval=_interval(drawn[:, 0]),
                lists=sums_SL.shape[1],
                users=len(sums_US),
                weighted_rows=metric.weighted_rows,
                effective_rows=None if effective is None else float(effective[0]),
                gain=None if before is None else means[0] - means[1],
                gain_interval=None if before is None else _interval(drawn[:, 0] - drawn[:, 1]),
            )
        return found

    def constant_K(self) -> NDArray[np.bool_]:
        """Whether each factor is the same in all rows of each list, so that no exponent of it moves a row."""
        differs_KN = np.diff(self._log_KN, axis=1, prepend=0.0) != 0
        differs_KN[:, self.lists.start_L] = False
        return np.asarray(~differs_KN.any(axis=1))

    def kept_at_top(self, exponents_K: Floats, before_K: Floats, places: int) -> float:
        """Share of the first places of the lists with more rows than these that the same rows have under both."""
        lists = self.lists
        longer_L = lists.size_L > places
        if not longer_L.any():
            return 1.0
        seen_N = (lists.place_N < places) & np.repeat(longer_L, lists.size_L)
        tops = [np.zeros(len(lists.row_N), bool) for _ in range(2)]
        for top, exponents in zip(tops, (exponents_K, before_K), strict=True):
            top[self._ordered(exponents[None]).row_WN[0, seen_N]] = True
        return float((tops[0] & tops[1]).sum() / seen_N.sum())

    def sensitivity(self, exponents_K: Floats, factor: int, values: Floats) -> dict[Measured, Floats]:
        """Every metric while one exponent takes other values, the rest as they are."""
        exponents_WK = np.tile(exponents_K, (len(values), 1))
        exponents_WK[:, factor] = values
        return self(exponents_WK)

    def _ordered(self, exponents_WK: Floats) -> Order:
        return self.lists.ordered(exponents_WK.astype(np.float32) @ self._log_KN)


@dataclass(frozen=True)
class Evaluations:
    """Of the same fusions on several kinds of lists, as one.

    Args:
        parts: The first one's lists are those whose top is compared.
    """

    parts: Sequence[Evaluation]

    def __call__(self, exponents_WK: Floats) -> dict[Measured, Floats]:
        """As of `Evaluation`."""
        return self._joined(lambda part: part(exponents_WK))

    def values(self, exponents_K: Floats, before_K: Floats | None = None, seed: int = 0) -> dict[Measured, Value]:
        """As of `Evaluation`."""
        return self._joined(lambda part: part.values(exponents_K, before_K, seed))

    def sensitivity(self, exponents_K: Floats, factor: int, values: Floats) -> dict[Measured, Floats]:
        """As of `Evaluation`."""
        return self._joined(lambda part: part.sensitivity(exponents_K, factor, values))

    def kept_at_top(self, exponents_K: Floats, before_K: Floats, places: int) -> float:
        """As of `Evaluation`."""
        return self.parts[0].kept_at_top(exponents_K, before_K, places)

    def _joined(self, told: Callable[[Evaluation], dict[Measured, T]]) -> dict[Measured, T]:
        return {measured: found for part in self.parts if part.metrics for measured, found in told(part).items()}


def _of_users(sums_SL: Floats, user_L: Ints) -> Floats:
    """Sums over the lists of each user, in the order in which users come first."""
    _, first_U, number_L = np.unique(user_L, return_index=True, return_inverse=True)
    rank_U = np.argsort(np.argsort(first_U))
    sums_US = np.zeros((len(first_U), len(sums_SL)))
    np.add.at(sums_US, rank_U[number_L], sums_SL.T)
    return sums_US


def _drawn(sums_US: Floats, seed: int) -> Floats:
    """Sums over users who are drawn with replacement, as many as there are, (R, S)."""
    random, users = np.random.default_rng(seed), len(sums_US)
    drawn_RS = np.empty((RESAMPLES, sums_US.shape[1]))
    for r in range(RESAMPLES):
        drawn_RS[r] = np.bincount(random.integers(0, users, users), minlength=users) @ sums_US
    return drawn_RS


def _interval(values_R: Floats) -> Interval:
    low, high = np.percentile(values_R, [_LOW, _HIGH])
    return float(low), float(high)
