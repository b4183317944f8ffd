"""The dense part of a step of training, alone: forward and backward from x on, and the dense optimizer.

Shape suffixes: B batch, D width of x, K tasks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ple_rec.models.blocks import StepLoss
from ple_rec.models.objective import loss_factors_K, objective
from ple_rec.models.weighting import task_weights
from ple_rec.train.job import Job


@dataclass(frozen=True)
class DenseBatch:
    """What the dense part reads, random.

    Args:
        x_BD: The inputs, whose gradient is computed, as the tables need it.
        labels_BK: 0 or 1.
        weights_BK: All 1.
        counts_K: B.
        scheduled_K: w_k(0).
    """

    x_BD: Tensor
    labels_BK: Tensor
    weights_BK: Tensor
    counts_K: Tensor
    scheduled_K: Tensor


def dense_batch(job: Job, seed: int = 0) -> DenseBatch:
    """As large as the job's on this rank."""
    generator = torch.Generator().manual_seed(seed)
    rows, tasks = -(-job.batch_size // job.ranks.world_size), len(job.tasks)
    width = sum(job.bare.columns.values()) + len(job.selection.dense)
    return DenseBatch(
        x_BD=(0.1 * torch.randn(rows, width, generator=generator)).requires_grad_(),
        labels_BK=torch.randint(2, (rows, tasks), generator=generator).float(),
        weights_BK=torch.ones(rows, tasks),
        counts_K=torch.full((tasks,), float(rows)),
        scheduled_K=torch.tensor(task_weights(job.tasks, 0)),
    )


def dense_step(job: Job, batch: DenseBatch) -> None:
    """What `train_step` does between the tables' forward and their backward, and the dense optimizer."""
    job.optimizers.prepare(0)
    batch.x_BD.grad = None

    def factors() -> Tensor:
        return loss_factors_K(job.bare, batch.counts_K, batch.scheduled_K)

    loss = StepLoss(job.losses, batch.labels_BK, batch.weights_BK, factors)
    _, sums_K = job.bare.train_score(batch.x_BD, loss)
    objective(job.bare, sums_K, batch.counts_K, batch.scheduled_K).backward()
    job.optimizers.step()
