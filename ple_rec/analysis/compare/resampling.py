"""Bootstrap over the groups of the test split: how much a gain depends on the users that happened to be in it.

A group is all rows of one user or request. A resample draws as many groups as there are, with replacement, since the
rows of one user are not independent. A row without a group, and every row of a dataset without groups, is a group by
itself. The random draws depend only on the numbers of groups and resamples. So all runs on a dataset have the same
resamples, and the difference of two runs is paired.

Shape suffixes: N rows, K tasks, G groups, R resamples, C resamples of one chunk. In AUC, P are positives and M
negatives; in GAUC, P are parts of groups. 1 and 2 are sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ple_rec.analysis.compare.gain import LEVEL, METRICS, Interval
from ple_rec.analysis.compare.matrix import Matrix
from ple_rec.analysis.test_rows import read_rows
from ple_rec.config.metrics import GAUC, GAUCS, SUBGROUP_GAUC, is_higher_better
from ple_rec.metrics.group_auc import GroupRows, group_areas

RESAMPLES = 1000
# With fewer groups, no interval over rows is computed.
FEWEST_GROUPS = 10
# Number of resamples whose metrics are computed at a time.
_CHUNK = 16
# At most this share of the resamples may lack a class of a task.
_MOST_UNDEFINED = 0.05

Floats = NDArray[np.float64]
Counts = NDArray[np.uint8]


def draw_counts(groups: int, resamples: int = RESAMPLES) -> Iterator[Counts]:
    """Yield how often each resample contains each group, in chunks of shape (G, C), the same ones on every call."""
    random = np.random.default_rng(0)
    for start in range(0, resamples, _CHUNK):
        size = min(_CHUNK, resamples - start)
        slot = random.integers(0, groups, (groups, size)) * size + np.arange(size)
        yield np.bincount(slot.ravel(), minlength=groups * size).astype(np.uint8).reshape(groups, size)


def resampled_metrics(
    rows: Mapping[str, NDArray[Any]], metrics: Sequence[tuple[int, str]], resamples: int = RESAMPLES
) -> Floats:
    """Return every metric on every resample, (M, R); NaN if a resample lacks a class or has no weight.

    Args:
        rows: Arrays of a run's `test_rows.npz`: `labels`, `weights`, `scores` (N, K), and `group` and `subgroup` (N,)
            if they exist.
        metrics: Index of the task, and name of the metric, of each of the M metrics: "auc", "ne", "mse" or a GAUC.
        resamples: Number of resamples R.
    """
    resampled, groups = _prepare_metrics(rows, metrics)
    chunks = [[each(counts_GC) for each in resampled] for counts_GC in draw_counts(groups, resamples)]
    return np.concatenate([np.stack(chunk) for chunk in chunks], axis=1)


def metrics_of_rows(rows: Mapping[str, NDArray[Any]], metrics: Sequence[tuple[int, str]]) -> Floats:
    """Return every metric of the rows themselves, (M,); the arguments are those of `resampled_metrics`."""
    each_metric, groups = _prepare_metrics(rows, metrics)
    return np.concatenate([each(np.ones((groups, 1), np.uint8)) for each in each_metric])


def _prepare_metrics(
    rows: Mapping[str, NDArray[Any]], metrics: Sequence[tuple[int, str]]
) -> tuple[list[Callable[[Counts], Floats]], int]:
    """Return a function from counts of groups to the values of each metric, and the number of groups."""
    group_N, groups = _number_groups(rows.get("group"), len(rows["labels"]))

    def prepare(task: int, metric: str) -> Callable[[Counts], Floats]:
        label_N, weight_N, score_N = (np.asarray(rows[name])[:, task] for name in ("labels", "weights", "scores"))
        if metric == SUBGROUP_GAUC:
            part_N, _ = _number_groups(rows["subgroup"], len(group_N))
            return _resampled_gauc(label_N, weight_N, score_N, group_N, groups, part_N)
        return _METRICS[metric](label_N, weight_N, score_N, group_N, groups)

    return [prepare(task, metric) for task, metric in metrics], groups


def row_interval(
    metric: str,
    runs: Sequence[Floats],
    baselines: Sequence[Floats],
    groups: int,
) -> Interval | None:
    """Return the 95 % percentile interval of the gain, which is averaged over the seeds within each resample.

    Args:
        metric: Name of the metric: "auc", "ne", "mse" or a GAUC.
        runs: Metric of the task on the R resamples, for each run of the variant.
        baselines: Metric of the task on the R resamples, for the baseline's runs with the same seeds.
        groups: Number of groups of the test split that have rows of the task (`count_groups`).

    Returns:
        The interval; or None without a seed, for fewer than 10 groups, or if the gain is undefined on more than one
        resample in 20.
    """
    if not runs or groups < FEWEST_GROUPS:
        return None
    gain_R = np.mean([run_R - baseline_R for run_R, baseline_R in zip(runs, baselines, strict=True)], axis=0)
    gain_R = gain_R if is_higher_better(metric) else -gain_R
    defined_R = gain_R[~np.isnan(gain_R)]
    if len(defined_R) < (1 - _MOST_UNDEFINED) * len(gain_R):
        return None
    low, high = np.quantile(defined_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def count_groups(rows: Mapping[str, NDArray[Any]], task: int) -> int:
    """Return the number of groups with rows of a task.

    Args:
        rows: Arrays of a run's `test_rows.npz`.
        task: Index of the task.
    """
    group_N, _ = _number_groups(rows.get("group"), len(rows["labels"]))
    return len(np.unique(group_N[np.asarray(rows["weights"])[:, task] > 0]))


class ResampledMetrics:
    """Metrics of runs on the bootstrap resamples of the test split. The metrics of a run are computed once.

    Args:
        matrix: The comparison.
        root: Directory of the comparison.
        with_gauc: True to compute GAUC by group and by subgroup, too.
    """

    def __init__(self, matrix: Matrix, root: Path, *, with_gauc: bool) -> None:
        self._names = [task.name for task in matrix.tasks]
        self._metrics = [(k, METRICS[task.kind]) for k, task in enumerate(matrix.tasks)]
        if with_gauc:
            binary = [k for k, task in enumerate(matrix.tasks) if task.kind == "binary"]
            self._metrics += [(k, metric) for k in binary for metric in GAUCS]
        self._root = root
        self._cache: dict[tuple[str, int], tuple[Floats, list[int]] | None] = {}

    def interval(self, task: str, metric: str, variant: str, baseline: str, seeds: Iterable[int]) -> Interval | None:
        """Return the interval over test rows of a variant's gain on a task by a metric.

        It is None if the rows of a run are missing, or if `row_interval` returns None.
        """
        pairs = [(self._run_metrics(variant, seed), self._run_metrics(baseline, seed)) for seed in seeds]
        both = [(run, base) for run, base in pairs if run is not None and base is not None]
        if not both or len(both) < len(pairs):
            return None
        k = self._names.index(task)
        m = self._metrics.index((k, metric))
        runs, baselines = [metrics[m] for (metrics, _), _ in both], [metrics[m] for _, (metrics, _) in both]
        (_, groups), _ = both[0]
        return row_interval(metric, runs, baselines, groups[k])

    def _run_metrics(self, variant: str, seed: int) -> tuple[Floats, list[int]] | None:
        """Return metrics (metrics, resamples) of a run, and the number of groups of rows for each task."""
        if (variant, seed) not in self._cache:
            self._cache[variant, seed] = self._read(self._root / variant / f"seed-{seed}")
        return self._cache[variant, seed]

    def _read(self, run: Path) -> tuple[Floats, list[int]] | None:
        rows = read_rows(run, self._names)
        needs_subgroups = any(metric == SUBGROUP_GAUC for _, metric in self._metrics)
        if rows is None or (needs_subgroups and "subgroup" not in rows):
            return None
        return resampled_metrics(rows, self._metrics), [count_groups(rows, k) for k in range(len(self._names))]


def _number_groups(group_N: NDArray[Any] | None, rows: int) -> tuple[NDArray[np.int64], int]:
    """Return an index from 0 for the group of every row, and the number of groups.

    Every row is a group by itself if `group_N` is None, and a row with the value -1 (no group) always is.
    """
    if group_N is None:
        return np.arange(rows), rows
    number_N = np.unique(group_N, return_inverse=True)[1].astype(np.int64)
    alone_N = np.asarray(group_N) == -1
    if alone_N.any():
        number_N[alone_N] = number_N.max(initial=0) + 1 + np.arange(int(alone_N.sum()))
        number_N = np.unique(number_N, return_inverse=True)[1].astype(np.int64)
    return number_N, int(number_N.max(initial=-1)) + 1


class _ResampledAuc:
    """Exact weighted AUC on every resample, where a tie counts 1/2. Rows are sorted once; only their weights change.

        AUC = sum_p w_p (below(p) + upto(p)) / 2 / (W_P W_M)

    The sum is over positives p with weight w_p. below(p) is the weight of the negatives with a lower score than p,
    upto(p) the weight of the negatives with the same or a lower score. W_P and W_M are the weights of all positives and
    negatives.
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
        # With sorted positives, the look-ups in the sums of negatives go through memory in order.
        order_P = np.argsort(score_P, kind="stable")
        below_P, upto_P = (np.searchsorted(score_M, score_P[order_P], side=side) for side in ("left", "right"))
        # Without ties, below(p) and upto(p) are equal, and one look-up is enough.
        self.below_P, self.upto_P = below_P, upto_P if (below_P != upto_P).any() else None
        self.group_M, self.group_P = group_N[negative_N][order_M], group_N[positive_N][order_P]
        self.weight_M1 = _weight_column(weight_N[negative_N][order_M])
        self.weight_P1 = _weight_column(weight_N[positive_N][order_P])

    def __call__(self, counts_GC: Counts) -> Floats:
        """Return the AUC of C resamples from (G, C) counts."""
        sums_MC = np.zeros((len(self.group_M) + 1, counts_GC.shape[1]))
        np.cumsum(_weigh_counts(counts_GC, self.group_M, self.weight_M1), axis=0, out=sums_MC[1:], dtype=np.float64)
        weight_PC = _weigh_counts(counts_GC, self.group_P, self.weight_P1)
        below_PC = sums_MC[self.below_P]
        if self.upto_P is not None:
            below_PC = (below_PC + sums_MC[self.upto_P]) / 2
        pairs_C = weight_PC.sum(axis=0, dtype=np.float64) * sums_MC[-1]
        with np.errstate(invalid="ignore"):
            area_C: Floats = (weight_PC * below_PC).sum(axis=0) / pairs_C
        return area_C


