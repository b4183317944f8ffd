"""One rank of `ple-rec bench tables`: it trains as a rank of `ple-rec train` does, and writes down what that took.

torchrun ... -m ple_rec.bench.tables_rank ORDER.json
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from typing import Any

import torch
from torch.distributed._shard.sharded_tensor import ShardedTensor

from ple_rec.bench.harness import resident_bytes
from ple_rec.bench.limits import copy_bandwidth
from ple_rec.bench.turns import AGAIN, Order, rank_main
from ple_rec.config.run import RunConfig
from ple_rec.data.batch import Batch
from ple_rec.exits import end_process, guarded
from ple_rec.models.weighting import task_weights
from ple_rec.parallel.process_group import Ranks
from ple_rec.parallel.sharding import local_shards
from ple_rec.train.guard import StepGuard
from ple_rec.train.job import Job, assemble
from ple_rec.train.loop import train_step


def measure(config: RunConfig, ranks: Ranks, order: Order) -> dict[str, Any]:
    """Train in turns, then look up alone (a collective); what this rank saw.

    Keys: `rank`, `threads`; `assembled_seconds` and `startup_seconds`, from the start of the launcher to the model and
    the loader, and to the end of the first step; `step_ms` and `cpu_ms` by turn, wall and processor time of every step
    that counts, the wait for its batch included; `peak_bytes`, resident memory at most, of the process up to here;
    `tables_ms` of forward and backward of the tables alone; `sample_bytes` that these read and write of rows, and
    `copy_gb_per_second`, which all ranks of a host measure at once; `shard_bytes` and `state_bytes`, of its shards and
    of their optimizer's state; `held`, by table the rows that it holds and all rows.
    """
    job = assemble(config, ranks)
    assembled = time.monotonic() - order.launched
    stepper = Stepper(job)
    stepper.steps(1)
    started = time.monotonic() - order.launched
    sizes = order.sizes
    stepper.steps(sizes["warm_up"] - 1)
    turns: list[list[tuple[float, float]]] = []
    while order.next_turn(ranks.rank, len(turns)) is not None:
        stepper.steps(AGAIN)
        turns.append(stepper.steps(sizes["steps"]))
    stepper.guard.settle()
    peak = resident_bytes("VmHWM")
    return {
        "rank": ranks.rank,
        "threads": ranks.threads,
        "assembled_seconds": assembled,
        "startup_seconds": started,
        "step_ms": [[wall for wall, _ in turn] for turn in turns],
        "cpu_ms": [[cpu for _, cpu in turn] for turn in turns],
        "tables_ms": [stepper.look_up() for _ in range(sizes["lookups"])],
        "sample_bytes": sample_bytes(job),
        "copy_gb_per_second": copy_bandwidth(),
        "peak_bytes": peak,
        "shard_bytes": sum(shard.nbytes for _, shard, *_ in local_shards(job.model)),
        "state_bytes": state_bytes(job),
        "held": held(job),
    }


class Stepper:
    """Steps of the loop of training, with batches of epoch after epoch."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.guard = StepGuard([task.name for task in job.selection.tasks], job.ranks.device)
        self._batches = _batches(job)
        self._step = 0
        job.model.train()

    def steps(self, count: int) -> list[tuple[float, float]]:
        """Milliseconds of wall and of processor time of each."""
        job, times = self.job, []
        for _ in range(count):
            begun, cpu = time.perf_counter(), time.process_time()
            batch = next(self._batches).to(job.ranks.device)
            train_step(job, self.guard, batch, self._step, task_weights(job.tasks, self._step))
            times.append(((time.perf_counter() - begun) * 1e3, (time.process_time() - cpu) * 1e3))
            self._step += 1
        return times

    def look_up(self) -> float:
        """Milliseconds of the inputs of a batch, forward, and backward with the tables' update."""
        batch = next(self._batches).to(self.job.ranks.device)
        begun = time.perf_counter()
        x_BD = self.job.bare.inputs(batch)
        x_BD.backward(torch.ones_like(x_BD))
        return (time.perf_counter() - begun) * 1e3


def _batches(job: Job) -> Iterator[Batch]:
    """Epoch after epoch."""
    for epoch in itertools.count():
        with closing(job.loader.epoch(epoch)) as batches:
            yield from batches


def sample_bytes(job: Job) -> int:
    """Of rows that a sample reads by the look-up, and reads and writes by the update."""
    ids = sum(job.dataset.ids_per_sample(job.selection.sparse).values())
    return round(3 * ids * job.config.embeddings.dim * torch.float32.itemsize)


def held(job: Job) -> dict[str, tuple[int, int]]:
    """By table, the rows that this rank holds and all rows."""
    rows = job.dataset.schema.table_rows()
    mine = dict.fromkeys(rows, 0)
    for table, shard, *_ in local_shards(job.model):
        mine[table] += len(shard)
    return {table: (mine[table], rows[table]) for table in rows}


def state_bytes(job: Job) -> int:
    """Of the tables' optimizer on this rank."""
    state: dict[str, dict[str, Any]] = job.model.fused_optimizer.state_dict()["state"]
    values = [value for of_table in state.values() for value in of_table.values()]
    sharded = [piece.tensor for v in values if isinstance(v, ShardedTensor) for piece in v.local_shards()]
    plain = [value for value in values if isinstance(value, torch.Tensor) and not isinstance(value, ShardedTensor)]
    return sum(tensor.nbytes for tensor in (*sharded, *plain))


if __name__ == "__main__":
    end_process(guarded(partial(rank_main, measure)))
