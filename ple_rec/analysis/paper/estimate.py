"""How long a part will take: from samples, FLOPs and what a core here does, before the first run.

    seconds of a run = train rows x epochs x (3 F / speed + overhead) + start

F forward FLOPs a sample of the dense layers, backward twice as many. Rough: runs that end correct it as they go.
"""

from __future__ import annotations

from collections.abc import Sequence

from ple_rec.analysis.compare.matrix import Matrix
from ple_rec.data.dataset import Dataset

_SHARE = 0.45  # of the speed of a product that layers of these sizes reach
_OVERHEAD = 25e-6  # seconds a sample: reading, look-ups, tables' update, metrics
_START = 9.0  # seconds a run: assembling, evaluations with gradient conflict, report, analysis


def seconds_of(matrix: Matrix, runs: Sequence[str], jobs: int, gflops: float) -> float:
    """Seconds that runs of a comparison will take.

    Args:
        matrix: The comparison.
        runs: The variant of each run, and of each trial, that is left.
        jobs: Runs side by side.
        gflops: Of a matrix product on one core.
    """
    total = 0.0
    for name in runs:
        variant = matrix.variants[name]
        train, rows = variant.config.train, Dataset(variant.config.data.path).schema.splits["train"].rows
        samples = rows * train.epochs if train.epochs else (train.steps or 0) * (train.batch_size or 0)
        per_sample = 3 * variant.cost.flops_per_sample / (gflops * 1e9 * _SHARE) + _OVERHEAD
        total += samples * per_sample + _START
    return total / max(1, min(jobs, len(runs)))
