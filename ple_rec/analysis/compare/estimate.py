"""How long the runs of a comparison will take: from samples, FLOPs and what a core here does, before the first one.

    seconds of a run = train rows x epochs x (3 F / speed + overhead) + start

F forward FLOPs a sample of the dense layers, backward twice as many. Rough: runs that end correct it as they go.
"""

from __future__ import annotations

import torch

from ple_rec.analysis.compare.work import Work
from ple_rec.data.dataset import Dataset
from ple_rec.modules.gemm_probe import gemm_gflops

_SHARE = 0.45  # of the speed of a product that layers of these sizes reach
_OVERHEAD = 25e-6  # seconds a sample: reading, look-ups, tables' update, metrics
_START = 9.0  # seconds a run: assembling, evaluations with gradient conflict, report, analysis


def seconds_of(work: Work, jobs: int, gflops: float) -> float:
    """Seconds that this host's trials and runs of a comparison will take.

    Args:
        work: What is left.
        jobs: Runs side by side.
        gflops: Of a matrix product on one core.
    """
    names = [run.variant for run in work.own]
    for study in work.own_studies:
        names += [study.variant.name] * study.left
    total = 0.0
    for name in names:
        variant = work.matrix.variants[name]
        train, rows = variant.config.train, Dataset(variant.config.data.path).schema.splits["train"].rows
        batch_size = train.batch_size or train.batch_size_per_rank or 0
        samples = rows * train.epochs if train.epochs else (train.steps or 0) * batch_size
        per_sample = 3 * variant.cost.flops_per_sample / (gflops * 1e9 * _SHARE) + _OVERHEAD
        total += samples * per_sample + _START
    return total / max(1, min(jobs, len(names)))


def core_gflops() -> float:
    """What one core does of a matrix product in fp32; for the second that it takes, products have one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return gemm_gflops(torch.float32, "cpu")
    finally:
        torch.set_num_threads(threads)