class _ResampledMean:
    """Weighted mean of a value on every resample.

    Args:
        sums_2G: Sum of the weighted values of each group, and sum of their weights.
    """

    def __init__(self, sums_2G: Floats) -> None:
        self.sums_2G = sums_2G

    def __call__(self, counts_GC: Counts) -> Floats:
        """Return the mean of C resamples from (G, C) counts."""
        value_C, weight_C = self.sums_2G @ counts_GC.astype(np.float64)
        with np.errstate(invalid="ignore"):
            mean_C: Floats = value_C / weight_C
        return mean_C


class _ResampledNe:
    """Normalised entropy on every resample: log loss divided by that of always predicting the resample's mean label.

    A probability of 0 or 1 is moved by the rounding of fp32, which cannot tell it from one that is a little less sure.
    """

    def __init__(
        self,
        label_N: Floats,
        weight_N: Floats,
        score_N: Floats,
        group_N: NDArray[np.int64],
        groups: int,
    ) -> None:
        weighted_N = weight_N > 0
        positive_N, w_N = label_N[weighted_N] > 0.5, weight_N[weighted_N].astype(np.float64)
        rounding = float(np.finfo(np.float32).eps)
        p_N = np.clip(score_N[weighted_N].astype(np.float64), rounding, 1 - rounding)
        loss_N = -w_N * np.log(np.where(positive_N, p_N, 1 - p_N))
        sums = [np.bincount(group_N[weighted_N], x_N, groups) for x_N in (loss_N, w_N * positive_N, w_N * ~positive_N)]
        self.sums_3G = np.stack(sums)

    def __call__(self, counts_GC: Counts) -> Floats:
        """Return the normalised entropy of C resamples from (G, C) counts."""
        loss_C, positive_C, negative_C = self.sums_3G @ counts_GC.astype(np.float64)
        weight_C = positive_C + negative_C
        with np.errstate(invalid="ignore", divide="ignore"):
            entropy_C = -positive_C * np.log(positive_C / weight_C) - negative_C * np.log(negative_C / weight_C)
            ne_C: Floats = loss_C / entropy_C
        return ne_C


