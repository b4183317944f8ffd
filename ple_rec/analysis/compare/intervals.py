"""95 % intervals of a gain: over seeds, and over the rows of the test split.

Over seeds, Student's t of the paired differences d_1 .. d_n: mean(d) +- t_(n-1) sd(d) / sqrt(n). It says how far
another training of both models might lead.

Over rows, a bootstrap: groups (users) of the test split are drawn with replacement, as many as there are, for model and
baseline the same ones, and the gain, averaged over seeds, is computed anew; the interval is from the 2.5th to the
97.5th percentile. Without groups, rows are drawn. It says how far another test split of the same kind might lead.

Shape suffixes: N rows, G groups, C draws, P positives, M negatives.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ple_rec.config.base import TaskKind

LEVEL = 0.95
DRAWS = 500
_VALUES = 1 << 20  # of a block of draws, so that its cumulative sums stay in cache

Floats = NDArray[np.float64]
Interval = tuple[float, float]


def t_quantile(level: float, freedom: int) -> float:
    """T with P(|T| < t) = level, by bisection of the finite sums of Abramowitz and Stegun, 26.7.3 and 26.7.4.

    Args:
        level: Between 0 and 1.
        freedom: Degrees of freedom, at least 1.
    """
    low, high = 0.0, 1.0
    while _inside(high, freedom) < level:
        low, high = high, 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _inside(middle, freedom) < level else (low, middle)
    return high


def _inside(t: float, freedom: int) -> float:
    """P(|T| < t)."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for power in range(1 + odd, freedom, 2):
        total += term
        term *= cosine**2 * power / (power + 1)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def seed_interval(differences: Sequence[float], level: float = LEVEL) -> Interval | None:
    """Of the mean of paired differences, one a seed; None for a single seed."""
    if len(differences) < 2:
        return None
    mean, sd = statistics.fmean(differences), statistics.stdev(differences)
    half = t_quantile(level, len(differences) - 1) * sd / math.sqrt(len(differences))
    return mean - half, mean + half


@dataclass(frozen=True)
class TaskRows:
    """A task on the rows of the test split that lie in its space.

    Args:
        kind: Of the task.
        labels_N: y.
        weights_N: Sample weights, above 0.
        scores_N: Predictions.
        group_N: Group of each row, from 0 to G-1.
        groups: G.
    """

    kind: TaskKind
    labels_N: Floats
    weights_N: Floats
    scores_N: Floats
    group_N: NDArray[np.int64]
    groups: int

    @classmethod
    def read(cls, file: Path, task: str, kind: TaskKind) -> TaskRows | None:
        """From `test_rows.npz`; None where there is no such file or task, or too little to draw from."""
        try:
            with np.load(file) as arrays:
                found: dict[str, Any] = {name: arrays[name] for name in arrays.files}
            column = [str(name) for name in found["tasks"]].index(task)
        except (OSError, ValueError, KeyError):
            return None
        inside = found["weights"][:, column] > 0
        keys = found["group"][inside] if "group" in found else np.arange(int(inside.sum()))
        names, group_N = np.unique(keys, return_inverse=True)
        labels_N, weights_N, scores_N = (
            found[name][inside, column].astype(np.float64) for name in ("labels", "weights", "scores")
        )
        if len(names) < 2 or (kind == "binary" and len(np.unique(labels_N)) < 2):
            return None
        return cls(kind, labels_N, weights_N, scores_N, group_N.astype(np.int64), len(names))

    def metric_C(self, drawn_CG: NDArray[np.int64]) -> Floats:
        """The metric with every group as often as it was drawn; NaN where a draw has no positive or no negative."""
        if self.kind == "regression":
            sums_2G = self._sums
            weighed_C2 = drawn_CG @ sums_2G.T
            return np.asarray(weighed_C2[:, 0] / weighed_C2[:, 1])
        positives, negatives, below_P, level_P = self._ranked
        weights_CP = drawn_CG[:, self.group_N[positives]] * self.weights_N[positives]
        weights_CM = drawn_CG[:, self.group_N[negatives]] * self.weights_N[negatives]
        before_CM = np.concatenate([np.zeros((len(drawn_CG), 1)), np.cumsum(weights_CM, axis=1)], axis=1)
        won_C = (weights_CP * (before_CM[:, below_P] + before_CM[:, level_P])).sum(1) / 2
        with np.errstate(invalid="ignore"):
            return np.asarray(won_C / (weights_CP.sum(1) * before_CM[:, -1]))

    @cached_property
    def _sums(self) -> Floats:
        """Weighted squared errors, and weights, of every group."""
        errors_N = self.weights_N * (self.scores_N - self.labels_N) ** 2
        return np.stack([np.bincount(self.group_N, values, self.groups) for values in (errors_N, self.weights_N)])

    @cached_property
    def _ranked(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Positives; negatives by score; how many negatives are below each positive, and how many not above it."""
        positives, negatives = np.flatnonzero(self.labels_N > 0), np.flatnonzero(self.labels_N <= 0)
        negatives = negatives[np.argsort(self.scores_N[negatives], kind="stable")]
        ranked, own = self.scores_N[negatives], self.scores_N[positives]
        return positives, negatives, np.searchsorted(ranked, own, "left"), np.searchsorted(ranked, own, "right")


def drawn_metrics(rows: TaskRows, draws: int = DRAWS) -> Floats:
    """The metric of every draw of groups; the same draws for all rows of one test split and task.

    Args:
        rows: Of a run.
        draws: How many.
    """
    return np.concatenate([rows.metric_C(drawn_CG) for drawn_CG in _draws(rows, draws)])


def row_interval(
    model: Sequence[Floats], baseline: Sequence[Floats], sign: int, level: float = LEVEL
) -> Interval | None:
    """Of the gain averaged over seeds.

    Args:
        model: `drawn_metrics` of each seed.
        baseline: The same of the baseline.
        sign: 1 where more is better, else -1.
        level: Of the interval.
    """
    if not model:
        return None
    gains_C = sign * np.mean([own - its for own, its in zip(model, baseline, strict=True)], axis=0)
    kept = gains_C[np.isfinite(gains_C)]
    if len(kept) < len(gains_C) / 2:  # too few of a class to say anything
        return None
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _draws(rows: TaskRows, draws: int) -> Iterator[NDArray[np.int64]]:
    """How often each group is drawn, some draws at a time."""
    generator = np.random.default_rng(0)
    block = max(1, _VALUES // len(rows.labels_N))
    for begin in range(0, draws, block):
        drawn = [
            np.bincount(generator.integers(rows.groups, size=rows.groups), minlength=rows.groups)
            for _ in range(min(block, draws - begin))
        ]
        yield np.stack(drawn)
