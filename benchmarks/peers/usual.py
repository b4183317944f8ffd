"""PLE as people usually write it: loops over experts of `nn.Linear`, on FBGEMM's tables with row-wise Adagrad.

python -m benchmarks.peers.usual WORKLOAD.json

Shape suffixes: B batch, D width, E experts of a gate, F dense features, I ids, S sparse features, K tasks, N rows.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import ComputeDevice, SplitTableBatchedEmbeddingBagsCodegen
from torch import Tensor, nn

from benchmarks.peers.autocast import use_precision
from benchmarks.peers.protocol import ReadyContender, TurnResult, read_peak_bytes, serve, time_steps
from benchmarks.peers.workload import Cycle, TrainingRows, Workload


def mlp(width: int, hidden: list[int]) -> nn.Sequential:
    """Return layers of `nn.Linear`, each followed by ReLU."""
    layers: list[nn.Module] = []
    for out in hidden:
        layers += [nn.Linear(width, out), nn.ReLU()]
        width = out
    return nn.Sequential(*layers)


class Level(nn.Module):
    """Experts and gates of one level of PLE. The last level has no shared output."""

    def __init__(self, width: int, work: Workload, *, last: bool) -> None:
        super().__init__()
        tasks, own, shared = len(work.tasks), work.task_experts, work.shared_experts
        self.own = nn.ModuleList(
            nn.ModuleList(mlp(width, work.expert_hidden) for _ in range(own)) for _ in range(tasks)
        )
        self.shared = nn.ModuleList(mlp(width, work.expert_hidden) for _ in range(shared))
        self.gates = nn.ModuleList(nn.Linear(width, own + shared) for _ in range(tasks))
        self.shared_gate = None if last else nn.Linear(width, tasks * own + shared)

    def forward(self, streams: list[Tensor]) -> list[Tensor]:
        """Return the input of the next level for each task, then, except on the last level, the shared one.

        Args:
            streams: Input of this level for each task, then the shared one.
        """
        shared = [expert(streams[-1]) for expert in self.shared]
        task_outputs, outputs = [], []
        for experts, gate, x_BD in zip(self.own, self.gates, streams, strict=False):
            assert isinstance(experts, nn.ModuleList)
            own = [expert(x_BD) for expert in experts]
            outputs.append(_mix(gate(x_BD), own + shared))
            task_outputs += own
        if self.shared_gate is not None:
            outputs.append(_mix(self.shared_gate(streams[-1]), task_outputs + shared))
        return outputs


def _mix(logits_BE: Tensor, experts: list[Tensor]) -> Tensor:
    """Return the sum of the experts' outputs, weighted by the softmax of a gate's logits."""
    weights_BE1 = logits_BE.softmax(-1).unsqueeze(-1)
    return (weights_BE1 * torch.stack(experts, dim=1)).sum(1)


class UsualPLE(nn.Module):
    """PLE: levels of experts and gates, then a tower for each task."""

    def __init__(self, width: int, work: Workload) -> None:
        super().__init__()
        out = work.expert_hidden[-1]
        self.levels = nn.ModuleList(
            Level(out if i else width, work, last=i + 1 == work.levels) for i in range(work.levels)
        )
        self.towers = nn.ModuleList(
            nn.Sequential(mlp(out, work.tower_hidden), nn.Linear(work.tower_hidden[-1], 1)) for _ in work.tasks
        )

    def forward(self, x_BD: Tensor) -> Tensor:
        """Return logits_BK."""
        streams = [x_BD] * (len(self.towers) + 1)
        for level in self.levels:
            streams = level(streams)
        return torch.cat([tower(x) for tower, x in zip(self.towers, streams, strict=True)], dim=1)


class TensorBatch(NamedTuple):
    """Batch as tensors.

    Args:
        indices_I: Row of the table of each id. The ids, one per feature and sample, are ordered by feature, then by
            sample.
        offsets: Index of the first id of each feature and sample, then the number of ids.
        dense_BF: Dense features.
        labels_BK: Labels; 0 outside the sample space of the task.
        in_space_BK: 1.0 for a sample inside the task's sample space, whose loss counts, else 0.0.
    """

    indices_I: Tensor
    offsets: Tensor
    dense_BF: Tensor
    labels_BK: Tensor
    in_space_BK: Tensor


def build_contender(work: Workload) -> ReadyContender:
    """Build the model and its optimizers, and read the batches into memory."""
    torch.set_num_threads(work.threads)
    torch.manual_seed(0)
    batches = [_tensors(rows) for rows in TrainingRows.read(work.rows).batches(work.batch_size)]
    step = make_train_step(work)
    cycle = Cycle(batches)

    def run(steps: int) -> None:
        for batch in cycle.take(steps):
            step(batch)

    def turn(steps: int) -> TurnResult:
        return time_steps(steps, work.batch_size, run)

    return ReadyContender({"step": turn}, ("torch", "fbgemm-gpu-cpu"), read_peak_bytes)


def make_train_step(work: Workload) -> Callable[[TensorBatch], Tensor]:
    """Return a function that makes a training step on a batch and returns the loss."""
    tables = SplitTableBatchedEmbeddingBagsCodegen(
        [(rows, work.dim, EmbeddingLocation.HOST, ComputeDevice.CPU) for rows in work.tables.values()],
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=work.table_learning_rate,
        pooling_mode=PoolingMode.SUM,
        device=torch.device("cpu"),
    )
    tables.init_embedding_weights_uniform(-0.01, 0.01)
    model = UsualPLE(len(work.tables) * work.dim + len(work.dense), work)
    use_precision(model, work.precision)
    optimizer = torch.optim.Adam(model.parameters(), lr=work.learning_rate)
    binary = torch.tensor([kind == "binary" for kind in work.tasks.values()])

    def step(batch: TensorBatch) -> Tensor:
        optimizer.zero_grad()
        x_BD = torch.cat([tables(batch.indices_I, batch.offsets), batch.dense_BF], dim=1)
        logits_BK = model(x_BD)
        log_BK = F.binary_cross_entropy_with_logits(logits_BK, batch.labels_BK, reduction="none")
        squared_BK = F.mse_loss(logits_BK, batch.labels_BK, reduction="none")
        loss_BK = torch.where(binary, log_BK, squared_BK) * batch.in_space_BK
        loss = (loss_BK.sum(0) / batch.in_space_BK.sum(0).clamp(min=1)).sum()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def _tensors(rows: TrainingRows) -> TensorBatch:
    ids = torch.from_numpy(rows.ids_SN).long().flatten()
    return TensorBatch(
        ids,
        torch.arange(len(ids) + 1),
        *(torch.from_numpy(array.T.copy()) for array in (rows.dense_FN, rows.labels_KN, rows.in_space_KN)),
    )


if __name__ == "__main__":
    sys.exit(serve(lambda: build_contender(Workload.read(Path(sys.argv[1])))))
