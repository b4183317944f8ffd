"""Metrics of fusions on held-out lists: for many settings of the exponents at once, or for one with intervals.

A fusion computes one score for each row, a product of factors that are raised to exponents. A setting is one choice of
the exponents. Confidence intervals come from a bootstrap over users. The lists of one user, such as the user's
requests, are not independent, so a bootstrap over lists would give intervals that are too narrow.

Shape suffixes: K factors, L lists (of a metric: those on which it is defined), U users, N rows of all lists, W
settings, R resamples, S sums (the numerators and denominators of a metric).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ple_rec.ranking.fusion import Factors
from ple_rec.ranking.lists import CandidateLists, Floats, Ints, Order
from ple_rec.ranking.metrics import ListMetric, MetricName

# Number of bootstrap resamples.
RESAMPLES = 1_000
_LOW_PERCENTILE, _HIGH_PERCENTILE = 2.5, 97.5
Interval = tuple[float, float]
T = TypeVar("T")


@dataclass(frozen=True)
class MetricValue:
    """Value of a metric for one fusion.

    Args:
        value: Value over the lists on which the metric is defined.
        interval: 95 % interval over resamples of the users.
        lists: Number of lists on which the metric is defined.
        users: Number of users with such a list.
        weighted_rows: Number of rows that the metric weights by inverse propensity; None for other metrics.
        effective_rows: Kish's effective number of these rows; None for other metrics.
        gain: Difference from the value of the baseline; None if there is no baseline.
        gain_interval: 95 % interval of the gain over the same resamples.
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
    """Evaluation of fusions of the same factors on the same lists.

    Args:
        lists: Lists of candidates.
        factors: Factors of all rows of the impression log, in its order.
        metrics: Metrics to evaluate, by name.
        threads: Number of threads, each of which evaluates some settings of a call on all lists.
        user_L: User of each list; None if each list has a user of its own.
    """

    def __init__(
        self,
        lists: CandidateLists,
        factors: Factors,
        metrics: Mapping[MetricName, ListMetric],
        threads: int = 1,
        user_L: Ints | None = None,
    ) -> None:
        self.lists, self.metrics, self.threads = lists, dict(metrics), threads
        self.user_L = np.arange(len(lists.size_L)) if user_L is None else user_L
        # A score is a matrix product of exponents and logarithms; the logarithm does not change the order of rows.
        self._log_KN = np.ascontiguousarray(factors.log_NK[lists.row_N].T, np.float32)

    def __call__(self, exponents_WK: Floats) -> dict[MetricName, Floats]:
        """Return every metric of every setting, as an array of shape (W,) for each metric."""
        # Each chunk is a slice of the settings.
        chunks = list(self.lists.chunks(len(exponents_WK)))

        def means(chunk: slice) -> list[Floats]:
            order = self._order(exponents_WK[chunk])
            return [metric.mean(order) for metric in self.metrics.values()]

        if self.threads > 1 and len(chunks) > 1:
            with ThreadPoolExecutor(self.threads) as pool:
                means_of_chunks = list(pool.map(means, chunks))
        else:
            means_of_chunks = [means(chunk) for chunk in chunks]
        joined = (np.concatenate(parts) for parts in zip(*means_of_chunks, strict=True))
        return dict(zip(self.metrics, joined, strict=True))

    def values(
        self, exponents_K: Floats, baseline_K: Floats | None = None, seed: int = 0
    ) -> dict[MetricName, MetricValue]:
        """Return every metric of one setting with its interval, and its gain over a baseline.

        Args:
            exponents_K: Exponents of the setting.
            baseline_K: Exponents of the baseline; None for no gains.
            seed: Seed of the resamples. The setting and the baseline have the same resamples, and all metrics with
                the same number of users have the same draws.
        """
        orders = [self._order(exponents_K[None])]
        if baseline_K is not None:
            orders.append(self._order(baseline_K[None]))
        values = {}
        for name, metric in self.metrics.items():
            # The S sums are the numerator and denominator of the setting, then those of the baseline.
            terms_SL = np.concatenate([terms_1L for order in orders for terms_1L in metric.list_terms(order)])
            sums_US = _sum_by_user(terms_SL, self.user_L[metric.defined_L])
            resampled_RS = _resample(sums_US, seed)
            ratios = resampled_RS[:, ::2] / resampled_RS[:, 1::2]
            totals_S = terms_SL.sum(axis=1)
            means = (totals_S[::2] / totals_S[1::2]).tolist()
            effective = metric.effective_rows(orders[0])
            values[name] = MetricValue(
                value=means[0],
                interval=_interval(ratios[:, 0]),
                lists=terms_SL.shape[1],
                users=len(sums_US),
                weighted_rows=metric.weighted_rows,
                effective_rows=None if effective is None else float(effective[0]),
                gain=None if baseline_K is None else means[0] - means[1],
                gain_interval=None if baseline_K is None else _interval(ratios[:, 0] - ratios[:, 1]),
            )
        return values

    def constant_K(self) -> NDArray[np.bool_]:
        """Return a flag (K,) for each factor: True if it is equal in all rows of each list, and so changes no order."""
        differs_KN = np.diff(self._log_KN, axis=1, prepend=0.0) != 0
        # The row before the first one of a list belongs to another list.
        differs_KN[:, self.lists.start_L] = False
        return np.asarray(~differs_KN.any(axis=1))

    def kept_at_top(self, exponents_K: Floats, baseline_K: Floats, places: int) -> float:
        """Return the share of rows at the top of their lists that are at the top under the baseline, too.

        Args:
            exponents_K: Exponents of the setting.
            baseline_K: Exponents of the baseline.
            places: Number of rows that count as the top of a list. Lists with no more rows than this are left out; if
                all are, the share is 1.
        """
        lists = self.lists
        longer_L = lists.size_L > places
        if not longer_L.any():
            return 1.0
        top_N = (lists.place_N < places) & np.repeat(longer_L, lists.size_L)
        masks = [np.zeros(len(lists.row_N), bool) for _ in range(2)]
        for mask, exponents in zip(masks, (exponents_K, baseline_K), strict=True):
            mask[self._order(exponents[None]).row_WN[0, top_N]] = True
        return float((masks[0] & masks[1]).sum() / top_N.sum())

    def sensitivity(self, exponents_K: Floats, factor: int, values: Floats) -> dict[MetricName, Floats]:
        """Return every metric for several values of one exponent.

        Args:
            exponents_K: Exponents of the setting.
            factor: Index of the factor whose exponent changes.
            values: Values of that exponent.
        """
        exponents_WK = np.tile(exponents_K, (len(values), 1))
        exponents_WK[:, factor] = values
        return self(exponents_WK)

    def _order(self, exponents_WK: Floats) -> Order:
        return self.lists.order_rows(exponents_WK.astype(np.float32) @ self._log_KN)


