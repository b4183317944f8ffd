"""DeepCTR-Torch's PLE, trained by its own `fit`.

python -m benchmarks.peers.deepctr WORKLOAD.json [L2]

On import, the library asks the network for a newer version of itself; an empty module `requests` prevents that.

Shape suffixes: B batch, C columns (sparse, then dense), S sparse features, F dense features, K tasks, N rows.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from benchmarks.peers.autocast import use_precision
from benchmarks.peers.protocol import ReadyContender, TurnResult, read_peak_bytes, serve
from benchmarks.peers.workload import Cycle, TrainingRows, Workload

_LOSSES = {"binary": "binary_crossentropy", "regression": "mse"}
# The library's default for its tables.
_L2 = 1e-5


class _Clock:
    """Callbacks that time the loop of `fit` over batches, without the work before it, such as joining the arrays."""

    seconds = 0.0
    begun = 0.0

    def begin(self, epoch: int, logs: object = None) -> None:
        """Start the clock when `fit` enters its loop."""
        self.begun = time.perf_counter()

    def end(self, epoch: int, logs: object = None) -> None:
        """Stop the clock when `fit` leaves its loop."""
        self.seconds = time.perf_counter() - self.begun


def build_contender(work: Workload, l2: float = _L2) -> ReadyContender:
    """Build and compile the model.

    Both modes run the loop of `fit`: `step` feeds it from memory, `own loop` by the library's loader.

    Args:
        work: Workload to train.
        l2: L2 coefficient of the tables.
    """
    sys.modules.setdefault("requests", ModuleType("requests"))
    from deepctr_torch.callbacks import Callback
    from deepctr_torch.inputs import DenseFeat, SparseFeat
    from deepctr_torch.models import PLE, basemodel

    torch.set_num_threads(work.threads)
    rows = TrainingRows.read(work.rows)
    columns = [SparseFeat(name, vocabulary_size=count, embedding_dim=work.dim) for name, count in work.tables.items()]
    columns += [DenseFeat(name) for name in work.dense]
    kinds = list(work.tasks.values())
    model = PLE(
        columns,
        shared_expert_num=work.shared_experts,
        specific_expert_num=work.task_experts,
        num_levels=work.levels,
        expert_dnn_hidden_units=work.expert_hidden,
        gate_dnn_hidden_units=(),
        tower_dnn_hidden_units=work.tower_hidden,
        task_types=kinds,
        task_names=list(work.tasks),
        l2_reg_embedding=l2,
    )
    use_precision(model, work.precision)
    model.compile("adam", loss=[_LOSSES[kind] for kind in kinds])
    memory_batches = Cycle([_tensors(batch) for batch in rows.batches(work.batch_size)])
    own_loader = basemodel.DataLoader
    clock, callback = _Clock(), Callback()
    callback.on_epoch_begin, callback.on_epoch_end = clock.begin, clock.end

    def fit(part: TrainingRows) -> None:
        x: list[Any] = [*part.ids_SN, *part.dense_FN]
        y = np.ascontiguousarray(part.labels_KN.T)
        model.fit(x, y, batch_size=work.batch_size, epochs=1, verbose=0, callbacks=[callback])

    def own_loop(steps: int) -> TurnResult:
        basemodel.DataLoader = own_loader
        fit(rows.first(steps * work.batch_size))
        return TurnResult(steps * work.batch_size, clock.seconds)

    def step(steps: int) -> TurnResult:
        batches = memory_batches.take(steps)

        def memory_loader(**_: object) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
            return batches

        basemodel.DataLoader = memory_loader
        # `fit` requires rows, which the loader above ignores.
        fit(rows.first(work.batch_size))
        return TurnResult(steps * work.batch_size, clock.seconds)

    return ReadyContender({"step": step, "own loop": own_loop}, ("torch", "deepctr-torch"), read_peak_bytes)


def _tensors(rows: TrainingRows) -> tuple[torch.Tensor, torch.Tensor]:
    # The library takes ids and dense values as one matrix of floats.
    x_BC = torch.from_numpy(np.concatenate([rows.ids_SN.astype(np.float32), rows.dense_FN]).T.copy())
    return x_BC, torch.from_numpy(rows.labels_KN.T.copy())


if __name__ == "__main__":
    sys.exit(
        serve(lambda: build_contender(Workload.read(Path(sys.argv[1])), *(float(value) for value in sys.argv[2:])))
    )
