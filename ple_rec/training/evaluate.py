"""Evaluation of a model over a split: metrics, curves and expert utilisation.

Shape suffixes: B batch, O outputs, E experts, K tasks.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ple_rec.config.schema import Task
from ple_rec.data.batch import Batch
from ple_rec.metrics import MetricCollection
from ple_rec.modules.routing import GateLabels
from ple_rec.training.slices import SliceMetrics


class GateStatistics:
    """Mean and standard deviation of every A_oe over the samples seen (the paper's Fig. 8).

    Args:
        legends: One per A.
        device: Of the gates.
    """

    def __init__(self, legends: Sequence[GateLabels], device: torch.device) -> None:
        self.legends = list(legends)
        shapes = [(len(legend.outputs), len(legend.experts)) for legend in legends]
        self.sums = [torch.zeros(2, *shape, dtype=torch.float64, device=device) for shape in shapes]
        self.rows = torch.zeros(1, dtype=torch.float64, device=device)

    def update(self, gates: Sequence[Tensor], rows: int) -> None:
        """Add a batch's A_BOE, one per legend; its first `rows` rows are no padding."""
        for sums, a_BOE in zip(self.sums, gates, strict=True):
            real = a_BOE[:rows].double()
            sums[0] += real.sum(0)
            sums[1] += real.square().sum(0)
        self.rows += rows

    def compute(self) -> list[dict[str, Any]]:
        """Over all ranks, per A: level, mixing, outputs, experts, mean and std; None where an output does not read."""
        for tensor in (self.rows, *self.sums):
            dist.all_reduce(tensor)
        levels = []
        for legend, sums in zip(self.legends, self.sums, strict=True):
            mean, square = sums / self.rows.clamp(min=1)
            std = (square - mean.square()).clamp(min=0).sqrt()
            levels.append(
                {
                    "level": legend.level,
                    "mixing": legend.mixing,
                    "outputs": list(legend.outputs),
                    "experts": list(legend.experts),
                    "mean": _blank(mean, legend),
                    "std": _blank(std, legend),
                }
            )
        return levels


def _blank(values_OE: Tensor, legend: GateLabels) -> list[list[float | None]]:
    return [
        [value if read else None for value, read in zip(row, reads, strict=True)]
        for row, reads in zip(values_OE.tolist(), legend.edges_OE, strict=True)
    ]


@torch.no_grad()
def score_batches(
    model: nn.Module, batches: Iterable[Batch], device: torch.device
) -> Generator[tuple[Batch, Tensor, Sequence[Tensor]]]:
    """Yield each batch on the device of the model, with its logits_BK and its gates A_BOE in evaluation mode.

    Args:
        model: Model that returns both.
        batches: Batches, as many on every rank.
        device: Device of the model.
    """
    was_training = model.training
    model.eval()
    try:
        for batch in batches:
            batch = batch.to(device)
            yield batch, *model(batch)
    finally:
        model.train(was_training)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    tasks: Sequence[Task],
    device: torch.device,
    *,
    exact_limit: int,
    legends: Sequence[GateLabels] | None = None,
    slices: SliceMetrics | None = None,
) -> dict[str, Any]:
    """Run `model` over `batches` on every rank; a collective.

    Args:
        model: Gives (logits_BK, gates).
        batches: As many on every rank.
        tasks: In the order of the logits.
        device: Of the model.
        exact_limit: Samples up to which AUC is exact.
        legends: Of the model's A; where given, the result has curves and gates too.
        slices: Of the columns of which the batches hold codes; where given, the result has their metrics too.

    Returns:
        `{"tasks": {task: metrics}}`, with `legends` also "curves" and "gates", with `slices` also "slices".
    """
    metrics = MetricCollection(tasks, device, exact_limit=exact_limit, gauc=True, r2=True)
    gate_statistics = GateStatistics(legends, device) if legends is not None else None
    for batch, logits_BK, gates in score_batches(model, batches, device):
        metrics.update(logits_BK, batch.labels_BK, batch.in_space_BK, batch.weight_B, batch.group_B)
        if gate_statistics is not None:
            gate_statistics.update(gates, batch.rows)
        if slices is not None:
            slices.update(batch, logits_BK)
    result: dict[str, Any] = {"tasks": metrics.compute()}
    if gate_statistics is not None:
        result |= {"curves": metrics.curves(), "gates": gate_statistics.compute()}
    if slices is not None:
        result["slices"] = slices.compute()
    return result
