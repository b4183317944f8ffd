"""Evaluation of a model over a split: metrics, curves and expert utilisation.

Shape suffixes: B batch, O outputs, E experts, K tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ple_rec.config.schema import Task
from ple_rec.data.batch import Batch
from ple_rec.metrics import MetricCollection
from ple_rec.modules.routing import Routing


class GateStatistics:
    """Mean and standard deviation of every A_oe over the samples seen (the paper's Fig. 8).

    Args:
        routings: One per level.
        device: Of the gates.
    """

    def __init__(self, routings: Sequence[Routing], device: torch.device) -> None:
        self.routings = list(routings)
        shapes = [(len(r.outputs), len(r.experts)) for r in routings]
        self.sums = [torch.zeros(2, *shape, dtype=torch.float64, device=device) for shape in shapes]
        self.rows = torch.zeros(1, dtype=torch.float64, device=device)

    def update(self, gates: Sequence[Tensor], rows: int) -> None:
        """Add a batch's A_BOE of every level; its first `rows` rows are no padding."""
        for sums, a_BOE in zip(self.sums, gates, strict=True):
            real = a_BOE[:rows].double()
            sums[0] += real.sum(0)
            sums[1] += real.square().sum(0)
        self.rows += rows

    def compute(self) -> list[dict[str, Any]]:
        """Over all ranks, per level: level, outputs, experts, mean and std; None where an output does not read."""
        for tensor in (self.rows, *self.sums):
            dist.all_reduce(tensor)
        levels = []
        for i, (routing, sums) in enumerate(zip(self.routings, self.sums, strict=True)):
            mean, square = sums / self.rows.clamp(min=1)
            std = (square - mean.square()).clamp(min=0).sqrt()
            levels.append(
                {
                    "level": i + 1,
                    "outputs": list(routing.outputs),
                    "experts": list(routing.experts),
                    "mean": _blank(mean, routing),
                    "std": _blank(std, routing),
                }
            )
        return levels


def _blank(values_OE: Tensor, routing: Routing) -> list[list[float | None]]:
    return [
        [value if read else None for value, read in zip(row, reads, strict=True)]
        for row, reads in zip(values_OE.tolist(), routing.reads_OE, strict=True)
    ]


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    tasks: Sequence[Task],
    device: torch.device,
    *,
    exact_limit: int,
    routings: Sequence[Routing] | None = None,
) -> dict[str, Any]:
    """Run `model` over `batches` on every rank; a collective.

    Args:
        model: Gives (logits_BK, gates).
        batches: As many on every rank.
        tasks: In the order of the logits.
        device: Of the model.
        exact_limit: Samples up to which AUC is exact.
        routings: Where given, the result has curves and gates too.

    Returns:
        `{"tasks": {task: metrics}}`, and with `routings` also "curves" and "gates".
    """
    was_training = model.training
    model.eval()
    metrics = MetricCollection(tasks, device, exact_limit=exact_limit)
    gate_statistics = GateStatistics(routings, device) if routings is not None else None
    for batch in batches:
        batch = batch.to(device)
        logits_BK, gates = model(batch)
        metrics.update(logits_BK, batch.labels_BK, batch.in_space_BK, batch.weight_B)
        if gate_statistics is not None:
            gate_statistics.update(gates, batch.rows)
    model.train(was_training)
    result: dict[str, Any] = {"tasks": metrics.compute()}
    if gate_statistics is not None:
        result |= {"curves": metrics.curves(), "gates": gate_statistics.compute()}
    return result