@dataclass(frozen=True)
class Evaluations:
    """Several `Evaluation`s with different metrics and lists, behind the methods of one except `constant_K`.

    For example, value@k is evaluated only on lists of rows that were shown at random.

    Args:
        parts: Evaluations. `kept_at_top` compares the lists of the first one, which may have no metrics.
    """

    parts: Sequence[Evaluation]

    def __call__(self, exponents_WK: Floats) -> dict[MetricName, Floats]:
        """Return every metric of every setting, as `Evaluation` does."""
        return self._join(lambda part: part(exponents_WK))

    def values(
        self, exponents_K: Floats, baseline_K: Floats | None = None, seed: int = 0
    ) -> dict[MetricName, MetricValue]:
        """Return every metric of one setting, as `Evaluation.values` does."""
        return self._join(lambda part: part.values(exponents_K, baseline_K, seed))

    def sensitivity(self, exponents_K: Floats, factor: int, values: Floats) -> dict[MetricName, Floats]:
        """Return every metric for several values of one exponent, as `Evaluation.sensitivity` does."""
        return self._join(lambda part: part.sensitivity(exponents_K, factor, values))

    def kept_at_top(self, exponents_K: Floats, baseline_K: Floats, places: int) -> float:
        """Return the share of rows that stay at the top, as `Evaluation.kept_at_top` does."""
        return self.parts[0].kept_at_top(exponents_K, baseline_K, places)

    def _join(self, evaluate: Callable[[Evaluation], dict[MetricName, T]]) -> dict[MetricName, T]:
        return {name: value for part in self.parts if part.metrics for name, value in evaluate(part).items()}


def _sum_by_user(terms_SL: Floats, user_L: Ints) -> Floats:
    """Return the sums (U, S) of terms over the lists of each user, with users in the order of their first lists."""
    _, first_U, number_L = np.unique(user_L, return_index=True, return_inverse=True)
    position_U = np.argsort(np.argsort(first_U))
    sums_US = np.zeros((len(first_U), len(terms_SL)))
    np.add.at(sums_US, position_U[number_L], terms_SL.T)
    return sums_US


def _resample(sums_US: Floats, seed: int) -> Floats:
    """Return the sums over each bootstrap resample of the users, with shape (R, S)."""
    random, users = np.random.default_rng(seed), len(sums_US)
    sums_RS = np.empty((RESAMPLES, sums_US.shape[1]))
    for r in range(RESAMPLES):
        sums_RS[r] = np.bincount(random.integers(0, users, users), minlength=users) @ sums_US
    return sums_RS


def _interval(values_R: Floats) -> Interval:
    low, high = np.percentile(values_R, [_LOW_PERCENTILE, _HIGH_PERCENTILE])
    return float(low), float(high)
