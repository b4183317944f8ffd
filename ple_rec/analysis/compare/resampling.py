"""Bootstrap over the groups of the test split: how much a gain depends on the users that happened to be in it.

A resample draws as many groups as there are, with replacement. A group comes with all its rows, since the rows of one
user are alike and not independent. Rows without a group, and all rows of a dataset without groups, are groups of one.
The resamples follow from the numbers of groups and resamples alone. They are the same for every run of a dataset, so
the difference of two runs is paired.

Shape suffixes: N rows, K tasks, G groups, R resamples, C resamples at a time, P positives, M negatives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ple_rec.analysis.compare.gain import LEVEL, Interval

RESAMPLES = 1000
FEWEST_GROUPS = 10
_AT_A_TIME = 16
# At most this share of the resamples may lack a class of a task.
_MOST_UNDEFINED = 0.05

Floats = NDArray[np.float64]
Counts = NDArray[np.uint8]


def draws(groups: int, resamples: int = RESAMPLES) -> Iterator[Counts]:
    """Yield how often each resample holds each group, (G, C) counts at a time; equal arguments yield equal counts."""
    random = np.random.default_rng(0)
    for start in range(0, resamples, _AT_A_TIME):
        size = min(_AT_A_TIME, resamples - start)
        slot = random.integers(0, groups, (groups, size)) * size + np.arange(size)
        yield np.bincount(slot.ravel(), minlength=groups * size).astype(np.uint8).reshape(groups, size)


def resampled_metrics(rows: Mapping[str, NDArray[Any]], metrics: Sequence[str], resamples: int = RESAMPLES) -> Floats:
    """Return every task's metric on every resample, (K, R); NaN if the resample lacks a class or has no weight.

    Args:
        rows: Arrays of a run's `test_rows.npz`: `labels`, `weights`, `scores` (N, K), and `group` (N,) if it exists.
        metrics: "auc" or "mse" of each task.
        resamples: Number of resamples R.
    """
    group_N, groups = _numbered(rows.get("group"), len(rows["labels"]))
    tasks = [
        _METRICS[metric](*(np.asarray(rows[name])[:, k] for name in ("labels", "weights", "scores")), group_N, groups)
        for k, metric in enumerate(metrics)
    ]
    chunks = [[task(counts_GC) for task in tasks] for counts_GC in draws(groups, resamples)]
    return np.concatenate([np.stack(chunk) for chunk in chunks], axis=1)


def row_interval(
    metric: str,
    runs: Sequence[Floats],
    baselines: Sequence[Floats],
    groups: int,
) -> Interval | None:
    """Return the 95 % percentile interval of the gain, which is averaged over the seeds within each resample.

    Args:
        metric: "auc" or "mse" of the task.
        runs: Metric of the task on the R resamples, for each run of the variant.
        baselines: Metric of the task on the R resamples, for the baseline's runs with the same seeds.
        groups: Number of groups of the test split that have rows of the task (`groups_of`).

    Returns:
        The interval, or None without a seed, for fewer than 10 groups, or if more than one resample in 20 lacks a
        class.
    """
    if not runs or groups < FEWEST_GROUPS:
        return None
    gain_R = np.mean([run_R - baseline_R for run_R, baseline_R in zip(runs, baselines, strict=True)], axis=0)
    gain_R = gain_R if metric == "auc" else -gain_R
    defined_R = gain_R[~np.isnan(gain_R)]
    if len(defined_R) < (1 - _MOST_UNDEFINED) * len(gain_R):
        return None
    low, high = np.quantile(defined_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def groups_of(rows: Mapping[str, NDArray[Any]], task: int) -> int:
    """Return the number of groups that have rows of the task with an index."""
    group_N, _ = _numbered(rows.get("group"), len(rows["labels"]))
    return len(np.unique(group_N[np.asarray(rows["weights"])[:, task] > 0]))


def _numbered(group_N: NDArray[Any] | None, rows: int) -> tuple[NDArray[np.int64], int]:
    """Return the number of every row's group, from 0, and the number of groups."""
    if group_N is None:
        return np.arange(rows), rows
    number_N = np.unique(group_N, return_inverse=True)[1].astype(np.int64)
    alone_N = np.asarray(group_N) == -1
    if alone_N.any():
        number_N[alone_N] = number_N.max(initial=0) + 1 + np.arange(int(alone_N.sum()))
        number_N = np.unique(number_N, return_inverse=True)[1].astype(np.int64)
    return number_N, int(number_N.max(initial=-1)) + 1