def _resampled_mse(
    label_N: Floats, weight_N: Floats, score_N: Floats, group_N: NDArray[np.int64], groups: int
) -> _ResampledMean:
    weighted_N = weight_N > 0
    weight_N, error_N = (
        weight_N[weighted_N].astype(np.float64),
        score_N[weighted_N].astype(np.float64) - label_N[weighted_N],
    )
    sums = [np.bincount(group_N[weighted_N], w, groups) for w in (weight_N * error_N**2, weight_N)]
    return _ResampledMean(np.stack(sums))


def _resampled_gauc(
    label_N: Floats,
    weight_N: Floats,
    score_N: Floats,
    group_N: NDArray[np.int64],
    groups: int,
    part_N: NDArray[np.int64] | None = None,
) -> _ResampledMean:
    """Return the GAUC of resampled groups, the mean of the AUC of their parts by impressions.

    Args:
        label_N: Label of each row, 0 or 1.
        weight_N: Sample weight of each row, 0 for a row that does not count.
        score_N: Score of each row.
        group_N: Index of the group of each row.
        groups: Number of groups.
        part_N: Index of the part of each row, such as a day of a user; None if the groups are their own parts.
    """
    part_N = group_N if part_N is None else part_N
    row_N = np.flatnonzero(weight_N > 0)
    row_N = row_N[np.argsort(part_N[row_N], kind="stable")]
    signed_N = np.where(label_N > 0.5, weight_N, -weight_N)[row_N].astype(np.float64)
    rows = (part_N[row_N], score_N[row_N, None].astype(np.float32), signed_N[:, None])
    areas = group_areas(GroupRows(*map(torch.from_numpy, rows)))
    weight_P, auc_P = areas.counted_KG[0].numpy(), areas.auc_KG[0].numpy()
    _, first_P = np.unique(part_N[row_N], return_index=True)
    group_P = group_N[row_N][first_P]
    return _ResampledMean(np.stack([np.bincount(group_P, w, groups) for w in (weight_P * auc_P, weight_P)]))


_METRICS: dict[str, Callable[..., Callable[[Counts], Floats]]] = {
    "auc": _ResampledAuc,
    "ne": _ResampledNe,
    "mse": _resampled_mse,
    GAUC: _resampled_gauc,
}


def _weight_column(weight_N: Floats) -> Floats | None:
    """Return the weights as (N, 1); None if all are equal, since an equal factor cancels out of AUC."""
    if (weight_N == weight_N[:1]).all():
        return None
    return weight_N.astype(np.float64)[:, None]


def _weigh_counts(counts_GC: Counts, group_N: NDArray[np.int64], weight_N1: Floats | None) -> Floats | Counts:
    counts_NC = counts_GC[group_N]
    return counts_NC if weight_N1 is None else counts_NC * weight_N1
