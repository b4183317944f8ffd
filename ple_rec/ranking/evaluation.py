"""Metrics of fusions on held-out lists: many settings of the exponents at once, intervals, and what changes at the top.

Shape suffixes: K factors, L lists, N rows of lists, W settings, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ple_rec.ranking.fusion import Factors
from ple_rec.ranking.lists import Floats, Lists
from ple_rec.ranking.metrics import ListMetric, Measured

RESAMPLES = 1_000
_LOW, _HIGH = 2.5, 97.5  # percentiles
Interval = tuple[float, float]


@dataclass(frozen=True)
class Value:
    """A metric of one fusion.

    Args:
        value: Over the lists where it is defined.
        interval: 95 %, over resamples of the lists.
        lists: Where it is defined.
        gain: Over the fusion that it is compared with; None where there is none.
        gain_interval: 95 %, of the difference on the same resamples.
    """

    value: float
    interval: Interval
    lists: int
    gain: float | None
    gain_interval: Interval | None


class Evaluation:
    """Of fusions of the same factors on the same lists.

    Args:
        lists: Of the rows.
        factors: Of all rows, in the order of the log.
        metrics: By what they measure.
        threads: That order lists side by side.
    """

    def __init__(
        self, lists: Lists, factors: Factors, metrics: Mapping[Measured, ListMetric], threads: int = 1
    ) -> None:
        self.lists, self.metrics, self.threads = lists, dict(metrics), threads
        self.names = factors.names
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
            seed: Of the resamples, which are the same for both and for all metrics of as many lists.
        """
        ordered = self._ordered(exponents_K[None])
        before = None if before_K is None else self._ordered(before_K[None])
        found = {}
        for measured, metric in self.metrics.items():
            own_L = metric.per_list(ordered)[0]
            sides_SL = own_L[None] if before is None else np.stack([own_L, metric.per_list(before)[0]])
            weight_L = metric.weight_L
            means = _means_RS(sides_SL, weight_L, seed)
            value = float(own_L @ weight_L / weight_L.sum())
            gain, gain_interval = None, None
            if before is not None:
                gain = value - float(sides_SL[1] @ weight_L / weight_L.sum())
                gain_interval = _interval(means[:, 0] - means[:, 1])
            found[measured] = Value(value, _interval(means[:, 0]), len(own_L), gain, gain_interval)
        return found

    def kept_at_top(self, exponents_K: Floats, before_K: Floats, places: int) -> float:
        """Share of the first places of the lists with more rows than these that the same rows have under both."""
        lists = self.lists
        longer_L = lists.size_L > places
        if not longer_L.any():
            return 1.0
        seen_N = (lists.place_N < places) & np.repeat(longer_L, lists.size_L)
        tops = [np.zeros(len(lists.row_N), bool) for _ in range(2)]
        for top, exponents in zip(tops, (exponents_K, before_K), strict=True):
            top[self._ordered(exponents[None])[0][seen_N]] = True
        return float((tops[0] & tops[1]).sum() / seen_N.sum())

    def sensitivity(self, exponents_K: Floats, factor: int, values: Floats) -> dict[Measured, Floats]:
        """Every metric while one exponent takes other values, the rest as they are."""
        exponents_WK = np.tile(exponents_K, (len(values), 1))
        exponents_WK[:, factor] = values
        return self(exponents_WK)

    def _ordered(self, exponents_WK: Floats) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        return self.lists.ordered(exponents_WK.astype(np.float32) @ self._log_KN)


def _means_RS(sides_SL: Floats, weight_L: Floats, seed: int) -> Floats:
    """Weighted means of both sides over lists that are drawn with replacement, as many as there are."""
    random, lists = np.random.default_rng(seed), len(weight_L)
    sums_LS = np.concatenate([sides_SL * weight_L, weight_L[None]]).T
    drawn = np.empty((RESAMPLES, sums_LS.shape[1]))
    for r in range(RESAMPLES):
        times_L = np.bincount(random.integers(0, lists, lists), minlength=lists)
        drawn[r] = times_L @ sums_LS
    return np.asarray(drawn[:, :-1] / drawn[:, -1:])


def _interval(values_R: Floats) -> Interval:
    low, high = np.percentile(values_R, [_LOW, _HIGH])
    return float(low), float(high)
