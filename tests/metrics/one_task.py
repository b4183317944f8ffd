"""The metrics of one task, fed vectors, through the collection that training and evaluation use."""

from __future__ import annotations

from torch import Tensor

from ple_rec.config.base import TaskKind
from ple_rec.config.schema import Task
from ple_rec.metrics import MetricCollection, Result, TaskCurves

NAME = "task"


class OneTask:
    def __init__(self, kind: TaskKind, limit: int = 1 << 20) -> None:
        self.collection = MetricCollection((Task(name=NAME, kind=kind, label="label"),), "cpu", exact_limit=limit)

    def update(self, scores: Tensor, labels: Tensor, weight: Tensor | None, in_space: Tensor) -> None:
        self.collection.update(scores[:, None], labels[:, None], in_space[:, None], weight)

    def compute(self) -> Result:
        return self.collection.compute()[NAME]

    def curves(self) -> TaskCurves:
        return self.collection.curves()[NAME]

    def merged(self, *others: OneTask) -> OneTask:
        """This one, after it has taken up the states of others."""
        for other in others:
            self.collection.merge_state_dict(other.collection.state_dict())
        return self
