"""Gradient conflict: whether two tasks pull the same weights, and the same inputs, in opposite directions.

    cosine(g_a, g_b) = g_a . g_b / (|g_a| |g_b|)        g_k = dL_k/d theta, or dL_k/dx

L_k is task k's loss over a batch, theta the dense parameters, and x the inputs of the extraction network: pooled rows
of the tables beside normalised dense features. Both sides of a cosine hold only what both gradients reach: the experts
and gates of one task, and samples outside of a task's sample space, get exactly zero from another, and would only
lengthen one of the vectors. Below 0 a step against one task's loss raises the other's; 0 is what unrelated tasks have.

The model is in evaluation mode: no dropout. Gradients come from `autograd.grad`, with the tables read but not part of
the graph. A `backward()` per task would step the tables, whose optimizer is fused into their backward pass.

Shape suffixes: B batch, D width of x, K tasks, P elements of a gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import combinations, islice
from math import isnan
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from ple_rec.config.base import Split
from ple_rec.data.batch import Batch
from ple_rec.models.losses import Loss, loss_sums_K, weight_BK
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.training.context import EvaluationJob

Gradients = Sequence[Tensor | None]
_ELEMENTS = 1 << 16  # of each gradient in float64 at a time, so that they fit in a processor's cache


@dataclass(frozen=True)
class Cosines:
    """One cosine per batch, of those where both gradients reach anything.

    Args:
        values: Of the batches.
        reached: Elements that both gradients reach, on average over the batches.
    """

    values: tuple[float, ...]
    reached: float

    @property
    def mean(self) -> float | None:
        """None where no batch has one."""
        return fmean(self.values) if self.values else None

    @property
    def sd(self) -> float | None:
        """Sample standard deviation over batches; None for fewer than two."""
        return stdev(self.values) if len(self.values) > 1 else None

    @property
    def negative(self) -> float | None:
        """Share of batches below 0."""
        return sum(value < 0 for value in self.values) / len(self.values) if self.values else None

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "mean": self.mean,
            "sd": self.sd,
            "negative": self.negative,
            "batches": len(self.values),
            "reached": self.reached,
        }


@dataclass(frozen=True)
class Conflict:
    """Between two tasks.

    Args:
        tasks: The two.
        parameters: On the dense parameters that they share.
        inputs: On x.
    """

    tasks: tuple[str, str]
    parameters: Cosines
    inputs: Cosines

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "tasks": list(self.tasks),
            "parameters": self.parameters.record(),
            "inputs": self.inputs.record(),
        }


def conflicts(job: EvaluationJob, batches: Sequence[Batch]) -> tuple[Conflict, ...]:
    """Return the conflict of every pair of tasks at the weights that the model has; nothing of the model changes.

    Args:
        job: Evaluation of one rank.
        batches: Batches on which gradients are taken, each on its own.
    """
    assert job.ranks.world_size == 1, "the gradients of one rank alone are not those of a batch"
    losses, training = job.losses, job.model.training
    job.model.eval()
    inputs, parameters = [], []
    for batch in batches:
        gradients = task_gradients(job.bare, losses, batch.to(job.ranks.device))
        inputs.append(cosines([gradient[:1] for gradient in gradients]))
        parameters.append(cosines([gradient[1:] for gradient in gradients]))
    job.model.train(training)
    return tuple(
        Conflict((one.name, other.name), _over_batches(parameters, a, b), _over_batches(inputs, a, b))
        for (a, one), (b, other) in combinations(enumerate(job.tasks), 2)
    )


class ConflictInTraining:
    """Conflict at every evaluation of a run of one rank, always on the first batches of training.

    What it gives stands in the evaluation's record of `train.jsonl`, and so is there for steps whose checkpoints are
    not kept. Nothing of the run changes by it. The batches stay in memory.

    Args:
        batches: How many.
    """

    def __init__(self, batches: int) -> None:
        self._count = batches
        self._batches: list[Batch] = []

    def __call__(self, job: EvaluationJob) -> dict[str, Any]:
        """`{"gradient_conflict": [pairs]}`; nothing of a single task."""
        if len(job.tasks) < 2:
            return {}
        self._batches = self._batches or gradient_batches(job, "train", self._count)
        return {"gradient_conflict": [each.record() for each in conflicts(job, self._batches)]}


def task_gradients(model: MultiTaskModel, losses: Sequence[Loss], batch: Batch) -> list[Gradients]:
    """Of each task, dL_k/dx_BD and then dL_k/dtheta, parameter by parameter; None where L_k does not depend on it.

    Args:
        model: Its extraction network and towers have the parameters.
        losses: Of the tasks.
        batch: On the device of the model.
    """
    with torch.no_grad():
        x_BD = model.inputs(batch)
    parameters = [p for module in (model.extraction, model.towers) for p in module.parameters()]
    with torch.enable_grad():
        x_BD.requires_grad_()
        logits_BK, _ = model.score(x_BD)
        weights_BK = weight_BK(batch.in_space_BK, batch.weight_B)
        losses_K = loss_sums_K(losses, logits_BK, batch.labels_BK, weights_BK) / weights_BK.sum(0).clamp(min=1e-12)
        return [
            torch.autograd.grad(loss, [x_BD, *parameters], retain_graph=True, allow_unused=True) for loss in losses_K
        ]


def gradient_batches(job: EvaluationJob, split: Split, count: int) -> list[Batch]:
    """The first batches of training, in its order; of another split, batches spread over it evenly.

    Args:
        job: Of one rank.
        split: Which.
        count: How many, at most.
    """
    return list(islice(_batches(job, split, count), count))


def _batches(job: EvaluationJob, split: Split, count: int) -> Iterator[Batch]:
    if split == "train":
        loader = job.training_loader(0)
        with closing(loader.epoch(0)) as batches:
            yield from batches
        return
    loader = job.evaluation_loader(split)
    loader.prefetch = 1
    count = min(count, loader.steps)
    for i in range(count):  # a file is often sorted, and its first rows are not like the rest
        with closing(loader.epoch(0, i * loader.steps // count)) as batches:
            yield next(batches)


def cosines(gradients: Sequence[Gradients]) -> tuple[Tensor, Tensor]:
    """Return the cosines of all pairs of gradients, and on how many elements each is.

    Of a pair the elements that neither leaves at exactly 0 count. With G (K, P) the gradients and M = (G != 0), their
    dot products are G G^T, the squares of one gradient on the elements of the other G^2 M^T, and the counts M M^T.

    Args:
        gradients: Gradients by the same tensors each; None where one does not depend on a tensor.

    Returns:
        (K, K) each, float64, on the CPU. A cosine is NaN where the two have no element.
    """
    sums = torch.zeros(3, len(gradients), len(gradients), dtype=torch.float64)
    for own in zip(*gradients, strict=True):
        there = [gradient for gradient in own if gradient is not None]
        if len(there) < 2:
            continue
        g_KP = torch.stack([torch.zeros_like(there[0]) if gradient is None else gradient for gradient in own])
        for part_KP in g_KP.reshape(len(own), -1).split(_ELEMENTS, dim=1):
            value_KP = part_KP.double()
            mask_KP = (value_KP != 0).double()
            products = (value_KP @ value_KP.T, value_KP.square() @ mask_KP.T, mask_KP @ mask_KP.T)
            sums += torch.stack(products).cpu()
    dot_KK, square_KK, count_KK = sums
    return (dot_KK / (square_KK * square_KK.T).sqrt()).clamp(-1.0, 1.0), count_KK


def _over_batches(found: Sequence[tuple[Tensor, Tensor]], a: int, b: int) -> Cosines:
    values = [float(cosine_KK[a, b]) for cosine_KK, _ in found]
    counts = [float(count_KK[a, b]) for _, count_KK in found]
    return Cosines(tuple(value for value in values if not isnan(value)), fmean(counts) if counts else 0.0)