class _Area:
    """Weighted AUC with ties 1/2, exact on every resample: rows are sorted once, and only their weights change.

    AUC = sum_p w_p (N_<(p) + N_<=(p)) / 2 / (P N)        N_<(p): weight of the negatives that score less than p
    """

    def __init__(
        self,
        label_N: Floats,
        weight_N: Floats,
        score_N: Floats,
        group_N: NDArray[np.int64],
        groups: int,
    ) -> None:
        positive_N, negative_N = (weight_N > 0) & (label_N > 0.5), (weight_N > 0) & ~(label_N > 0.5)
        order_M = np.argsort(score_N[negative_N], kind="stable")
        score_M = score_N[negative_N][order_M]
        score_P = score_N[positive_N]
        # Positives are sorted too, so that neighbours read neighbouring sums.
        order_P = np.argsort(score_P, kind="stable")
        below_P, upto_P = (np.searchsorted(score_M, score_P[order_P], side=side) for side in ("left", "right"))
        self.below_P, self.tied_P = below_P, upto_P if (below_P != upto_P).any() else None
        self.group_M, self.group_P = group_N[negative_N][order_M], group_N[positive_N][order_P]
        self.weight_M1 = _factor(weight_N[negative_N][order_M])
        self.weight_P1 = _factor(weight_N[positive_N][order_P])

    def __call__(self, counts_GC: Counts) -> Floats:
        """Return the AUC of C resamples from (G, C) counts."""
        sums_MC = np.zeros((len(self.group_M) + 1, counts_GC.shape[1]))
        np.cumsum(_weighted(counts_GC, self.group_M, self.weight_M1), axis=0, out=sums_MC[1:], dtype=np.float64)
        weight_PC = _weighted(counts_GC, self.group_P, self.weight_P1)
        below_PC = sums_MC[self.below_P]
        if self.tied_P is not None:
            below_PC = (below_PC + sums_MC[self.tied_P]) / 2
        pairs_C = weight_PC.sum(axis=0, dtype=np.float64) * sums_MC[-1]
        with np.errstate(invalid="ignore"):
            area_C: Floats = (weight_PC * below_PC).sum(axis=0) / pairs_C
        return area_C


class _SquaredError:
    """Weighted MSE on every resample, from two sums of each group."""

    def __init__(
        self,
        label_N: Floats,
        weight_N: Floats,
        score_N: Floats,
        group_N: NDArray[np.int64],
        groups: int,
    ) -> None:
        used_N = weight_N > 0
        weight_N, error_N = weight_N[used_N].astype(np.float64), score_N[used_N].astype(np.float64) - label_N[used_N]
        sums = [np.bincount(group_N[used_N], w, groups) for w in (weight_N * error_N**2, weight_N)]
        self.sums_2G = np.stack(sums)

    def __call__(self, counts_GC: Counts) -> Floats:
        """Return the MSE of C resamples from (G, C) counts."""
        squared_C, weight_C = self.sums_2G @ counts_GC.astype(np.float64)
        with np.errstate(invalid="ignore"):
            mse_C: Floats = squared_C / weight_C
        return mse_C


_METRICS: dict[str, Callable[..., Callable[[Counts], Floats]]] = {"auc": _Area, "mse": _SquaredError}


def _factor(weight_N: Floats) -> Floats | None:
    """Return the weights as (N, 1); None if all are equal, since an equal factor cancels out of AUC."""
    if (weight_N == weight_N[:1]).all():
        return None
    return weight_N.astype(np.float64)[:, None]


def _weighted(counts_GC: Counts, group_N: NDArray[np.int64], weight_N1: Floats | None) -> Floats | Counts:
    counts_NC = counts_GC[group_N]
    return counts_NC if weight_N1 is None else counts_NC * weight_N1
