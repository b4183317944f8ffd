"""The best that any model can reach: the probabilities by which labels were drawn, scored against those labels.

A probability has 10 bits of mantissa (`outcomes.TRUTH_BITS`), so that counts by its bit pattern are exact, a few
hundred kilobytes whatever the number of rows, and mergeable by adding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data_prep.synthetic.hashing import F64
from data_prep.synthetic.outcomes import TRUTH_BITS
from ple_rec.config.schema import Task

_DROPPED = 23 - TRUTH_BITS
_PATTERNS = (127 << TRUTH_BITS) + 1  # of the floats in [0, 1]
_UNIT = 1 << 30  # squared errors are summed in integers, so that the sum does not depend on the order


class Reachable:
    """Counts over the rows of a split.

    Args:
        tasks: Whose labels; task `t` has its ground truth in the column `truth_<t>`.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.tasks = tuple(tasks)
        self.counts = {t.name: np.zeros((2, _PATTERNS), np.int64) for t in self.tasks if t.kind == "binary"}
        self.sums = {t.name: [0, 0, 0, 0] for t in self.tasks if t.kind != "binary"}  # samples, error^2, y, y^2

    def add(self, rows: pa.Table) -> None:
        """Count rows."""
        for task in self.tasks:
            inside = rows if task.space is None else rows.filter(pc.field(task.space))
            truth = inside[f"truth_{task.name}"].to_numpy()
            label = inside[task.label].to_numpy()
            if task.kind == "binary":
                pattern = truth.view(np.uint32) >> np.uint32(_DROPPED)
                positive = label == 1
                self.counts[task.name][1] += np.bincount(pattern[positive], minlength=_PATTERNS)
                self.counts[task.name][0] += np.bincount(pattern[~positive], minlength=_PATTERNS)
            else:
                wide = label.astype(np.float64)
                sums = [_exact((wide - truth) ** 2), _exact(wide), _exact(wide * wide)]
                self.sums[task.name] = [a + b for a, b in zip(self.sums[task.name], [len(label), *sums], strict=True)]

    def merge(self, other: Reachable) -> None:
        """Add the counts of other rows."""
        for name, counts in other.counts.items():
            self.counts[name] += counts
        for name, sums in other.sums.items():
            self.sums[name] = [a + b for a, b in zip(self.sums[name], sums, strict=True)]

    def results(self) -> dict[str, dict[str, float | int | None]]:
        """By task: `samples`, and `auc`, `logloss`, `positives` or `mse`, `variance`; None where undefined."""
        out: dict[str, dict[str, float | int | None]] = {}
        for name, counts in self.counts.items():
            negatives, positives = (int(n) for n in counts.sum(axis=1))
            out[name] = {
                "samples": negatives + positives,
                "positives": positives,
                "auc": _auc(counts) if negatives and positives else None,
                "logloss": _logloss(counts) if negatives + positives else None,
            }
        for name, (samples, errors, total, squares) in self.sums.items():
            mean = total / _UNIT / samples if samples else 0.0
            out[name] = {
                "samples": samples,
                "mse": errors / _UNIT / samples if samples else None,
                "variance": squares / _UNIT / samples - mean * mean if samples else None,
            }
        return {task.name: out[task.name] for task in self.tasks}


def describe(results: dict[str, dict[str, float | int | None]]) -> str:
    """The results on one line, for people."""
    cells = []
    for name, values in results.items():
        figures = (f"{key} {values[key]:.4f}" for key in ("auc", "mse") if values.get(key) is not None)
        cells.append(f"{name} {' '.join(figures) or '-'}")
    return ", ".join(cells)


def _exact(values: F64) -> int:
    return int(np.rint(values * _UNIT).astype(np.int64).sum())


def _auc(counts: NDArray[np.int64]) -> float:
    """(pairs in the right order + half the ties) / pairs, in integers."""
    negatives, positives = counts
    below = np.cumsum(negatives) - negatives
    twice = sum(int(p) * (2 * int(b) + int(n)) for p, b, n in zip(positives, below, negatives, strict=True) if p)
    return twice / (2 * int(negatives.sum()) * int(positives.sum()))


def _logloss(counts: NDArray[np.int64]) -> float:
    used = np.flatnonzero(counts.sum(axis=0))
    p = (used.astype(np.uint32) << np.uint32(_DROPPED)).view(np.float32).astype(np.float64)
    p = np.clip(p, 1e-12, 1 - 1e-12)
    losses = -(counts[1, used] * np.log(p) + counts[0, used] * np.log1p(-p))
    return float(losses.sum() / counts.sum())
