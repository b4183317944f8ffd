"""Seeded samples of four tasks for the metric tests: 2 binary, 1 regression, 1 binary of another sample space."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ple_rec.config.schema import Task
from ple_rec.metrics import MetricCollection

TASKS = (
    Task(name="click", kind="binary", label="click"),
    Task(name="like", kind="binary", label="like"),
    Task(name="seconds", kind="regression", label="seconds"),
    Task(name="share", kind="binary", label="share", space="clicked"),
)


class Samples(NamedTuple):
    """The arguments of `MetricCollection.update`, in order."""

    logits: Tensor
    labels: Tensor
    in_space: Tensor
    weight: Tensor

    def part(self, rows: slice) -> Samples:
        return Samples(*(tensor[rows] for tensor in self))

    def feed(self, metrics: MetricCollection, batch: int = 256) -> MetricCollection:
        for start in range(0, len(self.weight), batch):
            metrics.update(*self.part(slice(start, start + batch)))
        return metrics


def samples(rows: int, seed: int = 0) -> Samples:
    """Ties (logits in steps of 1/8), rare positives (`like`), and NaN wherever a row is outside of its space."""
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(rows, 4, generator=generator) * 8).round() / 8
    shift = torch.tensor([0.0, -4.0, 0.0, -1.0])
    labels = (torch.rand(rows, 4, generator=generator) < (logits + shift).sigmoid()).float()
    labels[:, 2] = logits[:, 2] * 2 + torch.randn(rows, generator=generator)
    in_space = torch.ones(rows, 4, dtype=torch.bool)
    in_space[:, 3] = labels[:, 0] > 0
    logits[~in_space], labels[~in_space] = torch.nan, torch.nan
    return Samples(logits, labels, in_space, torch.rand(rows, generator=generator))
