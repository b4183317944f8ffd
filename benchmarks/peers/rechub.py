"""torch-rechub's PLE, trained by its `MTLTrainer`.

python -m benchmarks.peers.rechub WORKLOAD.json

Shape suffixes: B batch, S sparse features, F dense features, K tasks, N rows.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch_rechub.basic.features import DenseFeature, SparseFeature
from torch_rechub.models.multi_task import PLE
from torch_rechub.trainers import MTLTrainer
from torch_rechub.utils.data import DataGenerator

from benchmarks.peers.autocast import use_precision
from benchmarks.peers.protocol import ReadyContender, TurnResult, read_peak_bytes, serve, time_steps
from benchmarks.peers.workload import Cycle, TrainingRows, Workload

_KINDS = {"binary": "classification", "regression": "regression"}


def build_contender(work: Workload) -> ReadyContender:
    """Build the model with the sizes of the workload, and its trainer; all else has the library's defaults.

    Both modes call `train_one_epoch`: `step` with batches from memory, `own loop` with the library's loader.
    """
    torch.set_num_threads(work.threads)
    rows = TrainingRows.read(work.rows)
    features = [SparseFeature(name, vocab_size=count, embed_dim=work.dim) for name, count in work.tables.items()]
    features += [DenseFeature(name) for name in work.dense]
    kinds = [_KINDS[kind] for kind in work.tasks.values()]
    model = PLE(
        features,
        kinds,
        n_level=work.levels,
        n_expert_specific=work.task_experts,
        n_expert_shared=work.shared_experts,
        expert_params={"dims": work.expert_hidden},
        tower_params_list=[{"dims": work.tower_hidden} for _ in kinds],
    )
    use_precision(model, work.precision)
    trainer = MTLTrainer(model, kinds)
    memory_batches = Cycle([_tensors(work, batch) for batch in rows.batches(work.batch_size)])

    def own_loop(steps: int) -> TurnResult:
        part = rows.first(steps * work.batch_size)
        x, y = _columns(work, part), np.ascontiguousarray(part.labels_KN.T)
        # The arguments for validation and test are required, but their loaders are not used.
        loader, _, _ = DataGenerator(x, y).generate_dataloader(
            x_val=x, y_val=y, x_test=x, y_test=y, batch_size=work.batch_size
        )
        begun = time.perf_counter()
        trainer.train_one_epoch(loader)
        return TurnResult(part.ids_SN.shape[1], time.perf_counter() - begun)

    def step(steps: int) -> TurnResult:
        return time_steps(steps, work.batch_size, lambda count: trainer.train_one_epoch(memory_batches.take(count)))

    return ReadyContender({"step": step, "own loop": own_loop}, ("torch", "torch-rechub"), read_peak_bytes)


def _columns(work: Workload, rows: TrainingRows) -> dict[str, Any]:
    columns: dict[str, Any] = dict(zip(work.tables, rows.ids_SN, strict=True))
    return columns | dict(zip(work.dense, rows.dense_FN, strict=True))


def _tensors(work: Workload, rows: TrainingRows) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    x = {name: torch.from_numpy(column) for name, column in _columns(work, rows).items()}
    labels_BK = torch.from_numpy(rows.labels_KN.T.copy())
    return x, labels_BK


if __name__ == "__main__":
    sys.exit(serve(lambda: build_contender(Workload.read(Path(sys.argv[1])))))
