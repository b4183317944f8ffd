"""Gradient conflict: whether two tasks pull the same weights, and the same inputs, in opposite directions.

    cosine(g_a, g_b) = g_a . g_b / (|g_a| |g_b|)        g_k = dL_k/d theta, or dL_k/dx

L_k is task k's loss over a batch, theta the dense parameters, and x the inputs of the extraction network: pooled rows
of the tables beside normalised dense features. Both sides of a cosine hold only what both gradients reach: the experts
and gates of one task, and samples outside of a task's sample space, get exactly zero from another, and would only
lengthen one of the vectors. Below 0 a step against one task's loss raises the other's; 0 is what unrelated tasks have.

The model is in evaluation mode: no dropout. Gradients come from `autograd.grad`, with the tables read but not part of
the graph. A `backward()` per task would step the tables, whose optimizer is fused into their backward pass.

Shape suffixes: B batch, D width of x, K tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import combinations, islice
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from ple_rec.config.base import Split
from ple_rec.data.batch import Batch
from ple_rec.models.losses import Loss
from ple_rec.models.losses.sums import loss_sums_K, weight_BK
from ple_rec.models.multitask import MultiTaskModel
from ple_rec.training.job import EvaluationJob

Gradients = Sequence[Tensor | None]


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
    """Of every pair of tasks, at the weights that the model has; neither they nor the tables change.

    Args:
        job: Of one rank.
        batches: On which gradients are taken, each on its own.
    """
    assert job.ranks.world_size == 1, "the gradients of one rank alone are not those of a batch"
    losses, training = job.losses, job.model.training
    job.model.eval()
    pairs = list(combinations(range(len(losses)), 2))
    found: list[tuple[list[Cosine], list[Cosine]]] = [([], []) for _ in pairs]
    for batch in batches:
        gradients = task_gradients(job.bare, losses, batch.to(job.ranks.device))
        for (a, b), (parameters, inputs) in zip(pairs, found, strict=True):
            inputs.append(cosine(gradients[a][:1], gradients[b][:1]))
            parameters.append(cosine(gradients[a][1:], gradients[b][1:]))
    job.model.train(training)
    names = [task.name for task in job.tasks]
    return tuple(
        Conflict((names[a], names[b]), _gathered(parameters), _gathered(inputs))
        for (a, b), (parameters, inputs) in zip(pairs, found, strict=True)
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


@dataclass(frozen=True)
class Cosine:
    """Of two gradients: its value, None where they have nothing in common, and the elements that both reach."""

    value: float | None
    reached: int


def cosine(of_a: Gradients, of_b: Gradients) -> Cosine:
    """Over the elements that neither gradient leaves at exactly 0.

    Args:
        of_a: Tensors of one gradient; None for what it does not depend on.
        of_b: As many of the other.
    """
    dot = square_a = square_b = 0.0
    reached = 0
    for a, b in zip(of_a, of_b, strict=True):
        if a is None or b is None:
            continue
        both = (a != 0) & (b != 0)
        own_a, own_b = a[both].double(), b[both].double()
        reached += own_a.numel()
        dot += float(own_a @ own_b)
        square_a += float(own_a @ own_a)
        square_b += float(own_b @ own_b)
    scale = (square_a * square_b) ** 0.5
    return Cosine(max(-1.0, min(1.0, dot / scale)) if scale > 0 else None, reached)


def _gathered(cosines: Sequence[Cosine]) -> Cosines:
    values = tuple(each.value for each in cosines if each.value is not None)
    return Cosines(values, fmean(each.reached for each in cosines) if cosines else 0.0)
