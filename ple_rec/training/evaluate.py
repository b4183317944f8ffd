"""Evaluation of a model over a split: metrics, curves and expert utilisation.

In a level of the network, output o mixes the outputs of the experts e with the gate weights A_oe. A model returns one
tensor of gate weights, A_BOE, for each level, and one more if its towers mix levels; these tensors are called gates
below. The mean of A_oe over the samples shows how much output o uses expert e, the expert utilisation.

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
    """Mean and standard deviation of each gate weight A_oe over the samples (Fig. 8 of the PLE paper).

    Args:
        gate_labels: Names of the outputs and experts of each gate.
        device: Device of the gates.
    """

    def __init__(self, gate_labels: Sequence[GateLabels], device: torch.device) -> None:
        self.gate_labels = list(gate_labels)
        shapes = [(len(labels.outputs), len(labels.experts)) for labels in gate_labels]
        self.sums = [torch.zeros(2, *shape, dtype=torch.float64, device=device) for shape in shapes]
        self.rows = torch.zeros(1, dtype=torch.float64, device=device)

    def update(self, gates: Sequence[Tensor], rows: int) -> None:
        """Add the gate weights of a batch.

        Args:
            gates: Gate weights A_BOE, one tensor for each entry of `gate_labels`.
            rows: Number of rows before the padding.
        """
        for sums, a_BOE in zip(self.sums, gates, strict=True):
            unpadded_BOE = a_BOE[:rows].double()
            sums[0] += unpadded_BOE.sum(0)
            sums[1] += unpadded_BOE.square().sum(0)
        self.rows += rows

    def compute(self) -> list[dict[str, Any]]:
        """Return level, mixing, outputs, experts, mean and std of each gate over all ranks (a collective).

        Mean and std are lists of rows, (O, E), with None where an output does not read an expert.
        """
        for tensor in (self.rows, *self.sums):
            dist.all_reduce(tensor)
        levels = []
        for labels, sums in zip(self.gate_labels, self.sums, strict=True):
            mean, square = sums / self.rows.clamp(min=1)
            std = (square - mean.square()).clamp(min=0).sqrt()
            levels.append(
                {
                    "level": labels.level,
                    "mixing": labels.mixing,
                    "outputs": list(labels.outputs),
                    "experts": list(labels.experts),
                    "mean": _mask_unread(mean, labels),
                    "std": _mask_unread(std, labels),
                }
            )
        return levels


def _mask_unread(values_OE: Tensor, labels: GateLabels) -> list[list[float | None]]:
    return [
        [value if read else None for value, read in zip(row, reads, strict=True)]
        for row, reads in zip(values_OE.tolist(), labels.edges_OE, strict=True)
    ]


@torch.no_grad()
def score_batches(
    model: nn.Module, batches: Iterable[Batch], device: torch.device
) -> Generator[tuple[Batch, Tensor, Sequence[Tensor]]]:
    """Yield each batch on the device of the model, with logits_BK and the gates, computed in eval mode.

    Args:
        model: Model that returns (logits_BK, gates).
        batches: Batches; every rank has the same number.
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
    gate_labels: Sequence[GateLabels] | None = None,
    slices: SliceMetrics | None = None,
) -> dict[str, Any]:
    """Return the metrics of a model over the batches of all ranks (a collective).

    Args:
        model: Model that returns (logits_BK, gates).
        batches: Batches; every rank has the same number.
        tasks: Tasks in the order of the logits.
        device: Device of the model.
        exact_limit: Number of samples up to which AUC is exact.
        gate_labels: Names of the outputs and experts of each gate; None for a result without curves and gates.
        slices: Metrics by slice to update; None for a result without slices.

    Returns:
        `{"tasks": {task: metrics}}`, with `gate_labels` also "curves" and "gates", with `slices` also "slices".
    """
    metrics = MetricCollection(tasks, device, exact_limit=exact_limit, gauc=True, r2=True)
    gate_statistics = GateStatistics(gate_labels, device) if gate_labels is not None else None
    for batch, logits_BK, gates in score_batches(model, batches, device):
        metrics.update(logits_BK, batch.labels_BK, batch.in_space_BK, batch.weight_B, batch.group_B, batch.subgroup_B)
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
