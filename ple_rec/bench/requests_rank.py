"""The process of `ple-rec bench requests`: the reference model twice a dataset, with and without request features.

-m ple_rec.bench.requests_rank ORDER.json

A turn is called `WHAT IMPRESSIONS WAY`. Both ways have the same batches, read before the turns in order of the file.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ple_rec.bench.harness import resident_bytes
from ple_rec.bench.requests_data import SHARED
from ple_rec.bench.turns import Order, rank_main
from ple_rec.config.run import RunConfig
from ple_rec.data.batch import Batch
from ple_rec.exits import end_process, guarded
from ple_rec.models.weighting import task_weights
from ple_rec.parallel.process_group import Ranks
from ple_rec.train.guard import StepGuard
from ple_rec.train.job import Job, assemble
from ple_rec.train.loop import train_step
from ple_rec.train.precision import Precision

PREFIX = "impressions-"  # of the name of a dataset directory
WAYS = {"without": (), "with": SHARED}


class Way:
    """One way to train and to predict on one dataset.

    Args:
        job: Of the dataset.
        batches: How many it has.
    """

    def __init__(self, job: Job, batches: int) -> None:
        self.job = job
        with closing(job.evaluation_loader("train").epoch(0)) as read:
            self.batches: Sequence[Batch] = list(islice(read, batches))
        self._guard = StepGuard([task.name for task in job.selection.tasks], job.ranks.device)
        self._weights_K = task_weights(job.tasks, 0)
        self._step = 0

    def ids(self) -> float:
        """Looked up, of a batch."""
        counts = [0 if batch.sparse is None else batch.sparse.values().numel() for batch in self.batches]
        return sum(counts) / len(counts)

    def train(self) -> None:
        """A step."""
        self.job.model.train()
        train_step(self.job, self._guard, self._next(), self._step, self._weights_K)
        self._step += 1

    @torch.no_grad()
    def predict(self) -> None:
        """A batch."""
        self.job.model.eval()
        self.job.model(self._next())
        self._step += 1

    def _next(self) -> Batch:
        return self.batches[self._step % len(self.batches)]


def measure(config: RunConfig, ranks: Ranks, order: Order) -> dict[str, Any]:
    """Work by turns; `precision` of the matrix products, `threads`, `peak_bytes`, and of each dataset and way `ids`."""
    ways: dict[tuple[str, str], Way] = {}
    began: Precision | None = None
    folder = Path(config.data.path).parent
    for data in sorted(folder.glob(f"{PREFIX}*")):
        for way, features in WAYS.items():
            changes = {"path": str(data), "request_features": features}
            job = assemble(
                config.model_copy(update={"data": config.data.model_copy(update=changes)}), ranks, began=began
            )
            began = job.precision
            ways[data.name.removeprefix(PREFIX), way] = Way(job, order.sizes["batches"])
    turn, saw = 0, dict[str, float]()
    while (name := order.next_turn(ranks.rank, turn, saw)) is not None:
        what, *key = name.split()
        work = getattr(ways[key[0], key[1]], what)
        begun, cpu = time.perf_counter(), time.process_time()
        for _ in range(order.sizes[what]):
            work()
        turn += 1
        saw = {"seconds": time.perf_counter() - begun, "cpu_seconds": time.process_time() - cpu}
    assert began is not None
    return {
        "precision": began.used,
        "threads": ranks.threads,
        "peak_bytes": resident_bytes("VmHWM"),
        "ids": {" ".join(key): way.ids() for key, way in ways.items()},
    }


if __name__ == "__main__":
    end_process(guarded(partial(rank_main, measure)))
