"""Gradient conflict: whether the losses of two tasks change shared weights and inputs in opposite directions.

    cosine(g_a, g_b) = g_a . g_b / (|g_a| |g_b|)        g_k = dL_k/d theta, or dL_k/dx

L_k is the loss of task k over a batch, theta the dense parameters, and x the inputs of the extraction network: pooled
embeddings and normalised dense features. A cosine is taken over the elements in which neither gradient is exactly 0.
The other elements belong to one task alone: its experts and gates, and samples outside of the other task's sample
space, on which that task has no label. These elements would only lengthen one of the vectors. If the cosine is below 0,
a gradient step for one task raises the loss of the other. It is about 0 for unrelated tasks.

The model is in evaluation mode, without dropout. Gradients come from `autograd.grad`, and the embedding tables are not
part of the graph: a `backward()` would update them, since their optimizer is fused into their backward pass.

Shape suffixes: B batch, D width of x, K tasks, P elements of a gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import combinations, islice
from math import isnan
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from ple_rec.analysis.result import Conflict, Cosines
from ple_rec.config.base import Split
from ple_rec.data.batch import Batch
from ple_rec.models.losses import Loss, loss_sums_K, loss_weights_BK
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.training.context import EvaluationContext

Gradients = Sequence[Tensor | None]
# Number of elements of each gradient that are processed at a time, so that they fit in the cache of a processor.
_ELEMENTS = 1 << 16


def measure_conflicts(job: EvaluationContext, batches: Sequence[Batch]) -> tuple[Conflict, ...]:
    """Return the gradient conflict of every pair of tasks at the current weights. The model does not change.

    Args:
        job: Evaluation with one rank.
        batches: Batches; gradients are taken on each of them separately.
    """
    assert job.ranks.world_size == 1, "a rank alone does not have the gradients of the whole batch"
    losses, training = job.losses, job.model.training
    job.model.eval()
    inputs, parameters = [], []
    for batch in batches:
        gradients = task_gradients(job.unwrapped_model, losses, batch.to(job.ranks.device))
        # The first tensor of a gradient belongs to the inputs, the others to the parameters.
        inputs.append(pairwise_cosines([gradient[:1] for gradient in gradients]))
        parameters.append(pairwise_cosines([gradient[1:] for gradient in gradients]))
    job.model.train(training)
    return tuple(
        Conflict((one.name, other.name), _pair_cosines(parameters, a, b), _pair_cosines(inputs, a, b))
        for (a, one), (b, other) in combinations(enumerate(job.tasks), 2)
    )


class ConflictInTraining:
    """Callable for `train(extra_metrics=...)` that measures gradient conflict at every evaluation of a run of one rank.

    The batches are always the first ones of the training, and stay in memory. `train` adds the result to the record of
    the evaluation in `train.jsonl`, so that it exists for steps without a checkpoint, too. Training is not affected.

    Args:
        batches: Number of batches on which gradients are taken.
    """

    def __init__(self, batches: int) -> None:
        self._count = batches
        self._batches: list[Batch] = []

    def __call__(self, job: EvaluationContext) -> dict[str, Any]:
        """Return `{"gradient_conflict": [Conflict.record() of each pair]}`, or an empty dict for a single task."""
        if len(job.tasks) < 2:
            return {}
        self._batches = self._batches or gradient_batches(job, "train", self._count)
        return {"gradient_conflict": [pair.record() for pair in measure_conflicts(job, self._batches)]}


def task_gradients(model: MultiTaskModel, losses: Sequence[Loss], batch: Batch) -> list[Gradients]:
    """Return the gradients of each task's loss: dL_k/dx_BD, then dL_k/dtheta for each dense parameter.

    A gradient is None if the loss does not depend on the tensor. The parameters are those of the extraction network
    and the towers.

    Args:
        model: Model without the wrappers of distributed training.
        losses: Loss of each task.
        batch: Batch on the device of the model.
    """
    with torch.no_grad():
        x_BD = model.inputs(batch)
    parameters = [p for module in (model.extraction, model.towers) for p in module.parameters()]
    with torch.enable_grad():
        x_BD.requires_grad_()
        logits_BK, _ = model.score(x_BD)
        weights_BK = loss_weights_BK(batch.in_space_BK, batch.weight_B)
        losses_K = loss_sums_K(losses, logits_BK, batch.labels_BK, weights_BK) / weights_BK.sum(0).clamp(min=1e-12)
        return [
            torch.autograd.grad(loss, [x_BD, *parameters], retain_graph=True, allow_unused=True) for loss in losses_K
        ]


def gradient_batches(job: EvaluationContext, split: Split, count: int) -> list[Batch]:
    """Return the first batches of the training, or for another split, batches that are spread evenly over it.

    Args:
        job: Evaluation with one rank.
        split: Split of the batches.
        count: Largest number of batches.
    """
    return list(islice(_batches(job, split, count), count))


def _batches(job: EvaluationContext, split: Split, count: int) -> Iterator[Batch]:
    if split == "train":
        loader = job.training_loader(0)
        with closing(loader.epoch(0)) as batches:
            yield from batches
        return
    loader = job.evaluation_loader(split)
    # Each epoch below is closed after its first batch.
    loader.prefetch = 1
    count = min(count, loader.steps)
    # A file is often sorted, so its first rows are not like the rest.
    for i in range(count):
        with closing(loader.epoch(0, i * loader.steps // count)) as batches:
            yield next(batches)


def pairwise_cosines(gradients: Sequence[Gradients]) -> tuple[Tensor, Tensor]:
    """Return the cosines of all pairs of gradients, and the number of elements that each is taken over.

    An element counts for a pair if neither gradient is exactly 0 there. With G (K, P) the gradients and M = (G != 0),
    the dot products are G G^T, the squares of one gradient on the elements of the other G^2 M^T, and the counts M M^T.

    Args:
        gradients: Gradients of each task by the same tensors; None if a task does not depend on a tensor.

    Returns:
        Cosines and counts, (K, K) each, float64, on the CPU. A cosine is NaN if the count is 0.
    """
    sums = torch.zeros(3, len(gradients), len(gradients), dtype=torch.float64)
    for by_tensor in zip(*gradients, strict=True):
        present = [gradient for gradient in by_tensor if gradient is not None]
        if len(present) < 2:
            continue
        zero = torch.zeros_like(present[0])
        g_KP = torch.stack([zero if gradient is None else gradient for gradient in by_tensor])
        for part_KP in g_KP.reshape(len(by_tensor), -1).split(_ELEMENTS, dim=1):
            value_KP = part_KP.double()
            mask_KP = (value_KP != 0).double()
            products = (value_KP @ value_KP.T, value_KP.square() @ mask_KP.T, mask_KP @ mask_KP.T)
            sums += torch.stack(products).cpu()
    dot_KK, square_KK, count_KK = sums
    return (dot_KK / (square_KK * square_KK.T).sqrt()).clamp(-1.0, 1.0), count_KK


def _pair_cosines(matrices: Sequence[tuple[Tensor, Tensor]], a: int, b: int) -> Cosines:
    values = [float(cosine_KK[a, b]) for cosine_KK, _ in matrices]
    counts = [float(count_KK[a, b]) for _, count_KK in matrices]
    return Cosines(tuple(value for value in values if not isnan(value)), fmean(counts) if counts else 0.0)
